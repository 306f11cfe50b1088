"""The active model as one SQL function, `score_customer`, so that consumers of a release need no Python to apply it.

Contains the text of the function: the macros of `tables/macros.sql`, inlined with the constants of the model. A macro
that reads a table, or calls another macro, fails where the release is attached under another name.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from segmentation_pipeline.model.segment_catalog import FEATURES, SEGMENTS
from segmentation_pipeline.tables.contract import literal, quoted
from segmentation_pipeline.warehouse.database import Warehouse
from segmentation_pipeline.warehouse.macros import inlined

Row = Mapping[str, Any]
NAMES = {segment.key: segment.name for segment in SEGMENTS}
COMMENT = (
    "The name of the segment that these features alone would give, by this release's model: inactive and outlier"
    " customers by the rules, all others by the nearest centroid (Euclidean distance; a tie goes to the lowest segment"
    " key). Where monetary is 0, refunds tells REFUNDED from NO SPEND; default: 0. Null if a feature is null, not"
    " finite, or what no customer can have: a negative frequency or recency."
)
_RULE_SEGMENTS = [segment for segment in SEGMENTS if segment.customer_group != "normal"]


def macro(fences: Sequence[Row], scaler: Sequence[Row], centroids: Sequence[Row]) -> str:
    """Return the statement that creates `score_customer(monetary, frequency, recency, refunds := 0)`.

    DuckDB copies a macro's argument to each place that names it, and does not look for equal expressions in a WHERE or
    a CASE, so a feature would be scaled once for each centroid: three times slower. A list comprehension over a list of
    one element names a value instead. A subquery would become a join.

    Args:
        fences: Rows of `outlier_fences`: feature, lower_fence, upper_fence. A feature without a row has no fences.
        scaler: Rows of `kmeans_scaler`: feature, transform, exponent, center, scale; one for each feature.
        centroids: Rows of `kmeans_centroids`, with the name of the segment: segment_key, segment, scaled_monetary,
            scaled_frequency, scaled_recency.
    """
    monetary, frequency, recency = (_parameter(name) for name in FEATURES)
    sides = [_side(fences, name) for name in ("monetary", "frequency", "recency")]
    inactive = inlined("inactive_segment", frequency, monetary, _parameter("refunds"))
    rule = f"coalesce({inactive}, {inlined('outlier_segment', *sides)})"
    return f"""create or replace macro score_customer(monetary, frequency, recency, refunds := 0) as case
    when isfinite({monetary}) and isfinite({frequency}) and isfinite({recency})
        and {frequency} >= 0 and {recency} >= 0
        then coalesce({_name_of_rule(rule)}, {_nearest(scaler, centroids)})
end"""


def comment() -> str:
    """Return the statement that describes the function where any SQL client shows it."""
    return f"comment on macro score_customer is {literal(COMMENT)}"


def score_macro(warehouse: Warehouse) -> str:
    """Return the statement that creates the function of the active model."""
    fences = warehouse.rows("select * from outlier_fences")
    scaler = warehouse.rows("select * from kmeans_scaler")
    centroids = warehouse.rows("select * from kmeans_centroids join segments using (segment_key)")
    return macro(fences, scaler, centroids)


def _side(fences: Sequence[Row], feature: str) -> str:
    for row in fences:
        if row["feature"] == feature:
            return inlined("fence_side", _parameter(feature), _number(row["lower_fence"]), _number(row["upper_fence"]))
    return "cast(null as varchar)"


def _name_of_rule(key: str) -> str:
    names = ", ".join(literal(segment.name) for segment in _RULE_SEGMENTS)
    keys = ", ".join(literal(segment.key) for segment in _RULE_SEGMENTS)
    return f"[{names}][list_position([{keys}], {key})]"


def _nearest(scaler: Sequence[Row], centroids: Sequence[Row]) -> str:
    """Return the name of the nearest centroid; `list_position` takes the first of equally near ones."""
    ordered = sorted(centroids, key=lambda row: str(row["segment_key"]))
    scaled = ", ".join(f"{literal(row['feature'])}: {_scaled(row)}" for row in scaler)
    distances = ", ".join(_distance(row) for row in ordered)
    names = ", ".join(literal(row["segment"]) for row in ordered)
    place = f"[list_position(distances, list_min(distances)) for distances in [[{distances}]]][1]"
    return f"[{names}][[{place} for scaled in [{{{scaled}}}]][1]]"


def _distance(centroid: Row) -> str:
    scaled = [f"struct_extract(scaled, {literal(name)})" for name in FEATURES]
    return inlined("scaled_distance", *scaled, *(_number(centroid[f"scaled_{name}"]) for name in FEATURES))


def _scaled(row: Row) -> str:
    exponent = "cast(null as double)" if row["exponent"] is None else _number(row["exponent"])
    numbers = _number(row["center"]), _number(row["scale"])
    return inlined("scaled", _parameter(row["feature"]), literal(row["transform"]), exponent, *numbers)


def _parameter(feature: str) -> str:
    return f"cast({quoted(feature)} as double)"


def _number(value: float) -> str:
    """Return a constant of type DOUBLE that keeps every bit, also where the definition is exported as text."""
    return f"cast({literal(repr(float(value)))} as double)"
