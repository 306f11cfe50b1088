"""Measure the choice of the number of clusters on Online Retail: at the last date, with other seeds, on each night.

Usage: python benchmarks/choice_of_k.py [--data FOLDER] [--seeds N] [--orders N] [--nights N]

Everything is measured with refunds netted and with refunds ignored. The result is written to `docs/choice_of_k.md`.
"""

import argparse
import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
from numpy.typing import NDArray
from replay import WINDOWS
from shops import ROOT, Folders, finished_run

from segmentation_pipeline.config.loading import SHIPPED, load_settings
from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.model.arrays import Array
from segmentation_pipeline.model.k_search import KCandidate, search_k
from segmentation_pipeline.model.kmeans import fit
from segmentation_pipeline.model.resampling import bootstrap_ari
from segmentation_pipeline.model.segmentation_model import is_normal, tukey_fences
from segmentation_pipeline.model.thresholds import FIT, SEARCH, FitRules, SearchRules
from segmentation_pipeline.segments import training
from segmentation_pipeline.tables.catalog import select_of
from segmentation_pipeline.tables.contract import literal
from segmentation_pipeline.warehouse.database import Warehouse
from segmentation_pipeline.warehouse.table_write import TableWrite

# Resamples of the rule that was planned; the range of the search by silhouette alone.
FEW, WIDE = 20, (2, 8)
KINDS = {"net": "refunds netted", "ignore": "refunds ignored"}
LAST = datetime.fromisoformat(WINDOWS[0])


@dataclass(frozen=True)
class Shop:
    """The working database of a run over Online Retail with one treatment of refunds, and its settings."""

    database: Path
    settings: Retailer
    method: FitRules = FIT
    rules: SearchRules = SEARCH

    def with_seed(self, seed: int) -> "Shop":
        """Return the shop with another seed."""
        return replace(self, method=replace(self.method, random_state=seed))

    def with_clusters(self, n_clusters: int) -> "Shop":
        """Return the shop with a fixed number of clusters."""
        model = self.settings.model.model_copy(update={"n_clusters": n_clusters})
        return replace(self, settings=self.settings.model_copy(update={"model": model}))

    def fit(self, features: Array, as_of: datetime, *, search: bool = False) -> training.CandidateModel:
        """Fit a first model on features of shape (n, 3)."""
        return training.fit_candidate(
            features,
            self.settings,
            as_of,
            active=None,
            number=1,
            search=search,
            rules=self.rules,
            method=self.method,
        )

    def features(self, as_of: datetime | None = None, order: int = 0) -> Array:
        """Return the features of the lines before as_of (None: all), in some order, by the pipeline's own SELECTs."""
        with duckdb.connect(config={"threads": 1}) as connection:
            warehouse = Warehouse(connection)
            connection.execute(f"attach {literal(str(self.database))} as source (read_only)")
            connection.execute(
                "create table clean_transactions as select * from source.clean_transactions"
                " where coalesce(transaction_at < cast($as_of as timestamp), true)"
                " order by hash(source_file, source_sheet, source_line, cast($order as integer))",
                {"as_of": as_of, "order": order},
            )
            for table in ("invoice_totals", "customer_totals", "inter_purchase_times", "rfm_features"):
                warehouse.write([TableWrite(table, select_of(table))], self.settings.sql_values | {"as_of": as_of})
            return training.read_features(warehouse)

    def published(self) -> list[KCandidate]:
        """Return what the run found, from the published table, without transforms that it did not choose."""
        with duckdb.connect(str(self.database), read_only=True) as connection:
            found = connection.execute(
                "select * from kmeans_candidates where transform = (select transform from kmeans_model)"
                " order by n_clusters"
            ).fetchall()
        return [KCandidate(*row) for row in found]


def searched(shop: Shop, as_of: datetime | None = None) -> list[KCandidate]:
    """Search the number of clusters on the lines before as_of."""
    found = shop.fit(shop.features(as_of), as_of or LAST, search=True)
    assert found.search is not None
    return found.search.candidates


def keys(shop: Shop, order: int, seeds: int, n_clusters: int) -> list[NDArray[np.str_]]:
    """Return each customer's segment under each seed, with the rows in one order."""
    features = shop.features(order=order)
    fits = [shop.with_clusters(n_clusters).with_seed(seed).fit(features, LAST) for seed in range(seeds)]
    return [one.model.assign(features) for one in fits]


def disagreeing(shop: Shop, n_clusters: int) -> int:
    """Count the resamples of so many clusters whose agreement is below the bound of the search."""
    features, method = shop.features(), asdict(shop.method)
    fences = tukey_fences(features, list(shop.settings.outliers.features), shop.settings.outliers.factor)
    normal = features[is_normal(fences, features)]
    model = fit(normal, transform=shop.published()[0].transform, n_clusters=n_clusters, **method)
    aris = bootstrap_ari(model.scaler.apply(normal), model.centroids_, resamples=range(shop.rules.resamples), **method)
    return int((aris < shop.rules.min_stability).sum())


def robust(shop: Shop) -> tuple[list[KCandidate], int]:
    """Search on all customers, scaled as by RobustScaler; return the candidates and the number of customers."""
    features, (low, high) = shop.features(), WIDE
    rules = replace(shop.rules, k_min=low, k_max=high)
    found = search_k(features, transform="robust", rules=rules, method=shop.method)
    return found.candidates, len(features)


@dataclass(frozen=True)
class Findings:
    """The results for one treatment of refunds; searches are listed by seed and by night."""

    published: list[KCandidate]
    by_seed: list[list[KCandidate]]
    by_seed_of_few: list[list[KCandidate]]
    disagreeing: list[int]
    fits: list[NDArray[np.str_]]
    by_night: dict[datetime, list[KCandidate]]
    robust: list[KCandidate]
    customers: int

    @cached_property
    def k(self) -> int:
        """The number of clusters that the run chose."""
        return chosen_number(self.published)


def chosen_number(candidates: Sequence[KCandidate]) -> int:
    """Return the number of clusters that a search chose."""
    return next(one.n_clusters for one in candidates if one.is_chosen)


def findings(shop: Shop, pool: ProcessPoolExecutor, seeds: int, orders: int, nights: int) -> Findings:
    """Measure one shop on the cores of the pool."""
    published = shop.published()
    k = chosen_number(published)
    shops = [shop.with_seed(seed) for seed in range(seeds)]
    dates = [LAST - timedelta(days=back) for back in reversed(range(nights))]

    def each(jobs: list[Future[Any]]) -> list[Any]:
        return [job.result() for job in jobs]

    by_night = [pool.submit(searched, shop, date) for date in dates]
    by_seed = [pool.submit(searched, one) for one in shops]
    of_few = [pool.submit(searched, replace(one, rules=replace(one.rules, resamples=FEW))) for one in shops]
    finer = [pool.submit(disagreeing, one, k + 1) for one in shops]
    fits = [pool.submit(keys, shop, order, seeds, k) for order in range(orders)]
    by_silhouette = pool.submit(robust, shop)
    return Findings(
        published,
        each(by_seed),
        each(of_few),
        each(finer),
        [fit for of_order in each(fits) for fit in of_order],
        dict(zip(dates, each(by_night), strict=True)),
        *by_silhouette.result(),
    )


@contextmanager
def shop_of(folders: Folders, refunds: str) -> Iterator[Shop]:
    """Run the pipeline with refunds netted or ignored."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "online_retail.toml"
        text = (SHIPPED / path.name).read_text("utf-8")
        path.write_text(text.replace('refunds = "net"', f'refunds = "{refunds}"'), "utf-8")
        settings = load_settings(str(path))
        assert settings.cleaning.refunds == refunds
        with finished_run("online_retail", folders, str(path)) as run:
            yield Shop(run.database, settings)


PAGE = """# The choice of the number of clusters

Written by `benchmarks/choice_of_k.py` (`make bench-pages`): what the search of `model.n_clusters = "auto"` finds on
Online Retail with the shipped settings, with refunds netted (as shipped) and ignored. The search chooses the largest
number of clusters from {k_min} to {k_max} that meets three conditions: a silhouette within {tolerance:.0%} of the
best, a smallest cluster of at least {min_share:.0%} of the normal customers, and an adjusted Rand index (ARI) of at
least {min_stability} with the worst of {resamples} resamples. [ADR 9](adr/0009-a-hundred-resamples.md) explains their
number.
"""


def page(found: dict[str, Findings]) -> str:
    """Return the page."""
    lines = [PAGE.format(**asdict(SEARCH)), "## At the last date", ""]
    lines.append("`kmeans_candidates` of a run over all lines. Resamples are fitted only where they can decide.")
    for kind, of in found.items():
        lines += ["", f"### {KINDS[kind].capitalize()}", "", *_candidates(of.published)]
    lines += ["", "## Other seeds, other orders of the rows", ""]
    lines += _seeds(found)
    lines += ["", "## Night by night", "", *_nights(found)]
    lines += ["", "## What silhouette alone would choose", ""]
    lines.append(f"All customers including outliers, scaled by `RobustScaler`, {WIDE[0]} to {WIDE[1]} clusters.")
    for kind, of in found.items():
        best = max(of.robust, key=lambda one: one.silhouette or -1)
        size = round((best.smallest_share or 0) * of.customers)
        lines += ["", f"### {KINDS[kind].capitalize()}, all customers", ""]
        text = (
            f"{best.n_clusters} clusters have the best silhouette; one of them is {size} of {of.customers:,} customers."
        )
        if not best.passes:
            text += " It does not meet the conditions."
        if not any(one.passes for one in of.robust):
            text += (
                f" No other number does, so the search chooses {chosen_number(of.robust)}, and a check warns about it."
            )
        lines.append(text)
        lines += ["", *_candidates(of.robust)]
    return "\n".join(lines) + "\n"


def _candidates(candidates: Sequence[KCandidate]) -> Iterator[str]:
    yield "| clusters | silhouette | smallest cluster | worst resample (ARI) | verdict |"
    yield "|--:|--:|--:|--:|---|"
    for one in candidates:
        number = f"**{one.n_clusters}**" if one.is_chosen else f"{one.n_clusters}"
        worst = "not measured" if one.worst_ari is None else f"{one.worst_ari:.3f}"
        yield f"| {number} | {one.silhouette:.3f} | {one.smallest_share:.2%} | {worst} | {one.verdict} |"


def _chosen(searches: Sequence[Sequence[KCandidate]], of: str) -> str:
    counted = sorted(Counter(map(chosen_number, searches)).items())
    return "; ".join(f"{k} clusters {of} {times}" for k, times in counted)


def _seeds(found: dict[str, Findings]) -> Iterator[str]:
    everything = list(found.values())
    yield f"| | {' | '.join(KINDS[kind] for kind in found)} |"
    yield f"|---|{'---|' * len(found)}"
    for resamples, searches in (
        (SEARCH.resamples, [of.by_seed for of in everything]),
        (FEW, [of.by_seed_of_few for of in everything]),
    ):
        which = f"{resamples} resamples" if resamples == SEARCH.resamples else f"the first {resamples} of them"
        cells = [_chosen(one, "under") + f" of {len(one)} seeds" for one in searches]
        yield f"| the search with {which} | {' | '.join(cells)} |"
    cells = [
        f"of {of.k + 1} clusters: {min(of.disagreeing)} to {max(of.disagreeing)} of {SEARCH.resamples}"
        for of in everything
    ]
    yield f"| resamples with an agreement below {SEARCH.min_stability}, by seed | {' | '.join(cells)} |"
    counts = [Counter(one.tobytes() for one in of.fits) for of in everything]
    cells = [f"{count.most_common(1)[0][1]} of {count.total()}" for count in counts]
    yield f"| fits (each seed with each order) that assign every customer to the same segment | {' | '.join(cells)} |"
    cells = []
    for of, count in zip(everything, counts, strict=True):
        usual = np.frombuffer(count.most_common(1)[0][0], of.fits[0].dtype)
        cells.append(f"{max(int((one != usual).sum()) for one in of.fits)} of {len(usual):,}")
    yield f"| customers that a fit assigns to another segment, at most | {' | '.join(cells)} |"


def _nights(found: dict[str, Findings]) -> Iterator[str]:
    for kind, of in found.items():
        first, last = min(of.by_night), max(of.by_night)
        nights = f"{len(of.by_night)} midnights from {first:%Y-%m-%d} to {last:%Y-%m-%d}, each with the lines before it"
        yield f"{KINDS[kind].capitalize()}, {nights}: {_chosen(list(of.by_night.values()), 'on')}."
        yield ""
    others = [
        (night, kind, chosen_number(candidates), next(one for one in candidates if one.n_clusters == of.k))
        for kind, of in found.items()
        for night, candidates in of.by_night.items()
        if chosen_number(candidates) != of.k
    ]
    if not others:
        yield "Every night has the number of the last date."
        return
    yield "Nights with another number than the last date:"
    yield ""
    yield "| as of | | chosen | verdict on the number of the last date |"
    yield "|---|---|--:|---|"
    for night, kind, number, one in others:
        yield f"| {night:%Y-%m-%d} | {KINDS[kind]} | {number} | {one.n_clusters}: {one.verdict} |"


def main() -> None:
    """Measure everything, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--orders", type=int, default=20)
    parser.add_argument("--nights", type=int, default=60)
    folders, options = Folders.parsed(parser)
    with ExitStack() as stack:
        shops = {kind: stack.enter_context(shop_of(folders, kind)) for kind in KINDS}
        pool = stack.enter_context(ProcessPoolExecutor(os.cpu_count(), get_context("spawn")))
        found = {
            kind: findings(shop, pool, options.seeds, options.orders, options.nights) for kind, shop in shops.items()
        }
    text = page(found)
    print(text)
    (ROOT / "docs" / "choice_of_k.md").write_text(text, "utf-8")


if __name__ == "__main__":
    main()
