"""One run at a time writes, and a run that died is not taken for one that works.

Belongs here: the operating system's locks. They are given back by the kernel when their process ends, however it ends.
"""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from segmentation_pipeline.errors import LockTimeoutError

if TYPE_CHECKING:
    import dagster as dg


# The signs that this process holds: a run inside a command is as alive as the command.
_HELD: set[Path] = set()


@contextmanager
def writer(lock: Path, who: str, patience: float, tell: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock beside the working database; wait while another run holds it, and say for whom.

    Args:
        lock: The lock's file.
        who: How others are to name the holder.
        patience: Seconds to wait.
        tell: Where to say that it waits.

    Raises:
        LockTimeoutError: It was held for longer.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + patience
    told = False
    with lock.open("a+", encoding="utf-8") as file:
        while not _lock(file.fileno()):
            file.seek(0)
            holder = file.read().strip() or "another process"
            if not told:
                tell(f"waiting for {holder}, which writes to {lock.parent}")
                told = True
            if time.monotonic() > deadline:
                raise LockTimeoutError(
                    f"{lock.parent}: {holder} has been writing for more than {patience:g} s. "
                    "Wait for it, or end it if it hangs, and run again."
                )
            time.sleep(0.2)
        file.truncate(0)
        file.write(who)
        file.flush()
        yield
        file.truncate(0)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold a folder for the moment of a change, and wait for whoever else changes it: that takes no longer."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def alive(runs: Path, run_id: str) -> Iterator[None]:
    """Hold the sign that the run's process lives: a locked file of the run's name, held once by whoever is first."""
    runs.mkdir(parents=True, exist_ok=True)
    sign, unseen = runs / run_id, runs / f".{run_id}"
    if sign in _HELD:
        yield
        return
    with unseen.open("w") as file:
        _lock(file.fileno())
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
            if not _lock(file.fileno()) or not os.fstat(file.fileno()).st_nlink:
                continue
            run = instance.get_run_by_id(sign.name)
            if run is not None and not run.is_finished:
                instance.report_run_failed(
                    run, "The process of this run died. Nothing was left half written; run it again."
                )
                dead.append(run.run_id)
            sign.unlink(missing_ok=True)
    return dead


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
