"""The night: schedules in the retailer's time zone, run by Dagster's own daemon, whatever the evening left behind."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg
import duckdb
import pytest

import segmentation_pipeline
from segmentation_pipeline.definitions import defs
from segmentation_pipeline.orchestration.instance import prepare
from segmentation_pipeline.releases.store import Releases
from segmentation_pipeline.warehouse import lock
from segmentation_pipeline_tests.scenarios import line, regular_customers, retailer_file, run_job, write_csv

PROJECT = Path(segmentation_pipeline.__file__).parents[1]
COMMANDS = Path(sys.executable).parent
NIGHT = ZoneInfo("Europe/London")
# Dagster's own: the moment that a scheduled run is for.
TICK = ".dagster/scheduled_execution_time"


def wait_until(true: Callable[[], object], seconds: float, log: Path) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not within {seconds} s; the daemon says:\n{log.read_text('utf-8')}"
        time.sleep(0.2)


@contextmanager
def started(log: Path, *command: Path | str) -> Iterator["subprocess.Popen[bytes]"]:
    """A process, ended with all that it started."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            [*map(str, command)], cwd=PROJECT, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            yield process
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextmanager
def daemon(log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    with started(log, COMMANDS / "dagster-daemon", "run", "-w", PROJECT / "workspace.yaml") as process:
        yield process


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    source = write_csv(tmp_path / "source" / "a.csv", regular_customers()).parent
    file = retailer_file(tmp_path, source)
    monkeypatch.setenv("SEGMENTATION_RETAILER", str(file))
    return file


@pytest.fixture
def home(data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    """The instance that the shipped dagster.yaml makes."""
    monkeypatch.setenv("DAGSTER_HOME", str(data_folder / "dagster"))
    prepare()
    with dg.DagsterInstance.get() as instance:
        # Made here, so that two processes do not make the same files at the same time.
        instance.get_runs()
        instance.all_instigator_state()
        yield instance


def state_of(instance: dg.DagsterInstance, schedule: str) -> Any:
    return next((state for state in instance.all_instigator_state() if state.instigator_name == schedule), None)


def test_a_tick_makes_a_release_although_the_machine_died_in_the_evening(
    shop: Path, home: dg.DagsterInstance, data_folder: Path, tmp_path: Path
) -> None:
    """It loses its power while a run of the daemon and a person's command wait, and another run is queued.

    In the morning it is switched on again: the two are marked as failed, and the queue goes on. Dagster makes up for
    the last tick that it missed, so no test has to wait for a minute, or for the night.
    """
    log = tmp_path / "log"
    log.touch()
    folder = data_folder / "corner_shop"
    workspace = ("-w", PROJECT / "workspace.yaml", "-l", "segmentation_pipeline")
    launch = (COMMANDS / "dagster", "job", "launch", *workspace, "-j", "nightly_segmentation")
    queued, begun = dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.STARTED

    def statuses() -> list[dg.DagsterRunStatus]:
        return sorted((run.status for run in home.get_runs()), key=str)

    with (
        lock.writer(folder / "work.lock", "another", 0, pytest.fail),
        daemon(log),
        started(log, *launch),
        started(log, *launch),
    ):
        wait_until(lambda: statuses() == [queued, begun], 120, log)
        with started(log, COMMANDS / "segments", "run"):
            wait_until(lambda: statuses() == [queued, begun, begun], 60, log)
            wait_until(lambda: len(list((data_folder / "runs").iterdir())) == 2, 60, log)
            wait_until(lambda: state_of(home, "nightly") and state_of(home, "dead_runs"), 60, log)
    assert statuses() == [queued, begun, begun], "nobody told Dagster"
    before = {run.run_id: run.status for run in home.get_runs()}

    evening = (datetime.now(NIGHT) - timedelta(hours=25)).timestamp()
    for name, stamps in {
        "nightly": ("start_timestamp", "last_iteration_timestamp"),
        "dead_runs": ("last_tick_timestamp", "last_tick_start_timestamp", "last_tick_success_timestamp"),
    }.items():
        state = state_of(home, name)
        home.update_instigator_state(state.with_data(state.instigator_data._replace(**dict.fromkeys(stamps, evening))))

    def of_the_schedule() -> dg.DagsterRun | None:
        by_schedule = dg.RunsFilter(tags={"dagster/schedule_name": "nightly"})
        return next(iter(home.get_runs(by_schedule)), None)

    with daemon(log):
        wait_until(lambda: (run := of_the_schedule()) is not None and run.is_finished, 150, log)
        wait_until(lambda: all(run.is_finished for run in home.get_runs()), 60, log)
    run = of_the_schedule()
    assert run is not None
    assert run.status == dg.DagsterRunStatus.SUCCESS
    assert run.job_name == "nightly_segmentation"
    tick = datetime.fromisoformat(run.tags[TICK]).astimezone(NIGHT)
    assert (tick.hour, tick.minute) == (2, 0)
    after = {run.run_id: run.status for run in home.get_runs()}
    for run_id, status in before.items():
        wanted = dg.DagsterRunStatus.FAILURE if status == begun else dg.DagsterRunStatus.SUCCESS
        assert after[run_id] == wanted, "a dead one would fill the queue"
    releases = [release.manifest["run_id"] for release in Releases(folder / "releases").all()]
    [waited] = [run_id for run_id, status in before.items() if status == queued]
    assert sorted(releases) == sorted([run.run_id, waited])


def test_a_tick_that_is_made_up_for_is_judged_by_its_own_time(shop: Path, instance: dg.DagsterInstance) -> None:
    job = defs().resolve_job_def("nightly_segmentation")
    result = job.execute_in_process(
        instance=instance,
        tags={TICK: "2024-10-01T01:00:00+00:00"},
        run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        raise_on_error=False,
    )
    assert not result.success
    [gate] = [e for e in result.get_asset_check_evaluations() if e.check_name == "as_of_plausible"]
    said = gate.description or ""
    assert "as_of 2024-10-28 09:39:00 lies ahead of the run's time 2024-10-01 02:00" in said
    made = {str(event.asset_key) for event in result.get_asset_materialization_events()}
    assert not made & {str(dg.AssetKey(name)) for name in ("segmentation_models", "segment_membership", "release")}


def of_the_tick(schedule: str, at: str) -> Any:
    """The run that a schedule asks for at a moment."""
    found = defs().resolve_schedule_def(schedule)
    context = dg.build_schedule_context(scheduled_execution_time=datetime.fromisoformat(at))
    [request] = found.evaluate_tick(context).run_requests or []
    return request


@pytest.mark.parametrize(
    ("zone", "day"), [("Europe/London", "2024-10-31"), ("America/New_York", "2024-10-30"), ("Asia/Tokyo", "2024-10-31")]
)
def test_a_schedules_run_carries_the_last_day_that_is_over_in_the_retailers_zone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zone: str, day: str
) -> None:
    """Two at night in Greenwich on 1 November: still October in New York."""
    file = retailer_file(tmp_path, tmp_path, time_zone=zone, rfm={"as_of": "schedule"})
    monkeypatch.setenv("SEGMENTATION_RETAILER", str(file))
    carried = {"resources": {"retailer": {"config": {"as_of": day}}}}
    assert of_the_tick("nightly", "2024-11-01T02:00:00+00:00").run_config == carried
    refit = defs().resolve_job_def("refit_segmentation").run_config
    assert of_the_tick("weekly_refit", "2024-11-01T02:00:00+00:00").run_config == {**(refit or {}), **carried}


@pytest.mark.parametrize("as_of", ["last_transaction", "end_of_day", "2024-10-31", "no file"])
def test_a_schedules_run_carries_nothing_where_as_of_does_not_hang_on_its_tick(
    shop: Path, tmp_path: Path, as_of: str
) -> None:
    if as_of == "no file":
        shop.unlink()
    else:
        retailer_file(tmp_path, tmp_path / "source", rfm={"as_of": as_of})
    refit = defs().resolve_job_def("refit_segmentation").run_config
    assert of_the_tick("nightly", "2024-11-01T02:00:00+00:00").run_config == {}
    assert of_the_tick("weekly_refit", "2024-11-01T02:00:00+00:00").run_config == refit


def nightly() -> dg.JobDefinition:
    return defs().resolve_job_def("nightly_segmentation")


def executed(
    instance: dg.DagsterInstance,
    config: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
    repeats: str = "",
) -> tuple[str, bool]:
    """A run as the web interface starts it, or starts again with the same configuration: its id; if it is a night's."""
    again = dg.ReexecutionOptions(parent_run_id=repeats) if repeats else None
    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    with dg.execute_job(
        dg.reconstructable(nightly),
        instance,
        run_config={**quiet, **(config or {})},
        tags=dict(tags or {}),
        reexecution_options=again,
    ) as result:
        assert result.success
        [asked] = [e for e in result.get_asset_check_evaluations() if e.check_name == "feed_is_fresh"]
        return result.run_id, bool(asked.metadata["scheduled"].value)


def test_a_schedules_run_is_as_of_the_midnight_of_its_tick_and_so_is_its_repetition(
    shop: Path, instance: dg.DagsterInstance, data_folder: Path, tmp_path: Path
) -> None:
    retailer_file(tmp_path, tmp_path / "source", rfm={"as_of": "schedule"})
    late = [line(invoice="700000", at=at, customer="10001") for at in ("2024-10-29 00:00:00", "2024-10-28 23:59:59")]
    write_csv(tmp_path / "source" / "b.csv", late)
    tick = "2024-10-29T02:00:00+00:00"
    config = of_the_tick("nightly", tick).run_config
    first, is_scheduled = executed(instance, config, {TICK: tick})
    assert is_scheduled
    current = data_folder / "corner_shop" / "releases" / "current"
    manifest, published = manifest_of(current), (current / "customer_segments.parquet").read_bytes()
    assert (manifest["run_id"], manifest["as_of"]) == (first, "2024-10-29 00:00:00")
    with duckdb.connect(str(current.resolve() / "segments.duckdb"), read_only=True) as release:
        after = release.execute("select lines from cleaning_report where rule = 'after_as_of'").fetchone()
    assert after == (1,), "the line at midnight, not the one before"

    again, is_scheduled = executed(instance, config, repeats=first)
    assert is_scheduled
    manifest = manifest_of(current)
    assert (manifest["run_id"], manifest["as_of"]) == (again, "2024-10-29 00:00:00")
    assert (current / "customer_segments.parquet").read_bytes() == published


def test_a_run_by_hand_is_as_of_the_midnight_before_it_was_asked_for_and_so_is_its_repetition(
    shop: Path, instance: dg.DagsterInstance, data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Materialize all, half an hour before midnight; long after that, Re-execute."""
    retailer_file(tmp_path, tmp_path / "source", rfm={"as_of": "schedule"}, release={"max_as_of_jump_days": 36_500})
    current = data_folder / "corner_shop" / "releases" / "current"
    find, asked = dg.DagsterInstance.get_run_record_by_id, datetime(2024, 10, 30, 23, 30, tzinfo=NIGHT)
    runs: list[str] = []

    def record(asked_of: dg.DagsterInstance, run_id: str) -> dg.RunRecord | None:
        runs.append(run_id)
        found = find(asked_of, run_id)
        return found._replace(create_timestamp=asked) if found and run_id == runs[0] else found

    monkeypatch.setattr(dg.DagsterInstance, "get_run_record_by_id", record)
    first, is_scheduled = executed(instance)
    assert not is_scheduled
    assert manifest_of(current)["as_of"] == "2024-10-30 00:00:00"
    again, _ = executed(instance, repeats=first)
    manifest = manifest_of(current)
    assert (manifest["run_id"], manifest["as_of"]) == (again, "2024-10-30 00:00:00")
    before = datetime.now(NIGHT).date()
    executed(instance)
    assert before <= datetime.fromisoformat(manifest_of(current)["as_of"]).date() <= datetime.now(NIGHT).date()


def manifest_of(release: Path) -> Any:
    return json.loads((release / "manifest.json").read_text("utf-8"))


def test_the_shipped_settings_run_one_at_a_time_watch_and_stay_silent(home: dg.DagsterInstance) -> None:
    settings = home.get_settings("run_monitoring")
    assert settings["enabled"]
    assert settings["max_runtime_seconds"] > 0
    queue = home.get_concurrency_config().run_queue_config
    assert queue is not None
    assert queue.max_concurrent_runs == 1
    assert not home.telemetry_enabled
    assert not home.nux_enabled


@pytest.mark.parametrize(
    ("schedule", "job", "cron"),
    [
        ("nightly", "nightly_segmentation", "0 2 * * *"),
        ("weekly_refit", "refit_segmentation", "0 4 * * 0"),
    ],
)
def test_the_schedules_are_on_and_in_the_retailers_time_zone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, schedule: str, job: str, cron: str
) -> None:
    for zone in ("America/New_York", "Asia/Tokyo"):
        file = retailer_file(tmp_path / zone, tmp_path, time_zone=zone)
        monkeypatch.setenv("SEGMENTATION_RETAILER", str(file))
        found = defs().resolve_schedule_def(schedule)
        assert (found.job_name, found.cron_schedule, found.execution_timezone) == (job, cron, zone)
        assert found.default_status == dg.DefaultScheduleStatus.RUNNING


def test_both_jobs_run_everything_and_only_the_weekly_one_refits() -> None:
    nightly, refit = (defs().resolve_job_def(name) for name in ("nightly_segmentation", "refit_segmentation"))
    everything = defs().resolve_asset_graph().get_all_asset_keys()
    for job in (nightly, refit):
        assert job.asset_layer.executable_asset_keys == everything
        assert job.executor_def.name == dg.in_process_executor.name
    assert nightly.run_config is None
    assert refit.run_config is not None
    assert refit.run_config["ops"] == {"segmentation_model": {"config": {"refit": True}}}


def test_the_dead_runs_sensor_is_on() -> None:
    sensor = defs().resolve_sensor_def("dead_runs")
    assert sensor.default_status == dg.DefaultSensorStatus.RUNNING
    assert sensor.minimum_interval_seconds == 30


def test_customer_segments_that_grow_old_are_shown_as_such() -> None:
    policy = defs().resolve_asset_graph().get(dg.AssetKey("customer_segments")).freshness_policy
    assert policy is not None
    assert policy == dg.FreshnessPolicy.time_window(warn_window=timedelta(hours=26), fail_window=timedelta(hours=50))


@pytest.mark.parametrize("broken", ["a file with errors", "no file", "no TOML"])
def test_a_retailer_file_that_does_not_validate_fails_the_run_and_not_the_definitions(
    shop: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    if broken == "a file with errors":
        retailer_file(shop.parent, shop.parent, time_zone="Europe/Lundon", currency="pounds")
        wanted = ["time_zone", "Europe/London?", "currency"]
    elif broken == "no file":
        shop.unlink()
        wanted = [f"retailer {str(shop)!r}: no such file"]
    else:
        shop.write_text("name = ", "utf-8")
        wanted = ["retailer.toml"]
    assert defs().resolve_schedule_def("nightly").execution_timezone == "UTC"
    result = run_job(instance)
    assert not result.success
    said = sentence_of(result, "raw_transactions")
    assert [part for part in wanted if part not in said] == []


def sentence_of(result: dg.ExecuteInProcessResult, step: str) -> str:
    """Why a step failed, where it said so itself."""
    failures = {event.step_key: event.step_failure_data.user_failure_data for event in result.get_step_failure_events()}
    failure = failures[step]
    assert failure is not None
    assert failure.description is not None
    return failure.description
