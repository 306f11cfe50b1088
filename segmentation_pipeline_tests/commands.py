"""Run `segments` inside the test's process, which saves the seconds that a process takes to import Dagster.

Use a real process for what needs one: signals, standard output that is closed, limits, and the installed command.
"""

from dataclasses import dataclass

import dagster as dg
import pytest
from typer.testing import CliRunner

from segmentation_pipeline.cli import run
from segmentation_pipeline.cli.app import app
from segmentation_pipeline_tests.scenarios import definitions, instance_without_events
from segmentation_pipeline_tests.shops import Shop


@dataclass(frozen=True)
class Ended:
    """A command that has ended; its error output is in one line, however the console wrapped it."""

    code: int
    stdout: str
    errors: str


def segments(shop: Shop, *arguments: str, event_log: bool = False, **environment: str) -> Ended:
    """Run a command for a shop.

    Args:
        shop: The shop, in whose data folder Dagster's folder is.
        arguments: The command.
        event_log: Store the events of a run in Dagster's folder, which takes as much CPU time as a small run.
        environment: Further environment variables.
    """
    variables = {"DAGSTER_HOME": str(shop.data / "dagster"), "COLUMNS": "200", **shop.environment, **environment}
    with pytest.MonkeyPatch.context() as patched:
        # Set here, and not by the runner, because the command itself sets DAGSTER_HOME.
        for name, value in variables.items():
            patched.setenv(name, value)
        # Loaded once per process, as a real process does.
        patched.setattr(run, "defs", definitions)
        if not event_log:
            patched.setattr(dg.DagsterInstance, "get", instance_without_events)
        result = CliRunner().invoke(app, list(arguments))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return Ended(result.exit_code, result.stdout, " ".join(result.stderr.split()))
