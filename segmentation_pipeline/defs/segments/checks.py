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
    """The active model was fitted with the present settings, and no other model waits for a person or for a run.

    A run without the model group, such as a nightly job started by hand, keeps the active model and warns here.
    """
    registry, settings = Registry.of(warehouse.open()), retailer.settings
    active = registry.active
    fitted_with = active.settings_digest if active else ""
    if reason := why_fit_is_due(registry, settings):
        message = f"The segments are those of the previous model: {reason}. Run {REFIT_JOB}, or `segments run`."
    elif pending := registry.pending_since_promotion:
        fitted = "" if fitted_with == settings.model_digest else " The active model was fitted with other settings."
        message = (
            f"Model {pending[-1].model_id} is pending approval, {len(pending)} in all.{fitted} See `segments model"
            " list`, then promote a model, or fit again when the cause is removed."
        )
    else:
        # A person may have activated a model that was fitted with other settings.
        message = ""
    rows = [{"active_model": active.model_id if active else "none"}] if message else []
    return warning_result(rows, message)
