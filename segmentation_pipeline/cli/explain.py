"""The dearest statements of a run, for `segments run --explain`.

Contains which statements are shown, and how. Their measurement is in `warehouse.statements`.
"""

from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console
from rich.text import Text

from segmentation_pipeline.warehouse.statements import Statement

_SHOWN = 20
# What Python does inside of a step beside SQL: k-means, checksums, Dagster's events.
OUTSIDE_SQL = "outside SQL"
_TEXT = 100


def print_dearest(
    console: Console, statements: Sequence[Statement], step_seconds: Mapping[str, float], total: float
) -> None:
    """Print how the time of a run divides by purpose, and the statements that took most of it.

    Args:
        console: Where to print.
        statements: The statements of the run.
        step_seconds: The time of each step.
        total: The seconds of the whole run, of which the shares are.
    """
    entries = [*combined(statements), *_outside_sql(statements, step_seconds)]
    in_sql, in_steps = sum(one.seconds for one in statements), sum(one.seconds for one in entries)
    _print(console, f"\nThe run took {total:.2f} s: {in_sql:.2f} s in {len(statements):,} SQL statements, and the rest")
    _print(
        console, f"in Python: {in_steps - in_sql:.2f} s in the steps, {max(total - in_steps, 0):.2f} s between them.\n"
    )
    purposes: dict[str, float] = {}
    for entry in entries:
        purposes[entry.purpose] = purposes.get(entry.purpose, 0) + entry.seconds
    for purpose, seconds in sorted(purposes.items(), key=lambda item: -item[1]):
        _print(console, f"  {purpose:<16} {seconds:9.2f} s {_share(seconds, total)}")
    _print(console, f"\n{'seconds':>9} {'share':>7} {'rows':>13}  {'purpose':<15} step: table: statement")
    dearest = sorted(entries, key=lambda one: -one.seconds)[:_SHOWN]
    for entry in dearest:
        parts = [entry.step or "between steps", entry.table if entry.table != entry.step else "", entry.text[:_TEXT]]
        place = ": ".join(filter(None, parts))
        rows = f"{entry.rows:,}" if entry.rows else ""
        _print(console, f"{entry.seconds:9.2f} {_share(entry.seconds, total)} {rows:>13}  {entry.purpose:<15} {place}")


def combined(statements: Iterable[Statement]) -> list[Statement]:
    """Return the statements with those that differ only in their values added up."""
    added: dict[tuple[str, str, str, str], Statement] = {}
    for one in statements:
        key = one.step, one.table, one.purpose, one.text
        total = added.setdefault(key, Statement(*key, seconds=0.0))
        total.seconds += one.seconds
        total.rows += one.rows
    return list(added.values())


def _outside_sql(statements: Iterable[Statement], step_seconds: Mapping[str, float]) -> list[Statement]:
    """Return for each step the time that none of its statements took."""
    left = dict(step_seconds)
    for one in statements:
        if one.step in left:
            left[one.step] -= one.seconds
    return [Statement(step, "", OUTSIDE_SQL, "", max(seconds, 0.0)) for step, seconds in left.items()]


def _share(seconds: float, total: float) -> str:
    return f"{seconds / total if total else 0:7.1%}"


def _print(console: Console, line: str) -> None:
    # Not broken at the width of the terminal: a line is an entry.
    console.print(Text(line), soft_wrap=True)
