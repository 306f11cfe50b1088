"""Tests of jobs, schedules and sensors: which runs start, when, and with which settings.

For the real daemon, also after a power loss, see `test_web_interface`.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg
import duckdb
import pytest

from segmentation_pipeline.definitions import defs
from segmentation_pipeline.defs import automation
from segmentation_pipeline.orchestration.instance import prepare
from segmentation_pipeline.orchestration.job_selection import NIGHTLY_JOB, REFIT_JOB
from segmentation_pipeline.orchestration.resources import RetailerConfig
from segmentation_pipeline_tests.scenarios import (
    assets_up_to,
    definitions,
    line,
    regular_customers,
    retailer_file,
    run_job,
    write_csv,
)
from segmentation_pipeline_tests.shops import Shop

ZONE = ZoneInfo("Europe/London")
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
NIGHTLY, FIT_IF_DUE = "nightly", "nightly_fit_if_due"


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    source = write_csv(tmp_path / "source" / "a.csv", regular_customers()).parent
    file = retailer_file(tmp_path, source)
    monkeypatch.setenv("SEGMENTATION_RETAILER", str(file))
    return file


@pytest.fixture
def home(data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    """Return the instance of the shipped dagster.yaml."""
    monkeypatch.setenv("DAGSTER_HOME", str(data_folder / "dagster"))
    prepare()
    with dg.DagsterInstance.get() as instance:
        yield instance


@pytest.fixture
def local(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """Return an instance on disk; a schedule opens it a second time."""
    (tmp_path / "dagster").mkdir()
    with dg.DagsterInstance.local_temp(str(tmp_path / "dagster")) as instance:
        yield instance


def test_late_run_is_checked_against_its_scheduled_time(shop: Path) -> None:
    config = {"resources": {"retailer": {"config": {"tick": "2024-10-01T01:00:00+00:00"}}}}
    result = run_job(config=config)
    assert not result.success
    [check] = [e for e in result.get_asset_check_evaluations() if e.check_name == "as_of_plausible"]
    message = check.description or ""
    assert "2024-10-28 09:39:00" in message
    assert "2024-10-01 02:00" in message
    materialized = {str(event.asset_key) for event in result.get_asset_materialization_events()}
    blocked = {str(dg.AssetKey(name)) for name in ("segmentation_models", "segment_membership", "release")}
    assert not materialized & blocked


def evaluate(schedule: str, at: str, instance: dg.DagsterInstance) -> dg.RunRequest | None:
    """Evaluate a schedule at a time, and return the run that it requests."""
    context = dg.build_schedule_context(instance=instance, scheduled_execution_time=datetime.fromisoformat(at))
    data = definitions().resolve_schedule_def(schedule).evaluate_tick(context)
    assert data.run_requests or data.skip_message
    return next(iter(data.run_requests or []), None)


@pytest.mark.parametrize("reason", ["", "the settings changed"])
@pytest.mark.parametrize("order", [(FIT_IF_DUE, NIGHTLY), (NIGHTLY, FIT_IF_DUE)])
def test_one_run_starts_each_night_in_any_order(
    local: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, order: tuple[str, str], reason: str
) -> None:
    """The answer whether a model is due changes between the two, as it does when the first run has fitted one."""
    monkeypatch.setattr(automation, "_why_model_is_due", lambda: reason)
    for night in ("2024-11-01T02:00:00+00:00", "2024-11-02T02:00:00+00:00"):
        jobs = []
        for schedule in order:
            if request := evaluate(schedule, night, local):
                # A schedule looks for the name of a job and the tags, so a job of this name without steps will do.
                job = dg.GraphDefinition(name=definitions().resolve_schedule_def(schedule).job_name).to_job()
                local.create_run_for_job(job, tags=request.tags)
                jobs.append(job.name)
            monkeypatch.setattr(automation, "_why_model_is_due", lambda: "" if reason else "the settings changed")
        monkeypatch.setattr(automation, "_why_model_is_due", lambda: reason)
        assert jobs == [REFIT_JOB if reason and order[0] == FIT_IF_DUE else NIGHTLY_JOB]


def test_fit_schedule_names_its_reason_and_refits_nothing_else(shop: Path, local: dg.DagsterInstance) -> None:
    request = evaluate(FIT_IF_DUE, "2024-11-01T02:00:00+00:00", local)
    assert request is not None
    assert request.tags["segmentation/model_is_due"] == "no model is active yet"
    assert request.run_config["ops"] == {"segmentation_model": {"config": {"refit": False}}}


def test_nightly_job_by_hand_names_the_first_job(shop: Path) -> None:
    result = run_job(job=NIGHTLY_JOB)
    assert not result.success
    for event in result.get_step_failure_events():
        assert "Run the job refit_segmentation or `segments run`" in failure_message(result, event.step_key or "")


def test_nightly_job_by_hand_warns_of_a_due_model(finished_shop: Shop) -> None:
    finished_shop.configure(outliers={"factor": 2.0})
    result = finished_shop.run(job=NIGHTLY_JOB)
    assert result.success
    [check] = [e for e in result.get_asset_check_evaluations() if e.check_name == "model_is_up_to_date"]
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert "the settings changed since the last fit" in str(check.description)


@pytest.mark.parametrize(
    ("zone", "day"), [("Europe/London", "2024-10-31"), ("America/New_York", "2024-10-30"), ("Asia/Tokyo", "2024-10-31")]
)
def test_scheduled_as_of_is_the_last_complete_local_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zone: str, day: str
) -> None:
    """Two o'clock in Greenwich on 1 November is still October in New York."""
    file = retailer_file(tmp_path, tmp_path, time_zone=zone, rfm={"as_of": "schedule"})
    monkeypatch.setenv("SEGMENTATION_RETAILER", str(file))
    assert str(RetailerConfig(tick="2024-11-01T02:00:00+00:00").settings.rfm.as_of) == day


@pytest.mark.parametrize("schedule", [FIT_IF_DUE, NIGHTLY, "weekly_refit"])
def test_requested_run_carries_its_scheduled_time(shop: Path, local: dg.DagsterInstance, schedule: str) -> None:
    tick = "2024-11-01T02:00:00+00:00"
    request = evaluate(schedule, tick, local)
    assert request is not None
    assert request.run_config["resources"] == {"retailer": {"config": {"tick": tick}}}


@pytest.mark.parametrize("schedule", [NIGHTLY, "weekly_refit"])
def test_schedules_request_a_run_although_the_retailer_file_is_missing(
    shop: Path, local: dg.DagsterInstance, schedule: str
) -> None:
    """The run reports the error; a schedule that fails would report it nowhere."""
    shop.unlink()
    assert evaluate(schedule, "2024-11-01T02:00:00+00:00", local) is not None


def nightly() -> dg.JobDefinition:
    return definitions().resolve_job_def(NIGHTLY_JOB)


def execute(
    instance: dg.DagsterInstance,
    config: Mapping[str, Any] | None = None,
    parent_run_id: str = "",
    assets: Sequence[str] = (),
) -> tuple[str, bool]:
    """Run the job, or these assets of it, as the web interface does.

    Returns:
        The run's id, and whether a schedule requested it.
    """
    options = dg.ReexecutionOptions(parent_run_id=parent_run_id) if parent_run_id else None
    with dg.execute_job(
        dg.reconstructable(nightly),
        instance,
        run_config={**QUIET, **(config or {})},
        reexecution_options=options,
        asset_selection=[dg.AssetKey(name) for name in assets] or None,
    ) as result:
        assert result.success
        [check] = [e for e in result.get_asset_check_evaluations() if e.check_name == "feed_is_fresh"]
        return result.run_id, bool(check.metadata["scheduled"].value)


def test_scheduled_run_and_its_reexecution_process_the_same_day(
    finished_shop: Shop, local: dg.DagsterInstance, instance: dg.DagsterInstance
) -> None:
    finished_shop.configure(rfm={"as_of": "schedule"}, release={"max_as_of_jump_days": 30})
    late = [line(invoice="700000", at=at, customer="10001") for at in ("2024-10-29 00:00:00", "2024-10-28 23:59:59")]
    write_csv(finished_shop.source / "b.csv", late)
    request = evaluate(NIGHTLY, "2024-10-29T02:05:00+00:00", local)
    assert request is not None
    first, is_scheduled = execute(instance, request.run_config)
    assert is_scheduled
    current = finished_shop.releases.folder / "current"
    manifest, published = read_manifest(current), (current / "customer_segments.parquet").read_bytes()
    assert (manifest["run_id"], manifest["as_of"]) == (first, "2024-10-29 00:00:00")
    with duckdb.connect(str(current.resolve() / "segments.duckdb"), read_only=True) as release:
        after = release.execute("select lines from cleaning_report where rule = 'after_as_of'").fetchone()
    assert after == (1,), "the line of midnight, not the one before it"

    again, is_scheduled = execute(instance, request.run_config, parent_run_id=first)
    assert is_scheduled
    manifest = read_manifest(current)
    assert (manifest["run_id"], manifest["as_of"]) == (again, "2024-10-29 00:00:00")
    assert (current / "customer_segments.parquet").read_bytes() == published


def test_manual_run_and_its_reexecution_process_the_requested_day(
    finished_shop: Shop, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is requested half an hour before midnight, and re-executed long after it."""
    finished_shop.configure(rfm={"as_of": "schedule"}, release={"max_as_of_jump_days": 36_500})
    find, requested = dg.DagsterInstance.get_run_record_by_id, datetime(2024, 10, 30, 23, 30, tzinfo=ZONE)
    runs: list[str] = []

    def record(instance: dg.DagsterInstance, run_id: str) -> dg.RunRecord | None:
        runs.append(run_id)
        found = find(instance, run_id)
        return found._replace(create_timestamp=requested) if found and run_id == runs[0] else found

    def processed(parent_run_id: str = "") -> tuple[str, datetime]:
        run_id, is_scheduled = execute(instance, parent_run_id=parent_run_id, assets=assets_up_to("rfm_features"))
        assert not is_scheduled
        [(as_of,)] = finished_shop.rows("select distinct as_of from rfm_features")
        return run_id, as_of

    monkeypatch.setattr(dg.DagsterInstance, "get_run_record_by_id", record)
    first, as_of = processed()
    assert as_of == datetime.fromisoformat("2024-10-30")
    again, as_of = processed(parent_run_id=first)
    assert (again != first, as_of) == (True, datetime.fromisoformat("2024-10-30"))
    before = datetime.now(ZONE).date()
    _, as_of = processed()
    assert before <= as_of.date() <= datetime.now(ZONE).date()


def read_manifest(release: Path) -> Any:
    return json.loads((release / "manifest.json").read_text("utf-8"))


def test_shipped_instance_runs_one_at_a_time_without_telemetry(home: dg.DagsterInstance) -> None:
    settings = home.get_settings("run_monitoring")
    assert settings["enabled"]
    assert settings["max_runtime_seconds"] > 0
    queue = home.get_concurrency_config().run_queue_config
    assert queue is not None
    assert queue.max_concurrent_runs == 1
    assert not home.telemetry_enabled
    assert not home.nux_enabled


def test_schedules_are_on_in_the_time_zone_of_the_retailer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for zone in ("America/New_York", "Asia/Tokyo"):
        file = retailer_file(tmp_path / zone, tmp_path, time_zone=zone)
        monkeypatch.setenv("SEGMENTATION_RETAILER", str(file))
        loaded = defs()
        for schedule, job, cron in (
            (FIT_IF_DUE, REFIT_JOB, "0 2 * * *"),
            (NIGHTLY, NIGHTLY_JOB, "5 2 * * *"),
            ("weekly_refit", REFIT_JOB, "0 4 * * 0"),
        ):
            found = loaded.resolve_schedule_def(schedule)
            assert (found.job_name, found.cron_schedule, found.execution_timezone) == (job, cron, zone)
            assert found.default_status == dg.DefaultScheduleStatus.RUNNING


def test_only_the_refit_job_materialises_the_model_group() -> None:
    graph = definitions().resolve_asset_graph()
    model = {key for key in graph.get_all_asset_keys() if graph.get(key).group_name == "model"}
    nightly_job, refit_job = (definitions().resolve_job_def(name) for name in (NIGHTLY_JOB, REFIT_JOB))
    assert model
    assert refit_job.asset_layer.executable_asset_keys == graph.get_all_asset_keys()
    assert nightly_job.asset_layer.executable_asset_keys == graph.get_all_asset_keys() - model
    for job in (nightly_job, refit_job):
        assert job.executor_def.name == dg.in_process_executor.name


def test_dead_runs_sensor_is_on() -> None:
    sensor = definitions().resolve_sensor_def("dead_runs")
    assert sensor.default_status == dg.DefaultSensorStatus.RUNNING
    assert sensor.minimum_interval_seconds == 30


def test_customer_segments_have_a_freshness_policy() -> None:
    policy = definitions().resolve_asset_graph().get(dg.AssetKey("customer_segments")).freshness_policy
    assert policy is not None
    assert policy == dg.FreshnessPolicy.time_window(warn_window=timedelta(hours=26), fail_window=timedelta(hours=50))


@pytest.mark.parametrize("broken", ["a file with errors", "no file", "no TOML"])
def test_invalid_retailer_file_fails_the_run_not_the_definitions(
    shop: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    if broken == "a file with errors":
        retailer_file(shop.parent, shop.parent, time_zone="Europe/Lundon", currency="pounds")
        expected = ["time_zone", "Europe/London?", "currency"]
    elif broken == "no file":
        shop.unlink()
        expected = [f"retailer {str(shop)!r}: no such file"]
    else:
        shop.write_text("name = ", "utf-8")
        expected = ["retailer.toml"]
    assert defs().resolve_schedule_def(NIGHTLY).execution_timezone == "UTC"
    result = run_job()
    assert not result.success
    message = failure_message(result, "raw_transactions")
    assert [part for part in expected if part not in message] == []


def failure_message(result: dg.ExecuteInProcessResult, step: str) -> str:
    """Return the message with which a step failed; it must have raised `dagster.Failure`."""
    failures = {event.step_key: event.step_failure_data.user_failure_data for event in result.get_step_failure_events()}
    failure = failures[step]
    assert failure is not None
    assert failure.description is not None
    return failure.description
