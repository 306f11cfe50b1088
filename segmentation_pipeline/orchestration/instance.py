"""The Dagster instance: its folder with the shipped settings, and its event log, kept open during a run."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from glob import escape
from pathlib import Path

from segmentation_pipeline.config.paths import dagster_home
from segmentation_pipeline.errors import PathError

_SHIPPED = Path(__file__).parents[1] / "dagster.yaml"


def prepare() -> Path:
    """Create the folder of DAGSTER_HOME with `dagster.yaml` where they do not exist, set the variable, and return it.

    Raises:
        PathError: Dagster would not find its settings in this folder.
    """
    # Dagster requires an absolute path; a relative one starts at the working folder.
    home = dagster_home().absolute()
    if escape(str(home)) != str(home):
        raise PathError(
            f"{home}: Dagster reads *, ? and [ in this path as a pattern, and would run without its settings. Name"
            " another folder in DAGSTER_HOME."
        )
    home.mkdir(parents=True, exist_ok=True)
    settings = home / _SHIPPED.name
    if not settings.exists():
        settings.write_text(_SHIPPED.read_text("utf-8"), "utf-8")
    # DagsterInstance.get() reads only the environment.
    os.environ["DAGSTER_HOME"] = str(home)
    return home


@contextmanager
def keep_event_log_open(run_id: str) -> Iterator[None]:
    """Keep Dagster's SQLite files open while a run writes events to them.

    Dagster opens and closes them for each of some three hundred events. The last connection that closes a file has to
    write its WAL into it and sync the disk: an empty run of 51 steps took 7.7 s, and 2.1 s with another connection
    open. An instance that stores its events elsewhere has no such files.
    """
    history = dagster_home() / "history"
    with ExitStack() as stack:
        for file in (history / "runs.db", history / "runs" / "index.db", history / "runs" / f"{run_id}.db"):
            # Dagster reports what is wrong with a file.
            with suppress(sqlite3.Error):
                if file.exists():
                    connection = stack.enter_context(closing(sqlite3.connect(file)))
                    connection.execute("select count(*) from sqlite_master").fetchall()
        yield
