"""The progress of a run in the terminal: one line that moves, or a line for each stage where nothing can move.

Contains a Dagster logger that sees each event of a run as it happens. Does not start runs (`run`).
"""

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import dagster as dg
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from segmentation_pipeline import progress
from segmentation_pipeline.cli.encoding import ERRORS
from segmentation_pipeline.orchestration.run_messages import RunMessages
from segmentation_pipeline.reports.formatting import format_number
from segmentation_pipeline.warehouse.statements import StatementLog

# Name, rows and seconds fill less than 80 columns. The step of a check has no rows, and its name may be longer.
_NAME, _ROWS = 44, 17
_FRAMES_PER_SECOND = 5
# What a stage is known by: the rows of a table.
_COUNTED = {
    "ingestion": ("raw_transactions", "lines"),
    "cleaning": ("clean_transactions", "lines kept"),
    "features": ("rfm_features", "customers"),
    "segments": ("customer_segments", "customers"),
    "history": ("segment_changes", "changes"),
}


def stages_of_steps(definitions: dg.Definitions, steps: Iterable[str]) -> dict[str, str]:
    """Return the stage of each step: the group of its assets, or of the asset that it checks."""
    groups: dict[str, str] = {}
    stages: dict[str, str] = {}
    for assets in definitions.assets or []:
        if isinstance(assets, dg.AssetsDefinition):
            groups |= {key.to_user_string(): group for key, group in assets.group_names_by_key.items()}
            stages[assets.op.name] = min(assets.group_names_by_key.values())
    for checks in definitions.asset_checks or []:
        stages[checks.op.name] = min(groups.get(spec.asset_key.to_user_string(), "") for spec in checks.check_specs)
    return {step: stages.get(step, "") for step in steps}


@dataclass
class Progress:
    """The steps of a run so far.

    Attributes:
        console: Where progress is printed.
        stages: The stage of each step that the run has.
        verbose: Whether to print each step as it ends.
        seconds: The sum of the steps' times.
        messages: The messages of failed steps and checks.
        statements: The log of the run's statements, which notes the current step; None if they are not timed.
        step_seconds: The time of each step that succeeded.
        metadata: The metadata of each materialisation, by asset.
    """

    console: Console
    stages: Mapping[str, str] = field(default_factory=dict)
    verbose: bool = False
    seconds: float = 0.0
    messages: RunMessages = field(default_factory=RunMessages)
    statements: StatementLog | None = None
    step_seconds: dict[str, float] = field(default_factory=dict)
    metadata: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    _rows: dict[str, dict[str, int]] = field(default_factory=dict)
    _ended: dict[str, float] = field(default_factory=dict)
    _failed: set[str] = field(default_factory=set)
    _printed: set[str] = field(default_factory=set)
    _step: str = ""
    _doing: str = ""
    _done: Callable[[], float] | None = None
    _share: float = 0.0
    _moves: bool = False
    _started: float = field(default_factory=time.monotonic)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the line that moves while the run goes on, on a terminal that can move it."""
        before = self.console
        if not before.is_terminal or before.is_dumb_terminal:
            yield
            return
        # A copy of the terminal, because Dagster writes what a step prints to a file.
        descriptor = os.dup(before.file.fileno())
        with open(descriptor, "w", encoding=before.encoding, errors=ERRORS) as terminal:  # noqa: PTH123 - no path
            self.console = Console(file=terminal, force_terminal=True, width=before.width, no_color=before.no_color)
            self._moves = True
            line = _Line(self)
            live = Live(
                line,
                console=self.console,
                transient=True,
                refresh_per_second=_FRAMES_PER_SECOND,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            try:
                with progress.heard(self._hear), live:
                    yield
            finally:
                self.console = before

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
        """Add an event; print what ended."""
        step = event.step_key or ""
        self.messages.add(event)
        if event.is_step_start or event.is_step_success or event.is_step_failure:
            self._step = step if event.is_step_start else ""
            self._hear("", None)
            if self.statements is not None:
                self.statements.step = self._step
        if event.is_step_materialization:
            materialization = event.step_materialization_data.materialization
            self.metadata[materialization.asset_key.to_user_string()] = materialization.metadata
            if (count := materialization.metadata.get("dagster/row_count")) is not None:
                self._rows.setdefault(step, {})[materialization.asset_key.to_user_string()] = int(str(count.value))
        elif event.is_step_success:
            self._end_step(step, event.step_success_data.duration_ms / 1000)
        elif event.is_step_failure:
            self._ended[step] = 0.0
            self._failed.add(self.stages.get(step, ""))
            self._print_step("[red]✗[/]", step, None)

    def print_total(self) -> None:
        """Print the stages that did not end, and how long all steps took."""
        for stage in dict.fromkeys(self.stages.get(step, "") for step in self._ended):
            self._print_stage(stage)
        if self.verbose:
            self.console.print(f"  {'all steps':<{_NAME + 1 + _ROWS}} {self.seconds:6.2f} s", highlight=False)
        else:
            self.console.print(f"{len(self._ended)} steps in {self.seconds:.1f} s", highlight=False)

    def _hear(self, doing: str, done: Callable[[], float] | None) -> None:
        self._doing, self._done, self._share = doing, done, 0.0

    def _end_step(self, step: str, seconds: float) -> None:
        self.seconds += seconds
        self.step_seconds[step] = self._ended[step] = seconds
        if self.verbose:
            self._print_step("[green]✓[/]", step, seconds)
        stage = self.stages.get(step, "")
        if not any(other not in self._ended for other, its_stage in self.stages.items() if its_stage == stage):
            self._print_stage(stage)

    def _print_stage(self, stage: str) -> None:
        """Print the line of a stage once, unless its steps are printed or the moving line shows them."""
        if self.verbose or self._moves or not stage or stage in self._printed:
            return
        self._printed.add(stage)
        seconds = sum(took for step, took in self._ended.items() if self.stages.get(step) == stage)
        table, noun = _COUNTED.get(stage, ("", ""))
        rows = next((tables[table] for tables in self._rows.values() if table in tables), None)
        counted = "" if rows is None else f"{format_number(rows)} {noun}"
        mark = "[red]✗[/]" if stage in self._failed else "[green]✓[/]"
        self.console.print(f"{mark} {stage:<12} {counted:<30} {seconds:6.2f} s", highlight=False)

    def _print_step(self, mark: str, step: str, seconds: float | None) -> None:
        tables = self._rows.get(step, {})
        # A step that writes several tables shows the rows of the one with its name.
        count = tables.get(step, sum(tables.values()))
        name = f"{step:<{_NAME}} {count:>{_ROWS - 5},} rows" if tables else f"{step:<{_NAME + 1 + _ROWS}}"
        time = "" if seconds is None else f"{seconds:6.2f} s"
        self.console.print(f"{mark} {name} {time}".rstrip(), highlight=False, soft_wrap=True)

    def line(self, width: int) -> str:
        """Return the moving line: as much of the stage, the step and what it does as fits without cutting a name."""
        elapsed = f"{time.monotonic() - self._started:.0f} s"
        steps = f"{len(self._ended)} of {len(self.stages)} steps" if self.stages else f"{len(self._ended)} steps"
        doing = self._doing + self._percentage()
        stage = self.stages.get(self._step, "")
        place = f"{stage}: {self._step}" if stage else self._step
        variants = (
            [place, doing, steps, elapsed],
            [self._step, doing, elapsed],
            [stage, doing, elapsed],
            [stage, steps, elapsed],
            [steps, elapsed],
            [elapsed],
        )
        texts = (" | ".join(filter(None, parts)) for parts in variants)
        return next((text for text in texts if len(text) <= width), elapsed)

    def _percentage(self) -> str:
        # The connection that is asked may be closed by now.
        with suppress(Exception):
            # A statement of several parts begins again with each.
            self._share = max(self._share, min(self._done(), 1.0) if self._done else 0.0)
        return f", {self._share:.0%}" if self._share > 0 else ""


class _Line:
    """The moving line, which is written anew with each frame."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._spinner = Spinner("dots" if progress.console.encoding.startswith("utf") else "line", style="green")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        self._spinner.update(text=Text(self._progress.line(options.max_width - 3), no_wrap=True))
        yield self._spinner
