"""The status of one retailer: everything that `segments status` says, and its form as JSON.

Contains how the parts come together. A part that cannot be read is a problem, and the others are still there.
"""

import tomllib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import duckdb

from segmentation_pipeline.config.loading import absolute_arguments, find, load_settings, source_base
from segmentation_pipeline.config.paths import RetailerFolders, dagster_home, data_folder
from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.errors import PipelineError, RetailerError
from segmentation_pipeline.ingestion.sources import check_source
from segmentation_pipeline.privacy.pseudonyms import Key
from segmentation_pipeline.releases.store import Releases
from segmentation_pipeline.status import installation
from segmentation_pipeline.status.dagster_status import DagsterStatus, dagster_status, run_problems, schedule_problems
from segmentation_pipeline.status.problems import Level, Problem, error, warning
from segmentation_pipeline.status.release_status import (
    ReleaseContents,
    ReleaseStatus,
    contents_problems,
    release_contents,
    release_problems,
    release_status,
)
from segmentation_pipeline.tables.catalog import withholdable_columns
from segmentation_pipeline.warehouse.connection import reading_database
from segmentation_pipeline.warehouse.lock import Holder, holder_of

# Of the JSON. Adding a key keeps it.
SCHEMA_VERSION = 1
# A night's release is due every 24 hours; a run may take two.
_NIGHTLY_HOURS = 26.0
_READ_ERRORS = (PipelineError, OSError, duckdb.Error)
_Found = TypeVar("_Found")


@dataclass(frozen=True)
class DatabaseStatus:
    """The working database, and who writes to it."""

    path: str
    bytes: int
    holder: Holder | None


@dataclass(frozen=True)
class Status:
    """The status of a retailer at a time."""

    checked_at: datetime
    retailer: str
    release: ReleaseStatus | None
    contents: ReleaseContents | None
    database: DatabaseStatus
    dagster: DagsterStatus | None
    disk: installation.Disk
    problems: list[Problem]

    @property
    def level(self) -> Level:
        """The level of the worst problem."""
        return max((problem.level for problem in self.problems), default=Level.OK)

    def as_json(self) -> dict[str, Any]:
        """Return the status as it is written as JSON; times are ISO 8601, and money is text."""
        contents, dagster = self.contents, self.dagster
        return {
            "schema_version": SCHEMA_VERSION,
            "status": self.level.label,
            "exit_code": int(self.level),
            "checked_at": self.checked_at,
            "retailer": self.retailer,
            "problems": [{**asdict(problem), "level": problem.level.label} for problem in self.problems],
            "release": None if self.release is None else asdict(self.release),
            "model": None if contents is None else asdict(contents.model),
            "drift": None if contents is None else [asdict(one) for one in contents.drift],
            "loss": None if contents is None else asdict(contents.loss),
            "database": asdict(self.database),
            "daemon": None
            if dagster is None
            else {
                "running": dagster.daemon_is_running,
                "last_seen_at": dagster.daemon_last_seen_at,
                "nights_of_another": dagster.nights_of_another,
            },
            "schedules": [] if dagster is None else [asdict(one) for one in dagster.schedules],
            "runs": [] if dagster is None else [asdict(one) for one in dagster.runs],
            "disk": asdict(self.disk),
        }


def status_of(retailer: str, max_age_hours: float | None, now: datetime) -> Status:
    """Return the status of a retailer, without waiting for a run and without creating a file.

    Args:
        retailer: Name of a shipped retailer, or path of a retailer file.
        max_age_hours: The age from which the release is stale; None: 26 hours where the nightly schedule runs.
        now: The present.

    Raises:
        PipelineError: There is no such retailer, or a path in the environment is not valid.
    """
    name_or_path, _ = absolute_arguments(retailer, "")
    problems: list[Problem] = []
    settings = _settings(name_or_path, problems)
    name = settings.name if settings else _name_in(find(name_or_path))
    folders, home = RetailerFolders(data_folder(), name), dagster_home().absolute()
    dagster = _dagster(home, name_or_path, problems)
    releases = Releases(folders.releases)
    release, contents = _release(releases, now, problems)
    if max_age_hours is None and dagster is not None and dagster.runs_nightly:
        max_age_hours = _NIGHTLY_HOURS
    if dagster is not None:
        problems += [*run_problems(dagster), *schedule_problems(dagster)]
    with suppress(OSError):
        problems += release_problems(releases, release, max_age_hours)
    disk = installation.disk_of(folders)
    problems += [
        *installation.package_problems(),
        *installation.permission_problems(folders, home),
        *installation.disk_problems(folders, home, disk),
    ]
    database = _database(folders, problems)
    problems.sort(key=lambda problem: -problem.level)
    return Status(now, name, release, contents, database, dagster, disk, problems)


def _settings(name_or_path: str, problems: list[Problem]) -> Retailer | None:
    """Return the settings of a retailer, and note what keeps the next run from reading its source."""
    try:
        settings = load_settings(name_or_path, withholdable=withholdable_columns())
    except RetailerError as found:
        check = f"`segments retailer check {name_or_path}` lists every error; no run starts before they are corrected."
        problems.append(error("retailer", str(found), check))
        return None
    folders = RetailerFolders(data_folder(), settings.name)
    if not settings.source.sample:
        _noted(
            lambda: check_source(settings.source, source_base(name_or_path), folders.pipeline_paths),
            problems,
            lambda found: error("source", str(found), "The next run fails. Mount or correct the source."),
        )
    if settings.privacy.pseudonymise:
        _noted(
            lambda: Key.of_environment("customers are stored as hashes made with it"),
            problems,
            lambda found: warning("retailer", str(found), "Set it for every run and for the daemon."),
        )
    return settings


def _dagster(home: Path, retailer: str, problems: list[Problem]) -> DagsterStatus | None:
    if home.exists() and not (home / "dagster.yaml").exists():
        message = f"{home} has no dagster.yaml, so Dagster runs there without the project's settings."
        problems.append(warning("runs", message, "`segments home` writes it."))
    try:
        return dagster_status(home, retailer)
    # Whatever Dagster raises here, of its file or its storage, is what the person has to know.
    except Exception as found:
        reason = next(iter(str(found).splitlines()), type(found).__name__)
        message = f"Dagster's storage in {home} cannot be read: {reason}"
        problems.append(error("runs", message, "Check DAGSTER_HOME, its dagster.yaml and its permissions."))
        return None


def _release(
    releases: Releases, now: datetime, problems: list[Problem]
) -> tuple[ReleaseStatus | None, ReleaseContents | None]:
    action = "`segments releases verify` says what to do."
    current = _noted(
        lambda: releases.current, problems, lambda found: error("release", _cannot_read(releases.folder, found), action)
    )
    if current is None:
        return None, None
    contents = _noted(
        lambda: release_contents(current),
        problems,
        lambda found: error("release", _cannot_read(current.folder, found), action),
    )
    if contents is not None:
        problems += contents_problems(contents)
    return release_status(releases, current, now), contents


def _database(folders: RetailerFolders, problems: list[Problem]) -> DatabaseStatus:
    """Return the working database and its holder; open it where nobody holds it, to see that it can be opened."""
    path = folders.working_database
    holder = _noted(
        lambda: holder_of(folders.lock),
        problems,
        lambda found: error("database", _cannot_read(folders.lock, found), "Run as the user who owns it."),
    )
    if holder is None and path.exists():
        _noted(lambda: _open_and_close(path), problems, lambda found: _unopened(path, found))
    return DatabaseStatus(str(path), path.stat().st_size if path.exists() else 0, holder)


def _open_and_close(path: Path) -> None:
    with reading_database(path):
        pass


def _unopened(path: Path, found: Exception) -> Problem:
    reason = str(found).splitlines()[0]
    if "Could not set lock" in reason:
        return warning(
            "database",
            f"Another program has {path} open, and the next run waits for it: {reason}",
            "Close it there; to look at results, open a release.",
        )
    return error(
        "database",
        f"{path}: DuckDB {duckdb.__version__} cannot open the working database: {reason}",
        "If another version of DuckDB wrote it, use that version; if it is damaged, `segments restore RELEASE"
        " --replace`.",
    )


def _noted(
    read: Callable[[], _Found], problems: list[Problem], problem_of: Callable[[Exception], Problem]
) -> _Found | None:
    """Return what is read; note a problem and return None where it cannot be."""
    try:
        return read()
    except _READ_ERRORS as found:
        problems.append(problem_of(found))
        return None


def _cannot_read(path: Path, found: Exception) -> str:
    return f"{path} cannot be read: {next(iter(str(found).splitlines()), type(found).__name__)}"


def _name_in(path: Path) -> str:
    """Return the name that an invalid retailer file gives, or else that of the file."""
    with suppress(OSError, ValueError):
        name = tomllib.loads(path.read_text("utf-8-sig")).get("name")
        if isinstance(name, str) and name:
            return name
    return path.stem
