"""What each segment is called and means, and which cluster gets which name.

Belongs here: the catalogue of segments, and naming by position. A cluster is named by where its centroid
lies, never by its number, so neither the seed nor the order of the rows can swap two names.
"""

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from segmentation_pipeline.model.segment_catalog import NORMAL, PLUS, Segment

# In squared standard deviations: how much nearer than a free place one must be that is taken already.
_SHARING = 0.6
# In standard deviations: how much nearer than its own place another's must be before a standing name is wrong.
_SLACK = 0.5


def name_clusters(
    centroids: NDArray[np.float64], given: Sequence[str | None] = (), taken: Collection[str] = ()
) -> list[str]:
    """Give each cluster the key of the normal segment that lies nearest, no segment twice.

    The centroids are standardised values, so that a place means the same for every retailer. The assignment of least
    total squared distance is that of Kuhn (1955), "The Hungarian method for the assignment problem". Of two clusters in
    one place, that of more value is the PLUS.

    Args:
        centroids: Shape (n_clusters, 3): monetary, frequency, recency, each in standard deviations from the mean.
        given: The key of each cluster that has one already, else None; empty: none has.
        taken: Keys that no cluster may be given: those of other segments.

    Returns:
        A key for each centroid, in their order.

    Raises:
        ValueError: There are more clusters than normal segments.
    """
    from scipy.optimize import linear_sum_assignment

    keys: list[str | None] = list(given) or [None] * len(centroids)
    unnamed = [cluster for cluster, key in enumerate(keys) if key is None]
    names = [segment for segment in (*NORMAL, *PLUS) if segment.key not in {*keys, *taken}]
    if len(unnamed) > len(names):
        raise ValueError(f"{len(unnamed)} clusters, but only {len(names)} names; choose n_clusters up to {len(names)}")
    lies = _places(centroids)
    cost = _squared_distances(lies[unnamed], names)
    cost += np.array([_SHARING if segment in PLUS else 0 for segment in names])
    for cluster, chosen in zip(unnamed, linear_sum_assignment(cost)[1].tolist(), strict=True):
        keys[cluster] = names[chosen].key
    for cluster in unnamed:
        plus = f"{keys[cluster]}_plus"
        if plus in keys and (other := keys.index(plus)) in unnamed and lies[cluster, 0] > lies[other, 0]:
            keys[cluster], keys[other] = plus, keys[cluster]
    return [key for key in keys if key is not None]


def misplaced(centroids: NDArray[np.float64], keys: Sequence[str]) -> list[str]:
    """The keys whose name no longer fits: their cluster lies clearly nearer to the place of another name.

    Args:
        centroids: Shape (n_clusters, 3), as for `name_clusters`.
        keys: The segment of each.
    """
    distances = np.sqrt(_squared_distances(_places(centroids), [*NORMAL]))
    places = {segment.key: place for place, segment in enumerate(NORMAL)}
    own = [row[places[key.removesuffix("_plus")]] for row, key in zip(distances, keys, strict=True)]
    return [key for key, at, nearest in zip(keys, own, distances.min(axis=1), strict=True) if at > nearest + _SLACK]


def _places(centroids: NDArray[np.float64]) -> NDArray[np.float64]:
    """Value and staleness."""
    return np.column_stack([centroids[:, :2].mean(axis=1), centroids[:, 2]])


def _squared_distances(lies: NDArray[np.float64], names: Sequence[Segment]) -> NDArray[np.float64]:
    places = np.array([(segment.value, segment.staleness) for segment in names])
    distances: NDArray[np.float64] = ((lies[:, None, :] - places[None, :, :]) ** 2).sum(axis=2)
    return distances
