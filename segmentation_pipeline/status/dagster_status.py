"""What Dagster's own storage says: the last runs, and the schedules and sensors with the daemon that evaluates them.

Contains no code location: nothing is loaded that a run would need.
"""

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg

from segmentation_pipeline.config.loading import absolute_arguments, resolve_retailer
from segmentation_pipeline.errors import PipelineError
from segmentation_pipeline.orchestration import alerts, run_liveness
from segmentation_pipeline.orchestration.run_messages import MESSAGE_EVENTS, RunMessages
from segmentation_pipeline.orchestration.schedules import NIGHT_TAG, declared
from segmentation_pipeline.status.problems import Problem, error, warning

_SHOWN_RUNS = 5
# Other retailers share the instance, so more runs are searched than shown.
_SEARCHED_RUNS = 200
# A daemon reports every half minute.
_DAEMON_SILENCE = 300
_FAILURE = dg.DagsterRunStatus.FAILURE
_START_DAEMON = "`dagster-daemon run -w workspace.yaml` starts it, or `make dev` with the web interface"


@dataclass(frozen=True)
class RunStatus:
    """One run of the retailer; the messages are those of the last finished run only."""

    run_id: str
    job: str
    status: str
    started_by: str
    started_at: datetime | None
    seconds: float | None
    failures: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def has_failed(self) -> bool:
        """Whether it ended without success and without a person's wish."""
        return self.status == "failure"

    @property
    def has_ended(self) -> bool:
        """Whether it will do nothing more."""
        return self.status in ("success", "failure", "canceled")


@dataclass(frozen=True)
class ScheduleStatus:
    """A schedule or sensor: whether it is switched on, and its last evaluation."""

    name: str
    kind: str
    on: bool
    when: str
    last_evaluated_at: datetime | None = None
    last_result: str | None = None
    error: str | None = None


@dataclass(frozen=True)
class DagsterStatus:
    """The last runs of a retailer, newest first, and what starts runs.

    A daemon runs the nights of one retailer; `nights_of_another` names it if it is not this one, else it is empty.
    """

    runs: list[RunStatus]
    daemon_is_running: bool
    daemon_last_seen_at: datetime | None
    schedules: list[ScheduleStatus]
    nights_of_another: str = ""

    @property
    def last_ended(self) -> RunStatus | None:
        """The newest run that has ended and was not cancelled."""
        return next((run for run in self.runs if run.status in ("success", "failure")), None)

    @property
    def runs_nightly(self) -> bool:
        """Whether a release is due every night."""
        on = any(one.on for one in self.schedules if one.name == "nightly")
        return on and self.daemon_is_running and not self.nights_of_another


def dagster_status(home: Path, retailer: str) -> DagsterStatus:
    """Return the runs of a retailer and the schedules from the instance in a folder; nothing is created.

    Args:
        home: Dagster's folder.
        retailer: Name of a shipped retailer, or the absolute path of a retailer file.
    """
    if not (home / "dagster.yaml").exists():
        return DagsterStatus([], False, None, list(_schedules([], None)))
    os.environ["DAGSTER_HOME"] = str(home)
    with dg.DagsterInstance.get() as instance:
        seen = max((beat.timestamp for beat in instance.get_daemon_heartbeats().values()), default=None)
        return DagsterStatus(
            _runs(instance, retailer),
            seen is not None and time.time() - seen < _DAEMON_SILENCE,
            None if seen is None else datetime.fromtimestamp(seen, UTC),
            list(_schedules(instance.all_instigator_state(), instance)),
            "" if (nights_of := _retailer_of_nights(instance)) == retailer else nights_of,
        )


def _runs(instance: dg.DagsterInstance, retailer: str) -> list[RunStatus]:
    records = instance.get_run_records(limit=_SEARCHED_RUNS)
    mine = [record for record in records if _retailer_of(record.dagster_run) == retailer][:_SHOWN_RUNS]
    ended = next((one for one in mine if one.dagster_run.status in (dg.DagsterRunStatus.SUCCESS, _FAILURE)), None)
    return [_run(instance, record, with_messages=record is ended) for record in mine]


def _run(instance: dg.DagsterInstance, record: dg.RunRecord, *, with_messages: bool) -> RunStatus:
    run, messages = record.dagster_run, RunMessages()
    if with_messages:
        for entry in instance.all_logs(run.run_id, of_type=MESSAGE_EVENTS):
            if entry.dagster_event is not None:
                messages.add(entry.dagster_event)
    started, ended = record.start_time, record.end_time
    return RunStatus(
        run_id=run.run_id,
        job=run.job_name,
        status=run.status.value.lower(),
        started_by=_started_by(run),
        started_at=None if started is None else datetime.fromtimestamp(started, UTC),
        seconds=None if started is None or ended is None else round(ended - started, 2),
        failures=messages.failures if run.status == _FAILURE else [],
        warnings=messages.warnings,
        notes=messages.notes,
    )


def _retailer_of(run: dg.DagsterRun) -> str:
    """Return the retailer of a run: of its configuration, of its night, or else of this environment."""
    config: Any = run.run_config
    for key in ("resources", "retailer", "config", "file"):
        config = config.get(key, {}) if isinstance(config, dict) else {}
    if isinstance(config, str) and config:
        return config
    return run.tags.get(NIGHT_TAG, "").rpartition(" ")[0] or resolve_retailer("")


def _retailer_of_nights(instance: dg.DagsterInstance) -> str:
    """Return whose nights the daemon runs: the retailer of the last night, or else that of this environment."""
    for run in instance.get_runs(limit=_SEARCHED_RUNS):
        if night := run.tags.get(NIGHT_TAG):
            return night.rpartition(" ")[0]
    try:
        return absolute_arguments("", "")[0]
    except PipelineError:
        return resolve_retailer("")


def _started_by(run: dg.DagsterRun) -> str:
    if alerts.is_command_run(run):
        return "segments"
    for kind in ("schedule", "sensor"):
        if name := run.tags.get(f"dagster/{kind}_name"):
            return f"{kind} {name}"
    return "Dagster"


def _schedules(states: Sequence[Any], instance: dg.DagsterInstance | None) -> Iterator[ScheduleStatus]:
    """Yield every schedule and sensor of the project; one that no daemon has evaluated is as the code says."""
    for name, kind, on, when in declared():
        found = []
        for state in states:
            if state.instigator_name == name and instance is not None:
                ticks = instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=1)
                found.append((ticks[0].timestamp if ticks else 0.0, state, ticks[0] if ticks else None))
        if not found:
            yield ScheduleStatus(name, kind, on, when)
            continue
        # A code location that was renamed leaves its states behind.
        timestamp, state, tick = max(found, key=lambda one: one[0])
        is_declared = state.status.value in ("DECLARED_IN_CODE", "AUTOMATICALLY_RUNNING")
        failure = tick.error if tick is not None and tick.status.value == "FAILURE" else None
        yield ScheduleStatus(
            name,
            kind,
            on if is_declared else state.is_running,
            when,
            datetime.fromtimestamp(timestamp, UTC) if tick else None,
            tick.status.value.lower() if tick else None,
            None if failure is None else failure.message.strip().splitlines()[-1],
        )


def run_problems(status: DagsterStatus) -> Iterator[Problem]:
    """Yield what is wrong with the last runs: a failed or dead one, a queue that nobody empties, and warnings."""
    if (last := status.last_ended) is not None:
        action = "docs/failures.md lists causes and what to do. The current release is unchanged."
        if last.has_failed:
            for message in last.failures or ["It failed outside its steps: see its log in the web interface."]:
                yield error("runs", f"The last run failed. {message}", action)
        for message in last.warnings:
            yield warning("runs", f"The last run warned. {message}", "docs/failures.md lists the checks.")
    for run in status.runs:
        if run.status == "started" and not run_liveness.is_alive(run_liveness.folder(), run.run_id):
            yield warning(
                "runs",
                f"The process of run {run.run_id} died.",
                "The next run, or the sensor dead_runs, marks it as failed. No table is half written.",
            )
        if run.status == "queued" and not status.daemon_is_running:
            yield warning("runs", f"Run {run.run_id} is queued, and no daemon starts it.", f"{_START_DAEMON}.")


def schedule_problems(status: DagsterStatus) -> Iterator[Problem]:
    """Yield what keeps nights from running: a daemon that stopped, and schedules that are off or fail."""
    if not status.daemon_is_running and status.daemon_last_seen_at is not None and not status.nights_of_another:
        yield warning(
            "schedules",
            f"The daemon was last seen at {status.daemon_last_seen_at:%Y-%m-%d %H:%M} UTC, so no night runs.",
            f"{_START_DAEMON}. Without nights, ignore this.",
        )
    switched_on = {name for name, _, on, _ in declared() if on}
    for one in status.schedules:
        if one.error:
            yield error(
                "schedules",
                f"{one.kind} {one.name} failed: {one.error}",
                f"Correct the cause; the {one.kind} goes on by itself.",
            )
        if not one.on and one.name in switched_on:
            yield warning(
                "schedules",
                f"{one.kind} {one.name} is switched off.",
                f"`{turn_on(one)}` switches it on.",
            )


def turn_on(one: ScheduleStatus) -> str:
    """Return the command that switches a schedule or sensor on."""
    return f"dagster {one.kind} start {one.name} -w workspace.yaml"
