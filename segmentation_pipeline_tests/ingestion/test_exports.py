"""Exports as shops, accounting systems and spreadsheets write them are read completely.

Each folder of `exports` holds a small made-up export and the retailer file that reads it. The expected numbers were
computed from the orders that the exports were made of.
"""

from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import pytest

from segmentation_pipeline.config.loading import load_settings
from segmentation_pipeline_tests.scenarios import assets_up_to, run_job
from segmentation_pipeline_tests.shops import Shop

EXPORTS = Path(__file__).parents[1] / "exports"


class Expected(NamedTuple):
    money: str
    lines: int = 1080
    customers: int = 240
    first: str = "2025-01-01 05:24:00"
    last: str = "2025-11-26 06:59:00"
    rejected: tuple[str, int] | None = None
    counted: str | None = None


# All orders, and the same with every twentieth line as a return.
SOLD, WITH_RETURNS = "150367.77", "132627.29"
EXPECTED = {
    "accounting": Expected("279627.29"),
    # The lines of January to June are in both files.
    "overlap": Expected("230305.54", lines=1663, rejected=("exact_duplicate", 583), counted=SOLD),
    "sapminus": Expected(WITH_RETURNS),
    "ids": Expected(SOLD),
    "noheader": Expected(SOLD),
    "preamble": Expected(SOLD),
    "sepline": Expected(SOLD),
    "serial": Expected(SOLD),
    # The customer stands only on the first line of an order.
    "shopify": Expected(SOLD),
    # A tenth of the lines is of cancelled orders.
    "status": Expected(SOLD, rejected=("not_completed", 108)),
    # An hour later in Berlin than in UTC.
    "stripe": Expected(SOLD, first="2025-01-01 06:24:00", last="2025-11-26 07:59:00"),
    "twoformats": Expected(SOLD),
    "unicodeminus": Expected(WITH_RETURNS),
}


def test_every_export_has_an_expectation() -> None:
    assert {folder.name for folder in EXPORTS.iterdir()} == EXPECTED.keys()


@pytest.mark.parametrize("export", EXPECTED)
def test_every_line_of_an_export_is_read(export: str, data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGMENTATION_RETAILER", str(EXPORTS / export / "retailer.toml"))
    assert run_job(assets=assets_up_to("rfm_features")).success
    shop, expected = Shop(data_folder), EXPECTED[export]
    work = data_folder / load_settings().name / "work.duckdb"
    raw = shop.rows(
        "select count(*), sum(amount), count(distinct customer_id), min(transaction_at), max(transaction_at),"
        " count(unparsed) from raw_transactions",
        work,
    )
    times = datetime.fromisoformat(expected.first), datetime.fromisoformat(expected.last)
    assert raw == [(expected.lines, Decimal(expected.money), expected.customers, *times, 0)]
    rejected = shop.rows("select rule, count(*) from rejected_transactions group by rule", work)
    assert rejected == ([expected.rejected] if expected.rejected else [])
    if expected.counted:
        assert shop.rows("select sum(amount) from clean_transactions", work) == [(Decimal(expected.counted),)]
    remaining = shop.rows("select count(distinct customer_id) from clean_transactions", work)
    assert shop.rows("select count(*) from rfm_features", work) == remaining
