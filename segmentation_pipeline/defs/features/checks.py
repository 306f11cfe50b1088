"""Checks of the features: customers and money reconcile, scores are ordered, and the release checks pass."""

from collections.abc import Iterator

import dagster as dg

from segmentation_pipeline.ingestion.losses import explain_loss, too_little_data
from segmentation_pipeline.orchestration.check_results import check_result, similar_ids_result, sql_check
from segmentation_pipeline.orchestration.resources import RetailerConfig, WarehouseResource
from segmentation_pipeline.privacy.customer_ids import SimilarIds, similar_ids_select
from segmentation_pipeline.releases.release_checks import CHECKS, NOT_PUBLISHED, ReleaseMetrics, release_check_messages
from segmentation_pipeline.releases.store import Releases

customers_and_money_reconcile = sql_check(
    "customers_and_money_reconcile",
    asset="rfm_features",
    deps=["clean_transactions"],
    description="Every customer of clean_transactions has one row, with the customer's own money within the look-back.",
    message="rfm_features does not hold the customers of clean_transactions, each once with the customer's own money."
    " If rows were changed by hand, `segments run --reload` derives every table anew.",
    values=lambda settings: {"look_back_days": settings.rfm.look_back_days},
)
all_combinations_named = sql_check(
    "all_combinations_named",
    asset="rfm_segment_map",
    description="Each of the 125 combinations of scores has exactly one rule-based segment.",
    message="Some combinations of scores have no segment, or two.",
)
scores_direction_and_ties = sql_check(
    "scores_direction_and_ties",
    asset="rfm_scores",
    deps=["rfm_features"],
    description="A more recent, more frequent or higher value never scores lower, and equal values score equally.",
    message="A score holds a value that is no better than one of a lower score.",
)


@dg.asset_check(asset="rfm_features", additional_deps=["clean_transactions"], blocking=True)
def minimum_data(retailer: RetailerConfig, warehouse: WarehouseResource) -> dg.AssetCheckResult:
    """There are enough customers over enough days to segment."""
    database = warehouse.open()
    row, message = too_little_data(database, retailer.settings)
    if message:
        message = f"{message} {explain_loss(database, retailer.settings)}".strip()
    return check_result([row] if message else [], message, **row)


@dg.asset_check(asset="rfm_features")
def customer_ids_are_distinct(retailer: RetailerConfig, warehouse: WarehouseResource) -> dg.AssetCheckResult:
    """No more customer ids differ in form only than checks.max_similar_ids allows; pseudonyms cannot be compared."""
    settings, found = retailer.settings, None
    if not settings.privacy.pseudonymise:
        found = SimilarIds.of(warehouse.open().row(similar_ids_select("select customer_id from rfm_features")))
    return similar_ids_result(settings, found)


@dg.multi_asset_check(
    name="release_checks",
    specs=[
        dg.AssetCheckSpec(name, asset="rfm_features", blocking=True, description=text) for name, text in CHECKS.items()
    ],
)
def release_checks(retailer: RetailerConfig, warehouse: WarehouseResource) -> Iterator[dg.AssetCheckResult]:
    """Compare the run with the current release, before the model, the membership history and the release see it."""
    previous, settings = Releases(retailer.folders.releases).baseline, retailer.settings
    metrics = ReleaseMetrics.of(warehouse.open(), "rfm_features")
    messages = release_check_messages(previous, metrics, retailer.latest_possible_at, settings.release)
    for name, message in messages.items():
        yield dg.AssetCheckResult(
            check_name=name,
            asset_key="rfm_features",
            passed=not message,
            severity=dg.AssetCheckSeverity.WARN if retailer.accept_change else dg.AssetCheckSeverity.ERROR,
            description=f"{message} {NOT_PUBLISHED}" if message and not retailer.accept_change else message or None,
        )
