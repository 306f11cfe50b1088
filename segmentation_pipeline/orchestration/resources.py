"""The retailer of a run, as Dagster's resource: its settings, its folders, and its working database.

Belongs here: what lasts as long as a run does - the writer's lock, the sign of life, the open database.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg
from pydantic import Field, PrivateAttr

from segmentation_pipeline.config.loading import load_settings, source_base
from segmentation_pipeline.config.paths import Folders, data_folder
from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.errors import LockTimeoutError, PipelineError, WarehouseError
from segmentation_pipeline.orchestration import alerts, instance, run_liveness
from segmentation_pipeline.warehouse import lock
from segmentation_pipeline.warehouse.connection import connection_to
from segmentation_pipeline.warehouse.database import Warehouse


class RetailerResource(dg.ConfigurableResource[Any]):
    """Which retailer a run is for, and as of when; empty values are those of the environment and the retailer file."""

    file: str = Field(
        default="", description="A shipped retailer's name or a path; else SEGMENTATION_RETAILER, else sample."
    )
    source: str = Field(default="", description="A path instead of the file's source.path; else SEGMENTATION_SOURCE.")
    as_of: str = Field(
        default="",
        description="last_transaction, end_of_day, schedule, YYYY-MM-DD or YYYY-MM-DD HH:MM:SS instead of rfm.as_of. A"
        " schedule whose retailer says `schedule` sets the day here, so that the run can be repeated as it was.",
    )
    accept_change: bool = Field(
        default=False,
        description="Publish although figures fell or as_of jumped; let a model stand that the gate holds.",
    )
    reload: bool = Field(
        default=False, description="Read every file of the source again, and forget the lines of those that are gone."
    )
    lock_patience: float = Field(
        default=3600, ge=0, description="Seconds to wait while another run writes, or another program looks."
    )

    _stack: ExitStack | None = PrivateAttr(None)
    _context: dg.InitResourceContext | None = PrivateAttr(None)
    _settings: Retailer | None = PrivateAttr(None)
    _warehouse: Warehouse | None = PrivateAttr(None)
    _refusal: Exception | None = PrivateAttr(None)

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator["RetailerResource"]:
        """Hold what the run opens until its last asset is done, whatever happens."""
        with ExitStack() as stack:
            self._stack, self._context = stack, context
            self._warehouse, self._refusal = None, None
            try:
                if context.run is not None:
                    stack.enter_context(run_liveness.alive(self.runs, context.run.run_id))
                    stack.enter_context(instance.books_open(context.run.run_id))
            except (OSError, PipelineError) as error:
                # A resource that fails is a stack trace; an asset that fails is a sentence.
                self._refusal = error
            yield self

    @property
    def settings(self) -> Retailer:
        """The validated retailer file.

        Raises:
            RetailerError: It does not validate.
        """
        if self._settings is None:
            settings = load_settings(self.file, self.source, self.as_of)
            self._settings = settings.at(self._local(self._asked_for, settings.zone))
        return self._settings

    @property
    def source_base(self) -> Path:
        """Where relative source paths start: beside the retailer file, for a shipped one in the data folder."""
        return source_base(self.file)

    @property
    def folders(self) -> Folders:
        """The retailer's places."""
        return Folders(data_folder(), self.settings.name)

    @property
    def run_id(self) -> str:
        """The run."""
        return self._context.run.run_id if self._context and self._context.run else ""

    @property
    def tick(self) -> datetime:
        """The moment that the run is for, in the retailer's time: its schedule's tick, or when it was asked for."""
        return self._local(self._asked_for, self.settings.zone)

    @property
    def is_scheduled(self) -> bool:
        """Whether a schedule asked for the run, or for the one that it repeats."""
        return self._scheduled is not None

    @property
    def _asked_for(self) -> datetime:
        record = self._first_run
        return self._scheduled or (record.create_timestamp if record else datetime.now(UTC))

    @property
    def _scheduled(self) -> datetime | None:
        record = self._first_run
        text = record.dagster_run.tags.get(".dagster/scheduled_execution_time") if record else None
        return datetime.fromisoformat(text) if text else None

    @property
    def _first_run(self) -> dg.RunRecord | None:
        """The run that this one repeats, or else this one: who repeats a run, also days after, means its moment.

        Dagster hands the run's configuration on to the repetition, but not the tick of its schedule.
        """
        context = self._context
        if context is None or context.run is None or context.instance is None:
            return None
        find = context.instance.get_run_record_by_id
        return find(context.run.root_run_id or context.run.run_id) or find(context.run.run_id)

    @staticmethod
    def _local(moment: datetime, zone: ZoneInfo) -> datetime:
        return moment.astimezone(zone).replace(tzinfo=None)

    @property
    def latest_moment(self) -> datetime:
        """No line may be dated later: the tick, or the present where the run came to it less than a day late.

        A shop sells while its run waits for another; a run done again long after its tick is judged by the tick.
        """
        now = datetime.now(self.settings.zone).replace(tzinfo=None)
        return now if timedelta() <= now - self.tick < timedelta(days=1) else self.tick

    @property
    def runs(self) -> Path:
        """The signs of life of all runs, whatever their retailer: they share one Dagster instance."""
        return data_folder() / "runs"

    @property
    def warehouse(self) -> Warehouse:
        """The working database; the first use takes the writer's lock and opens it.

        Raises:
            LockTimeoutError: Another run writes for longer than lock_patience.
            WarehouseError: The file cannot be opened.
        """
        if self._refusal is not None:
            raise self._refusal
        if self._warehouse is None:
            try:
                self._warehouse = self._open()
            except (LockTimeoutError, WarehouseError) as error:
                # An hour's patience is had once, not again by every asset.
                self._refusal = error
                raise
        return self._warehouse

    def _open(self) -> Warehouse:
        assert self._stack is not None
        assert self._context is not None
        log, run = self._context.log, self._context.run
        who = f"process {os.getpid()}, run {run.run_id if run else 'of a test'}"
        with ExitStack() as opening:
            tell = log.warning if log else print
            opening.enter_context(lock.writer(self.folders.lock, who, self.lock_patience, tell))
            if (instance := self._context.instance) is not None:
                alerts.tell_deaths(instance, run_liveness.fail_dead_runs(instance, self.runs), tell)
            places, patience = self.folders, self.lock_patience
            opened = connection_to(places.working_database, places.spill, patience, tell, beside=[places.releases])
            connection = opening.enter_context(opened)
            warehouse = Warehouse(connection)
            # Only now: where the database cannot be opened, the next asset of the run shall not wait for this one.
            self._stack.push(opening.pop_all())
        return warehouse
