"""Tests of the charts: what each shows of rows that were written by hand."""

import html
import re
from typing import Any

import pandas as pd
import pytest

from segmentation_pipeline.model.segment_catalog import SEGMENTS
from segmentation_pipeline.reports import charts, theme
from segmentation_pipeline.reports.charts.customers import _apart
from segmentation_pipeline.reports.rendering import inlined, svg_of

COLOURS = {segment.key: segment.colour for segment in SEGMENTS}
LOSSES = pd.DataFrame(
    {
        "step": [0, 1, 2, 3],
        "rule": ["read", "no_customer", "never", "no_price"],
        "lines": [1000, 100, 0, 50],
        "share": [1.0, 0.1, 0.0, 0.05],
        "lines_left": [1000, 900, 900, 850],
    }
)
SIZES = pd.DataFrame(
    {
        "segment_key": ["delight", "retain", "dormant"],
        "segment": ["DELIGHT", "RETAIN", "DORMANT"],
        "customer_share": [0.1, 0.8, 0.1],
        "revenue_share": [0.75, 0.26, -0.01],
    }
)


def moves(*rows: tuple[str, str, int], **columns: Any) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["from_segment", "to_segment", "customers"]).assign(**columns)


def rows_of(chart: charts.AnyChart) -> list[dict[str, Any]]:
    """Return the rows of all data of a chart."""
    return [row for rows in chart.to_dict()["datasets"].values() for row in rows]


def test_loss_funnel_shows_the_rules_that_reject_lines() -> None:
    chart = charts.loss_funnel(LOSSES, "GBP")
    assert chart.description == "Of 1,000 lines read, 850 (85.0%) count. No_customer rejects 100; no_price rejects 50."
    assert [(row["rule"], row["kept"], row["end"], row["label"]) for row in rows_of(chart)] == [
        ("lines read", 1000, 1000, "1,000"),
        ("no_customer", 900, 1000, "-100 (10.0%)"),
        ("no_price", 850, 900, "-50 (5.0%)"),
    ]


def test_charts_write_numbers_as_the_currency_does() -> None:
    chart = charts.loss_funnel(LOSSES, "EUR")
    assert str(chart.description).startswith("Of 1.000 lines read, 850 (85,0%) count.")
    assert ">1.000<" in inlined(svg_of(chart), "label")


def test_a_segment_has_its_permanent_colour_in_every_chart() -> None:
    drawn = (
        charts.segment_sizes(SIZES, "GBP"),
        charts.flows(moves(("retain", "delight", 5), ("delight", "dormant", 9), ("dormant", "retain", 7)), "GBP"),
    )
    for chart in drawn:
        svg = svg_of(chart)
        assert [key for key in ("delight", "retain", "dormant") if f'fill="{COLOURS[key]}"' not in svg] == []


def test_segment_sizes_names_a_negative_share_without_a_bar() -> None:
    chart = charts.segment_sizes(SIZES, None)
    assert "DORMANT: 10.0% of customers, -1.0% of revenue" in str(chart.description)
    assert min(row["share"] for row in rows_of(chart)) == 0


def test_flows_show_who_moved_and_count_who_stayed() -> None:
    chart = charts.flows(
        moves(("retain", "retain", 900), ("retain", "delight", 30), ("new", "nurture", 12), ("delight", "gone", 1)),
        "GBP",
    )
    assert chart.description == (
        "900 customers stayed; moved: 30 from RETAIN to DELIGHT; 12 from new customers to NURTURE;"
        " 1 from DELIGHT to no longer in the data."
    )
    ribbons = {row["ribbon"]: row["high"] - row["low"] for row in rows_of(chart) if "ribbon" in row}
    assert sorted(ribbons.values()) == [1, 12, 30]


def test_monthly_flows_stack_every_customer_in_every_month() -> None:
    october, november = pd.Timestamp("2024-11-01"), pd.Timestamp("2024-12-01")
    steps = pd.concat(
        [
            moves(("retain", "retain", 90), ("retain", "delight", 10), month_end=october),
            moves(("retain", "retain", 80), ("delight", "delight", 20), ("new", "retain", 5), month_end=november),
        ]
    )
    chart = charts.monthly_flows(steps, "GBP")
    assert chart.description == "Oct 2024: 10 moved, 0 new; Nov 2024: 0 moved, 5 new."
    boxes = {(row["column"], row["segment"]): row["high"] - row["low"] for row in rows_of(chart) if "column" in row}
    totals = {number: sum(size for (column, _), size in boxes.items() if column == number) for number in (0, 1, 2)}
    assert totals == {0: 100, 1: 100, 2: 105}


def test_labels_of_near_segments_do_not_cover_each_other() -> None:
    centres = pd.DataFrame({"segment": ["RETAIN", "REWARD", "GROW"]})
    heights = _apart(centres, pd.Series([50.0, 52.0, 51.0]), pd.Series([100.0, 110.0, 400.0]))
    assert heights == [50.0, 64.0, 51.0]


def test_products_of_the_same_short_name_stay_apart() -> None:
    long = "WHITE HANGING HEART T-LIGHT HOLDER"
    rows = pd.DataFrame(
        {
            "segment_key": "delight",
            "place": [1, 2, 3],
            "product": ["1", "2", "3"],
            "description": [f"{long} LARGE", f"{long} SMALL", None],
            "customer_share": [0.5, 0.4, 0.1],
            "revenue": [30.0, 20.0, 10.0],
        }
    )
    names = {row["name"] for row in rows_of(charts.outlier_products(rows, "GBP"))}
    assert names == {"WHITE HANGING HEART T-LIGHT…", "WHITE HANGING HEART T-LIGHT… (2)", "3"}


def test_a_sample_of_the_customers_is_called_one() -> None:
    points = pd.DataFrame({"segment_key": "retain", "monetary": [10.0, 20.0], "frequency": [1, 2], "recency": [3, 4]})
    centroids = points.head(1)
    segments = pd.DataFrame({"segment_key": [], "customer_group": []}).assign(
        median_monetary=[], median_frequency=[], median_recency=[]
    )
    assert "RETAIN at £10" in str(
        charts.segment_map(points.assign(all_customers=2), centroids, segments, "GBP").description
    )
    for everybody, text in ((2, "2 customers."), (1_000_000, "A sample of 2 of 1,000,000 customers.")):
        chart = charts.segment_map(points.assign(all_customers=everybody), centroids, segments, "GBP")
        assert str(chart.description).startswith(text)


def luminance(colour: str) -> float:
    """Return the relative luminance of WCAG 2.2 of rgb(r, g, b) or #rrggbb."""
    parts = (
        re.findall(r"\d+", colour) if colour.startswith("rgb") else [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
    )
    red, green, blue = (
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (int(p) / 255 for p in parts)
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_numbers_are_readable_on_every_colour_of_the_grid() -> None:
    scores = [(recency, frequency) for frequency in range(5, 0, -1) for recency in range(1, 6)]
    rows = pd.DataFrame(scores, columns=["recency_score", "frequency_score"]).assign(
        customers=range(101, 126), mean_monetary=[float(number) for number in range(25)]
    )
    svg = svg_of(charts.rfm_grid(rows, "GBP"))
    cells = re.findall(r'fill="(rgb\([^"]*\))" stroke="#ffffff"', svg)
    inks = {int(number): ink for ink, number in re.findall(r'fill="(#[0-9a-f]{6})"[^>]*>(1\d\d)<', svg)}
    assert len(cells) == len(inks) == 25
    assert [n for n, cell in enumerate(cells) if contrast(cell, inks[101 + n]) < 4.5] == []


@pytest.mark.parametrize(
    ("ink", "paper"),
    [
        (theme.INK, theme.PAPER),
        (theme.MUTED, theme.PAPER),
        ("#e8edf2", "#18222d"),
        ("#aab6c2", "#18222d"),
        ("#aab6c2", "#0f161e"),
        (theme.MUTED, "#f3f5f8"),
    ],
)
def test_text_of_charts_is_readable_in_light_and_dark(ink: str, paper: str) -> None:
    assert contrast(ink, paper) >= 4.5


def test_customers_who_all_spent_the_same_have_a_map() -> None:
    points = pd.DataFrame({"segment_key": "retain", "monetary": [7.0], "frequency": [1], "recency": [0]})
    segments = pd.DataFrame(
        {
            "segment_key": ["retain", "pamper"],
            "customer_group": ["normal", "outlier"],
            "median_monetary": [7.0, 7.0],
            "median_frequency": [1.0, 1.0],
            "median_recency": [0.0, 0.0],
        }
    )
    chart = charts.segment_map(points.assign(all_customers=1), points, segments, "GBP")
    labels = {row["segment"]: (row["across"], row["down"]) for row in rows_of(chart) if "across" in row}
    assert labels.keys() == {"RETAIN", "PAMPER"}
    assert all(0 <= across <= theme.WIDTH for across, _ in labels.values())


def test_an_undefined_metric_is_not_called_a_number() -> None:
    rows = pd.DataFrame(
        {
            "month_end": pd.Timestamp("2024-11-01"),
            "population": "all",
            "segmentation": ["segments", "rfm_segments"],
            "value": [0.5, None],
            "low": [0.4, None],
            "high": [0.6, None],
        }
    )
    text = str(charts.lift(rows, "GBP").description)
    assert text == "Mean Gini of later spend, higher is better. All customers: segments 0.50."


def test_a_product_may_be_called_anything() -> None:
    rows = pd.DataFrame(
        {
            "segment_key": "delight",
            "product": ["1", "2"],
            "description": ['A 1.25 role="x" <b>&', "\u202e drawkcab\n"],
            "customer_share": 0.5,
            "revenue": [30.0, 20.0],
        }
    )
    svg = inlined(svg_of(charts.outlier_products(rows, "GBP")), "label")
    texts = [html.unescape(text) for text in re.findall(r"<text[^>]*>([^<]*)</text>", svg)]
    assert [name for name in ('A 1.25 role="x" <b>&', "drawkcab") if name not in texts] == []


def test_calibration_shows_each_tenth_and_says_the_means() -> None:
    deciles = pd.DataFrame(
        {
            "decile": [1, 2],
            "customers": [1, 3],
            "expected_spend": [40.0, 8.0],
            "actual_spend": [60.0, 4.0],
            "naive_spend": [20.0, 20.0],
        }
    )
    chart = charts.calibration(deciles, "GBP")
    assert re.findall(r"£[0-9.,]*[0-9]", str(chart.description)) == ["£16", "£18", "£40", "£60"]
    assert {(row["decile"], row["what"], row["spend"]) for row in rows_of(chart)} == {
        (1, "actual spend", 60),
        (2, "actual spend", 4),
        (1, "expected spend", 40),
        (2, "expected spend", 8),
        (1, "last year's spend, scaled", 20),
        (2, "last year's spend, scaled", 20),
    }
