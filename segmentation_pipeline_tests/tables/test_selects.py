"""Each SELECT of `sql/`: given rows, expected rows. The expectations are worked out by hand or with numpy."""

import hashlib
import math
import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import product
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
import sqlglot
from sqlglot import exp

from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.ingestion import cleaning
from segmentation_pipeline.ingestion.discovery import source_files
from segmentation_pipeline.ingestion.staging import read_lines
from segmentation_pipeline.model import kmeans, segment_catalog
from segmentation_pipeline.model.segment_catalog import FEATURES
from segmentation_pipeline.tables.catalog import FOLDER, check_select, contracts, has_select, select_of, shared_columns
from segmentation_pipeline.tables.contract import quoted
from segmentation_pipeline.warehouse.database import TableWrite, Warehouse
from segmentation_pipeline.warehouse.queries import QueryInputs, tables_read_by
from segmentation_pipeline_tests.scenarios import line, retailer_settings, write_csv

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
}
# Another engine will run the SELECTs that read transaction lines. All others may use DuckDB's whole dialect.
PORTABLE = sorted(name for name, select in SELECTS.items() if LINE_RELATIONS & tables_read_by(select))
moment = datetime.fromisoformat
AS_OF = moment("2024-03-31 12:00:00")
Row = dict[str, Any]


@pytest.fixture
def warehouse() -> Warehouse:
    return Warehouse(duckdb.connect())


def given(warehouse: Warehouse, table: str, *rows: Row) -> None:
    """A table with these rows; a column that is not told is null, or where that cannot be, of no consequence."""
    contract = contracts()[table]
    warehouse.connection.execute(f"drop table if exists {quoted(table)}")
    warehouse.connection.execute(contract.ddl(constraints=False))
    stand_ins = {"VARCHAR": "", "TIMESTAMP": AS_OF, "BOOLEAN": False, "DOUBLE[]": []}
    for row in rows:
        assert set(row) <= {column.name for column in contract.columns}
        values = [row.get(c.name, None if c.nullable else stand_ins.get(c.type, 0)) for c in contract.columns]
        places = ", ".join("?" * len(values))
        warehouse.connection.execute(f"insert into {quoted(table)} values ({places})", values)


def derived(warehouse: Warehouse, table: str, relations: dict[str, str] | None = None, **values: Any) -> list[Row]:
    """The rows that the table's SELECT makes, in the order of its key, after its contract was kept."""
    [outcome] = warehouse.write([TableWrite(table, select_of(table))], values, QueryInputs(relations or {}))
    assert outcome.violations == ()
    return warehouse.rows(f"select * from {quoted(table)} order by {contracts()[table].key_order}")


def only(rows: Sequence[Row], *names: str) -> list[tuple[Any, ...]]:
    return [tuple(row[name] for name in names) for row in rows]


# What every file keeps.


@pytest.mark.parametrize("table", TABLES)
def test_each_file_has_a_test_of_its_own(table: str) -> None:
    assert any(name.startswith(f"test_{table}_") for name in globals())


@pytest.mark.parametrize("check", sorted(name for name in SELECTS if "/checks/" in name))
def test_each_check_begins_with_what_its_rows_are(check: str) -> None:
    assert re.match(r"-- One row per ", SELECTS[check])


# Relations that are made from the retailer's cleaning rules, and from the model that stood before.
RELATIONS = {
    "assigned_by_previous_model": "select customer_id, segment_key, is_move_pending from assigned_segments where false",
    "judged_transactions": "select *, false as is_cancellation, null::integer as step from raw_transactions",
    "cleaning_rules": "select 1 as step, '' as rule, '' as reason",
}


@pytest.mark.parametrize("table", sorted({*TABLES} - {"raw_transactions"}))
def test_the_columns_are_the_contracts_by_name_order_and_type(warehouse: Warehouse, table: str) -> None:
    for name in contracts():
        given(warehouse, name)
    values = Retailer.model_validate(retailer_settings(FOLDER)).sql_values
    [outcome] = warehouse.write([TableWrite(table, select_of(table))], values, QueryInputs(RELATIONS))
    assert {item.rule for item in outcome.violations} <= {"not empty"}


# What Spark 4 has under this name, with this meaning; look a new one up in its reference before it is added.
OF_SPARK = {
    "ABS",
    "AVG",
    "CAST",
    "CEIL",
    "COALESCE",
    "COUNT",
    "DATEDIFF",
    "DATE_TRUNC",
    "EXPLODE",
    "FLOOR",
    "HASH",
    "LAG",
    "LEAD",
    "LN",
    "MAX",
    "MD5",
    "MEDIAN",
    "MIN",
    "NULLIF",
    "POWER",
    "REGEXP_REPLACE",
    "ROW_NUMBER",
    "SEQUENCE",
    "SQRT",
    "SUBSTRING",
    "SUM",
    "TRIM",
    "TRY_CAST",
    "UNIX_TIMESTAMP",
    "DECIMAL",
}
# What is no function of Spark, and why that is no matter.
NOT_OF_SPARK = {
    # Typing the text of the files is part of reading them, for which each engine has functions of its own.
    "ingestion/raw_transactions": {"REPLACE", "FROM_UTC_TIMESTAMP", "REGEXP_EXTRACT", "TRY_STRPTIME", "JSON_OBJECT"},
}
NO_FUNCTION = {"AS", "IN", "OVER", "AND", "OR", "NOT", "VALUES", "WHEN", "THEN", "SELECT", "FROM", "BY", "WHERE", "ON"}


@pytest.mark.parametrize("select", PORTABLE)
def test_each_select_that_reads_lines_translates_to_spark(select: str) -> None:
    [spark] = sqlglot.transpile(
        SELECTS[select], read="duckdb", write="spark", unsupported_level=sqlglot.ErrorLevel.RAISE
    )
    assert sqlglot.parse_one(spark, read="spark").find(exp.Select)
    plain = re.sub(r"'(?:[^'\\]|\\.)*'|/\*.*?\*/", "", spark, flags=re.DOTALL)
    called = set(re.findall(r"\b([A-Z_0-9]+)\s?\(", plain)) - NO_FUNCTION
    assert called - OF_SPARK == NOT_OF_SPARK.get(select, set())


def test_a_hash_is_compared_only_with_what_the_same_engine_wrote() -> None:
    """Its numbers are others in Spark: fit to tell that lines changed, and for nothing that a consumer sees."""
    assert {table for table in TABLES if re.search(r"\bhash\(", select_of(table))} == {"history_months"}
    published = [table for table, contract in contracts().items() if contract.published and table != "history_months"]
    assert not any(column.name == "fingerprint" for table in published for column in contracts()[table].columns)


@pytest.mark.parametrize("select", PORTABLE)
def test_no_portable_select_uses_what_translation_changes_silently(select: str) -> None:
    """A list counts from 1 here and from 0 there, or loses its order; a quantile becomes approximate."""
    tree = sqlglot.parse_one(SELECTS[select], read="duckdb")
    changed = (exp.Bracket, exp.ArrayAgg, exp.Quantile, exp.PercentileCont, exp.PercentileDisc, exp.ApproxQuantile)
    assert list(tree.find_all(*changed)) == []


# raw_transactions; `test_lines` tells of every kind of file.


def test_raw_transactions_type_the_text_and_keep_what_could_not_be_typed(warehouse: Warehouse, tmp_path: Path) -> None:
    source = write_csv(
        tmp_path / "source" / "a.csv",
        [
            line(" 536365 ", "85123A", " A  LANTERN ", "3", "2010-12-01 08:26:00", "2.55", "17850.0", "France"),
            line(quantity="three", at="yesterday", price="2.55"),
        ],
    )
    retailer = Retailer.model_validate(retailer_settings(source.parent))
    files = source_files(retailer.source, tmp_path)
    with read_lines(warehouse.connection, retailer, files, tmp_path / "tmp") as lines:
        [outcome] = warehouse.write([TableWrite("raw_transactions", select_of("raw_transactions"))], {}, lines)
    assert outcome.violations == ()
    whole, odd = warehouse.rows("select * from raw_transactions order by source_line")
    names = ("source_file", "source_line", "invoice", "stock_code", "description", "customer_id", "country", "unparsed")
    assert only([whole], *names) == [("a.csv", 2, "536365", "85123A", " A  LANTERN ", "17850", "France", None)]
    assert only([whole, odd], "quantity", "price", "amount", "transaction_at") == [
        (3, Decimal("2.55"), Decimal("7.65"), moment("2010-12-01 08:26:00")),
        (None, Decimal("2.55"), None, None),
    ]
    assert ("three" in odd["unparsed"], "yesterday" in odd["unparsed"]) == (True, True)


def test_no_value_of_the_settings_or_the_files_is_in_the_sql_that_runs(warehouse: Warehouse, tmp_path: Path) -> None:
    """The rule of the f-strings, seen from the other side: what DuckDB was given to run."""
    telltale = "telltale's; --"
    source = write_csv(
        tmp_path / telltale / f"{telltale}.csv", [line(customer=telltale), line(invoice=telltale), line()]
    )
    rules = [
        {"name": "pattern", "reason": telltale, "column": "invoice", "matches": rf"^\d{{6}}$|{telltale}"},
        {"name": "listed", "reason": telltale, "column": "country", "in": ["United Kingdom", telltale]},
        {"name": "number", "reason": telltale, "column": "price", "above": 1.7654},
    ]
    own = {"cancellation": f"^C|{telltale}x", "rules": rules, "sources_overlap": True}
    moments = {"as_of": "2024-03-09 01:23:45", "look_back_days": 765}
    retailer = Retailer.model_validate(retailer_settings(source.parent, cleaning=own, rfm=moments))
    warehouse.connection.execute("call enable_logging('QueryLog')")
    with read_lines(warehouse.connection, retailer, source_files(retailer.source, tmp_path), tmp_path / "tmp") as lines:
        warehouse.write([TableWrite("raw_transactions", select_of("raw_transactions"))], retailer.sql_values, lines)
    for table in (
        "clean_transactions",
        "rejected_transactions",
        "cleaning_report",
        "inter_purchase_times",
        "rfm_features",
    ):
        [outcome] = warehouse.write(
            [TableWrite(table, select_of(table))], retailer.sql_values, cleaning.query_inputs(retailer)
        )
        assert outcome.violations == ()
    assert only(warehouse.rows("select customer_id from rfm_features order by 1"), "customer_id") == [
        ("17850",),
        (telltale,),
    ]
    logged = warehouse.rows("select message from duckdb_logs where type = 'QueryLog'")
    run = [row["message"] for row in logged]
    assert len(run) > 15
    assert [text for text in run if re.search(r"telltale|1\.7654|01:23:45|765", text)] == []


# clean_transactions, rejected_transactions, cleaning_report

JUDGED = """
    select source_file, source_sheet, source_line, invoice, stock_code, description, quantity, transaction_at, price,
        amount, customer_id, country, unparsed, amount < 0 as is_cancellation,
        case when customer_id = 'nobody' then 1 when amount > 99 then 3 end as step
    from raw_transactions
"""
RULES = """
    select * from (values (1, 'nobody', 'is nobody'), (2, 'idle', 'never'), (3, 'dear', 'too dear'))
    as listed(step, rule, reason)
"""


def given_raw(warehouse: Warehouse) -> None:
    lines = [("a", 10), ("nobody", 100), ("b", 100), ("a", -4), ("nobody", 1), ("c", None), (None, 7)]
    rows: list[Row] = [
        {"source_line": number, "customer_id": who, "amount": amount, "invoice": "1", "transaction_at": AS_OF}
        for number, (who, amount) in enumerate(lines, 1)
    ]
    given(warehouse, "raw_transactions", *rows)


def test_clean_transactions_are_the_lines_that_no_rule_refuses(warehouse: Warehouse) -> None:
    given_raw(warehouse)
    judged = JUDGED + "where customer_id is not null and amount is not null"
    rows = derived(warehouse, "clean_transactions", {"judged_transactions": judged})
    assert only(rows, "source_line", "amount", "is_cancellation") == [(1, 10, False), (4, -4, True)]


def test_rejected_transactions_name_the_first_rule_that_refused_the_line(warehouse: Warehouse) -> None:
    given_raw(warehouse)
    rows = derived(warehouse, "rejected_transactions", {"judged_transactions": JUDGED, "cleaning_rules": RULES})
    assert only(rows, "source_line", "customer_id", "rule", "reason") == [
        (2, "nobody", "nobody", "is nobody"),
        (3, "b", "dear", "too dear"),
        (5, "nobody", "nobody", "is nobody"),
    ]


def test_cleaning_report_tells_of_each_step_what_it_refused_and_what_was_left(warehouse: Warehouse) -> None:
    given_raw(warehouse)
    derived(warehouse, "rejected_transactions", {"judged_transactions": JUDGED, "cleaning_rules": RULES})
    rows = derived(warehouse, "cleaning_report", {"cleaning_rules": RULES})
    names = ("step", "rule", "lines", "share", "customers", "amount", "lines_left", "amount_left")
    assert only(rows, *names) == [
        (0, "read", 7, 1.0, 4, 214, 7, 214),
        (1, "nobody", 2, 2 / 7, 1, 101, 5, 113),
        (2, "idle", 0, 0.0, 0, 0, 5, 113),
        (3, "dear", 1, 1 / 7, 1, 100, 4, 13),
    ]


# rfm_features


def sales(*sold: tuple[str, str, str, str, float | str], **common: Any) -> list[Row]:
    """Lines of clean_transactions from (customer, invoice, product, moment, money); C marks a cancellation."""
    return [
        {
            "source_line": number,
            "customer_id": customer,
            "invoice": invoice,
            "stock_code": code,
            "transaction_at": datetime.fromisoformat(moment),
            "amount": Decimal(str(money)),
            "is_cancellation": invoice.startswith("C"),
            "country": "Spain",
            **common,
        }
        for number, (customer, invoice, code, moment, money) in enumerate(sold, 1)
    ]


def features(
    warehouse: Warehouse,
    lines: list[Row],
    as_of: datetime | None = AS_OF,
    days: int | None = None,
    to_end_of_day: bool = False,
) -> list[Row]:
    given(warehouse, "clean_transactions", *lines)
    derived(warehouse, "inter_purchase_times")
    return derived(warehouse, "rfm_features", as_of=as_of, look_back_days=days, to_end_of_day=to_end_of_day)


def test_rfm_features_describe_a_customer_in_every_column(warehouse: Warehouse) -> None:
    bought = sales(
        ("a", "1", "P1", "2024-01-10 09:00:00", "10.00"),
        ("a", "1", "P2", "2024-01-10 09:00:00", "20.50"),
        ("a", "2", "P1", "2024-02-01 12:00:01", "5.25"),
        ("a", "C3", "P3", "2024-03-30 10:00:00", "-4.00"),
    )
    assert features(warehouse, bought) == [
        {
            "customer_id": "a",
            "recency": 58,  # one second short of 59 days; the refund of the day before is no purchase
            "frequency": 2,
            "monetary": Decimal("31.7500"),
            "gross": Decimal("35.7500"),
            "refunds": Decimal("4.0000"),
            "average_order_value": Decimal("17.8750"),
            "products": 2,
            "first_purchase_at": moment("2024-01-10 09:00:00"),
            "last_purchase_at": moment("2024-02-01 12:00:01"),
            "tenure": 81,
            "purchase_days": 2,
            "inter_purchase_time": 22.0,
            "country": "Spain",
            "as_of": AS_OF,
        }
    ]


def test_rfm_features_take_negative_money_for_a_refund_and_a_free_line_for_part_of_a_purchase(
    warehouse: Warehouse,
) -> None:
    lines = sales(
        ("a", "1", "P1", "2024-01-10 09:00:00", "540.00"),
        ("a", "2", "P2", "2024-03-31 09:00:00", "-450.00"),
        ("b", "3", "P1", "2024-03-29 12:00:00", "0.00"),
    )
    shown = ("customer_id", "recency", "frequency", "monetary", "gross", "refunds", "products", "country")
    assert only(features(warehouse, lines), *shown) == [
        ("a", 81, 1, Decimal(90), Decimal(540), Decimal(450), 1, "Spain"),
        ("b", 2, 1, Decimal(0), Decimal(0), Decimal(0), 1, "Spain"),
    ]


def test_rfm_features_hold_also_who_only_sent_things_back(warehouse: Warehouse) -> None:
    sent_back = sales(
        ("b", "C9", "P1", "2024-03-01 00:00:00", "-7.50"), ("b", "C10", "P1", "2024-03-20 00:00:00", "-1.00")
    )
    [row] = features(warehouse, sent_back)
    assert (row["frequency"], row["recency"], row["products"]) == (0, 30, 0)
    assert (row["purchase_days"], row["inter_purchase_time"]) == (0, None)
    assert (row["monetary"], row["gross"], row["refunds"]) == (Decimal("-8.5"), 0, Decimal("8.5"))
    assert [row[name] for name in ("average_order_value", "first_purchase_at", "last_purchase_at", "tenure")] == [
        None
    ] * 4
    assert row["country"] == "Spain"


def test_rfm_features_count_refunds_at_their_own_date(warehouse: Warehouse) -> None:
    """A window of 30 days begins on 1 March, 12:00: a refund counts where it falls, wherever its purchase does."""
    lines = sales(
        ("old", "1", "P", "2024-01-01 12:00:00", 100),
        ("old", "C2", "P", "2024-03-15 12:00:00", -40),
        ("new", "3", "P", "2024-03-10 12:00:00", 60),
        ("new", "C4", "P", "2024-02-10 12:00:00", -50),
    )
    new, old = features(warehouse, lines, days=30)
    assert only([new, old], "customer_id", "frequency", "monetary", "gross", "refunds", "recency", "tenure") == [
        ("new", 1, 60, 60, 0, 21, 21),
        ("old", 0, -40, 0, 40, 90, 90),
    ]


def test_rfm_features_within_the_look_back_leave_recency_and_dates_over_all(warehouse: Warehouse) -> None:
    lines = sales(
        ("a", "1", "P1", "2024-01-01 12:00:00", 100),
        ("a", "2", "P2", "2024-03-15 12:00:00", 7),
        ("z", "3", "P3", "2024-01-31 12:00:00", 5),
    )
    active, dormant = features(warehouse, lines, days=30)
    names = ("frequency", "monetary", "products", "recency", "tenure", "purchase_days", "inter_purchase_time")
    assert only([active, dormant], *names) == [
        (1, 7, 1, 16, 90, 2, 74.0),
        (0, 0, 0, 60, 60, 1, None),
    ]
    assert active["first_purchase_at"] == moment("2024-01-01 12:00:00")
    assert dormant["average_order_value"] is None


@pytest.mark.parametrize(
    ("moment", "frequency"), [("2024-03-01 12:00:00", 1), ("2024-03-01 11:59:59.999999", 0), ("2024-03-31 12:00:00", 1)]
)
def test_rfm_features_take_in_the_moment_at_which_the_look_back_begins(
    warehouse: Warehouse, moment: str, frequency: int
) -> None:
    [row] = features(warehouse, sales(("a", "1", "P", moment, 5)), days=30)
    assert (row["frequency"], row["monetary"]) == (frequency, 5 * frequency)


@pytest.mark.parametrize(
    ("moment", "recency"),
    [
        ("2024-03-31 12:00:00", 0),
        ("2024-03-30 12:00:01", 0),
        ("2024-03-30 12:00:00", 1),
        ("2024-03-30 11:59:59", 1),
        ("2023-03-31 12:00:00", 366),
    ],
)
def test_rfm_features_count_full_days(warehouse: Warehouse, moment: str, recency: int) -> None:
    [row] = features(warehouse, sales(("a", "1", "P", moment, 5)))
    assert (row["recency"], row["tenure"]) == (recency, recency)


def test_rfm_features_are_as_of_the_last_transaction_unless_told(warehouse: Warehouse) -> None:
    lines = sales(("a", "1", "P", "2024-03-01 10:00:00", 5), ("b", "C2", "P", "2024-03-09 11:00:00", -5))
    rows = features(warehouse, lines, as_of=None)
    assert only(rows, "customer_id", "recency", "as_of") == [
        ("a", 8, moment("2024-03-09 11:00:00")),
        ("b", 0, moment("2024-03-09 11:00:00")),
    ]


@pytest.mark.parametrize(
    ("last", "midnight"),
    [
        ("2024-02-28 23:59:59.999999", "2024-02-29 00:00:00"),
        ("2024-02-29 00:00:00", "2024-03-01 00:00:00"),
        ("2024-12-31 08:00:00", "2025-01-01 00:00:00"),
    ],
)
def test_rfm_features_are_as_of_the_midnight_after_the_last_transaction_where_the_day_counts_whole(
    warehouse: Warehouse, last: str, midnight: str
) -> None:
    lines = sales(("a", "1", "P", "2024-02-01 10:00:00", 5), ("b", "C2", "P", last, -5))
    rows = features(warehouse, lines, as_of=None, to_end_of_day=True)
    assert {row["as_of"] for row in rows} == {moment(midnight)}
    full_days = (moment(midnight) - moment("2024-02-01 10:00:00")).days
    assert only(rows, "customer_id", "recency") == [("a", full_days), ("b", (moment(midnight) - moment(last)).days)]


def test_rfm_features_count_an_invoice_once_and_two_of_a_day_twice(warehouse: Warehouse) -> None:
    lines = sales(
        ("a", "1", "P", "2024-03-01 10:00:00", 5),
        ("a", "1", "P", "2024-03-01 10:00:00", 5),
        ("a", "1", "Q", "2024-03-01 10:00:00", 5),
        ("a", "2", "P", "2024-03-01 10:00:00", 5),
    )
    assert only(features(warehouse, lines), "frequency", "products", "monetary") == [(2, 2, 20)]


def test_rfm_features_take_the_country_of_most_spend(warehouse: Warehouse) -> None:
    at = "2024-03-01 10:00:00"
    lines = [
        *sales(("a", "1", "P", at, 10), ("a", "2", "P", at, 10), country="France"),
        *sales(("a", "3", "P", at, 19), country="Belgium"),
        *sales(("a", "4", "P", at, 1000), ("b", "5", "P", at, 3), country=None),
        *sales(("tie", "6", "P", at, 3), ("tie", "C7", "P", at, -3), country="Spain"),
        *sales(("tie", "8", "P", at, 2), ("tie", "9", "P", at, 1), country="Austria"),
    ]
    for number, sold in enumerate(lines):
        sold["source_line"] = number
    rows = features(warehouse, lines)
    assert only(rows, "customer_id", "country") == [("a", "France"), ("b", None), ("tie", "Austria")]


@pytest.mark.parametrize(
    ("money", "invoices", "average"), [("2620.99", 8, "327.6238"), ("10.00", 3, "3.3333"), ("20.00", 3, "6.6667")]
)
def test_rfm_features_round_the_average_order_half_up(
    warehouse: Warehouse, money: str, invoices: int, average: str
) -> None:
    first = [("a", "0", "P", "2024-03-01 10:00:00", money)]
    lines = sales(*first, *(("a", str(n), "P", "2024-03-01 10:00:00", 0) for n in range(1, invoices)))
    assert features(warehouse, lines)[0]["average_order_value"] == Decimal(average)


def test_rfm_features_do_not_hang_on_the_order_of_the_lines(warehouse: Warehouse) -> None:
    random = np.random.default_rng(5)
    lines = sales(
        *(
            (
                f"c{n % 9}",
                f"{'C' if n % 11 == 0 else ''}{n // 3}",
                f"P{n % 5}",
                f"2024-03-{1 + n % 28:02d} 10:00:00",
                (-1 if n % 11 == 0 else 1) * (n % 17) / 100,
            )
            for n in range(200)
        )
    )
    for sold in lines:
        sold["country"] = random.choice(["Spain", "France", "Italy"])
    first = features(warehouse, lines)
    shuffled = [lines[place] for place in random.permutation(len(lines))]
    assert features(Warehouse(duckdb.connect()), shuffled) == first


# inter_purchase_times


def bought_on(**days: Sequence[int]) -> list[Row]:
    """Lines of customers who bought on these days of 2024."""
    start = moment("2023-12-31 10:00:00")
    return sales(
        *(
            (who, f"{who}{day}", "P", str(start + timedelta(days=day)), 5)
            for who, bought in days.items()
            for day in bought
        )
    )


def rhythm(warehouse: Warehouse, lines: list[Row]) -> dict[str, tuple[int, float | None]]:
    given(warehouse, "clean_transactions", *lines)
    rows = derived(warehouse, "inter_purchase_times")
    return {row["customer_id"]: (row["purchase_days"], row["inter_purchase_time"]) for row in rows}


def test_inter_purchase_times_weighs_a_customers_gaps_against_two_of_the_population(warehouse: Warehouse) -> None:
    """The gaps are 10, 10, 10 and 100, 7: half of them are at most 10, so two gaps of 10 days stand beside each."""
    found = rhythm(warehouse, bought_on(regular=[1, 11, 21, 31], slow=[1, 101], twice=[50, 57], once=[9]))
    assert found == {
        "once": (1, None),
        "regular": (4, (10 + 10 + 10 + 2 * 10) / 5),
        "slow": (2, (100 + 2 * 10) / 3),
        "twice": (2, (7 + 2 * 10) / 3),
    }


def test_inter_purchase_times_takes_the_mean_of_the_two_middle_gaps(warehouse: Warehouse) -> None:
    """Gaps of 3 and 8: the median is 5.5."""
    assert rhythm(warehouse, bought_on(a=[1, 4], b=[1, 9])) == {"a": (2, 14 / 3), "b": (2, 19 / 3)}


def test_inter_purchase_times_counts_days_and_neither_invoices_nor_refunds(warehouse: Warehouse) -> None:
    lines = sales(
        ("a", "1", "P", "2024-02-28 00:00:00", 5),
        ("a", "2", "P", "2024-02-28 23:59:59.999999", 5),
        ("a", "3", "P", "2024-03-01 00:00:00", 5),
        ("a", "C4", "P", "2024-03-20 10:00:00", -5),
        ("a", "5", "P", "2024-03-21 10:00:00", -5),
        ("only refunds", "C6", "P", "2024-03-20 10:00:00", -5),
        ("only refunds", "7", "P", "2024-03-21 10:00:00", -5),
    )
    assert rhythm(warehouse, lines) == {"a": (2, 2.0)}


def test_inter_purchase_times_expects_nothing_of_anybody_where_nobody_came_twice(warehouse: Warehouse) -> None:
    assert rhythm(warehouse, bought_on(a=[1], b=[2])) == {"a": (1, None), "b": (1, None)}


def test_inter_purchase_times_does_not_hang_on_the_order_of_the_lines() -> None:
    random = np.random.default_rng(7)
    days = {f"c{n}": random.integers(1, 300, 1 + n % 9).tolist() for n in range(60)}
    lines = bought_on(**days)
    found = rhythm(Warehouse(duckdb.connect()), lines)
    shuffled = [lines[place] for place in random.permutation(len(lines))]
    assert rhythm(Warehouse(duckdb.connect()), shuffled) == found
    gaps = {who: np.diff(sorted({*bought})) for who, bought in days.items()}
    median = np.median(np.concatenate(list(gaps.values())))
    assert found == {
        who: (1 + len(own), (own.sum() + 2 * median) / (len(own) + 2) if len(own) else None)
        for who, own in gaps.items()
    }


# rfm_thresholds, rfm_segment_map, rfm_scores


def told(*customers: tuple[str, int, int, float | str]) -> list[Row]:
    return [
        {"customer_id": who, "recency": r, "frequency": f, "monetary": Decimal(str(m)), "as_of": AS_OF}
        for who, r, f, m in customers
    ]


def random_features(number: int, seed: int = 3) -> list[Row]:
    """Skewed customers with many ties, as in a real shop."""
    random = np.random.default_rng(seed)
    return [
        {
            "customer_id": f"c{n:04d}",
            "recency": int(random.integers(0, 300)),
            "frequency": int(1 + random.geometric(0.4)),
            "monetary": Decimal(str(round(float(random.lognormal(4, 1)), 2))),
            "as_of": AS_OF,
        }
        for n in range(number)
    ]


NEVER_BOUGHT = {"customer_id": "zz", "recency": 9999, "frequency": 0, "monetary": Decimal(-900), "as_of": AS_OF}
REFUNDED = {"customer_id": "yy", "recency": 5, "frequency": 40, "monetary": Decimal(-1), "as_of": AS_OF}


@pytest.mark.parametrize("number", [1, 2, 5, 7, 100])
def test_rfm_thresholds_are_the_quintiles_of_those_who_bought(warehouse: Warehouse, number: int) -> None:
    customers = random_features(number)
    given(warehouse, "rfm_features", *customers, NEVER_BOUGHT)
    rows = derived(warehouse, "rfm_thresholds")
    for feature in FEATURES:
        values = [float(customer[feature]) for customer in customers]
        found = [row["threshold"] for row in rows if row["feature"] == feature]
        assert found == pytest.approx(np.quantile(values, [0.2, 0.4, 0.6, 0.8]), rel=1e-12)
        assert [row["cut"] for row in rows if row["feature"] == feature] == [1, 2, 3, 4]


def test_rfm_thresholds_between_equal_values_are_exactly_that_value(warehouse: Warehouse) -> None:
    """0.3 x 3.3 + 0.7 x 3.3 is not 3.3 in doubles; a threshold beside the value would move all who have it."""
    same = [{**row, "monetary": Decimal("3.3"), "frequency": 1, "recency": 7} for row in random_features(13)]
    given(warehouse, "rfm_features", *same)
    found = {(row["feature"], row["threshold"]) for row in derived(warehouse, "rfm_thresholds")}
    assert found == {("monetary", 3.3), ("frequency", 1.0), ("recency", 7.0)}


# Best recency first, worth (the rounded-up mean of the frequency and monetary scores) from 1 to 5.
GRID = {
    5: ["New", "Potential Loyalist", "Potential Loyalist", "Champions", "Champions"],
    4: ["Promising", "Potential Loyalist", "Potential Loyalist", "Loyal", "Loyal"],
    3: ["About To Sleep", "About To Sleep", "Need Attention", "Loyal", "Loyal"],
    2: ["Lost", "Lost", "At Risk", "At Risk", "Can't Lose"],
    1: ["Lost", "Lost", "At Risk", "At Risk", "Can't Lose"],
}
SCORES = ("recency_score", "frequency_score", "monetary_score")


def test_rfm_segment_map_names_each_of_the_125_combinations_exactly_once(warehouse: Warehouse) -> None:
    rows = derived(warehouse, "rfm_segment_map")
    assert only(rows, *SCORES) == list(product(range(1, 6), repeat=3))
    named = {combination: row["rfm_segment"] for row in rows for combination in only([row], *SCORES)}
    assert named == {(r, f, m): GRID[r][math.ceil((f + m) / 2) - 1] for r, f, m in product(range(1, 6), repeat=3)}
    assert set(named.values()) == set(shared_columns()["rfm_segment"].allowed)


def given_thresholds(warehouse: Warehouse, **cuts: Sequence[float]) -> None:
    derived(warehouse, "rfm_segment_map")
    given(
        warehouse,
        "rfm_thresholds",
        *(
            {"feature": name, "cut": n, "threshold": cut}
            for name, four in cuts.items()
            for n, cut in enumerate(four, 1)
        ),
    )


def test_rfm_scores_give_5_to_the_recent_the_frequent_and_the_spenders(warehouse: Warehouse) -> None:
    given_thresholds(warehouse, recency=[10, 20, 30, 40], frequency=[1, 2, 3, 4], monetary=[100, 200, 300, 400])
    customers = told(
        ("best", 0, 9, 900),
        ("cuts", 10, 1, 100),
        ("last", 41, 0, "400.01"),
        ("mid", 20, 3, "300.0001"),
        ("worst", 99, 0, -5),
    )
    given(warehouse, "rfm_features", *customers)
    rows = derived(warehouse, "rfm_scores")
    assert only(rows, "customer_id", *SCORES, "rfm_segment") == [
        ("best", 5, 5, 5, "Champions"),
        ("cuts", 5, 1, 1, "New"),
        ("last", 1, 1, 5, "At Risk"),
        ("mid", 4, 3, 4, "Loyal"),
        ("worst", 1, 1, 1, "Lost"),
    ]


def test_rfm_scores_are_equal_for_equal_values_also_where_cuts_are_equal(warehouse: Warehouse) -> None:
    given_thresholds(warehouse, recency=[7, 7, 7, 7], frequency=[1, 1, 1, 2], monetary=[3.3, 3.3, 5, 5])
    customers = told(("a", 7, 1, "3.3"), ("b", 7, 1, "3.3"), ("c", 8, 2, "3.31"), ("d", 8, 3, "5.01"))
    given(warehouse, "rfm_features", *customers)
    rows = derived(warehouse, "rfm_scores")
    assert only(rows, *SCORES) == [(5, 1, 1), (5, 1, 1), (1, 4, 3), (1, 5, 5)]


def test_rfm_scores_count_the_cuts_below_a_value(warehouse: Warehouse) -> None:
    customers = [*random_features(150), REFUNDED, NEVER_BOUGHT]
    given(warehouse, "rfm_features", *customers)
    derived(warehouse, "rfm_segment_map")
    thresholds = derived(warehouse, "rfm_thresholds")
    rows = {row["customer_id"]: row for row in derived(warehouse, "rfm_scores")}
    for customer in customers:
        below = {
            name: sum(float(customer[name]) > cut["threshold"] for cut in thresholds if cut["feature"] == name)
            for name in FEATURES
        }
        row = rows[customer["customer_id"]]
        assert row["recency_score"] == 5 - below["recency"]
        assert (row["frequency_score"], row["monetary_score"]) == (1 + below["frequency"], 1 + below["monetary"])
    assert {row["recency_score"] for row in rows.values()} == {1, 2, 3, 4, 5}


# inactive_customers; outlier_fences, kmeans_model, kmeans_scaler, kmeans_centroids: the model that stands


def test_inactive_customers_are_dormant_or_refunded(warehouse: Warehouse) -> None:
    customers = told(
        ("active", 1, 1, "0.0001"), ("none", 9, 0, 0), ("returns", 9, 0, -5), ("back", 3, 2, 0), ("more", 3, 2, "-0.01")
    )
    given(warehouse, "rfm_features", *customers)
    assert only(derived(warehouse, "inactive_customers"), "customer_id", "segment_key", "monetary") == [
        ("back", "refunded", 0),
        ("more", "refunded", Decimal("-0.01")),
        ("none", "dormant", 0),
        ("returns", "dormant", -5),
    ]


STOOD = moment("2024-02-01 09:00:00")


def given_registry(warehouse: Warehouse) -> None:
    """Three models: one that retired, one that stands, one that the gate holds. The standing one has one fence."""
    facts = {"transform": "yeo-johnson", "n_clusters": 2, "customers": 7, "inertia": 2.5, "silhouette": 0.5}
    given(
        warehouse,
        "segmentation_models",
        {"model_id": "old", "number": 1, "status": "retired", **facts},
        {
            "model_id": "now",
            "number": 2,
            "status": "active",
            "fitted_as_of": STOOD,
            "settings_digest": "d",
            "random_state": 42,
            **facts,
        },
        {"model_id": "new", "number": 3, "status": "pending", **facts},
    )
    given(
        warehouse,
        "model_features",
        *({"model_id": "old", "feature": name, "factor": 9, "center": 9, "scale": 9} for name in FEATURES),
        {
            "model_id": "now",
            "feature": "monetary",
            "exponent": 0.5,
            "center": 1,
            "scale": 2,
            "q1": 4,
            "q3": 8,
            "factor": 1.5,
            "lower_fence": -2,
            "upper_fence": 14,
        },
        {"model_id": "now", "feature": "frequency", "exponent": 0.25, "center": 3, "scale": 4},
        {"model_id": "now", "feature": "recency", "exponent": -1, "center": 5, "scale": 6},
        *({"model_id": "new", "feature": name, "factor": 8, "center": 8, "scale": 8} for name in FEATURES),
    )
    given(
        warehouse,
        "model_centroids",
        *({"model_id": name, "cluster": 0, "segment_key": "grow", "customers": 1} for name in ("old", "new")),
        {
            "model_id": "now",
            "cluster": 0,
            "segment_key": "retain",
            "customers": 4,
            "scaled_monetary": 1,
            "scaled_frequency": 2,
            "scaled_recency": 3,
            "mean_monetary": 4,
            "mean_frequency": 5,
            "mean_recency": 6,
        },
        {"model_id": "now", "cluster": 1, "segment_key": "nurture", "customers": 3},
    )


def test_outlier_fences_are_those_of_the_model_that_stands(warehouse: Warehouse) -> None:
    """A feature without a factor has no fences."""
    given_registry(warehouse)
    assert derived(warehouse, "outlier_fences") == [
        {
            "feature": "monetary",
            "q1": 4,
            "q3": 8,
            "factor": 1.5,
            "lower_fence": -2,
            "upper_fence": 14,
            "fitted_as_of": STOOD,
            "settings_digest": "d",
        }
    ]


def test_kmeans_model_is_the_model_that_stands(warehouse: Warehouse) -> None:
    given_registry(warehouse)
    assert derived(warehouse, "kmeans_model") == [
        {
            "model_id": "now",
            "fitted_as_of": STOOD,
            "settings_digest": "d",
            "transform": "yeo-johnson",
            "n_clusters": 2,
            "random_state": 42,
            "customers": 7,
            "inertia": 2.5,
            "silhouette": 0.5,
        }
    ]


def test_kmeans_scaler_is_that_of_the_model_that_stands(warehouse: Warehouse) -> None:
    given_registry(warehouse)
    assert [tuple(row.values()) for row in derived(warehouse, "kmeans_scaler")] == [
        ("frequency", "yeo-johnson", 0.25, 3, 4),
        ("monetary", "yeo-johnson", 0.5, 1, 2),
        ("recency", "yeo-johnson", -1, 5, 6),
    ]


def test_kmeans_centroids_are_those_of_the_model_that_stands(warehouse: Warehouse) -> None:
    given_registry(warehouse)
    assert [tuple(row.values()) for row in derived(warehouse, "kmeans_centroids")] == [
        (0, "retain", 4, 1, 2, 3, 4, 5, 6),
        (1, "nurture", 3, 0, 0, 0, 0, 0, 0),
    ]


# previous_segments


def given_ledger(warehouse: Warehouse, *stays: tuple[str, str, bool, str, str | None]) -> None:
    """Stays from (customer, segment key, is held, from, to)."""
    given(
        warehouse,
        "segment_membership",
        *(
            {
                "customer_id": who,
                "segment_key": key,
                "is_move_pending": held,
                "reason": "behaviour",
                "model_id": "m1",
                "valid_from": moment(start),
                "valid_to": end and moment(end),
            }
            for who, key, held, start, end in stays
        ),
    )


def test_previous_segments_tell_where_a_customer_stood_and_since_when(warehouse: Warehouse) -> None:
    """Rows of one segment without a gap are one stay, whether on or off the nearest segment."""
    given(warehouse, "rfm_features", *told(("any", 1, 1, 5)))
    given_ledger(
        warehouse,
        ("again", "retain", False, "2024-01-01", "2024-02-01"),
        ("again", "retain", False, "2024-03-01", None),
        ("back", "retain", False, "2024-01-01", "2024-02-01"),
        ("back", "grow", False, "2024-02-01", "2024-03-01"),
        ("back", "retain", False, "2024-03-01", None),
        ("moved", "nurture", False, "2024-01-01", "2024-02-01"),
        ("moved", "retain", True, "2024-02-01", "2024-03-01"),
        ("moved", "retain", False, "2024-03-01", None),
        ("stays", "delight", False, "2024-01-01", None),
    )
    assert [tuple(row.values()) for row in derived(warehouse, "previous_segments")] == [
        ("again", "retain", moment("2024-03-01"), 0),
        ("back", "retain", moment("2024-03-01"), 0),
        ("moved", "retain", moment("2024-02-01"), 0),
        ("stays", "delight", moment("2024-01-01"), 0),
    ]


def test_previous_segments_read_nothing_that_was_written_for_as_of_or_later(warehouse: Warehouse) -> None:
    at, later = str(AS_OF), "2024-04-01"
    given(warehouse, "rfm_features", *told(("any", 1, 1, 5)))
    given_ledger(
        warehouse,
        ("ended before", "retain", False, "2024-01-01", "2024-03-30"),
        ("ends later", "retain", False, "2024-01-01", later),
        ("ends then", "retain", False, "2024-01-01", at),
        ("moves then", "nurture", False, "2024-01-01", at),
        ("moves then", "retain", False, at, None),
        ("new later", "retain", False, later, None),
        ("new then", "retain", False, at, None),
    )
    assert only(derived(warehouse, "previous_segments"), "customer_id", "segment_key") == [
        ("ends later", "retain"),
        ("ends then", "retain"),
        ("moves then", "nurture"),
    ]


@pytest.mark.parametrize(
    ("since", "days"), [("2024-03-01 12:00:00", 30), ("2024-03-01 12:00:01", 29), ("2024-03-31 11:59:59", 0)]
)
def test_previous_segments_count_the_full_days_of_being_held(warehouse: Warehouse, since: str, days: int) -> None:
    given(warehouse, "rfm_features", *told(("any", 1, 1, 5)))
    given_ledger(warehouse, ("a", "retain", False, "2024-01-01", since), ("a", "retain", True, since, None))
    assert only(derived(warehouse, "previous_segments"), "segment_since", "pending_days") == [
        (moment("2024-01-01"), days)
    ]


def test_previous_segments_are_none_before_the_first_run(warehouse: Warehouse) -> None:
    given(warehouse, "rfm_features", *told(("any", 1, 1, 5)))
    given_ledger(warehouse)
    assert derived(warehouse, "previous_segments") == []


# outlier_flags, outlier_customers, normal_customers, outlier_segments


def given_fences(warehouse: Warehouse, **fences: tuple[float, float]) -> None:
    rows = ({"feature": name, "lower_fence": low, "upper_fence": high} for name, (low, high) in fences.items())
    given(warehouse, "outlier_fences", *rows)


def sides(
    warehouse: Warehouse,
    customers: list[Row],
    before: dict[str, tuple[str, int]] | None = None,
    fence_margin: float = 0.05,
) -> list[Row]:
    """The sides of the fences, where customers stood before in a segment, held for so many days."""
    given(warehouse, "rfm_features", *customers)
    stood = (before or {}).items()
    given(
        warehouse,
        "previous_segments",
        *({"customer_id": who, "segment_key": key, "pending_days": days} for who, (key, days) in stood),
    )
    return derived(warehouse, "outlier_flags", fence_margin=fence_margin, max_pending_days=30)


def test_outlier_flags_are_beyond_a_fence_and_not_on_it(warehouse: Warehouse) -> None:
    given_fences(warehouse, monetary=(10, 100.5), recency=(-20, 200))
    customers = told(
        ("above", 201, 1, "100.6"),
        ("below", 5, 1, "9.5"),
        ("dormant", 5, 0, 500),
        ("lower", 5, 2, 10),
        ("refunded", 5, 9, 0),
        ("upper", 200, 5, "100.5"),
    )
    rows = sides(warehouse, customers)
    assert only(rows, "customer_id", "feature", "nearest_side", "side") == [
        ("above", "monetary", "high", "high"),
        ("above", "recency", "high", "high"),
        ("below", "monetary", "low", "low"),
        ("below", "recency", None, None),
        ("lower", "monetary", None, None),
        ("lower", "recency", None, None),
        ("upper", "monetary", None, None),
        ("upper", "recency", None, None),
    ]
    beyond = [row["beyond"] for row in rows]
    assert beyond == pytest.approx([0.1, 1, -0.5, 0, 0, 0, 0, 0], abs=1e-12)


HELD_SIDES = [
    # Outwards: by a twentieth of the fence.
    ("retain", "monetary", 105, None),
    ("retain", "monetary", "105.0001", "high"),
    ("retain", "monetary", 38, None),
    ("retain", "monetary", "37.9999", "low"),
    ("retain", "frequency", 21, None),
    ("retain", "frequency", 22, "high"),
    ("retain", "recency", 210, None),
    ("retain", "recency", 211, "high"),
    # And back.
    ("pamper", "monetary", "95.0001", "high"),
    ("pamper", "monetary", 95, None),
    ("delight", "monetary", 96, "high"),
    ("delight", "frequency", 20, "high"),
    ("delight", "frequency", 19, None),
    ("upsell", "frequency", 20, "high"),
    ("upsell", "frequency", 19, None),
    ("examine", "monetary", 41, "low"),
    ("examine", "monetary", 42, None),
    ("examine", "recency", 191, "high"),
    ("examine", "recency", 190, None),
    # A fence beyond which it was not is one to cross outwards.
    ("pamper", "frequency", 21, None),
    ("pamper", "frequency", 22, "high"),
    ("upsell", "monetary", 105, None),
    ("upsell", "monetary", 106, "high"),
    ("delight", "recency", 205, None),
    ("examine", "monetary", 104, None),
    ("examine", "monetary", 106, "high"),
    # Who had nothing to fit, or is new, was on no side.
    ("dormant", "monetary", 101, "high"),
    ("refunded", "monetary", 99, None),
    (None, "monetary", 101, "high"),
    (None, "monetary", 39, "low"),
]


@pytest.mark.parametrize(("before", "feature", "value", "side"), HELD_SIDES)
def test_outlier_flags_are_left_only_beyond_a_margin_outwards_and_back(
    warehouse: Warehouse, before: str | None, feature: str, value: float | str, side: str | None
) -> None:
    given_fences(warehouse, monetary=(40, 100), frequency=(1, 20), recency=(-10, 200))
    at = {"monetary": Decimal(50), "frequency": 5, "recency": 50, feature: Decimal(str(value))}
    rows = sides(warehouse, [{"customer_id": "a", **at}], {"a": (before, 0)} if before else {})
    assert {row["feature"]: row["side"] for row in rows}[feature] == side


@pytest.mark.parametrize(("pending_days", "side"), [(29, None), (30, "high")])
def test_outlier_flags_hold_nobody_for_longer_than_the_bound(
    warehouse: Warehouse, pending_days: int, side: str | None
) -> None:
    given_fences(warehouse, monetary=(40, 100))
    [row] = sides(warehouse, told(("a", 1, 2, 103)), {"a": ("retain", pending_days)})
    assert (row["nearest_side"], row["side"]) == ("high", side)


@pytest.mark.parametrize(("value", "side"), [(-22, None), (-23, "low")])
def test_outlier_flags_have_a_margin_outwards_of_a_fence_below_zero_too(
    warehouse: Warehouse, value: int, side: str | None
) -> None:
    """No feature of an active customer is below zero; a fence that were crossed there would still lie farther out."""
    given_fences(warehouse, recency=(-20, 200))
    [row] = sides(warehouse, told(("a", value, 2, 103)), {"a": ("retain", 0)}, fence_margin=0.125)
    assert row["side"] == side


SIDES = ("monetary_side", "frequency_side", "recency_side")


def test_outlier_customers_are_those_that_count_as_beyond_a_fence_whatever_is_nearest(warehouse: Warehouse) -> None:
    given_fences(warehouse, monetary=(10, 100), frequency=(2, 5))
    customers = told(
        ("both high", 5, 6, 101),
        ("both low", 5, 1, 9),
        ("high low", 5, 1, 104),
        ("inside", 999, 3, 50),
        ("kept in", 5, 3, 104),
        ("kept out", 5, 3, 96),
    )
    sides(warehouse, customers, {"kept in": ("retain", 3), "kept out": ("pamper", 3)})
    rows = derived(warehouse, "outlier_customers")
    assert only(rows, "customer_id", *SIDES) == [
        ("both high", "high", "high", None),
        ("both low", "low", "low", None),
        ("high low", "high", "low", None),
        ("kept out", "high", None, None),
    ]
    assert only(rows[:1], "recency", "frequency", "monetary") == [(5, 6, 101)]
    beyond = ("monetary_beyond", "frequency_beyond", "recency_beyond")
    assert only(rows, *beyond) == [(1, 1, None), (-1, -1, None), (4, -1, None), (0, 0, None)]


def test_normal_customers_are_the_active_ones_that_are_no_outliers(warehouse: Warehouse) -> None:
    customers = told(("a", 1, 2, 30), ("dormant", 1, 0, 5), ("far", 1, 2, 900), ("refunded", 1, 2, 0), ("z", 4, 5, 60))
    given(warehouse, "rfm_features", *customers)
    given(warehouse, "outlier_customers", {"customer_id": "far", "monetary_side": "high"})
    rows = derived(warehouse, "normal_customers")
    assert [tuple(row.values()) for row in rows] == [("a", 1, 2, 30), ("z", 4, 5, 60)]


CROSSED = pytest.mark.parametrize(
    ("monetary", "frequency", "recency", "segment"),
    [
        ("high", None, None, "pamper"),
        (None, "high", None, "upsell"),
        ("high", "high", None, "delight"),
        ("low", None, None, "examine"),
        (None, "low", None, "examine"),
        ("low", "high", None, "examine"),
        ("high", "low", None, "examine"),
        # Recency counts the other way: long away is the side of less value.
        (None, None, "high", "examine"),
        ("high", "high", "high", "examine"),
        ("high", None, "low", "pamper"),
        (None, None, "low", "examine"),
    ],
)


@CROSSED
def test_outlier_segments_never_call_valuable_who_is_beyond_a_fence_of_less_value(
    warehouse: Warehouse, monetary: str | None, frequency: str | None, recency: str | None, segment: str
) -> None:
    row = {"customer_id": "x", "monetary_side": monetary, "frequency_side": frequency, "recency_side": recency}
    given(warehouse, "outlier_customers", row)
    assert derived(warehouse, "outlier_segments") == [{"customer_id": "x", "segment_key": segment}]


# scaled_customers


def given_model(
    warehouse: Warehouse,
    centroids: Sequence[tuple[float, float, float]],
    transform: str = "standard",
    exponents: Sequence[float | None] = (None, None, None),
    center: Sequence[float] = (0, 0, 0),
    scale: Sequence[float] = (1, 1, 1),
) -> None:
    given(
        warehouse,
        "kmeans_scaler",
        *(
            {"feature": name, "transform": transform, "exponent": e, "center": c, "scale": s}
            for name, e, c, s in zip(FEATURES, exponents, center, scale, strict=True)
        ),
    )
    keys = [segment.key for segment in segment_catalog.SEGMENTS]
    scaled = [f"scaled_{name}" for name in FEATURES]
    given(
        warehouse,
        "kmeans_centroids",
        *(
            {"cluster": n, "segment_key": keys[n], **dict(zip(scaled, at, strict=True))}
            for n, at in enumerate(centroids)
        ),
    )


def scaled(row: Row) -> tuple[float, ...]:
    return tuple(row[f"scaled_{name}"] for name in FEATURES)


def test_scaled_customers_are_centred_and_scaled_and_only_the_active(warehouse: Warehouse) -> None:
    """With spend 2 above its centre in units of 2, frequency 3 and recency 4 above: (1, 3, 4)."""
    given_model(warehouse, [], center=(10, 1, 20), scale=(2, 1, 1))
    given(warehouse, "rfm_features", *told(("a", 24, 4, 12), ("dormant", 24, 0, 12), ("refunded", 24, 4, 0)))
    [row] = derived(warehouse, "scaled_customers")
    assert (row["customer_id"], scaled(row)) == ("a", (1, 3, 4))


@pytest.mark.parametrize("exponent", [-1.5, 0.0, 0.5, 1.0, 2.0, 3.0])
def test_scaled_customers_are_transformed_as_yeo_and_johnson_do(warehouse: Warehouse, exponent: float) -> None:
    """Money of an active customer is above zero; recency, of lines dated after as_of, could be below."""
    from scipy.stats import yeojohnson

    given_model(warehouse, [], "yeo-johnson", [exponent] * 3)
    given(warehouse, "rfm_features", *told(("a", -7, 3, "12.34"), ("b", 0, 1, "0.01")))
    wanted = yeojohnson(np.array([12.34, 3, -7, 0.01, 1, 0]), lmbda=exponent)
    found = [value for row in derived(warehouse, "scaled_customers") for value in scaled(row)]
    assert found == pytest.approx(wanted, rel=1e-9, abs=1e-9)


def scikit_scaled(transform: str, fitted_on: Any, scored: Any) -> Any:
    """Scaled by scikit-learn alone, without the code under test."""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, PowerTransformer, RobustScaler, StandardScaler

    steps: dict[str, list[Any]] = {
        "standard": [StandardScaler()],
        "log": [FunctionTransformer(np.log1p), StandardScaler()],
        "yeo-johnson": [PowerTransformer("yeo-johnson", standardize=True)],
        "robust": [RobustScaler()],
    }
    return make_pipeline(*steps[transform]).fit(fitted_on).transform(scored)


# nearest_centroids, kmeans_segments, nearest_segments


def given_scaled(warehouse: Warehouse, *customers: tuple[str, float, float, float], **stood: str) -> None:
    """Scaled customers, and where they stood before."""
    names = ("customer_id", *(f"scaled_{name}" for name in FEATURES))
    given(warehouse, "scaled_customers", *(dict(zip(names, customer, strict=True)) for customer in customers))
    given(warehouse, "previous_segments", *({"customer_id": who, "segment_key": key} for who, key in stood.items()))


def test_nearest_centroids_tell_the_nearest_the_second_and_the_one_where_it_stood(warehouse: Warehouse) -> None:
    """The keys of the clusters 0, 1, 2 are nurture, retain, grow: 5, 4 and 13 away from (1, 3, 4)."""
    given_model(warehouse, [(1, 0, 0), (1, 3, 8), (4, 7, 16)])
    customers = [(who, 1, 3, 4) for who in ("new", "stays", "third", "vip")]
    given_scaled(warehouse, *customers, stays="retain", third="grow", vip="delight")
    rows = derived(warehouse, "nearest_centroids")
    assert [tuple(row.values()) for row in rows] == [
        ("new", 1, "retain", 4.0, 5.0, None),
        ("stays", 1, "retain", 4.0, 5.0, 4.0),
        ("third", 1, "retain", 4.0, 5.0, 13.0),
        ("vip", 1, "retain", 4.0, 5.0, None),
    ]


def test_nearest_centroids_give_a_tie_to_the_lowest_key(warehouse: Warehouse) -> None:
    """As near to nurture as to grow: g comes first, whatever the number of the cluster."""
    given_model(warehouse, [(0, 0, 0), (9, 9, 9), (2, 0, 0)])
    given_scaled(warehouse, ("a", 1, 0, 0))
    assert only(derived(warehouse, "nearest_centroids"), "cluster", "segment_key", "distance", "second_distance") == [
        (2, "grow", 1.0, 1.0)
    ]


@pytest.mark.parametrize("transform", ["standard", "log", "yeo-johnson", "robust"])
def test_nearest_centroids_agree_with_scikit_learns_predict(warehouse: Warehouse, transform: kmeans.Transform) -> None:
    from sklearn.cluster import KMeans

    def table(customers: list[Row]) -> Any:
        return np.array([[float(row[name]) for name in FEATURES] for row in customers])

    fitted_on, scored = random_features(200, seed=1), random_features(300, seed=2)
    fitted = kmeans.fit(table(fitted_on), transform=transform, n_clusters=5, random_state=42)
    scaler = fitted.scaler
    exponents = [None] * 3 if scaler.exponents_ is None else scaler.exponents_.tolist()
    centroids = [(at[0], at[1], at[2]) for at in fitted.centroids_.tolist()]
    given_model(warehouse, centroids, transform, exponents, scaler.center_.tolist(), scaler.scale_.tolist())
    given(warehouse, "rfm_features", *scored)
    given(warehouse, "previous_segments")
    of_scikit = scikit_scaled(transform, table(fitted_on), table(scored))
    found = [scaled(row) for row in derived(warehouse, "scaled_customers")]
    assert np.array(found) == pytest.approx(of_scikit, rel=1e-6, abs=1e-9)
    rows = derived(warehouse, "nearest_centroids")
    model = KMeans(5, init=fitted.centroids_, n_init=1, max_iter=1).fit(fitted.centroids_)
    assert [row["cluster"] for row in rows] == model.predict(of_scikit).tolist()
    nearest, second, *_ = np.sort(model.transform(of_scikit), axis=1).T
    assert [row["distance"] for row in rows] == pytest.approx(nearest, rel=1e-6)
    assert [row["second_distance"] for row in rows] == pytest.approx(second, rel=1e-6)


NEAREST = {"cluster": 1, "segment_key": "retain", "distance": 4.0, "second_distance": 5.0}


def test_kmeans_segments_are_the_nearest_centroids_of_the_normal_customers(warehouse: Warehouse) -> None:
    given(warehouse, "normal_customers", {"customer_id": "a"})
    given(warehouse, "nearest_centroids", {"customer_id": "a", **NEAREST}, {"customer_id": "vip", **NEAREST})
    assert derived(warehouse, "kmeans_segments") == [{"customer_id": "a", **NEAREST}]


@CROSSED
def test_nearest_segments_know_the_fences_of_today_alone(
    warehouse: Warehouse, monetary: str | None, frequency: str | None, recency: str | None, segment: str
) -> None:
    """Not the side on which the customer is held."""
    crossed = zip(FEATURES, (monetary, frequency, recency), strict=True)
    given(
        warehouse,
        "outlier_flags",
        *({"customer_id": "x", "feature": name, "nearest_side": side, "side": None} for name, side in crossed),
        {"customer_id": "held", "feature": "monetary", "nearest_side": None, "side": "high"},
    )
    given(warehouse, "nearest_centroids", *({"customer_id": who, **NEAREST} for who in ("held", "x")))
    given(warehouse, "inactive_customers")
    assert [tuple(row.values()) for row in derived(warehouse, "nearest_segments")] == [
        ("held", "retain"),
        ("x", segment),
    ]


def test_nearest_segments_hold_the_inactive_and_do_without_fences(warehouse: Warehouse) -> None:
    given(warehouse, "outlier_flags")
    given(warehouse, "nearest_centroids", {"customer_id": "a", **NEAREST})
    given(warehouse, "inactive_customers", {"customer_id": "gone", "segment_key": "dormant"})
    assert [tuple(row.values()) for row in derived(warehouse, "nearest_segments")] == [
        ("a", "retain"),
        ("gone", "dormant"),
    ]


# assigned_segments


def given_normal(
    warehouse: Warehouse,
    distance: float,
    previous_distance: float | None,
    before: str | None,
    pending_days: int = 0,
    second_distance: float = 1.25,
) -> None:
    """One normal customer, nearest to `retain`, with the distance to where it stood."""
    at = {"cluster": 1, "segment_key": "retain", "distance": distance, "second_distance": second_distance}
    given(warehouse, "kmeans_segments", {"customer_id": "a", **at})
    given(warehouse, "nearest_centroids", {"customer_id": "a", **at, "previous_distance": previous_distance})
    given(warehouse, "nearest_segments", {"customer_id": "a", "segment_key": "retain"})
    stood = [{"customer_id": "a", "segment_key": before, "pending_days": pending_days}] if before else []
    given(warehouse, "previous_segments", *stood)
    given(warehouse, "outlier_segments")
    given(warehouse, "inactive_customers")


@pytest.mark.parametrize(
    ("distance", "previous_distance", "before", "pending_days", "segment"),
    [
        # Kept while the nearest is not nearer by a tenth: at .9 it is.
        (0.95, 1.0, "nurture", 0, "nurture"),
        (0.9001, 1.0, "nurture", 0, "nurture"),
        (0.9, 1.0, "nurture", 0, "retain"),
        (0.5, 1.0, "nurture", 0, "retain"),
        (1.0, 1.0, "nurture", 0, "nurture"),
        # Held for as long as the bound, and no longer.
        (0.95, 1.0, "nurture", 29, "nurture"),
        (0.95, 1.0, "nurture", 30, "retain"),
        # Nearest where it stood, new, or from where no centroid is.
        (0.95, 0.95, "retain", 0, "retain"),
        (0.95, None, None, 0, "retain"),
        (0.95, None, "delight", 0, "retain"),
        (0.95, None, "dormant", 0, "retain"),
        # A segment that the standing model no longer has.
        (0.95, None, "revive", 0, "retain"),
        (0.0, 0.0, "nurture", 0, "retain"),
    ],
)
def test_assigned_segments_are_left_only_for_a_centroid_that_is_clearly_nearer(
    warehouse: Warehouse,
    distance: float,
    previous_distance: float | None,
    before: str | None,
    pending_days: int,
    segment: str,
) -> None:
    given_normal(warehouse, distance, previous_distance, before, pending_days)
    rows = derived(warehouse, "assigned_segments", margin=0.1, max_pending_days=30)
    assert only(rows, "customer_id", "segment_key", "nearest_key", "is_move_pending") == [
        ("a", segment, "retain", segment != "retain")
    ]


@pytest.mark.parametrize(
    ("distance", "second", "margin"), [(1.0, 1.25, 0.2), (1.0, 1.0, 0.0), (0.0, 0.0, 0.0), (0.0, 2.0, 1.0)]
)
def test_assigned_segments_tell_by_which_share_the_nearest_is_nearer(
    warehouse: Warehouse, distance: float, second: float, margin: float
) -> None:
    given_normal(warehouse, distance, None, None, second_distance=second)
    [row] = derived(warehouse, "assigned_segments", margin=0.1, max_pending_days=30)
    assert row["margin"] == pytest.approx(margin, abs=1e-12)


def test_assigned_segments_hold_outliers_and_inactive_as_they_are_and_tell_who_is_held_at_a_fence(
    warehouse: Warehouse,
) -> None:
    given_normal(warehouse, 1.0, None, None)
    given(warehouse, "outlier_segments", *({"customer_id": who, "segment_key": "pamper"} for who in ("kept", "vip")))
    given(warehouse, "inactive_customers", {"customer_id": "gone", "segment_key": "dormant"})
    nearest = {"a": "retain", "gone": "dormant", "kept": "grow", "vip": "pamper"}
    given(warehouse, "nearest_segments", *({"customer_id": who, "segment_key": key} for who, key in nearest.items()))
    rows = derived(warehouse, "assigned_segments", margin=0.1, max_pending_days=30)
    assert [tuple(row.values()) for row in rows] == [
        ("a", "retain", "retain", False, pytest.approx(0.2)),
        ("gone", "dormant", "dormant", False, None),
        ("kept", "pamper", "grow", True, None),
        ("vip", "pamper", "pamper", False, None),
    ]


# customer_segments, segment_profiles


def given_catalogue(warehouse: Warehouse) -> None:
    given(
        warehouse,
        "segments",
        *(
            {
                "segment_key": item.key,
                "segment": item.name,
                "customer_group": item.customer_group,
                "description": item.description,
                "action": item.action,
                "colour": item.colour,
                "in_active_model": True,
            }
            for item in segment_catalog.SEGMENTS
        ),
    )


def given_assigned(warehouse: Warehouse, *customers: tuple[str, str, str]) -> None:
    """Customers from (name, segment key, nearest key)."""
    names = ("customer_id", "segment_key", "nearest_key")
    rows = [dict(zip(names, customer, strict=True)) for customer in customers]
    given(
        warehouse,
        "assigned_segments",
        *(row | {"is_move_pending": row["segment_key"] != row["nearest_key"]} for row in rows),
    )
    given(warehouse, "kmeans_model", {"model_id": "m1"})


def scores(**customers: tuple[int, str]) -> list[Row]:
    return [
        {"customer_id": who, **dict.fromkeys(SCORES, score), "rfm_segment": segment}
        for who, (score, segment) in customers.items()
    ]


SERVED: dict[str, Any] = {"lapsing_factor": 2.0, "control_below": "80000000"}


def test_customer_segments_hold_normal_outlier_and_inactive_customers_once(warehouse: Warehouse) -> None:
    given_catalogue(warehouse)
    given(warehouse, "rfm_features", *told(("gone", 90, 0, 0), ("usual", 3, 2, 20), ("vip", 1, 50, 9000)))
    given(warehouse, "rfm_scores", *scores(gone=(1, "Lost"), usual=(3, "Need Attention"), vip=(5, "Champions")))
    given_assigned(
        warehouse, ("gone", "dormant", "dormant"), ("usual", "retain", "grow"), ("vip", "delight", "delight")
    )
    given(warehouse, "previous_segments")
    rows = derived(warehouse, "customer_segments", **SERVED)
    names = (
        "customer_id",
        "segment",
        "segment_key",
        "nearest_segment",
        "is_move_pending",
        "customer_group",
        "rfm_segment",
    )
    assert only(rows, *names, "model_id") == [
        ("gone", "DORMANT", "dormant", "DORMANT", False, "inactive", "Lost", "m1"),
        ("usual", "RETAIN", "retain", "GROW", True, "normal", "Need Attention", "m1"),
        ("vip", "DELIGHT", "delight", "DELIGHT", False, "outlier", "Champions", "m1"),
    ]
    assert only(rows, "recency", "frequency", "monetary", *SCORES, "as_of") == [
        (90, 0, 0, 1, 1, 1, AS_OF),
        (3, 2, 20, 3, 3, 3, AS_OF),
        (1, 50, 9000, 5, 5, 5, AS_OF),
    ]
    actions = {item.key: item.action for item in segment_catalog.SEGMENTS}
    assert [row["action"] for row in rows] == [actions[row["segment_key"]] for row in rows]


def test_customer_segments_tell_where_each_came_from_and_since_when_it_has_been_there(warehouse: Warehouse) -> None:
    given_catalogue(warehouse)
    given(warehouse, "rfm_features", *told(("moved", 3, 2, 20), ("new", 3, 2, 20), ("stays", 3, 2, 20)))
    given(warehouse, "rfm_scores", *scores(moved=(3, "Lost"), new=(3, "Lost"), stays=(3, "Lost")))
    given_assigned(warehouse, *((who, "retain", "retain") for who in ("moved", "new", "stays")))
    given(
        warehouse,
        "previous_segments",
        {"customer_id": "moved", "segment_key": "re_engage", "segment_since": STOOD},
        {"customer_id": "stays", "segment_key": "retain", "segment_since": STOOD},
    )
    rows = derived(warehouse, "customer_segments", **SERVED)
    assert only(rows, "customer_id", "previous_segment", "segment_since") == [
        ("moved", "RE-ENGAGE", AS_OF),
        ("new", None, AS_OF),
        ("stays", "RETAIN", STOOD),
    ]


@pytest.mark.parametrize(("below", "share"), [("00000000", 0), ("1999999a", 0.1), ("80000000", 0.5)])
def test_customer_segments_leave_a_share_alone_by_a_hash_of_the_customer(
    warehouse: Warehouse, below: str, share: float
) -> None:
    """The first eight hex digits of the MD5 of the id: the same customers in each run, whatever else they do."""
    names = [f"c{n:04d}" for n in range(250)]
    given_catalogue(warehouse)
    given(warehouse, "rfm_features", *told(*((who, 3, 2, 20) for who in names)))
    given(warehouse, "rfm_scores", *scores(**dict.fromkeys(names, (3, "Lost"))))
    given_assigned(warehouse, *((who, "retain", "retain") for who in names))
    given(warehouse, "previous_segments")
    rows = derived(warehouse, "customer_segments", **{**SERVED, "control_below": below})
    found = [row["customer_id"] for row in rows if row["is_control"]]
    digits = {who: hashlib.md5(who.encode(), usedforsecurity=False).hexdigest() for who in names}
    assert found == [who for who in names if int(digits[who][:8], 16) < int(below, 16)]
    assert len(found) / len(names) == pytest.approx(share, abs=0.07)


@pytest.mark.parametrize(
    ("recency", "inter_purchase_time", "factor", "is_lapsing"),
    [
        (20, 10.0, 2.0, False),
        (21, 10.0, 2.0, True),
        (21, 10.0, 2.5, False),
        (21, 10.4, 2.0, True),
        (300, None, 2.0, None),
        (0, 1.0, 1.0, False),
    ],
)
def test_customer_segments_say_who_is_away_for_longer_than_its_own_rhythm_lets_expect(
    warehouse: Warehouse, recency: int, inter_purchase_time: float | None, factor: float, is_lapsing: bool | None
) -> None:
    """Against the customer's own rhythm: three weeks are nothing for one, and long for another."""
    given_catalogue(warehouse)
    given(
        warehouse, "rfm_features", {"customer_id": "a", "recency": recency, "inter_purchase_time": inter_purchase_time}
    )
    given(warehouse, "rfm_scores", *scores(a=(3, "Need Attention")))
    given_assigned(warehouse, ("a", "retain", "retain"))
    given(warehouse, "previous_segments")
    [row] = derived(warehouse, "customer_segments", **{**SERVED, "lapsing_factor": factor})
    assert row["is_lapsing"] is is_lapsing


def given_members(warehouse: Warehouse, *members: tuple[str, str, int, int, float | str]) -> None:
    given_catalogue(warehouse)
    given(
        warehouse,
        "customer_segments",
        *(
            {"customer_id": who, "segment_key": key, "recency": r, "frequency": f, "monetary": Decimal(str(m))}
            for who, key, r, f, m in members
        ),
    )


def test_segment_profiles_tell_size_revenue_and_typical_customer(warehouse: Warehouse) -> None:
    given_members(
        warehouse,
        ("a", "retain", 10, 2, "10.0001"),
        ("b", "retain", 20, 3, "10.0002"),
        ("c", "retain", 30, 10, "100"),
        ("d", "retain", 60, 5, "39.9997"),
        ("e", "delight", 1, 40, "840"),
    )
    delight, retain = derived(warehouse, "segment_profiles")
    catalogue = {item.key: item for item in segment_catalog.SEGMENTS}
    for row in (delight, retain):
        item = catalogue[row["segment_key"]]
        assert only([row], "segment", "customer_group", "description", "action", "as_of") == [
            (item.name, item.customer_group, item.description, item.action, AS_OF)
        ]
    shares = ("customers", "customer_share", "revenue", "revenue_share")
    assert only([delight, retain], *shares) == [(1, 0.2, 840, 0.84), (4, 0.8, 160, 0.16)]
    figures = [f"{kind}_{name}" for name in FEATURES for kind in ("mean", "median")]
    assert [retain[name] for name in figures] == pytest.approx([40, 24.99995, 5, 4, 30, 25], rel=1e-12)
    assert [delight[name] for name in figures] == [840, 840, 40, 40, 1, 1]


def test_segment_profiles_have_no_revenue_share_where_there_is_no_revenue(warehouse: Warehouse) -> None:
    given_members(warehouse, ("a", "dormant", 9, 0, -5), ("b", "retain", 9, 1, 5))
    assert [row["revenue_share"] for row in derived(warehouse, "segment_profiles")] == [None, None]


# outlier_profiles


def given_outliers(warehouse: Warehouse, *customers: tuple[str, str, float | str, int, bool | None]) -> None:
    """Customers from (name, segment key, money, recency, is slipping)."""
    catalogue = {item.key: item for item in segment_catalog.SEGMENTS}
    names = ("customer_id", "segment_key", "monetary", "recency", "is_lapsing")
    rows: list[Row] = [dict(zip(names, customer, strict=True)) for customer in customers]
    for row in rows:
        item = catalogue[row["segment_key"]]
        row |= {"segment": item.name, "customer_group": item.customer_group, "monetary": Decimal(str(row["monetary"]))}
    given(warehouse, "customer_segments", *rows)


def test_outlier_profiles_tell_size_revenue_and_revenue_at_risk(warehouse: Warehouse) -> None:
    given_outliers(
        warehouse,
        ("a", "delight", "1000.0001", 10, False),
        ("b", "delight", "3000", 50, True),
        ("c", "delight", "5999.9999", 3, None),
        ("d", "pamper", 2000, 400, None),
        ("e", "retain", 7000, 3, True),
        ("f", "dormant", 1000, 3, None),
    )
    delight, pamper = derived(warehouse, "outlier_profiles")
    names = ("segment_key", "segment", "customers", "customer_share", "revenue", "revenue_share", "as_of")
    assert only([delight, pamper], *names) == [
        ("delight", "DELIGHT", 3, 0.5, 10_000, 0.5, AS_OF),
        ("pamper", "PAMPER", 1, 1 / 6, 2000, 0.1, AS_OF),
    ]
    risk = ("lapsing_customers", "revenue_at_risk", "revenue_at_risk_share", "mean_recency", "top_10_share")
    assert only([delight, pamper], *risk) == [(1, 3000, 0.3, 21.0, 1.0), (0, 0, 0.0, 400.0, 1.0)]


@pytest.mark.parametrize(
    ("spend", "gini"),
    [([5], 0), ([7, 7, 7], 0), ([1, 3], 0.25), ([3, 1], 0.25), ([1, 2, 3, 4], 0.25), (["0.0001", 9999], 0.49999999)],
)
def test_outlier_profiles_measure_concentration_by_gini(
    warehouse: Warehouse, spend: Sequence[float | str], gini: float
) -> None:
    given_outliers(warehouse, *((f"c{n}", "pamper", money, 1, None) for n, money in enumerate(spend)))
    assert derived(warehouse, "outlier_profiles")[0]["gini"] == pytest.approx(gini, abs=1e-12)


def test_outlier_profiles_measure_gini_by_the_mean_difference_and_the_top_ten_by_their_money(
    warehouse: Warehouse,
) -> None:
    """Gini is half the mean difference of two customers, by the mean; the order of the rows is nothing to it."""
    spend = np.random.default_rng(2).lognormal(8, 1, 200).round(2)
    spend[:30] = spend[30]
    given_outliers(warehouse, *((f"c{n}", "upsell", money, 1, None) for n, money in enumerate(spend.tolist())))
    [row] = derived(warehouse, "outlier_profiles")
    gini = np.abs(spend[:, None] - spend[None, :]).mean() / (2 * spend.mean())
    assert row["gini"] == pytest.approx(gini, rel=1e-12)
    assert row["top_10_share"] == pytest.approx(np.sort(spend)[-10:].sum() / spend.sum(), rel=1e-12)


def test_outlier_profiles_have_no_revenue_share_where_the_refunds_of_others_leave_no_revenue(
    warehouse: Warehouse,
) -> None:
    given_outliers(warehouse, ("a", "pamper", 10, 1, None), ("b", "refunded", -10, 1, None))
    [row] = derived(warehouse, "outlier_profiles")
    assert (row["revenue_share"], row["customer_share"], row["top_10_share"]) == (None, 0.5, 1.0)


def test_outlier_profiles_are_empty_where_nobody_is_beyond_a_fence(warehouse: Warehouse) -> None:
    given_outliers(warehouse, ("a", "retain", 10, 1, True))
    assert derived(warehouse, "outlier_profiles") == []


# segment_membership, segment_changes

DAY_1, DAY_2, DAY_3 = (moment(f"2024-03-{day} 12:00:00") for day in (29, 30, 31))
assert DAY_3 == AS_OF
Stay = tuple[str, str, bool, str, str, datetime, datetime | None]
STAY = ("customer_id", "segment_key", "is_move_pending", "model_id", "reason", "valid_from", "valid_to")
NOBODY = "select customer_id, segment_key, is_move_pending from assigned_segments where false"


def given_stays(warehouse: Warehouse, *stays: Stay) -> None:
    given(warehouse, "segment_membership", *(dict(zip(STAY, stay, strict=True)) for stay in stays))


def written(
    warehouse: Warehouse,
    today: dict[str, tuple[str, bool]],
    otherwise: dict[str, tuple[str, bool]] | None = None,
    as_of: datetime = AS_OF,
) -> list[tuple[Any, ...]]:
    """The ledger after a run in which customers are where `today` says, and would be elsewhere under the old model."""
    given(
        warehouse,
        "customer_segments",
        *(
            {"customer_id": who, "segment_key": key, "is_move_pending": held, "as_of": as_of, "model_id": "m2"}
            for who, (key, held) in today.items()
        ),
    )
    given(
        warehouse,
        "assigned_segments",
        *(
            {"customer_id": who, "segment_key": key, "is_move_pending": held}
            for who, (key, held) in (otherwise or {}).items()
        ),
    )
    relation = "select customer_id, segment_key, is_move_pending from assigned_segments" if otherwise else NOBODY
    return only(derived(warehouse, "segment_membership", {"assigned_by_previous_model": relation}), *STAY)


def stay(who: str, key: str = "nurture", held: bool = False, to: datetime | None = None) -> Stay:
    """A stay since the first day, under the first model."""
    return (who, key, held, "m1", "behaviour", DAY_1, to)


def test_segment_membership_begins_with_everybody_new(warehouse: Warehouse) -> None:
    given_stays(warehouse)
    assert written(warehouse, {"a": ("retain", False), "b": ("dormant", False)}) == [
        ("a", "retain", False, "m2", "new", AS_OF, None),
        ("b", "dormant", False, "m2", "new", AS_OF, None),
    ]


def test_segment_membership_says_who_moved_came_went_and_is_held(warehouse: Warehouse) -> None:
    given_stays(
        warehouse,
        stay("back", to=DAY_2),
        stay("freed", "retain", held=True),
        stay("gone"),
        stay("held"),
        stay("left"),
        stay("moved"),
        stay("same"),
    )
    today = {
        "back": ("nurture", False),
        "freed": ("retain", False),
        "held": ("nurture", True),
        "left": ("examine", False),
        "moved": ("retain", False),
        "new": ("retain", True),
        "same": ("nurture", False),
    }
    assert written(warehouse, today) == [
        stay("back", to=DAY_2),
        ("back", "nurture", False, "m2", "new", AS_OF, None),
        stay("freed", "retain", held=True, to=AS_OF),
        ("freed", "retain", False, "m2", "behaviour", AS_OF, None),
        stay("gone", to=AS_OF),
        stay("held", to=AS_OF),
        ("held", "nurture", True, "m2", "behaviour", AS_OF, None),
        stay("left", to=AS_OF),
        ("left", "examine", False, "m2", "behaviour", AS_OF, None),
        stay("moved", to=AS_OF),
        ("moved", "retain", False, "m2", "behaviour", AS_OF, None),
        ("new", "retain", True, "m2", "new", AS_OF, None),
        stay("same"),
    ]


def test_segment_membership_tells_what_the_model_alone_did_from_what_the_customer_did(warehouse: Warehouse) -> None:
    """Under the old model `by model` and `drifting` had stayed, `by both` had moved elsewhere, `by itself` as well."""
    given_stays(
        warehouse, stay("by both"), stay("by itself"), stay("by model"), stay("drifting"), stay("unheld", held=True)
    )
    today = dict.fromkeys(("by both", "by itself", "by model", "drifting", "new"), ("retain", False))
    otherwise = {
        "by both": ("grow", False),
        "by itself": ("retain", False),
        "by model": ("nurture", False),
        "drifting": ("nurture", True),
        "new": ("retain", False),
        "unheld": ("nurture", True),
    }
    rows = written(warehouse, {**today, "unheld": ("nurture", False)}, otherwise)
    assert {row[0]: row[4] for row in rows if row[5] == AS_OF} == {
        "by both": "behaviour",
        "by itself": "behaviour",
        "by model": "model",
        "drifting": "model",
        "new": "new",
        "unheld": "model",
    }


def test_segment_membership_written_again_for_the_same_moment_is_the_same(warehouse: Warehouse) -> None:
    given_stays(warehouse, stay("gone"), stay("held"), stay("moved"), stay("same"))
    today = {"held": ("nurture", True), "moved": ("retain", False), "new": ("grow", False), "same": ("nurture", False)}
    once = written(warehouse, today)
    assert written(warehouse, today) == once
    given_stays(warehouse, stay("moved"))
    by_model = written(warehouse, {"moved": ("retain", False)}, {"moved": ("nurture", False)})
    assert written(warehouse, {"moved": ("retain", False)}, {"moved": ("nurture", False)}) == by_model


def test_segment_membership_takes_back_what_was_written_for_the_same_moment(warehouse: Warehouse) -> None:
    """A run done again with other lines: as if the first had not been."""
    given_stays(warehouse, stay("a"), stay("b"), stay("c"))
    written(warehouse, {"a": ("retain", False), "b": ("nurture", True), "wrong": ("grow", False)})
    assert written(warehouse, {"a": ("nurture", False), "b": ("grow", False), "c": ("nurture", False)}) == [
        stay("a"),
        stay("b", to=AS_OF),
        ("b", "grow", False, "m2", "behaviour", AS_OF, None),
        stay("c"),
    ]


def test_segment_membership_leaves_what_ended_before_as_it_is(warehouse: Warehouse) -> None:
    ended = [
        ("a", "grow", False, "m1", "new", DAY_1, DAY_2),
        ("a", "retain", True, "m1", "model", DAY_2, None),
        ("z", "grow", False, "m1", "new", DAY_1, DAY_2),
    ]
    given_stays(warehouse, *ended)
    assert written(warehouse, {"a": ("retain", True)}) == ended


def test_segment_membership_of_many_nights_holds_each_customer_once_at_any_moment(warehouse: Warehouse) -> None:
    chance = np.random.default_rng(4)
    names, keys = [f"c{n}" for n in range(30)], ["retain", "nurture", "grow"]
    given_stays(warehouse)
    nights = []
    for night in range(12):
        as_of = DAY_1 + timedelta(days=night)
        there = {who: (str(chance.choice(keys)), bool(chance.integers(2))) for who in names if chance.random() < 0.8}
        nights.append((as_of, there))
        written(warehouse, there, as_of=as_of)
    for as_of, there in nights:
        found = warehouse.rows(
            "select customer_id, segment_key, is_move_pending from segment_membership"
            " where valid_from <= $at and (valid_to > $at or valid_to is null) order by customer_id",
            at=as_of,
        )
        assert [tuple(row.values()) for row in found] == [(who, *there[who]) for who in sorted(there)]


def test_segment_changes_tell_from_where_to_where_when_and_why(warehouse: Warehouse) -> None:
    given_stays(
        warehouse,
        ("back", "grow", False, "m1", "new", DAY_1, DAY_2),
        ("back", "grow", False, "m2", "new", DAY_3, None),
        ("gone", "grow", False, "m1", "new", DAY_1, DAY_2),
        ("held", "grow", False, "m1", "new", DAY_1, DAY_2),
        ("held", "grow", True, "m1", "behaviour", DAY_2, None),
        ("moved", "grow", False, "m1", "new", DAY_1, DAY_2),
        ("moved", "retain", False, "m1", "behaviour", DAY_2, DAY_3),
        ("moved", "nurture", True, "m2", "model", DAY_3, None),
        ("stays", "grow", False, "m1", "new", DAY_1, None),
    )
    given(warehouse, "kmeans_model", {"model_id": "m2"})
    given(warehouse, "erased_customers", {"customer_hash": "a-hash", "as_of": DAY_3})
    names = ("customer_id", "as_of", "from_segment", "to_segment", "reason", "model_id")
    assert only(derived(warehouse, "segment_changes"), *names) == [
        ("a-hash", DAY_3, None, None, "erased", "m2"),
        ("back", DAY_1, None, "grow", "new", "m1"),
        ("back", DAY_2, "grow", None, "removed", "m1"),
        ("back", DAY_3, None, "grow", "new", "m2"),
        ("gone", DAY_1, None, "grow", "new", "m1"),
        ("gone", DAY_2, "grow", None, "removed", "m1"),
        ("held", DAY_1, None, "grow", "new", "m1"),
        ("moved", DAY_1, None, "grow", "new", "m1"),
        ("moved", DAY_2, "grow", "retain", "behaviour", "m1"),
        ("moved", DAY_3, "retain", "nurture", "model", "m2"),
        ("stays", DAY_1, None, "grow", "new", "m1"),
    ]


# history_months, segment_migrations


def months(
    warehouse: Warehouse, lines: list[Row], as_of: datetime = AS_OF, look_back_days: int | None = None
) -> list[Row]:
    given(warehouse, "clean_transactions", *lines)
    given(warehouse, "rfm_features", {"customer_id": "a", "as_of": as_of})
    given(warehouse, "kmeans_model", {"model_id": "m1"})
    return derived(warehouse, "history_months", look_back_days=look_back_days, history_digest="h")


YEAR = sales(
    ("a", "1", "P", "2023-11-10 10:00:00", 5),
    ("a", "2", "P", "2023-11-30 23:59:59.999999", 5),
    ("a", "3", "P", "2023-12-01 00:00:00", 5),
    ("b", "4", "P", "2024-02-29 12:00:00", 5),
    ("b", "C5", "P", "2024-03-30 12:00:00", -5),
)


def test_history_months_are_the_month_ends_up_to_as_of_with_the_lines_before_them(warehouse: Warehouse) -> None:
    """A line at midnight is one of the month that then begins; a month may be without lines; March is not over."""
    rows = months(warehouse, YEAR)
    assert only(rows, "month_end", "lines", "is_comparable", "model_id", "settings_digest") == [
        (moment("2023-12-01"), 2, False, "m1", "h"),
        (moment("2024-01-01"), 3, False, "m1", "h"),
        (moment("2024-02-01"), 3, False, "m1", "h"),
        (moment("2024-03-01"), 4, False, "m1", "h"),
    ]
    prints = [row["fingerprint"] for row in rows]
    assert prints[1] == prints[2]
    assert len({*prints}) == 3


@pytest.mark.parametrize(
    ("as_of", "last"), [("2024-03-01 00:00:00", "2024-03-01"), ("2024-02-29 23:59:59", "2024-02-01")]
)
def test_history_months_end_with_the_one_that_as_of_closes(warehouse: Warehouse, as_of: str, last: str) -> None:
    assert months(warehouse, YEAR[:3], moment(as_of))[-1]["month_end"] == moment(last)


@pytest.mark.parametrize(
    ("first", "look_back_days", "is_comparable"),
    [
        ("2023-03-02 23:00:00", None, True),
        ("2023-03-03 00:00:00", None, False),
        ("2024-01-31 23:00:00", 30, True),
        ("2024-02-01 00:00:00", 30, False),
    ],
)
def test_history_months_are_comparable_with_as_many_days_before_them_as_the_look_back_or_a_year(
    warehouse: Warehouse, first: str, look_back_days: int | None, is_comparable: bool
) -> None:
    """From 2 March 2023 to 1 March 2024 there are 365 days, from 31 January to 1 March 30."""
    lines = sales(("a", "1", "P", first, 5))
    found = {row["month_end"]: row["is_comparable"] for row in months(warehouse, lines, look_back_days=look_back_days)}
    assert found[moment("2024-03-01")] is is_comparable


def test_history_months_are_other_ones_from_a_late_line_on_and_whatever_the_order_of_the_lines(
    warehouse: Warehouse,
) -> None:
    def prints(lines: list[Row]) -> list[str]:
        return [row["fingerprint"] for row in months(warehouse, lines)]

    before = prints(YEAR)
    assert prints(YEAR[::-1]) == before
    late = prints([*YEAR, *sales(("c", "9", "P", "2024-01-15 10:00:00", 3))])
    assert [new == old for new, old in zip(late, before, strict=True)] == [True, True, False, False]
    for changed in ({"amount": Decimal(6)}, {"customer_id": "x"}, {"invoice": "x"}, {"is_cancellation": True}):
        other = prints([*YEAR[:2], YEAR[2] | changed, *YEAR[3:]])
        assert [new == old for new, old in zip(other, before, strict=True)] == [True, False, False, False]


def test_history_months_are_none_in_the_first_month(warehouse: Warehouse) -> None:
    assert months(warehouse, sales(("a", "1", "P", "2024-03-02 10:00:00", 5))) == []


def given_history(warehouse: Warehouse, *rows: tuple[str, str, str], comparable_from: str = "2024-02-01") -> None:
    """Customers from (month end, name, segment key)."""
    given(
        warehouse,
        "segment_history",
        *(
            {
                "month_end": moment(month),
                "customer_id": who,
                "segment_key": key,
                "is_comparable": month >= comparable_from,
            }
            for month, who, key in rows
        ),
    )


PAST = [
    ("2024-01-01", "a", "grow"),
    ("2024-02-01", "a", "retain"),
    ("2024-02-01", "b", "retain"),
    ("2024-03-01", "a", "nurture"),
    ("2024-03-01", "b", "nurture"),
    ("2024-03-01", "c", "grow"),
    ("2024-04-01", "a", "nurture"),
    ("2024-04-01", "b", "retain"),
    ("2024-04-01", "c", "grow"),
    ("2024-04-01", "d", "grow"),
]


def test_segment_migrations_are_the_ways_between_comparable_months(warehouse: Warehouse) -> None:
    given_history(warehouse, *PAST)
    assert [tuple(row.values()) for row in derived(warehouse, "segment_migrations")] == [
        (moment("2024-03-01"), "new", "grow", 1),
        (moment("2024-03-01"), "retain", "nurture", 2),
        (moment("2024-04-01"), "grow", "grow", 1),
        (moment("2024-04-01"), "new", "grow", 1),
        (moment("2024-04-01"), "nurture", "nurture", 1),
        (moment("2024-04-01"), "nurture", "retain", 1),
    ]
    assert warehouse.rows(check_select("migrations_sum_to_customers")) == []


@pytest.mark.parametrize("spoilt", ["customers = customers + 1", "month_end = '2024-04-01'"])
def test_segment_migrations_that_do_not_sum_to_the_customers_are_found(warehouse: Warehouse, spoilt: str) -> None:
    given_history(warehouse, *PAST)
    derived(warehouse, "segment_migrations")
    warehouse.connection.execute(f"update segment_migrations set {spoilt} where month_end = '2024-03-01'")
    found = warehouse.rows(check_select("migrations_sum_to_customers"))
    assert moment("2024-03-01") in [row["month_end"] for row in found]


def test_segment_migrations_of_random_months_sum_to_the_customers_of_each(warehouse: Warehouse) -> None:
    chance, keys = np.random.default_rng(8), ["grow", "retain", "nurture", "delight", "dormant"]
    rows = [
        (f"2024-{month:02d}-01", f"c{n}", str(chance.choice(keys)))
        for month in range(1, 13)
        for n in range(40)
        if n < 10 + month * 3
    ]
    given_history(warehouse, *rows)
    sums: dict[datetime, int] = {}
    for row in derived(warehouse, "segment_migrations"):
        sums[row["month_end"]] = sums.get(row["month_end"], 0) + row["customers"]
    assert sums == {datetime(2024, month, 1): min(40, 10 + month * 3) for month in range(3, 13)}  # noqa: DTZ001


def test_segment_migrations_are_none_before_two_months_are_comparable(warehouse: Warehouse) -> None:
    given_history(warehouse, *PAST, comparable_from="2024-04-01")
    assert derived(warehouse, "segment_migrations") == []
