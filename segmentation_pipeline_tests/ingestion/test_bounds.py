"""Files made to fill disk or memory, or to take for ever, are quarantined; the others load."""

import gzip
import json
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import openpyxl
import pytest
import zstandard

from segmentation_pipeline_tests.ingestion.test_incremental import Shop
from segmentation_pipeline_tests.scenarios import HEADER, line, write_csv

MB = 10**6


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    shop = Shop(tmp_path / "shop", monkeypatch)
    shop.file("a.csv", [line("1"), line("2")])
    return shop


def reason(shop: Shop, name: str) -> str:
    """Load the source and return why a file was quarantined; the other file loads and no temporary file remains."""
    load = shop.load()
    assert load.success, load.message
    assert shop.statuses == {"a.csv": "loaded", name: "quarantined"}
    assert not list((shop.home / "tmp").iterdir())
    [(reason,)] = shop.rows("select reason from ingested_files where status = 'quarantined'")
    return str(reason)


def peak_memory(limit: int) -> int:
    """Return the peak memory of an ingestion run in a process whose address space is limited."""
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
messages = [event.step_failure_data.user_failure_data.description for event in result.get_step_failure_events()]
# ru_maxrss would be inherited from the parent process.
peak = 1024 * int(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0])
print("done", result.success, repr(messages).replace(" ", "_"), peak)
"""
    environment = os.environ | {"SEGMENTATION_MEMORY_LIMIT": "500MB"}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert "done" in ended.stdout, ended.stderr[-3000:]
    success, messages, peak, *_ = ended.stdout.rpartition("done")[2].split()
    assert success == "True", messages
    return int(peak)


def sparse(path: Path, beginning: bytes, size: int, end: bytes = b"") -> Path:
    """Write a large file without a line break that takes no space on the disk."""
    path.write_bytes(beginning)
    os.truncate(path, size)
    with path.open("ab") as file:
        file.write(end)
    return path


SOLD = ",".join(line("3")).encode() + b"\n"


def test_huge_lines_are_never_whole_in_memory(shop: Shop) -> None:
    """Of 200 MB each, in one process: a long line, files without a line break, and compressed lines."""
    header = ",".join(HEADER).encode() + b"\n"
    sparse(shop.source / "line.csv", header + SOLD, 200 * MB, b"\n" + SOLD)
    sparse(shop.source / "whole.csv", b"", 200 * MB)
    sparse(shop.source / "whole.jsonl", b"", 200 * MB)
    record = json.dumps(dict(zip(HEADER, line("3"), strict=True))).encode() + b"\n"
    for name, good in {"line.csv.gz": header, "line.jsonl.zst": record}.items():
        path = shop.source / name
        with gzip.open(path, "wb", 1) if name.endswith("gz") else zstandard.open(path, "wb") as file:
            file.write(good)
            for _ in range(200):
                file.write(b"x" * MB)
    assert peak_memory(4_000 * MB) < 400 * MB
    assert {name for name, status in shop.statuses.items() if status == "quarantined"} == {"whole.csv", "whole.jsonl"}
    select = "select source_line, invoice, length(unparsed ->> 'line') from raw_transactions"
    assert shop.rows(f"{select} where source_file = 'line.csv' order by 1") == [
        (2, "3", None),
        (3, None, 100_000),
        (4, "3", None),
    ]
    malformed = (
        "select source_file, count(*) from raw_transactions where unparsed is not null group by all order by all"
    )
    assert shop.rows(malformed) == [("line.csv", 1), ("line.csv.gz", 1), ("line.jsonl.zst", 1)]


@pytest.mark.parametrize("name", ["b.csv.gz", "b.jsonl.gz", "b.csv.zst", "b.xlsx"])
def test_file_that_unpacks_beyond_the_limit_is_quarantined(shop: Shop, name: str) -> None:
    shop.configure(source={"max_unpacked_gb": 0.005})
    path = shop.source / name
    if name.endswith(".gz"):
        with gzip.open(path, "wb") as file:
            file.write(b"\n" * 6 * MB)
    elif name.endswith(".zst"):
        path.write_bytes(zstandard.compress(b"\n" * 6 * MB))
    else:
        bomb(path, 6 * MB)
    assert path.stat().st_size < MB
    assert "unpacks to more than 0.005 GB, the limit of source.max_unpacked_gb" in reason(shop, name)


def bomb(path: Path, size: int) -> Path:
    """Write a workbook that contains a member of this size."""
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


def test_workbook_with_a_false_size_is_quarantined(shop: Shop) -> None:
    shop.configure(source={"max_unpacked_gb": 0.005})
    path = bomb(shop.source / "b.xlsx", 6 * MB)
    content = path.read_bytes()
    assert content.count((6 * MB).to_bytes(4, "little")) == 2
    path.write_bytes(content.replace((6 * MB).to_bytes(4, "little"), (100).to_bytes(4, "little")))
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
def test_cell_in_the_last_corner_does_not_abort_the_process(shop: Shop, sheet: str) -> None:
    good = workbook(shop.folder / "good.xlsx", {"A1": "x"})
    place = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    with zipfile.ZipFile(good) as read, zipfile.ZipFile(shop.source / "b.xlsx", "w", zipfile.ZIP_DEFLATED) as packed:
        for name in read.namelist():
            text = f"<worksheet {place} {place.replace('xmlns', 'xmlns:x')}><sheetData>{sheet}</sheetData></worksheet>"
            packed.writestr(name, text if name.endswith("sheet1.xml") else read.read(name))
    assert "cells from its first to its last" in reason(shop, "b.xlsx")


def test_distant_rows_columns_and_empty_cells_are_read(shop: Shop) -> None:
    columns = ["AAA", "AAB", "AAC", "AAD", "AAE", "AAF", "AAG", "AAH"]
    rows = [HEADER, line("3"), line("4")]
    cells = {f"{at}{n}": text for n, row in enumerate(rows, 1_000_000) for at, text in zip(columns, row, strict=True)}
    path = workbook(shop.source / "b.xlsx", cells)
    made = openpyxl.load_workbook(path)
    assert made.active is not None
    made.active["A1"].font = openpyxl.styles.Font(bold=True)
    made.save(path)
    assert shop.load().success
    assert shop.statuses["b.xlsx"] == "loaded"
    assert [invoice for file, invoice in shop.invoices if file == "b.xlsx"] == ["3", "4"]


def test_unclosed_quotes_take_time_linear_in_lines(shop: Shop) -> None:
    def seconds(lines: int) -> float:
        # Read from inside or outside a quote, such a line ends inside one.
        rows = [",".join(HEADER), *(['x","y'] * lines), ",".join(line("3"))]
        (shop.source / "b.csv").write_text("\n".join(rows) + "\n", "utf-8")
        before = time.process_time()
        assert shop.load().success
        return time.process_time() - before

    seconds(1_000)
    few, many = seconds(5_000), seconds(50_000)
    assert many < 10 * few + 5
    assert shop.rows("select lines, malformed from ingested_files where source_file = 'b.csv'") == [(50_001, 50_000)]


def test_malformed_lines_do_not_spoil_records_of_several_lines(shop: Shop) -> None:
    good = line("3", description="of\n" * 8 + "several lines")
    path = write_csv(shop.source / "b.csv", [])
    with path.open("a", encoding="utf-8") as file:
        file.write('x","y\n' * 2000)
    written = write_csv(shop.folder / "good.csv", [good] * 50, header=line("4"))
    path.write_text(path.read_text("utf-8") + written.read_text("utf-8"), "utf-8")
    assert shop.load().success
    assert shop.rows("select lines, malformed from ingested_files where source_file = 'b.csv'") == [(2051, 2000)]
