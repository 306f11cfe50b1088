"""Compare runs on a Spark cluster with runs on DuckDB: every table must be equal; and measure what both cost.

Usage: python -m benchmarks.spark [--copies 1 10] [--killed 1 10] [--data FOLDER] [--folder FOLDER] [--page-only]

The cluster is a master and two workers of one core each, on this machine. The source is Online Retail as often as
`--copies` says, a file for each copy, whose customers are its own. With as many as `--killed` says, one more first run
loses a worker on its way. Results are stored in `docs/spark_benchmarks.json`, and written to
`docs/spark_benchmarks.md`. Exits with 1 if a table differs.
"""

import argparse
import ctypes
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.resources import files
from pathlib import Path
from threading import Thread
from typing import Any

import duckdb

from benchmarks.cost.data import Made, Source
from benchmarks.cost.machine import Machine
from benchmarks.cost.processes import RETAILER, ROOT, Measured, measured
from benchmarks.cost.scenarios import FIRST, NEWS, NO_NEWS
from benchmarks.spark.comparison import compared
from benchmarks.spark.page import Sized, page
from segmentation_pipeline_tests.spark_cluster import Cluster, installed, missing, processes_below, running_cluster

PAGE = ROOT / "docs" / "spark_benchmarks.md"
RESULTS = PAGE.with_suffix(".json")
RUNS = (FIRST, NEWS, NO_NEWS)
# PR_SET_CHILD_SUBREAPER of prctl(2): processes without a parent become children of this one.
_CHILD_SUBREAPER = 36
_SECONDS_TO_FIRST_FILE = 300
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
            for copies in (copies for copies in options.killed if str(copies) in stored):
                killed = _different_after_a_kill(options, (options.folder or Path(temporary)).resolve(), copies)
                stored[str(copies)]["killed"] = killed
                RESULTS.write_text(json.dumps(stored, indent=1), "utf-8")
    sizes = [Sized.of_json(values) for _, values in sorted(stored.items(), key=lambda item: int(item[0]))]
    PAGE.write_text(page(sizes), "utf-8")
    print(f"Wrote {PAGE}")
    return int(any(tables for sized in sizes for tables in (*sized.different.values(), sized.killed)))


def _sized(options: argparse.Namespace, folder: Path, copies: int) -> Sized:
    """Run everything at a size, on both engines, and compare the tables after each run."""
    source, machine = _source(options, folder, copies), Machine.now()
    runs: dict[str, dict[str, Measured]] = {"duckdb": {}, "spark": {}}
    workers: dict[str, float] = {}
    different, counted = {}, (0, 0, 0, 0)
    with _home_and_cluster(folder) as (home, cluster):
        for run in RUNS:
            if run == NEWS:
                source.add_last_day()
            for engine, measures in runs.items():
                measures[run], workers[run] = _run(home / engine, engine, source, cluster)
                print(f"{copies} copies, {run}, {engine}: {measures[run].seconds:.1f} s", flush=True)
            different[run], counted = compared(home)
            print(f"{copies} copies, {run}: {different[run] or 'every table is equal'}", flush=True)
    tables, rows, customers, invoices = counted
    return Sized(source.made.lines, customers, invoices, runs, workers, different, tables, rows, machine.text)


def _different_after_a_kill(options: argparse.Namespace, folder: Path, copies: int) -> dict[str, int]:
    """Return the rows that differ by table after first runs, where the one on Spark loses a worker that reads files."""
    source = _source(options, folder, copies)
    with _home_and_cluster(folder) as (home, cluster):
        _run(home / "duckdb", "duckdb", source, cluster)
        killer = Thread(target=_kill_when_lines_are_written, args=(cluster, home / "spark" / "lines"))
        killer.start()
        _run(home / "spark", "spark", source, cluster)
        killer.join()
        assert len(cluster.workers) == 1, "no file was written in time, so no worker was killed"
        different, _ = compared(home)
        print(f"{copies} copies, a worker killed: {different or 'every table is equal'}", flush=True)
        return different


def _kill_when_lines_are_written(cluster: Cluster, location: Path) -> None:
    deadline = time.monotonic() + _SECONDS_TO_FIRST_FILE
    while time.monotonic() < deadline:
        if any(location.rglob("*.parquet")):
            cluster.kill_worker()
            return
        time.sleep(0.01)


def _source(options: argparse.Namespace, folder: Path, copies: int) -> Source:
    """Return the source without its last day."""
    source = Source(folder / f"copies-{copies}")
    source.make(CopiesByFile((options.data / "online_retail" / "by-day").resolve(), copies))
    source.take_back_last_day()
    return source


@contextmanager
def _home_and_cluster(folder: Path) -> Iterator[tuple[Path, Cluster]]:
    """Yield a new folder for the data of both engines, and a running cluster."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        home = Path(name)
        with running_cluster(home / "cluster", java_options="") as cluster:
            yield home, cluster


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


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.spark", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--copies", type=int, nargs="*", default=[1, 10], help="how often the lines are in a source")
    parser.add_argument(
        "--killed", type=int, nargs="*", default=[1, 10], help="the measured sizes at which also a worker is killed"
    )
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of Online Retail")
    parser.add_argument("--folder", type=Path, help="keep the sources here, and use them again (default: temporary)")
    parser.add_argument("--page-only", action="store_true", help="write the page from the stored results")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
