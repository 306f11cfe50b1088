"""Three retailers with different sources run from their files alone and agree; an unusable source fails with a message.

The same purchases are written as CSV with the columns of Online Retail, as an export of a cash register in German
notation, and as typed Parquet and JSON files.
"""

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
from segmentation_pipeline.tables.catalog import published
from segmentation_pipeline_tests.scenarios import (
    NO_BACKTEST,
    constants,
    line,
    regular_customers,
    retailer_file,
    run_job,
    write_csv,
)

RFM = "[rfm]\nas_of = 2024-12-31\n\n[release]\nreport = false\n\n"
CHECKS = "[checks]\nmin_customers = 20\nmin_days = 30\nmin_silhouette = -1.0\n"


@dataclass(frozen=True)
class Purchase:
    """One purchase of the regular customers, whatever notation a retailer has for it."""

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
    """Write CSV with the columns of Online Retail, with cancellations, postage and lines without a customer."""
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

[model]
n_clusters = 4

{RFM}{CHECKS}"""


def german_bakery(folder: Path) -> str:
    """Write an export of customer, date and amount in German notation, without invoices."""
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
n_clusters = 4

{RFM}{CHECKS}"""


def american_web_shop(folder: Path) -> str:
    """Write typed exports in two formats, with numbers as ids and refunds as negative amounts."""
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

[model]
n_clusters = 4

{RFM}{CHECKS}"""


RETAILERS: dict[Callable[[Path], str], tuple[str, int, int]] = {
    # Currency, customers, and of these the ones without a purchase.
    british_gifts: ("GBP", 61, 1),
    german_bakery: ("EUR", 60, 0),
    american_web_shop: ("USD", 61, 1),
}


@dataclass(frozen=True)
class Ran:
    """What the first run of a retailer published, and the metadata of its features."""

    release: Release
    metadata: dict[str, Any]

    def rows(self, select: str) -> list[tuple[Any, ...]]:
        """Return the rows of a query on the release."""
        with duckdb.connect(str(self.release.database), read_only=True) as connection:
            return connection.execute(select).fetchall()

    @property
    def columns(self) -> list[tuple[Any, ...]]:
        """Every column of every table of the release."""
        return self.rows(
            "select table_name, column_name, data_type from duckdb_columns() where not internal order by all"
        )

    @property
    def customers(self) -> list[tuple[Any, ...]]:
        """The features of the customers with a purchase, by the number in their name."""
        return self.rows(
            "select regexp_extract(customer_id, '[0-9]+')::int, frequency, gross::double, recency, first_purchase_at,"
            " last_purchase_at from rfm_features where frequency > 0 order by 1"
        )


def run(folder: Path, retailer: Callable[[Path], str]) -> Ran:
    """Write a retailer's source and file, and run it for the first time."""
    folder.mkdir()
    (folder / "retailer.toml").write_text(retailer(folder), "utf-8")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("SEGMENTATION_DATA", str(folder / "data"))
        environment.setenv("SEGMENTATION_RETAILER", str(folder / "retailer.toml"))
        with constants(BACKTEST=NO_BACKTEST):
            result = run_job()
        assert result.success
        found = metadata(result, "rfm_features")
    release = Releases(folder / "data" / retailer.__name__ / "releases").current
    assert release is not None
    return Ran(release, found)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> dict[Callable[[Path], str], Ran]:
    folder = tmp_path_factory.mktemp("retailers")
    return {retailer: run(folder / retailer.__name__, retailer) for retailer in RETAILERS}


def metadata(result: dg.ExecuteInProcessResult, asset: str) -> dict[str, Any]:
    [event] = [
        event
        for event in result.get_asset_materialization_events()
        if event.asset_key == dg.AssetKey(asset) and event.materialization.metadata
    ]
    return {name: value.value for name, value in event.materialization.metadata.items()}


@pytest.mark.parametrize("retailer", RETAILERS, ids=lambda retailer: retailer.__name__)
def test_a_retailer_runs_from_its_file_alone(
    ran: dict[Callable[[Path], str], Ran], retailer: Callable[[Path], str]
) -> None:
    found, (currency, customers, without_purchase) = ran[retailer], RETAILERS[retailer]
    counted = "select count(*), count(distinct customer_id), count(segment) from customer_segments"
    assert found.rows(counted) == [(customers,) * 3]
    assert (found.release.manifest["retailer"], found.release.manifest["currency"]) == (retailer.__name__, currency)
    assert found.metadata["without_purchase"] == without_purchase


def test_the_same_purchases_give_the_same_features(ran: dict[Callable[[Path], str], Ran]) -> None:
    """Times are those of the retailer's clock, in whichever notation the source has them."""
    bought: dict[int, list[Purchase]] = {}
    for purchase in purchases():
        bought.setdefault(purchase.customer, []).append(purchase)
    expected = [
        (
            customer,
            len(theirs),
            pytest.approx(sum(purchase.money for purchase in theirs)),
            (datetime.fromisoformat("2025-01-01") - max(purchase.at for purchase in theirs)).days,
            min(purchase.at for purchase in theirs),
            max(purchase.at for purchase in theirs),
        )
        for customer, theirs in sorted(bought.items())
    ]
    for found in ran.values():
        assert found.rows("select distinct as_of::varchar from rfm_features") == [("2025-01-01 00:00:00",)]
        assert found.customers == expected


def test_every_retailer_publishes_the_same_tables_and_columns(ran: dict[Callable[[Path], str], Ran]) -> None:
    british, german, american = (found.columns for found in ran.values())
    assert british == german == american
    assert {table for table, *_ in british} >= {contract.table for contract in published()}


# Unusable sources


def failure(result: dg.ExecuteInProcessResult) -> str:
    """Return the message of the failed steps of a run, which is the same for all of them."""
    assert not result.success
    failures = [event.step_failure_data.user_failure_data for event in result.all_events if event.is_step_failure]
    assert None not in failures, "a traceback, not a message"
    [message] = {failure.description for failure in failures if failure is not None}
    return str(message)


def fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **sections: Any) -> dg.ExecuteInProcessResult:
    monkeypatch.setenv("SEGMENTATION_RETAILER", str(retailer_file(tmp_path, tmp_path / "in", **sections)))
    return run_job()


def test_a_source_without_files_fails_with_a_message(
    tmp_path: Path, data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = failure(fail(tmp_path, monkeypatch))
    assert message.startswith(f"source.path: nothing to read at {tmp_path / 'in'}; expected files ending in .csv")


def test_a_source_of_headers_only_fails_with_a_message(
    tmp_path: Path, data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_csv(tmp_path / "in" / "a.csv", [])
    message = failure(fail(tmp_path, monkeypatch))
    assert message == "source.path: no lines to read (1 file with a header and nothing below it). Check the export."


def test_a_source_with_other_columns_fails_with_a_message(
    tmp_path: Path, data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_csv(tmp_path / "in" / "a.csv", [("x", "y")], ("some", "thing"))
    message = failure(fail(tmp_path, monkeypatch))
    assert message.startswith("a.csv: no column for ")
    assert "it has some, thing." in message


@pytest.mark.parametrize(
    ("lines", "sections"),
    [
        ([line(customer=""), line("536366", customer="")], {}),
        ([line(at="yesterday"), line("536366", at="today")], {}),
        ([line()], {"rfm": {"as_of": "2020-01-01"}}),
    ],
    ids=["guests only", "no dates", "as of before all"],
)
def test_a_source_with_every_line_rejected_fails_with_a_message(
    tmp_path: Path,
    data_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    lines: list[tuple[str, ...]],
    sections: dict[str, Any],
) -> None:
    write_csv(tmp_path / "in" / "a.csv", lines)
    result = fail(tmp_path, monkeypatch, **sections)
    assert failure(result).startswith(
        "clean_transactions would break its contract (not empty, found 0 rows: every line was rejected"
    )
    assert Releases(data_folder / "corner_shop" / "releases").current is None
    assert metadata(result, "cleaning_report")["lines_kept"] == 0


def test_an_invalid_retailer_file_fails_with_every_error(
    tmp_path: Path, data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = failure(fail(tmp_path, monkeypatch, currency="pounds", model={"n_clusters": 1}))
    assert [text.split(": ")[1] for text in message.splitlines()] == ["currency", "model.n_clusters"]
