"""Tests of errors of the machine: which are retried, what the message says, and that the release stays intact."""

import ctypes
import os
import shutil
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
from segmentation_pipeline_tests.commands import segments
from segmentation_pipeline_tests.defs.test_automation import failure_message
from segmentation_pipeline_tests.orchestration.test_alerts import webhook
from segmentation_pipeline_tests.scenarios import assets_up_to, line, regular_customers, run_job, write_csv
from segmentation_pipeline_tests.shops import Shop

LIBC = ctypes.CDLL(None, use_errno=True)
DETACH, READ_ONLY, REMOUNT = 2, 1, 32
ONLY_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount file systems")
RETRIED = dg.DagsterEventType.STEP_UP_FOR_RETRY
LOADING = assets_up_to("raw_transactions")


@pytest.fixture
def source(finished_shop: Shop, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The source of a shop with a release."""
    monkeypatch.setattr(sql_assets, "_RETRY_SECONDS", 1.0)
    return finished_shop.source


@pytest.fixture
def releases(finished_shop: Shop) -> Releases:
    return finished_shop.releases


@pytest.fixture
def small_disk(finished_template: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    """A shop with a release whose data folder is a file system of 64 MB."""
    monkeypatch.setattr(sql_assets, "_RETRY_SECONDS", 1.0)
    (tmp_path / "data").mkdir()
    with mounted("tmpfs", tmp_path / "data", "size=64m"):
        shop = finished_template.copy(tmp_path)
        shop.enter(monkeypatch)
        yield shop


@contextmanager
def mounted(name: str, folder: Path, options: str) -> Iterator[Callable[[], None]]:
    """Mount a file system over a folder, and yield the function that unmounts it."""
    kind, descriptor = name, -1
    if name == "dead share":
        # Like a network file system whose server died: every access fails with "not connected".
        kind, descriptor = "fuse", os.open("/dev/fuse", os.O_RDWR)
        options = f"fd={descriptor},rootmode=40000,user_id=0,group_id=0"
    done = LIBC.mount(b"test", str(folder).encode(), kind.encode(), 0, options.encode())
    if descriptor >= 0:
        os.close(descriptor)
    if done:
        pytest.skip(f"cannot mount {kind}: {os.strerror(ctypes.get_errno())}")
    unmounted = Event()

    def unmount() -> None:
        if not unmounted.is_set():
            LIBC.umount2(str(folder).encode(), DETACH)
            unmounted.set()

    try:
        yield unmount
    finally:
        unmount()


@contextmanager
def at_first_retry(instance: dg.DagsterInstance, action: Callable[[], None]) -> Iterator[None]:
    """Call an action while the next run waits for its first retry."""
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
@pytest.mark.skipif(not Path("/dev/fuse").exists(), reason="FUSE is not available")
def test_unavailable_share_is_retried_then_fails_with_a_message(
    source: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mounted("dead share", source, "") as unmount:
        monkeypatch.setattr(sql_assets, "_RETRY_SECONDS", 0.0)
        result = run_job(instance, assets=LOADING)
        assert not result.success
        message = failure_message(result, "raw_transactions")
        assert f"Transport endpoint is not connected: '{source}'" in message
        assert "that this user can read the source" in message
        assert retries(result) == ["raw_transactions"] * sql_assets.RETRIES
        monkeypatch.setattr(sql_assets, "_RETRY_SECONDS", 1.0)
        with at_first_retry(instance, unmount):
            result = run_job(instance, assets=LOADING)
    assert result.success
    assert retries(result) == ["raw_transactions"]


@ONLY_ROOT
def test_busy_folder_is_retried_until_the_release_is_published(
    source: Path, releases: Releases, instance: dg.DagsterInstance
) -> None:
    leftover = releases.folder / ".building-of-a-run-that-died"
    leftover.mkdir(parents=True)
    with mounted("tmpfs", leftover, "size=1m") as unmount, at_first_retry(instance, unmount):
        result = run_job(instance, assets=["release"])
    assert result.success
    assert retries(result) == ["release"]
    assert len(releases.all()) == 2


def test_invalid_data_is_not_retried(source: Path, releases: Releases) -> None:
    [before] = releases.all()
    write_csv(source / "a.csv", [line(invoice="none", description="Input/output error")])
    rejected = run_job()
    write_csv(source / "a.csv", regular_customers(2))
    too_little = run_job()
    (source / "a.csv").write_text("nothing of this\nis a transaction\n", "utf-8")
    unreadable = run_job()
    for result in (rejected, too_little, unreadable):
        assert not result.success
        assert retries(result) == []
    assert releases.all() == [before]


def remount(folder: Path, *, read_only: bool) -> None:
    assert not LIBC.mount(None, str(folder).encode(), None, REMOUNT | (READ_ONLY if read_only else 0), None)


def tables_of(releases: Releases) -> dict[str, str]:
    """Return each table of the working database as text.

    `table_versions` is left out: a table can be derived from other inputs and still have the same rows.
    """
    with duckdb.connect(str(releases.folder.parent / "work.duckdb")) as connection:
        names = connection.execute(
            "select table_name from duckdb_tables() where table_name <> 'table_versions' order by 1"
        ).fetchall()
        return {name: repr(connection.execute(f'from "{name}" order by all').fetchall()) for (name,) in names}


def bytes_of(release: Release | None) -> dict[str, bytes]:
    assert release is not None
    return {path.name: path.read_bytes() for path in release.folder.iterdir()}


def failure_messages(result: dg.ExecuteInProcessResult) -> str:
    """Return the messages of all failed steps; NO MESSAGE for a step that failed with another exception."""
    assert not result.success
    failed = {event.step_key: event.step_failure_data.user_failure_data for event in result.get_step_failure_events()}
    return " ".join(f"{step}: {data.description if data else 'NO MESSAGE'}" for step, data in failed.items())


def test_too_little_memory_names_the_setting_that_gives_more() -> None:
    """A full disk is no reason to give DuckDB more memory."""
    for error, is_named in ((duckdb.OutOfMemoryException("no memory"), True), (OSError("no space"), False)):
        with pytest.raises(dg.Failure) as failure, sql_assets.report_user_errors():
            raise error
        assert ("SEGMENTATION_MEMORY_LIMIT" in str(failure.value.description)) == is_named


@ONLY_ROOT
def test_full_disk_fails_with_a_message_until_it_has_space(small_disk: Shop) -> None:
    """The disk fills up at different steps; each table is then the old or the new one, and never a part of one."""
    data, releases = small_disk.data, small_disk.releases
    first, old = bytes_of(releases.current), tables_of(releases)
    write_csv(small_disk.source / "b.csv", [line(invoice="600001", at="2024-10-28 08:00:00", customer="10001")])
    states = [old]
    failed_steps = []
    for space in (0, 3_000_000, 7_000_000):
        free = os.statvfs(data).f_bavail * os.statvfs(data).f_frsize
        (data / "filler").write_bytes(b"\1" * (free - space))
        result = run_job()
        message = failure_messages(result)
        failed_steps.append(message.split(":")[0])
        assert "NO MESSAGE" not in message
        assert "Check the free disk space and memory" in message
        assert bytes_of(releases.current) == first
        (data / "filler").unlink()
        states.append(tables_of(releases))
    assert run_job().success
    new = tables_of(releases)
    partial = [name for state in states for name, text in state.items() if text not in (old.get(name), new.get(name))]
    assert partial == []
    assert len(set(failed_steps)) > 1, failed_steps


@ONLY_ROOT
def test_read_only_disk_fails_with_a_message_until_writable(small_disk: Shop) -> None:
    first = bytes_of(small_disk.releases.current)
    remount(small_disk.data, read_only=True)
    message = failure_messages(run_job())
    assert "Read-only file system" in message
    assert f"write to {small_disk.data}" in message
    assert "NO MESSAGE" not in message
    assert bytes_of(small_disk.releases.current) == first
    remount(small_disk.data, read_only=False)
    assert run_job(assets=[*LOADING, "release"]).success
    assert len(small_disk.releases.all()) == 2


def test_unwritable_release_folder_fails_the_run_with_a_message(finished_shop: Shop, releases: Releases) -> None:
    shutil.rmtree(releases.folder)
    releases.folder.write_text("a file in place of the folder", "utf-8")
    message = failure_messages(run_job(assets=["release"]))
    assert message.startswith("release: ")
    assert str(releases.folder) in message
    assert f"write to {finished_shop.data}" in message


@ONLY_ROOT
@pytest.mark.parametrize("fault", ["full", "read-only"])
def test_unwritable_event_log_is_a_message_and_is_posted(
    tmp_path: Path, data_folder: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    shop = Shop.build(tmp_path)
    data_folder.mkdir()
    with mounted("tmpfs", data_folder, "size=2m"), webhook() as server:
        monkeypatch.setenv("DAGSTER_HOME", str(data_folder / "dagster"))
        monkeypatch.setenv("SEGMENTATION_WEBHOOK", server.address)
        prepare()
        with dg.DagsterInstance.get() as home:
            home.get_runs()
        if fault == "full":
            (data_folder / "filler").write_bytes(
                b"\1" * (os.statvfs(data_folder).f_bavail * os.statvfs(data_folder).f_frsize)
            )
        else:
            (data_folder / "runs").mkdir()
            remount(data_folder, read_only=True)
        ran = segments(shop, "run", event_log=True)
    assert ran.code == 1, ran.errors
    assert "Dagster could not write its event log" in ran.errors
    assert "Traceback" not in ran.stdout + ran.errors
    [text] = server.texts
    assert text.startswith("A run of `segments` failed.\n• Dagster could not write its event log in ")


def test_missing_source_fails_with_a_message(source: Path, releases: Releases) -> None:
    first = bytes_of(releases.current)
    source.rename(source.with_name("elsewhere"))
    assert f"source.path: nothing to read at {source}" in failure_messages(run_job())
    assert bytes_of(releases.current) == first


def test_run_spills_below_the_memory_limit_with_the_same_tables(
    tmp_path: Path, data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [
        line(f"{100000 + number % 900000}", f"{10000 + number % 89999}", "A LANTERN WITH A LONG NAME " * 3, *rest)
        for number, (_, _, _, *rest) in enumerate(regular_customers() * 400)
    ]
    shop, features = Shop.build(tmp_path, lines), assets_up_to("rfm_features")
    shop.enter(monkeypatch)
    monkeypatch.setenv("SEGMENTATION_MEMORY_LIMIT", "100MB")
    spilled = set[str]()
    over, spill = Event(), shop.folders.working_database.parent / "tmp"

    def watch() -> None:
        while not over.wait(0.01):
            # The database that files are read into spills to a folder of its own, which is deleted after the read.
            spilled.update(name for _, _, names in os.walk(spill) for name in names if name.startswith("duckdb_temp"))

    thread = Thread(target=watch, daemon=True)
    thread.start()
    result = run_job(assets=features)
    over.set()
    thread.join()
    assert result.success, failure_messages(result)
    assert spilled, "the limit is above what the data need"
    limited = tables_of(shop.releases)
    monkeypatch.delenv("SEGMENTATION_MEMORY_LIMIT")
    assert shop.run(assets=features, reload=True).success
    without_run = {table: rows for table, rows in tables_of(shop.releases).items() if table != "ingested_files"}
    assert without_run == {table: rows for table, rows in limited.items() if table in without_run}


@pytest.mark.parametrize(("limit", "expected"), [("much", "such as 4GB"), ("1MB", "memory")])
def test_invalid_memory_limit_fails_with_a_message(
    source: Path,
    releases: Releases,
    monkeypatch: pytest.MonkeyPatch,
    limit: str,
    expected: str,
) -> None:
    first = bytes_of(releases.current)
    monkeypatch.setenv("SEGMENTATION_MEMORY_LIMIT", limit)
    message = failure_messages(run_job())
    assert expected in message
    assert "NO MESSAGE" not in message
    assert bytes_of(releases.current) == first


OPEN_DATABASE = (
    "import duckdb, sys; held = duckdb.connect(sys.argv[1], read_only=True); print('open', flush=True); input()"
)


def test_run_waits_for_a_reader_and_names_it(source: Path, releases: Releases, instance: dg.DagsterInstance) -> None:
    messages = list[str]()
    command = [sys.executable, "-c", OPEN_DATABASE, str(releases.folder.parent / "work.duckdb")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "open\n"

        def close_when_waited_for() -> None:
            over = Event()
            while not over.wait(0.05):
                events = [event for run in instance.get_runs(limit=1) for event in instance.all_logs(run.run_id)]
                waits = [event.user_message for event in events if "waiting for" in event.user_message]
                if waits:
                    messages.extend(waits)
                    reader.communicate("")
                    return

        thread = Thread(target=close_when_waited_for, daemon=True)
        thread.start()
        result = run_job(instance, assets=LOADING)
        thread.join()
    assert result.success
    [message] = messages
    assert message.startswith("waiting for another program that has the working database open: ")
    assert f"PID {reader.pid}" in message
