"""End what waits for a cluster that does not run it.

Spark waits without end where its master is lost, or no worker has a free core; it has no option against that.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

from segmentation_pipeline.spark.session import OpenSession

_SECONDS_OF_A_MINUTE = 60.0
_SECONDS_BETWEEN_LOOKS = 1.0


@contextmanager
def bounded_wait(session: OpenSession, minutes: int) -> Iterator[Event]:
    """Cancel what a session runs once its tasks have waited for some minutes.

    Args:
        session: The session.
        minutes: How long tasks may wait while none of them runs.

    Yields:
        An event that is set before anything is cancelled.
    """
    cancelled, finished = Event(), Event()
    arguments = (session, minutes * _SECONDS_OF_A_MINUTE, cancelled, finished)
    thread = Thread(target=_watch, args=arguments, name="spark-wait", daemon=True)
    thread.start()
    try:
        yield cancelled
    finally:
        finished.set()
        # It must not cancel the next statement.
        thread.join()


def _watch(session: OpenSession, limit: float, cancelled: Event, finished: Event) -> None:
    ran_at = time.monotonic()
    try:
        while not finished.wait(_SECONDS_BETWEEN_LOOKS):
            if not session.waits():
                ran_at = time.monotonic()
            elif time.monotonic() - ran_at > limit:
                cancelled.set()
                session.cancel()
    except Exception:
        # The driver is lost, and what it runs fails too.
        logging.getLogger(__name__).debug("Spark does not say what it runs", exc_info=True)
