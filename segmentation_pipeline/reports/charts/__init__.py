"""The charts: each a function from frames of a release to an Altair chart.

The interface shows them as PNG, the report as SVG, a notebook interactively. The description of each chart, which a
screen reader reads, says what it shows in numbers. Does not read releases (`frames`) and does not draw (`rendering`).
"""

from segmentation_pipeline.reports.charts.customers import rfm_grid, segment_map
from segmentation_pipeline.reports.charts.data import features, loss_funnel
from segmentation_pipeline.reports.charts.model import calibration, choice_of_k, lift
from segmentation_pipeline.reports.charts.movement import customer_base, flows, monthly_flows
from segmentation_pipeline.reports.charts.parts import AnyChart
from segmentation_pipeline.reports.charts.segments import (
    concentration,
    outlier_months,
    outlier_products,
    segment_sizes,
)

__all__ = [
    "AnyChart",
    "calibration",
    "choice_of_k",
    "concentration",
    "customer_base",
    "features",
    "flows",
    "lift",
    "loss_funnel",
    "monthly_flows",
    "outlier_months",
    "outlier_products",
    "rfm_grid",
    "segment_map",
    "segment_sizes",
]
