"""A segmentation model as a whole: fences, scaler, centroids, the segment of each, and the assignment of customers.

Contains the assignment by today's features alone. The SELECTs of the segments do the same in the database, and add
hysteresis from where a customer was before.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from segmentation_pipeline.model.arrays import Array, round_significant
from segmentation_pipeline.model.kmeans import Scaler, nearest
from segmentation_pipeline.model.segment_catalog import FEATURES

Keys = NDArray[np.str_]


@dataclass(frozen=True)
class Fence:
    """Tukey's fences of a feature: `factor` interquartile ranges beyond the quartiles."""

    q1: float
    q3: float
    factor: float

    def towards(self, other: "Fence", part: float) -> "Fence":
        """Return the fence that lies a part of the way to another, by its quartiles."""
        q1, q3 = self.q1 + part * (other.q1 - self.q1), self.q3 + part * (other.q3 - self.q3)
        return Fence(float(round_significant(q1)), float(round_significant(q3)), self.factor)

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
    """Assigns customers to segments. Features have shape (n, 3), in the order of FEATURES and in natural units.

    Attributes:
        fences: By feature; a feature without fences has no outliers.
        scaler: The transform and scaling of the normal customers' features.
        centroids_: Shape (k, 3), scaled.
        keys: The segment of each centroid.
    """

    fences: dict[str, Fence]
    scaler: Scaler
    centroids_: Array
    keys: tuple[str, ...]

    def assign(self, features: Array, refunds: Array | None = None) -> Keys:
        """Return the nearest segment of each customer: inactive, outlier, or the segment of the nearest centroid.

        Args:
            features: Shape (n, 3).
            refunds: Money refunded, shape (n,); default: the least that the features allow.
        """
        monetary, frequency = features[:, 0], features[:, 1]
        is_refunded = (monetary < 0) | (False if refunds is None else refunds > 0)
        keys = np.select([frequency == 0, is_refunded], ["dormant", "refunded"], "no_spend").astype("U32")
        active = is_active(features)
        sides = _sides(self.fences, features)
        low = (sides["monetary"] < 0) | (sides["frequency"] < 0) | (sides["recency"] > 0)
        spends_much, buys_often = sides["monetary"] > 0, sides["frequency"] > 0
        normal = is_normal(self.fences, features)
        outlier = np.select(
            [low, spends_much & buys_often, spends_much, buys_often],
            ["examine", "delight", "pamper", "upsell"],
            "examine",
        )
        keys[active & ~normal] = outlier[active & ~normal]
        # In the order of the keys: of two equally near centroids the lower key is taken.
        order = np.argsort(self.keys, kind="stable")
        if normal.any():
            clusters = nearest(self.scaler.apply(features[normal]), self.centroids_[order])
            keys[normal] = np.asarray(self.keys)[order][clusters]
        return keys

    def centroids_in_natural_units(self) -> Array:
        """Return the centroids from which a refit starts, shape (k, 3)."""
        return self.scaler.invert(self.centroids_)

    def with_keys(self, keys: tuple[str, ...]) -> "SegmentationModel":
        """Return the same model with other segments for its centroids."""
        return replace(self, keys=keys)


def is_active(features: Array) -> NDArray[np.bool_]:
    """Return which customers have a purchase, and money left after refunds."""
    active: NDArray[np.bool_] = (features[:, 1] > 0) & (features[:, 0] > 0)
    return active


def is_normal(fences: dict[str, Fence], features: Array) -> NDArray[np.bool_]:
    """Return which customers are active and within all fences."""
    within: NDArray[np.bool_] = np.logical_and.reduce([side == 0 for side in _sides(fences, features).values()])
    return is_active(features) & within


def tukey_fences(features: Array, names: list[str], factor: float) -> dict[str, Fence]:
    """Compute the fences of the active customers' features, with interpolated quartiles.

    Tukey (1977), "Exploratory Data Analysis".

    Args:
        features: Shape (n, 3), every customer.
        names: The features that get fences.
        factor: Interquartile ranges between a quartile and its fence.

    Raises:
        ValueError: No customer is active.
    """
    active = features[is_active(features)]
    if not len(active):
        raise ValueError("no customer has a purchase and money left after refunds")
    first, third = round_significant(np.quantile(active, [0.25, 0.75], axis=0)).tolist()
    columns = [(name, FEATURES.index(name)) for name in FEATURES if name in names]
    return {name: Fence(first[column], third[column], factor) for name, column in columns}


def _sides(fences: dict[str, Fence], features: Array) -> dict[str, NDArray[np.int8]]:
    """Return for each feature -1 below its lower fence, 1 above the upper one, else 0."""
    sides = dict.fromkeys(FEATURES, np.zeros(len(features), np.int8))
    for name, fence in fences.items():
        values = features[:, FEATURES.index(name)]
        sides[name] = (values > fence.upper).astype(np.int8) - (values < fence.lower)
    return sides
