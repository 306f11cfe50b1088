"""A run as a person at the terminal sees it: asset by asset with rows and times, and at the end what became of it.

Belongs here: reading Dagster's event log of one run. Does not: starting the run (`cli`).
"""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import dagster as dg
from rich.console import Console
from rich.markup import escape
from sqlalchemy.exc import SQLAlchemyError

# The longest name of a step; with rows and seconds its line stays below 80 columns.
_NAME = 44


@dataclass
class Watch:
    """What has been seen of a run so far."""

    seconds: float = 0.0
    warnings: list[str] = field(default_factory=list)
    rows: dict[str, dict[str, int]] = field(default_factory=dict)
    _failures: dict[str, list[str]] = field(default_factory=dict)

    @property
    def failures(self) -> list[str]:
        """What went wrong, each thing once."""
        return [said for of_step in self._failures.values() for said in of_step]

    def see(self, event: dg.DagsterEvent, console: Console) -> None:
        """Take in one event; print a line where a step ended."""
        if event.is_step_materialization:
            made = event.step_materialization_data.materialization
            if (count := made.metadata.get("dagster/row_count")) is not None and event.step_key:
                self.rows.setdefault(event.step_key, {})[made.asset_key.to_user_string()] = int(str(count.value))
        elif event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            self._see_check(event)
        elif event.is_step_success:
            self._line(console, "[green]✓[/]", event.step_key or "", event.step_success_data.duration_ms / 1000)
        elif event.is_step_failure:
            self._see_failure(event)
            self._line(console, "[red]✗[/]", event.step_key or "", None)

    def _see_check(self, event: dg.DagsterEvent) -> None:
        check = event.asset_check_evaluation_data
        if check.passed:
            return
        said = f"{check.asset_key.to_user_string()}: check {check.check_name} failed. {check.description or ''}".strip()
        failed = self._failures.setdefault(event.step_key or "", [])
        (self.warnings if check.severity == dg.AssetCheckSeverity.WARN else failed).append(said)

    def _see_failure(self, event: dg.DagsterEvent) -> None:
        """An asset that fails says more than its checks did; a check's step says only that the check failed."""
        step, data = event.step_key or "", event.step_failure_data
        if data.user_failure_data and data.user_failure_data.description:
            self._failures[step] = [f"{step}: {data.user_failure_data.description}"]
        elif not self._failures.get(step):
            self._failures[step] = [f"{step}: {_root_cause(data.error)}"]

    def _line(self, console: Console, mark: str, step: str, seconds: float | None) -> None:
        self.seconds += seconds or 0.0
        tables = self.rows.get(step, {})
        # Of a step that is called like one of its tables, that table's.
        count = tables.get(step, sum(tables.values()))
        rows = f"{count:>12,} rows" if tables else " " * 17
        time = f"{seconds:6.2f} s" if seconds is not None else ""
        console.print(f"{mark} {step:<{_NAME}} {rows} {time}".rstrip(), highlight=False)


@contextmanager
def watching(instance: dg.DagsterInstance, run_id: str, console: Console) -> Iterator[Watch]:
    """Print the run's steps as they end, and its warnings, from a thread that follows the event log."""
    watch, done = Watch(), threading.Event()

    def follow() -> None:
        cursor: str | None = None
        while True:
            last_look = done.is_set()
            batch = instance.get_records_for_run(run_id, cursor)
            cursor = batch.cursor
            for record in batch.records:
                entry = record.event_log_entry
                if event := entry.dagster_event:
                    watch.see(event, console)
                elif entry.level == logging.WARNING:
                    console.print(f"[yellow]{escape(entry.user_message)}[/]", highlight=False, soft_wrap=True)
            if last_look and not batch.has_more:
                return
            done.wait(0.25)

    def follow_while_it_can() -> None:
        # What keeps the log from being read ends the run itself, and is told there.
        with suppress(OSError, SQLAlchemyError):
            follow()

    thread = threading.Thread(target=follow_while_it_can, daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        done.set()
        thread.join()


def _root_cause(error: object) -> str:
    while (cause := getattr(error, "cause", None)) is not None:
        error = cause
    return str(getattr(error, "message", error)).strip()
