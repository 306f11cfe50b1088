"""One run writes at a time, and a dead process releases both the lock and the queue."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pytest

from segmentation_pipeline.defs.automation import dead_runs
from segmentation_pipeline.errors import LockTimeoutError
from segmentation_pipeline.orchestration import run_liveness
from segmentation_pipeline.orchestration.instance import prepare
from segmentation_pipeline.warehouse.lock import folder_lock, try_lock, writer
from segmentation_pipeline_tests.scenarios import assets_up_to, regular_customers
from segmentation_pipeline_tests.shops import Shop

SEGMENTS = Path(sys.executable).with_name("segments")

HOLD = """
import os, sys, time
from pathlib import Path
from segmentation_pipeline.warehouse.lock import writer
with writer(Path(sys.argv[1]), f"process {os.getpid()}, run of the night", 0, print):
    print("holding", flush=True)
    time.sleep(600)
"""
TAKE_TURNS = """
import sys, time
from pathlib import Path
from segmentation_pipeline.warehouse.lock import folder_lock, writer
kind, lock, log = sys.argv[1], *map(Path, sys.argv[2:])
for turn in range(5):
    held = writer(lock, "one of three", 60, lambda message: None) if kind == "writer" else folder_lock(lock)
    with held, log.open("a") as file:
        print("in", file=file, flush=True)
        time.sleep(0.02)
        print("out", file=file, flush=True)
    time.sleep(0.05)
"""


def wait_until(
    is_true: Callable[[], object], process: "subprocess.Popen[str] | None" = None, seconds: float = 60
) -> None:
    deadline = time.monotonic() + seconds
    while not is_true():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.01)


@contextmanager
def started(*command: Path | str) -> Iterator["subprocess.Popen[str]"]:
    """Start a process that ends with the test at the latest."""
    process = subprocess.Popen(
        [*map(str, command)],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@contextmanager
def held(lock: Path) -> Iterator["subprocess.Popen[str]"]:
    """Hold a lock in another process."""
    with started(sys.executable, "-c", HOLD, lock) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "holding\n"
        yield holder


def kill(process: "subprocess.Popen[str]") -> None:
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=10)


@pytest.mark.parametrize("kind", ["writer", "folder"])
def test_only_one_process_holds_a_lock(tmp_path: Path, kind: str) -> None:
    log = tmp_path / "log"
    command = (sys.executable, "-c", TAKE_TURNS, kind, tmp_path / "work.lock", log)
    with started(*command) as one, started(*command) as two, started(*command) as three:
        for process in (one, two, three):
            _, errors = process.communicate(timeout=60)
            assert process.returncode == 0, errors
    assert log.read_text("utf-8").split() == ["in", "out"] * 15


def test_a_folder_lock_leaves_nothing_in_the_folder(tmp_path: Path) -> None:
    with folder_lock(tmp_path / "releases"):
        assert list((tmp_path / "releases").iterdir()) == []


def test_a_waiting_process_reports_the_holder_once_and_times_out(tmp_path: Path) -> None:
    lock, messages = tmp_path / "shop" / "work.lock", list[str]()
    with held(lock) as holder:
        start = time.monotonic()
        with pytest.raises(LockTimeoutError) as raised, writer(lock, "this test", 0.5, messages.append):
            pass
        assert 0.5 <= time.monotonic() - start < 5
        assert lock.read_text("utf-8") != "", "a waiting process leaves the description of the holder"
    description = f"process {holder.pid}, run of the night"
    assert messages == [f"waiting for {description}, which writes to {lock.parent}"]
    expected = f"{lock.parent}: {description} has been writing for more than 0.5 s. Wait until it ends"
    assert str(raised.value).startswith(expected)


def test_the_lock_of_a_killed_process_is_free_at_once(tmp_path: Path) -> None:
    lock = tmp_path / "work.lock"
    with held(lock) as holder:
        kill(holder)
        with writer(lock, "this test", 0, pytest.fail):
            assert lock.read_text("utf-8") == "this test"


def test_the_lock_of_a_failed_writer_is_free(tmp_path: Path) -> None:
    lock = tmp_path / "work.lock"
    with pytest.raises(ZeroDivisionError), writer(lock, "the failed writer", 0, pytest.fail):
        _ = 1 / 0
    with writer(lock, "this test", 0, pytest.fail):
        pass
    assert lock.read_text("utf-8") == ""


@pytest.fixture
def shop(finished_shop: Shop, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Shop, dg.DagsterInstance]]:
    """A shop with a release, and the Dagster instance that its runs share."""
    shop = finished_shop
    monkeypatch.setenv("DAGSTER_HOME", str(shop.data / "dagster"))
    monkeypatch.setenv("COLUMNS", "80")
    prepare()
    with dg.DagsterInstance.get() as instance:
        instance.get_runs()
        yield shop, instance


def status_of(instance: dg.DagsterInstance, run_id: str) -> dg.DagsterRunStatus:
    run = instance.get_run_by_id(run_id)
    assert run is not None
    return run.status


def killed_during_a_run(folder: Path, instance: dg.DagsterInstance) -> str:
    """Kill `segments run` while it holds the lock, and return the id of the run."""
    lock = folder / "work.lock"
    with started(SEGMENTS, "run") as process:
        wait_until(lambda: lock.exists() and lock.read_text("utf-8"), process)
        kill(process)
    [run] = instance.get_runs(limit=1)
    assert lock.read_text("utf-8") == f"process {process.pid} (segments: {run.job_name}), run {run.run_id}"
    assert run.status == dg.DagsterRunStatus.STARTED, "Dagster does not know that it died"
    return run.run_id


def test_the_next_run_fails_a_killed_one_and_succeeds(shop: tuple[Shop, dg.DagsterInstance]) -> None:
    retailer, instance = shop
    [before] = retailer.releases.all()
    dead = killed_during_a_run(retailer.folders.root, instance)
    assert retailer.releases.all() == [before]
    assert retailer.run(instance, assets=[*assets_up_to("raw_transactions"), "release"]).success
    assert status_of(instance, dead) == dg.DagsterRunStatus.FAILURE
    last = instance.get_records_for_run(dead).records[-1].event_log_entry.dagster_event
    assert last is not None
    assert "The process of this run died." in (last.message or "")
    [_, release] = retailer.releases.all()
    assert status_of(instance, release.manifest["run_id"]) == dg.DagsterRunStatus.SUCCESS
    assert not list((retailer.data / "runs").iterdir()), "a heartbeat file outlives its run"


def test_a_killed_waiting_run_is_marked_as_failed(shop: tuple[Shop, dg.DagsterInstance]) -> None:
    def evaluate() -> str | None:
        result = dead_runs(dg.build_sensor_context(instance))
        assert isinstance(result, dg.SkipReason)
        return result.skip_message

    retailer, instance = shop
    folder = retailer.folders.root
    with (
        writer(folder / "work.lock", "process 1, another run", 0, pytest.fail),
        started(SEGMENTS, "run") as process,
    ):
        assert process.stdout is not None
        first = process.stdout.readline()
        assert first == f"waiting for process 1, another run, which writes to {folder}\n"
        [run] = instance.get_runs()
        assert evaluate() == "every unfinished run is alive"
        assert status_of(instance, run.run_id) == dg.DagsterRunStatus.STARTED
        kill(process)
        assert evaluate() == f"marked as failed: {run.run_id}"
        assert status_of(instance, run.run_id) == dg.DagsterRunStatus.FAILURE
        assert evaluate() == "every unfinished run is alive"


def test_a_finished_run_keeps_its_status(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    @dg.op
    def nothing() -> None: ...

    @dg.job
    def small() -> None:
        nothing()

    finished = small.execute_in_process(instance=instance).run_id
    (tmp_path / finished).touch()
    (tmp_path / "a run of a deleted instance").touch()
    assert run_liveness.fail_dead_runs(instance, tmp_path) == []
    assert status_of(instance, finished) == dg.DagsterRunStatus.SUCCESS
    assert not list(tmp_path.iterdir())


def test_a_run_waits_for_the_lock_only_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The assets after the first fail at once, instead of waiting for the timeout again."""
    shop = Shop.build(tmp_path, regular_customers(8))
    shop.enter(monkeypatch)
    timeout = 2.0
    with held(shop.folders.lock):
        start = time.monotonic()
        result = shop.run(config={"resources": {"warehouse": {"config": {"lock_timeout": timeout}}}})
        waited = time.monotonic() - start
    failures = [event.step_key for event in result.all_events if event.is_step_failure]
    assert failures == ["raw_transactions", "rfm_segment_map"]
    assert timeout <= waited
    waits = [event.step_failure_data.user_failure_data for event in result.all_events if event.is_step_failure]
    assert len({failure.description for failure in waits if failure}) == 1
    assert waited < 3 * timeout


@pytest.fixture
def unfinished(instance: dg.DagsterInstance) -> str:
    """The id of a run that has started and not ended."""

    @dg.job
    def nothing() -> None: ...

    return instance.create_run_for_job(nothing, status=dg.DagsterRunStatus.STARTED).run_id


def test_a_run_that_ends_meanwhile_is_not_marked_as_failed(
    tmp_path: Path, instance: dg.DagsterInstance, unfinished: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / unfinished
    # It ends after the folder was listed and before the file is opened ...
    with monkeypatch.context() as patched:
        patched.setattr(Path, "glob", lambda folder, pattern: iter([file]))
        assert run_liveness.fail_dead_runs(instance, tmp_path) == []
    assert not file.exists(), "the check creates no file"

    # ... or after the file was opened, and before it is locked.
    def end_first(descriptor: int) -> bool:
        file.unlink()
        return try_lock(descriptor)

    file.touch()
    with monkeypatch.context() as patched:
        patched.setattr(run_liveness, "try_lock", end_first)
        assert run_liveness.fail_dead_runs(instance, tmp_path) == []
    assert status_of(instance, unfinished) == dg.DagsterRunStatus.STARTED

    file.touch()
    assert run_liveness.fail_dead_runs(instance, tmp_path) == [unfinished], "an unlocked file belongs to a dead run"


def test_the_heartbeat_of_a_command_outlives_its_run(
    tmp_path: Path, instance: dg.DagsterInstance, unfinished: str
) -> None:
    with run_liveness.heartbeat(tmp_path, unfinished):
        with run_liveness.heartbeat(tmp_path, unfinished):
            assert run_liveness.fail_dead_runs(instance, tmp_path) == []
        assert (tmp_path / unfinished).exists()
        assert run_liveness.fail_dead_runs(instance, tmp_path) == []
    assert not list(tmp_path.iterdir())
    with run_liveness.heartbeat(tmp_path, unfinished):
        assert (tmp_path / unfinished).exists(), "the heartbeat can be started again"
