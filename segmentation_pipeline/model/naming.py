"""Name clusters by the position of their centroids.

Contains the rule. The catalogue of names is in `segment_catalog`. Neither the seed nor the order of the rows can swap
two names, because a cluster's number plays no part.
"""

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from segmentation_pipeline.model.segment_catalog import NORMAL, PLUS, Segment

# The cost of sharing a place, in squared standard deviations: a cluster shares the place of another rather than take a
# free place that is farther away by more than this.
_SHARING_COST = 0.6
# In standard deviations: how much nearer another name's place must be before the present name is wrong.
_MISPLACED_BY = 0.5


def name_clusters(
    centroids: NDArray[np.float64], assigned: Sequence[str | None] = (), reserved: Collection[str] = ()
) -> list[str]:
    """Give each cluster the key of the normal segment whose place is nearest, no segment twice.

    Kuhn (1955), "The Hungarian method for the assignment problem": the assignment with the least total squared
    distance. Of two clusters in one place, the one of more value gets the PLUS name.

    Args:
        centroids: Shape (n_clusters, 3): monetary, frequency, recency in standard deviations from the mean, so that a
            place means the same for every retailer.
        assigned: The key of each cluster that has one already, else None; empty: none has one.
        reserved: Keys that no cluster may get.

    Returns:
        A key for each centroid, in their order.

    Raises:
        ValueError: There are more clusters than normal segments.
    """
    from scipy.optimize import linear_sum_assignment

    keys: list[str | None] = list(assigned) or [None] * len(centroids)
    unnamed = [cluster for cluster, key in enumerate(keys) if key is None]
    names = [segment for segment in (*NORMAL, *PLUS) if segment.key not in {*keys, *reserved}]
    if len(unnamed) > len(names):
        raise ValueError(f"{len(unnamed)} clusters, but only {len(names)} names; choose n_clusters up to {len(names)}")
    places = _places(centroids)
    cost = _squared_distances(places[unnamed], names)
    cost += np.array([_SHARING_COST if segment in PLUS else 0 for segment in names])
    for cluster, chosen in zip(unnamed, linear_sum_assignment(cost)[1].tolist(), strict=True):
        keys[cluster] = names[chosen].key
    for cluster in unnamed:
        plus = f"{keys[cluster]}_plus"
        if plus in keys and (other := keys.index(plus)) in unnamed and places[cluster, 0] > places[other, 0]:
            keys[cluster], keys[other] = plus, keys[cluster]
    return [key for key in keys if key is not None]


def misplaced(centroids: NDArray[np.float64], keys: Sequence[str]) -> list[str]:
    """Return the keys whose name no longer fits: the cluster is clearly nearer to the place of another name.

    Args:
        centroids: Shape (n_clusters, 3), as for `name_clusters`.
        keys: The segment of each centroid.
    """
    distances = np.sqrt(_squared_distances(_places(centroids), [*NORMAL]))
    columns = {segment.key: column for column, segment in enumerate(NORMAL)}
    own = [row[columns[key.removesuffix("_plus")]] for row, key in zip(distances, keys, strict=True)]
    nearest = distances.min(axis=1)
    return [key for key, to_own, least in zip(keys, own, nearest, strict=True) if to_own > least + _MISPLACED_BY]


def _places(centroids: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return value (the mean of monetary and frequency) and staleness (recency), shape (n_clusters, 2)."""
    return np.column_stack([centroids[:, :2].mean(axis=1), centroids[:, 2]])


def _squared_distances(places: NDArray[np.float64], names: Sequence[Segment]) -> NDArray[np.float64]:
    of_names = np.array([(segment.value, segment.staleness) for segment in names])
    distances: NDArray[np.float64] = ((places[:, None, :] - of_names[None, :, :]) ** 2).sum(axis=2)
    return distances
