"""Compare a run with the current release before a model is fitted or a release is published.

Contains the release checks. Each returns a message, or an empty one where the check passes.
"""

from dataclasses import asdict, dataclass
from datetime import datetime, time, timedelta
from decimal import Decimal
from typing import Any

from segmentation_pipeline.config.sections import Release as ReleaseSettings
from segmentation_pipeline.releases.files import Release
from segmentation_pipeline.tables.contract import quoted
from segmentation_pipeline.warehouse.database import Warehouse

CHECKS = {
    "no_sudden_loss": "Lines, customers and revenue fell by no more than release.max_drop since the current release.",
    "as_of_plausible": "as_of changed by no more than release.max_as_of_jump_days, and is not later than the run. An"
    " as_of that is set as a day counts whole, so it may end with the day of the run.",
}
NOT_PUBLISHED = (
    "Nothing was fitted or published; the active model and the current release were not changed. If the change is"
    " correct, accept it (segments run --accept-change; accept_change of the resource `retailer`)."
)


@dataclass(frozen=True)
class ReleaseMetrics:
    """The totals of a run that the release checks compare and the manifest records."""

    as_of: datetime
    last_transaction_at: datetime
    raw_lines: int
    rejected_lines: int
    clean_lines: int
    customers: int
    revenue: Decimal

    @classmethod
    def of(cls, warehouse: Warehouse, table: str) -> "ReleaseMetrics":
        """Compute the metrics from the working database; the table has one row per customer.

        Lines after as_of and of superseded files are neither clean nor rejected; they count as raw lines only.
        """
        return cls(
            **warehouse.row(
                "select max(as_of) as as_of,"  # noqa: S608 - own SQL, values are bound
                " (select max(transaction_at) from clean_transactions) as last_transaction_at,"
                " (select count(*) from raw_transactions) as raw_lines,"
                " (select count(*) from rejected_transactions where rule not in ('after_as_of', 'superseded_file'))"
                " as rejected_lines,"
                " (select count(*) from clean_transactions) as clean_lines,"
                f" count(*) as customers, sum(monetary) as revenue from {quoted(table)}"
            )
        )

    def as_json(self) -> dict[str, Any]:
        """Return the metrics for the manifest; money is text, so that no reader rounds it."""
        return {key: value if isinstance(value, int) else str(value) for key, value in asdict(self).items()}


def release_check_messages(
    previous: Release | None, metrics: ReleaseMetrics, scheduled_at: datetime, settings: ReleaseSettings
) -> dict[str, str]:
    """Return the message of each release check by its name; an empty message means that it passed.

    Args:
        previous: The release to compare with; None before the first one.
        metrics: The metrics of the run.
        scheduled_at: The time of the run, in the retailer's time zone.
        settings: The limits.
    """
    return {
        "no_sudden_loss": sudden_loss(previous, metrics, settings.max_drop),
        "as_of_plausible": implausible_as_of(previous, metrics, scheduled_at, settings.max_as_of_jump_days),
    }


def sudden_loss(previous: Release | None, metrics: ReleaseMetrics, max_drop: float) -> str:
    """Return a message where lines, customers or revenue fell by more than a share, as after a truncated export."""
    if previous is None:
        return ""
    falls = []
    for name in ("clean_lines", "customers", "revenue"):
        before, now = Decimal(previous.metrics[name]), Decimal(getattr(metrics, name))
        if before > 0 and now < before * (1 - Decimal(str(max_drop))):
            falls.append(f"{name} fell from {before:,} to {now:,} ({now / before - 1:.1%})")
    if not falls:
        return ""
    return f"Compared with release {previous.name}, {'; '.join(falls)}; the limit is {max_drop:.0%}."


def implausible_as_of(previous: Release | None, metrics: ReleaseMetrics, scheduled_at: datetime, max_days: int) -> str:
    """Return a message where as_of is later than the run, or far from the as_of of the previous release.

    A day in the settings counts whole, so its as_of is the following midnight, which may be later than the run. A
    transaction may not be, so an as_of that is the time of the last transaction has no such tolerance.
    """
    as_of = metrics.as_of
    is_whole_day = as_of > metrics.last_transaction_at and as_of.time() == time()
    if as_of > scheduled_at + timedelta(days=is_whole_day):
        return (
            f"as_of {as_of} is later than the time of the run, {scheduled_at:%Y-%m-%d %H:%M}; the last transaction is"
            f" at {metrics.last_transaction_at}. Check the newest lines of clean_transactions, or set rfm.as_of."
        )
    if previous is not None and abs(as_of - previous.as_of) > timedelta(days=max_days):
        return (
            f"as_of changed from {previous.as_of} (release {previous.name}) to {as_of}; the limit is {max_days} days."
        )
    return ""
