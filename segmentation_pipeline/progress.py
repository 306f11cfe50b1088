"""How far a long step has come: the step reports it, and the program that shows the run listens.

Nothing is stored: an event for each file or resample would make the event log of a run large and slow.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

# Called with what the step is doing, and a function that returns the share of it that is done, if that is known.
Listener = Callable[[str, Callable[[], float] | None], None]
_listeners: list[Listener] = []


def report(doing: str, done: Callable[[], float] | None = None) -> None:
    """Say what the present step is doing.

    Args:
        doing: What it does, such as `reading 3 of 24 files`.
        done: Returns the share that is done, from 0 to 1. It may be called from another thread until the next report.
    """
    for listener in _listeners:
        listener(doing, done)


@contextmanager
def heard(listener: Listener) -> Iterator[None]:
    """Pass every report of this process to a listener."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)
