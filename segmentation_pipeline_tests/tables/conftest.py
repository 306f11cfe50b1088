"""Fixtures of the tests of tables."""

from collections.abc import Iterator

import duckdb
import pytest

from segmentation_pipeline.warehouse.database import Warehouse


@pytest.fixture(scope="session")
def shared_connection() -> Iterator[duckdb.DuckDBPyConnection]:
    """The connection of all tests: opening one, and its first look at the catalog, take 30 ms."""
    with duckdb.connect() as connection:
        yield connection


@pytest.fixture
def connection(shared_connection: duckdb.DuckDBPyConnection) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection to an empty database in memory of the test's own."""
    shared_connection.execute("attach ':memory:' as work; use work")
    yield shared_connection
    shared_connection.execute("use memory; detach work")


@pytest.fixture
def warehouse(connection: duckdb.DuckDBPyConnection) -> Warehouse:
    """An empty working database in memory."""
    return Warehouse(connection)
