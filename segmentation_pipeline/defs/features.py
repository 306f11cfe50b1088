"""From clean transactions to what is known of each customer: features, scores, and the rule-based segment."""

from typing import Any

from segmentation_pipeline.orchestration.resources import RetailerResource
from segmentation_pipeline.orchestration.sql_assets import derived_asset


def _money(retailer: RetailerResource) -> dict[str, Any]:
    """Money and refunds; and of those who only gave back how many there are, on how many lines, for how much."""
    row = retailer.warehouse.row(
        "with lines as (select count(*) as lines, coalesce(sum(amount), 0) as money from clean_transactions"
        " inner join rfm_features using (customer_id) where first_purchase_at is null)"
        " select max(as_of) as as_of, sum(monetary) as revenue, sum(refunds) as refunds,"
        " count(*) filter (where refunds > 0) as with_refunds,"
        " count(*) filter (where first_purchase_at is null) as without_purchase,"
        " any_value(lines.lines) as without_purchase_lines, any_value(lines.money) as without_purchase_money"
        " from rfm_features cross join lines"
    )
    return {name: str(value) if name == "as_of" else float(value) for name, value in row.items()}


purchase_rhythm = derived_asset("purchase_rhythm", group="features")
rfm_features = derived_asset("rfm_features", group="features", figures=_money)
rfm_thresholds = derived_asset("rfm_thresholds", group="features")
rfm_segment_map = derived_asset("rfm_segment_map", group="features")
rfm_scores = derived_asset("rfm_scores", group="features")
