"""Tables as they would be under another model, derived inside a query without changing any table.

Contains the replacement of the active model's tables. `warehouse.queries.inline_upstream` derives the rest.
"""

from typing import TYPE_CHECKING, Any

from segmentation_pipeline.model.segment_catalog import FEATURES
from segmentation_pipeline.tables.contract import quoted
from segmentation_pipeline.warehouse.database import Warehouse
from segmentation_pipeline.warehouse.queries import inline_upstream

if TYPE_CHECKING:
    from segmentation_pipeline.model.segmentation_model import SegmentationModel

_CENTROID = ", ".join(f"scaled_{name} double" for name in FEATURES)
# The columns that SELECTs of the segments read.
_COLUMNS = {
    "outlier_fences": "feature varchar, lower_fence double, upper_fence double",
    "kmeans_scaler": "feature varchar, transform varchar, exponent double, center double, scale double",
    "kmeans_centroids": f"cluster bigint, segment_key varchar, {_CENTROID}",
}


def with_model(
    database: Warehouse, model: "SegmentationModel", table: str, relations: dict[str, str] | None = None
) -> str:
    """Return the SELECT of a table as it would be if another model were active.

    Args:
        database: Receives the model as temporary tables, which the next call replaces.
        model: The other model; it need not be in the registry.
        table: The table. Every table between the model and it is derived inside the query.
        relations: The SELECT of every other relation that replaces a table.
    """
    for name, rows in _rows(model).items():
        database.connection.execute(f"create or replace temp table {quoted(f'other_{name}')} ({_COLUMNS[name]})")
        if rows:
            # One statement: executemany takes a millisecond for each row.
            places = ", ".join([f"({', '.join('?' * len(rows[0]))})"] * len(rows))
            insert = f"insert into temp.{quoted(f'other_{name}')} values {places}"  # noqa: S608 - own names
            database.connection.execute(insert, [value for row in rows for value in row])
    replacements = {name: f"select * from temp.{quoted(f'other_{name}')}" for name in _COLUMNS}  # noqa: S608 - own names
    return inline_upstream(f"select * from {quoted(table)}", replacements | (relations or {}))  # noqa: S608 - own names


def _rows(model: "SegmentationModel") -> dict[str, list[tuple[Any, ...]]]:
    """Return the rows of the active model's tables, without what no assignment reads."""
    scaler = model.scaler
    exponents = [None] * len(FEATURES) if scaler.exponents_ is None else scaler.exponents_.tolist()
    scaling = zip(exponents, scaler.center_.tolist(), scaler.scale_.tolist(), strict=True)
    return {
        "outlier_fences": [(name, fence.lower, fence.upper) for name, fence in model.fences.items()],
        "kmeans_scaler": [(name, scaler.transform, *of) for name, of in zip(FEATURES, scaling, strict=True)],
        "kmeans_centroids": [
            (cluster, key, *centroid.tolist())
            for cluster, (key, centroid) in enumerate(zip(model.keys, model.centroids_, strict=True))
        ],
    }
