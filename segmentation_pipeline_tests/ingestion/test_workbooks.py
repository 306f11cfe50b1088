"""Workbooks of every format give the same lines, and none of them can end the process."""

import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pytest

from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.errors import SourceError
from segmentation_pipeline.ingestion import excel
from segmentation_pipeline.warehouse.database import Warehouse
from segmentation_pipeline_tests.ingestion.reading import read_source
from segmentation_pipeline_tests.other_workbooks import (
    Sheets,
    write_ods,
    write_ods_content,
    write_xls,
    write_xlsb,
    xlsb_sheet,
)
from segmentation_pipeline_tests.scenarios import retailer_settings
from segmentation_pipeline_tests.workbooks import write_workbook

COLUMNS = {"invoice": "No", "transaction_at": "at", "customer_id": "who", "quantity": "units", "amount": "money"}
WRITERS: dict[str, Callable[[Path, Any], Path]] = {
    "xlsx": write_workbook,
    "xls": write_xls,
    "xlsb": write_xlsb,
    "ods": write_ods,
}


def at(*parts: int) -> datetime:
    """Return a timestamp in local time, as DuckDB returns it."""
    return datetime(*parts)  # type: ignore[arg-type]  # noqa: DTZ001


HEADER = ["No", "at", "who", "units", "money"]
SHEETS: Sheets = {
    "2023": [
        HEADER,
        [536365, at(2023, 3, 1, 10, 5, 7), "Müller & Söhne", 2, 12.5],
        [None] * 5,
        ["C536366", at(2023, 3, 31, 23, 59, 59), 17850, -1, -0.1],
    ],
    "Année": [HEADER, ["536367", at(2024, 2, 29), None, "1,200", "1,234.56"]],
}
LINES = [
    ("2023", 2, "536365", at(2023, 3, 1, 10, 5, 7), "Müller & Söhne", Decimal(2), Decimal("12.5")),
    ("2023", 3, "C536366", at(2023, 3, 31, 23, 59, 59), "17850", Decimal(-1), Decimal("-0.1")),
    ("Année", 2, "536367", at(2024, 2, 29), None, Decimal(1200), Decimal("1234.56")),
]


@pytest.fixture(scope="module")
def warehouse() -> Iterator[Warehouse]:
    connection = duckdb.connect(config={"threads": 2})
    yield Warehouse(connection)
    connection.close()


def retailer(columns: Mapping[str, Any] = COLUMNS, **source: Any) -> Retailer:
    settings = retailer_settings(Path("anywhere"))
    settings |= {"columns": columns, "cleaning": {}, "source": {"path": "in", **source}}
    return Retailer.model_validate(settings)


def lines_of(warehouse: Warehouse, settings: Retailer, folder: Path) -> list[tuple[Any, ...]]:
    rows = read_source(warehouse, settings, folder).rows(
        "select source_sheet, source_line, invoice, transaction_at, customer_id, quantity, amount from raw_transactions"
        " order by all"
    )
    return [tuple(row.values()) for row in rows]


def message(warehouse: Warehouse, folder: Path, **source: Any) -> str:
    with pytest.raises(SourceError) as error:
        read_source(warehouse, retailer(**source), folder)
    assert not list((folder / "spill").iterdir())
    return str(error.value)


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("date_format", [None, "%d.%m.%Y"])
def test_workbook_of_any_format_gives_the_same_lines(
    warehouse: Warehouse, tmp_path: Path, kind: str, date_format: str | None
) -> None:
    WRITERS[kind](tmp_path / "in" / f"a.{kind.upper()}", SHEETS)
    assert lines_of(warehouse, retailer(date_format=date_format), tmp_path) == LINES


@pytest.mark.parametrize("kind", WRITERS)
def test_sheets_titles_and_positions_are_settings_of_every_format(
    warehouse: Warehouse, tmp_path: Path, kind: str
) -> None:
    rows = [["Report", *[None] * 4], [None] * 5, *SHEETS["2023"][1:]]
    WRITERS[kind](tmp_path / "in" / f"a.{kind}", {"Notes": [["Made by us"]], "2023": rows})
    positions = {name: position for position, name in enumerate(COLUMNS, 1)}
    settings = retailer(positions, sheets=["2023"], skip_lines=2, header=False)
    expected = [(sheet, 3 + n, *values) for n, (sheet, _, *values) in enumerate(LINES[:2])]
    assert lines_of(warehouse, settings, tmp_path) == expected


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("ending", ["xls", "xlsx", "ods"])
def test_workbook_with_the_ending_of_another_format_is_read(
    warehouse: Warehouse, tmp_path: Path, kind: str, ending: str
) -> None:
    (tmp_path / "in").mkdir()
    shutil.move(WRITERS[kind](tmp_path / f"made.{kind}", SHEETS), tmp_path / "in" / f"a.{ending}")
    assert lines_of(warehouse, retailer(), tmp_path) == LINES


def test_format_of_a_workbook_without_an_ending_is_a_setting(warehouse: Warehouse, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    shutil.move(write_xls(tmp_path / "made.xls", SHEETS), tmp_path / "in" / "export")
    assert lines_of(warehouse, retailer(format="xls"), tmp_path) == LINES


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("<html><table><tr><td>No</td></tr></table></html>", "page of HTML or XML: open it in a spreadsheet program"),
        ('\ufeff<?xml version="1.0"?><Workbook/>', "page of HTML or XML: open it in a spreadsheet program"),
        ("No\tat\n1\t2024-03-01\n", 'text: if its lines are those of a CSV, rename it, or set source.format = "csv".'),
    ],
)
@pytest.mark.parametrize("ending", ["xls", "xlsx"])
def test_text_with_the_ending_of_a_workbook_is_reported(
    warehouse: Warehouse, tmp_path: Path, text: str, advice: str, ending: str
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / f"a.{ending}").write_text(text, "utf-8")
    said = message(warehouse, tmp_path)
    assert said.startswith(f"a.{ending}: cannot be read as a workbook: ")
    assert advice.rstrip(".") in said


def test_text_named_like_a_workbook_follows_the_setting(warehouse: Warehouse, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.xls").write_text("\t".join(HEADER) + "\n7\t2024-03-01\tann\t1\t2.5\n", "utf-8")
    found = lines_of(warehouse, retailer(format="csv", delimiter="\t"), tmp_path)
    assert found == [("", 2, "7", at(2024, 3, 1), "ann", Decimal(1), Decimal("2.5"))]


def far_xls(path: Path) -> Path:
    """Write a workbook whose second cell says that it is in column 65,535 of row 65,535."""
    data = write_xls(path, {"S": [[1.5], [2.5]]}).read_bytes()
    cell, far = struct.pack("<HHHH", 0x0203, 14, 1, 0), struct.pack("<HHHH", 0x0203, 14, 65_535, 65_535)
    if cell not in data:
        cell, far = struct.pack("<HHHH", 0x027E, 10, 1, 0), struct.pack("<HHHH", 0x027E, 10, 65_535, 65_535)
    assert data.count(cell) == 1
    path.write_bytes(data.replace(cell, far))
    return path


def far_xlsb(path: Path) -> Path:
    """Write a workbook with a cell in the last row and column."""
    made = write_xlsb(path.with_suffix(".made"), {"S": [[1.5]]})
    with zipfile.ZipFile(made) as read, zipfile.ZipFile(path, "w") as packed:
        for name in read.namelist():
            sheet = xlsb_sheet({0: {0: 1.5}, 1_048_575: {16_383: 2.5}})
            packed.writestr(name, sheet if "sheet1" in name else read.read(name))
    made.unlink()
    return path


def far_ods(path: Path) -> Path:
    """Write a workbook with a value that is repeated in every cell of a sheet."""
    cell = '<table:table-cell office:value-type="float" office:value="1" table:number-columns-repeated="16384"/>'
    rows = f'<table:table-row table:number-rows-repeated="1048576">{cell}</table:table-row>'
    return write_ods_content(path, f'<table:table table:name="S">{rows}</table:table>')


@pytest.mark.parametrize(
    ("kind", "make", "expected"),
    [
        ("xls", far_xls, "its sheets take more than 2 GB of memory; delete the cells that are far from the others"),
        ("xlsb", far_xlsb, "its sheets take more than 2 GB of memory; delete the cells that are far from the others"),
        ("ods", far_ods, "Cell limit exceeded (17179869184 cells requested, max 100000000)"),
    ],
)
@pytest.mark.parametrize("ending", ["own", "xlsx"])
def test_workbook_that_does_not_fit_into_memory_is_reported(
    warehouse: Warehouse, tmp_path: Path, kind: str, make: Callable[[Path], Path], expected: str, ending: str
) -> None:
    (tmp_path / "in").mkdir()
    name = f"a.{kind if ending == 'own' else ending}"
    shutil.move(make(tmp_path / f"made.{kind}"), tmp_path / "in" / name)
    said = message(warehouse, tmp_path)
    # The message about a file of another format than its ending says is about that format.
    assert said.endswith(expected) or ((kind, ending) == ("ods", "xlsx") and "cannot be read as a workbook" in said)


@pytest.mark.parametrize("kind", ["xlsb", "ods"])
def test_unpacked_size_is_limited_in_every_format(warehouse: Warehouse, tmp_path: Path, kind: str) -> None:
    rows = [HEADER, *([[7, at(2024, 3, 1), "x" * 10_000, 1, 1.5]] * 20)]
    WRITERS[kind](tmp_path / "in" / f"a.{kind}", {"S": rows})
    said = message(warehouse, tmp_path, max_unpacked_gb=1e-4)
    assert "it unpacks to more than 0.0001 GB, the limit of source.max_unpacked_gb" in said


def test_workbook_on_which_the_reader_fails_is_reported(
    warehouse: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(excel, "_READ_ALL", "raise SystemExit(1)")
    write_xls(tmp_path / "in" / "a.xls", SHEETS)
    assert message(warehouse, tmp_path) == "a.xls: cannot be read as xls: it is damaged"


def test_a_damaged_workbook_has_a_message_of_one_line(warehouse: Warehouse, tmp_path: Path) -> None:
    whole, damaged = write_xlsb(tmp_path / "whole.xlsb", SHEETS), tmp_path / "in" / "a.xlsb"
    damaged.parent.mkdir()
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(damaged, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            target.writestr(name, content.replace(b"sheet1.bin", b"no\n\x1b[31m.bin"))
    said = message(warehouse, tmp_path)
    assert "cannot be read as a workbook" in said
    assert said.isprintable()
