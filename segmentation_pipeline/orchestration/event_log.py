"""Dagster's event log in SQLite, kept open during a run."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cache

import dagster as dg
from dagster._core.storage.event_log import SqliteEventLogStorage
from dagster._core.storage.event_log.sqlite.sqlite_event_log import INDEX_SHARD_NAME
from dagster._core.storage.sqlite import SQLITE_BUSY_TIMEOUT_SECONDS
from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.event import listen


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
    storage = instance.event_log_storage
    if not isinstance(storage, SqliteEventLogStorage) or "run_connection" in vars(storage):
        yield
        return
    connect_to_run, connect_to_index = storage.run_connection, storage.index_connection

    @cache
    def engine(shard: str) -> Engine:
        # Creates the tables.
        with connect_to_index() if shard == INDEX_SHARD_NAME else connect_to_run(shard):
            timeout = {"timeout": SQLITE_BUSY_TIMEOUT_SECONDS}
            created = create_engine(storage.conn_string_for_shard(shard), connect_args=timeout)
        listen(created, "connect", lambda connection, _: connection.execute("pragma synchronous = normal"))
        stack.callback(created.dispose)
        return created

    def run_connection(shard: str | None = None) -> AbstractContextManager[Connection]:
        opened: AbstractContextManager[Connection] = (
            engine(run_id).begin() if shard == run_id else connect_to_run(shard)
        )
        return opened

    def index_connection() -> AbstractContextManager[Connection]:
        return engine(INDEX_SHARD_NAME).begin()

    with ExitStack() as stack:
        for replacement in (run_connection, index_connection):
            setattr(storage, replacement.__name__, replacement)
            stack.callback(delattr, storage, replacement.__name__)
        yield
