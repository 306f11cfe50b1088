"""The k-means fit: transform, scaling, centroids and figures, as numbers that fit into tables.

Belongs here: what scikit-learn fits. Scoring customers is done in SQL; `nearest` here is what it is held against.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Transform = Literal["standard", "log", "yeo-johnson", "robust"]
Array = NDArray[np.float64]
SILHOUETTE_SAMPLE = 10_000
# Of the distances between all customers: in MB, where scikit-learn would take a gigabyte.
_WORKING_MEMORY = 32
# In scaled units, where customers are of the order of 1 apart.
TIE = 1e-9


@dataclass(frozen=True)
class Scaler:
    """scaled = (transformed - center_) / scale_, a value for each feature; exponents_ are the Yeo-Johnson lambdas."""

    transform: Transform
    exponents_: Array | None
    center_: Array
    scale_: Array

    def apply(self, features: Array) -> Array:
        """Scale features of shape (n, d)."""
        return (_transformed(features, self.transform, self.exponents_) - self.center_) / self.scale_

    def invert(self, scaled: Array) -> Array:
        """Bring what `apply` gave, or scaled centroids, back to natural units: shape (n, d)."""
        transformed = scaled * self.scale_ + self.center_
        if self.transform == "log":
            return np.expm1(transformed)
        if self.transform == "yeo-johnson":
            from sklearn.preprocessing import PowerTransformer

            # Made from the rounded lambdas, not fitted.
            power = PowerTransformer(method="yeo-johnson", standardize=False)
            power.lambdas_, power.n_features_in_ = self.exponents_, transformed.shape[1]
            natural: Array = power.inverse_transform(transformed)
            return natural
        return transformed


@dataclass(frozen=True)
class KMeansFit:
    """A fitted model; clusters stand in ascending order of their scaled centroid, so their numbers do not hang on luck.

    Attributes:
        scaler: What the features went through.
        centroids_: Shape (k, d), scaled.
        means_: Shape (k, d), the mean of each cluster's customers in natural units.
        standardised_: Shape (k, d), means_ in standard deviations of the features as transformed: where a cluster lies.
        sizes_: Shape (k,), customers.
        inertia_: Sum of squared scaled distances.
        silhouette_: Mean silhouette, as `silhouette` tells it.
    """

    scaler: Scaler
    centroids_: Array
    means_: Array
    standardised_: Array
    sizes_: NDArray[np.int64]
    inertia_: float
    silhouette_: float


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
) -> KMeansFit:
    """Fit the scaler and k-means on features of shape (n, d) that are sorted by customer.

    A start ends when no customer moves any more (tol = 0), and the best one is settled: otherwise the seed decides
    where up to 16 of Online Retail's 4,362 customers are, near a border. It fits on one thread and rounds to 12
    significant digits, because the last bits of the sums hang on the number of threads. `start` holds centroids of
    shape (n_clusters, d) in natural units to start from, once, instead of from chance.

    Raises:
        ValueError: Too few distinct customers, a feature that never varies, or a `start` of another shape.
    """
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    if len(distinct := np.unique(features, axis=0)) <= n_clusters:
        raise ValueError(f"{len(distinct)} distinct normal customers are too few for {n_clusters} clusters")
    scaler = fit_scaler(features, transform)
    scaled = scaler.apply(features)
    started: dict[str, Any] = {"n_init": n_init} if start is None else {"init": scaler.apply(start), "n_init": 1}
    with threadpool_limits(1):
        model = KMeans(n_clusters, random_state=random_state, max_iter=max_iter, tol=tol, **started)
        centroids = _settled(scaled, model.fit(scaled).labels_)
        centroids = rounded(centroids[np.lexsort(centroids.T[::-1])])
        labels = nearest(scaled, centroids)
    means = np.array([features[labels == cluster].mean(axis=0) for cluster in range(n_clusters)])
    transformed = _transformed(features, transform, scaler.exponents_)
    places = np.array([transformed[labels == cluster].mean(axis=0) for cluster in range(n_clusters)])
    return KMeansFit(
        scaler,
        centroids,
        rounded(means),
        rounded(
            (places - transformed.mean(axis=0)) / np.where(np.ptp(transformed, axis=0), transformed.std(axis=0), 1)
        ),
        np.bincount(labels, minlength=n_clusters),
        float(rounded(((scaled - centroids[labels]) ** 2).sum())),
        silhouette(scaled, labels, random_state),
    )


def _settled(scaled: Array, labels: NDArray[Any]) -> Array:
    """The centroids after every move of one customer to another cluster that lessens the inertia, the best one first.

    Hartigan (1975), "Clustering Algorithms": a customer's own centroid would be elsewhere without it, which k-means as
    scikit-learn has it does not see. Telgarsky & Vattani (2010), "Hartigan's Method: k-means Clustering without
    Voronoi": what is settled is at rest there, but not the other way round.
    """
    from scipy.spatial.distance import cdist

    clusters, everybody = labels.copy(), np.arange(len(labels))
    sizes = np.bincount(clusters).astype(np.float64)
    sums = np.array([scaled[clusters == cluster].sum(axis=0) for cluster in range(len(sizes))])
    while True:
        distances = cdist(scaled, sums / sizes[:, None], "sqeuclidean")
        own = distances[everybody, clusters] * sizes[clusters] / np.maximum(sizes[clusters] - 1, TIE)
        # One that is alone in its cluster lies on its centroid: it gains nothing elsewhere.
        others = distances * sizes / (sizes + 1)
        others[everybody, clusters] = np.inf
        gains = own - others.min(axis=1)
        mover = int(gains.argmax())
        if gains[mover] <= TIE:
            return np.array([scaled[clusters == cluster].mean(axis=0) for cluster in range(len(sizes))])
        before, after = clusters[mover], others[mover].argmin()
        clusters[mover] = after
        sizes[[before, after]] += (-1, 1)
        sums[before] -= scaled[mover]
        sums[after] += scaled[mover]


def fit_scaler(features: Array, transform: Transform) -> Scaler:
    """Fit the transform and the scaling on features of shape (n, d).

    `standard` and `robust` are scikit-learn's scalers of that name; `log` is ln(1 + x), standardised; `yeo-johnson` is
    Yeo & Johnson (2000), "A new family of power transformations", standardised.

    A feature that never varies tells nobody apart: where most buy once, all beyond that are outliers, and the others
    have a frequency of 1. It is only centred.

    Raises:
        ValueError: No feature varies.
    """
    from sklearn.preprocessing import PowerTransformer, RobustScaler, StandardScaler

    exponents = None
    if transform == "yeo-johnson":
        fitted = PowerTransformer(method="yeo-johnson", standardize=False).fit(features).lambdas_
        exponents = rounded(np.where(np.ptp(features, axis=0) == 0, 1.0, fitted))
    transformed = _transformed(features, transform, exponents)
    # Not the standard deviation, which rounding keeps above zero: that of 57 times 3.3 is 4e-16.
    varies = np.ptp(transformed, axis=0) > 0
    if not varies.any():
        raise ValueError("every feature has the same value for every normal customer")
    scaler: Any = (RobustScaler() if transform == "robust" else StandardScaler()).fit(transformed)
    center = scaler.center_ if transform == "robust" else scaler.mean_
    return Scaler(transform, exponents, rounded(center), rounded(np.where(varies, scaler.scale_, 1.0)))


def nearest(scaled: Array, centroids: Array) -> NDArray[np.int64]:
    """The number of the nearest centroid, as scikit-learn's `KMeans.predict` tells it.

    Fitted on the centroids alone, each its own cluster, scikit-learn takes them over as they are.
    """
    from sklearn.cluster import KMeans

    model = KMeans(n_clusters=len(centroids), init=centroids, n_init=1, max_iter=1).fit(centroids)
    labels: NDArray[np.int64] = model.predict(np.ascontiguousarray(scaled)).astype(np.int64)
    return labels


def silhouette(scaled: Array, labels: NDArray[np.int64], random_state: int) -> float:
    """The mean silhouette: exact to 10,000 customers; above, of a seeded sample in which each cluster has its share.

    Rousseeuw (1987), "Silhouettes: a graphical aid to the interpretation and validation of cluster analysis". At least
    two customers of a cluster are drawn: one alone counts as 0, and a missing cluster would flatter its neighbours.
    """
    from sklearn import config_context
    from sklearn.metrics import silhouette_score
    from threadpoolctl import threadpool_limits

    if len(labels) > SILHOUETTE_SAMPLE:
        random = np.random.default_rng(random_state)
        drawn = []
        for cluster in np.unique(labels):
            members = np.flatnonzero(labels == cluster)
            share = round(SILHOUETTE_SAMPLE * len(members) / len(labels))
            drawn.append(random.choice(members, min(len(members), max(2, share)), replace=False))
        rows = np.sort(np.concatenate(drawn))
        scaled, labels = scaled[rows], labels[rows]
    with threadpool_limits(1), config_context(working_memory=_WORKING_MEMORY):
        return float(rounded(np.float64(silhouette_score(scaled, labels))))


def agree(labels: NDArray[Any], predicted: NDArray[np.int64], scaled: Array, centroids: Array) -> NDArray[np.bool_]:
    """Whether each label is the predicted centroid, or another that is as near; one that there is not agrees with none.

    Between centroids that are equally near, the last bits of two ways to compute a distance decide.
    """
    known = (labels >= 0) & (labels < len(centroids))
    own = np.linalg.norm(scaled - centroids[np.where(known, labels, 0)], axis=1)
    best = np.linalg.norm(scaled - centroids[predicted], axis=1)
    agreeing: NDArray[np.bool_] = known & (own - best <= TIE)
    return agreeing


def _transformed(features: Array, transform: Transform, exponents: Array | None) -> Array:
    if transform == "log":
        return np.log1p(features)
    if transform == "yeo-johnson":
        from scipy.stats import yeojohnson

        assert exponents is not None
        columns = [yeojohnson(features[:, i], lmbda=exponent) for i, exponent in enumerate(exponents)]
        return np.column_stack(columns)
    return features


def rounded(values: Any) -> Any:
    """To 12 significant digits, so that the last bits of a sum, which hang on the machine, do not reach a table."""
    return np.vectorize(lambda value: float(f"{value:.12g}"), otypes=[float])(values)
