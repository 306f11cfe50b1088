"""`segments forget`: customers are erased, and the proof of it printed.

Belongs here: how a person asks and is answered. Does not: the erasing (`forgetting`). No name of a customer is printed:
what a command prints is kept in logs.
"""

from typing import Annotated

import typer

from segmentation_pipeline.cli.console import (
    RetailerOption,
    TracebackOption,
    err,
    exit_on_user_error,
    retailer_settings,
    say,
)
from segmentation_pipeline.cli.run import execute
from segmentation_pipeline.config.paths import RetailerFolders, data_folder
from segmentation_pipeline.errors import ErasureError
from segmentation_pipeline.orchestration import instance as dagster_home
from segmentation_pipeline.privacy.erasure import Counts, clear_away, counted, erase, named
from segmentation_pipeline.privacy.pseudonyms import Key
from segmentation_pipeline.releases.store import Releases


def forget(
    customers: Annotated[list[str], typer.Argument(metavar="CUSTOMER...", help="As the source names them.")],
    retailer: RetailerOption = "sample",
    traceback: TracebackOption = False,
) -> None:
    """Erase customers from every table, file and release, publish a release without them, and prove it.

    They do not come back with the same files: a keyed hash of them is remembered (SEGMENTATION_PRIVACY_KEY). All older
    releases are deleted.
    """
    with exit_on_user_error(traceback):
        settings = retailer_settings(retailer)
        key = Key.of_environment("the hashes of who is forgotten are made with it")
        folders, names = RetailerFolders(data_folder(), settings.name), named(settings, key, customers)
        dagster_home.prepare()
        erased = erase(folders, settings, key, customers, typer.echo)
    if not any(rows != 0 for rows in erased.before.values()):
        typer.echo("They are forgotten already: no table and no file tells of them.")
        return
    # Whoever is erased takes lines, customers and money along: that is meant.
    if not execute(retailer=retailer, accept_change=True, reads_source=False, as_of=erased.as_of, traceback=traceback):
        say(
            err,
            "red",
            "not done:",
            "they are erased from the working database, but no release without them could be published, so those of"
            " before stand. Mend what the run says, and forget them again.",
        )
        raise typer.Exit(1)
    with exit_on_user_error(traceback):
        fresh = Releases(folders.releases).all()[-1]
        clear_away(folders, fresh.name)
        after = counted(folders, names, typer.echo)
        _show(erased.before, after)
        typer.echo(f"{fresh.name} is the only release now, as of {fresh.as_of}.")
        if erased.sources:
            told = ", ".join(f"{name} ({lines:,})" for name, lines in erased.sources.items())
            typer.echo(f"The source still has their lines; they are left out, but delete them there too: {told}")
        if any(rows != 0 for rows in after.values()):
            raise ErasureError("some places still tell of them, as the table above says; close what holds them open")


def _show(before: Counts, after: Counts) -> None:
    """Each table and file with the rows that told of them, before and after."""
    places = sorted(before.keys() | after.keys())
    width = max(map(len, places), default=0)
    typer.echo(f"{'rows that tell of them':{width}}     before      after")
    for place in places:
        typer.echo(f"{place:{width}} {_told(before, place, 'none yet'):>10} {_told(after, place, 'deleted'):>10}")


def _told(counts: Counts, place: str, missing: str) -> str:
    if place not in counts:
        return missing
    return "unreadable" if (rows := counts[place]) is None else f"{rows:,}"
