"""`segments status`: print the status of a retailer as text or as JSON, and exit with its level.

Contains the form of the output. What is found, and how bad it is, is in the package `status`.
"""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import typer

from segmentation_pipeline.cli.console import exit_on_user_error, out, print_entry, say
from segmentation_pipeline.reports.formatting import format_money, format_number, format_share
from segmentation_pipeline.status.dagster_status import DagsterStatus, RunStatus, turn_on
from segmentation_pipeline.status.installation import size_text
from segmentation_pipeline.status.problems import Level
from segmentation_pipeline.status.release_status import ReleaseContents, ReleaseStatus
from segmentation_pipeline.status.report import Status, status_of

_STYLES = {Level.OK: "green", Level.WARNING: "yellow", Level.ERROR: "red"}
_RULES = 3
# Most evaluations find nothing to start, which is no fault.
_RESULTS = {"skipped": "nothing to do", "success": "done", "failure": "failed", "started": "under way"}


def status(retailer: str, *, as_json: bool, max_age_hours: float | None, traceback: bool) -> None:
    """Print the status of a retailer, and exit with the level of its worst problem."""
    with exit_on_user_error(traceback, code=int(Level.UNKNOWN)):
        found = status_of(retailer, max_age_hours, datetime.now(UTC))
    if as_json:
        typer.echo(json.dumps(found.as_json(), indent=2, default=_as_json))
    else:
        _print(found)
    raise typer.Exit(int(found.level))


def _as_json(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _print(found: Status) -> None:
    errors, warnings = (
        sum(problem.level == level for problem in found.problems) for level in (Level.ERROR, Level.WARNING)
    )
    counts = [_counted(errors, "error"), _counted(warnings, "warning")]
    summary = ", ".join(filter(None, counts)) or "everything is in order"
    say(out, _STYLES[found.level], f"{found.level.label.upper()}:", f"{found.retailer}: {summary}")
    for label, text in _sections(found):
        print_entry(out, label, text)
    for problem in found.problems:
        out.print()
        say(out, _STYLES[problem.level], f"{problem.level.label}:", problem.message)
        print_entry(out, "  do", problem.action, width=5)


def _sections(found: Status) -> Iterator[tuple[str, str]]:
    """Yield the label and the text of each line."""
    currency = found.release.currency if found.release else None
    yield "release", _release(found.release, found.checked_at)
    if found.contents is not None:
        yield from _contents(found.contents, currency)
    yield "database", _database(found)
    if found.dagster is not None:
        yield from _dagster(found.dagster, found.checked_at)
    yield "disk", f"{size_text(found.disk.free_bytes)} free; a run may write {size_text(found.disk.needed_bytes)}"


def _release(release: ReleaseStatus | None, now: datetime) -> str:
    if release is None:
        return "none"
    customers = format_number(release.customers, release.currency)
    money = format_money(Decimal(release.revenue), release.currency)
    return (
        f"{release.name}, published {_ago(release.published_at, now)}; as of {release.as_of:%Y-%m-%d %H:%M}:"
        f" {customers} customers, {money}"
    )


def _contents(contents: ReleaseContents, currency: str | None) -> Iterator[tuple[str, str]]:
    model, loss = contents.model, contents.loss
    pending = f"; {len(model.pending)} pending approval" if model.pending else ""
    yield (
        "model",
        f"{model.model_id}, fitted as of {model.fitted_as_of:%Y-%m-%d}, {model.n_clusters} clusters, silhouette"
        f" {model.silhouette:.2f}{pending}",
    )
    beyond = [f"{one.metric} {one.value:.3f} above {one.bound:g}" for one in contents.drift if one.value > one.bound]
    yield "drift", ", ".join(beyond) or f"{len(contents.drift)} measures, all within their bounds"
    yield (
        "loss",
        f"{format_number(loss.lines_kept, currency)} of {format_number(loss.lines_read, currency)} lines kept"
        f" ({format_share(loss.lines_kept / max(loss.lines_read, 1), currency)})",
    )
    for rejected in sorted(loss.rejected, key=lambda one: (-one.lines, one.rule))[:_RULES]:
        money = "money unknown" if rejected.amount is None else format_money(Decimal(rejected.amount), currency)
        lines = f"{format_number(rejected.lines, currency)} lines ({format_share(rejected.share, currency)})"
        yield "", f"{rejected.rule}: {lines}, {money}"


def _database(found: Status) -> str:
    holder = found.database.holder
    if holder is None:
        return f"{found.database.path}, nobody writes to it" if found.database.bytes else "none yet"
    return f"{holder.description} writes to it, since {_ago(holder.since, found.checked_at)}"


def _dagster(dagster: DagsterStatus, now: datetime) -> Iterator[tuple[str, str]]:
    if dagster.daemon_is_running and dagster.nights_of_another:
        other = dagster.nights_of_another
        yield "daemon", f"running for {other}: its SEGMENTATION_RETAILER says whose nights it runs"
    elif dagster.daemon_is_running:
        yield "daemon", "running"
    elif dagster.daemon_last_seen_at is not None:
        yield "daemon", f"stopped, last seen {_ago(dagster.daemon_last_seen_at, now)}"
    else:
        yield "daemon", "has never run, so nothing starts by itself; docs/operations.md says how to run every night"
    for one in dagster.schedules:
        last = (
            f", last {_ago(one.last_evaluated_at, now)}: {_RESULTS.get(one.last_result or '')}"
            if one.last_evaluated_at
            else ""
        )
        state = "on" if one.on else f"off (`{turn_on(one)}`)"
        yield one.kind, f"{one.name} {state}, {one.when}{last}"
    for run in dagster.runs:
        yield "run", _run(run, now)
    for note in dagster.last_ended.notes if dagster.last_ended else []:
        yield "note", note


def _run(run: RunStatus, now: datetime) -> str:
    started = "not started" if run.started_at is None else _ago(run.started_at, now)
    took = "" if run.seconds is None else f" in {run.seconds:,.0f} s"
    return f"{started}: {run.job} {run.status}{took}, started by {run.started_by} ({run.run_id[:8]})"


def _ago(timestamp: datetime, now: datetime) -> str:
    """Return a time with its distance from now, such as `2 hours ago (2024-03-01 02:05 UTC)`."""
    minutes = int((now - timestamp).total_seconds() // 60)
    units = ((minutes // size, unit) for size, unit in ((1440, "days"), (60, "hours"), (1, "minutes")))
    distance = next((f"{number:,} {unit} ago" for number, unit in units if number > 1), "just now")
    return f"{distance} ({timestamp:%Y-%m-%d %H:%M} UTC)"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' if number > 1 else ''}" if number else ""
