"""Replay the nights before a fit under a model, and count the customers that keep their segment.

Contains the tables of the replay. When a customer moves is decided by the SELECTs that decide it in a run.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from statistics import fmean
from typing import TYPE_CHECKING

from segmentation_pipeline import progress
from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.model import thresholds
from segmentation_pipeline.segments.counterfactual import with_model
from segmentation_pipeline.tables.catalog import select_of
from segmentation_pipeline.warehouse.database import Warehouse
from segmentation_pipeline.warehouse.queries import inline_upstream

if TYPE_CHECKING:
    from segmentation_pipeline.model.segmentation_model import SegmentationModel

_FEATURES = "select as_of, customer_id, monetary, frequency, recency, refunds from rfm_features"
_OF_A_NIGHT = {
    "rfm_features": "select * from temp.past_nights where as_of = $as_of",
    "segment_membership": "select * from temp.replayed_membership",
}
_NO_CUSTOMERS = "select customer_id, segment_key, is_move_pending from temp.replayed_segments where false"
_OF_HISTORY = {
    "segment_membership": "select * from temp.replayed_membership",
    "customer_segments": "select *, cast($as_of as timestamp) as as_of, '' as model_id from temp.replayed_segments",
    "assigned_by_previous_model": _NO_CUSTOMERS,
}
_KEPT = """
select avg(cast(today.segment_key = before.segment_key as integer)) as share
from temp.replayed_segments as today
inner join temp.replayed_membership as before on today.customer_id = before.customer_id
where before.valid_to is null
"""


@dataclass(frozen=True)
class PastNights:
    """The nights before a fit.

    Attributes:
        database: Receives temporary tables.
        settings: The retailer's settings.
        as_of: The as_of of the fit, which is that of the last night.
        inputs: The inputs of `rfm_features` as of a past time.
    """

    database: Warehouse
    settings: Retailer
    as_of: datetime
    inputs: Mapping[str, str]

    def kept(self, model: "SegmentationModel") -> float:
        """Return the mean share of customers that keep their segment from one night to the next under a model.

        The last `SearchRules.nights` are measured. The replay begins `HysteresisRules.max_pending_days` before them,
        when every customer is in its nearest segment: a move that is pending longer is made, so that from then on as
        many are pending as if the model had always been active.
        """
        database, values = self.database, self.settings.sql_values
        database.connection.execute(
            "create or replace temp table replayed_membership as select * from segment_membership where false"
        )
        segments = with_model(database, model, "assigned_segments", _OF_A_NIGHT)
        history = inline_upstream(f"select * from ({select_of('segment_membership')})", _OF_HISTORY)  # noqa: S608 - own SQL
        shares = list[float]()
        for number, night in enumerate(self._nights, start=1):
            progress.report(f"replaying night {number} of {len(self._nights)}")
            at = values | {"as_of": night}
            database.execute(f"create or replace temp table replayed_segments as {segments}", at)
            # Null in the first night, which nothing precedes.
            shares.append(database.row(_KEPT)["share"])
            database.execute(f"create or replace temp table replayed_membership as {history}", at)
        return round(fmean(shares[-thresholds.SEARCH.nights :]), 12)

    @cached_property
    def _nights(self) -> list[datetime]:
        """The nights, oldest first, whose features are in a temporary table; computed on first use."""
        before = thresholds.HYSTERESIS.max_pending_days + thresholds.SEARCH.nights
        nights = [self.as_of - timedelta(days=day) for day in range(before, -1, -1)]
        select = inline_upstream(_FEATURES, dict(self.inputs))
        for number, night in enumerate(nights):
            target = "insert into temp.past_nights" if number else "create or replace temp table past_nights as"
            self.database.execute(f"{target} {select}", self.settings.sql_values | {"as_of": night})
        return nights
