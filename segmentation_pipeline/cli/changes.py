"""What a run changed for consumers: customers, revenue, moves between segments, and what is left out.

Compares the newest release with the one before the run.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import duckdb
from rich.console import Console

from segmentation_pipeline.cli.console import print_entry, print_text
from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.releases.files import Release
from segmentation_pipeline.releases.store import Releases
from segmentation_pipeline.reports.formatting import format_money, format_number, format_share

_SHOWN_MOVES = 3


@dataclass(frozen=True)
class Moves:
    """How many customers are new, gone, or in another segment, and between which segments."""

    new: int
    gone: int
    moved: int
    most: list[tuple[str, str, int]]


@contextmanager
def before_the_run(releases: Releases) -> Iterator["tuple[Release, duckdb.DuckDBPyConnection | None] | None"]:
    """Yield the newest release and a connection to it; None before the first.

    The connection stays valid although the run may prune the release; a view of a large table does not, and no moves
    are printed then. It is None where the release cannot be opened.
    """
    if not (found := releases.all()):
        yield None
        return
    connection = None
    with suppress(duckdb.Error):
        connection = found[-1].connect()
    try:
        yield found[-1], connection
    finally:
        if connection is not None:
            connection.close()


def print_changes(
    console: Console,
    releases: Releases,
    before: "tuple[Release, duckdb.DuckDBPyConnection | None] | None",
    settings: Retailer,
) -> None:
    """Print how the newest release differs from the one before the run; nothing if the run published none."""
    found = releases.all()
    if not found or (before is not None and found[-1].name == before[0].name):
        return
    now, currency = found[-1], settings.currency
    console.print()
    print_text(console, _title(before[0] if before else None))
    previous = before[0].metrics if before else None
    moves = _moves(before[1], now) if before and before[1] else None
    for label, text in (
        ("customers", _customers(now.metrics, previous, moves, currency)),
        ("revenue", _revenue(now.metrics, previous, currency)),
        ("moved", "" if moves is None else _moved(moves, now.metrics["customers"], currency)),
        ("loss", _loss(now.metrics, previous, currency)),
    ):
        if text:
            print_entry(console, label, text)


def _title(previous: Release | None) -> str:
    return f"Since {previous.name}, as of {previous.as_of}:" if previous else "The first release:"


def _moves(connection: duckdb.DuckDBPyConnection, now: Release) -> Moves | None:
    """Compare the segment of each customer in two releases; None if an earlier contract names them otherwise."""
    joined = "customer_segments as old full join now.customer_segments as new using (customer_id)"
    moved = "old.segment <> new.segment"
    try:
        now.attach(connection, "now")
        [(new, gone, changed)] = connection.execute(
            "select count(*) filter (where old.segment is null), count(*) filter (where new.segment is null),"  # noqa: S608 - own SQL
            f" count(*) filter (where {moved}) from {joined}"
        ).fetchall()
        most = connection.execute(
            f"select old.segment, new.segment, count(*) from {joined} where {moved}"  # noqa: S608 - own SQL
            " group by all order by 3 desc, 1, 2"
        ).fetchmany(_SHOWN_MOVES)
    except duckdb.Error:
        return None
    return Moves(new, gone, changed, most)


def _customers(metrics: Any, previous: Any, moves: Moves | None, currency: str) -> str:
    text = format_number(metrics["customers"], currency)
    if previous is None:
        return text
    if moves is None:
        return f"{text}, before {format_number(previous['customers'], currency)}"
    if not moves.new and not moves.gone:
        return f"{text}, the same"
    parts = [(moves.new, "new"), (moves.gone, "gone")]
    return f"{text}: {', '.join(f'{format_number(number, currency)} {what}' for number, what in parts if number)}"


def _revenue(metrics: Any, previous: Any, currency: str) -> str:
    now = Decimal(metrics["revenue"])
    text = format_money(now, currency)
    if previous is None:
        return text
    before = Decimal(previous["revenue"])
    if not (change := now - before):
        return f"{text}, the same"
    sign = "+" if change > 0 else ""
    share = f" ({sign}{format_share(float(change / before), currency)})" if before > 0 else ""
    return f"{text}: {sign}{format_money(change, currency)}{share}"


def _moved(moves: Moves, customers: int, currency: str) -> str:
    if not moves.moved:
        return "nobody between segments"
    share = format_share(moves.moved / max(customers, 1), currency)
    listed = [f"{old} → {new} {format_number(number, currency)}" for old, new, number in moves.most]
    if others := moves.moved - sum(number for *_, number in moves.most):
        listed.append(f"others {format_number(others, currency)}")
    return f"{format_number(moves.moved, currency)} customers ({share}): {', '.join(listed)}"


def _loss(metrics: Any, previous: Any, currency: str) -> str:
    rejected, read = metrics["rejected_lines"], metrics["raw_lines"]
    share = format_share(rejected / max(read, 1), currency)
    text = f"{format_number(rejected, currency)} of {format_number(read, currency)} lines rejected ({share}"
    if previous is None:
        return f"{text})"
    return f"{text}, before {format_share(previous['rejected_lines'] / max(previous['raw_lines'], 1), currency)})"
