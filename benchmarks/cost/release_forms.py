"""Compare releases whose database has the rows of all tables with releases whose database has views of large ones.

Usage: python -m benchmarks.cost.release_forms [--customers N ...] [--turns N] [--folder FOLDER]

The shipped sample is run once. For each number of customers, the rows of its customers are multiplied in the working
database. The tables are then published in turns in both forms, each by a process of its own into an empty folder, so
that no file is copied from another release; then both are queried. The result is written into the section of
`docs/scaling.md` between two comments.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median

from benchmarks.cost.machine import Machine
from benchmarks.cost.page import table
from benchmarks.cost.processes import ROOT, Measured, Pipeline, measured
from benchmarks.sections import write_section

PAGE = ROOT / "docs" / "scaling.md"
BEGIN, END = "<!-- benchmarks/cost/release_forms.py writes from here -->\n", "<!-- until here -->\n"
# The rows above which a table has a view, by the name of the form.
FORMS = {"rows of all tables": sys.maxsize, "views of large tables": 10_000}
_RETAILER = "sample"
# Coprime to any number of copies of the sample: a bijection that mixes the copies.
_STEP = 15_485_863
_QUERIES = {
    "one_customer": "select * from customer_segments where customer_id = getvariable('customer')",
    "revenue_by_segment": "select segment, count(*), sum(monetary) from customer_segments group by all",
    "moves_by_segment": (
        "select segment, from_segment, count(*) from segment_changes join customer_segments using (customer_id)"
        " group by all"
    ),
}


@dataclass(frozen=True)
class Compared:
    """What was measured of a number of customers.

    Attributes:
        rows: The rows of the largest table of the release.
        database: The MB of `segments.duckdb`, by the name of the form.
        runs: The processes that published, by the name of the form, turn by turn.
        queries: The processes that queried, the same.
    """

    rows: int
    database: Mapping[str, float]
    runs: Mapping[str, list[Measured]]
    queries: Mapping[str, list[Measured]]

    def row(self, customers: int, form: str) -> Sequence[str]:
        """Return the cells of a form."""
        runs, queries = self.runs[form], self.queries[form]
        milliseconds = [1000 * median(run.steps[name] for run in queries) for name in _QUERIES]
        return (
            f"{customers:,}",
            form,
            f"{median(run.steps['release'] for run in runs):.1f}",
            f"{median(run.cpu for run in runs):.1f}",
            f"{median(run.memory for run in runs):,.0f}",
            f"{median(run.disk for run in runs):,.0f}",
            f"{self.database[form]:,.0f}",
            *(f"{value:,.0f}" for value in milliseconds),
        )

    def ratio(self, metric: Callable[[Measured], float]) -> str:
        """Return what a metric is with views, relative to the other form: the median of the turns' ratios."""
        pairs = zip(*(self.runs[form] for form in reversed(FORMS)), strict=True)
        return f"{median(metric(views) / metric(rows) for views, rows in pairs):.2f}"


def publish(work: Path, folder: Path, limit: int) -> None:
    """Publish the tables of a working database, as a run does, and print the seconds as a run does."""
    from segmentation_pipeline.releases.store import Releases
    from segmentation_pipeline.segments import score_macro
    from segmentation_pipeline.warehouse.connection import connection_to
    from segmentation_pipeline.warehouse.database import Warehouse

    with connection_to(work, folder / "spill", 1, print, folders=[folder]) as connection:
        warehouse = Warehouse(connection)
        macros = [score_macro.score_macro(warehouse), score_macro.comment()]
        as_of = warehouse.row("select max(as_of) as as_of from rfm_features")["as_of"]
        started = time.perf_counter()
        Releases(folder / "releases").publish(
            connection, {}, macros=macros, as_of=as_of, run_id="measured", keep=1, max_database_rows=limit
        )
        print(f"✓ release {time.perf_counter() - started:.2f} s")


def query(folder: Path) -> None:
    """Query the release in a folder several times, and print the median seconds of each query."""
    from segmentation_pipeline.releases.store import Releases

    release = Releases(folder / "releases").current
    assert release is not None
    with release.connect() as connection:
        # One from the middle of the file.
        connection.execute(
            "set variable customer = (select customer_id from customer_segments limit 1 offset"
            " (select count(*) // 2 from customer_segments))"
        )
        for name, select in _QUERIES.items():
            seconds = []
            for _ in range(5):
                started = time.perf_counter()
                connection.execute(select).fetchall()
                seconds.append(time.perf_counter() - started)
            print(f"✓ {name} {median(seconds):.4f} s")


def multiply(work: Path, customers: int) -> None:
    """Replace the rows of each customer by those of several, whose numbers are mixed and whose measures differ."""
    import duckdb

    from segmentation_pipeline.tables.catalog import published
    from segmentation_pipeline.tables.contract import quoted

    with duckdb.connect(str(work), config={"memory_limit": "4GB"}) as connection:
        connection.execute(
            "create temp table ids as with old as ("
            "select customer_id, row_number() over (order by customer_id) - 1 as n from rfm_features"
            "), of as (select $customers // count(*) as copies, count(*) as customers from old)"
            " select customer_id, copy, 10_000_000 + (n * copies + copy) * $step % (customers * copies) as new_id"
            " from old, of, range(copies) as numbers(copy)",
            {"step": _STEP, "customers": customers},
        )
        for contract in published():
            if contract.describes_customers:
                table = quoted(contract.table)
                replaced = "cast(new_id as varchar) as customer_id"
                for column in contract.columns:
                    if column.name == "monetary":
                        replaced += f", cast(monetary + copy * 0.01 as {column.type}) as monetary"
                select = f"select {table}.* replace ({replaced}) from {table} join ids using (customer_id)"  # noqa: S608 - quoted
                connection.execute(f"create temp table multiplied as {select}")
                connection.execute(f"truncate {table}; insert into {table} from multiplied; drop table multiplied")


def compare(customers: int, turns: int, first: Path, folder: Path) -> Compared:
    """Multiply the customers of a working database, and publish its tables in turns."""
    from segmentation_pipeline.releases.store import Releases

    work, target = Path(shutil.copy(first, folder / "work.duckdb")), folder / "published"
    with ProcessPoolExecutor(1, get_context("spawn")) as aside:
        # In a process of its own, so that this one stays small: see `Source.make`.
        aside.submit(multiply, work, customers).result()
    runs: dict[str, list[Measured]] = {form: [] for form in FORMS}
    queries: dict[str, list[Measured]] = {form: [] for form in FORMS}
    database, rows = {}, 0
    for _ in range(turns):
        for form, limit in FORMS.items():
            shutil.rmtree(target, ignore_errors=True)
            (target / "spill").mkdir(parents=True)
            runs[form].append(_process(target, "publish", str(work), str(target), str(limit)))
            [release] = Releases(target / "releases").all()
            rows = max(release.manifest["tables"].values())
            database[form] = release.database.stat().st_size / 1e6
            queries[form].append(_process(target, "query", str(target)))
            print(f"{form}: {runs[form][-1].steps} {queries[form][-1].steps}", flush=True)
    return Compared(rows, database, runs, queries)


def section(found: Mapping[int, Compared], turns: int, machine: Machine) -> str:
    """Return the text of the section."""
    lines = [
        "Written by `python -m benchmarks.cost.release_forms` on",
        f"{machine.text}.",
        "The tables of the sample with its customers multiplied are published into an empty folder, with views of",
        f"tables of more than {min(FORMS.values()):,} rows and without; medians of {turns} turns. Publishing includes",
        "reading the files back; disk is all files of the release, with `state.duckdb`. Compare ratios, not seconds.",
        "Multiplied rows repeat values, which makes Parquet smaller than that of a real shop.",
        "",
        table(
            (
                "customers",
                "`segments.duckdb` has",
                "publishing, s",
                "processor, s",
                "memory, MB",
                "disk, MB",
                "`segments.duckdb`, MB",
                "one customer, ms",
                "revenue by segment, ms",
                "moves by segment, ms",
            ),
            (of.row(customers, form) for customers, of in found.items() for form in FORMS),
        ),
        "",
        *_ratios(found),
    ]
    return "\n".join(lines) + "\n"


def _ratios(found: Mapping[int, Compared]) -> Iterator[str]:
    for customers, of in found.items():
        yield (
            f"With {customers:,} customers, whose largest table has {of.rows:,} rows, views take\n"
            f"{of.ratio(lambda run: run.steps['release'])} of the time, {of.ratio(lambda run: run.cpu)} of the"
            f" processor time, {of.ratio(lambda run: run.memory)} of the memory and {of.ratio(lambda run: run.disk)}"
            " of the disk.\n"
        )


def _process(target: Path, *arguments: str) -> Measured:
    command = [sys.executable, "-m", "benchmarks.cost.release_forms", "--only", *arguments]
    return measured(command, dict(os.environ), target, [target / "releases"])


def main() -> None:
    """Measure each number of customers, and write the section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--customers", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to write; by default a temporary folder")
    parser.add_argument("--work", type=Path, help="a working database of the sample; by default that of a new run")
    parser.add_argument("--only", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        what, *rest = options.only
        if what == "publish":
            publish(Path(rest[0]), Path(rest[1]), int(rest[2]))
        else:
            query(Path(rest[0]))
        return
    machine, found = Machine.now(), {}
    with tempfile.TemporaryDirectory(dir=options.folder) as first:
        work = options.work or Path(first) / _RETAILER / "work.duckdb"
        if not options.work:
            Pipeline(Path(first), None, _RETAILER).run()
        for customers in options.customers:
            with tempfile.TemporaryDirectory(dir=options.folder) as folder:
                found[customers] = compare(customers, options.turns, work, Path(folder))
    text = section(found, options.turns, machine)
    print(text)
    write_section(PAGE, BEGIN, END, text)


if __name__ == "__main__":
    main()
