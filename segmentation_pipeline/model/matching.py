"""Which cluster of a refit is which standing segment, and whether a refit is fit to replace what stands.

Belongs here: segments compared by the customers that they share.
"""

import numpy as np
from numpy.typing import NDArray

from segmentation_pipeline.model.kmeans import Array
from segmentation_pipeline.model.segmentation_model import Keys

MIN_JACCARD = 0.5


def match(
    clusters: NDArray[np.int64],
    segments: Keys,
    keys: tuple[str, ...],
    centroids: Array,
    standing: Array,
) -> list[str | None]:
    """The standing segment that each cluster goes on as: the assignment of most shared customers.

    Kuhn (1955), "The Hungarian method for the assignment problem". A pair counts if its customers make up at least
    half of those that are in one or the other (Jaccard, 1901); where two assignments share as many, the one of
    less distance between centroids is taken.

    Args:
        clusters: Shape (n,), the cluster of each customer; -1 for those in none.
        segments: Shape (n,), the segment in which each customer stands.
        keys: The standing segments of the k-means model.
        centroids: Shape (k, d), of the clusters, in the same units as `standing`.
        standing: Shape (len(keys), d), of the standing segments.

    Returns:
        For each cluster a key, or None if it goes on as none of them.
    """
    from scipy.optimize import linear_sum_assignment

    shared = np.array([[np.sum((clusters == c) & (segments == key)) for key in keys] for c in range(len(centroids))])
    of_clusters = np.bincount(clusters[clusters >= 0], minlength=len(centroids))
    of_segments = np.array([np.sum(segments == key) for key in keys])
    distances = np.linalg.norm(centroids[:, None, :] - standing[None, :, :], axis=2)
    # Less than one customer in all, so that distance decides between equals only.
    nearness = 1 - distances / (distances.sum() + 1)
    rows, columns = linear_sum_assignment(-(shared + nearness / (shared.size + 1)))
    found: list[str | None] = [None] * len(centroids)
    for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
        either = of_clusters[row] + of_segments[column] - shared[row, column]
        if either and shared[row, column] / either >= MIN_JACCARD:
            found[row] = keys[column]
    return found


def kept_share(before: Keys, after: Keys) -> float:
    """The share of customers that keep their segment."""
    return float(np.mean(before == after))


def agreement(before: Keys, after: Keys) -> float:
    """The adjusted Rand index of two assignments: Hubert & Arabie (1985), "Comparing partitions"."""
    from sklearn.metrics import adjusted_rand_score

    return float(adjusted_rand_score(before, after))
