"""How far today's customers are from those that the standing model was fitted on, and how many moved.

Belongs here: the figures. Their bounds are settings, the warning is a check.
"""

from typing import Any

from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.model.segment_catalog import FEATURES
from segmentation_pipeline.segments.registry import Registry
from segmentation_pipeline.tables.contract import quoted
from segmentation_pipeline.warehouse.database import Warehouse

METHOD_VERSION = "1"


def drift_rows(warehouse: Warehouse, settings: Retailer) -> list[tuple[Any, ...]]:
    """The rows of `model_drift`: the population stability index of each feature, who moved, who is new."""
    import numpy as np

    from segmentation_pipeline.model.lift import bin_shares, psi

    standing = Registry.of(warehouse).standing
    assert standing is not None
    columns = ", ".join(f"cast({quoted(name)} as double) as {quoted(name)}" for name in FEATURES)
    today = warehouse.fetch(f"select {columns} from normal_customers order by customer_id", {})
    bins = {row["feature"]: row for row in standing.features}
    found = {}
    for name in FEATURES:
        edges, expected = (np.array(bins[name][column]) for column in ("bin_edges", "bin_shares"))
        found[f"psi_{name}"] = (psi(expected, bin_shares(today[name], edges)), settings.drift.max_psi)
    moved = warehouse.row(
        "select count(*) as customers, count(*) filter (where previous_segment is null) as new,"
        " count(*) filter (where previous_segment <> segment) as moved, max(as_of) as as_of from customer_segments"
    )
    known = moved["customers"] - moved["new"]
    # Before the first model nobody was anywhere: nobody is new to it.
    found["share_new"] = (moved["new"] / moved["customers"] if known else 0.0, settings.drift.max_new)
    found["share_moved"] = (moved["moved"] / max(known, 1), settings.drift.max_moved)
    return [(name, value, bound, moved["as_of"], standing.model_id) for name, (value, bound) in found.items()]
