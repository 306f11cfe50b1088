"""File locks: one writer a retailer, one change of the releases at a time.

The operating system releases a lock when the process that holds it ends.
"""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from segmentation_pipeline.errors import LockTimeoutError


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
        while not try_lock(file.fileno()):
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


def try_lock(descriptor: int) -> bool:
    """Take an exclusive lock on an open file without waiting."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
