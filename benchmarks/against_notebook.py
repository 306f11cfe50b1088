"""Times `segments run` beside the pandas script that a user would otherwise run, in turns, in one session.

Usage: python benchmarks/against_notebook.py [--data FOLDER] [--rival SCRIPT] [--runs N]

Both read the same lines, make the same model (k = 4), and are timed as whole processes from outside. The pipeline
refits (`--refit`), so that it fits as the script does; its first run, which creates Dagster's tables, is the warm-up.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))


@dataclass
class Timing:
    """One finished process: seconds, peak memory in MB, and the seconds that it reports of itself."""

    wall: float
    peak: float
    own: float


def timed(command: list[str], environment: dict[str, str]) -> tuple[float, float, str]:
    """Wall seconds, peak resident memory (MB) as the kernel counts it, and standard output of a command."""
    started = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed; is the data there?")
    return time.perf_counter() - started, usage.ru_maxrss / 1024, output


def pipeline(source: Path, data: str) -> Timing:
    """One run of the pipeline: what the steps report together is its own time."""
    environment = os.environ | {
        "SEGMENTATION_DATA": data,
        "SEGMENTATION_SOURCE": str(source),
        "SEGMENTATION_RETAILER": "online_retail",
        "DAGSTER_HOME": f"{data}/dagster",
    }
    wall, peak, output = timed([f"{sys.prefix}/bin/segments", "run", "--refit"], environment)
    own = re.search(r"all steps +([\d.]+) s", output)
    assert own is not None, output
    return Timing(wall, peak, float(own[1]))


def script(rival: Path, source: Path) -> Timing:
    """One run of the script: reading, preparing and clustering, as it reports them."""
    wall, peak, output = timed([sys.executable, str(rival), str(source), "4"], dict(os.environ))
    report = json.loads(output)
    return Timing(wall, peak, report["read_s"] + report["prepare_s"] + report["cluster_s"])


def compare(title: str, source: Path, rival: Path, runs: int, console: Console) -> None:
    """Run both in turns and print medians and the median of the ratios pair by pair."""
    with tempfile.TemporaryDirectory() as data:
        pipeline(source, data)
        script(rival, source)
        pairs = [(pipeline(source, data), script(rival, source)) for _ in range(runs)]
    table = Table(title=f"{title}, median of {runs} turns", title_justify="left", box=SIMPLE_HEAD)
    for name in ("", "pipeline", "script", "ratio"):
        table.add_column(name, justify="left" if not name else "right")
    for words, name, unit in (
        ("whole process", "wall", "s"),
        ("peak memory", "peak", "MB"),
        ("steps / script's own", "own", "s"),
    ):
        ours, theirs = ([getattr(pair[side], name) for pair in pairs] for side in (0, 1))
        ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
        medians = (f"{statistics.median(values):,.2f} {unit}" for values in (ours, theirs))
        table.add_row(words, *medians, f"{ratio:.2f}")
    console.print(table)


def workbook(folder: Path, by_day: Path) -> Path:
    """The same lines as one workbook with cells of mixed type, as the original has them."""
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


def main() -> None:
    """Compare on the daily CSVs, and on a workbook of the same lines."""
    shared = ROOT.parent / "shared"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=shared / "data", help="folder with the Online Retail data")
    parser.add_argument("--rival", type=Path, default=shared / "bench" / "notebook_baseline.py")
    parser.add_argument("--runs", type=int, default=5)
    given = parser.parse_args()
    console = Console()
    by_day = given.data / "online_retail" / "by-day"
    compare("305 daily CSVs", by_day, given.rival, given.runs, console)
    with tempfile.TemporaryDirectory() as folder:
        # The script takes most of a minute to read it: one turn tells.
        compare("One workbook of the same lines", workbook(Path(folder), by_day), given.rival, 1, console)


if __name__ == "__main__":
    main()
