"""The charts: each a function from frames of a release to an Altair chart.

The interface shows them as PNG, the report as SVG, a notebook interactively. The description of each chart, which a
screen reader reads, says what it shows in numbers. Does not read releases (`frames`) and does not draw (`rendering`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from segmentation_pipeline.reports import theme
from segmentation_pipeline.reports.formatting import format_money, format_number, format_share
from segmentation_pipeline.reports.theme import GRID, INK, KEPT, LOST, MUTED, PAPER, THIRD, WIDTH

AnyChart = alt.Chart | alt.LayerChart | alt.VConcatChart | alt.HConcatChart | alt.FacetChart
FEATURE_TITLES = {
    "monetary": "money spent, net of refunds",
    "frequency": "number of purchases",
    "recency": "days since the last purchase",
}
# Ribbons that are thinner cannot be seen.
_THINNEST = 0.004
# The height of a label.
_LINE = 14.0


def loss_funnel(losses: pd.DataFrame, currency: str | None) -> AnyChart:
    """Draw how many lines each cleaning rule rejects, from the lines that were read to those that count."""
    read, steps = losses.iloc[0], losses[(losses["step"] == 0) | (losses["lines"] > 0)]
    rows = pd.DataFrame(
        {
            "rule": ["lines read", *steps["rule"].iloc[1:]],
            "kept": steps["lines_left"],
            "end": [read["lines"], *(steps["lines_left"] + steps["lines"]).iloc[1:]],
            "label": [
                _count(read["lines"], currency),
                *(
                    f"-{_count(n, currency)} ({format_share(s, currency)})"
                    for n, s in _pairs(steps.iloc[1:], "lines", "share")
                ),
            ],
        }
    )
    kept = losses["lines_left"].iloc[-1]
    y = alt.Y("rule:N", sort=None, title=None)
    x = alt.X("kept:Q", title="lines", axis=alt.Axis(format=",d", tickCount=4))
    base = alt.Chart(rows)
    chart = base.mark_bar(color=KEPT).encode(x=x, y=y) + base.mark_bar(color=LOST).encode(x="kept:Q", x2="end:Q", y=y)
    chart += base.mark_text(align="left", dx=5).encode(x="end:Q", y=y, text="label:N")
    share = format_share(kept / max(read["lines"], 1), currency)
    names = [f"{rule} rejects {_count(lines, currency)}" for rule, lines in _pairs(steps.iloc[1:], "rule", "lines")]
    text = f"Of {_count(read['lines'], currency)} lines read, {_count(kept, currency)} ({share}) count."
    return _finished(chart, currency, f"{text} {_sentence(names)}".strip(), height=26 * len(rows))


def features(bars: pd.DataFrame, fences: pd.DataFrame, currency: str | None) -> AnyChart:
    """Draw the distribution of each feature, with the fences beyond which customers are outliers."""
    panels, texts = [], []
    for feature, title in FEATURE_TITLES.items():
        rows = bars[bars["feature"] == feature]
        if rows.empty:
            continue
        scale = alt.Scale(type="log") if feature == "monetary" else alt.Scale()
        axis = alt.Axis(format="$~s" if feature == "monetary" else ",d", tickCount=5, grid=False)
        x = alt.X("low:Q", title=title, scale=scale, axis=axis)
        panel: Any = (
            alt.Chart(rows)
            .mark_bar(color=KEPT, stroke=PAPER, strokeWidth=0.5)
            .encode(
                x=x,
                x2="high:Q",
                y=alt.Y("customers:Q", title="customers", axis=alt.Axis(tickCount=3, format=",d")),
                y2=alt.datum(0),
            )
        )
        low, high = rows["low"].min(), rows["high"].max()
        lines = [
            float(value)
            for name in ("lower_fence", "upper_fence")
            for value in fences.loc[fences["feature"] == feature, name]
            if low < value < high
        ]
        if lines:
            shown = pd.DataFrame({"low": lines})
            panel += alt.Chart(shown).mark_rule(color=LOST, strokeDash=[5, 3], strokeWidth=1.5).encode(x="low:Q")
            label = (
                alt.Chart(shown)
                .mark_text(align="left", dx=4, dy=6, color=INK, baseline="top")
                .encode(x="low:Q", y=alt.value(0), text=alt.value("fence"))
            )
            panel += label
        values = [format_money(v, currency) if feature == "monetary" else _number(v, currency) for v in lines]
        texts.append(f"{title}: {f'fence at {_list(values)}' if values else 'no fence'}")
        panels.append(panel.properties(width=WIDTH, height=95))
    return _finished(alt.vconcat(*panels), currency, f"Three histograms of the customers. {_sentence(texts)}")


def choice_of_k(candidates: pd.DataFrame, currency: str | None) -> AnyChart:
    """Draw inertia and silhouette over the number of clusters, with the chosen one marked."""
    panels = []
    for column, title, form in (("inertia", "inertia (elbow)", ",d"), ("silhouette", "silhouette", ".2f")):
        rows = candidates.dropna(subset=[column])
        x = alt.X("n_clusters:O", title="clusters", axis=alt.Axis(labelAngle=0))
        y = alt.Y(f"{column}:Q", title=title, scale=alt.Scale(zero=False), axis=alt.Axis(format=form, tickCount=4))
        base = alt.Chart(rows).encode(x=x, y=y)
        chosen = alt.Chart(rows[rows["is_chosen"]]).encode(x=x, y=y)
        panel = base.mark_line(color=MUTED) + base.mark_point(color=MUTED, filled=True, size=45, opacity=1)
        panel += chosen.mark_point(color=LOST, filled=True, size=130, shape="diamond", opacity=1)
        panel += chosen.mark_text(align="left", dx=8, dy=-8, color=INK).encode(text=alt.value("chosen"))
        panels.append(panel.properties(width=WIDTH // 2 - 40, height=170))
    rows = candidates.dropna(subset=["silhouette"])
    values = [f"{k} clusters: {_number(s, currency, 2)}" for k, s in _pairs(rows, "n_clusters", "silhouette")]
    chosen_k = candidates.loc[candidates["is_chosen"], "n_clusters"]
    text = f"{chosen_k.iloc[0]} clusters were chosen. " if len(chosen_k) else ""
    return _finished(alt.hconcat(*panels), currency, f"{text}Silhouette by number of clusters: {'; '.join(values)}.")


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
    colour = _segment_colour([*customers["segment_key"], *centres["segment_key"]])
    points = customers[["monetary", "frequency", "recency"]].assign(
        segment=[theme.name_of(key) for key in customers["segment_key"]]
    )
    panels = [_map_panel(points, centres, feature, colour) for feature in ("recency", "frequency")]
    places = [
        f"{name} at {format_money(money, currency)}, {_number(purchases, currency)} purchases and"
        f" {_number(days, currency, 0)} days"
        for name, money, purchases, days in _pairs(centres, "segment", "monetary", "frequency", "recency")
    ]
    note = "The diamonds are the centroids; for outliers, the medians"
    return _finished(alt.vconcat(*panels), currency, f"{_sampled(customers, currency)} {note}: {'; '.join(places)}.")


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
        color=_segment_colour(segments["segment_key"]),
        fillOpacity=alt.condition(alt.datum.part == "revenue", alt.value(1), alt.value(0.35)),
    )
    labels = alt.Chart(rows).mark_text(align="left", dx=4).encode(x=x, y=y, yOffset=offset, text="label:N")
    parts = [
        f"{name}: {format_share(customers, currency)} of customers, {format_share(revenue, currency)} of revenue"
        for name, customers, revenue in _pairs(shares, "segment", "customer_share", "revenue_share")
    ]
    return _finished(filled + labels, currency, f"{'; '.join(parts)}.", height=44 * len(order))


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
        color=_segment_colour(keys, legend=True),
        strokeDash=alt.StrokeDash(
            "segment:N", scale=alt.Scale(domain=names, range=dashes), legend=alt.Legend(columns=4)
        ),
    )
    parts = [
        f"the tenth of {'all customers' if key == 'all' else theme.name_of(key)} with most money has"
        f" {format_share(1 - _at(points[points['segment_key'] == key], 0.9), currency, decimals=0)} of it"
        for key in keys
    ]
    return _finished(chart, currency, _sentence(parts), height=280)


def flows(moves: pd.DataFrame, currency: str | None) -> AnyChart:
    """Draw which segments the customers left and entered, without those who stayed.

    Args:
        moves: Customers by `from_segment` and `to_segment`; `new` and `gone` are no segments.
        currency: The retailer's currency.
    """
    moved = moves[moves["from_segment"] != moves["to_segment"]].assign(step=1)
    parts = [
        f"{_count(n, currency)} from {theme.name_of(a)} to {theme.name_of(b)}"
        for a, b, n in _pairs(
            moved.sort_values("customers", ascending=False), "from_segment", "to_segment", "customers"
        )
    ]
    stayed = moves["customers"].sum() - moved["customers"].sum()
    more = f" and {len(parts) - 8} smaller moves" if len(parts) > 8 else ""
    text = f"{_count(stayed, currency)} customers stayed; moved: {'; '.join(parts[:8])}{more}."
    return _finished(_alluvial(moved, ["before", "now"], currency, 0), currency, text, height=300)


def monthly_flows(moves: pd.DataFrame, currency: str | None) -> AnyChart:
    """Draw how customers moved between segments, month by month."""
    months = sorted(moves["month_end"].unique())
    steps = moves.assign(step=[months.index(month) + 1 for month in moves["month_end"]])
    labels = [_month(pd.Timestamp(months[0]) - timedelta(days=32)), *(_month(month) for month in months)]
    new, stayed = steps["from_segment"] == "new", steps["from_segment"] == steps["to_segment"]
    parts = [
        f"{label}: {_sum(steps[(steps['step'] == step) & ~new & ~stayed], currency)} moved,"
        f" {_sum(steps[(steps['step'] == step) & new], currency)} new"
        for step, label in enumerate(labels)
        if step
    ]
    return _finished(_alluvial(steps, labels, currency, _THINNEST), currency, f"{'; '.join(parts)}.", height=300)


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
            color=_segment_colour(keys, legend=True),
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
        f"{_count(totals.iloc[0], currency)} customers at the end of {_month(totals.index[0])},"
        f" {_count(totals.iloc[-1], currency)} at the end of {_month(totals.index[-1])}."
    )
    note = f" The data before the first {short} month ends cover less than a year: these are pale." if short else ""
    return _finished(areas + labels, currency, text + note, height=260)


def lift(metrics: pd.DataFrame, currency: str | None) -> AnyChart:
    """Draw how well segments, rules and money alone predicted later spend, with the intervals."""
    methods = {"segments": "segments", "rfm_segments": "rule-based RFM segments", "spend": "money alone"}
    rows = metrics.assign(
        method=[methods[name] for name in metrics["segmentation"]],
        month=[_month(month) for month in metrics["month_end"]],
        who=["all customers" if who == "all" else "normal customers only" for who in metrics["population"]],
    )
    names = [*methods.values()]
    colour = alt.Color("method:N", scale=alt.Scale(domain=names, range=[KEPT, LOST, THIRD]), legend=alt.Legend())
    shape = alt.Shape("method:N", scale=alt.Scale(domain=names, range=["circle", "square", "triangle-up"]))
    order = [_month(month) for month in sorted(metrics["month_end"].unique())]
    x = alt.X("month:N", sort=order, title=None, axis=alt.Axis(labelAngle=-90))
    offset = alt.XOffset("method:N", sort=names)
    axis = alt.Axis(tickCount=4)
    base = alt.Chart(rows).encode(x=x, xOffset=offset, color=colour)
    rules = base.mark_rule(strokeWidth=1.5).encode(
        y=alt.Y("low:Q", title="Gini of later spend", axis=axis), y2="high:Q"
    )
    marks = base.mark_point(filled=True, size=35, opacity=1).encode(y=alt.Y("value:Q"), shape=shape)
    # Altair lays facets out from the data of the layers, which must be one and the same.
    chart = (
        alt.layer(rules, marks)
        .properties(width=WIDTH, height=125)
        .facet(row=alt.Row("who:N", title=None, sort=["all customers", "normal customers only"]))
    )
    parts = []
    for who, group in rows.groupby("who"):
        means = group.groupby("method")["value"].mean().dropna()
        parts.append(
            f"{who}: {', '.join(f'{name} {_number(means[name], currency, 2)}' for name in names if name in means)}"
        )
    return _finished(chart, currency, f"Mean Gini of later spend, higher is better. {_sentence(parts)}")


def calibration(deciles: pd.DataFrame, currency: str | None) -> AnyChart:
    """Draw what each tenth of the customers was expected to spend in the last 90 days, and what it spent."""
    columns = {
        "actual_spend": "actual spend",
        "expected_spend": "expected spend",
        "naive_spend": "last year's spend, scaled",
    }
    rows = deciles.melt("decile", [*columns], "column", "spend")
    rows["spend"] = rows["spend"].astype(float)
    rows["what"] = rows["column"].map(columns)
    names = [*columns.values()]
    colour = alt.Color(
        "what:N", scale=alt.Scale(domain=names, range=[KEPT, LOST, THIRD]), legend=alt.Legend(title=None)
    )
    shape = alt.Shape("what:N", scale=alt.Scale(domain=names, range=["circle", "square", "triangle-up"]))
    base = alt.Chart(rows).encode(
        x=alt.X("decile:O", title="tenths of the customers, highest expected spend first", axis=alt.Axis(labelAngle=0)),
        y=alt.Y("spend:Q", title="mean spend in 90 days", axis=alt.Axis(tickCount=4)),
        color=colour,
    )
    chart = base.mark_line(strokeWidth=1.5) + base.mark_point(filled=True, size=45, opacity=1).encode(shape=shape)
    best, weights = deciles.iloc[0], deciles["customers"]
    means = {name: float((deciles[name].astype(float) * weights).sum() / weights.sum()) for name in columns}
    text = (
        f"Of all customers, expected {format_money(means['expected_spend'], currency)} each, spent"
        f" {format_money(means['actual_spend'], currency)}; of the best tenth, expected"
        f" {format_money(float(best['expected_spend']), currency)}, spent"
        f" {format_money(float(best['actual_spend']), currency)}."
    )
    return _finished(chart, currency, text, height=200)


def rfm_grid(scores: pd.DataFrame, currency: str | None) -> AnyChart:
    """Draw the customers by their scores of recency and frequency; the darker, the more money each has spent."""
    rows = scores.assign(
        label=[_count(n, currency) for n in scores["customers"]],
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
        f"{_count(group['customers'].sum(), currency)} customers {words}, with"
        f" {format_money(group['mean_monetary'].iloc[0], currency)} each"
        for group, words in ((best, "bought most recently and most often"), (lost, "longest ago and least often"))
        if len(group)
    ]
    return _finished(chart, currency, f"A grid of 5 by 5 scores. {_sentence(parts)}", height=230)


def outlier_products(products: pd.DataFrame, currency: str | None) -> AnyChart:
    """Draw the products on which each outlier segment spends most."""
    named = products.assign(name=_product_names(products))
    panels, parts = [], []
    for key in dict.fromkeys(named["segment_key"]):
        rows = named[named["segment_key"] == key]
        rows = rows.assign(
            label=[
                f"{format_money(money, currency)}, {format_share(share, currency, decimals=0)} of them buy it"
                for money, share in _pairs(rows, "revenue", "customer_share")
            ]
        )
        y = alt.Y("name:N", sort=[*rows["name"]], title=None)
        x = alt.X("revenue:Q", title=None, axis=None)
        bars = alt.Chart(rows).mark_bar(color=theme.colour_of(key), stroke=MUTED, strokeWidth=0.7, height=12)
        texts = alt.Chart(rows).mark_text(align="left", dx=4, fontSize=11)
        title = alt.TitleParams(theme.name_of(key), anchor="start", fontSize=12, color=INK)
        panel = bars.encode(x=x, y=y) + texts.encode(x=x, y=y, text="label:N")
        panels.append(panel.properties(title=title, width=WIDTH - 240, height=22 * len(rows)))
        parts.append(f"{theme.name_of(key)}: {_list(list(rows['name'])[:3])}")
    chart = alt.vconcat(*panels, spacing=8).resolve_scale(x="independent")
    return _finished(chart, currency, f"The products with most money. {_sentence(parts)}")


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
    return _finished(alt.vconcat(*panels, spacing=10), currency, _sentence(parts))


def _finished(chart: Any, currency: str | None, description: str, *, height: float | None = None) -> AnyChart:
    """Return a chart with the theme and its description."""
    size: dict[str, Any] = {} if height is None else {"width": WIDTH, "height": height}
    configured: AnyChart = chart.properties(description=description, **size).configure(**theme.config(currency))
    return configured


def _segment_colour(keys: Any, *, legend: bool = False) -> alt.Color:
    """Return the encoding of the column `segment`, a name, by the permanent colours."""
    ordered = theme.in_order(keys)
    scale = alt.Scale(domain=[theme.name_of(key) for key in ordered], range=[theme.colour_of(key) for key in ordered])
    return alt.Color("segment:N", scale=scale, legend=alt.Legend(columns=4) if legend else None)


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


def _alluvial(moves: pd.DataFrame, labels: Sequence[str], currency: str | None, thinnest: float) -> Any:
    """Draw ribbons between the columns of an alluvial diagram.

    Args:
        moves: `customers` by `step` (1 is from the first column to the second), `from_segment` and `to_segment`.
        labels: The label of each column.
        currency: The retailer's currency.
        thinnest: The share of a step's customers below which a ribbon is not drawn.
    """
    steps: dict[int, list[tuple[str, str, int]]] = {}
    for step, *move in _pairs(moves, "step", "from_segment", "to_segment", "customers"):
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
    colour = _segment_colour([*moves["from_segment"], *moves["to_segment"]])
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
        "label": f"{theme.name_of(key)} {_count(high - low, currency)}" if fits else "",
    }


def _product_names(products: pd.DataFrame) -> list[str]:
    """Return a short name of each product, which differs from that of every other one."""
    names: dict[str, str] = {}
    for product, description in _pairs(products, "product", "description"):
        name = description if isinstance(description, str) and description.strip() else str(product)
        text = " ".join("".join(c if c.isprintable() else " " for c in name).split())
        short = text if len(text) <= 28 else f"{text[:27].rstrip()}…"
        taken = short in names and names[short] != product
        names[f"{short} ({product})" if taken else short] = product
    found = {product: name for name, product in names.items()}
    return [found[product] for product in products["product"]]


def _at(points: pd.DataFrame, share: float) -> float:
    """Return the height of a Lorenz curve at a share of the customers."""
    place = int(np.argmin(np.abs(points["customer_share"].to_numpy() - share)))
    return float(points["revenue_share"].iloc[place])


def _sampled(customers: pd.DataFrame, currency: str | None) -> str:
    everybody = int(customers["all_customers"].iloc[0])
    if len(customers) == everybody:
        return f"{_count(everybody, currency)} customers."
    return f"A sample of {_count(len(customers), currency)} of {_count(everybody, currency)} customers."


def _last_day(month_end: Any) -> str:
    """Return the last day of the month that ends at a midnight."""
    return f"{pd.Timestamp(month_end) - timedelta(days=1):%Y-%m-%dT12:00:00}"


def _month(month_end: Any) -> str:
    return f"{pd.Timestamp(month_end) - timedelta(days=1):%b %Y}"


def _count(number: Any, currency: str | None) -> str:
    return format_number(int(number), currency)


def _sum(rows: pd.DataFrame, currency: str | None) -> str:
    return _count(rows["customers"].sum(), currency)


def _number(value: float, currency: str | None, decimals: int = 1) -> str:
    return format_number(value, currency, decimals=decimals)


def _list(words: Sequence[str]) -> str:
    return ", ".join(words[:-1]) + " and " + words[-1] if len(words) > 1 else "".join(words)


def _sentence(parts: Sequence[str]) -> str:
    text = "; ".join(parts)
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def _pairs(rows: pd.DataFrame, *names: str) -> Any:
    return zip(*(rows[name] for name in names), strict=True)
