"""The machine and the versions that results were measured with."""

import os
import platform
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version

from benchmarks.cost.processes import ROOT

# A load above this at the start is that of other programs.
QUIET = 0.5


@dataclass(frozen=True)
class Machine:
    """Where and when a scenario was measured, and with what.

    Attributes:
        text: The date, the number of cores, the versions, and the commit.
        load: The load of the last minute before the measurement.
    """

    text: str
    load: float

    @classmethod
    def now(cls) -> "Machine":
        """Return this machine."""
        command = ["git", "describe", "--always", "--dirty"]
        commit = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
        text = (
            f"{datetime.now(UTC):%Y-%m-%d}: {os.cpu_count()} cores, Python {platform.python_version()}, DuckDB"
            f" {version('duckdb')}, commit {commit or 'unknown'}"
        )
        return cls(text, os.getloadavg()[0])
