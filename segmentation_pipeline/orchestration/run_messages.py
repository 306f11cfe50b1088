"""What a run has to say: the messages of its failed steps and of its checks, from its events.

Contains no output: `cli.progress` prints the messages of the run at hand, `status` those of the last run.
"""

from dataclasses import dataclass, field

import dagster as dg

# Metadata of a check that warns of something to know and not to correct.
NEEDS_NO_ACTION = "needs_no_action"
# The events that a message can come from.
MESSAGE_EVENTS = {
    dg.DagsterEventType.ASSET_CHECK_EVALUATION,
    dg.DagsterEventType.STEP_FAILURE,
    dg.DagsterEventType.RUN_FAILURE,
}


@dataclass
class RunMessages:
    """The messages of a run so far.

    Attributes:
        warnings: Of checks that warned of something to correct.
        notes: Of checks that warned of something to know.
    """

    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _failures: dict[str, list[str]] = field(default_factory=dict)
    _of_run: str = ""

    @property
    def failures(self) -> list[str]:
        """The messages of the failed steps; of the run itself where no step failed."""
        of_steps = [message for messages in self._failures.values() for message in messages]
        return of_steps or ([self._of_run] if self._of_run else [])

    def add(self, event: dg.DagsterEvent) -> None:
        """Add an event; one that is no failure and no check is ignored."""
        if event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            self._add_check(event)
        elif event.is_step_failure:
            self._add_failure(event)
        elif event.event_type == dg.DagsterEventType.RUN_FAILURE:
            self._of_run = event.message or ""

    def _add_check(self, event: dg.DagsterEvent) -> None:
        check = event.asset_check_evaluation_data
        if check.passed:
            return
        asset, description = check.asset_key.to_user_string(), check.description or ""
        message = f"{asset}: check {check.check_name} failed. {description}".strip()
        if NEEDS_NO_ACTION in check.metadata:
            self.notes.append(f"{asset}: {check.check_name}: {description}")
        elif check.severity == dg.AssetCheckSeverity.WARN:
            self.warnings.append(message)
        else:
            self._failures.setdefault(event.step_key or "", []).append(message)

    def _add_failure(self, event: dg.DagsterEvent) -> None:
        """Add a failed step. An asset's own message replaces those of its checks; a check's step has no other."""
        step, data = event.step_key or "", event.step_failure_data
        if data.user_failure_data and data.user_failure_data.description:
            self._failures[step] = [f"{step}: {data.user_failure_data.description}"]
        elif not self._failures.get(step):
            self._failures[step] = [f"{step}: {_root_cause(data.error)}"]


def _root_cause(error: object) -> str:
    while (cause := getattr(error, "cause", None)) is not None:
        error = cause
    return str(getattr(error, "message", error)).strip()
