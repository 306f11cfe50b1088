"""Assign every customer to one segment, and describe the segments."""

from datetime import timedelta
from typing import Any

import dagster as dg

from segmentation_pipeline.orchestration.resources import RetailerConfig, WarehouseResource
from segmentation_pipeline.orchestration.sql_assets import (
    Results,
    SqlAssetOptions,
    contract_check_spec,
    report_user_errors,
    sql_assets,
    table_spec,
    write_tables,
)
from segmentation_pipeline.segments import customer_value as value
from segmentation_pipeline.warehouse.database import Warehouse

# One night may fail and be repeated the next day before anybody is alerted.
_NIGHTLY = dg.FreshnessPolicy.time_window(warn_window=timedelta(hours=26), fail_window=timedelta(hours=50))


def _sizes(database: Warehouse) -> dict[str, Any]:
    """Return the segments as a Markdown table."""
    rows = database.rows(
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


def _worth(database: Warehouse) -> dict[str, Any]:
    """Return the outlier segments as a Markdown table, and their totals as numbers to plot."""
    rows = database.rows("select * from outlier_profiles order by revenue desc, segment_key")
    head = "| segment | customers | share | revenue | share | gini | top 10 | lapsing | revenue at risk | share |"
    body = [
        f"| {row['segment']} | {row['customers']:,} | {row['customer_share']:.1%} | {row['revenue']:,.2f} | {share} |"
        f" {row['gini']:.2f} | {row['top_10_share']:.1%} | {row['lapsing_customers']:,} |"
        f" {row['revenue_at_risk']:,.2f} | {row['revenue_at_risk_share']:.1%} |"
        for row in rows
        for share in ["" if row["revenue_share"] is None else f"{row['revenue_share']:.1%}"]
    ]
    sums = {
        name: float(sum(row[name] or 0 for row in rows))
        for name in ("customer_share", "revenue_share", "revenue_at_risk")
    }
    return {"profiles": dg.MetadataValue.md("\n".join([head, "|---|" + "--:|" * 9, *body])), **sums}


@dg.multi_asset(
    name="customer_value",
    specs=[
        table_spec(
            "customer_value",
            value.METHOD_VERSION,
            deps=["rfm_features", "customer_value_model"],
            kinds=("duckdb", "python", "scipy"),
        )
    ],
    check_specs=[contract_check_spec("customer_value")],
)
def customer_value(retailer: RetailerConfig, warehouse: WarehouseResource) -> Results:
    """Score every customer with the model of customer value, unless neither has changed."""
    with report_user_errors():
        write = value.score_value(warehouse.open())
        reason = "no rows, because nothing it reads has changed" if write.files is not None else "all rows"
        yield from write_tables(retailer, warehouse, [write], metadata=lambda _: {"derived": reason})


segment_assets = sql_assets(
    "segments",
    options={
        "customer_segments": SqlAssetOptions(freshness=_NIGHTLY),
        "segment_profiles": SqlAssetOptions(metadata=_sizes),
        "outlier_profiles": SqlAssetOptions(metadata=_worth),
    },
)
