"""Charts of the data: how many lines count, and how the features of customers are distributed."""

from typing import Any

import altair as alt
import pandas as pd

from segmentation_pipeline.reports.charts.parts import (
    FEATURE_TITLES,
    AnyChart,
    count,
    finished,
    listed,
    number,
    pairs,
    sentence,
)
from segmentation_pipeline.reports.formatting import format_money, format_share
from segmentation_pipeline.reports.theme import INK, KEPT, LOST, PAPER, WIDTH


def loss_funnel(losses: pd.DataFrame, currency: str | None) -> AnyChart:
    """Draw how many lines each cleaning rule rejects, from the lines that were read to those that count."""
    read, steps = losses.iloc[0], losses[(losses["step"] == 0) | (losses["lines"] > 0)]
    rows = pd.DataFrame(
        {
            "rule": ["lines read", *steps["rule"].iloc[1:]],
            "kept": steps["lines_left"],
            "end": [read["lines"], *(steps["lines_left"] + steps["lines"]).iloc[1:]],
            "label": [
                count(read["lines"], currency),
                *(
                    f"-{count(n, currency)} ({format_share(s, currency)})"
                    for n, s in pairs(steps.iloc[1:], "lines", "share")
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
    names = [f"{rule} rejects {count(lines, currency)}" for rule, lines in pairs(steps.iloc[1:], "rule", "lines")]
    text = f"Of {count(read['lines'], currency)} lines read, {count(kept, currency)} ({share}) count."
    return finished(chart, currency, f"{text} {sentence(names)}".strip(), height=26 * len(rows))


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
        values = [format_money(v, currency) if feature == "monetary" else number(v, currency) for v in lines]
        texts.append(f"{title}: {f'fence at {listed(values)}' if values else 'no fence'}")
        panels.append(panel.properties(width=WIDTH, height=95))
    return finished(alt.vconcat(*panels), currency, f"Three histograms of the customers. {sentence(texts)}")
