"""What a run's data are held against, before a release is published or a model fitted on them.

Belongs here: the questions of the gate, to the figures of the standing release and to the time of the run. Each answers
with a sentence, or with nothing if all is well.
"""

from dataclasses import asdict, dataclass
from datetime import datetime, time, timedelta
from decimal import Decimal
from typing import Any

from segmentation_pipeline.config.sections import Release as Bounds
from segmentation_pipeline.releases.files import Release
from segmentation_pipeline.tables.contract import quoted
from segmentation_pipeline.warehouse.database import Warehouse

CHECKS = {
    "no_sudden_loss": "Lines, customers and revenue fell by no more than release.max_drop since the last release.",
    "as_of_plausible": "as_of jumped by no more than release.max_as_of_jump_days, and is not ahead of the run's time;"
    " one that is set as a day, which counts whole, may end with the day of the run.",
}
NOT_PUBLISHED = (
    "Nothing was fitted or published; the standing model and release go on. If the change is right, accept it"
    " (segments run --accept-change; accept_change of the resource `retailer`)."
)


@dataclass(frozen=True)
class ReleaseMetrics:
    """What a run came to."""

    as_of: datetime
    last_transaction_at: datetime
    raw_lines: int
    rejected_lines: int
    clean_lines: int
    customers: int
    revenue: Decimal

    @classmethod
    def of(cls, warehouse: Warehouse, table: str) -> "ReleaseMetrics":
        """Read off the working database, the customers in one of the tables that hold them all.

        Lines after as_of are neither clean nor wrongly refused: they count as read only.
        """
        return cls(
            **warehouse.row(
                "select max(as_of) as as_of,"
                " (select max(transaction_at) from clean_transactions) as last_transaction_at,"
                " (select count(*) from raw_transactions) as raw_lines,"
                " (select count(*) from rejected_transactions where rule <> 'after_as_of') as rejected_lines,"
                " (select count(*) from clean_transactions) as clean_lines,"
                f" count(*) as customers, sum(monetary) as revenue from {quoted(table)}"
            )
        )

    def as_json(self) -> dict[str, Any]:
        """For the manifest; money as text, so that no reader rounds it."""
        return {key: value if isinstance(value, int) else str(value) for key, value in asdict(self).items()}


def changes(standing: Release | None, figures: ReleaseMetrics, tick: datetime, bounds: Bounds) -> dict[str, str]:
    """The answer to each question by its name: a sentence where something is wrong, else nothing."""
    return {
        "no_sudden_loss": change_since(standing, figures, bounds.max_drop),
        "as_of_plausible": time_jump(standing, figures, tick, bounds.max_as_of_jump_days),
    }


def change_since(standing: Release | None, figures: ReleaseMetrics, max_drop: float) -> str:
    """Whether lines, customers or revenue fell by more than a share: the mark of a truncated source."""
    if standing is None:
        return ""
    before = standing.manifest["figures"]
    fallen = []
    for name in ("clean_lines", "customers", "revenue"):
        was, now = Decimal(before[name]), Decimal(getattr(figures, name))
        if was > 0 and now < was * (1 - Decimal(str(max_drop))):
            fallen.append(f"{name} fell from {was:,} to {now:,} ({now / was - 1:.1%})")
    if not fallen:
        return ""
    return f"Against release {standing.name}, {'; '.join(fallen)}; the bound is {max_drop:.0%}."


def time_jump(standing: Release | None, figures: ReleaseMetrics, tick: datetime, max_days: int) -> str:
    """Whether as_of lies ahead of the run's time, or far from the standing release's.

    A day of the settings counts whole, so its as-of is the midnight after it: the day of the run may end ahead of the
    run. A transaction may not, so an as-of that is the last transaction's has no such grace.
    """
    as_of = figures.as_of
    is_whole_day = as_of > figures.last_transaction_at and as_of.time() == time()
    if as_of > tick + timedelta(days=is_whole_day):
        return (
            f"as_of {as_of} lies ahead of the run's time {tick:%Y-%m-%d %H:%M}; the last transaction is of"
            f" {figures.last_transaction_at}. Look at the newest lines of clean_transactions, or set rfm.as_of."
        )
    if standing is not None and abs(as_of - standing.as_of) > timedelta(days=max_days):
        return f"as_of went from {standing.as_of} (release {standing.name}) to {as_of}; the bound is {max_days} days."
    return ""
