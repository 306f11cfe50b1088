"""Charts of movement: between segments, since the last release and month by month, and customers by month."""

from datetime import timedelta
from typing import Any

import altair as alt
import pandas as pd

from segmentation_pipeline.reports import theme
from segmentation_pipeline.reports.charts.alluvial import alluvial
from segmentation_pipeline.reports.charts.parts import AnyChart, count, finished, month_name, pairs, segment_colour
from segmentation_pipeline.reports.theme import PAPER, WIDTH

# Ribbons that are thinner cannot be seen.
_THINNEST = 0.004


def flows(moves: pd.DataFrame, currency: str | None) -> AnyChart:
    """Draw which segments the customers left and entered, without those who stayed.

    Args:
        moves: Customers by `from_segment` and `to_segment`; `new` and `gone` are no segments.
        currency: The retailer's currency.
    """
    moved = moves[moves["from_segment"] != moves["to_segment"]].assign(step=1)
    parts = [
        f"{count(n, currency)} from {theme.name_of(a)} to {theme.name_of(b)}"
        for a, b, n in pairs(moved.sort_values("customers", ascending=False), "from_segment", "to_segment", "customers")
    ]
    stayed = moves["customers"].sum() - moved["customers"].sum()
    more = f" and {len(parts) - 8} smaller moves" if len(parts) > 8 else ""
    text = f"{count(stayed, currency)} customers stayed; moved: {'; '.join(parts[:8])}{more}."
    return finished(alluvial(moved, ["before", "now"], currency, 0), currency, text, height=300)


def monthly_flows(moves: pd.DataFrame, currency: str | None) -> AnyChart:
    """Draw how customers moved between segments, month by month."""
    months = sorted(moves["month_end"].unique())
    steps = moves.assign(step=[months.index(month) + 1 for month in moves["month_end"]])
    labels = [month_name(pd.Timestamp(months[0]) - timedelta(days=32)), *(month_name(month) for month in months)]
    new, stayed = steps["from_segment"] == "new", steps["from_segment"] == steps["to_segment"]
    parts = [
        f"{label}: {_sum(steps[(steps['step'] == step) & ~new & ~stayed], currency)} moved,"
        f" {_sum(steps[(steps['step'] == step) & new], currency)} new"
        for step, label in enumerate(labels)
        if step
    ]
    return finished(alluvial(steps, labels, currency, _THINNEST), currency, f"{'; '.join(parts)}.", height=300)


def customer_base(months: pd.DataFrame, currency: str | None) -> AnyChart:
    """Draw the number of customers of each segment at the past month ends."""
    keys = theme.in_order(months["segment_key"])
    place = {key: number for number, key in enumerate(keys)}
    rows = months.assign(
        segment=[theme.name_of(key) for key in months["segment_key"]],
        place=[place[key] for key in months["segment_key"]],
        month=[_last_day(month) for month in months["month_end"]],
    )
    areas = (
        alt.Chart(rows)
        .mark_bar(stroke=PAPER, strokeWidth=0.6)
        .encode(
            x=alt.X(
                "yearmonth(month):O", title=None, axis=alt.Axis(format="%b %y", labelAngle=-90, labelOverlap=False)
            ),
            y=alt.Y("customers:Q", title="customers", axis=alt.Axis(format=",d", tickCount=5)),
            color=segment_colour(keys, legend=True),
            order=alt.Order("place:Q"),
            fillOpacity=alt.condition(alt.datum.is_comparable, alt.value(1), alt.value(0.4)),
        )
    )
    totals = months.groupby("month_end")["customers"].sum()
    last = rows[rows["month_end"] == totals.index[-1]].sort_values("place")
    last = last.assign(middle=last["customers"].cumsum() - last["customers"] / 2)
    named = alt.Chart(last[last["customers"] > 0.04 * totals.iloc[-1]]).mark_text(align="left", dx=5, fontSize=11)
    labels = named.encode(x=alt.value(WIDTH), y="middle:Q", text="segment:N")
    short = months.loc[~months["is_comparable"], "month_end"].nunique()
    text = (
        f"{count(totals.iloc[0], currency)} customers at the end of {month_name(totals.index[0])},"
        f" {count(totals.iloc[-1], currency)} at the end of {month_name(totals.index[-1])}."
    )
    note = f" The data before the first {short} month ends cover less than a year: these are pale." if short else ""
    return finished(areas + labels, currency, text + note, height=260)


def _last_day(month_end: Any) -> str:
    """Return the last day of the month that ends at a midnight."""
    return f"{pd.Timestamp(month_end) - timedelta(days=1):%Y-%m-%dT12:00:00}"


def _sum(rows: pd.DataFrame, currency: str | None) -> str:
    return count(rows["customers"].sum(), currency)
