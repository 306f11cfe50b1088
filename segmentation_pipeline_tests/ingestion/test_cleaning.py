"""The first rule that a line fails rejects it, and no line or penny is lost."""

import gc
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.ingestion import cleaning
from segmentation_pipeline.ingestion.discovery import source_files
from segmentation_pipeline.ingestion.staging import read_lines
from segmentation_pipeline.tables.catalog import check_select, select_of
from segmentation_pipeline.warehouse.database import Warehouse
from segmentation_pipeline.warehouse.table_write import TableWrite
from segmentation_pipeline_tests.scenarios import HEADER, Line, examples, line, retailer_settings, write_csv

CLEANED = ("clean_transactions", "rejected_transactions", "cleaning_report", "unparsed_values")
RECONCILE = check_select("lines_and_money_reconcile")


@pytest.fixture(scope="module", autouse=True)
def callbacks() -> Iterator[None]:
    """Remove the callback that Hypothesis adds to the garbage collector, which keeps DuckDB open at exit."""
    before = gc.callbacks.copy()
    yield
    gc.callbacks[:] = before


def shop(cleaning: dict[str, Any] | None = None, **sections: Any) -> Retailer:
    """Return a retailer like Online Retail with its files in the folder `in`."""
    made = retailer_settings(Path("in"), **sections)
    made["cleaning"] |= cleaning or {}
    return Retailer.model_validate(made)


@cache
def working_database() -> Warehouse:
    """Return the working database of all tests: opening one takes longer than cleaning a few lines."""
    return Warehouse(duckdb.connect(config={"threads": 1}))


@pytest.fixture(scope="module", autouse=True)
def closed() -> Iterator[None]:
    """Close the working database at the end."""
    yield
    working_database().connection.close()
    working_database.cache_clear()


def cleaned(retailer: Retailer, base: Path) -> Warehouse:
    """Return the working database with the tables of the cleaning, in which lines and money reconcile."""
    warehouse = working_database()
    for table in ("raw_transactions", *CLEANED):
        warehouse.drop(table)
    with read_lines(warehouse.connection, retailer, source_files(retailer.source, base), base / "spill") as lines:
        raw = [TableWrite("raw_transactions", "select * from staged_lines")]
        results = warehouse.write(raw, retailer.sql_values, lines)
    for table in CLEANED:
        results += warehouse.write(
            [TableWrite(table, select_of(table))], retailer.sql_values, cleaning.query_inputs(retailer)
        )
    assert {result.table: result.violations for result in results if result.violations} == {}
    assert warehouse.rows(RECONCILE) == []
    return warehouse


def run(tmp_path: Path, lines: Sequence[Line], retailer: Retailer | None = None) -> Warehouse:
    write_csv(tmp_path / "in" / "a.csv", lines)
    return cleaned(retailer or shop(), tmp_path)


def rejected(warehouse: Warehouse, column: str = "invoice") -> dict[str, list[Any]]:
    """Return the values of a column of the rejected lines, by rule."""
    found: dict[str, list[Any]] = {}
    for row in warehouse.rows(
        f"select rule, {column} as value from rejected_transactions order by source_file, source_line"
    ):
        found.setdefault(row["rule"], []).append(row["value"])
    return found


def kept(warehouse: Warehouse, column: str = "invoice") -> list[Any]:
    rows = warehouse.rows(f"select {column} as value from clean_transactions order by source_file, source_line")
    return [row["value"] for row in rows]


def only_rule(**rule: Any) -> dict[str, Any]:
    return {"rules": [{"name": "own", "reason": "because", **rule}]}


# -- rules


def test_rules_reject_what_they_name(tmp_path: Path) -> None:
    warehouse = run(
        tmp_path,
        [
            line("536365"),
            line("536366", price="free"),
            line("A563185"),
            line("536367", stock_code="POST"),
            line("536368", customer=""),
            line("536369", price="0"),
            line("536370", price="-2.50"),
            line("C536371", quantity="-1"),
        ],
    )
    assert kept(warehouse) == ["536365", "C536371"]
    assert rejected(warehouse) == {
        "unparseable_value": ["536366"],
        "invalid_invoice": ["A563185"],
        "not_a_product": ["536367"],
        "missing_customer": ["536368"],
        "price_not_positive": ["536369", "536370"],
    }
    reasons = warehouse.rows("select distinct rule, reason from rejected_transactions where rule = 'not_a_product'")
    assert reasons == [{"rule": "not_a_product", "reason": "a fee"}]


@pytest.mark.parametrize(
    ("rule", "passing"),
    [
        ({"column": "stock_code", "matches": "^[0-9]+$"}, ["71053"]),
        ({"column": "stock_code", "matches": "0"}, ["71053", "POST0"]),
        ({"column": "stock_code", "required": True}, ["85123A", "71053", "POST0", "$&'"]),
        ({"column": "stock_code", "in": ["71053", "$&'", "none"]}, ["71053", "$&'"]),
        ({"column": "stock_code", "in": ["71053", ""]}, ["71053", None]),
        ({"column": "stock_code", "not_in": ["71053", "$&'", "post0"]}, ["85123A", "POST0", None]),
        ({"column": "stock_code", "not_in": ["71053", ""]}, ["85123A", "POST0", "$&'"]),
        ({"column": "stock_code", "not_matches": "^POST|A$"}, ["71053", "$&'", None]),
        ({"column": "stock_code", "above": 71052}, ["71053"]),
        ({"column": "stock_code", "below": 71053.5}, ["71053"]),
        ({"column": "price", "below": 2.5}, ["$&'"]),
        ({"column": "quantity", "below": 2}, ["POST0"]),
        ({"column": "price", "above": 2.5}, ["71053", None]),
        ({"column": "price", "above": -1}, ["85123A", "71053", "POST0", None]),
        ({"column": "quantity", "above": 1}, ["85123A", "71053", "$&'", None]),
        ({"column": "transaction_at", "required": True}, ["85123A", "71053", "POST0", "$&'", None]),
    ],
)
def test_rule_keeps_lines_that_pass_its_test(tmp_path: Path, rule: dict[str, Any], passing: list[str | None]) -> None:
    lines = [
        line("1", stock_code="85123A", price="2.50", quantity="2"),
        line("2", stock_code="71053", price="2.51", quantity="2"),
        line("3", stock_code="POST0", price="2.50", quantity="1"),
        line("4", stock_code="$&'", price="-1", quantity="2"),
        line("5", stock_code=" ", price="100", quantity="2"),
    ]
    warehouse = run(tmp_path, lines, shop({"cancellation": "^C", **only_rule(**rule)}))
    assert kept(warehouse, "stock_code") == passing
    assert set(rejected(warehouse)) <= {"own"}


def test_rule_may_test_the_amount_of_the_source(tmp_path: Path) -> None:
    made = retailer_settings(Path("in")) | {"cleaning": only_rule(column="amount", above=5)}
    made["columns"] = {"transaction_at": "at", "customer_id": "who", "amount": "money"}
    lines = [("2024-03-01", "1", money) for money in ("5", "5.0001", "-5.01", "6")]
    write_csv(tmp_path / "in" / "a.csv", lines, ("at", "who", "money"))
    warehouse = cleaned(Retailer.model_validate(made), tmp_path)
    assert kept(warehouse, "amount") == [Decimal("5.0001"), Decimal(6)]
    assert rejected(warehouse, "amount") == {"own": [Decimal(5), Decimal("-5.01")]}


def test_first_failing_rule_rejects_the_line(tmp_path: Path) -> None:
    everything_wrong = line("A1", stock_code="POST", customer="", price="0")
    rules = retailer_settings(tmp_path)["cleaning"]["rules"]
    assert rejected(run(tmp_path, [everything_wrong, line()])) == {"invalid_invoice": ["A1"]}
    backwards = shop({"rules": rules[::-1]})
    assert rejected(run(tmp_path, [everything_wrong, line()], backwards)) == {"price_not_positive": ["A1"]}
    malformed = line("A1", stock_code="POST", customer="", price="0", at="soon")
    assert rejected(run(tmp_path, [malformed, line()])) == {"unparseable_value": ["A1"]}


def test_customer_and_invoice_are_always_required(tmp_path: Path) -> None:
    lines = [line("1"), line("2", customer=""), line("", customer="7")]
    warehouse = run(tmp_path, lines, shop({"rules": []}))
    assert kept(warehouse) == ["1"]
    assert rejected(warehouse, "source_line") == {"missing_customer": [3], "missing_invoice": [4]}


@pytest.mark.parametrize("test", [{"not_in": ["9"]}, {"not_matches": "9"}, {"in": ["", "7", "1", "17850"]}])
@pytest.mark.parametrize("column", ["customer_id", "invoice"])
def test_rule_that_accepts_empty_values_leaves_them_to_the_pipeline(
    tmp_path: Path, column: str, test: dict[str, Any]
) -> None:
    lines = [line("1"), line("1", customer=""), line("", customer="7"), line("9", customer="9")]
    warehouse = run(tmp_path, lines, shop(only_rule(column=column, **test)))
    assert kept(warehouse) == ["1"]
    missing = {"missing_customer": [3], "missing_invoice": [4]}
    assert rejected(warehouse, "source_line") == {"own": [5], **missing}


def test_refund_without_invoice_fails_a_rule_on_invoices(tmp_path: Path) -> None:
    made = retailer_settings(Path("in"))
    made["cleaning"] = only_rule(column="invoice", matches="^[0-9]+$")
    lines = [line("1"), line("", quantity="-1"), line("R2", quantity="-1"), line("R3")]
    warehouse = run(tmp_path, lines, Retailer.model_validate(made))
    assert kept(warehouse) == ["1", "R2"]
    assert rejected(warehouse) == {"own": [None, "R3"]}


def test_own_rule_replaces_the_rule_for_missing_customers(tmp_path: Path) -> None:
    own = {"name": "missing_customer", "reason": "a guest", "column": "customer_id", "matches": "^[0-9]+$"}
    warehouse = run(tmp_path, [line("1"), line("2", customer=""), line("3", customer="guest")], shop({"rules": [own]}))
    assert rejected(warehouse) == {"missing_customer": ["2", "3"]}
    assert warehouse.rows("select rule, lines from cleaning_report order by step") == [
        {"rule": "read", "lines": 3},
        {"rule": "totals_line", "lines": 0},
        {"rule": "unparseable_value", "lines": 0},
        {"rule": "missing_customer", "lines": 2},
        {"rule": "missing_invoice", "lines": 0},
        {"rule": "positive_cancellation", "lines": 0},
    ]


def test_identifiers_read_as_numbers_are_the_same(tmp_path: Path) -> None:
    lines = [
        line(f"{number}.0", stock_code="71053.0", customer=who) for number, who in enumerate(["7", "7.0", " 7.00 "])
    ]
    warehouse = run(tmp_path, lines, shop({"rules": []}))
    assert set(kept(warehouse, "customer_id || '/' || stock_code")) == {"7/71053"}
    assert kept(warehouse) == ["0", "1", "2"]


# -- refunds


REFUNDED = [line("536365", quantity="3"), line("C536366", quantity="-1", price="2.50"), line("C1", quantity="-1")]


def test_refunds_are_net_by_default(tmp_path: Path) -> None:
    warehouse = run(tmp_path, REFUNDED)
    assert warehouse.rows("select invoice, amount, is_cancellation from clean_transactions order by source_line") == [
        {"invoice": "536365", "amount": Decimal("7.5"), "is_cancellation": False},
        {"invoice": "C536366", "amount": Decimal("-2.5"), "is_cancellation": True},
    ]
    assert rejected(warehouse) == {"invalid_invoice": ["C1"]}


def test_ignored_refunds_are_rejected_by_their_own_rule(tmp_path: Path) -> None:
    warehouse = run(tmp_path, REFUNDED, shop({"refunds": "ignore"}))
    assert kept(warehouse) == ["536365"]
    assert rejected(warehouse) == {"cancellation": ["C536366"], "invalid_invoice": ["C1"]}


@pytest.mark.parametrize(("refunds", "rejections"), [("net", {}), ("ignore", {"cancellation": ["2", "3"]})])
def test_negative_money_is_a_refund_without_a_pattern(
    tmp_path: Path, refunds: str, rejections: dict[str, list[str]]
) -> None:
    made = retailer_settings(Path("in"))
    made["cleaning"] = {"refunds": refunds, "rules": []}
    lines = [line("1"), line("2", quantity="-1"), line("3", price="-1"), line("4", quantity="0")]
    warehouse = run(tmp_path, lines, Retailer.model_validate(made))
    assert rejected(warehouse) == rejections
    cancelled = warehouse.rows("select invoice from clean_transactions where is_cancellation order by invoice")
    assert cancelled == ([] if rejections else [{"invoice": "2"}, {"invoice": "3"}])


def features_of(warehouse: Warehouse, retailer: Retailer) -> dict[str, dict[str, Any]]:
    for table in ("invoice_totals", "customer_totals", "inter_purchase_times", "rfm_features"):
        [result] = warehouse.write([TableWrite(table, select_of(table))], retailer.sql_values)
        assert not result.violations
    rows = warehouse.rows(
        "select customer_id, recency, frequency, monetary, refunds, last_purchase_at from rfm_features"
    )
    return {row.pop("customer_id"): row for row in rows}


def test_refund_lowers_monetary_but_not_frequency_or_recency(tmp_path: Path) -> None:
    lines = [
        line("500001", at="2024-03-01 10:00:00", quantity="4", price="2.50", customer="1"),
        line("C500002", at="2024-03-08 10:00:00", quantity="-1", price="2.50", customer="1"),
        line("C500003", at="2024-03-10 10:00:00", quantity="-1", price="2.00", customer="2"),
        line("500004", at="2024-03-11 10:00:00", customer="3"),
    ]
    retailer = shop()
    found = features_of(run(tmp_path, lines, retailer), retailer)
    assert found["1"] | {"last_purchase_at": None} == {
        "recency": 10,
        "frequency": 1,
        "monetary": Decimal("7.5"),
        "refunds": Decimal("2.5"),
        "last_purchase_at": None,
    }
    assert found["2"] == {
        "recency": 1,
        "frequency": 0,
        "monetary": Decimal(-2),
        "refunds": Decimal(2),
        "last_purchase_at": None,
    }


def test_negative_money_on_an_invoice_is_no_purchase(tmp_path: Path) -> None:
    lines = [
        line("500001", at="2024-03-01 10:00:00", quantity="60", price="9.00", customer="1"),
        line("500002", at="2024-03-11 10:00:00", quantity="-50", price="9.00", customer="1"),
        # A discount on an invoice with a purchase.
        line("500003", at="2024-03-11 10:00:00", quantity="10", price="2.00", customer="2"),
        line("500003", at="2024-03-11 10:00:00", quantity="-1", price="5.00", customer="2"),
    ]
    retailer = shop()
    warehouse = run(tmp_path, lines, retailer)
    assert rejected(warehouse) == {}
    found = features_of(warehouse, retailer)
    assert found["1"] == {
        "recency": 10,
        "frequency": 1,
        "monetary": Decimal(90),
        "refunds": Decimal(450),
        "last_purchase_at": datetime.fromisoformat("2024-03-01 10:00:00"),
    }
    assert found["2"] == {
        "recency": 0,
        "frequency": 1,
        "monetary": Decimal(15),
        "refunds": Decimal(5),
        "last_purchase_at": datetime.fromisoformat("2024-03-11 10:00:00"),
    }


def test_ignored_refunds_never_lower_monetary(tmp_path: Path) -> None:
    lines = [
        line("500001", quantity="60", price="9.00", customer="1"),
        line("500002", quantity="-50", price="9.00", customer="1"),
        line("C500003", quantity="-1", price="9.00", customer="1"),
        line("A500004", quantity="-1", price="9.00", customer="1"),
    ]
    retailer = shop({"refunds": "ignore"})
    warehouse = run(tmp_path, lines, retailer)
    assert rejected(warehouse) == {
        "cancellation": ["C500003"],
        "invalid_invoice": ["A500004"],
        "negative_money": ["500002"],
    }
    found = features_of(warehouse, retailer)["1"]
    assert (found["frequency"], found["monetary"], found["refunds"]) == (1, Decimal(540), Decimal(0))


@pytest.mark.parametrize(("refunds", "rule"), [("net", "positive_cancellation"), ("ignore", "cancellation")])
def test_cancellation_with_positive_money_is_rejected(tmp_path: Path, refunds: str, rule: str) -> None:
    lines = [
        line("500001", quantity="1", price="9.00", customer="1"),
        line("C500002", quantity="3", price="9.00", customer="1"),
    ]
    retailer = shop({"refunds": refunds})
    warehouse = run(tmp_path, lines, retailer)
    report = warehouse.rows("select rule, lines, customers, amount from cleaning_report where step > 0 and lines > 0")
    assert report == [{"rule": rule, "lines": 1, "customers": 1, "amount": Decimal(27)}]
    found = features_of(warehouse, retailer)["1"]
    assert (found["frequency"], found["monetary"], found["refunds"]) == (1, Decimal(9), Decimal(0))


def test_cancellation_without_money_changes_nothing(tmp_path: Path) -> None:
    retailer = shop({"rules": []})
    warehouse = run(tmp_path, [line("500001", customer="1"), line("C500002", price="0", customer="1")], retailer)
    assert rejected(warehouse) == {}
    found = features_of(warehouse, retailer)["1"]
    assert (found["frequency"], found["monetary"], found["refunds"]) == (1, Decimal(5), Decimal(0))


# -- sources that overlap


def in_files(base: Path, files: Mapping[str, Sequence[Line]], *, overlap: bool) -> Warehouse:
    for name, lines in files.items():
        write_csv(base / "in" / name, lines)
    return cleaned(shop({"sources_overlap": overlap}), base)


ONE, OTHER = line("500001"), line("500002")


def test_equal_lines_are_kept_without_overlap(tmp_path: Path) -> None:
    warehouse = in_files(tmp_path, {"a.csv": [ONE, ONE], "b.csv": [ONE]}, overlap=False)
    assert kept(warehouse) == ["500001"] * 3
    assert "exact_duplicate" not in [rule.name for rule in cleaning.rejection_rules(shop())]


def test_equal_lines_of_one_file_are_separate_purchases(tmp_path: Path) -> None:
    warehouse = in_files(tmp_path, {"a.csv": [ONE, ONE, OTHER]}, overlap=True)
    assert kept(warehouse) == ["500001", "500001", "500002"]


def test_line_in_two_files_counts_once(tmp_path: Path) -> None:
    warehouse = in_files(tmp_path, {"a.csv": [ONE], "b.csv": [OTHER, ONE], "c.csv": [ONE]}, overlap=True)
    assert kept(warehouse, "source_file || ':' || invoice") == ["a.csv:500001", "b.csv:500002"]
    assert rejected(warehouse, "source_file") == {"exact_duplicate": ["b.csv", "c.csv"]}


@pytest.mark.parametrize(("first", "second", "counted"), [(2, 2, 2), (2, 1, 2), (1, 3, 3), (0, 2, 2)])
def test_nth_equal_line_copies_only_the_nth(tmp_path: Path, first: int, second: int, counted: int) -> None:
    files = {"a.csv": [ONE] * first + [OTHER], "b.csv": [ONE] * second}
    assert kept(in_files(tmp_path, files, overlap=True)).count("500001") == counted


def test_copy_is_equal_in_every_column(tmp_path: Path) -> None:
    others = [line("500001", description="LAMP"), line("500001", quantity="3"), line("500001", customer="8")]
    others += [line("500001", at="2024-03-01 10:00:01"), line("500001", country="EIRE"), line("500001", price="2.51")]
    warehouse = in_files(tmp_path, {"a.csv": [ONE], "b.csv": others}, overlap=True)
    assert len(kept(warehouse)) == 7


def test_rejected_copies_keep_their_first_rule(tmp_path: Path) -> None:
    fee, malformed = line("500001", stock_code="POST"), line("500001", at="soon")
    warehouse = in_files(tmp_path, {"a.csv": [ONE, fee, malformed], "b.csv": [fee, malformed]}, overlap=True)
    assert rejected(warehouse, "source_file") == {
        "not_a_product": ["a.csv", "b.csv"],
        "unparseable_value": ["a.csv", "b.csv"],
    }


# -- the as-of date


@pytest.mark.parametrize(
    ("as_of", "counted"),
    [
        ("last_transaction", ["1", "2", "3", "4"]),
        ("2024-03-01", ["1", "2"]),
        ("2024-03-02", ["1", "2", "3", "4"]),
        ("2024-03-02 00:00:00", ["1", "2", "3"]),
        ("2024-03-01 23:59:58", ["1"]),
    ],
)
def test_lines_after_as_of_do_not_count(tmp_path: Path, as_of: str, counted: list[str]) -> None:
    timestamps = ["2024-03-01 10:00:00", "2024-03-01 23:59:59", "2024-03-02 00:00:00", "2024-03-02 00:00:00.000001"]
    lines = [line(str(number), at=at) for number, at in enumerate(timestamps, 1)]
    warehouse = run(tmp_path, lines, shop({"rules": []}, rfm={"as_of": as_of}))
    assert kept(warehouse) == counted
    assert rejected(warehouse).get("after_as_of", []) == [str(n) for n in range(1, 5) if str(n) not in counted]


# -- columns that a source lacks


def test_without_invoices_a_purchase_is_one_day(tmp_path: Path) -> None:
    columns = {"transaction_at": "at", "customer_id": "who", "amount": "money"}
    made = retailer_settings(Path("in")) | {"columns": columns, "cleaning": {}}
    retailer = Retailer.model_validate(made)
    lines = [
        ("2024-03-01 09:00", "7.0", "1.50"),
        ("2024-03-01 18:00", "7", "2.50"),
        ("2024-03-02 00:00", "7", "1"),
        ("2024-03-01 09:00", "8", "-4"),
        ("2024-03-01 10:00", "", "5"),
        ("never", "8", "5"),
    ]
    write_csv(tmp_path / "in" / "a.csv", lines, ("at", "who", "money"))
    warehouse = cleaned(retailer, tmp_path)
    assert kept(warehouse) == ["7@2024-03-01", "7@2024-03-01", "7@2024-03-02", "8@2024-03-01"]
    assert rejected(warehouse, "source_line") == {"missing_customer": [6], "unparseable_value": [7]}
    found = features_of(warehouse, retailer)
    assert {who: (row["frequency"], row["monetary"]) for who, row in found.items()} == {
        "7": (2, Decimal(5)),
        "8": (0, Decimal(-4)),
    }


# -- the report


def test_report_shows_each_step_of_the_funnel(tmp_path: Path) -> None:
    write_csv(
        tmp_path / "in" / "a.csv",
        [
            line("500001", customer="1", quantity="4", price="2.50"),
            line("500002", customer="2", quantity="1", price="1.25"),
            line("C50000", customer="2", quantity="-1", price="1.00"),
            line("500003", customer="1", stock_code="POST", price="18.00", quantity="1"),
            line("500004", customer="3", stock_code="D", price="-0.01", quantity="1"),
            line("500005", customer="", price="7.00", quantity="1"),
            line("500006", customer="1", price="0.00", quantity="9"),
            line("500007", customer="4", price="n/a"),
            ("malformed",),
        ],
    )
    write_csv(tmp_path / "in" / "b.csv", [line("500002", customer="2", quantity="1", price="1.25")])
    warehouse = cleaned(shop({"sources_overlap": True}), tmp_path)
    rows = warehouse.rows("select * from cleaning_report order by step")
    shown = ("rule", "lines", "customers", "amount", "lines_left", "amount_left")
    assert [tuple(row[name] for name in shown) for row in rows] == [
        ("read", 10, 4, Decimal("36.49"), 10, Decimal("36.49")),
        ("totals_line", 0, 0, Decimal(0), 10, Decimal("36.49")),
        ("unparseable_value", 2, 1, None, 8, Decimal("36.49")),
        ("invalid_invoice", 1, 1, Decimal("-1"), 7, Decimal("37.49")),
        ("not_a_product", 2, 2, Decimal("17.99"), 5, Decimal("19.50")),
        ("missing_customer", 1, 0, Decimal("7"), 4, Decimal("12.50")),
        ("price_not_positive", 1, 1, Decimal(0), 3, Decimal("12.50")),
        ("positive_cancellation", 0, 0, Decimal(0), 3, Decimal("12.50")),
        ("exact_duplicate", 1, 1, Decimal("1.25"), 2, Decimal("11.25")),
    ]
    assert [row["step"] for row in rows] == [*range(9)]
    assert [row["share"] for row in rows] == [1.0, 0.0, 0.2, 0.1, 0.2, 0.1, 0.1, 0.0, 0.1]
    assert rows[-1]["lines_left"] == warehouse.count("clean_transactions")
    assert rows[4]["reason"] == "a fee"


def test_report_lists_rules_that_reject_nothing(tmp_path: Path) -> None:
    retailer = shop({"refunds": "ignore", "sources_overlap": True}, rfm={"as_of": "2024-12-31"})
    rows = run(tmp_path, [line()], retailer).rows("select rule, lines from cleaning_report order by step")
    assert [row["rule"] for row in rows] == [
        "read",
        "after_as_of",
        "totals_line",
        "unparseable_value",
        "cancellation",
        "invalid_invoice",
        "not_a_product",
        "missing_customer",
        "price_not_positive",
        "negative_money",
        "exact_duplicate",
    ]
    assert [row["lines"] for row in rows] == [1] + [0] * 10


# -- any lines


TIMESTAMPS = ["2024-03-01 10:00:00", "2024-03-02 23:59:59", "2024-03-03 00:00:00", "2024-02-30 10:00:00"]
LINES = st.builds(
    line,
    invoice=st.sampled_from(["500001", "500002", "C500001", "A1", ""]),
    stock_code=st.sampled_from(["85123A", "POST", ""]),
    description=st.sampled_from(["LANTERN", 'A "BIG", ONE', "TWO\nLINES", ""]),
    quantity=st.sampled_from(["2", "-1", "0", "1.5", "two"]),
    at=st.sampled_from(TIMESTAMPS),
    price=st.sampled_from(["2.50", "0.0001", "0", "-11062.06", ""]),
    customer=st.sampled_from(["7", "7.0", "8", ""]),
    country=st.sampled_from(["EIRE", ""]),
)
FILES = st.lists(st.lists(LINES | st.just(("malformed", "line")), max_size=8), min_size=1, max_size=3)


def money(sold: Sequence[str]) -> Decimal:
    """Return the money of a line, to a hundredth of a penny."""
    if len(sold) != len(HEADER) or sold[3] == "two" or not sold[5]:
        return Decimal(0)
    return (Decimal(sold[3]) * Decimal(sold[5])).quantize(Decimal("0.0001"), ROUND_HALF_UP)


def expected_rule(sold: Sequence[str], *, ignore: bool) -> str | None:
    """Return the rule that rejects a line, without looking at copies."""
    if len(sold) == len(HEADER) and sold[4] == TIMESTAMPS[2]:
        return "after_as_of"
    if len(sold) != len(HEADER) or sold[3] == "two" or sold[4] == TIMESTAMPS[-1] or not sold[5]:
        return "unparseable_value"
    invoice, code, _, _, _, price, customer, _ = sold
    if ignore and invoice == "C500001":
        return "cancellation"
    if invoice not in ("500001", "500002", "C500001"):
        return "invalid_invoice"
    if code != "85123A":
        return "not_a_product"
    if not customer:
        return "missing_customer"
    if Decimal(price) <= 0:
        return "price_not_positive"
    if ignore and money(sold) < 0:
        return "negative_money"
    if invoice == "C500001" and money(sold) > 0:
        return "positive_cancellation"
    return None


def expected_rules(files: Sequence[Sequence[Line]], *, ignore: bool, overlap: bool) -> Counter[str | None]:
    """Return the number of lines that each rule rejects; None is the key of those that none rejects."""
    found: Counter[str | None] = Counter()
    before: Counter[tuple[str, ...]] = Counter()
    for lines in files:
        here: Counter[tuple[str, ...]] = Counter()
        for each in lines:
            rule = expected_rule(each, ignore=ignore)
            same = (*each[:6], each[6].removesuffix(".0"), *each[7:]) if rule is None else each
            here[same] += 1
            is_copy = overlap and here[same] <= before[same]
            found["exact_duplicate" if rule is None and is_copy else rule] += 1
        before |= here
    return found


@settings(max_examples=examples(4), deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(files=FILES, ignore=st.booleans(), overlap=st.booleans(), shuffle=st.randoms(use_true_random=False))
def test_any_lines_reconcile_to_the_penny_in_any_order(
    files: list[list[Line]], ignore: bool, overlap: bool, shuffle: Any
) -> None:
    files = [[line("500001")], *files]
    seen = []
    retailer = shop({"refunds": "ignore" if ignore else "net", "sources_overlap": overlap}, rfm={"as_of": "2024-03-02"})
    for _ in range(2):
        with TemporaryDirectory() as folder:
            for number, lines in enumerate(files):
                write_csv(Path(folder) / "in" / f"{number}.csv", lines)
            warehouse = cleaned(retailer, Path(folder))
        select = "select * exclude (source_line) from clean_transactions order by all"
        counted = warehouse.connection.execute(select).fetchall()
        by_rule = warehouse.rows("select rule, count(*) as lines from rejected_transactions group by rule")
        rejections = {row["rule"]: row["lines"] for row in by_rule}
        seen.append((counted, rejections))
        lines_in = [each for lines in files for each in lines]
        assert warehouse.count("raw_transactions") == len(lines_in)
        read = [money(each) for each in lines_in]
        assert warehouse.row("select sum(amount) as money from raw_transactions")["money"] == sum(read)
        assert rejections | {None: len(counted)} == expected_rules(files, ignore=ignore, overlap=overlap)
        for lines in files:
            shuffle.shuffle(lines)
    assert seen[0] == seen[1]
