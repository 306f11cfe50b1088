"""One run at a time writes; whoever died frees both the lock and the queue."""

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
from segmentation_pipeline.releases.store import Releases
from segmentation_pipeline.warehouse.lock import try_lock, writer
from segmentation_pipeline_tests.scenarios import regular_customers, retailer_file, run_job, write_csv

SEGMENTS = Path(sys.executable).with_name("segments")

HOLD = """
import os, sys, time
from pathlib import Path
from segmentation_pipeline.warehouse.lock import try_lock, writer
with writer(Path(sys.argv[1]), f"process {os.getpid()}, run of the night", 0, print):
    print("holding", flush=True)
    time.sleep(600)
"""
TAKE_TURNS = """
import sys, time
from pathlib import Path
from segmentation_pipeline.warehouse.lock import try_lock, writer
lock, log = map(Path, sys.argv[1:])
for turn in range(5):
    with writer(lock, "one of three", 60, lambda said: None), log.open("a") as file:
        print("in", file=file, flush=True)
        time.sleep(0.02)
        print("out", file=file, flush=True)
    time.sleep(0.05)
"""


def wait_until(true: Callable[[], object], of: "subprocess.Popen[str] | None" = None, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert of is None or of.poll() is None, of.communicate()
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


@contextmanager
def started(*command: Path | str) -> Iterator["subprocess.Popen[str]"]:
    """A process that does not outlive the test."""
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
    with started(sys.executable, "-c", HOLD, lock) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "holding\n"
        yield holder


def kill(process: "subprocess.Popen[str]") -> None:
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=10)


def test_one_process_at_a_time_holds_the_lock(tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = (sys.executable, "-c", TAKE_TURNS, tmp_path / "work.lock", log)
    with started(*command) as one, started(*command) as two, started(*command) as three:
        for process in (one, two, three):
            _, complaint = process.communicate(timeout=60)
            assert process.returncode == 0, complaint
    assert log.read_text("utf-8").split() == ["in", "out"] * 15


def test_who_waits_says_for_whom_and_gives_up_with_a_sentence(tmp_path: Path) -> None:
    lock, told = tmp_path / "shop" / "work.lock", list[str]()
    with held(lock) as holder:
        began = time.monotonic()
        with pytest.raises(LockTimeoutError) as caught, writer(lock, "me", 0.5, told.append):
            pass
        assert 0.5 <= time.monotonic() - began < 5
    whom = f"process {holder.pid}, run of the night"
    assert told == [f"waiting for {whom}, which writes to {lock.parent}"], "once, not at every look"
    assert str(caught.value).startswith(f"{lock.parent}: {whom} has been writing for more than 0.5 s. Wait for it")


def test_the_lock_of_a_killed_process_is_free_at_once(tmp_path: Path) -> None:
    lock = tmp_path / "work.lock"
    with held(lock) as holder:
        kill(holder)
        with writer(lock, "me", 0, pytest.fail):
            assert lock.read_text("utf-8") == "me"


def test_the_lock_of_a_failed_writer_is_free(tmp_path: Path) -> None:
    lock = tmp_path / "work.lock"
    with pytest.raises(ZeroDivisionError), writer(lock, "the one that failed", 0, pytest.fail):
        _ = 1 / 0
    with writer(lock, "me", 0, pytest.fail):
        pass
    assert lock.read_text("utf-8") == ""


@pytest.fixture
def shop(
    tmp_path: Path, data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Path, dg.DagsterInstance]]:
    """A small retailer's folder, and the Dagster instance that its runs share."""
    source = write_csv(tmp_path / "source" / "a.csv", regular_customers())
    monkeypatch.setenv("SEGMENTATION_RETAILER", str(retailer_file(tmp_path, source.parent)))
    monkeypatch.setenv("DAGSTER_HOME", str(data_folder / "dagster"))
    monkeypatch.setenv("COLUMNS", "80")
    prepare()
    with dg.DagsterInstance.get() as instance:
        instance.get_runs()
        yield data_folder / "corner_shop", instance


def status_of(instance: dg.DagsterInstance, run_id: str) -> dg.DagsterRunStatus:
    run = instance.get_run_by_id(run_id)
    assert run is not None
    return run.status


def killed_in_the_middle(shop: Path, instance: dg.DagsterInstance) -> str:
    """The id of a `segments run` that was killed while it held the lock."""
    lock = shop / "work.lock"
    with started(SEGMENTS, "run") as process:
        wait_until(lambda: lock.exists() and lock.read_text("utf-8"), process)
        kill(process)
    [run] = instance.get_runs(limit=1)
    assert lock.read_text("utf-8") == f"process {process.pid}, run {run.run_id}"
    assert run.status == dg.DagsterRunStatus.STARTED, "nobody told Dagster"
    return run.run_id


def test_the_next_run_marks_a_killed_one_as_failed_and_finishes(shop: tuple[Path, dg.DagsterInstance]) -> None:
    folder, instance = shop
    dead = killed_in_the_middle(folder, instance)
    assert Releases(folder / "releases").all() == []
    after = subprocess.run([SEGMENTS, "run"], capture_output=True, text=True, check=False)
    assert after.returncode == 0, after.stdout + after.stderr
    assert status_of(instance, dead) == dg.DagsterRunStatus.FAILURE
    last = instance.get_records_for_run(dead).records[-1].event_log_entry.dagster_event
    assert last is not None
    assert last.message == "The process of this run died. No table is half written; run it again."
    [release] = Releases(folder / "releases").all()
    assert status_of(instance, release.manifest["run_id"]) == dg.DagsterRunStatus.SUCCESS
    assert not list((folder.parent / "runs").iterdir()), "no sign of life outlasts its run"


def test_a_run_that_waits_for_the_lock_says_so_and_is_taken_for_dead_when_it_is(
    shop: tuple[Path, dg.DagsterInstance],
) -> None:
    def sensor() -> str | None:
        said = dead_runs(dg.build_sensor_context(instance))
        assert isinstance(said, dg.SkipReason)
        return said.skip_message

    folder, instance = shop
    with (
        writer(folder / "work.lock", "process 1, run of another", 0, pytest.fail),
        started(SEGMENTS, "run") as process,
    ):
        assert process.stdout is not None
        first = process.stdout.readline()
        assert first == f"waiting for process 1, run of another, which writes to {folder}\n"
        [run] = instance.get_runs()
        assert sensor() == "every unfinished run is alive"
        assert status_of(instance, run.run_id) == dg.DagsterRunStatus.STARTED
        kill(process)
        assert sensor() == f"marked as failed: {run.run_id}"
        assert status_of(instance, run.run_id) == dg.DagsterRunStatus.FAILURE
        assert sensor() == "every unfinished run is alive"


def test_a_finished_run_is_left_as_it_is(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    @dg.op
    def nothing() -> None: ...

    @dg.job
    def little() -> None:
        nothing()

    finished = little.execute_in_process(instance=instance).run_id
    (tmp_path / finished).touch()
    (tmp_path / "a run of an instance that is gone").touch()
    assert run_liveness.fail_dead_runs(instance, tmp_path) == []
    assert status_of(instance, finished) == dg.DagsterRunStatus.SUCCESS
    assert not list(tmp_path.iterdir())


def test_a_run_waits_once_for_the_lock_and_not_with_each_of_its_assets(
    tmp_path: Path, data_folder: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_csv(tmp_path / "source" / "a.csv", regular_customers(8)).parent
    monkeypatch.setenv("SEGMENTATION_RETAILER", str(retailer_file(tmp_path, source)))
    patience = 4.0
    with held(data_folder / "corner_shop" / "work.lock"):
        begun = time.monotonic()
        result = run_job(instance, config={"resources": {"warehouse": {"config": {"lock_timeout": patience}}}})
        waited = time.monotonic() - begun
    failures = [event.step_key for event in result.all_events if event.is_step_failure]
    assert failures == ["raw_transactions", "rfm_segment_map"]
    assert patience <= waited < 2 * patience


@pytest.fixture
def unfinished(instance: dg.DagsterInstance) -> str:
    """The id of a run that has begun and not ended."""

    @dg.job
    def nothing() -> None: ...

    return instance.create_run_for_job(nothing, status=dg.DagsterRunStatus.STARTED).run_id


def test_a_run_that_ends_while_signs_are_looked_through_is_not_taken_for_dead(
    tmp_path: Path, instance: dg.DagsterInstance, unfinished: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign = tmp_path / unfinished
    # It ended after the listing and before the sign is opened ...
    with monkeypatch.context() as patched:
        patched.setattr(Path, "glob", lambda folder, pattern: iter([sign]))
        assert run_liveness.fail_dead_runs(instance, tmp_path) == []
    assert not sign.exists(), "looking makes no sign"

    # ... or after that, and before it is locked.
    def end_first(descriptor: int) -> bool:
        sign.unlink()
        return try_lock(descriptor)

    sign.touch()
    with monkeypatch.context() as patched:
        patched.setattr(run_liveness, "try_lock", end_first)
        assert run_liveness.fail_dead_runs(instance, tmp_path) == []
    assert status_of(instance, unfinished) == dg.DagsterRunStatus.STARTED

    sign.touch()
    assert run_liveness.fail_dead_runs(instance, tmp_path) == [unfinished], (
        "a sign that nobody holds is that of a dead run"
    )


def test_the_sign_of_a_command_outlasts_the_run_inside_it(
    tmp_path: Path, instance: dg.DagsterInstance, unfinished: str
) -> None:
    with run_liveness.heartbeat(tmp_path, unfinished):
        with run_liveness.heartbeat(tmp_path, unfinished):
            assert run_liveness.fail_dead_runs(instance, tmp_path) == []
        assert (tmp_path / unfinished).exists()
        assert run_liveness.fail_dead_runs(instance, tmp_path) == []
    assert not list(tmp_path.iterdir())
    with run_liveness.heartbeat(tmp_path, unfinished):
        assert (tmp_path / unfinished).exists(), "whoever let go may hold it again"
