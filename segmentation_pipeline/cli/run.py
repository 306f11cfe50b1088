"""`segments run`: run a job in this process, and print its progress.

Contains also what the other commands that start a run use. The jobs are in `defs.automation`.
"""

import time
import uuid
from contextlib import nullcontext
from dataclasses import dataclass
from traceback import print_exc

import dagster as dg
import typer
from sqlalchemy.exc import SQLAlchemyError

from segmentation_pipeline.cli.changes import before_the_run, print_changes
from segmentation_pipeline.cli.console import (
    check_source_files,
    err,
    exit_on_user_error,
    out,
    retailer_settings,
    say,
)
from segmentation_pipeline.cli.explain import print_dearest
from segmentation_pipeline.cli.losses import print_losses_of_run
from segmentation_pipeline.cli.progress import Progress, stages_of_steps
from segmentation_pipeline.cli.releases import releases_of, show_pause
from segmentation_pipeline.cli.show import show_paths, show_segments
from segmentation_pipeline.config.loading import absolute_arguments
from segmentation_pipeline.config.paths import RetailerFolders, dagster_home, data_folder
from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.definitions import defs
from segmentation_pipeline.ingestion.incremental import TABLES
from segmentation_pipeline.orchestration import alerts, run_liveness
from segmentation_pipeline.orchestration.event_log import keep_event_log_open
from segmentation_pipeline.orchestration.instance import prepare
from segmentation_pipeline.orchestration.job_selection import NIGHTLY_JOB, REASON_TAG, REFIT_JOB, why_model_is_due
from segmentation_pipeline.tables.catalog import withholdable_columns
from segmentation_pipeline.warehouse.statements import logged_statements


@dataclass(frozen=True)
class RunRequest:
    """What a command asks of a run.

    Attributes:
        retailer: Name of a shipped retailer, or path of a retailer file.
        source: Replaces the file's source.path.
        as_of: Replaces the file's rfm.as_of.
        refit: Fit a model even where none is due.
        search: Fit a model, and choose the number of clusters again.
        accept_change: Publish although the release checks report a change.
        reload: Read every file again, and delete the lines of missing ones.
        explain: Print the statements that took most of the time.
        verbose: Print each step.
        reads_source: Read the source; otherwise derive everything from the lines that are loaded.
        traceback: Print tracebacks.
    """

    retailer: str
    source: str = ""
    as_of: str = ""
    refit: bool = False
    search: bool = False
    accept_change: bool = False
    reload: bool = False
    explain: bool = False
    verbose: bool = False
    reads_source: bool = True
    traceback: bool = False

    @property
    def fits(self) -> bool:
        """Whether a model is fitted even where none is due."""
        return self.refit or self.search

    def config(self) -> dict[str, object]:
        """Return the configuration of the resource `retailer`."""
        retailer, source = absolute_arguments(self.retailer, self.source)
        return {
            "file": retailer,
            "source": source,
            "as_of": self.as_of,
            "accept_change": self.accept_change,
            "reload": self.reload,
        }


def run(request: RunRequest) -> None:
    """Run the job, and print the segments that it published."""
    with exit_on_user_error(request.traceback):
        settings = retailer_settings(
            request.retailer, request.source, request.as_of, withholdable=withholdable_columns()
        )
        check_source_files(request.retailer, settings)
        home = prepare()
        run_liveness.folder().mkdir(parents=True, exist_ok=True)
    if not execute(request, settings):
        advice = f"The run failed. See its log with `DAGSTER_HOME={home} dg dev`, or run again with --traceback."
        err.print(advice, markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1)
    releases = releases_of(settings)
    if (release := releases.current) is not None:
        show_segments(release, settings)
        show_pause(releases)
        show_paths(release, releases, request.retailer)


def execute(request: RunRequest, settings: Retailer) -> bool:
    """Run the job that the retailer needs, print its progress, and return whether it succeeded.

    Args:
        request: What the command asks for.
        settings: The retailer's settings with what the request replaces.
    """
    try:
        return _execute(request, settings)
    except (OSError, SQLAlchemyError) as error:
        # Assets report their own errors. This one is from Dagster, which could not write its event log.
        if request.traceback:
            print_exc()
        event_log = f"Dagster could not write its event log in {dagster_home()}."
        advice = (
            f"Free disk space there and in {data_folder()}, or fix the permissions, then run again. Tables and releases"
            " are complete, the previous ones or new ones."
        )
        say(err, "red", "failed:", f"{str(error).splitlines()[0]}. {event_log} {advice}")
        alerts.post(f"A run of `segments` failed.\n• {event_log}\n{advice}", _warn)
        return False


def run_config(request: RunRequest, *, fits: bool) -> dict[str, object]:
    """Return the configuration of the run, which the web interface can re-execute."""
    config: dict[str, object] = {
        "loggers": {"console": {}, **({"errors": {"config": {"log_level": "ERROR"}}} if request.traceback else {})},
        "resources": {"retailer": {"config": request.config()}},
    }
    if fits:
        config["ops"] = {"segmentation_model": {"config": {"refit": request.fits, "search": request.search}}}
    return config


def _execute(request: RunRequest, settings: Retailer) -> bool:
    with logged_statements() if request.explain else nullcontext() as statements:
        progress = Progress(out, verbose=request.verbose or request.explain, statements=statements)
        started = time.perf_counter()
        succeeded = _execute_job(request, settings, progress)
    if statements is not None:
        print_dearest(out, statements.statements, progress.step_seconds, time.perf_counter() - started)
    return succeeded


def _execute_job(request: RunRequest, settings: Retailer, progress: Progress) -> bool:
    run_id = str(uuid.uuid4())
    folders = RetailerFolders(data_folder(), settings.name)
    due = why_model_is_due(settings, folders)
    fits = bool(due) or request.fits
    if due and folders.working_database.exists():
        out.print(f"A model is due: {due}.", markup=False, highlight=False, soft_wrap=True)
    loggers = {"console": progress.logger(), **({"errors": dg.colored_console_logger} if request.traceback else {})}
    definitions = dg.Definitions.merge(defs(), dg.Definitions(loggers=loggers))
    job = definitions.resolve_job_def(REFIT_JOB if fits else NIGHTLY_JOB)
    progress.stages = stages_of_steps(definitions, [node.name for node in job.nodes])
    releases = releases_of(settings)
    read = {dg.AssetKey(table) for table in TABLES}
    derived = sorted({*job.asset_layer.executable_asset_keys} - read)
    tags = alerts.command_tag(run_id) | ({REASON_TAG: due} if due else {})
    with (
        before_the_run(releases) as before,
        dg.DagsterInstance.get() as instance,
        run_liveness.heartbeat(run_liveness.folder(), run_id),
    ):
        with keep_event_log_open(instance, run_id), progress.shown():
            result = job.execute_in_process(
                asset_selection=None if request.reads_source else derived,
                instance=instance,
                run_config=run_config(request, fits=fits),
                run_id=run_id,
                tags=tags,
                raise_on_error=False,
            )
        progress.print_total()
        print_changes(out, releases, before, settings)
        print_losses_of_run(out, progress.metadata, settings)
        for note in progress.messages.notes:
            say(err, "cyan", "note:", note)
        for warning in progress.messages.warnings:
            _warn(warning)
        for failure in progress.messages.failures:
            say(err, "red", "failed:", failure)
        if not result.success:
            steps = [event.step_key or "" for event in result.get_step_failure_events()]
            alerts.post(alerts.failure_text(job.name, run_id, steps), _warn)
    return result.success


def _warn(message: str) -> None:
    say(err, "yellow", "warning:", message)
