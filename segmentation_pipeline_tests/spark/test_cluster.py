"""Runs on a Spark cluster of two workers: the same tables as on DuckDB, also where a worker is killed.

Each test of the dialect is of one difference between DuckDB and Spark.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from segmentation_pipeline.errors import EngineError
from segmentation_pipeline.spark import tasks
from segmentation_pipeline.spark.engine import SparkEngine
from segmentation_pipeline.warehouse.connection import temporary_database
from segmentation_pipeline.warehouse.database import Warehouse
from segmentation_pipeline_tests.shops import FIRST_NIGHT, Shop
from segmentation_pipeline_tests.spark_cluster import Cluster, missing
from segmentation_pipeline_tests.spark_shops import assert_equal_tables, build, on_spark
from segmentation_pipeline_tests.tables.derivation import timestamp

if lacks := missing():
    pytest.skip(lacks, allow_module_level=True)


@pytest.fixture(scope="module")
def shops(cluster: Cluster, shop_on_duckdb: Shop, tmp_path_factory: pytest.TempPathFactory) -> tuple[Shop, Shop]:
    """Return a shop on DuckDB and one on Spark after their first night; a worker is killed while it reads files."""
    there = build(tmp_path_factory.mktemp("there"), cluster.engine)
    killer = Thread(target=_kill_when_files_are_written, args=(cluster, there.folder / "lines"))
    killer.start()
    with pytest.MonkeyPatch.context() as patch:
        # A task for each file.
        patch.setattr(tasks, "_BYTES_OF_A_TASK", 1)
        run = there.run(as_of=FIRST_NIGHT)
    killer.join()
    assert run.success, run.get_step_failure_events()
    assert cluster.alive_workers == 1
    cluster.start_worker()
    return shop_on_duckdb, there


def _kill_when_files_are_written(cluster: Cluster, location: Path) -> None:
    deadline = time.monotonic() + 120
    while not any(location.rglob("*.parquet")) and time.monotonic() < deadline:
        time.sleep(0.01)
    cluster.kill_worker()
    while cluster.alive_workers > 1 and time.monotonic() < deadline:
        time.sleep(0.2)


def test_every_table_equals_duckdb_although_a_worker_was_killed(shops: tuple[Shop, Shop]) -> None:
    assert_equal_tables(*shops)


def test_a_lost_driver_is_a_message(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from py4j.protocol import Py4JNetworkError

    def lost(*_: Any) -> None:
        raise Py4JNetworkError("a value of a file")

    with on_spark(cluster.engine, tmp_path) as database:
        monkeypatch.setattr(SparkEngine, "_register", lost)
        with pytest.raises(EngineError, match=r"Spark failed while computing .*: Py4JNetworkError\. See its interface"):
            database.rows("select count(*) as lines from raw_transactions")


@pytest.fixture(scope="module")
def samples(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Warehouse, Warehouse]]:
    """Two databases with the table `samples`, which Spark reads where a SELECT reads lines too."""
    with (
        temporary_database() as here,
        on_spark(cluster.engine, tmp_path_factory.mktemp("samples")) as there,
    ):
        for database in (here, there):
            database.connection.execute(f"create temp table samples as {_SAMPLES}")
        yield here, there


_SAMPLES = """
select
    number, name,
    cast(amount as decimal(18, 4)) as amount,
    cast(sold_at as timestamp) as sold_at
from (values
    (1, 'Zoë 12', '12345678901234.5678', '2024-02-29 23:59:59.25'),
    (2, 'abc', '-0.0001', '2024-03-01 00:00:00'),
    (3, null, '2.5000', '2024-03-31 02:30:00.999999'),
    (4, 'Abc', null, '1969-12-31 23:59:59.5'),
    (5, 'abc', '0.3333', null)
) as listed(number, name, amount, sold_at)
"""
# Of each difference between the dialects, a SELECT that shows it, and its values.
_DIFFERENCES: dict[str, tuple[str, dict[str, Any]]] = {
    "decimals_are_exact": (
        "select sum(amount) as total, sum(abs(amount)) as size, cast(sum(amount) * 10000 as double) / 3 as share "
        "from samples",
        {},
    ),
    "counts_leave_out_null": (
        "select count(*) as lines, count(name) as named, count(distinct name) as names,"
        " count(distinct case when number > 2 then name end) as some, count(*) filter (where number > 2) as last"
        " from samples",
        {},
    ),
    "nulls_are_last_in_either_order": (
        "select number, row_number() over (order by name, number) as up,"
        " row_number() over (order by amount desc, number) as down from samples order by name, number",
        {},
    ),
    "rows_are_numbered_with_64_bits": (
        "select row_number() over (partition by name is null order by number) * 2000000000 as place from samples",
        {},
    ),
    "text_is_ordered_by_bytes": ("select min(name) as first, max(name) as last from samples", {}),
    "days_are_midnights_between": (
        "select number, date_diff('day', sold_at, cast($end as timestamp)) as days from samples order by number",
        {"end": timestamp("2024-03-01 00:00:01")},
    ),
    "seconds_have_fractions": (
        "select number, cast(floor((epoch(cast($end as timestamp)) - epoch(sold_at)) / 86400) as integer) as days"
        " from samples"
        " order by number",
        {"end": timestamp("2024-03-31 02:30:00.999998")},
    ),
    "times_have_no_zone": (
        "select number, sold_at, cast(sold_at as date) as day,"
        " date_trunc('month', sold_at) + interval '1' month as month_end,"
        " sold_at >= $start as later, month(sold_at) as month from samples order by number",
        {"start": timestamp("2024-03-31 02:30:00")},
    ),
    "a_bound_null_is_no_condition": (
        "select number, coalesce(sold_at >= cast($start as timestamp) - $days * interval '1' day, true) as counts"
        " from samples order by number",
        {"start": timestamp("2024-03-01 00:00:00"), "days": None},
    ),
    "months_of_no_period_are_none": (
        "with span as (select min(sold_at) as first, max(sold_at) as last from samples)"
        " select unnest(generate_series(last, first, interval '1' month)) as month_end from span",
        {},
    ),
    "months_of_a_period": (
        "with span as (select date_trunc('month', max(sold_at)) as first from samples)"
        " select unnest(generate_series(first, cast($end as timestamp), interval '1' month)) as month_end from span"
        " order by 1",
        {"end": timestamp("2024-06-01 00:00:00")},
    ),
    "a_list_is_bound": (
        "select number from samples where name in (select unnest($names)) order by number",
        {"names": ["abc", "Zoë 12"]},
    ),
    "medians_are_between_the_middle_values": (
        "select median(number) as odd, median(case when number > 1 then number end) as even from samples",
        {},
    ),
    "macros_are_inlined": (
        "select number, masked_pattern(name) as pattern, as_of_time(sold_at, $fixed, true) as as_of from samples"
        " order by number",
        {"fixed": None},
    ),
    "inner_ctes_may_have_equal_names": (
        "with one as (with rows as (select number from samples) select * from rows),"
        " two as (with rows as (select name from samples) select * from rows)"
        " select (select count(*) from one) as one, (select count(name) from two) as two",
        {},
    ),
    "equal_hashes_of_equal_values_add_up": (
        "select count(*) as groups from (select sum(hash(lower(name), number % 1)) as digest from samples"
        " where name is not null group by number having count(*) = 1) where digest is not null",
        {},
    ),
}


@pytest.mark.parametrize("difference", sorted(_DIFFERENCES))
def test_the_dialects_agree(samples: tuple[Warehouse, Warehouse], difference: str) -> None:
    here, there = samples
    select, values = _DIFFERENCES[difference]
    # Only what reads lines is computed on Spark.
    reads_lines = f"select * from ({select}) as given where not exists (select 1 from clean_transactions)"
    computed = there.lines.relation(reads_lines, values)
    assert computed != reads_lines
    assert sorted(map(repr, there.rows(computed))) == sorted(map(repr, here.rows(select, **values)))
