"""Lines that count twice because two files have them are found, and equal sales are not mistaken for them."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pytest

from segmentation_pipeline.config.loading import load_settings
from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.defs.cleaning.checks import no_file_repeats_another
from segmentation_pipeline.ingestion import cleaning
from segmentation_pipeline.orchestration.resources import RetailerConfig
from segmentation_pipeline.tables.catalog import select_of
from segmentation_pipeline.warehouse.database import Warehouse
from segmentation_pipeline.warehouse.table_write import TableWrite
from segmentation_pipeline_tests.ingestion.reading import read_source
from segmentation_pipeline_tests.scenarios import Line, OpenDatabase, decorated, line, retailer_settings, write_csv
from segmentation_pipeline_tests.workbooks import write_workbook

EXPORT = Path(__file__).parents[1] / "exports" / "overlap"
HEADER = ("InvoiceNo", "StockCode", "Description", "Quantity", "InvoiceDate", "UnitPrice", "CustomerID", "Country")
FIRST = datetime.fromisoformat("2024-03-01")
Overlap = tuple[str, str, int, float, Decimal]


@pytest.fixture(scope="module")
def warehouse() -> Iterator[Warehouse]:
    with duckdb.connect(config={"threads": 2}) as connection:
        yield Warehouse(connection)


def retailer_of(**sections: Any) -> Retailer:
    return Retailer.model_validate(retailer_settings(Path("in"), **sections))


def read(warehouse: Warehouse, retailer: Retailer, base: Path) -> list[Overlap]:
    """Read a source, and return which lines of which file are found again in which other."""
    read_source(warehouse, retailer, base)
    for table in ("clean_transactions", "invoice_totals", "file_overlaps"):
        inputs = cleaning.query_inputs(retailer)
        [result] = warehouse.write([TableWrite(table, select_of(table))], retailer.sql_values, inputs)
        assert not result.violations
    select = (
        "select source_file || source_sheet, found_in_file || found_in_sheet, lines, share, amount from file_overlaps"
    )
    return warehouse.connection.execute(f"{select} order by all").fetchall()


def overlaps(
    warehouse: Warehouse, base: Path, files: Mapping[str, Sequence[Line]], **sections: Any
) -> tuple[list[Overlap], str]:
    """Return the overlaps of files, and the warning of the check."""
    for name, lines in files.items():
        write_csv(base / "in" / name, lines)
    retailer = retailer_of(**sections)
    return read(warehouse, retailer, base), warning(warehouse, retailer)


def warning(warehouse: Warehouse, retailer: Retailer) -> str:
    config = RetailerConfig()
    config._settings = retailer
    result = decorated(no_file_repeats_another)(config, OpenDatabase(warehouse))
    return "" if result.passed else str(result.description)


def sold(number: int, first: int = 0, **values: str) -> list[Line]:
    """Return invoices of one line, one an hour."""
    return [
        line(f"{500000 + n}", at=str(FIRST + timedelta(hours=n)), customer=f"{n % 7 + 1}", **values)
        for n in range(first, first + number)
    ]


def test_an_export_that_overlaps_another_warns_with_lines_and_money(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the setting, every line counts once and nothing warns: see `test_exports`."""
    monkeypatch.setenv("SEGMENTATION_RETAILER", str(EXPORT / "retailer.toml"))
    with_setting = load_settings()
    without = with_setting.model_copy(update={"cleaning": retailer_of().cleaning.model_copy(update={"rules": []})})
    assert read(warehouse, without, EXPORT) == [("jan_jun.csv", "jan_dec.csv", 583, 1.0, Decimal("79937.77"))]
    assert warehouse.count("clean_transactions") == 1663
    message = warning(warehouse, without)
    assert "583 of 583 lines of jan_jun.csv, 79,937.77 in money, are found again in jan_dec.csv" in message
    assert "cleaning.sources_overlap" in message
    assert "source.supersedes" in message
    assert read(warehouse, with_setting, EXPORT) == []
    assert warehouse.row("select sum(amount) as money from clean_transactions") == {"money": Decimal("150367.77")}
    (EXPORT / "spill").rmdir()


def test_equal_lines_of_one_file_are_no_overlap(warehouse: Warehouse, tmp_path: Path) -> None:
    assert overlaps(warehouse, tmp_path, {"a.csv": sold(20) * 2, "b.csv": sold(20, first=30)}) == ([], "")


def test_an_invoice_that_differs_in_one_line_is_another_one(warehouse: Warehouse, tmp_path: Path) -> None:
    changed = [(*one[:3], "3", *one[4:]) for one in sold(20)]
    longer = [*sold(20, first=40), *sold(20, first=40, stock_code="22423")]
    files = {"a.csv": [*sold(20), *sold(20, first=40)], "b.csv": changed, "c.csv": longer}
    assert overlaps(warehouse, tmp_path, files) == ([], "")


def test_other_product_names_do_not_hide_a_repeated_line(warehouse: Warehouse, tmp_path: Path) -> None:
    """An export of today has the product names of today."""
    found, message = overlaps(
        warehouse, tmp_path, {"a.csv": sold(20), "b.csv": sold(30, description="NEW NAME", country="UK")}
    )
    assert found == [("a.csv", "b.csv", 20, 1.0, Decimal(100))]
    assert "20 of 20 lines of a.csv, 100.00 in money, are found again in b.csv" in message


@pytest.mark.parametrize(
    ("repeated", "lines", "share", "warns"),
    [
        (2, 300, None, False),
        (9, 300, None, False),
        (10, 300, None, True),
        (10, 1000, None, False),
        (11, 1000, None, True),
        (30, 300, 0.1, False),
        (31, 300, 0.1, True),
        (1, 2, None, True),
        (1, 3, None, False),
    ],
)
def test_only_more_than_a_few_lines_warn(
    warehouse: Warehouse, tmp_path: Path, repeated: int, lines: int, share: float | None, warns: bool
) -> None:
    """A nightly file repeats the last lines of the one before; file_overlaps lists them all the same."""
    files = {"a.csv": sold(lines + 9), "b.csv": sold(lines, first=lines + 9 - repeated)}
    checks = {"checks": {"max_repeated_share": share}} if share else {}
    found, message = overlaps(warehouse, tmp_path, files, **checks)
    assert found == [("b.csv", "a.csv", repeated, repeated / lines, Decimal(5 * repeated))]
    assert bool(message) == warns


def test_each_line_that_counts_too_much_is_listed_once(warehouse: Warehouse, tmp_path: Path) -> None:
    """Three copies count two lines too many, whichever files have them."""
    year = [*sold(40), *sold(40, first=50)]
    files = {"copy.csv": sold(40), "march.csv": sold(40), "april.csv": sold(40, first=50), "year.csv": year}
    found, _ = overlaps(warehouse, tmp_path, files)
    assert [(file, other, lines) for file, other, lines, *_ in found] == [
        ("april.csv", "year.csv", 40),
        ("copy.csv", "year.csv", 40),
        ("march.csv", "year.csv", 40),
    ]


def test_rejected_lines_do_not_count_twice(warehouse: Warehouse, tmp_path: Path) -> None:
    free = sold(20, price="0")
    files = {"a.csv": [*free, *sold(20, first=30)], "b.csv": [*free, *sold(20, first=60)]}
    assert overlaps(warehouse, tmp_path, files) == ([], "")


def test_sheets_are_compared_as_files_are(warehouse: Warehouse, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    sheets: dict[str, Iterable[Sequence[object]]] = {"2024": [HEADER, *sold(30)], "March": [HEADER, *sold(20)]}
    write_workbook(tmp_path / "in" / "a.xlsx", sheets)
    retailer = retailer_of()
    assert read(warehouse, retailer, tmp_path) == [("a.xlsxMarch", "a.xlsx2024", 20, 1.0, Decimal(100))]
    assert "20 of 20 lines of a.xlsx [March], 100.00 in money, are found again in a.xlsx [2024]" in warning(
        warehouse, retailer
    )


def test_without_invoices_a_day_of_a_customer_is_compared(warehouse: Warehouse, tmp_path: Path) -> None:
    columns = {"transaction_at": "at", "customer_id": "who", "amount": "money"}
    rows = [{"at": f"2024-03-{n:02d}", "who": f"{n % 3}", "money": f"{n}"} for n in range(1, 21)]
    for name, some in {"a": rows, "b": rows[:12]}.items():
        file = tmp_path / "in" / f"{name}.jsonl"
        file.parent.mkdir(exist_ok=True)
        file.write_text("\n".join(map(json.dumps, some)))
    settings = retailer_settings(Path("in")) | {"columns": columns, "cleaning": {}}
    found = read(warehouse, Retailer.model_validate(settings), tmp_path)
    assert found == [("b.jsonl", "a.jsonl", 12, 1.0, Decimal(78))]
