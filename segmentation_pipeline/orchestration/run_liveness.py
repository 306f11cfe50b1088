"""Which runs are alive: each holds a locked file while its process lives.

A lock is released by the operating system when its process ends, so a run whose file is unlocked is dead.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from segmentation_pipeline.warehouse.lock import try_lock

if TYPE_CHECKING:
    import dagster as dg

# A command and the run inside it share a process, and so one file.
_HELD: set[Path] = set()


@contextmanager
def alive(runs: Path, run_id: str) -> Iterator[None]:
    """Hold the sign that the run's process lives: a locked file of the run's name, held once by whoever is first."""
    runs.mkdir(parents=True, exist_ok=True)
    sign, unseen = runs / run_id, runs / f".{run_id}"
    if sign in _HELD:
        yield
        return
    with unseen.open("w") as file:
        try_lock(file.fileno())
        unseen.rename(sign)
        _HELD.add(sign)
        try:
            yield
        finally:
            _HELD.discard(sign)
            sign.unlink(missing_ok=True)


def fail_dead_runs(instance: "dg.DagsterInstance", runs: Path) -> list[str]:
    """Mark as failed each unfinished run whose sign of life is no longer held; it would fill the queue for ever.

    Returns:
        The ids of these runs.
    """
    dead = []
    for sign in sorted(runs.glob("[!.]*")):
        try:
            file = sign.open("r+")
        except FileNotFoundError:
            continue
        with file:
            # A sign without a name is that of a run that ended well since the look into the folder.
            if not try_lock(file.fileno()) or not os.fstat(file.fileno()).st_nlink:
                continue
            run = instance.get_run_by_id(sign.name)
            if run is not None and not run.is_finished:
                instance.report_run_failed(
                    run, "The process of this run died. Nothing was left half written; run it again."
                )
                dead.append(run.run_id)
            sign.unlink(missing_ok=True)
    return dead
