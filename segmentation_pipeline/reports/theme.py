"""The look of every chart: colours, fonts, and how numbers are written.

A segment has one colour in every chart: that of the catalogue. No chart relies on colour alone, because thirty segments
have no thirty colours that a colour-blind reader can tell apart: marks have labels, and edges between them.
"""

from typing import Any

from segmentation_pipeline.model.segment_catalog import SEGMENTS
from segmentation_pipeline.reports.formatting import notation_of

# The report replaces these four by colours of the page, which differ in dark mode.
INK, MUTED, GRID, PAPER = "#1b2733", "#52606e", "#d9e0e7", "#ffffff"
# Blue and orange differ with every common colour blindness.
KEPT, LOST, THIRD = "#1f78b4", "#d94801", "#7a7a7a"
WIDTH = 440
_GREYS = {"new": ("new customers", "#969696"), "gone": ("no longer in the data", "#636363"), "all": ("all", INK)}
_NAMES = {segment.key: segment.name for segment in SEGMENTS} | {key: name for key, (name, _) in _GREYS.items()}
_COLOURS = {segment.key: segment.colour for segment in SEGMENTS} | {key: grey for key, (_, grey) in _GREYS.items()}
_ORDER = {key: place for place, key in enumerate([*_COLOURS])}


def name_of(key: str) -> str:
    """Return the name of a segment, or of the group that is none."""
    return _NAMES[key]


def colour_of(key: str) -> str:
    """Return the permanent colour of a segment."""
    return _COLOURS[key]


def in_order(keys: Any) -> list[str]:
    """Return distinct keys in the order of the catalogue: normal segments, outliers, inactive customers, others."""
    return sorted(set(keys), key=_ORDER.__getitem__)


def config(currency: str | None) -> dict[str, Any]:
    """Return the Vega-Lite configuration of every chart.

    Args:
        currency: The retailer's currency, whose notation all axes use.
    """
    notation = notation_of(currency)
    text = {
        "labelColor": MUTED,
        "titleColor": INK,
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
    }
    return {
        "background": PAPER,
        "font": "sans-serif",
        "view": {"stroke": None},
        "axis": {**text, "gridColor": GRID, "domainColor": MUTED, "tickColor": MUTED, "labelLimit": 190},
        "header": text,
        "legend": {**text, "orient": "bottom", "title": None, "labelLimit": 220, "symbolStrokeColor": MUTED},
        # In a notebook.
        "mark": {"tooltip": {"content": "data"}},
        "text": {"color": INK, "fontSize": 12},
        "rule": {"color": INK},
        "locale": {
            "number": {
                "decimal": notation.decimal,
                "thousands": notation.thousands,
                "grouping": [3],
                "currency": [notation.prefix, notation.suffix],
            }
        },
    }
