"""Segments over time: the membership history, its changes, past month ends, and drift."""

from typing import Any

import dagster as dg

from segmentation_pipeline.model import thresholds
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
from segmentation_pipeline.segments import drift, history, membership
from segmentation_pipeline.segments.registry import ACTIVE_MODEL_TABLES
from segmentation_pipeline.tables.catalog import select_of
from segmentation_pipeline.warehouse.database import Warehouse
from segmentation_pipeline.warehouse.queries import dependencies
from segmentation_pipeline.warehouse.table_write import TableWrite

_MEMBERSHIP = select_of("segment_membership")


@dg.multi_asset(
    name="segment_membership",
    specs=[
        table_spec(
            "segment_membership",
            _MEMBERSHIP,
            deps=[*sorted({*dependencies(_MEMBERSHIP)} - {"segment_membership"}), "segmentation_models"],
        )
    ],
    check_specs=[contract_check_spec("segment_membership")],
)
def segment_membership(
    context: dg.AssetExecutionContext, retailer: RetailerConfig, warehouse: WarehouseResource
) -> Results:
    """Add today's changes to the history. A run for an earlier as_of changes nothing, unless a person accepts it."""
    with report_user_errors():
        database = warehouse.open()
        as_of = database.row("select max(as_of) as as_of from customer_segments")["as_of"]
        if late := membership.is_before_last_change(database, as_of) and not retailer.accept_change:
            last = membership.last_change_at(database)
            context.log.warning(f"segment_membership is unchanged: it goes to {last}, beyond this run's as_of {as_of}.")
        write = TableWrite("segment_membership", "select * from segment_membership" if late else _MEMBERSHIP)
        inputs = membership.assigned_by_previous_model(database, as_of)
        yield from write_tables(retailer, warehouse, [write], inputs=inputs, metadata=lambda _: {"written": not late})


@dg.multi_asset(
    name="segment_history",
    specs=[
        table_spec(
            table,
            history.METHOD_VERSION + select_of("history_months"),
            deps=["invoice_totals", "rfm_features", "previous_segments", *ACTIVE_MODEL_TABLES],
            kinds=("duckdb", "python"),
        )
        for table in history.TABLES
    ],
    check_specs=[contract_check_spec(table) for table in history.TABLES],
)
def segment_history(retailer: RetailerConfig, warehouse: WarehouseResource) -> Results:
    """Compute the months that are new, have late lines or were computed with another model; keep the others."""
    with report_user_errors():
        writes, inputs, months = history.restate_history(warehouse.open(), retailer.settings)
        metadata = {"restated": history.month_list(months), "months_restated": len(months)}
        yield from write_tables(retailer, warehouse, writes, inputs=inputs, metadata=lambda _: metadata)


@dg.multi_asset(
    name="model_drift",
    specs=[
        table_spec(
            "model_drift",
            f"{drift.METHOD_VERSION} {thresholds.DRIFT}",
            deps=["customer_segments", "normal_customers", "previous_segments", "model_features"],
            kinds=("duckdb", "python"),
        )
    ],
    check_specs=[contract_check_spec("model_drift")],
)
def model_drift(retailer: RetailerConfig, warehouse: WarehouseResource) -> Results:
    """Compare today's customers with those of the fit; each metric is metadata too, so that Dagster plots it."""
    with report_user_errors():
        rows = drift.drift_rows(warehouse.open())
        metadata = {row[0]: row[1] for row in rows}
        yield from write_tables(
            retailer, warehouse, [TableWrite("model_drift", rows=rows)], metadata=lambda _: metadata
        )


def _changes_by_reason(database: Warehouse) -> dict[str, Any]:
    """Return how many customers the last run moved, by reason."""
    rows = database.rows(
        "select reason, count(*) as customers from segment_changes"
        " where as_of = (select max(as_of) from customer_segments) group by reason order by reason"
    )
    return {f"changed_{row['reason']}": row["customers"] for row in rows}


history_assets = sql_assets(
    "history",
    exclude=("segment_membership", "history_months"),
    options={"segment_changes": SqlAssetOptions(metadata=_changes_by_reason)},
)
