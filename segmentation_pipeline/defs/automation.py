"""When it runs: every night derived, every week refitted; and what frees the queue of a run that died."""

from typing import Any

import dagster as dg

from segmentation_pipeline import locks
from segmentation_pipeline.folders import data_folder
from segmentation_pipeline.retailer import RetailerError, load_settings

REFIT = {"ops": {"segmentation_model": {"config": {"refit": True}}}}


def _time_zone() -> str:
    """The retailer's; a file that does not validate must not unload the code location, its runs say what is wrong."""
    try:
        return load_settings().time_zone
    except RetailerError:
        return "UTC"


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
    found = locks.fail_dead_runs(context.instance, data_folder() / "runs")
    return dg.SkipReason(f"marked as failed: {', '.join(found)}" if found else "every unfinished run is alive")


@dg.definitions
def automation() -> dg.Definitions:
    """Jobs, their schedules in the retailer's time zone, and the sensor."""
    zone = _time_zone()
    schedules = [
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
    return dg.Definitions(jobs=[nightly_segmentation, refit_segmentation], schedules=schedules, sensors=[dead_runs])
