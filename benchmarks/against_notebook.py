"""Compare the time of `segments run` with that of an equivalent pandas script, in turns, in one session.

The pipeline's job with empty assets (`dagster_alone.py`) runs in the same turns: no SQL can be faster than that.

Usage: python benchmarks/against_notebook.py [--data FOLDER] [--rival SCRIPT] [--runs N]

Both read the same lines, fit the same model (k = 4), and are timed as whole processes from outside. The pipeline
refits and reads every file again (`--refit --reload`), as the script does; its first run, which creates Dagster's
tables, is the warm-up. Finally `score_customer` of a release is timed. The results are printed, and written to
`docs/benchmarks.md`.
"""

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
PAGE = """# Benchmarks

Written by `make bench` on {date}: {cores} cores, Python {python}. The pipeline (`segments run --refit --reload`) is
compared with the tutorial's notebook as one pandas script with the same k, as whole processes in turns. Compare ratios,
not seconds.

The script reads, prepares and clusters, and stores nothing. The pipeline also stores every line with its file and line
number and every rejected line with its reason, checks the contract of each table and the rules across tables, and
publishes a release in two formats. Every step writes its events to Dagster's SQLite files; that, and the start of
Dagster, is what the pipeline costs beyond the script at any size. The column "Dagster alone" is the same job with all
its assets and checks empty.
"""
GENERATED = 10_000_000  # Customers for score_customer.
sys.path.insert(0, str(ROOT))


@dataclass
class Timing:
    """One finished process: seconds, peak memory in MB, and the seconds that it reports of itself."""

    wall: float
    peak: float
    own: float


def timed(command: list[str], environment: dict[str, str]) -> tuple[float, float, str]:
    """Run a command; return wall seconds, peak resident memory (MB, from the kernel) and standard output."""
    started = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed; is the data there?")
    return time.perf_counter() - started, usage.ru_maxrss / 1024, output


def pipeline(
    source: Path, data: str, command: Sequence[str] = (f"{sys.prefix}/bin/segments", "run", "--refit", "--reload")
) -> Timing:
    """Run the pipeline; its own time is the sum of its steps."""
    environment = os.environ | {
        "SEGMENTATION_DATA": data,
        "SEGMENTATION_SOURCE": str(source),
        "SEGMENTATION_RETAILER": "online_retail",
        "DAGSTER_HOME": f"{data}/dagster",
    }
    wall, peak, output = timed(list(command), environment)
    own = re.search(r"all steps +([\d.]+) s", output)
    assert own is not None, output
    return Timing(wall, peak, float(own[1]))


def alone(source: Path, data: str) -> Timing:
    """Run the same job with empty assets."""
    return pipeline(source, data, (sys.executable, str(ROOT / "benchmarks" / "dagster_alone.py")))


def script(rival: Path, source: Path) -> Timing:
    """Run the script; its own time is reading, preparing and clustering, as it reports them."""
    wall, peak, output = timed([sys.executable, str(rival), str(source), "4"], dict(os.environ))
    report = json.loads(output)
    return Timing(wall, peak, report["read_s"] + report["prepare_s"] + report["cluster_s"])


def compare(source: Path, rival: Path, runs: int) -> list[tuple[str, ...]]:
    """Run both in turns; return the median of each metric, and the median of its ratios turn by turn."""
    with tempfile.TemporaryDirectory() as data:
        pipeline(source, data)
        script(rival, source)
        turns = [(pipeline(source, data), script(rival, source), alone(source, data)) for _ in range(runs)]
    rows = []
    metrics: tuple[tuple[str, str, Callable[[Timing], float]], ...] = (
        ("whole process", "s", lambda timing: timing.wall),
        ("peak memory", "MB", lambda timing: timing.peak),
        ("steps / the script's own report", "s", lambda timing: timing.own),
        ("start, imports, Dagster's event log / imports", "s", lambda timing: timing.wall - timing.own),
    )
    for words, unit, metric in metrics:
        ours, theirs, empty = ([metric(turn[side]) for turn in turns] for side in (0, 1, 2))
        ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
        middle = (f"{statistics.median(values):,.2f} {unit}" for values in (ours, theirs))
        rows.append((words, *middle, f"{ratio:.2f}", f"{statistics.median(empty):,.2f} {unit}"))
    return rows


def report(title: str, rows: list[tuple[str, ...]], console: Console) -> str:
    """Print the results, and return them as Markdown."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    head = ("", "pipeline", "script", "ratio", "Dagster alone")
    for name in head:
        table.add_column(name, justify="left" if not name else "right")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    lines = [" | ".join(row) for row in (head, ("---", "--:", "--:", "--:", "--:"), *rows)]
    return "\n".join([f"## {title}", "", *(f"| {line} |" for line in lines), ""])


def workbook(folder: Path, by_day: Path) -> Path:
    """Write the same lines as one workbook with cells of mixed type, like the original."""
    import duckdb

    from segmentation_pipeline_tests.workbooks import mixed, write_workbook

    with duckdb.connect() as connection:
        lines = connection.execute(
            "select InvoiceNo, StockCode, Description, Quantity::integer, InvoiceDate::timestamp, UnitPrice::double,"
            " CustomerID::double, Country from read_csv($files, all_varchar = true)",
            {"files": f"{by_day}/*.csv"},
        )
        header = [column[0] for column in lines.description]
        rows = [(mixed(invoice), mixed(code), *rest) for invoice, code, *rest in lines.fetchall()]
    header[3:7] = ["Quantity", "InvoiceDate", "UnitPrice", "CustomerID"]
    return write_workbook(folder / "online_retail.xlsx", {"Online Retail": [header, *rows]})


def tenfold(folder: Path, by_day: Path) -> Path:
    """Write ten times the lines and customers: the same shop ten times, each with its own customers."""
    import duckdb

    with duckdb.connect() as connection:
        for shop in range(10):
            connection.execute(
                "copy (select * replace (cast(try_cast(CustomerID as double) as bigint) + $offset as CustomerID)"
                " from read_csv($files, all_varchar = true)) to $target (header)",
                {"files": f"{by_day}/*.csv", "offset": shop * 100_000, "target": f"{folder}/{shop}.csv"},
            )
    return folder


def scored(source: Path, runs: int) -> list[float]:
    """Return the seconds that `score_customer` of a release takes over the generated customers, for each run."""
    import duckdb

    with tempfile.TemporaryDirectory() as data:
        pipeline(source, data)
        release = f"{data}/online_retail/releases/current/segments.duckdb"
        with duckdb.connect(release, read_only=True) as connection:
            connection.execute(
                "create temp table generated as select hash(n, 1) % 500_000 / 100 as monetary,"
                " hash(n, 2) % 15 as frequency, hash(n, 3) % 365 as recency from range($customers) as numbers(n)",
                {"customers": GENERATED},
            )
            seconds = []
            for _ in range(runs):
                started = time.perf_counter()
                connection.execute(
                    "select score_customer(monetary, frequency, recency) as segment, count(*)"
                    " from generated group by all"
                ).fetchall()
                seconds.append(time.perf_counter() - started)
    return seconds


def scoring(seconds: Sequence[float]) -> str:
    """Return the results of `scored` as Markdown."""
    middle = statistics.median(seconds)
    text = (
        f"The function of a release over {GENERATED:,} generated customers, counted by segment, median of"
        f" {len(seconds)}: {middle:.2f} s, or {middle / GENERATED * 1e9:.0f} ns a customer."
    )
    return f"## score_customer\n\n{text}\n"


def main() -> None:
    """Compare on the daily CSVs, on a workbook of the same lines, and on ten times as many."""
    shared = ROOT.parent / "shared"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=shared / "data", help="folder with the Online Retail data")
    parser.add_argument("--rival", type=Path, default=shared / "bench" / "notebook_baseline.py")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    console, by_day = Console(), options.data / "online_retail" / "by-day"
    pages = [PAGE.format(date=f"{datetime.now(UTC):%Y-%m-%d}", cores=os.cpu_count(), python=platform.python_version())]
    rows = compare(by_day, options.rival, options.runs)
    pages.append(report(f"305 daily CSVs, medians of {options.runs} turns", rows, console))
    # The script takes half a minute to read a workbook: one turn is enough.
    for title, make in (
        ("One workbook of the same lines, one turn", workbook),
        ("Ten times the lines, one turn", tenfold),
    ):
        # In a separate process: the kernel counts memory of the parent into the peak of its children.
        with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(1, get_context("spawn")) as aside:
            rows = compare(aside.submit(make, Path(folder), by_day).result(), options.rival, 1)
        pages.append(report(title, rows, console))
    with ProcessPoolExecutor(1, get_context("spawn")) as aside:
        pages.append(scoring(aside.submit(scored, by_day, options.runs).result()))
    print(pages[-1])
    (ROOT / "docs" / "benchmarks.md").write_text("\n".join(pages), "utf-8")


if __name__ == "__main__":
    main()
