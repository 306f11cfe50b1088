"""`segments releases`, `restore`, `export` and `export-dbt`: list, verify, roll back, restore and export releases.

Contains the commands and their output. The work is in the package `releases`.
"""

import os
import sys
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

import typer

from segmentation_pipeline.cli.console import (
    Column,
    err,
    exit_on_user_error,
    out,
    print_table,
    retailer_settings,
    say,
)
from segmentation_pipeline.config.paths import RetailerFolders, data_folder
from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.errors import ReleaseError
from segmentation_pipeline.releases.dbt_sources import dbt_sources
from segmentation_pipeline.releases.export import check_table_exists, export
from segmentation_pipeline.releases.files import Release
from segmentation_pipeline.releases.restore import restore
from segmentation_pipeline.releases.store import CURRENT, Releases
from segmentation_pipeline.reports.formatting import format_money, format_number
from segmentation_pipeline.tables.catalog import withholdable_columns

_COLUMNS = (
    Column("", is_text=True),
    Column("release", is_text=True),
    Column("customers"),
    Column("revenue", rank=1),
    Column("published (UTC)", is_text=True, rank=2),
)
_NOT_CURRENT = "Consumers do not see it. Do not roll back to it. A later run prunes it, or delete its folder."
_CURRENT = (
    "Consumers see it. Roll back to an intact release with `segments releases rollback NAME`, or publish a new one"
    " with `segments run`."
)
_PAUSED = (
    "Consumers see it, and publishing is paused. Make the newest release current with `segments releases resume`, or"
    " another one with `segments releases rollback NAME`."
)
_REPAIR = "The next `segments run` that publishes repairs it; `segments releases resume` does so at once"


def list_releases(retailer: str, traceback: bool) -> None:
    """Print the releases, oldest first, and errors of damaged ones."""
    with exit_on_user_error(traceback):
        releases = releases_of(retailer_settings(retailer))
        current = releases.current
        rows = []
        for release in releases.all():
            metrics, published = release.metrics, release.manifest["published_at"]
            mark = "*" if current and release.name == current.name else ""
            currency = release.manifest.get("currency")
            customers = format_number(metrics["customers"], currency)
            revenue = format_money(Decimal(metrics["revenue"]), currency)
            rows.append((mark, release.name, customers, revenue, published[:16].replace("T", " ")))
        print_table(out, _COLUMNS, rows)
        for name, error in releases.damaged.items():
            say(out, "red", f"{name} is damaged:", f"{error}. Run `segments releases verify` for the next step.")
        if current:
            typer.echo("* current")
        elif error := releases.current_error:
            say(out, "red", "No release is current:", f"{error}. {_REPAIR}.")
        else:
            typer.echo(f"no release in {releases.folder} yet; `segments run` publishes one")
        show_pause(releases)


def verify(names: Sequence[str], retailer: str, traceback: bool) -> None:
    """Read every file of the releases again and count every table; exit with 1 if a release is damaged."""
    with exit_on_user_error(traceback):
        releases = releases_of(retailer_settings(retailer))
        errors_by_release = releases.verify(names)
        current, current_error = releases.current, releases.current_error
        for name, errors in errors_by_release.items():
            if not errors:
                typer.echo(f"{name} is intact")
                continue
            is_current = current is not None and current.name == name
            advice = (_PAUSED if releases.paused_at == name else _CURRENT) if is_current else _NOT_CURRENT
            say(err, "red", f"{name} is damaged:", f"{'; '.join(errors)}. {advice}")
        if current_error:
            say(err, "red", "No release is current:", f"{current_error}. {_REPAIR}.")
        elif current is not None:
            typer.echo(f"{CURRENT} links to {current.name}")
        show_pause(releases)
    if current_error or any(errors_by_release.values()):
        raise typer.Exit(1)


def rollback(release: str, retailer: str, traceback: bool) -> None:
    """Make an earlier release current, and pause publishing until `resume`."""
    with exit_on_user_error(traceback):
        current = releases_of(retailer_settings(retailer)).rollback(release)
        typer.echo(
            f"{current.name} is current. Publishing is paused: runs write releases, but consumers do not see them until"
            " `segments releases resume`."
        )


def resume(retailer: str, traceback: bool) -> None:
    """Make the newest release current, and publish again."""
    with exit_on_user_error(traceback):
        typer.echo(f"{releases_of(retailer_settings(retailer)).resume().name} is current. Publishing has resumed.")


def restore_state(release: str, retailer: str, *, replace: bool, traceback: bool) -> None:
    """Create a working database with the models, segments and membership history of a release."""
    with exit_on_user_error(traceback):
        settings = retailer_settings(retailer)
        releases, folders = releases_of(settings), RetailerFolders(data_folder(), settings.name)
        source = releases.find(release)
        result = restore(folders, source, model_digest=settings.model_digest, replace=replace, report=typer.echo)
        typer.echo(f"{folders.working_database} holds the state of release {source.name}, as of {source.as_of}:")
        for table, rows in result.tables.items():
            typer.echo(f"  {table:24} {rows:>12,} rows")
        if result.kept is not None:
            typer.echo(f"The replaced database is kept as {result.kept}.")
        if later := [other.name for other in releases.all() if other.name > source.name]:
            typer.echo(f"It does not hold the models and membership changes of later releases: {', '.join(later)}.")
        typer.echo("The next `segments run` derives all other tables.")


def export_table(table: str, output: Path | None, retailer: str, traceback: bool) -> None:
    """Write a table of the current release as CSV for spreadsheets: UTF-8, with text that is not run as a formula."""
    with exit_on_user_error(traceback):
        release = current_of(retailer_settings(retailer))
        check_table_exists(release, table)
        if output is not None:
            with output.open("wb") as file:
                export(release, table, file)
            return
        try:
            export(release, table, sys.stdout.buffer)
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            # The reader has closed the pipe, as `head` does. Python would report it again at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def export_dbt(output: Path | None, retailer: str, traceback: bool) -> None:
    """Write the published tables as sources of a dbt project."""
    with exit_on_user_error(traceback):
        settings = retailer_settings(retailer, withholdable=withholdable_columns())
        text = dbt_sources(settings.name, settings.privacy.withhold)
        if output is not None:
            output.write_text(text, "utf-8")
            return
    # A reader that closes the pipe is no error of the user.
    typer.echo(text, nl=False)


def current_of(settings: Retailer) -> Release:
    """Return the release that the retailer's consumers see.

    Raises:
        ReleaseError: There is none.
    """
    releases = releases_of(settings)
    if (current := releases.current) is not None:
        return current
    if error := releases.current_error:
        raise ReleaseError(f"{error}. Run `segments releases verify` for the next step")
    raise ReleaseError(f"no release of {settings.name} in {releases.folder} yet; `segments run` publishes one")


def show_pause(releases: Releases) -> None:
    """Print that publishing is paused, where it is."""
    if releases.paused_at:
        say(out, "yellow", "Publishing is paused", f"at {releases.paused_at} until `segments releases resume`")


def releases_of(settings: Retailer) -> Releases:
    """Return the releases of a retailer."""
    return Releases(RetailerFolders(data_folder(), settings.name).releases)
