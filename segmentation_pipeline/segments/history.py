"""Restate where customers were at past month ends, as the active model sees it.

Contains which months are computed again, and the customers at a month end. What was published is in
`segment_membership`.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.segments.customer_blocks import AS_OF, derive_in_blocks
from segmentation_pipeline.tables.catalog import macros_called_by, select_of
from segmentation_pipeline.tables.contract import quoted
from segmentation_pipeline.warehouse.database import Warehouse
from segmentation_pipeline.warehouse.derivation import derivation_of
from segmentation_pipeline.warehouse.queries import QueryInputs, bound_values, inline_upstream
from segmentation_pipeline.warehouse.table_write import TableWrite

# Raise it when the method of the history changes.
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


def restate_history(database: Warehouse, settings: Retailer) -> tuple[list[TableWrite], QueryInputs, list[datetime]]:
    """Return the new content of `history_months` and `segment_history`, and the months that were computed again.

    A stored month is kept if its lines, the model, the settings and the SELECTs are those that it was computed with.
    Where all are kept, neither table is written.

    Returns:
        The writes, the inputs of their SELECTs, and the restated month ends.
    """
    _reset_if_missing(database, TABLES)
    text, select = inline_upstream(_AT_MONTH_END, AS_OF), select_of("history_months")
    code = f"{text} {macros_called_by(text)} {settings.history_digest}"
    digest = {"history_digest": hashlib.sha256(code.encode()).hexdigest()[:12]}
    derived = derivation_of(database, "history_months", select, settings.sql_values | digest, QueryInputs()).write
    stored = database.rows("select * from history_months order by month_end")
    wanted = stored
    if derived.files is None:
        wanted = database.rows(f"{select} order by month_end", **bound_values(select, settings.sql_values | digest))
    if wanted == stored:
        unchanged = [TableWrite(table, files=frozenset()) for table in TABLES]
        return [replace(unchanged[0], versions=derived.versions), *unchanged[1:]], QueryInputs(), []
    restated = [month for month in wanted if month not in stored]
    kept = [month["month_end"] for month in wanted if month in stored]
    scratch = "restated_history"
    times = [
        settings.sql_values
        | {"as_of": month["month_end"], "is_comparable": month["is_comparable"], "model_id": month["model_id"]}
        for month in restated
    ]
    if restated:
        derive_in_blocks(database, scratch, text, times)
    select = "select * from segment_history where list_contains($kept, month_end)"
    if restated:
        select += f" union all select * from temp.{quoted(scratch)}"  # noqa: S608 - names are quoted
    months = [tuple(month.values()) for month in wanted]
    writes = [
        TableWrite("history_months", rows=months, versions=derived.versions),
        TableWrite("segment_history", select),
    ]
    return writes, QueryInputs(values={"kept": kept}), [month["month_end"] for month in restated]


def _reset_if_missing(database: Warehouse, tables: Sequence[str]) -> None:
    """Create tables of the same months again, all empty, if one is missing: an upgrade may have dropped it."""
    if not all(map(database.has, tables)):
        for table in tables:
            database.drop(table)
        database.create_missing(tables)


def month_list(months: Sequence[datetime]) -> str:
    """Return month ends as text. The end of May is the midnight before the first of June."""
    return ", ".join(f"{month:%Y-%m-%d}" for month in months) or "none"
