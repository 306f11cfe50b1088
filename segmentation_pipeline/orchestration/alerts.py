"""Post failed runs to the webhook of SEGMENTATION_WEBHOOK.

Contains the message and the request. The sensor `failed_runs` posts the runs that it sees fail; a command posts the
failure of its own run; whichever process finds the run of a killed command posts that one.
"""

import html
from collections.abc import Callable, Iterable, Sequence

import dagster as dg

from segmentation_pipeline.config.environment import WEBHOOK, Environment

_COMMAND_TAG = "segmentation/command"
# Seconds to connect, and to wait for the answer. A webhook answers within a second.
_TIMEOUT = (5.0, 10.0)
_PROCESS_DIED = "The process of the run died. No table is half written."
_ADVICE = (
    "The current release is unchanged. The run's log says what went wrong: open the run in the web interface, or run"
    " `segments run` again to see the message. docs/failures.md lists causes and what to do."
)


def command_tag(run_id: str) -> dict[str, str]:
    """Return the tag of a command's own run, which the command posts because a daemon may not be running.

    The value is the run's id, because a re-execution in the web interface inherits the tags.
    """
    return {_COMMAND_TAG: run_id}


def is_command_run(run: dg.DagsterRun) -> bool:
    """Return whether a command posts the failure of this run; the sensor then leaves it out."""
    return run.tags.get(_COMMAND_TAG) == run.run_id


def failure_text(job: str, run_id: str, steps: Sequence[str], reason: str = "") -> str:
    """Return the message: the run, the failed steps and what to do.

    It contains no error message, because an error may quote a line of a source file.
    """
    failures = [f"• step {step} failed" for step in steps] or [f"• {reason or 'The run failed outside its steps.'}"]
    return "\n".join([f"{job} failed (run {run_id}).", *failures, _ADVICE])


def post_dead_commands(instance: dg.DagsterInstance, run_ids: Iterable[str], warn: Callable[[str], None]) -> None:
    """Post those of the dead runs that a command started; the sensor posts the others."""
    for run_id in run_ids:
        run = instance.get_run_by_id(run_id)
        if run is not None and is_command_run(run):
            post(failure_text(run.job_name, run_id, [], _PROCESS_DIED), warn)


def post(text: str, warn: Callable[[str], None]) -> None:
    """Post a text to the webhook if one is configured. An error is a warning, and does not name the secret address."""
    if not (address := Environment.read().webhook.get_secret_value()):
        return
    import requests

    try:
        # Slack reads &, < and > as markup.
        message = {"text": html.escape(text, quote=False)}
        requests.post(address, json=message, timeout=_TIMEOUT).raise_for_status()
    except requests.HTTPError as error:
        _warn_not_posted(f"it answered {error.response.status_code}", warn)
    except requests.RequestException as error:
        # Its text may contain the address.
        _warn_not_posted(type(error).__name__, warn)


def _warn_not_posted(error: str, warn: Callable[[str], None]) -> None:
    warn(f"The failed run was not posted to the webhook of {WEBHOOK}: {error}. Check the address and the server.")
