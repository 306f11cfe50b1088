"""How well a segmentation predicts spend: rank correlation, Gini, top decile, and their bootstrap intervals.

Contains metrics of arrays of customers. Which customers and months are compared is decided in `segments.backtest`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segmentation_pipeline.model.arrays import Array, round_decimals, round_significant, sorted_finite

Groups = NDArray[np.integer[Any]]
Groupings = Mapping[str, Groups]
# Low and high.
Interval = tuple[float, float]
METRICS = ("spearman", "gini", "top_decile")
# Of more customers, this many are resampled.
RESAMPLED = 20_000


@dataclass(frozen=True)
class LiftMetrics:
    """How well groups, ordered by past spend, predict future spend; see `lift`.

    Attributes:
        spearman: Rank correlation of group and future spend; None for one group, or if all spend the same.
        gini: 0 for a random order, below 0 for an inverted one; None if nobody spends.
        top_decile: The share of future spend of the best tenth of the customers; None if nobody spends.
    """

    spearman: float | None
    gini: float | None
    top_decile: float | None


@dataclass(frozen=True)
class Intervals:
    """The bootstrap distribution of the metrics of several groupings.

    Attributes:
        draws: By grouping, shape (resamples, 3) in the order of METRICS; nan where a metric is not defined.
        level: The share of the resamples inside an interval.
    """

    draws: Mapping[str, Array]
    level: float

    def of(self, name: str) -> dict[str, Interval | None]:
        """Return the interval of each metric; None if fewer than `level` of the resamples define the metric."""
        return self._percentiles(self.draws[name])

    def difference(self, a: str, b: str) -> dict[str, Interval | None]:
        """Return the interval of each metric of `a` minus that of `b`, paired by resample.

        If its high end is below 0, `a` is worse than `b` beyond the noise.
        """
        return self._percentiles(self.draws[a] - self.draws[b])

    def _percentiles(self, draws: Array) -> dict[str, Interval | None]:
        found: dict[str, Interval | None] = dict.fromkeys(METRICS)
        for metric, column in zip(METRICS, draws.T, strict=True):
            if (~np.isnan(column)).sum() >= max(1, self.level * len(column)):
                low, high = np.nanquantile(column, [(1 - self.level) / 2, (1 + self.level) / 2])
                found[metric] = float(round_decimals(low)), float(round_decimals(high))
        return found


def gini(values: Array) -> float | None:
    """Return the concentration of amounts: 0 if all n are equal, (n - 1) / n if one has everything.

    Gini (1912): half the mean absolute difference of all n² pairs, divided by the mean. It is summed over the gaps
    between sorted amounts, so that equal amounts add exactly nothing.

    Args:
        values: Amounts, shape (n,).

    Returns:
        The coefficient; None if the amounts sum to nothing.

    Raises:
        ValueError: An amount is negative or not finite.
    """
    if (values < 0).any():
        raise ValueError("amounts must not be negative")
    ordered, below, number = sorted_finite(values), np.arange(1, len(values)), len(values)
    if not (total := ordered.sum()):
        return None
    return float(round_decimals((np.diff(ordered) * below * (number - below)).sum() / (number * total)))


def lift(groups: Groups, past: Array, future: Array, weights: Array | None = None) -> LiftMetrics:
    """Measure how well groups of customers predict future spend.

    Groups are ordered by their mean past spend, never by the future. Groups of equal mean are one group; customers of
    a group are tied. Negative future spend counts as none. L(p) is the share of the future spend that the best share p
    of the customers captures, linear within a group. gini = 2 ∫ L(p) dp - 1 is the concentration coefficient of
    Kakwani (1977), "Applications of Lorenz Curves in Economic Analysis", best first: 0 for one group, and 0 on average
    for a random order. It is not divided by its maximum, `gini(future)`. top_decile = L(0.1).

    Args:
        groups: The group of each customer, shape (n,).
        past: Past spend, shape (n,).
        future: Future spend, shape (n,).
        weights: A weight of w counts as w equal customers, shape (n,); default: 1 each.

    Raises:
        ValueError: Lengths differ, a number is not finite, or a weight is negative.
    """
    customers = _Customers([groups], past, future, np.ones(len(past)) if weights is None else weights)
    values = customers.metrics(customers.weights)[0].tolist()
    return LiftMetrics(*(None if np.isnan(value) else value for value in values))


def intervals(
    groupings: Groupings, past: Array, future: Array, *, random_state: int, resamples: int = 200, level: float = 0.95
) -> Intervals:
    """Bootstrap the metrics of `lift` over customers, with the same resamples for every grouping.

    Efron & Tibshirani (1993), "An Introduction to the Bootstrap", chapter 13: percentile intervals. A resample is
    `lift` with its counts as weights, so every resample orders the groups and ranks the futures again; nothing is
    approximated. The groupings stay fixed: the intervals show the noise of the customers, not of the fit. Rows are
    sorted before they are drawn, so their order does not matter.

    Of more than RESAMPLED customers, each resample draws as many customers as there are, but from a part of them of
    this size, and its distance from the metrics of the part is added to the metrics of all; after Kleiner et al.
    (2014), "A scalable bootstrap for massive data". The cost no longer grows with the customers, and the width is that
    of all.

    Args:
        groupings: By name, the group of each customer, shape (n,).
        past: Past spend, shape (n,).
        future: Future spend, shape (n,).
        random_state: Seed of the resamples.
        resamples: Number of resamples.
        level: The share of the resamples inside an interval.
    """
    names, number = sorted(groupings), len(past)
    every = _Customers([groupings[name] for name in names], past, future, np.ones(number))
    # RandomState, because the numbers of default_rng may change with numpy (NEP 19).
    random = np.random.RandomState(random_state)
    customers, shift = every, np.zeros((len(names), len(METRICS)))
    if number > RESAMPLED:
        customers = every.part(np.sort(random.choice(number, RESAMPLED, replace=False)))
        shift = every.metrics(every.weights) - customers.metrics(customers.weights)
    size = len(customers.past)
    draws = np.full((resamples, len(names), len(METRICS)), np.nan)
    for draw in draws:
        if size < number:
            counts = random.multinomial(number, np.full(size, 1 / size))
        else:
            counts = np.bincount(random.randint(0, max(number, 1), number, dtype=np.int64), minlength=number)
        draw[:] = customers.metrics(counts.astype(np.float64)) + shift
    return Intervals({name: draws[:, i] for i, name in enumerate(names)}, level)


def spend_groups(past: Array, k: int) -> NDArray[np.int64]:
    """Return the baseline grouping: k groups of equal size by past spend, 0 the lowest; equal spends stay together.

    From the lowest spend up, a group ends where its size is nearest to an equal part of the customers left; of two
    such ends the lower. There are fewer than k groups only if there are fewer distinct spends.

    Args:
        past: Past spend, shape (n,).
        k: Number of groups.
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


class _Customers:
    """Customers in a canonical order, with everything that the resamples have in common."""

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

    def part(self, rows: NDArray[np.int64]) -> "_Customers":
        """Return some of the customers."""
        groupings: list[Groups] = [groups[rows] for groups in self.groupings]
        return _Customers(groupings, self.past[rows], self.spend[rows], self.weights[rows])

    def metrics(self, weights: Array) -> Array:
        """Return the metrics of each grouping, shape (groupings, 3), for weights in the canonical order."""
        ranks = _centred_ranks(np.bincount(self.levels, weights))[self.levels]
        columns = (weights, weights * self.past, weights * self.spend, weights * ranks)
        spread = (weights * ranks**2).sum()
        return round_decimals([_metrics(groups, columns, spread) for groups in self.groupings])


def _metrics(groups: NDArray[np.int64], columns: tuple[Array, ...], spread: float) -> tuple[float, float, float]:
    """Return the metrics of one grouping from the columns weight, past, spend and rank, each times the weight."""
    sums = np.array([np.bincount(groups, column) for column in columns])
    sums = sums[:, sums[0] > 0]
    best_first = np.unique(round_significant(-sums[1] / sums[0]), return_inverse=True)[1]
    size, _, spend, ranks = (np.bincount(best_first, row) for row in sums)
    group_ranks = -_centred_ranks(size)
    both = (size * group_ranks**2).sum() * spread
    spearman = (group_ranks * ranks).sum() / np.sqrt(both) if both else np.nan
    taken, captured = (np.concatenate([[0], np.cumsum(column)]) for column in (size, spend))
    if not (total := captured[-1]):
        return spearman, np.nan, np.nan
    area = (size * (captured[1:] + captured[:-1])).sum() / (2 * taken[-1] * total)
    return spearman, 2 * area - 1, np.interp(0.1 * taken[-1], taken, captured) / total


def _centred_ranks(sizes: NDArray[Any]) -> Array:
    """Return the middle rank of each of the ordered ties of these sizes, minus the mean rank of all."""
    return np.asarray(np.cumsum(sizes) - sizes / 2 - sizes.sum() / 2)
