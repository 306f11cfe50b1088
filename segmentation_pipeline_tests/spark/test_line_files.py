"""Which Parquet files have the lines: taken over from DuckDB, replaced, and deleted when no table has them."""

from pathlib import Path

import duckdb
import pytest

from segmentation_pipeline.spark.line_files import LINES, SCRATCH, LineFiles
from segmentation_pipeline.tables.catalog import contracts

RAW = contracts()["raw_transactions"]


@pytest.fixture
def connection() -> duckdb.DuckDBPyConnection:
    """A working database with three lines of two source files."""
    opened = duckdb.connect()
    opened.execute(RAW.ddl(constraints=False))
    for file, number in (("a.csv", 2), ("a.csv", 3), ("b's.csv", 2)):
        opened.execute(
            "insert into raw_transactions (source_file, source_sheet, source_line) values (?, '', ?)", [file, number]
        )
    return opened


def lines(connection: duckdb.DuckDBPyConnection) -> list[tuple[str, int]]:
    return connection.execute("select source_file, source_line from raw_transactions order by all").fetchall()


def test_lines_of_duckdb_move_into_a_file_each(connection: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    before = lines(connection)
    files = LineFiles(connection, tmp_path)
    assert lines(connection) == before == [("a.csv", 2), ("a.csv", 3), ("b's.csv", 2)]
    assert connection.execute("select 1 from duckdb_tables() where table_name = 'raw_transactions'").fetchall() == []
    assert {*files.of("raw_transactions")} == {"a.csv", "b's.csv"}
    assert files.rows("raw_transactions") == 3


def test_only_files_that_a_table_has_are_kept(connection: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    files = LineFiles(connection, tmp_path)
    files.replace(RAW, frozenset({"a.csv"}), [])
    (tmp_path / SCRATCH / "result").mkdir()
    reopened = LineFiles(connection, tmp_path)
    assert lines(connection) == [("b's.csv", 2)]
    assert [path.name for path in (tmp_path / LINES).iterdir()] == [Path(reopened.of(RAW.table)["b's.csv"]).name]
    assert [*(tmp_path / SCRATCH).iterdir()] == []


def test_a_rolled_back_write_leaves_the_lines(connection: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    files = LineFiles(connection, tmp_path)
    connection.begin()
    files.replace(RAW, None, [])
    assert lines(connection) == []
    connection.rollback()
    assert len(lines(connection)) == 3
