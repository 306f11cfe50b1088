"""Which charts there are: the title of each, the asset that it explains, and what it says where it has nothing to show.

Draws them from the frames of a release, once for the interface and the report. The charts are in `charts`.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from segmentation_pipeline.reports.frames import Frames
from segmentation_pipeline.reports.rendering import svg_of

if TYPE_CHECKING:
    from segmentation_pipeline.reports.charts import AnyChart


@dataclass(frozen=True)
class Figure:
    """A chart of the report.

    Attributes:
        name: Its name, which is that of its function in `charts`.
        title: The heading above it.
        asset: The asset that it explains, on whose page the interface shows it.
        needs: The frames that its function takes, in order. Where the first one is empty, there is nothing to draw.
        empty: Why the first one can be empty.
    """

    name: str
    title: str
    asset: str
    needs: tuple[str, ...]
    empty: str = ""

    @property
    def function(self) -> Callable[..., "AnyChart"]:
        """The function that makes the chart."""
        # More than a second to import, and every start of Dagster reads which assets have a chart.
        from segmentation_pipeline.reports import charts

        function: Callable[..., AnyChart] = getattr(charts, self.name)
        return function


@dataclass(frozen=True)
class Shown:
    """A figure on the page of an earlier report.

    Attributes:
        rows: The digest of the rows that it shows.
        svg: The chart, as an element of the page.
        text: What it shows, as text of the page.
    """

    rows: str
    svg: str
    text: str


@dataclass(frozen=True)
class Drawing:
    """A figure of one release.

    Attributes:
        figure: Which one.
        svg: The chart; empty where there is none, or where it was drawn before.
        text: What it shows, in words; or why there is none.
        error: The error that prevented it; empty without one.
        rows: A digest of the rows that it shows; empty without a chart.
        shown: The same figure on the last page; None where it was drawn now.
    """

    figure: Figure
    svg: str
    text: str
    error: str = ""
    rows: str = ""
    shown: Shown | None = None


FIGURES = (
    Figure("segment_sizes", "Customers and revenue by segment", "segment_profiles", ("segments",)),
    Figure(
        "segment_map", "The customers in their segments", "customer_segments", ("customers", "centroids", "segments")
    ),
    Figure("rfm_grid", "Customers by recency and frequency", "rfm_scores", ("scores",)),
    Figure("flows", "Moves since the last release", "segment_changes", ("moved",), "No customer changed segment."),
    Figure(
        "monthly_flows",
        "Moves month by month",
        "segment_migrations",
        ("migrations",),
        "Month ends can be compared only when a year of data, or the look-back window, is before each; there are not"
        " yet two such months.",
    ),
    Figure("customer_base", "Customers by month", "segment_history", ("months",), "The data cover no month end yet."),
    Figure("concentration", "How concentrated the money is", "outlier_profiles", ("concentration",), "Nobody spent."),
    Figure(
        "outlier_products",
        "What outliers buy",
        "outlier_products",
        ("products",),
        "The source has no column of products, or no outlier segment has five customers.",
    ),
    Figure(
        "outlier_months",
        "When outliers buy",
        "outlier_months",
        ("seasons",),
        "No outlier segment has five customers.",
    ),
    Figure(
        "calibration",
        "The forecast of the last 90 days, and what was spent",
        "customer_value_calibration",
        ("calibration",),
        "There is no forecast, or the data do not cover 180 days before the last 90.",
    ),
    Figure("loss_funnel", "Lines that count", "cleaning_report", ("losses",)),
    Figure("features", "Recency, frequency and money, with the fences", "rfm_features", ("features", "fences")),
    Figure(
        "choice_of_k",
        "The number of clusters",
        "kmeans_candidates",
        ("candidates",),
        "The settings fix the number of clusters, so none was searched.",
    ),
    Figure(
        "lift",
        "How well the segments predict later spend",
        "backtest_metrics",
        ("backtest",),
        "The data do not cover a month end with enough of the past before it and 90 days after it.",
    ),
)


def draw(
    frames: Frames, currency: str | None, *, code: str = "", last: Mapping[str, Shown] | None = None
) -> Iterator[Drawing]:
    """Draw every figure. An error in one leaves out that one.

    Args:
        frames: The rows of the release.
        currency: The retailer's currency.
        code: A digest of what draws the charts.
        last: The figures of the last page. One that shows the same rows is not drawn again: those of the model and of
            past months change with a fit and with a month, and not at night.
    """
    for figure in FIGURES:
        reasons = [frames.missing[name] for name in figure.needs if name in frames.missing]
        if reasons:
            yield Drawing(figure, "", reasons[0])
            continue
        if frames[figure.needs[0]].empty:
            yield Drawing(figure, "", figure.empty)
            continue
        rows, shown = _digest(figure, frames, currency, code), (last or {}).get(figure.name)
        if shown is not None and shown.rows == rows:
            yield Drawing(figure, "", "", rows=rows, shown=shown)
        else:
            yield _drawn(figure, frames, currency, rows)


def _digest(figure: Figure, frames: Frames, currency: str | None, code: str) -> str:
    """Return a digest of what a figure shows."""
    parts = [code, str(currency), *(frames[name].to_csv(index=False) for name in figure.needs)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _drawn(figure: Figure, frames: Frames, currency: str | None, rows: str) -> Drawing:
    try:
        chart = figure.function(*(frames[name] for name in figure.needs), currency)
        return Drawing(figure, svg_of(chart), str(chart.description), rows=rows)
    except Exception as error:
        # A chart that cannot be drawn must not cost the others.
        message = f"{type(error).__name__}: {error}"
        return Drawing(figure, "", "This chart could not be drawn; the log of the run says why.", message)
