"""The segmentation model: fit, promotion and back-test.

Materialising this group fits a model, so it is not part of the nightly job. See `automation` for when it is.
"""

from typing import Any

import dagster as dg
from pydantic import Field

from segmentation_pipeline.model import thresholds
from segmentation_pipeline.orchestration.resources import RetailerConfig, WarehouseResource
from segmentation_pipeline.orchestration.sql_assets import (
    Results,
    contract_check_spec,
    report_user_errors,
    table_spec,
    write_tables,
)
from segmentation_pipeline.segments import backtest, customer_value, promotion
from segmentation_pipeline.segments.history import month_list
from segmentation_pipeline.segments.registry import ACTIVE_MODEL_TABLES, Registry

TABLES = (
    "segmentation_models",
    "model_features",
    "model_centroids",
    "segments",
    "kmeans_candidates",
    *ACTIVE_MODEL_TABLES,
)
_FITTED_WITH = ("duckdb", "python", "scikitlearn")
_VALUE_WITH = ("duckdb", "python", "scipy")


class FitConfig(dg.Config):
    """Whether and how a model is fitted."""

    refit: bool = Field(
        True, description="Fit a model. False: only carry out what is due (a first model, an approval, new settings)."
    )
    search: bool = Field(
        False, description="Choose the transform and the number of clusters again. Default: keep the active model's."
    )


@dg.multi_asset(
    name="segmentation_model",
    specs=[
        table_spec(
            table,
            f"{promotion.METHOD_VERSION} {thresholds.FIT} {thresholds.SEARCH} {thresholds.PROMOTION}",
            deps=["invoice_totals", "rfm_features", "previous_segments", "inactive_customers"],
            kinds=_FITTED_WITH,
        )
        for table in TABLES
    ],
    check_specs=[contract_check_spec(table) for table in TABLES],
)
def segmentation_model(config: FitConfig, retailer: RetailerConfig, warehouse: WarehouseResource) -> Results:
    """Activate the model that a person has approved, or fit a candidate and compare it with the active model."""
    with report_user_errors():
        registry, searched = promotion.next_registry(
            warehouse.open(),
            retailer.settings,
            refit=config.refit,
            search=config.search,
            accept_change=retailer.accept_change,
        )
        writes = [*registry.writes(), *searched]
        yield from write_tables(retailer, warehouse, writes, metadata=lambda _: _model_metadata(registry))


def _model_metadata(registry: Registry) -> dict[str, Any]:
    """Return the active model's metrics, and the comparison and status of the last fitted model."""
    active, last = registry.active, registry.models[-1]
    assert active is not None
    comparison = {"kept_share": last.kept_share, "agreement": last.agreement}
    return {
        "model_id": active.model_id,
        "n_clusters": active.n_clusters,
        "inertia": active.inertia,
        "silhouette": active.silhouette,
        **{name: value for name, value in comparison.items() if value is not None},
        **({"pending": f"{last.model_id}: {last.reasons}"} if last.status == "pending" else {}),
    }


@dg.multi_asset(
    name="segment_backtest",
    specs=[
        table_spec(
            table,
            f"{backtest.METHOD_VERSION} {thresholds.FIT} {thresholds.BACKTEST}",
            deps=["invoice_totals", "rfm_features", "previous_segments", "rfm_segment_map", "segmentation_models"],
            kinds=_FITTED_WITH,
        )
        for table in backtest.TABLES
    ],
    check_specs=[contract_check_spec(table) for table in backtest.TABLES],
)
def segment_backtest(retailer: RetailerConfig, warehouse: WarehouseResource) -> Results:
    """Form the segments at past month ends, and compare them with what the customers bought afterwards."""
    with report_user_errors():
        writes, months, counts = backtest.run_backtest(warehouse.open(), retailer.settings)
        metadata: dict[str, Any] = {"month_ends": month_list(months), "months": len(months), **counts}
        yield from write_tables(retailer, warehouse, writes, metadata=lambda _: metadata)


@dg.multi_asset(
    name="customer_value_model",
    specs=[
        table_spec(
            table,
            f"{customer_value.METHOD_VERSION} {thresholds.FIT} {thresholds.BACKTEST}",
            deps=["invoice_totals", "rfm_features", "segmentation_models", "kmeans_model"],
            kinds=_VALUE_WITH,
        )
        for table in customer_value.TABLES
    ],
    check_specs=[contract_check_spec(table) for table in customer_value.TABLES],
)
def customer_value_model(retailer: RetailerConfig, warehouse: WarehouseResource) -> Results:
    """Fit what customers are expected to buy and spend, and try the method on the last 90 days."""
    with report_user_errors():
        writes = customer_value.fit_value(warehouse.open(), retailer.settings)
        yield from write_tables(retailer, warehouse, writes)
