"""Jobs, schedules and sensors: what starts runs, what they materialise, and what follows a failure.

Contains the definitions. When schedules and sensors are evaluated is in `orchestration.schedules`.
"""

from collections.abc import Callable
from typing import Any

import dagster as dg

from segmentation_pipeline.config.loading import load_settings, resolve_retailer
from segmentation_pipeline.config.paths import RetailerFolders, data_folder
from segmentation_pipeline.errors import PathError, PipelineError, RetailerError, SourceError
from segmentation_pipeline.ingestion.file_watcher import FileCursor, current_files
from segmentation_pipeline.orchestration import alerts, run_liveness
from segmentation_pipeline.orchestration.job_selection import (
    MODEL_GROUP,
    NIGHTLY_JOB,
    REASON_TAG,
    REFIT_JOB,
    why_model_is_due,
)
from segmentation_pipeline.orchestration.schedules import (
    CRON,
    NEW_FILES,
    NIGHT_TAG,
    SENSOR_SECONDS,
    settle_seconds,
    time_zone,
)

# Do what is due, and fit nothing beyond it.
ONLY_WHAT_IS_DUE = {"ops": {"segmentation_model": {"config": {"refit": False}}}}
UNFINISHED = [
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]

nightly_segmentation = dg.define_asset_job(
    NIGHTLY_JOB,
    selection=dg.AssetSelection.all() - dg.AssetSelection.groups(MODEL_GROUP),
    description=(
        "Derive every table from the source with the active model, and publish a release. The first run of a retailer"
        " is refit_segmentation, which fits the model."
    ),
)
refit_segmentation = dg.define_asset_job(
    REFIT_JOB,
    selection=dg.AssetSelection.all(),
    description="Do the same, and fit a model, which becomes active if it passes promotion.",
)


def _why_model_is_due() -> str:
    """Return why the next run must materialise the model group; empty if it need not, or the file is not valid."""
    try:
        settings = load_settings()
        return why_model_is_due(settings, RetailerFolders(data_folder(), settings.name))
    except PipelineError:
        return ""


def _run_request(
    context: dg.ScheduleEvaluationContext, config: dict[str, Any] | None = None, tags: dict[str, str] | None = None
) -> dg.RunRequest:
    """Request a run that knows its scheduled time, so that a re-execution processes the same day."""
    tick = {"resources": {"retailer": {"config": {"tick": context.scheduled_execution_time.isoformat()}}}}
    return dg.RunRequest(run_config={**tick, **(config or {})}, tags=tags)


def _night(context: dg.ScheduleEvaluationContext) -> dict[str, str]:
    """Return the tag of the night's run: the retailer and the date."""
    return {NIGHT_TAG: f"{resolve_retailer('')} {context.scheduled_execution_time:%Y-%m-%d}"}


def _run_of(context: dg.ScheduleEvaluationContext, night: dict[str, str], job: str) -> str:
    """Return the id of the run that the other schedule has requested for the night; empty if there is none.

    A schedule does not look for its own run: Dagster repeats a tick to submit a run that it had only created.
    """
    runs = context.instance.get_runs(dg.RunsFilter(tags=night, job_name=job), limit=1)
    return next((run.run_id for run in runs), "")


def nightly_fit_if_due(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """Start the night's run where a model is due: none is active, one is approved, or the settings changed."""
    night = _night(context)
    if run_id := _run_of(context, night, NIGHTLY_JOB):
        return dg.SkipReason(f"run {run_id} is the run of this night")
    if not (reason := _why_model_is_due()):
        return dg.SkipReason("no model is due: nightly starts the run of this night")
    return _run_request(context, ONLY_WHAT_IS_DUE, {**night, REASON_TAG: reason})


def nightly(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """Start the night's run with the active model, unless nightly_fit_if_due has started one."""
    night = _night(context)
    if run_id := _run_of(context, night, REFIT_JOB):
        return dg.SkipReason(f"run {run_id} is the run of this night")
    return _run_request(context, tags=night)


def weekly_refit(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
    """Fit a model every week."""
    return _run_request(context)


# Of the first two exactly one starts a run each night. Each starts one only if the night has none yet, and only the
# first decides whether a model is due: if both did, a run that starts between their decisions could change the answer.
SCHEDULES: tuple[tuple[Callable[..., Any], Any], ...] = (
    (nightly_fit_if_due, refit_segmentation),
    (nightly, nightly_segmentation),
    (weekly_refit, refit_segmentation),
)


@dg.sensor(
    minimum_interval_seconds=SENSOR_SECONDS["dead_runs"],
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Mark runs as failed whose process died, so that they do not block the queue.",
)
def dead_runs(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """Mark runs as failed whose process died, so that they do not block the queue."""
    found = run_liveness.fail_dead_runs(context.instance, run_liveness.folder())
    alerts.post_dead_commands(context.instance, found, context.log.warning)
    return dg.SkipReason(f"marked as failed: {', '.join(found)}" if found else "every unfinished run is alive")


@dg.run_failure_sensor(
    monitor_all_code_locations=True,
    minimum_interval_seconds=SENSOR_SECONDS["failed_runs"],
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def failed_runs(context: dg.RunFailureSensorContext) -> None:
    """Post each failed run to the webhook of SEGMENTATION_WEBHOOK; a command posts the failure of its own run.

    It monitors all runs of the instance, because a run that was started outside the queue has no code location.
    """
    run = context.dagster_run
    if not alerts.is_command_run(run):
        steps = [event.step_key or "" for event in context.get_step_failure_events()]
        alerts.post(alerts.failure_text(run.job_name, run.run_id, steps), context.log.warning)


def new_files(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """Start a run when new or changed source files are complete, once for each set of them.

    Off by default: the nightly schedule reads all files that have arrived by then, and with a run for each delivery
    the kept releases cover fewer days. A failed run is not requested again before its files change.
    """
    cursor = FileCursor.parse(context.cursor)
    try:
        files = current_files()
    except (RetailerError, PathError, SourceError, OSError) as error:
        return _skip(cursor, str(error))
    if files is None:
        return _skip(cursor, "the source is sample data or a query, and has no files to wait for")
    if not cursor.has_new(files):
        return _skip(cursor.after_seeing(files), "no file is new")
    if not cursor.is_unchanged(files):
        message = "new files; a run is requested when the next evaluation finds them unchanged"
        return _skip(cursor.after_seeing(files), message)
    if runs := context.instance.get_runs(dg.RunsFilter(statuses=UNFINISHED), limit=1):
        return _skip(cursor, f"new files are complete; they wait for run {runs[0].run_id}")
    cursor = cursor.after_request(files)
    reason = _why_model_is_due()
    request = dg.RunRequest(
        run_key=cursor.run_key,
        job_name=REFIT_JOB if reason else NIGHTLY_JOB,
        run_config=ONLY_WHAT_IS_DUE if reason else {},
        tags={REASON_TAG: reason} if reason else {},
    )
    return dg.SensorResult([request], cursor=cursor.text)


def _skip(cursor: FileCursor, reason: str) -> dg.SensorResult:
    return dg.SensorResult(skip_reason=reason, cursor=cursor.text)


@dg.definitions
def automation() -> dg.Definitions:
    """Jobs, their schedules in the retailer's time zone, and the sensors."""
    zone = time_zone()
    jobs = [nightly_segmentation, refit_segmentation]
    schedules = [
        dg.ScheduleDefinition(
            name=function.__name__,
            job=job,
            cron_schedule=CRON[function.__name__],
            execution_fn=function,
            execution_timezone=zone,
            default_status=dg.DefaultScheduleStatus.RUNNING,
            description=function.__doc__,
        )
        for function, job in SCHEDULES
    ]
    arrivals = dg.SensorDefinition(
        name=NEW_FILES,
        evaluation_fn=new_files,
        jobs=jobs,
        minimum_interval_seconds=settle_seconds(),
        description=new_files.__doc__,
    )
    return dg.Definitions(jobs=jobs, schedules=schedules, sensors=[dead_runs, failed_runs, arrivals])
