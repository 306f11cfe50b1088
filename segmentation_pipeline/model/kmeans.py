"""Fit k-means with scikit-learn: transform, scaling, centroids and metrics, as numbers that fit into tables.

Contains the fit of one number of clusters. The search for the number is in `k_search`; customers are scored in SQL.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from segmentation_pipeline.model.arrays import Array, round_significant
from segmentation_pipeline.model.silhouette import silhouettes

Transform = Literal["standard", "log", "yeo-johnson", "robust"]
# Customers that k-means, and the exponents of Yeo-Johnson, are fitted on; see ADR 23.
FIT_SAMPLE = 500_000
# Customers among whom random starts and single moves are tried; among more, they would decide nothing.
START_SAMPLE = 10_000
# The least gain of a move, in scaled units, where customers are of the order of 1 apart.
_MIN_GAIN = 1e-9


@dataclass(frozen=True)
class Scaler:
    """A fitted transform and scaling: scaled = (transformed - center_) / scale_.

    Attributes:
        transform: The transform before the scaling.
        exponents_: The lambdas of Yeo-Johnson, shape (d,); None for other transforms.
        center_: Shape (d,), in transformed units.
        scale_: Shape (d,), in transformed units.
    """

    transform: Transform
    exponents_: Array | None
    center_: Array
    scale_: Array

    def apply(self, features: Array) -> Array:
        """Scale features of shape (n, d), in natural units."""
        scaled: Array = _transformed(features, self.transform, self.exponents_) - self.center_
        # In place, as below: of millions of customers, each copy is hundreds of MB.
        scaled /= self.scale_
        return scaled

    def invert(self, scaled: Array) -> Array:
        """Return scaled features or centroids, shape (n, d), in natural units."""
        transformed = scaled * self.scale_ + self.center_
        if self.transform == "log":
            return np.expm1(transformed)
        if self.transform == "yeo-johnson":
            from sklearn.preprocessing import PowerTransformer

            # Set to the rounded lambdas instead of fitted.
            power = PowerTransformer(method="yeo-johnson", standardize=False)
            power.lambdas_, power.n_features_in_ = self.exponents_, transformed.shape[1]
            natural: Array = power.inverse_transform(transformed)
            return natural
        return transformed


@dataclass(frozen=True)
class KMeansFit:
    """A fitted model. Clusters are in ascending order of their scaled centroids, so the seed does not number them.

    Attributes:
        scaler: The transform and scaling of the features.
        scaled_: Shape (n, d), the scaled features.
        labels_: Shape (n,), the cluster of each row.
        centroids_: Shape (k, d), scaled.
        means_: Shape (k, d), the mean of each cluster's customers in natural units.
        standardised_: Shape (k, d), the mean of each cluster in standard deviations of the transformed features from
            their mean. Clusters are named by it.
        sizes_: Shape (k,), customers.
        inertia_: Sum of squared distances to the nearest centroid, scaled.
        random_state: Seed of the fit and of the silhouette's sample.
    """

    scaler: Scaler
    scaled_: Array
    labels_: NDArray[np.int64]
    centroids_: Array
    means_: Array
    standardised_: Array
    sizes_: NDArray[np.int64]
    inertia_: float
    random_state: int

    @cached_property
    def silhouette_(self) -> float:
        """The mean silhouette (see `silhouettes`), computed on first use: it takes longer than the fit."""
        return silhouettes(self.scaled_, [self.labels_], self.random_state)[0]

    @property
    def smallest_share(self) -> float:
        """The share of the customers in the smallest cluster."""
        return float(round_significant(self.sizes_.min() / self.sizes_.sum()))


def fit(
    features: Array,
    *,
    transform: Transform,
    n_clusters: int,
    random_state: int,
    n_init: int = 10,
    max_iter: int = 1000,
    tol: float = 0,
    start: Array | None = None,
    scaler: Scaler | None = None,
) -> KMeansFit:
    """Fit the scaler and k-means.

    With `tol=0` a start ends when no customer changes its cluster, and the best start is refined by single moves:
    without that, the seed decides where up to 16 of Online Retail's 4,362 customers, near a border, belong. The fit
    uses one thread and rounds to 12 significant digits, because the last bits of the sums depend on the number of
    threads.

    Of more than START_SAMPLE customers, the starts and the single moves are those of a seeded sample (see
    `sampled_rows`), and one fit on at most FIT_SAMPLE continues from their centroids. The scaling, the sizes and the
    means are those of all customers.

    Args:
        features: Shape (n, d), in natural units, sorted by customer.
        transform: The transform before the scaling.
        n_clusters: Number of clusters.
        random_state: Seed of the starts and of the samples.
        n_init: Number of starts; the best counts.
        max_iter: Most iterations of a start.
        tol: Tolerance of scikit-learn's convergence test.
        start: Centroids of shape (n_clusters, d), in natural units, for a single start; None: random starts.
        scaler: What `fit_scaler` returns for these arguments, if it is known from another fit; None: it is fitted.

    Raises:
        ValueError: There are too few distinct customers, no feature varies, or `start` has another shape.
    """
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    if (distinct := count_distinct(features, n_clusters)) <= n_clusters:
        raise ValueError(f"{distinct} distinct normal customers are too few for {n_clusters} clusters")
    scaler = scaler or fit_scaler(features, transform, random_state)
    scaled = scaler.apply(features)
    sample = scaled[sampled_rows(features, FIT_SAMPLE, random_state)]
    if start is None and len(features) > START_SAMPLE:
        few = features[sampled_rows(features, START_SAMPLE, random_state)]
        if count_distinct(few, n_clusters) > n_clusters:
            of_few = fit(few, transform=transform, n_clusters=n_clusters, random_state=random_state, n_init=n_init)
            start = of_few.scaler.invert(of_few.centroids_)
    starts: dict[str, Any] = {"n_init": n_init} if start is None else {"init": scaler.apply(start), "n_init": 1}
    with threadpool_limits(1):
        model = KMeans(n_clusters, random_state=random_state, max_iter=max_iter, tol=tol, **starts)
        found = model.fit(sample)
        centroids = _refined(sample, found.labels_) if len(sample) <= START_SAMPLE else found.cluster_centers_
        centroids = round_significant(centroids[np.lexsort(centroids.T[::-1])])
        labels = nearest(scaled, centroids)
    means = np.array([features[labels == cluster].mean(axis=0) for cluster in range(n_clusters)])
    transformed = _transformed(features, transform, scaler.exponents_)
    cluster_means = np.array([transformed[labels == cluster].mean(axis=0) for cluster in range(n_clusters)])
    deviations = np.where(np.ptp(transformed, axis=0), transformed.std(axis=0), 1)
    return KMeansFit(
        scaler=scaler,
        scaled_=scaled,
        labels_=labels,
        centroids_=centroids,
        means_=round_significant(means),
        standardised_=round_significant((cluster_means - transformed.mean(axis=0)) / deviations),
        sizes_=np.bincount(labels, minlength=n_clusters),
        inertia_=_inertia(scaled, centroids, labels),
        random_state=random_state,
    )


def _inertia(scaled: Array, centroids: Array, labels: NDArray[np.int64]) -> float:
    """Return the sum of the squared distances to the own centroids."""
    distances = centroids[labels]
    np.subtract(scaled, distances, out=distances)
    np.square(distances, out=distances)
    return float(round_significant(distances.sum()))


def _refined(scaled: Array, labels: NDArray[Any]) -> Array:
    """Move single customers to another cluster while that lowers the inertia, best move first; return the centroids.

    Hartigan (1975), "Clustering Algorithms": a move shifts both centroids, which scikit-learn's algorithm ignores.
    Telgarsky & Vattani (2010), "Hartigan's Method: k-means Clustering without Voronoi": every optimum of these moves
    is one of Lloyd's algorithm, but not the reverse.
    """
    from scipy.spatial.distance import cdist

    clusters, rows = labels.copy(), np.arange(len(labels))
    sizes = np.bincount(clusters).astype(np.float64)
    sums = np.array([scaled[clusters == cluster].sum(axis=0) for cluster in range(len(sizes))])
    while True:
        distances = cdist(scaled, sums / sizes[:, None], "sqeuclidean")
        own = distances[rows, clusters] * sizes[clusters] / np.maximum(sizes[clusters] - 1, _MIN_GAIN)
        # The only customer of a cluster is its centroid and gains nothing by a move.
        others = distances * sizes / (sizes + 1)
        others[rows, clusters] = np.inf
        gains = own - others.min(axis=1)
        mover = int(gains.argmax())
        if gains[mover] <= _MIN_GAIN:
            return np.array([scaled[clusters == cluster].mean(axis=0) for cluster in range(len(sizes))])
        before, after = clusters[mover], others[mover].argmin()
        clusters[mover] = after
        sizes[[before, after]] += (-1, 1)
        sums[before] -= scaled[mover]
        sums[after] += scaled[mover]


def sampled_rows(features: Array, size: int, random_state: int) -> NDArray[np.int64]:
    """Return the rows of a sample that represents all, in ascending order; all rows if there are no more than `size`.

    A systematic sample: the rows are sorted by their features, and every n-th is drawn from a random start. So each
    frequency, and within it each part of the range of the other features, is drawn in its share; Cochran (1977),
    "Sampling Techniques", chapter 8.

    Args:
        features: Shape (n, 3), in the order monetary, frequency, recency.
        size: The most rows to draw.
        random_state: Seed of the start.
    """
    number = len(features)
    if number <= size:
        return np.arange(number)
    monetary, frequency, recency = features.T
    tenths = np.searchsorted(np.quantile(recency, np.linspace(0.1, 0.9, 9)), recency)
    order = np.lexsort((monetary, tenths, frequency))
    start = np.random.default_rng(random_state).random()
    places = np.floor((np.arange(size) + start) * number / size).astype(np.int64)
    return np.sort(order[places])


def count_distinct(features: Array, needed: int) -> int:
    """Return the number of distinct rows, or a number above `needed` if there are more.

    Args:
        features: Shape (n, d).
        needed: How many distinct rows matter.
    """
    first = len(np.unique(features[: max(1000, 10 * needed)], axis=0))
    return first if first > needed else len(np.unique(features, axis=0))


def fit_scaler(features: Array, transform: Transform, random_state: int = 0) -> Scaler:
    """Fit the transform and the scaling.

    `standard` and `robust` are scikit-learn's StandardScaler and RobustScaler; `log` is ln(1 + x), standardised;
    `yeo-johnson` is Yeo & Johnson (2000), "A new family of power transformations", standardised.

    A feature that never varies is only centred: it separates no customers. In a shop where most customers buy once,
    the others are outliers and every normal customer has a frequency of 1.

    Args:
        features: Shape (n, d), in natural units.
        transform: The transform before the scaling.
        random_state: Seed of the sample of FIT_SAMPLE customers that the exponents of Yeo-Johnson are fitted on.

    Raises:
        ValueError: No feature varies.
    """
    from sklearn.preprocessing import PowerTransformer, RobustScaler, StandardScaler

    exponents = None
    if transform == "yeo-johnson":
        rows = sampled_rows(features, FIT_SAMPLE, random_state)
        fitted = PowerTransformer(method="yeo-johnson", standardize=False).fit(features[rows]).lambdas_
        exponents = round_significant(np.where(np.ptp(features, axis=0) == 0, 1.0, fitted))
    transformed = _transformed(features, transform, exponents)
    # Not the standard deviation, which rounding errors keep above zero: that of 57 times 3.3 is 4e-16.
    varies = np.ptp(transformed, axis=0) > 0
    if not varies.any():
        raise ValueError("every feature has the same value for every normal customer")
    scaler: Any = (RobustScaler() if transform == "robust" else StandardScaler()).fit(transformed)
    center = scaler.center_ if transform == "robust" else scaler.mean_
    return Scaler(
        transform, exponents, round_significant(center), round_significant(np.where(varies, scaler.scale_, 1))
    )


def nearest(scaled: Array, centroids: Array) -> NDArray[np.int64]:
    """Return the index of the nearest centroid of each row, shape (n,), as predicted by scikit-learn's KMeans.

    Args:
        scaled: Shape (n, d).
        centroids: Shape (k, d), scaled.
    """
    from sklearn.cluster import KMeans

    # Fitted on the centroids alone, each its own cluster, KMeans keeps them as they are.
    model = KMeans(n_clusters=len(centroids), init=centroids, n_init=1, max_iter=1).fit(centroids)
    labels: NDArray[np.int64] = model.predict(np.ascontiguousarray(scaled)).astype(np.int64)
    return labels


def _transformed(features: Array, transform: Transform, exponents: Array | None) -> Array:
    if transform == "log":
        return np.log1p(features)
    if transform == "yeo-johnson":
        from scipy.stats import yeojohnson

        assert exponents is not None
        columns = [yeojohnson(features[:, i], lmbda=exponent) for i, exponent in enumerate(exponents)]
        return np.column_stack(columns)
    return features
