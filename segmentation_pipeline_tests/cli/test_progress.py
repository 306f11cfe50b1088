"""The display of a run: its configuration fits the code location, and an output that fails ends no run."""

import io

import dagster as dg
import pytest
from rich.console import Console

from segmentation_pipeline.cli.progress import Progress
from segmentation_pipeline.cli.run import RunRequest, run_config
from segmentation_pipeline.definitions import defs
from segmentation_pipeline.orchestration.job_selection import NIGHTLY_JOB, REFIT_JOB


class ClosedPipe(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError(text)


@pytest.mark.parametrize(("job", "fits"), [(NIGHTLY_JOB, False), (REFIT_JOB, True)])
def test_configuration_of_a_command_is_valid_in_the_web_interface(job: str, fits: bool) -> None:
    config = run_config(RunRequest("sample", search=fits), fits=fits)
    assert dg.validate_run_config(defs().resolve_job_def(job), config)


def test_closed_pipe_ends_the_display_and_not_the_run() -> None:
    progress = Progress(Console(file=ClosedPipe(), force_terminal=False))

    @dg.op
    def warn(context: dg.OpExecutionContext) -> None:
        context.log.warning("a warning that cannot be printed")

    @dg.job(logger_defs={"console": progress.logger()})
    def noisy() -> None:
        warn()

    assert noisy.execute_in_process(run_config={"loggers": {"console": {}}}, raise_on_error=False).success
    assert progress.console.quiet
