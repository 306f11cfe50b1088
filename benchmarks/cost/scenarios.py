"""What is measured: each scenario with its source, and the runs of a turn.

Contains no targets (`goals`) and no text of the page but titles and names of runs (`page`).
"""

import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.cost.data import Copies, DailyFiles, Made, MadeUp, Source, Workbook
from benchmarks.cost.processes import RETAILER, Measured, Pipeline, RunFailedError, run_baseline

QUICK, SCALE = "quick", "scale"
FIRST, NEWS, NO_NEWS = "first run", "night with one more day", "night without news"
REFIT, RELOAD, BOTH = "`--refit`", "`--reload`", "`--refit --reload`"
SMALL_MEMORY = "first run with SEGMENTATION_MEMORY_LIMIT=2GB"
SCRIPT, LIMIT, ALONE = "script", "limit", "Dagster alone"
FEW, MANY = "first run, few customers", "first run, many customers"
SCORED = "score_customer"
# Customers of score_customer.
GENERATED = 10_000_000
# Lines of an invoice in the shops of many customers, each of whom has an invoice at least.
_FEW_LINES = 2
# In a trial, made-up shops have a hundredth of the lines, and the shop is copied a fiftieth as often.
_TRIAL_LINES, _TRIAL_COPIES = 100, 50

Turn = Iterator[tuple[str, Measured]]


@dataclass(frozen=True)
class Bench:
    """What is the same for all scenarios.

    Attributes:
        folder: The folder for sources and for what the pipeline writes.
        by_day: The lines of Online Retail, a CSV for each day.
        script: The pandas script.
        limit: The script of bare SQL and scikit-learn.
        turns: How many turns there are.
        is_trial: Whether only the bench itself is tested, with a hundredth of the lines.
    """

    folder: Path
    by_day: Path
    script: Path
    limit: Path
    turns: int = 3
    is_trial: bool = False

    def source(self, name: str) -> Source:
        """Return the source of a name, which may not have been made."""
        return Source(self.folder / f"{'trial' if self.is_trial else 'sources'}" / name)

    def copies(self, copies: int, kind: str) -> Copies:
        """Return how the shop is copied."""
        return Copies(self.by_day, max(copies // _TRIAL_COPIES, 1) if self.is_trial else copies, kind)

    def made_up(self, lines: int, customers: int, invoice_lines: int = 8) -> MadeUp:
        """Return how a large made-up shop is made."""
        share = _TRIAL_LINES if self.is_trial else 1
        return MadeUp(lines // share, max(customers // share, 200), invoice_lines=invoice_lines)

    def pipeline(self, source: Source | None, retailer: str = RETAILER) -> Pipeline:
        """Return the pipeline with an empty data folder."""
        self.clear()
        self.data.mkdir(parents=True)
        return Pipeline(self.data, source.folder if source else None, retailer)

    @property
    def data(self) -> Path:
        """The data folder of the pipeline."""
        return self.folder / "data"

    def clear(self) -> None:
        """Delete the data folder."""
        shutil.rmtree(self.data, ignore_errors=True)


@dataclass
class Result:
    """What a scenario measured.

    Attributes:
        runs: The runs of each name, one for each turn.
        made: The source; None where it is that of the retailer.
        error: Why the scenario did not finish; empty if it did.
    """

    runs: dict[str, list[Measured]] = field(default_factory=dict)
    made: Made | None = None
    error: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)

    @classmethod
    def of_json(cls, values: Mapping[str, Any]) -> "Result":
        """Return what `as_json` returned."""
        runs = {name: [Measured(**one) for one in measured] for name, measured in values["runs"].items()}
        return cls(runs, Made(**values["made"]) if values["made"] else None, values["error"])

    def middle(self, run: str, metric: str) -> float:
        """Return the median of a metric of a run.

        Raises:
            KeyError: There was no such run.
        """
        return float(median(getattr(one, metric) for one in self.runs[run]))

    def ratio(self, run: str, other: str, metric: str) -> float:
        """Return the median of the ratios of two runs, turn by turn."""
        pairs = zip(self.runs[run], self.runs[other], strict=True)
        return float(median(getattr(one, metric) / getattr(another, metric) for one, another in pairs))

    def step(self, run: str, step: str) -> float:
        """Return the median of the seconds of a step."""
        return median(one.steps[step] for one in self.runs[run])


@dataclass(frozen=True)
class Scenario:
    """Something that is measured.

    Attributes:
        part: The part of the page: quick or scale.
        title: The heading.
        turn: The runs of one turn.
        write: How the source is made; None: it is that of the retailer.
        turns: How many turns at most.
    """

    part: str
    title: str
    turn: Callable[[Bench, Source], Turn]
    write: Callable[[Bench], Callable[[Source], Made]] | None = None
    turns: int = 99

    def measure(self, name: str, bench: Bench, report: Callable[[str], None]) -> Result:
        """Measure it in turns; a run that fails ends it."""
        result, source = Result(), bench.source(name)
        try:
            if self.write is not None:
                source.make(self.write(bench))
                result.made = source.made
                report(f"{name}: {source.made.lines:,} lines, made in {source.made.seconds:.1f} s")
            for number in range(1, min(bench.turns, self.turns) + 1):
                source.take_back_last_day()
                for run, measured in self.turn(bench, source):
                    result.runs.setdefault(run, []).append(measured)
                    report(f"{name}, turn {number}: {run}: {measured.seconds:.2f} s, {measured.memory:,.0f} MB")
        except RunFailedError as error:
            result.error = str(error)
            report(f"{name}: {error}")
        finally:
            bench.clear()
        return result


def _all_runs(bench: Bench, source: Source) -> Turn:
    """Run everything that the pipeline does with a source."""
    pipeline = bench.pipeline(source)
    yield from _nights(pipeline, source)
    yield REFIT, pipeline.run("--refit")
    yield RELOAD, pipeline.run("--reload")
    yield BOTH, pipeline.run("--refit", "--reload")


def _nights(pipeline: Pipeline, source: Source) -> Turn:
    yield FIRST, pipeline.run()
    source.add_last_day()
    yield NEWS, pipeline.run()
    yield NO_NEWS, pipeline.run()


def _daily_files(bench: Bench, source: Source) -> Turn:
    yield from _tables(bench, source)
    # In the same data folder, because Dagster creates its tables in the first run.
    yield ALONE, Pipeline(bench.data, source.folder).alone()


def _tables(bench: Bench, source: Source) -> Turn:
    """Run everything on text files, which both scripts read."""
    yield from _all_runs(bench, source)
    yield SCRIPT, run_baseline(bench.script, str(source.folder))
    yield LIMIT, run_baseline(bench.limit, source.pattern)


def _workbook(bench: Bench, source: Source) -> Turn:
    pipeline = bench.pipeline(source)
    yield FIRST, pipeline.run()
    yield NO_NEWS, pipeline.run()
    yield BOTH, pipeline.run("--refit", "--reload")
    yield SCRIPT, run_baseline(bench.script, str(next(source.folder.iterdir())))


def _without_script(bench: Bench, source: Source) -> Turn:
    """Run everything, and with little memory; pandas has no room for so many lines."""
    yield from _all_runs(bench, source)
    yield LIMIT, run_baseline(bench.limit, source.pattern)
    yield SMALL_MEMORY, bench.pipeline(source).run(memory_limit="2GB")


def _first_and_nights(bench: Bench, source: Source) -> Turn:
    yield from _nights(bench.pipeline(source), source)
    yield LIMIT, run_baseline(bench.limit, source.pattern)


def _growth(bench: Bench, source: Source) -> Turn:
    yield FIRST, bench.pipeline(source).run()


def _sample(bench: Bench, _: Source) -> Turn:
    pipeline = bench.pipeline(None, "sample")
    yield FIRST, pipeline.run()
    yield NO_NEWS, pipeline.run()


def _small_shop(bench: Bench, source: Source) -> Turn:
    pipeline = bench.pipeline(source)
    yield FIRST, pipeline.run()
    yield NO_NEWS, pipeline.run()


def _customers(bench: Bench, source: Source) -> Turn:
    few = bench.source("customers-few")
    few.make(bench.made_up(172_000, 43_000, _FEW_LINES))
    yield FEW, bench.pipeline(few).run()
    yield MANY, bench.pipeline(source).run()


def _scored(bench: Bench, source: Source) -> Turn:
    pipeline = bench.pipeline(source)
    yield FIRST, pipeline.run()
    release = pipeline.data / RETAILER / "releases" / "current" / "segments.duckdb"
    # In a process of its own, so that this one stays small: see `Source.make`.
    with ProcessPoolExecutor(1, get_context("spawn")) as aside:
        yield SCORED, aside.submit(_score, release).result()


def _score(release: Path) -> Measured:
    """Return the seconds that `score_customer` of a release takes over the generated customers."""
    import time

    import duckdb

    with duckdb.connect(str(release), read_only=True) as connection:
        connection.execute("set enable_progress_bar = false")
        connection.execute(
            "create temp table generated as select hash(n, 1) % 500_000 / 100 as monetary,"
            " hash(n, 2) % 15 as frequency, hash(n, 3) % 365 as recency from range($customers) as numbers(n)",
            {"customers": GENERATED},
        )
        started = time.perf_counter()
        connection.execute(
            "select score_customer(monetary, frequency, recency) as segment, count(*) from generated group by all"
        ).fetchall()
        return Measured(time.perf_counter() - started, 0.0)


SCENARIOS: Mapping[str, Scenario] = {
    "csv": Scenario(
        QUICK, "0.54 million lines, a CSV for each of 305 days", _daily_files, lambda bench: DailyFiles(bench.by_day)
    ),
    "workbook": Scenario(
        QUICK, "0.54 million lines, one workbook", _workbook, lambda bench: Workbook(bench.by_day), turns=1
    ),
    "sample": Scenario(QUICK, "The sample", _sample),
    "small": Scenario(QUICK, "A shop of 1,000 lines", _small_shop, lambda _: MadeUp(1_000, 125, "csv")),
    "score": Scenario(QUICK, "`score_customer`", _scored, lambda bench: DailyFiles(bench.by_day), turns=1),
    "5m": Scenario(SCALE, "5.4 million lines, CSV", _tables, lambda bench: bench.copies(10, "csv")),
    "54m": Scenario(SCALE, "54 million lines, Parquet", _without_script, lambda bench: bench.copies(100, "parquet")),
    "growth": Scenario(
        SCALE, "5.4 million lines, Parquet: growth by step", _growth, lambda bench: bench.copies(10, "parquet")
    ),
    "100m": Scenario(
        SCALE,
        "100 million lines of a made-up shop, Parquet",
        _first_and_nights,
        lambda bench: bench.made_up(100_000_000, 1_000_000),
        turns=1,
    ),
    "customers": Scenario(
        SCALE,
        "4.3 million customers, Parquet",
        _customers,
        lambda bench: bench.made_up(17_200_000, 4_300_000, _FEW_LINES),
        turns=1,
    ),
    "10m_customers": Scenario(
        SCALE,
        "10 million customers, Parquet",
        _first_and_nights,
        lambda bench: bench.made_up(40_000_000, 10_000_000, _FEW_LINES),
        turns=1,
    ),
}
