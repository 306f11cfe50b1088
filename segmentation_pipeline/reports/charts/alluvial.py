"""The alluvial diagram: ribbons of customers between columns of segments.

What flows is in `movement`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import pandas as pd

from segmentation_pipeline.reports import theme
from segmentation_pipeline.reports.charts.parts import count, pairs, segment_colour
from segmentation_pipeline.reports.theme import MUTED, PAPER


def alluvial(moves: pd.DataFrame, labels: Sequence[str], currency: str | None, thinnest: float) -> Any:
    """Draw ribbons between the columns of an alluvial diagram.

    Args:
        moves: `customers` by `step` (1 is from the first column to the second), `from_segment` and `to_segment`.
        labels: The label of each column.
        currency: The retailer's currency.
        thinnest: The share of a step's customers below which a ribbon is not drawn.
    """
    steps: dict[int, list[tuple[str, str, int]]] = {}
    for step, *move in pairs(moves, "step", "from_segment", "to_segment", "customers"):
        steps.setdefault(step, []).append((move[0], move[1], move[2]))
    total = float(max(sum(customers for _, _, customers in step) for step in steps.values()))
    last = len(labels) - 1
    half, ribbons, boxes = 0.02 * last, [], []
    for step, flows_of_step in sorted(steps.items()):
        left, right = _stacked(flows_of_step, 0), _stacked(flows_of_step, 1)
        columns = [(step, right)] if step > 1 else [(0, left), (step, right)]
        boxes += [
            _box(key, column, last, place, total, currency)
            for column, side in columns
            for key, place in side.segments.items()
        ]
        for number, (a, b, customers) in enumerate(flows_of_step):
            if customers >= thinnest * total:
                ends = (left.places[a, b], right.places[a, b])
                ribbons += _ribbon(f"{step}-{number}", a, (step - 1 + half, step - half), ends)
    # The outer columns have labels beside them.
    space = 110 if last == 1 else 74
    x = alt.X("x:Q", scale=alt.Scale(domain=[-half, last + half], nice=False, padding=space), axis=None)
    y = alt.Y("low:Q", axis=None, scale=alt.Scale(domain=[0, total * 1.02], reverse=True, nice=False))
    colour = segment_colour([*moves["from_segment"], *moves["to_segment"]])
    areas = alt.Chart(pd.DataFrame(ribbons)).mark_area(
        interpolate="monotone", opacity=0.5, stroke=PAPER, strokeWidth=0.4
    )
    drawn: Any = areas.encode(x=x, y=y, y2="high:Q", detail="ribbon:N", color=colour)
    frame = pd.DataFrame(boxes)
    frame = frame.assign(x=frame["column"] - half, x2=frame["column"] + half)
    rectangles = alt.Chart(frame).mark_rect(stroke=MUTED, strokeWidth=0.7)
    drawn += rectangles.encode(x=x, x2="x2:Q", y=y, y2="high:Q", color=colour)
    named = alt.Chart(frame[frame["column"] == 0]).mark_text(align="right", dx=-6, fontSize=11)
    drawn += named.encode(x="x:Q", y="middle:Q", text="label:N")
    named = alt.Chart(frame[frame["column"] == last]).mark_text(align="left", dx=6, fontSize=11)
    drawn += named.encode(x="x2:Q", y="middle:Q", text="label:N")
    heads = alt.Chart(pd.DataFrame({"x": range(len(labels)), "label": labels}))
    return drawn + heads.mark_text(fontSize=11, color=MUTED, dy=-8).encode(x="x:Q", y=alt.value(0), text="label:N")


@dataclass(frozen=True)
class _Side:
    """Where ribbons begin or end on one side of a step: from `low` to `high`, in customers."""

    places: Mapping[tuple[str, str], tuple[float, float]]
    segments: Mapping[str, tuple[float, float]]


def _stacked(moves: Sequence[tuple[str, str, int]], by: int) -> _Side:
    """Stack the ribbons of a step by the segment that they leave (0) or enter (1)."""
    keys = theme.in_order([key for a, b, _ in moves for key in (a, b)])
    rank = {key: place for place, key in enumerate(keys)}
    places: dict[tuple[str, str], tuple[float, float]] = {}
    segments: dict[str, tuple[float, float]] = {}
    low = 0.0
    for a, b, customers in sorted(moves, key=lambda move: (rank[move[0]], rank[move[1]])[:: -1 if by else 1]):
        key, high = (b if by else a), low + customers
        places[a, b] = (low, high)
        segments[key] = (segments.get(key, (low, low))[0], high)
        low = high
    return _Side(places, segments)


def _ribbon(
    name: str, segment: str, across: tuple[float, float], ends: tuple[tuple[float, float], tuple[float, float]]
) -> list[dict[str, Any]]:
    """Return the points of a ribbon, which is level at both of its ends."""
    (start, end), (one, other) = across, ends
    level = 0.2 * (end - start)
    return [
        {"x": x, "low": low, "high": high, "ribbon": name, "segment": theme.name_of(segment)}
        for x, (low, high) in ((start, one), (start + level, one), (end - level, other), (end, other))
    ]


def _box(
    key: str, column: int, last: int, place: tuple[float, float], total: float, currency: str | None
) -> dict[str, Any]:
    """Return a segment in a column; in the outer columns with a label, where it fits."""
    low, high = place
    fits = column in (0, last) and high - low > 0.03 * total
    return {
        "segment": theme.name_of(key),
        "column": column,
        "low": low,
        "high": high,
        "middle": (low + high) / 2,
        "label": f"{theme.name_of(key)} {count(high - low, currency)}" if fits else "",
    }
