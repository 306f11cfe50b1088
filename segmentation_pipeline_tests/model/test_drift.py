"""Bins and the population stability index, compared with hand-made sums."""

from math import log

import numpy as np
import pytest
from numpy.typing import NDArray

from segmentation_pipeline.model import drift

Array = NDArray[np.float64]
SEEDS = range(8)
# An undefined value must be handled, not divided by zero.
pytestmark = pytest.mark.filterwarnings("error")


def floats(*values: float) -> Array:
    return np.array(values, dtype=np.float64)


def test_bins_by_hand() -> None:
    assert drift.quantile_edges(np.arange(1.0, 21), 4).tolist() == [5, 10, 15]
    # Quarters of 7 values are 1.75, 3.5 and 5.25; the 2nd, 4th and 6th value are the first with as many below.
    assert drift.quantile_edges(np.arange(1.0, 8), 4).tolist() == [2, 4, 6]
    # Six of ten values are 1, so the first six tenths share an edge.
    skewed = floats(1, 1, 1, 1, 1, 1, 2, 3, 4, 5)
    edges = drift.quantile_edges(skewed)
    assert edges.tolist() == [1, 2, 3, 4]
    assert drift.bin_shares(skewed, edges).tolist() == [0.6, 0.1, 0.1, 0.1, 0.1]
    # Unseen values fall into the open outer bins; a value on an edge falls into the bin below it.
    assert drift.bin_shares(floats(-99, 1, 1.5, 2, 99), edges).tolist() == [0.4, 0.4, 0, 0, 0.2]
    assert drift.quantile_edges(floats(3, 3, 3)).tolist() == []
    assert drift.bin_shares(floats(3, 8), floats()).tolist() == [1]


@pytest.mark.parametrize("seed", SEEDS)
def test_bins_hold_equal_counts_and_never_split_equals(seed: int) -> None:
    random = np.random.default_rng(seed)
    values = random.permutation(random.normal(size=1000))
    assert drift.bin_shares(values, drift.quantile_edges(values)).tolist() == [0.1] * 10
    tied = random.geometric(0.3, 1000) / 10
    edges = drift.quantile_edges(tied)
    assert set(edges.tolist()) <= set(tied.tolist())
    assert edges.tolist() == sorted(set(edges.tolist()))
    shares = drift.bin_shares(tied, edges)
    assert shares.min() > 0
    expected = [(tied <= edge).mean() for edge in edges]
    assert np.cumsum(shares)[:-1] == pytest.approx(expected, abs=1e-12)


def test_values_that_are_not_finite_are_rejected() -> None:
    with pytest.raises(ValueError, match="finite"):
        drift.quantile_edges(floats(1, np.nan))
    with pytest.raises(ValueError, match="finite"):
        drift.bin_shares(floats(1, np.nan), floats(1))


def test_psi_by_hand() -> None:
    assert drift.psi(floats(0.5, 0.5), floats(0.5, 0.5)) == 0
    assert drift.psi(floats(0.5, 0.5), floats(0.2, 0.8)) == pytest.approx(-0.3 * log(0.4) + 0.3 * log(1.6), abs=1e-12)
    assert drift.psi(floats(0.2, 0.8), floats(0.5, 0.5)) == drift.psi(floats(0.5, 0.5), floats(0.2, 0.8))
    # An empty bin counts as 1 customer in 10,000, on either side; a bin that is empty on both sides adds nothing.
    assert drift.psi(floats(0.5, 0.5), floats(0, 1)) == pytest.approx(0.4999 * log(5000) + 0.5 * log(2), abs=1e-12)
    assert drift.psi(floats(0, 0.5, 0.5), floats(0, 0.5, 0.5)) == 0
    assert drift.psi(floats(0, 1), floats(0.00005, 0.99995)) == pytest.approx(0, abs=1e-8)
    with pytest.raises(ValueError, match="broadcast"):
        drift.psi(floats(0.5, 0.5), floats(0.2, 0.3, 0.5))


def test_psi_separates_the_same_from_higher_spend() -> None:
    random = np.random.default_rng(0)
    before = random.lognormal(5, 1, 4000)
    edges = drift.quantile_edges(before)
    expected = drift.bin_shares(before, edges)
    same, higher = (drift.bin_shares(random.lognormal(mean, 1, 4000), edges) for mean in (5, 6))
    assert drift.psi(expected, same) < 0.02
    assert drift.psi(expected, higher) > 0.25
