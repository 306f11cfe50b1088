"""After a restore from the state beside a release, the next run goes on as if nothing had been lost."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import duckdb
import pytest

from segmentation_pipeline.orchestration.job_selection import REFIT_JOB
from segmentation_pipeline.releases.files import checksum
from segmentation_pipeline.releases.manifest import write_manifest
from segmentation_pipeline.segments import backtest
from segmentation_pipeline.tables.catalog import contracts, published, state_selects
from segmentation_pipeline.warehouse import lock
from segmentation_pipeline_tests.commands import segments
from segmentation_pipeline_tests.scenarios import (
    Line,
    definitions,
    instance_without_events,
    regular_customers,
    write_csv,
)
from segmentation_pipeline_tests.shops import Shop

SEGMENTS = Path(sys.executable).with_name("segments")
NIGHTS = ("2024-07-31", "2024-08-31", "2024-09-30", "2024-10-31")
# The third night makes a second model active, so that more than one fit is lost with the working database.
REFIT = 3
Rows = list[tuple[Any, ...]]


def _night_of(line: Line) -> int:
    return next(number for number, day in enumerate(NIGHTS, 1) if line[4][:10] <= day)


def night(shop: Shop, number: int) -> None:
    """Add the month's file and run the job; the model group is included, so that every run is alike."""
    write_csv(shop.source / f"{number}.csv", [line for line in regular_customers() if _night_of(line) == number])
    run_id, instance = f"0000000{number}-0000-4000-8000-000000000000", instance_without_events()
    with pytest.MonkeyPatch.context() as environment:
        shop.enter(environment)
        result = (
            definitions()
            .resolve_job_def(REFIT_JOB)
            .execute_in_process(
                instance=instance,
                run_config={
                    "ops": {"segmentation_model": {"config": {"refit": number == REFIT}}},
                    "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
                    "resources": {
                        "retailer": {"config": {"as_of": NIGHTS[number - 1], "accept_change": number == REFIT}}
                    },
                },
                run_id=run_id,
            )
        )
    # A copy of the shop runs the same night.
    instance.delete_run(run_id)
    assert result.success


def tables(database: Path, names: list[str]) -> dict[str, Rows]:
    with duckdb.connect(str(database), read_only=True) as connection:
        return {name: ordered(connection, name, f"from {name}") for name in names}


def ordered(connection: duckdb.DuckDBPyConnection, table: str, select: str) -> Rows:
    """Return the rows without the columns that differ where a shop is copied or a file is read again."""
    columns = "* exclude (run_id, source_path, modified_at)" if table == "ingested_files" else "*"
    return connection.execute(f"select {columns} from ({select}) order by {contracts()[table].key_order}").fetchall()


def state_of(database: Path) -> dict[str, Rows]:
    """Return what cannot be derived again, whether or not the other tables have been derived."""
    with duckdb.connect(str(database), read_only=True) as connection:
        existing = {table for (table,) in connection.execute("select table_name from duckdb_tables()").fetchall()}
        return {
            table: ordered(connection, table, select) if table in existing else []
            for table, select in state_selects().items()
        }


@pytest.fixture(scope="module")
def three_nights(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    shop = Shop.build(tmp_path_factory.mktemp("shop") / "three's [1] nights")
    (shop.source / "a.csv").unlink()
    night(shop, 1)
    # From the second night on, no source has these lines.
    (shop.source / "1.csv").unlink()
    for number in (2, 3):
        night(shop, number)
    return shop


@pytest.fixture(scope="module")
def undamaged(three_nights: Shop, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """A shop that lost nothing, after its fourth night."""
    shop = three_nights.copy(tmp_path_factory.mktemp("undamaged"))
    night(shop, 4)
    return shop


@pytest.fixture
def shop(three_nights: Shop, tmp_path: Path) -> Shop:
    return three_nights.copy(tmp_path / "shop's [1] copy")


def test_three_nights_leave_everything_that_a_restore_needs(three_nights: Shop) -> None:
    """Otherwise the following tests would restore nothing of value. All other files are read again after a restore."""
    state = state_of(three_nights.work)
    assert {row[:2] for row in state["ingested_files"]} == {("1.csv", "missing")}
    for release in three_nights.releases.all()[1:]:
        assert {row[0] for row in state_of(release.state)["raw_transactions"]} == {"1.csv"}
    assert {row[2] for row in state["segmentation_models"]} == {"active", "retired"}
    assert len({row for row in state["segment_membership"] if row[-1] is not None}) > 5


def test_the_night_after_a_restore_equals_one_without_a_loss(shop: Shop, undamaged: Shop) -> None:
    *_, newest = shop.releases.all()
    before = state_of(shop.work)
    shop.work.unlink()
    ended = segments(shop, "restore", newest.name)
    assert (ended.code, ended.errors) == (0, "")
    assert f"{shop.work} holds the state of release {newest.name}, as of 2024-10-01 00:00:00:" in ended.stdout
    assert "segmentation_models                 2 rows" in ended.stdout
    assert "The next `segments run` derives all other tables." in ended.stdout
    assert state_of(shop.work) == before
    assert shop.work.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in shop.work.parent.glob("work.duckdb*")] == ["work.duckdb"]
    night(shop, 4)
    everything = list(contracts())
    assert tables(shop.work, everything) == tables(undamaged.work, everything)
    names = [contract.table for contract in published()]
    [*_, restored], [*_, expected] = shop.releases.all(), undamaged.releases.all()
    assert restored.name == expected.name
    assert tables(restored.database, names) == tables(expected.database, names)
    assert state_of(restored.state) == state_of(expected.state)


def test_the_run_after_a_restore_derives_every_table(shop: Shop, undamaged: Shop) -> None:
    """Also those of the model group, although no fit is due."""
    *_, newest = shop.releases.all()
    shop.work.unlink()
    assert segments(shop, "restore", newest.name).code == 0
    write_csv(shop.source / "4.csv", [line for line in regular_customers() if _night_of(line) == 4])
    assert shop.run(as_of=NIGHTS[3]).success
    derived = list(contracts().keys() - {*backtest.TABLES})
    assert tables(shop.work, derived) == tables(undamaged.work, derived)


def test_an_older_release_restores_its_models_and_membership_history(shop: Shop, three_nights: Shop) -> None:
    _, second, third = shop.releases.all()
    ended = segments(shop, "restore", second.name, "--replace")
    assert ended.code == 0
    kept = shop.work.with_name("work.duckdb.before")
    assert f"The replaced database is kept as {kept}." in ended.stdout
    assert f"It does not hold the models and membership changes of later releases: {third.name}." in ended.stdout
    assert state_of(kept) == state_of(three_nights.work)
    assert len(state_of(shop.work)["segmentation_models"]) == 1
    names = [contract.table for contract in published() if contract.state]
    assert tables(shop.work, names) == tables(second.database, names)
    night(shop, REFIT)
    everything = list(contracts())
    assert tables(shop.work, everything) == tables(three_nights.work, everything), "the same night gives other tables"


def test_an_existing_database_is_only_replaced_on_request_and_kept(shop: Shop) -> None:
    first, *_ = shop.releases.all()
    content = shop.work.read_bytes()
    ended = segments(shop, "restore", first.name)
    assert (ended.code, ended.stdout) == (2, "")
    assert f"error: {shop.work} exists, with models and a membership history" in ended.errors
    assert "--replace restores nevertheless, and keeps the existing file under another name" in ended.errors
    assert shop.work.read_bytes() == content
    for _ in range(2):
        assert segments(shop, "restore", first.name, "--replace").code == 0
    assert shop.work.with_name("work.duckdb.before").read_bytes() == content
    assert len(state_of(shop.work.with_name("work.duckdb.before-2"))["segmentation_models"]) == 1


def test_files_of_a_killed_restore_are_not_used(shop: Shop) -> None:
    *_, newest = shop.releases.all()
    before = state_of(shop.work)
    shop.work.unlink()
    for name in ("work.duckdb.wal", "work.duckdb.restoring", "work.duckdb.restoring.wal"):
        shop.work.with_name(name).write_bytes(b"left by another process")
    ended = segments(shop, "restore", newest.name)
    assert (ended.code, ended.errors) == (0, "")
    assert "The replaced database is kept as" in ended.stdout
    assert state_of(shop.work) == before
    names = sorted(path.name for path in shop.work.parent.glob("work.duckdb*"))
    assert names == ["work.duckdb", "work.duckdb.wal.before"]


def started(shop: Shop, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [SEGMENTS, *arguments],
        env=os.environ | shop.environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_a_killed_restore_leaves_one_complete_database(shop: Shop) -> None:
    """It is the one before the restore, or the restored one."""
    first, *_ = shop.releases.all()
    before, published_state = state_of(shop.work), state_of(first.state)
    restoring_file = shop.work.with_name("work.duckdb.restoring")
    for number in range(3):
        with started(shop, "restore", first.name, "--replace") as restoring:
            deadline = time.monotonic() + 30
            while not restoring_file.exists() and restoring.poll() is None and time.monotonic() < deadline:
                time.sleep(0.001)
            time.sleep(number * 0.05)
            restoring.kill()
        assert state_of(shop.work) in (before, published_state)
    assert segments(shop, "restore", first.name, "--replace").code == 0
    assert state_of(shop.work) == published_state
    assert state_of(shop.work.with_name("work.duckdb.before")) == before
    assert not restoring_file.exists()


@pytest.mark.parametrize("damage", ["a byte", "missing", "no state", "other columns"])
def test_a_damaged_state_is_not_restored(shop: Shop, damage: str) -> None:
    *_, newest = shop.releases.all()
    if damage == "a byte":
        content = bytearray(newest.state.read_bytes())
        content[len(content) // 2] ^= 1
        newest.state.write_bytes(content)
        message = f"release {newest.name} is damaged: state.duckdb was changed after it was published"
    elif damage == "missing":
        newest.state.unlink()
        message = f"release {newest.name} is damaged: state.duckdb is missing"
    else:
        entries = {key: value for key, value in newest.manifest.items() if key != "digest"}
        if damage == "no state":
            del entries["state"]
            message = f"release {newest.name} has no state, because the version that published it wrote none."
        else:
            with duckdb.connect(str(newest.state)) as state:
                state.execute("alter table segments rename colour to color")
            entries["files"]["state.duckdb"] = checksum(newest.state)
            message = "breaks the contracts of this version: segments (colour: a column of type VARCHAR, found no such"
        (newest.folder / "manifest.json").chmod(0o600)
        write_manifest(newest.folder, entries)
    content_before = shop.work.read_bytes()
    ended = segments(shop, "restore", newest.name, "--replace")
    assert (ended.code, ended.stdout) == (2, "")
    assert message in ended.errors
    assert shop.work.read_bytes() == content_before


def test_a_restore_needs_only_an_intact_state(shop: Shop) -> None:
    *_, newest = shop.releases.all()
    newest.database.unlink()
    shop.work.unlink()
    assert segments(shop, "restore", newest.name).code == 0


def test_an_unknown_release_is_an_error_that_lists_all(shop: Shop) -> None:
    ended = segments(shop, "restore", "000009-x")
    assert ended.code == 2
    names = ", ".join(release.name for release in shop.releases.all())
    assert f"no release '000009-x'; there are: {names}" in ended.errors


def test_a_restore_waits_for_a_run_and_reports_it(shop: Shop) -> None:
    first, *_ = shop.releases.all()
    content = shop.work.read_bytes()
    with lock.writer(shop.folders.lock, "a run of the night", 0, pytest.fail):
        restoring = started(shop, "restore", first.name, "--replace")
        assert restoring.stdout is not None
        assert restoring.stdout.readline().startswith("waiting for a run of the night")
        assert shop.work.read_bytes() == content
    restoring.communicate(timeout=60)
    assert restoring.returncode == 0
    assert shop.work.read_bytes() != content
