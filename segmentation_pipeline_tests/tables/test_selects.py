"""Rules that every SELECT follows: the columns of its contract, a portable subset for lines, no values in its text."""

import re
from pathlib import Path

import pytest
import sqlglot
from sqlglot import exp

from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.ingestion import cleaning
from segmentation_pipeline.ingestion.discovery import source_files
from segmentation_pipeline.ingestion.staging import read_lines
from segmentation_pipeline.tables.catalog import FOLDER, contracts, has_select, select_of
from segmentation_pipeline.warehouse.database import Warehouse
from segmentation_pipeline.warehouse.queries import QueryInputs, tables_read_by
from segmentation_pipeline.warehouse.table_write import TableWrite
from segmentation_pipeline_tests.scenarios import line, retailer_settings, write_csv
from segmentation_pipeline_tests.tables.derivation import columns_of, store

TABLES = sorted(table for table in contracts() if has_select(table))
SELECTS = {
    str(path.relative_to(FOLDER).with_suffix("")): path.read_text("utf-8") for path in sorted(FOLDER.glob("*/**/*.sql"))
}
LINE_RELATIONS = {
    "read_lines",
    "judged_transactions",
    "raw_transactions",
    "clean_transactions",
    "rejected_transactions",
    "invoice_totals",
}
# Another engine will run the SELECTs that read transaction lines. All others may use DuckDB's whole dialect.
PORTABLE = sorted(name for name, select in SELECTS.items() if LINE_RELATIONS & tables_read_by(select))


@pytest.mark.parametrize("table", TABLES)
def test_each_table_has_a_test(table: str) -> None:
    modules = Path(__file__).parent.glob("test_*_tables.py")
    assert any(f"def test_{table}_" in module.read_text("utf-8") for module in modules)


@pytest.mark.parametrize("check", sorted(name for name in SELECTS if "/checks/" in name))
def test_each_check_begins_with_what_its_rows_are(check: str) -> None:
    assert re.match(r"-- One row per ", SELECTS[check])


# Relations that Python builds.
RELATIONS = {
    "assigned_by_previous_model": "select customer_id, segment_key, is_move_pending from assigned_segments where false",
    "judged_transactions": "select *, false as is_cancellation, null::integer as step from raw_transactions",
    "cleaning_rules": "select 1 as step, '' as rule, '' as reason",
}


@pytest.mark.parametrize("table", sorted({*TABLES} - {"raw_transactions"}))
def test_each_select_has_the_columns_of_its_contract(warehouse: Warehouse, table: str) -> None:
    for name in contracts():
        store(warehouse, name)
    values = Retailer.model_validate(retailer_settings(FOLDER)).sql_values
    [result] = warehouse.write([TableWrite(table, select_of(table))], values, QueryInputs(RELATIONS))
    assert {item.rule for item in result.violations} <= {"not empty"}


# Functions of Spark 4 with the same name and meaning. Look a new one up in its reference before adding it.
SPARK_FUNCTIONS = {
    "ABS",
    "ARRAY",
    "ARRAY_CONTAINS",
    "AVG",
    "CAST",
    "CEIL",
    "COALESCE",
    "COUNT",
    "DATEDIFF",
    "DATE_TRUNC",
    "EXPLODE",
    "FILTER",
    "FIRST_VALUE",
    "FLOOR",
    "GET_JSON_OBJECT",
    "GREATEST",
    "HASH",
    "LAG",
    "LEAD",
    "LEAST",
    "LN",
    "MAX",
    "MD5",
    "MEDIAN",
    "MIN",
    "MONTH",
    "NULLIF",
    "POWER",
    "REGEXP_REPLACE",
    "ROW_NUMBER",
    "SEQUENCE",
    "SQRT",
    "STRUCT",
    "SUBSTRING",
    "SUM",
    "TRIM",
    "TRY_CAST",
    "UNIX_TIMESTAMP",
    "DECIMAL",
}
# Functions that Spark lacks, with the reason why that is acceptable.
OTHER_FUNCTIONS = {
    # Parsing text is part of reading files, for which each engine has its own functions.
    "ingestion/raw_transactions": {
        "EXACT_DECIMAL",
        "ISO_TIME",
        "IS_TOTAL",
        "JSON_OBJECT",
        "REGEXP_EXTRACT",
        "REPLACE",
        "WRITTEN_NUMBER",
    },
    # Macros of this package; Spark has what they call.
    "cleaning/unparsed_values": {"MASKED_PATTERN"},
    "features/customer_totals": {"AS_OF_TIME"},
    "features/rfm_features": {"AS_OF_TIME"},
}
KEYWORDS = {"AS", "IN", "OVER", "AND", "OR", "NOT", "VALUES", "WHEN", "THEN", "SELECT", "FROM", "BY", "WHERE", "ON"}


@pytest.mark.parametrize("select", PORTABLE)
def test_each_select_that_reads_lines_translates_to_spark(select: str) -> None:
    [spark] = sqlglot.transpile(
        SELECTS[select], read="duckdb", write="spark", unsupported_level=sqlglot.ErrorLevel.RAISE
    )
    assert sqlglot.parse_one(spark, read="spark").find(exp.Select)
    plain = re.sub(r"'(?:[^'\\]|\\.)*'|/\*.*?\*/", "", spark, flags=re.DOTALL)
    called = set(re.findall(r"\b([A-Z_0-9]+)\s?\(", plain)) - KEYWORDS
    assert called - SPARK_FUNCTIONS == OTHER_FUNCTIONS.get(select, set())


def test_no_consumer_depends_on_the_engines_hash() -> None:
    """Spark's hash differs: it may detect that lines changed or are equal, and must not reach consumers."""
    hashing = {table for table in TABLES if re.search(r"\bhash\(", select_of(table))}
    assert hashing == {"invoice_totals", "history_months"}
    published = [table for table, contract in contracts().items() if contract.published and table != "history_months"]
    assert not any(column.name == "fingerprint" for table in published for column in contracts()[table].columns)


@pytest.mark.parametrize("select", PORTABLE)
def test_no_portable_select_uses_what_translation_changes_silently(select: str) -> None:
    """Lists count from 1 in DuckDB and from 0 in Spark, or lose their order; quantiles become approximate."""
    tree = sqlglot.parse_one(SELECTS[select], read="duckdb")
    changed = (exp.Bracket, exp.ArrayAgg, exp.Quantile, exp.PercentileCont, exp.PercentileDisc, exp.ApproxQuantile)
    assert list(tree.find_all(*changed)) == []


def test_no_value_of_settings_or_files_is_in_sql_text(warehouse: Warehouse, tmp_path: Path) -> None:
    """Checked in DuckDB's log of the queries that it executed."""
    marker = "marker's; --"
    source = write_csv(tmp_path / marker / f"{marker}.csv", [line(customer=marker), line(invoice=marker), line()])
    rules = [
        {"name": "pattern", "reason": marker, "column": "invoice", "matches": rf"^\d{{6}}$|{marker}"},
        {"name": "listed", "reason": marker, "column": "country", "in": ["United Kingdom", marker]},
        {"name": "number", "reason": marker, "column": "price", "above": 1.7654},
    ]
    own = {"cancellation": f"^C|{marker}x", "rules": rules, "sources_overlap": True}
    moments = {"as_of": "2024-03-09 01:23:45", "look_back_days": 765}
    retailer = Retailer.model_validate(retailer_settings(source.parent, cleaning=own, rfm=moments))
    warehouse.connection.execute("call enable_logging('QueryLog')")
    with read_lines(warehouse.connection, retailer, source_files(retailer.source, tmp_path), tmp_path / "tmp") as lines:
        warehouse.write([TableWrite("raw_transactions", "select * from staged_lines")], retailer.sql_values, lines)
    for table in (
        "clean_transactions",
        "rejected_transactions",
        "cleaning_report",
        "invoice_totals",
        "customer_totals",
        "inter_purchase_times",
        "rfm_features",
    ):
        [result] = warehouse.write(
            [TableWrite(table, select_of(table))], retailer.sql_values, cleaning.query_inputs(retailer)
        )
        assert result.violations == ()
    assert columns_of(warehouse.rows("select customer_id from rfm_features order by 1"), "customer_id") == [
        ("17850",),
        (marker,),
    ]
    logged = warehouse.rows("select message from duckdb_logs where type = 'QueryLog'")
    run = [row["message"] for row in logged]
    assert len(run) > 15
    assert [text for text in run if re.search(r"marker|1\.7654|01:23:45|765", text)] == []
