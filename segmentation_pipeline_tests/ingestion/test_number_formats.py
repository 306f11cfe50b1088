"""Numbers as people and systems write them: one reading or none."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pytest

from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.warehouse.database import Warehouse
from segmentation_pipeline_tests.ingestion.reading import read_source
from segmentation_pipeline_tests.scenarios import retailer_settings, write_csv

COLUMNS = {"transaction_at": "at", "customer_id": "who", "quantity": "units", "price": "price", "amount": "money"}


@pytest.fixture(scope="module")
def warehouse() -> Warehouse:
    return Warehouse(duckdb.connect(config={"threads": 2}))


def read(
    warehouse: Warehouse, folder: Path, column: str, texts: Sequence[str], currency: str = "GBP", **source: Any
) -> dict[str, Decimal | None]:
    """Return the number that is read of each text in a column, and check that others are kept as text."""
    cells = [
        ("2024-03-01", "1", *(text if name == column else "1" for name in COLUMNS if name in _NUMBERS))
        for text in texts
    ]
    write_csv(folder / "a.csv", cells, tuple(COLUMNS.values()))
    settings = retailer_settings(Path("anywhere"))
    settings |= {"columns": COLUMNS, "cleaning": {}, "currency": currency, "source": {"path": "a.csv", **source}}
    retailer = Retailer.model_validate(settings)
    read_source(warehouse, retailer, folder)
    rows = warehouse.rows(f"select {column} as number, unparsed from raw_transactions order by source_line")
    assert [row["number"] is None for row in rows] == [row["unparsed"] is not None for row in rows]
    return {text: row["number"] for text, row in zip(texts, rows, strict=True)}


_NUMBERS = ("quantity", "price", "amount")
SIGNS = {
    "3-": "-3",
    "3 -": "-3",
    "3+": "3",
    "- 3": "-3",
    "\u22123": "-3",
    "\u20133": "-3",
    "\uff0d3": "-3",
    "3\u2212": "-3",
    "(3)": "-3",
    "( 3 )": "-3",
    "(3.50)": "-3.5",
    ".5-": "-0.5",
    "-3-": None,
    "(-3)": None,
    "--3": None,
    "(3": None,
    "3)": None,
    "-": None,
    "()": None,
    "1e3-": None,
}
GROUPS = {
    "1'234.5": "1234.5",
    "1\u2019234\u2019567": "1234567",
    "1 234.5": "1234.5",
    "1\u00a0234": "1234",
    "1\u202f234 567": "1234567",
    "\u00a012.5\u00a0": "12.5",
    "(1 234.50)": "-1234.5",
    "1 23": None,
    "12 34": None,
    "1234 567": None,
    "1,234 567": None,
    "1'234,567": None,
    "1  234": None,
}
OWN_CURRENCY = {
    "£2.50": "2.5",
    "£ 2.50": "2.5",
    "2.50 £": "2.5",
    "GBP 2.50": "2.5",
    "2.50GBP": "2.5",
    "-£2.50": "-2.5",
    "£-2.50": "-2.5",
    "£2.50-": "-2.5",
    "2.50- GBP": "-2.5",
    "(£2.50)": "-2.5",
    "£(2.50)": "-2.5",
    "£1,234.50": "1234.5",
    "£": None,
    "££2": None,
    "£2 3": None,
}


@pytest.mark.parametrize("column", ["quantity", "price", "amount"])
def test_a_sign_may_be_on_either_side_but_only_once(warehouse: Warehouse, tmp_path: Path, column: str) -> None:
    assert read(warehouse, tmp_path, column, [*SIGNS]) == numbers(SIGNS)


@pytest.mark.parametrize("column", ["quantity", "amount"])
def test_blanks_and_apostrophes_separate_thousands(warehouse: Warehouse, tmp_path: Path, column: str) -> None:
    assert read(warehouse, tmp_path, column, [*GROUPS]) == numbers(GROUPS)


@pytest.mark.parametrize("column", ["price", "amount"])
def test_money_may_have_the_retailers_currency(warehouse: Warehouse, tmp_path: Path, column: str) -> None:
    assert read(warehouse, tmp_path, column, [*OWN_CURRENCY]) == numbers(OWN_CURRENCY)


def test_another_currency_is_read_only_if_the_settings_allow(warehouse: Warehouse, tmp_path: Path) -> None:
    texts = ["$2.50", "2.50 USD", "€2.50", "Rs. 250", "2.50 R.M."]
    assert read(warehouse, tmp_path, "amount", texts) == dict.fromkeys(texts)
    found = read(warehouse, tmp_path, "amount", texts, currency_marks=["$", "USD", "Rs.", "R.M."])
    expected = {"$2.50": "2.5", "2.50 USD": "2.5", "€2.50": None, "Rs. 250": "250", "2.50 R.M.": "2.5"}
    assert found == numbers(expected)


def test_a_quantity_has_no_currency(warehouse: Warehouse, tmp_path: Path) -> None:
    assert read(warehouse, tmp_path, "quantity", ["£2", "2 GBP", "2"]) == numbers({"£2": None, "2 GBP": None, "2": "2"})


def test_a_decimal_comma_applies_to_every_notation(warehouse: Warehouse, tmp_path: Path) -> None:
    texts = {"1.234,50-": "-1234.5", "(2,50)": "-2.5", "1 234,50 €": "1234.5", "€ 1'234": "1234", "2.50-": None}
    assert read(warehouse, tmp_path, "amount", [*texts], currency="EUR", decimal=",") == numbers(texts)


def test_minor_units_are_hundredths_of_money_but_not_of_quantities(warehouse: Warehouse, tmp_path: Path) -> None:
    texts = {"30336": "303.36", "-5": "-0.05", "(1,000)": "-10", "0": "0"}
    assert read(warehouse, tmp_path, "amount", [*texts], minor_unit_digits=2) == numbers(texts)
    assert read(warehouse, tmp_path, "price", ["1"], minor_unit_digits=3) == numbers({"1": "0.001"})
    assert read(warehouse, tmp_path, "quantity", ["7"], minor_unit_digits=2) == numbers({"7": "7"})


def numbers(texts: Mapping[str, str | None]) -> dict[str, Decimal | None]:
    return {text: None if number is None else Decimal(number) for text, number in texts.items()}
