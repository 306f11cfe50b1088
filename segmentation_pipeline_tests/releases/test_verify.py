"""Damage to a release or to `current` is found, reported with the next step, and repaired by the next run."""

import grp
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from tempfile import mkdtemp

import duckdb
import pytest

from segmentation_pipeline.errors import ReleaseError
from segmentation_pipeline.releases.files import Release
from segmentation_pipeline.releases.manifest import write_manifest
from segmentation_pipeline.tables.catalog import contracts, state_selects
from segmentation_pipeline.tables.contract import literal
from segmentation_pipeline.warehouse.connection import connection_to
from segmentation_pipeline_tests.commands import segments
from segmentation_pipeline_tests.scenarios import regular_customers, write_csv
from segmentation_pipeline_tests.shops import SECOND_NIGHT, Shop

NOVEMBER = datetime.fromisoformat("2024-11-01")
NOBODY = 65534
CUSTOMERS = 59


@pytest.fixture(scope="module")
def two_nights(finished_template: Shop, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """A shop with two releases, in a folder whose name needs quoting in SQL and in patterns."""
    shop = finished_template.copy(tmp_path_factory.mktemp("two") / "shop's [1] folder")
    with duckdb.connect(str(shop.work)) as work:
        shop.releases.publish(
            work,
            {"figures": shop.release.metrics},
            macros=[],
            as_of=datetime.fromisoformat(SECOND_NIGHT),
            run_id="00000002-of-a-test",
            keep=14,
        )
    return shop


@pytest.fixture
def shop(two_nights: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """A copy, which the test may damage."""
    shop = two_nights.copy(tmp_path / "shop's [1] copy")
    shop.enter(monkeypatch)
    return shop


@pytest.fixture
def work(shop: Shop) -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(str(shop.work)) as connection:
        yield connection


def publish(shop: Shop, work: duckdb.DuckDBPyConnection, number: int, *, keep: int = 14, macro: str = "") -> Release:
    return shop.releases.publish(
        work, {}, macros=[macro] if macro else [], as_of=NOVEMBER, run_id=f"{number:08d}-of-a-test", keep=keep
    )


def current_name(shop: Shop) -> str:
    return shop.release.name


def write(file: Path, content: bytes) -> None:
    if file.exists():
        file.chmod(0o600)
    file.write_bytes(content)


def flip_a_byte(release: Release, name: str) -> None:
    content = (release.folder / name).read_bytes()
    middle = len(content) // 2
    write(release.folder / name, content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])


def edit_manifest(release: Release, **entries: object) -> None:
    """Change entries, and leave the digest as it was."""
    write(release.folder / "manifest.json", json.dumps({**release.manifest, **entries}).encode())


def remove_digest(release: Release, **entries: object) -> None:
    """Change entries of a manifest as an early version wrote it."""
    manifest = {key: value for key, value in release.manifest.items() if key != "digest"} | entries
    write(release.folder / "manifest.json", json.dumps(manifest).encode())


def add_table(release: Release, table: str) -> None:
    """List a table in the manifest that the database does not have."""
    (release.folder / "manifest.json").chmod(0o600)
    entries = {key: value for key, value in release.manifest.items() if key != "digest"}
    write_manifest(release.folder, entries | {"tables": {**release.manifest["tables"], table: 1}})


def test_intact_releases_are_verified(shop: Shop) -> None:
    ended = segments(shop, "releases", "verify")
    names = [release.name for release in shop.releases.all()]
    assert (ended.code, ended.errors) == (0, "")
    assert ended.stdout.splitlines() == [*(f"{name} is intact" for name in names), f"current links to {names[-1]}"]
    ended = segments(shop, "releases", "verify", names[0])
    assert ended.stdout.splitlines() == [f"{names[0]} is intact", f"current links to {names[-1]}"]


def test_verifying_an_unknown_release_is_an_error(shop: Shop, tmp_path: Path) -> None:
    ended = segments(shop, "releases", "verify", "000009-x")
    assert (ended.code, ended.stdout) == (2, "")
    assert "no release '000009-x'; there are: 000001-20241019-" in ended.errors
    ended = segments(shop, "releases", "verify", SEGMENTATION_DATA=str(tmp_path / "nothing"))
    assert (ended.code, ended.stdout) == (2, "")
    assert "yet; `segments run` publishes the first" in ended.errors


DAMAGES: dict[str, tuple[Callable[[Release], object], list[str]]] = {
    "a byte of the database": (
        lambda release: flip_a_byte(release, "segments.duckdb"),
        ["segments.duckdb was changed after it was published: its checksum does not match"],
    ),
    "a byte of the state": (
        lambda release: flip_a_byte(release, "state.duckdb"),
        ["state.duckdb was changed after it was published: its checksum does not match"],
    ),
    "a truncated file": (
        lambda release: write(release.folder / "rfm_scores.parquet", b"PAR1"),
        ["rfm_scores.parquet has 4 bytes, but "],
    ),
    "no state": (lambda release: (release.folder / "state.duckdb").unlink(), ["state.duckdb is missing"]),
    "the log of a writer": (
        lambda release: write(release.folder / "segments.duckdb.wal", b"x"),
        ["segments.duckdb.wal does not belong to the release"],
    ),
    "no manifest": (lambda release: (release.folder / "manifest.json").unlink(), ["manifest.json is missing"]),
    "a truncated manifest": (
        lambda release: write(release.folder / "manifest.json", b'{"release": '),
        ["manifest.json is not valid JSON: "],
    ),
    "another manifest": (
        lambda release: write(release.folder / "manifest.json", b"[1]"),
        ["manifest.json is not a JSON object"],
    ),
    "a manifest of zeros": (
        lambda release: write(release.folder / "manifest.json", bytes(100)),
        ["manifest.json is not valid JSON: "],
    ),
    "an empty manifest": (
        lambda release: write(release.folder / "manifest.json", b"{}"),
        ["manifest.json has no as_of, contract_version, figures, files, "],
    ),
    "an edited manifest": (
        lambda release: edit_manifest(release, figures={"customers": 9}),
        ["manifest.json was changed after it was published: its digest does not match"],
    ),
    "a wrong count without a digest": (
        lambda release: remove_digest(release, tables={**release.manifest["tables"], "customer_segments": 61}),
        [
            f"customer_segments.parquet holds {CUSTOMERS} rows of customer_segments, but manifest.json says 61",
            f"segments.duckdb holds {CUSTOMERS} rows of customer_segments, but manifest.json says 61",
        ],
    ),
    "a missing table": (
        lambda release: add_table(release, "no_such_table"),
        ["segments.duckdb cannot be read: Catalog Error"],
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_found_and_prevents_a_rollback(shop: Shop, damage: str) -> None:
    change, messages = DAMAGES[damage]
    first, second = shop.releases.all()
    change(first)
    errors = shop.releases.verify()
    assert errors[second.name] == []
    assert len(errors[first.name]) == len(messages)
    for error, message in zip(errors[first.name], messages, strict=True):
        assert message in error
    with pytest.raises(ReleaseError, match=f"release {first.name} is damaged: .*verify. checks all releases"):
        shop.releases.rollback(first.name)
    assert shop.releases.paused_at is None
    assert current_name(shop) == second.name


def test_verify_reports_errors_with_the_next_step(shop: Shop) -> None:
    first, second = shop.releases.all()
    flip_a_byte(second, "segments.duckdb")
    write(first.folder / "manifest.json", b"{")
    ended = segments(shop, "releases", "verify")
    assert (ended.code, ended.stdout) == (1, f"current links to {second.name}\n")
    assert f"{first.name} is damaged: manifest.json is not valid JSON" in ended.errors
    assert (
        "Consumers do not see it. Do not roll back to it. A later run prunes it, or delete its folder." in ended.errors
    )
    assert f"{second.name} is damaged: segments.duckdb was changed after it was published" in ended.errors
    assert "Roll back to an intact release with `segments releases rollback NAME`" in ended.errors
    assert segments(shop, "releases", "verify", first.name).code == 1


def test_the_list_of_releases_names_damaged_ones(shop: Shop) -> None:
    first, second = shop.releases.all()
    write(first.folder / "manifest.json", b"{")
    ended = segments(shop, "releases")
    assert ended.code == 0
    printed = " ".join(ended.stdout.split())
    assert f"{first.name} is damaged: manifest.json is not valid JSON" in printed
    assert f"* {second.name}" in printed


def replace_by_a_copy(link: Path) -> None:
    """Replace the link as a copy does that follows links."""
    shutil.copytree(link.resolve(), link.with_name("copy"))
    link.unlink()
    link.with_name("copy").rename(link)


def replace_by_a_file(link: Path) -> None:
    link.unlink()
    link.write_text("000001", "utf-8")


def redirect(link: Path, target: Path | str) -> None:
    link.unlink()
    link.symlink_to(target)


BROKEN_LINKS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda link: link.unlink(), "current is missing"),
    "dangling": (lambda link: redirect(link, "000000-x"), "current links to 000000-x, which does not exist"),
    "a folder": (replace_by_a_copy, "current is not a link: something, perhaps a copy of a release, replaced it"),
    "a file": (replace_by_a_file, "current is not a link"),
    "elsewhere": (lambda link: redirect(link, "/"), "current links to /: not a release of this folder"),
    "circular": (lambda link: redirect(link, "current"), "current links to current, which does not exist"),
    "to a damaged manifest": (
        lambda link: write(link.resolve() / "manifest.json", b"{"),
        "manifest.json is not valid JSON",
    ),
}


@pytest.mark.parametrize("broken", BROKEN_LINKS)
def test_the_next_release_repairs_current(shop: Shop, work: duckdb.DuckDBPyConnection, broken: str) -> None:
    change, message = BROKEN_LINKS[broken]
    assert shop.releases.current_error == ""
    change(shop.releases.folder / "current")
    assert message in shop.releases.current_error
    assert shop.releases.current is None
    published = publish(shop, work, 3)
    assert current_name(shop) == published.name
    assert (shop.releases.folder / "current").is_symlink()
    assert shop.releases.current_error == ""


def test_a_repair_keeps_what_replaced_current(shop: Shop, work: duckdb.DuckDBPyConnection) -> None:
    for number in (3, 4):
        replace_by_a_copy(shop.releases.folder / "current")
        publish(shop, work, number)
    names = sorted(path.name for path in shop.releases.folder.glob("current*"))
    assert names == ["current", "current.set-aside", "current.set-aside-2"]
    assert (shop.releases.folder / "current.set-aside" / "segments.duckdb").is_file()


def test_commands_report_a_missing_current_and_resume_repairs_it(shop: Shop) -> None:
    (shop.releases.folder / "current").unlink()
    verified = segments(shop, "releases", "verify")
    assert verified.code == 1
    assert "No release is current: current is missing. The next `segments run` that publishes repairs it" in (
        verified.errors
    )
    assert "No release is current: current is missing." in " ".join(segments(shop, "releases").stdout.split())
    shown = segments(shop, "show")
    assert shown.code == 2
    assert "current is missing. Run `segments releases verify` for the next step" in shown.errors
    assert segments(shop, "releases", "resume").code == 0
    assert segments(shop, "releases", "verify").code == 0


def test_a_missing_current_returns_to_the_paused_release(shop: Shop, work: duckdb.DuckDBPyConnection) -> None:
    first, second = shop.releases.all()
    shop.releases.rollback(first.name)
    (shop.releases.folder / "current").unlink()
    third = publish(shop, work, 3)
    assert current_name(shop) == first.name
    shutil.rmtree(first.folder)
    fourth = publish(shop, work, 4)
    assert current_name(shop) == fourth.name, "the release to pause at does not exist any more"
    assert [release.name for release in shop.releases.all()] == [second.name, third.name, fourth.name]


def test_a_run_is_compared_with_the_newest_intact_release(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Compared with the edited manifest, every run would be a fall of customers; the run repairs `current`."""
    first, second = shop.releases.all()
    edit_manifest(second, figures={**second.metrics, "customers": 1_000_000, "revenue": "1e9"})
    few = write_csv(tmp_path / "few" / "a.csv", regular_customers(20)).parent
    monkeypatch.setenv("SEGMENTATION_SOURCE", str(few))
    stopped = shop.run()
    assert not stopped.success
    messages = [check.description or "" for check in stopped.get_asset_check_evaluations() if not check.passed]
    assert f"Compared with release {first.name}" in "".join(messages)
    monkeypatch.delenv("SEGMENTATION_SOURCE")
    result = shop.run()
    assert result.success
    assert shop.release.manifest["run_id"] == result.run_id
    assert current_name(shop).startswith("000003-"), "a sequence number is never used twice"
    assert shop.releases.verify()[current_name(shop)] == []


def test_a_release_that_reads_back_differently_is_not_published(shop: Shop, work: duckdb.DuckDBPyConnection) -> None:
    """A statement that runs in the new database stands for a disk that loses what was written."""
    _, second = shop.releases.all()
    building = shop.releases.folder / ".building-00000003-of-a-test" / f"000003-{NOVEMBER:%Y%m%d}-00000003"
    messages = {
        "delete from customer_segments where customer_id = '10001'": (
            f"segments.duckdb holds {CUSTOMERS - 1} rows of customer_segments"
        ),
        f"copy (select 1 as x) to {literal(f'{building}/rfm_scores.parquet')} (format parquet)": (
            "rfm_scores.parquet holds 1 rows"
        ),
        "drop table segment_profiles": "segments.duckdb cannot be read: Catalog Error",
    }
    for statement, message in messages.items():
        with pytest.raises(ReleaseError, match=f"was not published: .*{message}"):
            publish(shop, work, 3, macro=statement)
        assert not list(shop.releases.folder.glob(".*")), "nothing of it is left"
        assert [release.name for release in shop.releases.all()][1:] == [second.name]
        assert current_name(shop) == second.name
    assert publish(shop, work, 4).name.startswith("000003-")
    assert not list(shop.releases.folder.glob(".*"))


def test_a_damaged_release_is_pruned_by_age(shop: Shop, work: duckdb.DuckDBPyConnection) -> None:
    """It does not count among the releases to keep."""
    first, second = shop.releases.all()
    write(second.folder / "manifest.json", b"{")
    third = publish(shop, work, 3, keep=2)
    assert third.name.startswith("000003-")
    assert [release.name for release in shop.releases.all()] == [first.name, third.name]
    assert list(shop.releases.damaged) == [second.name]
    publish(shop, work, 4, keep=2)
    assert shop.releases.damaged == {}
    assert not second.folder.exists()
    assert len(shop.releases.all()) == 2


def test_the_state_holds_all_that_cannot_be_derived(shop: Shop, work: duckdb.DuckDBPyConnection) -> None:
    release = shop.release
    with duckdb.connect(str(release.state), read_only=True) as state:
        tables = {table for (table,) in state.execute("select table_name from duckdb_tables()").fetchall()}
        assert tables == state_selects().keys() == release.manifest["state"].keys()
        assert tables >= {"segmentation_models", "model_features", "model_centroids", "segments", "segment_membership"}
        for table, select in state_selects().items():
            order = f"order by {contracts()[table].key_order}"
            rows = state.execute(f"select * from {table} {order}").fetchall()
            assert rows == work.execute(f"select * from ({select}) {order}").fetchall()
            assert len(rows) == release.manifest["state"][table]
    assert "state.duckdb" in release.manifest["files"]


HOLD = """
import duckdb, sys, time
release = duckdb.connect(sys.argv[1], read_only=True)
release.execute("begin")
release.execute("select * from customer_segments").fetchone()
print("holding", flush=True)
time.sleep(60)
"""


def test_a_consumer_that_dies_with_a_release_open_harms_nobody(shop: Shop, work: duckdb.DuckDBPyConnection) -> None:
    release = shop.release
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, shop.releases.folder / "current" / "segments.duckdb"],
        text=True,
        stdout=subprocess.PIPE,
    ) as consumer:
        assert consumer.stdout is not None
        assert consumer.stdout.readline() == "holding\n"
        publish(shop, work, 3)
        consumer.kill()
    assert {name for name, errors in shop.releases.verify().items() if errors} == set()
    with duckdb.connect(str(release.database), read_only=True) as other:
        assert other.execute("select count(*) from customer_segments").fetchone() == (CUSTOMERS,)
    publish(shop, work, 4, keep=1)
    assert len(shop.releases.all()) == 1


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


def test_only_the_owner_reads_the_working_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same holds for everything that DuckDB writes beside it."""
    monkeypatch.setenv("SEGMENTATION_MEMORY_LIMIT", "80MB")
    database, spill = tmp_path / "work.duckdb", tmp_path / "tmp"
    earlier = tmp_path / "earlier.duckdb"
    duckdb.connect(str(earlier)).close()
    earlier.chmod(0o644)
    with connection_to(earlier, spill, 5, print), connection_to(database, spill, 5, print) as connection:
        connection.execute("create table t as select 1 as x")
        assert mode(tmp_path / "work.duckdb.wal") == 0o600
        assert (mode(database), mode(earlier)) == (0o600, 0o600)
        connection.execute("create temp table big as select range as x, hash(range) as y from range(5000000)")
        assert spill.exists(), "DuckDB spilled nothing, so the test shows nothing"
        assert mode(spill) == 0o700
    (tmp_path / "afterwards").touch()
    assert mode(tmp_path / "afterwards") == 0o666 & ~os.umask(os.umask(0o022))


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")


@pytest.fixture
def reachable(shop: Shop) -> Iterator[Shop]:
    """The shop in a folder that every user may enter, so that only the modes of the project protect it."""
    folder = Path(mkdtemp(prefix="reachable-"))
    reachable = Shop(folder / "shop")
    shutil.move(shop.folder, reachable.folder)
    for path in (folder, reachable.folder, reachable.data, reachable.folders.root):
        path.chmod(0o755)
    yield reachable
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


def files_for_which(groups: list[int], command: str, files: list[Path]) -> list[Path]:
    """Return the files for which a shell command of another user succeeds."""
    loop = f'for file; do ( {command} ) > /dev/null 2>&1 && echo "$file"; done; true'
    ended = as_user(groups, "sh", "-c", loop, "sh", *files)
    assert ended.returncode == 0, ended.stderr
    return [Path(file) for file in ended.stdout.splitlines()]


# DuckDB is imported first, since only root may be able to read the interpreter's folder.
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
    print("rejected" if "denied" in str(error) or "read-only" in str(error).lower() else error)
"""


@as_root
def test_the_group_reads_a_release_but_not_its_state(reachable: Shop) -> None:
    """Others read nothing, and nobody but the owner changes a release."""
    other = next(group for group in grp.getgrall() if group.gr_gid not in (os.getegid(), NOBODY))
    with duckdb.connect(str(reachable.work)) as work:
        published = reachable.releases.publish(
            work, {}, macros=[], as_of=NOVEMBER, run_id="00000003-of-a-test", keep=14, group=other.gr_name
        )
    current = reachable.releases.folder / "current"
    member, stranger = [other.gr_gid], list[int]()
    files = sorted(published.folder.iterdir())
    readable, writable = 'cat "$file"', 'echo x >> "$file"'
    assert files_for_which(member, readable, files) == [file for file in files if file.name != "state.duckdb"]
    assert files_for_which(stranger, readable, files) == []
    for user in (member, stranger):
        assert files_for_which(user, writable, files) == []
    assert as_user(member, "touch", published.folder / "segments.duckdb.wal").returncode != 0
    assert as_user(member, "ls", current).returncode == 0
    assert as_user(member, "cat", reachable.work).returncode != 0
    command = [sys.executable, "-c", READ_AND_WRITE, current / "segments.duckdb", other.gr_gid, NOBODY]
    ended = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert ended.stdout.split("\n")[:2] == [str(CUSTOMERS), "rejected"], ended.stderr
    assert reachable.releases.verify()[published.name] == []


def test_by_default_the_users_group_reads_releases(shop: Shop) -> None:
    for release in shop.releases.all():
        assert {mode(path) for path in release.folder.iterdir()} == {0o440, 0o600}
        assert mode(release.folder) == mode(shop.releases.folder) == 0o750
        assert {path.stat().st_gid for path in release.folder.iterdir()} == {os.getegid()}


def test_an_unknown_group_is_an_error_and_nothing_is_published(shop: Shop) -> None:
    shop.configure(rfm={"look_back_days": 200}, release={"group": "no_such_group"})
    result = shop.run(assets=["release"])
    assert not result.success
    [failure] = [event.step_failure_data.user_failure_data for event in result.get_step_failure_events()]
    assert failure is not None
    assert (failure.description or "").startswith("release.group = 'no_such_group': this machine has no such group")
    assert len(shop.releases.all()) == 2
    assert not list(shop.releases.folder.glob(".*"))
