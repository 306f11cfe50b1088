"""From raw to clean transactions, with every refused line and the reason."""

from typing import Any

import dagster as dg

from segmentation_pipeline.ingestion import cleaning
from segmentation_pipeline.orchestration.resources import RetailerResource
from segmentation_pipeline.orchestration.sql_assets import derived_asset


def _loss(retailer: RetailerResource) -> dict[str, Any]:
    """The funnel as a table, and the share of lines that it lost as a number to plot."""
    steps = retailer.warehouse.rows("select * from cleaning_report order by step")
    left = steps[-1]["lines_left"]
    columns = ("step", "rule", "lines", "share", "customers", "amount", "lines_left", "amount_left")
    funnel = [dg.TableRecord({name: _plain(step[name]) for name in columns}) for step in steps]
    return {"funnel": dg.MetadataValue.table(funnel), "share_kept": left / steps[0]["lines"], "lines_kept": left}


def _plain(value: Any) -> str | int | float:
    return value if isinstance(value, (str, int, float)) else float(value)


clean_transactions = derived_asset(
    "clean_transactions",
    group="cleaning",
    given=cleaning.given,
    explained=lambda retailer: cleaning.loss(retailer.warehouse, retailer.settings),
)
rejected_transactions = derived_asset("rejected_transactions", group="cleaning", given=cleaning.given)
cleaning_report = derived_asset("cleaning_report", group="cleaning", given=cleaning.given, figures=_loss)
