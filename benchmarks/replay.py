"""Replay sixty nights of two shops, each on the data of that day, and measure who changed segment.

Usage: python benchmarks/replay.py [--data FOLDER] [--packages FOLDER] [--nights N] [--clusters N] [--sweep]

Each night uses the pipeline's own SELECTs, fits and promotion; every seventh night has a refit. Other methods are
compared with it: the nearest segment under the same models, a fit from scratch each night, the same matched to the
night before, and segments that never change. The result is written to `docs/stability.md`. With --sweep, pairs of
hysteresis margins are compared instead, and the table of ADR 7 is printed.
"""

import argparse
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise, product
from multiprocessing import get_context
from pathlib import Path

import duckdb
import numpy as np
from scipy.optimize import linear_sum_assignment
from shops import ROOT, SHOPS, Folders, finished_run

from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.model import thresholds
from segmentation_pipeline.model.arrays import Array
from segmentation_pipeline.model.kmeans import Transform, fit_scaler
from segmentation_pipeline.model.lift import lift
from segmentation_pipeline.model.segment_catalog import SEGMENTS
from segmentation_pipeline.model.segmentation_model import SegmentationModel, is_normal, tukey_fences
from segmentation_pipeline.segments import training
from segmentation_pipeline.segments.promotion import next_registry
from segmentation_pipeline.segments.registry import ACTIVE_MODEL_TABLES, Registry
from segmentation_pipeline.tables.catalog import select_of
from segmentation_pipeline.warehouse.database import Warehouse
from segmentation_pipeline.warehouse.queries import QueryInputs, derived_between
from segmentation_pipeline.warehouse.table_write import TableWrite

WINDOWS = ("2011-12-10", "2011-09-10", "2011-07-12")
# CDNOW is the shop of `worth` for which the search takes another transform.
SHOP_WINDOWS = {"online_retail": WINDOWS, "cdnow": ("1998-07-01", "1998-04-01")}
# Nights between refits; nights within which a return counts as A→B→A; days of later spend.
REFIT_EVERY, WITHIN, HORIZON = 7, 14, 90
MARGINS, FENCE_MARGINS = (0.08, 0.09, 0.10), (0.03, 0.05)
_ASSIGNED = "select * from assigned_segments"
AFTER_MODEL = derived_between(ACTIVE_MODEL_TABLES, _ASSIGNED)
BEFORE_MODEL = [table for table in derived_between(["clean_transactions"], _ASSIGNED) if table not in AFTER_MODEL]
_PUBLISHED = (
    "select assigned.customer_id, assigned.segment_key, assigned.is_move_pending, model.model_id, features.as_of"
    " from assigned_segments as assigned join rfm_features as features using (customer_id)"
    " cross join kmeans_model as model"
)
_APART = frozenset(segment.key for segment in SEGMENTS if segment.customer_group != "normal")
Segments = Mapping[str, str]


@dataclass(frozen=True)
class Night:
    """The segment of each customer in one night; features have shape (n, 3), in the order of the customers."""

    as_of: datetime
    customers: list[str]
    segments: Segments
    nearest: Segments
    features: Array
    promoted: bool
    fence_step: float
    pending_because: str | None
    pending_models: int
    clusters: int
    transform: Transform


@dataclass(frozen=True)
class Metrics:
    """The metrics of one method after the first night; losses are shares of the Gini of the nearest segments."""

    kept: list[float]
    returning: float
    renamed: int
    pending_moves: float
    losses: list[float]


@dataclass(frozen=True)
class Window:
    """One window: its nights, and the metrics of each method, the pipeline first."""

    last: datetime
    clusters: int
    transform: Transform
    promoted: list[bool]
    partial_fences: list[tuple[datetime, float]]
    pending: list[tuple[datetime, str]]
    pending_models: int
    strategies: dict[str, Metrics]

    def ours(self, promoted: bool) -> list[float]:
        """Return the shares kept in the nights with a promotion, or in the others."""
        return [
            share for share, other in zip(self.strategies["ours"].kept, self.promoted, strict=True) if other == promoted
        ]


def replay(database: Path, last: datetime, count: int, settings: Retailer) -> Iterator[Night]:
    """Yield every night of a window, derived by the pipeline's SELECTs; the first is the starting point."""
    connection = duckdb.connect(config={"threads": 1})
    warehouse = Warehouse(connection)
    _copy_transactions(connection, database)
    registry = Registry()
    until = QueryInputs({"clean_transactions": "select * from main.clean_transactions where transaction_at < $as_of"})
    empty = "select customer_id, segment_key, is_move_pending from assigned_segments where false"
    history_inputs = QueryInputs({"customer_segments": _PUBLISHED, "assigned_by_previous_model": empty})
    for number in range(count + 1):
        as_of = last - timedelta(days=count - number)
        values = settings.sql_values | {"as_of": as_of}
        for table in BEFORE_MODEL:
            warehouse.write([TableWrite(table, select_of(table))], values, until)
        promoted, fence_step, pending_because = False, 0.0, None
        if number % REFIT_EVERY == 0:
            registry, _ = next_registry(warehouse, settings)
            warehouse.write(registry.writes(), values)
            newest = registry.models[-1]
            promoted, fence_step = number > 0 and newest.status == "active", newest.fence_step
            pending_because = newest.reasons
        for table in AFTER_MODEL:
            warehouse.write([TableWrite(table, select_of(table))], values)
        warehouse.write([TableWrite("segment_membership", select_of("segment_membership"))], values, history_inputs)
        rows = connection.execute(
            "select customer_id, segment_key, nearest_key from assigned_segments order by customer_id"
        ).fetchall()
        assert registry.active is not None
        yield Night(
            as_of,
            [row[0] for row in rows],
            {row[0]: row[1] for row in rows},
            {row[0]: row[2] for row in rows},
            training.read_features(warehouse),
            promoted,
            fence_step,
            pending_because,
            len(registry.pending_since_promotion),
            len(registry.active.keys),
            registry.active.transform,
        )


def _copy_transactions(connection: duckdb.DuckDBPyConnection, database: Path) -> None:
    quoted = str(database).replace("'", "''")
    connection.execute(f"attach '{quoted}' as source (read_only)")
    connection.execute("create table clean_transactions as from source.clean_transactions order by all")
    connection.execute("detach source")


def refitted(seen: Sequence[Night], settings: Retailer, *, matched: bool) -> Iterator[Segments]:
    """Fit from scratch each night; name clusters by their number, or match them to the night before."""
    from sklearn.cluster import KMeans

    before: Segments = {}
    names = [str(number) for number in range(seen[0].clusters)]
    for night in seen:
        fences = tukey_fences(night.features, list(settings.outliers.features), settings.outliers.factor)
        normal = night.features[is_normal(fences, night.features)]
        scaler = fit_scaler(normal, night.transform)
        seed, starts = night.as_of.toordinal(), thresholds.FIT.n_init
        fitted = KMeans(len(names), random_state=seed, n_init=starts).fit(scaler.apply(normal))
        model = SegmentationModel(fences, scaler, fitted.cluster_centers_, tuple(names))
        now = dict(zip(night.customers, model.assign(night.features).tolist(), strict=True))
        if matched and before:
            shared = [[sum(k == a and before.get(c) == b for c, k in now.items()) for b in names] for a in names]
            continues = dict(zip(names, linear_sum_assignment(-np.array(shared))[1].tolist(), strict=True))
            now = {customer: names[continues[key]] if key in continues else key for customer, key in now.items()}
        before = now
        yield now


def never_changing(seen: Sequence[Night]) -> Iterator[Segments]:
    """Keep every customer in its first segment."""
    first: Segments = {}
    for night in seen:
        first = {**night.nearest, **first}
        yield {customer: first[customer] for customer in night.customers}


def kept_shares(seen: Sequence[Segments]) -> list[float]:
    """Return, for each night, the share of the customers of the night before that keep their segment."""
    return [
        float(np.mean([before[c] == after[c] for c in before.keys() & after.keys()]))
        for before, after in pairwise(seen)
    ]


def share_returning(seen: Sequence[Segments]) -> float:
    """Return the share of customers that leave a segment and return to it within `WITHIN` nights."""
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
    """Count how often most customers of a segment had another name the next night: the name changed its meaning."""
    found = 0
    for before, after in pairwise(seen):
        for key in {*before.values()} - _APART:
            of_key = [after[c] for c, was in before.items() if was == key and c in after]
            found += max({*of_key}, key=of_key.count, default=key) != key
    return found


def ginis(seen: Sequence[Night], of: Sequence[Segments], spends: Sequence[Array]) -> list[float]:
    """Return the Gini of later spend for each night for which it is known."""
    found = []
    for night, segments, spend in zip(seen, of, spends, strict=False):
        groups = np.unique([segments[customer] for customer in night.customers], return_inverse=True)[1]
        found.append(lift(groups, night.features[:, 0], spend).gini or 0.0)
    return found


def later_spend(database: Path, seen: Sequence[Night]) -> list[Array]:
    """Return what each customer spent in the days after each night, net; up to the last night with enough days."""
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


def window(
    database: Path,
    last: str,
    count: int,
    settings: Retailer,
    *,
    rivals: bool = True,
    hysteresis: thresholds.HysteresisRules | None = None,
) -> Window:
    """Return the metrics of a window, with other margins if they are given; a process measures one at a time."""
    thresholds.HYSTERESIS = hysteresis or thresholds.HysteresisRules()
    seen = list(replay(database, datetime.fromisoformat(last), count, settings))
    stateless = [night.nearest for night in seen]
    strategies: dict[str, list[Segments]] = {"ours": [night.segments for night in seen], "stateless": stateless}
    if rivals:
        strategies["matched"] = list(refitted(seen, settings, matched=True))
        strategies["raw"] = list(refitted(seen, settings, matched=False))
        strategies["never"] = list(never_changing(seen))
    spends = later_spend(database, seen)
    measure = ginis(seen, stateless, spends)

    def metrics(of: list[Segments]) -> Metrics:
        off = [
            [segments[c] != night.nearest[c] for c in night.customers] for night, segments in zip(seen, of, strict=True)
        ]
        losses = [1 - a / b for a, b in zip(ginis(seen, of, spends), measure, strict=True)]
        pending_moves = float(np.mean([np.mean(night) for night in off[1:]]))
        return Metrics(kept_shares(of), share_returning(of), renamed(of), pending_moves, losses[1:])

    return Window(
        seen[-1].as_of,
        seen[0].clusters,
        seen[0].transform,
        [night.promoted for night in seen[1:]],
        [(night.as_of, night.fence_step) for night in seen if night.promoted and night.fence_step < 1],
        [(night.as_of, night.pending_because) for night in seen if night.pending_because],
        seen[-1].pending_models,
        {name: metrics(of) for name, of in strategies.items()},
    )


def windows(
    database: Path,
    count: int,
    settings: Retailer,
    dates: Sequence[str] = WINDOWS,
    tried: Sequence[thresholds.HysteresisRules] = (thresholds.HYSTERESIS,),
    *,
    rivals: bool = True,
) -> list[list[Window]]:
    """Return the windows to some dates under each of the margins, computed on all cores."""
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        running = [
            [
                pool.submit(window, database, last, count, settings, rivals=rivals, hysteresis=hysteresis)
                for last in dates
            ]
            for hysteresis in tried
        ]
        return [[future.result() for future in row] for row in running]


def targets(of: Window) -> list[tuple[str, float | None, float, int, str]]:
    """Return the targets: words, value (None: not measured), bound, 1 for at least or -1 for at most, format."""
    ours, is_first = of.strategies["ours"], f"{of.last:%Y-%m-%d}" == WINDOWS[0]
    return [
        ("customers that keep their segment, mean of all nights", float(np.mean(ours.kept)), 0.992, 1, ".2%"),
        ("the same, worst night without promotion", min(of.ours(False)), 0.985 if is_first else 0.98, 1, ".2%"),
        ("the same, worst night with promotion", min(of.ours(True), default=None), 0.95, 1, ".2%"),
        (f"A→B→A within {WITHIN} nights, of all customers", ours.returning, 0.01 if is_first else 0.02, -1, ".2%"),
        ("pending moves, mean of all nights", ours.pending_moves, 0.03, -1, ".2%"),
        ("loss of Gini, mean of the nights", float(np.mean(ours.losses)) if ours.losses else None, 0.005, -1, ".2%"),
        ("names that changed their meaning", ours.renamed, 0, -1, ".0f"),
        ("pending models at the end", of.pending_models, 2, -1, ".0f"),
    ]


def reserve(value: float | None, bound: float, direction: int) -> float:
    """Return the distance of a value from its bound: 0 at the bound, negative where the target is missed."""
    return 0.0 if value is None else direction * (value - bound)


_WORDS = {
    "ours": "the pipeline",
    "stateless": "nearest segment, same models",
    "matched": "fit each night, matched",
    "raw": "fit each night, not matched",
    "never": "segments never change",
}
PAGE = """# Stability

Written by `benchmarks/replay.py` (`make bench-pages`): {nights} nights of a shop to each of several dates, each night
with the lines up to it, and a refit every {every} nights. Every night uses the pipeline's own SELECTs, fits and
promotion with the shipped settings (margin {margin}, fence margin {fence_margin}). Transform and number of clusters are
what the search chose on the night before the first. Of the shops of [worth.md](worth.md), CDNOW is the one for which it
chooses another transform than `standard`; fits from scratch are not compared there.

- **kept**: the share of the customers of the night before that keep their segment, including outliers and inactive
  customers.
- **A→B→A**: customers that leave a segment and return to it within {within} nights, as a share of the last night's.
- **pending moves**: customers that are not in the segment that today's features alone would give.
- **loss of Gini**: how much less well the segments predict the spend of the next {horizon} days than the nearest
  segments of the same night (`model.lift`, ordered by past spend). Below zero they predict better. The first window
  of a shop has no later data.
- **names that changed their meaning**: how often most customers of a segment had another name the next night.

The fits from scratch compute their own fences each night, with as many starts as the pipeline. Segments that never
change are the counter-example: perfectly stable, but worth less and less.
"""


def page(found: Mapping[str, Sequence[Window]], count: int) -> str:
    """Return the page."""
    text = PAGE.format(
        nights=count,
        every=REFIT_EVERY,
        margin=thresholds.HYSTERESIS.margin,
        fence_margin=thresholds.HYSTERESIS.fence_margin,
        within=WITHIN,
        horizon=HORIZON,
    )
    lines = [text.rstrip()]
    for name, of_shop in found.items():
        lines += ["", f"## {SHOPS[name].title}", "", *_targets(of_shop)]
        for of in of_shop:
            lines += ["", *_section(of)]
    return "\n".join(lines) + "\n"


def _targets(found: Sequence[Window]) -> Iterator[str]:
    yield "| | " + " | ".join(f"to {of.last:%Y-%m-%d}" for of in found) + " |"
    yield "|---|" + "--:|" * len(found)
    for row in zip(*map(targets, found), strict=True):
        cells = [
            "not measured"
            if value is None
            else f"{value:{form}} ({'≥' if way > 0 else '≤'} {bound:{form.replace('.2', '.1')}}"
            f" {'met' if reserve(value, bound, way) >= 0 else '**missed**'})"
            for _, value, bound, way, form in row
        ]
        yield f"| {row[0][0]} | {' | '.join(cells)} |"


def _section(of: Window) -> Iterator[str]:
    yield f"### To {of.last:%Y-%m-%d}"
    yield ""
    yield f"{of.transform}, {of.clusters} clusters; {sum(of.promoted)} refits promoted, {len(of.pending)} pending."
    yield ""
    yield (
        "| | kept, mean | kept, worst | A→B→A | pending moves | names that changed their meaning"
        " | loss of Gini, mean | on the last night |"
    )
    yield "|---|--:|--:|--:|--:|--:|--:|--:|"
    for name, metrics in of.strategies.items():
        comparable = name not in ("raw", "matched")
        cells = [f"{np.mean(metrics.kept):.2%}", f"{min(metrics.kept):.2%}", f"{metrics.returning:.2%}"]
        cells += [f"{metrics.pending_moves:.2%}" if comparable else "", f"{metrics.renamed}"]
        cells += [f"{np.mean(metrics.losses):.2%}", f"{metrics.losses[-1]:.2%}"] if metrics.losses else ["", ""]
        yield f"| {_WORDS[name]} | {' | '.join(cells)} |"
    for words, shares in (("with", of.ours(True)), ("without", of.ours(False))):
        if shares:
            yield ""
            yield (
                f"Kept by the pipeline on nights {words} promotion: {np.mean(shares):.2%} on average,"
                f" {min(shares):.2%} at worst."
            )
    for as_of, step in of.partial_fences:
        yield ""
        yield f"Promoted on {as_of:%Y-%m-%d} with fences moved {step:.3g} of the way from the active ones to its own."
    for as_of, reasons in of.pending:
        yield ""
        yield f"Pending on {as_of:%Y-%m-%d}: {reasons}"


def with_clusters(settings: Retailer, number: int) -> Retailer:
    """Return the settings with a fixed number of clusters."""
    return settings.model_copy(update={"model": settings.model.model_copy(update={"n_clusters": number})})


def sweep(database: Path, count: int, settings: Retailer) -> Iterator[str]:
    """Yield the table of ADR 7: the metrics of each window under each pair of margins, and the missed targets."""
    pairs = list(product(MARGINS, FENCE_MARGINS))
    tried = [thresholds.HysteresisRules(margin=margin, fence_margin=fence) for margin, fence in pairs]
    yield (
        "| margin | fence margin | to | mean | worst | worst with promotion | A→B→A | pending moves | loss of Gini"
        " | pending models | missed |"
    )
    yield "|--:|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|"
    for (margin, fence), row in zip(pairs, windows(database, count, settings, tried=tried, rivals=False), strict=True):
        for of in row:
            found = targets(of)
            cells = ["" if value is None else f"{value:{form}}" for _, value, _, _, form in found]
            missed = sum(reserve(value, bound, way) < 0 for _, value, bound, way, _ in found)
            shown = [*cells[:6], cells[7], str(missed)]
            yield f"| {margin:.2f} | {fence:.2f} | {of.last:%m-%d} | {' | '.join(shown)} |"


def main() -> None:
    """Replay the windows, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nights", type=int, default=60)
    parser.add_argument("--clusters", type=int, help="number of clusters, instead of the one that the search chooses")
    parser.add_argument("--sweep", action="store_true", help="compare pairs of hysteresis margins instead")
    folders, options = Folders.parsed(parser)
    found = dict[str, list[Window]]()
    for name, dates in SHOP_WINDOWS.items():
        with finished_run(name, folders) as run:
            settings = with_clusters(run.settings, options.clusters) if options.clusters else run.settings
            if options.sweep:
                for line in sweep(run.database, options.nights, settings):
                    print(line)
                return
            # The fits from scratch of 20,000 customers each night would take hours.
            [found[name]] = windows(run.database, options.nights, settings, dates, rivals=name == "online_retail")
    text = page(found, options.nights)
    print(text)
    (ROOT / "docs" / "stability.md").write_text(text, "utf-8")


if __name__ == "__main__":
    main()
