"""Compare two segmentations by the customers that they share: match clusters to segments, measure agreement.

Contains functions of arrays and of counts. The decision whether a model is promoted is in `segments.promotion`.
"""

from collections import Counter
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from segmentation_pipeline.model.arrays import Array
from segmentation_pipeline.model.segmentation_model import Keys

# Less than half in common, and the larger part of the customers would be others.
MIN_JACCARD = 0.5


def match(
    clusters: NDArray[np.int64],
    segments: Keys,
    keys: tuple[str, ...],
    centroids: Array,
    active_centroids: Array,
) -> list[str | None]:
    """Match each cluster of a new fit to the segment of the active model that it continues.

    Kuhn (1955), "The Hungarian method for the assignment problem": the assignment with the most shared customers. A
    pair counts if at least half of the customers in either are in both (Jaccard, 1901). Of assignments that share
    equally many customers, the one with the least distance between centroids is taken.

    Args:
        clusters: Shape (n,), the cluster of each customer; -1 for customers in no cluster.
        segments: Shape (n,), the segment of each customer under the active model.
        keys: The segments of the active model's centroids.
        centroids: Shape (k, d), of the clusters.
        active_centroids: Shape (len(keys), d), of the active model, in the same units.

    Returns:
        For each cluster the key that it continues, or None.
    """
    from scipy.optimize import linear_sum_assignment

    shared = np.array([[np.sum((clusters == c) & (segments == key)) for key in keys] for c in range(len(centroids))])
    cluster_sizes = np.bincount(clusters[clusters >= 0], minlength=len(centroids))
    segment_sizes = np.array([np.sum(segments == key) for key in keys])
    distances = np.linalg.norm(centroids[:, None, :] - active_centroids[None, :, :], axis=2)
    # Sums to less than one customer, so that distance decides between equals only.
    nearness = 1 - distances / (distances.sum() + 1)
    rows, columns = linear_sum_assignment(-(shared + nearness / (shared.size + 1)))
    found: list[str | None] = [None] * len(centroids)
    for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
        union = cluster_sizes[row] + segment_sizes[column] - shared[row, column]
        if union and shared[row, column] / union >= MIN_JACCARD:
            found[row] = keys[column]
    return found


def kept_share(pairs: Mapping[tuple[str, str], int]) -> float:
    """Return the share of the customers that keep their segment.

    Args:
        pairs: The customers in each segment before, and in each after.
    """
    return sum(count for (before, after), count in pairs.items() if before == after) / sum(pairs.values())


def agreement(pairs: Mapping[tuple[str, str], int]) -> float:
    """Return the adjusted Rand index of two assignments: Hubert & Arabie (1985), "Comparing partitions".

    From counts, because the function of scikit-learn needs two labels of each customer.

    Args:
        pairs: The customers in each segment before, and in each after.
    """
    before, after = Counter[str](), Counter[str]()
    for (old, new), count in pairs.items():
        before[old] += count
        after[new] += count
    # Pairs of customers that are together in both, before, and after.
    both, old_pairs, new_pairs = (sum(map(_pairs, counts.values())) for counts in (pairs, before, after))
    expected = old_pairs * new_pairs / max(_pairs(sum(pairs.values())), 1)
    most = (old_pairs + new_pairs) / 2
    return 1.0 if most == expected else (both - expected) / (most - expected)


def _pairs(customers: int) -> int:
    return customers * (customers - 1) // 2
