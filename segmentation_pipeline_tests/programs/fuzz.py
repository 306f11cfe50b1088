"""Fuzz the ingestion: any bytes give a message or all their lines, never a traceback, a hang or a lost line.

`make fuzz` runs it for five minutes and writes the figures into docs/reliability.md; the tests run a few inputs. Each
input depends on its number only, so `--number N` repeats a failure and prints the smallest input that still has it.
Inputs run in child processes, so that a crash or a hang is a failure like others.
"""

import argparse
import contextlib
import csv
import gzip
import io
import json
import os
import re
import resource
import select
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from decimal import Decimal
from itertools import islice
from pathlib import Path
from string import ascii_uppercase
from typing import Any
from xml.etree import ElementTree

import duckdb
import zstandard

from segmentation_pipeline.config.loading import load_settings
from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.errors import RetailerError, SourceError
from segmentation_pipeline.ingestion import cleaning
from segmentation_pipeline.ingestion.discovery import source_files
from segmentation_pipeline.ingestion.incremental import LoadRequest, load_source
from segmentation_pipeline.tables.catalog import check_select, select_of
from segmentation_pipeline.warehouse.database import Warehouse
from segmentation_pipeline.warehouse.table_write import TableWrite
from segmentation_pipeline_tests.programs.fuzz_inputs import Input, input_of, write_text
from segmentation_pipeline_tests.scenarios import HEADER, Line, line, regular_customers, retailer_settings, write_csv

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reliability.md"
MEMORY = Path("/dev/shm")  # noqa: S108 - each child has a folder of its own there
MINUTES = 5
# Most inputs are a few kilobytes and take hundredths of a second.
SLOW_SECONDS, HANG_SECONDS = 10.0, 30.0
# A sheet is in memory as the rectangle of its cells; one that takes more would abort the run.
MOST_BYTES = 4 << 30
# One in so many valid retailer files loads the definitions, or runs the job, which takes seconds.
LOADED_ONE_IN, RUN_ONE_IN = 10, 100
# Only the beginning of a longer line is kept, and a record has fewer lines.
_LONG_LINE, _MANY_LINES = 100_000, 1_000
_CLEANING_TABLES = ("clean_transactions", "rejected_transactions", "cleaning_report", "unparsed_values")


class Ingestion:
    """A working database for all inputs; each is loaded beside a good file, which must load too."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.source = folder, folder / "in"
        self.source.mkdir()
        self.warehouse = Warehouse(duckdb.connect(str(folder / "work.duckdb")))
        self.good = write_csv(folder / "good" / "a.csv", regular_customers()).parent
        self.validated = 0

    def failures(self, tested: Input) -> list[str]:
        """Load an input and return what is wrong with the result."""
        started = time.monotonic()
        try:
            found = self._retailer_file(tested) if tested.is_retailer_file else self._source_files(tested)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a panic of a native library is not an Exception
            self._roll_back()
            found = [f"{type(error).__name__}: {str(error)[:300]}"]
        if (seconds := time.monotonic() - started) > SLOW_SECONDS:
            found.append(f"it took {seconds:.0f} s")
        return found

    def _roll_back(self) -> None:
        with contextlib.suppress(duckdb.Error):
            self.warehouse.connection.rollback()

    def _source_files(self, tested: Input) -> list[str]:
        for path in self.source.iterdir():
            path.unlink()
        for name, data in tested.files.items():
            (self.source / name).write_bytes(data)
        with (self.source / "a.csv").open("w", encoding=tested.source["encoding"], newline="") as file:
            at = "01/03/2024 10:00" if "date_format" in tested.source else "2024-03-01 10:00:00"
            good = [line(at=at), line("536366", at=at), line("C536367", quantity="-1", at=at)]
            file.write(write_text(tested.source, tested.source["delimiter"] or ",", good))
        # DuckDB loses other lines with one thread than with several.
        self.warehouse.connection.execute(f"set threads = {1 + tested.number % 2}")
        settings = Retailer.model_validate(retailer_settings(self.source, source=tested.source, columns=tested.columns))
        found = self._load(settings, self.source)
        if self._rows(_LINES_OF, "a.csv") != [*map(_typed, good)]:
            found.append("the good file beside it has other lines")
        files = self._rows("select source_file, status, reason from ingested_files where source_file > 'a.csv'")
        for name, status, reason in files:
            if status == "loaded":
                found += [
                    f"{name}: {difference}"
                    for difference in _differences(tested, name, self.source, self._rows(_TEXTS, name))
                ]
            elif not re.fullmatch(rf"{re.escape(name)}( \[.*\])?: .+", reason) or "\0" in reason:
                found.append(f"{name}: its reason is not a message: {reason!r}")
        return found

    def _load(self, settings: Retailer, base: Path, *, may_be_rejected: bool = False) -> list[str]:
        """Run the ingestion and the cleaning, and return what is wrong with their tables."""
        request = LoadRequest("a run", "", str(base), reload=True)
        files = source_files(settings.source, base)
        with load_source(self.warehouse, settings, files, self.folder / "spill", request) as load:
            results = self.warehouse.write(load.writes, settings.sql_values, load.inputs)
        for table in _CLEANING_TABLES:
            writes = [TableWrite(table, select_of(table))]
            results += self.warehouse.write(writes, settings.sql_values, cleaning.query_inputs(settings))
        if may_be_rejected:
            # The rules of a random retailer file may reject every line.
            return []
        found = [f"{one.table} breaks its contract: {one.violations}" for one in results if one.violations]
        for check in ("lines_of_each_file", "lines_and_money_reconcile"):
            found += [f"{check}: {row}" for row in self.warehouse.rows(check_select(f"{check}"))]
        if left := list((self.folder / "spill").iterdir()):
            found.append(f"left behind: {left}")
        return found

    def _rows(self, select: str, *values: Any) -> list[tuple[Any, ...]]:
        return self.warehouse.connection.execute(select, list(values)).fetchall()

    def _retailer_file(self, tested: Input) -> list[str]:
        path = self.folder / "m.toml"
        path.write_bytes(tested.files["m.toml"])
        for source in ("", str(self.good)):
            try:
                settings = load_settings(str(path), source)
            except RetailerError as error:
                if not all(message.startswith((path.name, str(path))) for message in str(error).split("\n")):
                    return [f"not a message: {error}"]
                if tested.number % LOADED_ONE_IN == 0:
                    _definitions(path)
                return []
        self.validated += 1
        if self.validated % LOADED_ONE_IN == 0:
            _definitions(path)
        with contextlib.suppress(SourceError):
            self._load(settings, self.good, may_be_rejected=True)
        return self._run(path) if self.validated % RUN_ONE_IN == 0 else []

    def _run(self, path: Path) -> list[str]:
        """Run the job and return the failures without a message; others are allowed."""
        from segmentation_pipeline_tests.scenarios import run_job

        data = self.folder / "data"
        environment = {"SEGMENTATION_RETAILER": path, "SEGMENTATION_SOURCE": self.good, "SEGMENTATION_DATA": data}
        os.environ |= {name: str(value) for name, value in environment.items()}
        result = run_job()
        shutil.rmtree(data, ignore_errors=True)
        failures = [event.step_failure_data for event in result.get_step_failure_events()]
        return [str(failure.error)[:500] for failure in failures if not failure.user_failure_data]


def _definitions(path: Path) -> None:
    from segmentation_pipeline.definitions import defs

    os.environ["SEGMENTATION_RETAILER"] = str(path)
    defs().resolve_job_def("nightly_segmentation")


# -- comparison with another reader

Lines = Sequence[tuple[Any, ...]]
_SURROGATE = re.compile("[\ud800-\udfff]")
# Sheet, number, description, country, text of a malformed record, and all text of each line.
_TEXTS = """
    select source_sheet, source_line, description, country, unparsed ->> 'line', concat_ws(chr(10), invoice, stock_code,
        description, customer_id, country, unparsed)
    from raw_transactions where source_file = ? order by 1, 2"""
_LINES_OF = "select invoice, quantity from raw_transactions where source_file = ? order by source_line"


def _typed(good: Line) -> tuple[str, Decimal]:
    return good[0], Decimal(good[3])


def _differences(tested: Input, name: str, folder: Path, lines: Lines) -> Iterator[str]:
    """Yield differences between the lines of a loaded file and those that another reader of its format finds."""
    data = tested.files[name]
    if name.endswith("parquet"):
        return _differences_of_parquet(folder / name, lines)
    if name.endswith("xlsx"):
        return _differences_of_xlsx(data, tested.source, lines)
    if name.endswith((".xls", ".xlsb", ".ods")):
        # No other reader of these tells where a damaged one ends: only crashes and hangs are found.
        return iter(())
    try:
        text = _decoded(_decompressed(name, data), tested.source["encoding"])
    except (OSError, EOFError, UnicodeError, zlib.error, zstandard.ZstdError) as error:
        return iter([f"it was loaded, and Python cannot read it: {error}"])
    return _differences_of_csv(text, tested.source, lines) if ".csv" in name else _differences_of_jsonl(text, lines)


def _decoded(data: bytes, encoding: str) -> str:
    """Return a text; a byte order mark says its encoding."""
    marks = {b"\xff\xfe\0\0": "utf-32", b"\0\0\xfe\xff": "utf-32", b"\xef\xbb\xbf": "utf-8"}
    marks |= {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
    marked = next((marked for mark, marked in marks.items() if data.startswith(mark)), encoding)
    return data.decode(marked, "surrogateescape").removeprefix("\ufeff")


def _decompressed(name: str, data: bytes) -> bytes:
    if name.endswith(".zst"):
        return zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data), read_across_frames=True).read()
    return gzip.decompress(data) if name.endswith(".gz") else data


def _from_header(text: str, source: dict[str, Any]) -> tuple[str, str]:
    """Return a text without the lines that are skipped, and its delimiter."""
    physical = io.StringIO(text, newline="").readlines()
    skipped, delimiter = source.get("skip_lines", 0), source["delimiter"]
    for number in (skipped, 0):
        line = physical[number].rstrip("\r\n") if number < len(physical) else ""
        if found := re.fullmatch(r'"?sep=([^\w"]?)"?[,;\t| ]*', line, re.IGNORECASE):
            skipped, delimiter = max(skipped, number + 1), delimiter or found[1]
    return "".join(physical[skipped:]), delimiter or ","


def _differences_of_csv(text: str, source: dict[str, Any], lines: Lines) -> Iterator[str]:
    text, delimiter = _from_header(text, source)
    usual = len(text.encode(errors="surrogatepass")) < _LONG_LINE and len(text.splitlines()) < _MANY_LINES
    if not usual:
        return
    has_header = source.get("header", True)
    if delimiter == "whitespace":
        yield from _missing_marks_of_whitespace(text, lines, has_header=has_header)
        return
    try:
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True) if row]
    except csv.Error:
        rows = []
    if rows and {len(row) for row in rows} == {len(rows[0])} and not _SURROGATE.search(text):
        names, records = (rows[0], rows[1:]) if has_header else (HEADER, rows)
        place = {"".join(name.split()).casefold(): at for at, name in enumerate(names)}
        described, country = place["description"], place["country"]
        # DuckDB also takes a quote behind blanks for the beginning of a quoted cell.
        bare = [[re.sub(r'^ +"(.*)"$', r"\1", cell) for cell in row] for row in records]
        expected = [(row[described] or None, row[country].strip() or None) for row in bare]
        got = [(line_read[2], (line_read[3] or "").strip() or None) for line_read in lines]
        if expected != got:
            yield f"Python reads {len(expected)} records, {len(got)} are loaded; {_first(expected, got)}"
    header_reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header = next((row for row in header_reader if row), []) if has_header else ["?"] * _usual_width(text, delimiter)
    if len(header) == len(HEADER):
        below = io.StringIO(text, newline="")
        for _ in range(header_reader.line_num):
            below.readline()
        yield from _missing_marks(below.read(), lines)


def _missing_marks_of_whitespace(text: str, lines: Lines, *, has_header: bool) -> Iterator[str]:
    physical = [line for line in io.StringIO(text, newline="") if line.strip(" \t\r\n")]
    header = physical.pop(0) if has_header and physical else ""
    if (_width_of_whitespace(header) if has_header else _usual_width(text, "whitespace")) == len(HEADER):
        yield from _missing_marks("".join(physical), lines)


def _usual_width(text: str, delimiter: str) -> int:
    """Return how many columns most of the first lines have: a file without a header has as many."""
    widths = Counter[int]()
    for one in islice(io.StringIO(text, newline=""), 100):
        with contextlib.suppress(csv.Error):
            if delimiter == "whitespace":
                widths[_width_of_whitespace(one)] += 1
            else:
                widths[len(next(csv.reader([one], delimiter=delimiter, strict=True), []))] += 1
    del widths[0]
    return widths.most_common(1)[0][0] if widths else 0


def _width_of_whitespace(line: str) -> int:
    return len(re.findall(r'"(?:[^"]|"")*"|[^ \t\r\n]+', line))


def _first(expected: list[Any], got: list[Any]) -> str:
    different = [pair for pair in zip(expected, got, strict=False) if pair[0] != pair[1]]
    return f"first {different[0]}"[:300] if different else "the common ones are the same"


def _missing_marks(text: str, lines: Lines) -> Iterator[str]:
    mark = re.compile(r"Q\d{4}Z")
    loaded = Counter(found for line_read in lines for found in mark.findall(line_read[5]))
    if missed := Counter(mark.findall(text)) - loaded:
        yield f"lost: {dict(missed)}"


def _differences_of_jsonl(text: str, lines: Lines) -> Iterator[str]:
    physical = [one for one in re.split(r"\r\n|\r|\n", text) if one.strip()]
    if len(physical) != len(lines):
        yield f"{len(physical)} lines that are not blank, {len(lines)} are loaded"
        return
    for one, (_, number, description, _, malformed, _) in zip(physical, lines, strict=True):
        if malformed:
            if malformed[:50] != one[:50].encode(errors="surrogateescape").decode(errors="backslashreplace")[:50]:
                yield f"line {number} is stored as {malformed[:50]!r}, and is {one[:50]!r}"
            continue
        try:
            item = json.loads(one)
        except (ValueError, RecursionError):
            continue
        expected = item.get("Description") if isinstance(item, dict) else None
        if (
            isinstance(expected, str)
            and "\0" not in expected
            and one.count('"Description"') == 1
            and description != (expected or None)
        ):
            yield f"line {number} is described as {description!r}, and as {expected!r} in the file"


def _differences_of_xlsx(data: bytes, source: dict[str, Any], lines: Lines) -> Iterator[str]:
    """Compare the number of rows with a value where Python can read the sheets, except those with XML entities."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as packed:
            names = packed.namelist()
            texts = {name: packed.read(name) for name in names}
    except Exception:  # compared only where Python can read the file
        return
    if len(names) != len(set(names)) or any(b"<!" in text for text in texts.values()):
        return
    sheets = {"2010": "xl/worksheets/sheet1.xml", "2011": "xl/worksheets/sheet2.xml"}
    for sheet, name in sheets.items():
        if name not in texts:
            continue
        try:
            tree = ElementTree.fromstring(texts[name])  # noqa: S314 - without entities
        except (ElementTree.ParseError, LookupError):
            continue
        valued = [
            cell.get("r") or "" for cell in tree.iter() if any(v.tag.rpartition("}")[2] == "v" and v.text for v in cell)
        ]
        rows = {reference.lstrip(ascii_uppercase) for reference in valued}
        loaded = [line_read for line_read in lines if line_read[0] == sheet]
        if not loaded or not all(map(str.isdecimal, rows)):
            continue
        below = [row for row in rows if int(row) > source.get("skip_lines", 0)]
        if len(below) - source.get("header", True) != len(loaded):
            yield f"sheet {sheet} has {len(below)} rows with a value, {len(loaded)} lines are loaded"


def _differences_of_parquet(path: Path, lines: Lines) -> Iterator[str]:
    if not path.stat().st_size:
        return
    with duckdb.connect(config={"threads": 1}) as connection:
        expected = connection.execute("select Description from read_parquet($path)", {"path": str(path)}).fetchall()
    if [(text or None,) for (text,) in expected] != [(line_read[2],) for line_read in lines]:
        yield f"{len(expected)} rows, {len(lines)} lines are loaded, or they differ"


# -- running


@dataclass
class Figures:
    """The number of inputs tried, and the failures by the input's number."""

    tried: int = 0
    failures: dict[int, list[str]] = field(default_factory=dict)


def child(first: int, step: int, count: int) -> None:
    """Try inputs one after the other; print the number of each before it is tried, and its failures after."""
    resource.setrlimit(resource.RLIMIT_AS, (2 * MOST_BYTES, 2 * MOST_BYTES))
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        os.environ |= {"SEGMENTATION_DATA": f"{folder}/data", "DAGSTER_HOME": ""}
        ingestion = Ingestion(Path(folder))
        for number in range(first, first + step * count, step):
            print(json.dumps({"at": number}), flush=True)
            tested = input_of(number)
            found = ingestion.failures(tested)
            # In kilobytes. It never falls, so the first input above the limit ends the child.
            if (most := resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024) > MOST_BYTES:
                found.append(f"{most >> 20} MB of memory")
            print(json.dumps({"at": number, "tried": len(tested.files), "failures": found}), flush=True)
            if most > MOST_BYTES:
                break
    print(json.dumps({"done": True}), flush=True)


def watched(first: int, step: int, until: float, most: int, batch: int = 400) -> Figures:
    """Try inputs in child processes until a time, or so many of them."""
    figures, number, end = Figures(), first, first + step * most
    while number < end and time.monotonic() < until:
        count = min(batch, (end - number + step - 1) // step)
        command = [
            sys.executable,
            "-m",
            "segmentation_pipeline_tests.programs.fuzz",
            "--child",
            f"{number},{step},{count}",
        ]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            number = _followed(process, figures, number, until) + step
    return figures


def _followed(process: "subprocess.Popen[bytes]", figures: Figures, at: int, until: float) -> int:
    """Read what a child prints and return the last number that it tried. A silent or dead child is a failure."""
    assert process.stdout is not None
    rest = b""
    while True:
        if not select.select([process.stdout], [], [], HANG_SECONDS)[0]:
            process.kill()
            return _found(figures, at, [f"no end after {HANG_SECONDS:.0f} s"])
        if not (some := os.read(process.stdout.fileno(), 65_536)):
            break
        *whole, rest = (rest + some).split(b"\n")
        for report in map(json.loads, whole):
            if report.get("done"):
                return at
            at = report["at"]
            figures.tried += report.get("tried", 0)
            if failures := report.get("failures"):
                _found(figures, at, failures)
        if time.monotonic() > until:
            process.kill()
            return at
    assert process.stderr is not None
    last_output = process.stderr.read().decode(errors="replace")[-1_000:]
    return _found(figures, at, [f"its process ended with {process.wait()}: {last_output}"])


def _found(figures: Figures, at: int, failures: list[str]) -> int:
    figures.failures[at] = failures
    print(json.dumps({at: failures}), file=sys.stderr, flush=True)
    return at


def run(seconds: float, most: int = 10**9, first: int = 0, processes: int = 2) -> Figures:
    """Try inputs in parallel."""
    until = time.monotonic() + seconds
    with ThreadPoolExecutor(processes) as pool:
        parts = list(
            pool.map(lambda part: watched(first + part, processes, until, most // processes), range(processes))
        )
    return Figures(
        sum(part.tried for part in parts), {at: found for part in parts for at, found in part.failures.items()}
    )


def smallest(tested: Input) -> Input:
    """Reduce an input to the smallest that still fails: to one file, and by removing ever smaller pieces of it."""
    with tempfile.TemporaryDirectory() as folder:
        ingestion = Ingestion(Path(folder))

        def kind_of(files: dict[str, bytes]) -> str:
            found = ingestion.failures(replace(tested, files=files))
            return re.sub(r"m?\d+\S*", "", found[0])[:40] if found else ""

        expected, files = kind_of(tested.files), tested.files
        files = next(({name: data} for name, data in files.items() if kind_of({name: data}) == expected), files)
        name, data = next(iter(files.items()))
        size = len(data) // 2 if expected and len(files) == 1 else 0
        while size:
            at = 0
            while at < len(data):
                if kind_of({name: data[:at] + data[at + size :]}) == expected:
                    data = data[:at] + data[at + size :]
                else:
                    at += size
            size //= 2
    return replace(tested, files={**files, name: data})


def main() -> int:
    """Fuzz for five minutes, or repeat one input."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=MINUTES * 60)
    parser.add_argument("--first", type=int, default=0, help="the number of the first input")
    parser.add_argument("--number", type=int, help="repeat this input, reduced to the smallest that fails")
    parser.add_argument("--page", action="store_true", help="write the figures into docs/reliability.md")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(*map(int, arguments.child.split(",")))
        return 0
    if arguments.number is not None:
        found = smallest(input_of(arguments.number))
        with tempfile.TemporaryDirectory() as folder:
            print(found.source, Ingestion(Path(folder)).failures(found), repr(found.files)[:4_000], sep="\n")
        return 0
    figures = run(arguments.seconds, first=arguments.first)
    message = (
        f"- {figures.tried:,} inputs tried in {arguments.seconds / 60:.0f} minutes (CSV, workbooks, JSON lines,"
        f" Parquet, retailer files): {len(figures.failures)} failures. DuckDB {duckdb.__version__}."
    )
    print(message)
    if arguments.page:
        between = re.compile(r"(<!-- fuzz -->\n).*?(<!-- end of fuzz -->)", re.DOTALL)
        text = PAGE.read_text("utf-8")
        PAGE.write_text(between.sub(lambda found: f"{found[1]}{message}\n{found[2]}", text), "utf-8")
    return bool(figures.failures)


if __name__ == "__main__":
    sys.exit(main())
