"""What a worker of the cluster does with source files: read them, or derive tables of their lines, one file by one.

Contains functions that Spark runs in other processes: they use DuckDB and the code of this package, as a run on one
machine does, so a line becomes the same rows.
"""

import pickle
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import duckdb

from segmentation_pipeline.ingestion.staging import FileLoad, StagedLines
from segmentation_pipeline.spark.line_files import copy_statement, new_file
from segmentation_pipeline.tables.catalog import contracts
from segmentation_pipeline.tables.contract import Violation, literal, quoted
from segmentation_pipeline.warehouse.connection import temporary_database
from segmentation_pipeline.warehouse.line_engine import InDatabase
from segmentation_pipeline.warehouse.queries import QueryInputs
from segmentation_pipeline.warehouse.table_write import TableWrite

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

# Source files are given to a task until they have this many bytes.
_BYTES_OF_A_TASK = 32 * 2**20
_FUNCTION = "derive_files"


@dataclass(frozen=True)
class WrittenFile:
    """The Parquet file of the rows of one source file in one table.

    Attributes:
        source_file: The source file.
        path: The Parquet file, relative to the location; empty where a rule is broken.
        rows: Its rows.
        violations: The broken rules of the contract.
        load: What was read of the source file, if it was read.
    """

    source_file: str
    path: str
    rows: int = 0
    violations: tuple[Violation, ...] = ()
    load: FileLoad | None = None


@dataclass(frozen=True)
class ReadFiles:
    """Reads source files, and writes the lines of each.

    Attributes:
        read: Reads files into a database: `ingestion.staging.read_lines` with the settings.
        location: Where the tables of lines are.
        folder: Where the new files are written, relative to the location.
    """

    read: Callable[..., AbstractContextManager[StagedLines]]
    location: Path
    folder: str

    def __call__(self, files: Sequence[tuple[str, str]]) -> list[WrittenFile]:
        """Read files, given by name and path."""
        paths = {name: Path(path) for name, path in files}
        with (
            TemporaryDirectory(prefix="segments-") as spill,
            temporary_database() as database,
            self.read(database.connection, files=paths, spill=Path(spill)) as lines,
        ):
            return [self._written(database.connection, lines, name) for name in paths]

    def _written(self, connection: Any, lines: StagedLines, name: str) -> WrittenFile:
        load, path = lines.files[name], new_file(self.folder)
        if load.error is not None:
            return WrittenFile(name, "", load=load)
        select = f"select * from ({lines.relations['staged_lines']}) where source_file = {literal(name)}"  # noqa: S608 - own SQL
        connection.execute(copy_statement(select, self.location / path))
        return WrittenFile(name, path, load.records, load=load)


@dataclass(frozen=True)
class DeriveFiles:
    """Derives the rows of one table from the lines of each source file, and checks their contract.

    Attributes:
        write: The SELECT of the rows.
        values: The values that it binds.
        inputs: The relations that it reads beside tables.
        tables: The Parquet files of the other tables that it reads.
        location: Where the tables of lines are.
        folder: Where the new files are written, relative to the location.
    """

    write: TableWrite
    values: dict[str, Any]
    inputs: QueryInputs
    tables: Mapping[str, str]
    location: Path
    folder: str

    def __call__(self, files: Sequence[tuple[str, Mapping[str, str]]]) -> list[WrittenFile]:
        """Derive the rows of files, given by name and the Parquet file of each table of its lines."""
        views = {*self.tables, *(table for _, sources in files for table in sources)}
        with temporary_database(partial(_Views, tables=views & contracts().keys())) as database:
            for table, path in self.tables.items():
                _create_view(database.connection, table, path)
            return [self._derived(database, name, sources) for name, sources in files]

    def _derived(self, database: Any, name: str, sources: Mapping[str, str]) -> WrittenFile:
        for table, path in sources.items():
            _create_view(database.connection, table, path)
        contract, rows, violations = database.new_rows(self.write, self.values, self.inputs)
        if violations:
            return WrittenFile(name, "", rows, tuple(violations))
        path = new_file(self.folder) if rows else ""
        if rows:
            select = f"select * from {quoted(contract.table)}"  # noqa: S608 - quoted
            database.connection.execute(copy_statement(select, self.location / path))
        return WrittenFile(name, path, rows)


class _Views(InDatabase):
    """The engine of a worker's database, which has views of Parquet files in place of some tables."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, *, tables: Collection[str]) -> None:
        super().__init__(connection)
        self._tables = tables

    def held(self) -> Mapping[str, Sequence[tuple[str, str]]]:
        """Return the tables that there are views of."""
        return {table: [(column.name, column.type) for column in contracts()[table].columns] for table in self._tables}


@dataclass(frozen=True)
class _Distributed:
    """A task for groups of files, as Spark calls it."""

    task: Callable[[Any], list[WrittenFile]]
    groups: Sequence[Any] = field(default_factory=tuple)

    def __call__(self, number: int) -> bytes:
        return pickle.dumps(self.task(self.groups[number]))


def distribute(
    session: "SparkSession", task: Callable[[Any], list[WrittenFile]], files: Sequence[Any], sizes: Sequence[int]
) -> list[WrittenFile]:
    """Run a task for all files on the cluster, and return its results.

    Spark runs a task again on another worker if one is lost; a file that the lost one has written is left behind, and
    no table refers to it.

    Args:
        session: The session.
        task: What a worker does with a group of files.
        files: The files, as the task takes them.
        sizes: The bytes of each.
    """
    from pyspark.sql.types import BinaryType

    groups = list(_groups(files, sizes))
    if not groups:
        return []
    # By its name: the functions of `pyspark.sql.functions` are other ones over Spark Connect.
    session.udf.register(_FUNCTION, _Distributed(task, groups), BinaryType())
    select = f"select {_FUNCTION}(id) as written from range(0, {len(groups)}, 1, {len(groups)})"  # noqa: S608 - own SQL
    rows = session.sql(select).collect()
    return [written for row in rows for written in pickle.loads(bytes(row["written"]))]  # noqa: S301 - own bytes


def _groups(files: Sequence[Any], sizes: Sequence[int]) -> Iterator[list[Any]]:
    group: list[Any] = []
    held = 0
    for file, size in zip(files, sizes, strict=True):
        if group and held + size > _BYTES_OF_A_TASK:
            yield group
            group, held = [], 0
        group.append(file)
        held += size
    if group:
        yield group


def _create_view(connection: Any, table: str, path: str) -> None:
    relation = f"read_parquet({literal(path)})"
    connection.execute(f"create or replace temp view {quoted(table)} as select * from {relation}")  # noqa: S608 - quoted
