"""Whether the machine lets a run succeed: versions of packages, permissions, free disk space.

Contains what can be seen without a run and without Dagster.
"""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

from segmentation_pipeline.config.paths import RetailerFolders
from segmentation_pipeline.status.problems import Problem, error, warning

_PACKAGE = "segmentation-pipeline"
_SUBJECT = "installation"
# Dagster's event log grows by less than a megabyte a run; a full disk stops every run.
_LEAST_FREE = 100_000_000


@dataclass(frozen=True)
class Disk:
    """The disk of the data folder.

    Attributes:
        free_bytes: What is free.
        needed_bytes: What a run writes beside the existing files: a working database and a release.
    """

    free_bytes: int
    needed_bytes: int


def package_problems() -> Iterator[Problem]:
    """Yield each installed package whose version another one does not work with, such as a webserver of Dagster."""
    waiting, seen = [_PACKAGE], {_PACKAGE}
    for name in waiting:
        for requirement in _requirements(name):
            needed = _normal(requirement.name)
            found = _version(needed)
            if not found or not requirement.specifier.contains(found, prereleases=True):
                yield error(
                    _SUBJECT,
                    f"{name} {_version(name)} needs {requirement.name}{requirement.specifier};"
                    f" {f'{found} is' if found else 'it is not'} installed.",
                    "Install versions that fit: `pip install --constraint constraints.txt --editable .`",
                )
            # The packages of Dagster fit each other in one version only; others have looser requirements.
            if needed.startswith("dagster") and needed not in seen:
                seen.add(needed)
                waiting.append(needed)


def permission_problems(folders: RetailerFolders, home: Path) -> Iterator[Problem]:
    """Yield each folder or file that this user cannot write, or that everybody can read."""
    for path in (folders.data, home, folders.root, folders.working_database, folders.releases):
        place = _existing(path)
        if not os.access(place, os.W_OK | (os.X_OK if place.is_dir() else 0)):
            yield error(
                _SUBJECT,
                f"{place}: user {os.geteuid()} cannot write to it.",
                f"All runs belong to one user. Run as user {_owner(place)}, or give it to this one with `chown -R`.",
            )
    database = folders.working_database
    if database.exists() and (mode := database.stat().st_mode & 0o777) & 0o077:
        yield warning(
            _SUBJECT,
            f"{database}: other users can read it (mode {mode:04o}), and it names customers.",
            f"`chmod 600 {database}`",
        )
    if folders.releases.exists() and (mode := folders.releases.stat().st_mode & 0o777) & 0o007:
        yield warning(
            _SUBJECT,
            f"{folders.releases}: every user of the machine can read it (mode {mode:04o}); releases name customers.",
            f"`chmod o-rwx {folders.releases}`. Readers belong to the group in release.group.",
        )


def disk_of(folders: RetailerFolders) -> Disk:
    """Return the disk of the data folder."""
    current = folders.releases / "current"
    release = sum(file.stat().st_size for file in current.iterdir()) if current.is_dir() else 0
    work = folders.working_database
    return Disk(
        shutil.disk_usage(_existing(folders.data)).free, release + (work.stat().st_size if work.exists() else 0)
    )


def disk_problems(folders: RetailerFolders, home: Path, disk: Disk) -> Iterator[Problem]:
    """Yield a problem where a run may find a full disk."""
    action = "Free disk space, lower release.keep, or move the data folder (SEGMENTATION_DATA)."
    needed = max(disk.needed_bytes, _LEAST_FREE)
    if disk.free_bytes < 2 * needed:
        message = f"{size_text(disk.free_bytes)} are free for {folders.data}; a run may write {size_text(needed)}."
        yield (error if disk.free_bytes < needed else warning)("disk", message, action)
    if (free := shutil.disk_usage(_existing(home)).free) < _LEAST_FREE:
        yield error("disk", f"{size_text(free)} are free for Dagster's event log in {home}.", "Free disk space there.")


@cache
def _requirements(name: str) -> list[Requirement]:
    """Return what a package requires here; nothing if it is not installed."""
    try:
        found = [Requirement(text) for text in requires(name) or []]
    except PackageNotFoundError:
        return []
    return [one for one in found if one.marker is None or one.marker.evaluate({"extra": ""})]


def _version(name: str) -> str:
    """Return the installed version of a package; empty if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _normal(name: str) -> str:
    return name.lower().replace("_", "-")


def _existing(path: Path) -> Path:
    """Return the path, or the nearest folder above it that exists."""
    path = path.absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _owner(path: Path) -> str:
    try:
        return path.owner()
    except KeyError:
        return str(path.stat().st_uid)


def size_text(size: int) -> str:
    """Return a number of bytes as people write it."""
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.0f} MB"
