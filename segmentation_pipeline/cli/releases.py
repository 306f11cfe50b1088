"""`segments releases`, `restore` and `export`: what is published, whether it is whole, the way back, and a table of it.

Belongs here: how a person asks and is answered. Does not: releases (`releases`), or the restoring (`restoring`).
"""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from segmentation_pipeline.cli.console import (
    RetailerOption,
    TracebackOption,
    err,
    exit_on_user_error,
    out,
    retailer_settings,
    say,
)
from segmentation_pipeline.config.paths import RetailerFolders, data_folder
from segmentation_pipeline.errors import ReleaseError
from segmentation_pipeline.releases.export import export, refuse_unknown
from segmentation_pipeline.releases.files import Release
from segmentation_pipeline.releases.restore import restore
from segmentation_pipeline.releases.store import CURRENT, Releases

releases_app = typer.Typer(invoke_without_command=True, help="The published releases: list, verify, roll back, resume.")
_NOT_CURRENT = "consumers do not see it; do not go back to it. It goes when it is old, or delete its folder"
_CURRENT = (
    "consumers see it. `segments releases rollback NAME` goes back to a whole one at once, `segments run` publishes a"
    " new one"
)
_HELD = (
    "consumers see it, and publishing is held at it. `segments releases resume` makes the newest current, `segments"
    " releases rollback NAME` another"
)
_MEND = "The next `segments run` that publishes mends it, `segments releases resume` at once"


@releases_app.callback()
def list_releases(
    context: typer.Context, retailer: RetailerOption = "sample", traceback: TracebackOption = False
) -> None:
    """List the releases, oldest first."""
    with exit_on_user_error(traceback):
        releases = releases_of(retailer)
        if context.invoked_subcommand:
            return
        current = releases.current
        table = Table(box=SIMPLE_HEAD, pad_edge=False)
        for name in ("", "release", "customers", "revenue", "published (UTC)"):
            table.add_column(name, no_wrap=True, justify="right" if name in ("customers", "revenue") else "left")
        for release in releases.all():
            figures, published = release.manifest["figures"], release.manifest["published_at"]
            mark = "*" if current and release.name == current.name else ""
            revenue = f"{float(figures['revenue']):,.0f}"
            table.add_row(mark, release.name, f"{figures['customers']:,}", revenue, published[:16].replace("T", " "))
        out.print(table)
        for name, fault in releases.broken.items():
            say(out, "red", f"{name} is damaged:", f"{fault}; `segments releases verify` says what to do")
        if current:
            typer.echo("* current")
        elif fault := releases.fault_of_current:
            say(out, "red", "No release is current:", f"{fault}. {_MEND}.")
        else:
            typer.echo(f"no release in {releases.folder} yet; `segments run` publishes one")
        tell_hold(releases)


@releases_app.command()
def verify(
    names: Annotated[list[str] | None, typer.Argument(metavar="[RELEASE]...", help="By default all.")] = None,
    retailer: RetailerOption = "sample",
    traceback: TracebackOption = False,
) -> None:
    """Read every file of the releases again and count every table; exit code 1 if anything is wrong."""
    with exit_on_user_error(traceback):
        releases = releases_of(retailer)
        said = releases.faults(names or ())
        current, fault = releases.current, releases.fault_of_current
        for name, faults in said.items():
            if not faults:
                typer.echo(f"{name} is whole")
                continue
            seen = current is not None and current.name == name
            advice = (_HELD if releases.held_since == name else _CURRENT) if seen else _NOT_CURRENT
            say(err, "red", f"{name} is damaged:", f"{'; '.join(faults)}. {advice[0].upper()}{advice[1:]}.")
        if fault:
            say(err, "red", f"{CURRENT} is wrong:", f"{fault}. {_MEND}.")
        elif current is not None:
            typer.echo(f"{CURRENT} leads to {current.name}")
        tell_hold(releases)
    if fault or any(said.values()):
        raise typer.Exit(1)


@releases_app.command()
def rollback(release: str, retailer: RetailerOption = "sample", traceback: TracebackOption = False) -> None:
    """Make an earlier release current, and hold publishing until `resume`."""
    with exit_on_user_error(traceback):
        done = releases_of(retailer).rollback(release)
        typer.echo(f"{done.name} is current. New releases are written but held back until `segments releases resume`.")


@releases_app.command()
def resume(retailer: RetailerOption = "sample", traceback: TracebackOption = False) -> None:
    """End a hold: the newest release becomes current."""
    with exit_on_user_error(traceback):
        typer.echo(f"{releases_of(retailer).resume().name} is current; runs publish again.")


def restore_state(
    release: Annotated[str, typer.Argument(help="The release's name; `segments releases` lists them.")],
    retailer: RetailerOption = "sample",
    replace: Annotated[bool, typer.Option("--replace", help="Set a working database that stands aside.")] = False,
    traceback: TracebackOption = False,
) -> None:
    """Make a working database from the state beside a release: registry, segments, ledger, as of that release."""
    with exit_on_user_error(traceback):
        releases, folders = releases_of(retailer), RetailerFolders(data_folder(), retailer_settings(retailer).name)
        found = releases.find(release)
        done = restore(folders, found, replace=replace, tell=typer.echo)
        typer.echo(f"{folders.working_database} holds the state of release {found.name}, as of {found.as_of}:")
        for table, rows in done.tables.items():
            typer.echo(f"  {table:24} {rows:>12,} rows")
        if done.kept is not None:
            typer.echo(f"What stood before is kept as {done.kept}.")
        if later := [other.name for other in releases.all() if other.name > found.name]:
            typer.echo(f"What was published after it is forgotten there: {', '.join(later)}.")
        typer.echo("All else is derived by the next `segments run`.")


def export_table(
    table: Annotated[str, typer.Argument(help="A published table, such as customer_segments.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A file; by default standard output.")] = None,
    retailer: RetailerOption = "sample",
    traceback: TracebackOption = False,
) -> None:
    """Write a table of the current release as CSV for spreadsheets: UTF-8 with its mark, no text that would be run."""
    with exit_on_user_error(traceback):
        release = current_of(retailer)
        refuse_unknown(release, table)
        if output is not None:
            with output.open("w", encoding="utf-8", newline="") as file:
                export(release, table, file)
            return
        out_of_here = typer.get_text_stream("stdout", encoding="utf-8")
        try:
            export(release, table, out_of_here)
            out_of_here.flush()
        except BrokenPipeError:
            # Whoever reads has seen enough, as `head` has.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def current_of(retailer: str) -> Release:
    """The release that consumers of a retailer see.

    Raises:
        ReleaseError: There is none.
    """
    releases = releases_of(retailer)
    if (current := releases.current) is not None:
        return current
    if fault := releases.fault_of_current:
        raise ReleaseError(f"{fault}; `segments releases verify` says what to do")
    raise ReleaseError(
        f"no release of {retailer_settings(retailer).name} in {releases.folder} yet; `segments run` publishes one"
    )


def tell_hold(releases: Releases) -> None:
    """Say that publishing is held, where it is."""
    if releases.held_since:
        say(out, "yellow", "Publishing is held", f"at {releases.held_since} until `segments releases resume`")


def releases_of(retailer: str) -> Releases:
    """The releases of a retailer."""
    return Releases(RetailerFolders(data_folder(), retailer_settings(retailer).name).releases)
