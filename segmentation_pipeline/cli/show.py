"""`segments show`: print the segments of the current release, and where its files are."""

import shlex

import duckdb
import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from segmentation_pipeline.cli.console import exit_on_user_error, out, retailer_settings
from segmentation_pipeline.cli.releases import current_of, releases_of
from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.releases.files import Release
from segmentation_pipeline.releases.store import Releases


def show(retailer: str, traceback: bool) -> None:
    """Print the segments of the current release and its paths."""
    with exit_on_user_error(traceback):
        settings = retailer_settings(retailer)
        release = current_of(settings)
        show_segments(release, settings)
        show_paths(release, releases_of(settings))


def show_segments(release: Release, settings: Retailer) -> None:
    """Print a table of the segments, most revenue first."""
    table = Table(title=f"{settings.title}, as of {release.as_of}, money in {settings.currency}", box=SIMPLE_HEAD)
    table.title_justify, table.pad_edge = "left", False
    for name in ("segment", "customers", "share", "revenue", "share", "spend", "orders", "days"):
        table.add_column(name, justify="left" if name == "segment" else "right", no_wrap=True)
    table.caption, table.caption_justify = "medians: spend, number of purchases, days since the last one", "left"
    with duckdb.connect(str(release.database.resolve()), read_only=True) as connection:
        rows = connection.execute(
            "select segment, customers, customer_share, revenue, revenue_share, median_monetary, median_frequency,"
            " median_recency from segment_profiles order by revenue desc, segment_key"
        ).fetchall()
    for segment, customers, share, revenue, revenue_share, *medians in rows:
        of_revenue = "" if revenue_share is None else f"{revenue_share:.1%}"
        spend, purchases, days = (f"{median:,.0f}" for median in medians)
        table.add_row(segment, f"{customers:,}", f"{share:.1%}", f"{revenue:,.0f}", of_revenue, spend, purchases, days)
    out.print(table)


def show_paths(release: Release, releases: Releases) -> None:
    """Print how to open the release."""
    current = releases.folder / "current"
    for label, text in (
        ("release", release.name),
        ("SQL", f"duckdb -readonly {shlex.quote(str(current / release.database.name))}"),
        ("files", f"{current}/*.parquet, {current}/manifest.json"),
        ("browser", "make dev, then http://127.0.0.1:3000"),
    ):
        typer.echo(f"{label:8} {text}")
