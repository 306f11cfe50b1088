"""The segmentation model as a whole: fences, scaler, centroids and the segment of each, and what it makes of customers.

Belongs here: the assignment that forgets nothing but remembers nobody: of today's features alone. The SELECTs do the
same where the rows are, and add what a customer was before.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from segmentation_pipeline.model.kmeans import Array, Scaler, nearest, rounded
from segmentation_pipeline.model.segment_catalog import FEATURES

Keys = NDArray[np.str_]


@dataclass(frozen=True)
class Fence:
    """Tukey's fences of a feature: beyond `factor` interquartile ranges from the quartiles."""

    q1: float
    q3: float
    factor: float

    def towards(self, other: "Fence", part: float) -> "Fence":
        """The fence a part of the way to another."""
        q1, q3 = self.q1 + part * (other.q1 - self.q1), self.q3 + part * (other.q3 - self.q3)
        return Fence(float(rounded(q1)), float(rounded(q3)), self.factor)

    @property
    def lower(self) -> float:
        """A customer below it is an outlier."""
        return self.q1 - self.factor * (self.q3 - self.q1)

    @property
    def upper(self) -> float:
        """A customer above it is an outlier."""
        return self.q3 + self.factor * (self.q3 - self.q1)


@dataclass(frozen=True)
class SegmentationModel:
    """What assigns customers to segments; features have shape (n, 3), in the order of FEATURES and natural units.

    Attributes:
        fences: By feature; a feature without one has no outliers.
        scaler: What the features of normal customers go through.
        centroids_: Shape (k, 3), scaled.
        keys: The segment of each centroid.
    """

    fences: dict[str, Fence]
    scaler: Scaler
    centroids_: Array
    keys: tuple[str, ...]

    def assign(self, features: Array) -> Keys:
        """The key of the nearest segment of each customer: inactive, outlier, or that of the nearest centroid."""
        keys = np.where(features[:, 1] == 0, "dormant", "refunded").astype("U32")
        active = is_active(features)
        sides = _sides(self.fences, features)
        low = (sides["monetary"] < 0) | (sides["frequency"] < 0) | (sides["recency"] > 0)
        money, often = sides["monetary"] > 0, sides["frequency"] > 0
        normal = is_normal(self.fences, features)
        outlier = np.select([low, money & often, money, often], ["examine", "delight", "pamper", "upsell"], "examine")
        keys[active & ~normal] = outlier[active & ~normal]
        # In the order of their keys, so that of two centroids that are equally near the lower key is taken.
        order = np.argsort(self.keys, kind="stable")
        if normal.any():
            clusters = nearest(self.scaler.apply(features[normal]), self.centroids_[order])
            keys[normal] = np.asarray(self.keys)[order][clusters]
        return keys

    def centroids_in_natural_units(self) -> Array:
        """Where a refit starts: shape (k, 3)."""
        return self.scaler.invert(self.centroids_)

    def named(self, keys: tuple[str, ...]) -> "SegmentationModel":
        """The same model with other segments to its centroids."""
        return replace(self, keys=keys)


def is_active(features: Array) -> NDArray[np.bool_]:
    """Which customers have something to fit: a purchase, and money left after refunds."""
    active: NDArray[np.bool_] = (features[:, 1] > 0) & (features[:, 0] > 0)
    return active


def is_normal(fences: dict[str, Fence], features: Array) -> NDArray[np.bool_]:
    """Which customers are active and within all fences."""
    within: NDArray[np.bool_] = np.logical_and.reduce([side == 0 for side in _sides(fences, features).values()])
    return is_active(features) & within


def tukey_fences(features: Array, names: list[str], factor: float) -> dict[str, Fence]:
    """Tukey (1977), "Exploratory Data Analysis": fences of the active customers' features, quartiles interpolated.

    Raises:
        ValueError: Nobody is active.
    """
    active = features[is_active(features)]
    if not len(active):
        raise ValueError("no customer has a purchase and money left after refunds")
    first, third = rounded(np.quantile(active, [0.25, 0.75], axis=0)).tolist()
    places = [(name, FEATURES.index(name)) for name in FEATURES if name in names]
    return {name: Fence(first[place], third[place], factor) for name, place in places}


def _sides(fences: dict[str, Fence], features: Array) -> dict[str, NDArray[np.int64]]:
    """For each feature -1 below its lower fence, 1 above the upper one, else 0."""
    sides = dict.fromkeys(FEATURES, np.zeros(len(features), np.int64))
    for name, fence in fences.items():
        values = features[:, FEATURES.index(name)]
        sides[name] = (values > fence.upper).astype(np.int64) - (values < fence.lower)
    return sides
