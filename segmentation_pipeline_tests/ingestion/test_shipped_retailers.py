"""The shipped retailer files read exports of the systems that they are for.

Each folder of `systems` holds a small made-up export with the columns of that system. The expected numbers were worked
out by hand from its lines.
"""

from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import pytest

from segmentation_pipeline.config.loading import load_settings, shipped_names
from segmentation_pipeline.ingestion.discovery import source_files
from segmentation_pipeline.ingestion.sampling import sampled

SYSTEMS = Path(__file__).parents[1] / "systems"


class Expected(NamedTuple):
    """What a retailer file makes of an export: all lines, and those that count."""

    lines: int
    money: str
    first: str
    last: str
    rejected: dict[str, int]
    customers: int = 2


EXPECTED = {
    # Times with an offset, which are Pacific time here; 2:00 UTC is 18:00 on the day before.
    "amazon": Expected(
        6, "98.80", "2024-03-01 10:15:00", "2024-03-05 12:00:00", {"other_currency": 1, "missing_customer": 1}
    ),
    "olist": Expected(5, "597.60", "2018-01-05 10:15:00", "2018-03-05 12:00:00", {"not_sold": 1}),
    "prestashop": Expected(
        6, "1273.80", "2024-03-01 10:15:00", "2024-03-05 12:00:00", {"not_valid": 1, "other_currency": 1}
    ),
    # A minus behind the number, and a customer with and without leading zeros.
    "sap": Expected(7, "1289.80", "2024-03-01 00:00:00", "2024-03-08 00:00:00", {"other_currency": 1, "pro_forma": 1}),
    # Customer, time, status and currency stand only on the first line of an order; one customer is written in two ways.
    "shopify": Expected(
        9,
        "333.70",
        "2024-03-01 10:15:00",
        "2024-03-12 12:00:00",
        {"missing_customer": 1, "not_paid": 2, "other_currency": 1},
    ),
    # A refund of 8.50, and money with a sign and thousands.
    "square": Expected(5, "1277.00", "2024-03-01 10:15:00", "2024-03-07 16:45:10", {"missing_customer": 1}),
    "stripe": Expected(
        7,
        "1419.90",
        "2024-03-01 09:15:00",
        "2024-03-07 15:00:00",
        {"missing_customer": 1, "not_paid": 2, "other_currency": 1},
    ),
    "woocommerce": Expected(
        7,
        "1273.80",
        "2024-03-01 10:15:00",
        "2024-03-05 12:00:00",
        {"missing_customer": 1, "not_completed": 1, "refunded_line": 1},
    ),
}


def test_every_system_has_an_export_and_an_expectation() -> None:
    systems = {folder.name for folder in SYSTEMS.iterdir()}
    assert systems == EXPECTED.keys() == {*shipped_names()} - {"online_retail", "online_retail_ii", "sample"}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_shipped_retailer_file_reads_the_export_of_its_system(name: str, tmp_path: Path) -> None:
    settings, expected = load_settings(name, source=str(SYSTEMS / name)), EXPECTED[name]
    with sampled(settings, tmp_path, source_files(settings.source, tmp_path)) as sample:
        lines = sample.warehouse.count("raw_transactions")
        [counted] = sample.warehouse.connection.execute(
            "select sum(amount), count(distinct customer_id), min(transaction_at), max(transaction_at)"
            " from clean_transactions"
        ).fetchall()
        assert (lines, sample.error, sample.losses.unreadable.lines) == (expected.lines, "", 0)
        assert {loss.rule: loss.lines for loss in sample.losses.by_rule if loss.lines} == expected.rejected
    times = datetime.fromisoformat(expected.first), datetime.fromisoformat(expected.last)
    assert counted == (Decimal(expected.money), expected.customers, *times)
