"""When it runs: every night derived, every week refitted; what frees the queue of a run that died, and who hears."""

from typing import Any

import dagster as dg

from segmentation_pipeline.config.loading import load_settings
from segmentation_pipeline.config.paths import data_folder
from segmentation_pipeline.config.sections import Source
from segmentation_pipeline.errors import PathError, RetailerError, SourceError
from segmentation_pipeline.ingestion.file_watcher import Looked, files_now
from segmentation_pipeline.orchestration import alerts, run_liveness

REFIT = {"ops": {"segmentation_model": {"config": {"refit": True}}}}


UNFINISHED = [
    dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING,
]  # fmt: skip


def _time_zone() -> str:
    """The retailer's; a file that does not validate must not unload the code location, its runs say what is wrong."""
    try:
        return load_settings().time_zone
    except RetailerError:
        return "UTC"


def _settle_seconds() -> int:
    """The retailer's, in the same way."""
    try:
        return load_settings().source.settle_seconds
    except RetailerError:
        return int(Source.model_fields["settle_seconds"].default)


def _of_the_tick(context: dg.ScheduleEvaluationContext) -> dict[str, Any]:
    """What a run's configuration says of its tick, where the retailer says `schedule`: a rerun has it too."""
    try:
        settings = load_settings()
    except RetailerError:
        return {}
    if settings.rfm.as_of != "schedule":
        return {}
    day = settings.at(context.scheduled_execution_time.astimezone(settings.zone)).rfm.as_of
    return {"resources": {"retailer": {"config": {"as_of": str(day)}}}}


def _and_refit(context: dg.ScheduleEvaluationContext) -> dict[str, Any]:
    """The configuration of a scheduled run takes the place of its job's."""
    return {**REFIT, **_of_the_tick(context)}


nightly_segmentation = dg.define_asset_job(
    "nightly_segmentation",
    selection=dg.AssetSelection.all(),
    description="Derive every table from the source and publish a release; the standing model is kept.",
)

refit_segmentation = dg.define_asset_job(
    "refit_segmentation",
    selection=dg.AssetSelection.all(),
    config=REFIT,
    description="The same, and fit the fences and the model again.",
)

SCHEDULED = (
    ("nightly", nightly_segmentation, "0 2 * * *", _of_the_tick),
    ("weekly_refit", refit_segmentation, "0 4 * * 0", _and_refit),
)


@dg.sensor(minimum_interval_seconds=30, default_status=dg.DefaultSensorStatus.RUNNING)
def dead_runs(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """Mark runs as failed whose process died, so that they do not fill the queue."""
    found = run_liveness.fail_dead_runs(context.instance, data_folder() / "runs")
    alerts.tell_deaths(context.instance, found, context.log.warning)
    return dg.SkipReason(f"marked as failed: {', '.join(found)}" if found else "every unfinished run is alive")


@dg.run_failure_sensor(
    monitor_all_code_locations=True, minimum_interval_seconds=30, default_status=dg.DefaultSensorStatus.RUNNING
)
def failed_runs(context: dg.RunFailureSensorContext) -> None:
    """Post each failed run to the webhook of SEGMENTATION_WEBHOOK; the runs of a command are told of by the command.

    Every run of the instance is looked at, because one that was started past the queue is of no code location.
    """
    if not alerts.is_of_command(context.dagster_run):
        alerts.tell_failure(context.instance, context.dagster_run.run_id, context.log.warning)


def new_files(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """Start the nightly job when new or changed files of the source stand still, once for each set of them.

    Off until it is switched on: the nightly schedule reads all that came by then, and with a run for each delivery the
    releases that are kept reach less far back. A failed run is not asked for again before its files change.
    """
    looked = Looked.of(context.cursor)
    try:
        files = files_now()
    except (RetailerError, PathError, SourceError, OSError) as error:
        return _nothing_yet(looked, str(error))
    if files is None:
        return _nothing_yet(looked, "the source's files are made up")
    if not looked.new(files):
        return _nothing_yet(looked.again(files), "no file is new")
    if files != looked.seen:
        return _nothing_yet(
            looked.again(files), "new files; they are asked for when the next look finds them unchanged"
        )
    if runs := context.instance.get_runs(dg.RunsFilter(statuses=UNFINISHED), limit=1):
        return _nothing_yet(looked, f"new files stand still; they wait for run {runs[0].run_id}")
    looked = looked.after_asking(files)
    return dg.SensorResult([dg.RunRequest(run_key=looked.asked)], cursor=looked.cursor)


def _nothing_yet(looked: Looked, why: str) -> dg.SensorResult:
    return dg.SensorResult(skip_reason=why, cursor=looked.cursor)


def _schedules() -> list[dg.ScheduleDefinition]:
    zone = _time_zone()
    return [
        dg.ScheduleDefinition(
            name=name,
            job=job,
            cron_schedule=cron,
            run_config_fn=config,
            execution_timezone=zone,
            default_status=dg.DefaultScheduleStatus.RUNNING,
        )
        for name, job, cron, config in SCHEDULED
    ]


@dg.definitions
def automation() -> dg.Definitions:
    """Jobs, their schedules in the retailer's time zone, and the sensors."""
    arrivals = dg.SensorDefinition(
        name="new_files",
        evaluation_fn=new_files,
        job=nightly_segmentation,
        minimum_interval_seconds=_settle_seconds(),
        description=new_files.__doc__,
    )
    jobs = [nightly_segmentation, refit_segmentation]
    return dg.Definitions(jobs=jobs, schedules=_schedules(), sensors=[dead_runs, failed_runs, arrivals])
