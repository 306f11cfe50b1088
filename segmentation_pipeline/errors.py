"""Classify errors of the system and of DuckDB, strip data values from their messages, and define the package's errors.

Contains no handling of errors: that is where they are caught.
"""

import errno
import os
import re

import duckdb

# Errors of the machine and not of one file: the next file would fail in the same way.
_SYSTEM_ERRORS = tuple(
    os.strerror(code)
    for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EROFS)
)
# Quoted text is a value of a file, unless it begins with / and is a path.
_QUOTED = re.compile(r"""(?<=")[^"/][^"]*(?=")|(?<=')[^'/][^']*(?=')""")


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, with the values that DuckDB quotes masked."""
    message = next(iter(str(error).splitlines()), "") or type(error).__name__
    return _QUOTED.sub(lambda value: mask(value[0]), message) if isinstance(error, duckdb.Error) else message


def mask(text: str) -> str:
    """Return the masked pattern of a text: letters as `a`, digits as `9`, so that a log keeps no data value."""
    return "".join("9" if character.isnumeric() else "a" if character.isalpha() else character for character in text)


def is_system_error(error: BaseException) -> bool:
    """Return whether disk, memory or a limit of the process failed; DuckDB quotes the system's message."""
    return isinstance(error, duckdb.OutOfMemoryException) or any(text in str(error) for text in _SYSTEM_ERRORS)


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


class EngineError(PipelineError):
    """The engine of `[engine]` cannot be used."""


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
