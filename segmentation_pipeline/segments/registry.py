"""The registry of segmentation models: every model that was fitted, its status, and the segments that exist.

Contains models as typed rows and the changes of their status. How a model is made is in `training`, whether it becomes
active by itself in `promotion`.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from segmentation_pipeline.errors import RegistryError
from segmentation_pipeline.model.segment_catalog import FEATURES, SEGMENTS
from segmentation_pipeline.tables.catalog import contracts, select_of
from segmentation_pipeline.warehouse.database import Warehouse
from segmentation_pipeline.warehouse.table_write import TableWrite

if TYPE_CHECKING:
    from segmentation_pipeline.model.kmeans import Transform
    from segmentation_pipeline.model.segmentation_model import SegmentationModel

Status = Literal["active", "pending", "approved", "retired"]
Decider = Literal["run", "person"]
ACTIVE_MODEL_TABLES = ("outlier_fences", "kmeans_model", "kmeans_scaler", "kmeans_centroids")


@dataclass(frozen=True)
class FeatureRecord:
    """A feature of a model: a row of `model_features`."""

    feature: str
    exponent: float | None
    center: float
    scale: float
    q1: float | None
    q3: float | None
    factor: float | None
    lower_fence: float | None
    upper_fence: float | None
    bin_edges: list[float]
    bin_shares: list[float]


@dataclass(frozen=True)
class CentroidRecord:
    """A centroid of a model: a row of `model_centroids`."""

    cluster: int
    segment_key: str
    customers: int
    scaled_monetary: float
    scaled_frequency: float
    scaled_recency: float
    mean_monetary: float
    mean_frequency: float
    mean_recency: float


Part = TypeVar("Part", FeatureRecord, CentroidRecord)


@dataclass(frozen=True)
class ModelRecord:
    """A model of the registry: its row of `segmentation_models`, whose contract describes the fields, and its parts."""

    model_id: str
    number: int
    status: Status
    fitted_as_of: datetime
    promoted_by: Decider | None
    active_from: datetime | None
    active_to: datetime | None
    settings_digest: str
    transform: "Transform"
    n_clusters: int
    random_state: int
    customers: int
    inertia: float
    silhouette: float
    smallest_share: float
    fence_step: float
    moved_share: float | None
    kept_share: float | None
    agreement: float | None
    reasons: str | None
    features: tuple[FeatureRecord, ...]
    centroids: tuple[CentroidRecord, ...]
    # Missing from the tables of contract 4.0.
    compared_month_ends: list[datetime] | None = None

    @property
    def keys(self) -> frozenset[str]:
        """The segments of its centroids."""
        return frozenset(centroid.segment_key for centroid in self.centroids)

    @property
    def model(self) -> "SegmentationModel":
        """The model as arrays."""
        import numpy as np

        from segmentation_pipeline.model.kmeans import Scaler
        from segmentation_pipeline.model.segmentation_model import Fence, SegmentationModel

        by_name = {record.feature: record for record in self.features}
        ordered = [by_name[name] for name in FEATURES]
        exponents = None if ordered[0].exponent is None else np.array([record.exponent for record in ordered])
        center, scale = (np.array([getattr(record, name) for record in ordered]) for name in ("center", "scale"))
        return SegmentationModel(
            {
                record.feature: Fence(record.q1, record.q3, record.factor)
                for record in ordered
                if record.q1 is not None and record.q3 is not None and record.factor is not None
            },
            Scaler(self.transform, exponents, center, scale),
            np.array([[getattr(centroid, f"scaled_{name}") for name in FEATURES] for centroid in self.centroids]),
            tuple(centroid.segment_key for centroid in self.centroids),
        )

    def rows(self, table: str) -> list[tuple[Any, ...]]:
        """Return the rows of `segmentation_models`, `model_features` or `model_centroids` that describe the model."""
        names = [column.name for column in contracts()[table].columns]
        parts = {"model_features": self.features, "model_centroids": self.centroids}.get(table, (self,))
        # Every table begins with the model's id.
        return [(self.model_id, *(getattr(part, name) for name in names[1:])) for part in parts]


@dataclass(frozen=True)
class Registry:
    """Every model in the order of the fits. It does not change; each change returns another registry."""

    models: tuple[ModelRecord, ...] = ()

    @classmethod
    def of(cls, database: Warehouse) -> "Registry":
        """Read the registry from the working database."""
        features = database.rows("select * from model_features order by model_id, feature")
        centroids = database.rows("select * from model_centroids order by model_id, cluster")
        return cls(
            tuple(
                ModelRecord(
                    **row,
                    features=tuple(_of_model(FeatureRecord, row["model_id"], features)),
                    centroids=tuple(_of_model(CentroidRecord, row["model_id"], centroids)),
                )
                for row in database.rows("select * from segmentation_models order by number")
            )
        )

    @property
    def active(self) -> ModelRecord | None:
        """The model that assigns customers; None before the first fit."""
        return next(iter(self._with_status("active")), None)

    @property
    def approved(self) -> ModelRecord | None:
        """The model that a person has approved since the last run; the next run activates it."""
        return next(iter(self._with_status("approved")), None)

    @property
    def pending_since_promotion(self) -> list[ModelRecord]:
        """The models pending approval that were fitted under the active model; none once a person approved one."""
        if self.active is None or self.active.active_from is None or self.approved is not None:
            return []
        since = self.active.active_from
        return [model for model in self._with_status("pending") if model.fitted_as_of >= since]

    @property
    def previously_active(self) -> ModelRecord | None:
        """The model that was active before the active one; None if none was."""
        retired = [(model.active_to, model) for model in self._with_status("retired") if model.active_to is not None]
        return max(retired, key=lambda pair: pair[0])[1] if retired else None

    @property
    def next_number(self) -> int:
        """The number of the next fit."""
        return 1 + max((model.number for model in self.models), default=0)

    def active_at(self, timestamp: datetime) -> ModelRecord | None:
        """Return the model that was active at a timestamp, unless it was activated again later."""
        return next(
            (
                model
                for model in self.models
                if model.active_from is not None
                and model.active_from <= timestamp
                and (model.active_to is None or timestamp < model.active_to)
            ),
            None,
        )

    def find(self, model_id: str) -> ModelRecord:
        """Return the model with this id, or the only one whose id begins so.

        Raises:
            RegistryError: There is none, or more than one.
        """
        found = [model for model in self.models if model.model_id.startswith(model_id)]
        if len(found) != 1:
            known = ", ".join(model.model_id for model in self.models) or "none yet"
            raise RegistryError(f"{'several models begin' if found else 'no model begins'} with {model_id!r}: {known}")
        return found[0]

    def before_fit(self, as_of: datetime) -> "Registry":
        """Return the registry as it was before a fit as of a timestamp, so that a repeated run has the same result.

        Models that a person approved stay, whenever they were fitted.
        """
        kept = [model for model in self.models if model.fitted_as_of != as_of or model.promoted_by == "person"]
        ended = [(model.active_from, model) for model in kept if model.active_from and model.active_to == as_of]
        if not ended or any(model.status == "active" for model in kept):
            return Registry(tuple(kept))
        # One run can activate an approved model and then a fitted one; only the fitted one is taken back.
        _, active = max(ended, key=lambda pair: pair[0])
        return Registry(
            tuple(replace(model, status="active", active_to=None) if model is active else model for model in kept)
        )

    def with_pending(self, model: ModelRecord) -> "Registry":
        """Return the registry with a new model that is pending approval."""
        return Registry((*self.models, replace(model, status="pending")))

    def with_active(self, model: ModelRecord, as_of: datetime, promoted_by: Decider = "run") -> "Registry":
        """Return the registry with a model, known or new, that is active from a run on; the active one is retired."""
        others = [
            replace(other, status="retired", active_to=as_of) if other.status == "active" else other
            for other in self.models
            if other.model_id != model.model_id
        ]
        activated = replace(model, status="active", promoted_by=promoted_by, active_from=as_of, active_to=None)
        return Registry(tuple(sorted((*others, activated), key=lambda one: one.number)))

    def approve(self, model: ModelRecord) -> "Registry":
        """Return the registry in which the next run activates a model; an earlier approval is withdrawn.

        Approving the active model only withdraws the earlier approval.

        Raises:
            RegistryError: The model is active, and no approval is to be withdrawn.
        """
        is_active = model.status == "active"
        if is_active and self.approved is None:
            raise RegistryError(f"{model.model_id} is already active")

        def status(other: ModelRecord) -> Status:
            if other.model_id == model.model_id and not is_active:
                return "approved"
            if other.status == "approved":
                return "pending" if other.active_from is None else "retired"
            return other.status

        return Registry(tuple(replace(other, status=status(other)) for other in self.models))

    def with_approved_activated(self, as_of: datetime) -> "Registry":
        """Return the registry after the run that activates the approved model, if there is one."""
        return self if self.approved is None else self.with_active(self.approved, as_of, "person")

    def writes(self) -> list[TableWrite]:
        """Return the content of the registry's tables, and of the tables of the active model."""
        stored = [
            TableWrite(table, rows=[row for model in self.models for row in model.rows(table)])
            for table in ("segmentation_models", "model_features", "model_centroids")
        ]
        derived = [TableWrite(table, select_of(table)) for table in ACTIVE_MODEL_TABLES]
        return [*stored, TableWrite("segments", rows=list(self.segments())), *derived]

    def segments(self) -> Iterable[tuple[Any, ...]]:
        """Yield the rows of `segments`: every segment of the rules, and those of clusters once a model had them."""
        introduced: dict[str, str] = {}
        for model in self.models:
            if model.active_from is not None:
                introduced = dict.fromkeys(model.keys, model.model_id) | introduced
        active_keys = self.active.keys if self.active else frozenset()
        names = [column.name for column in contracts()["segments"].columns]
        for segment in SEGMENTS:
            is_cluster = segment.customer_group == "normal"
            if not is_cluster or segment.key in introduced:
                row = {
                    "segment_key": segment.key,
                    "segment": segment.name,
                    "customer_group": segment.customer_group,
                    "description": segment.description,
                    "action": segment.action,
                    "colour": segment.colour,
                    "introduced_by": introduced.get(segment.key),
                    "in_active_model": not is_cluster or segment.key in active_keys,
                }
                yield tuple(row[name] for name in names)

    def _with_status(self, status: Status) -> list[ModelRecord]:
        return [model for model in self.models if model.status == status]


def _of_model(kind: type[Part], model_id: str, rows: list[dict[str, Any]]) -> Iterable[Part]:
    """Yield the records of one model from the rows of all."""
    names = [field.name for field in fields(kind)]
    for row in rows:
        if row["model_id"] == model_id:
            yield kind(**{name: row[name] for name in names})
