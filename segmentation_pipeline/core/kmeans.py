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
        silhouette_: Mean silhouette, on a seeded sample above 10,000 customers.
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
) -> KMeansFit:
    """Fit the scaler and k-means on features of shape (n, d) that are sorted by customer.

    A start ends when no customer moves any more (tol = 0): at scikit-learn's usual tolerance, 2 of 60 seeds ended a
    dozen customers away on Online Retail. It fits on one thread and rounds to 12 significant digits, because the last
    bits of the sums hang on the number of threads.

    Raises:
        ValueError: There are fewer distinct customers than clusters, or a feature that never varies.
    """
    from sklearn import config_context
    from sklearn.cluster import KMeans
    from sklearn.metrics import silhouette_score
    from threadpoolctl import threadpool_limits

    if len(distinct := np.unique(features, axis=0)) <= n_clusters:
        raise ValueError(f"{len(distinct)} distinct normal customers are too few for {n_clusters} clusters")
    scaler = fit_scaler(features, transform)
    scaled = scaler.apply(features)
    with threadpool_limits(1), config_context(working_memory=_WORKING_MEMORY):
        model = KMeans(n_clusters, random_state=random_state, n_init=n_init, max_iter=max_iter, tol=tol)
        model.fit(scaled)
        centroids = model.cluster_centers_[np.lexsort(model.cluster_centers_.T[::-1])]
        centroids = _rounded(centroids)
        labels = nearest(scaled, centroids)
        silhouette = silhouette_score(
            scaled,
            labels,
            sample_size=SILHOUETTE_SAMPLE if len(scaled) > SILHOUETTE_SAMPLE else None,
            random_state=random_state,
        )
    means = np.array([features[labels == cluster].mean(axis=0) for cluster in range(n_clusters)])
    transformed = _transformed(features, transform, scaler.exponents_)
    places = np.array([transformed[labels == cluster].mean(axis=0) for cluster in range(n_clusters)])
    return KMeansFit(
        scaler,
        centroids,
        _rounded(means),
        _rounded((places - transformed.mean(axis=0)) / transformed.std(axis=0)),
        np.bincount(labels, minlength=n_clusters),
        float(_rounded(np.float64(model.inertia_))),
        float(_rounded(np.float64(silhouette))),
    )


def fit_scaler(features: Array, transform: Transform) -> Scaler:
    """Fit the transform and the scaling on features of shape (n, d).

    `standard` and `robust` are scikit-learn's scalers of that name; `log` is ln(1 + x), standardised; `yeo-johnson` is
    Yeo & Johnson (2000), "A new family of power transformations", standardised.

    Raises:
        ValueError: A feature never varies.
    """
    from sklearn.preprocessing import PowerTransformer, RobustScaler, StandardScaler

    exponents = None
    if transform == "yeo-johnson":
        exponents = _rounded(PowerTransformer(method="yeo-johnson", standardize=False).fit(features).lambdas_)
    transformed = _transformed(features, transform, exponents)
    # Not the standard deviation, which rounding keeps above zero: that of 57 times 3.3 is 4e-16.
    if not (spread := np.ptp(transformed, axis=0)).all():
        raise ValueError(f"feature {int(np.flatnonzero(spread == 0)[0])} has the same value for every normal customer")
    scaler: Any = (RobustScaler() if transform == "robust" else StandardScaler()).fit(transformed)
    center = scaler.center_ if transform == "robust" else scaler.mean_
    return Scaler(transform, exponents, _rounded(center), _rounded(scaler.scale_))


def nearest(scaled: Array, centroids: Array) -> NDArray[np.int64]:
    """The number of the nearest centroid, as scikit-learn's `KMeans.predict` tells it.

    Fitted on the centroids alone, each its own cluster, scikit-learn takes them over as they are.
    """
    from sklearn.cluster import KMeans

    model = KMeans(n_clusters=len(centroids), init=centroids, n_init=1, max_iter=1).fit(centroids)
    labels: NDArray[np.int64] = model.predict(np.ascontiguousarray(scaled)).astype(np.int64)
    return labels


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


def _rounded(values: Any) -> Any:
    """To 12 significant digits, so that the last bits of a sum, which hang on the machine, do not reach a table."""
    return np.vectorize(lambda value: float(f"{value:.12g}"), otypes=[float])(values)
