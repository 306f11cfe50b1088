"""The mean silhouette of one clustering, or of several of the same customers at once."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from segmentation_pipeline.model.arrays import Array, round_significant

Labels = NDArray[np.int64]

SILHOUETTE_SAMPLE = 10_000
# In MB, for the distances between all customers; by default scikit-learn takes a gigabyte.
_WORKING_MEMORY = 32


class _Clusters(NamedTuple):
    labels: Labels
    members: Array  # shape (n, k), 1 where a row is in a cluster
    sizes: Array  # shape (k,)


def silhouettes(scaled: Array, labelings: Sequence[Labels], random_state: int) -> list[float]:
    """Return the mean silhouette of each labeling; above SILHOUETTE_SAMPLE customers, that of a seeded sample.

    Rousseeuw (1987), "Silhouettes: a graphical aid to the interpretation and validation of cluster analysis". The
    values are those of scikit-learn's `silhouette_score`, which would compute the distances between all customers, most
    of the time, for each labeling.

    Args:
        scaled: Shape (n, d).
        labelings: Each of shape (n,), the cluster of each row.
        random_state: Seed of the sample.
    """
    if len(scaled) <= SILHOUETTE_SAMPLE:
        return _silhouettes(scaled, labelings)
    samples = [_sampled(labels, random_state) for labels in labelings]
    return [
        one
        for rows, labels in zip(samples, labelings, strict=True)
        for one in _silhouettes(scaled[rows], [labels[rows]])
    ]


def _sampled(labels: Labels, random_state: int) -> Labels:
    """Return the rows of a sample that is stratified by cluster.

    It has at least two customers of each cluster: a single one counts as 0, and a missing cluster would raise the
    silhouette of its neighbours.
    """
    random, drawn = np.random.default_rng(random_state), []
    for cluster in np.unique(labels):
        members = np.flatnonzero(labels == cluster)
        share = round(SILHOUETTE_SAMPLE * len(members) / len(labels))
        drawn.append(random.choice(members, min(len(members), max(2, share)), replace=False))
    return np.sort(np.concatenate(drawn))


def _silhouettes(scaled: Array, labelings: Sequence[Labels]) -> list[float]:
    from sklearn import config_context
    from sklearn.metrics import pairwise_distances_chunked
    from threadpoolctl import threadpool_limits

    clusterings = [_clusters(labels) for labels in labelings]

    def of_rows(distances: Array, start: int) -> Array:
        return np.column_stack([_of_rows(distances, start, clusters) for clusters in clusterings])

    with threadpool_limits(1), config_context(working_memory=_WORKING_MEMORY):
        values = np.concatenate(list(pairwise_distances_chunked(scaled, reduce_func=of_rows)))
    return [float(round_significant(np.float64(column.mean()))) for column in values.T]


def _clusters(labels: Labels) -> _Clusters:
    present, numbers = np.unique(labels, return_inverse=True)
    members = np.eye(len(present))[numbers]
    return _Clusters(numbers, members, members.sum(axis=0))


def _of_rows(distances: Array, start: int, clusters: _Clusters) -> Array:
    """Return the silhouettes of some rows, given their distances to all rows."""
    rows = np.arange(len(distances))
    own = clusters.labels[start : start + len(distances)]
    sums = distances @ clusters.members
    within = sums[rows, own] / np.maximum(clusters.sizes[own] - 1, 1)
    means = sums / clusters.sizes
    means[rows, own] = np.inf
    nearest = means.min(axis=1)
    larger = np.maximum(within, nearest)
    # A single customer has no distance within its cluster; equal customers in two clusters have none at all.
    is_defined = (clusters.sizes[own] > 1) & (larger > 0)
    values: Array = np.divide(nearest - within, larger, out=np.zeros(len(rows)), where=is_defined)
    return values
