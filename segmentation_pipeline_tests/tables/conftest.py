"""Fixtures of the tests of tables."""

import duckdb
import pytest

from segmentation_pipeline.warehouse.database import Warehouse


@pytest.fixture
def warehouse() -> Warehouse:
    """An empty working database in memory."""
    return Warehouse(duckdb.connect())
