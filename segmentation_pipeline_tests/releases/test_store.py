"""What SQL consumers open: whole, described, readable by an old client, and never half switched."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from glob import escape
from pathlib import Path

import dagster as dg
import duckdb
import pytest

import segmentation_pipeline
from segmentation_pipeline.config.loading import load
from segmentation_pipeline.errors import ReleaseError
from segmentation_pipeline.releases.files import OLDEST_CLIENT, Release
from segmentation_pipeline.releases.store import Releases
from segmentation_pipeline.tables.catalog import CONTRACT_VERSION, contracts, published
from segmentation_pipeline.tables.contract import Contract, quoted
from segmentation_pipeline_tests.scenarios import (
    QUICK_SEARCH,
    constants,
    line,
    regular_customers,
    retailer_file,
    run_job,
    write_csv,
)

PROJECT = Path(segmentation_pipeline.__file__).parents[1]
OLD_CLIENT = PROJECT / ".venv" / "oldest-client"
NOVEMBER = datetime.fromisoformat("2024-11-01")
EACH_PUBLISHED = pytest.mark.parametrize("contract", published(), ids=lambda contract: contract.table)


@dataclass(frozen=True)
class Ran:
    """What one run of the job left behind."""

    data: Path
    retailer: Path
    run_id: str

    @property
    def releases(self) -> Releases:
        return Releases(self.data / "corner_shop" / "releases")

    @property
    def release(self) -> Release:
        [only] = self.releases.all()
        return only

    @property
    def work(self) -> Path:
        return self.data / "corner_shop" / "work.duckdb"


@pytest.fixture(scope="module", autouse=True)
def quick_search() -> Iterator[None]:
    """Search few numbers of clusters in every run of this module."""
    with constants(SEARCH=QUICK_SEARCH):
        yield


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """A run whose data folder's name is all that a pattern or a quotation could trip over."""
    folder = tmp_path_factory.mktemp("ran")
    data = folder / "shop's [1] data * {x}"
    # Somebody beyond a fence, so that there are outliers.
    dear = line(invoice="600001", at="2024-09-02 11:00:00", customer="10001", quantity="5000", price="9.95")
    source = write_csv(folder / "source" / "a.csv", [*regular_customers(), dear]).parent
    # A look-back shorter than the data: month ends can be compared, so that no published table is empty.
    retailer = retailer_file(folder, source, rfm={"look_back_days": 200}, model={"n_clusters": "auto"})
    with pytest.MonkeyPatch.context() as environment, dg.DagsterInstance.ephemeral() as instance:
        environment.setenv("SEGMENTATION_DATA", str(data))
        environment.setenv("SEGMENTATION_RETAILER", str(retailer))
        environment.delenv("SEGMENTATION_SOURCE", raising=False)
        result = run_job(instance)
    assert result.success
    return Ran(data, retailer, result.run_id)


@pytest.fixture(scope="module")
def database(ran: Ran) -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(str(ran.release.database), read_only=True) as connection:
        yield connection


@pytest.fixture
def work(ran: Ran, tmp_path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """A copy of the working database, which a test may change."""
    copy = Path(shutil.copy(ran.work, tmp_path / "work.duckdb"))
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


def intact(release: Release) -> bool:
    return all(
        hashlib.sha256((release.folder / name).read_bytes()).hexdigest() == facts["sha256"]
        and (release.folder / name).stat().st_size == facts["bytes"]
        for name, facts in release.manifest["files"].items()
    )


def run_python(text: str, *arguments: Path | str, path: Path | None = None) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(path or "")}
    command = [sys.executable, "-c", text, *map(str, arguments)]
    return subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=PROJECT
    )


def ended(process: subprocess.Popen[str]) -> str:
    """What the process printed; its error is the test's."""
    printed, complaint = process.communicate(timeout=60)
    assert process.returncode == 0, complaint
    return printed


def old_client() -> Path:
    assert (OLD_CLIENT / "duckdb").is_dir(), f"{OLD_CLIENT}: no duckdb=={OLDEST_CLIENT}; `make test` installs it there"
    return OLD_CLIENT


def test_a_release_holds_a_database_each_table_as_parquet_and_a_manifest(ran: Ran) -> None:
    names = {path.name for path in ran.release.folder.iterdir()}
    assert names == {"segments.duckdb", "state.duckdb", "manifest.json"} | {
        f"{contract.table}.parquet" for contract in published()
    }


def test_its_database_holds_the_published_tables_and_nothing_else(database: duckdb.DuckDBPyConnection) -> None:
    tables = database.execute("select schema_name, table_name from duckdb_tables() order by all").fetchall()
    assert tables == sorted(("main", contract.table) for contract in published())
    assert database.execute("select view_name from duckdb_views() where not internal").fetchall() == []
    functions = database.execute(
        "select schema_name, function_name, parameters from duckdb_functions() where not internal"
    )
    assert functions.fetchall() == [("main", "score_customer", ["monetary", "frequency", "recency"])]


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
def test_types_key_and_not_null_are_kept(database: duckdb.DuckDBPyConnection, contract: Contract) -> None:
    columns = database.execute(
        "select column_name, data_type, is_nullable from duckdb_columns() where table_name = ? order by column_index",
        [contract.table],
    ).fetchall()
    assert columns == [(column.name, column.type, column.nullable) for column in contract.columns]
    keys = database.execute(
        "select constraint_column_names from duckdb_constraints()"
        " where table_name = ? and constraint_type = 'PRIMARY KEY'",
        [contract.table],
    ).fetchall()
    assert keys == [(list(contract.key),)]


@EACH_PUBLISHED
def test_parquet_database_and_working_database_are_equal(
    ran: Ran, database: duckdb.DuckDBPyConnection, contract: Contract
) -> None:
    ordered = f"select * from {quoted(contract.table)} order by {contract.key_order}"
    rows = database.execute(ordered).fetchall()
    assert rows
    parquet = duckdb.read_parquet(escape(str(ran.release.folder / f"{contract.table}.parquet")))
    assert parquet.columns == [column.name for column in contract.columns]
    assert [str(kind) for kind in parquet.types] == [column.type for column in contract.columns]
    assert parquet.fetchall() == rows, "and in the order of the key"
    with duckdb.connect(str(ran.work), read_only=True) as work:
        assert work.execute(ordered).fetchall() == rows


def test_the_manifest_tells_what_the_release_is(ran: Ran, database: duckdb.DuckDBPyConnection) -> None:
    manifest = json.loads((ran.release.folder / "manifest.json").read_text("utf-8"))
    assert database.execute("select max(as_of)::varchar from customer_segments").fetchone() == (manifest["as_of"],)
    assert manifest["release"] == ran.release.name == f"000001-20241028-{ran.run_id[:8]}"
    assert manifest["run_id"] == ran.run_id
    assert manifest["settings_digest"] == load(str(ran.retailer)).digest()
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
    assert manifest["figures"]["customers"] == counted["customer_segments"] == 60


def test_the_checksums_are_those_of_every_file(ran: Ran) -> None:
    files = {path.name for path in ran.release.folder.iterdir()} - {"manifest.json"}
    assert set(ran.release.manifest["files"]) == files
    assert intact(ran.release)


def test_no_file_of_a_release_may_be_written(ran: Ran) -> None:
    modes = {path.name: path.stat().st_mode & 0o777 for path in ran.release.folder.iterdir()}
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


def test_the_oldest_client_reads_all_of_a_release(ran: Ran, database: duckdb.DuckDBPyConnection) -> None:
    current = ran.releases.folder / "current"
    seen = json.loads(ended(run_python(READ_ALL, current, path=old_client())))
    assert seen["version"] == OLDEST_CLIENT
    assert seen["opened"] == seen["attached"] == ran.release.manifest["tables"]
    assert seen["commented"] == sum(len(contract.columns) for contract in published())
    rows = database.execute("select * from customer_segments order by customer_id").fetchall()
    assert seen["customers"] == seen["parquet"] == json.loads(json.dumps(rows, default=str))


def test_any_client_scores_customers_with_the_releases_function_under_any_name(
    ran: Ran, database: duckdb.DuckDBPyConnection
) -> None:
    """What the release says is the nearest segment of each customer: outliers and normal customers, all of them."""
    nearest = database.execute("select customer_id, nearest_segment from customer_segments order by customer_id")
    wanted = [list(row) for row in nearest.fetchall()]
    assert len({segment for _, segment in wanted}) > 4
    for path in (None, old_client()):
        seen = json.loads(ended(run_python(READ_ALL, ran.releases.folder / "current", path=path)))
        assert seen["scored"] == seen["scored_attached"] == wanted


def test_the_oldest_client_that_is_tested_is_the_one_that_make_installs() -> None:
    assert f"OLDEST_CLIENT := {OLDEST_CLIENT}\n" in (PROJECT / "Makefile").read_text("utf-8")


# A consumer as they are: opens what `current` is now, reads several tables and files of it, and starts over.
READ_ON = """
import duckdb, json, os, sys, time
current, stop = sys.argv[1:]
seen = set()
while not os.path.exists(stop):
    time.sleep(0.01)
    release = os.path.realpath(current)
    with open(release + "/manifest.json") as file:
        told = {json.load(file)["as_of"]}
    with duckdb.connect(release + "/segments.duckdb", read_only=True, config={"threads": 1}) as connection:
        for table in ("customer_segments", "rfm_features", "segment_profiles"):
            told |= {str(row[0]) for row in connection.execute("select distinct as_of from " + table).fetchall()}
    parquet = duckdb.read_parquet(release + "/customer_segments.parquet")
    told |= {str(row[0]) for row in parquet.aggregate("as_of").fetchall()}
    assert len(told) == 1, told
    first = not seen
    seen |= told
    if first:
        print("reading", flush=True)
print(len(seen))
"""


def test_readers_of_current_never_fail_and_never_see_two_releases_mixed(
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
        # The first line comes once it reads; none, if it failed, and then `ended` tells why.
        reader.stdout.readline()
    for number in range(1, 21):
        publish_day(number)
    (tmp_path / "stop").touch()
    for reader in readers:
        assert int(ended(reader)) >= 5
    assert (releases.folder / "current").is_symlink()
    assert str((releases.folder / "current").readlink()) == releases.all()[-1].name, "relative: the folder may be moved"


def test_the_last_ones_are_kept(releases: Releases, work: duckdb.DuckDBPyConnection) -> None:
    names = [publish(releases, work, number, keep=2) for number in range(4)]
    assert [release.name for release in releases.all()] == names[-2:]
    assert current_name(releases) == names[-1]
    assert [name.split("-")[0] for name in names] == ["000001", "000002", "000003", "000004"]


def test_a_rollback_holds_publishing_until_it_is_released(releases: Releases, work: duckdb.DuckDBPyConnection) -> None:
    names = [publish(releases, work, number, keep=2) for number in range(2)]
    assert releases.paused_at is None
    assert releases.rollback(names[0]).name == names[0]
    names += [publish(releases, work, number, keep=2) for number in range(2, 5)]
    assert current_name(releases) == releases.paused_at == names[0]
    assert [release.name for release in releases.all()] == [names[0], *names[-2:]], "the current one is never pruned"
    assert releases.resume().name == names[-1]
    assert releases.paused_at is None
    assert current_name(releases) == names[-1]
    names.append(publish(releases, work, 5, keep=2))
    assert current_name(releases) == names[-1]
    assert [release.name for release in releases.all()] == names[-2:]


def test_a_rollback_to_no_release_says_which_there_are_and_changes_nothing(
    releases: Releases, work: duckdb.DuckDBPyConnection
) -> None:
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
        run_id = f"{number:08d}-of-one-to-be-killed"
        Releases(Path(folder)).publish(connection, {}, macros=[], as_of=datetime(2024, 11, 1), run_id=run_id, keep=1)
"""


def test_a_killed_publisher_leaves_whole_releases_and_the_next_one_cleans_up(
    ran: Ran, releases: Releases, work: duckdb.DuckDBPyConnection
) -> None:
    leftovers: list[Path] = []
    for _ in range(8):
        before = {path.name for path in releases.folder.glob(".*")}
        publisher = run_python(PUBLISH_ON, releases.folder, ran.work)
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
    assert leftovers, "killed while it was building"
    assert all(intact(release) for release in releases.all())
    name = publish(releases, work, 1, keep=5)
    assert not [path for path in releases.folder.iterdir() if path.name.startswith(".")]
    assert current_name(releases) == name


def test_the_rest_of_a_killed_pruning_is_no_release_and_is_cleaned_up(
    releases: Releases, work: duckdb.DuckDBPyConnection
) -> None:
    names = [publish(releases, work, number) for number in range(2)]
    (releases.folder / names[0]).rename(releases.folder / f".pruning-{names[0]}")
    assert [release.name for release in releases.all()] == names[1:]
    publish(releases, work, 2)
    assert not list(releases.folder.glob(".*"))


def test_a_reader_keeps_the_release_that_it_has_open(releases: Releases, work: duckdb.DuckDBPyConnection) -> None:
    first = publish(releases, work, 0, keep=1)
    with duckdb.connect(str(releases.folder / "current" / "segments.duckdb"), read_only=True) as reader:
        work.execute("delete from rfm_scores")
        publish(releases, work, 1, keep=1)
        assert not (releases.folder / first).exists()
        assert reader.execute("select count(*), count(distinct rfm_segment) > 1 from rfm_scores").fetchall() == [
            (60, True)
        ]


def test_a_folder_whose_name_is_a_pattern_is_not_taken_for_another(
    tmp_path: Path, work: duckdb.DuckDBPyConnection
) -> None:
    """DuckDB takes a path for a pattern: `a[1]` would read `a1`, and `a*` both."""
    plain, *odd = (Releases(tmp_path / name) for name in ("a1", "a[1]", "a*", "it's {a}"))
    work.execute("update customer_segments set action = 'that of a1'")
    at = plain.folder / publish(plain, work, 7)
    at.rename(plain.folder / ".building-00000007-of-a-test")
    for releases in odd:
        work.execute("update customer_segments set action = $action", {"action": releases.folder.name})
        publish(releases, work, 7)
        with duckdb.connect(str(releases.folder / "current" / "segments.duckdb"), read_only=True) as connection:
            rows = connection.execute("select action, count(*) from customer_segments group by all").fetchall()
        assert rows == [(releases.folder.name, 60)]


@pytest.fixture
def again(
    ran: Ran, data_folder: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, dg.DagsterInstance]:
    """The retailer with all that the run left, to be run again: its working database, and an instance."""
    shutil.copytree(ran.data, data_folder, symlinks=True)
    monkeypatch.setenv("SEGMENTATION_RETAILER", str(ran.retailer))
    return data_folder / "corner_shop" / "work.duckdb", instance


def test_a_working_database_of_an_older_version_is_rebuilt_by_itself(
    again: tuple[Path, dg.DagsterInstance], ran: Ran
) -> None:
    work, instance = again
    with duckdb.connect(str(work)) as connection:
        for contract in contracts().values():
            if not contract.state:
                connection.execute(f"drop table {quoted(contract.table)}")
                connection.execute(f"create table {quoted(contract.table)} (customer_id integer, recency_days bigint)")
    assert run_job(instance).success
    [first, second] = Releases(work.parent / "releases").all()
    assert first.manifest["tables"] == second.manifest["tables"] == ran.release.manifest["tables"]


@pytest.mark.parametrize("table", [contract.table for contract in contracts().values() if contract.state])
def test_what_no_source_has_is_never_dropped_for_being_of_another_version(
    again: tuple[Path, dg.DagsterInstance], table: str
) -> None:
    """The registry and the ledger: the run ends with a sentence, and what they hold is there for who goes back."""
    work, instance = again
    with duckdb.connect(str(work)) as connection:
        connection.execute(f"alter table {table} add column of_another_version integer")
        before = connection.execute(f"select * from {table} order by all").fetchall()
    result = run_job(instance, config={"resources": {"warehouse": {"config": {"lock_timeout": 5}}}})
    assert not result.success
    for event in result.get_step_failure_events():
        failure = event.step_failure_data.user_failure_data
        assert failure is not None
        assert f"{table} in the working database has the columns of another version" in (failure.description or "")
    with duckdb.connect(str(work)) as connection:
        assert connection.execute(f"select * from {table} order by all").fetchall() == before
        connection.execute(f"alter table {table} drop column of_another_version")
    assert run_job(instance).success


@pytest.mark.parametrize("damage", ["not a database", "a damaged block"])
def test_a_working_database_that_cannot_be_opened_fails_the_run_with_what_to_do(
    again: tuple[Path, dg.DagsterInstance], damage: str
) -> None:
    work, instance = again
    whole: bytes = work.read_bytes()
    block = slice(12_288, 12_288 + 4_096)
    damaged = whole[: block.start] + b"?" * 4_096 + whole[block.stop :]
    work.write_bytes(os.urandom(50_000) if damage == "not a database" else damaged)
    # A run that waited for itself would do so for an hour.
    config = {"resources": {"warehouse": {"config": {"lock_timeout": 5}}}}
    result = run_job(instance, config=config)
    said = {event.step_key: event.step_failure_data.user_failure_data for event in result.get_step_failure_events()}
    assert said.keys() == {"raw_transactions", "rfm_segment_map"}
    for failure in said.values():
        assert failure is not None
        assert failure.description is not None
        assert failure.description.startswith(f"{work}: DuckDB")
        assert "put a copy of it back" in failure.description
        assert "Without them the next run starts anew" in failure.description
    work.unlink()
    assert run_job(instance, config=config).success
