"""The job, run in this process with a progress display.

Belongs here: what `segments run` and `segments model search` do alike. Does not: the job (`defs.automation`).
"""

import uuid
from collections.abc import Mapping
from traceback import print_exc
from typing import TYPE_CHECKING

from sqlalchemy.exc import SQLAlchemyError

from segmentation_pipeline.cli.console import err, out, say
from segmentation_pipeline.config.loading import load_settings
from segmentation_pipeline.config.paths import RetailerFolders, dagster_home, data_folder

if TYPE_CHECKING:
    import dagster as dg


def execute(
    *,
    retailer: str,
    source: str = "",
    as_of: str = "",
    refit: bool = False,
    search: bool = False,
    accept_change: bool = False,
    reload: bool = False,
    reads_source: bool = True,
    traceback: bool = False,
) -> bool:
    """Run the job that the retailer needs, print its steps, and return whether it succeeded.

    Args:
        retailer: A shipped retailer's name, or the path of a retailer file.
        source: Replaces the file's source.path.
        as_of: Replaces the file's rfm.as_of.
        refit: Fit a model even where none is due.
        search: Fit a model, and choose the number of clusters again.
        accept_change: Publish although the release checks report a change.
        reload: Read every file again, and delete the lines of missing ones.
        reads_source: Read the source; otherwise derive everything from the lines that are loaded.
        traceback: Print tracebacks.
    """
    config = {
        "file": retailer,
        "source": source,
        "as_of": as_of,
        "accept_change": accept_change,
        "reload": reload,
    }
    try:
        return _execute(config, refit=refit, search=search, reads_source=reads_source, traceback=traceback)
    except (OSError, SQLAlchemyError) as error:
        # The assets report their own errors; this is Dagster, which could not write its event log.
        from segmentation_pipeline.orchestration import alerts

        if traceback:
            print_exc()
        message = (
            f"{str(error).splitlines()[0]}. Dagster could not write its event log in {dagster_home()}. Free disk space"
            f" there and in {data_folder()}, or fix the permissions, then run again. Tables and releases are complete,"
            " the previous ones or new ones."
        )
        say(err, "red", "failed:", message)
        alerts.tell(
            alerts.shareable(f"A run of `segments` failed: {message}"),
            lambda why: say(err, "yellow", "warning:", why),
        )
        return False


def _execute(retailer: Mapping[str, object], *, refit: bool, search: bool, reads_source: bool, traceback: bool) -> bool:
    import dagster as dg

    from segmentation_pipeline.cli.progress import watching
    from segmentation_pipeline.definitions import defs
    from segmentation_pipeline.ingestion.incremental import TABLES
    from segmentation_pipeline.orchestration import alerts, run_liveness
    from segmentation_pipeline.orchestration.instance import keep_event_log_open
    from segmentation_pipeline.orchestration.job_selection import NIGHTLY_JOB, REFIT_JOB, model_is_due

    run_id = str(uuid.uuid4())
    settings = load_settings(str(retailer["file"]), str(retailer["source"]), str(retailer["as_of"]))
    fits = refit or search or model_is_due(settings, RetailerFolders(data_folder(), settings.name))
    job = defs().resolve_job_def(REFIT_JOB if fits else NIGHTLY_JOB)
    config: dict[str, object] = {
        "loggers": {"console": {"config": {"log_level": "ERROR" if traceback else "CRITICAL"}}},
        "resources": {"retailer": {"config": retailer}},
    }
    if fits:
        config["ops"] = {"segmentation_model": {"config": {"refit": refit or search, "search": search}}}
    with (
        dg.DagsterInstance.get() as instance,
        run_liveness.heartbeat(run_liveness.folder(), run_id),
        keep_event_log_open(_begun(instance, run_id)),
        watching(instance, run_id, out) as watch,
    ):
        selected = sorted({*job.asset_layer.executable_asset_keys} - {dg.AssetKey(table) for table in TABLES})
        result = job.execute_in_process(
            asset_selection=None if reads_source else selected,
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
