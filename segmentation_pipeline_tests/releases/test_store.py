"""A release is complete, described and readable by an old client, and `current` switches at once."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from glob import escape
from pathlib import Path
from typing import Any

import duckdb
import pytest

import segmentation_pipeline
from segmentation_pipeline.config.loading import load_settings
from segmentation_pipeline.errors import ReleaseError, WarehouseError
from segmentation_pipeline.releases.files import OLDEST_CLIENT, Release
from segmentation_pipeline.releases.store import Releases
from segmentation_pipeline.tables.catalog import CONTRACT_VERSION, contracts, published
from segmentation_pipeline.tables.contract import Contract, quoted
from segmentation_pipeline.warehouse.database import Warehouse
from segmentation_pipeline_tests.scenarios import assets_up_to
from segmentation_pipeline_tests.shops import FIRST_NIGHT, Shop

PROJECT = Path(segmentation_pipeline.__file__).parents[1]
OLD_CLIENT = PROJECT / ".venv" / "oldest-client"
CUSTOMERS = 59
NOVEMBER = datetime.fromisoformat("2024-11-01")
EACH_PUBLISHED = pytest.mark.parametrize("contract", published(), ids=lambda contract: contract.table)


@pytest.fixture(scope="module")
def shop(finished_template: Shop) -> Shop:
    """A shop after one run, for reading only."""
    return finished_template


@pytest.fixture(scope="module")
def database(shop: Shop) -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(str(shop.release.database), read_only=True) as connection:
        yield connection


@pytest.fixture
def work(shop: Shop, tmp_path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """A copy of the working database, which a test may change."""
    copy = Path(shutil.copy(shop.work, tmp_path / "work.duckdb"))
    with duckdb.connect(str(copy)) as connection:
        yield connection


@pytest.fixture
def releases(tmp_path: Path) -> Releases:
    return Releases(tmp_path / "releases")


def publish(
    releases: Releases, work: duckdb.DuckDBPyConnection, number: int, *, keep: int = 14, at: datetime | None = None
) -> str:
    run_id = f"{number:08d}-of-a-test"
    return releases.publish(work, {}, macros=[], as_of=at or NOVEMBER, run_id=run_id, keep=keep).name


def current_name(releases: Releases) -> str:
    assert releases.current is not None
    return releases.current.name


def is_intact(release: Release) -> bool:
    return all(
        hashlib.sha256((release.folder / name).read_bytes()).hexdigest() == entry["sha256"]
        and (release.folder / name).stat().st_size == entry["bytes"]
        for name, entry in release.manifest["files"].items()
    )


def run_python(text: str, *arguments: Path | str, path: Path | None = None) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(path or "")}
    command = [sys.executable, "-c", text, *map(str, arguments)]
    return subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=PROJECT
    )


def output_of(process: subprocess.Popen[str]) -> str:
    """Return what a process printed; if it failed, the test fails with its error output."""
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    return output


def old_client() -> Path:
    assert (OLD_CLIENT / "duckdb").is_dir(), f"{OLD_CLIENT}: no duckdb=={OLDEST_CLIENT}; `make test` installs it there"
    return OLD_CLIENT


def test_a_release_has_databases_parquet_files_and_a_manifest(shop: Shop) -> None:
    names = {path.name for path in shop.release.folder.iterdir()}
    assert names == {"segments.duckdb", "state.duckdb", "manifest.json"} | {
        f"{contract.table}.parquet" for contract in published()
    }


def test_the_database_holds_only_the_published_tables(database: duckdb.DuckDBPyConnection) -> None:
    tables = database.execute("select schema_name, table_name from duckdb_tables() order by all").fetchall()
    assert tables == sorted(("main", contract.table) for contract in published())
    assert database.execute("select view_name from duckdb_views() where not internal").fetchall() == []
    functions = database.execute(
        "select schema_name, function_name, parameters from duckdb_functions() where not internal"
    )
    assert functions.fetchall() == [("main", "score_customer", ["monetary", "frequency", "recency", "refunds"])]


@EACH_PUBLISHED
def test_every_table_and_column_is_commented(database: duckdb.DuckDBPyConnection, contract: Contract) -> None:
    of_table = database.execute("select comment from duckdb_tables() where table_name = ?", [contract.table]).fetchone()
    assert of_table == (contract.description,)
    of_columns = database.execute(
        "select column_name, comment from duckdb_columns() where table_name = ? order by column_index", [contract.table]
    ).fetchall()
    assert [name for name, _ in of_columns] == [column.name for column in contract.columns]
    for (_, comment), column in zip(of_columns, contract.columns, strict=True):
        assert comment.startswith(column.description)
        assert column.unit in comment


@EACH_PUBLISHED
def test_the_database_has_types_not_null_and_unique_keys(
    database: duckdb.DuckDBPyConnection, contract: Contract
) -> None:
    columns = database.execute(
        "select column_name, data_type, is_nullable from duckdb_columns() where table_name = ? order by column_index",
        [contract.table],
    ).fetchall()
    assert columns == [(column.name, column.type, column.nullable) for column in contract.columns]
    rows = database.execute(f"select count(*), count(distinct ({', '.join(contract.key)})) from {contract.table}")
    assert len({*rows.fetchall()[0]}) == 1


@EACH_PUBLISHED
def test_parquet_database_and_working_database_hold_equal_rows(
    shop: Shop, database: duckdb.DuckDBPyConnection, contract: Contract
) -> None:
    ordered = f"select * from {quoted(contract.table)} order by {contract.key_order}"
    rows = database.execute(ordered).fetchall()
    assert rows or contract.may_be_empty
    parquet = duckdb.read_parquet(escape(str(shop.release.folder / f"{contract.table}.parquet")))
    assert parquet.columns == [column.name for column in contract.columns]
    assert [str(kind) for kind in parquet.types] == [column.type for column in contract.columns]
    assert parquet.fetchall() == rows, "the rows are in the order of the key"
    with duckdb.connect(str(shop.work), read_only=True) as work:
        assert work.execute(ordered).fetchall() == rows


def test_the_manifest_describes_the_release(shop: Shop, database: duckdb.DuckDBPyConnection) -> None:
    manifest = json.loads((shop.release.folder / "manifest.json").read_text("utf-8"))
    assert database.execute("select max(as_of)::varchar from customer_segments").fetchone() == (manifest["as_of"],)
    assert manifest["release"] == shop.release.name == f"000001-20241019-{manifest['run_id'][:8]}"
    assert manifest["settings_digest"] == load_settings(str(shop.retailer), "", FIRST_NIGHT).digest()
    assert manifest["contract_version"] == CONTRACT_VERSION
    assert manifest["oldest_duckdb_client"] == OLDEST_CLIENT
    assert manifest["versions"]["duckdb"] == duckdb.__version__
    assert set(manifest["versions"]) == {"dagster", "duckdb", "scikit-learn", "segmentation_pipeline"}
    assert (manifest["retailer"], manifest["currency"], manifest["time_zone"]) == (
        "corner_shop",
        "GBP",
        "Europe/London",
    )
    counted = {
        contract.table: database.execute(f"select count(*) from {quoted(contract.table)}").fetchall()[0][0]
        for contract in published()
    }
    assert manifest["tables"] == counted
    assert manifest["figures"]["customers"] == counted["customer_segments"] == CUSTOMERS


def test_the_manifest_has_the_checksum_of_every_file(shop: Shop) -> None:
    files = {path.name for path in shop.release.folder.iterdir()} - {"manifest.json"}
    assert set(shop.release.manifest["files"]) == files
    assert is_intact(shop.release)


def test_unchanged_files_are_copied_from_the_last_release(releases: Releases, work: duckdb.DuckDBPyConnection) -> None:
    """A table that changes is written again with the database; so is a file that was damaged meanwhile."""
    first = releases.find(publish(releases, work, 1))
    second = releases.find(publish(releases, work, 2))
    assert first.manifest["copied"] == []
    assert set(second.manifest["copied"]) == set(second.manifest["files"])
    damaged = second.folder / "rfm_thresholds.parquet"
    damaged.chmod(0o600)
    damaged.write_bytes(b"damaged")
    work.execute("update segment_profiles set customers = customers + 1")
    third = releases.find(publish(releases, work, 3))
    written = set(third.manifest["files"]) - set(third.manifest["copied"])
    assert written == {"segment_profiles.parquet", "rfm_thresholds.parquet", "segments.duckdb"}
    assert [is_intact(release) for release in (first, second, third)] == [True, False, True]
    select = "select * from segment_profiles order by all"
    for rows in (third.folder / "segment_profiles.parquet", third.database):
        with duckdb.connect(str(rows) if rows.suffix == ".duckdb" else ":memory:") as connection:
            source = "segment_profiles" if rows.suffix == ".duckdb" else f"'{rows}'"
            found = connection.execute(select.replace("segment_profiles", source)).fetchall()
        assert found == work.execute(select).fetchall()


def test_the_files_of_a_release_are_read_only(shop: Shop) -> None:
    modes = {path.name: path.stat().st_mode & 0o777 for path in shop.release.folder.iterdir()}
    assert modes.pop("state.duckdb") == 0o600
    assert set(modes.values()) == {0o440}


READ_ALL = """
import duckdb, glob, json, sys
current = sys.argv[1]
opened = duckdb.connect(current + "/segments.duckdb", read_only=True)
attached = duckdb.connect()
attached.execute("attach '" + (current + "/segments.duckdb").replace("'", "''") + "' as shop (read_only)")
count = lambda connection, prefix: {
    table: connection.execute("select count(*) from " + prefix + '"' + table + '"').fetchone()[0]
    for (table,) in connection.execute("select table_name from duckdb_tables()").fetchall()
}
score = "select customer_id, {}score_customer(monetary, frequency, recency) from {}rfm_features order by customer_id"
print(json.dumps({
    "scored": opened.execute(score.format("", "")).fetchall(),
    "scored_attached": attached.execute(score.format("shop.", "shop.")).fetchall(),
    "version": duckdb.__version__,
    "opened": count(opened, ""),
    "attached": count(attached, "shop.main."),
    "commented": opened.execute("select count(comment) from duckdb_columns() where not internal").fetchone()[0],
    "customers": opened.execute("select * from customer_segments order by customer_id").fetchall(),
    "parquet": duckdb.read_parquet(glob.escape(current) + "/customer_segments.parquet").order("customer_id").fetchall(),
}, default=str))
"""


@pytest.fixture(scope="module")
def seen_by_oldest_client(shop: Shop) -> dict[str, Any]:
    """What the oldest client reads in the release."""
    seen: dict[str, Any] = json.loads(
        output_of(run_python(READ_ALL, shop.releases.folder / "current", path=old_client()))
    )
    return seen


def test_the_oldest_client_reads_every_table(
    shop: Shop, database: duckdb.DuckDBPyConnection, seen_by_oldest_client: dict[str, Any]
) -> None:
    seen = seen_by_oldest_client
    assert seen["version"] == OLDEST_CLIENT
    assert seen["opened"] == seen["attached"] == shop.release.manifest["tables"]
    assert seen["commented"] == sum(len(contract.columns) for contract in published())
    rows = database.execute("select * from customer_segments order by customer_id").fetchall()
    assert seen["customers"] == seen["parquet"] == json.loads(json.dumps(rows, default=str))


def test_every_client_scores_customers_with_the_published_function(
    shop: Shop, database: duckdb.DuckDBPyConnection, seen_by_oldest_client: dict[str, Any]
) -> None:
    """It returns the published nearest segment of each customer, also where the release is attached by another name."""
    nearest = database.execute("select customer_id, nearest_segment from customer_segments order by customer_id")
    expected = [list(row) for row in nearest.fetchall()]
    assert len({segment for _, segment in expected}) > 4
    newest = json.loads(output_of(run_python(READ_ALL, shop.releases.folder / "current")))
    for seen in (newest, seen_by_oldest_client):
        assert seen["scored"] == seen["scored_attached"] == expected


def test_the_makefile_installs_the_oldest_client() -> None:
    assert f"OLDEST_CLIENT := {OLDEST_CLIENT}\n" in (PROJECT / "Makefile").read_text("utf-8")


# A consumer, which opens the current release, reads several of its tables and files, and starts again.
READ_ON = """
import duckdb, json, os, sys, time
current, stop = sys.argv[1:]
seen = set()
while not os.path.exists(stop):
    time.sleep(0.01)
    release = os.path.realpath(current)
    with open(release + "/manifest.json") as file:
        found = {json.load(file)["as_of"]}
    with duckdb.connect(release + "/segments.duckdb", read_only=True, config={"threads": 1}) as connection:
        for table in ("customer_segments", "rfm_features", "segment_profiles"):
            found |= {str(row[0]) for row in connection.execute("select distinct as_of from " + table).fetchall()}
    parquet = duckdb.read_parquet(release + "/customer_segments.parquet")
    found |= {str(row[0]) for row in parquet.aggregate("as_of").fetchall()}
    assert len(found) == 1, found
    first = not seen
    seen |= found
    if first:
        print("reading", flush=True)
print(len(seen))
"""


def test_readers_never_see_two_releases_mixed(
    releases: Releases, work: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    def publish_day(number: int) -> None:
        at = NOVEMBER + timedelta(days=number)
        for table in ("customer_segments", "rfm_features", "segment_profiles"):
            work.execute(f"update {table} set as_of = $at", {"at": at})
        publish(releases, work, number, keep=12, at=at)

    publish_day(0)
    readers = [
        run_python(READ_ON, releases.folder / "current", tmp_path / "stop", path=path) for path in (None, old_client())
    ]
    for reader in readers:
        assert reader.stdout is not None
        # Comes with the first release that it reads, or at its end, for which `output_of` reports the error.
        reader.stdout.readline()
    for number in range(1, 6):
        publish_day(number)
    (tmp_path / "stop").touch()
    for reader in readers:
        assert int(output_of(reader)) >= 3
    assert (releases.folder / "current").is_symlink()
    assert str((releases.folder / "current").readlink()) == releases.all()[-1].name, (
        "a relative link, so that the folder can be moved"
    )


def test_the_last_releases_are_kept(releases: Releases, work: duckdb.DuckDBPyConnection) -> None:
    names = [publish(releases, work, number, keep=2) for number in range(3)]
    assert [release.name for release in releases.all()] == names[-2:]
    assert current_name(releases) == names[-1]
    assert [name.split("-")[0] for name in names] == ["000001", "000002", "000003"]


def test_a_rollback_pauses_publishing_until_it_is_resumed(releases: Releases, work: duckdb.DuckDBPyConnection) -> None:
    names = [publish(releases, work, number, keep=2) for number in range(2)]
    assert releases.paused_at is None
    assert releases.rollback(names[0]).name == names[0]
    names += [publish(releases, work, number, keep=2) for number in range(2, 4)]
    assert current_name(releases) == releases.paused_at == names[0]
    assert [release.name for release in releases.all()] == [names[0], *names[-2:]], (
        "the current release is never pruned"
    )
    assert releases.resume().name == names[-1]
    assert releases.paused_at is None
    assert current_name(releases) == names[-1]
    names.append(publish(releases, work, 4, keep=2))
    assert current_name(releases) == names[-1]
    assert [release.name for release in releases.all()] == names[-2:]


def test_a_rollback_to_an_unknown_release_changes_nothing(releases: Releases, work: duckdb.DuckDBPyConnection) -> None:
    with pytest.raises(ReleaseError, match="no release 'x'; there are: none yet"):
        releases.rollback("x")
    with pytest.raises(ReleaseError, match=r"no release in .* yet; `segments run` publishes the first"):
        releases.resume()
    names = [publish(releases, work, number) for number in range(2)]
    with pytest.raises(ReleaseError, match=f"no release 'x'; there are: {', '.join(names)}"):
        releases.rollback("x")
    assert (current_name(releases), releases.paused_at) == (names[-1], None)


PUBLISH_ON = """
import duckdb, sys
from datetime import datetime
from pathlib import Path
from segmentation_pipeline.releases.store import Releases
folder, work = sys.argv[1:]
with duckdb.connect(work, read_only=True) as connection:
    for number in range(10_000):
        run_id = f"{number:08d}-of-a-killed-process"
        Releases(Path(folder)).publish(connection, {}, macros=[], as_of=datetime(2024, 11, 1), run_id=run_id, keep=1)
"""


def test_a_killed_publisher_leaves_only_complete_releases(
    shop: Shop, releases: Releases, work: duckdb.DuckDBPyConnection
) -> None:
    leftovers: list[Path] = []
    for _ in range(8):
        before = {path.name for path in releases.folder.glob(".*")}
        publisher = run_python(PUBLISH_ON, releases.folder, shop.work)
        deadline = time.monotonic() + 30
        while publisher.poll() is None and time.monotonic() < deadline:
            if [path for path in releases.folder.glob(".building-*") if path.name not in before]:
                break
            time.sleep(0.002)
        publisher.send_signal(signal.SIGKILL)
        publisher.communicate()
        assert publisher.returncode == -signal.SIGKILL
        if leftovers := list(releases.folder.glob(".building-*")):
            break
    assert leftovers, "no publisher was killed while it wrote a release"
    assert all(is_intact(release) for release in releases.all())
    name = publish(releases, work, 1, keep=5)
    assert not [path for path in releases.folder.iterdir() if path.name.startswith(".")]
    assert current_name(releases) == name


def test_what_a_killed_pruning_leaves_is_deleted(releases: Releases, work: duckdb.DuckDBPyConnection) -> None:
    names = [publish(releases, work, number) for number in range(2)]
    (releases.folder / names[0]).rename(releases.folder / f".pruning-{names[0]}")
    assert [release.name for release in releases.all()] == names[1:]
    publish(releases, work, 2)
    assert not list(releases.folder.glob(".*"))


def test_an_open_release_stays_readable_after_it_is_pruned(releases: Releases, work: duckdb.DuckDBPyConnection) -> None:
    first = publish(releases, work, 0, keep=1)
    with duckdb.connect(str(releases.folder / "current" / "segments.duckdb"), read_only=True) as reader:
        work.execute("delete from rfm_scores")
        publish(releases, work, 1, keep=1)
        assert not (releases.folder / first).exists()
        assert reader.execute("select count(*), count(distinct rfm_segment) > 1 from rfm_scores").fetchall() == [
            (CUSTOMERS, True)
        ]


def test_a_folder_name_is_not_used_as_a_pattern(tmp_path: Path, work: duckdb.DuckDBPyConnection) -> None:
    """DuckDB reads paths as patterns: `a[1]` would read the files of `a1`, and `a*` those of both."""
    plain, *odd = (Releases(tmp_path / name) for name in ("a1", "a[1]", "a*", "it's {a}"))
    work.execute("update customer_segments set action = 'of a1'")
    at = plain.folder / publish(plain, work, 7)
    (plain.folder / ".building-00000007-of-a-test").mkdir()
    at.rename(plain.folder / ".building-00000007-of-a-test" / at.name)
    for releases in odd:
        work.execute("update customer_segments set action = $action", {"action": releases.folder.name})
        publish(releases, work, 7)
        with duckdb.connect(str(releases.folder / "current" / "segments.duckdb"), read_only=True) as connection:
            rows = connection.execute("select action, count(*) from customer_segments group by all").fetchall()
        assert rows == [(releases.folder.name, CUSTOMERS)]


def test_outdated_derived_tables_are_derived_again(finished_shop: Shop) -> None:
    for contract in contracts().values():
        if not contract.state:
            finished_shop.execute(f"drop table {quoted(contract.table)}")
            finished_shop.execute(f"create table {quoted(contract.table)} (customer_id integer, recency_days bigint)")
    [first] = finished_shop.releases.all()
    assert finished_shop.run(as_of=FIRST_NIGHT).success
    assert finished_shop.release.manifest["tables"] == first.manifest["tables"]


@pytest.mark.parametrize("table", [contract.table for contract in contracts().values() if contract.state])
def test_outdated_state_is_never_dropped(work: duckdb.DuckDBPyConnection, table: str) -> None:
    """Models and membership history stay in the file for the version that wrote them."""
    work.execute(f"alter table {table} add column of_another_version integer")
    before = work.execute(f"select * from {table} order by all").fetchall()
    with pytest.raises(WarehouseError, match=rf"another version of this package .*\({table}\)"):
        Warehouse(work)
    assert work.execute(f"select * from {table} order by all").fetchall() == before
    work.execute(f"alter table {table} drop column of_another_version")
    Warehouse(work)


@pytest.mark.parametrize("damage", ["not a database", "a damaged block"])
def test_a_damaged_working_database_fails_the_run_with_advice(finished_shop: Shop, damage: str) -> None:
    content = finished_shop.work.read_bytes()
    block = slice(12_288, 12_288 + 4_096)
    damaged = content[: block.start] + b"?" * 4_096 + content[block.stop :]
    finished_shop.work.write_bytes(os.urandom(50_000) if damage == "not a database" else damaged)
    # Without a timeout, a run that waits for itself would do so for an hour.
    result = finished_shop.run(config={"resources": {"warehouse": {"config": {"lock_timeout": 5}}}})
    failures = {event.step_key: event.step_failure_data.user_failure_data for event in result.get_step_failure_events()}
    assert failures.keys() == {"raw_transactions", "rfm_segment_map"}
    for failure in failures.values():
        assert failure is not None
        assert failure.description is not None
        assert failure.description.startswith(f"{finished_shop.work}: DuckDB")
        assert "`segments restore RELEASE --replace`" in failure.description
    if damage == "not a database":
        finished_shop.work.unlink()
        assert finished_shop.run(assets=assets_up_to("rfm_features")).success
