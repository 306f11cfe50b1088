"""From raw to clean transactions, with every rejected line and the reason."""

from typing import Any

import dagster as dg

from segmentation_pipeline.ingestion import cleaning
from segmentation_pipeline.orchestration.sql_assets import SqlAssetOptions, sql_assets
from segmentation_pipeline.warehouse.database import Warehouse


def _loss(database: Warehouse) -> dict[str, Any]:
    """Return the loss of each rule as a table, and the share of lines kept as a number to plot."""
    steps = database.rows("select * from cleaning_report order by step")
    left = steps[-1]["lines_left"]
    columns = ("step", "rule", "lines", "share", "customers", "amount", "lines_left", "amount_left")
    funnel = [dg.TableRecord({name: _plain(step[name]) for name in columns}) for step in steps]
    return {"funnel": dg.MetadataValue.table(funnel), "share_kept": left / steps[0]["lines"], "lines_kept": left}


def _plain(value: Any) -> str | int | float:
    return value if isinstance(value, (str, int, float)) else float(value)


cleaning_assets = sql_assets(
    "cleaning",
    options={
        "clean_transactions": SqlAssetOptions(
            inputs=cleaning.query_inputs, explain=cleaning.explain_loss, by_file=cleaning.is_by_file
        ),
        "rejected_transactions": SqlAssetOptions(inputs=cleaning.query_inputs, by_file=cleaning.is_by_file),
        "cleaning_report": SqlAssetOptions(inputs=cleaning.query_inputs, metadata=_loss),
    },
)
