"""The membership history: its last change, and what the previous model would have assigned today.

Contains the Python side of `segment_membership`. Its rows are derived in `tables/history/segment_membership.sql`.
"""

from datetime import datetime

from segmentation_pipeline.segments.counterfactual import with_model
from segmentation_pipeline.segments.registry import Registry
from segmentation_pipeline.warehouse.database import Warehouse
from segmentation_pipeline.warehouse.queries import QueryInputs

_NO_CUSTOMERS = "select customer_id, segment_key, is_move_pending from assigned_segments where false"


def last_change_at(database: Warehouse, before: datetime | None = None) -> datetime | None:
    """Return the timestamp of the last change in the history; with `before`, of the last change before it."""
    last: datetime | None = database.row(
        "select max(changed_at) as last from ("
        "select valid_from as changed_at from segment_membership union all select valid_to from segment_membership)"
        " where $before is null or changed_at < $before",
        before=before,
    )["last"]
    return last


def is_before_last_change(database: Warehouse, as_of: datetime) -> bool:
    """Return whether the history has changes after as_of; such a run reports the past and changes nothing."""
    last = last_change_at(database)
    return last is not None and as_of < last


def assigned_by_previous_model(database: Warehouse, as_of: datetime) -> QueryInputs:
    """Return the segments of today if the model had not changed since the history was last written.

    The relation is empty if the model is the same. It compares with the last change of the history, not with the last
    run: that run may have activated another model, and failed before it wrote the history.
    """
    last, registry = last_change_at(database, before=as_of), Registry.of(database)
    previous = None if last is None else registry.active_at(last)
    if previous is None or previous.status == "active":
        return QueryInputs({"assigned_by_previous_model": _NO_CUSTOMERS})
    return QueryInputs({"assigned_by_previous_model": with_model(database, previous.model, "assigned_segments")})
