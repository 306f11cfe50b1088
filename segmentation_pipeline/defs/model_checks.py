"""The checks of the model and of what it foretells; those of the data are in `checks`."""

from typing import Any

import dagster as dg

from segmentation_pipeline.model.kmeans import TIE
from segmentation_pipeline.model.segmentation_model import FEATURES
from segmentation_pipeline.orchestration.check_results import found, selected, warned
from segmentation_pipeline.orchestration.resources import RetailerResource
from segmentation_pipeline.segments.registry import Registry
from segmentation_pipeline.segments.score_macro import score_macro
from segmentation_pipeline.tables.contract import quoted
from segmentation_pipeline.warehouse.database import select_of

PARITY_SAMPLE = 100_000


@dg.asset_check(asset="kmeans_model")
def silhouette_above_floor(retailer: RetailerResource) -> dg.AssetCheckResult:
    """The clusters are apart: the silhouette is above the floor of the settings."""
    floor = retailer.settings.checks.min_silhouette
    silhouette = retailer.warehouse.row("select silhouette from kmeans_model")["silhouette"]
    said = f"The silhouette is {silhouette:.3f}, below checks.min_silhouette = {floor:g}."
    return dg.AssetCheckResult(
        passed=silhouette >= floor,
        severity=dg.AssetCheckSeverity.WARN,
        description=said if silhouette < floor else None,
        metadata={"silhouette": silhouette},
    )


@dg.asset_check(
    asset="kmeans_segments",
    additional_deps=["normal_customers", "segmentation_models", "model_features", "model_centroids"],
    blocking=True,
)
def sql_agrees_with_predict(retailer: RetailerResource) -> dg.AssetCheckResult:
    """SQL finds the cluster that scikit-learn's predict finds, for each customer (of a sample where there are many)."""
    import numpy as np

    from segmentation_pipeline.model.kmeans import agree, nearest

    columns = _sampled_customers(retailer)
    standing = Registry.of(retailer.warehouse).standing
    assert standing is not None
    model = standing.model
    scaled = model.scaler.apply(np.column_stack([columns[name] for name in FEATURES]))
    clusters, predicted = np.asarray(columns["cluster"]), nearest(scaled, model.centroids_)
    differ = np.flatnonzero(~agree(clusters, predicted, scaled, model.centroids_))
    disagreeing = (columns["customer_id"][differ], clusters[differ].tolist(), predicted[differ].tolist())
    faults = [
        {"customer_id": who, "sql": ours, "predict": theirs} for who, ours, theirs in zip(*disagreeing, strict=True)
    ]
    said = f"SQL and scikit-learn disagree on {len(differ):,} of {len(predicted):,} customers."
    return found(faults, said, customers=len(predicted), disagree=len(differ))


def _sampled_customers(retailer: RetailerResource) -> dict[str, Any]:
    """Normal customers with their cluster in SQL (-1: none) and features: an array a column, the same on every run."""
    features = ", ".join(f"cast({quoted(name)} as double) as {quoted(name)}" for name in FEATURES)
    columns: dict[str, Any] = retailer.warehouse.connection.execute(
        f"select customer_id, coalesce(cluster, -1) as cluster, {features}"
        " from normal_customers left join kmeans_segments using (customer_id)"
        " order by hash(customer_id), customer_id limit $sample",
        {"sample": PARITY_SAMPLE},
    ).fetchnumpy()
    return columns


@dg.asset_check(
    asset="nearest_segments",
    additional_deps=["rfm_features", "outlier_fences", "kmeans_scaler", "kmeans_centroids", "segments"],
    blocking=True,
)
def score_customer_agrees(retailer: RetailerResource) -> dg.AssetCheckResult:
    """The function that a release holds, and scikit-learn, give every customer the segment that SQL gives."""
    warehouse = retailer.warehouse
    warehouse.connection.execute(score_macro(warehouse).replace("create or replace", "create or replace temp", 1))
    faults = [*warehouse.rows(select_of("checks/score_customer_agrees")), *_assigned_otherwise(retailer)]
    return found(faults, "The release's function, or scikit-learn, gives some customers another segment than SQL.")


def _assigned_otherwise(retailer: RetailerResource) -> list[dict[str, Any]]:
    """The customers of a sample to whom scikit-learn gives another segment, unless two centroids are equally near."""
    import numpy as np

    columns = retailer.warehouse.fetch(
        "select customer_id, nearest_segments.segment_key, cast(monetary as double) as monetary,"
        " cast(frequency as double) as frequency,"
        " cast(recency as double) as recency, coalesce(second_distance - distance, 1) as apart from nearest_segments"
        " join rfm_features using (customer_id) left join nearest_centroids using (customer_id)"
        " order by hash(customer_id), customer_id limit $sample",
        {"sample": PARITY_SAMPLE},
    )
    standing = Registry.of(retailer.warehouse).standing
    assert standing is not None
    keys = standing.model.assign(np.column_stack([columns[name] for name in FEATURES]))
    differ = np.flatnonzero((keys != columns["segment_key"].astype("U32")) & (columns["apart"] > TIE))
    ours, theirs = columns["segment_key"][differ], keys[differ].tolist()
    customers = zip(columns["customer_id"][differ], ours, theirs, strict=True)
    return [
        {"customer_id": who, "nearest_segments": sql, "other": "scikit-learn", "by_other": key}
        for who, sql, key in customers
    ]


@dg.asset_check(asset="kmeans_candidates")
def number_of_clusters_is_clear(retailer: RetailerResource) -> dg.AssetCheckResult:
    """The number of clusters that the last search took meets every guard."""
    bad = retailer.warehouse.rows("select n_clusters, verdict from kmeans_candidates where is_chosen and not passes")
    said = "No number of clusters meets every guard of the search; the least bad was taken. Look at kmeans_candidates."
    return warned(bad, said)


@dg.asset_check(asset="segmentation_models")
def last_model_was_promoted(retailer: RetailerResource) -> dg.AssetCheckResult:
    """The last model that was fitted stands; one that the gate holds asks for a person."""
    held = Registry.of(retailer.warehouse).held_since_promotion
    rows = [{"model_id": entry.model_id, "reasons": entry.facts["reasons"]} for entry in held]
    many = len(held) >= retailer.settings.promotion.max_holds
    last = f" The last: {rows[-1]['reasons']}" if rows else ""
    said = (
        f"{len(held)} model{'s' if len(held) > 1 else ''} held since one was promoted; the standing one goes on. Look:"
        f" `segments model list`. Then promote one, or mend what speaks against it.{last}"
    )
    result = warned(rows, said, held=len(held))
    return result._replace(severity=dg.AssetCheckSeverity.ERROR) if many else result


@dg.asset_check(asset="model_drift")
def customers_are_those_of_the_model(retailer: RetailerResource) -> dg.AssetCheckResult:
    """Today's customers are like those that the model was fitted on, and few of them moved or are new."""
    far = retailer.warehouse.rows("select figure, value, bound from model_drift where value > bound order by figure")
    told = ", ".join(f"{row['figure']} is {row['value']:.3f} (bound {row['bound']:g})" for row in far)
    said = f"{told}. Where a feature drifts, the fences and the model may no longer suit: look at it, and refit."
    return warned(far, said)


@dg.asset_check(asset="segment_migrations", additional_deps=["segment_history"], blocking=True)
def migrations_sum_to_customers(retailer: RetailerResource) -> dg.AssetCheckResult:
    """The migrations of each comparable month sum to its customers."""
    return selected(retailer, "migrations_sum_to_customers", "Customers are lost or counted twice between months.")


@dg.asset_check(asset="backtest_figures")
def segments_foretell_no_worse_than_rules(retailer: RetailerResource) -> dg.AssetCheckResult:
    """In the back-test the segments foretell spend no worse than the rule-based RFM segments, beyond the noise."""
    worse = retailer.warehouse.rows(
        "select month_end, population, figure, value, segments_ahead_low, segments_ahead_high from backtest_figures"
        " where segmentation = 'rfm_segments' and segments_ahead_high < 0 order by month_end, population, figure"
    )
    return warned(worse, "The rule-based RFM segments foretell spend better than the fitted ones, beyond the noise.")
