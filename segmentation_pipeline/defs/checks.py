"""The checks that look across tables; those of one table come from its contract.

A check selects what is wrong (`sql/checks/`), so that a failing one shows it. Blocking ones stand before the release.
"""

from collections.abc import Sequence
from typing import Any

import dagster as dg

from segmentation_pipeline.cleaning import loss
from segmentation_pipeline.contracts import quoted
from segmentation_pipeline.releases import Releases
from segmentation_pipeline.resource import RetailerResource
from segmentation_pipeline.scoring import score_macro
from segmentation_pipeline.tables import FEATURES
from segmentation_pipeline.warehouse import select_of

PARITY_SAMPLE = 100_000
USUAL_RELEASES = 5
MOST = 0.5
SHOWN_FAULTS = 20


def _found(faults: Sequence[dict[str, Any]], said: str, **figures: Any) -> dg.AssetCheckResult:
    """Passed where nothing was selected; else the first faults as a table."""
    metadata: dict[str, Any] = dict(figures)
    if faults:
        shown = [{name: _plain(value) for name, value in fault.items()} for fault in faults[:SHOWN_FAULTS]]
        metadata["faults"] = dg.MetadataValue.table([dg.TableRecord(fault) for fault in shown])
    return dg.AssetCheckResult(passed=not faults, description=said if faults else None, metadata=metadata)


def _plain(value: Any) -> Any:
    return value if isinstance(value, (int, float)) else str(value)


def _selected(retailer: RetailerResource, check: str, said: str, **values: Any) -> dg.AssetCheckResult:
    return _found(retailer.warehouse.rows(select_of(f"checks/{check}"), **values), said)


@dg.asset_check(
    asset="clean_transactions", additional_deps=["raw_transactions", "rejected_transactions"], blocking=True
)
def lines_and_money_reconcile(retailer: RetailerResource) -> dg.AssetCheckResult:
    """Lines in = clean + rejected, in rows and in money."""
    said = "clean_transactions and rejected_transactions do not make up raw_transactions."
    return _selected(retailer, "lines_and_money_reconcile", said)


@dg.asset_check(asset="clean_transactions", additional_deps=["rejected_transactions"])
def feed_is_fresh(retailer: RetailerResource) -> dg.AssetCheckResult:
    """At a schedule's tick, the newest transaction is no older than the settings allow: no dead feed, but a quiet shop.

    A person may well run over old data, so a run by hand is not asked.
    """
    tick, days = retailer.tick, retailer.settings.checks.max_feed_age_days
    faults = retailer.warehouse.rows(select_of("checks/feed_is_fresh"), tick=tick, max_feed_age_days=days)
    newest = faults[0]["newest_transaction_at"] if faults else None
    said = (
        f"The newest transaction is of {newest}, the tick of {tick}; checks.max_feed_age_days allows {days} days."
        " Is the feed dead? If the shop was closed, nothing is wrong."
        if newest
        else f"No transaction is dated before the tick of {tick}."
    )
    found = _found(faults if retailer.is_scheduled else [], said, scheduled=retailer.is_scheduled)
    return found._replace(severity=dg.AssetCheckSeverity.WARN)


@dg.asset_check(asset="cleaning_report")
def refused_share_as_usual(retailer: RetailerResource) -> dg.AssetCheckResult:
    """The share of refused lines is near that of the last releases; before the first, most lines are kept."""
    share, past = _refused_share(retailer), _past_refused_shares(retailer)
    bound = retailer.settings.checks.max_refused_change
    usual = sum(past) / max(len(past), 1)
    said = ""
    # Where not one line is left, clean_transactions has failed with the same words.
    if not past and MOST < share < 1:
        said = loss(retailer.warehouse, retailer.settings)
    elif past and abs(share - usual) > bound:
        said = (
            f"{share:.1%} of the lines are refused; the last {len(past)} releases refused {usual:.1%}; the bound of the"
            f" difference is {bound:.1%}. cleaning_report tells which rule refuses them."
        )
    return dg.AssetCheckResult(
        passed=not said,
        severity=dg.AssetCheckSeverity.WARN,
        description=said or None,
        metadata={"refused_share": share},
    )


def _refused_share(retailer: RetailerResource) -> float:
    """Of the lines up to as_of: those after it are neither clean nor wrongly refused."""
    report = retailer.warehouse.row(
        "select coalesce(sum(lines) filter (where step > 0 and rule <> 'after_as_of'), 0) as refused,"
        " min(lines_left) as kept from cleaning_report"
    )
    return float(report["refused"] / max(report["refused"] + report["kept"], 1))


def _past_refused_shares(retailer: RetailerResource) -> list[float]:
    past = [release.manifest["figures"] for release in Releases(retailer.folders.releases).all()][-USUAL_RELEASES:]
    return [figures["rejected_lines"] / (figures["rejected_lines"] + figures["clean_lines"]) for figures in past]


@dg.asset_check(asset="rfm_features", additional_deps=["clean_transactions"], blocking=True)
def customers_and_money_reconcile(retailer: RetailerResource) -> dg.AssetCheckResult:
    """Every customer of clean_transactions has its row, with its own money within the look-back."""
    said = "rfm_features does not hold the customers of clean_transactions, each once with its own money."
    days = retailer.settings.rfm.look_back_days
    return _selected(retailer, "customers_and_money_reconcile", said, look_back_days=days)


@dg.asset_check(asset="rfm_features", additional_deps=["clean_transactions"], blocking=True)
def minimum_data(retailer: RetailerResource) -> dg.AssetCheckResult:
    """There are enough customers over enough days to speak of segments."""
    bounds = retailer.settings.checks
    row = retailer.warehouse.row(
        "select count(distinct customer_id) as customers,"
        " coalesce(date_diff('day', min(transaction_at), max(transaction_at)), 0) as days from clean_transactions"
    )
    few = row["customers"] < bounds.min_customers or row["days"] < bounds.min_days
    said = (
        f"Too little data: {row['customers']:,} customers over {row['days']:,} days; the settings ask for"
        f" {bounds.min_customers:,} customers over {bounds.min_days:,} days ([checks])."
    )
    if few:
        said = f"{said} {loss(retailer.warehouse, retailer.settings)}".strip()
    return _found([row] if few else [], said, **row)


@dg.asset_check(asset="rfm_segment_map", blocking=True)
def all_combinations_named(retailer: RetailerResource) -> dg.AssetCheckResult:
    """Each of the 125 combinations of scores has one rule-based segment."""
    return _selected(retailer, "all_combinations_named", "Some combinations of scores have no segment, or two.")


@dg.asset_check(asset="rfm_scores", additional_deps=["rfm_features"], blocking=True)
def scores_direction_and_ties(retailer: RetailerResource) -> dg.AssetCheckResult:
    """More recent, more often, more money: a better value never scores lower, and equal values score equally."""
    said = "A score holds a value that is no better than one of a lower score."
    return _selected(retailer, "scores_direction_and_ties", said)


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
    additional_deps=["normal_customers", "kmeans_scaler", "kmeans_centroids"],
    blocking=True,
)
def sql_agrees_with_predict(retailer: RetailerResource) -> dg.AssetCheckResult:
    """SQL finds the cluster that scikit-learn's predict finds, for each customer (of a sample where there are many)."""
    import numpy as np

    from segmentation_pipeline.core.kmeans import agree, nearest
    from segmentation_pipeline.fitting import standing_model

    columns = _sampled_customers(retailer)
    scaler, centroids = standing_model(retailer.warehouse)
    scaled = scaler.apply(np.column_stack([columns[name] for name in FEATURES]))
    clusters, predicted = np.asarray(columns["cluster"]), nearest(scaled, centroids)
    differ = np.flatnonzero(~agree(clusters, predicted, scaled, centroids))
    disagreeing = (columns["customer_id"][differ], clusters[differ].tolist(), predicted[differ].tolist())
    faults = [
        {"customer_id": who, "sql": ours, "predict": theirs} for who, ours, theirs in zip(*disagreeing, strict=True)
    ]
    said = f"SQL and scikit-learn disagree on {len(differ):,} of {len(predicted):,} customers."
    return _found(faults, said, customers=len(predicted), disagree=len(differ))


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
    asset="customer_segments",
    additional_deps=["rfm_features", "normal_customers", "outlier_customers", "inactive_customers"],
    blocking=True,
)
def everybody_belongs(retailer: RetailerResource) -> dg.AssetCheckResult:
    """Each customer stands once in the split and once in the segments, with the money of its features, in one group."""
    said = (
        "Some customers, some of their money, or their group are lost, counted twice or changed on the way to segments."
    )
    return _selected(retailer, "everybody_belongs", said)


@dg.asset_check(
    asset="customer_segments",
    additional_deps=["outlier_fences", "kmeans_scaler", "kmeans_centroids", "segments"],
    blocking=True,
)
def score_customer_agrees(retailer: RetailerResource) -> dg.AssetCheckResult:
    """The function that a release holds gives every customer the segment that the tables give."""
    macro = score_macro(retailer.warehouse).replace("create or replace", "create or replace temp", 1)
    retailer.warehouse.connection.execute(macro)
    said = "The function score_customer gives some customers another segment than the tables."
    return _selected(retailer, "score_customer_agrees", said)
