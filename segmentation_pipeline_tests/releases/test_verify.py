"""What is wrong with a release or with `current` is found, told with what to do, and mended by the next run."""

import grp
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from tempfile import mkdtemp

import dagster as dg
import duckdb
import pytest

from segmentation_pipeline.errors import ReleaseError
from segmentation_pipeline.releases.files import Release
from segmentation_pipeline.releases.manifest import write_manifest
from segmentation_pipeline.releases.store import Releases
from segmentation_pipeline.tables.catalog import contracts, state_selects
from segmentation_pipeline.warehouse.connection import connection_to
from segmentation_pipeline_tests.scenarios import regular_customers, retailer_file, run_job, write_csv

SEGMENTS = Path(sys.executable).with_name("segments")
NOVEMBER = datetime.fromisoformat("2024-11-01")
NOBODY = 65534


@dataclass(frozen=True)
class Shop:
    """A retailer whose two releases a test may damage."""

    data: Path
    retailer: Path

    @property
    def releases(self) -> Releases:
        return Releases(self.data / "corner_shop" / "releases")

    @property
    def work(self) -> Path:
        return self.data / "corner_shop" / "work.duckdb"

    def segments(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        environment = {"SEGMENTATION_DATA": str(self.data), "SEGMENTATION_RETAILER": str(self.retailer)}
        return subprocess.run(
            [SEGMENTS, *arguments], env=os.environ | environment, capture_output=True, text=True, check=False
        )


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    folder = tmp_path_factory.mktemp("ran")
    source = write_csv(folder / "source" / "a.csv", regular_customers()).parent
    shop = Shop(folder / "shop's [1] data", retailer_file(folder, source))
    with pytest.MonkeyPatch.context() as environment, dg.DagsterInstance.ephemeral() as instance:
        environment.setenv("SEGMENTATION_DATA", str(shop.data))
        environment.setenv("SEGMENTATION_RETAILER", str(shop.retailer))
        for day in ("2024-10-20", "2024-10-25"):
            assert run_job(instance, config={"resources": {"retailer": {"config": {"as_of": day}}}}).success
    return shop


@pytest.fixture
def shop(ran: Shop, data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """A copy, as its owner finds it."""
    shutil.copytree(ran.data, data_folder, symlinks=True)
    monkeypatch.setenv("SEGMENTATION_RETAILER", str(ran.retailer))
    return Shop(data_folder, ran.retailer)


@pytest.fixture
def work(shop: Shop) -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(str(shop.work)) as connection:
        yield connection


def publish(shop: Shop, work: duckdb.DuckDBPyConnection, number: int, *, keep: int = 14, macro: str = "") -> Release:
    return shop.releases.publish(
        work, {}, macros=[macro] if macro else [], as_of=NOVEMBER, run_id=f"{number:08d}-of-a-test", keep=keep
    )


def unwrapped(text: str) -> str:
    return " ".join(text.split())


def changed(file: Path, text: bytes) -> None:
    file.chmod(0o600)
    file.write_bytes(text)


def one_byte_changed(release: Release, name: str) -> None:
    whole = (release.folder / name).read_bytes()
    middle = len(whole) // 2
    changed(release.folder / name, whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])


def facts_changed(release: Release, **facts: object) -> None:
    """Edited by hand."""
    changed(release.folder / "manifest.json", json.dumps({**release.manifest, **facts}).encode())


def of_an_older_version(release: Release, **facts: object) -> None:
    manifest = {key: value for key, value in release.manifest.items() if key != "digest"} | facts
    changed(release.folder / "manifest.json", json.dumps(manifest).encode())


def test_whole_releases_are_told_to_be_whole(shop: Shop) -> None:
    told = shop.segments("releases", "verify")
    names = [release.name for release in shop.releases.all()]
    assert (told.returncode, told.stderr) == (0, "")
    assert told.stdout == "".join(f"{name} is whole\n" for name in names) + f"current leads to {names[-1]}\n"
    told = shop.segments("releases", "verify", names[0])
    assert told.stdout.splitlines() == [f"{names[0]} is whole", f"current leads to {names[-1]}"]


def test_verifying_without_a_release_or_one_that_is_not_there_is_bad_input(shop: Shop, tmp_path: Path) -> None:
    told = shop.segments("releases", "verify", "000009-x")
    assert (told.returncode, told.stdout) == (2, "")
    assert "no release '000009-x'; there are: 000001-20241021-" in unwrapped(told.stderr)
    told = Shop(tmp_path / "nothing", shop.retailer).segments("releases", "verify")
    assert (told.returncode, told.stdout) == (2, "")
    assert "yet; `segments run` publishes the first" in unwrapped(told.stderr)


COUNTED = {"customer_segments": 61}
DAMAGES: dict[str, tuple[Callable[[Release], object], str]] = {
    "a byte of the database": (
        lambda release: one_byte_changed(release, "segments.duckdb"),
        "segments.duckdb is not what was published: its checksum is another",
    ),
    "a byte of the state": (
        lambda release: one_byte_changed(release, "state.duckdb"),
        "state.duckdb is not what was published: its checksum is another",
    ),
    "a file cut short": (
        lambda release: changed(release.folder / "rfm_scores.parquet", b"PAR1"),
        "rfm_scores.parquet has 4 bytes, but ",
    ),
    "no state": (lambda release: (release.folder / "state.duckdb").unlink(), "state.duckdb is missing"),
    "the log of somebody who wrote": (
        lambda release: changed_or_new(release.folder / "segments.duckdb.wal"),
        "segments.duckdb.wal does not belong to it",
    ),
    "no manifest": (lambda release: (release.folder / "manifest.json").unlink(), "manifest.json is missing"),
    "a manifest cut short": (
        lambda release: changed(release.folder / "manifest.json", b'{"release": '),
        "manifest.json is no JSON: ",
    ),
    "another manifest": (
        lambda release: changed(release.folder / "manifest.json", b"[1]"),
        "manifest.json is no table of facts",
    ),
    "a manifest of zeros": (
        lambda release: changed(release.folder / "manifest.json", bytes(100)),
        "manifest.json is no JSON: ",
    ),
    "an empty manifest": (
        lambda release: changed(release.folder / "manifest.json", b"{}"),
        "manifest.json lacks as_of",
    ),
    "a figure of the manifest": (
        lambda release: facts_changed(release, figures={"customers": 9}),
        "manifest.json is not what was published: its digest is another",
    ),
    "a wrong count, where a manifest has no digest yet": (
        lambda release: of_an_older_version(release, tables={**release.manifest["tables"], **COUNTED}),
        "customer_segments.parquet holds 59 rows of customer_segments, but the manifest tells 61; "
        "segments.duckdb holds 59 rows of customer_segments, but the manifest tells 61",
    ),
    "a table too few": (
        lambda release: write_manifest_with(release, {"no_such_table": 1}),
        "segments.duckdb cannot be read: Catalog Error",
    ),
}


def changed_or_new(file: Path) -> None:
    file.write_bytes(b"x")


def write_manifest_with(release: Release, tables: dict[str, int]) -> None:
    (release.folder / "manifest.json").chmod(0o600)
    facts = {key: value for key, value in release.manifest.items() if key != "digest"}
    write_manifest(release.folder, facts | {"tables": release.manifest["tables"] | tables})


@pytest.mark.parametrize("damage", DAMAGES)
def test_each_damage_to_a_release_is_found_and_named_and_it_is_not_gone_back_to(shop: Shop, damage: str) -> None:
    spoil, said = DAMAGES[damage]
    first, second = shop.releases.all()
    spoil(first)
    faults = shop.releases.verify()
    assert faults[second.name] == []
    assert said in "; ".join(faults[first.name])
    assert len(faults[first.name]) == (2 if "; " in said else 1), "and nothing else"
    with pytest.raises(ReleaseError, match=f"release {first.name} is damaged: .*verify. tells of all"):
        shop.releases.rollback(first.name)
    assert shop.releases.paused_at is None
    assert shop.releases.current is not None
    assert shop.releases.current.name == second.name


def test_verify_says_what_is_wrong_and_what_to_do_and_ends_with_1(shop: Shop) -> None:
    first, second = shop.releases.all()
    one_byte_changed(second, "segments.duckdb")
    changed(first.folder / "manifest.json", b"{")
    told = shop.segments("releases", "verify")
    assert (told.returncode, told.stdout) == (1, f"current leads to {second.name}\n")
    said = unwrapped(told.stderr)
    assert f"{first.name} is damaged: manifest.json is no JSON" in said
    assert "Consumers do not see it; do not go back to it. It goes when it is old, or delete its folder." in said
    assert f"{second.name} is damaged: segments.duckdb is not what was published" in said
    assert "Consumers see it. `segments releases rollback NAME` goes back to a whole one at once" in said
    listed = shop.segments("releases")
    assert listed.returncode == 0
    assert f"{first.name} is damaged: manifest.json is no JSON" in unwrapped(listed.stdout)
    assert f"* {second.name}" in unwrapped(listed.stdout)
    assert shop.segments("releases", "verify", first.name).returncode == 1


def copied_over(link: Path) -> None:
    """By a copy that follows links, say."""
    shutil.copytree(link.resolve(), link.with_name("copy"))
    link.unlink()
    link.with_name("copy").rename(link)


def written_over(link: Path) -> None:
    link.unlink()
    link.write_text("000001", "utf-8")


def led_to(link: Path, target: Path | str) -> None:
    link.unlink()
    link.symlink_to(target)


SPOILED: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda link: link.unlink(), "current is missing"),
    "dangling": (lambda link: led_to(link, "000000-gone"), "current leads to 000000-gone, which is not there"),
    "a folder": (copied_over, "current is no link: a release was copied over it"),
    "a file": (written_over, "current is no link"),
    "elsewhere": (lambda link: led_to(link, "/"), "current leads to /: no release of this folder"),
    "in a circle": (lambda link: led_to(link, "current"), "current leads to current, which is not there"),
    "to one with a broken manifest": (
        lambda link: changed(link.resolve() / "manifest.json", b"{"),
        "manifest.json is no JSON",
    ),
}


@pytest.mark.parametrize("spoiled", SPOILED)
def test_a_current_that_leads_to_no_release_is_found_and_the_next_to_be_published_mends_it(
    shop: Shop, work: duckdb.DuckDBPyConnection, spoiled: str
) -> None:
    spoil, said = SPOILED[spoiled]
    assert shop.releases.current_error == ""
    spoil(shop.releases.folder / "current")
    assert said in shop.releases.current_error
    assert shop.releases.current is None
    published = publish(shop, work, 3)
    assert shop.releases.current is not None
    assert shop.releases.current.name == published.name
    assert (shop.releases.folder / "current").is_symlink()
    assert shop.releases.current_error == ""


def test_what_lay_where_current_belongs_is_kept(shop: Shop, work: duckdb.DuckDBPyConnection) -> None:
    for number in (3, 4):
        copied_over(shop.releases.folder / "current")
        publish(shop, work, number)
    aside = sorted(path.name for path in shop.releases.folder.glob("current*"))
    assert aside == ["current", "current.set-aside", "current.set-aside-2"]
    assert (shop.releases.folder / "current.set-aside" / "segments.duckdb").is_file()


def test_a_missing_current_is_told_by_every_command_and_mended_by_resume(shop: Shop) -> None:
    (shop.releases.folder / "current").unlink()
    told = shop.segments("releases", "verify")
    assert told.returncode == 1
    assert "current is wrong: current is missing. The next `segments run` that publishes mends it" in unwrapped(
        told.stderr
    )
    assert "No release is current: current is missing." in unwrapped(shop.segments("releases").stdout)
    shown = shop.segments("show")
    assert shown.returncode == 2
    assert "current is missing; `segments releases verify` says what to do" in unwrapped(shown.stderr)
    assert shop.segments("releases", "resume").returncode == 0
    assert shop.segments("releases", "verify").returncode == 0


def test_while_publishing_is_held_a_missing_current_comes_back_to_the_held_release(
    shop: Shop, work: duckdb.DuckDBPyConnection
) -> None:
    first, second = shop.releases.all()
    shop.releases.rollback(first.name)
    (shop.releases.folder / "current").unlink()
    third = publish(shop, work, 3)
    assert shop.releases.current is not None
    assert shop.releases.current.name == first.name
    shutil.rmtree(first.folder)
    fourth = publish(shop, work, 4)
    assert shop.releases.current.name == fourth.name, "there is nothing to hold at"
    assert [release.name for release in shop.releases.all()] == [second.name, third.name, fourth.name]


def test_a_run_is_held_against_the_newest_whole_release_and_mends_current(
    shop: Shop, instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held against the figures of the damaged manifest, every run would be a fall."""
    first, second = shop.releases.all()
    figures = {**second.manifest["figures"], "customers": 1_000_000, "revenue": "1e9"}
    facts_changed(second, figures=figures)
    few = write_csv(tmp_path / "few" / "a.csv", regular_customers(20)).parent
    monkeypatch.setenv("SEGMENTATION_SOURCE", str(few))
    stopped = run_job(instance)
    assert not stopped.success
    said = [check.description or "" for check in stopped.get_asset_check_evaluations() if not check.passed]
    assert f"Against release {first.name}" in "".join(said)
    monkeypatch.delenv("SEGMENTATION_SOURCE")
    result = run_job(instance)
    assert result.success
    assert shop.releases.current is not None
    assert shop.releases.current.manifest["run_id"] == result.run_id
    assert shop.releases.current.name.startswith("000003-"), "a number is never used twice"
    assert shop.releases.verify()[shop.releases.current.name] == []


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        ("delete from customer_segments where customer_id = '10001'", "segments.duckdb holds 59 rows of customer_segm"),
        ("copy (select 1 as x) to '{building}/rfm_scores.parquet' (format parquet)", "rfm_scores.parquet holds 1 rows"),
        ("drop table segment_profiles", "segments.duckdb cannot be read: Catalog Error"),
    ],
)
def test_current_stays_where_it_is_unless_what_was_written_reads_back_as_it_should(
    shop: Shop, work: duckdb.DuckDBPyConnection, spoil: str, said: str
) -> None:
    """A statement that runs within the new database stands for a disk that lies."""
    _, second = shop.releases.all()
    building = str(shop.releases.folder / ".building-00000003-of-a-test").replace("'", "''")
    with pytest.raises(ReleaseError, match=f"not published: .*{said}"):
        publish(shop, work, 3, macro=spoil.format(building=building))
    assert not list(shop.releases.folder.glob(".*")), "nothing is left of it"
    assert [release.name for release in shop.releases.all()][1:] == [second.name]
    assert shop.releases.current is not None
    assert shop.releases.current.name == second.name
    assert publish(shop, work, 4).name.startswith("000003-")
    assert not list(shop.releases.folder.glob(".*"))


def test_a_damaged_release_is_pruned_with_those_of_its_age_and_takes_nobodys_place(
    shop: Shop, work: duckdb.DuckDBPyConnection
) -> None:
    first, second = shop.releases.all()
    changed(second.folder / "manifest.json", b"{")
    third = publish(shop, work, 3, keep=2)
    assert third.name.startswith("000003-")
    assert [release.name for release in shop.releases.all()] == [first.name, third.name]
    assert list(shop.releases.damaged) == [second.name]
    publish(shop, work, 4, keep=2)
    assert shop.releases.damaged == {}
    assert not second.folder.exists()
    assert len(shop.releases.all()) == 2


def test_the_state_beside_a_release_is_all_that_no_source_gives_back(
    shop: Shop, work: duckdb.DuckDBPyConnection
) -> None:
    [*_, newest] = shop.releases.all()
    with duckdb.connect(str(newest.state), read_only=True) as state:
        tables = {table for (table,) in state.execute("select table_name from duckdb_tables()").fetchall()}
        assert tables == state_selects().keys() == newest.manifest["state"].keys()
        assert tables >= {"segmentation_models", "model_features", "model_centroids", "segments", "segment_membership"}
        for table, select in state_selects().items():
            in_order = f"order by {contracts()[table].key_order}"
            rows = state.execute(f"select * from {table} {in_order}").fetchall()
            assert rows == work.execute(f"select * from ({select}) {in_order}").fetchall()
            assert len(rows) == newest.manifest["state"][table]
    assert "state.duckdb" in newest.manifest["files"]


HOLD = """
import duckdb, sys, time
release = duckdb.connect(sys.argv[1], read_only=True)
release.execute("begin")
release.execute("select * from customer_segments").fetchone()
print("holding", flush=True)
time.sleep(60)
"""


def test_a_consumer_who_dies_holding_a_release_harms_nobody(shop: Shop, work: duckdb.DuckDBPyConnection) -> None:
    [*_, newest] = shop.releases.all()
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, shop.releases.folder / "current" / "segments.duckdb"],
        text=True,
        stdout=subprocess.PIPE,
    ) as consumer:
        assert consumer.stdout is not None
        assert consumer.stdout.readline() == "holding\n"
        publish(shop, work, 3)
        consumer.kill()
    assert {name for name, faults in shop.releases.verify().items() if faults} == set()
    with duckdb.connect(str(newest.database), read_only=True) as other:
        assert other.execute("select count(*) from customer_segments").fetchone() == (60,)
    publish(shop, work, 4, keep=1)
    assert len(shop.releases.all()) == 1


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


def test_the_working_database_and_all_that_is_written_beside_it_are_for_its_owner_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGMENTATION_MEMORY_LIMIT", "40MB")
    work, spill = tmp_path / "work.duckdb", tmp_path / "tmp"
    work_of_before = tmp_path / "older.duckdb"
    duckdb.connect(str(work_of_before)).close()
    work_of_before.chmod(0o644)
    with connection_to(work_of_before, spill, 5, print), connection_to(work, spill, 5, print) as connection:
        connection.execute("create table t as select 1 as x")
        assert mode(tmp_path / "work.duckdb.wal") == 0o600
        assert (mode(work), mode(work_of_before)) == (0o600, 0o600)
        connection.execute("create temp table big as select range as x, hash(range) as y from range(5000000)")
        assert spill.exists(), "the test is of nothing otherwise"
        assert mode(spill) == 0o700
    (tmp_path / "afterwards").touch()
    assert mode(tmp_path / "afterwards") == 0o666 & ~os.umask(os.umask(0o022))


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may be somebody else")


@pytest.fixture
def reachable(shop: Shop) -> Iterator[Shop]:
    """The shop where anybody could come: only the modes of the project itself are in the way."""
    folder = Path(mkdtemp(prefix="reachable-"))
    folder.chmod(0o755)
    shutil.move(shop.data, folder / "data")
    for path in (folder / "data", folder / "data" / "corner_shop"):
        path.chmod(0o755)
    yield Shop(folder / "data", shop.retailer)
    shutil.rmtree(folder)


def as_user(groups: list[int], *command: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*map(str, command)],
        user=NOBODY,
        group=NOBODY,
        extra_groups=groups,
        cwd="/",
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )


# The interpreter may lie where only root comes: it is loaded first, and then somebody else.
READ_AND_WRITE = """
import duckdb, os, sys
duckdb.connect().execute("select 1").fetchall()
os.setgroups([int(sys.argv[2])])
os.setgid(int(sys.argv[3]))
os.setuid(int(sys.argv[3]))
with duckdb.connect(sys.argv[1], read_only=True) as release:
    print(release.execute("select count(*) from customer_segments").fetchone()[0])
try:
    duckdb.connect(sys.argv[1])
except duckdb.Error as error:
    print("refused" if "denied" in str(error) or "read-only" in str(error).lower() else error)
"""


@as_root
def test_a_member_of_the_group_reads_releases_and_changes_none_and_nobody_reads_the_state(reachable: Shop) -> None:
    other = next(group for group in grp.getgrall() if group.gr_gid not in (os.getegid(), NOBODY))
    with duckdb.connect(str(reachable.work)) as work:
        published = reachable.releases.publish(
            work, {}, macros=[], as_of=NOVEMBER, run_id="00000003-of-a-test", keep=14, group=other.gr_name
        )
    current = reachable.releases.folder / "current"
    member, stranger = [other.gr_gid], list[int]()
    for file in sorted(published.folder.iterdir()):
        is_state = file.name == "state.duckdb"
        assert (as_user(member, "cat", current / file.name).returncode == 0) != is_state, file.name
        assert as_user(stranger, "cat", current / file.name).returncode != 0, file.name
        for user in (member, stranger):
            assert as_user(user, "sh", "-c", f"echo x >> '{file}'").returncode != 0, file.name
    assert as_user(member, "touch", published.folder / "segments.duckdb.wal").returncode != 0
    assert as_user(member, "ls", current).returncode == 0
    assert as_user(member, "cat", reachable.work).returncode != 0
    command = [sys.executable, "-c", READ_AND_WRITE, current / "segments.duckdb", other.gr_gid, NOBODY]
    seen = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert seen.stdout.split("\n")[:2] == ["60", "refused"], seen.stderr
    assert reachable.releases.verify()[published.name] == []


def test_without_a_group_of_the_settings_releases_are_for_that_of_the_user(shop: Shop) -> None:
    for release in shop.releases.all():
        assert {mode(path) for path in release.folder.iterdir()} == {0o440, 0o600}
        assert mode(release.folder) == mode(shop.releases.folder) == 0o750
        assert {path.stat().st_gid for path in release.folder.iterdir()} == {os.getegid()}


def test_a_group_that_the_machine_has_not_is_a_sentence_and_nothing_is_published(
    shop: Shop, instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = retailer_file(tmp_path, shop.retailer.parent / "source", release={"group": "no_such_group"})
    monkeypatch.setenv("SEGMENTATION_RETAILER", str(file))
    result = run_job(instance)
    assert not result.success
    [failure] = [event.step_failure_data.user_failure_data for event in result.get_step_failure_events()]
    assert failure is not None
    assert (failure.description or "").startswith("release.group = 'no_such_group': this machine has no such group")
    assert len(shop.releases.all()) == 2
    assert not list(shop.releases.folder.glob(".*"))
