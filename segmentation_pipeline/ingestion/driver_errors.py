"""Replace errors of drivers by errors that show no address, user, query or value of a row."""

from collections.abc import Callable
from typing import TypeVar

from segmentation_pipeline.errors import SourceError, is_system_error

_Result = TypeVar("_Result")


def without_cause(action: Callable[[], _Result], failed: Callable[[Exception], SourceError]) -> _Result:
    """Return the result of an action, or raise what `failed` makes of its error.

    Raised outside of the handler, so that no traceback shows the error of the driver, which quotes host and query.
    """
    try:
        return action()
    except Exception as error:
        # Of this machine: a server's own disk can be full too.
        if is_system_error(error) and "libpq" not in str(error):
            raise
        failure = failed(error)
    raise failure
