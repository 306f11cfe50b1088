"""A file that is made to fill the disk or the memory, or to take for ever, is set aside; the others load."""

import gzip
import json
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import duckdb
import openpyxl
import pytest

from segmentation_pipeline_tests.ingestion.test_incremental import Shop
from segmentation_pipeline_tests.scenarios import HEADER, line, write_csv

MB = 10**6


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    shop = Shop(tmp_path / "shop", monkeypatch)
    shop.file("a.csv", [line("1"), line("2")])
    with shop.instance:
        yield shop


def reason(shop: Shop, name: str) -> str:
    """Why a file was set aside in a night in which the other one was loaded, and in which nothing was left behind."""
    night = shop.night()
    assert night.success, night.said
    assert shop.statuses == {"a.csv": "loaded", name: "quarantined"}
    assert not list((shop.folder / "data" / "corner_shop" / "tmp").iterdir())
    [(said,)] = shop.rows("select reason from ingested_files where status = 'quarantined'")
    return str(said)


def peak_of_a_night(shop: Shop, limit: int) -> int:
    """The memory that a run of the mouth takes at most, in a process that can have no more address space than that."""
    code = f"""
import resource
resource.setrlimit(resource.RLIMIT_AS, ({limit}, {limit}))
import dagster as dg
from segmentation_pipeline.definitions import defs
from segmentation_pipeline.ingestion.incremental import TABLES
job = defs().resolve_job_def("nightly_segmentation")
keys = [dg.AssetKey(table) for table in TABLES]
with dg.DagsterInstance.ephemeral() as instance:
    result = job.execute_in_process(instance=instance, asset_selection=keys, raise_on_error=False)
said = [event.step_failure_data.user_failure_data.description for event in result.get_step_failure_events()]
# Other than ru_maxrss, which a process has from the one that started it.
peak = 1024 * int(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0])
print("done", result.success, repr(said).replace(" ", "_"), peak)
"""
    environment = os.environ | {"SEGMENTATION_MEMORY_LIMIT": "500MB"}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert "done" in ended.stdout, ended.stderr[-3000:]
    success, said, peak, *_ = ended.stdout.rpartition("done")[2].split()
    assert success == "True", said
    return int(peak)


def sparse(path: Path, beginning: bytes, size: int, end: bytes = b"") -> Path:
    """A large file of nothing, without a line break, that takes no room on the disk."""
    path.write_bytes(beginning)
    os.truncate(path, size)
    with path.open("ab") as file:
        file.write(end)
    return path


SOLD = ",".join(line("3")).encode() + b"\n"


def test_a_line_of_hundreds_of_megabytes_between_good_ones_is_a_broken_line_and_never_in_memory(shop: Shop) -> None:
    sparse(shop.source / "b.csv", ",".join(HEADER).encode() + b"\n" + SOLD, 600 * MB, b"\n" + SOLD)
    assert peak_of_a_night(shop, 4_000 * MB) < 500 * MB
    told = "select source_line, invoice, length(unparsed ->> 'line') from raw_transactions"
    assert shop.rows(f"{told} where source_file = 'b.csv' order by 1") == [
        (2, "3", None),
        (3, None, 100_000),
        (4, "3", None),
    ]


@pytest.mark.parametrize("name", ["b.csv", "b.jsonl"])
def test_a_file_of_hundreds_of_megabytes_without_a_line_break_is_quarantined_and_never_in_memory(
    shop: Shop, name: str
) -> None:
    sparse(shop.source / name, b"", 600 * MB)
    assert peak_of_a_night(shop, 4_000 * MB) < 500 * MB
    assert shop.statuses == {"a.csv": "loaded", name: "quarantined"}


@pytest.mark.parametrize("ending", ["csv", "jsonl", "csv.zst"])
def test_a_packed_line_of_hundreds_of_megabytes_is_never_in_memory_either(shop: Shop, ending: str) -> None:
    name = f"b.{ending}" if ending.endswith("zst") else f"b.{ending}.gz"
    if ending == "csv.zst":
        duckdb.connect().execute(
            f"copy (select unnest(['{','.join(HEADER)}', repeat(repeat('x', 1000), 200000)]))"
            f" to '{shop.source / name}' (format csv, compression zstd, header false)"
        )
    else:
        good = json.dumps(dict(zip(HEADER, line("3"), strict=True))).encode()
        with gzip.open(shop.source / name, "wb", 1) as file:
            file.write(",".join(HEADER).encode() + b"\n" if ending == "csv" else good + b"\n")
            for _ in range(600):
                file.write(b"x" * MB)
    # DuckDB, which unpacks zst, may take all of its limit.
    assert peak_of_a_night(shop, 4_000 * MB) < (800 if ending == "csv.zst" else 500) * MB
    broken = "select count(*) from raw_transactions where source_file <> 'a.csv' and unparsed is not null"
    assert shop.statuses[name] == "quarantined" if ending == "csv.zst" else shop.rows(broken) == [(1,)]


@pytest.mark.parametrize("name", ["b.csv.gz", "b.jsonl.gz", "b.csv.zst", "b.xlsx"])
def test_a_file_that_unpacks_to_more_than_the_bound_is_quarantined(shop: Shop, name: str) -> None:
    shop.settle(source={"max_unpacked_gb": 0.005})
    path = shop.source / name
    if name.endswith(".gz"):
        with gzip.open(path, "wb") as file:
            file.write(b"\n" * 6 * MB)
    elif name.endswith(".zst"):
        duckdb.connect().execute(f"copy (select 'x' from range(3000000)) to '{path}' (format csv, compression zstd)")
    else:
        bomb(path, 6 * MB)
    assert path.stat().st_size < MB
    assert "unpacks to more than 0.005 GB, the bound of source.max_unpacked_gb" in reason(shop, name)


def bomb(path: Path, size: int) -> Path:
    """A workbook with so many bytes of strings in it."""
    workbook(path, {"A1": "x"})
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("xl/more.xml", b" " * size)
    return path


def workbook(path: Path, cells: dict[str, str]) -> Path:
    made = openpyxl.Workbook()
    assert made.active is not None
    for place, value in cells.items():
        made.active[place] = value
    made.save(path)
    return path


def test_a_workbook_that_lies_about_its_size_is_quarantined_too(shop: Shop) -> None:
    shop.settle(source={"max_unpacked_gb": 0.005})
    path = bomb(shop.source / "b.xlsx", 6 * MB)
    told = path.read_bytes()
    assert told.count((6 * MB).to_bytes(4, "little")) == 2
    path.write_bytes(told.replace((6 * MB).to_bytes(4, "little"), (100).to_bytes(4, "little")))
    with zipfile.ZipFile(path) as packed:
        assert packed.getinfo("xl/more.xml").file_size == 100
    assert "unpacks to more than 0.005 GB" in reason(shop, "b.xlsx")


@pytest.mark.parametrize(
    "sheet",
    [
        '<row r="1"><c r="A1"><v>1</v></c></row><row r="1048576"><c r="XFD1048576"><v>1</v></c></row>',
        '<row r="1"><c r="XFD1"><v>1</v></c></row><row r="999999"><c r="A999999"><v>1</v></c></row>',
        "<row><c s='1' r='XFD1'><v>1</v></c></row><row><c r = \"a1048576\" ><v>1</v></c></row>",
        f"<row>{'<c/>' * 16383}<c><v>1</v></c></row><row r='900000'><c><v>1</v></c></row>",
        '<x:row r="1"><x:c r="A1"><x:v>1</x:v></x:c></x:row><x:row r="4000000000"><x:c><x:v>1</x:v></x:c></x:row>',
    ],
)
def test_a_cell_in_the_last_corner_of_a_sheet_does_not_end_the_process(shop: Shop, sheet: str) -> None:
    good = workbook(shop.folder / "good.xlsx", {"A1": "x"})
    place = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    with zipfile.ZipFile(good) as read, zipfile.ZipFile(shop.source / "b.xlsx", "w", zipfile.ZIP_DEFLATED) as packed:
        for name in read.namelist():
            text = f"<worksheet {place} {place.replace('xmlns', 'xmlns:x')}><sheetData>{sheet}</sheetData></worksheet>"
            packed.writestr(name, text if name.endswith("sheet1.xml") else read.read(name))
    assert "cells from its first to its last" in reason(shop, "b.xlsx")


def test_a_wide_sheet_one_far_from_the_corner_and_a_far_empty_cell_are_read(shop: Shop) -> None:
    columns = ["AAA", "AAB", "AAC", "AAD", "AAE", "AAF", "AAG", "AAH"]
    rows = [HEADER, line("3"), line("4")]
    cells = {f"{at}{n}": text for n, row in enumerate(rows, 1_000_000) for at, text in zip(columns, row, strict=True)}
    path = workbook(shop.source / "b.xlsx", cells)
    made = openpyxl.load_workbook(path)
    assert made.active is not None
    made.active["A1"].font = openpyxl.styles.Font(bold=True)
    made.save(path)
    assert shop.night().success
    assert shop.statuses["b.xlsx"] == "loaded"
    assert [invoice for file, invoice in shop.invoices if file == "b.xlsx"] == ["3", "4"]


def test_quotes_that_are_never_closed_are_not_sought_an_end_of_again_and_again(shop: Shop) -> None:
    def took(lines: int) -> float:
        # From inside a quote as from outside, such a line ends inside one.
        rows = [",".join(HEADER), *(['x","y'] * lines), ",".join(line("3"))]
        (shop.source / "b.csv").write_text("\n".join(rows) + "\n", "utf-8")
        before = time.process_time()
        assert shop.night().success
        return time.process_time() - before

    took(1_000)
    few, many = took(20_000), took(200_000)
    assert many < 10 * few + 10
    assert shop.rows("select lines, malformed from ingested_files where source_file = 'b.csv'") == [(200_001, 200_000)]


def test_a_fault_of_many_lines_costs_no_good_record_of_several_lines(shop: Shop) -> None:
    good = line("3", description="of\n" * 8 + "several lines")
    path = write_csv(shop.source / "b.csv", [])
    with path.open("a", encoding="utf-8") as file:
        file.write('x","y\n' * 2000)
    written = write_csv(shop.folder / "good.csv", [good] * 50, header=line("4"))
    path.write_text(path.read_text("utf-8") + written.read_text("utf-8"), "utf-8")
    assert shop.night().success
    assert shop.rows("select lines, malformed from ingested_files where source_file = 'b.csv'") == [(2051, 2000)]
