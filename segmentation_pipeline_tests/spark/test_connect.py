"""Runs over Spark Connect: the same tables as on DuckDB, also where customers are erased, and errors as messages.

What is the same with and without Spark Connect is tested here, because a session starts sooner: the server has its
executors already.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pytest

from segmentation_pipeline.config.engine_settings import Engine
from segmentation_pipeline.config.loading import load_settings
from segmentation_pipeline.errors import EngineError
from segmentation_pipeline.orchestration.engines import run_engine
from segmentation_pipeline.privacy import erasure
from segmentation_pipeline.privacy.customer_ids import CustomerIds
from segmentation_pipeline.privacy.erasure import LinePlaces, NamedCustomers
from segmentation_pipeline.privacy.pseudonyms import Key
from segmentation_pipeline.spark import session, waiting
from segmentation_pipeline.spark.session import message_of, spark_session
from segmentation_pipeline.spark.tasks import distribute
from segmentation_pipeline.warehouse.connection import temporary_database
from segmentation_pipeline.warehouse.database import Warehouse
from segmentation_pipeline_tests.shops import FIRST_NIGHT, Shop
from segmentation_pipeline_tests.spark_cluster import Cluster, free_port, missing
from segmentation_pipeline_tests.spark_shops import (
    PERSON,
    assert_equal_tables,
    build,
    copied,
    on_spark,
    run_second_night,
)
from segmentation_pipeline_tests.tables.derivation import timestamp

if lacks := missing():
    pytest.skip(lacks, allow_module_level=True)

LINES = "select count(*) as lines from raw_transactions"


@pytest.fixture(scope="module")
def server(cluster: Cluster) -> Iterator[Mapping[str, Any]]:
    """The settings of `[engine]` that lead to a server of Spark Connect."""
    with cluster.connect_server() as engine:
        yield engine


@pytest.fixture(scope="module")
def shops(
    server: Mapping[str, Any], shop_on_duckdb: Shop, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Shop, Shop]:
    """Return a shop on DuckDB and one on Spark after their first night."""
    there = build(tmp_path_factory.mktemp("connected"), server)
    run = there.run(as_of=FIRST_NIGHT)
    assert run.success, run.get_step_failure_events()
    return shop_on_duckdb, there


def test_every_table_equals_duckdb_over_connect(shops: tuple[Shop, Shop]) -> None:
    assert_equal_tables(*shops)


def test_every_table_equals_duckdb_after_new_and_changed_files(
    shops: tuple[Shop, Shop], server: Mapping[str, Any], tmp_path: Path
) -> None:
    here, there = copied(shops, tmp_path, server)
    for shop in (here, there):
        run_second_night(shop)
    assert_equal_tables(here, there)


def test_erased_customers_are_in_no_file_of_the_cluster(
    shops: tuple[Shop, Shop], server: Mapping[str, Any], tmp_path: Path
) -> None:
    here, there = copied(shops, tmp_path, server)
    before, after = (erase(shop) for shop in (here, there))
    assert before == after == {"part-3.csv": 1}
    assert_equal_tables(here, there)
    files = [*(there.folder / "lines").rglob("*.parquet")]
    # Every source file has lines that count, and lines after as_of.
    assert len(files) == 3 * 4
    assert not any(PERSON in str(duckdb.read_parquet(str(file)).fetchall()) for file in files)


def erase(shop: Shop) -> Mapping[str, int]:
    """Erase PERSON, and return the erased lines of each source file."""
    settings, key = load_settings(str(shop.retailer)), Key(b"5f" * 32)
    named = NamedCustomers.of(settings, key, [PERSON], CustomerIds())
    with run_engine(settings, lambda _: None) as engine:
        lines = LinePlaces(engine.of, engine.folders)
        return erasure.erase(shop.folders, settings, key, named, lambda _: None, lines).sources


def test_a_killed_run_leaves_no_half_table(server: Mapping[str, Any], tmp_path: Path) -> None:
    shop = build(tmp_path, server)
    command = [sys.executable, "-m", "segmentation_pipeline_tests.programs.killed_on_spark", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True, text=True) as process:
        assert process.stdout is not None
        # All lines are written, and no table has their files yet.
        assert "written\n" in iter(process.stdout.readline, "")
        os.killpg(process.pid, signal.SIGKILL)
    lines = shop.folder / "lines" / "corner_shop" / "lines"
    assert len([*lines.iterdir()]) == 4
    # The next run opens the tables so.
    with run_engine(load_settings(str(shop.retailer)), lambda _: None) as engine, duckdb.connect(shop.work) as opened:
        database = Warehouse(opened, engine=engine.of)
        assert not database.has("raw_transactions")
        assert database.lines.held() == {}
    assert [*lines.iterdir()] == []


def test_values_of_all_types_are_bound_over_connect(server: Mapping[str, Any], tmp_path: Path) -> None:
    select = "select $names as names, $moment as moment, $days as days, $nothing is null as is_null, $share as share"
    values = {
        "names": ["abc", "Zoë 12"],
        "moment": timestamp("2024-03-31 02:30:00.999999"),
        "days": 200,
        "nothing": None,
        "share": Decimal("0.30"),
    }
    with on_spark(server, tmp_path) as there, temporary_database() as here:
        # Only what reads lines is computed on Spark.
        computed = there.lines.relation(f"{select} where not exists (select 1 from raw_transactions)", values)
        assert there.rows(computed) == here.rows(select, **values)


def test_an_error_of_a_worker_is_a_message_without_values(server: Mapping[str, Any], tmp_path: Path) -> None:
    def read(files: Any) -> Any:
        raise PermissionError(f"denied {len(files)}") from ValueError("a value of a file")

    from pyspark.errors import PySparkException

    with spark_session(Engine(kind="spark", location=str(tmp_path), **server)) as opened:
        with pytest.raises(PySparkException) as raised:
            distribute(opened.spark, read, ["a.csv"], [1])
        assert message_of(raised.value) == "PermissionError: denied 1"


def test_an_option_of_the_server_alone_is_rejected(server: Mapping[str, Any], tmp_path: Path) -> None:
    options = {**server["options"], "spark.sql.warehouse.dir": "/elsewhere"}
    message = r"engine\.master: no Spark session on sc://.*spark\.sql\.warehouse\.dir"
    with on_spark({**server, "options": options}, tmp_path) as database, pytest.raises(EngineError, match=message):
        database.rows(LINES)


def test_a_server_that_does_not_answer_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "_SECONDS_TO_CONNECT", 1)
    engine = {"master": f"sc://127.0.0.1:{free_port()}/;user_id=shop"}
    message = r"no Spark session on sc://127\.0\.0\.1:\d+: it does not answer within 1 second"
    with on_spark(engine, tmp_path) as database, pytest.raises(EngineError, match=message):
        database.rows(LINES)


def test_a_run_over_connect_stops_waiting_for_workers(
    cluster: Cluster, server: Mapping[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "_SECONDS_OF_A_MINUTE", 1.0)
    while cluster.workers:
        cluster.kill_worker()
    message = "Spark ran no task for 3 minutes"
    with on_spark(server, tmp_path, wait_minutes=3) as database, pytest.raises(EngineError, match=message):
        database.rows(LINES)
    cluster.start_worker()
    cluster.wait_for_workers(1)


def test_a_run_whose_server_is_lost_ends(
    cluster: Cluster, server: Mapping[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the last test with the server."""
    monkeypatch.setattr(session, "_RETRIES", 1)
    with on_spark(server, tmp_path) as database:
        assert database.rows(LINES) == [{"lines": 0}]
        cluster.kill_connect_server()
        with pytest.raises(EngineError, match=r"Spark failed while computing result_2: \S+\. See its interface"):
            database.rows(LINES)
