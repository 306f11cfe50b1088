"""`segments show`: print the segments of the current release, and where its files are."""

import shlex
import shutil

import typer

from segmentation_pipeline.cli.console import (
    Column,
    exit_on_user_error,
    out,
    print_table,
    print_text,
    retailer_settings,
)
from segmentation_pipeline.cli.releases import current_of, releases_of
from segmentation_pipeline.config.loading import absolute_arguments, resolve_retailer
from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.releases.files import Release
from segmentation_pipeline.releases.store import Releases
from segmentation_pipeline.reports.formatting import format_money, format_number, format_share

# On a narrow terminal the medians go first, the share of the customers last.
_COLUMNS = (
    Column("segment", is_text=True),
    Column("customers"),
    Column("share", rank=1),
    Column("revenue"),
    Column("share", rank=2),
    Column("spend", rank=3),
    Column("orders", rank=4),
    Column("days", rank=5),
)
_VIEWS = "(in Parquet files alone, with views in segments.duckdb, for release.max_database_rows: {})"
_MEDIANS = "spend, orders, days: medians of money, purchases, days since the last"


def show(retailer: str, traceback: bool) -> None:
    """Print the segments of the current release and its paths."""
    with exit_on_user_error(traceback):
        settings = retailer_settings(retailer)
        release = current_of(settings)
        show_segments(release, settings)
        show_paths(release, releases_of(settings), retailer)


def show_segments(release: Release, settings: Retailer) -> None:
    """Print a table of the segments, most revenue first."""
    currency = settings.currency
    with release.connect() as connection:
        found = connection.execute(
            "select segment, customers, customer_share, revenue, revenue_share, median_monetary, median_frequency,"
            " median_recency from segment_profiles order by revenue desc, segment_key"
        ).fetchall()
    rows = [
        (
            segment,
            format_number(customers, currency),
            format_share(share, currency),
            format_money(revenue, currency),
            "" if revenue_share is None else format_share(revenue_share, currency),
            format_money(spend, currency),
            format_number(purchases, currency),
            format_number(days, currency),
        )
        for segment, customers, share, revenue, revenue_share, spend, purchases, days in found
    ]
    out.print()
    print_text(out, f"{settings.title}, as of {release.as_of}")
    print_table(out, _COLUMNS, rows)
    print_text(out, _MEDIANS, "dim")


def show_paths(release: Release, releases: Releases, retailer: str) -> None:
    """Print how to open the release, of the retailer that the command line names."""
    current = releases.folder / "current"
    # The web interface shows the retailer of its environment.
    named, _ = absolute_arguments(retailer, "")
    variable = "" if named == resolve_retailer("") else f"SEGMENTATION_RETAILER={shlex.quote(named)} "
    for label, text in (
        ("release", release.name),
        ("SQL", f"duckdb -readonly {shlex.quote(str(current / release.database.name))}"),
        *([] if shutil.which("duckdb") else [("", "(where duckdb is missing: pip install duckdb-cli)")]),
        ("files", f"{current}/*.parquet, {current}/manifest.json"),
        *([("", _VIEWS.format(", ".join(release.parquet_only)))] if release.parquet_only else []),
        *([("report", str(current / release.report.name))] if release.report.exists() else []),
        ("browser", f"{variable}make dev, then http://127.0.0.1:3000"),
    ):
        typer.echo(f"{label:8} {text}")
