"""Charts of the model: the search for the number of clusters, the back-test, and the test of the forecast."""

import altair as alt
import pandas as pd

from segmentation_pipeline.reports.charts.parts import AnyChart, finished, month_name, number, pairs, sentence
from segmentation_pipeline.reports.formatting import format_money
from segmentation_pipeline.reports.theme import INK, KEPT, LOST, MUTED, THIRD, WIDTH


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
    values = [f"{k} clusters: {number(s, currency, 2)}" for k, s in pairs(rows, "n_clusters", "silhouette")]
    chosen_k = candidates.loc[candidates["is_chosen"], "n_clusters"]
    text = f"{chosen_k.iloc[0]} clusters were chosen. " if len(chosen_k) else ""
    return finished(alt.hconcat(*panels), currency, f"{text}Silhouette by number of clusters: {'; '.join(values)}.")


def lift(metrics: pd.DataFrame, currency: str | None) -> AnyChart:
    """Draw how well segments, rules and money alone predicted later spend, with the intervals."""
    methods = {"segments": "segments", "rfm_segments": "rule-based RFM segments", "spend": "money alone"}
    rows = metrics.assign(
        method=[methods[name] for name in metrics["segmentation"]],
        month=[month_name(month) for month in metrics["month_end"]],
        who=["all customers" if who == "all" else "normal customers only" for who in metrics["population"]],
    )
    names = [*methods.values()]
    colour = alt.Color("method:N", scale=alt.Scale(domain=names, range=[KEPT, LOST, THIRD]), legend=alt.Legend())
    shape = alt.Shape("method:N", scale=alt.Scale(domain=names, range=["circle", "square", "triangle-up"]))
    order = [month_name(month) for month in sorted(metrics["month_end"].unique())]
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
            f"{who}: {', '.join(f'{name} {number(means[name], currency, 2)}' for name in names if name in means)}"
        )
    return finished(chart, currency, f"Mean Gini of later spend, higher is better. {sentence(parts)}")


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
    return finished(chart, currency, text, height=200)
