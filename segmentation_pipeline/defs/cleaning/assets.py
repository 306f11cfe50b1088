"""From raw to clean transactions, with every rejected line and the reason."""

from collections.abc import Collection, Sequence
from typing import Any

import dagster as dg

from segmentation_pipeline.ingestion import cleaning
from segmentation_pipeline.ingestion.losses import UNKNOWN, Losses, explain_loss
from segmentation_pipeline.orchestration.sql_assets import SqlAssetOptions, sql_assets
from segmentation_pipeline.warehouse.database import Warehouse


def _report(database: Warehouse) -> dict[str, Any]:
    """Return the loss of each rule as a table, and shares of lines and money as numbers to plot."""
    losses = Losses.by_report(database)
    left, read = losses.report[-1]["lines_left"], losses.report[0]["lines"]
    return {
        "funnel": _table(losses.report, except_for=("reason",)),
        "share_kept": left / read,
        "lines_kept": left,
        "rejected_share": losses.rejected_share,
        "rejected_money_share": losses.rejected_money_share,
        "unparsed_share": losses.unreadable.share,
        "lines_without_amount": losses.report[0]["lines_without_amount"],
    }


def _unparsed(database: Warehouse) -> dict[str, Any]:
    """Return the masked patterns of values that could not be read."""
    rows = database.rows("select * from unparsed_values order by lines_of_column desc, column_name, position")
    return {"patterns": _table(rows)} if rows else {}


def _table(rows: Sequence[dict[str, Any]], except_for: Collection[str] = ()) -> dg.TableMetadataValue:
    return dg.MetadataValue.table(
        [dg.TableRecord({name: _plain(row[name]) for name in row if name not in except_for}) for row in rows]
    )


def _plain(value: Any) -> str | int | float:
    return UNKNOWN if value is None else value if isinstance(value, (str, int, float)) else float(value)


cleaning_assets = sql_assets(
    "cleaning",
    options={
        "clean_transactions": SqlAssetOptions(
            inputs=cleaning.query_inputs, explain=explain_loss, by_file=cleaning.is_by_file
        ),
        "rejected_transactions": SqlAssetOptions(inputs=cleaning.query_inputs, by_file=cleaning.is_by_file),
        "invoice_totals": SqlAssetOptions(by_file=lambda _: True),
        "unparsed_values": SqlAssetOptions(metadata=_unparsed),
        "cleaning_report": SqlAssetOptions(inputs=cleaning.query_inputs, metadata=_report),
    },
)
