"""The standing model as one SQL function, `score_customer`: a consumer of a release needs no Python to apply it.

Belongs here: the macro's text. Every constant of the model stands in it, because a macro that reads a table fails where
the release is attached under another name. The rules are those of `inactive_customers`, `outlier_flags`,
`nearest_centroids` and `nearest_segments` in `sql/`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from segmentation_pipeline.model.segment_catalog import FEATURES, SEGMENTS
from segmentation_pipeline.tables.contract import literal, quoted
from segmentation_pipeline.warehouse.database import Warehouse

Row = Mapping[str, Any]
NAMES = {segment.key: segment.name for segment in SEGMENTS}
COMMENT = (
    "The name of the segment that these features alone would give, by this release's model: inactive and outlier"
    " customers by the rules, all others by the nearest centroid (Euclidean distance; a tie goes to the lowest segment"
    " key). Null if a feature is null, not finite, or what no customer can have: a negative frequency or recency."
)


def macro(fences: Sequence[Row], scaler: Sequence[Row], centroids: Sequence[Row]) -> str:
    """The statement that creates `score_customer(monetary, frequency, recency)`.

    DuckDB puts a macro's arguments in wherever it names them, so the scaled features and the distances are each given a
    name by a list comprehension over a list of one. Spelt out, a feature stands twice for each centroid; where DuckDB
    does not look for equal expressions (in a WHERE, in a CASE) that took three times as long. A subquery makes a join.

    Args:
        fences: Rows of `outlier_fences`: feature, lower_fence, upper_fence. A feature without a row has no fences.
        scaler: Rows of `kmeans_scaler`: feature, transform, exponent, center, scale; one for each feature.
        centroids: Rows of `kmeans_centroids`, with the name of the segment: segment_key, segment, scaled_monetary,
            scaled_frequency, scaled_recency.
    """
    monetary, frequency, recency = _feature("monetary"), _feature("frequency"), _feature("recency")
    much, little = _above(fences, "monetary"), _below(fences, "monetary")
    often, seldom = _above(fences, "frequency"), _below(fences, "frequency")
    long_ago, lately = _above(fences, "recency"), _below(fences, "recency")
    return f"""create or replace macro score_customer(monetary, frequency, recency) as case
    when isfinite({monetary}) and isfinite({frequency}) and isfinite({recency})
        and {frequency} >= 0 and {recency} >= 0 then case
        when {frequency} = 0 then {_name("dormant")}
        when {monetary} <= 0 then {_name("refunded")}
        when {little} or {seldom} or {long_ago} then {_name("examine")}
        when {much} and {often} then {_name("delight")}
        when {much} then {_name("pamper")}
        when {often} then {_name("upsell")}
        when {lately} then {_name("examine")}
        else {_nearest(scaler, sorted(centroids, key=_key))}
    end
end"""


def comment() -> str:
    """The statement that puts the macro's description where any SQL client shows it."""
    return f"comment on macro score_customer is {literal(COMMENT)}"


def _nearest(scaler: Sequence[Row], centroids: Sequence[Row]) -> str:
    """The name of the nearest centroid: of equally near ones the first, as by `list_position`."""
    by_feature = {row["feature"]: row for row in scaler}
    scaled = ", ".join(f"{quoted(name)}: {_scaled(by_feature[name])}" for name in FEATURES)
    distances = ", ".join(_distance(row) for row in centroids)
    names = ", ".join(literal(row["segment"]) for row in centroids)
    place = f"[list_position(distances, list_min(distances)) for distances in [[{distances}]]][1]"
    return f"[{names}][[{place} for scaled in [{{{scaled}}}]][1]]"


def _distance(centroid: Row) -> str:
    """As in `nearest_centroids` to the last bit, so that both see the same ties; those of `list_distance` differ."""
    squares = [
        f"pow(struct_extract(scaled, {literal(name)}) - {_number(centroid[f'scaled_{name}'])}, 2)" for name in FEATURES
    ]
    return f"sqrt({' + '.join(squares)})"


def _scaled(row: Row) -> str:
    """A scaled feature; it is not below zero here, so the negative half of Yeo-Johnson is not needed."""
    x = _feature(row["feature"])
    if row["transform"] == "log" or (row["transform"] == "yeo-johnson" and row["exponent"] == 0):
        x = f"ln(1 + {x})"
    elif row["transform"] == "yeo-johnson":
        exponent = _number(row["exponent"])
        x = f"(pow(1 + {x}, {exponent}) - 1) / {exponent}"
    return f"({x} - {_number(row['center'])}) / {_number(row['scale'])}"


def _above(fences: Sequence[Row], name: str) -> str:
    for row in fences:
        if row["feature"] == name:
            return f"{_feature(name)} > {_number(row['upper_fence'])}"
    return "false"


def _below(fences: Sequence[Row], name: str) -> str:
    for row in fences:
        if row["feature"] == name:
            return f"{_feature(name)} < {_number(row['lower_fence'])}"
    return "false"


def _key(centroid: Row) -> str:
    return str(centroid["segment_key"])


def _name(key: str) -> str:
    return literal(NAMES[key])


def _feature(name: str) -> str:
    return f"cast({quoted(name)} as double)"


def _number(value: float) -> str:
    """A constant that is DOUBLE and keeps every bit, also when the macro's definition is written out as text."""
    return f"cast({literal(repr(float(value)))} as double)"


def score_macro(warehouse: Warehouse) -> str:
    """The macro of the standing model, from its tables."""
    fences, scaler = (warehouse.rows(f"select * from {table}") for table in ("outlier_fences", "kmeans_scaler"))
    centroids = warehouse.rows("select * from kmeans_centroids join segments using (segment_key)")
    return macro(fences, scaler, centroids)
