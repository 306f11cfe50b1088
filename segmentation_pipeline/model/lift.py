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
# By grouping, the metrics in each resample.
Draws = dict[str, Array]
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
    customers = _Customers([groups], past, future)
    counts = np.ones(len(past)) if weights is None else weights
    if counts.shape != past.shape or not np.isfinite(counts).all() or (counts < 0).any():
        raise ValueError("columns must be as long as one another and finite, weights not negative")
    values = customers.metrics(counts[:, None])[0, 0].tolist()
    return LiftMetrics(*(None if np.isnan(value) else value for value in values))


class Resamples:
    """Bootstrap resamples of customers, the same for every population, month end and grouping.

    Efron & Tibshirani (1993), "An Introduction to the Bootstrap", chapter 13. A customer is drawn with all of its month
    ends, because what it spends after one is not independent of what it spends after the next. A resample is `lift`
    with its counts as weights, so every resample orders the groups and ranks the futures again; nothing is
    approximated. The groupings stay fixed: the draws show the noise of the customers, not of the fit.

    Of more than RESAMPLED customers, each resample draws as many customers as there are, but from a part of them of
    this size, and its distance from the metrics of the part is added to the metrics of all; after Kleiner et al.
    (2014), "A scalable bootstrap for massive data". The cost no longer grows with the customers, and the width is that
    of all.
    """

    def __init__(self, customers: int, *, random_state: int, resamples: int = 200) -> None:
        """Draw the resamples.

        Args:
            customers: Number of customers.
            random_state: Seed of the resamples.
            resamples: Number of resamples.
        """
        # RandomState, because the numbers of default_rng may change with numpy (NEP 19).
        random = np.random.RandomState(random_state)
        size = min(customers, RESAMPLED)
        # The row of the weights of each customer; -1 outside the part.
        self._rows = np.full(customers, -1)
        self._rows[random.choice(customers, size, replace=False) if size < customers else slice(None)] = np.arange(size)
        self._weights = np.zeros((size, resamples))
        for column in range(resamples if size else 0):
            self._weights[:, column] = (
                random.multinomial(customers, np.full(size, 1 / size))
                if size < customers
                else np.bincount(random.randint(0, size, size, dtype=np.int64), minlength=size)
            )

    def draw(self, customers: NDArray[np.int64], groupings: Groupings, past: Array, future: Array) -> Draws:
        """Return the metrics of `lift` of each grouping in each resample, shape (resamples, 3) in the order of METRICS.

        A metric that a resample does not define is nan.

        Args:
            customers: The number of each customer, from 0, shape (n,).
            groupings: By name, the group of each customer, shape (n,).
            past: Past spend, shape (n,).
            future: Future spend, shape (n,).
        """
        names, every = list(groupings), _Customers(list(groupings.values()), past, future)
        rows = self._rows[customers]
        if (rows >= 0).all():
            drawn = every.metrics(self._weights[rows])
        else:
            inside = rows >= 0
            part = _Customers([groupings[name][inside] for name in names], past[inside], future[inside])
            shift = every.metrics(np.ones((len(past), 1))) - part.metrics(np.ones((inside.sum(), 1)))
            drawn = part.metrics(self._weights[rows[inside]]) + shift
        return {name: drawn[:, number] for number, name in enumerate(names)}


def interval(draws: Array, level: float = 0.95) -> Interval | None:
    """Return the percentile interval of a statistic; None if fewer than `level` of the resamples define it.

    Args:
        draws: The statistic in each resample, shape (resamples,); nan where it is not defined.
        level: The share of the resamples inside the interval.
    """
    if (~np.isnan(draws)).sum() < max(1, level * len(draws)):
        return None
    low, high = np.nanquantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(round_decimals(low)), float(round_decimals(high))


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
    """Customers, with everything that all resamples have in common."""

    def __init__(self, groupings: list[Groups], past: Array, future: Array) -> None:
        columns = (past, future, *groupings)
        if not all(column.shape == past.shape and np.isfinite(column).all() for column in columns):
            raise ValueError("columns must be as long as one another and finite, weights not negative")
        spend = np.maximum(future, 0)
        # A canonical order, so that sums do not depend on the order of the rows.
        self._order = np.lexsort((*groupings, spend, past))
        spends, levels = np.unique(spend[self._order], return_inverse=True)
        coded = [np.unique(groups[self._order], return_inverse=True)[1] for groups in groupings]
        # Customers of equal groups and future spend are one cell: most of those without spend.
        shape = [int(codes.max(initial=0)) + 1 for codes in (levels, *coded)]
        keys, cells = np.unique(np.ravel_multi_index((levels, *coded), shape), return_inverse=True)
        self._levels, *self._groups = np.unravel_index(keys, shape)
        self._cells = _indicator(cells)
        self._spend = spends[self._levels][:, None]
        self._past = [_indicator(codes, past[self._order]) for codes in coded]

    def metrics(self, weights: Array) -> Array:
        """Return the metrics of each grouping, shape (resamples, groupings, 3), for weights (customers, resamples)."""
        if not len(self._order):
            return np.full((weights.shape[1], len(self._groups), len(METRICS)), np.nan)
        ordered = weights[self._order]
        size = self._cells @ ordered
        of_levels = _indicator(self._levels) @ size
        level_ranks = _centred_ranks(of_levels)
        spread = (of_levels * level_ranks**2).sum(axis=0)
        columns = size, size * self._spend, size * level_ranks[self._levels]
        found = []
        for groups, past in zip(self._groups, self._past, strict=True):
            members = _indicator(groups)
            found.append(_metrics([past @ ordered, *(members @ column for column in columns)], spread))
        return round_decimals(np.stack(found, axis=1))


def block_ginis(groups: Groups, past: Array, future: Array, blocks: NDArray[np.int64], number: int) -> Array:
    """Return the Gini of all customers, and of all without each block of them, as in `lift`.

    The values without a block give the noise of differences, for a hundredth of the cost of resamples. The groups have
    the order of all customers throughout: where a block decides which of two comes first, the jackknife would take that
    jump for noise of every block.

    Args:
        groups: The group of each customer, from 0, shape (n,).
        past: Past spend, shape (n,).
        future: Future spend, shape (n,).
        blocks: The block of each customer, from 0, shape (n,).
        number: Number of blocks.

    Returns:
        Shape (1 + number,); nan where nobody spends.
    """
    means = np.bincount(groups, past) / np.maximum(np.bincount(groups), 1)
    places = np.unique(-round_significant(means), return_inverse=True)[1]
    shape = len(means), number
    cells = np.ravel_multi_index((places[groups], blocks), shape)
    sums = []
    for column in (np.ones(len(past)), np.maximum(future, 0)):
        of_blocks = np.bincount(cells, column, len(means) * number).reshape(shape)
        total = of_blocks.sum(axis=1, keepdims=True)
        sums.append(np.hstack([total, total - of_blocks]))
    return round_decimals(_gini(*sums))


def _gini(size: Array, spend: Array) -> Array:
    """Return the Gini of groups, best first, of which each column is one resample."""
    captured = np.vstack([np.zeros(spend.shape[1]), spend.cumsum(axis=0)])
    area = (size * (captured[1:] + captured[:-1])).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(area / (size.sum(axis=0) * captured[-1]) - 1)


def _metrics(sums: list[Array], spread: Array) -> Array:
    """Return the metrics of one grouping, shape (resamples, 3).

    Args:
        sums: The past spend, customers, future spend and ranks of each group, each of shape (groups, resamples).
        spread: The sum of the squared ranks of all customers, shape (resamples,).
    """
    size, spend, ranks = _best_first(*sums)
    group_ranks = -_centred_ranks(size)
    taken, captured = (np.vstack([np.zeros(column.shape[1]), column.cumsum(axis=0)]) for column in (size, spend))
    # The group that the last of the best tenth belongs to.
    tenth = 0.1 * taken[-1]
    last = np.minimum((taken[1:] < tenth).sum(axis=0), len(size) - 1)[None]
    with np.errstate(invalid="ignore", divide="ignore"):
        part = (tenth - np.take_along_axis(taken, last, 0)) / np.take_along_axis(size, last, 0)
        top = np.take_along_axis(captured, last, 0) + part * np.take_along_axis(spend, last, 0)
        return np.column_stack(
            [
                (group_ranks * ranks).sum(axis=0) / np.sqrt((size * group_ranks**2).sum(axis=0) * spread),
                _gini(size, spend),
                top[0] / captured[-1],
            ]
        )


def _best_first(past: Array, size: Array, *columns: Array) -> list[Array]:
    """Return the size and other sums of groups by descending mean past; groups of equal mean become one."""
    with np.errstate(invalid="ignore", divide="ignore"):
        # Groups that a resample does not draw come last, and count nothing.
        keys = round_significant(np.where(size > 0, -past / size, np.inf))
    order = np.argsort(keys, axis=0, kind="stable")
    ordered, resamples = np.take_along_axis(keys, order, 0), keys.shape[1]
    places = np.vstack([np.zeros((1, resamples), np.int64), (ordered[1:] > ordered[:-1]).cumsum(axis=0)])
    cells = (places * resamples + np.arange(resamples)).ravel()
    sums = [np.bincount(cells, np.take_along_axis(one, order, 0).ravel(), keys.size) for one in (size, *columns)]
    return [np.asarray(column.reshape(keys.shape), np.float64) for column in sums]


def _indicator(groups: NDArray[np.int64], values: Array | None = None) -> Any:
    """Return the sparse matrix, shape (groups, n), that sums the rows of each group, times their values."""
    from scipy.sparse import csr_array

    number = len(groups)
    shape = int(groups.max(initial=0)) + 1, number
    return csr_array((np.ones(number) if values is None else values, (groups, np.arange(number))), shape=shape)


def _centred_ranks(sizes: Array) -> Array:
    """Return the middle rank of each of the ordered ties of these sizes, minus the mean rank of all, by column."""
    return np.asarray(np.cumsum(sizes, axis=0) - sizes / 2 - sizes.sum(axis=0) / 2)
