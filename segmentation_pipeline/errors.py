"""What an error of the system says, without what a file holds, and whether the file at hand is to blame for it.

Belongs here: reading errors that others raise. Does not: errors of our own, which stand where they are raised.
"""

import errno
import os
import re

import duckdb

# The machine's, not the file's: the next file would fail in the same way.
_OF_THE_MACHINE = tuple(
    os.strerror(code)
    for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EROFS)
)


# A value of a file; what begins with / is a path, and is to be found.
_QUOTED = re.compile(r"""(?<=")[^"/][^"]*(?=")|(?<=')[^'/][^']*(?=')""")


def first_line(error: BaseException) -> str:
    """What an error says, without the advice that follows, and of the values that DuckDB quotes only the shape."""
    said = next(iter(str(error).splitlines()), "") or type(error).__name__
    return _QUOTED.sub(lambda value: shape(value[0]), said) if isinstance(error, duckdb.Error) else said


def shape(text: str) -> str:
    """A text with its letters as `a` and its digits as `9`: how it is written, and not what. A log is kept."""
    return "".join("9" if sign.isnumeric() else "a" if sign.isalpha() else sign for sign in text)


def is_of_the_machine(error: BaseException) -> bool:
    """Whether disk, memory or a limit of the process failed; DuckDB tells of these by the words of the system."""
    return isinstance(error, duckdb.OutOfMemoryException) or any(said in str(error) for said in _OF_THE_MACHINE)


class PipelineError(Exception):
    """An error that the user can resolve; its message says what happened, where, and what to do."""


class PathError(PipelineError):
    """A configured path cannot be used."""


class RetailerError(PipelineError):
    """The retailer file is not valid; the message lists every error with its key."""


class SourceError(PipelineError):
    """The source cannot be read."""


class WarehouseError(PipelineError):
    """The working database cannot be opened or used."""


class LockTimeoutError(PipelineError):
    """Another process held the lock for longer than the caller waits."""


class FitError(PipelineError):
    """The customers cannot be clustered."""


class RegistryError(PipelineError):
    """A model cannot be found or promoted."""


class ReleaseError(PipelineError):
    """A release cannot be published, found or read."""


class RestoreError(PipelineError):
    """The working database cannot be restored from a release."""


class PrivacyError(PipelineError):
    """The privacy key is missing, too short or not the one used before."""


class ErasureError(PipelineError):
    """Customers cannot be erased."""
