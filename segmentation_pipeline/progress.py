"""A run as a person at the terminal sees it: asset by asset with rows and times, and at the end what became of it.

Belongs here: reading Dagster's event log of one run. Does not: starting the run (`cli`).
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import dagster as dg
from rich.console import Console


@dataclass
class Watch:
    """What has been seen of a run so far."""

    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    skipped: int = 0
    rows: dict[str, int] = field(default_factory=dict)

    def see(self, event: dg.DagsterEvent, console: Console) -> None:
        """Take in one event; print a line where a step ended."""
        if event.is_step_materialization:
            metadata = event.step_materialization_data.materialization.metadata
            if (count := metadata.get("dagster/row_count")) is not None and event.step_key:
                self.rows[event.step_key] = self.rows.get(event.step_key, 0) + int(str(count.value))
        elif event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            self._see_check(event.asset_check_evaluation_data)
        elif event.is_step_success:
            self._line(console, "[green]✓[/]", event.step_key or "", event.step_success_data.duration_ms / 1000)
        elif event.is_step_failure:
            data = event.step_failure_data
            said = data.user_failure_data.description if data.user_failure_data else None
            self.failures.append(f"{event.step_key}: {said or _root_cause(data.error)}")
            self._line(console, "[red]✗[/]", event.step_key or "", None)
        elif event.is_step_skipped or event.event_type == dg.DagsterEventType.STEP_UP_FOR_RETRY:
            self.skipped += 1

    def _see_check(self, check: dg.AssetCheckEvaluation) -> None:
        if check.passed:
            return
        said = f"{check.asset_key.to_user_string()}: check {check.check_name} failed. {check.description or ''}".strip()
        (self.warnings if check.severity == dg.AssetCheckSeverity.WARN else self.failures).append(said)

    def _line(self, console: Console, mark: str, step: str, seconds: float | None) -> None:
        self.seconds += seconds or 0.0
        rows = f"{self.rows[step]:>12,} rows" if step in self.rows else " " * 17
        time = f"{seconds:6.2f} s" if seconds is not None else ""
        console.print(f"{mark} {step:<55} {rows} {time}", highlight=False)


@contextmanager
def watching(instance: dg.DagsterInstance, run_id: str, console: Console) -> Iterator[Watch]:
    """Print the run's steps as they end, from a thread that follows the event log."""
    watch, done = Watch(), threading.Event()

    def follow() -> None:
        cursor: str | None = None
        while True:
            last_look = done.is_set()
            batch = instance.get_records_for_run(run_id, cursor)
            cursor = batch.cursor
            for record in batch.records:
                if event := record.event_log_entry.dagster_event:
                    watch.see(event, console)
            if last_look and not batch.has_more:
                return
            done.wait(0.25)

    thread = threading.Thread(target=follow, daemon=True)
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
