"""A failed run tells those who asked to hear of it: one message to the webhook that SEGMENTATION_WEBHOOK names.

Belongs here: what is told of a failure, and the telling. Does not: who notices that a run failed: the sensor
(`defs.automation`), the command whose run it was (`execution`), or whoever found a command's run dead (`locks`).
"""

import html
import json
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from http.client import HTTPException
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import dagster as dg

from segmentation_pipeline.config.environment import WEBHOOK, Environment

_COMMAND = "segmentation/command"
# A webhook answers in a second; a run that waits longer for one is hurt by it.
_PATIENCE = 10.0
_LONGEST = 600
# What is quoted comes from a source file, mostly: a literal as Python writes it, or else from the first quote to the
# last. An apostrophe begins none.
_LITERAL = re.compile(r"""(?<!\w)(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")(?!\w)""")
_A_QUOTE = re.compile(r"""(?<!\w)['"]|['"](?!\w)""")
_QUOTED = re.compile(r"""(?<!\w)['"].*['"](?!\w)|(?<!\w)['"].*$""", re.DOTALL)
# A header may be a line of data.
_HEADER = re.compile(r"(?<=\bit has ).*(?=\. Mend\b)|(?<=\bit has ).*$", re.DOTALL)
_EVENTS = {
    dg.DagsterEventType.STEP_FAILURE,
    dg.DagsterEventType.ASSET_CHECK_EVALUATION,
    dg.DagsterEventType.RUN_FAILURE,
}


def of_command(run_id: str) -> dict[str, str]:
    """The tag of a command's own run: it tells of its failure, since no daemon need be there to do so.

    With the run's id, because a repetition in the web interface inherits the tags.
    """
    return {_COMMAND: run_id}


def is_of_command(run: dg.DagsterRun) -> bool:
    """Whether a command tells of this run; the sensor leaves it out, or whoever hears of it would hear twice."""
    return run.tags.get(_COMMAND) == run.run_id


def tell_deaths(instance: dg.DagsterInstance, run_ids: Iterable[str], warn: Callable[[str], None]) -> None:
    """Post what became of the commands that died: they cannot. The sensor tells of the other runs."""
    for run_id in run_ids:
        run = instance.get_run_by_id(run_id)
        if run is not None and is_of_command(run):
            tell_failure(instance, run_id, warn)


def tell_failure(instance: dg.DagsterInstance, run_id: str, warn: Callable[[str], None]) -> None:
    """Post what failed and what to do next, where a webhook is named; one that does not take it is a warning.

    Args:
        instance: Where the run is known.
        run_id: The run.
        warn: Where to say that nobody was told. The webhook's address is a secret, and is not said.
    """
    if not Environment.read().webhook:
        return
    run = instance.get_run_by_id(run_id)
    if run is not None:
        tell(text_of(instance, run), warn)


def tell(text: str, warn: Callable[[str], None]) -> None:
    """Post a text to the webhook, where one is named; what goes wrong with it is a warning."""
    if not (address := Environment.read().webhook.get_secret_value()):
        return
    faults: list[str] = []
    # A server that sends a byte a minute never runs into a timeout of the connection; a thread can be left behind.
    thread = threading.Thread(target=_post, args=(address, text, faults), daemon=True)
    thread.start()
    thread.join(_PATIENCE)
    if thread.is_alive():
        faults.append(f"it did not answer within {_PATIENCE:g} s")
    if faults:
        warn(f"Nobody was told that a run failed: {WEBHOOK}: {faults[0]}. Look at the address and try it.")


def text_of(instance: dg.DagsterInstance, run: dg.DagsterRun) -> str:
    """The message: job and run, what failed in each step, and what to do next; nothing that stands in a source file."""
    failures = [f"• {shareable(said)}" for said in _failures(instance, run.run_id)]
    return "\n".join(
        [
            f"{run.job_name} failed (run {run.run_id}).",
            *failures,
            "The release of before stands. Next: mend what is named here, then run again (`segments run`, or re-execute"
            " the run in the web interface). The run's log has all of it; docs/operations.md explains the sentences.",
        ]
    )


def _failures(instance: dg.DagsterInstance, run_id: str) -> Iterator[str]:
    """What each step that failed says of it; of a run that failed without one, what the run says."""
    said_by_check: dict[str, str] = {}
    told = False
    for entry in instance.all_logs(run_id, of_type=_EVENTS):
        event = entry.dagster_event
        if event is None:
            continue
        step = event.step_key or ""
        if event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            check = event.asset_check_evaluation_data
            if not check.passed and check.severity == dg.AssetCheckSeverity.ERROR:
                where = f"{check.asset_key.to_user_string()}: check {check.check_name} failed."
                said_by_check[step] = f"{where} {check.description or ''}".strip()
        elif event.is_step_failure:
            told = True
            data = event.step_failure_data.user_failure_data
            # An error that nobody foresaw may say anything: its place in the log is enough.
            foreseen = f"{step}: {data.description}" if data and data.description else said_by_check.get(step)
            yield foreseen or f"{step}: an error that was not foreseen."
        elif not told:
            yield event.message or "It failed before its first step."


def shareable(said: str) -> str:
    """A sentence without what may stand in a source file."""
    masked = _LITERAL.sub("…", said)
    masked = _HEADER.sub("…", _QUOTED.sub("…", said) if _A_QUOTE.search(masked) else masked)
    return masked if len(masked) <= _LONGEST else f"{masked[:_LONGEST]}…"


def _post(address: str, text: str, faults: list[str]) -> None:
    body = json.dumps({"text": html.escape(text, quote=False)}).encode()
    if not address.startswith(("http://", "https://")):
        faults.append("it is no address that begins with https:// or http://")
        return
    try:
        request = Request(address, body, {"Content-Type": "application/json"})  # noqa: S310 - looked at above
        with urlopen(request, timeout=_PATIENCE):  # noqa: S310 - the same address
            pass
    except HTTPError as error:
        faults.append(f"it answered {error.code}")
    except (OSError, HTTPException, ValueError) as error:
        # What an error says may hold the address.
        reason = getattr(error, "reason", error)
        number = reason.errno if isinstance(reason, OSError) else None
        faults.append(os.strerror(number) if number else type(reason).__name__)
