"""Run whole processes, and measure each: seconds, peak memory, the disk that it uses and the times of its steps.

Contains the pipeline, and what it is compared with. Which are run, and on what, is in `scenarios`.
"""

import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
RETAILER = "online_retail"
# The same for all: the script and the limit do not search for a number of clusters.
_CLUSTERS = "4"
_STEP = re.compile(r"^✓ (\w+) .*?([\d.]+) s$", re.MULTILINE)
_DISK_SECONDS = 0.2


class RunFailedError(Exception):
    """A process ended with an error."""


@dataclass(frozen=True)
class Measured:
    """A process that has ended.

    Attributes:
        seconds: From its start to its end.
        memory: Its peak resident memory in MB, from the kernel.
        disk: The working database and the releases in MB, after its end.
        peak_disk: The most that the data folder used in MB while it ran, as seen five times a second.
        steps: The seconds of each step that it printed.
        cpu: Its seconds of processor time.
    """

    seconds: float
    memory: float
    disk: float = 0.0
    peak_disk: float = 0.0
    steps: dict[str, float] = field(default_factory=dict)
    cpu: float = 0.0


@dataclass(frozen=True)
class Pipeline:
    """`segments run` in a data folder of its own.

    Attributes:
        data: The data folder.
        source: What it reads; None: the retailer's own source.
        retailer: The retailer.
    """

    data: Path
    source: Path | None
    retailer: str = RETAILER

    def run(self, *options: str, memory_limit: str = "") -> Measured:
        """Run the command with options."""
        command = [f"{sys.prefix}/bin/segments", "run", "--verbose", *options]
        folder = self.data / self.retailer
        kept = (folder / "work.duckdb", folder / "releases")
        return measured(command, self._environment(memory_limit), self.data, kept)

    def alone(self) -> Measured:
        """Run the same job with empty assets: no SQL can be faster than that."""
        command = [sys.executable, "-m", "benchmarks.cost.dagster_alone"]
        return measured(command, self._environment(""), self.data)

    def _environment(self, memory_limit: str) -> dict[str, str]:
        given = {name: value for name, value in os.environ.items() if not name.startswith("SEGMENTATION_")}
        return given | {
            "SEGMENTATION_DATA": str(self.data),
            "SEGMENTATION_SOURCE": str(self.source or ""),
            "SEGMENTATION_RETAILER": self.retailer,
            "SEGMENTATION_MEMORY_LIMIT": memory_limit,
            "DAGSTER_HOME": str(self.data / "dagster"),
        }


def run_baseline(program: Path, source: str) -> Measured:
    """Run the script or the limit, which read the source, cluster the customers, and keep nothing."""
    return measured([sys.executable, str(program), source, _CLUSTERS], dict(os.environ))


def measured(
    command: Sequence[str], environment: dict[str, str], data: Path | None = None, kept: Sequence[Path] = ()
) -> Measured:
    """Run a command and measure it.

    Args:
        command: The command.
        environment: Its environment.
        data: The folder that it writes to.
        kept: What is of use after its end: the working database and the releases.

    Raises:
        RunFailedError: It ended with another code than 0.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8") as errors, _PeakDisk(data) as peak:
        started = time.perf_counter()
        process = subprocess.Popen(
            list(command), env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        assert process.stdout is not None
        output = process.stdout.read()
        # Instead of process.wait(), because the kernel returns the peak memory here only.
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            errors.seek(0)
            text = errors.read().strip()
            print(text[-3_000:], file=sys.stderr)
            raise RunFailedError(f"exit code {process.returncode}: {text.splitlines()[-1] if text else 'no message'}")
    return Measured(
        seconds=seconds,
        memory=usage.ru_maxrss * 1024 / 1e6,
        disk=sum(map(_size, kept)) / 1e6,
        peak_disk=peak.size / 1e6,
        steps={name: float(took) for name, took in _STEP.findall(output)},
        cpu=usage.ru_utime + usage.ru_stime,
    )


class _PeakDisk:
    """Looks at the size of a folder while a process writes to it."""

    def __init__(self, folder: Path | None) -> None:
        self.size = 0
        self._folder = folder
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> "_PeakDisk":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while self._folder is not None:
            self.size = max(self.size, _size(self._folder))
            if self._ended.wait(_DISK_SECONDS):
                return


def _size(folder: Path) -> int:
    """Return the size of a file, or of the files below a folder; a file may disappear meanwhile."""
    size = folder.stat().st_size if folder.is_file() else 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                size += os.lstat(os.path.join(parent, name)).st_size  # noqa: PTH118 - a thousand Paths take longer
            except FileNotFoundError:
                continue
    return size
