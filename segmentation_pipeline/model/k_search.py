"""How many clusters: the most detailed number that is clear, of decent size and stable.

Belongs here: the rule, its guards and what is said of each candidate. The fit of one number of clusters is in `kmeans`.
"""

from dataclasses import dataclass

import numpy as np

from segmentation_pipeline.model.kmeans import Array, KMeansFit, Transform, fit, nearest, rounded


@dataclass(frozen=True)
class Candidate:
    """One number of clusters.

    Attributes:
        n_clusters: Its number of clusters.
        inertia: Sum of squared scaled distances; None where the data has too few distinct customers to fit.
        silhouette: Mean silhouette; None likewise.
        smallest_share: The smallest cluster's share of the customers; None likewise.
        mean_ari: Mean agreement of the resamples; None where no resample was fitted.
        worst_ari: The worst agreement of a resample; None likewise.
        is_chosen: Whether it was taken.
        passes: Whether it was held against every guard and met them all.
        verdict: Why it was or was not taken, in a sentence.
    """

    n_clusters: int
    inertia: float | None
    silhouette: float | None
    smallest_share: float | None
    mean_ari: float | None
    worst_ari: float | None
    is_chosen: bool
    passes: bool
    verdict: str


@dataclass(frozen=True)
class Choice:
    """The chosen fit and what it was chosen from, by number of clusters; `passes` is False for a least bad one."""

    fit: KMeansFit
    candidates: list[Candidate]
    passes: bool


@dataclass(frozen=True)
class _Guards:
    best: KMeansFit
    tolerance: float
    min_share: float
    min_stability: float
    resamples: int

    @property
    def min_silhouette(self) -> float:
        # The absolute value, so that the best is within the tolerance of itself where it is negative.
        return self.best.silhouette_ - self.tolerance * abs(self.best.silhouette_)

    def faults(self, model: KMeansFit, aris: Array | None) -> dict[str, float]:
        """What the model falls short of, in words, and by how much of what was asked for."""
        figures = [
            (
                model.silhouette_,
                self.min_silhouette,
                f"its silhouette {model.silhouette_:.4f} is below {self.min_silhouette:.4f}, {100 * self.tolerance:g} %"
                f" under the best ({self.best.silhouette_:.4f} for {len(self.best.centroids_)} clusters)",
            ),
            (
                _smallest_share(model),
                self.min_share,
                f"its smallest cluster holds {100 * _smallest_share(model):.2f} % of the customers, fewer than"
                f" {100 * self.min_share:g} %",
            ),
        ]
        if aris is not None:
            said = f"the worst of {self.resamples} resamples agrees to {aris.min():.4f} (ARI), less than"
            figures.append((float(aris.min()), self.min_stability, f"{said} {self.min_stability:g}"))
        return {said: (bound - found) / (abs(bound) or 1) for found, bound, said in figures if found < bound}

    def met(self, model: KMeansFit, aris: Array) -> str:
        """The figures of a model that passes."""
        return (
            f"silhouette {model.silhouette_:.4f} (at least {self.min_silhouette:.4f}), smallest cluster"
            f" {100 * _smallest_share(model):.2f} % of the customers (at least {100 * self.min_share:g} %), worst of"
            f" {self.resamples} resamples {aris.min():.4f} (ARI, at least {self.min_stability:g})"
        )


def choose(
    features: Array,
    *,
    transform: Transform,
    k_range: tuple[int, int],
    tolerance: float,
    min_share: float,
    min_stability: float,
    random_state: int,
    n_init: int,
    resamples: int = 20,
) -> Choice:
    """Fit each number of clusters in `k_range` on features sorted by customer, and take the most detailed that passes.

    It passes when its silhouette is at least (1 - tolerance) times the best, its smallest cluster holds `min_share` of
    the customers, and each of the resamples agrees with it by `min_stability`. Silhouette alone takes nonsense: of
    RobustScaler on all customers, two clusters of which one is 8 customers. Resampling costs most, so it is done for
    those only that pass on the other two guards, from the most detailed down to the first that passes.

    Where none passes, the least bad is taken: the one that fails fewest guards (one that was not measured counts as
    failed, so stability decides where it was measured); of these the one that falls short by the smallest part of what
    is asked, summed over the guards; of equals the most detailed. `k_range` has both its ends, from 2.

    Raises:
        ValueError: There are too few distinct customers for the fewest clusters, or a feature that never varies.
    """
    low, high = k_range
    distinct = len(np.unique(features, axis=0))
    models = {
        k: fit(features, transform=transform, n_clusters=k, random_state=random_state, n_init=n_init)
        for k in range(low, high + 1)
        if k < distinct
    }
    if not models:
        raise ValueError(f"{distinct} distinct normal customers are too few for {low} to {high} clusters")
    best = max(models.values(), key=lambda model: model.silhouette_)
    guards = _Guards(best, tolerance, min_share, min_stability, resamples)

    aris: dict[int, Array] = {}
    passing = None
    for k in sorted(models, reverse=True):
        if guards.faults(models[k], None):
            continue
        scaled = models[k].scaler.apply(features)
        aris[k] = bootstrap_ari(scaled, models[k].centroids_, random_state, n_init, resamples)
        if not guards.faults(models[k], aris[k]):
            passing = k
            break
    faults = {k: guards.faults(model, aris.get(k)) for k, model in models.items()}
    chosen = passing or min(models, key=lambda k: (len(faults[k]) + (k not in aris), sum(faults[k].values()), -k))

    def judged(k: int) -> Candidate:
        if k not in models:
            said = f"Left out: {distinct} distinct customers are too few for {k} clusters."
            return Candidate(k, None, None, None, None, None, False, False, said)
        if k == passing:
            said = f"Taken, the most detailed that passes: {guards.met(models[k], aris[k])}."
        elif k == chosen:
            said = f"Taken as the least bad, since none passes: {' and '.join(faults[k])}."
        elif faults[k]:
            said = f"Not taken: {' and '.join(faults[k])}."
        else:
            said = f"Not taken: {chosen} clusters are more detailed and pass, so its stability was not measured."
        return Candidate(
            k,
            models[k].inertia_,
            models[k].silhouette_,
            _smallest_share(models[k]),
            float(rounded(aris[k].mean())) if k in aris else None,
            float(aris[k].min()) if k in aris else None,
            k == chosen,
            k == passing,
            said,
        )

    return Choice(models[chosen], [judged(k) for k in range(low, high + 1)], passing is not None)


def bootstrap_ari(scaled: Array, centroids: Array, random_state: int, n_init: int, resamples: int) -> Array:
    """How far clusters fitted on resampled customers agree with those of the centroids: shape (resamples,).

    Customers are drawn with replacement, k-means is fitted on them in the same scaling, and all customers are given to
    its clusters. The figure is the adjusted Rand index of Hubert & Arabie (1985), "Comparing partitions": 1 for the
    same partition, about 0 for chance. The draws are the same for any number of clusters, and the first of many are
    those of few.

    Each resample has as many starts as the candidate: with three, resamples ended elsewhere (ARI .4) on 2 of 19 nights
    of Online Retail where with ten the worst of four clusters was .85.
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score
    from threadpoolctl import threadpool_limits

    found = []
    with threadpool_limits(1):
        labels = nearest(scaled, centroids)
        for resample in range(resamples):
            rows = np.random.default_rng([random_state, resample]).integers(0, len(scaled), len(scaled))
            # Customers drawn several times weigh so much instead: the same sums in 60 % of the time.
            drawn, times = np.unique(rows, return_counts=True)
            clusters = min(len(centroids), len(drawn))
            model = KMeans(clusters, random_state=random_state, n_init=n_init, max_iter=1000, tol=0)
            found.append(adjusted_rand_score(labels, model.fit(scaled[drawn], sample_weight=times).predict(scaled)))
    aris: Array = rounded(np.array(found))
    return aris


def _smallest_share(model: KMeansFit) -> float:
    return float(rounded(model.sizes_.min() / model.sizes_.sum()))
