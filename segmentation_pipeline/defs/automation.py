"""When it runs: every night derived, every week refitted; and what frees the queue of a run that died."""

import dagster as dg

from segmentation_pipeline import locks
from segmentation_pipeline.folders import data_folder
from segmentation_pipeline.retailer import RetailerError, load_settings

REFIT = dg.RunConfig(ops={"outlier_fences": {"config": {"refit": True}}, "kmeans_model": {"config": {"refit": True}}})


def _time_zone() -> str:
    """The retailer's; a file that does not validate must not unload the code location, its runs say what is wrong."""
    try:
        return load_settings().time_zone
    except RetailerError:
        return "UTC"


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

SCHEDULED = (("nightly", nightly_segmentation, "0 2 * * *"), ("weekly_refit", refit_segmentation, "0 4 * * 0"))


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
            execution_timezone=zone,
            default_status=dg.DefaultScheduleStatus.RUNNING,
        )
        for name, job, cron in SCHEDULED
    ]
    return dg.Definitions(jobs=[nightly_segmentation, refit_segmentation], schedules=schedules, sensors=[dead_runs])
