"""The SELECTs of the stages ingestion and cleaning: input rows and expected rows."""

import json
from decimal import Decimal
from pathlib import Path

from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.ingestion.discovery import source_files
from segmentation_pipeline.ingestion.staging import read_lines
from segmentation_pipeline.warehouse.database import Warehouse
from segmentation_pipeline.warehouse.table_write import TableWrite
from segmentation_pipeline_tests.scenarios import line, retailer_settings, write_csv
from segmentation_pipeline_tests.tables.derivation import AS_OF, Row, columns_of, derive, sales, store, timestamp


def test_raw_transactions_parses_text_and_keeps_what_it_cannot_parse(warehouse: Warehouse, tmp_path: Path) -> None:
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
        [result] = warehouse.write([TableWrite("raw_transactions", "select * from staged_lines")], {}, lines)
    assert result.violations == ()
    whole, odd = warehouse.rows("select * from raw_transactions order by source_line")
    names = ("source_file", "source_line", "invoice", "stock_code", "description", "customer_id", "country", "unparsed")
    assert columns_of([whole], *names) == [("a.csv", 2, "536365", "85123A", " A  LANTERN ", "17850", "France", None)]
    assert columns_of([whole, odd], "quantity", "price", "amount", "transaction_at") == [
        (3, Decimal("2.55"), Decimal("7.65"), timestamp("2010-12-01 08:26:00")),
        (None, Decimal("2.55"), None, None),
    ]
    assert ("three" in odd["unparsed"], "yesterday" in odd["unparsed"]) == (True, True)


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


def store_raw_lines(warehouse: Warehouse) -> None:
    lines = [("a", 10), ("nobody", 100), ("b", 100), ("a", -4), ("nobody", 1), ("c", None), (None, 7)]
    rows: list[Row] = [
        {"source_line": number, "customer_id": who, "amount": amount, "invoice": "1", "transaction_at": AS_OF}
        for number, (who, amount) in enumerate(lines, 1)
    ]
    store(warehouse, "raw_transactions", *rows)


def test_clean_transactions_holds_the_lines_that_no_rule_rejects(warehouse: Warehouse) -> None:
    store_raw_lines(warehouse)
    judged = JUDGED + "where customer_id is not null and amount is not null"
    rows = derive(warehouse, "clean_transactions", {"judged_transactions": judged})
    assert columns_of(rows, "source_line", "amount", "is_cancellation") == [(1, 10, False), (4, -4, True)]


def test_rejected_transactions_names_the_first_rule_that_rejects_a_line(warehouse: Warehouse) -> None:
    store_raw_lines(warehouse)
    rows = derive(warehouse, "rejected_transactions", {"judged_transactions": JUDGED, "cleaning_rules": RULES})
    assert columns_of(rows, "source_line", "customer_id", "rule", "reason") == [
        (2, "nobody", "nobody", "is nobody"),
        (3, "b", "dear", "too dear"),
        (5, "nobody", "nobody", "is nobody"),
    ]


def test_cleaning_report_counts_what_each_rule_rejects_and_leaves(warehouse: Warehouse) -> None:
    store_raw_lines(warehouse)
    derive(warehouse, "rejected_transactions", {"judged_transactions": JUDGED, "cleaning_rules": RULES})
    rows = derive(warehouse, "cleaning_report", {"cleaning_rules": RULES})
    names = ("step", "rule", "lines", "share", "customers", "amount", "lines_left", "amount_left")
    assert columns_of(rows, *names) == [
        (0, "read", 7, 1.0, 4, 214, 7, 214),
        (1, "nobody", 2, 2 / 7, 1, 101, 5, 113),
        (2, "idle", 0, 0.0, 0, 0, 5, 113),
        (3, "dear", 1, 1 / 7, 1, 100, 4, 13),
    ]


def test_invoice_totals_adds_up_purchases_apart_from_refunds(warehouse: Warehouse) -> None:
    """Money paid back on an ordinary invoice is a refund, a free line is part of a purchase."""
    at = "2024-01-10 10:00:00"
    lines = [
        *sales(("a", "1", "P1", at, 10), ("a", "1", "P2", at, 0), ("a", "1", "P3", at, -4), ("a", "C2", "P1", at, 3)),
        *sales(("a", "1", "P1", at, 5), source_line=9, country=None),
        *sales(("a", "3", "P1", at, 1), ("a", "3", "P2", at, 2), source_file="query/2024-01"),
    ]
    lines[-2]["source_sheet"], lines[-1]["source_sheet"] = "key 1", "key 2"
    store(warehouse, "clean_transactions", *lines)
    rows = derive(warehouse, "invoice_totals")
    assert sorted(columns_of(rows, "source_file", "invoice", "country", "is_purchase", "lines", "amount")) == [
        ("", "1", "", True, 1, 5),
        ("", "1", "Spain", False, 1, -4),
        ("", "1", "Spain", True, 2, 10),
        ("", "C2", "Spain", False, 1, 3),
        ("query/2024-01", "3", "Spain", True, 2, 3),
    ]


def test_file_overlaps_lists_the_invoices_that_two_files_have(warehouse: Warehouse) -> None:
    """The largest file has the lines of the others; an invoice with other money is another one."""
    both = [("a", "1", "P1", "2024-01-10", 10), ("a", "1", "P2", "2024-01-10", 5), ("b", "2", "P1", "2024-01-11", 7)]
    other = [("a", "1", "P1", "2024-01-10", 10), ("a", "1", "P2", "2024-01-10", 6)]
    lines = [
        *sales(*both, ("c", "3", "P1", "2024-01-12", 1), source_file="year.csv"),
        *sales(*both, source_file="january.csv"),
        *sales(*other, source_file="other.csv"),
    ]
    store(warehouse, "clean_transactions", *lines)
    assert derive(warehouse, "file_overlaps", sources_overlap=False) == [
        {
            "source_file": "january.csv",
            "source_sheet": "",
            "found_in_file": "year.csv",
            "found_in_sheet": "",
            "invoices": 2,
            "lines": 3,
            "share": 1.0,
            "amount": Decimal(22),
        }
    ]
    assert derive(warehouse, "file_overlaps", sources_overlap=True) == []


def report_of(warehouse: Warehouse, *lines: tuple[str, Decimal | None]) -> list[Row]:
    """Return the report of lines, each with the customer that a rule rejects or not, and its amount."""
    rows: list[Row] = [
        {"source_line": number, "customer_id": who, "amount": amount} for number, (who, amount) in enumerate(lines, 1)
    ]
    store(warehouse, "raw_transactions", *rows)
    derive(warehouse, "rejected_transactions", {"judged_transactions": JUDGED, "cleaning_rules": RULES})
    return derive(warehouse, "cleaning_report", {"cleaning_rules": RULES})


AMOUNTS = ("lines", "lines_without_amount", "amount", "amount_share", "lines_left", "amount_left")


def test_cleaning_report_knows_no_amount_where_no_line_has_one(warehouse: Warehouse) -> None:
    report = report_of(warehouse, ("nobody", None), ("nobody", None), ("a", Decimal(5)))
    assert columns_of(report, *AMOUNTS)[:3] == [(3, 2, 5, 1.0, 3, 5), (2, 2, None, None, 1, 5), (0, 0, 0, 0.0, 1, 5)]
    report = report_of(warehouse, ("nobody", None), ("nobody", None))
    assert columns_of(report, *AMOUNTS)[:2] == [(2, 2, None, None, 2, None), (2, 2, None, None, 0, 0)]


def test_cleaning_report_adds_up_the_amounts_that_are_known(warehouse: Warehouse) -> None:
    report = report_of(warehouse, ("nobody", None), ("nobody", Decimal(3)), ("a", Decimal(1)))
    assert columns_of(report, *AMOUNTS)[:2] == [(3, 1, 4, 1.0, 3, 4), (2, 1, 3, 0.75, 1, 1)]


def test_cleaning_report_counts_refunds_as_money_too(warehouse: Warehouse) -> None:
    """Sales of 6 and refunds of 6 are no money in sum, but 12 of the 20 that were read."""
    report = report_of(warehouse, ("nobody", Decimal(6)), ("nobody", Decimal(-6)), ("a", Decimal(8)))
    assert columns_of(report, "amount", "amount_share")[:2] == [(8, 1.0), (0, 0.6)]


def unparsed(*texts: dict[str, str], amount: str | None = None, rule: str = "unparseable_value") -> list[Row]:
    return [
        {
            "source_file": "b.csv",
            "source_line": number,
            "rule": rule,
            "unparsed": json.dumps({"transaction_at": None, "quantity": None, "price": None, "amount": None} | text),
            "amount": amount and Decimal(amount),
        }
        for number, text in enumerate(texts, 2)
    ]


def unparsed_values(warehouse: Warehouse, *rejected: Row) -> list[Row]:
    store(warehouse, "raw_transactions", *({"source_line": number} for number in range(1, 21)))
    store(warehouse, "rejected_transactions", *rejected)
    return derive(warehouse, "unparsed_values")


def test_unparsed_values_counts_the_three_most_frequent_patterns(warehouse: Warehouse) -> None:
    texts = ["1.2.2024", "3.4.2025", "n/a", "5.6.2026", "7-8", "9-1", "May 1"]
    rows = unparsed_values(warehouse, *unparsed(*({"transaction_at": text} for text in texts), amount="2.50"))
    names = ("column_name", "position", "pattern", "lines", "share", "amount", "lines_of_column", "source_line")
    assert columns_of(rows, *names) == [
        ("transaction_at", 1, "9.9.9999", 3, 0.15, Decimal("7.50"), 7, 2),
        ("transaction_at", 2, "9-9", 2, 0.1, Decimal("5.00"), 7, 6),
        ("transaction_at", 3, "a/a", 1, 0.05, Decimal("2.50"), 7, 4),
    ]
    assert columns_of(rows, "source_file", "lines_without_amount") == [("b.csv", 0)] * 3


def test_unparsed_values_counts_a_line_in_each_of_its_columns(warehouse: Warehouse) -> None:
    rows = unparsed_values(warehouse, *unparsed({"price": "ten", "quantity": "3 pcs"}))
    names = ("column_name", "pattern", "lines", "amount", "lines_without_amount")
    assert columns_of(rows, *names) == [("price", "aaa", 1, None, 1), ("quantity", "9 aaa", 1, None, 1)]


def test_unparsed_values_leaves_out_what_another_rule_rejects(warehouse: Warehouse) -> None:
    assert unparsed_values(warehouse, *unparsed({"price": "ten"}, rule="after_as_of")) == []


def test_unparsed_values_names_empty_values_only_where_needed(warehouse: Warehouse) -> None:
    """With a column of amounts, a quantity may be empty: the date alone makes the first line unreadable."""
    rows = unparsed_values(warehouse, *unparsed({"transaction_at": "soon", "quantity": ""}, amount="1"))
    assert columns_of(rows, "column_name", "pattern") == [("transaction_at", "aaaa")]
    rows = unparsed_values(warehouse, *unparsed({"quantity": ""}))
    assert columns_of(rows, "column_name", "pattern") == [("quantity", "")]


def test_unparsed_values_shortens_malformed_lines(warehouse: Warehouse) -> None:
    [row] = unparsed_values(warehouse, *unparsed({"line": "x1" * 100}))
    assert columns_of([row], "column_name", "pattern") == [("line", "a9" * 30)]
