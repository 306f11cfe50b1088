"""The job, run in this process with a progress display.

Belongs here: what `segments run` and `segments model search` do alike. Does not: the job (`defs.automation`).
"""

import uuid

from segmentation_pipeline.folders import data_folder
from segmentation_pipeline.terminal import err, out, say


def execute(
    *, refit: bool = False, search: bool = False, accept_change: bool = False, as_of: str = "", traceback: bool = False
) -> bool:
    """Run the nightly (or the refitting) job, print its steps, and tell whether it succeeded."""
    import dagster as dg

    from segmentation_pipeline import locks
    from segmentation_pipeline.definitions import defs
    from segmentation_pipeline.progress import watching

    run_id = str(uuid.uuid4())
    job = defs().resolve_job_def("refit_segmentation" if refit or search else "nightly_segmentation")
    config = {
        "loggers": {"console": {"config": {"log_level": "ERROR" if traceback else "CRITICAL"}}},
        "resources": {"retailer": {"config": {"as_of": as_of, "accept_change": accept_change}}},
        "ops": {"segmentation_model": {"config": {"refit": refit, "search": search}}},
    }
    with (
        dg.DagsterInstance.get() as instance,
        locks.alive(data_folder() / "runs", run_id),
        watching(instance, run_id, out) as watch,
    ):
        result = job.execute_in_process(instance=instance, run_config=config, run_id=run_id, raise_on_error=False)
    out.print(f"  {'all steps':<44} {'':17} {watch.seconds:6.2f} s", highlight=False)
    for warning in watch.warnings:
        say(err, "yellow", "warning:", warning)
    for failure in watch.failures:
        say(err, "red", "failed:", failure)
    return result.success
