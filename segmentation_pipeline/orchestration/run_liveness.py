"""Which runs are alive: each holds a locked file while its process lives.

A lock is released by the operating system when its process ends, so a run whose file is unlocked is dead.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from segmentation_pipeline.config.paths import data_folder
from segmentation_pipeline.warehouse.lock import try_lock

if TYPE_CHECKING:
    import dagster as dg

# A command and the run inside it share a process, and so one file.
_HELD: set[Path] = set()


def folder() -> Path:
    """Return the folder of the heartbeat files of all runs; the retailers share one Dagster instance."""
    return data_folder() / "runs"


@contextmanager
def heartbeat(runs: Path, run_id: str) -> Iterator[None]:
    """Hold the run's heartbeat file locked; nested calls of one process hold it once."""
    runs.mkdir(parents=True, exist_ok=True)
    file_path, unlocked = runs / run_id, runs / f".{run_id}"
    if file_path in _HELD:
        yield
        return
    with unlocked.open("w") as file:
        # Renamed once it is locked, so that nobody sees it without its lock.
        try_lock(file.fileno())
        unlocked.rename(file_path)
        _HELD.add(file_path)
        try:
            yield
        finally:
            _HELD.discard(file_path)
            file_path.unlink(missing_ok=True)


def is_alive(runs: Path, run_id: str) -> bool:
    """Return whether the process of a run lives."""
    try:
        with (runs / run_id).open("rb") as file:
            return not try_lock(file.fileno())
    except FileNotFoundError:
        return False


def fail_dead_runs(instance: "dg.DagsterInstance", runs: Path) -> list[str]:
    """Mark each unfinished run as failed whose heartbeat file is not locked; it would block the queue for ever.

    Returns:
        The ids of these runs.
    """
    dead = []
    for file_path in sorted(runs.glob("[!.]*")):
        try:
            file = file_path.open("r+")
        except FileNotFoundError:
            continue
        with file:
            # A file without a link belongs to a run that ended since the folder was listed.
            if not try_lock(file.fileno()) or not os.fstat(file.fileno()).st_nlink:
                continue
            run = instance.get_run_by_id(file_path.name)
            if run is not None and not run.is_finished:
                instance.report_run_failed(run, "The process of this run died. No table is half written; run it again.")
                dead.append(run.run_id)
            file_path.unlink(missing_ok=True)
    return dead
