"""Dagster's event log in SQLite, kept open during a run."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import dagster as dg
from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.event import listen

Connect = Callable[[], AbstractContextManager[Connection]]
# How long a connection waits for another process that writes, as Dagster's own does.
_TIMEOUT_SECONDS = 30


@contextmanager
def keep_event_log_open(instance: dg.DagsterInstance, run_id: str) -> Iterator[None]:
    """Keep the connections of Dagster's SQLite event log open while a run writes events to it.

    Dagster creates an engine and a connection for each of some four hundred events, so it compiles each statement anew
    and waits for the disk each time: 0.9 of the 4.9 s of a small night, and several seconds on a busy disk (ADR 5).
    With `synchronous = normal`, a process that is killed loses no event, and a power failure only the last ones.

    An instance that stores its events elsewhere is left as it is.

    Args:
        instance: The instance of the run.
        run_id: The run, whose events have a file of their own.
    """
    # The two methods that a storage of Dagster implements to connect to its database.
    storage: Any = instance.event_log_storage
    is_replaced = "run_connection" in vars(storage)
    if is_replaced or not (hasattr(storage, "run_connection") and hasattr(storage, "index_connection")):
        yield
        return
    connect_to_run, connect_to_index = storage.run_connection, storage.index_connection

    with ExitStack() as stack:
        to_run = _pooled(lambda: connect_to_run(run_id), stack)
        storage.run_connection = lambda run_id_=None: to_run() if run_id_ == run_id else connect_to_run(run_id_)
        stack.callback(delattr, storage, "run_connection")
        storage.index_connection = _pooled(connect_to_index, stack)
        stack.callback(delattr, storage, "index_connection")
        yield


def _pooled(connect: Connect, stack: ExitStack) -> Connect:
    """Return a function that connects to the same file of SQLite with one engine; other databases as before."""

    @cache
    def engine() -> Engine | None:
        # Creates the tables, too.
        with connect() as connection:
            url = connection.engine.url
        if url.get_backend_name() != "sqlite" or not Path(url.database or "").is_file():
            return None
        created = create_engine(url, connect_args={"timeout": _TIMEOUT_SECONDS})
        listen(created, "connect", lambda connection, _: connection.execute("pragma synchronous = normal"))
        stack.callback(created.dispose)
        return created

    def pooled() -> AbstractContextManager[Connection]:
        found = engine()
        return connect() if found is None else found.begin()

    return pooled
