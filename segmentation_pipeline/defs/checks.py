"""The checks that look across tables; those of one table come from its contract.

A check selects what is wrong (`sql/checks/`), so that a failing one shows it. Blocking ones stand before the release.
"""

from collections.abc import Iterator

import dagster as dg

from segmentation_pipeline.ingestion.cleaning import loss
from segmentation_pipeline.orchestration.check_results import SHOWN_FAULTS, found, selected, warned
from segmentation_pipeline.orchestration.resources import RetailerResource
from segmentation_pipeline.releases.gate import GATE, STOPPED, Figures, faults
from segmentation_pipeline.releases.store import Releases
from segmentation_pipeline.warehouse.database import select_of

USUAL_RELEASES = 5
MOST = 0.5


@dg.asset_check(asset="ingested_files", additional_deps=["raw_transactions"], blocking=True)
def lines_of_each_file(retailer: RetailerResource) -> dg.AssetCheckResult:
    """Every record of every file is in raw_transactions, as a line or as a broken one, and none is there twice."""
    said = "raw_transactions does not hold the records that were read of each file."
    return selected(retailer, "lines_of_each_file", said)


@dg.asset_check(asset="ingested_files")
def files_are_readable(retailer: RetailerResource) -> dg.AssetCheckResult:
    """No file is set aside because it cannot be read."""
    aside = retailer.warehouse.rows(
        "select source_file, reason, lines as lines_of_before from ingested_files where status = 'set_aside' order by 1"
    )
    said = f"Set aside, and tried again by the next run: {' '.join(file['reason'] for file in aside[:SHOWN_FAULTS])}"
    return warned(aside, said, files_set_aside=len(aside))


@dg.asset_check(asset="ingested_files")
def files_are_there(retailer: RetailerResource) -> dg.AssetCheckResult:
    """No file that was there at the last run is gone; told once, by the run that misses it first."""
    gone = retailer.warehouse.rows(
        "select source_file, lines, run_id from ingested_files where status = 'gone' order by 1"
    )
    missed = [file for file in gone if file["run_id"] == retailer.run_id]
    names = ", ".join(file["source_file"] for file in missed[:SHOWN_FAULTS])
    said = (
        f"Gone from the source: {names}. Their lines are kept; to forget them, run with reload (segments run --reload)."
    )
    return warned(missed, said, files_gone=len(gone))


@dg.asset_check(
    asset="clean_transactions", additional_deps=["raw_transactions", "rejected_transactions"], blocking=True
)
def lines_and_money_reconcile(retailer: RetailerResource) -> dg.AssetCheckResult:
    """Lines in = clean + rejected, in rows and in money."""
    said = "clean_transactions and rejected_transactions do not make up raw_transactions."
    return selected(retailer, "lines_and_money_reconcile", said)


@dg.asset_check(asset="clean_transactions", additional_deps=["rejected_transactions"])
def feed_is_fresh(retailer: RetailerResource) -> dg.AssetCheckResult:
    """At a schedule's tick, the newest transaction is no older than the settings allow: no dead feed, but a quiet shop.

    A person may well run over old data, so a run by hand is not asked.
    """
    tick, days = retailer.tick, retailer.settings.checks.max_feed_age_days
    old = retailer.warehouse.rows(select_of("checks/feed_is_fresh"), tick=tick, max_feed_age_days=days)
    newest = old[0]["newest_transaction_at"] if old else None
    said = (
        f"The newest transaction is of {newest}, the tick of {tick}; checks.max_feed_age_days allows {days} days."
        " Is the feed dead? If the shop was closed, nothing is wrong."
        if newest
        else f"No transaction is dated before the tick of {tick}."
    )
    return warned(old if retailer.is_scheduled else [], said, scheduled=retailer.is_scheduled)


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
    return selected(retailer, "customers_and_money_reconcile", said, look_back_days=days)


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
    return found([row] if few else [], said, **row)


@dg.multi_asset_check(
    name="release_gate",
    specs=[
        dg.AssetCheckSpec(name, asset="rfm_features", blocking=True, description=text) for name, text in GATE.items()
    ],
)
def release_gate(retailer: RetailerResource) -> Iterator[dg.AssetCheckResult]:
    """What would be published is held against the standing release before a model, the ledger or a release see it."""
    standing, settings = Releases(retailer.folders.releases).standing, retailer.settings
    figures = Figures.of(retailer.warehouse, "rfm_features")
    for name, fault in faults(standing, figures, retailer.latest_moment, settings.release).items():
        yield dg.AssetCheckResult(
            check_name=name,
            asset_key="rfm_features",
            passed=not fault,
            severity=dg.AssetCheckSeverity.WARN if retailer.accept_change else dg.AssetCheckSeverity.ERROR,
            description=f"{fault} {STOPPED}" if fault and not retailer.accept_change else fault or None,
        )


@dg.asset_check(asset="rfm_segment_map", blocking=True)
def all_combinations_named(retailer: RetailerResource) -> dg.AssetCheckResult:
    """Each of the 125 combinations of scores has one rule-based segment."""
    return selected(retailer, "all_combinations_named", "Some combinations of scores have no segment, or two.")


@dg.asset_check(asset="rfm_scores", additional_deps=["rfm_features"], blocking=True)
def scores_direction_and_ties(retailer: RetailerResource) -> dg.AssetCheckResult:
    """More recent, more often, more money: a better value never scores lower, and equal values score equally."""
    said = "A score holds a value that is no better than one of a lower score."
    return selected(retailer, "scores_direction_and_ties", said)


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
    return selected(retailer, "everybody_belongs", said)
