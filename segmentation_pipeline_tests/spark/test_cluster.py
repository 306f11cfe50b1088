"""Runs on a Spark cluster of two workers: the same tables as on DuckDB, also where a worker or the run is killed.

Each test of the dialect is of one difference between DuckDB and Spark.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
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
from segmentation_pipeline.spark import tasks
from segmentation_pipeline.spark.engine import SparkEngine, spark_lines
from segmentation_pipeline.tables.catalog import contracts
from segmentation_pipeline.tables.contract import literal, quoted
from segmentation_pipeline.warehouse.connection import temporary_database
from segmentation_pipeline.warehouse.database import Warehouse
from segmentation_pipeline.warehouse.line_engine import LINE_FILES, LINE_TABLES
from segmentation_pipeline_tests.scenarios import assets_up_to, line, regular_customers, write_csv
from segmentation_pipeline_tests.shops import FIRST_NIGHT, ODD_LINES, SECOND_NIGHT, Shop
from segmentation_pipeline_tests.spark_cluster import Cluster, missing, processes_below, running_cluster
from segmentation_pipeline_tests.tables.derivation import timestamp

if lacks := missing():
    pytest.skip(lacks, allow_module_level=True)

# A customer of whom no other text has the name.
PERSON = "VERA-77123"
# Columns that each run writes anew.
_OF_THE_RUN = {"run_id", "source_path", "modified_at", "fitted_at", "created_at"}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    with running_cluster(folder) as running, pytest.MonkeyPatch.context() as patch:
        # Spark's web interface would listen on every address.
        patch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
        yield running
    assert processes_below(folder) == []


@dataclass(frozen=True)
class SparkShop(Shop):
    """A shop whose lines are on the cluster, below its own folder."""

    @property
    def lines(self) -> Path:
        """The location of the lines."""
        return self.folder / "lines"

    @property
    def tables(self) -> dict[str, list[tuple[Any, ...]]]:
        """Every table, in the order of its key: those of lines as the Parquet files have them."""
        with duckdb.connect(str(self.work)) as connection:
            for table in LINE_TABLES:
                find = f"select path from {LINE_FILES} where table_name = ?"
                paths = [
                    str(self.lines / "corner_shop" / path) for (path,) in connection.execute(find, [table]).fetchall()
                ]
                rows = f"read_parquet([{', '.join(map(literal, paths))}], union_by_name = true)"
                connection.execute(f"create temp view {quoted(table)} as select * from {rows}")
            return _tables(connection)


def _tables(connection: duckdb.DuckDBPyConnection) -> dict[str, list[tuple[Any, ...]]]:
    tables = {}
    for name, contract in contracts().items():
        columns = ", ".join(quoted(column.name) for column in contract.columns if column.name not in _OF_THE_RUN)
        select = f"select {columns} from {quoted(name)} order by {contract.key_order}"
        tables[name] = connection.execute(select).fetchall()
    return tables


def tables_of(shop: Shop) -> dict[str, list[tuple[Any, ...]]]:
    if isinstance(shop, SparkShop):
        return shop.tables
    with duckdb.connect(str(shop.work), read_only=True) as connection:
        return _tables(connection)


def build(folder: Path, cluster: Cluster | None) -> Shop:
    """Build a shop of several files, with lines that are malformed, unreadable, refunds, or lack a value."""
    shop = SparkShop(folder) if cluster else Shop(folder)
    configure(shop, cluster)
    everything = [
        *(
            (*one[:4], f"{one[4]}.25", *one[5:]) if number % 7 == 0 else one
            for number, one in enumerate(regular_customers())
        ),
        *ODD_LINES,
        line(
            invoice="600005", description="Café, «crème»", country="", at="2024-06-30 23:59:59.999999", customer="10003"
        ),
        line(invoice="600006", at="2024-04-11 10:00:00", customer=PERSON, quantity="3"),
        line(invoice="600007", at="2024-05-11 10:00:00", customer="10005", quantity=f"for {PERSON}"),
    ]
    for part in range(4):
        path = write_csv(shop.source / f"part-{part}.csv", everything[part::4])
        if part == 1:
            with path.open("a", encoding="utf-8") as file:
                file.write(f'580000,85123A,"a quote that does not end,1,2024-03-20 10:00:00,1.5,{PERSON},Spain\n')
    return shop


def configure(shop: Shop, cluster: Cluster | None) -> None:
    engine = {}
    if cluster is not None:
        location = str(shop.folder / "lines")
        engine = {"kind": "spark", "master": cluster.master, "location": location, "options": cluster.options}
    shop.configure(engine=engine, rfm={"look_back_days": 200})


@pytest.fixture(scope="module")
def shops(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> tuple[Shop, Shop]:
    """Build a shop on DuckDB and one on Spark, and run their first night; a worker is killed while it reads files."""
    here, there = build(tmp_path_factory.mktemp("here"), None), build(tmp_path_factory.mktemp("there"), cluster)
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
    assert here.run(as_of=FIRST_NIGHT).success
    return here, there


def _kill_when_files_are_written(cluster: Cluster, location: Path) -> None:
    deadline = time.monotonic() + 120
    while not any(location.rglob("*.parquet")) and time.monotonic() < deadline:
        time.sleep(0.01)
    cluster.kill_worker()
    while cluster.alive_workers > 1 and time.monotonic() < deadline:
        time.sleep(0.2)


def copied(shops: tuple[Shop, Shop], folder: Path, cluster: Cluster) -> tuple[Shop, Shop]:
    here, there = shops[0].copy(folder / "here"), SparkShop(shops[1].copy(folder / "there").folder)
    configure(there, cluster)
    return here, there


def assert_equal_tables(here: Shop, there: Shop) -> None:
    expected, found = tables_of(here), tables_of(there)
    assert [table for table in expected if found[table] != expected[table]] == []
    assert len(expected["customer_segments"]) > 50


def test_every_table_equals_duckdb_although_a_worker_was_killed(shops: tuple[Shop, Shop]) -> None:
    assert_equal_tables(*shops)


def test_every_table_equals_duckdb_after_new_and_changed_files(
    shops: tuple[Shop, Shop], cluster: Cluster, tmp_path: Path
) -> None:
    here, there = copied(shops, tmp_path, cluster)
    for shop in (here, there):
        write_csv(shop.source / "new.csv", [line(invoice="590000", at="2024-10-19 10:00:00", customer="99999")])
        with (shop.source / "part-0.csv").open("a", encoding="utf-8") as file:
            file.write("590001,85123A,LANTERN,2,2024-10-19 11:00:00,2.50,10001,Spain\n")
        run = shop.run(as_of=SECOND_NIGHT, assets=assets_up_to("rfm_features", "unparsed_values", "file_overlaps"))
        assert run.success, run.get_step_failure_events()
    assert_equal_tables(here, there)


def test_erased_customers_are_in_no_file_of_the_cluster(
    shops: tuple[Shop, Shop], cluster: Cluster, tmp_path: Path
) -> None:
    here, there = copied(shops, tmp_path, cluster)
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


def test_a_killed_run_leaves_no_half_table(cluster: Cluster, tmp_path: Path) -> None:
    shop = build(tmp_path, cluster)
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


def test_a_lost_driver_is_a_message(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from py4j.protocol import Py4JNetworkError

    def lost(*_: Any) -> None:
        raise Py4JNetworkError("a value of a file")

    with on_spark(cluster, tmp_path) as database:
        monkeypatch.setattr(SparkEngine, "_register", lost)
        with pytest.raises(EngineError, match=r"Spark failed while computing .*: Py4JNetworkError\. See its interface"):
            database.rows("select count(*) as lines from raw_transactions")


@contextmanager
def on_spark(cluster: Cluster, location: Path) -> Iterator[Warehouse]:
    settings = Engine(kind="spark", master=cluster.master, location=str(location), options=cluster.options)
    with spark_lines(settings, "shop", lambda text: None) as engine, temporary_database(engine) as database:
        yield database


@pytest.fixture(scope="module")
def samples(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Warehouse, Warehouse]]:
    """Two databases with the table `samples`, which Spark reads where a SELECT reads lines too."""
    with (
        temporary_database() as here,
        on_spark(cluster, tmp_path_factory.mktemp("samples")) as there,
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
