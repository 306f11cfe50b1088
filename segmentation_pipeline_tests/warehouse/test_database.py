"""What a SELECT may read when a table is written."""

import duckdb
import pytest

from segmentation_pipeline.errors import WarehouseError
from segmentation_pipeline.tables.catalog import contracts
from segmentation_pipeline.warehouse.database import TableWrite, Warehouse
from segmentation_pipeline.warehouse.queries import QueryInputs

WRITE = TableWrite("inactive_customers", "select * from normal_customers")


def test_an_input_may_replace_a_table_that_does_not_exist() -> None:
    connection = duckdb.connect()
    connection.execute(contracts()["inactive_customers"].renamed("nobody").ddl())
    [result] = Warehouse(connection).write([WRITE], {}, QueryInputs({"normal_customers": "select * from nobody"}))
    assert (result.rows, result.violations) == (0, ())


def test_the_message_names_a_missing_table_and_the_job_to_run() -> None:
    with pytest.raises(WarehouseError, match=r"normal_customers \(asset group customers\).*refit_segmentation"):
        Warehouse(duckdb.connect()).write([WRITE], {})
