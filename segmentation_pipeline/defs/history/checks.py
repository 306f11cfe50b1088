"""Checks of the segments over time."""

import dagster as dg

from segmentation_pipeline.orchestration.check_results import sql_check, warning_result
from segmentation_pipeline.orchestration.resources import WarehouseResource

migrations_sum_to_customers = sql_check(
    "migrations_sum_to_customers",
    asset="segment_migrations",
    deps=["segment_history"],
    description="The migrations of each comparable month sum to its customers.",
    message="Customers are lost or counted twice between months.",
)


@dg.asset_check(asset="model_drift")
def no_drift_since_fit(warehouse: WarehouseResource) -> dg.AssetCheckResult:
    """Today's customers are distributed like those of the fit, and few of them moved or are new."""
    rows = warehouse.open().rows("select metric, value, bound from model_drift where value > bound order by metric")
    listed = ", ".join(f"{row['metric']} is {row['value']:.3f} (bound {row['bound']:g})" for row in rows)
    message = f"{listed}. Where a feature drifts, fit again: `segments run --refit`, or materialise the model group."
    return warning_result(rows, message)
