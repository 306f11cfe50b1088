"""From clean transactions to customers: features, scores, and the rule-based segment."""

from typing import Any

from segmentation_pipeline.orchestration.sql_assets import SqlAssetOptions, sql_assets
from segmentation_pipeline.warehouse.database import Warehouse


def _money(database: Warehouse) -> dict[str, Any]:
    """Return revenue and refunds, and the customers without a purchase with their lines and money."""
    row = database.row(
        "with lines as (select coalesce(sum(lines), 0) as lines, coalesce(sum(amount), 0) as money from invoice_totals"
        " inner join rfm_features using (customer_id) where first_purchase_at is null)"
        " select max(as_of) as as_of, sum(monetary) as revenue, sum(refunds) as refunds,"
        " count(*) filter (where refunds > 0) as with_refunds,"
        " count(*) filter (where first_purchase_at is null) as without_purchase,"
        " any_value(lines.lines) as without_purchase_lines, any_value(lines.money) as without_purchase_money"
        " from rfm_features cross join lines"
    )
    return {name: str(value) if name == "as_of" else float(value) for name, value in row.items()}


feature_assets = sql_assets(
    "features",
    options={
        # A look-back window moves with the as-of date.
        "customer_totals": SqlAssetOptions(by_customer=lambda settings: settings.rfm.look_back_days is None),
        "rfm_features": SqlAssetOptions(metadata=_money),
    },
)
