"""The moments of the ledger of memberships: its last, and whether a run is for an earlier one.

Belongs here: what the runs before this one have written; the ledger's rows are told in `sql/segment_membership.sql`.
"""

from datetime import datetime

from segmentation_pipeline.segments.registry import Registry, with_model
from segmentation_pipeline.warehouse.database import Warehouse
from segmentation_pipeline.warehouse.queries import QueryInputs

_NOBODY = "select customer_id, segment_key, is_move_pending from assigned_segments where false"


def last_change_at(warehouse: Warehouse, before: datetime | None = None) -> datetime | None:
    """The last moment (strictly before another, if one is given) at which the ledger tells of a change."""
    moment: datetime | None = warehouse.row(
        "select max(moment) as last from ("
        "select valid_from as moment from segment_membership union all select valid_to from segment_membership)"
        " where $before is null or moment < $before",
        before=before,
    )["last"]
    return moment


def is_before_last_change(warehouse: Warehouse, as_of: datetime) -> bool:
    """Whether a run is for an earlier moment than the ledger's last: it tells of the past, and decides nothing."""
    last = last_change_at(warehouse)
    return last is not None and as_of < last


def assigned_by_previous_model(database: Warehouse, as_of: datetime) -> QueryInputs:
    """Return where customers would be today if the model had not changed since the history was last written.

    The relation is empty where the model is the same. It compares with the last change of the history, not with the
    last run: that run may have activated another model, and failed before it wrote the history.
    """
    last, registry = last_change_at(database, before=as_of), Registry.of(database)
    previous = None if last is None else registry.standing_at(last)
    if previous is None or previous.facts["status"] == "standing":
        return QueryInputs({"assigned_by_previous_model": _NOBODY})
    inputs = with_model(database, previous, "assigned_segments")
    return QueryInputs({"assigned_by_previous_model": inputs.relations["with_other_model"]}, inputs.values)
