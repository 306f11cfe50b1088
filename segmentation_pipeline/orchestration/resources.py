"""The resources of a run: the retailer's settings, and the working database.

Contains what Dagster creates once a run. The definitions bind them to their keys in `defs.resources`.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg
from pydantic import Field, PrivateAttr

from segmentation_pipeline.config.loading import load_settings, source_base
from segmentation_pipeline.config.paths import RetailerFolders, data_folder
from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.errors import EngineError, LockTimeoutError, PipelineError, RetailerError, WarehouseError
from segmentation_pipeline.orchestration import alerts, run_liveness
from segmentation_pipeline.orchestration.engines import run_engine
from segmentation_pipeline.orchestration.event_log import keep_event_log_open
from segmentation_pipeline.tables.catalog import withholdable_columns
from segmentation_pipeline.warehouse import lock
from segmentation_pipeline.warehouse.connection import connection_to
from segmentation_pipeline.warehouse.database import Warehouse


class RetailerConfig(dg.ConfigurableResource[Any]):
    """Which retailer a run processes, and as of when.

    An empty value means the environment's, or else the retailer file's.
    """

    file: str = Field(
        default="",
        description="Name of a shipped retailer or path of a retailer file. Default: SEGMENTATION_RETAILER, or sample.",
    )
    source: str = Field(
        default="", description="Path to read instead of the file's source.path. Default: SEGMENTATION_SOURCE."
    )
    as_of: str = Field(
        default="",
        description="Replaces rfm.as_of: last_transaction, end_of_day, schedule, YYYY-MM-DD or YYYY-MM-DD HH:MM:SS.",
    )
    tick: str = Field(
        default="",
        description="Scheduled time of the run, ISO 8601. Schedules set it, so that a re-execution has the same.",
    )
    accept_change: bool = Field(
        default=False,
        description="Publish although the release checks report a change, and activate a model that fails promotion.",
    )
    reload: bool = Field(
        default=False, description="Read every source file again, and delete the lines of files that are missing."
    )

    _settings: Retailer | None = PrivateAttr(None)
    _requested_at: datetime = PrivateAttr(default_factory=lambda: datetime.now(UTC))
    _run_id: str = PrivateAttr("")

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Note the run, and when it was first requested: a re-execution processes the same day."""
        self._settings = None
        if context.run is not None and context.instance is not None:
            self._run_id = context.run.run_id
            find = context.instance.get_run_record_by_id
            record = find(context.run.root_run_id or context.run.run_id) or find(context.run.run_id)
            self._requested_at = record.create_timestamp if record else datetime.now(UTC)

    @property
    def settings(self) -> Retailer:
        """The validated settings of the retailer.

        Raises:
            RetailerError: The retailer file is not valid.
        """
        if self._settings is None:
            settings = load_settings(self.file, self.source, self.as_of, withholdable=withholdable_columns())
            self._settings = settings.for_run(_local(self._scheduled_at, settings.zone))
        return self._settings

    @property
    def source_base(self) -> Path:
        """The folder that relative source paths start from."""
        return source_base(self.file)

    @property
    def folders(self) -> RetailerFolders:
        """The retailer's folders."""
        return RetailerFolders(data_folder(), self.settings.name)

    @property
    def run_id(self) -> str:
        """The id of the run; empty outside a run."""
        return self._run_id

    @property
    def is_scheduled(self) -> bool:
        """Whether a schedule requested the run."""
        return bool(self.tick)

    @property
    def scheduled_at(self) -> datetime:
        """The scheduled time, or else when a person requested the run, in the retailer's local time."""
        return _local(self._scheduled_at, self.settings.zone)

    @property
    def latest_possible_at(self) -> datetime:
        """The time after which no transaction can be dated, in the retailer's local time.

        It is the present where the run started less than a day after its scheduled time, since shops sell while a run
        waits for another. A run repeated long after is judged by its scheduled time.
        """
        now = datetime.now(self.settings.zone).replace(tzinfo=None)
        return now if timedelta() <= now - self.scheduled_at < timedelta(days=1) else self.scheduled_at

    @property
    def _scheduled_at(self) -> datetime:
        if not self.tick:
            return self._requested_at
        try:
            tick = datetime.fromisoformat(self.tick)
        except ValueError:
            tick = None
        if tick is None or tick.tzinfo is None:
            raise RetailerError(
                f"resources.retailer.config.tick: {self.tick!r} is not a time in ISO 8601 with an offset, such as"
                " 2024-03-21T02:00:00+00:00; set it so, or leave it empty"
            )
        return tick


class WarehouseResource(dg.ConfigurableResource[Any]):
    """The working database of the run's retailer, opened on first use under the writer's lock."""

    retailer: dg.ResourceDependency[RetailerConfig]
    lock_timeout: float = Field(
        default=3600, ge=0, description="Seconds to wait while another process holds the working database."
    )

    _stack: ExitStack | None = PrivateAttr(None)
    _context: dg.InitResourceContext | None = PrivateAttr(None)
    _database: Warehouse | None = PrivateAttr(None)
    _error: Exception | None = PrivateAttr(None)

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator["WarehouseResource"]:
        """Hold the lock and the connection until the run's last step has finished."""
        with ExitStack() as stack:
            self._stack, self._context = stack, context
            self._database, self._error = None, None
            try:
                if context.run is not None and context.instance is not None:
                    stack.enter_context(run_liveness.heartbeat(run_liveness.folder(), context.run.run_id))
                    stack.enter_context(keep_event_log_open(context.instance, context.run.run_id))
            except (OSError, PipelineError) as error:
                # An error raised here would be a stack trace; raised by an asset, it is a message.
                self._error = error
            yield self

    def open(self) -> Warehouse:
        """Return the working database; the first call takes the writer's lock and opens it.

        Raises:
            LockTimeoutError: Another process held the lock for longer than `lock_timeout`.
            WarehouseError: The file cannot be opened.
        """
        if self._error is not None:
            raise self._error
        if self._database is None:
            try:
                self._database = self._open()
            except (EngineError, LockTimeoutError, WarehouseError) as error:
                # The next steps of the run must not wait for the timeout again.
                self._error = error
                raise
        return self._database

    def _open(self) -> Warehouse:
        assert self._stack is not None
        assert self._context is not None
        log, run, folders = self._context.log, self._context.run, self.retailer.folders
        command = "segments" if run and alerts.is_command_run(run) else "Dagster"
        holder = lock.this_process(f"{command}: {run.job_name}", run.run_id) if run else lock.this_process("test")
        with ExitStack() as opening:
            warn = log.warning if log else print
            opening.enter_context(lock.writer(folders.lock, holder, self.lock_timeout, warn))
            if (instance := self._context.instance) is not None:
                alerts.post_dead_commands(instance, run_liveness.fail_dead_runs(instance, run_liveness.folder()), warn)
            # The logger of the step that is running then.
            report = lambda text: dg.get_dagster_logger().info(text)  # noqa: E731 - one argument
            engine = opening.enter_context(run_engine(self.retailer.settings, report))
            connection = opening.enter_context(
                connection_to(
                    folders.working_database,
                    folders.spill,
                    self.lock_timeout,
                    warn,
                    folders=[folders.releases, *engine.folders],
                )
            )
            database = Warehouse(connection, engine=engine.of)
            # Only a database that opened stays open; otherwise the lock is released here.
            self._stack.push(opening.pop_all())
        return database


def _local(timestamp: datetime, zone: ZoneInfo) -> datetime:
    return timestamp.astimezone(zone).replace(tzinfo=None)
