"""Open DuckDB databases: the working database, the staging database, and those that the query of a source reads.

Contains configuration and access control of connections. What connections do is in `database` and `ingestion`.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import cache
from glob import escape
from pathlib import Path
from typing import Any

import duckdb

from segmentation_pipeline.config.environment import Environment
from segmentation_pipeline.errors import WarehouseError
from segmentation_pipeline.tables.contract import literal, quoted
from segmentation_pipeline.warehouse.database import Warehouse
from segmentation_pipeline.warehouse.line_engine import EngineFactory, InDatabase
from segmentation_pipeline.warehouse.statements import timed

# In MB: what the process may use by default, and what Python and its libraries need of it.
DEFAULT_MEMORY, _PYTHON_MEMORY = 2500, 800
# DuckDB writes a size in these units.
_MEGABYTES = {
    "byte": 1e-6,
    "bytes": 1e-6,
    "KiB": 1024 / 1e6,
    "MiB": 1024**2 / 1e6,
    "GiB": 1024**3 / 1e6,
    "TiB": 1024**4 / 1e6,
}
# All functions in use are built in. Loading an extension would run foreign code.
_NO_EXTENSIONS: dict[str, Any] = {"autoinstall_known_extensions": False, "autoload_known_extensions": False}


@contextmanager
def connection_to(
    database: Path, spill: Path, timeout: float, report: Callable[[str], None], *, folders: Sequence[Path] = ()
) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open the working database for writing, through Dagster's DuckDB resource.

    Only the owner can read the file, its write-ahead log and every other file that is written while it is open. SQL on
    the connection can access its own file and the named folders, and nothing else.

    Args:
        database: The file; created if absent.
        spill: The folder for data that does not fit into memory.
        timeout: Seconds to wait while another program has the database open.
        report: Called with a message when waiting begins.
        folders: Other folders that SQL may read and write.

    Raises:
        WarehouseError: DuckDB cannot open the file, or rejects SEGMENTATION_MEMORY_LIMIT.
    """
    from dagster_duckdb import DuckDBResource

    # Dagster's resource would add the user agent. Two connections share one instance if their settings are equal.
    config = {"temp_directory": str(spill), "custom_user_agent": "dagster"} | _NO_EXTENSIONS | memory_limit()
    # Until the connection is closed, because DuckDB creates the log and spill files whenever it needs them.
    mask = os.umask(0o077)
    try:
        with closing(_connect_when_free(database, config, timeout, report)) as first:
            database.chmod(0o600)
            resource = DuckDBResource(database=str(database), connection_config=config)
            # The file is written when the connection is closed, which is timed too.
            with resource.get_connection() as opened, closing(timed(opened)) as connection:
                first.close()
                _confine(connection, folders=[spill, *folders])
                yield connection
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
def temporary_database(engine: EngineFactory = InDatabase) -> Iterator[Warehouse]:
    """Open a database in memory, which no file keeps."""
    with duckdb.connect(config=_NO_EXTENSIONS | memory_limit()) as connection:
        yield Warehouse(connection, engine=engine)


@contextmanager
def reading_connection(staging: Path, files: Iterable[Path]) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a new staging database, whose SQL can access the given files and its own folder, and nothing else.

    It spills to that folder. The working database is idle meanwhile, so each may use all of DuckDB's part of the limit.
    """
    config = {"temp_directory": str(staging.parent)} | _NO_EXTENSIONS | memory_limit()
    with duckdb.connect(str(staging), config=config) as opened, closing(timed(opened)) as connection:
        # Without the bar, which is not printed, `query_progress` says nothing.
        connection.execute("set enable_progress_bar = true; set enable_progress_bar_print = false")
        _confine(connection, folders=[staging.parent], files=list(files))
        yield connection


@contextmanager
def query_connection(
    folder: Path, database: Path | None = None, tables: Mapping[str, str] | None = None, *, root: Path | None = None
) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a connection for the query of a source, which can access the source and a folder of the run, nothing else.

    Args:
        folder: Where rows may be written, and what does not fit into memory.
        database: A database of another program, opened read-only; by default one in memory.
        tables: Views to create, by name, with the pattern of their Parquet files below `root`.
        root: A folder that the query may read.
    """
    config = {"temp_directory": str(folder)} | _NO_EXTENSIONS | memory_limit()
    with duckdb.connect(str(database or ":memory:"), read_only=bool(database), config=config) as connection:
        connection.execute("set timezone = 'UTC'")
        for name, pattern in (tables or {}).items():
            relation = f"read_parquet({literal(pattern)}, union_by_name = true, hive_partitioning = true)"
            connection.execute(f"create view {quoted(name)} as select * from {relation}")  # noqa: S608 - quoted
        _confine(connection, folders=[folder, *([root] if root else [])])
        yield connection


def _confine(connection: duckdb.DuckDBPyConnection, folders: Sequence[Path], files: Sequence[Path] = ()) -> None:
    """Forbid all other files, extensions and changes of settings, until the connection is closed.

    DuckDB accepts these settings only once the database is open.
    """
    connection.execute("set allowed_directories = cast($paths as varchar[])", {"paths": _as_written(folders)})
    connection.execute("set allowed_paths = cast($paths as varchar[])", {"paths": _as_written(files)})
    connection.execute("set enable_external_access = false; set lock_configuration = true")


def _as_written(paths: Sequence[Path]) -> list[str]:
    """Return the paths as text and as escaped patterns, because DuckDB compares the text of a statement with them."""
    return sorted({str(path) for path in paths} | {escape(str(path)) for path in paths})


def memory_limit() -> dict[str, Any]:
    """Return DuckDB's part of the memory that the process may use."""
    return {"memory_limit": _duckdb_memory(Environment.read().memory_limit)}


@cache
def _duckdb_memory(limit: str) -> str:
    """Return what is left for DuckDB of a limit of the process; without a limit, that of DEFAULT_MEMORY.

    DuckDB would use 80 % of the machine's memory, most of it to keep blocks of the file that it could read again.
    """
    try:
        with duckdb.connect(config={"memory_limit": limit} if limit else {}) as connection:
            [(text,)] = connection.execute("select current_setting('memory_limit')").fetchall()
    except duckdb.Error as error:
        message = f"SEGMENTATION_MEMORY_LIMIT: {limit!r} is no amount of memory, such as 4GB or 500MB"
        raise WarehouseError(f"{message}: {str(error).splitlines()[0]}") from None
    number, unit = text.split()
    if unit not in _MEGABYTES:
        # `none` is no limit, which DuckDB writes in larger units.
        return limit or text
    available = float(number) * _MEGABYTES[unit]
    if not limit:
        available = min(available, DEFAULT_MEMORY)
    return f"{max(available - _PYTHON_MEMORY, available / 2):.0f}MB"


def _connect_when_free(
    database: Path, config: dict[str, Any], timeout: float, report: Callable[[str], None]
) -> duckdb.DuckDBPyConnection:
    """Open the file as soon as no other program has it open.

    Dagster's resource would retry every error for 102 s, damage too.
    """
    deadline, reported = time.monotonic() + timeout, False
    while True:
        try:
            return duckdb.connect(str(database), config=config)
        except duckdb.Error as error:
            # Not just "lock": the error of a damaged file contains "block".
            if "Could not set lock" not in str(error):
                raise WarehouseError(
                    f"{database}: DuckDB {duckdb.__version__} cannot open the working database: {error}. If another"
                    " version of DuckDB wrote it, use that version. If it is damaged, restore a backup, or run"
                    " `segments restore RELEASE --replace`: the file holds the models and the membership history, and"
                    " without them the next run starts from nothing."
                ) from None
            if time.monotonic() > deadline:
                raise WarehouseError(
                    f"{database}: another program has had the working database open for {timeout:g} s: {error}. "
                    "Close it there; to look at results, open a release instead."
                ) from None
            if not reported:
                report(f"waiting for another program that has the working database open: {error}")
                reported = True
        time.sleep(0.25)
