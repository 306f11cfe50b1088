"""What no source gives back lies beside each release: the next run goes on from it as if nothing had been lost."""

import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pytest

from segmentation_pipeline.definitions import defs
from segmentation_pipeline.releases.files import checksum
from segmentation_pipeline.releases.manifest import write_manifest
from segmentation_pipeline.releases.store import Releases
from segmentation_pipeline.tables.catalog import contracts, published, state_selects
from segmentation_pipeline.warehouse import lock
from segmentation_pipeline_tests.scenarios import Line, regular_customers, retailer_file, write_csv

SEGMENTS = Path(sys.executable).with_name("segments")
NIGHTS = ("2024-07-31", "2024-08-31", "2024-09-30", "2024-10-31")
# In the third night a second model stands: what is lost with the registry is more than one fit.
REFIT = 3
Rows = list[tuple[Any, ...]]


@dataclass(frozen=True)
class Shop:
    """A retailer with its source, and all that its nights left behind."""

    folder: Path

    @property
    def data(self) -> Path:
        return self.folder / "shop's [1] data"

    @property
    def releases(self) -> Releases:
        return Releases(self.data / "corner_shop" / "releases")

    @property
    def work(self) -> Path:
        return self.data / "corner_shop" / "work.duckdb"

    @property
    def environment(self) -> dict[str, str]:
        return {"SEGMENTATION_DATA": str(self.data), "SEGMENTATION_RETAILER": str(self.folder / "retailer.toml")}

    def copied(self, folder: Path) -> "Shop":
        shutil.copytree(self.folder, folder, symlinks=True)
        return Shop(folder)

    def night(self, number: int) -> None:
        """The month's file comes, and the job runs through Dagster: the same run wherever it is run."""
        lines = [line for line in regular_customers() if _night_of(line) == number]
        write_csv(self.folder / "source" / f"{number}.csv", lines)
        config = {
            "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
            "resources": {"retailer": {"config": {"as_of": NIGHTS[number - 1], "accept_change": number == REFIT}}},
            "ops": {"segmentation_model": {"config": {"refit": number == REFIT}}},
        }
        job = defs().resolve_job_def("refit_segmentation")
        with pytest.MonkeyPatch.context() as environment, dg.DagsterInstance.ephemeral() as instance:
            for name, value in self.environment.items():
                environment.setenv(name, value)
            run_id = f"0000000{number}-0000-4000-8000-000000000000"
            assert job.execute_in_process(instance=instance, run_config=config, run_id=run_id).success

    def started(self, *arguments: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [SEGMENTS, *arguments],
            env=os.environ | self.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def segments(self, *arguments: str) -> tuple[int, str, str]:
        with self.started(*arguments) as process:
            printed, complaint = process.communicate(timeout=60)
            return process.returncode, printed, " ".join(complaint.split())


def _night_of(line: Line) -> int:
    return next(number for number, day in enumerate(NIGHTS, 1) if line[4][:10] <= day)


def tables(database: Path, names: list[str]) -> dict[str, Rows]:
    with duckdb.connect(str(database), read_only=True) as connection:
        return {name: ordered(connection, name, f"from {name}") for name in names}


def ordered(connection: duckdb.DuckDBPyConnection, table: str, select: str) -> Rows:
    """Without what is another where a file is written or read anew, or the shop is a copy."""
    columns = "* exclude (run_id, source_path, modified_at)" if table == "ingested_files" else "*"
    return connection.execute(f"select {columns} from ({select}) order by {contracts()[table].key_order}").fetchall()


def state_of(database: Path) -> dict[str, Rows]:
    """What no source gives back, whether or not the working database has been derived from it since."""
    with duckdb.connect(str(database), read_only=True) as connection:
        stand = {table for (table,) in connection.execute("select table_name from duckdb_tables()").fetchall()}
        return {
            table: ordered(connection, table, select) if table in stand else []
            for table, select in state_selects().items()
        }


@pytest.fixture(scope="module")
def three_nights(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    shop = Shop(tmp_path_factory.mktemp("shop") / "three")
    retailer_file(shop.folder, shop.folder / "source")
    # Beside the file, so that a copy of the shop reads its own source.
    file = shop.folder / "retailer.toml"
    file.write_text(file.read_text("utf-8").replace(str(shop.folder / "source"), "source"), "utf-8")
    for number in (1, 2, 3):
        shop.night(number)
    return shop


@pytest.fixture(scope="module")
def unharmed(three_nights: Shop, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """A shop that lost nothing, after its fourth night."""
    shop = three_nights.copied(tmp_path_factory.mktemp("unharmed") / "shop")
    shop.night(4)
    return shop


@pytest.fixture
def shop(three_nights: Shop, tmp_path: Path) -> Shop:
    return three_nights.copied(tmp_path / "shop")


def test_the_nights_leave_something_to_lose(three_nights: Shop) -> None:
    state = state_of(three_nights.work)
    assert len(state["segmentation_models"]) == 2
    assert {row[2] for row in state["segmentation_models"]} == {"active", "retired"}
    assert len({row for row in state["segment_membership"] if row[-1] is not None}) > 5, "customers have moved"


def test_after_a_restore_the_next_night_is_that_of_a_shop_that_lost_nothing(shop: Shop, unharmed: Shop) -> None:
    *_, newest = shop.releases.all()
    before = state_of(shop.work)
    shop.work.unlink()
    code, printed, complaint = shop.segments("restore", newest.name)
    assert (code, complaint) == (0, "")
    assert f"{shop.work} holds the state of release {newest.name}, as of 2024-10-01 00:00:00:" in printed
    assert "segmentation_models                 2 rows" in printed
    assert "All else is derived by the next `segments run`." in printed
    assert state_of(shop.work) == before
    assert shop.work.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in shop.work.parent.glob("work.duckdb*")] == ["work.duckdb"]
    shop.night(4)
    everything = list(contracts())
    assert tables(shop.work, everything) == tables(unharmed.work, everything)
    tables_published = [contract.table for contract in published()]
    [*_, mine], [*_, its] = shop.releases.all(), unharmed.releases.all()
    assert mine.name == its.name
    assert tables(mine.database, tables_published) == tables(its.database, tables_published)
    assert state_of(mine.state) == state_of(its.state)


def test_the_lines_of_a_file_that_is_gone_come_back_with_the_state(shop: Shop) -> None:
    """No source gives them back; all other files are read again."""
    (shop.folder / "source" / "1.csv").unlink()
    shop.night(4)
    everything = list(contracts())
    before = tables(shop.work, everything)
    assert {row[:2] for row in before["ingested_files"]} == {
        ("1.csv", "missing"),
        ("2.csv", "loaded"),
        ("3.csv", "loaded"),
        ("4.csv", "loaded"),
    }
    *_, newest = shop.releases.all()
    assert {row[0] for row in state_of(newest.state)["raw_transactions"]} == {"1.csv"}
    shop.work.unlink()
    assert shop.segments("restore", newest.name)[0] == 0
    shop.night(4)
    assert tables(shop.work, everything) == before


def test_a_restore_from_an_older_release_goes_back_to_its_registry_and_ledger(shop: Shop, three_nights: Shop) -> None:
    _, second, third = shop.releases.all()
    code, printed, _ = shop.segments("restore", second.name, "--replace")
    assert code == 0
    kept = shop.work.with_name("work.duckdb.before")
    assert f"What stood before is kept as {kept}." in printed
    assert f"What was published after it is forgotten there: {third.name}." in printed
    assert state_of(kept) == state_of(three_nights.work)
    assert len(state_of(shop.work)["segmentation_models"]) == 1
    names = [contract.table for contract in published() if contract.state]
    assert tables(shop.work, names) == tables(second.database, names)
    shop.night(REFIT)
    everything = list(contracts())
    assert tables(shop.work, everything) == tables(three_nights.work, everything), "lived again, it is the same night"


def test_a_working_database_that_stands_is_not_replaced_unasked_and_every_one_is_kept(shop: Shop) -> None:
    first, *_ = shop.releases.all()
    whole = shop.work.read_bytes()
    code, printed, complaint = shop.segments("restore", first.name)
    assert (code, printed) == (2, "")
    said = f"error: {shop.work} stands, with a registry and a ledger of its own"
    assert "".join(said.split()) in "".join(complaint.split()), "wherever a long path is broken"
    assert "--replace restores all the same, and keeps it beside" in complaint
    assert shop.work.read_bytes() == whole
    for _ in range(2):
        assert shop.segments("restore", first.name, "--replace")[0] == 0
    assert shop.work.with_name("work.duckdb.before").read_bytes() == whole
    assert len(state_of(shop.work.with_name("work.duckdb.before-2"))["segmentation_models"]) == 1


def test_what_a_killed_restore_or_run_left_beside_the_database_is_not_taken_for_the_new_ones(shop: Shop) -> None:
    *_, newest = shop.releases.all()
    before = state_of(shop.work)
    shop.work.unlink()
    for name in ("work.duckdb.wal", "work.duckdb.restoring", "work.duckdb.restoring.wal"):
        shop.work.with_name(name).write_bytes(b"the rest of another")
    code, printed, complaint = shop.segments("restore", newest.name)
    assert (code, complaint) == (0, "")
    assert "What stood before is kept as" in printed
    assert state_of(shop.work) == before
    assert sorted(path.name for path in shop.work.parent.glob("work.duckdb*")) == [
        "work.duckdb",
        "work.duckdb.wal.before",
    ]


def test_a_killed_restore_leaves_the_database_that_stood_or_the_restored_one(shop: Shop) -> None:
    first, *_ = shop.releases.all()
    stood, published = state_of(shop.work), state_of(first.state)
    made = shop.work.with_name("work.duckdb.restoring")
    for number in range(5):
        with shop.started("restore", first.name, "--replace") as restoring:
            deadline = time.monotonic() + 30
            while not made.exists() and restoring.poll() is None and time.monotonic() < deadline:
                time.sleep(0.001)
            time.sleep(number * 0.03)
            restoring.kill()
        assert state_of(shop.work) in (stood, published)
    assert shop.segments("restore", first.name, "--replace")[0] == 0
    assert state_of(shop.work) == published
    assert state_of(shop.work.with_name("work.duckdb.before")) == stood
    assert not made.exists()


@pytest.mark.parametrize("damage", ["a byte", "missing", "none", "another version"])
def test_a_state_that_is_not_as_published_is_not_restored_and_what_stands_is_left(shop: Shop, damage: str) -> None:
    *_, newest = shop.releases.all()
    if damage == "a byte":
        whole = bytearray(newest.state.read_bytes())
        whole[len(whole) // 2] ^= 1
        newest.state.write_bytes(whole)
        said = f"release {newest.name} is damaged: state.duckdb is not what was published"
    elif damage == "missing":
        newest.state.unlink()
        said = f"release {newest.name} is damaged: state.duckdb is missing"
    else:
        facts = {key: value for key, value in newest.manifest.items() if key != "digest"}
        if damage == "none":
            del facts["state"]
            said = f"release {newest.name} was published before releases had a state; take a later one"
        else:
            with duckdb.connect(str(newest.state)) as state:
                state.execute("alter table segments rename colour to color")
            facts["files"]["state.duckdb"] = checksum(newest.state)
            said = (
                "breaks the contracts of this version: segments (colour: a column of type VARCHAR, found no such colu"
            )
        (newest.folder / "manifest.json").chmod(0o600)
        write_manifest(newest.folder, facts)
    whole_work = shop.work.read_bytes()
    code, printed, complaint = shop.segments("restore", newest.name, "--replace")
    assert (code, printed) == (2, "")
    assert said in complaint
    assert shop.work.read_bytes() == whole_work


def test_a_restore_needs_only_the_state_to_be_whole(shop: Shop) -> None:
    *_, newest = shop.releases.all()
    newest.database.unlink()
    shop.work.unlink()
    assert shop.segments("restore", newest.name)[0] == 0


def test_a_restore_from_no_release_says_which_there_are(shop: Shop) -> None:
    code, _, complaint = shop.segments("restore", "000009-x")
    assert code == 2
    assert (
        f"no release '000009-x'; there are: {', '.join(release.name for release in shop.releases.all())}" in complaint
    )


def test_a_restore_waits_for_the_run_that_writes_and_says_so(shop: Shop) -> None:
    first, *_ = shop.releases.all()
    whole = shop.work.read_bytes()
    with lock.writer(shop.work.with_name("work.lock"), "a run of the night", 0, pytest.fail):
        restoring = shop.started("restore", first.name, "--replace")
        assert restoring.stdout is not None
        assert restoring.stdout.readline().startswith("waiting for a run of the night")
        assert shop.work.read_bytes() == whole
    restoring.communicate(timeout=60)
    assert restoring.returncode == 0
    assert shop.work.read_bytes() != whole
