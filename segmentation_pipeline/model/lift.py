"""What a segmentation is worth and how far its features have changed_columns, as plain figures.

Belongs here: figures of arrays of customers. Which customers, months and bounds is for the caller to say.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segmentation_pipeline.model.kmeans import Array, rounded

Groups = NDArray[np.integer[Any]]
Groupings = Mapping[str, Groups]
Interval = tuple[float, float]  # Low and high.
FIGURES = ("spearman", "gini", "top_decile")
SHARE_FLOOR = 1e-4  # An empty bin would make the index infinite: it counts as 1 customer in 10,000.


@dataclass(frozen=True)
class Usefulness:
    """How well groups ordered by past spend tell future spend, as `usefulness` defines it."""

    spearman: float | None  # Rank correlation of group and future; None for one group, or where all spend the same.
    gini: float | None  # 0 = random, below 0 = inverted; None where nobody spends.
    top_decile: float | None  # The share that the best tenth spends; None where nobody spends.


@dataclass(frozen=True)
class Intervals:
    """Draws of each grouping, shape (resamples, 3) as FIGURES, nan if undefined; level is the share in an interval."""

    draws: Mapping[str, Array]
    level: float

    def of(self, name: str) -> dict[str, Interval | None]:
        """Low and high of each figure; None where fewer than `level` of the resamples define it."""
        return self._percentiles(self.draws[name])

    def difference(self, a: str, b: str) -> dict[str, Interval | None]:
        """The same of a's figure less b's, resample by resample: with high below 0, a is worse beyond the noise."""
        return self._percentiles(self.draws[a] - self.draws[b])

    def _percentiles(self, draws: Array) -> dict[str, Interval | None]:
        found: dict[str, Interval | None] = dict.fromkeys(FIGURES)
        for figure, column in zip(FIGURES, draws.T, strict=True):
            if (~np.isnan(column)).sum() >= max(1, self.level * len(column)):
                low, high = np.nanquantile(column, [(1 - self.level) / 2, (1 + self.level) / 2])
                found[figure] = float(_settled(low)), float(_settled(high))
        return found


def gini(values: Array) -> float | None:
    """Concentration of amounts: 0 where all n are equal, (n - 1) / n where one has everything, None without any.

    Half the mean absolute difference of all n² pairs, over the mean: Gini (1912), summed over the gaps between sorted
    amounts, so that equal ones add exactly nothing. A ValueError where an amount is negative or not finite.
    """
    if (values < 0).any():
        raise ValueError("amounts must not be negative")
    ordered, below, number = _sorted(values), np.arange(1, len(values)), len(values)
    if not (total := ordered.sum()):
        return None
    return float(_settled((np.diff(ordered) * below * (number - below)).sum() / (number * total)))


def usefulness(groups: Groups, past: Array, future: Array, weights: Array | None = None) -> Usefulness:
    """How well groups tell future spend; arrays of shape (n,). A weight of w is w equal customers, 0 is none.

    Groups are ordered by their mean past, never by the future; groups of equal mean are one; customers of a group are
    tied. A negative future counts as none. L(p) is the share of future spend that the best share p of the customers
    captures, a straight line within a group: gini = 2 ∫ L(p) dp - 1, the concentration coefficient of Kakwani (1977),
    "Applications of Lorenz Curves in Economic Analysis", best first. It is 0 for one group and on average in random
    order; `gini(future)`, by which it is not divided, is the most there can be. top_decile = L(0.1).

    Raises:
        ValueError: Lengths differ, a number is not finite, or a weight is negative.
    """
    customers = _Customers([groups], past, future, np.ones(len(past)) if weights is None else weights)
    return Usefulness(*(None if np.isnan(f) else f for f in customers.figures(customers.weights)[0].tolist()))


def intervals(
    groupings: Groupings, past: Array, future: Array, *, random_state: int, resamples: int = 200, level: float = 0.95
) -> Intervals:
    """Percentile intervals of `usefulness` from a bootstrap over customers, the same resamples for every grouping.

    Efron & Tibshirani (1993), "An Introduction to the Bootstrap", chapter 13. Nothing is approximated: a resample is
    `usefulness` with its counts as weights, groups ordered and futures ranked anew. The groupings are held fixed, so it
    is the noise of the customers, not of the fit. Rows are sorted before they are drawn: their order cannot matter.
    """
    names, number = sorted(groupings), len(past)
    customers = _Customers([groupings[name] for name in names], past, future, np.ones(number))
    random = np.random.RandomState(random_state)  # Not default_rng, whose numbers may change with numpy (NEP 19).
    draws = np.full((resamples, len(names), len(FIGURES)), np.nan)
    for draw in draws:
        counts = np.bincount(random.randint(0, max(number, 1), number, dtype=np.int64), minlength=number)
        draw[:] = customers.figures(counts.astype(np.float64))
    return Intervals({name: draws[:, i] for i, name in enumerate(names)}, level)


def spend_groups(past: Array, k: int) -> NDArray[np.int64]:
    """The baseline: k groups of equal size by past spend, 0 the least; equal spends stay together.

    From the least up, a group ends where it is nearest to an equal part of the customers left, the smaller where two
    ends are as near. Fewer groups than k only where there are fewer distinct spends.
    """
    distinct, levels, counts = np.unique(past, return_inverse=True, return_counts=True)
    ends, groups = np.cumsum(counts), np.zeros(len(distinct), dtype=np.int64)
    start = done = 0
    for left in range(min(k, len(distinct)), 1, -1):
        sizes = ends[start : len(distinct) - left + 1] - done
        start += int(np.argmin(np.abs(sizes * left - (len(past) - done)))) + 1
        done = int(ends[start - 1])
        groups[start:] += 1
    return groups[levels]


def quantile_edges(values: Array, bins: int = 10) -> Array:
    """The inner edges, ascending and distinct, of at most `bins` bins that hold equally many values.

    Edge i is the least value with i / bins of all values at or below it, and ends its bin: equal values are never
    split. The greatest value is no edge, as nothing would be above: a feature of one value has one bin and no drift.
    """
    ordered = _sorted(values)
    edges = ordered[[-(-i * len(values) // bins) - 1 for i in range(1, bins)]]  # Rounded up in whole numbers.
    return np.unique(edges[edges < ordered[-1]])


def bin_shares(values: Array, edges: Array) -> Array:
    """The share of values in each of len(edges) + 1 bins: above the edge before, up to and with its own, ends open."""
    counts = np.bincount(np.searchsorted(edges, _sorted(values), side="left"), minlength=len(edges) + 1)
    return np.divide(counts, len(values))


def psi(expected: Array, actual: Array) -> float:
    """Population stability index of two arrays of bin shares: Σ (actual - expected) · ln(actual / expected).

    Siddiqi (2006), "Credit Risk Scorecards": below .1 little has changed, above .25 much. A share below SHARE_FLOOR
    counts as SHARE_FLOOR, on either side; the others stay as they are.
    """
    before, after = (np.maximum(shares, SHARE_FLOOR) for shares in (expected, actual))
    return float(_settled(((after - before) * np.log(after / before)).sum()))


class _Customers:
    """Rows in an order of their own, with what all resamples have in common."""

    def __init__(self, groupings: list[Groups], past: Array, future: Array, weights: Array) -> None:
        columns = (past, future, weights, *groupings)
        alike = all(column.shape == past.shape and np.isfinite(column).all() for column in columns)
        if not alike or (weights < 0).any():
            raise ValueError("columns must be as long as one another and finite, weights not negative")
        spend = np.maximum(future, 0)
        order = np.lexsort((weights, *groupings, spend, past))
        self.past, self.spend, self.weights = past[order], spend[order], weights[order]
        self.levels = np.unique(self.spend, return_inverse=True)[1]
        self.groupings = [np.unique(groups[order], return_inverse=True)[1] for groups in groupings]

    def figures(self, weights: Array) -> Array:
        """Shape (groupings, 3), with weights in the own order of rows."""
        ranks = _ranks(np.bincount(self.levels, weights))[self.levels]
        columns = (weights, weights * self.past, weights * self.spend, weights * ranks)
        spread = (weights * ranks**2).sum()
        return _settled([_figures(groups, columns, spread) for groups in self.groupings])


def _figures(groups: NDArray[np.int64], columns: tuple[Array, ...], spread: float) -> tuple[float, float, float]:
    sums = np.array([np.bincount(groups, column) for column in columns])
    sums = sums[:, sums[0] > 0]
    best_first = np.unique(rounded(-sums[1] / sums[0]), return_inverse=True)[1]
    size, _, spend, ranks = (np.bincount(best_first, row) for row in sums)
    places = -_ranks(size)
    both = (size * places**2).sum() * spread
    spearman = (places * ranks).sum() / np.sqrt(both) if both else np.nan
    taken, captured = (np.concatenate([[0], np.cumsum(column)]) for column in (size, spend))
    if not (total := captured[-1]):
        return spearman, np.nan, np.nan
    area = (size * (captured[1:] + captured[:-1])).sum() / (2 * taken[-1] * total)
    return spearman, 2 * area - 1, np.interp(0.1 * taken[-1], taken, captured) / total


def _ranks(sizes: NDArray[Any]) -> Array:
    """The middle rank of each of the ordered ties of these sizes, less the mean rank of all."""
    return np.asarray(np.cumsum(sizes) - sizes / 2 - sizes.sum() / 2)


def _settled(figures: Any) -> Array:
    """To 12 decimals: figures are of the order of 1, and the last bits of a difference must not tell 0 from less."""
    return np.asarray(np.round(figures, 12) + 0.0)


def _sorted(values: Array) -> Array:
    if not np.isfinite(values).all():
        raise ValueError("values must be finite")
    return np.sort(values)
