"""Charts of single customers: each in its segment, and the grid of their scores."""

from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from segmentation_pipeline.reports import theme
from segmentation_pipeline.reports.charts.parts import (
    FEATURE_TITLES,
    AnyChart,
    count,
    finished,
    number,
    pairs,
    segment_colour,
    sentence,
)
from segmentation_pipeline.reports.formatting import format_money
from segmentation_pipeline.reports.theme import INK, PAPER, WIDTH

# The height of a label.
_LINE = 14.0


def segment_map(
    customers: pd.DataFrame, centroids: pd.DataFrame, segments: pd.DataFrame, currency: str | None
) -> AnyChart:
    """Draw the customers by recency, frequency and monetary in their segments, with the centroids.

    Args:
        customers: Customers, or a sample of them.
        centroids: The centroids of the normal segments.
        segments: The segments, whose medians stand for outliers, which have no centroid.
        currency: The retailer's currency.
    """
    outliers = segments[segments["customer_group"] == "outlier"]
    medians = pd.DataFrame(
        {"segment_key": outliers["segment_key"], **{name: outliers[f"median_{name}"] for name in FEATURE_TITLES}}
    )
    centres = pd.concat([centroids, medians], ignore_index=True).query("monetary > 0 and frequency > 0")
    centres = centres.assign(segment=[theme.name_of(key) for key in centres["segment_key"]])
    colour = segment_colour([*customers["segment_key"], *centres["segment_key"]])
    points = customers[["monetary", "frequency", "recency"]].assign(
        segment=[theme.name_of(key) for key in customers["segment_key"]]
    )
    panels = [_map_panel(points, centres, feature, colour) for feature in ("recency", "frequency")]
    places = [
        f"{name} at {format_money(money, currency)}, {number(purchases, currency)} purchases and"
        f" {number(days, currency, 0)} days"
        for name, money, purchases, days in pairs(centres, "segment", "monetary", "frequency", "recency")
    ]
    note = "The diamonds are the centroids; for outliers, the medians"
    return finished(alt.vconcat(*panels), currency, f"{_sampled(customers, currency)} {note}: {'; '.join(places)}.")


def _map_panel(points: pd.DataFrame, centres: pd.DataFrame, feature: str, colour: alt.Color) -> Any:
    """Draw the customers by monetary and one other feature."""
    width, height = WIDTH, 270
    # Wider than the data, which may be one value.
    money = (0.95 * float(points["monetary"].min()), 1.05 * float(points["monetary"].max()))
    x = alt.X(
        "monetary:Q",
        title=FEATURE_TITLES["monetary"],
        scale=alt.Scale(type="log", domain=money, nice=False),
        axis=alt.Axis(format="$~s", tickCount=4, grid=False),
    )
    values = (float(points[feature].min()), float(points[feature].max()) * 1.05 + 1)
    if feature == "recency":
        scale, axis = alt.Scale(reverse=True, domain=values, nice=False), alt.Axis(format=",d", tickCount=5)
        heights = height * (centres[feature] - values[0]) / (values[1] - values[0])
    else:
        ticks = [tick for tick in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if tick <= values[1]]
        scale, axis = alt.Scale(type="log", domain=values, nice=False), alt.Axis(format=",d", values=ticks)
        heights = height * (1 - np.log(centres[feature] / values[0]) / np.log(values[1] / values[0]))
    y = alt.Y(f"{feature}:Q", title=FEATURE_TITLES[feature], scale=scale, axis=axis)
    across = width * np.log(centres["monetary"] / money[0]) / np.log(money[1] / money[0])
    labels = alt.Chart(centres.assign(across=across, down=_apart(centres, heights - 13, across)))
    panel: Any = alt.Chart(points).mark_square(size=14, opacity=0.8).encode(x=x, y=y, color=colour)
    diamonds = alt.Chart(centres).mark_point(
        shape="diamond", filled=True, size=150, stroke=INK, strokeWidth=1.2, opacity=1
    )
    panel += diamonds.encode(x=x, y=y, color=colour)
    halo = labels.mark_text(fontWeight="bold", stroke=PAPER, strokeWidth=4)
    for text in (halo, labels.mark_text(fontWeight="bold", color=INK)):
        panel += text.encode(x=alt.X("across:Q", scale=None), y=alt.Y("down:Q", scale=None), text="segment:N")
    return panel.properties(width=width, height=height)


def _apart(centres: pd.DataFrame, heights: pd.Series, across: pd.Series) -> list[float]:
    """Return the heights of labels in the middle of `across`, lowered where they would cover another label."""
    placed: list[tuple[float, float, float]] = []
    found: dict[Any, float] = {}
    for label in heights.sort_values().index:
        height, middle, half = float(heights[label]), float(across[label]), 4.0 * len(centres.loc[label, "segment"])
        while any(abs(height - h) < _LINE and abs(middle - m) < half + w for h, m, w in placed):
            height += 1.0
        placed.append((height, middle, half))
        found[label] = height
    return [found[label] for label in heights.index]


def rfm_grid(scores: pd.DataFrame, currency: str | None) -> AnyChart:
    """Draw the customers by their scores of recency and frequency; the darker, the more money each has spent."""
    rows = scores.assign(
        label=[count(n, currency) for n in scores["customers"]],
        # Below it black, above it white is readable on the colour.
        dark=scores["mean_monetary"] > scores["mean_monetary"].max() * 0.62,
    )
    x = alt.X("recency_score:O", title="recency score (5: most recent)", axis=alt.Axis(labelAngle=0))
    y = alt.Y("frequency_score:O", sort="descending", title="frequency score (5: most often)")
    # A gradient has an id, which charts of one page would share.
    legend = alt.Legend(title="money per customer", format="$~s", type="symbol", symbolType="square")
    colour = alt.Color("mean_monetary:Q", scale=alt.Scale(range=["#eff3ff", "#08306b"], zero=True), legend=legend)
    cells = alt.Chart(rows).mark_rect(stroke=PAPER).encode(x=x, y=y, color=colour)
    ink = alt.condition(alt.datum.dark, alt.value("#fefefe"), alt.value("#000000"))
    chart = cells + alt.Chart(rows).mark_text().encode(x=x, y=y, text="label:N", color=ink)
    best = rows[(rows["recency_score"] == 5) & (rows["frequency_score"] == 5)]
    lost = rows[(rows["recency_score"] == 1) & (rows["frequency_score"] == 1)]
    parts = [
        f"{count(group['customers'].sum(), currency)} customers {words}, with"
        f" {format_money(group['mean_monetary'].iloc[0], currency)} each"
        for group, words in ((best, "bought most recently and most often"), (lost, "longest ago and least often"))
        if len(group)
    ]
    return finished(chart, currency, f"A grid of 5 by 5 scores. {sentence(parts)}", height=230)


def _sampled(customers: pd.DataFrame, currency: str | None) -> str:
    everybody = int(customers["all_customers"].iloc[0])
    if len(customers) == everybody:
        return f"{count(everybody, currency)} customers."
    return f"A sample of {count(len(customers), currency)} of {count(everybody, currency)} customers."
