"""From clean transactions to what is known of each customer: features, scores, and the rule-based segment."""

from typing import Any

from segmentation_pipeline.assets import derived_asset
from segmentation_pipeline.resource import RetailerResource


def _money(retailer: RetailerResource) -> dict[str, Any]:
    row = retailer.warehouse.row(
        "select max(as_of) as as_of, sum(monetary) as revenue, sum(refunds) as refunds,"
        " count(*) filter (where first_purchase_at is null) as without_purchase,"
        " count(*) filter (where refunds > 0) as with_refunds from rfm_features"
    )
    return {name: str(value) if name == "as_of" else float(value) for name, value in row.items()}


purchase_rhythm = derived_asset("purchase_rhythm", group="features")
rfm_features = derived_asset("rfm_features", group="features", figures=_money)
rfm_thresholds = derived_asset("rfm_thresholds", group="features")
rfm_segment_map = derived_asset("rfm_segment_map", group="features")
rfm_scores = derived_asset("rfm_scores", group="features")
