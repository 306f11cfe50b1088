"""Charts of the segments: their sizes, how concentrated their money is, and what outliers buy and when."""

from datetime import datetime

import altair as alt
import numpy as np
import pandas as pd

from segmentation_pipeline.reports import theme
from segmentation_pipeline.reports.charts.parts import (
    AnyChart,
    finished,
    listed,
    pairs,
    segment_colour,
    sentence,
)
from segmentation_pipeline.reports.formatting import format_money, format_share
from segmentation_pipeline.reports.theme import GRID, INK, MUTED, PAPER, WIDTH


def segment_sizes(segments: pd.DataFrame, currency: str | None) -> AnyChart:
    """Draw the share of the customers and of the revenue of each segment, most revenue first."""
    shares = segments[["segment_key", "segment", "customer_share", "revenue_share"]].fillna(0.0)
    rows = pd.concat(
        [
            shares[["segment_key", "segment"]].assign(
                part=part,
                share=shares[column].clip(lower=0.0),
                label=[f"{format_share(s, currency)} {words}" for s in shares[column]],
            )
            for part, column, words in (
                ("revenue", "revenue_share", "of revenue"),
                ("customers", "customer_share", "of customers"),
            )
        ]
    )
    order = [*shares["segment"]]
    y = alt.Y("segment:N", sort=order, title=None)
    offset = alt.YOffset("part:N", sort=["revenue", "customers"])
    x = alt.X("share:Q", title=None, axis=alt.Axis(format="%", tickCount=5), scale=alt.Scale(nice=True))
    bars = alt.Chart(rows).mark_bar(stroke=MUTED, strokeWidth=0.7)
    filled = bars.encode(
        x=x,
        y=y,
        yOffset=offset,
        color=segment_colour(segments["segment_key"]),
        fillOpacity=alt.condition(alt.datum.part == "revenue", alt.value(1), alt.value(0.35)),
    )
    labels = alt.Chart(rows).mark_text(align="left", dx=4).encode(x=x, y=y, yOffset=offset, text="label:N")
    parts = [
        f"{name}: {format_share(customers, currency)} of customers, {format_share(revenue, currency)} of revenue"
        for name, customers, revenue in pairs(shares, "segment", "customer_share", "revenue_share")
    ]
    return finished(filled + labels, currency, f"{'; '.join(parts)}.", height=44 * len(order))


def concentration(points: pd.DataFrame, currency: str | None) -> AnyChart:
    """Draw the Lorenz curve of money: of all customers, and within each outlier segment."""
    start = points[["segment_key"]].drop_duplicates().assign(customer_share=0.0, revenue_share=0.0)
    rows = pd.concat([start, points]).sort_values(["segment_key", "customer_share"])
    rows = rows.assign(segment=[theme.name_of(key) for key in rows["segment_key"]])
    keys = theme.in_order(rows["segment_key"])
    dashes = [
        [1, 0] if key == "all" else [[6, 2], [2, 2], [8, 2, 2, 2], [4, 4]][place % 4] for place, key in enumerate(keys)
    ]
    names = [theme.name_of(key) for key in keys]
    x = alt.X(
        "customer_share:Q", title="share of the customers, least money first", axis=alt.Axis(format="%", tickCount=5)
    )
    whole = alt.Scale(domain=[0, 1])
    y = alt.Y("revenue_share:Q", title="share of their money", axis=alt.Axis(format="%", tickCount=5), scale=whole)
    equal = alt.Chart(pd.DataFrame({"customer_share": [0, 1], "revenue_share": [0, 1]}))
    chart = equal.mark_line(color=GRID).encode(x=x, y=y) + alt.Chart(rows).mark_line(strokeWidth=2).encode(
        x=x,
        y=y,
        color=segment_colour(keys, legend=True),
        strokeDash=alt.StrokeDash(
            "segment:N", scale=alt.Scale(domain=names, range=dashes), legend=alt.Legend(columns=4)
        ),
    )
    parts = [
        f"the tenth of {'all customers' if key == 'all' else theme.name_of(key)} with most money has"
        f" {format_share(1 - _at(points[points['segment_key'] == key], 0.9), currency, decimals=0)} of it"
        for key in keys
    ]
    return finished(chart, currency, sentence(parts), height=280)


def _at(points: pd.DataFrame, share: float) -> float:
    """Return the height of a Lorenz curve at a share of the customers."""
    place = int(np.argmin(np.abs(points["customer_share"].to_numpy() - share)))
    return float(points["revenue_share"].iloc[place])


def outlier_products(products: pd.DataFrame, currency: str | None) -> AnyChart:
    """Draw the products on which each outlier segment spends most."""
    named = products.assign(name=_product_names(products))
    panels, parts = [], []
    for key in dict.fromkeys(named["segment_key"]):
        rows = named[named["segment_key"] == key]
        rows = rows.assign(
            label=[
                f"{format_money(money, currency)}, {format_share(share, currency, decimals=0)} of them buy it"
                for money, share in pairs(rows, "revenue", "customer_share")
            ]
        )
        y = alt.Y("name:N", sort=[*rows["name"]], title=None)
        x = alt.X("revenue:Q", title=None, axis=None)
        bars = alt.Chart(rows).mark_bar(color=theme.colour_of(key), stroke=MUTED, strokeWidth=0.7, height=12)
        texts = alt.Chart(rows).mark_text(align="left", dx=4, fontSize=11)
        title = alt.TitleParams(theme.name_of(key), anchor="start", fontSize=12, color=INK)
        panel = bars.encode(x=x, y=y) + texts.encode(x=x, y=y, text="label:N")
        panels.append(panel.properties(title=title, width=WIDTH - 240, height=22 * len(rows)))
        parts.append(f"{theme.name_of(key)}: {listed(list(rows['name'])[:3])}")
    chart = alt.vconcat(*panels, spacing=8).resolve_scale(x="independent")
    return finished(chart, currency, f"The products with most money. {sentence(parts)}")


def outlier_months(seasons: pd.DataFrame, currency: str | None) -> AnyChart:
    """Draw in which months of the year each outlier segment spends, beside all customers who are no outliers."""
    panels, parts = [], []
    names = [datetime(2000, month, 1).strftime("%b") for month in range(1, 13)]  # noqa: DTZ001 - the name of a month
    for key in dict.fromkeys(seasons["segment_key"]):
        rows = seasons[seasons["segment_key"] == key]
        rows = rows.assign(month=[names[number - 1] for number in rows["month_of_year"]])
        x = alt.X("month:N", sort=names, scale=alt.Scale(domain=names), title=None, axis=alt.Axis(labelAngle=0))
        axis = alt.Axis(format="%", tickCount=3)
        bars = alt.Chart(rows).mark_bar(color=theme.colour_of(key), stroke=MUTED, strokeWidth=0.7)
        ticks = alt.Chart(rows).mark_tick(color=INK, thickness=3.5, width=24, stroke=PAPER, strokeWidth=0.8, opacity=1)
        panel = bars.encode(x=x, y=alt.Y("revenue_share:Q", title=None, axis=axis))
        panel += ticks.encode(x=x, y=alt.Y("others_revenue_share:Q"))
        title = alt.TitleParams(
            f"{theme.name_of(key)} (line: customers who are no outliers)", anchor="start", fontSize=12, color=INK
        )
        panels.append(panel.properties(title=title, width=WIDTH, height=75))
        best = rows.sort_values("revenue_share", ascending=False).iloc[0]
        share, others = (
            format_share(best[name], currency, decimals=0) for name in ("revenue_share", "others_revenue_share")
        )
        parts.append(f"{theme.name_of(key)} spends most in {best['month']}: {share}, others {others}")
    return finished(alt.vconcat(*panels, spacing=10), currency, sentence(parts))


def _product_names(products: pd.DataFrame) -> list[str]:
    """Return a short name of each product, which differs from that of every other one."""
    names: dict[str, str] = {}
    for product, description in pairs(products, "product", "description"):
        name = description if isinstance(description, str) and description.strip() else str(product)
        text = " ".join("".join(c if c.isprintable() else " " for c in name).split())
        short = text if len(text) <= 28 else f"{text[:27].rstrip()}…"
        taken = short in names and names[short] != product
        names[f"{short} ({product})" if taken else short] = product
    found = {product: name for name, product in names.items()}
    return [found[product] for product in products["product"]]
