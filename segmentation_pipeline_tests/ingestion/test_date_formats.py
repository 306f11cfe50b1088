"""Dates and times as people and systems write them: one reading or none."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest

from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.warehouse.database import Warehouse
from segmentation_pipeline_tests.ingestion.reading import read_source
from segmentation_pipeline_tests.scenarios import retailer_settings, write_csv
from segmentation_pipeline_tests.workbooks import write_workbook

COLUMNS = {"transaction_at": "at", "customer_id": "who", "amount": "money"}


@pytest.fixture(scope="module")
def warehouse() -> Warehouse:
    return Warehouse(duckdb.connect(config={"threads": 2}))


def load(
    warehouse: Warehouse, folder: Path, name: str, columns: dict[str, str] | None = None, **source: Any
) -> list[str | None]:
    """Return the times that are read of a file, line by line, and check that others are kept as text."""
    settings = retailer_settings(Path("anywhere"))
    settings |= {"columns": columns or COLUMNS, "cleaning": {}, "source": {"path": name, **source}}
    retailer = Retailer.model_validate(settings)
    read_source(warehouse, retailer, folder)
    rows = warehouse.rows("select transaction_at, unparsed from raw_transactions order by source_line")
    assert [row["transaction_at"] is None for row in rows] == [row["unparsed"] is not None for row in rows]
    return [row["transaction_at"] and str(row["transaction_at"]) for row in rows]


def read(warehouse: Warehouse, folder: Path, texts: Sequence[str], **source: Any) -> list[str | None]:
    write_csv(folder / "a.csv", [(text, "1", "1") for text in texts], ("at", "who", "money"))
    return load(warehouse, folder, "a.csv", **source)


def test_a_value_that_two_formats_read_differently_is_not_read(warehouse: Warehouse, tmp_path: Path) -> None:
    texts = ["18/07/2025", "07/18/2025", "05/01/2025", "05/05/2025", "2025-07-18"]
    found = read(warehouse, tmp_path, texts, date_format=["%d/%m/%Y", "%m/%d/%Y"])
    assert found == ["2025-07-18 00:00:00", "2025-07-18 00:00:00", None, "2025-05-05 00:00:00", None]


def test_iso_dates_may_stand_beside_other_formats(warehouse: Warehouse, tmp_path: Path) -> None:
    texts = ["18/07/2025 03:32", "2025-01-05 19:03:00", "2025-07-01T10:00:00Z", "2025-01-05T24:00", "18 Jul 2025"]
    found = read(warehouse, tmp_path, texts, date_format=["%d/%m/%Y %H:%M", "iso_8601", "%d %b %Y"])
    assert found == [
        "2025-07-18 03:32:00",
        "2025-01-05 19:03:00",
        "2025-07-01 11:00:00",
        "2025-01-06 00:00:00",
        "2025-07-18 00:00:00",
    ]


def test_serial_numbers_count_days_from_the_epoch_of_their_workbook(warehouse: Warehouse, tmp_path: Path) -> None:
    """45856.147222 is 18 July 2025, 3:32, in the system of 1900, and four years and a day later in that of 1904."""
    texts = ["45856.147222", "45856", "60", "2958466", "-1", "nan", "2025-07-18"]
    found = read(warehouse, tmp_path, texts, date_format="excel_1900")
    assert found == ["2025-07-18 03:32:00", "2025-07-18 00:00:00", None, None, None, None, None]
    assert read(warehouse, tmp_path, ["44394,147222"], date_format="excel_1904", decimal=",") == ["2025-07-18 03:32:00"]


def test_seconds_since_1970_become_local_time(warehouse: Warehouse, tmp_path: Path) -> None:
    """3:32 in summer is 2:32 UTC in London."""
    seconds = 1_752_805_920
    assert datetime.fromisoformat("2025-07-18 02:32:00+00:00").timestamp() == seconds
    found = read(
        warehouse, tmp_path, [f"{seconds}", f"{seconds}.25", "-1", "253402300800"], date_format="epoch_seconds"
    )
    assert found == ["2025-07-18 03:32:00", "2025-07-18 03:32:00.250000", None, None]
    assert read(warehouse, tmp_path, [f"{seconds}123"], date_format="epoch_milliseconds") == [
        "2025-07-18 03:32:00.123000"
    ]


def test_a_time_may_have_a_column_of_its_own(warehouse: Warehouse, tmp_path: Path) -> None:
    columns = {**COLUMNS, "transaction_time": "time"}
    lines = [("2025-07-18", "03:32:00", "1", "1"), ("2025-07-18", "", "1", "1"), ("2025-07-18", "late", "1", "1")]
    write_csv(tmp_path / "a.csv", lines, ("at", "time", "who", "money"))
    assert load(warehouse, tmp_path, "a.csv", columns) == ["2025-07-18 03:32:00", "2025-07-18 00:00:00", None]
    write_csv(tmp_path / "b.csv", [("18.07.2025", "03:32", "1", "1")], ("at", "time", "who", "money"))
    found = load(warehouse, tmp_path, "b.csv", columns, date_format="%d.%m.%Y %H:%M")
    assert found == ["2025-07-18 03:32:00"]


@pytest.mark.parametrize("date_format", [None, "%d/%m/%Y", ["%d/%m/%Y", "%m/%d/%Y"]])
def test_a_date_cell_is_read_alike_under_any_format(
    warehouse: Warehouse, tmp_path: Path, date_format: str | list[str] | None
) -> None:
    cells = [datetime.fromisoformat("2025-01-05 19:03:00"), datetime.fromisoformat("2025-01-05 00:00:00")]
    rows = [("at", "who", "money"), *((cell, 1, 1) for cell in cells)]
    write_workbook(tmp_path / "a.xlsx", {"Sales": rows})
    source: dict[str, Any] = {} if date_format is None else {"date_format": date_format}
    assert load(warehouse, tmp_path, "a.xlsx", **source) == ["2025-01-05 19:03:00", "2025-01-05 00:00:00"]
    duckdb.connect().execute(
        "copy (select timestamp '2025-01-05 19:03:00' as at, 1 as who, 1 as money)"
        f" to '{tmp_path}/a.parquet' (format parquet)"
    )
    assert load(warehouse, tmp_path, "a.parquet", **source) == ["2025-01-05 19:03:00"]


@pytest.mark.parametrize(
    ("language", "date_format", "texts"),
    [
        ("de", "%d. %B %Y", ["3. März 2024", "3. MÄRZ 2024", "3. Ma\u0308rz 2024", "03. Mrz. 2024", "3. Mär 2024"]),
        ("de", "%A, %d. %B %Y", ["Sonntag, 3. März 2024", "So., 3. März 2024"]),
        ("fr", "%d %b %Y", ["3 mars 2024", "03 Mars 2024"]),
        ("fr", "%a %d %b. %Y à %Hh%M", ["dim. 3 mars 2024 à 00h00", "Dimanche 3 MARS 2024 A 00H00"]),
        ("es", "%d de %B de %Y", ["3 de marzo de 2024", "3 de Marzo de 2024"]),
        ("es", "%a %d-%b-%Y", ["dom 03-mar-2024", "dom. 3-mar.-2024"]),
        ("pt", "%d/%b/%Y", ["03/mar/2024", "3/mar./2024", "3/março/2024"]),
        ("it", "%d %B %Y", ["3 marzo 2024"]),
        ("nl", "%d %b %Y", ["3 mrt. 2024", "3 maart 2024"]),
        ("en", "%B %d, %Y %I:%M %p", ["March 3, 2024 12:00 AM", "mar 3, 2024 12:00 am"]),
    ],
)
def test_months_are_read_in_the_language_of_the_setting(
    warehouse: Warehouse, tmp_path: Path, language: str, date_format: str, texts: Sequence[str]
) -> None:
    found = read(warehouse, tmp_path, texts, date_format=date_format, date_language=language)
    assert found == ["2024-03-03 00:00:00"] * len(texts)


def test_every_month_of_a_language_is_read_as_itself(warehouse: Warehouse, tmp_path: Path) -> None:
    names = "12 janv. 2024,12 févr. 2024,12 mars 2024,12 avr. 2024,12 mai 2024,12 juin 2024,12 juil. 2024"
    texts = f"{names},12 août 2024,12 sept. 2024,12 oct. 2024,12 nov. 2024,12 déc. 2024".split(",")
    found = read(warehouse, tmp_path, texts, date_format="%d %b %Y", date_language="fr")
    assert found == [f"2024-{month:02d}-12 00:00:00" for month in range(1, 13)]


def test_a_date_in_another_language_is_not_read(warehouse: Warehouse, tmp_path: Path) -> None:
    texts = ["12 02 2024", "12 Oct 2024", "12 foo 2024", "31 févr. 2024", "2024-02-12", "12/02/2024"]
    formats = ["%d %B %Y", "iso_8601", "%d/%m/%Y"]
    found = read(warehouse, tmp_path, texts, date_format=formats, date_language="de")
    assert found == [None, None, None, None, "2024-02-12 00:00:00", "2024-02-12 00:00:00"]
