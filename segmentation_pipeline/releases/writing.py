"""Write the files of a release from the working database, and copy those of the previous release that stay the same.

Contains which file is made from what. How files are verified and handed over is in `files`.
"""

import hashlib
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from glob import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any

import duckdb

from segmentation_pipeline.releases.files import (
    DATABASE,
    RELEASES_VARIABLE,
    STATE_DATABASE,
    STORAGE_VERSION,
    Release,
    checksum,
    find_parquet_files,
)
from segmentation_pipeline.tables.catalog import contracts, published, state_selects
from segmentation_pipeline.tables.contract import Contract, literal, quoted
from segmentation_pipeline.warehouse.contents import Content, contents_of
from segmentation_pipeline.warehouse.statements import statements_for

_NEW_DATABASE = "new_release"

Selects = Mapping[Contract, str]
Contents = Mapping[Contract, Content]


def write_files(
    connection: duckdb.DuckDBPyConnection,
    folder: Path,
    macros: Sequence[str],
    withheld: Sequence[str],
    previous: Release | None = None,
    *,
    published_as: Path,
    max_database_rows: float = math.inf,
) -> dict[str, Any]:
    """Write the published tables, as a database and as Parquet, and the database of the state.

    Args:
        connection: The working database. Each table is read in the order of its key.
        folder: An empty folder, which bears the name of the release.
        macros: The statements that create functions for consumers.
        withheld: Columns to leave out of the tables that describe customers.
        previous: A release of which files are copied where they would be made from the same rows.
        published_as: The folder of the release once it is published.
        max_database_rows: Of a table with more rows, the database has a view of the Parquet file.

    Returns:
        Entries of the manifest: the row count of each table in the working database, the tables without rows in the
        database, of each file its checksum and a digest of what it was made from, and the files that were copied.
    """
    tables = {
        contract: f"select {contract.names} from {quoted(contract.table)}"  # noqa: S608 - quoted names
        for contract in (contract.without(withheld) for contract in published())
    }
    state = {_stored_contract(connection, table): select for table, select in state_selects().items()}
    with statements_for("release"):
        contents = {name: contents_of(connection, selects) for name, selects in (("tables", tables), ("state", state))}
        views = {
            contract: _view(contract, published_as)
            for contract, content in contents["tables"].items()
            if content.rows > max_database_rows
        }
        # A view names its release, so a database with one is never copied.
        made_from = _made_from(contents["tables"], contents["state"], [*views.values(), *macros])
        copied = _copy_unchanged(previous, folder, made_from)
        with TemporaryDirectory(dir=folder) as temporary:
            _write_parquet(connection, folder, tables, copied)
            if DATABASE not in copied:
                _write_database(connection, folder / DATABASE, tables, folder, macros, views)
            if STATE_DATABASE not in copied:
                _write_parquet(connection, Path(temporary), state)
                _write_database(connection, folder / STATE_DATABASE, state, Path(temporary), is_published=False)
    counts = {name: {contract.table: content.rows for contract, content in of.items()} for name, of in contents.items()}
    files = {file.name: checksum(file) for file in sorted(folder.iterdir())}
    parquet_only = [contract.table for contract in views]
    return {**counts, "parquet_only": parquet_only, "files": files, "made_from": made_from, "copied": sorted(copied)}


def _stored_contract(connection: duckdb.DuckDBPyConnection, table: str) -> Contract:
    """Return the contract of a table with the columns of text that it has beyond it."""
    contract = contracts()[table]
    if not contract.has_extra_columns:
        return contract
    # It may be a view, which DuckDB 1.5's `table` does not find.
    names = [name for name, *_ in connection.execute(f"describe {quoted(table)}").fetchall()]
    return contract.with_extra_columns(dict.fromkeys(names[len(contract.columns) :], ""))


def _made_from(tables: Contents, state: Contents, macros: Sequence[str]) -> dict[str, str]:
    """Return of each file a digest of the rows, contracts and functions that it is made from."""
    of_tables, of_state = (
        {_parquet(contract): _digest(contract.model_dump_json(), content.digest) for contract, content in of.items()}
        for of in (tables, state)
    )
    return {
        **of_tables,
        DATABASE: _digest(STORAGE_VERSION, *of_tables.values(), *macros),
        STATE_DATABASE: _digest(STORAGE_VERSION, *of_state.values()),
    }


def _copy_unchanged(previous: Release | None, folder: Path, made_from: Mapping[str, str]) -> set[str]:
    """Copy the files that the previous release made from the same; return their names.

    Copies and no links, because a release must not be damaged with another one. A file that is not as it was published
    is left out, so it is written again.
    """
    manifest = previous.manifest if previous else {}
    before, copied = manifest.get("made_from", {}), set()
    for name, digest in made_from.items():
        if previous is None or before.get(name) != digest:
            continue
        try:
            shutil.copyfile(previous.folder / name, folder / name)
        except FileNotFoundError:
            continue
        if checksum(folder / name) == manifest["files"].get(name):
            copied.add(name)
        else:
            (folder / name).unlink()
    return copied


def _write_parquet(
    connection: duckdb.DuckDBPyConnection, folder: Path, selects: Selects, copied: set[str] | None = None
) -> None:
    """Write the rows of each SELECT as Parquet, except for the files that were copied."""
    for contract, select in selects.items():
        if _parquet(contract) in (copied or ()):
            continue
        ordered = f"select * from ({select}) order by {contract.key_order}"  # noqa: S608 - own SQL
        file = literal(str(folder / _parquet(contract)))
        with statements_for(table=contract.table):
            connection.execute(f"copy ({ordered}) to {file} (format parquet, compression zstd)")


def _write_database(
    connection: duckdb.DuckDBPyConnection,
    database: Path,
    selects: Selects,
    folder: Path,
    macros: Sequence[str] = (),
    views: Selects = MappingProxyType({}),
    *,
    is_published: bool = True,
) -> None:
    """Load the Parquet files of a folder into a new database, except for the tables that have a view.

    That of the state, which only `segments restore` reads, has neither constraints nor comments.
    """
    with _new_database(connection, database) as written:
        # One transaction: otherwise each of the hundred comments waits for the disk.
        written.begin()
        find_parquet_files(written, folder)
        for contract in selects:
            with statements_for(table=contract.table):
                if contract in views:
                    written.execute(views[contract])
                else:
                    file = escape(str(folder / _parquet(contract)))
                    written.execute(contract.ddl(constraints=is_published))
                    written.execute(f"insert into {quoted(contract.table)} from read_parquet($file)", {"file": file})
                if is_published:
                    contract.write_comments(written)
        for macro in macros:
            written.execute(macro)
        written.commit()


@contextmanager
def _new_database(connection: duckdb.DuckDBPyConnection, file: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """Create a database, and yield a connection to it that shares the memory of the given one.

    Opening a database of its own takes 14 ms, and as much memory again.
    """
    attach = f"attach {literal(str(file))} as {_NEW_DATABASE} (storage_version {literal(STORAGE_VERSION)})"
    connection.execute(attach)
    try:
        with closing(connection.cursor()) as cursor:
            cursor.execute(f"use {_NEW_DATABASE}")
            yield cursor
    finally:
        # Also writes everything from the log into the file.
        connection.execute(f"detach {_NEW_DATABASE}")


def _view(contract: Contract, release: Path) -> str:
    """Return the statement that creates a view of a table's Parquet file in a published release."""
    # Not resolved: where the data folder is a link, the link may lead elsewhere one day.
    folder = literal(escape(str(release.absolute().parent)))
    file = literal(f"/{release.name}/{_parquet(contract)}")
    rows = f"read_parquet(coalesce(getvariable({literal(RELEASES_VARIABLE)}), {folder}) || {file})"
    return f"create view {quoted(contract.table)} as select * from {rows}"  # noqa: S608 - names are quoted


def _parquet(contract: Contract) -> str:
    return f"{contract.table}.parquet"


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]
