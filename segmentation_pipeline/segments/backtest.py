"""Segments tried on the past: formed at month ends as they would have been then, held against what came after.

Belongs here: which months can be tried, what is known of their customers, and the rows that tell how it went.
"""

from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.errors import FitError
from segmentation_pipeline.model.segment_catalog import FEATURES
from segmentation_pipeline.segments.history import AS_OF_THEN
from segmentation_pipeline.segments.training import fit
from segmentation_pipeline.warehouse.database import TableWrite, Warehouse
from segmentation_pipeline.warehouse.queries import inline_upstream

if TYPE_CHECKING:
    from numpy.typing import NDArray

TABLES = ("segment_backtest", "backtest_metrics")
_LATER = """
select
    customer_id,
    sum(amount) as spend,
    max(case when not is_cancellation and amount >= 0 then 1 else 0 end) as returned
from main.clean_transactions
where transaction_at >= $as_of and transaction_at < $until
group by customer_id
"""
_CUSTOMERS = """
select
    features.customer_id,
    cast(features.monetary as double) as monetary,
    cast(features.frequency as double) as frequency,
    cast(features.recency as double) as recency,
    scores.rfm_segment,
    cast(coalesce(later.spend, 0) as double) as spend,
    coalesce(later.returned, 0) as returned
from rfm_features as features
inner join rfm_scores as scores on features.customer_id = scores.customer_id
left join later on features.customer_id = later.customer_id
order by features.customer_id
"""
_THEN = {**AS_OF_THEN, "later": _LATER}
# Raise it when the method of the back-test changes.
METHOD_VERSION = "2"


def run_backtest(database: Warehouse, settings: Retailer) -> tuple[list[TableWrite], list[datetime]]:
    """Return the back-test's tables, and the month ends that they cover.

    The number of clusters is the active model's, since its segments are what is evaluated. A month end with too few
    customers for it is left out.
    """
    k = database.row("select n_clusters from kmeans_model")["n_clusters"]
    settings = settings.model_copy(update={"model": settings.model.model_copy(update={"n_clusters": k})})
    rows: dict[str, list[tuple[Any, ...]]] = {table: [] for table in TABLES}
    months = []
    for month in _months(database, settings):
        with suppress(FitError):
            for table, found in zip(TABLES, _month(database, settings, month), strict=True):
                rows[table].extend(found)
            months.append(month)
    return [TableWrite(table, rows=rows[table]) for table in TABLES], months


def _months(database: Warehouse, settings: Retailer) -> list[datetime]:
    """Return the month ends with enough days before them to form segments, and enough after them to evaluate them."""
    rows = database.rows(
        "with span as (select min(transaction_at) as first_at, date_trunc('month', min(transaction_at))"
        " + interval '1' month as first_end from clean_transactions),"
        " moment as (select max(as_of) as as_of from rfm_features),"
        " month_ends as (select unnest(generate_series(first_end, as_of, interval '1' month)) as month_end"
        " from span cross join moment)"
        " select month_end from month_ends cross join span cross join moment"
        " where date_diff('day', first_at, month_end) >= $before and month_end + $after * interval '1' day <= as_of"
        " order by month_end",
        before=settings.backtest.history_days,
        after=settings.backtest.horizon_days,
    )
    return [row["month_end"] for row in rows]


def _month(
    database: Warehouse, settings: Retailer, month: datetime
) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    """The rows of both tables for one month end."""
    import numpy as np

    from segmentation_pipeline.model.segmentation_model import is_normal

    until = month + timedelta(days=settings.backtest.horizon_days)
    values = settings.sql_values | {"as_of": month, "until": until}
    found = database.fetch(inline_upstream(_CUSTOMERS, _THEN), values)
    features = np.column_stack([found[name] for name in FEATURES])
    candidate = fit(features, settings, month, standing=None, number=1)
    keys = candidate.model.assign(features)
    segments = list(_segments(month, keys, found))
    normal = is_normal(candidate.model.fences, features)
    figures = [
        row
        for population, rows in (("all", np.ones(len(features), bool)), ("normal", normal))
        for row in _figures(
            month, population, keys[rows], {name: column[rows] for name, column in found.items()}, settings
        )
    ]
    return segments, figures


def _segments(month: datetime, keys: "NDArray[Any]", found: dict[str, "NDArray[Any]"]) -> Iterator[tuple[Any, ...]]:
    """How each segment spent in the time after."""
    import numpy as np

    total = found["spend"].sum()
    for key in np.unique(keys).tolist():
        of_key = keys == key
        spend, customers = float(found["spend"][of_key].sum()), int(of_key.sum())
        share = None if total <= 0 else round(spend / total, 12)
        returned = round(float(found["returned"][of_key].mean()), 12)
        past = round(float(found["monetary"][of_key].mean()), 6)
        yield (month, key, customers, past, round(spend, 4), share, round(spend / customers, 6), returned)


def _figures(
    month: datetime, population: str, keys: "NDArray[Any]", found: dict[str, "NDArray[Any]"], settings: Retailer
) -> Iterator[tuple[Any, ...]]:
    """How well each segmentation tells the spend of the time after, with the noise of the customers."""
    import numpy as np

    from segmentation_pipeline.model.lift import FIGURES, intervals, spend_groups, usefulness

    codes, groups = np.unique(keys, return_inverse=True)
    groupings = {
        "segments": groups,
        "spend": spend_groups(found["monetary"], len(codes)),
        "rfm_segments": np.unique(found["rfm_segment"].astype("U32"), return_inverse=True)[1],
    }
    past, future = found["monetary"], found["spend"]
    noise = intervals(
        groupings, past, future, random_state=settings.model.random_state, resamples=settings.backtest.resamples
    )
    for name, grouping in groupings.items():
        figures, around, ahead = usefulness(grouping, past, future), noise.of(name), noise.difference("segments", name)
        for figure in FIGURES:
            low, high = around[figure] or (None, None)
            worst, best = (None, None) if name == "segments" else ahead[figure] or (None, None)
            number = len(np.unique(grouping))
            yield (month, population, name, figure, number, getattr(figures, figure), low, high, worst, best)
