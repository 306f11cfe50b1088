"""Which Parquet file has the lines of which source file, in which table.

Contains the table of the working database that says so, so that lines, their versions and everything else change in one
transaction. Nothing here writes or deletes rows of these files.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import duckdb

from segmentation_pipeline.tables.catalog import contracts
from segmentation_pipeline.tables.contract import Contract, literal, quoted
from segmentation_pipeline.warehouse.line_engine import LINE_FILES, LINE_TABLES

# Below the location: the tables of lines, and what only one run reads.
LINES, SCRATCH = "lines", "scratch"
_DDL = f"create table if not exists {LINE_FILES} (table_name varchar, source_file varchar, path varchar, rows bigint)"


class LineFiles:
    """The files of the tables of lines below a location, and views of them in the working database."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, location: Path) -> None:
        self.location = location
        self._connection = connection
        for folder in (LINES, SCRATCH):
            (location / folder).mkdir(parents=True, exist_ok=True)
        connection.execute(_DDL)
        self._delete_abandoned()
        self._take_over()
        for (table,) in self._execute(f"select distinct table_name from {LINE_FILES}"):  # noqa: S608 - own name
            self._create_view(contracts()[table])

    def columns(self) -> Mapping[str, Sequence[tuple[str, str]]]:
        """Return the columns of each table, with their types."""
        tables = self._execute(f"select distinct table_name from {LINE_FILES} order by 1")  # noqa: S608 - own name
        described = {table: self._execute(f"describe {quoted(table)}") for (table,) in tables}
        return {table: [(name, kind) for name, kind, *_ in rows] for table, rows in described.items()}

    def of(self, table: str) -> dict[str, str]:
        """Return the path, relative to the location, of the lines of each source file in a table."""
        select = f"select source_file, path from {LINE_FILES} where table_name = $table order by 1"  # noqa: S608 - own name
        return dict(self._execute(select, table=table))

    def rows(self, table: str) -> int:
        """Return the number of lines of a table."""
        select = f"select coalesce(sum(rows), 0) from {LINE_FILES} where table_name = $table"  # noqa: S608 - own name
        [(rows,)] = self._execute(select, table=table)
        return int(rows)

    def replace(
        self, contract: Contract, files: frozenset[str] | None, written: Sequence[tuple[str, str, int]]
    ) -> None:
        """Let a table have other files, in the transaction of the caller; a later run deletes those that it had.

        Args:
            contract: The contract of the table.
            files: The source files whose lines are replaced; None: all.
            written: The source file, the path and the number of lines of each new file.
        """
        delete = f"delete from {LINE_FILES} where table_name = $table"  # noqa: S608 - own name
        if files is None:
            self._execute(delete, table=contract.table)
        else:
            of_files = f"{delete} and source_file in (select unnest(cast($files as varchar[])))"
            self._execute(of_files, table=contract.table, files=sorted(files))
        if written:
            insert = f"insert into {LINE_FILES} values (?, ?, ?, ?)"  # noqa: S608 - own name
            self._connection.executemany(insert, [[contract.table, *file] for file in written])
        self._create_view(contract)

    def drop(self, table: str) -> None:
        """Let a table have no files."""
        self.replace(contracts()[table], None, [])
        self._connection.execute(f"drop view if exists temp.{quoted(table)}")

    def _create_view(self, contract: Contract) -> None:
        """Create a view of the files of a table: the run's own DuckDB reads few lines of it, such as for a release."""
        paths = [str(self.location / path) for path in self.of(contract.table).values()]
        select = f"select * from {parquet(paths)}" if paths else contract.empty_select  # noqa: S608 - own SQL
        self._connection.execute(f"create or replace temp view {quoted(contract.table)} as {select}")

    def _take_over(self) -> None:
        """Move the lines of a working database that held them itself; what derives from them is derived again."""
        find = "select table_name from duckdb_tables() where not temporary and list_contains($tables, table_name)"
        tables = [table for (table,) in self._execute(find, tables=list(LINE_TABLES))]
        if not tables:
            return
        raw = LINE_TABLES[0]
        self._connection.begin()
        written = []
        names = self._execute(f"select distinct source_file from {raw} order by 1") if raw in tables else []  # noqa: S608 - own name
        for (name,) in names:
            path = new_file(LINES)
            select = f"select * from {raw} where source_file = {literal(name)}"  # noqa: S608 - quoted
            [(rows,)] = self._execute(copy_statement(select, self.location / path))
            written.append([raw, name, path, rows])
        if written:
            self._connection.executemany(f"insert into {LINE_FILES} values (?, ?, ?, ?)", written)  # noqa: S608 - own name
        for table in tables:
            self._connection.execute(f"drop table {quoted(table)}")
        self._connection.commit()

    def _delete_abandoned(self) -> None:
        """Delete what earlier runs have left: files that no table has any more, and what only they read."""
        kept = {path for (path,) in self._execute(f"select path from {LINE_FILES}")}  # noqa: S608 - own name
        for file in (self.location / LINES).iterdir():
            if f"{LINES}/{file.name}" not in kept:
                file.unlink()
        self.delete_scratch()

    def delete_scratch(self) -> None:
        """Delete what only one run reads."""
        for path in (self.location / SCRATCH).iterdir():
            delete(path)

    def _execute(self, statement: str, **values: Any) -> list[Any]:
        return self._connection.execute(statement, values).fetchall()


def new_file(folder: str) -> str:
    """Return the path of a new Parquet file in a folder; no other task has the same."""
    return f"{folder}/{uuid4().hex}.parquet"


def copy_statement(select: str, file: Path) -> str:
    """Return the statement that writes rows as Parquet."""
    return f"copy ({select}) to {literal(str(file))} (format parquet, compression zstd)"


def parquet(paths: Sequence[str]) -> str:
    """Return the SQL that reads Parquet files, in which columns may be missing."""
    return f"read_parquet([{', '.join(map(literal, paths))}], union_by_name = true)"


def delete(path: Path) -> None:
    """Delete a file, or a folder with its files."""
    shutil.rmtree(path) if path.is_dir() else path.unlink()
