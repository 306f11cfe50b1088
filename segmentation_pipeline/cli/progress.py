"""The progress of a run in the terminal: a line for each step, its warnings and its failures.

Contains a Dagster logger that sees each event of a run as it happens. Does not start runs (`run`).
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import dagster as dg
from rich.console import Console
from rich.text import Text

from segmentation_pipeline.orchestration.run_messages import RunMessages
from segmentation_pipeline.warehouse.statements import StatementLog

# Name, rows and seconds fill less than 80 columns. The step of a check has no rows, and its name may be longer.
_NAME, _ROWS = 44, 17


@dataclass
class Progress:
    """The steps of a run so far; prints each as it ends.

    Attributes:
        console: Where the steps are printed.
        seconds: The sum of the steps' times.
        messages: The messages of failed steps and checks.
        statements: The log of the run's statements, which notes the current step; None if they are not timed.
        step_seconds: The time of each step that succeeded.
        metadata: The metadata of each materialisation, by asset.
    """

    console: Console
    seconds: float = 0.0
    messages: RunMessages = field(default_factory=RunMessages)
    statements: StatementLog | None = None
    step_seconds: dict[str, float] = field(default_factory=dict)
    metadata: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    _rows: dict[str, dict[str, int]] = field(default_factory=dict)

    def logger(self) -> dg.LoggerDefinition:
        """Return the logger that passes the events of a run to this object."""
        progress = self

        class Handler(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                try:
                    progress.see(record)
                except (Exception, SystemExit):
                    # A closed pipe or a full disk ends the display, not the run. Rich exits on a closed pipe.
                    progress.console.quiet = True

        def create_logger(_: dg.InitLoggerContext) -> logging.Logger:
            logger = logging.Logger("segmentation_pipeline.progress", logging.DEBUG)
            logger.addHandler(Handler())
            return logger

        # The schema of Dagster's console logger, whose place it takes: the web interface can re-execute the run.
        schema = {"log_level": dg.Field(str, is_required=False), "name": dg.Field(str, is_required=False)}
        return dg.LoggerDefinition(create_logger, schema, description="Prints the steps of the run.")

    def see(self, record: logging.LogRecord) -> None:
        """Add a log record of the run: an event, or a warning, which is printed at once."""
        metadata = getattr(record, "dagster_meta", {})
        if event := metadata.get("dagster_event"):
            self.add(event)
        elif record.levelno == logging.WARNING:
            message = metadata.get("orig_message") or record.getMessage()
            self.console.print(Text(message, "yellow"), soft_wrap=True)

    def add(self, event: dg.DagsterEvent) -> None:
        """Add an event; print a line where a step ended."""
        step = event.step_key or ""
        self.messages.add(event)
        if self.statements is not None and (event.is_step_start or event.is_step_success or event.is_step_failure):
            self.statements.step = step if event.is_step_start else ""
        if event.is_step_materialization:
            materialization = event.step_materialization_data.materialization
            self.metadata[materialization.asset_key.to_user_string()] = materialization.metadata
            if (count := materialization.metadata.get("dagster/row_count")) is not None:
                self._rows.setdefault(step, {})[materialization.asset_key.to_user_string()] = int(str(count.value))
        elif event.is_step_success:
            self._print_step("[green]✓[/]", step, event.step_success_data.duration_ms / 1000)
        elif event.is_step_failure:
            self._print_step("[red]✗[/]", step, None)

    def print_total(self) -> None:
        """Print the sum of the steps' times."""
        self.console.print(f"  {'all steps':<{_NAME + 1 + _ROWS}} {self.seconds:6.2f} s", highlight=False)

    def _print_step(self, mark: str, step: str, seconds: float | None) -> None:
        self.seconds += seconds or 0.0
        if seconds is not None:
            self.step_seconds[step] = seconds
        tables = self._rows.get(step, {})
        # A step that writes several tables shows the rows of the one with its name.
        count = tables.get(step, sum(tables.values()))
        name = f"{step:<{_NAME}} {count:>{_ROWS - 5},} rows" if tables else f"{step:<{_NAME + 1 + _ROWS}}"
        time = "" if seconds is None else f"{seconds:6.2f} s"
        self.console.print(f"{mark} {name} {time}".rstrip(), highlight=False, soft_wrap=True)
