"""`segments`: the command line, thin over the job that the schedule runs and over the releases.

Exit codes: 0 done, 1 the run failed, 2 the input is bad.
"""

import os
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from segmentation_pipeline import home as dagster_home
from segmentation_pipeline.folders import Folders, data_folder
from segmentation_pipeline.releases import Release, ReleaseError, Releases
from segmentation_pipeline.retailer import RetailerError, shipped_names
from segmentation_pipeline.settings import Retailer
from segmentation_pipeline.sources import SourceError

app = typer.Typer(
    no_args_is_help=True, help="Customer segments from retail transactions.", pretty_exceptions_enable=False
)
releases_app = typer.Typer(invoke_without_command=True, help="The published releases: list, roll back, resume.")
retailer_app = typer.Typer(no_args_is_help=True, help="Retailer files.")
app.add_typer(releases_app, name="releases")
app.add_typer(retailer_app, name="retailer")
out = Console()
err = Console(stderr=True)

RetailerOption = Annotated[
    str, typer.Option("--retailer", "-r", envvar="SEGMENTATION_RETAILER", help="A shipped retailer or a TOML file.")
]
SourceOption = Annotated[
    str, typer.Option(envvar="SEGMENTATION_SOURCE", help="File, folder or pattern instead of the file's source.path.")
]
TracebackOption = Annotated[bool, typer.Option("--traceback", help="Show tracebacks instead of sentences.")]


@app.command()
def run(
    retailer: RetailerOption = "sample",
    source: SourceOption = "",
    as_of: Annotated[
        str, typer.Option(help="YYYY-MM-DD (that whole day counts) instead of the file's rfm.as_of.")
    ] = "",
    refit: Annotated[bool, typer.Option("--refit", help="Fit the fences and the model again.")] = False,
    accept_change: Annotated[bool, typer.Option("--accept-change", help="Publish what the gate would stop.")] = False,
    traceback: TracebackOption = False,
) -> None:
    """Run the pipeline: read the source, derive every table, publish a release."""
    with sentences(traceback):
        settings = _chosen(retailer, source, as_of)
        _source_is_there(settings)
        home = dagster_home.prepare()
        # The fit's libraries take a second to load; Dagster's start leaves the other core to them.
        threading.Thread(target=_load_fit_libraries, daemon=True).start()
        succeeded = _execute(refit, accept_change, as_of, traceback)
    if not succeeded:
        err.print(f"[bold]The run failed.[/] Its log: DAGSTER_HOME={home} dg dev, or run again with --traceback.")
        raise typer.Exit(1)
    releases = Releases(Folders(data_folder(), settings.name).releases)
    shown = releases.current
    if shown is not None:
        _show(shown, settings)
        if releases.held_since:
            out.print(f"[yellow]Publishing is held at {shown.name}; `segments releases resume` ends it.[/]")
        _paths(shown, releases)


@app.command()
def show(retailer: RetailerOption = "sample", traceback: TracebackOption = False) -> None:
    """Show the segments of the current release."""
    with sentences(traceback):
        settings = _chosen(retailer)
        releases = Releases(Folders(data_folder(), settings.name).releases)
        if releases.current is None:
            raise ReleaseError(f"no release of {settings.name} in {releases.folder} yet; `segments run` publishes one")
        _show(releases.current, settings)
        _paths(releases.current, releases)


@app.command()
def home() -> None:
    """Make Dagster's folder ready and print it: export DAGSTER_HOME=$(segments home)."""
    typer.echo(dagster_home.prepare())


@releases_app.callback()
def list_releases(
    context: typer.Context, retailer: RetailerOption = "sample", traceback: TracebackOption = False
) -> None:
    """List the releases, oldest first."""
    with sentences(traceback):
        settings = _chosen(retailer)
        releases = Releases(Folders(data_folder(), settings.name).releases)
        context.obj = releases
        if context.invoked_subcommand:
            return
        current = releases.current
        table = Table("", "release", "as of", "customers", "revenue", "model", "published")
        for release in releases.all():
            figures = release.manifest["figures"]
            mark = "current" if current and release.name == current.name else ""
            revenue = f"{float(figures['revenue']):,.2f}"
            table.add_row(
                mark, release.name, str(release.as_of), f"{figures['customers']:,}", revenue,
                figures["model_id"], release.manifest["published_at"],
            )  # fmt: skip
        out.print(table)
        if releases.held_since:
            out.print(f"[yellow]Publishing is held at {releases.held_since}; `segments releases resume` ends it.[/]")


@releases_app.command()
def rollback(context: typer.Context, release: str, traceback: TracebackOption = False) -> None:
    """Make an earlier release current, and hold publishing until `resume`."""
    with sentences(traceback):
        done = context.obj.rollback(release)
        out.print(f"{done.name} is current. New releases are written but held back until `segments releases resume`.")


@releases_app.command()
def resume(context: typer.Context, traceback: TracebackOption = False) -> None:
    """End a hold: the newest release becomes current."""
    with sentences(traceback):
        out.print(f"{context.obj.resume().name} is current; runs publish again.")


@retailer_app.command()
def check(
    retailer: Annotated[str, typer.Argument(help="A shipped retailer or a TOML file.")] = "",
    source: SourceOption = "",
    traceback: TracebackOption = False,
) -> None:
    """Validate a retailer file: every error at once, with its line and key."""
    with sentences(traceback):
        settings = _chosen(retailer or os.environ.get("SEGMENTATION_RETAILER", "sample"), source)
        files = _source_is_there(settings)
        out.print(f"{settings.title}: valid. Columns: {', '.join(settings.columns.mapped())}.")
        out.print(f"Source: {files:,} files." if files else "Source: made up, written at the first run.")


@contextmanager
def sentences(traceback: bool) -> Iterator[None]:
    """Errors that a person can mend end the command with a sentence and exit code 2."""
    try:
        yield
    except (RetailerError, SourceError, ReleaseError, ValueError) as error:
        if traceback:
            raise
        err.print(f"[red]error:[/] {error}", highlight=False)
        raise typer.Exit(2) from None


def _chosen(retailer: str, source: str = "", as_of: str = "") -> Retailer:
    """The settings; and the environment says the same to everything that the command starts."""
    from segmentation_pipeline.resource import load_settings

    os.environ["SEGMENTATION_RETAILER"] = retailer if retailer in shipped_names() else str(Path(retailer).resolve())
    if source:
        os.environ["SEGMENTATION_SOURCE"] = str(Path(source).expanduser().absolute())
    return load_settings(retailer, os.environ.get("SEGMENTATION_SOURCE", ""), as_of)


def _source_is_there(settings: Retailer) -> int:
    from segmentation_pipeline.resource import RetailerResource
    from segmentation_pipeline.sources import source_files

    if settings.source.sample:
        return 0
    return len(source_files(settings, RetailerResource().source_base))


def _load_fit_libraries() -> None:
    import sklearn.cluster
    import sklearn.metrics  # noqa: F401


def _execute(refit: bool, accept_change: bool, as_of: str, traceback: bool) -> bool:
    """Run the nightly (or the refitting) job in this process, and print its steps."""
    import dagster as dg

    from segmentation_pipeline import locks
    from segmentation_pipeline.definitions import defs
    from segmentation_pipeline.progress import watching

    run_id = str(uuid.uuid4())
    job = defs().resolve_job_def("refit_segmentation" if refit else "nightly_segmentation")
    config = {
        "loggers": {"console": {"config": {"log_level": "ERROR" if traceback else "CRITICAL"}}},
        "resources": {"retailer": {"config": {"as_of": as_of}}},
        "ops": {
            "release": {"config": {"accept_change": accept_change}},
            **{op: {"config": {"refit": refit}} for op in ("outlier_fences", "kmeans_model")},
        },
    }
    with (
        dg.DagsterInstance.get() as instance,
        locks.alive(data_folder() / "runs", run_id),
        watching(instance, run_id, out) as watch,
    ):
        result = job.execute_in_process(instance=instance, run_config=config, run_id=run_id, raise_on_error=False)
    out.print(f"{'':2}{'sum of the steps':<55} {'':17} {watch.seconds:6.2f} s", highlight=False)
    for warning in watch.warnings:
        err.print(f"[yellow]warning:[/] {warning}", highlight=False)
    for failure in watch.failures:
        err.print(f"[red]failed:[/] {failure}", highlight=False)
    return result.success


def _show(release: Release, settings: Retailer) -> None:
    """The table of segments, most revenue first."""
    import duckdb

    table = Table(title=f"{settings.title}, as of {release.as_of}, money in {settings.currency}", title_justify="left")
    table.add_column("segment", no_wrap=True)
    for name in ("customers", "share", "revenue", "share", "median spend", "purchases", "days since"):
        table.add_column(name, justify="right")
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
    out.print(f"Release   {release.name}")
    out.print(f"SQL       duckdb -readonly {current / release.database.name}")
    out.print(f"Files     {current}/*.parquet, manifest.json")
    out.print("Lineage   make dev, then open http://127.0.0.1:3000")
