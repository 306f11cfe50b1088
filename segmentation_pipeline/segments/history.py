"""Where customers were at past month ends, as the standing model sees it.

Belongs here: which months are to be computed, and the customers as of one of them. The ledger of what was published
is another matter (`segment_membership`).
"""

import hashlib
from collections.abc import Sequence
from datetime import datetime

from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.tables.catalog import contracts, macros_called_by, select_of
from segmentation_pipeline.tables.contract import quoted
from segmentation_pipeline.warehouse.database import TableWrite, Warehouse
from segmentation_pipeline.warehouse.queries import QueryInputs, bound_values, inline_upstream

METHOD_VERSION = "1"
TABLES = ("history_months", "segment_history")
_AT_MONTH_END = """
select
    features.customer_id,
    cast($as_of as timestamp) as month_end,
    nearest.segment_key,
    features.recency,
    features.frequency,
    features.monetary,
    $is_comparable as is_comparable,
    $model_id as model_id
from rfm_features as features
inner join nearest_segments as nearest on features.customer_id = nearest.customer_id
"""
# Nobody was anywhere before: the history knows a customer by its features at the month end alone.
AS_OF_THEN = {
    "clean_transactions": "select * from main.clean_transactions where transaction_at < $as_of",
    "previous_segments": "select * from main.previous_segments where false",
}


def restate_history(warehouse: Warehouse, settings: Retailer) -> tuple[list[TableWrite], QueryInputs, list[datetime]]:
    """What `segment_history` and `history_months` are to hold, and which months of it are computed anew.

    A month stands if the lines before its end, the model, the settings and the SELECTs are those that it was computed
    with.
    """
    begin_anew_without(warehouse, TABLES)
    text, select = inline_upstream(_AT_MONTH_END, AS_OF_THEN), select_of("history_months")
    digest = {
        "history_digest": hashlib.sha256(
            f"{text} {macros_called_by(text)} {settings.history_digest}".encode()
        ).hexdigest()[:12]
    }
    wanted = warehouse.rows(f"{select} order by month_end", **bound_values(select, settings.sql_values | digest))
    stored = warehouse.rows("select * from history_months")
    needed = [month for month in wanted if month not in stored]
    kept = [month["month_end"] for month in wanted if month in stored]
    scratch = "restated_history"
    warehouse.connection.execute(f"drop table if exists temp.{quoted(scratch)}")
    for number, month in enumerate(needed):
        into = f"insert into {quoted(scratch)}" if number else f"create temp table {quoted(scratch)} as"
        at = {"as_of": month["month_end"], "is_comparable": month["is_comparable"], "model_id": month["model_id"]}
        warehouse.execute(f"{into} {text}", settings.sql_values | at)
    select = "select * from segment_history where list_contains($kept, month_end)"
    if needed:
        select += f" union all select * from {quoted(scratch)}"
    writes = [TableWrite("history_months", select_of("history_months")), TableWrite("segment_history", select)]
    return writes, QueryInputs(values={"kept": kept, **digest}), [month["month_end"] for month in needed]


def begin_anew_without(warehouse: Warehouse, tables: Sequence[str]) -> None:
    """Make tables that tell of the same months anew, all empty, if one is missing: an upgrade may have dropped it."""
    if not all(map(warehouse.has, tables)):
        for table in tables:
            warehouse.connection.execute(f"drop table if exists {quoted(table)}")
            warehouse.connection.execute(contracts()[table].ddl(constraints=False))


def month_list(rows: Sequence[datetime]) -> str:
    """Month ends as a person reads them; the end of May is the midnight before the first of June."""
    return ", ".join(f"{moment:%Y-%m-%d}" for moment in rows) or "none"
