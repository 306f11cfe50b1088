"""What can be wrong, how bad it is, and what to do."""

from dataclasses import dataclass
from enum import IntEnum


class Level(IntEnum):
    """How bad a problem is; the numbers are exit codes, with the meanings that Nagios and its successors give them."""

    OK = 0
    WARNING = 1
    ERROR = 2
    UNKNOWN = 3

    @property
    def label(self) -> str:
        """The level in lower case."""
        return self.name.lower()


@dataclass(frozen=True)
class Problem:
    """Something that is wrong.

    Attributes:
        level: How bad it is.
        subject: What it concerns: the name of a section of the status.
        message: What is wrong, and where.
        action: What to do.
    """

    level: Level
    subject: str
    message: str
    action: str


def error(subject: str, message: str, action: str) -> Problem:
    """Return a problem that stops runs or consumers."""
    return Problem(Level.ERROR, subject, message, action)


def warning(subject: str, message: str, action: str) -> Problem:
    """Return a problem that will stop them, or that a person should look at."""
    return Problem(Level.WARNING, subject, message, action)
