"""How far the distribution of a feature has moved: bins of equal counts, and the population stability index.

Contains functions of arrays. The warehouse rows and their bounds are in `segments.drift`.
"""

import numpy as np

from segmentation_pipeline.model.arrays import Array, round_decimals, sorted_finite

# The least share of a bin in the index, 1 customer in 10,000: an empty bin would make the index infinite.
SHARE_FLOOR = 1e-4


def quantile_edges(values: Array, bins: int = 10) -> Array:
    """Return the inner edges of bins that hold equally many values.

    Edge i is the smallest value with i / bins of all values at or below it, and belongs to the bin that it closes.
    Equal values are never split. The greatest value is no edge, since the bin above it would be empty: a feature with
    one value has one bin, and no drift.

    Args:
        values: Shape (n,).
        bins: The number of bins, if the values are distinct enough.

    Returns:
        At most `bins - 1` edges, ascending and distinct.

    Raises:
        ValueError: A value is not finite.
    """
    ordered = sorted_finite(values)
    # Whole-number arithmetic for ceil(i * n / bins), free of rounding.
    edges = ordered[[-(-i * len(values) // bins) - 1 for i in range(1, bins)]]
    return np.unique(edges[edges < ordered[-1]])


def bin_shares(values: Array, edges: Array) -> Array:
    """Return the share of the values in each of the `len(edges) + 1` bins; the outer bins are open.

    A value on an edge belongs to the bin below it.

    Raises:
        ValueError: A value is not finite.
    """
    counts = np.bincount(np.searchsorted(edges, sorted_finite(values), side="left"), minlength=len(edges) + 1)
    return np.divide(counts, len(values))


def psi(expected: Array, actual: Array) -> float:
    """Return the population stability index of two arrays of bin shares: Σ (actual - expected) · ln(actual / expected).

    Siddiqi (2006), "Credit Risk Scorecards": below 0.1 the population has changed little, above 0.25 much. On either
    side, a share below SHARE_FLOOR counts as SHARE_FLOOR; the other shares are not rescaled.
    """
    before, after = (np.maximum(shares, SHARE_FLOOR) for shares in (expected, actual))
    return float(round_decimals(((after - before) * np.log(after / before)).sum()))
