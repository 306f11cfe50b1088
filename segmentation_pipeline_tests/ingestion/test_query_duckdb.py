"""A query reads a DuckDB database or a folder of Parquet files that another program keeps, and nothing else."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pytest

from segmentation_pipeline.config.loading import load_settings
from segmentation_pipeline.errors import SourceError
from segmentation_pipeline.ingestion import query_connection
from segmentation_pipeline.ingestion.file_watcher import current_files
from segmentation_pipeline.ingestion.incremental import LoadRequest, SourceLoad
from segmentation_pipeline.ingestion.query_load import load_query
from segmentation_pipeline.warehouse.database import Warehouse
from segmentation_pipeline_tests.commands import segments
from segmentation_pipeline_tests.shops import Shop

COLUMNS = {
    "invoice": None,
    "stock_code": None,
    "description": None,
    "quantity": None,
    "transaction_at": "sold_at",
    "price": None,
    "amount": "money",
    "customer_id": "customer",
    "country": None,
}
ROWS = """
    (1, timestamptz '2024-03-31 22:30:00+00', 12345678901.2345::decimal(18, 4), '007', 'Zoë'),
    (2, timestamptz '2024-04-01 10:00:00+00', -0.1, '008', 'a|b'),
    (3, null, 0.3, '009', null)
"""
SHOP: dict[str, Any] = {
    "columns": COLUMNS,
    "cleaning": {"cancellation": None, "rules": []},
    "source": {"path": None, "query": "select * from mart.lines;", "connection": "env:MART", "key": ["id", "name"]},
}


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "tools" / "shop_tools.duckdb"
    path.parent.mkdir()
    with duckdb.connect(str(path)) as connection:
        connection.execute("create schema mart; create type named as enum ('Zoë', 'a|b')")
        connection.execute(
            f"create table mart.kept as select * replace (name::named as name) from (values {ROWS}) as"
            " rows(id, sold_at, money, customer, name)"
        )
        connection.execute("create view mart.lines as select * from mart.kept where name is not null")
    return path


@pytest.fixture
def shop(tmp_path: Path, database: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    monkeypatch.setattr(query_connection, "WAIT_SECONDS", 0.3)
    monkeypatch.setenv("MART", f"duckdb://{database}")
    built = Shop(tmp_path)
    built.configure(**SHOP)
    built.enter(monkeypatch)
    return built


def load(shop: Shop, warehouse: Warehouse) -> SourceLoad:
    settings = load_settings(str(shop.retailer))
    request = LoadRequest("a run", settings.reading_digest, "source.query in env:MART")
    with load_query(warehouse, settings, shop.folders.spill, request, shop.folders.pipeline_paths) as loaded:
        results = warehouse.write(loaded.writes, settings.sql_values, loaded.inputs)
    assert [result.violations for result in results] == [()] * 3
    return loaded


def lines(shop: Shop) -> list[tuple[Any, ...]]:
    with duckdb.connect() as connection:
        load(shop, Warehouse(connection))
        columns = "source_file, source_sheet, cast(transaction_at as varchar), cast(amount as varchar), customer_id"
        return connection.execute(f"select {columns} from raw_transactions order by 1, 2").fetchall()


# The first sale is on 31 March in UTC, and shortly before midnight in London.
EXPECTED = [
    ("query/2024-03", "1|Zoë", "2024-03-31 23:30:00", "12345678901.2345", "007"),
    ("query/2024-04", r"2|a\|b", "2024-04-01 11:00:00", "-0.1000", "008"),
]


def test_rows_of_a_database_are_read_exactly(shop: Shop) -> None:
    assert lines(shop) == EXPECTED


def test_numbers_have_the_decimal_mark_of_the_settings(shop: Shop) -> None:
    shop.configure(**{**SHOP, "source": {**SHOP["source"], "decimal": ",", "date_format": "%d.%m.%Y"}})
    assert lines(shop) == EXPECTED


def test_folder_of_parquet_files_has_a_table_for_each(
    shop: Shop, database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = tmp_path / "lake [1]"
    (lake / "lines" / "load=1").mkdir(parents=True)
    with duckdb.connect(str(database), read_only=True) as connection:
        for number in (1, 2):
            rows = f"select * exclude (name) from mart.lines where id = {number}"
            connection.execute(f"copy ({rows}) to '{lake}/lines/load=1/{number}.parquet'")
        connection.execute(f"copy (select id, name from mart.lines) to '{lake}/names.parquet'")
    monkeypatch.setenv("MART", f"parquet://{lake}")
    query = "select * from lines inner join names using (id) where load = 1"
    shop.configure(**{**SHOP, "source": {**SHOP["source"], "query": query}})
    assert lines(shop) == EXPECTED


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("select * from read_csv('/etc/passwd')", "Permission Error"),
        ("select * from read_parquet('{folder}/other.parquet')", "Permission Error"),
        ("copy mart.lines to '{folder}/stolen.csv'", "allowed: one SELECT"),
        ("select 1; select 2", "allowed: one SELECT"),
        ("select * from mart.line", "Table with name line does not exist"),
        ("select *, name::varchar::int as n from mart.lines", "Could not convert string 'aaa'"),
    ],
)
def test_query_reads_the_database_only(shop: Shop, tmp_path: Path, query: str, message: str) -> None:
    duckdb.execute(f"copy (select 1 as id) to '{tmp_path}/other.parquet'")
    source = {**SHOP["source"], "query": query.format(folder=tmp_path)}
    shop.configure(**{**SHOP, "source": source})
    with pytest.raises(SourceError, match=message) as raised:
        lines(shop)
    assert raised.value.__context__ is None
    assert "shop_tools" not in str(raised.value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("", "the environment variable MART is not set"),
        ("mysql://root:secret@db/shop", "begins with none of postgresql://, duckdb:///PATH"),
        ("duckdb://mart.duckdb", "begins with none of"),
        ("duckdb:///secret/mart.duckdb", r"source.connection \(env:MART\): there is no such file"),
        ("parquet:///secret", "there is no such folder"),
        ("duckdb://{shop}/retailer.toml", "cannot open it"),
        ("parquet://{shop}/tools", "the folder has no Parquet files"),
        ("duckdb://{shop}/data/corner_shop/work.duckdb", "the pipeline itself wrote it"),
    ],
)
def test_wrong_address_is_an_error_without_it(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, value: str, message: str
) -> None:
    monkeypatch.setenv("MART", value.format(shop=shop.folder))
    with pytest.raises(SourceError, match=message) as raised:
        lines(shop)
    assert [text for text in ("secret", str(shop.folder)) if text in str(raised.value)] == []


def test_database_that_its_writer_has_open_is_an_error(shop: Shop, database: Path) -> None:
    program = "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", program, str(database)]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, stdin=pipe, stdout=pipe, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"open\n"
        with pytest.raises(SourceError, match="another program has had the database open"):
            lines(shop)
        writer.communicate()
    assert lines(shop) == EXPECTED


def test_another_database_is_fetched_wholly(shop: Shop, database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.configure(**{**SHOP, "source": {**SHOP["source"], "cursor": "sold_at", "look_back": "90 minutes"}})
    with duckdb.connect() as connection:
        warehouse = Warehouse(connection)
        load(shop, warehouse)
        again = load(shop, warehouse)
        assert (again.rows_fetched, str(again.fetched_since)) == (1, "2024-04-01 08:30:00")
        monkeypatch.setenv("MART", f"duckdb://{database.rename(database.with_name('other.duckdb'))}")
        assert load(shop, warehouse).rows_fetched == 2


def test_retailer_file_is_checked_against_the_database(shop: Shop) -> None:
    ended = segments(shop, "retailer", "check", str(shop.retailer))
    assert (ended.code, ended.errors) == (0, "")
    assert "Source: a query in env:MART, with 5 columns." in ended.stdout
    shop.configure(**{**SHOP, "source": {**SHOP["source"], "key": "row_id"}})
    ended = segments(shop, "retailer", "check", str(shop.retailer))
    assert (ended.code, ended.errors) == (
        2,
        "error: source.key: the query has no column 'row_id'; it has id, sold_at, money, customer, name.",
    )


def test_sensor_has_no_files_to_wait_for(shop: Shop) -> None:
    assert current_files() is None


def test_files_of_the_command_line_replace_the_query(shop: Shop, tmp_path: Path) -> None:
    settings = load_settings(str(shop.retailer), str(tmp_path / "a.csv"))
    assert (settings.source.paths, settings.source.query, settings.source.key) == (
        [str(tmp_path / "a.csv")],
        None,
        None,
    )
