"""The registry of segmentation models: every model that was ever fitted, which one stands, and what segments there are.

Belongs here: models as rows, and what may become of them: they stand, are held by the gate, or are retired.
"""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from segmentation_pipeline.errors import RegistryError
from segmentation_pipeline.model.segment_catalog import FEATURES
from segmentation_pipeline.tables.catalog import contracts, select_of
from segmentation_pipeline.tables.contract import quoted
from segmentation_pipeline.warehouse.database import TableWrite, Warehouse
from segmentation_pipeline.warehouse.queries import QueryInputs, inline_upstream

if TYPE_CHECKING:
    from segmentation_pipeline.model.segmentation_model import SegmentationModel

Row = dict[str, Any]
ACTIVE_MODEL_TABLES = ("outlier_fences", "kmeans_model", "kmeans_scaler", "kmeans_centroids")


@dataclass(frozen=True)
class Entry:
    """One model of the registry: its row of `segmentation_models`, of `model_features` and of `model_centroids`."""

    facts: Row
    features: tuple[Row, ...]
    centroids: tuple[Row, ...]

    @property
    def model_id(self) -> str:
        """The model's name."""
        return str(self.facts["model_id"])

    @property
    def keys(self) -> frozenset[str]:
        """The segments of its centroids."""
        return frozenset(row["segment_key"] for row in self.centroids)

    @property
    def model(self) -> "SegmentationModel":
        """The model as arrays."""
        import numpy as np

        from segmentation_pipeline.model.kmeans import Scaler
        from segmentation_pipeline.model.segmentation_model import Fence, SegmentationModel

        rows = {row["feature"]: row for row in self.features}
        ordered = [rows[name] for name in FEATURES]
        exponents = None if ordered[0]["exponent"] is None else np.array([row["exponent"] for row in ordered])
        center, scale = (np.array([row[name] for row in ordered]) for name in ("center", "scale"))
        fenced = [row for row in ordered if row["factor"] is not None]
        return SegmentationModel(
            {row["feature"]: Fence(row["q1"], row["q3"], row["factor"]) for row in fenced},
            Scaler(self.facts["transform"], exponents, center, scale),
            np.array([[row[f"scaled_{name}"] for name in FEATURES] for row in self.centroids]),
            tuple(row["segment_key"] for row in self.centroids),
        )

    def replace(self, **facts: Any) -> "Entry":
        """The same model, with other facts."""
        return dataclasses.replace(self, facts=self.facts | facts)


@dataclass(frozen=True)
class Registry:
    """Every model, in the order of the fits; changed by making another."""

    entries: tuple[Entry, ...] = ()

    @classmethod
    def of(cls, warehouse: Warehouse) -> "Registry":
        """Read from the working database."""
        models = warehouse.rows("select * from segmentation_models order by number")
        features = warehouse.rows("select * from model_features order by model_id, feature")
        centroids = warehouse.rows("select * from model_centroids order by model_id, cluster")
        return cls(
            tuple(
                Entry(
                    facts,
                    tuple(row for row in features if row["model_id"] == facts["model_id"]),
                    tuple(row for row in centroids if row["model_id"] == facts["model_id"]),
                )
                for facts in models
            )
        )

    @property
    def standing(self) -> Entry | None:
        """The model that assigns customers; None before the first fit."""
        return next(iter(self._of("standing")), None)

    @property
    def next_number(self) -> int:
        """The place of the next fit."""
        return 1 + max((entry.facts["number"] for entry in self.entries), default=0)

    @property
    def promoted(self) -> Entry | None:
        """The model that a person has promoted since the last run; the next run lets it stand."""
        return next(iter(self._of("promoted")), None)

    @property
    def held_since_promotion(self) -> list[Entry]:
        """The models that the gate has held since the standing one stands; none, if a person has just promoted one."""
        if self.standing is None or self.promoted is not None:
            return []
        since = self.standing.facts["active_from"]
        return [entry for entry in self._of("held") if entry.facts["fitted_as_of"] >= since]

    @property
    def stood_before(self) -> Entry | None:
        """The model that stood before the standing one; None if none did."""
        return max(self._of("retired"), key=lambda entry: entry.facts["active_to"], default=None)

    def standing_at(self, moment: datetime) -> Entry | None:
        """The model that stood at a moment, if it has not stood again since."""
        return next(
            (
                entry
                for entry in self.entries
                if entry.facts["active_from"] is not None
                and entry.facts["active_from"] <= moment
                and (entry.facts["active_to"] is None or moment < entry.facts["active_to"])
            ),
            None,
        )

    def before(self, as_of: datetime) -> "Registry":
        """As it was before a fit as of this moment, so that a run done again finds what it found.

        What a person has decided stays, as of whatever moment the model was fitted.
        """
        kept = [
            entry
            for entry in self.entries
            if entry.facts["fitted_as_of"] != as_of or entry.facts["promoted_by"] == "person"
        ]
        ended = [entry for entry in kept if entry.facts["active_to"] == as_of]
        if not ended or any(entry.facts["status"] == "standing" for entry in kept):
            return Registry(tuple(kept))
        # A person's promotion and the fit may both be of this run: the later one gives way.
        stood = max(ended, key=lambda entry: entry.facts["active_from"])
        return Registry(
            tuple(entry.replace(status="standing", active_to=None) if entry is stood else entry for entry in kept)
        )

    def with_held(self, entry: Entry) -> "Registry":
        """With a model that the gate holds."""
        return Registry((*self.entries, entry.replace(status="held")))

    def with_standing(self, entry: Entry, as_of: datetime, promoted_by: str = "run") -> "Registry":
        """With a model, of the registry or new, that stands from a run on; the one that stood retires."""
        others = [
            other.replace(status="retired", active_to=as_of) if other.facts["status"] == "standing" else other
            for other in self.entries
            if other.model_id != entry.model_id
        ]
        stands = entry.replace(status="standing", promoted_by=promoted_by, active_from=as_of, active_to=None)
        return Registry(tuple(sorted((*others, stands), key=lambda one: one.facts["number"])))

    def promoting(self, entry: Entry) -> "Registry":
        """With a person's wish that a model stands from the next run on; an earlier wish is withdrawn.

        Raises:
            RegistryError: It stands already.
        """
        stands = entry.facts["status"] == "standing"
        if stands and self.promoted is None:
            raise RegistryError(f"{entry.model_id} stands already")

        def status(other: Entry) -> str:
            if other.model_id == entry.model_id and not stands:
                return "promoted"
            if other.facts["status"] == "promoted":
                return "held" if other.facts["active_from"] is None else "retired"
            return str(other.facts["status"])

        return Registry(tuple(other.replace(status=status(other)) for other in self.entries))

    def decided(self, as_of: datetime) -> "Registry":
        """With what a person has decided since the last run carried out by this one."""
        return self if self.promoted is None else self.with_standing(self.promoted, as_of, "person")

    def _of(self, status: str) -> list[Entry]:
        return [entry for entry in self.entries if entry.facts["status"] == status]

    def find(self, model_id: str) -> Entry:
        """The model of this name, or of the only name that begins so.

        Raises:
            RegistryError: There is none, or more than one.
        """
        found = [entry for entry in self.entries if entry.model_id.startswith(model_id)]
        if len(found) != 1:
            known = ", ".join(entry.model_id for entry in self.entries) or "none yet"
            raise RegistryError(f"{'several models begin' if found else 'no model begins'} with {model_id!r}: {known}")
        return found[0]

    def writes(self) -> list[TableWrite]:
        """The rows of the registry's tables, and the tables of the standing model that derive from them."""
        parts = {
            "segmentation_models": [entry.facts for entry in self.entries],
            "model_features": [row for entry in self.entries for row in entry.features],
            "model_centroids": [row for entry in self.entries for row in entry.centroids],
            "segments": list(self._segments()),
        }
        stored = [TableWrite(table, rows=_in_order(table, rows)) for table, rows in parts.items()]
        return [*stored, *(TableWrite(table, select_of(table)) for table in ACTIVE_MODEL_TABLES)]

    def _segments(self) -> Iterable[Row]:
        """The part of the catalogue that customers are or have been in: of clusters, once a model stood with them."""
        from segmentation_pipeline.model.segment_catalog import SEGMENTS

        introduced: dict[str, str] = {}
        for entry in self.entries:
            if entry.facts["active_from"] is not None:
                introduced = dict.fromkeys(entry.keys, entry.model_id) | introduced
        live = self.standing.keys if self.standing else frozenset()
        for segment in SEGMENTS:
            clustered = segment.customer_group == "normal"
            if not clustered or segment.key in introduced:
                yield {
                    "segment_key": segment.key,
                    "segment": segment.name,
                    "customer_group": segment.customer_group,
                    "description": segment.description,
                    "action": segment.action,
                    "colour": segment.colour,
                    "introduced_by": introduced.get(segment.key),
                    "in_active_model": not clustered or segment.key in live,
                }


def _in_order(table: str, rows: Iterable[Row]) -> list[tuple[Any, ...]]:
    return [tuple(row[column.name] for column in contracts()[table].columns) for row in rows]


def with_model(warehouse: Warehouse, entry: Entry, table: str, relations: dict[str, str] | None = None) -> QueryInputs:
    """A table as it would be if another model stood, as the relation `with_other_model`.

    Args:
        warehouse: Gets the model as temporary tables.
        entry: The model, of the registry or not.
        table: The table, derived anew with every table on the way.
        relations: What else stands in for a table.
    """
    for name, rows in (("model_features", entry.features), ("model_centroids", entry.centroids)):
        contract = contracts()[name].renamed(f"other_{name}")
        warehouse.connection.execute(f"drop table if exists temp.{quoted(contract.table)}")
        warehouse.connection.execute(contract.ddl(constraints=False).replace("create table", "create temp table", 1))
        places = ", ".join("?" * len(contract.columns))
        warehouse.connection.executemany(
            f"insert into {quoted(contract.table)} values ({places})", [list(row) for row in _in_order(name, rows)]
        )
    given = {
        "outlier_fences": "select * from other_model_features where factor is not null",
        "kmeans_scaler": "select *, $transform as transform from other_model_features",
        "kmeans_centroids": "select * from other_model_centroids",
        **(relations or {}),
    }
    select = f"select * from {quoted(table)}"
    return QueryInputs({"with_other_model": inline_upstream(select, given)}, {"transform": entry.facts["transform"]})
