"""Writing tables: what a SELECT may read, and which rows are replaced."""

from collections.abc import Mapping
from pathlib import Path

import duckdb
import pytest

from segmentation_pipeline.errors import WarehouseError
from segmentation_pipeline.tables.catalog import contracts
from segmentation_pipeline.warehouse.database import Warehouse
from segmentation_pipeline.warehouse.queries import QueryInputs
from segmentation_pipeline.warehouse.table_write import TableWrite

WRITE = TableWrite("inactive_customers", "select * from normal_customers")


def test_an_input_may_replace_a_table_that_does_not_exist() -> None:
    connection = duckdb.connect()
    connection.execute(contracts()["inactive_customers"].renamed("nobody").ddl())
    [result] = Warehouse(connection).write([WRITE], {}, QueryInputs({"normal_customers": "select * from nobody"}))
    assert (result.rows, result.violations) == (0, ())


def test_the_message_names_the_table_and_the_job() -> None:
    with pytest.raises(WarehouseError, match=r"normal_customers \(asset group customers\).*refit_segmentation"):
        Warehouse(duckdb.connect()).write([WRITE], {})


LINES = (
    "select file as source_file, '' as source_sheet, cast(number as bigint) as source_line, '536365' as invoice,"
    " '85123A' as stock_code, 'LANTERN' as description, cast(2 as decimal(18, 3)) as quantity,"
    " timestamp '2024-03-01 10:00:00' as transaction_at, cast(2.5 as decimal(18, 4)) as price,"
    " cast(5 as decimal(18, 4)) as amount, cast(customer as varchar) as customer_id,"
    " 'France' as country, false as is_cancellation"
    " from (values {rows}) as lines(file, number, customer)"
)


def lines(*rows: str) -> str:
    """Return a SELECT of lines of `clean_transactions`, each given as file, number and customer."""
    return LINES.format(rows=", ".join(rows))


@pytest.fixture
def database() -> Warehouse:
    """A working database with two files of clean lines."""
    database = Warehouse(duckdb.connect())
    versions = {"a.csv": "1", "b.csv": "1"}
    rows = lines("('a.csv', 2, '1')", "('b.csv', 2, '2')", "('b.csv', 3, '2')")
    [result] = database.write([TableWrite("clean_transactions", rows, versions=versions)], {})
    assert (result.rows, result.violations) == (3, ())
    return database


def stored(database: Warehouse) -> tuple[list[tuple[object, ...]], Mapping[str, str]]:
    """Return the lines of the table with their customers, and the versions."""
    select = "select source_file, source_line, customer_id from clean_transactions order by all"
    return database.connection.execute(select).fetchall(), database.versions("clean_transactions")


def test_the_rows_of_some_files_are_replaced(database: Warehouse) -> None:
    versions = {"a.csv": "1", "c.csv": "2"}
    files = frozenset({"b.csv", "c.csv"})
    new = lines("('c.csv', 2, '3')")
    [result] = database.write([TableWrite("clean_transactions", new, files=files, versions=versions)], {})
    assert (result.rows, result.violations) == (2, ())
    assert stored(database) == ([("a.csv", 2, "1"), ("c.csv", 2, "3")], versions)


@pytest.mark.parametrize(
    ("rows", "rule"),
    [
        (["('b.csv', 2, null)"], "not null"),
        (["('b.csv', 2, '3')", "('b.csv', 2, '3')"], "unique"),
    ],
)
def test_rows_of_a_file_that_break_the_contract_change_nothing(database: Warehouse, rows: list[str], rule: str) -> None:
    before = stored(database)
    write = TableWrite("clean_transactions", lines(*rows), files=frozenset({"b.csv"}), versions={"b.csv": "2"})
    [result] = database.write([write], {})
    assert [violation.rule for violation in result.violations] == [rule]
    assert stored(database) == before


def test_a_table_that_must_have_rows_keeps_the_last_ones(database: Warehouse) -> None:
    before = stored(database)
    none = lines("('a.csv', 2, '1')") + " where false"
    write = TableWrite("clean_transactions", none, files=frozenset({"a.csv", "b.csv"}))
    [result] = database.write([write], {})
    assert [violation.rule for violation in result.violations] == ["not empty"]
    assert stored(database) == before


def test_a_table_that_is_written_without_versions_has_none(database: Warehouse) -> None:
    database.write([TableWrite("clean_transactions", lines("('a.csv', 2, '1')"))], {})
    assert stored(database) == ([("a.csv", 2, "1")], {})


def test_a_table_that_was_dropped_by_hand_has_no_versions(database: Warehouse) -> None:
    database.connection.execute("drop table clean_transactions")
    assert not Warehouse(database.connection).versions("clean_transactions")


def test_columns_that_an_earlier_version_lacked_are_completed(tmp_path: Path) -> None:
    """Contract 4.0 searched numbers of clusters under the transform of the settings."""
    path = str(tmp_path / "work.duckdb")
    with duckdb.connect(path) as connection:
        Warehouse(connection)
        connection.execute(
            "alter table segmentation_models drop column compared_month_ends;"
            " alter table kmeans_candidates drop column transform; alter table kmeans_candidates drop column gini;"
            " insert into segmentation_models by name select 'a' as model_id, 1 as number, 'log' as transform;"
            " insert into kmeans_candidates by name select 3 as n_clusters, true as is_chosen, 'Chosen.' as verdict"
        )
    with duckdb.connect(path, read_only=True) as connection:
        Warehouse(connection, read_only=True)
    with duckdb.connect(path) as connection:
        warehouse = Warehouse(connection)
        [model], [candidate] = warehouse.rows("from segmentation_models"), warehouse.rows("from kmeans_candidates")
        assert list(model) == [column.name for column in contracts()["segmentation_models"].columns]
        assert (model["model_id"], model["compared_month_ends"]) == ("a", None)
        assert list(candidate) == [column.name for column in contracts()["kmeans_candidates"].columns]
        assert (candidate["transform"], candidate["n_clusters"], candidate["gini"]) == ("log", 3, None)


def test_a_column_of_another_type_is_not_completed(tmp_path: Path) -> None:
    with duckdb.connect(str(tmp_path / "work.duckdb")) as connection:
        Warehouse(connection)
        connection.execute("alter table segmentation_models alter column n_clusters type varchar")
        with pytest.raises(WarehouseError, match="another version of this package"):
            Warehouse(connection)
