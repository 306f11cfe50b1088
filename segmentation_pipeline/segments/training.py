"""A fit: a model of today's customers, each cluster of it matched to the segments that stand or named anew.

Belongs here: between `core`, which knows arrays, and the `registry`, which knows rows.
"""

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.errors import FitError
from segmentation_pipeline.model.segment_catalog import FEATURES
from segmentation_pipeline.segments.registry import Entry
from segmentation_pipeline.tables.catalog import contracts
from segmentation_pipeline.tables.contract import quoted
from segmentation_pipeline.warehouse.database import TableWrite, Warehouse

if TYPE_CHECKING:
    from segmentation_pipeline.model.k_search import Choice
    from segmentation_pipeline.model.kmeans import Array, KMeansFit
    from segmentation_pipeline.model.segmentation_model import SegmentationModel


@dataclass(frozen=True)
class Candidate:
    """A model that was just fitted: its entry for the registry, and the search that it comes from, if there was one."""

    entry: Entry
    model: "SegmentationModel"
    fit: "KMeansFit"
    choice: "Choice | None"

    @property
    def candidates(self) -> list[TableWrite]:
        """The rows of the search."""
        if self.choice is None:
            return []
        names = [column.name for column in contracts()["kmeans_candidates"].columns]
        rows = [tuple(getattr(one, name) for name in names) for one in self.choice.candidates]
        return [TableWrite("kmeans_candidates", rows=rows)]


def features_of(warehouse: Warehouse, relation: str = "rfm_features") -> "Array":
    """Every customer's features: shape (n, 3), in the order of the customers."""
    import numpy as np

    columns = ", ".join(f"cast({quoted(name)} as double) as {quoted(name)}" for name in FEATURES)
    found = warehouse.connection.execute(f"select {columns} from {quoted(relation)} order by customer_id").fetchnumpy()
    return np.column_stack([found[name] for name in FEATURES])


def fit(
    features: "Array",
    settings: Retailer,
    as_of: datetime,
    *,
    standing: Entry | None,
    number: int,
    search: bool = False,
    fence_step: float = 1,
) -> Candidate:
    """Fit fences, scaler and centroids, and give each cluster its segment.

    Args:
        features: Shape (n, 3), every customer in the order of their ids.
        settings: What the model hangs on.
        as_of: The as-of moment of the features.
        standing: The model that stands: the fit starts from its centroids, and its segments go on where they match.
        number: The model's place in the registry.
        search: Whether to choose the number of clusters although a model stands.
        fence_step: How far the fences go from the standing ones to today's.

    Raises:
        FitError: There are too few different customers.
    """
    from segmentation_pipeline.model.segmentation_model import SegmentationModel, is_normal, tukey_fences

    try:
        fences = tukey_fences(features, list(settings.outliers.features), settings.outliers.factor)
        if standing is not None and fence_step < 1:
            before = standing.model.fences
            fences = {name: before[name].towards(fence, fence_step) for name, fence in fences.items()}
        normal = features[is_normal(fences, features)]
        fitted, choice = _clusters(normal, settings, standing, search)
    except ValueError as error:
        raise FitError(
            f"the customers cannot be clustered: {error}. Look at rfm_features, or lower model.n_clusters."
        ) from None
    model = SegmentationModel(fences, fitted.scaler, fitted.centroids_, ("",) * len(fitted.centroids_))
    model = model.named(_keys(features, model, fitted, standing))
    entry = _entry(model, fitted, normal, settings, as_of, number).replace(fence_step=float(fence_step))
    return Candidate(entry, model, fitted, choice)


def _clusters(
    normal: "Array", settings: Retailer, standing: Entry | None, search: bool
) -> "tuple[KMeansFit, Choice | None]":
    """K-means on the normal customers: a search where it is asked for or nothing stands, else from what stands."""
    from segmentation_pipeline.model.k_search import choose
    from segmentation_pipeline.model.kmeans import fit as fit_kmeans

    asked = settings.model
    method: dict[str, Any] = {
        "transform": asked.transform,
        "random_state": asked.random_state,
        "n_init": asked.n_init,
    }
    if search or (asked.n_clusters == "auto" and standing is None):
        guards: dict[str, Any] = {
            "tolerance": asked.tolerance,
            "min_share": asked.min_share,
            "min_stability": asked.min_stability,
            "resamples": asked.resamples,
        }
        choice = choose(normal, k_range=(asked.k_range[0], asked.k_range[1]), **guards, **method)
        return choice.fit, choice
    stands = 0 if standing is None else len(standing.centroids)
    # Under the settings of the standing model its number stays: a person may have promoted what a search had found.
    unchanged = standing is not None and standing.facts["settings_digest"] == settings.model_digest
    k = stands if unchanged or asked.n_clusters == "auto" else asked.n_clusters
    start = standing.model.centroids_in_natural_units() if standing is not None and k == stands else None
    return fit_kmeans(normal, n_clusters=k, start=start, **method), None


def _keys(
    features: "Array", model: "SegmentationModel", fitted: "KMeansFit", standing: Entry | None
) -> tuple[str, ...]:
    """The segment of each cluster: the standing one that it goes on as, or a new name by where it lies."""
    import numpy as np

    from segmentation_pipeline.model.kmeans import nearest
    from segmentation_pipeline.model.matching import match
    from segmentation_pipeline.model.naming import name_clusters
    from segmentation_pipeline.model.segmentation_model import is_normal

    if standing is None:
        return tuple(name_clusters(fitted.standardised_))
    clusters = np.full(len(features), -1)
    normal = is_normal(model.fences, features)
    clusters[normal] = nearest(fitted.scaler.apply(features[normal]), fitted.centroids_)
    stands = standing.model
    there = fitted.scaler.apply(stands.centroids_in_natural_units())
    matched = match(clusters, stands.assign(features), stands.keys, fitted.centroids_, there)
    return tuple(name_clusters(fitted.standardised_, matched, stands.keys))


def _entry(
    model: "SegmentationModel",
    fitted: "KMeansFit",
    normal: "Array",
    settings: Retailer,
    as_of: datetime,
    number: int,
) -> Entry:
    """The rows of a model, and a name that tells when and what it is."""
    from segmentation_pipeline.model.kmeans import rounded
    from segmentation_pipeline.model.lift import bin_shares, quantile_edges

    features, centroids = [], []
    for place, name in enumerate(FEATURES):
        exponents, fence = fitted.scaler.exponents_, model.fences.get(name)
        edges = quantile_edges(normal[:, place])
        features.append(
            {
                "feature": name,
                "exponent": None if exponents is None else float(exponents[place]),
                "center": float(fitted.scaler.center_[place]),
                "scale": float(fitted.scaler.scale_[place]),
                "q1": fence and fence.q1,
                "q3": fence and fence.q3,
                "factor": fence and fence.factor,
                "lower_fence": fence and fence.lower,
                "upper_fence": fence and fence.upper,
                "bin_edges": edges.tolist(),
                "bin_shares": bin_shares(normal[:, place], edges).tolist(),
            }
        )
    for cluster, key in enumerate(model.keys):
        scaled = {f"scaled_{name}": float(fitted.centroids_[cluster, at]) for at, name in enumerate(FEATURES)}
        means = {f"mean_{name}": float(fitted.means_[cluster, at]) for at, name in enumerate(FEATURES)}
        size = int(fitted.sizes_[cluster])
        centroids.append({"cluster": cluster, "segment_key": key, "customers": size, **scaled, **means})
    content = hashlib.sha256(json.dumps([str(as_of), features, centroids]).encode()).hexdigest()[:8]
    model_id = {"model_id": f"{as_of:%Y%m%d}-{content}"}
    facts = model_id | {
        "number": number,
        "status": "held",
        "promoted_by": None,
        "fitted_as_of": as_of,
        "active_from": None,
        "active_to": None,
        "settings_digest": settings.model_digest,
        "transform": fitted.scaler.transform,
        "n_clusters": len(centroids),
        "random_state": settings.model.random_state,
        "customers": len(normal),
        "inertia": fitted.inertia_,
        "silhouette": fitted.silhouette_,
        "smallest_share": float(rounded(fitted.sizes_.min() / len(normal))),
        "fence_step": 1.0,
        "moved_share": None,
        "kept_share": None,
        "agreement": None,
        "reasons": None,
    }
    return Entry(facts, tuple(model_id | row for row in features), tuple(model_id | row for row in centroids))
