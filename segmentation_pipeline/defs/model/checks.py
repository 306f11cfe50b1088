"""Checks of the fitted model and of its back-test."""

import dagster as dg

from segmentation_pipeline.model import thresholds
from segmentation_pipeline.orchestration.check_results import warning_result
from segmentation_pipeline.orchestration.resources import RetailerConfig, WarehouseResource
from segmentation_pipeline.orchestration.run_messages import NEEDS_NO_ACTION
from segmentation_pipeline.segments.registry import Registry


@dg.asset_check(asset="kmeans_model")
def silhouette_above_minimum(retailer: RetailerConfig, warehouse: WarehouseResource) -> dg.AssetCheckResult:
    """The silhouette of the active model is at least checks.min_silhouette."""
    minimum = retailer.settings.checks.min_silhouette
    silhouette = warehouse.open().row("select silhouette from kmeans_model")["silhouette"]
    message = (
        f"The silhouette is {silhouette:.3f}, below checks.min_silhouette = {minimum:g}: the segments overlap, so"
        " customers near a border could be in either. Their numbers and names are valid. If campaigns treat the"
        " segments very differently, try `segments model search`; otherwise lower the bound."
    )
    return dg.AssetCheckResult(
        passed=silhouette >= minimum,
        severity=dg.AssetCheckSeverity.WARN,
        description=message if silhouette < minimum else None,
        metadata={"silhouette": silhouette},
    )


@dg.asset_check(asset="kmeans_candidates")
def number_of_clusters_is_clear(warehouse: WarehouseResource) -> dg.AssetCheckResult:
    """The number of clusters that the last search chose passes every condition of the search."""
    bad = warehouse.open().rows("select n_clusters, verdict from kmeans_candidates where is_chosen and not passes")
    message = (
        "No number of clusters passes every condition; the search chose the nearest. The segments are valid, but"
        " another sample of customers might split them differently: see kmeans_candidates, and set model.n_clusters"
        " to keep a number of your own."
    )
    return warning_result(bad, message)


@dg.asset_check(asset="segmentation_models")
def last_model_was_promoted(warehouse: WarehouseResource) -> dg.AssetCheckResult:
    """No model is pending approval since the active model was promoted; several in a row are an error."""
    pending = Registry.of(warehouse.open()).pending_since_promotion
    rows = [{"model_id": model.model_id, "reasons": model.reasons} for model in pending]
    many = len(pending) >= thresholds.PROMOTION.max_pending
    last = f" The last: {rows[-1]['reasons']}" if rows else ""
    message = (
        f"{len(pending)} model{'s' if len(pending) > 1 else ''} pending approval since the active model was promoted."
        f" See `segments model list`, then promote one, or correct the data or settings that its reasons name.{last}"
    )
    result = warning_result(rows, message, pending=len(pending))
    return result._replace(severity=dg.AssetCheckSeverity.ERROR) if many else result


@dg.asset_check(asset="backtest_verdict")
def segments_predict_no_worse_than_rules(warehouse: WarehouseResource) -> dg.AssetCheckResult:
    """Over all month ends, the segments predict spend no worse than the rule-based RFM segments, beyond the noise.

    All customers decide; where they leave it open, the normal customers do.
    """
    rows = {row["population"]: row for row in warehouse.open().rows("select * from backtest_verdict")}
    decides = rows["normal" if rows["all"]["verdict"] == "equal" else "all"]
    behind = [decides] if decides["verdict"] == "behind" else []
    sentences = {name: row["sentence"] for name, row in rows.items()}
    return warning_result(behind, decides["sentence"], **sentences, **{NEEDS_NO_ACTION: True})


@dg.asset_check(asset="customer_value_errors")
def value_forecast_beats_last_year(warehouse: WarehouseResource) -> dg.AssetCheckResult:
    """The forecast of customer value misses the spend of customers by less than last year's spend does."""
    rows = warehouse.open().rows("select * from customer_value_errors order by forecast")
    errors = {row["forecast"]: row["mean_absolute_error"] for row in rows}
    is_worse = bool(rows) and errors["model"] >= errors["naive"]
    message = (
        "customer_value does not forecast amounts better than the naive forecast: over the last 90 days it missed the"
        " spend of a customer by {model:,.2f} on average, last year's spend, scaled, by {naive:,.2f}. Compare customers"
        " by it, and do not plan revenue with it."
    )
    return warning_result(
        rows if is_worse else [], message.format(**errors) if is_worse else "", **errors, **{NEEDS_NO_ACTION: True}
    )
