"""Back-test the segments: form them at past month ends as they would have been then, and compare with later spend.

Contains which month ends are evaluated, and the rows of the tables of the back-test. The metrics themselves are in
`model.lift`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from segmentation_pipeline import progress
from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.errors import FitError
from segmentation_pipeline.model import thresholds
from segmentation_pipeline.model.segment_catalog import FEATURES
from segmentation_pipeline.segments.customer_blocks import BLOCK, derive_in_blocks
from segmentation_pipeline.segments.past_customers import CUSTOMERS, INPUTS, month_ends
from segmentation_pipeline.segments.training import fit_model
from segmentation_pipeline.warehouse.database import Warehouse
from segmentation_pipeline.warehouse.queries import inline_upstream
from segmentation_pipeline.warehouse.table_write import TableWrite

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from segmentation_pipeline.model.lift import Draws, Interval, LiftMetrics, Resamples

    # The customers at a month end by column: their features then, their RFM segment, and their later spend.
    Columns = dict[str, NDArray[Any]]

TABLES = ("segment_backtest", "backtest_metrics", "backtest_verdict")
POPULATIONS = ("all", "normal")
WHO = {"all": "Among all customers", "normal": "Among normal customers"}
SENTENCES = {
    "ahead": (
        "{who}, the segments tell better than the rule-based RFM segments who spends in the next {horizon_days} days."
    ),
    "equal": (
        "{who}, the segments tell as well as the rule-based RFM segments who spends in the next {horizon_days} days:"
        " a difference, if there is one, is within the noise of this data."
    ),
    "behind": (
        "{who}, the rule-based RFM segments tell better than the segments who spends in the next {horizon_days} days:"
        " to choose whom to address first, sort by rfm_segment."
    ),
    "no_signal": (
        "{who}, nothing in this data foretells who spends in the next {horizon_days} days: neither the segments, nor"
        " past spend, nor the rule-based RFM segments do better than chance."
    ),
    "no_data": (
        "{who}, this data is too short to tell: it has no month end with {history_days} days before it, and"
        " {horizon_days} days with spend after it."
    ),
}
# Raise it when the method of the back-test changes.
METHOD_VERSION = "5"
# At one month end, in the order of their numbers. The RFM segment is a number, because texts would take ten times as
# much memory.
_CUSTOMERS = """
select
    features.* exclude (customer_id, as_of),
    names.number as rfm_segment
from rfm_features as features
inner join rfm_scores as scores on features.customer_id = scores.customer_id
inner join (
    select rfm_segment, row_number() over (order by rfm_segment) as number
    from (select distinct rfm_segment from rfm_segment_map)
) as names on scores.rfm_segment = names.rfm_segment
order by features.number
"""
_AT_MONTH_END = {"rfm_features": "select * from temp.past_customers where as_of = $as_of"}


@dataclass(frozen=True)
class PastSegments:
    """The segments of the customers at a month end, as they would have been then.

    Attributes:
        month_end: The month end.
        customers: The customers, and what they did afterwards.
        keys: The segments, in order.
        numbers: The place in `keys` of the segment of each customer, shape (n,).
        is_normal: Whether each is a normal customer, shape (n,).
    """

    month_end: datetime
    customers: "Columns"
    keys: list[str]
    numbers: "NDArray[Any]"
    is_normal: "NDArray[np.bool_]"

    def of(self, population: str) -> "tuple[NDArray[Any], Columns]":
        """Return the numbers of the segments and the columns of the customers of a population."""
        if population == "all":
            return self.numbers, self.customers
        columns = {name: column[self.is_normal] for name, column in self.customers.items()}
        return self.numbers[self.is_normal], columns


@dataclass(frozen=True)
class _Month:
    """How well each segmentation predicts the spend after a month end, in one population.

    Attributes:
        groups: The number of groups of each segmentation.
        metrics: The metrics of each segmentation.
        draws: The metrics of each in each resample.
    """

    groups: dict[str, int]
    metrics: "dict[str, LiftMetrics]"
    draws: "Draws"


def run_backtest(database: Warehouse, settings: Retailer) -> tuple[list[TableWrite], list[datetime], dict[str, int]]:
    """Return the content of the back-test's tables, the month ends that they cover, and the numbers of customers."""
    from segmentation_pipeline.model.lift import Resamples

    counts = _count_customers(database)
    resamples = Resamples(
        counts["evaluated_customers"],
        random_state=thresholds.FIT.random_state,
        resamples=thresholds.BACKTEST.resamples,
    )
    segments, metrics, months = list[tuple[Any, ...]](), list[tuple[Any, ...]](), list[datetime]()
    evaluated: dict[str, list[_Month]] = {population: [] for population in POPULATIONS}
    for past in past_segments(database, settings):
        segments.extend(_segment_rows(past))
        months.append(past.month_end)
        for population in POPULATIONS:
            one = _predicted(*past.of(population), resamples)
            metrics.extend(_metric_rows(past.month_end, population, one))
            evaluated[population].append(one)
    verdicts = [_verdict_row(population, found) for population, found in evaluated.items()]
    contents = zip(TABLES, (segments, metrics, verdicts), strict=True)
    return [TableWrite(table, rows=rows) for table, rows in contents], months, counts


def _count_customers(database: Warehouse) -> dict[str, int]:
    """Return the number of customers, and of those that are evaluated, at whichever month ends they are known."""
    customers = database.row("select count(distinct customer_id) as customers from invoice_totals")["customers"]
    return {"customers": customers, "evaluated_customers": min(customers, thresholds.BACKTEST.max_customers)}


def past_segments(database: Warehouse, settings: Retailer) -> Iterator[PastSegments]:
    """Yield the segments at each month end that is reported, as they would have been then.

    Transform and number of clusters are those of the active model, since its segments are evaluated. Month ends whose
    later spend decided these are left out, and those with too few distinct customers.
    """
    model = database.row(
        "select transform, n_clusters, compared_month_ends from segmentation_models where status = 'active'"
    )
    compared = set(model.pop("compared_month_ends") or ())
    settings = settings.model_copy(update={"model": settings.model.model_copy(update=model)})
    as_of = database.row("select max(as_of) as as_of from rfm_features")["as_of"]
    reported = [month for month in month_ends(database, as_of) if month not in compared]
    horizon = timedelta(days=thresholds.BACKTEST.horizon_days)
    times = [settings.sql_values | {"as_of": month, "until": month + horizon} for month in reported]
    if reported:
        text, limit = inline_upstream(CUSTOMERS, INPUTS), thresholds.BACKTEST.max_customers
        derive_in_blocks(database, "past_customers", text, times, max_customers=limit)
    for number, month in enumerate(reported, start=1):
        progress.report(f"testing month {number} of {len(reported)}")
        customers = database.fetch(inline_upstream(_CUSTOMERS, _AT_MONTH_END), {"as_of": month})
        try:
            past = _formed(month, customers, settings)
        except FitError:
            continue
        yield past


def _formed(month: datetime, customers: "Columns", settings: Retailer) -> PastSegments:
    """Return the segments of the customers at a month end.

    Raises:
        FitError: There are too few distinct customers.
    """
    import numpy as np

    from segmentation_pipeline.model.segmentation_model import is_normal

    features = np.column_stack([customers[name] for name in FEATURES])
    model, *_ = fit_model(features, settings)
    # In blocks and as numbers, because the text of a segment takes as much memory as all columns of a customer.
    blocks = [
        np.unique(
            model.assign(features[start : start + BLOCK], customers["refunds"][start : start + BLOCK]),
            return_inverse=True,
        )
        for start in range(0, len(features), BLOCK)
    ]
    keys = np.unique(np.concatenate([names for names, _ in blocks]))
    numbers = np.concatenate([np.searchsorted(keys, names)[places] for names, places in blocks])
    return PastSegments(month, customers, keys.tolist(), numbers, is_normal(model.fences, features))


def _predicted(numbers: "NDArray[Any]", customers: "Columns", resamples: "Resamples") -> _Month:
    """Return how well each segmentation of some customers predicts their later spend."""
    import numpy as np

    from segmentation_pipeline.model.lift import lift, spend_groups

    segments, groups = np.unique(numbers, return_inverse=True)
    groupings = {
        "segments": groups,
        "spend": spend_groups(customers["monetary"], len(segments)),
        "rfm_segments": np.unique(customers["rfm_segment"], return_inverse=True)[1],
    }
    past, future = customers["monetary"], customers["spend"]
    return _Month(
        {name: len(np.unique(grouping)) for name, grouping in groupings.items()},
        {name: lift(grouping, past, future) for name, grouping in groupings.items()},
        resamples.draw(customers["number"], groupings, past, future),
    )


def _segment_rows(found: PastSegments) -> Iterator[tuple[Any, ...]]:
    """Yield the later spend of each segment."""
    month, customers = found.month_end, found.customers
    total = customers["spend"].sum()
    for place, key in enumerate(found.keys):
        members = found.numbers == place
        number, spend = int(members.sum()), float(customers["spend"][members].sum())
        share = None if total <= 0 else round(spend / total, 12)
        returned = round(float(customers["returned"][members].mean()), 12)
        past = round(float(customers["monetary"][members].mean()), 6)
        yield (month, key, number, past, round(spend, 4), share, round(spend / number, 6), returned)


def _metric_rows(month: datetime, population: str, found: _Month) -> Iterator[tuple[Any, ...]]:
    """Yield how well each segmentation predicts the later spend, with bootstrap intervals over the customers."""
    from segmentation_pipeline.model.lift import METRICS, interval

    for name, groups in found.groups.items():
        for place, metric in enumerate(METRICS):
            own, segments = (found.draws[which][:, place] for which in (name, "segments"))
            low, high = interval(own) or (None, None)
            lead = None if name == "segments" else interval(segments - own)
            value = getattr(found.metrics[name], metric)
            yield (month, population, name, metric, groups, value, low, high, *(lead or (None, None)))


def _verdict_row(population: str, months: list[_Month]) -> tuple[Any, ...]:
    """Return the one comparison of the segments with the rules, over all month ends of a population."""
    import numpy as np

    from segmentation_pipeline.model.lift import METRICS, interval

    place = METRICS.index("gini")
    defined = [month for month in months if month.metrics["segments"].gini is not None]
    names = list(defined[0].groups) if defined else []
    ginis = {name: float(np.mean([month.metrics[name].gini for month in defined])) for name in names}
    # A resample in which one month end has no spend has no mean.
    draws = {name: np.mean([month.draws[name][:, place] for month in defined], axis=0) for name in names}
    lead = interval(draws["segments"] - draws["rfm_segments"]) if defined else None
    lows = [found[0] for found in map(interval, draws.values()) if found is not None]
    verdict = _verdict(lead, lows)
    rounded = [round(ginis[name], 12) if ginis else None for name in ("segments", "rfm_segments", "spend")]
    difference = round(ginis["segments"] - ginis["rfm_segments"], 12) if ginis else None
    return (
        population,
        len(defined),
        *rounded,
        difference,
        *(lead or (None, None)),
        verdict,
        SENTENCES[verdict].format(who=WHO[population], **vars(thresholds.BACKTEST)),
    )


def _verdict(lead: "Interval | None", lows: list[float]) -> str:
    """Return the answer to whether the segments predict worse than the rules.

    Args:
        lead: The interval of the segments' Gini minus that of the rules.
        lows: The lower end of the interval of each Gini.
    """
    if lead is None or not lows:
        return "no_data"
    if max(lows) <= 0:
        return "no_signal"
    if lead[1] < 0:
        return "behind"
    return "ahead" if lead[0] > 0 else "equal"
