"""Every customer in one segment: nearest centroid, crossed fences, or inactive; and what each segment is."""

from datetime import timedelta
from typing import Any

import dagster as dg

from segmentation_pipeline.orchestration.resources import RetailerResource
from segmentation_pipeline.orchestration.sql_assets import derived_asset

# A night may fail and be mended the next day before anybody is called.
_NIGHTLY = dg.FreshnessPolicy.time_window(warn_window=timedelta(hours=26), fail_window=timedelta(hours=50))


def _sizes(retailer: RetailerResource) -> dict[str, Any]:
    """The table of segments, as the web interface shows it beside the materialisation."""
    rows = retailer.warehouse.rows(
        "select segment, customers, customer_share, revenue, revenue_share, median_monetary, median_frequency,"
        " median_recency from segment_profiles order by revenue desc, segment_key"
    )
    head = "| segment | customers | share | revenue | share | median monetary | median frequency | median recency |"
    body = [
        f"| {row['segment']} | {row['customers']:,} | {row['customer_share']:.1%} | {row['revenue']:,.2f} | {share} |"
        f" {row['median_monetary']:,.2f} | {row['median_frequency']:g} | {row['median_recency']:g} |"
        for row in rows
        for share in ["" if row["revenue_share"] is None else f"{row['revenue_share']:.1%}"]
    ]
    return {"profiles": dg.MetadataValue.md("\n".join([head, "|---|--:|--:|--:|--:|--:|--:|--:|", *body]))}


def _worth(retailer: RetailerResource) -> dict[str, Any]:
    """The outlier segments as a table, and what they come to together as numbers to plot."""
    rows = retailer.warehouse.rows("select * from outlier_profiles order by revenue desc, segment_key")
    head = "| segment | customers | share | revenue | share | gini | top 10 | slipping | revenue at risk | share |"
    body = [
        f"| {row['segment']} | {row['customers']:,} | {row['customer_share']:.1%} | {row['revenue']:,.2f} | {share} |"
        f" {row['gini']:.2f} | {row['top_10_share']:.1%} | {row['slipping_customers']:,} |"
        f" {row['revenue_at_risk']:,.2f} | {row['revenue_at_risk_share']:.1%} |"
        for row in rows
        for share in ["" if row["revenue_share"] is None else f"{row['revenue_share']:.1%}"]
    ]
    sums = {
        name: float(sum(row[name] or 0 for row in rows))
        for name in ("customer_share", "revenue_share", "revenue_at_risk")
    }
    return {"profiles": dg.MetadataValue.md("\n".join([head, "|---|" + "--:|" * 9, *body])), **sums}


scaled_customers = derived_asset("scaled_customers", group="segments")
nearest_centroids = derived_asset("nearest_centroids", group="segments")
nearest_segments = derived_asset("nearest_segments", group="segments")
kmeans_segments = derived_asset("kmeans_segments", group="segments")
outlier_segments = derived_asset("outlier_segments", group="segments")
assigned_segments = derived_asset("assigned_segments", group="segments")
customer_segments = derived_asset("customer_segments", group="segments", freshness=_NIGHTLY)
segment_profiles = derived_asset("segment_profiles", group="segments", figures=_sizes)
outlier_profiles = derived_asset("outlier_profiles", group="segments", figures=_worth)
