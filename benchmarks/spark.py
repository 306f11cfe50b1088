"""Compare runs on a Spark cluster with runs on DuckDB: every table must be equal; and measure what both cost.

Usage: python -m benchmarks.spark [--copies 1 10] [--runs N] [--data FOLDER] [--folder FOLDER] [--page-only]

The cluster is a master and two workers of one core each, on this machine. The source is Online Retail as often as
`--copies` says, a file for each copy, whose customers are its own. Results are stored in `docs/spark_benchmarks.json`,
and written to `docs/spark_benchmarks.md`. Exits with 1 if a table differs.
"""

import argparse
import ctypes
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from benchmarks.cost.data import Made, Source
from benchmarks.cost.machine import Machine
from benchmarks.cost.page import table
from benchmarks.cost.processes import RETAILER, ROOT, Measured, measured
from benchmarks.cost.scenarios import FIRST, NEWS, NO_NEWS
from segmentation_pipeline.tables.catalog import contracts
from segmentation_pipeline.tables.contract import literal, quoted
from segmentation_pipeline.warehouse.contents import contents_of
from segmentation_pipeline.warehouse.line_engine import LINE_FILES, LINE_TABLES
from segmentation_pipeline_tests.spark_cluster import Cluster, installed, missing, processes_below, running_cluster

PAGE = ROOT / "docs" / "spark_benchmarks.md"
RESULTS = PAGE.with_suffix(".json")
RUNS = (FIRST, NEWS, NO_NEWS)
# A run on DuckDB; of one on Spark, the process of the run with its driver, and the workers.
PARTS = ("duckdb", "driver", "workers")
# What each run writes anew: its id, and times of the clock.
OF_THE_RUN = ("run_id", "source_path", "modified_at", "fitted_at", "created_at")
# PR_SET_CHILD_SUBREAPER of prctl(2): processes without a parent become children of this one.
_CHILD_SUBREAPER = 36
# More cores do not make starting faster than it was on those of the cluster.
_MEASURED_CORES = 2
# The plans: lines, cores of the machine with DuckDB, and cores of the workers.
PLANS = (("1 M", 1e6, 2, 2), ("100 M", 1e8, 8, 16), ("10 B", 1e10, 32, 512))
_LINES = "read_csv($files, all_varchar = true, header = true)"


@dataclass(frozen=True)
class CopiesByFile:
    """The lines of Online Retail several times, a CSV for each time."""

    by_day: Path
    copies: int

    def __call__(self, source: Source) -> Made:
        """Write a file of all days but the last for each copy, and one of the last day of all copies."""
        started = time.perf_counter()
        with closing(duckdb.connect(config={"memory_limit": "4GB"})) as connection:
            connection.execute("set enable_progress_bar = false")
            values = {"files": f"{self.by_day}/*.csv"}
            connection.execute(f"create temp table shop as select * from {_LINES}", values)  # noqa: S608 - own SQL
            [(day, lines)] = connection.execute("select max(InvoiceDate[:10]), count(*) from shop").fetchall()
            customer = "cast(cast(cast(CustomerID as double) as bigint) + 100000 * copy as varchar)"
            select = f"select shop.* replace ({customer} as CustomerID) from range($first, $last) as copies(copy), shop"  # noqa: S608 - own SQL
            parts = {source.folder / f"copy-{copy:03}.csv": (copy, copy + 1, "<") for copy in range(self.copies)}
            parts[source.aside / "last_day-1.csv"] = (0, self.copies, ">=")
            for path, (first, last, days) in parts.items():
                connection.execute(
                    f"copy ({select} where InvoiceDate {days} $day) to $path (format csv, header)",
                    {"first": first, "last": last, "day": day, "path": str(path)},
                )
        size = sum(path.stat().st_size for path in parts)
        return Made(lines * self.copies, time.perf_counter() - started, size)


@dataclass(frozen=True)
class Sized:
    """What was measured at a size.

    Attributes:
        lines: Lines of the source, the last day included.
        customers: Customers with features.
        invoices: Rows of `invoice_totals`.
        runs: By engine and run.
        workers: The seconds of processor time of the workers, by run.
        different: Rows that differ, by run and table.
        tables: How many tables were compared.
        rows: How many rows of them were compared.
        machine: Where and when.
    """

    lines: int
    customers: int
    invoices: int
    runs: dict[str, dict[str, Measured]]
    workers: dict[str, float]
    different: dict[str, dict[str, int]]
    tables: int
    rows: int
    machine: str

    @classmethod
    def of_json(cls, values: Mapping[str, Any]) -> "Sized":
        """Return what was stored."""
        runs = {
            engine: {name: Measured(**one) for name, one in runs.items()} for engine, runs in values["runs"].items()
        }
        return cls(**{**values, "runs": runs})

    def cpu(self, part: str, run: str) -> float:
        """Return the seconds of processor time of a part of a run: `duckdb`, `driver` or `workers`."""
        if part == "workers":
            return self.workers[run]
        return self.runs["duckdb" if part == "duckdb" else "spark"][run].cpu


def main() -> int:
    """Measure, write the page, and return the exit code."""
    options = _options()
    stored: dict[str, Any] = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    if not options.page_only:
        if lacks := missing():
            print(lacks, file=sys.stderr)
            return 1
        ctypes.CDLL(None).prctl(_CHILD_SUBREAPER, 1)
        with tempfile.TemporaryDirectory(prefix="bench-") as temporary:
            for copies in options.copies:
                sized = _sized(options, (options.folder or Path(temporary)).resolve(), copies)
                stored[str(copies)] = asdict(sized)
                RESULTS.write_text(json.dumps(stored, indent=1), "utf-8")
    sizes = [Sized.of_json(values) for _, values in sorted(stored.items(), key=lambda item: int(item[0]))]
    PAGE.write_text(page(sizes), "utf-8")
    print(f"Wrote {PAGE}")
    return int(any(tables for sized in sizes for tables in sized.different.values()))


def _sized(options: argparse.Namespace, folder: Path, copies: int) -> Sized:
    """Run everything at a size, on both engines, and compare the tables after each run."""
    source, machine = Source(folder / f"copies-{copies}"), Machine.now()
    source.make(CopiesByFile((options.data / "online_retail" / "by-day").resolve(), copies))
    source.take_back_last_day()
    runs: dict[str, dict[str, Measured]] = {"duckdb": {}, "spark": {}}
    workers: dict[str, float] = {}
    different, counted = {}, (0, 0, 0, 0)
    with (
        tempfile.TemporaryDirectory(dir=folder) as name,
        running_cluster(Path(name) / "cluster", java_options="") as cluster,
    ):
        home = Path(name)
        for run in RUNS[: options.runs]:
            if run == NEWS:
                source.add_last_day()
            for engine, measures in runs.items():
                measures[run], workers[run] = _run(home / engine, engine, source, cluster)
                print(f"{copies} copies, {run}, {engine}: {measures[run].seconds:.1f} s", flush=True)
            different[run], counted = _compared(home)
            print(f"{copies} copies, {run}: {different[run] or 'every table is equal'}", flush=True)
    tables, rows, customers, invoices = counted
    return Sized(source.made.lines, customers, invoices, runs, workers, different, tables, rows, machine.text)


def _run(home: Path, engine: str, source: Source, cluster: Cluster) -> tuple[Measured, float]:
    """Run the pipeline on an engine in a data folder of its own; return also the processor time of the workers."""
    home.mkdir(exist_ok=True)
    retailer = home / f"{RETAILER}.toml"
    text = files("segmentation_pipeline.retailers").joinpath(retailer.name).read_text("utf-8")
    if engine == "spark":
        text += f'\n[engine]\nkind = "spark"\nmaster = "{cluster.master}"\nlocation = "{home / "lines"}"\n'
        text += "[engine.options]\n" + "".join(f'"{key}" = "{value}"\n' for key, value in cluster.options.items())
    retailer.write_text(text, "utf-8")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SEGMENTATION_")} | {
        "SEGMENTATION_DATA": str(home),
        "SEGMENTATION_SOURCE": str(source.folder),
        "SEGMENTATION_RETAILER": str(retailer),
        "DAGSTER_HOME": str(home / "dagster"),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(installed())]),
    }
    kept = (home / RETAILER / "work.duckdb", home / RETAILER / "releases", home / "lines")
    before, own = cluster.cpu, _children()
    one = measured([f"{sys.prefix}/bin/segments", "run", "--verbose"], environment, home, kept)
    while len(processes_below(cluster.folder)) > len(cluster.started):
        time.sleep(0.1)
    driver, workers = _cpu_of_orphans(_children() - own)
    return replace(one, cpu=one.cpu + driver), cluster.cpu - before + workers


def _children() -> set[int]:
    return {*map(int, Path(f"/proc/self/task/{os.getpid()}/children").read_text("utf-8").split())}


def _cpu_of_orphans(orphans: set[int]) -> tuple[float, float]:
    """Wait for processes that others started and did not wait for: the driver's Java, and the workers' Python."""
    java, python = 0.0, 0.0
    for child in orphans:
        is_java = "(java)" in Path(f"/proc/{child}/stat").read_text("utf-8")
        *_, usage = os.wait4(child, 0)
        java += (usage.ru_utime + usage.ru_stime) * is_java
        python += (usage.ru_utime + usage.ru_stime) * (not is_java)
    return java, python


def _compared(home: Path) -> tuple[dict[str, int], tuple[int, int, int, int]]:
    """Return the rows that differ by table, and how many tables, rows, customers and invoices there are."""
    different, rows, tables = {}, 0, 0
    with closing(duckdb.connect(config={"memory_limit": "8GB"})) as connection:
        for engine in ("duckdb", "spark"):
            path = literal(str(home / engine / RETAILER / "work.duckdb"))
            connection.execute(f"attach {path} as {engine} (read_only)")
        for name in sorted(contracts()):
            if name not in LINE_TABLES and not _exists(connection, name):
                continue
            columns = ", ".join(
                quoted(column.name) for column in contracts()[name].columns if _is_compared(column.name)
            )
            selects = {
                engine: f"select {columns} from {_relation(connection, home, engine, name)}"  # noqa: S608 - own SQL
                for engine in ("duckdb", "spark")
            }
            found = contents_of(connection, selects)
            rows, tables = rows + found["duckdb"].rows, tables + 1
            # By their digest first, because the rows of the largest tables do not fit into memory.
            if found["duckdb"] != found["spark"] and (number := _different_rows(connection, *selects.values())):
                different[name] = number
        counts = [
            connection.execute(f"select count(*) from duckdb.{name}").fetchall()[0][0]  # noqa: S608 - own SQL
            for name in ("rfm_features", "invoice_totals")
        ]
    return different, (tables, rows, counts[0], counts[1])


def _different_rows(connection: duckdb.DuckDBPyConnection, one: str, other: str) -> int:
    select = f"select count(*) from (({one} except all {other}) union all ({other} except all {one}))"  # noqa: S608 - own SQL
    return int(connection.execute(select).fetchall()[0][0])


def _is_compared(column: str) -> bool:
    return column not in OF_THE_RUN


def _exists(connection: duckdb.DuckDBPyConnection, name: str) -> bool:
    select = "select 1 from duckdb_tables() where table_name = $name"
    return bool(connection.execute(select, {"name": name}).fetchall())


def _relation(connection: duckdb.DuckDBPyConnection, home: Path, engine: str, name: str) -> str:
    """Return a table as each engine holds it: that of Spark's lines in Parquet files."""
    if engine != "spark" or name not in LINE_TABLES:
        return f"{engine}.{quoted(name)}"
    select = f"select path from spark.{LINE_FILES} where table_name = $name order by 1"  # noqa: S608 - own SQL
    paths = [
        str(home / "spark" / "lines" / RETAILER / path)
        for (path,) in connection.execute(select, {"name": name}).fetchall()
    ]
    return f"read_parquet([{', '.join(map(literal, paths))}])"


# The page.

HEAD = """# Lines on Spark, measured

Written by `make bench-spark`. Online Retail several times, each time with customers of its own and in a CSV of its own,
on DuckDB and on a cluster of a master and two workers, one core each. All are on the two cores of one machine, so the
page shows what Spark adds and how cost grows, and not how much faster more machines are. The first run reads all days
but the last, the night with one more day the rest. Processor time is that of the run with what it starts, and the
workers' is apart. Compare processor time: other programs on the machine make seconds longer.
[scaling.md](scaling.md) says when to move.
"""


def page(sizes: list[Sized]) -> str:
    """Return the page."""
    return "\n".join([HEAD, *_equality(sizes), *_costs(sizes), *_model(sizes)])


def _equality(sizes: list[Sized]) -> Iterator[str]:
    yield "## Tables\n"
    yield "After each run, all rows of all tables were compared, without the ids of runs and the times of the clock.\n"
    rows = []
    for sized in sizes:
        found = {name: number for run in sized.different.values() for name, number in run.items()}
        text = ", ".join(f"{name} ({number:,})" for name, number in sorted(found.items())) or "none"
        rows.append((f"{sized.lines:,}", f"{sized.tables}", f"{sized.rows:,}", text))
    yield table(("lines", "tables", "rows", "tables that differ"), rows) + "\n"


def _costs(sizes: list[Sized]) -> Iterator[str]:
    yield "## Cost\n"
    for sized in sizes:
        yield f"### {sized.lines:,} lines, {sized.invoices:,} invoices, {sized.customers:,} customers\n"
        yield f"{sized.machine}; one turn.\n"
        rows = []
        for run in sized.workers:
            one, other = sized.runs["duckdb"][run], sized.runs["spark"][run]
            cpu = [sized.cpu(part, run) for part in PARTS]
            ratio = (cpu[1] + cpu[2]) / cpu[0]
            sizes_on_disk = (f"{one.disk:,.0f} MB", f"{other.disk:,.0f} MB")
            times = (f"{one.seconds:.0f} s", f"{other.seconds:.0f} s")
            rows.append((run, *times, *(f"{seconds:.0f} s" for seconds in cpu), f"{ratio:.1f}", *sizes_on_disk))
        yield table(_HEAD_OF_COSTS, rows) + "\n"


_HEAD_OF_COSTS = (
    *("", "DuckDB", "Spark", "processor, DuckDB", "processor, driver", "processor, workers"),
    *("ratio of processor time", "disk, DuckDB", "disk, Spark"),
)


def _model(sizes: list[Sized]) -> Iterator[str]:
    if len(sizes) < 2:
        return
    yield "## Cost model and plans\n"
    yield (
        "Straight lines through the processor times above: *fixed* seconds of a run, and seconds of a million lines."
        " The night is the one with one more day.\n"
    )
    fits = {(part, run): _line(sizes, part, run) for part in PARTS for run in (FIRST, NEWS)}
    rows = [(part, run, f"{fixed:.1f} s", f"{slope:.2f} s") for (part, run), (fixed, slope) in fits.items()]
    yield table(("", "run", "fixed", "a million lines"), rows) + "\n"
    largest = sizes[-1]
    lines_of_invoice, lines_of_customer = largest.lines / largest.invoices, largest.lines / largest.customers
    yield (
        f"Time of a plan = fixed / {_MEASURED_CORES} + seconds of a million lines x millions of lines / cores, of the"
        " driver, which has the cores of DuckDB, and of the workers, one after the other. There are"
        f" {lines_of_invoice:.0f} lines for each row of `invoice_totals`, and {lines_of_customer:.0f} for each"
        " customer."
        " Beyond the sizes above, the figures are extrapolated: it is assumed that all cores are busy, and that no part"
        " grows faster than the lines. Where the seconds of a million lines are 0, the sizes are too small to show"
        " them, and the plan takes longer (>).\n"
    )
    plans = []
    for name, lines, cores, workers in PLANS:
        cells = [name, f"{lines / lines_of_invoice / 1e6:,.2f} M", f"{cores}", f"{workers}"]
        for run in (FIRST, NEWS):
            one, driver, all_workers = (
                fits[part, run][0] / _MEASURED_CORES + fits[part, run][1] * lines / 1e6 / count
                for part, count in zip(PARTS, (cores, cores, workers), strict=True)
            )
            more = ["> " if any(fits[part, run][1] == 0 for part in parts) else "" for parts in (PARTS[:1], PARTS[1:])]
            spark = _duration(driver + all_workers)
            cells += [more[0] + _duration(one), more[1] + spark]
        plans.append(cells)
    runs = ("first run, DuckDB", "first run, Spark", "night, DuckDB", "night, Spark")
    yield table(("lines", "invoices", "cores of DuckDB", "cores of workers", *runs), plans) + "\n"


def _line(sizes: list[Sized], part: str, run: str) -> tuple[float, float]:
    """Return the fixed seconds, and the seconds of a million lines, by least squares of relative errors."""
    millions = np.array([sized.lines / 1e6 for sized in sizes])
    seconds = np.array([sized.cpu(part, run) for sized in sizes])
    design = np.column_stack([1 / seconds, millions / seconds])
    (fixed, slope), *_ = np.linalg.lstsq(design, np.ones(len(sizes)), rcond=None)
    return max(float(fixed), 0.0), max(float(slope), 0.0)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.spark", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--copies", type=int, nargs="+", default=[1, 10], help="how often the lines are in a source")
    parser.add_argument("--runs", type=int, default=len(RUNS), help="how many of the runs: first run, then nights")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of Online Retail")
    parser.add_argument("--folder", type=Path, help="keep the sources here, and use them again (default: temporary)")
    parser.add_argument("--page-only", action="store_true", help="write the page from the stored results")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
