"""Restore a working database from the state beside a release.

Contains how the tables that cannot be derived again come back, and what happens to the database that they replace. The
next run derives all other tables. The state of an earlier contract is converted in `upgrade`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import duckdb

from segmentation_pipeline.config.paths import RetailerFolders, unused_name
from segmentation_pipeline.errors import RestoreError, first_line
from segmentation_pipeline.releases.files import STATE_DATABASE, Release, sync, verify_file
from segmentation_pipeline.releases.upgrade import StateTable, state_tables
from segmentation_pipeline.tables.catalog import contracts
from segmentation_pipeline.tables.contract import literal
from segmentation_pipeline.warehouse import lock
from segmentation_pipeline.warehouse.connection import connection_to
from segmentation_pipeline.warehouse.database import Warehouse
from segmentation_pipeline.warehouse.table_write import TableWrite

LOCK_TIMEOUT = 30.0


@dataclass(frozen=True)
class RestoreResult:
    """The result of a restore.

    Attributes:
        tables: The row count of each restored table.
        kept: Where the replaced database is kept; None if there was none.
    """

    tables: dict[str, int]
    kept: Path | None


def restore(
    folders: RetailerFolders, release: Release, *, model_digest: str, replace: bool, report: Callable[[str], None]
) -> RestoreResult:
    """Create a working database from a release's state, under the writer's lock; it appears complete or not at all.

    Args:
        folders: The retailer's folders.
        release: The release whose state is restored.
        model_digest: The digest of the present model settings, for the state of an earlier contract.
        replace: Whether to replace an existing database. It is kept under another name.
        report: Called with a message before waiting for a run.

    Raises:
        RestoreError: A working database exists, or the state is damaged or cannot be converted.
        LockTimeoutError: A run is writing.
    """
    database = folders.working_database
    with lock.writer(folders.lock, lock.this_process("segments restore"), LOCK_TIMEOUT, report):
        if database.exists() and not replace:
            raise RestoreError(
                f"{database} exists, with models and a membership history that may be newer than those of the release."
                " --replace restores nevertheless, and keeps the existing file under another name."
            )
        restored = database.with_name(f"{database.name}.restoring")
        for leftover in (restored, _log_of(restored)):
            leftover.unlink(missing_ok=True)
        tables = _write_state(restored, release, _state_tables(release, model_digest), folders.spill, report)
        sync(restored)
        kept = _keep_existing(database)
        restored.replace(database)
        sync(database.parent)
    return RestoreResult(tables, kept)


def _write_state(
    database: Path, release: Release, state: list[StateTable], spill: Path, report: Callable[[str], None]
) -> dict[str, int]:
    """Write the tables of the state into a new working database, and check the contract of each."""
    # The models first: rows of an earlier version are completed from them.
    tables = sorted((table for table in state if table.rows), key=lambda table: table.name != "segmentation_models")
    with connection_to(database, spill, LOCK_TIMEOUT, report, folders=[release.folder]) as connection:
        warehouse = Warehouse(connection)
        # Attached only now: the warehouse looks for its tables in every attached database.
        connection.execute(f"attach {literal(str(release.state))} as state (read_only)")
        try:
            results = warehouse.write([TableWrite(table.name, _completed(warehouse, table)) for table in tables], {})
        except (duckdb.BinderException, duckdb.CatalogException) as error:
            raise RestoreError(
                f"the state of release {release.name} cannot be converted: {first_line(error)};"
                f" {_published_by(release)}"
            ) from None
        violations = [
            f"{result.table} ({violation.column}: {violation.rule}, found {violation.found})"
            for result in results
            for violation in result.violations
        ]
        if violations:
            raise RestoreError(
                f"the state of release {release.name} breaks the contracts of this version: {'; '.join(violations)};"
                f" {_published_by(release)}"
            )
        return {table.name: warehouse.count(table.name) for table in tables}


def _completed(warehouse: Warehouse, table: StateTable) -> str:
    """Return the SELECT of a table with the columns that the version which published it did not have."""
    found = [(row["column_name"], row["column_type"]) for row in warehouse.rows(f"describe {table.select}")]
    columns = contracts()[table.name].completed(found)
    return f"select {columns} from ({table.select})" if columns else table.select  # noqa: S608 - own SQL


def _state_tables(release: Release, model_digest: str) -> list[StateTable]:
    if "state" not in release.manifest:
        raise RestoreError(
            f"release {release.name} has no state, because the version that published it wrote none."
            " Restore a later release."
        )
    if errors := verify_file(release.folder, release.manifest, STATE_DATABASE):
        raise RestoreError(f"release {release.name} is damaged: {'; '.join(errors)}. Restore another release.")
    try:
        return state_tables(release.manifest, model_digest)
    except ValueError as error:
        raise RestoreError(
            f"the state of release {release.name} cannot be restored: {error}; {_published_by(release)}"
        ) from None


def _published_by(release: Release) -> str:
    return f"version {release.manifest['versions']['segmentation_pipeline']} of this package published it"


def _keep_existing(database: Path) -> Path | None:
    """Link the existing database under a second name, so that a run always finds a database and never starts anew.

    The write-ahead log moves first: DuckDB must never open a database with the log of another.
    """
    log = _log_of(database)
    if not database.exists():
        return log.rename(unused_name(log.with_name(f"{log.name}.before"))) if log.exists() else None
    kept = unused_name(database.with_name(f"{database.name}.before"))
    if log.exists():
        log.replace(_log_of(kept))
    kept.hardlink_to(database)
    return kept


def _log_of(database: Path) -> Path:
    """Return DuckDB's write-ahead log, which a killed run leaves behind."""
    return database.with_name(f"{database.name}.wal")
