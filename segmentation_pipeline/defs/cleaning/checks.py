"""Checks of the cleaning: lines and money reconcile, the newest transaction is recent, and what is lost is expected."""

from dataclasses import asdict

import dagster as dg

from segmentation_pipeline.ingestion.losses import Losses
from segmentation_pipeline.orchestration.check_results import check_result, sql_check, warning_result
from segmentation_pipeline.orchestration.resources import RetailerConfig, WarehouseResource
from segmentation_pipeline.releases.store import Releases
from segmentation_pipeline.tables.catalog import check_select

COMPARED_RELEASES = 5
SHOWN_FILES = 3
# Equal invoices in two files can be chance or the edge of two exports; ten lines or half of a file are neither.
MIN_REPEATED_LINES, MIN_REPEATED_SHARE = 10, 0.5

lines_and_money_reconcile = sql_check(
    "lines_and_money_reconcile",
    asset="clean_transactions",
    deps=["raw_transactions", "rejected_transactions"],
    description="Raw lines = clean + rejected lines, in rows and in money.",
    message="clean_transactions and rejected_transactions do not sum to raw_transactions. If rows were changed by hand,"
    " `segments run --reload` derives every table anew.",
)


@dg.asset_check(asset="clean_transactions", additional_deps=["rejected_transactions"])
def feed_is_fresh(retailer: RetailerConfig, warehouse: WarehouseResource) -> dg.AssetCheckResult:
    """In a scheduled run, the newest transaction is no older than checks.max_feed_age_days.

    Runs that a person requests are not checked, since they may well process old data.
    """
    tick, days = retailer.scheduled_at, retailer.settings.checks.max_feed_age_days
    old = warehouse.open().rows(check_select("feed_is_fresh"), tick=tick, max_feed_age_days=days)
    newest = old[0]["newest_transaction_at"] if old else None
    message = (
        f"The newest transaction is of {newest}, and the run was scheduled for {tick}; checks.max_feed_age_days allows"
        f" {days} days. Check whether the source still delivers files. If the shop was closed, nothing is wrong."
        if newest
        else f"No transaction is dated before the scheduled time {tick}."
    )
    return warning_result(old if retailer.is_scheduled else [], message, scheduled=retailer.is_scheduled)


@dg.asset_check(asset="file_overlaps")
def no_file_repeats_another(retailer: RetailerConfig, warehouse: WarehouseResource) -> dg.AssetCheckResult:
    """No more lines of a file than checks.max_repeated_share are found again in another file."""
    rows = warehouse.open().rows(
        check_select("no_file_repeats_another"),
        max_repeated_share=retailer.settings.checks.max_repeated_share,
        min_lines=MIN_REPEATED_LINES,
        min_share=MIN_REPEATED_SHARE,
    )
    files = " ".join(
        f"{row['lines']:,} of {row['file_lines']:,} lines of {row['part']}, {row['amount']:,.2f} in money, are found"
        f" again in {row['found_in']}."
        for row in rows[:SHOWN_FILES]
    )
    more = f" So are lines of {len(rows) - SHOWN_FILES} more files." if len(rows) > SHOWN_FILES else ""
    lines, amount = (sum(row[name] for row in rows) for name in ("lines", "amount"))
    message = (
        f"Lines count twice. {files}{more} If these are the same sales, count them once with cleaning.sources_overlap ="
        " true, or let the newer file of a period replace the older one with source.supersedes; if they are not, raise"
        " checks.max_repeated_share. file_overlaps lists all files."
    )
    return warning_result(rows, message, lines=lines, amount=float(amount))


@dg.asset_check(
    asset="clean_transactions",
    additional_deps=["rejected_transactions", "cleaning_report", "unparsed_values"],
    blocking=True,
)
def values_are_parsed(retailer: RetailerConfig, warehouse: WarehouseResource) -> dg.AssetCheckResult:
    """Nearly every line can be read: see checks.warn_unparsed_share and checks.fail_unparsed_share."""
    settings, losses = retailer.settings, Losses.of(warehouse.open())
    loss, judgement = losses.unreadable, losses.judge_unreadable(settings)
    result = check_result(
        losses.unparsed if judgement.warns else [],
        judgement.message,
        unparsed_share=loss.share,
        unparsed_money_share=loss.amount_share,
        lines_without_amount=loss.lines_without_amount,
    )
    return result._replace(severity=dg.AssetCheckSeverity.ERROR if judgement.fails else dg.AssetCheckSeverity.WARN)


@dg.asset_check(asset="cleaning_report")
def rejected_money_is_expected(retailer: RetailerConfig, warehouse: WarehouseResource) -> dg.AssetCheckResult:
    """No rule rejects a large share of the money that its expected_share does not cover."""
    settings, database = retailer.settings, warehouse.open()
    losses = Losses.by_report(database)
    return warning_result(
        [asdict(loss) for loss in losses.unexpected(settings)],
        losses.judge_rejected(database, settings).message,
        rejected_money_share=losses.rejected_money_share,
    )


@dg.asset_check(asset="cleaning_report")
def rejected_share_is_usual(retailer: RetailerConfig, warehouse: WarehouseResource) -> dg.AssetCheckResult:
    """The share of rejected lines is near that of the last releases."""
    share, past = Losses.by_report(warehouse.open()).rejected_share, _past_rejected_shares(retailer)
    bound = retailer.settings.checks.max_rejected_change
    usual = sum(past) / max(len(past), 1)
    message = ""
    if past and abs(share - usual) > bound:
        message = (
            f"{share:.1%} of the lines are rejected; the last {len(past)} releases rejected {usual:.1%}."
            f" checks.max_rejected_change allows a difference of {bound:.1%}. cleaning_report shows the rules that"
            " reject them."
        )
    return dg.AssetCheckResult(
        passed=not message,
        severity=dg.AssetCheckSeverity.WARN,
        description=message or None,
        metadata={"rejected_share": share},
    )


def _past_rejected_shares(retailer: RetailerConfig) -> list[float]:
    past = [release.metrics for release in Releases(retailer.folders.releases).all()][-COMPARED_RELEASES:]
    return [metrics["rejected_lines"] / (metrics["rejected_lines"] + metrics["clean_lines"]) for metrics in past]
