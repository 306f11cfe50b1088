"""Where customers were and are: the ledger of their segments, and what changed."""

from datetime import datetime
from typing import Any

import dagster as dg

from segmentation_pipeline.orchestration.resources import RetailerResource
from segmentation_pipeline.orchestration.sql_assets import (
    Results,
    asset_spec,
    contract_check,
    dependencies,
    derived_asset,
    fill,
    sentences,
)
from segmentation_pipeline.segments import drift, membership
from segmentation_pipeline.segments.registry import Registry, under
from segmentation_pipeline.warehouse.database import Filling, Given, Warehouse, select_of

_LEDGER = select_of("segment_membership")
_NOBODY = "select customer_id, segment_key, is_held from assigned_segments where false"


@dg.multi_asset(
    name="segment_membership",
    specs=[
        asset_spec(
            "segment_membership",
            "membership",
            _LEDGER,
            deps=[
                *sorted({*dependencies(_LEDGER)} - {"segment_membership"}),
                "assigned_segments",
                "segmentation_models",
            ],
        )
    ],
    check_specs=[contract_check("segment_membership")],
)
def segment_membership(context: dg.AssetExecutionContext, retailer: RetailerResource) -> Results:
    """A run for an earlier moment leaves it as it is: it tells what was published. A person may accept the change."""
    with sentences():
        warehouse = retailer.warehouse
        as_of = warehouse.row("select max(as_of) as as_of from customer_segments")["as_of"]
        if late := membership.is_late(warehouse, as_of) and not retailer.accept_change:
            context.log.warning(
                f"the ledger goes beyond {as_of}, to {membership.last_moment(warehouse)}: it stays as it is"
            )
        filling = Filling("segment_membership", "select * from segment_membership" if late else _LEDGER)
        given = _otherwise(warehouse, as_of)
        yield from fill(retailer, [filling], given=given, figures=lambda _: {"written": not late})


def _otherwise(warehouse: Warehouse, as_of: datetime) -> Given:
    """Where customers would be if the model had not changed since the ledger was last written; else nobody anywhere.

    Not since the last run: that may have let another model stand, and failed before the ledger.
    """
    last, registry = membership.last_moment(warehouse, before=as_of), Registry.of(warehouse)
    before = None if last is None else registry.standing_at(last)
    if before is None or before.facts["status"] == "standing":
        return Given({"assigned_by_previous_model": _NOBODY})
    given = under(warehouse, before, "assigned_segments")
    return Given({"assigned_by_previous_model": given.relations["under_other_model"]}, given.values)


def _reasons(retailer: RetailerResource) -> dict[str, Any]:
    """How many customers the last run moved, and why."""
    rows = retailer.warehouse.rows(
        "select reason, count(*) as customers from segment_changes"
        " where as_of = (select max(as_of) from customer_segments) group by reason order by reason"
    )
    return {f"changed_{row['reason']}": row["customers"] for row in rows}


@dg.multi_asset(
    name="model_drift",
    specs=[
        asset_spec(
            "model_drift",
            "membership",
            "1",
            deps=[
                "customer_segments",
                "normal_customers",
                "previous_segments",
                "model_features",
                "segmentation_models",
            ],
            kinds=frozenset({"duckdb", "python"}),
        )
    ],
    check_specs=[contract_check("model_drift")],
)
def model_drift(retailer: RetailerResource) -> Results:
    """Each figure is numeric metadata too, so that the web interface draws it over time."""
    with sentences():
        rows = drift.figures(retailer.warehouse, retailer.settings)
        told = {row[0]: row[1] for row in rows}
        yield from fill(retailer, [Filling("model_drift", rows=rows)], figures=lambda _: told)


segment_changes = derived_asset("segment_changes", group="membership", figures=_reasons)
