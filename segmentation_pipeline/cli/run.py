"""The job, run in this process with a progress display.

Belongs here: what `segments run` and `segments model search` do alike. Does not: the job (`defs.automation`).
"""

import uuid
from collections.abc import Mapping
from traceback import print_exc
from typing import TYPE_CHECKING

from sqlalchemy.exc import SQLAlchemyError

from segmentation_pipeline.cli.console import err, out, say
from segmentation_pipeline.config.paths import dagster_home, data_folder
from segmentation_pipeline.ingestion.incremental import TABLES
from segmentation_pipeline.tables.catalog import CONTRACTS

if TYPE_CHECKING:
    import dagster as dg


def execute(
    *,
    refit: bool = False,
    search: bool = False,
    accept_change: bool = False,
    reload: bool = False,
    reads_source: bool = True,
    as_of: str = "",
    traceback: bool = False,
) -> bool:
    """Run the nightly (or the refitting) job, print its steps, and tell whether it succeeded.

    One that does not read the source derives all else from the lines that are there.
    """
    try:
        retailer = {"as_of": as_of, "accept_change": accept_change, "reload": reload}
        return _executed(retailer, refit=refit, search=search, reads_source=reads_source, traceback=traceback)
    except (OSError, SQLAlchemyError) as error:
        # The assets say themselves what they cannot do; this is Dagster, which writes each step down.
        from segmentation_pipeline.orchestration import alerts

        if traceback:
            print_exc()
        said = (
            f"{str(error).splitlines()[0]}. Dagster could not keep the books of the run: see that the disk of"
            f" {dagster_home()} and of {data_folder()} has room and can be written, then run again. Tables and releases"
            " are whole, those of before or new ones."
        )
        say(err, "red", "failed:", said)
        alerts.tell(
            alerts.shareable(f"A run of `segments` failed: {said}"), lambda why: say(err, "yellow", "warning:", why)
        )
        return False


def _executed(
    retailer: Mapping[str, object], *, refit: bool, search: bool, reads_source: bool, traceback: bool
) -> bool:
    import dagster as dg

    from segmentation_pipeline.cli.progress import watching
    from segmentation_pipeline.definitions import defs
    from segmentation_pipeline.orchestration import alerts, run_liveness
    from segmentation_pipeline.orchestration.instance import books_open

    run_id = str(uuid.uuid4())
    job = defs().resolve_job_def("refit_segmentation" if refit or search else "nightly_segmentation")
    config = {
        "loggers": {"console": {"config": {"log_level": "ERROR" if traceback else "CRITICAL"}}},
        "resources": {"retailer": {"config": retailer}},
        "ops": {"segmentation_model": {"config": {"refit": refit, "search": search}}},
    }
    with (
        dg.DagsterInstance.get() as instance,
        run_liveness.alive(data_folder() / "runs", run_id),
        books_open(_begun(instance, run_id)),
        watching(instance, run_id, out) as watch,
    ):
        derived = [dg.AssetKey(table) for table in sorted({*CONTRACTS, "release"} - {*TABLES})]
        result = job.execute_in_process(
            asset_selection=None if reads_source else derived,
            instance=instance,
            run_config=config,
            run_id=run_id,
            tags=alerts.of_command(run_id),
            raise_on_error=False,
        )
        if not result.success:
            alerts.tell_failure(instance, run_id, watch.warnings.append)
    out.print(f"  {'all steps':<44} {'':17} {watch.seconds:6.2f} s", highlight=False)
    for warning in watch.warnings:
        say(err, "yellow", "warning:", warning)
    for failure in watch.failures:
        say(err, "red", "failed:", failure)
    return result.success


def _begun(instance: "dg.DagsterInstance", run_id: str) -> str:
    """The run; its file in Dagster's books is made now, since a hundred events are written before the first asset."""
    instance.all_logs(run_id)
    return run_id
