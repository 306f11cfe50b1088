"""`segments erase`: erase customers, and print the rows that named them before and after.

Contains the command and its output; the work is in `privacy.erasure`. It prints no customer, since output is kept in
logs.
"""

from collections.abc import Sequence

import typer

from segmentation_pipeline.cli.console import err, exit_on_user_error, retailer_settings, say
from segmentation_pipeline.cli.run import RunRequest, execute
from segmentation_pipeline.config.loading import source_base
from segmentation_pipeline.config.paths import RetailerFolders, data_folder
from segmentation_pipeline.errors import ErasureError
from segmentation_pipeline.orchestration import instance as dagster_instance
from segmentation_pipeline.orchestration.engines import run_engine
from segmentation_pipeline.privacy import erasure
from segmentation_pipeline.privacy.customer_ids import CustomerIds
from segmentation_pipeline.privacy.pseudonyms import Key
from segmentation_pipeline.releases.store import Releases
from segmentation_pipeline.tables.catalog import withholdable_columns


def erase(customers: Sequence[str], retailer: str, traceback: bool) -> None:
    """Erase customers, publish a release without them, delete all others, and print the rows that named them."""
    with exit_on_user_error(traceback):
        settings = retailer_settings(retailer, withholdable=withholdable_columns())
        key = Key.of_environment("erased customers are stored as hashes made with it")
        folders, ids = RetailerFolders(data_folder(), settings.name), CustomerIds.of(settings, source_base(retailer))
        named = erasure.NamedCustomers.of(settings, key, customers, ids)
        dagster_instance.prepare()
        with run_engine(settings, lambda _: None) as engine:
            lines = erasure.LinePlaces(engine.of, engine.folders)
            erased = erasure.erase(folders, settings, key, named, typer.echo, lines)
    if not any(rows != 0 for rows in erased.before.values()):
        typer.echo("These customers are already erased: no table and no file names them.")
        return
    # Without the customers, lines and revenue fall; the release checks must accept that.
    request = RunRequest(retailer, as_of=erased.as_of, accept_change=True, reads_source=False, traceback=traceback)
    if not execute(request, retailer_settings(retailer, as_of=erased.as_of)):
        say(
            err,
            "red",
            "not finished:",
            "the customers are erased from the working database, but a release without them could not be published, so"
            " earlier releases still hold them. Fix the error of the run above, then run the same command again.",
        )
        raise typer.Exit(1)
    with exit_on_user_error(traceback):
        release = Releases(folders.releases).all()[-1]
        erasure.delete_earlier_data(folders, release.name)
        after = erasure.count_rows(folders, named, typer.echo, lines)
        _show(erased.before, after)
        typer.echo(f"{release.name} is the only release now, as of {release.as_of}.")
        if erased.sources:
            files = ", ".join(f"{name} ({lines:,})" for name, lines in erased.sources.items())
            typer.echo(f"The source still has their lines. Runs leave them out, but delete them there too: {files}")
        if any(rows != 0 for rows in after.values()):
            raise ErasureError(
                "the table above shows places that still name the customers, or cannot be read. Close programs that"
                " have them open, then run the same command again"
            )


def _show(before: erasure.RowCounts, after: erasure.RowCounts) -> None:
    """Print each table and file with the rows that named the customers, before and after."""
    places = sorted(before.keys() | after.keys())
    title = "rows that name them"
    width = max(map(len, [*places, title]))
    typer.echo(f"{title:{width}}     before      after")
    for place in places:
        typer.echo(f"{place:{width}} {_cell(before, place, 'none yet'):>10} {_cell(after, place, 'deleted'):>10}")


def _cell(counts: erasure.RowCounts, place: str, missing: str) -> str:
    if place not in counts:
        return missing
    return "unreadable" if (rows := counts[place]) is None else f"{rows:,}"
