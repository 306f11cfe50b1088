"""Fit a candidate model on today's customers, and match its clusters to the segments of the active model.

Contains the step from arrays of features to a record of the registry. Whether the candidate becomes active is decided
in `promotion`.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

from segmentation_pipeline import progress
from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.errors import FitError
from segmentation_pipeline.model import thresholds
from segmentation_pipeline.model.segment_catalog import FEATURES
from segmentation_pipeline.segments.registry import CentroidRecord, FeatureRecord, ModelRecord
from segmentation_pipeline.tables.catalog import contracts
from segmentation_pipeline.tables.contract import quoted
from segmentation_pipeline.warehouse.database import Warehouse
from segmentation_pipeline.warehouse.table_write import TableWrite

if TYPE_CHECKING:
    from segmentation_pipeline.model.arrays import Array
    from segmentation_pipeline.model.k_search import KSearchResult
    from segmentation_pipeline.model.kmeans import KMeansFit, Transform
    from segmentation_pipeline.model.segmentation_model import Fence, SegmentationModel
    from segmentation_pipeline.model.usefulness import Past


_FEATURES = ", ".join(f"cast({quoted(name)} as double) as {quoted(name)}" for name in FEATURES)
_SAMPLED_FEATURES = f"""
select * exclude (customer_id, place, customers)
from (select customer_id, {_FEATURES}, row_number() over (order by customer_id) - 1 as place,
    count(*) over () as customers from rfm_features) as placed
where place * $size % customers < $size
order by customer_id
"""  # noqa: S608 - quoted names


@dataclass(frozen=True)
class CandidateModel:
    """A fitted model before promotion.

    Attributes:
        record: Its record for the registry.
        model: The model as arrays.
        fit: The fit of its clusters.
        search: The search that chose its number of clusters; None if there was none.
    """

    record: ModelRecord
    model: "SegmentationModel"
    fit: "KMeansFit"
    search: "KSearchResult | None"

    @property
    def search_writes(self) -> list[TableWrite]:
        """The table of the search, if there was one."""
        if self.search is None:
            return []
        names = [column.name for column in contracts()["kmeans_candidates"].columns]
        rows = [tuple(getattr(candidate, name) for name in names) for candidate in self.search.candidates]
        return [TableWrite("kmeans_candidates", rows=rows)]


def read_features(database: Warehouse) -> "Array":
    """Return the features that a model is fitted on: shape (n, 3), sorted by customer.

    They are those of every customer; of more than `FitRules.max_customers`, those of a systematic sample.
    """
    import numpy as np

    found = database.fetch(_SAMPLED_FEATURES, {"size": thresholds.FIT.max_customers})
    return np.column_stack([found[name] for name in FEATURES])


def fit_candidate(
    features: "Array",
    settings: Retailer,
    as_of: datetime,
    *,
    active: ModelRecord | None,
    number: int,
    search: bool = False,
    fence_step: float = 1,
    past: "Past | None" = None,
    rules: thresholds.SearchRules | None = None,
    method: thresholds.FitRules | None = None,
) -> CandidateModel:
    """Fit a candidate model, and describe it for the registry.

    Args:
        features: Shape (n, 3), as returned by `read_features`, in natural units.
        settings: The retailer's settings.
        as_of: The as_of of the features.
        active: The active model. The fit starts from its centroids, and its segments continue where they match.
        number: The candidate's number in the registry.
        search: Whether to choose the transform and the number of clusters again although a model is active.
        fence_step: How far the fences move from the active model's to today's, from 0 to 1.
        past: What the transforms are compared by; None: they are not.
        rules: The conditions of the search; default: `thresholds.SEARCH`.
        method: The fit's seed and starts; default: `thresholds.FIT`.

    Raises:
        FitError: There are too few distinct customers.
    """
    model, fitted, searched = fit_model(
        features, settings, active=active, search=search, fence_step=fence_step, past=past, rules=rules, method=method
    )
    record = _record(model, fitted, features, settings, as_of, number, fence_step)
    # A refit keeps what an earlier search chose, and with it the month ends that this was chosen by.
    months = searched.month_ends if searched else active.compared_month_ends if active else None
    record = replace(record, compared_month_ends=list(months) if months else None)
    return CandidateModel(record, model, fitted, searched)


def fit_model(
    features: "Array",
    settings: Retailer,
    *,
    active: ModelRecord | None = None,
    search: bool = False,
    fence_step: float = 1,
    past: "Past | None" = None,
    rules: thresholds.SearchRules | None = None,
    method: thresholds.FitRules | None = None,
) -> "tuple[SegmentationModel, KMeansFit, KSearchResult | None]":
    """Fit fences, scaler and centroids, and give each cluster its segment; arguments as of `fit_candidate`.

    Returns:
        The model, the fit of its clusters, and the search that chose their number if there was one.

    Raises:
        FitError: There are too few distinct customers.
    """
    from segmentation_pipeline.model.segmentation_model import SegmentationModel, is_normal, tukey_fences

    rules, method = rules or thresholds.SEARCH, method or thresholds.FIT
    try:
        fences = tukey_fences(features, list(settings.outliers.features), settings.outliers.factor)
        if active is not None and fence_step < 1:
            before = active.model.fences
            fences = {name: before[name].towards(fence, fence_step) for name, fence in fences.items()}
        normal, searched = features[is_normal(fences, features)], None
        if search or (active is None and settings.model.n_clusters == "auto"):
            searched = _searched(normal, fences, settings, past, rules, method)
        fitted = searched.fit if searched else _fit_clusters(normal, settings, active, method)
    except ValueError as error:
        raise FitError(
            f"The customers cannot be clustered: {error}. Look at rfm_features, or lower model.n_clusters."
        ) from None
    model = SegmentationModel(fences, fitted.scaler, fitted.centroids_, ("",) * len(fitted.centroids_))
    return model.with_keys(_keys(features, model, fitted, active)), fitted, searched


def _searched(
    normal: "Array",
    fences: "dict[str, Fence]",
    settings: Retailer,
    past: "Past | None",
    rules: thresholds.SearchRules,
    method: thresholds.FitRules,
) -> "KSearchResult":
    """Choose the number of clusters, and with it the transform unless the settings fix it."""
    from segmentation_pipeline.model.k_search import search_k
    from segmentation_pipeline.model.model_search import DEFAULT, search_model

    if settings.model.transform == "auto" and past is not None:
        return search_model(normal, fences=fences, past=past, rules=rules, method=method, report=progress.report)
    transform = DEFAULT if settings.model.transform == "auto" else settings.model.transform
    return search_k(normal, transform=transform, rules=rules, method=method, report=progress.report)


def _transform(settings: Retailer, active: ModelRecord | None) -> "Transform":
    """Return the transform of a fit without a search: that of the settings, or that of the active model."""
    from segmentation_pipeline.model.model_search import DEFAULT

    if settings.model.transform != "auto":
        return settings.model.transform
    return DEFAULT if active is None else active.transform


def _fit_clusters(
    normal: "Array", settings: Retailer, active: ModelRecord | None, method: thresholds.FitRules
) -> "KMeansFit":
    """Fit k-means with a known number of clusters, from the active model's centroids if it has as many."""
    from segmentation_pipeline.model.kmeans import fit

    n_clusters = settings.model.n_clusters
    active_k = 0 if active is None else len(active.centroids)
    # Under the active model's settings its number stays: a person may have approved the result of a search.
    is_unchanged = active is not None and active.settings_digest == settings.model_digest
    k = active_k if is_unchanged or n_clusters == "auto" else n_clusters
    start = active.model.centroids_in_natural_units() if active is not None and k == active_k else None
    return fit(
        normal,
        transform=_transform(settings, active),
        n_clusters=k,
        random_state=method.random_state,
        n_init=method.n_init,
        start=start,
    )


def _keys(
    features: "Array", model: "SegmentationModel", fitted: "KMeansFit", active: ModelRecord | None
) -> tuple[str, ...]:
    """Return the segment of each cluster: the active model's that it continues, or a new one by its position."""
    import numpy as np

    from segmentation_pipeline.model.matching import match
    from segmentation_pipeline.model.naming import name_clusters
    from segmentation_pipeline.model.segmentation_model import is_normal

    if active is None:
        return tuple(name_clusters(fitted.standardised_))
    clusters = np.full(len(features), -1)
    clusters[is_normal(model.fences, features)] = fitted.labels_
    current = active.model
    active_centroids = fitted.scaler.apply(current.centroids_in_natural_units())
    matched = match(clusters, current.assign(features), current.keys, fitted.centroids_, active_centroids)
    return tuple(name_clusters(fitted.standardised_, matched, current.keys))


def _record(
    model: "SegmentationModel",
    fitted: "KMeansFit",
    features: "Array",
    settings: Retailer,
    as_of: datetime,
    number: int,
    fence_step: float,
) -> ModelRecord:
    """Return the record of a fitted model; its id is the as_of date and a digest of the content."""
    from segmentation_pipeline.model.segmentation_model import is_normal

    normal = features[is_normal(model.fences, features)]
    parts, centroids = _feature_records(model, fitted, normal), _centroid_records(model, fitted)
    content = json.dumps([str(as_of), [asdict(one) for one in parts], [asdict(one) for one in centroids]])
    return ModelRecord(
        model_id=f"{as_of:%Y%m%d}-{hashlib.sha256(content.encode()).hexdigest()[:8]}",
        number=number,
        status="pending",
        fitted_as_of=as_of,
        promoted_by=None,
        active_from=None,
        active_to=None,
        settings_digest=settings.model_digest,
        transform=fitted.scaler.transform,
        n_clusters=len(centroids),
        random_state=fitted.random_state,
        customers=len(normal),
        inertia=fitted.inertia_,
        silhouette=fitted.silhouette_,
        smallest_share=fitted.smallest_share,
        fence_step=float(fence_step),
        moved_share=None,
        kept_share=None,
        agreement=None,
        reasons=None,
        features=parts,
        centroids=centroids,
    )


def _feature_records(model: "SegmentationModel", fitted: "KMeansFit", normal: "Array") -> tuple[FeatureRecord, ...]:
    from segmentation_pipeline.model.drift import bin_shares, quantile_edges

    records = []
    for column, name in enumerate(FEATURES):
        exponents, fence = fitted.scaler.exponents_, model.fences.get(name)
        edges = quantile_edges(normal[:, column])
        records.append(
            FeatureRecord(
                feature=name,
                exponent=None if exponents is None else float(exponents[column]),
                center=float(fitted.scaler.center_[column]),
                scale=float(fitted.scaler.scale_[column]),
                q1=fence.q1 if fence else None,
                q3=fence.q3 if fence else None,
                factor=fence.factor if fence else None,
                lower_fence=fence.lower if fence else None,
                upper_fence=fence.upper if fence else None,
                bin_edges=edges.tolist(),
                bin_shares=bin_shares(normal[:, column], edges).tolist(),
            )
        )
    return tuple(records)


def _centroid_records(model: "SegmentationModel", fitted: "KMeansFit") -> tuple[CentroidRecord, ...]:
    records = []
    for cluster, key in enumerate(model.keys):
        # Monetary, frequency, recency: the order of FEATURES, and of the fields.
        values = [*fitted.centroids_[cluster].tolist(), *fitted.means_[cluster].tolist()]
        records.append(CentroidRecord(cluster, key, int(fitted.sizes_[cluster]), *values))
    return tuple(records)
