"""Whatever bytes come as a source or as a retailer file: a sentence or all its lines, never a traceback or a hang.

`make fuzz` runs it for five minutes and writes the figures into docs/reliability.md; the tests run a few inputs. Each
input is told by its number, so a fault is seen again with `--number N`, which also prints the smallest input that still
has it. Inputs are tried in child processes, so that one that kills its process, or never ends, is a fault like others.
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
from pathlib import Path
from string import ascii_uppercase
from typing import Any
from xml.etree import ElementTree

import duckdb

from segmentation_pipeline.config.loading import load_settings
from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.errors import RetailerError, SourceError
from segmentation_pipeline.ingestion import cleaning
from segmentation_pipeline.ingestion.discovery import source_files
from segmentation_pipeline.ingestion.incremental import LoadRequest, load_source
from segmentation_pipeline.tables.catalog import check_select, select_of
from segmentation_pipeline.warehouse.database import TableWrite, Warehouse
from segmentation_pipeline_tests.programs.fuzz_inputs import Input, input_of
from segmentation_pipeline_tests.scenarios import HEADER, Line, line, regular_customers, retailer_settings, write_csv

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reliability.md"
MEMORY = Path("/dev/shm")  # noqa: S108 - folders of their own in it
MINUTES = 5
# An input is a few kilobytes, of which most take hundredths of a second.
SLOW_SECONDS, HANG_SECONDS = 10.0, 30.0
# A sheet is laid out whole in memory, as far as its cells lie apart; what takes more than this would end the run.
MOST_BYTES = 4 << 30
# Whole runs take seconds: of so many retailer files that validate, one.
LOADED_ONE_IN, RUN_ONE_IN = 10, 100
# Of a line that is longer only the beginning is kept, and so many lines are no record.
_LONG_LINE, _MANY_LINES = 100_000, 1_000
_AROUND = ("clean_transactions", "rejected_transactions", "cleaning_report")


class Mouth:
    """A working database, used again for every input; beside each lies a good file that must load whatever comes."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.source = folder, folder / "in"
        self.source.mkdir()
        self.warehouse = Warehouse(duckdb.connect(str(folder / "work.duckdb")))
        self.good = write_csv(folder / "good" / "a.csv", regular_customers()).parent
        self.validated = 0

    def faults(self, given: Input) -> list[str]:
        """What is wrong with what became of an input."""
        begun = time.monotonic()
        try:
            found = self._retailer_file(given) if given.is_retailer_file else self._source_files(given)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a panic of a native library is no Exception
            self._begin_anew()
            found = [f"{type(error).__name__}: {str(error)[:300]}"]
        if (seconds := time.monotonic() - begun) > SLOW_SECONDS:
            found.append(f"it took {seconds:.0f} s")
        return found

    def _begin_anew(self) -> None:
        with contextlib.suppress(duckdb.Error):
            self.warehouse.connection.rollback()

    def _source_files(self, given: Input) -> list[str]:
        for left in self.source.iterdir():
            left.unlink()
        for name, data in given.files.items():
            (self.source / name).write_bytes(data)
        with (self.source / "a.csv").open("w", encoding=given.source["encoding"], newline="") as file:
            at = "01/03/2024 10:00" if "date_format" in given.source else "2024-03-01 10:00:00"
            good = [line(at=at), line("536366", at=at), line("C536367", quantity="-1", at=at)]
            csv.writer(file, delimiter=given.source["delimiter"]).writerows([HEADER, *good])
        # One thread alone loses other things than several.
        self.warehouse.connection.execute(f"set threads = {1 + given.number % 2}")
        settings = Retailer.model_validate(retailer_settings(self.source, source=given.source))
        found = self._taken_in(settings, self.source)
        if self._rows(_LINES_OF, "a.csv") != [*map(_typed, good)]:
            found.append("the good file beside it has other lines")
        ledger = self._rows("select source_file, status, reason from ingested_files where source_file > 'a.csv'")
        for name, status, reason in ledger:
            if status == "loaded":
                found += [f"{name}: {lost}" for lost in _lost(given, name, self.source, self._rows(_TOLD, name))]
            elif not re.fullmatch(rf"{re.escape(name)}( \[.*\])?: .+", reason) or "\0" in reason:
                found.append(f"{name}: its reason is no sentence: {reason!r}")
        return found

    def _taken_in(self, settings: Retailer, base: Path, *, may_be_refused: bool = False) -> list[str]:
        """What is wrong with the tables of the mouth and of the cleaning after a run over the files."""
        asked = LoadRequest("a run", "", str(base), reload=True)
        files = source_files(settings.source, base)
        with load_source(self.warehouse, settings, files, self.folder / "spill", asked) as taken:
            outcomes = self.warehouse.write(taken.writes, settings.sql_values, taken.inputs)
        for table in _AROUND:
            writes = [TableWrite(table, select_of(table))]
            outcomes += self.warehouse.write(writes, settings.sql_values, cleaning.query_inputs(settings))
        if may_be_refused:
            # The rules of a strange retailer file may refuse every line.
            return []
        found = [f"{one.table} breaks its contract: {one.violations}" for one in outcomes if one.violations]
        for check in ("lines_of_each_file", "lines_and_money_reconcile"):
            found += [f"{check}: {row}" for row in self.warehouse.rows(check_select(f"{check}"))]
        if left := list((self.folder / "spill").iterdir()):
            found.append(f"left behind: {left}")
        return found

    def _rows(self, select: str, *values: Any) -> list[tuple[Any, ...]]:
        return self.warehouse.connection.execute(select, list(values)).fetchall()

    def _retailer_file(self, given: Input) -> list[str]:
        path = self.folder / "m.toml"
        path.write_bytes(given.files["m.toml"])
        for source in ("", str(self.good)):
            try:
                settings = load_settings(str(path), source)
            except RetailerError as error:
                if not all(said.startswith((path.name, str(path))) for said in str(error).split("\n")):
                    return [f"no sentence: {error}"]
                if given.number % LOADED_ONE_IN == 0:
                    _definitions(path)
                return []
        self.validated += 1
        if self.validated % LOADED_ONE_IN == 0:
            _definitions(path)
        with contextlib.suppress(SourceError):
            self._taken_in(settings, self.good, may_be_refused=True)
        return self._run(path) if self.validated % RUN_ONE_IN == 0 else []

    def _run(self, path: Path) -> list[str]:
        """What is wrong with a whole run: it may fail, with a sentence."""
        import dagster as dg

        from segmentation_pipeline_tests.scenarios import run_job

        data = self.folder / "data"
        named = {"SEGMENTATION_RETAILER": path, "SEGMENTATION_SOURCE": self.good, "SEGMENTATION_DATA": data}
        os.environ |= {name: str(value) for name, value in named.items()}
        with dg.DagsterInstance.ephemeral() as instance:
            result = run_job(instance)
        shutil.rmtree(data, ignore_errors=True)
        failures = [event.step_failure_data for event in result.get_step_failure_events()]
        return [str(failure.error)[:500] for failure in failures if not failure.user_failure_data]


def _definitions(path: Path) -> None:
    from segmentation_pipeline.definitions import defs

    os.environ["SEGMENTATION_RETAILER"] = str(path)
    defs().resolve_job_def("nightly_segmentation")


# -- what another reader finds

Told = Sequence[tuple[Any, ...]]
_SURROGATE = re.compile("[\ud800-\udfff]")
# Of each line sheet, number, description, country, text if it is broken, and all of its text.
_TOLD = """
    select source_sheet, source_line, description, country, unparsed ->> 'line', concat_ws(chr(10), invoice, stock_code,
        description, customer_id, country, unparsed)
    from raw_transactions where source_file = ? order by 1, 2"""
_LINES_OF = "select invoice, quantity from raw_transactions where source_file = ? order by source_line"


def _typed(good: Line) -> tuple[str, Decimal]:
    return good[0], Decimal(good[3])


def _lost(given: Input, name: str, folder: Path, lines: Told) -> Iterator[str]:
    """What of a loaded file's lines is not there, held against another reader of the format."""
    data = given.files[name]
    if name.endswith("parquet"):
        return _lost_of_parquet(folder / name, lines)
    if name.endswith("xlsx"):
        return _lost_of_xlsx(data, lines)
    try:
        unpacked = gzip.decompress(data) if name.endswith(".gz") else data
        text = unpacked.decode(given.source["encoding"], "surrogateescape").removeprefix("\ufeff")
    except (OSError, EOFError, UnicodeError, zlib.error) as error:
        return iter([f"it was loaded, and Python cannot read it: {error}"])
    return _lost_of_csv(text, given.source["delimiter"], lines) if ".csv" in name else _lost_of_jsonl(text, lines)


def _lost_of_csv(text: str, delimiter: str, lines: Told) -> Iterator[str]:
    try:
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True) if row]
    except csv.Error:
        rows = []
    usual = len(text.encode(errors="surrogatepass")) < _LONG_LINE and len(text.splitlines()) < _MANY_LINES
    if rows and usual and {len(row) for row in rows} == {len(rows[0])} and not _SURROGATE.search(text):
        header, *records = rows
        place = {"".join(name.split()).casefold(): at for at, name in enumerate(header)}
        described, country = place["description"], place["country"]
        wanted = [(row[described] or None, row[country].strip() or None) for row in records]
        got = [(told[2], (told[3] or "").strip() or None) for told in lines]
        if wanted != got:
            yield f"Python reads {len(wanted)} records, {len(got)} stand; {_first(wanted, got)}"
    header_reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header = next((row for row in header_reader if row), [])
    if usual and len(header) == len(HEADER):
        below = io.StringIO(text, newline="")
        for _ in range(header_reader.line_num):
            below.readline()
        yield from _lost_marks(below.read(), lines)


def _first(wanted: list[Any], got: list[Any]) -> str:
    different = [pair for pair in zip(wanted, got, strict=False) if pair[0] != pair[1]]
    return f"first {different[0]}"[:300] if different else "those of both are the same"


def _lost_marks(text: str, lines: Told) -> Iterator[str]:
    mark = re.compile(r"Q\d{4}Z")
    stand = Counter(found for told in lines for found in mark.findall(told[5]))
    if missed := Counter(mark.findall(text)) - stand:
        yield f"lost: {dict(missed)}"


def _lost_of_jsonl(text: str, lines: Told) -> Iterator[str]:
    physical = [one for one in re.split(r"\r\n|\r|\n", text) if one.strip()]
    if len(physical) != len(lines):
        yield f"{len(physical)} lines that are not blank, {len(lines)} stand"
        return
    for one, (_, number, description, _, broken, _) in zip(physical, lines, strict=True):
        if broken:
            if broken[:50] != one[:50].encode(errors="surrogateescape").decode(errors="backslashreplace")[:50]:
                yield f"line {number} is told as {broken[:50]!r}, and is {one[:50]!r}"
            continue
        try:
            item = json.loads(one)
        except (ValueError, RecursionError):
            continue
        told = item.get("Description") if isinstance(item, dict) else None
        if (
            isinstance(told, str)
            and "\0" not in told
            and one.count('"Description"') == 1
            and description != (told or None)
        ):
            yield f"line {number} is described as {description!r}, and as {told!r} in the file"


def _lost_of_xlsx(data: bytes, lines: Told) -> Iterator[str]:
    """Rows with a value, where Python can read the parts; an entity is left to the reader."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as packed:
            names = packed.namelist()
            texts = {name: packed.read(name) for name in names}
    except Exception:  # Python's reader may fail in any way: only what it can read is held against
        return
    if len(names) != len(set(names)) or any(b"<!" in text for text in texts.values()):
        return
    sheets = {"2010": "xl/worksheets/sheet1.xml", "2011": "xl/worksheets/sheet2.xml"}
    for sheet, name in sheets.items():
        if name not in texts:
            continue
        try:
            tree = ElementTree.fromstring(texts[name])  # noqa: S314 - without entities
        except ElementTree.ParseError:
            continue
        valued = [
            cell.get("r") or "" for cell in tree.iter() if any(v.tag.rpartition("}")[2] == "v" and v.text for v in cell)
        ]
        rows = {reference.lstrip(ascii_uppercase) for reference in valued}
        stand = [told for told in lines if told[0] == sheet]
        if stand and all(map(str.isdecimal, rows)) and len(rows) - 1 != len(stand):
            yield f"sheet {sheet} has {len(rows)} rows with a value, {len(stand)} lines stand"


def _lost_of_parquet(path: Path, lines: Told) -> Iterator[str]:
    if not path.stat().st_size:
        return
    with duckdb.connect(config={"threads": 1}) as connection:
        wanted = connection.execute("select Description from read_parquet($path)", {"path": str(path)}).fetchall()
    if [(text or None,) for (text,) in wanted] != [(told[2],) for told in lines]:
        yield f"{len(wanted)} rows, {len(lines)} lines stand, or they differ"


# -- running it


@dataclass
class Figures:
    """What was tried, and the faults that were found by their number."""

    tried: int = 0
    faults: dict[int, list[str]] = field(default_factory=dict)


def child(first: int, step: int, count: int) -> None:
    """Try inputs one after the other, telling of each before it is tried, and of its faults."""
    resource.setrlimit(resource.RLIMIT_AS, (2 * MOST_BYTES, 2 * MOST_BYTES))
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        os.environ |= {"SEGMENTATION_DATA": f"{folder}/data", "DAGSTER_HOME": ""}
        mouth = Mouth(Path(folder))
        for number in range(first, first + step * count, step):
            print(json.dumps({"at": number}), flush=True)
            given = input_of(number)
            found = mouth.faults(given)
            # In kilobytes; it never falls, so the first beyond the bound ends the child.
            if (most := resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024) > MOST_BYTES:
                found.append(f"{most >> 20} MB of memory")
            print(json.dumps({"at": number, "tried": len(given.files), "faults": found}), flush=True)
            if most > MOST_BYTES:
                break
    print(json.dumps({"done": True}), flush=True)


def watched(first: int, step: int, until: float, most: int, batch: int = 400) -> Figures:
    """Try inputs in children until a moment, or so many of them."""
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
    """Read what a child tells; the last number that it tried. A child that is silent or dies is a fault."""
    assert process.stdout is not None
    rest = b""
    while True:
        if not select.select([process.stdout], [], [], HANG_SECONDS)[0]:
            process.kill()
            return _found(figures, at, [f"no end after {HANG_SECONDS:.0f} s"])
        if not (some := os.read(process.stdout.fileno(), 65_536)):
            break
        *whole, rest = (rest + some).split(b"\n")
        for said in map(json.loads, whole):
            if said.get("done"):
                return at
            at = said["at"]
            figures.tried += said.get("tried", 0)
            if faults := said.get("faults"):
                _found(figures, at, faults)
        if time.monotonic() > until:
            process.kill()
            return at
    assert process.stderr is not None
    said_last = process.stderr.read().decode(errors="replace")[-1_000:]
    return _found(figures, at, [f"its process ended with {process.wait()}: {said_last}"])


def _found(figures: Figures, at: int, faults: list[str]) -> int:
    figures.faults[at] = faults
    print(json.dumps({at: faults}), file=sys.stderr, flush=True)
    return at


def run(seconds: float, most: int = 10**9, first: int = 0, processes: int = 2) -> Figures:
    """Try inputs side by side."""
    until = time.monotonic() + seconds
    with ThreadPoolExecutor(processes) as pool:
        parts = list(
            pool.map(lambda part: watched(first + part, processes, until, most // processes), range(processes))
        )
    return Figures(sum(part.tried for part in parts), {at: said for part in parts for at, said in part.faults.items()})


def smallest(given: Input) -> Input:
    """The input cut down to what still has its fault: to one file, and by leaving out ever smaller pieces of it."""
    with tempfile.TemporaryDirectory() as folder:
        mouth = Mouth(Path(folder))

        def kind_of(files: dict[str, bytes]) -> str:
            found = mouth.faults(replace(given, files=files))
            return re.sub(r"m?\d+\S*", "", found[0])[:40] if found else ""

        wanted, files = kind_of(given.files), given.files
        files = next(({name: data} for name, data in files.items() if kind_of({name: data}) == wanted), files)
        name, data = next(iter(files.items()))
        size = len(data) // 2 if wanted and len(files) == 1 else 0
        while size:
            at = 0
            while at < len(data):
                if kind_of({name: data[:at] + data[at + size :]}) == wanted:
                    data = data[:at] + data[at + size :]
                else:
                    at += size
            size //= 2
    return replace(given, files={**files, name: data})


def main() -> int:
    """Fuzz for five minutes, or look at one input."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=MINUTES * 60)
    parser.add_argument("--first", type=int, default=0, help="the number of the first input")
    parser.add_argument("--number", type=int, help="one input alone, cut down to its fault")
    parser.add_argument("--page", action="store_true", help="write the figures into docs/reliability.md")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        child(*map(int, asked.child.split(",")))
        return 0
    if asked.number is not None:
        found = smallest(input_of(asked.number))
        with tempfile.TemporaryDirectory() as folder:
            print(found.source, Mouth(Path(folder)).faults(found), repr(found.files)[:4_000], sep="\n")
        return 0
    figures = run(asked.seconds, first=asked.first)
    said = (
        f"- {figures.tried:,} inputs tried in {asked.seconds / 60:.0f} minutes (CSV, XLSX, JSON lines, Parquet,"
        f" retailer files): {len(figures.faults)} faults found. DuckDB {duckdb.__version__}."
    )
    print(said)
    if asked.page:
        between = re.compile(r"(<!-- fuzz -->\n).*?(<!-- end of fuzz -->)", re.DOTALL)
        text = PAGE.read_text("utf-8")
        PAGE.write_text(between.sub(lambda found: f"{found[1]}{said}\n{found[2]}", text), "utf-8")
    return bool(figures.faults)


if __name__ == "__main__":
    sys.exit(main())
