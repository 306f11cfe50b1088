"""Read customers as they were at past times: their features from the lines before, and what they spent afterwards.

Contains the month ends that can be evaluated, which of them a search compares, and the arrays of a search.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.model import thresholds
from segmentation_pipeline.model.segment_catalog import FEATURES
from segmentation_pipeline.segments.customer_blocks import AS_OF, NUMBERS, sample_customers
from segmentation_pipeline.segments.past_nights import PastNights
from segmentation_pipeline.warehouse.database import Warehouse
from segmentation_pipeline.warehouse.queries import inline_upstream

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from segmentation_pipeline.model.arrays import Array
    from segmentation_pipeline.model.usefulness import Past, PastMonth

LATER = """
select
    customer_id,
    sum(amount) as spend,
    max(case when is_purchase then 1 else 0 end) as returned
from temp.chosen_invoices
where transaction_at >= $as_of and transaction_at < $until
group by customer_id
"""
# The customers at a past time, and what they did afterwards.
CUSTOMERS = """
select
    features.customer_id,
    numbers.number,
    cast(features.monetary as double) as monetary,
    cast(features.frequency as double) as frequency,
    cast(features.recency as double) as recency,
    cast(features.refunds as double) as refunds,
    cast(coalesce(later.spend, 0) as double) as spend,
    coalesce(later.returned, 0) as returned,
    features.as_of
from rfm_features as features
inner join numbers on features.customer_id = numbers.customer_id
left join later on features.customer_id = later.customer_id
"""
INPUTS = {**AS_OF, "later": LATER, "numbers": NUMBERS}


@dataclass(frozen=True)
class PastCustomers:
    """Customers at a past time.

    Attributes:
        numbers: The number of each customer, the same at every time, shape (n,).
        features: Shape (n, 3), in natural units.
        spend: Money spent afterwards, shape (n,).
    """

    numbers: "NDArray[np.int64]"
    features: "Array"
    spend: "Array"


def month_ends(database: Warehouse, as_of: datetime) -> list[datetime]:
    """Return the month ends with enough days before them to form segments, and enough after them to evaluate them."""
    rows = database.rows(
        "with span as (select min(transaction_at) as first_at, date_trunc('month', min(transaction_at))"
        " + interval '1' month as first_end from invoice_totals),"
        " month_ends as (select unnest(generate_series(first_end, cast($as_of as timestamp), interval '1' month))"
        " as month_end from span)"
        " select month_end from month_ends cross join span"
        " where date_diff('day', first_at, month_end) >= $before and month_end + $after * interval '1' day <= $as_of"
        " order by month_end",
        as_of=as_of,
        before=thresholds.BACKTEST.history_days,
        after=thresholds.BACKTEST.horizon_days,
    )
    return [row["month_end"] for row in rows]


def compared_months(found: list[datetime], rules: thresholds.SearchRules = thresholds.SEARCH) -> list[datetime]:
    """Return those of the month ends that a search compares: every second, so that the others can be reported.

    From the latest, which resemble those to come; none if there would be too few.
    """
    compared = sorted(found[::-2][: rules.max_month_ends])
    return compared if len(found) >= 2 * rules.min_month_ends else []


def read_past(database: Warehouse, settings: Retailer, as_of: datetime) -> "Past | None":
    """Return what the candidates of a search are compared by; None where there are too few month ends."""
    from segmentation_pipeline.model.usefulness import Past

    months = compared_months(month_ends(database, as_of))
    if not months:
        return None
    sample_customers(database, thresholds.SEARCH.compared_customers)
    nights = PastNights(database, settings, as_of, AS_OF)
    return Past(tuple(_month(database, settings, month) for month in months), nights.kept)


def read_customers(database: Warehouse, settings: Retailer, as_of: datetime, until: datetime) -> PastCustomers:
    """Return the sampled customers at a past time, sorted by number, and what they spent until a later one."""
    import numpy as np

    values = settings.sql_values | {"as_of": as_of, "until": until}
    found = database.fetch(inline_upstream(f"{CUSTOMERS} order by numbers.number", INPUTS), values)
    return PastCustomers(found["number"], np.column_stack([found[name] for name in FEATURES]), found["spend"])


def _month(database: Warehouse, settings: Retailer, month: datetime) -> "PastMonth":
    """Return the normal customers at a month end."""
    from segmentation_pipeline.model.segmentation_model import is_normal, tukey_fences
    from segmentation_pipeline.model.usefulness import BLOCKS, PastMonth

    found = read_customers(database, settings, month, month + timedelta(days=thresholds.BACKTEST.horizon_days))
    fences = tukey_fences(found.features, list(settings.outliers.features), settings.outliers.factor)
    normal = is_normal(fences, found.features)
    return PastMonth(month, found.features[normal], found.spend[normal], found.numbers[normal] % BLOCKS)
