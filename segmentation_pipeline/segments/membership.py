"""The moments of the ledger of memberships: its last, and whether a run is for an earlier one.

Belongs here: what the runs before this one have written; the ledger's rows are told in `sql/segment_membership.sql`.
"""

from datetime import datetime

from segmentation_pipeline.warehouse.database import Warehouse


def last_moment(warehouse: Warehouse, before: datetime | None = None) -> datetime | None:
    """The last moment (strictly before another, if one is given) at which the ledger tells of a change."""
    moment: datetime | None = warehouse.row(
        "select max(moment) as last from ("
        "select valid_from as moment from segment_membership union all select valid_to from segment_membership)"
        " where $before is null or moment < $before",
        before=before,
    )["last"]
    return moment


def is_late(warehouse: Warehouse, as_of: datetime) -> bool:
    """Whether a run is for an earlier moment than the ledger's last: it tells of the past, and decides nothing."""
    last = last_moment(warehouse)
    return last is not None and as_of < last
