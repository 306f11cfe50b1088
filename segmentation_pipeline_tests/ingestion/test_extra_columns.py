"""Columns of `[columns.extra]` are kept as text in `raw_transactions`, and rules test them."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest

from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.errors import SourceError
from segmentation_pipeline.ingestion import cleaning
from segmentation_pipeline.ingestion.discovery import source_files
from segmentation_pipeline.ingestion.incremental import LoadRequest, load_source
from segmentation_pipeline.privacy.pseudonyms import ERASURE, Key
from segmentation_pipeline.releases.files import STATE_DATABASE
from segmentation_pipeline.releases.writing import write_files
from segmentation_pipeline.tables.catalog import contracts, select_of
from segmentation_pipeline.warehouse.database import Warehouse
from segmentation_pipeline.warehouse.table_write import TableWrite
from segmentation_pipeline_tests.scenarios import write_csv
from segmentation_pipeline_tests.tables.derivation import store
from segmentation_pipeline_tests.workbooks import write_workbook

HEADER = ("No", "Who", "At", "Money", "Order  Status")
KEY = "c4" * 32
DESCRIBED = "select column_name, comment from duckdb_columns() where table_name = 'raw_transactions'"


@pytest.fixture
def warehouse() -> Iterator[Warehouse]:
    with duckdb.connect(config={"threads": 2}) as connection:
        yield Warehouse(connection)


def shop(
    extra: dict[str, str] | None = None, rules: Sequence[dict[str, Any]] = (), **sections: dict[str, Any]
) -> Retailer:
    named = [{"name": f"own_{number}", "reason": "because", **rule} for number, rule in enumerate(rules)]
    return Retailer.model_validate(
        {
            "name": "corner_shop",
            "title": "Corner shop",
            "time_zone": "Europe/London",
            "currency": "GBP",
            "source": {"path": "in", "max_quarantined": 0, **sections.get("source", {})},
            "columns": {
                "invoice": "No",
                "customer_id": "Who",
                "transaction_at": "At",
                "amount": "Money",
                "extra": {"status": "Order Status"} if extra is None else extra,
            },
            "cleaning": {"rules": named, **sections.get("cleaning", {})},
            "privacy": sections.get("privacy", {}),
        }
    )


def sold(*status: str, at: str = "2024-03-01") -> list[tuple[str, ...]]:
    return [(str(number), f"c{number}", at, "5", text) for number, text in enumerate(status, 1)]


def load(warehouse: Warehouse, retailer: Retailer, base: Path, digest: str = "") -> None:
    """Load what is new or was read with other settings."""
    files, request = source_files(retailer.source, base), LoadRequest("a run", digest or retailer.reading_digest, "")
    with load_source(warehouse, retailer, files, base / "spill", request) as source:
        results = warehouse.write(source.writes, retailer.sql_values, source.inputs)
    assert not any(result.violations for result in results)


def clean(warehouse: Warehouse, retailer: Retailer) -> None:
    for table in ("clean_transactions", "rejected_transactions", "cleaning_report"):
        write, inputs = TableWrite(table, select_of(table)), cleaning.query_inputs(retailer)
        [result] = warehouse.write([write], retailer.sql_values, inputs)
        assert {violation.rule for violation in result.violations} <= {"not empty"}


def column(warehouse: Warehouse, select: str) -> list[Any]:
    return [value for (value,) in warehouse.connection.execute(select).fetchall()]


def statuses(warehouse: Warehouse) -> list[Any]:
    return column(warehouse, "select status from raw_transactions order by source_file, source_sheet, source_line")


def passing(
    warehouse: Warehouse, tmp_path: Path, rule: dict[str, Any], texts: Sequence[str], **sections: Any
) -> set[str]:
    """Return the texts whose lines pass a rule on the column."""
    write_csv(tmp_path / "in" / "a.csv", sold(*texts), HEADER)
    retailer = shop(rules=[{"column": "status", **rule}], **sections)
    load(warehouse, retailer, tmp_path)
    clean(warehouse, retailer)
    kept = column(warehouse, "select cast(invoice as integer) from clean_transactions")
    assert set(column(warehouse, "select rule from rejected_transactions")) <= {"own_0"}
    return {texts[number - 1] for number in kept}


TEXTS = ("Completed", "completed ", "\u00a0COMPLETED\t", "Cancelled", " Test Order", "3", "3.0", "", " ")
DONE = {"Completed", "completed ", "\u00a0COMPLETED\t"}
EMPTY = {"", " "}


@pytest.mark.parametrize(
    ("rule", "texts"),
    [
        ({"in": ["completed"]}, DONE),
        ({"in": [" Completed ", "3"]}, DONE | {"3", "3.0"}),
        ({"in": ["completed", ""]}, DONE | EMPTY),
        ({"not_in": ["CANCELLED", "test order", "3.0"]}, DONE | EMPTY),
        ({"not_in": ["cancelled", "3", ""]}, DONE | {" Test Order"}),
        ({"matches": "^C"}, {"Completed", "\u00a0COMPLETED\t", "Cancelled"}),
        ({"not_matches": "(?i)cancel|test"}, DONE | EMPTY | {"3", "3.0"}),
        ({"required": True}, {*TEXTS} - EMPTY),
    ],
)
def test_label_passes_whatever_its_case_and_blanks(
    warehouse: Warehouse, tmp_path: Path, rule: dict[str, Any], texts: set[str]
) -> None:
    assert passing(warehouse, tmp_path, rule, TEXTS) == texts


NUMBERS = ("0", "0,50", "1.234,5", "-3", "3-", "12,00 £", "1e3", "many", "", "1,2,3")


@pytest.mark.parametrize(
    ("rule", "texts"),
    [
        ({"above": 0}, {"0,50", "1.234,5", "12,00 £", "1e3"}),
        ({"above": 12}, {"1.234,5", "1e3"}),
        ({"below": 0.5}, {"0", "-3", "3-"}),
        ({"below": 12}, {"0", "0,50", "-3", "3-"}),
    ],
)
def test_numbers_in_text_are_read_in_the_source_notation(
    warehouse: Warehouse, tmp_path: Path, rule: dict[str, Any], texts: set[str]
) -> None:
    source = {"decimal": ",", "minor_unit_digits": 2}
    assert passing(warehouse, tmp_path, rule, NUMBERS, source=source) == texts


def test_first_of_several_rules_on_a_column_rejects(warehouse: Warehouse, tmp_path: Path) -> None:
    write_csv(tmp_path / "in" / "a.csv", sold("test", "paid", "pending", ""), HEADER)
    rules = [{"column": "status", "not_in": ["test"]}, {"column": "status", "in": ["paid", "test"]}]
    load(warehouse, shop(rules=rules), tmp_path)
    clean(warehouse, shop(rules=rules))
    select = "select rule || ' ' || invoice from rejected_transactions order by invoice"
    assert column(warehouse, select) == ["own_0 1", "own_1 3", "own_1 4"]


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "xlsx"])
def test_typed_cells_are_text_in_the_notation_of_the_source(warehouse: Warehouse, tmp_path: Path, kind: str) -> None:
    file = tmp_path / "in" / f"a.{kind}"
    file.parent.mkdir()
    if kind == "xlsx":
        cells = [(*line[:4], value) for line, value in zip(sold("", ""), (2.5, 7.0), strict=True)]
        write_workbook(file, {"one": [HEADER, *cells]})
    else:
        options = "json, array false" if kind == "jsonl" else "parquet"
        rows = "select unnest(['1', '2']) as No, 'c' as Who, '2024-03-01' as At, '5' as Money"
        select = f"""{rows}, unnest([2.5::double, 7]) as "Order Status" """
        duckdb.cursor().execute(f"copy ({select}) to '{file}' (format {options})")
    retailer = shop(rules=[{"column": "status", "in": ["7"]}], source={"decimal": ","})
    load(warehouse, retailer, tmp_path)
    clean(warehouse, retailer)
    assert statuses(warehouse)[0] == "2,5"
    assert column(warehouse, "select invoice from clean_transactions") == ["2"]


def test_file_without_the_column_is_an_error(warehouse: Warehouse, tmp_path: Path) -> None:
    write_csv(tmp_path / "in" / "a.csv", sold("paid"), HEADER)
    write_csv(tmp_path / "in" / "b.csv", sold("paid"), (*HEADER[:4], "State"))
    with pytest.raises(SourceError, match=r"b\.csv: no column for extra\.status = 'Order Status'; it has No, Who"):
        load(warehouse, shop(), tmp_path)


def test_changed_columns_reload_files_and_keep_missing_ones(warehouse: Warehouse, tmp_path: Path) -> None:
    for name in "ab":
        write_csv(tmp_path / "in" / f"{name}.csv", sold(name), HEADER)
    load(warehouse, shop({}), tmp_path)
    assert warehouse.connection.table("raw_transactions").columns[-1] == "unparsed"
    (tmp_path / "in" / "b.csv").unlink()
    load(warehouse, shop({"status": "Order Status", "mail": "Who"}), tmp_path)
    assert statuses(warehouse) == ["a", None]
    assert column(warehouse, "select mail from raw_transactions order by source_file") == ["c1", None]
    load(warehouse, shop({"state": "Order Status"}), tmp_path)
    described = warehouse.rows(
        "select column_name, comment from duckdb_columns() where table_name = 'raw_transactions'"
    )
    assert [row["column_name"] for row in described][-2:] == ["unparsed", "state"]
    assert described[-1]["comment"] == "The column 'Order Status' of the source, for cleaning rules"
    assert column(warehouse, "select state from raw_transactions order by source_file") == ["a", None]


def test_rule_applies_although_no_file_can_be_read_again(warehouse: Warehouse, tmp_path: Path) -> None:
    """The lines of a missing file have no value in a column that is new."""
    for name in "ab":
        write_csv(tmp_path / "in" / f"{name}.csv", sold(name), HEADER)
    load(warehouse, shop({}), tmp_path)
    (tmp_path / "in" / "a.csv").unlink()
    (tmp_path / "in" / "b.csv").write_text("")
    retailer = shop(rules=[{"column": "status", "not_in": ["b"]}])
    load(warehouse, retailer, tmp_path)
    clean(warehouse, retailer)
    assert statuses(warehouse) == [None]
    assert len(column(warehouse, "select 1 from clean_transactions")) == 1


def test_working_database_and_state_keep_the_columns(tmp_path: Path) -> None:
    """Lines of missing files are state: they cannot be read again."""
    write_csv(tmp_path / "in" / "a.csv", sold("paid"), HEADER)
    file, release = tmp_path / "work.duckdb", tmp_path / "release"
    release.mkdir()
    with closing(duckdb.connect(str(file))) as connection:
        load(Warehouse(connection), shop(), tmp_path)
    with closing(duckdb.connect(str(file))) as connection:
        warehouse = Warehouse(connection)
        assert warehouse.missing_or_outdated(["raw_transactions"]) == []
        connection.execute("update ingested_files set status = 'missing'")
        for table, contract in contracts().items():
            if contract.published and not warehouse.has(table):
                store(warehouse, table)
        write_files(connection, release, [], [], published_as=release)
    with closing(duckdb.connect()) as connection:
        connection.execute(f"attach '{release / STATE_DATABASE}' as state (read_only)")
        restored = Warehouse(connection)
        [result] = restored.write([TableWrite("raw_transactions", "select * from state.main.raw_transactions")], {})
        assert result.violations == ()
        assert statuses(restored) == ["paid"]


def test_lines_that_differ_in_the_column_are_no_copies(warehouse: Warehouse, tmp_path: Path) -> None:
    """An order that was exported as pending and again as paid counts, although a rule rejects the first line."""
    for name, status in (("a", "pending"), ("b", "paid"), ("c", "paid")):
        write_csv(tmp_path / "in" / f"{name}.csv", sold(status), HEADER)
    retailer = shop(rules=[{"column": "status", "in": ["paid"]}], cleaning={"sources_overlap": True})
    load(warehouse, retailer, tmp_path)
    clean(warehouse, retailer)
    assert column(warehouse, "select source_file from clean_transactions") == ["b.csv"]
    select = "select rule from rejected_transactions order by source_file"
    assert column(warehouse, select) == ["own_0", "exact_duplicate"]


def test_dropped_column_is_not_stored(warehouse: Warehouse, tmp_path: Path) -> None:
    write_csv(tmp_path / "in" / "a.csv", sold("vera@x.example"), HEADER)
    load(warehouse, shop(privacy={"drop": ["status"]}), tmp_path)
    assert statuses(warehouse) == [None]


def test_filled_customer_is_hashed_and_erased_as_any_other(
    warehouse: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also on the lines below the one that names the customer."""
    monkeypatch.setenv("SEGMENTATION_PRIVACY_KEY", KEY)
    lines = [
        ("1", "vera", "2024-03-01", "5", "paid"),
        ("1", "", "2024-03-01", "6", ""),
        ("2", "b", "2024-03-01", "7", ""),
    ]
    write_csv(tmp_path / "in" / "a.csv", lines, HEADER)
    retailer = shop(privacy={"pseudonymise": True}, source={"fill_down": ["customer_id", "status"]})
    load(warehouse, retailer, tmp_path)
    key = Key(KEY.encode())
    assert column(warehouse, "select customer_id from raw_transactions order by source_line") == [
        key.pseudonym("vera"),
        key.pseudonym("vera"),
        key.pseudonym("b"),
    ]
    erased = [key.hashed(ERASURE, "vera"), key.fingerprint, datetime.fromisoformat("2024-03-02")]
    warehouse.connection.execute("insert into erased_customers values (?, ?, ?)", erased)
    load(warehouse, retailer, tmp_path, "read again")
    assert column(warehouse, "select amount from raw_transactions") == [7]
    assert column(warehouse, "select lines || ' ' || erased from ingested_files") == ["1 2"]
