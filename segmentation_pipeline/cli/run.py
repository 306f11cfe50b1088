"""`segments run`: run a job in this process, and print its progress.

Contains also what the other commands that start a run use. The jobs are in `defs.automation`.
"""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from traceback import print_exc

import dagster as dg
import typer
from sqlalchemy.exc import SQLAlchemyError

from segmentation_pipeline.cli.console import (
    count_source_files,
    err,
    exit_on_user_error,
    out,
    retailer_settings,
    say,
)
from segmentation_pipeline.cli.progress import Progress
from segmentation_pipeline.cli.releases import releases_of, show_pause
from segmentation_pipeline.cli.show import show_paths, show_segments
from segmentation_pipeline.config.loading import absolute_arguments, load_settings
from segmentation_pipeline.config.paths import RetailerFolders, dagster_home, data_folder
from segmentation_pipeline.definitions import defs
from segmentation_pipeline.ingestion.incremental import TABLES
from segmentation_pipeline.orchestration import alerts, run_liveness
from segmentation_pipeline.orchestration.instance import keep_event_log_open, prepare
from segmentation_pipeline.orchestration.job_selection import NIGHTLY_JOB, REASON_TAG, REFIT_JOB, why_model_is_due
from segmentation_pipeline.tables.catalog import withholdable_columns


@dataclass(frozen=True)
class _Fit:
    """Whether and how the run fits a model; a model that is due is fitted in any case."""

    refit: bool
    search: bool


def run(
    *, retailer: str, source: str, as_of: str, refit: bool, accept_change: bool, reload: bool, traceback: bool
) -> None:
    """Run the job, and print the segments that it published."""
    with exit_on_user_error(traceback):
        retailer, source = absolute_arguments(retailer, source)
        settings = retailer_settings(retailer, source, as_of, withholdable=withholdable_columns())
        count_source_files(retailer, settings)
        home = prepare()
        run_liveness.folder().mkdir(parents=True, exist_ok=True)
    if not execute(
        retailer=retailer,
        source=source,
        as_of=as_of,
        refit=refit,
        accept_change=accept_change,
        reload=reload,
        traceback=traceback,
    ):
        advice = f"The run failed. See its log with `DAGSTER_HOME={home} dg dev`, or run again with --traceback."
        err.print(advice, markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1)
    releases = releases_of(retailer)
    if (release := releases.current) is not None:
        show_segments(release, settings)
        show_pause(releases)
        show_paths(release, releases)


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
    """Run the job that the retailer needs, print its progress, and return whether it succeeded.

    Args:
        retailer: Name of a shipped retailer, or path of a retailer file.
        source: Replaces the file's source.path.
        as_of: Replaces the file's rfm.as_of.
        refit: Fit a model even where none is due.
        search: Fit a model, and choose the number of clusters again.
        accept_change: Publish although the release checks report a change.
        reload: Read every file again, and delete the lines of missing ones.
        reads_source: Read the source; otherwise derive everything from the lines that are loaded.
        traceback: Print tracebacks.
    """
    retailer, source = absolute_arguments(retailer, source)
    config = {"file": retailer, "source": source, "as_of": as_of, "accept_change": accept_change, "reload": reload}
    try:
        return _execute(config, _Fit(refit or search, search), reads_source=reads_source, traceback=traceback)
    except (OSError, SQLAlchemyError) as error:
        # Assets report their own errors. This one is from Dagster, which could not write its event log.
        if traceback:
            print_exc()
        event_log = f"Dagster could not write its event log in {dagster_home()}."
        advice = (
            f"Free disk space there and in {data_folder()}, or fix the permissions, then run again. Tables and releases"
            " are complete, the previous ones or new ones."
        )
        say(err, "red", "failed:", f"{str(error).splitlines()[0]}. {event_log} {advice}")
        alerts.post(f"A run of `segments` failed.\n• {event_log}\n{advice}", _warn)
        return False


def _execute(retailer: Mapping[str, object], fit: _Fit, *, reads_source: bool, traceback: bool) -> bool:
    run_id, progress = str(uuid.uuid4()), Progress(out)
    settings = load_settings(str(retailer["file"]), str(retailer["source"]), str(retailer["as_of"]))
    folders = RetailerFolders(data_folder(), settings.name)
    due = why_model_is_due(settings, folders)
    fits = bool(due) or fit.refit
    if due and folders.working_database.exists():
        out.print(f"A model is due: {due}.", markup=False, highlight=False, soft_wrap=True)
    loggers = {"progress": progress.logger(), "console": dg.colored_console_logger}
    definitions = dg.Definitions.merge(defs(), dg.Definitions(loggers=loggers))
    job = definitions.resolve_job_def(REFIT_JOB if fits else NIGHTLY_JOB)
    config: dict[str, object] = {
        "loggers": {"progress": {}, **({"console": {"config": {"log_level": "ERROR"}}} if traceback else {})},
        "resources": {"retailer": {"config": retailer}},
    }
    if fits:
        config["ops"] = {"segmentation_model": {"config": {"refit": fit.refit, "search": fit.search}}}
    read = {dg.AssetKey(table) for table in TABLES}
    derived = sorted({*job.asset_layer.executable_asset_keys} - read)
    tags = alerts.command_tag(run_id) | ({REASON_TAG: due} if due else {})
    with dg.DagsterInstance.get() as instance, run_liveness.heartbeat(run_liveness.folder(), run_id):
        # Creates the run's event log; Dagster writes a hundred events to it before the first step.
        instance.all_logs(run_id)
        with keep_event_log_open(run_id):
            result = job.execute_in_process(
                asset_selection=None if reads_source else derived,
                instance=instance,
                run_config=config,
                run_id=run_id,
                tags=tags,
                raise_on_error=False,
            )
        progress.print_total()
        for warning in progress.warnings:
            _warn(warning)
        for failure in progress.failures:
            say(err, "red", "failed:", failure)
        if not result.success:
            steps = [event.step_key or "" for event in result.get_step_failure_events()]
            alerts.post(alerts.failure_text(job.name, run_id, steps), _warn)
    return result.success


def _warn(message: str) -> None:
    say(err, "yellow", "warning:", message)
