"""What a night brings: faults of the machine that pass, and those that do not. The release of before stands."""

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import dagster as dg
import duckdb
import pytest

from segmentation_pipeline.orchestration import sql_assets
from segmentation_pipeline.orchestration.instance import prepare
from segmentation_pipeline.releases.files import Release
from segmentation_pipeline.releases.store import Releases
from segmentation_pipeline_tests.defs.test_automation import failure_message
from segmentation_pipeline_tests.orchestration.test_alerts import webhook
from segmentation_pipeline_tests.scenarios import line, regular_customers, retailer_file, run_job, write_csv

SEGMENTS = Path(sys.executable).with_name("segments")
LIBC = ctypes.CDLL(None, use_errno=True)
DETACH, READ_ONLY, REMOUNT = 2, 1, 32
ONLY_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")
RETRIED = dg.DagsterEventType.STEP_UP_FOR_RETRY


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sql_assets, "_SECONDS_BETWEEN", 1.0)
    folder = write_csv(tmp_path / "source" / "a.csv", regular_customers()).parent
    monkeypatch.setenv("SEGMENTATION_RETAILER", str(retailer_file(tmp_path, folder)))
    return folder


@pytest.fixture
def releases(source: Path, data_folder: Path) -> Releases:
    return Releases(data_folder / "corner_shop" / "releases")


@contextmanager
def mounted(what: str, folder: Path, options: str) -> Iterator[Callable[[], None]]:
    """A file system of the kernel's over a folder; gives what takes it away."""
    kind, descriptor = what, -1
    if what == "dead share":
        # As of a network file system whose server died: every access says that it is not connected.
        kind, descriptor = "fuse", os.open("/dev/fuse", os.O_RDWR)
        options = f"fd={descriptor},rootmode=40000,user_id=0,group_id=0"
    done = LIBC.mount(b"test", str(folder).encode(), kind.encode(), 0, options.encode())
    if descriptor >= 0:
        os.close(descriptor)
    if done:
        pytest.skip(f"this machine mounts no {kind}: {os.strerror(ctypes.get_errno())}")
    gone = Event()

    def take_away() -> None:
        if not gone.is_set():
            LIBC.umount2(str(folder).encode(), DETACH)
            gone.set()

    try:
        yield take_away
    finally:
        take_away()


@contextmanager
def at_first_retry(instance: dg.DagsterInstance, action: Callable[[], None]) -> Iterator[None]:
    """While a run waits to try again, something happens."""
    over, before = Event(), len(instance.get_runs())

    def watch() -> None:
        while not over.wait(0.05):
            runs = instance.get_runs()
            if len(runs) > before and instance.all_logs(runs[0].run_id, of_type=RETRIED):
                action()
                return

    thread = Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def retries(result: dg.ExecuteInProcessResult) -> list[str | None]:
    return [event.step_key for event in result.all_events if event.event_type == RETRIED]


@ONLY_ROOT
@pytest.mark.skipif(not Path("/dev/fuse").exists(), reason="no FUSE")
def test_a_share_that_comes_back_costs_a_retry_and_one_that_does_not_fails_the_run_with_a_sentence(
    source: Path, releases: Releases, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mounted("dead share", source, "") as take_away:
        monkeypatch.setattr(sql_assets, "_SECONDS_BETWEEN", 0.0)
        result = run_job(instance)
        assert not result.success
        said = failure_message(result, "raw_transactions")
        assert f"Transport endpoint is not connected: '{source}'" in said
        assert "that this user may read the source" in said
        assert retries(result) == ["raw_transactions"] * sql_assets.RETRIES
        monkeypatch.setattr(sql_assets, "_SECONDS_BETWEEN", 1.0)
        with at_first_retry(instance, take_away):
            result = run_job(instance)
    assert result.success
    assert retries(result) == ["raw_transactions"]
    assert len(releases.all()) == 1


@ONLY_ROOT
def test_a_folder_that_is_busy_for_a_moment_is_tried_again_and_a_release_follows(
    source: Path, releases: Releases, instance: dg.DagsterInstance
) -> None:
    rest = releases.folder / ".building-of-a-run-that-died"
    rest.mkdir(parents=True)
    with mounted("tmpfs", rest, "size=1m") as take_away, at_first_retry(instance, take_away):
        result = run_job(instance)
    assert result.success
    assert retries(result) == ["release"]
    assert releases.current is not None


def test_bad_data_is_not_tried_again(source: Path, releases: Releases, instance: dg.DagsterInstance) -> None:
    assert run_job(instance).success
    [before] = releases.all()
    write_csv(source / "a.csv", [line(invoice="none", description="Input/output error")])
    broken = run_job(instance)
    write_csv(source / "a.csv", regular_customers(2))
    held = run_job(instance)
    (source / "a.csv").write_text("nothing of this\nis a transaction\n", "utf-8")
    unread = run_job(instance)
    for result in (broken, held, unread):
        assert not result.success
        assert retries(result) == []
    assert releases.all() == [before]


def remounted(folder: Path, *, read_only: bool) -> None:
    assert not LIBC.mount(None, str(folder).encode(), None, REMOUNT | (READ_ONLY if read_only else 0), None)


def tables_of(releases: Releases) -> dict[str, str]:
    """Each table of the working database as text."""
    with duckdb.connect(str(releases.folder.parent / "work.duckdb")) as connection:
        names = connection.execute("select table_name from duckdb_tables() order by 1").fetchall()
        return {name: repr(connection.execute(f'from "{name}" order by all').fetchall()) for (name,) in names}


def bytes_of(release: Release | None) -> dict[str, bytes]:
    assert release is not None
    return {path.name: path.read_bytes() for path in release.folder.iterdir()}


def said_by(result: dg.ExecuteInProcessResult) -> str:
    """The sentences of all steps that failed; no step may fail without one."""
    assert not result.success
    failed = {event.step_key: event.step_failure_data.user_failure_data for event in result.get_step_failure_events()}
    return " ".join(f"{step}: {why.description if why else 'A TRACEBACK'}" for step, why in failed.items())


@ONLY_ROOT
def test_a_full_disk_fails_the_run_with_a_sentence_wherever_it_fills_up_and_the_next_run_is_good(
    source: Path, releases: Releases, data_folder: Path, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    data_folder.mkdir()
    with mounted("tmpfs", data_folder, "size=64m"):
        assert run_job(instance).success
        first, old = bytes_of(releases.current), tables_of(releases)
        write_csv(source / "b.csv", [line(invoice="600001", at="2024-10-28 08:00:00", customer="10001")])
        wholly = [old]
        stopped_at = []
        for room in (0, 3_000_000, 7_000_000):
            free = os.statvfs(data_folder).f_bavail * os.statvfs(data_folder).f_frsize
            (data_folder / "filler").write_bytes(b"\1" * (free - room))
            result = run_job(instance)
            said = said_by(result)
            stopped_at.append(said.split(":")[0])
            assert "A TRACEBACK" not in said
            assert "See that disk and memory have room" in said
            assert bytes_of(releases.current) == first
            (data_folder / "filler").unlink()
            wholly.append(tables_of(releases))
        assert run_job(instance).success
        new = tables_of(releases)
    assert [name for left in wholly for name, text in left.items() if text not in (old.get(name), new.get(name))] == []
    assert len(set(stopped_at)) > 1, stopped_at


@ONLY_ROOT
def test_a_disk_that_became_read_only_fails_the_run_with_a_sentence_and_the_next_run_is_good(
    source: Path, releases: Releases, data_folder: Path, instance: dg.DagsterInstance
) -> None:
    data_folder.mkdir()
    with mounted("tmpfs", data_folder, "size=64m"):
        assert run_job(instance).success
        first = bytes_of(releases.current)
        remounted(data_folder, read_only=True)
        said = said_by(run_job(instance))
        assert "Read-only file system" in said
        assert f"write to {data_folder}" in said
        assert "A TRACEBACK" not in said
        assert bytes_of(releases.current) == first
        remounted(data_folder, read_only=False)
        assert run_job(instance).success


@ONLY_ROOT
@pytest.mark.parametrize("fault", ["full", "read-only"])
def test_a_disk_on_which_dagster_cannot_keep_its_books_is_a_sentence_and_the_webhook_hears_of_it(
    source: Path, data_folder: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    data_folder.mkdir()
    with mounted("tmpfs", data_folder, "size=2m"), webhook() as heard:
        monkeypatch.setenv("DAGSTER_HOME", str(data_folder / "dagster"))
        monkeypatch.setenv("SEGMENTATION_WEBHOOK", heard.address)
        prepare()
        with dg.DagsterInstance.get() as home:
            home.get_runs()
        if fault == "full":
            (data_folder / "filler").write_bytes(
                b"\1" * (os.statvfs(data_folder).f_bavail * os.statvfs(data_folder).f_frsize)
            )
        else:
            (data_folder / "runs").mkdir()
            remounted(data_folder, read_only=True)
        ran = subprocess.run([SEGMENTS, "run"], capture_output=True, text=True, check=False)
    assert ran.returncode == 1, ran.stderr
    said = " ".join(ran.stderr.split())
    assert "Dagster could not keep the books of the run" in said
    assert "Traceback" not in ran.stdout + ran.stderr
    assert len(heard.told) == 1
    assert heard.texts[0].startswith("A run of `segments` failed: ")


def test_a_source_that_is_gone_fails_the_run_with_a_sentence(
    source: Path, releases: Releases, instance: dg.DagsterInstance
) -> None:
    assert run_job(instance).success
    first = bytes_of(releases.current)
    source.rename(source.with_name("elsewhere"))
    assert f"source.path: nothing to read at {source}" in said_by(run_job(instance))
    assert bytes_of(releases.current) == first


def test_a_memory_limit_below_the_size_of_the_data_is_kept_to_by_spilling_and_changes_nothing(
    source: Path, releases: Releases, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [
        (f"{100000 + number % 900000}", f"{10000 + number % 89999}", "A LANTERN WITH A LONG NAME " * 3, *rest)
        for number, (_, _, _, *rest) in enumerate(regular_customers() * 700)
    ]
    write_csv(source / "a.csv", lines)
    monkeypatch.setenv("SEGMENTATION_MEMORY_LIMIT", "60MB")
    seen = set[str]()
    over, spill = Event(), releases.folder.parent / "tmp"

    def watch() -> None:
        while not over.wait(0.01):
            # A database that files are read into spills in its own folder, which comes and goes meanwhile.
            seen.update(name for _, _, names in os.walk(spill) for name in names if name.startswith("duckdb_temp"))

    thread = Thread(target=watch, daemon=True)
    thread.start()
    result = run_job(instance)
    over.set()
    thread.join()
    assert result.success, said_by(result)
    assert seen, "it never spilled: the limit is above what the data need"
    limited = tables_of(releases)
    monkeypatch.delenv("SEGMENTATION_MEMORY_LIMIT")
    assert run_job(instance).success
    assert tables_of(releases) == limited


@pytest.mark.parametrize(("limit", "wanted"), [("much", "no amount of memory, such as 4GB"), ("1MB", "memory")])
def test_a_memory_limit_that_is_none_or_too_small_is_a_sentence(
    source: Path,
    releases: Releases,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
    limit: str,
    wanted: str,
) -> None:
    assert run_job(instance).success
    first = bytes_of(releases.current)
    monkeypatch.setenv("SEGMENTATION_MEMORY_LIMIT", limit)
    said = said_by(run_job(instance))
    assert wanted in said
    assert "A TRACEBACK" not in said
    assert bytes_of(releases.current) == first


LOOK = "import duckdb, sys; held = duckdb.connect(sys.argv[1], read_only=True); print('open', flush=True); input()"


def test_a_run_waits_for_somebody_who_looks_into_the_working_database_and_says_for_whom(
    source: Path, releases: Releases, instance: dg.DagsterInstance
) -> None:
    assert run_job(instance).success
    said = list[str]()
    command = [sys.executable, "-c", LOOK, str(releases.folder.parent / "work.duckdb")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as looker:
        assert looker.stdout is not None
        assert looker.stdout.readline() == "open\n"

        def close_when_asked() -> None:
            over = Event()
            while not over.wait(0.05):
                run = instance.get_runs(limit=1)[0]
                waits = [e.user_message for e in instance.all_logs(run.run_id) if "waiting for" in e.user_message]
                if waits:
                    said.extend(waits)
                    looker.communicate("")
                    return

        thread = Thread(target=close_when_asked, daemon=True)
        thread.start()
        result = run_job(instance)
        thread.join()
    assert result.success
    [told] = said
    assert told.startswith("waiting for another program that has the working database open: ")
    assert f"PID {looker.pid}" in told
