"""The beginning of a source is read, cleaned and judged as in a run."""

import gzip
import json
from collections.abc import Callable, Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import pytest

from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.errors import SourceError
from segmentation_pipeline.ingestion.discovery import source_files
from segmentation_pipeline.ingestion.sampling import lines_of_each, sampled
from segmentation_pipeline.warehouse.database import Warehouse
from segmentation_pipeline_tests.ingestion.reading import read_source
from segmentation_pipeline_tests.scenarios import retailer_settings, write_csv
from segmentation_pipeline_tests.workbooks import write_workbook

HEADER = ("at", "who", "money", "note")
# A record of three lines begins in line 10 of a CSV.
LINES = [
    (f"2024-03-{day:02d} 10:00:00", f"k{day}", f"{day}.50", "a\nb,\nc" if day == 9 else "x") for day in range(1, 29)
]


def retailer(**source: Any) -> Retailer:
    columns = {"transaction_at": "at", "customer_id": "who", "amount": "money", "description": "note"}
    return Retailer.model_validate(
        {**retailer_settings(Path("in"), source={"path": "in", **source}), "columns": columns, "cleaning": {}}
    )


def rows(warehouse: Warehouse) -> list[tuple[Any, ...]]:
    return warehouse.connection.execute(
        "select source_sheet, source_line, transaction_at, customer_id, amount, description, unparsed"
        " from raw_transactions order by source_sheet, source_line"
    ).fetchall()


def write_bytes(folder: Path, name: str, content: bytes) -> None:
    folder.mkdir()
    (folder / name).write_bytes(content)


def csv_text() -> str:
    return "\n".join(",".join(f'"{text}"' for text in line) for line in (HEADER, *LINES)) + "\n"


def write_parquet(folder: Path) -> None:
    folder.mkdir()
    values = ", ".join(f"(timestamp '{at}', '{who}', {money}, '{note}')" for at, who, money, note in LINES)
    duckdb.connect().execute(
        f"copy (select * from (values {values}) as lines(\"at\", who, money, note)) to '{folder}/a.parquet'"
    )


def write_sheets(folder: Path) -> None:
    cells = [(datetime.fromisoformat(at), who, float(money), note) for at, who, money, note in LINES]
    write_workbook(folder / "a.xlsx", {"1": [HEADER, *cells], "2": [HEADER, *cells]})


def write_json(folder: Path) -> None:
    objects = [json.dumps(dict(zip(HEADER, line, strict=True))) for line in LINES]
    write_bytes(folder, "a.jsonl", "\n".join(objects).encode())


# How to write the lines, and how many records are read of ten lines: one of a CSV is the header, and the record of
# three lines is whole.
FORMATS: dict[str, tuple[Callable[[Path], None], int]] = {
    "csv": (lambda folder: write_bytes(folder, "a.csv", csv_text().encode()), 9),
    "compressed": (lambda folder: write_bytes(folder, "a.csv.gz", gzip.compress(csv_text().encode())), 9),
    "utf-16": (lambda folder: write_bytes(folder, "a.csv", csv_text().encode("utf-16")), 9),
    "returns": (lambda folder: write_bytes(folder, "a.csv", csv_text().replace("\n", "\r\n").encode()), 9),
    "json": (write_json, 10),
    "parquet": (write_parquet, 10),
    # Five of each sheet.
    "workbook": (write_sheets, 10),
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_sample_is_the_beginning_of_what_a_run_reads(tmp_path: Path, name: str) -> None:
    write, count = FORMATS[name]
    write(tmp_path / "in")
    settings = retailer()
    whole = rows(read_source(Warehouse(duckdb.connect()), settings, tmp_path))
    assert len(whole) == len(LINES) * (1 + (name == "workbook"))
    files = source_files(settings.source, tmp_path)
    with sampled(settings, tmp_path, files, max_lines=10) as sample:
        read = rows(sample.warehouse)
        assert (len(read), [file.lines for file in sample.files], sample.error) == (count, [count], "")
        assert sample.losses.report[0]["lines"] == sample.losses.report[-1]["lines_left"] == count
    sheets = sorted({line[0] for line in whole})
    first_of_each = count // len(sheets)
    assert read == [line for sheet in sheets for line in [row for row in whole if row[0] == sheet][:first_of_each]]


def test_an_unclosed_quote_does_not_end_the_sample(tmp_path: Path) -> None:
    lines = [*csv_text().splitlines(), '"2024-04-01,k,1,x', *["2024-04-01 10:00:00,k,1,x"] * 3_000]
    write_bytes(tmp_path / "in", "a.csv", "\n".join(lines).encode())
    settings = retailer()
    with sampled(settings, tmp_path, source_files(settings.source, tmp_path), max_lines=100) as sample:
        assert 100 <= sample.files[0].lines < 1_200
        assert sample.files[0].malformed == 1


def test_many_files_are_sampled_from_the_first_to_the_last() -> None:
    sizes = {f"{number:03d}.csv": 10**9 for number in range(305)}
    limits = lines_of_each(sizes, 10_000)
    assert len(limits) == 20
    assert set(limits.values()) == {500}
    assert [*limits] == sorted(limits)
    assert {"000.csv", "304.csv"} <= limits.keys()
    numbers = [int(name[:3]) for name in limits]
    assert {later - earlier for earlier, later in pairwise(numbers)} == {16}


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([10**6], [10_000]),
        ([10**6, 10**6, 10**6], [3_333, 3_333, 3_334]),
        # A file of 80 bytes has 21 lines at most, so the large one has the rest.
        ([80, 10**6], [21, 9_979]),
        ([0, 0], [1, 1]),
    ],
)
def test_small_files_leave_their_lines_to_larger_ones(sizes: Sequence[int], expected: Sequence[int]) -> None:
    assert [*lines_of_each(dict(zip("abc", sizes, strict=False)), 10_000).values()] == expected


def test_a_sample_without_valid_lines_says_why_a_run_fails(tmp_path: Path) -> None:
    write_csv(tmp_path / "in" / "a.csv", [("?", *line[1:]) for line in LINES], HEADER)
    settings = retailer()
    with sampled(settings, tmp_path, source_files(settings.source, tmp_path)) as sample:
        assert "clean_transactions would break its contract (not empty, found 0 rows" in sample.error
        assert "28 of 28 lines were rejected: unparseable_value 28." in sample.error
        assert sample.losses.unreadable.lines == 28


def test_unreadable_files_are_reported_and_too_many_fail(tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv"):
        write_csv(tmp_path / "in" / name, LINES, HEADER)
    (tmp_path / "in" / "c.csv").symlink_to(tmp_path / "nowhere")
    files = source_files(retailer().source, tmp_path)
    with sampled(retailer(), tmp_path, files) as sample:
        assert [file.source_file for file in sample.quarantined] == ["c.csv"]
    with pytest.raises(SourceError, match=r"c\.csv"), sampled(retailer(max_quarantined=0), tmp_path, files):
        pass
