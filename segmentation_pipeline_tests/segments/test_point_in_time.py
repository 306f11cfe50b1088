"""Point in time: transaction lines of later days change no table of a run as of an earlier day."""

import gc
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.ingestion import cleaning
from segmentation_pipeline.ingestion.discovery import source_files
from segmentation_pipeline.ingestion.staging import read_lines
from segmentation_pipeline.tables.catalog import contracts, has_select, published, select_of
from segmentation_pipeline.tables.contract import quoted
from segmentation_pipeline.warehouse.database import Warehouse
from segmentation_pipeline.warehouse.queries import dependencies
from segmentation_pipeline.warehouse.table_write import TableWrite
from segmentation_pipeline_tests.scenarios import (
    Line,
    examples,
    line,
    regular_customers,
    retailer_file,
    retailer_settings,
    run_job,
    write_csv,
)

DAY = "2024-09-30"
DEAR = line(invoice="600001", at="2024-09-02 11:00:00", customer="10001", quantity="5000", price="9.95")
KNOWN = [*(sold for sold in regular_customers() if sold[4] <= f"{DAY} 23:59:59"), DEAR]
LATER = [sold for sold in regular_customers() if sold not in KNOWN]
# These tables report every line that was read, whatever its day.
LINE_TABLES = ("raw_transactions", "rejected_transactions", "cleaning_report", "unparsed_values")
# The tables that a SELECT derives. The whole run below covers the tables that depend on a fit.
DERIVED = {table: set(dependencies(select_of(table))) for table in contracts() if has_select(table)}


@pytest.fixture(scope="module", autouse=True)
def callbacks() -> Iterator[None]:
    """Remove the callback that Hypothesis adds to the garbage collector; with it DuckDB outlives the interpreter."""
    before = gc.callbacks.copy()
    yield
    gc.callbacks[:] = before


def rows_as_of_day(connection: duckdb.DuckDBPyConnection, tables: Sequence[str]) -> dict[str, list[tuple[Any, ...]]]:
    """Return the rows of tables; of the tables of lines, only the rows about lines until as_of."""
    selects = {
        "raw_transactions": "select * from raw_transactions where source_file <> 'later.csv'",
        "rejected_transactions": "select * from rejected_transactions where rule <> 'after_as_of'",
        # A share is a share of all lines that were read.
        "cleaning_report": "select * exclude (share, amount_share) from cleaning_report"
        " where rule not in ('read', 'after_as_of')",
        "unparsed_values": "select * exclude (share) from unparsed_values",
    }
    return {
        table: connection.execute(
            f"{selects.get(table, f'select * from {quoted(table)}')} order by {contracts()[table].key_order}"
        ).fetchall()
        for table in tables
    }


def before_the_model() -> list[str]:
    """Return the tables that depend on no fit, in the order in which they are derived."""
    fitted = {*contracts()} - {*DERIVED}
    while more := {table for table, read in DERIVED.items() if read & fitted} - fitted:
        fitted |= more
    ordered = TopologicalSorter({table: DERIVED[table] for table in DERIVED if table not in fitted}).static_order()
    return [table for table in ordered if table != "raw_transactions"]


def derived(later: Sequence[Line], **sections: Any) -> dict[str, list[tuple[Any, ...]]]:
    """Derive every table before the model from the known lines and some of later days."""
    with TemporaryDirectory() as folder:
        base = Path(folder)
        retailer = Retailer.model_validate(retailer_settings(Path("in"), **sections))
        write_csv(base / "in" / "known.csv", [*KNOWN, line(customer=""), line(price="?"), line(invoice="A1"), line()])
        if later:
            write_csv(base / "in" / "later.csv", later)
        warehouse = Warehouse(duckdb.connect(config={"threads": 1}))
        with read_lines(warehouse.connection, retailer, source_files(retailer.source, base), base / "spill") as lines:
            warehouse.write([TableWrite("raw_transactions", "select * from staged_lines")], retailer.sql_values, lines)
        for table in before_the_model():
            write, inputs = TableWrite(table, select_of(table)), cleaning.query_inputs(retailer)
            [result] = warehouse.write([write], retailer.sql_values, inputs)
            assert result.violations == ()
        after = warehouse.row("select count(*) as lines from rejected_transactions where rule = 'after_as_of'")
        assert after["lines"] == len(later)
        return rows_as_of_day(warehouse.connection, ["raw_transactions", *before_the_model()])


@cache
def expected_tables(as_of: str, look_back_days: int | None, overlap: bool) -> Mapping[str, list[tuple[Any, ...]]]:
    return derived([], **sections_of(as_of, look_back_days, overlap))


def sections_of(as_of: str, look_back_days: int | None, overlap: bool) -> dict[str, Any]:
    window = {} if look_back_days is None else {"look_back_days": look_back_days}
    return {"rfm": {"as_of": as_of, **window}, "cleaning": {**shop_cleaning(), "sources_overlap": overlap}}


def shop_cleaning() -> dict[str, Any]:
    cleaning_section: dict[str, Any] = retailer_settings(Path("in"))["cleaning"]
    return cleaning_section


LATER_LINES = st.lists(
    st.builds(
        line,
        invoice=st.sampled_from([KNOWN[0][0], KNOWN[7][0], "900001", "900002", "C900003", "A1", ""]),
        stock_code=st.sampled_from(["85123A", "84029", "POST", ""]),
        quantity=st.sampled_from(["2", "-1", "1000000", "two"]),
        # The first timestamps after the day, and after its last microsecond.
        at=st.sampled_from(["2024-10-01 00:00:00", "2024-10-01 00:00:00.000001", "2024-10-28 10:00:00", "2099-01-01"]),
        price=st.sampled_from(["2.50", "9999", "0", "-3", ""]),
        customer=st.sampled_from([KNOWN[0][6], KNOWN[7][6], "99999", ""]),
        country=st.sampled_from(["EIRE", "United Kingdom", ""]),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=examples(8), deadline=None)
@given(
    later=LATER_LINES,
    as_of=st.sampled_from([DAY, f"{DAY} 23:59:59.999999"]),
    look_back_days=st.sampled_from([None, 120]),
    overlap=st.booleans(),
)
def test_later_lines_change_no_table_derived_for_a_day(
    later: list[Line], as_of: str, look_back_days: int | None, overlap: bool
) -> None:
    """A malformed line of a later day is rejected by `after_as_of` too; no other rule may count it."""
    tables = derived(later, **sections_of(as_of, look_back_days, overlap))
    for table, rows in expected_tables(as_of, look_back_days, overlap).items():
        assert tables[table] == rows, table


def test_tables_before_the_model_include_the_features() -> None:
    assert {*LINE_TABLES, "clean_transactions", "inter_purchase_times", "rfm_features", "rfm_scores"} <= {
        "raw_transactions",
        *before_the_model(),
    }


def test_later_lines_change_no_table_or_file_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare two whole runs, including the model: one on the lines of the day, one on all lines."""
    unusual = [
        line(invoice=KNOWN[0][0], at="2024-10-01 00:00:00", customer=KNOWN[0][6], quantity="1000000"),
        line(invoice="C90000", at="2024-10-05 10:00:00", customer=KNOWN[7][6], quantity="-500"),
        *(line(invoice=f"91{n:04d}", at="2024-10-09 10:00:00", customer=f"9{n:04d}", price="77777") for n in range(40)),
        line(at="2024-10-10 10:00:00", customer=""),
        line(at="2024-10-10 10:00:00", quantity="two"),
        line(at="2099-01-01 00:00:00"),
    ]
    tables, files, lines_later = [], [], [*LATER, *unusual]
    # ingested_files describes runs, not days.
    of_days = sorted({*contracts()} - {"ingested_files"})
    for name, later in (("then", []), ("hindsight", lines_later)):
        source = write_csv(tmp_path / name / "source" / "known.csv", KNOWN).parent
        if later:
            write_csv(source / "later.csv", later)
        monkeypatch.setenv("SEGMENTATION_RETAILER", str(retailer_file(tmp_path / name, source, rfm={"as_of": DAY})))
        monkeypatch.setenv("SEGMENTATION_DATA", str(tmp_path / name / "data"))
        assert run_job().success
        shop = tmp_path / name / "data" / "corner_shop"
        with duckdb.connect(str(shop / "work.duckdb"), read_only=True) as work:
            tables.append(rows_as_of_day(work, of_days))
            after = work.execute("select count(*) from rejected_transactions where rule = 'after_as_of'").fetchone()
            assert after == (len(later),)
        names = [contract.table for contract in published() if contract.table not in LINE_TABLES]
        files.append({table: (shop / "releases" / "current" / f"{table}.parquet").read_bytes() for table in names})
    assert tables[0]["outlier_profiles"], "somebody is beyond a fence"
    assert {table for table in of_days if tables[0][table] != tables[1][table]} == set()
    assert {table for table in files[0] if files[0][table] != files[1][table]} == set()
