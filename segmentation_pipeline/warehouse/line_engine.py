"""Where the tables of transaction lines are, and what runs the SELECTs that read them.

Contains the interface and its implementation for lines in the working database. That for Spark is in `spark.engine`.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import duckdb

from segmentation_pipeline.warehouse.queries import QueryInputs
from segmentation_pipeline.warehouse.table_write import TableWrite, WriteResult

# The tables with one row per line. All others are in the working database, whatever the engine.
LINE_TABLES = ("raw_transactions", "clean_transactions", "rejected_transactions")
# Where an engine holds them elsewhere, the working database says in this table which file has which rows.
LINE_FILES = "line_files"

Lines = TypeVar("Lines", bound=QueryInputs)


class LineEngine(Protocol):
    """Holds the tables of lines, and computes what is derived from them."""

    def held(self) -> Mapping[str, Sequence[tuple[str, str]]]:
        """Return the columns of each table that the engine holds outside the working database, with their types."""

    def staged(
        self, read: Callable[..., AbstractContextManager[Lines]], files: Mapping[str, Path], spill: Path
    ) -> AbstractContextManager[Lines]:
        """Read files into the relation `staged_lines`.

        Args:
            read: Reads files into a database that a connection has open: `ingestion.staging.read_lines`.
            files: The path of each file by its name.
            spill: A folder for temporary files.
        """

    def write(self, write: TableWrite, values: Mapping[str, Any], inputs: QueryInputs) -> WriteResult | TableWrite:
        """Replace rows of a table that the engine holds, as `Warehouse.write` does, in the transaction of the caller.

        Returns:
            The result; of a table of the working database, what the working database is to write.
        """

    def drop(self, table: str) -> None:
        """Delete a table that the engine holds, if it exists."""

    def relation(self, select: str, values: Mapping[str, Any]) -> str:
        """Return a SELECT for the working database with the rows of one that may read lines.

        Args:
            select: The SELECT.
            values: The values that it may bind; those that it does not name are ignored.
        """


class InDatabase:
    """Holds the lines in the working database, where DuckDB reads them like every other table."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection

    def held(self) -> Mapping[str, Sequence[tuple[str, str]]]:
        """Return nothing: the tables are in the working database."""
        return {}

    def staged(
        self, read: Callable[..., AbstractContextManager[Lines]], files: Mapping[str, Path], spill: Path
    ) -> AbstractContextManager[Lines]:
        """Read the files in this process."""
        return read(self._connection, files=files, spill=spill)

    def write(self, write: TableWrite, values: Mapping[str, Any], inputs: QueryInputs) -> WriteResult | TableWrite:
        """Return the write: the working database holds every table."""
        del values, inputs
        return write

    def drop(self, table: str) -> None:
        """Do nothing, because the working database has the table."""

    def relation(self, select: str, values: Mapping[str, Any]) -> str:
        """Return the SELECT as it is."""
        del values
        return select


EngineFactory = Callable[[duckdb.DuckDBPyConnection], LineEngine]
