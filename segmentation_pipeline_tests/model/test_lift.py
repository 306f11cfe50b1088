"""What segments are worth and how far features drift: held against hand-made sums, and loops over repeated rows."""

import time
from dataclasses import astuple
from math import log
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import spearmanr

from segmentation_pipeline.model import lift
from segmentation_pipeline.model.lift import FIGURES, Usefulness, usefulness

Array = NDArray[np.float64]
SEEDS = range(8)
# What is not defined is told, not divided by zero.
pytestmark = pytest.mark.filterwarnings("error")


def floats(*values: float) -> Array:
    return np.array(values, dtype=np.float64)


def shop(number: int, seed: int) -> tuple[NDArray[np.int64], Array, Array]:
    """Groups that say something, skewed past, future with many zeros, refunds and ties."""
    random = np.random.default_rng(seed)
    past = np.round(random.lognormal(4, 1, number), 0)
    future = np.round(past * random.exponential(0.5, number) * (random.random(number) < 0.6), 0)
    future[random.random(number) < 0.05] = -7
    groups = np.digitize(past * random.lognormal(0, 0.8, number), [30, 60, 150]) * 10 + 3
    return groups, past, future


def by_loops(groups: Any, past: Any, future: Any) -> list[float]:
    """The three figures customer by customer, with scipy's ranks: nothing in common with the code but the words."""
    groups, past, future = list(groups), list(past), [max(spend, 0) for spend in future]
    means = {
        group: sum(past[i] for i in range(len(past)) if groups[i] == group) / groups.count(group) for group in groups
    }
    standing = [round(means[group], 9) for group in groups]
    spearman = float(spearmanr(standing, future).statistic)
    # A customer captures the mean of its ties; the area is that of the trapezoids between customers.
    tied = [
        sum(future[j] for j in range(len(future)) if standing[j] == standing[i]) / standing.count(standing[i])
        for i in range(len(future))
    ]
    queue = [tied[i] for i in sorted(range(len(future)), key=lambda i: -standing[i])]
    area = captured = 0.0
    for spend in queue:
        area += (captured + spend / 2) / len(queue) / sum(future)
        captured += spend
    whole, part = divmod(len(queue), 10)
    first = sum(queue[:whole]) + (queue[whole] * part / 10 if part else 0)
    return [spearman, 2 * area - 1, first / sum(future)]


# Concentration.


def test_gini_by_hand() -> None:
    assert lift.gini(floats(5, 5, 5, 5)) == 0
    assert lift.gini(floats(0.1, 0.1, 0.1)) == 0
    assert lift.gini(floats(0, 0, 0, 8)) == 3 / 4
    # Pairs of 1, 3: |1-3| twice of four, mean difference 1, mean 2: 1 / (2 · 2).
    assert lift.gini(floats(3, 1)) == 1 / 4
    assert lift.gini(floats(7)) == 0


@pytest.mark.parametrize("seed", SEEDS)
def test_gini_is_half_the_mean_difference_of_all_pairs_over_the_mean(seed: int) -> None:
    values = np.maximum(shop(60, seed)[2], 0)
    expected = np.abs(values[:, None] - values[None, :]).mean() / (2 * values.mean())
    assert lift.gini(values) == pytest.approx(expected, abs=1e-11)
    assert lift.gini(np.random.default_rng(seed).permutation(values)) == lift.gini(values)
    assert lift.gini(np.repeat(values, 3)) == lift.gini(values)


def test_gini_is_of_amounts_only() -> None:
    assert lift.gini(floats(0, 0)) is None
    assert lift.gini(floats()) is None
    for wrong in (floats(1, -1), floats(1, np.nan), floats(1, np.inf)):
        with pytest.raises(ValueError, match="must"):
            lift.gini(wrong)


# Usefulness.


def test_usefulness_by_hand() -> None:
    # The best group has 1 customer and 6 of 10; the next 3 customers and 4.
    found = usefulness(np.array([2, 1, 1, 1]), floats(100, 9, 9, 9), floats(6, 4, 0, 0))
    # Areas: 1/4 · .6 / 2 below the first line, 3/4 · (.6 + 1) / 2 below the second: .075 + .6; twice that less 1.
    assert found.gini == pytest.approx(0.35, abs=1e-12)
    # A tenth of 4 customers is .4 of the one customer of the best group: .4 of 6, of 10.
    assert found.top_decile == pytest.approx(0.24, abs=1e-12)
    # Ranks 4, 2, 2, 2 and 4, 3, 1.5, 1.5; centred 1.5, -.5, -.5, -.5 and 1.5, .5, -1, -1: 3 / √(3 · 4.5).
    assert found.spearman == pytest.approx(3 / (3 * 4.5) ** 0.5, abs=1e-12)


def test_the_decile_goes_pro_rata_through_a_tied_group() -> None:
    # A tenth of 25 customers is 2.5: the best 2 with 50, and half a customer of the five that share 30; 20 are left.
    groups = np.repeat([0, 1, 2], [2, 5, 18])
    past = np.repeat(floats(90, 40, 1), [2, 5, 18])
    future = np.concatenate([floats(50, 0, 30, 0, 0, 0, 0), np.r_[20.0, np.zeros(17)]])
    assert usefulness(groups, past, future).top_decile == pytest.approx((50 + 0.5 * 30 / 5) / 100, abs=1e-12)


def test_groups_are_ordered_by_the_past_and_never_by_the_future_or_their_number() -> None:
    future = floats(0, 0, 5, 5)
    inverted = usefulness(np.array([1, 1, 0, 0]), floats(9, 9, 2, 2), future)
    # Nothing captured by the first half: area 1/4 · 1; spend goes wholly against the order.
    assert astuple(inverted) == (-1, -0.5, 0)
    assert astuple(usefulness(np.array([-4, -4, 70, 70]), floats(9, 9, 2, 2), future)) == astuple(inverted)


def test_groups_of_equal_mean_are_one() -> None:
    # (.1 + .2 + .3) / 3 is not .2 to the last bit.
    past, future = floats(0.1, 0.2, 0.3, 0.2, 0.2, 5), floats(1, 2, 9, 0, 4, 0)
    apart, one = (usefulness(np.array(groups), past, future) for groups in ([0, 0, 0, 1, 2, 3], [0, 0, 0, 0, 0, 3]))
    assert apart == one


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("number", [23, 40, 97])
def test_usefulness_is_what_loops_over_customers_find(seed: int, number: int) -> None:
    columns = shop(number, seed)
    assert astuple(usefulness(*columns)) == pytest.approx(by_loops(*columns), abs=1e-9)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_weight_is_that_many_rows(seed: int) -> None:
    groups, past, future = shop(60, seed)
    counts = np.random.default_rng(seed).poisson(1, 60)
    repeated = groups.repeat(counts), past.repeat(counts), future.repeat(counts)
    weighted = usefulness(groups, past, future, counts.astype(np.float64))
    assert astuple(weighted) == pytest.approx(by_loops(*repeated), abs=1e-9)
    assert astuple(weighted) == pytest.approx(astuple(usefulness(*repeated)), abs=1e-11)
    assert astuple(usefulness(groups, past, future, np.full(60, 2.5))) == pytest.approx(
        astuple(usefulness(groups, past, future)), abs=1e-11
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_the_order_of_the_rows_cannot_matter(seed: int) -> None:
    groups, past, future = shop(300, seed)
    past, future = past / 7, future / 3
    other = np.random.default_rng(seed).permutation(300)
    assert usefulness(groups[other], past[other], future[other]) == usefulness(groups, past, future)
    drawn = lift.intervals({"a": groups}, past, future, random_state=1, resamples=5).draws["a"]
    again = lift.intervals({"a": groups[other]}, past[other], future[other], random_state=1, resamples=5).draws["a"]
    assert drawn.tolist() == again.tolist()


@pytest.mark.parametrize("seed", SEEDS)
def test_no_groups_beat_the_perfect_order_and_its_inverse_is_as_bad(seed: int) -> None:
    _, _, future = shop(200, seed)
    none_negative = np.maximum(future, 0)
    alone = np.arange(200)
    perfect, worst = usefulness(alone, none_negative, future), usefulness(alone, -none_negative, future)
    assert perfect.gini == pytest.approx(lift.gini(none_negative), abs=1e-11)
    assert perfect.top_decile == pytest.approx(np.sort(none_negative)[-20:].sum() / none_negative.sum(), abs=1e-11)
    assert (perfect.spearman, worst.spearman) == (1, -1)
    assert worst.gini == pytest.approx(-float(perfect.gini or 0), abs=1e-11)
    random = np.random.default_rng(seed)
    for groups in (*(random.integers(0, k, 200) for k in (2, 5, 50)), shop(200, seed)[0]):
        found = usefulness(groups, random.random(200) + none_negative, future)
        for figure in FIGURES:
            assert getattr(worst, figure) <= getattr(found, figure) <= getattr(perfect, figure)
        # Told apart further, in the same order, the same customers are worth as much: ties are pooled.
        assert usefulness(groups * 2, groups.astype(np.float64), future).gini == pytest.approx(
            usefulness(alone, groups.astype(np.float64), future).gini, abs=1e-11
        )


def test_random_groups_are_worth_nothing() -> None:
    random = np.random.default_rng(5)
    found = []
    for seed in range(40):
        future = shop(2000, seed)[2]
        found.append(astuple(usefulness(random.integers(0, 5, 2000), random.random(2000), future)))
    # 40 means of 2,000 customers each: a standard error below .005.
    assert np.mean(found, axis=0) == pytest.approx([0, 0, 0.1], abs=0.015)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_negative_future_counts_as_none(seed: int) -> None:
    groups, past, future = shop(100, seed)
    assert (future < 0).any()
    assert usefulness(groups, past, future) == usefulness(groups, past, np.where(future < 0, 0, future))


def test_what_is_not_defined_is_none() -> None:
    groups, past = np.array([0, 0, 1]), floats(1, 2, 9)
    assert usefulness(groups, past, floats(0, -3, 0)) == Usefulness(None, None, None)
    assert usefulness(np.zeros(3, np.int64), past, floats(1, 0, 8)) == Usefulness(None, 0, 0.1)
    assert usefulness(groups, past, floats(4, 4, 4)) == Usefulness(None, 0, 0.1)
    assert usefulness(np.zeros(0, np.int64), floats(), floats()) == Usefulness(None, None, None)
    assert usefulness(groups, past, floats(1, 0, 8), np.zeros(3)) == Usefulness(None, None, None)


@pytest.mark.parametrize(
    "wrong",
    [
        {"groups": np.array([0, 1])},
        {"future": floats(1, 2)},
        {"past": floats(1, np.nan, 2)},
        {"future": floats(1, np.inf, 2)},
        {"weights": floats(1, -1, 1)},
    ],
)
def test_columns_that_do_not_fit_are_refused(wrong: dict[str, Any]) -> None:
    columns = {"groups": np.array([0, 1, 1]), "past": floats(1, 2, 3), "future": floats(1, 2, 3)} | wrong
    with pytest.raises(ValueError, match="columns must be"):
        usefulness(**columns)


# Intervals.


def test_a_resample_is_usefulness_of_rows_literally_drawn() -> None:
    groups, past, future = shop(50, 3)
    other = np.digitize(past, [40, 90])
    draws = lift.intervals({"z": groups, "b": other}, past, future, random_state=9, resamples=30).draws
    # The rows' own order: past, then spend, then the groupings by name.
    rows = np.lexsort((other, groups, np.maximum(future, 0), past))
    random = np.random.RandomState(9)
    for resample in range(30):
        drawn = rows[random.randint(0, 50, 50, dtype=np.int64)]
        for name, column in (("z", groups), ("b", other)):
            expected = by_loops(column[drawn], past[drawn], future[drawn])
            assert draws[name][resample] == pytest.approx(expected, abs=1e-9)


def test_intervals_are_percentiles_of_the_draws_and_differences_are_paired() -> None:
    groups, past, future = shop(400, 1)
    found = lift.intervals(
        {"a": groups, "b": lift.spend_groups(past, 4), "again": groups}, past, future, random_state=0, level=0.9
    )
    for number, figure in enumerate(FIGURES):
        column = np.sort(found.draws["a"][:, number])
        interval = found.of("a")[figure]
        assert interval is not None
        # Of 200 draws: places 199 · .05 = 9.95 and 189.05, between neighbours.
        assert interval[0] == pytest.approx(0.05 * column[9] + 0.95 * column[10], abs=1e-11)
        assert interval[1] == pytest.approx(0.95 * column[189] + 0.05 * column[190], abs=1e-11)
        point = getattr(usefulness(groups, past, future), figure)
        assert interval[0] < point < interval[1]
        low, high = found.difference("a", "b")[figure] or (0, 0)
        back = found.difference("b", "a")[figure]
        assert back == pytest.approx((-high, -low), abs=1e-11)
        assert found.difference("a", "again")[figure] == (0, 0)


def test_what_is_worse_beyond_the_noise_is_told_from_what_is_not() -> None:
    _, past, _ = shop(800, 2)
    random = np.random.default_rng(2)
    future = past * random.exponential(1, 800)
    groupings = {
        "spend": lift.spend_groups(past, 4),
        "noise": random.integers(0, 4, 800),
        "noise too": random.integers(0, 4, 800),
    }
    found = lift.intervals(groupings, past, future, random_state=4)
    worse, neither = found.difference("noise", "spend")["gini"], found.difference("noise", "noise too")["gini"]
    assert worse is not None
    assert worse[1] < 0
    assert neither is not None
    assert neither[0] < 0 < neither[1]


def test_the_same_seed_draws_the_same_and_another_does_not() -> None:
    groups, past, future = shop(100, 0)
    first, same, other = (lift.intervals({"a": groups}, past, future, random_state=s, resamples=20) for s in (1, 1, 2))
    assert first.draws["a"].tolist() == same.draws["a"].tolist()
    assert first.draws["a"].tolist() != other.draws["a"].tolist()
    # Nor does it matter in which order the groupings are given, with customers alike in past and future.
    one, two = {"a": groups, "b": groups[::-1].copy()}, {"b": groups[::-1].copy(), "a": groups}
    there, back = (lift.intervals(both, past, future, random_state=1, resamples=20).draws for both in (one, two))
    assert [there[name].tolist() for name in "ab"] == [back[name].tolist() for name in "ab"]
    # Whatever else is measured beside it: no two customers are alike in past and future here.
    past = past + np.arange(100) / 1000
    alone, beside = (
        lift.intervals(groupings, past, future, random_state=1, resamples=20).draws["a"].tolist()
        for groupings in ({"a": groups}, {"0": lift.spend_groups(past, 7), "a": groups})
    )
    assert alone == beside


def test_an_interval_takes_resamples_enough() -> None:
    # One of 20 customers spends: 36 % of the resamples hold nobody who does.
    groups, past, future = np.arange(20) % 3, np.arange(20.0), np.r_[np.zeros(19), 5.0]
    found = lift.intervals({"a": groups}, past, future, random_state=0)
    assert 0.2 < np.isnan(found.draws["a"][:, 1]).mean() < 0.5
    assert found.of("a") == dict.fromkeys(FIGURES)
    assert set(lift.intervals({"a": groups}, past, future, random_state=0, level=0.5).of("a").values()) != {None}
    nobody = lift.intervals({"a": groups[:0]}, past[:0], future[:0], random_state=0)
    assert nobody.of("a") == nobody.difference("a", "a") == dict.fromkeys(FIGURES)


def test_two_hundred_resamples_of_four_thousand_customers_take_no_time() -> None:
    groups, past, future = shop(4000, 0)
    started = time.process_time()
    lift.intervals({"a": groups, "b": groups // 20, "c": lift.spend_groups(past, 5)}, past, future, random_state=0)
    assert time.process_time() - started < 2


# The baseline.


def test_spend_groups_by_hand() -> None:
    assert lift.spend_groups(floats(8, 1, 7, 2, 6, 3), 3).tolist() == [2, 0, 2, 0, 1, 1]
    # Half have nothing and stay together; the three others make two groups, the odd one above.
    assert lift.spend_groups(floats(0, 0, 0, 5, 6, 7), 3).tolist() == [0, 0, 0, 1, 2, 2]
    # Ties at the top leave each group a spend of its own.
    assert lift.spend_groups(floats(1, 2, 9, 9, 9, 9), 3).tolist() == [0, 1, 2, 2, 2, 2]
    assert lift.spend_groups(floats(4, 4, 1), 5).tolist() == [1, 1, 0]
    assert lift.spend_groups(floats(), 5).tolist() == []


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("k", [1, 2, 4, 7])
def test_spend_groups_are_equal_ordered_and_whole(seed: int, k: int) -> None:
    random = np.random.default_rng(seed)
    distinct = random.permutation(101.0 + np.arange(101))
    sizes = np.bincount(lift.spend_groups(distinct, k))
    assert len(sizes) == k
    assert sizes.max() - sizes.min() <= 1
    past = random.integers(0, 9, 101).astype(np.float64)
    groups = lift.spend_groups(past, k)
    assert len(np.unique(groups)) == min(k, len(np.unique(past)))
    for low in range(k - 1):
        assert past[groups == low].max() < past[groups == low + 1].min()
    other = random.permutation(101)
    assert lift.spend_groups(past[other], k).tolist() == groups[other].tolist()


# Drift.


def test_bins_by_hand() -> None:
    assert lift.quantile_edges(np.arange(1.0, 21), 4).tolist() == [5, 10, 15]
    # Quarters of 7 are 1.75, 3.5 and 5.25 values: the 2nd, 4th and 6th are the first with as many.
    assert lift.quantile_edges(np.arange(1.0, 8), 4).tolist() == [2, 4, 6]
    # Of ten, six are 1: the lower half and the sixth tenth share an edge.
    skewed = floats(1, 1, 1, 1, 1, 1, 2, 3, 4, 5)
    edges = lift.quantile_edges(skewed)
    assert edges.tolist() == [1, 2, 3, 4]
    assert lift.bin_shares(skewed, edges).tolist() == [0.6, 0.1, 0.1, 0.1, 0.1]
    # What was never seen falls into the open ends, what lies on an edge below it.
    assert lift.bin_shares(floats(-99, 1, 1.5, 2, 99), edges).tolist() == [0.4, 0.4, 0, 0, 0.2]
    assert lift.quantile_edges(floats(3, 3, 3)).tolist() == []
    assert lift.bin_shares(floats(3, 8), floats()).tolist() == [1]


@pytest.mark.parametrize("seed", SEEDS)
def test_bins_hold_equally_many_and_never_split_equals(seed: int) -> None:
    random = np.random.default_rng(seed)
    values = random.permutation(random.normal(size=1000))
    assert lift.bin_shares(values, lift.quantile_edges(values)).tolist() == [0.1] * 10
    tied = random.geometric(0.3, 1000) / 10
    edges = lift.quantile_edges(tied)
    assert set(edges.tolist()) <= set(tied.tolist())
    assert edges.tolist() == sorted(set(edges.tolist()))
    shares = lift.bin_shares(tied, edges)
    assert shares.min() > 0
    expected = [(tied <= edge).mean() for edge in edges]
    assert np.cumsum(shares)[:-1] == pytest.approx(expected, abs=1e-12)


def test_values_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        lift.quantile_edges(floats(1, np.nan))
    with pytest.raises(ValueError, match="finite"):
        lift.bin_shares(floats(1, np.nan), floats(1))


def test_psi_by_hand() -> None:
    assert lift.psi(floats(0.5, 0.5), floats(0.5, 0.5)) == 0
    assert lift.psi(floats(0.5, 0.5), floats(0.2, 0.8)) == pytest.approx(-0.3 * log(0.4) + 0.3 * log(1.6), abs=1e-12)
    assert lift.psi(floats(0.2, 0.8), floats(0.5, 0.5)) == lift.psi(floats(0.5, 0.5), floats(0.2, 0.8))
    # An empty bin counts as 1 in 10,000, on either side; empty on both sides it says nothing.
    assert lift.psi(floats(0.5, 0.5), floats(0, 1)) == pytest.approx(0.4999 * log(5000) + 0.5 * log(2), abs=1e-12)
    assert lift.psi(floats(0, 0.5, 0.5), floats(0, 0.5, 0.5)) == 0
    assert lift.psi(floats(0, 1), floats(0.00005, 0.99995)) == pytest.approx(0, abs=1e-8)
    with pytest.raises(ValueError, match="broadcast"):
        lift.psi(floats(0.5, 0.5), floats(0.2, 0.3, 0.5))


def test_psi_tells_the_same_customers_from_dearer_ones() -> None:
    random = np.random.default_rng(0)
    before = random.lognormal(5, 1, 4000)
    edges = lift.quantile_edges(before)
    expected = lift.bin_shares(before, edges)
    same, dearer = (lift.bin_shares(random.lognormal(mean, 1, 4000), edges) for mean in (5, 6))
    assert lift.psi(expected, same) < 0.02
    assert lift.psi(expected, dearer) > 0.25
