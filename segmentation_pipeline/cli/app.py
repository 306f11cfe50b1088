"""`segments`: the command line, thin over the job that the schedule runs and over the releases.

Exit codes: 0 done, 1 the run failed, 2 the input is bad.
"""

import shlex
from typing import Annotated

import duckdb
import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from segmentation_pipeline.cli.console import (
    RetailerOption,
    SourceOption,
    TracebackOption,
    err,
    exit_on_user_error,
    out,
    retailer_settings,
)
from segmentation_pipeline.cli.model import model_app
from segmentation_pipeline.cli.privacy import erase
from segmentation_pipeline.cli.releases import (
    current_of,
    export_table,
    releases_app,
    releases_of,
    restore_state,
    show_pause,
)
from segmentation_pipeline.cli.run import execute
from segmentation_pipeline.config.loading import resolve_retailer, source_base
from segmentation_pipeline.config.paths import RetailerFolders, data_folder
from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.ingestion.discovery import source_files
from segmentation_pipeline.orchestration import instance as dagster_home
from segmentation_pipeline.releases.files import Release
from segmentation_pipeline.releases.store import Releases
from segmentation_pipeline.tables.catalog import withholdable_columns

app = typer.Typer(
    no_args_is_help=True, help="Customer segments from retail transactions.", pretty_exceptions_enable=False
)
retailer_app = typer.Typer(no_args_is_help=True, help="Retailer files.")
app.add_typer(releases_app, name="releases")
app.add_typer(retailer_app, name="retailer")
app.add_typer(model_app, name="model")
app.command("restore")(restore_state)
app.command("erase")(erase)
app.command("export")(export_table)


@app.command()
def run(
    retailer: RetailerOption = "sample",
    source: SourceOption = "",
    as_of: Annotated[
        str,
        typer.Option(
            help="YYYY-MM-DD (that whole day counts), end_of_day, schedule ... instead of the file's rfm.as_of."
        ),
    ] = "",
    refit: Annotated[bool, typer.Option("--refit", help="Fit the fences and the model again.")] = False,
    accept_change: Annotated[bool, typer.Option("--accept-change", help="Publish what the gate would stop.")] = False,
    reload: Annotated[
        bool, typer.Option("--reload", help="Read every file again; forget the lines of those that are gone.")
    ] = False,
    traceback: TracebackOption = False,
) -> None:
    """Run the pipeline: read the source, derive every table, publish a release."""
    with exit_on_user_error(traceback):
        settings = retailer_settings(retailer, source, as_of, withholdable=withholdable_columns())
        _source_is_there(retailer, settings)
        home = dagster_home.prepare()
        (data_folder() / "runs").mkdir(parents=True, exist_ok=True)
    if not execute(
        retailer=retailer,
        source=source,
        as_of=as_of,
        refit=refit,
        accept_change=accept_change,
        reload=reload,
        traceback=traceback,
    ):
        err.print(f"The run failed. Its log: DAGSTER_HOME={home} dg dev, or run again with --traceback.", markup=False)
        raise typer.Exit(1)
    releases = releases_of(retailer)
    if (shown := releases.current) is not None:
        _show(shown, settings)
        show_pause(releases)
        _paths(shown, releases)


@app.command()
def show(retailer: RetailerOption = "sample", traceback: TracebackOption = False) -> None:
    """Show the segments of the current release."""
    with exit_on_user_error(traceback):
        settings = retailer_settings(retailer)
        releases = releases_of(retailer)
        current = current_of(retailer)
        _show(current, settings)
        _paths(current, releases)


@app.command()
def home(traceback: TracebackOption = False) -> None:
    """Make Dagster's folder ready and print it: export DAGSTER_HOME=$(segments home)."""
    with exit_on_user_error(traceback):
        typer.echo(dagster_home.prepare())


@retailer_app.command()
def check(
    retailer: Annotated[str, typer.Argument(help="A shipped retailer or a TOML file.")] = "",
    source: SourceOption = "",
    traceback: TracebackOption = False,
) -> None:
    """Validate a retailer file: every error at once, with its line and key."""
    with exit_on_user_error(traceback):
        retailer = resolve_retailer(retailer)
        settings = retailer_settings(retailer, source, withholdable=withholdable_columns())
        files = _source_is_there(retailer, settings)
        typer.echo(f"{settings.title}: valid. Columns: {', '.join(settings.columns.source_names())}.")
        counted = f"{files:,} file{'s' if files > 1 else ''}"
        typer.echo(f"Source: {counted}." if files else "Source: made up, written at the first run.")


def _source_is_there(retailer: str, settings: Retailer) -> int:
    if settings.source.sample:
        return 0
    return len(
        source_files(settings, source_base(retailer), RetailerFolders(data_folder(), settings.name).pipeline_paths)
    )


def _show(release: Release, settings: Retailer) -> None:
    """The table of segments, most revenue first."""
    table = Table(title=f"{settings.title}, as of {release.as_of}, money in {settings.currency}", box=SIMPLE_HEAD)
    table.title_justify, table.pad_edge = "left", False
    for name in ("segment", "customers", "share", "revenue", "share", "spend", "bought", "days"):
        table.add_column(name, justify="left" if name == "segment" else "right", no_wrap=True)
    table.caption, table.caption_justify = "spend, purchases bought, days since the last: medians", "left"
    with duckdb.connect(str(release.database.resolve()), read_only=True) as connection:
        rows = connection.execute(
            "select segment, customers, customer_share, revenue, revenue_share, median_monetary, median_frequency,"
            " median_recency from segment_profiles order by revenue desc, segment_key"
        ).fetchall()
    for segment, customers, share, revenue, revenue_share, *medians in rows:
        part = "" if revenue_share is None else f"{revenue_share:.1%}"
        money, purchases, days = (f"{median:,.0f}" for median in medians)
        table.add_row(segment, f"{customers:,}", f"{share:.1%}", f"{revenue:,.0f}", part, money, purchases, days)
    out.print(table)


def _paths(release: Release, releases: Releases) -> None:
    current = releases.folder / "current"
    for what, where in (
        ("release", release.name),
        ("open it", f"duckdb -readonly {shlex.quote(str(current / release.database.name))}"),
        ("files", f"{current}/*.parquet, {current}/manifest.json"),
        ("look on", "make dev, then http://127.0.0.1:3000"),
    ):
        typer.echo(f"{what:8} {where}")
