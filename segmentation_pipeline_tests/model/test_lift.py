"""Lift metrics and their intervals, compared with hand-made sums and with loops over repeated rows."""

import time
from dataclasses import astuple
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import spearmanr

from segmentation_pipeline.model.lift import METRICS, LiftMetrics, Resamples, gini, interval, lift, spend_groups

Array = NDArray[np.float64]
SEEDS = range(8)
# An undefined metric must be None, not a division by zero.
pytestmark = pytest.mark.filterwarnings("error")


def floats(*values: float) -> Array:
    return np.array(values, dtype=np.float64)


def shop(number: int, seed: int) -> tuple[NDArray[np.int64], Array, Array]:
    """Return informative groups, skewed past spend, and future spend with many zeros, refunds and ties."""
    random = np.random.default_rng(seed)
    past = np.round(random.lognormal(4, 1, number), 0)
    future = np.round(past * random.exponential(0.5, number) * (random.random(number) < 0.6), 0)
    future[random.random(number) < 0.05] = -7
    groups = np.digitize(past * random.lognormal(0, 0.8, number), [30, 60, 150]) * 10 + 3
    return groups, past, future


def by_loops(groups: Any, past: Any, future: Any) -> list[float]:
    """Compute the three metrics customer by customer, with scipy's ranks; shares no code with the package."""
    groups, past, future = list(groups), list(past), [max(spend, 0) for spend in future]
    means = {
        group: sum(past[i] for i in range(len(past)) if groups[i] == group) / groups.count(group) for group in groups
    }
    level = [round(means[group], 9) for group in groups]
    spearman = float(spearmanr(level, future).statistic)
    # A customer captures the mean of its ties; the area is that of the trapezoids between customers.
    tied = [
        sum(future[j] for j in range(len(future)) if level[j] == level[i]) / level.count(level[i])
        for i in range(len(future))
    ]
    queue = [tied[i] for i in sorted(range(len(future)), key=lambda i: -level[i])]
    area = captured = 0.0
    for spend in queue:
        area += (captured + spend / 2) / len(queue) / sum(future)
        captured += spend
    whole, part = divmod(len(queue), 10)
    first = sum(queue[:whole]) + (queue[whole] * part / 10 if part else 0)
    return [spearman, 2 * area - 1, first / sum(future)]


# Concentration.


def test_gini_by_hand() -> None:
    assert gini(floats(5, 5, 5, 5)) == 0
    assert gini(floats(0.1, 0.1, 0.1)) == 0
    assert gini(floats(0, 0, 0, 8)) == 3 / 4
    # Pairs of 1, 3: |1-3| twice of four, mean difference 1, mean 2: 1 / (2 · 2).
    assert gini(floats(3, 1)) == 1 / 4
    assert gini(floats(7)) == 0


@pytest.mark.parametrize("seed", SEEDS)
def test_gini_is_half_the_relative_mean_difference(seed: int) -> None:
    values = np.maximum(shop(60, seed)[2], 0)
    expected = np.abs(values[:, None] - values[None, :]).mean() / (2 * values.mean())
    assert gini(values) == pytest.approx(expected, abs=1e-11)
    assert gini(np.random.default_rng(seed).permutation(values)) == gini(values)
    assert gini(np.repeat(values, 3)) == gini(values)


def test_gini_rejects_what_is_not_an_amount() -> None:
    assert gini(floats(0, 0)) is None
    assert gini(floats()) is None
    for wrong in (floats(1, -1), floats(1, np.nan), floats(1, np.inf)):
        with pytest.raises(ValueError, match="must"):
            gini(wrong)


# Lift.


def test_lift_by_hand() -> None:
    # The best group has 1 customer and 6 of 10; the next 3 customers and 4.
    found = lift(np.array([2, 1, 1, 1]), floats(100, 9, 9, 9), floats(6, 4, 0, 0))
    # Areas: 1/4 · .6 / 2 below the first line, 3/4 · (.6 + 1) / 2 below the second: .075 + .6; twice that less 1.
    assert found.gini == pytest.approx(0.35, abs=1e-12)
    # A tenth of 4 customers is .4 of the one customer of the best group: .4 of 6, of 10.
    assert found.top_decile == pytest.approx(0.24, abs=1e-12)
    # Ranks 4, 2, 2, 2 and 4, 3, 1.5, 1.5; centred 1.5, -.5, -.5, -.5 and 1.5, .5, -1, -1: 3 / √(3 · 4.5).
    assert found.spearman == pytest.approx(3 / (3 * 4.5) ** 0.5, abs=1e-12)


def test_top_decile_splits_a_tied_group_pro_rata() -> None:
    # A tenth of 25 customers is 2.5: the best 2 with 50, and half a customer of the five that share 30; 20 are left.
    groups = np.repeat([0, 1, 2], [2, 5, 18])
    past = np.repeat(floats(90, 40, 1), [2, 5, 18])
    future = np.concatenate([floats(50, 0, 30, 0, 0, 0, 0), np.r_[20.0, np.zeros(17)]])
    assert lift(groups, past, future).top_decile == pytest.approx((50 + 0.5 * 30 / 5) / 100, abs=1e-12)


def test_groups_are_ordered_by_past_spend_only() -> None:
    future = floats(0, 0, 5, 5)
    inverted = lift(np.array([1, 1, 0, 0]), floats(9, 9, 2, 2), future)
    # Nothing captured by the first half: area 1/4 · 1; spend goes wholly against the order.
    assert astuple(inverted) == (-1, -0.5, 0)
    assert astuple(lift(np.array([-4, -4, 70, 70]), floats(9, 9, 2, 2), future)) == astuple(inverted)


def test_groups_of_equal_mean_count_as_one() -> None:
    # (.1 + .2 + .3) / 3 is not .2 to the last bit.
    past, future = floats(0.1, 0.2, 0.3, 0.2, 0.2, 5), floats(1, 2, 9, 0, 4, 0)
    apart, one = (lift(np.array(groups), past, future) for groups in ([0, 0, 0, 1, 2, 3], [0, 0, 0, 0, 0, 3]))
    assert apart == one


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("number", [23, 40, 97])
def test_lift_equals_loops_over_customers(seed: int, number: int) -> None:
    columns = shop(number, seed)
    assert astuple(lift(*columns)) == pytest.approx(by_loops(*columns), abs=1e-9)


@pytest.mark.parametrize("seed", SEEDS)
def test_weight_equals_that_many_rows(seed: int) -> None:
    groups, past, future = shop(60, seed)
    counts = np.random.default_rng(seed).poisson(1, 60)
    repeated = groups.repeat(counts), past.repeat(counts), future.repeat(counts)
    weighted = lift(groups, past, future, counts.astype(np.float64))
    assert astuple(weighted) == pytest.approx(by_loops(*repeated), abs=1e-9)
    assert astuple(weighted) == pytest.approx(astuple(lift(*repeated)), abs=1e-11)
    assert astuple(lift(groups, past, future, np.full(60, 2.5))) == pytest.approx(
        astuple(lift(groups, past, future)), abs=1e-11
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_row_order_does_not_matter(seed: int) -> None:
    groups, past, future = shop(300, seed)
    past, future = past / 7, future / 3
    other = np.random.default_rng(seed).permutation(300)
    assert lift(groups[other], past[other], future[other]) == lift(groups, past, future)
    resamples, customers = Resamples(300, random_state=1, resamples=5), np.arange(300)
    drawn = resamples.draw(customers, {"a": groups}, past, future)["a"]
    again = resamples.draw(customers[other], {"a": groups[other]}, past[other], future[other])["a"]
    assert drawn.tolist() == again.tolist()


@pytest.mark.parametrize("seed", SEEDS)
def test_perfect_and_inverted_order_are_the_bounds(seed: int) -> None:
    _, _, future = shop(200, seed)
    none_negative = np.maximum(future, 0)
    alone = np.arange(200)
    perfect, worst = lift(alone, none_negative, future), lift(alone, -none_negative, future)
    assert perfect.gini == pytest.approx(gini(none_negative), abs=1e-11)
    assert perfect.top_decile == pytest.approx(np.sort(none_negative)[-20:].sum() / none_negative.sum(), abs=1e-11)
    assert (perfect.spearman, worst.spearman) == (1, -1)
    assert worst.gini == pytest.approx(-float(perfect.gini or 0), abs=1e-11)
    random = np.random.default_rng(seed)
    for groups in (*(random.integers(0, k, 200) for k in (2, 5, 50)), shop(200, seed)[0]):
        found = lift(groups, random.random(200) + none_negative, future)
        for metric in METRICS:
            assert getattr(worst, metric) <= getattr(found, metric) <= getattr(perfect, metric)
        # Smaller groups of equal mean have the same lift: ties are pooled.
        assert lift(groups * 2, groups.astype(np.float64), future).gini == pytest.approx(
            lift(alone, groups.astype(np.float64), future).gini, abs=1e-11
        )


def test_random_groups_have_no_lift() -> None:
    random = np.random.default_rng(5)
    found = []
    for seed in range(40):
        future = shop(2000, seed)[2]
        found.append(astuple(lift(random.integers(0, 5, 2000), random.random(2000), future)))
    # 40 means of 2,000 customers each: a standard error below .005.
    assert np.mean(found, axis=0) == pytest.approx([0, 0, 0.1], abs=0.015)


@pytest.mark.parametrize("seed", SEEDS)
def test_negative_future_spend_counts_as_none(seed: int) -> None:
    groups, past, future = shop(100, seed)
    assert (future < 0).any()
    assert lift(groups, past, future) == lift(groups, past, np.where(future < 0, 0, future))


def test_undefined_metrics_are_none() -> None:
    groups, past = np.array([0, 0, 1]), floats(1, 2, 9)
    assert lift(groups, past, floats(0, -3, 0)) == LiftMetrics(None, None, None)
    assert lift(np.zeros(3, np.int64), past, floats(1, 0, 8)) == LiftMetrics(None, 0, 0.1)
    assert lift(groups, past, floats(4, 4, 4)) == LiftMetrics(None, 0, 0.1)
    assert lift(np.zeros(0, np.int64), floats(), floats()) == LiftMetrics(None, None, None)
    assert lift(groups, past, floats(1, 0, 8), np.zeros(3)) == LiftMetrics(None, None, None)


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
def test_invalid_columns_are_rejected(wrong: dict[str, Any]) -> None:
    columns = {"groups": np.array([0, 1, 1]), "past": floats(1, 2, 3), "future": floats(1, 2, 3)} | wrong
    with pytest.raises(ValueError, match="columns must be"):
        lift(**columns)


# Resamples and intervals.


def draws(groupings: Any, past: Any, future: Any, seed: int = 0, resamples: int = 200) -> dict[str, Array]:
    drawn = Resamples(len(past), random_state=seed, resamples=resamples)
    return drawn.draw(np.arange(len(past)), groupings, past, future)


def test_resample_is_lift_of_drawn_rows() -> None:
    """A customer that another population lacks is drawn all the same, and counts there with none of its rows."""
    groups, past, future = shop(50, 3)
    other, member = np.digitize(past, [40, 90]), np.arange(50) % 3 > 0
    resamples = Resamples(50, random_state=9, resamples=30)
    every = resamples.draw(np.arange(50), {"z": groups, "b": other}, past, future)
    some = resamples.draw(np.flatnonzero(member), {"z": groups[member]}, past[member], future[member])
    random = np.random.RandomState(9)
    for resample in range(30):
        drawn = random.randint(0, 50, 50, dtype=np.int64)
        for name, column in (("z", groups), ("b", other)):
            expected = by_loops(column[drawn], past[drawn], future[drawn])
            assert every[name][resample] == pytest.approx(expected, abs=1e-9)
        drawn = drawn[member[drawn]]
        expected = by_loops(groups[drawn], past[drawn], future[drawn])
        assert some["z"][resample] == pytest.approx(expected, abs=1e-9)


def test_interval_has_the_percentiles_of_the_draws() -> None:
    column = np.random.default_rng(1).permutation(200) / 10
    # Of 200 draws: places 199 · .05 = 9.95 and 189.05, between neighbours.
    assert interval(column, level=0.9) == pytest.approx((0.995, 18.905), abs=1e-11)
    groups, past, future = shop(400, 1)
    found = draws({"a": groups, "again": groups}, past, future)
    assert found["a"].tolist() == found["again"].tolist()
    for number, metric in enumerate(METRICS):
        low, high = interval(found["a"][:, number]) or (0, 0)
        assert low < getattr(lift(groups, past, future), metric) < high


def test_intervals_separate_worse_from_equal() -> None:
    _, past, _ = shop(800, 2)
    random = np.random.default_rng(2)
    future = past * random.exponential(1, 800)
    found = draws(
        {
            "spend": spend_groups(past, 4),
            "noise": random.integers(0, 4, 800),
            "noise too": random.integers(0, 4, 800),
        },
        past,
        future,
        seed=4,
    )
    worse, neither = (interval((found["noise"] - found[name])[:, 1]) for name in ("spend", "noise too"))
    assert worse is not None
    assert worse[1] < 0
    assert neither is not None
    assert neither[0] < 0 < neither[1]


def test_seed_decides_the_draws() -> None:
    groups, past, future = shop(100, 0)
    first, same, other = (draws({"a": groups}, past, future, seed, 20)["a"].tolist() for seed in (1, 1, 2))
    assert first == same != other
    # Neither the order of the groupings matters nor which others there are.
    beside = draws({"b": spend_groups(past, 7), "a": groups}, past, future, 1, 20)["a"]
    assert beside == pytest.approx(np.array(first), abs=1e-12)


def test_interval_needs_enough_defined_resamples() -> None:
    # One of 20 customers spends; 36 % of the resamples do not draw it.
    groups, past, future = np.arange(20) % 3, np.arange(20.0), np.r_[np.zeros(19), 5.0]
    column = draws({"a": groups}, past, future)["a"][:, 1]
    assert 0.2 < np.isnan(column).mean() < 0.5
    assert interval(column) is None
    assert interval(column, level=0.5) is not None
    nobody = draws({"a": groups[:0]}, past[:0], future[:0])["a"]
    assert np.isnan(nobody).all()
    assert interval(nobody[:, 1]) is None


def test_resamples_of_four_thousand_customers_are_fast() -> None:
    groups, past, future = shop(4000, 0)
    started = time.process_time()
    draws({"a": groups, "b": groups // 20, "c": spend_groups(past, 5)}, past, future)
    assert time.process_time() - started < 1


def test_resamples_of_a_sample_have_equal_centre_and_width(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(11)
    past = random.lognormal(3, 1, 20_000)
    future = past * random.lognormal(0, 0.8, 20_000) * (random.random(20_000) < 0.6)
    groups = {"five": spend_groups(past, 5), "two": spend_groups(past, 2)}
    of_all = draws(groups, past, future, seed=1)
    monkeypatch.setattr("segmentation_pipeline.model.lift.RESAMPLED", 2_000)
    of_part = draws(groups, past, future, seed=1)
    for metric in range(len(METRICS)):
        for other in (0, 1):
            expected, found = (interval((one["five"] - other * one["two"])[:, metric]) for one in (of_all, of_part))
            assert expected is not None
            assert found == pytest.approx(expected, abs=0.4 * (expected[1] - expected[0]))


# The baseline.


def test_spend_groups_by_hand() -> None:
    assert spend_groups(floats(8, 1, 7, 2, 6, 3), 3).tolist() == [2, 0, 2, 0, 1, 1]
    # The three customers without spend stay together; the others make two groups, the larger one above.
    assert spend_groups(floats(0, 0, 0, 5, 6, 7), 3).tolist() == [0, 0, 0, 1, 2, 2]
    # Ties at the top leave each group a spend of its own.
    assert spend_groups(floats(1, 2, 9, 9, 9, 9), 3).tolist() == [0, 1, 2, 2, 2, 2]
    assert spend_groups(floats(4, 4, 1), 5).tolist() == [1, 1, 0]
    assert spend_groups(floats(), 5).tolist() == []


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("k", [1, 2, 4, 7])
def test_spend_groups_are_equal_and_ordered(seed: int, k: int) -> None:
    random = np.random.default_rng(seed)
    distinct = random.permutation(101.0 + np.arange(101))
    sizes = np.bincount(spend_groups(distinct, k))
    assert len(sizes) == k
    assert sizes.max() - sizes.min() <= 1
    past = random.integers(0, 9, 101).astype(np.float64)
    groups = spend_groups(past, k)
    assert len(np.unique(groups)) == min(k, len(np.unique(past)))
    for low in range(k - 1):
        assert past[groups == low].max() < past[groups == low + 1].min()
    other = random.permutation(101)
    assert spend_groups(past[other], k).tolist() == groups[other].tolist()
