"""Compare today's customers with those that the active model was fitted on.

Contains the rows of `model_drift`. The index itself is in `model.drift`, its bounds in `model.thresholds`.
"""

from typing import Any

from segmentation_pipeline.model import thresholds
from segmentation_pipeline.model.segment_catalog import FEATURES
from segmentation_pipeline.segments.registry import Registry
from segmentation_pipeline.tables.contract import quoted
from segmentation_pipeline.warehouse.database import Warehouse

# Raise it when the method of the drift metrics changes.
METHOD_VERSION = "1"


def drift_rows(database: Warehouse) -> list[tuple[Any, ...]]:
    """Return the rows of `model_drift`: the index of each feature, and the shares of new and of moved customers."""
    import numpy as np

    from segmentation_pipeline.model.drift import bin_shares, psi

    active, bounds = Registry.of(database).active, thresholds.DRIFT
    assert active is not None
    columns = ", ".join(f"cast({quoted(name)} as double) as {quoted(name)}" for name in FEATURES)
    today = database.fetch(f"select {columns} from normal_customers order by customer_id", {})  # noqa: S608 - own SQL
    fitted = {record.feature: record for record in active.features}
    metrics = {}
    for name in FEATURES:
        edges, expected = np.array(fitted[name].bin_edges), np.array(fitted[name].bin_shares)
        metrics[f"psi_{name}"] = (psi(expected, bin_shares(today[name], edges)), bounds.max_psi)
    counts = database.row(
        "select count(*) as customers, count(*) filter (where previous_segment is null) as new,"
        " count(*) filter (where previous_segment <> segment) as moved, max(as_of) as as_of from customer_segments"
    )
    known = counts["customers"] - counts["new"]
    # In the first run no customer had a segment before, so none counts as new.
    metrics["share_new"] = (counts["new"] / counts["customers"] if known else 0.0, bounds.max_new)
    metrics["share_moved"] = (counts["moved"] / max(known, 1), bounds.max_moved)
    return [(name, value, bound, counts["as_of"], active.model_id) for name, (value, bound) in metrics.items()]
