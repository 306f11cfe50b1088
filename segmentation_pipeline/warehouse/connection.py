"""Open the working database, or one that files are read into: confined to its places, and closed whatever happens.

Belongs here: what stands between a file and a connection. What is then done with it is told in `warehouse` and `lines`.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from typing import Any

import duckdb

from segmentation_pipeline.config.environment import Environment
from segmentation_pipeline.errors import WarehouseError
from segmentation_pipeline.warehouse.database import Warehouse

# Everything that is used is built in; an extension that is fetched or loaded would be somebody else's code.
_NO_EXTENSIONS: dict[str, Any] = {"autoinstall_known_extensions": False, "autoload_known_extensions": False}


@contextmanager
def connection_to(
    database: Path, spill: Path, patience: float, tell: Callable[[str], None], *, beside: Sequence[Path] = ()
) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open the working database through Dagster's DuckDB resource, and close it whatever happens.

    It is for its owner alone, as are the log that DuckDB writes beside it and whatever else is written meanwhile. From
    the first statement on it reaches no other file than its own and those in the folders that are named here.

    Args:
        database: The file; created if absent.
        spill: The folder for what does not fit into memory.
        patience: Seconds to wait for somebody who looks into the database with another program.
        tell: Where to say that it waits.
        beside: The other folders that it may read and write.

    Raises:
        WarehouseError: DuckDB cannot open the file, or does not take SEGMENTATION_MEMORY_LIMIT.
    """
    from dagster_duckdb import DuckDBResource

    config = {"temp_directory": str(spill)} | _NO_EXTENSIONS | _memory_limit()
    # For as long as it is open: DuckDB makes the log and the files of what it spills anew whenever it needs them.
    mask = os.umask(0o077)
    try:
        _wait_until_free(database, patience, tell)
        database.chmod(0o600)
        resource = DuckDBResource(database=str(database), connection_config=config)
        with resource.get_connection() as connection:
            try:
                _confine(connection, folders=[spill, *beside])
                yield connection
            finally:
                connection.close()
    finally:
        os.umask(mask)


@contextmanager
def reading_database(database: Path) -> Iterator[Warehouse]:
    """Open the working database for reading, without waiting.

    Raises:
        duckdb.Error: Another process has it open for writing, or it is not readable.
    """
    with duckdb.connect(str(database), read_only=True, config=_NO_EXTENSIONS) as connection:
        yield Warehouse(connection, read_only=True)


@contextmanager
def reading_connection(staging: Path, files: Iterable[Path]) -> Iterator[duckdb.DuckDBPyConnection]:
    """A new database that files are read into: it reaches these and its own folder, and nothing else.

    What it cannot hold in memory it puts there too: the working database waits meanwhile, so each has all that
    SEGMENTATION_MEMORY_LIMIT allows.
    """
    config = {"temp_directory": str(staging.parent)} | _NO_EXTENSIONS | _memory_limit()
    with duckdb.connect(str(staging), config=config) as connection:
        _confine(connection, folders=[staging.parent], files=list(files))
        yield connection


def _confine(connection: duckdb.DuckDBPyConnection, folders: Sequence[Path], files: Sequence[Path] = ()) -> None:
    """For good: no statement reads or writes elsewhere, loads an extension, or changes a setting.

    DuckDB takes these settings only when the database is open.
    """
    connection.execute("set allowed_directories = cast($paths as varchar[])", {"paths": _as_written(folders)})
    connection.execute("set allowed_paths = cast($paths as varchar[])", {"paths": _as_written(files)})
    connection.execute("set enable_external_access = false; set lock_configuration = true")


def _as_written(paths: Sequence[Path]) -> list[str]:
    """The paths as they are, and as patterns: what is read is held against them as it is written in the statement."""
    return sorted({str(path) for path in paths} | {escape(str(path)) for path in paths})


def _memory_limit() -> dict[str, Any]:
    """What SEGMENTATION_MEMORY_LIMIT allows DuckDB, as its setting; unset, it takes 80 % of the machine's."""
    if not (limit := Environment.read().memory_limit):
        return {}
    try:
        duckdb.connect(config={"memory_limit": limit}).close()
    except duckdb.Error as error:
        said = f"SEGMENTATION_MEMORY_LIMIT: {limit!r} is no amount of memory, such as 4GB or 500MB"
        raise WarehouseError(f"{said}: {str(error).splitlines()[0]}") from None
    return {"memory_limit": limit}


def _wait_until_free(database: Path, patience: float, tell: Callable[[str], None]) -> None:
    """The resource retries every error for 102 s, also that of a damaged file; so the file is tried here first."""
    deadline, told = time.monotonic() + patience, False
    while True:
        try:
            duckdb.connect(str(database)).close()
            return
        except duckdb.Error as error:
            # Not just "lock": a damaged file is told of by its block.
            if "Could not set lock" not in str(error):
                raise WarehouseError(
                    f"{database}: DuckDB {duckdb.__version__} cannot open the working database: {error}. If another "
                    "version of DuckDB wrote it, use that one; if it is damaged, put a copy of it back, or `segments "
                    "restore RELEASE --replace`: it holds the registry of models and the ledger of memberships. "
                    "Without them the next run starts anew."
                ) from None
            if time.monotonic() > deadline:
                raise WarehouseError(
                    f"{database}: another program has held the working database open for {patience:g} s: {error}. "
                    "Close it there; to look at results, open a release instead."
                ) from None
            if not told:
                tell(f"waiting for another program that has the working database open: {error}")
                told = True
        time.sleep(0.25)
