"""What an error of the system says, and whether the file at hand is to blame for it.

Belongs here: reading errors that others raise. Does not: errors of our own, which stand where they are raised.
"""

import errno
import os

import duckdb

# The machine's, not the file's: the next file would fail in the same way.
_OF_THE_MACHINE = tuple(
    os.strerror(code)
    for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EROFS)
)


def first_line(error: BaseException) -> str:
    """What an error says, without the advice that follows."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def is_of_the_machine(error: BaseException) -> bool:
    """Whether disk, memory or a limit of the process failed; DuckDB tells of these by the words of the system."""
    return isinstance(error, duckdb.OutOfMemoryException) or any(said in str(error) for said in _OF_THE_MACHINE)
