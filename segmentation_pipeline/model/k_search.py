"""Choose the number of clusters: the most detailed one whose clusters are clear, large enough and stable.

Contains the rule for one transform, and the verdict on each candidate. Transforms are compared in `model_search`. The
fit of one number of clusters is in `kmeans`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

import numpy as np

from segmentation_pipeline.model.arrays import Array, round_significant
from segmentation_pipeline.model.kmeans import (
    KMeansFit,
    Scaler,
    Transform,
    count_distinct,
    fit,
    fit_scaler,
    sampled_rows,
)
from segmentation_pipeline.model.resampling import bootstrap_ari
from segmentation_pipeline.model.silhouette import silhouettes
from segmentation_pipeline.model.thresholds import FitRules, SearchRules

Report = Callable[[str], None]


@dataclass(frozen=True)
class KCandidate:
    """One transform and number of clusters of a search.

    Attributes:
        transform: The transform before the scaling.
        n_clusters: The number of clusters.
        inertia: Sum of squared scaled distances; None if there were too few distinct customers to fit.
        silhouette: Mean silhouette; None likewise.
        smallest_share: The share of the customers in the smallest cluster; None likewise.
        mean_ari: Mean adjusted Rand index of the resamples; None if no resample was fitted.
        worst_ari: The lowest adjusted Rand index of a resample; None likewise.
        is_chosen: Whether the search chose it.
        passes: Whether it was tested on every condition and meets all.
        verdict: Why it was or was not chosen, in a sentence.
        gini: Mean Gini of the later spend of normal customers; None if it was not compared, as of the next three.
        gini_lead: `gini` minus that of the transform and number that are chosen by the other conditions alone.
        gini_lead_low: The least lead that the noise allows.
        kept_overnight: The share of customers that keep their segment from one day to the next.
    """

    transform: Transform
    n_clusters: int
    inertia: float | None
    silhouette: float | None
    smallest_share: float | None
    mean_ari: float | None
    worst_ari: float | None
    is_chosen: bool
    passes: bool
    verdict: str
    gini: float | None = None
    gini_lead: float | None = None
    gini_lead_low: float | None = None
    kept_overnight: float | None = None


@dataclass(frozen=True)
class KSearchResult:
    """The outcome of a search.

    Attributes:
        fit: The fit of the chosen number of clusters.
        candidates: Every number of the range, in ascending order.
        passes: Whether the chosen number meets every condition; otherwise it is the nearest to that.
        month_ends: The month ends whose later spend was compared.
    """

    fit: KMeansFit
    candidates: list[KCandidate]
    passes: bool
    month_ends: tuple[datetime, ...] = ()


def search_k(
    features: Array,
    *,
    transform: Transform,
    rules: SearchRules | None = None,
    method: FitRules | None = None,
    report: Report = lambda _: None,
) -> KSearchResult:
    """Fit each number of clusters of the range, and choose the most detailed that meets every condition.

    The conditions: the silhouette is at least (1 - tolerance) times the best, the smallest cluster has `min_share` of
    the customers, and each resample agrees by `min_stability`. Silhouette alone chooses useless clusters: with
    RobustScaler on all customers, two clusters, one of 8 customers. Resampling is the most expensive part, so only
    candidates that meet the other two conditions are resampled, from the most detailed down to the first that passes.
    They are resampled in blocks, and none further than the block in which a resample fails.

    If none passes, the search chooses the candidate that fails the fewest conditions, where stability that was not
    measured counts as failed; of these the one with the smallest sum of relative shortfalls, with the stability in the
    first block, which all have; of equals the most detailed.

    Of more than `max_customers`, a seeded sample is searched, so that the cost is bounded. The chosen number is then
    fitted on all customers, from the centroids of the sample.

    Args:
        features: Shape (n, d), the normal customers in natural units, sorted by customer.
        transform: The transform before the scaling.
        rules: The range and the conditions; default: `SearchRules()`.
        method: The fit's seed and starts; default: `FitRules()`.
        report: Called with what the search is doing.

    Raises:
        ValueError: There are too few distinct customers for the fewest clusters, or no feature varies.
    """
    rules, method = rules or SearchRules(), method or FitRules()
    sample = searched_sample(features, rules, method)
    found = NumberSearch(sample, transform, rules, method, report)
    chosen, passes = found.choose()
    fitted = fit_on_all(features, sample, found.models[chosen], method)
    return KSearchResult(fitted, found.candidates(chosen, passes), passes)


def searched_sample(features: Array, rules: SearchRules, method: FitRules) -> Array:
    """Return the customers that a search looks at: all, or a seeded sample of `max_customers`."""
    sample = features[sampled_rows(features, rules.max_customers, method.random_state)]
    return features if count_distinct(sample, rules.k_max) <= rules.k_max else sample


def fit_on_all(features: Array, sample: Array, found: KMeansFit, method: FitRules) -> KMeansFit:
    """Return the fit on all customers that continues from the centroids of a sample; the fit itself if that is all."""
    if len(sample) == len(features):
        return found
    start = found.scaler.invert(found.centroids_)
    transform, seed = found.scaler.transform, method.random_state
    return fit(features, transform=transform, n_clusters=len(start), random_state=seed, start=start)


class NumberSearch:
    """The numbers of clusters under one transform: fits, conditions and stability, each computed on first use."""

    def __init__(
        self, features: Array, transform: Transform, rules: SearchRules, method: FitRules, report: Report
    ) -> None:
        self.transform: Transform = transform
        self.numbers = range(rules.k_min, rules.k_max + 1)
        self._features, self._rules, self._method, self._report = features, rules, method, report
        self._aris: dict[int, Array] = {}

    @cached_property
    def models(self) -> dict[int, KMeansFit]:
        """The fit of each number of clusters for which there are enough distinct customers.

        Raises:
            ValueError: There are too few for each.
        """
        rules, method, fits = self._rules, self._method, {}
        for k in range(rules.k_min, min(rules.k_max, self._distinct - 1) + 1):
            self._report(f"fitting {k} clusters, of {rules.k_min} to {rules.k_max}")
            fits[k] = fit(
                self._features,
                transform=self.transform,
                n_clusters=k,
                random_state=method.random_state,
                n_init=method.n_init,
                scaler=self._scaler,
            )
        if not fits:
            raise ValueError(
                f"{self._distinct} distinct normal customers are too few for {rules.k_min} to {rules.k_max} clusters"
            )
        return fits

    def choose(self) -> tuple[int, bool]:
        """Return the most detailed number that meets every condition, or the nearest to that, and whether it passes."""
        for k in sorted(self.models, reverse=True):
            if self.passes(k):
                return k, True
        return min(
            self.models, key=lambda k: (*self._conditions.distance(self.models[k], self._aris.get(k)), -k)
        ), False

    def passes(self, k: int) -> bool:
        """Return whether a number meets every condition. Its stability is measured if it meets the others."""
        if not self.shortfalls(k) and k not in self._aris:
            self._aris[k] = self._conditions.stability(self.models[k], self._method, self._report)
        return not self.shortfalls(k)

    def shortfalls(self, k: int) -> dict[str, float]:
        """Return each condition that a number is known to fail in words, with the shortfall relative to its bound."""
        return self._conditions.shortfalls(self.models[k], self._aris.get(k))

    def met(self, k: int) -> str:
        """Return the values and bounds of a number that passes."""
        return self._conditions.met(self.models[k], self._aris[k])

    def candidates(self, chosen: int, passes: bool) -> list[KCandidate]:
        """Return every number with the verdict of the rule."""
        return [self.candidate(k, self._verdict(k, chosen, passes), is_chosen=k == chosen) for k in self.numbers]

    def candidate(self, k: int, verdict: str, *, is_chosen: bool = False) -> KCandidate:
        """Return a number with what was measured of it."""
        # Without the conditions nothing was measured, and the silhouette would be computed here.
        model, aris = self.models.get(k) if "_conditions" in vars(self) else None, self._aris.get(k)
        return KCandidate(
            transform=self.transform,
            n_clusters=k,
            inertia=model.inertia_ if model else None,
            silhouette=self._conditions.silhouettes[k] if model else None,
            smallest_share=model.smallest_share if model else None,
            mean_ari=None if aris is None else float(round_significant(aris.mean())),
            worst_ari=None if aris is None else float(aris.min()),
            is_chosen=is_chosen,
            passes=is_chosen and aris is not None and not self.shortfalls(k),
            verdict=verdict,
        )

    def too_few(self, k: int) -> str:
        """Return the verdict on a number for which there are too few customers."""
        return f"Left out: {self._distinct} distinct customers are too few for {k} clusters."

    def _verdict(self, k: int, chosen: int, passes: bool) -> str:
        if k not in self.models:
            return self.too_few(k)
        shortfalls = self.shortfalls(k)
        if k == chosen and passes:
            return f"Chosen, the most detailed that passes: {self.met(k)}."
        if k == chosen:
            return f"Chosen as the nearest to passing, since none passes: {' and '.join(shortfalls)}."
        if shortfalls:
            return f"Not chosen: {' and '.join(shortfalls)}."
        return f"Not chosen: {chosen} clusters are more detailed and pass, so its stability was not measured."

    @cached_property
    def _scaler(self) -> Scaler:
        """The scaling, which is the same for every number."""
        return fit_scaler(self._features, self.transform, self._method.random_state)

    @cached_property
    def _distinct(self) -> int:
        return count_distinct(self._features, self._rules.k_max)

    @cached_property
    def _conditions(self) -> "_Conditions":
        labels = [model.labels_ for model in self.models.values()]
        scaled = next(iter(self.models.values())).scaled_
        values = silhouettes(scaled, labels, self._method.random_state)
        return _Conditions(self._rules, dict(zip(self.models, values, strict=True)))


@dataclass(frozen=True)
class _Conditions:
    """The conditions of the search, relative to the number with the best silhouette.

    Attributes:
        rules: The bounds.
        silhouettes: The silhouette of each number of clusters.
    """

    rules: SearchRules
    silhouettes: dict[int, float]

    @property
    def best(self) -> int:
        """The number of clusters with the best silhouette."""
        return max(self.silhouettes, key=self.silhouettes.__getitem__)

    @property
    def min_silhouette(self) -> float:
        # With the absolute value, a negative best is within the tolerance of itself.
        best = self.silhouettes[self.best]
        return best - self.rules.tolerance * abs(best)

    def silhouette(self, model: KMeansFit) -> float:
        """Return the silhouette of one of the fits."""
        return self.silhouettes[len(model.centroids_)]

    def shortfalls(self, model: KMeansFit, aris: Array | None) -> dict[str, float]:
        """Return each failed condition in words, with the shortfall relative to its bound."""
        rules, silhouette, share = self.rules, self.silhouette(model), model.smallest_share
        tests = [
            (
                silhouette,
                self.min_silhouette,
                f"its silhouette {silhouette:.4f} is below {self.min_silhouette:.4f}, {100 * rules.tolerance:g} %"
                f" under the best ({self.silhouettes[self.best]:.4f} for {self.best} clusters)",
            ),
            (
                share,
                rules.min_share,
                f"its smallest cluster holds {100 * share:.2f} % of the customers, fewer than"
                f" {100 * rules.min_share:g} %",
            ),
        ]
        if aris is not None:
            message = (
                f"the worst of {len(aris)} resamples agrees to {aris.min():.4f} (ARI), less than"
                f" {rules.min_stability:g}"
            )
            tests.append((float(aris.min()), rules.min_stability, message))
        return {message: (bound - value) / (abs(bound) or 1) for value, bound, message in tests if value < bound}

    def stability(self, model: KMeansFit, method: FitRules, report: Report) -> Array:
        """Return the agreement of the resamples, up to the block in which one fails."""
        rules, seed, n_init = self.rules, method.random_state, method.n_init
        aris = np.empty(0)
        for start in range(0, rules.resamples, rules.block):
            block = range(start, min(start + rules.block, rules.resamples))
            report(f"testing {len(model.centroids_)} clusters, {start} of {rules.resamples} resamples done")
            aris = np.append(aris, bootstrap_ari(model.scaled_, model.centroids_, seed, n_init, block))
            if aris.min() < rules.min_stability:
                break
        return aris

    def distance(self, model: KMeansFit, aris: Array | None) -> tuple[int, float]:
        """Return the number of failed conditions, and the sum of the shortfalls with the first block of resamples."""
        failed = len(self.shortfalls(model, aris)) + (aris is None)
        first = None if aris is None else aris[: self.rules.block]
        return failed, sum(self.shortfalls(model, first).values())

    def met(self, model: KMeansFit, aris: Array) -> str:
        """Return the values and bounds of a model that passes."""
        rules = self.rules
        return (
            f"silhouette {self.silhouette(model):.4f} (at least {self.min_silhouette:.4f}), smallest cluster"
            f" {100 * model.smallest_share:.2f} % of the customers (at least {100 * rules.min_share:g} %), worst of"
            f" {len(aris)} resamples {aris.min():.4f} (ARI, at least {rules.min_stability:g})"
        )
