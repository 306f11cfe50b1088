"""Timing of statements: what is measured, whose it is, and what the log does not contain."""

from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from segmentation_pipeline.warehouse.connection import connection_to
from segmentation_pipeline.warehouse.statements import (
    Statement,
    StatementLog,
    first_line,
    logged_statements,
    statements_for,
    timed,
)


@pytest.fixture
def log() -> Iterator[StatementLog]:
    with logged_statements() as log:
        yield log


@pytest.fixture
def connection(log: StatementLog) -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as opened:
        yield timed(opened)


def test_connection_is_not_wrapped_outside_of_a_log() -> None:
    with duckdb.connect() as opened:
        assert timed(opened) is opened


def test_changed_and_fetched_rows_are_counted(log: StatementLog, connection: duckdb.DuckDBPyConnection) -> None:
    connection.execute("create table t as select range as n from range(7)")
    connection.executemany("insert into t values (?)", [[10], [11]])
    connection.execute("delete from t where n < $low", {"low": 3})
    assert connection.execute("select n from t").fetchone() == (3,)
    assert len(connection.execute("select n from t").fetchall()) == 6
    assert len(connection.execute("select n from t").fetchnumpy()["n"]) == 6
    assert len(connection.execute("select n from t").df()) == 6
    assert [one.rows for one in log.statements] == [7, 2, 3, 1, 6, 6, 6]


def test_time_of_a_fetch_belongs_to_its_statement(log: StatementLog, connection: duckdb.DuckDBPyConnection) -> None:
    select = connection.execute("select sum(range::double) from range(30_000_000)")
    before = log.statements[0].seconds
    select.fetchall()
    assert len(log.statements) == 1
    assert log.statements[0].seconds > before


def test_failed_statement_is_logged_and_raises(log: StatementLog, connection: duckdb.DuckDBPyConnection) -> None:
    with pytest.raises(duckdb.CatalogException):
        connection.execute("select * from no_table")
    assert [one.text for one in log.statements] == ["select * from no_table"]


def test_statements_of_a_cursor_are_logged(log: StatementLog, connection: duckdb.DuckDBPyConnection) -> None:
    connection.cursor().execute("create table t (n integer)")
    assert [one.text for one in log.statements] == ["create table t (n integer)"]


def test_purpose_of_an_outer_block_is_kept(log: StatementLog, connection: duckdb.DuckDBPyConnection) -> None:
    log.step = "release"
    with statements_for("release"), statements_for("check contract", "segments"):
        connection.execute("select 1").fetchall()
    connection.execute("create table t (n integer)")
    found = [(one.step, one.table, one.purpose) for one in log.statements]
    assert found == [("release", "segments", "release"), ("release", "", "derive")]


def test_closing_the_working_database_is_timed(log: StatementLog, tmp_path: Path) -> None:
    with connection_to(tmp_path / "work.duckdb", tmp_path / "spill", 1, pytest.fail) as connection:
        connection.begin().execute("create table t (n integer)")
        connection.commit()
    assert [one.text for one in log.statements][-4:] == ["begin", "create table t (n integer)", "commit", "close"]
    assert log.statements[-1] == Statement("", "", "write to disk", "close", log.statements[-1].seconds)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("\n  -- a comment about 'Ada'\n  select *\nfrom t", "select *"),
        ("copy t to '/home/ada/it''s.parquet' (format parquet)", "copy t to ? (format parquet)"),
        ("select n from t where n > 12.5e3 and \"name 1\" = 'Ada'", 'select n from t where n > ? and "name 1" = ?'),
        ("select 'two\nlines' as a, $low_3 as b", "select ? as a, $low_3 as b"),
        ("", ""),
    ],
)
def test_first_line_contains_no_literal_value(text: str, line: str) -> None:
    assert first_line(text) == line
