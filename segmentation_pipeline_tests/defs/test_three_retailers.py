"""Retailers of quite different shape run by their files alone; a source of no use fails with a sentence."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pytest

from segmentation_pipeline.releases.files import Release
from segmentation_pipeline.releases.store import Releases
from segmentation_pipeline_tests.scenarios import (
    line,
    regular_customers,
    retailer_file,
    run_job,
    write_csv,
)

CHECKS = "[checks]\nmin_customers = 20\nmin_days = 30\nmin_silhouette = -1.0\n"


@dataclass(frozen=True)
class Purchase:
    """One of the regular customers' purchases, before any retailer wrote it down."""

    number: int
    customer: int
    at: datetime
    quantity: int
    pence: int

    @property
    def money(self) -> float:
        return self.quantity * self.pence / 100


def purchases() -> list[Purchase]:
    return [
        Purchase(int(invoice), int(customer), datetime.fromisoformat(at), int(quantity), round(float(price) * 100))
        for invoice, _, _, quantity, at, price, customer, _ in regular_customers()
    ]


def british_gifts(folder: Path) -> str:
    """A CSV of the Online Retail shape, with cancellations, postage and guests."""
    extra = [
        line("C599001", quantity="-1", at="2024-10-01 10:00:00", price="1.05", customer="10001.0"),
        line("C599002", quantity="-1", at="2024-10-02 10:00:00", price="9.99", customer="99999"),
        line("599003", stock_code="POST", customer="10002"),
        line("599004", customer=""),
    ]
    write_csv(folder / "lines" / "2024.csv", [*regular_customers(), *extra])
    return f"""\
name = "british_gifts"
title = "British gifts"
time_zone = "Europe/London"
currency = "GBP"

[source]
path = "lines"

[columns]
invoice = "InvoiceNo"
stock_code = "StockCode"
description = "Description"
quantity = "Quantity"
transaction_at = "InvoiceDate"
price = "UnitPrice"
customer_id = "CustomerID"
country = "Country"

[cleaning]
cancellation = '^C\\d{{6}}$'

[[cleaning.rules]]
name = "not_a_product"
reason = "postage"
column = "stock_code"
matches = '^\\d{{5}}'

{CHECKS}"""


def german_bakery(folder: Path) -> str:
    """What a cash register exports: who, when, how much; German notation throughout."""
    rows = [
        f"Käufer {each.customer};{each.at:%d.%m.%Y %H:%M};{f'{each.money:,.2f}'.translate(str.maketrans(',.', '.,'))}"
        for each in purchases()
    ]
    folder.joinpath("Kasse.txt").write_bytes("\r\n".join(["Kunde;Datum;Betrag €", *rows]).encode("cp1252"))
    return f"""\
name = "german_bakery"
title = "Bäckerei"
time_zone = "Europe/Berlin"
currency = "EUR"

[source]
path = "Kasse.txt"
encoding = "cp1252"
delimiter = ";"
decimal = ","
date_format = "%d.%m.%Y %H:%M"

[columns]
customer_id = "Kunde"
transaction_at = "Datum"
amount = "Betrag €"

[model]
transform = "log"

{CHECKS}"""


def american_web_shop(folder: Path) -> str:
    """Typed exports by month, of two forms: numbers as ids, and refunds as negative amounts."""
    rows = [(each.number, each.customer, each.at, each.money) for each in purchases()]
    rows += [(900001, 10003, datetime.fromisoformat("2024-11-01 10:00:00"), -1.0)]
    rows += [(900002, 77777, datetime.fromisoformat("2024-11-02 10:00:00"), -5.0)]
    (folder / "exports" / "2024").mkdir(parents=True)
    connection = duckdb.connect()
    connection.execute(
        "create table orders (id bigint, buyer integer, placed timestamptz, total decimal(9, 2), sku integer)"
    )
    connection.executemany("insert into orders values (?, ?, timezone('America/New_York', ?), ?, 71053)", rows)
    spring = "placed < '2024-06-01'"
    connection.execute(
        f"copy (select * from orders where {spring}) to '{folder}/exports/2024/spring.parquet' (format parquet)"
    )
    connection.execute(
        f"copy (select * from orders where not {spring}) to '{folder}/exports/2024/autumn.jsonl' (format json)"
    )
    return f"""\
name = "american_web_shop"
title = "American web shop"
time_zone = "America/New_York"
currency = "USD"

[source]
path = "exports/*/*"

[columns]
invoice = "id"
customer_id = "buyer"
transaction_at = "placed"
amount = "total"
stock_code = "sku"

[rfm]
as_of = 2024-12-31

{CHECKS}"""


def run(
    tmp_path: Path,
    data: Path,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
    shape: Callable[[Path], str],
) -> tuple[Release, dg.ExecuteInProcessResult]:
    folder = tmp_path / shape.__name__
    folder.mkdir()
    text = shape(folder)
    (folder / "retailer.toml").write_text(text, "utf-8")
    monkeypatch.setenv("SEGMENTATION_RETAILER", str(folder / "retailer.toml"))
    result = run_job(instance)
    assert result.success
    release = Releases(data / shape.__name__ / "releases").current
    assert release is not None
    return release, result


def released(release: Release, select: str) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(release.database), read_only=True) as connection:
        return connection.execute(select).fetchall()


def metadata(result: dg.ExecuteInProcessResult, asset: str) -> dict[str, Any]:
    [event] = [
        event
        for event in result.get_asset_materialization_events()
        if event.asset_key == dg.AssetKey(asset) and event.materialization.metadata
    ]
    return {name: value.value for name, value in event.materialization.metadata.items()}


@pytest.mark.parametrize(
    ("shape", "currency", "customers", "without_purchase"),
    [(british_gifts, "GBP", 61, 1), (german_bakery, "EUR", 60, 0), (american_web_shop, "USD", 61, 1)],
    ids=lambda given: getattr(given, "__name__", ""),
)
def test_a_retailer_runs_by_its_file_alone(
    tmp_path: Path,
    data_folder: Path,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
    shape: Callable[[Path], str],
    currency: str,
    customers: int,
    without_purchase: int,
) -> None:
    release, result = run(tmp_path, data_folder, instance, monkeypatch, shape)
    counted = "select count(*), count(distinct customer_id), count(segment) from customer_segments"
    assert released(release, counted) == [(customers,) * 3]
    assert (release.manifest["retailer"], release.manifest["currency"]) == (shape.__name__, currency)
    assert metadata(result, "rfm_features")["without_purchase"] == without_purchase
    # The same purchases, whoever wrote them down: what customers spent, and how often.
    spent: dict[int, list[float]] = {}
    for each in purchases():
        spent.setdefault(each.customer, []).append(each.money)
    told = released(release, "select customer_id, frequency, gross::double from rfm_features where frequency > 0")
    found = {int(str(customer).removeprefix("Käufer ")): (often, money) for customer, often, money in told}
    assert found == {who: (len(money), pytest.approx(sum(money))) for who, money in spent.items()}


def test_moments_are_those_of_the_retailers_clock_in_every_shape(
    tmp_path: Path, data_folder: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    release, _ = run(tmp_path, data_folder, instance, monkeypatch, american_web_shop)
    told = released(release, "select customer_id, last_purchase_at from rfm_features where frequency > 0")
    last: dict[str, datetime] = {}
    for each in purchases():
        last[str(each.customer)] = max(each.at, last.get(str(each.customer), each.at))
    assert dict(told) == last
    assert released(release, "select distinct as_of::varchar from rfm_features") == [("2025-01-01 00:00:00",)]


# -- sources of no use


def failure(result: dg.ExecuteInProcessResult) -> str:
    """What the failed steps of a run say of themselves; where several failed, all say the same."""
    assert not result.success
    failures = [event.step_failure_data.user_failure_data for event in result.all_events if event.is_step_failure]
    assert None not in failures, "a traceback, not a sentence"
    [told] = {failure.description for failure in failures if failure is not None}
    return str(told)


def fail(
    tmp_path: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, **sections: Any
) -> dg.ExecuteInProcessResult:
    monkeypatch.setenv("SEGMENTATION_RETAILER", str(retailer_file(tmp_path, tmp_path / "in", **sections)))
    return run_job(instance)


def test_a_source_without_files_fails_with_a_sentence(
    tmp_path: Path, data_folder: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = failure(fail(tmp_path, instance, monkeypatch))
    assert told.startswith(f"source.path: nothing to read at {tmp_path / 'in'}; expected files ending in .csv")


def test_a_source_of_headers_only_fails_with_a_sentence(
    tmp_path: Path, data_folder: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_csv(tmp_path / "in" / "a.csv", [])
    told = failure(fail(tmp_path, instance, monkeypatch))
    assert told == "source.path: no line in it (1 file with a header and nothing below it)"


def test_a_source_of_something_else_fails_with_a_sentence(
    tmp_path: Path, data_folder: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_csv(tmp_path / "in" / "a.csv", [("x", "y")], ("some", "thing"))
    told = failure(fail(tmp_path, instance, monkeypatch))
    assert told.startswith("a.csv: no column for ")
    assert "it has some, thing." in told


@pytest.mark.parametrize(
    ("lines", "sections"),
    [
        ([line(customer=""), line("536366", customer="")], {}),
        ([line(at="yesterday"), line("536366", at="today")], {}),
        ([line()], {"rfm": {"as_of": "2020-01-01"}}),
    ],
    ids=["guests only", "no dates", "as of before all"],
)
def test_a_source_of_which_every_line_is_refused_fails_with_a_sentence(
    tmp_path: Path,
    data_folder: Path,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
    lines: list[tuple[str, ...]],
    sections: dict[str, Any],
) -> None:
    write_csv(tmp_path / "in" / "a.csv", lines)
    result = fail(tmp_path, instance, monkeypatch, **sections)
    assert failure(result).startswith(
        "clean_transactions would break its contract (not empty, found 0 rows: every line was refused"
    )
    assert Releases(data_folder / "corner_shop" / "releases").current is None
    assert metadata(result, "cleaning_report")["lines_kept"] == 0


def test_a_retailer_file_with_errors_fails_with_each_of_them(
    tmp_path: Path, data_folder: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = failure(fail(tmp_path, instance, monkeypatch, currency="pounds", model={"n_clusters": 1}))
    assert [sentence.split(": ")[1] for sentence in told.splitlines()] == ["currency", "model.n_clusters"]
