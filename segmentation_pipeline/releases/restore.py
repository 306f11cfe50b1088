"""A working database from the state that lies beside a release.

Belongs here: how what no source gives back comes back, and what becomes of the database that stood. All else of a
working database is derived by the next run.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from segmentation_pipeline.config.paths import RetailerFolders, unused_name
from segmentation_pipeline.errors import RestoreError
from segmentation_pipeline.releases.files import STATE_DATABASE, Release, file_faults, sync
from segmentation_pipeline.tables.catalog import contracts
from segmentation_pipeline.tables.contract import literal, quoted
from segmentation_pipeline.warehouse import lock
from segmentation_pipeline.warehouse.connection import connection_to
from segmentation_pipeline.warehouse.database import TableWrite, Warehouse

PATIENCE = 30.0


@dataclass(frozen=True)
class Restored:
    """What was done: the rows of each table, and where the database that stood before is kept."""

    tables: dict[str, int]
    kept: Path | None


def restore(folders: RetailerFolders, release: Release, *, replace: bool, tell: Callable[[str], None]) -> Restored:
    """Make a working database of a release's state, under the writer's lock; it appears whole or not at all.

    Args:
        folders: The retailer's places.
        release: The release whose state is taken.
        replace: Whether a database that stands may be set aside; it is kept.
        tell: Where to say that it waits for a run.

    Raises:
        RestoreError: A working database stands, or the state is not what was published.
        LockTimeoutError: A run is writing.
    """
    work = folders.working_database
    with lock.writer(folders.lock, "segments restore", PATIENCE, tell):
        if work.exists() and not replace:
            raise RestoreError(
                f"{work} stands, with a registry and a ledger of its own, maybe newer ones. --replace restores all the"
                " same, and keeps it beside."
            )
        made = work.with_name(f"{work.name}.restoring")
        for rest in (made, _log_of(made)):
            rest.unlink(missing_ok=True)
        tables = _written(made, release, folders.spill, tell)
        sync(made)
        kept = _set_aside(work)
        made.replace(work)
        sync(work.parent)
    return Restored(tables, kept)


def _written(made: Path, release: Release, spill: Path, tell: Callable[[str], None]) -> dict[str, int]:
    """A new working database with the tables of the state, each held to its contract."""
    if "state" not in release.manifest:
        raise RestoreError(f"release {release.name} was published before releases had a state; take a later one")
    if faults := file_faults(release.folder, release.manifest, STATE_DATABASE):
        raise RestoreError(f"release {release.name} is damaged: {'; '.join(faults)}. Take another one")
    published: dict[str, int] = release.manifest["state"]
    by = f"it was published by version {release.manifest['versions']['segmentation_pipeline']} of this package"
    if unknown := sorted(published.keys() - contracts().keys()):
        raise RestoreError(f"the state of release {release.name} has tables that are unknown here: {unknown}; {by}")
    with connection_to(made, spill, PATIENCE, tell, beside=[release.folder]) as connection:
        warehouse = Warehouse(connection)
        # Only now: the warehouse looks for its tables in all that is attached.
        connection.execute(f"attach {literal(str(release.state))} as state (read_only)")
        # An empty one stands already, or is derived.
        filled = [table for table, rows in published.items() if rows]
        writes = [TableWrite(table, f"select * from state.main.{quoted(table)}") for table in filled]
        broken = [
            f"{outcome.table} ({violation.column}: {violation.rule}, found {violation.found})"
            for outcome in warehouse.write(writes, {})
            for violation in outcome.violations
        ]
        if broken:
            raise RestoreError(
                f"the state of release {release.name} breaks the contracts of this version: {'; '.join(broken)}; {by}"
            )
        return {table: warehouse.count(table) for table in filled}


def _set_aside(work: Path) -> Path | None:
    """Keep what stands under another name too, so that at no moment a run finds nothing there and begins anew.

    The log goes first: a database must never be opened with the log of another.
    """
    log = _log_of(work)
    if not work.exists():
        return log.rename(unused_name(log.with_name(f"{log.name}.before"))) if log.exists() else None
    kept = unused_name(work.with_name(f"{work.name}.before"))
    if log.exists():
        log.replace(_log_of(kept))
    kept.hardlink_to(work)
    return kept


def _log_of(database: Path) -> Path:
    """The log that DuckDB writes ahead, which a run that was killed leaves behind."""
    return database.with_name(f"{database.name}.wal")
