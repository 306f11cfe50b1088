"""What the charts have in common: the finish of a chart, the colours of segments, and the words of descriptions.

The look is in `reports.theme`.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import altair as alt
import pandas as pd

from segmentation_pipeline.reports import theme
from segmentation_pipeline.reports.formatting import format_number
from segmentation_pipeline.reports.theme import WIDTH

AnyChart = alt.Chart | alt.LayerChart | alt.VConcatChart | alt.HConcatChart | alt.FacetChart
FEATURE_TITLES = {
    "monetary": "money spent, net of refunds",
    "frequency": "number of purchases",
    "recency": "days since the last purchase",
}


def finished(chart: Any, currency: str | None, description: str, *, height: float | None = None) -> AnyChart:
    """Return a chart with the theme and its description."""
    size: dict[str, Any] = {} if height is None else {"width": WIDTH, "height": height}
    configured: AnyChart = chart.properties(description=description, **size).configure(**theme.config(currency))
    return configured


def segment_colour(keys: Any, *, legend: bool = False) -> alt.Color:
    """Return the encoding of the column `segment`, a name, by the permanent colours."""
    ordered = theme.in_order(keys)
    scale = alt.Scale(domain=[theme.name_of(key) for key in ordered], range=[theme.colour_of(key) for key in ordered])
    return alt.Color("segment:N", scale=scale, legend=alt.Legend(columns=4) if legend else None)


def count(number: Any, currency: str | None) -> str:
    """Return a whole number in the notation of the currency."""
    return format_number(int(number), currency)


def number(value: float, currency: str | None, decimals: int = 1) -> str:
    """Return a number with decimals in the notation of the currency."""
    return format_number(value, currency, decimals=decimals)


def month_name(month_end: Any) -> str:
    """Return the name and year of the month that ends at a midnight."""
    return f"{pd.Timestamp(month_end) - timedelta(days=1):%b %Y}"


def listed(words: Sequence[str]) -> str:
    """Return words with commas, and with "and" before the last."""
    return ", ".join(words[:-1]) + " and " + words[-1] if len(words) > 1 else "".join(words)


def sentence(parts: Sequence[str]) -> str:
    """Return parts as one sentence; none if there are none."""
    text = "; ".join(parts)
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def pairs(rows: pd.DataFrame, *names: str) -> Any:
    """Return the values of some columns, row by row."""
    return zip(*(rows[name] for name in names), strict=True)
