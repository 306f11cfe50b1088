"""The segments over time: past month ends, the ways between them, and what segments foretold."""

from typing import Any

import dagster as dg

from segmentation_pipeline.orchestration.resources import RetailerResource
from segmentation_pipeline.orchestration.sql_assets import (
    Results,
    asset_spec,
    contract_check,
    derived_asset,
    fill,
    sentences,
)
from segmentation_pipeline.segments import backtest, history
from segmentation_pipeline.segments.registry import STANDING_TABLES
from segmentation_pipeline.warehouse.database import select_of

PYTHON = frozenset({"duckdb", "python"})


@dg.multi_asset(
    name="segment_history",
    specs=[
        asset_spec(
            table,
            "history",
            "1" + select_of("history_months"),
            deps=["clean_transactions", "rfm_features", "previous_segments", *STANDING_TABLES],
            kinds=PYTHON,
        )
        for table in history.TABLES
    ],
    check_specs=[contract_check(table) for table in history.TABLES],
)
def segment_history(retailer: RetailerResource) -> Results:
    """Months that are missing, touched by late lines or seen by another model are computed; the others stand."""
    with sentences():
        fillings, given, months = history.restated(retailer.warehouse, retailer.settings)
        told = {"restated": history.month_ends(months), "months_restated": len(months)}
        yield from fill(retailer, fillings, given=given, figures=lambda _: told)


segment_migrations = derived_asset("segment_migrations", group="history")


@dg.multi_asset(
    name="segment_backtest",
    specs=[
        asset_spec(
            table,
            "history",
            backtest.METHOD_VERSION,
            deps=[
                "clean_transactions",
                "rfm_features",
                "history_months",
                "previous_segments",
                "rfm_segment_map",
                "kmeans_model",
            ],
            kinds=frozenset({*PYTHON, "scikitlearn"}),
        )
        for table in backtest.TABLES
    ],
    check_specs=[contract_check(table) for table in backtest.TABLES],
)
def segment_backtest(retailer: RetailerResource) -> Results:
    """Months that are missing or touched by late lines are tried; the others stand."""
    with sentences():
        fillings, given, months = backtest.tried(retailer.warehouse, retailer.settings)
        told: dict[str, Any] = {"tried": history.month_ends(months), "months_tried": len(months)}
        yield from fill(retailer, fillings, given=given, figures=lambda _: told)
