"""Time the SQL statements of a run, on every connection that is opened meanwhile.

Contains the measurement. Which statements are shown, and how, is in `cli.explain`. Does not use the profiler of DuckDB:
it writes one file for each statement, and a confined connection cannot switch it on.
"""

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, cast

import duckdb

# Literal values are masked, because a file name or a message may be in one. Identifiers in quotes are kept.
_LITERALS = re.compile(r"""("(?:[^"]|"")*")|'(?:[^']|'')*'|\b\d+(?:\.\d+)?(?:e[+-]?\d+)?\b""", re.IGNORECASE)
_COMMENTS = re.compile(r"--[^\n]*")
# What statements are for where the code that runs them does not say. Any other first word reads rows.
_PURPOSES = {
    **dict.fromkeys(("create", "insert", "delete", "update", "drop", "alter"), "derive"),
    **dict.fromkeys(("begin", "commit", "rollback", "checkpoint", "close"), "write to disk"),
    **dict.fromkeys(("attach", "detach", "use", "set"), "open"),
    "comment": "comments",
}
_CHANGES = ("create", "insert", "delete", "update", "copy")
_FETCHES = frozenset(("fetchall", "fetchone", "fetchmany", "fetchnumpy", "df"))


@dataclass
class Statement:
    """A statement that was executed.

    Attributes:
        step: The step of the run; empty before the first, after the last and between two.
        table: The table that it is for, if it is for one.
        purpose: What it is for, such as `derive` or `check contract`.
        text: Its first line, with literal values replaced by `?`.
        seconds: How long it took, and to fetch its rows.
        rows: The rows that it changed, or that were fetched.
    """

    step: str
    table: str
    purpose: str
    text: str
    seconds: float
    rows: int = 0


@dataclass
class StatementLog:
    """The statements of a run in the order in which they were executed, and what the next one is for."""

    statements: list[Statement] = field(default_factory=list)
    step: str = ""
    table: str = ""
    purpose: str = ""


_log: ContextVar[StatementLog | None] = ContextVar("statement_log", default=None)


@contextmanager
def logged_statements() -> Iterator[StatementLog]:
    """Time the statements of the connections that are opened in the block."""
    log = StatementLog()
    token = _log.set(log)
    try:
        yield log
    finally:
        _log.reset(token)


@contextmanager
def statements_for(purpose: str = "", table: str = "") -> Iterator[None]:
    """Say what the statements of the block are for. What an outer block says is kept."""
    log = _log.get()
    if log is None:
        yield
        return
    before = log.purpose, log.table
    log.purpose, log.table = log.purpose or purpose, log.table or table
    try:
        yield
    finally:
        log.purpose, log.table = before


def timed(connection: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    """Return the connection; inside `logged_statements`, one that times its statements and is otherwise the same."""
    log = _log.get()
    # A class of an extension module cannot be extended, so it has the methods without being a subclass.
    return connection if log is None else cast("duckdb.DuckDBPyConnection", _TimedConnection(connection, log))


def first_line(text: str) -> str:
    """Return the first line of a statement without its literal values."""
    masked = _LITERALS.sub(lambda found: found[1] or "?", _COMMENTS.sub("", text))
    return next((line.strip() for line in masked.splitlines() if line.strip()), "")


class _TimedConnection:
    """A connection that adds its statements to a log.

    Rows are computed when they are fetched, so the time of a fetch belongs to the last statement.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, log: StatementLog) -> None:
        self._connection = connection
        self._log = log
        self._last = Statement("", "", "", "", 0.0)

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._connection, name)
        return self._fetch(attribute) if name in _FETCHES else attribute

    def execute(self, query: str, parameters: object = None) -> "_TimedConnection":
        self._run(query, lambda: self._connection.execute(query, parameters))
        if _first_word(query) in _CHANGES and [column[0] for column in self._connection.description or ()] == ["Count"]:
            changed = self._connection.fetchone()
            self._last.rows = int(changed[0]) if changed else 0
        return self

    def executemany(self, query: str, parameters: Sequence[object]) -> "_TimedConnection":
        self._run(query, lambda: self._connection.executemany(query, parameters))
        self._last.rows = len(parameters)
        return self

    def cursor(self) -> "_TimedConnection":
        return _TimedConnection(self._connection.cursor(), self._log)

    def begin(self) -> "_TimedConnection":
        self._run("begin", self._connection.begin)
        return self

    def commit(self) -> "_TimedConnection":
        self._run("commit", self._connection.commit)
        return self

    def rollback(self) -> "_TimedConnection":
        self._run("rollback", self._connection.rollback)
        return self

    def close(self) -> None:
        self._run("close", self._connection.close)

    def _run(self, text: str, run: Callable[[], object]) -> None:
        log = self._log
        purpose = log.purpose or _PURPOSES.get(_first_word(text), "query")
        self._last = Statement(log.step, log.table, purpose, first_line(text), 0.0)
        log.statements.append(self._last)
        self._time(run)

    def _fetch(self, fetch: Callable[..., Any]) -> Callable[..., Any]:
        def timed_fetch(*arguments: Any, **options: Any) -> Any:
            rows = self._time(lambda: fetch(*arguments, **options))
            # Columns of numpy arrays are a dictionary; one row is a tuple.
            columns = list(rows.values()) if isinstance(rows, dict) else [rows]
            self._last.rows += (
                0 if rows is None else 1 if isinstance(rows, tuple) else len(columns[0]) if columns else 0
            )
            return rows

        return timed_fetch

    def _time(self, run: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        try:
            return run()
        finally:
            self._last.seconds += time.perf_counter() - started


def _first_word(text: str) -> str:
    found = re.match(r"\s*(\w+)", _COMMENTS.sub("", text))
    return found[1].lower() if found else ""
