"""Replays sixty nights of Online Retail, each on the data that it would have had, and tells who moved.

Usage: python benchmarks/replay.py [--data FOLDER] [--nights N] [--clusters N] [--sweep]

The pipeline's own SELECTs, fits and gate make each night; a refit is tried every seventh. Beside it stand the nearest
segment under the same models, a refit from nothing each night, the same matched to the night before, and nobody ever
moving. The page is written to `docs/stability.md`. With --sweep, the settings of the hysteresis are tried instead, and
the table of the ADR about them is printed.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise, product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
from scipy.optimize import linear_sum_assignment

from segmentation_pipeline.config.loading import load_settings
from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.model.kmeans import Array, fit_scaler
from segmentation_pipeline.model.lift import usefulness
from segmentation_pipeline.model.segment_catalog import SEGMENTS
from segmentation_pipeline.model.segmentation_model import SegmentationModel, is_normal, tukey_fences
from segmentation_pipeline.segments import training
from segmentation_pipeline.segments.promotion import refit
from segmentation_pipeline.segments.registry import Registry
from segmentation_pipeline.tables.catalog import select_of
from segmentation_pipeline.warehouse.database import TableWrite, Warehouse
from segmentation_pipeline.warehouse.queries import QueryInputs

ROOT = Path(__file__).parents[1]
WINDOWS = ("2011-12-10", "2011-09-10", "2011-07-12")
REFIT_EVERY, WITHIN, HORIZON = 7, 14, 90  # Nights; nights of a way to and fro; days of the spend that is foretold.
MARGINS, FENCE_MARGINS = (0.08, 0.09, 0.10), (0.03, 0.05)
BEFORE_MODEL = ("inter_purchase_times", "rfm_features", "inactive_customers", "previous_segments")
AFTER_MODEL = (
    "outlier_flags",
    "outlier_customers",
    "normal_customers",
    "outlier_segments",
    "scaled_customers",
    "nearest_centroids",
    "nearest_segments",
    "kmeans_segments",
    "assigned_segments",
)
_PUBLISHED = (
    "select assigned.customer_id, assigned.segment_key, assigned.is_move_pending, model.model_id, features.as_of"
    " from assigned_segments as assigned join rfm_features as features using (customer_id)"
    " cross join kmeans_model as model"
)
_APART = frozenset(segment.key for segment in SEGMENTS if segment.customer_group != "normal")
Segments = Mapping[str, str]


@dataclass(frozen=True)
class Night:
    """Who was where, one night; features have shape (n, 3), in the order of the customers."""

    as_of: datetime
    customers: list[str]
    segments: Segments
    nearest: Segments
    features: Array
    promoted: bool
    fence_step: float
    held_because: str | None
    holds_running: int
    clusters: int


@dataclass(frozen=True)
class Figures:
    """How one strategy did in the nights after the first; losses are parts of the Gini of the nearest segments."""

    kept: list[float]
    to_and_fro: float
    renamed: int
    held_off: float
    losses: list[float]


@dataclass(frozen=True)
class Window:
    """One window: its nights, and the figures of each strategy, ours first."""

    last: datetime
    clusters: int
    promoted: list[bool]
    part_of_the_way: list[tuple[datetime, float]]
    holds: list[tuple[datetime, str]]
    holds_running: int
    strategies: dict[str, Figures]

    def ours(self, promoted: bool) -> list[float]:
        """The shares kept in the nights in which a model was promoted, or in the others."""
        return [
            share for share, other in zip(self.strategies["ours"].kept, self.promoted, strict=True) if other == promoted
        ]


@contextmanager
def prepared(data: Path, retailer: str = "online_retail") -> Iterator[Path]:
    """The working database of one run of the pipeline over the daily CSVs, with its release beside it.

    Args:
        data: The folder with the Online Retail data.
        retailer: A retailer file that says `online_retail`, if it is not the shipped one.
    """
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {
            "SEGMENTATION_DATA": folder,
            "SEGMENTATION_SOURCE": str((data / "online_retail" / "by-day").resolve()),
            "SEGMENTATION_RETAILER": retailer,
            "DAGSTER_HOME": f"{folder}/dagster",
        }
        done = subprocess.run(
            [f"{sys.prefix}/bin/segments", "run"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if done.returncode:
            raise SystemExit(f"{done.stdout}\nThe run failed; is the data in {data}?")
        yield Path(folder) / "online_retail" / "work.duckdb"


def replay(database: Path, last: datetime, count: int, settings: Retailer) -> Iterator[Night]:
    """Every night of a window through the pipeline's SELECTs; the one before the first is where it starts."""
    connection = duckdb.connect(config={"threads": 1})
    warehouse = Warehouse(connection)
    _copy_transactions(connection, database)
    registry = Registry()
    until = QueryInputs({"clean_transactions": "select * from main.clean_transactions where transaction_at < $as_of"})
    nobody = "select customer_id, segment_key, is_move_pending from assigned_segments where false"
    ledger = QueryInputs({"customer_segments": _PUBLISHED, "assigned_by_previous_model": nobody})
    for number in range(count + 1):
        as_of = last - timedelta(days=count - number)
        values = settings.sql_values | {"as_of": as_of}
        for table in BEFORE_MODEL:
            warehouse.write([TableWrite(table, select_of(table))], values, until)
        promoted, fence_step, held_because = False, 0.0, None
        if number % REFIT_EVERY == 0:
            registry, _ = refit(warehouse, settings, registry, as_of)
            warehouse.write(registry.writes(), values)
            newest = registry.entries[-1].facts
            promoted, fence_step = number > 0 and newest["status"] == "standing", newest["fence_step"]
            held_because = newest["reasons"]
        for table in AFTER_MODEL:
            warehouse.write([TableWrite(table, select_of(table))], values)
        warehouse.write([TableWrite("segment_membership", select_of("segment_membership"))], values, ledger)
        rows = connection.execute(
            "select customer_id, segment_key, nearest_key from assigned_segments order by customer_id"
        ).fetchall()
        assert registry.standing is not None
        yield Night(
            as_of,
            [row[0] for row in rows],
            {row[0]: row[1] for row in rows},
            {row[0]: row[2] for row in rows},
            training.features_of(warehouse),
            promoted,
            fence_step,
            held_because,
            len(registry.held_since_promotion),
            len(registry.standing.keys),
        )


def _copy_transactions(connection: duckdb.DuckDBPyConnection, database: Path) -> None:
    quoted = str(database).replace("'", "''")
    connection.execute(f"attach '{quoted}' as source (read_only)")
    connection.execute("create table clean_transactions as from source.clean_transactions order by all")
    connection.execute("detach source")


def refitted(seen: Sequence[Night], settings: Retailer, *, matched: bool) -> Iterator[Segments]:
    """A fit each night from nothing, named by the number of the cluster, or matched to the night before."""
    from sklearn.cluster import KMeans

    before: Segments = {}
    names = [str(number) for number in range(seen[0].clusters)]
    for night in seen:
        fences = tukey_fences(night.features, list(settings.outliers.features), settings.outliers.factor)
        normal = night.features[is_normal(fences, night.features)]
        scaler = fit_scaler(normal, settings.model.transform)
        seed, starts = night.as_of.toordinal(), settings.model.n_init
        fitted = KMeans(len(names), random_state=seed, n_init=starts).fit(scaler.apply(normal))
        model = SegmentationModel(fences, scaler, fitted.cluster_centers_, tuple(names))
        now = dict(zip(night.customers, model.assign(night.features).tolist(), strict=True))
        if matched and before:
            shared = [[sum(k == a and before.get(c) == b for c, k in now.items()) for b in names] for a in names]
            goes_on = dict(zip(names, linear_sum_assignment(-np.array(shared))[1].tolist(), strict=True))
            now = {customer: names[goes_on[key]] if key in goes_on else key for customer, key in now.items()}
        before = now
        yield now


def never_moving(seen: Sequence[Night]) -> Iterator[Segments]:
    """Everybody stays where it was first put."""
    first: Segments = {}
    for night in seen:
        first = {**night.nearest, **first}
        yield {customer: first[customer] for customer in night.customers}


def kept_shares(seen: Sequence[Segments]) -> list[float]:
    """Each night's share of the customers known the night before that keep their segment."""
    return [
        float(np.mean([before[c] == after[c] for c in before.keys() & after.keys()]))
        for before, after in pairwise(seen)
    ]


def to_and_fro(seen: Sequence[Segments]) -> float:
    """The share of customers that leave a segment and are back in it within `WITHIN` nights."""
    back: set[str] = set()
    left: dict[tuple[str, str], int] = {}
    for number, (before, after) in enumerate(pairwise(seen), start=1):
        for customer, key in after.items():
            was = before.get(customer, key)
            if was != key:
                left[customer, was] = number
                if number - left.get((customer, key), -WITHIN - 1) <= WITHIN:
                    back.add(customer)
    return len(back) / len(seen[-1])


def renamed(seen: Sequence[Segments]) -> int:
    """How often, overnight, most of a cluster's customers had another name: that name came to mean something else."""
    found = 0
    for before, after in pairwise(seen):
        for key in {*before.values()} - _APART:
            of_key = [after[c] for c, was in before.items() if was == key and c in after]
            found += max({*of_key}, key=of_key.count, default=key) != key
    return found


def ginis(seen: Sequence[Night], of: Sequence[Segments], spends: Sequence[Array]) -> list[float]:
    """The Gini of the spend to come, of each night of which it is known."""
    found = []
    for night, segments, spend in zip(seen, of, spends, strict=False):
        groups = np.unique([segments[customer] for customer in night.customers], return_inverse=True)[1]
        found.append(usefulness(groups, night.features[:, 0], spend).gini or 0.0)
    return found


def spend_to_come(database: Path, seen: Sequence[Night]) -> list[Array]:
    """What each customer spent in the days after each night, net; up to the first night that has too few of them."""
    with duckdb.connect(str(database), read_only=True) as connection:
        [(newest,)] = connection.execute("select max(transaction_at) from clean_transactions").fetchall()
        found = []
        for night in seen:
            until = night.as_of + timedelta(days=HORIZON)
            if until > newest:
                break
            rows = connection.execute(
                "select customer_id, cast(sum(amount) as double) from clean_transactions"
                " where transaction_at >= $since and transaction_at < $until group by customer_id",
                {"since": night.as_of, "until": until},
            ).fetchall()
            spent = dict(rows)
            found.append(np.array([spent.get(customer, 0.0) for customer in night.customers]))
    return found


def window(database: Path, last: str, count: int, settings: Retailer, *, rivals: bool = True) -> Window:
    """The figures of a window."""
    seen = list(replay(database, datetime.fromisoformat(last), count, settings))
    stateless = [night.nearest for night in seen]
    strategies: dict[str, list[Segments]] = {"ours": [night.segments for night in seen], "stateless": stateless}
    if rivals:
        strategies["matched"] = list(refitted(seen, settings, matched=True))
        strategies["raw"] = list(refitted(seen, settings, matched=False))
        strategies["never"] = list(never_moving(seen))
    spends = spend_to_come(database, seen)
    measure = ginis(seen, stateless, spends)

    def figures(of: list[Segments]) -> Figures:
        off = [
            [segments[c] != night.nearest[c] for c in night.customers] for night, segments in zip(seen, of, strict=True)
        ]
        losses = [1 - a / b for a, b in zip(ginis(seen, of, spends), measure, strict=True)]
        held_off = float(np.mean([np.mean(night) for night in off[1:]]))
        return Figures(kept_shares(of), to_and_fro(of), renamed(of), held_off, losses[1:])

    return Window(
        seen[-1].as_of,
        seen[0].clusters,
        [night.promoted for night in seen[1:]],
        [(night.as_of, night.fence_step) for night in seen if night.promoted and night.fence_step < 1],
        [(night.as_of, night.held_because) for night in seen if night.held_because],
        seen[-1].holds_running,
        {name: figures(of) for name, of in strategies.items()},
    )


def windows(database: Path, count: int, tried: Sequence[Retailer], *, rivals: bool = True) -> list[list[Window]]:
    """Every window under each of the settings, on as many cores as there are."""
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        running = [
            [pool.submit(window, database, last, count, settings, rivals=rivals) for last in WINDOWS]
            for settings in tried
        ]
        return [[future.result() for future in row] for row in running]


def targets(of: Window) -> list[tuple[str, float | None, float, int, str]]:
    """What is to be reached: words, figure (None: there is none), bound, 1 for at least or -1 for at most, format."""
    ours, is_first = of.strategies["ours"], f"{of.last:%Y-%m-%d}" == WINDOWS[0]
    return [
        ("share that keeps its segment, mean of all nights", float(np.mean(ours.kept)), 0.992, 1, ".2%"),
        ("the worst night without promotion", min(of.ours(False)), 0.985 if is_first else 0.98, 1, ".2%"),
        ("the worst night with promotion", min(of.ours(True), default=None), 0.95, 1, ".2%"),
        (f"A→B→A within {WITHIN} nights, of all customers", ours.to_and_fro, 0.01 if is_first else 0.02, -1, ".2%"),
        ("held off the nearest segment, mean of all nights", ours.held_off, 0.03, -1, ".2%"),
        ("loss of Gini, mean of the nights", float(np.mean(ours.losses)) if ours.losses else None, 0.005, -1, ".2%"),
        ("names that changed hands", ours.renamed, 0, -1, ".0f"),
        ("holds running at the end", of.holds_running, 2, -1, ".0f"),
    ]


def reserve(figure: float | None, bound: float, direction: int) -> float:
    """How far on the right side of its bound a figure is: 0 at the bound, below it missed."""
    return 0.0 if figure is None else direction * (figure - bound)


_WORDS = {
    "ours": "the pipeline",
    "stateless": "nearest segment, same models",
    "matched": "refit each night, matched",
    "raw": "refit each night, as it comes",
    "never": "nobody ever moves",
}
PAGE = """# Stability

Written by `benchmarks/replay.py`, a part of `make bench`: {nights} nights of Online Retail to each of three dates, each
night on the lines up to it, a refit every {every} nights. Every night goes through the pipeline's own SELECTs, fits and
promotion gate, with the shipped settings (margin {margin}, fence margin {fence_margin}); the number of clusters is what
the search took on the first night, from which the others are counted.

- **kept**: the share of the customers known the night before that keep their segment, outliers and inactive ones too.
- **A→B→A**: customers that leave a segment and are back in it within {within} nights, of all of the last night.
- **held off**: customers that are not in the segment that today's features alone would give.
- **loss of Gini**: by how much the segments foretell the spend of the next {horizon} days less well than the nearest
  segments of the same night do (`core.figures.usefulness`, ordered by past spend). Below zero they foretell more. The
  first window has no such future.
- **names that changed hands**: how often, overnight, most customers of a cluster had another name.

The refits from nothing have fences of their own each night and as many starts as the pipeline's. Nobody ever moving is
the counter-example: perfectly stable, and worth less with time.
"""


def page(found: Sequence[Window], count: int, settings: Retailer) -> str:
    """The document."""
    asked = settings.membership
    text = PAGE.format(
        nights=count,
        every=REFIT_EVERY,
        margin=asked.margin,
        fence_margin=asked.fence_margin,
        within=WITHIN,
        horizon=HORIZON,
    )
    lines = [text, "## Targets", "", "| | " + " | ".join(f"to {of.last:%Y-%m-%d}" for of in found) + " |"]
    lines.append("|---|" + "--:|" * len(found))
    for row in zip(*map(targets, found), strict=True):
        cells = [
            "no such night"
            if figure is None
            else f"{figure:{form}} ({'≥' if way > 0 else '≤'} {bound:{form.replace('.2', '.1')}}"
            f" {'met' if reserve(figure, bound, way) >= 0 else '**missed**'})"
            for _, figure, bound, way, form in row
        ]
        lines.append(f"| {row[0][0]} | {' | '.join(cells)} |")
    for of in found:
        lines += ["", *_section(of)]
    return "\n".join(lines) + "\n"


def _section(of: Window) -> Iterator[str]:
    yield f"## To {of.last:%Y-%m-%d}"
    yield ""
    yield f"{of.clusters} clusters; {sum(of.promoted)} refits promoted, {len(of.holds)} held."
    yield ""
    yield (
        "| | kept, mean | kept, worst | A→B→A | held off | names that changed hands | loss of Gini, mean"
        " | on the last night |"
    )
    yield "|---|--:|--:|--:|--:|--:|--:|--:|"
    for name, figures in of.strategies.items():
        comparable = name not in ("raw", "matched")
        cells = [f"{np.mean(figures.kept):.2%}", f"{min(figures.kept):.2%}", f"{figures.to_and_fro:.2%}"]
        cells += [f"{figures.held_off:.2%}" if comparable else "", f"{figures.renamed}"]
        cells += [f"{np.mean(figures.losses):.2%}", f"{figures.losses[-1]:.2%}"] if figures.losses else ["", ""]
        yield f"| {_WORDS[name]} | {' | '.join(cells)} |"
    for words, shares in (("with", of.ours(True)), ("without", of.ours(False))):
        if shares:
            yield ""
            yield (
                f"Kept by the pipeline on nights {words} promotion: {np.mean(shares):.2%} on average,"
                f" {min(shares):.2%} at worst."
            )
    for as_of, step in of.part_of_the_way:
        yield ""
        yield f"Promoted on {as_of:%Y-%m-%d} with fences {step:.3g} of the way from the standing ones to its own."
    for as_of, reasons in of.holds:
        yield ""
        yield f"Held on {as_of:%Y-%m-%d}: {reasons}"


def with_clusters(settings: Retailer, number: int) -> Retailer:
    """The same settings with a number of clusters that nobody searches for."""
    return settings.model_copy(update={"model": settings.model.model_copy(update={"n_clusters": number})})


def sweep(database: Path, count: int, settings: Retailer) -> Iterator[str]:
    """The table of the ADR: each window's figures under each pair of margins, and how many targets are missed."""
    pairs = list(product(MARGINS, FENCE_MARGINS))
    changes = [{"margin": margin, "fence_margin": fence} for margin, fence in pairs]
    tried = [settings.model_copy(update={"membership": settings.membership.model_copy(update=c)}) for c in changes]
    yield (
        "| margin | fence margin | to | mean | worst | worst with promotion | A→B→A | held off | loss of Gini"
        " | holds running | missed |"
    )
    yield "|--:|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|"
    for (margin, fence), row in zip(pairs, windows(database, count, tried, rivals=False), strict=True):
        for of in row:
            found = targets(of)
            cells = ["" if figure is None else f"{figure:{form}}" for _, figure, _, _, form in found]
            missed = sum(reserve(figure, bound, way) < 0 for _, figure, bound, way, _ in found)
            told = [*cells[:6], cells[7], str(missed)]
            yield f"| {margin:.2f} | {fence:.2f} | {of.last:%m-%d} | {' | '.join(told)} |"


def main() -> None:
    """Replay the windows, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder with the data")
    parser.add_argument("--database", type=Path, help="a working database of Online Retail instead of a run")
    parser.add_argument("--nights", type=int, default=60)
    parser.add_argument("--clusters", type=int, help="so many clusters instead of what the search takes")
    parser.add_argument("--sweep", action="store_true", help="try settings of the hysteresis instead")
    given: Any = parser.parse_args()
    settings = load_settings("online_retail")
    if given.clusters:
        settings = with_clusters(settings, given.clusters)

    def told(database: Path) -> None:
        if given.sweep:
            for line in sweep(database, given.nights, settings):
                print(line)
            return
        [found] = windows(database, given.nights, [settings])
        text = page(found, given.nights, settings)
        print(text)
        (ROOT / "docs" / "stability.md").write_text(text, "utf-8")

    if given.database:
        told(given.database)
    else:
        with prepared(given.data) as database:
            told(database)


if __name__ == "__main__":
    main()
