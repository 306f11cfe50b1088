"""The page of the runs on Spark: equality, cost, and a cost model with plans."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.cost.page import table
from benchmarks.cost.processes import Measured
from benchmarks.cost.scenarios import FIRST, NEWS

# A run on DuckDB; of one on Spark, the process of the run with its driver, and the workers.
PARTS = ("duckdb", "driver", "workers")
# More cores do not make starting faster than it was on those of the cluster.
_MEASURED_CORES = 2
# The plans: lines, cores of the machine with DuckDB, and cores of the workers.
PLANS = (("1 M", 1e6, 2, 2), ("100 M", 1e8, 8, 16), ("10 B", 1e10, 32, 512))
HEAD = """# Lines on Spark, measured

Written by `make bench-spark`. Online Retail several times, each time with customers of its own and in a CSV of its own,
on DuckDB and on a cluster of a master and two workers, one core each. All are on the two cores of one machine, so the
page shows what Spark adds and how cost grows, and not how much faster more machines are. The first run reads all days
but the last, the night with one more day the rest. Processor time is that of the run with what it starts, and the
workers' is apart. Compare processor time: other programs on the machine make seconds longer.
[scaling.md](scaling.md) says when to move.
"""


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
        killed: Rows that differ by table after a first run in which a worker was killed; None: there was no such run.
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
    killed: dict[str, int] | None = None

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


def page(sizes: list[Sized]) -> str:
    """Return the page."""
    return "\n".join([HEAD, *_equality(sizes), *_costs(sizes), *_model(sizes)])


def _equality(sizes: list[Sized]) -> Iterator[str]:
    yield "## Tables\n"
    yield (
        "After each run below, all rows of all tables were compared, without the ids of runs and the times of the"
        " clock; and after one more first run, in which a worker was killed while it read files.\n"
    )
    rows = []
    for sized in sizes:
        found = {name: number for run in sized.different.values() for name, number in run.items()}
        killed = "not tried" if sized.killed is None else _differing(sized.killed)
        rows.append((f"{sized.lines:,}", f"{sized.tables}", f"{sized.rows:,}", _differing(found), killed))
    yield table(("lines", "tables", "rows", "tables that differ", "after a worker was killed"), rows) + "\n"


def _differing(found: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({number:,})" for name, number in sorted(found.items())) or "none"


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
