"""Back-test the segments: form them at past month ends as they would have been then, and compare with later spend.

Contains which month ends are evaluated, and the rows of `segment_backtest` and `backtest_metrics`. The metrics
themselves are in `model.lift`.
"""

from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from segmentation_pipeline import progress
from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.errors import FitError
from segmentation_pipeline.model import thresholds
from segmentation_pipeline.model.segment_catalog import FEATURES
from segmentation_pipeline.segments.history import AS_OF_MONTH_END, compact_lines
from segmentation_pipeline.segments.training import fit_model
from segmentation_pipeline.warehouse.database import TableWrite, Warehouse
from segmentation_pipeline.warehouse.queries import inline_upstream

if TYPE_CHECKING:
    from numpy.typing import NDArray

    # The customers at a month end by column: their features then, their RFM segment, and their later spend.
    Columns = dict[str, NDArray[Any]]

TABLES = ("segment_backtest", "backtest_metrics")
# Raise it when the method of the back-test changes.
METHOD_VERSION = "3"
_LATER = """
select
    customer_id,
    sum(amount) as spend,
    max(case when not is_cancellation and amount >= 0 then 1 else 0 end) as returned
from temp.compact_lines
where transaction_at >= $as_of and transaction_at < $until
group by customer_id
"""
_CUSTOMERS = """
select
    features.customer_id,
    cast(features.monetary as double) as monetary,
    cast(features.frequency as double) as frequency,
    cast(features.recency as double) as recency,
    cast(features.refunds as double) as refunds,
    scores.rfm_segment,
    cast(coalesce(later.spend, 0) as double) as spend,
    coalesce(later.returned, 0) as returned
from rfm_features as features
inner join rfm_scores as scores on features.customer_id = scores.customer_id
left join later on features.customer_id = later.customer_id
order by features.customer_id
"""
_INPUTS = {**AS_OF_MONTH_END, "later": _LATER}


def run_backtest(database: Warehouse, settings: Retailer) -> tuple[list[TableWrite], list[datetime]]:
    """Return the content of the back-test's tables, and the month ends that they cover.

    The number of clusters is the active model's, since its segments are evaluated. A month end with too few distinct
    customers for it is left out.
    """
    k = database.row("select n_clusters from kmeans_model")["n_clusters"]
    settings = settings.model_copy(update={"model": settings.model.model_copy(update={"n_clusters": k})})
    rows: dict[str, list[tuple[Any, ...]]] = {table: [] for table in TABLES}
    months = []
    compact_lines(database)
    month_ends = _month_ends(database)
    for number, month in enumerate(month_ends, start=1):
        progress.report(f"testing month {number} of {len(month_ends)}")
        with suppress(FitError):
            for table, found in zip(TABLES, _rows_of_month(database, settings, month), strict=True):
                rows[table].extend(found)
            months.append(month)
    return [TableWrite(table, rows=rows[table]) for table in TABLES], months


def _month_ends(database: Warehouse) -> list[datetime]:
    """Return the month ends with enough days before them to form segments, and enough after them to evaluate them."""
    rows = database.rows(
        "with span as (select min(transaction_at) as first_at, date_trunc('month', min(transaction_at))"
        " + interval '1' month as first_end from clean_transactions),"
        " run as (select max(as_of) as as_of from rfm_features),"
        " month_ends as (select unnest(generate_series(first_end, as_of, interval '1' month)) as month_end"
        " from span cross join run)"
        " select month_end from month_ends cross join span cross join run"
        " where date_diff('day', first_at, month_end) >= $before and month_end + $after * interval '1' day <= as_of"
        " order by month_end",
        before=thresholds.BACKTEST.history_days,
        after=thresholds.BACKTEST.horizon_days,
    )
    return [row["month_end"] for row in rows]


def _rows_of_month(
    database: Warehouse, settings: Retailer, month: datetime
) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    """Return the rows of both tables for one month end.

    Raises:
        FitError: There are too few distinct customers.
    """
    import numpy as np

    from segmentation_pipeline.model.segmentation_model import is_normal

    until = month + timedelta(days=thresholds.BACKTEST.horizon_days)
    values = settings.sql_values | {"as_of": month, "until": until}
    customers = database.fetch(inline_upstream(_CUSTOMERS, _INPUTS), values)
    features = np.column_stack([customers[name] for name in FEATURES])
    model, *_ = fit_model(features, settings)
    keys = model.assign(features, customers["refunds"])
    segments = list(_segment_rows(month, keys, customers))
    populations = {"all": np.ones(len(features), bool), "normal": is_normal(model.fences, features)}
    metrics = [
        row
        for population, members in populations.items()
        for row in _metric_rows(
            month, population, keys[members], {name: column[members] for name, column in customers.items()}
        )
    ]
    return segments, metrics


def _segment_rows(month: datetime, keys: "NDArray[Any]", customers: "Columns") -> Iterator[tuple[Any, ...]]:
    """Yield the later spend of each segment."""
    import numpy as np

    total = customers["spend"].sum()
    for key in np.unique(keys).tolist():
        members = keys == key
        number, spend = int(members.sum()), float(customers["spend"][members].sum())
        share = None if total <= 0 else round(spend / total, 12)
        returned = round(float(customers["returned"][members].mean()), 12)
        past = round(float(customers["monetary"][members].mean()), 6)
        yield (month, key, number, past, round(spend, 4), share, round(spend / number, 6), returned)


def _metric_rows(
    month: datetime, population: str, keys: "NDArray[Any]", customers: "Columns"
) -> Iterator[tuple[Any, ...]]:
    """Yield how well each segmentation predicts the later spend, with bootstrap intervals over the customers."""
    import numpy as np

    from segmentation_pipeline.model.lift import METRICS, intervals, lift, spend_groups

    codes, groups = np.unique(keys, return_inverse=True)
    groupings = {
        "segments": groups,
        "spend": spend_groups(customers["monetary"], len(codes)),
        "rfm_segments": np.unique(customers["rfm_segment"].astype("U32"), return_inverse=True)[1],
    }
    past, future = customers["monetary"], customers["spend"]
    resampled = intervals(
        groupings,
        past,
        future,
        random_state=thresholds.FIT.random_state,
        resamples=thresholds.BACKTEST.resamples,
    )
    for name, grouping in groupings.items():
        values, own, lead = lift(grouping, past, future), resampled.of(name), resampled.difference("segments", name)
        number = len(np.unique(grouping))
        for metric in METRICS:
            low, high = own[metric] or (None, None)
            lead_low, lead_high = (None, None) if name == "segments" else lead[metric] or (None, None)
            yield (month, population, name, metric, number, getattr(values, metric), low, high, lead_low, lead_high)
