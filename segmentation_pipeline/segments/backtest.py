"""Segments tried on the past: formed at month ends as they would have been then, held against what came after.

Belongs here: which months can be tried, what is known of their customers, and the rows that tell how it went.
"""

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.errors import FitError
from segmentation_pipeline.model.segmentation_model import FEATURES
from segmentation_pipeline.segments import training
from segmentation_pipeline.segments.history import AS_OF_THEN, begin_anew_without
from segmentation_pipeline.tables.contract import quoted
from segmentation_pipeline.warehouse.database import Filling, Given, Warehouse, composed

if TYPE_CHECKING:
    from numpy.typing import NDArray

TABLES = ("segment_backtest", "backtest_figures")
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
# Raise it when the method changes, so that stored months are computed again.
METHOD_VERSION = "1"


def tried(warehouse: Warehouse, settings: Retailer) -> tuple[list[Filling], Given, list[datetime]]:
    """What the tables of the back-test are to hold, and which months of it are computed anew.

    The number of clusters is the standing model's: it is chosen once and kept, and it is these segments whose worth is
    in question. A month stands if the lines before the end of its horizon, that number and the settings are those that
    it was computed with; one with too few customers for it is left out.
    """
    k = warehouse.row("select n_clusters from kmeans_model")["n_clusters"]
    settings = settings.model_copy(update={"model": settings.model.model_copy(update={"n_clusters": k})})
    begin_anew_without(warehouse, TABLES)
    wanted = {month: _digest(warehouse, settings, month) for month in _months(warehouse, settings)}
    known = warehouse.rows("select distinct month_end, digest from segment_backtest")
    stored = {row["month_end"]: row["digest"] for row in known}
    needed = [month for month, digest in wanted.items() if stored.get(month) != digest]
    rows: dict[str, list[tuple[Any, ...]]] = {table: [] for table in TABLES}
    done = []
    for month in needed:
        with suppress(FitError):
            for table, found in zip(TABLES, _month(warehouse, settings, month, wanted[month]), strict=True):
                rows[table].extend(found)
            done.append(month)
    kept = [month for month in wanted if month not in needed]
    selects = {table: f"select * from {quoted(table)} where list_contains($kept, month_end)" for table in TABLES}
    return [Filling(table, selects[table], rows[table]) for table in TABLES], Given(values={"kept": kept}), done


def _months(warehouse: Warehouse, settings: Retailer) -> list[datetime]:
    """Month ends with enough days before them to form segments, and enough after them to see what became of those."""
    asked = settings.backtest
    rows = warehouse.rows(
        "select month_end from history_months where"
        " date_diff('day', (select min(transaction_at) from clean_transactions), month_end) >= $before"
        " and month_end + $after * interval '1' day <= (select max(as_of) from rfm_features) order by month_end",
        before=asked.history_days,
        after=asked.horizon_days,
    )
    return [row["month_end"] for row in rows]


def _digest(warehouse: Warehouse, settings: Retailer, month: datetime) -> str:
    """Of what the month's rows hang on: the lines, wherever they stand in the source, the settings and the method."""
    row = warehouse.row(
        "select sum(cast(hash(customer_id, invoice, transaction_at, amount, is_cancellation) % 1000000007 as bigint))"
        " as lines from clean_transactions where transaction_at < $until",
        until=month + timedelta(days=settings.backtest.horizon_days),
    )
    text = f"{row['lines']} {settings.backtest_digest} {composed(_CUSTOMERS, _THEN)} {METHOD_VERSION}"
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _month(
    warehouse: Warehouse, settings: Retailer, month: datetime, digest: str
) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    """The rows of both tables for one month end."""
    import numpy as np

    from segmentation_pipeline.model.segmentation_model import is_normal

    until = month + timedelta(days=settings.backtest.horizon_days)
    values = settings.sql_values | {"as_of": month, "until": until}
    found = warehouse.fetch(composed(_CUSTOMERS, _THEN), values)
    features = np.column_stack([found[name] for name in FEATURES])
    candidate = training.fit(features, settings, month, standing=None, number=1)
    keys = candidate.model.assign(features)
    segments = list(_segments(month, digest, keys, found))
    normal = is_normal(candidate.model.fences, features)
    figures = [
        row
        for population, rows in (("all", np.ones(len(features), bool)), ("normal", normal))
        for row in _figures(
            month, population, keys[rows], {name: column[rows] for name, column in found.items()}, settings
        )
    ]
    return segments, figures


def _segments(
    month: datetime, digest: str, keys: "NDArray[Any]", found: dict[str, "NDArray[Any]"]
) -> Iterator[tuple[Any, ...]]:
    """How each segment spent in the time after."""
    import numpy as np

    total = found["spend"].sum()
    for key in np.unique(keys).tolist():
        of_key = keys == key
        spend, customers = float(found["spend"][of_key].sum()), int(of_key.sum())
        share = None if total <= 0 else round(spend / total, 12)
        returned = round(float(found["returned"][of_key].mean()), 12)
        past = round(float(found["monetary"][of_key].mean()), 6)
        yield (month, key, customers, past, round(spend, 4), share, round(spend / customers, 6), returned, digest)


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
