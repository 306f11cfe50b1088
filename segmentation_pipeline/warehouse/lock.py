"""File locks: one writer per retailer, and one change at a time to a folder of releases.

The operating system releases a lock when the process that holds it ends.
"""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from segmentation_pipeline.errors import LockTimeoutError

_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Holder:
    """The process that holds a writer's lock: its description, and since when."""

    description: str
    since: datetime


def this_process(command: str, run_id: str = "") -> str:
    """Return the description of this process for others that wait: its id, what it does, and for which run."""
    return f"process {os.getpid()} ({command})" + (f", run {run_id}" if run_id else "")


def holder_of(lock: Path) -> Holder | None:
    """Return the process that holds a writer's lock; None if it is free. Do not wait, and create no file."""
    try:
        with lock.open("rb") as file:
            if try_lock(file.fileno()):
                return None
            return Holder(_holder(lock), datetime.fromtimestamp(os.fstat(file.fileno()).st_mtime, UTC))
    except FileNotFoundError:
        return None


@contextmanager
def writer(lock: Path, holder: str, timeout: float, report: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock beside the working database; wait while another process holds it, and report the wait once.

    Args:
        lock: The lock file. It also holds the description of the process that holds the lock.
        holder: The description of this process, which others report while they wait.
        timeout: Seconds to wait.
        report: Called with a message before the wait.

    Raises:
        LockTimeoutError: Another process held the lock for longer.
    """
    # Imported here: most commands take no lock, and the import takes a tenth of a second.
    from filelock import FileLock, Timeout

    lock.parent.mkdir(parents=True, exist_ok=True)
    # Not bound to a thread: Dagster may close a resource in another one.
    file_lock = FileLock(lock, thread_local=False)
    try:
        file_lock.acquire(timeout=0)
    except Timeout:
        report(f"waiting for {_holder(lock)}, which writes to {lock.parent}")
        try:
            file_lock.acquire(timeout=timeout, poll_interval=_POLL_SECONDS)
        except Timeout:
            raise LockTimeoutError(
                f"{lock.parent}: {_holder(lock)} has been writing for more than {timeout:g} s. Wait until it ends, or"
                " stop it if it hangs; then run again."
            ) from None
    try:
        lock.write_text(holder, "utf-8")
        yield
        lock.write_text("", "utf-8")
    finally:
        file_lock.release()


def _holder(lock: Path) -> str:
    return lock.read_text("utf-8").strip() or "another process"


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold the lock beside a folder during a short change, and wait for other processes that change it."""
    from filelock import FileLock

    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f"{folder.name}.lock"), thread_local=False):
        yield


def try_lock(descriptor: int) -> bool:
    """Take an exclusive lock on an open file without waiting; return whether it was taken."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
