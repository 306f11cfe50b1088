"""Checks of the segments: every customer is in exactly one, and the model is the one that the settings ask for."""

import dagster as dg

from segmentation_pipeline.orchestration.check_results import sql_check, warning_result
from segmentation_pipeline.orchestration.job_selection import REFIT_JOB, why_fit_is_due
from segmentation_pipeline.orchestration.resources import RetailerConfig, WarehouseResource
from segmentation_pipeline.segments.registry import Registry

every_customer_in_one_segment = sql_check(
    "every_customer_in_one_segment",
    asset="customer_segments",
    deps=["rfm_features", "normal_customers", "outlier_customers", "inactive_customers"],
    description="Each customer is in one group and one segment, with the money of the customer's features.",
    message="Some customers, their money or their group are lost, counted twice or changed on the way to segments.",
)


@dg.asset_check(asset="customer_segments")
def model_is_up_to_date(retailer: RetailerConfig, warehouse: WarehouseResource) -> dg.AssetCheckResult:
    """The active model was fitted with the present settings, and no approved model waits to become active.

    A run without the model group, such as a nightly job started by hand, keeps the active model and warns here.
    """
    registry, settings = Registry.of(warehouse.open()), retailer.settings
    active = registry.active
    fitted_with = active.settings_digest if active else ""
    if reason := why_fit_is_due(registry, settings):
        message = f"The segments are those of the previous model: {reason}. Run {REFIT_JOB}, or `segments run`."
    else:
        message = (
            "The active model was fitted with other settings; the model fitted with the present ones is pending"
            " approval. See `segments model list`, then promote it or restore the settings."
        )
    is_current = not reason and fitted_with == settings.model_digest
    rows = [] if is_current else [{"active_model": active.model_id if active else "none"}]
    return warning_result(rows, message)
