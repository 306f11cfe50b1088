"""Each SELECT of `sql/`: given rows, expected rows. The expectations are worked out by hand or with numpy."""

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

from segmentation_pipeline import cleaning
from segmentation_pipeline.contracts import quoted
from segmentation_pipeline.core import kmeans, naming
from segmentation_pipeline.fitting import model_rows
from segmentation_pipeline.lines import read_lines
from segmentation_pipeline.settings import Retailer
from segmentation_pipeline.sources import source_files
from segmentation_pipeline.tables import CONTRACTS, FEATURES, RFM_SEGMENTS
from segmentation_pipeline.warehouse import SQL, Filling, Given, Warehouse, select_of
from segmentation_pipeline_tests.scenarios import line, retailer_settings, write_csv

TABLES = sorted(path.stem for path in SQL.glob("*.sql"))
SELECTS = sorted(str(path.relative_to(SQL).with_suffix("")) for path in SQL.rglob("*.sql"))
moment = datetime.fromisoformat
AS_OF = moment("2024-03-31 12:00:00")
Row = dict[str, Any]


@pytest.fixture
def warehouse() -> Warehouse:
    return Warehouse(duckdb.connect())


def given(warehouse: Warehouse, table: str, *rows: Row) -> None:
    """A table with these rows; a column that is not told is null, or where that cannot be, of no consequence."""
    contract = CONTRACTS[table]
    warehouse.connection.execute(contract.ddl(constraints=False))
    stand_ins = {"VARCHAR": "", "TIMESTAMP": AS_OF, "BOOLEAN": False}
    for row in rows:
        assert set(row) <= {column.name for column in contract.columns}
        values = [row.get(c.name, None if c.nullable else stand_ins.get(c.type, 0)) for c in contract.columns]
        places = ", ".join("?" * len(values))
        warehouse.connection.execute(f"insert into {quoted(table)} values ({places})", values)


def derived(warehouse: Warehouse, table: str, relations: dict[str, str] | None = None, **values: Any) -> list[Row]:
    """The rows that the table's SELECT makes, in the order of its key, after its contract was kept."""
    [outcome] = warehouse.replace([Filling(table, select_of(table))], values, Given(relations or {}))
    assert outcome.violations == ()
    return warehouse.rows(f"select * from {quoted(table)} order by {CONTRACTS[table].key_order}")


def only(rows: Sequence[Row], *names: str) -> list[tuple[Any, ...]]:
    return [tuple(row[name] for name in names) for row in rows]


# What every file keeps.


@pytest.mark.parametrize("table", TABLES)
def test_each_file_has_a_test_of_its_own(table: str) -> None:
    assert any(name.startswith(f"test_{table}_") for name in globals())


@pytest.mark.parametrize("table", TABLES)
def test_the_first_comment_is_the_contracts_grain(table: str) -> None:
    assert select_of(table).splitlines()[0] == f"-- {CONTRACTS[table].grain}"


@pytest.mark.parametrize("select", SELECTS)
def test_each_file_says_first_what_one_row_is_and_has_at_most_80_lines(select: str) -> None:
    lines = select_of(select).splitlines()
    assert re.match(r"-- one row(,| is) ", lines[0])
    assert len(lines) <= 80


# These two read relations that are made from the retailer's cleaning rules.
RELATIONS = {
    "judged_transactions": "select *, false as is_cancellation, null::integer as step from raw_transactions",
    "cleaning_rules": "select 1 as step, '' as rule, '' as reason",
}


@pytest.mark.parametrize("table", sorted({*TABLES} - {"raw_transactions"}))
def test_the_columns_are_the_contracts_by_name_order_and_type(warehouse: Warehouse, table: str) -> None:
    for name in CONTRACTS:
        given(warehouse, name)
    values = {
        "as_of": None,
        "look_back_days": None,
        "to_end_of_day": False,
        "slipping_factor": 2.0,
        "factor": 1.5,
        "outlier_features": ["monetary"],
        "fences_digest": "",
    }
    [outcome] = warehouse.replace([Filling(table, select_of(table))], values, Given(RELATIONS))
    assert {item.rule for item in outcome.violations} <= {"not empty"}


# What Spark 4 has under this name, with this meaning; look a new one up in its reference before it is added.
OF_SPARK = {
    "ABS", "ARRAY_CONTAINS", "AVG", "CAST", "CEIL", "COALESCE", "COUNT", "DATEDIFF", "FLOOR", "LEAD", "LN", "MAX",
    "MEDIAN", "MIN", "NULLIF", "POWER", "REGEXP_REPLACE", "ROW_NUMBER", "SQRT", "SUM", "TRIM", "TRY_CAST",
    "UNIX_TIMESTAMP", "DECIMAL",
}  # fmt: skip
NO_FUNCTION = {"AS", "IN", "OVER", "AND", "OR", "NOT", "VALUES", "WHEN", "THEN", "SELECT", "FROM", "BY", "WHERE", "ON"}


@pytest.mark.parametrize("select", SELECTS)
def test_each_select_translates_to_spark(select: str) -> None:
    [spark] = sqlglot.transpile(
        select_of(select), read="duckdb", write="spark", unsupported_level=sqlglot.ErrorLevel.RAISE
    )
    assert sqlglot.parse_one(spark, read="spark").find(exp.Select)
    plain = re.sub(r"'(?:[^'\\]|\\.)*'|/\*.*?\*/", "", spark, flags=re.DOTALL)
    called = set(re.findall(r"\b([A-Z_]+)\s?\(", plain)) - NO_FUNCTION
    # Typing the text of the files is part of reading them, for which each engine has functions of its own; what a
    # release's own function says is asked of the engine that publishes it.
    assert called <= OF_SPARK or select in ("raw_transactions", "checks/score_customer_agrees")


@pytest.mark.parametrize("select", SELECTS)
def test_no_select_hangs_on_what_a_translation_changes_silently(select: str) -> None:
    """A list counts from 1 here and from 0 there, or loses its order; a quantile becomes approximate."""
    tree = sqlglot.parse_one(select_of(select), read="duckdb")
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
    files = source_files(retailer, tmp_path)
    with read_lines(warehouse.connection, retailer, files, tmp_path / "tmp") as lines:
        [outcome] = warehouse.replace([Filling("raw_transactions", select_of("raw_transactions"))], {}, lines)
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
    with read_lines(warehouse.connection, retailer, source_files(retailer, tmp_path), tmp_path / "tmp") as lines:
        warehouse.replace([Filling("raw_transactions", select_of("raw_transactions"))], retailer.sql_values, lines)
    for table in ("clean_transactions", "rejected_transactions", "cleaning_report", "purchase_rhythm", "rfm_features"):
        [outcome] = warehouse.replace([Filling(table, select_of(table))], retailer.sql_values, cleaning.given(retailer))
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
    derived(warehouse, "purchase_rhythm")
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
            "expected_gap": 22.0,
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
    assert (row["purchase_days"], row["expected_gap"]) == (0, None)
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
    names = ("frequency", "monetary", "products", "recency", "tenure", "purchase_days", "expected_gap")
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
    lines = sales(*(
        (f"c{n % 9}", f"{'C' if n % 11 == 0 else ''}{n // 3}", f"P{n % 5}", f"2024-03-{1 + n % 28:02d} 10:00:00",
         (-1 if n % 11 == 0 else 1) * (n % 17) / 100)
        for n in range(200)
    ))  # fmt: skip
    for sold in lines:
        sold["country"] = random.choice(["Spain", "France", "Italy"])
    first = features(warehouse, lines)
    shuffled = [lines[place] for place in random.permutation(len(lines))]
    assert features(Warehouse(duckdb.connect()), shuffled) == first


# purchase_rhythm


def bought_on(**days: Sequence[int]) -> list[Row]:
    """Lines of customers who bought on these days of 2024."""
    start = moment("2023-12-31 10:00:00")
    return sales(*(
        (who, f"{who}{day}", "P", str(start + timedelta(days=day)), 5) for who, bought in days.items() for day in bought
    ))  # fmt: skip


def rhythm(warehouse: Warehouse, lines: list[Row]) -> dict[str, tuple[int, float | None]]:
    given(warehouse, "clean_transactions", *lines)
    rows = derived(warehouse, "purchase_rhythm")
    return {row["customer_id"]: (row["purchase_days"], row["expected_gap"]) for row in rows}


def test_purchase_rhythm_weighs_a_customers_gaps_against_two_of_the_population(warehouse: Warehouse) -> None:
    """The gaps are 10, 10, 10 and 100, 7: half of them are at most 10, so two gaps of 10 days stand beside each."""
    found = rhythm(warehouse, bought_on(regular=[1, 11, 21, 31], slow=[1, 101], twice=[50, 57], once=[9]))
    assert found == {
        "once": (1, None),
        "regular": (4, (10 + 10 + 10 + 2 * 10) / 5),
        "slow": (2, (100 + 2 * 10) / 3),
        "twice": (2, (7 + 2 * 10) / 3),
    }


def test_purchase_rhythm_takes_the_mean_of_the_two_middle_gaps(warehouse: Warehouse) -> None:
    """Gaps of 3 and 8: the median is 5.5."""
    assert rhythm(warehouse, bought_on(a=[1, 4], b=[1, 9])) == {"a": (2, 14 / 3), "b": (2, 19 / 3)}


def test_purchase_rhythm_counts_days_and_neither_invoices_nor_refunds(warehouse: Warehouse) -> None:
    lines = sales(
        ("a", "1", "P", "2024-02-28 00:00:00", 5),
        ("a", "2", "P", "2024-02-28 23:59:59.999999", 5),
        ("a", "3", "P", "2024-03-01 00:00:00", 5),
        ("a", "C4", "P", "2024-03-20 10:00:00", -5),
        ("only refunds", "C5", "P", "2024-03-20 10:00:00", -5),
    )
    assert rhythm(warehouse, lines) == {"a": (2, 2.0)}


def test_purchase_rhythm_expects_nothing_of_anybody_where_nobody_came_twice(warehouse: Warehouse) -> None:
    assert rhythm(warehouse, bought_on(a=[1], b=[2])) == {"a": (1, None), "b": (1, None)}


def test_purchase_rhythm_does_not_hang_on_the_order_of_the_lines() -> None:
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
    assert set(named.values()) == set(RFM_SEGMENTS)


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


# inactive_customers, outlier_fences, outlier_customers, normal_customers, outlier_segments


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


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 6, 101])
@pytest.mark.parametrize("factor", [1.5, 3.0])
def test_outlier_fences_stand_so_many_interquartile_ranges_from_numpys_quartiles(
    warehouse: Warehouse, number: int, factor: float
) -> None:
    customers = random_features(number)
    given(warehouse, "rfm_features", *customers, NEVER_BOUGHT, REFUNDED)
    rows = derived(
        warehouse,
        "outlier_fences",
        factor=factor,
        outlier_features=["recency", "monetary", "frequency"],
        fences_digest="d",
    )
    assert [row["feature"] for row in rows] == ["frequency", "monetary", "recency"]
    for row in rows:
        q1, q3 = np.percentile([float(customer[row["feature"]]) for customer in customers], [25, 75])
        fences = [q1, q3, factor, q1 - factor * (q3 - q1), q3 + factor * (q3 - q1)]
        names = ("q1", "q3", "factor", "lower_fence", "upper_fence")
        assert [row[name] for name in names] == pytest.approx(fences, rel=1e-12)
        assert (row["fitted_as_of"], row["settings_digest"]) == (AS_OF, "d")


def test_outlier_fences_stand_only_for_the_features_of_the_settings(warehouse: Warehouse) -> None:
    given(warehouse, "rfm_features", *random_features(9))
    rows = derived(warehouse, "outlier_fences", factor=1.5, outlier_features=["monetary"], fences_digest="")
    assert [row["feature"] for row in rows] == ["monetary"]


def given_fences(warehouse: Warehouse, **fences: tuple[float, float]) -> None:
    rows = ({"feature": name, "lower_fence": low, "upper_fence": high} for name, (low, high) in fences.items())
    given(warehouse, "outlier_fences", *rows)


SIDES = ("monetary_side", "frequency_side", "recency_side")


def test_outlier_customers_are_beyond_a_fence_and_not_on_it(warehouse: Warehouse) -> None:
    given_fences(warehouse, monetary=(10, 100.5), frequency=(2, 5))
    customers = told(
        ("both high", 5, 6, 101), ("both low", 5, 1, "9.9999"), ("dormant", 5, 0, 500), ("high low", 5, 1, "100.5001"),
        ("inside", 999, 3, 50), ("on lower", 5, 2, 10), ("on upper", 5, 5, "100.5"), ("refunded", 5, 9, 0),
    )  # fmt: skip
    given(warehouse, "rfm_features", *customers)
    rows = derived(warehouse, "outlier_customers")
    assert only(rows, "customer_id", *SIDES) == [
        ("both high", "high", "high", None),
        ("both low", "low", "low", None),
        ("high low", "high", "low", None),
    ]
    assert only(rows[:1], "recency", "frequency", "monetary") == [(5, 6, 101)]


def test_outlier_customers_may_be_beyond_a_fence_of_recency(warehouse: Warehouse) -> None:
    given_fences(warehouse, recency=(1, 200))
    customers = told(("away", 201, 1, 5), ("edge", 200, 90, 900), ("first", 1, 1, 1), ("today", 0, 1, 5))
    given(warehouse, "rfm_features", *customers)
    rows = derived(warehouse, "outlier_customers")
    assert only(rows, "customer_id", *SIDES) == [("away", None, None, "high"), ("today", None, None, "low")]


def test_normal_customers_are_the_active_ones_that_are_no_outliers(warehouse: Warehouse) -> None:
    customers = told(("a", 1, 2, 30), ("dormant", 1, 0, 5), ("far", 1, 2, 900), ("refunded", 1, 2, 0), ("z", 4, 5, 60))
    given(warehouse, "rfm_features", *customers)
    given(warehouse, "outlier_customers", {"customer_id": "far", "monetary_side": "high"})
    rows = derived(warehouse, "normal_customers")
    assert [tuple(row.values()) for row in rows] == [("a", 1, 2, 30), ("z", 4, 5, 60)]


@pytest.mark.parametrize(
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
def test_outlier_segments_never_call_valuable_who_is_beyond_a_fence_of_less_value(
    warehouse: Warehouse, monetary: str | None, frequency: str | None, recency: str | None, segment: str
) -> None:
    row = {"customer_id": "x", "monetary_side": monetary, "frequency_side": frequency, "recency_side": recency}
    given(warehouse, "outlier_customers", row)
    assert derived(warehouse, "outlier_segments") == [{"customer_id": "x", "segment_key": segment}]


# kmeans_segments


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
    keys = [segment.key for segment in naming.SEGMENTS]
    scaled = [f"scaled_{name}" for name in FEATURES]
    given(
        warehouse,
        "kmeans_centroids",
        *(
            {"cluster": n, "segment_key": keys[n], **dict(zip(scaled, at, strict=True))}
            for n, at in enumerate(centroids)
        ),
    )


def test_kmeans_segments_give_the_nearest_centroid_and_both_distances(warehouse: Warehouse) -> None:
    """With spend 2 above its centre in units of 2, frequency 3 and recency 4 above: scaled (1, 3, 4)."""
    given_model(warehouse, [(1, 0, 0), (1, 3, 8), (90, 90, 90)], center=(10, 1, 20), scale=(2, 1, 1))
    given(warehouse, "normal_customers", *told_normal(("a", 24, 4, 12)))
    assert only(derived(warehouse, "kmeans_segments"), "customer_id", "cluster", "distance", "second_distance") == [
        ("a", 1, 4.0, 5.0)
    ]


def test_kmeans_segments_give_a_tie_to_the_lowest_segment_key(warehouse: Warehouse) -> None:
    given_model(warehouse, [(9, 9, 9), (2, 0, 0), (0, 0, 0)])
    given(warehouse, "normal_customers", *told_normal(("a", 0, 0, 1)))
    rows = derived(warehouse, "kmeans_segments")
    assert [naming.SEGMENTS[cluster].key for cluster in (1, 2)] == ["retain", "grow"]
    assert only(rows, "cluster", "segment_key", "distance", "second_distance") == [(2, "grow", 1.0, 1.0)]


def told_normal(*customers: tuple[str, int, int, float | str]) -> list[Row]:
    return [{name: row[name] for name in ("customer_id", *FEATURES)} for row in told(*customers)]


@pytest.mark.parametrize("exponent", [-1.5, 0.0, 0.5, 1.0, 2.0, 3.0])
def test_kmeans_segments_transform_as_yeo_and_johnson_do(warehouse: Warehouse, exponent: float) -> None:
    from scipy.stats import yeojohnson

    # Measured from far below, so that the distance tells the sign as well.
    given_model(warehouse, [(-1e4, 0, 0), (1e9, 0, 0)], "yeo-johnson", [exponent] * 3)
    given(warehouse, "normal_customers", *told_normal(("a", 0, 0, "12.34"), ("b", 0, 0, "-7.5"), ("c", 0, 0, 0)))
    found = [row["distance"] - 1e4 for row in derived(warehouse, "kmeans_segments")]
    assert found == pytest.approx(yeojohnson(np.array([12.34, -7.5, 0.0]), lmbda=exponent), rel=1e-9, abs=1e-9)


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


@pytest.mark.parametrize("transform", ["standard", "log", "yeo-johnson", "robust"])
def test_kmeans_segments_agree_with_scikit_learns_predict(warehouse: Warehouse, transform: kmeans.Transform) -> None:
    from sklearn.cluster import KMeans

    def table(customers: list[Row]) -> Any:
        return np.array([[float(row[name]) for name in FEATURES] for row in customers])

    fitted_on, scored = random_features(200, seed=1), random_features(300, seed=2)
    fitted = kmeans.fit(table(fitted_on), transform=transform, n_clusters=5, random_state=42)
    keys = [segment.key for segment in naming.name_clusters(fitted.standardised_)]
    settings = Retailer.model_validate(retailer_settings(SQL))
    assert not any(outcome.violations for outcome in warehouse.replace(model_rows(fitted, keys, AS_OF, settings), {}))
    given(warehouse, "normal_customers", *({k: row[k] for k in ("customer_id", *FEATURES)} for row in scored))
    rows = derived(warehouse, "kmeans_segments")

    scaled = scikit_scaled(transform, table(fitted_on), table(scored))
    model = KMeans(5, init=fitted.centroids_, n_init=1, max_iter=1).fit(fitted.centroids_)
    assert [row["cluster"] for row in rows] == model.predict(scaled).tolist()
    assert [row["segment_key"] for row in rows] == [keys[row["cluster"]] for row in rows]
    nearest, second, *_ = np.sort(model.transform(scaled), axis=1).T
    assert [row["distance"] for row in rows] == pytest.approx(nearest, rel=1e-6)
    assert [row["second_distance"] for row in rows] == pytest.approx(second, rel=1e-6)


# customer_segments, segment_profiles


def given_catalogue(warehouse: Warehouse) -> None:
    rows = [(item.key, item.name, item.customer_group, item.description, item.action) for item in naming.SEGMENTS]
    warehouse.replace([Filling("segments", rows=rows)], {})


def test_customer_segments_hold_normal_outlier_and_inactive_customers_once(warehouse: Warehouse) -> None:
    given_catalogue(warehouse)
    given(warehouse, "rfm_features", *told(("gone", 90, 0, 0), ("usual", 3, 2, 20), ("vip", 1, 50, 9000)))
    given(
        warehouse,
        "rfm_scores",
        *(
            {"customer_id": who, "recency_score": n, "frequency_score": n, "monetary_score": n, "rfm_segment": segment}
            for who, n, segment in (("gone", 1, "Lost"), ("usual", 3, "Need Attention"), ("vip", 5, "Champions"))
        ),
    )
    given(warehouse, "kmeans_segments", {"customer_id": "usual", "segment_key": "retain"})
    given(warehouse, "outlier_segments", {"customer_id": "vip", "segment_key": "delight"})
    given(warehouse, "inactive_customers", {"customer_id": "gone", "segment_key": "dormant"})
    given(warehouse, "kmeans_model", {"model_id": "m1"})
    rows = derived(warehouse, "customer_segments", slipping_factor=2.0)
    names = ("customer_id", "segment", "segment_key", "nearest_segment", "customer_group", "rfm_segment", "model_id")
    assert only(rows, *names) == [
        ("gone", "DORMANT", "dormant", "DORMANT", "inactive", "Lost", "m1"),
        ("usual", "RETAIN", "retain", "RETAIN", "normal", "Need Attention", "m1"),
        ("vip", "DELIGHT", "delight", "DELIGHT", "outlier", "Champions", "m1"),
    ]
    assert only(rows, "recency", "frequency", "monetary", *SCORES, "as_of") == [
        (90, 0, 0, 1, 1, 1, AS_OF),
        (3, 2, 20, 3, 3, 3, AS_OF),
        (1, 50, 9000, 5, 5, 5, AS_OF),
    ]
    actions = {item.key: item.action for item in naming.SEGMENTS}
    assert [row["action"] for row in rows] == [actions[row["segment_key"]] for row in rows]


@pytest.mark.parametrize(
    ("recency", "expected_gap", "factor", "is_slipping"),
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
    warehouse: Warehouse, recency: int, expected_gap: float | None, factor: float, is_slipping: bool | None
) -> None:
    """Against the customer's own rhythm: three weeks are nothing for one, and long for another."""
    given_catalogue(warehouse)
    given(warehouse, "rfm_features", {"customer_id": "a", "recency": recency, "expected_gap": expected_gap})
    scores = dict.fromkeys(SCORES, 3)
    given(warehouse, "rfm_scores", {"customer_id": "a", "rfm_segment": "Need Attention", **scores})
    given(warehouse, "kmeans_segments", {"customer_id": "a", "segment_key": "retain"})
    for table in ("outlier_segments", "inactive_customers"):
        given(warehouse, table)
    given(warehouse, "kmeans_model", {"model_id": "m1"})
    [row] = derived(warehouse, "customer_segments", slipping_factor=factor)
    assert row["is_slipping"] is is_slipping


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
    catalogue = {item.key: item for item in naming.SEGMENTS}
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
    catalogue = {item.key: item for item in naming.SEGMENTS}
    names = ("customer_id", "segment_key", "monetary", "recency", "is_slipping")
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
    risk = ("slipping_customers", "revenue_at_risk", "revenue_at_risk_share", "mean_recency", "top_10_share")
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
