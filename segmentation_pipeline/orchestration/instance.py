"""Dagster's own folder: made ready with the shipped settings, and its books held open while a run writes to them."""

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
    """Create DAGSTER_HOME where it is absent, put `dagster.yaml` into it, and name it in the environment.

    Raises:
        PathError: Dagster would not find its settings there.
    """
    # Dagster refuses a relative folder; one that the environment names is meant from where the command is run.
    home = dagster_home().absolute()
    if escape(str(home)) != str(home):
        raise PathError(
            f"{home}: Dagster takes *, ? and [ in the path of its folder for a pattern, and would run without its"
            " settings. Name another folder in DAGSTER_HOME."
        )
    home.mkdir(parents=True, exist_ok=True)
    settings = home / _SHIPPED.name
    if not settings.exists():
        settings.write_text(_SHIPPED.read_text("utf-8"), "utf-8")
    os.environ["DAGSTER_HOME"] = str(home)
    return home


@contextmanager
def keep_event_log_open(run_id: str) -> Iterator[None]:
    """Hold Dagster's SQLite files open while a run writes to them.

    Dagster opens and closes them for each of some three hundred events of a night, and whoever closes one last has to
    move its log into it and wait for the disk. With one more connection open, nobody is the last. Where the books are
    kept elsewhere, there are no such files.
    """
    history = dagster_home() / "history"
    with ExitStack() as stack:
        for file in (history / "runs.db", history / "runs" / "index.db", history / "runs" / f"{run_id}.db"):
            # What is wrong with a file, Dagster finds and tells.
            with suppress(sqlite3.Error):
                if file.exists():
                    connection = stack.enter_context(closing(sqlite3.connect(file)))
                    connection.execute("select count(*) from sqlite_master").fetchall()
        yield
