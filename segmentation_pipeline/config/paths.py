"""The paths of the data folder, Dagster's folder and each retailer's files.

Computes paths; does not open or create what they name.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from segmentation_pipeline.config.environment import DAGSTER_HOME, DATA, XDG_DATA_HOME, Environment
from segmentation_pipeline.errors import PathError

_PROJECT = Path(__file__).parents[2]


def expanded(text: str) -> Path:
    """Return a path with `~` replaced by the user's home folder.

    Raises:
        PathError: The path begins with `~` and the name of no user.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise PathError(f"{text}: {error}") from None


def data_folder() -> Path:
    """Return SEGMENTATION_DATA, or else `data/` beside the project; without a project, the user's data folder."""
    environment = Environment.read()
    if environment.data:
        return _expanded_variable(DATA, environment.data).resolve()
    if (_PROJECT / "pyproject.toml").is_file():
        return _PROJECT / "data"
    return _expanded_variable(XDG_DATA_HOME, environment.user_data_home) / "segmentation_pipeline"


def dagster_home() -> Path:
    """Return DAGSTER_HOME, or else `dagster/` in the data folder."""
    if folder := Environment.read().dagster_home:
        return _expanded_variable(DAGSTER_HOME, folder)
    return data_folder() / "dagster"


def unused_name(path: Path) -> Path:
    """Return the path, or one with a number after it if something exists there."""
    number, name = 1, path
    while os.path.lexists(name):
        number += 1
        name = path.with_name(f"{path.name}-{number}")
    return name


@dataclass(frozen=True)
class RetailerFolders:
    """The paths of one retailer's files; no two retailers share one."""

    data: Path
    retailer: str

    @property
    def root(self) -> Path:
        """The folder of all files of this retailer."""
        return self.data / self.retailer

    @property
    def working_database(self) -> Path:
        """The DuckDB database that runs write."""
        return self.root / "work.duckdb"

    @property
    def lock(self) -> Path:
        """The lock file that a writer of the working database holds."""
        return self.root / "work.lock"

    @property
    def spill(self) -> Path:
        """The folder of temporary files: what DuckDB and the readers cannot keep in memory."""
        return self.root / "tmp"

    @property
    def releases(self) -> Path:
        """The folder of the releases and of the link `current`."""
        return self.root / "releases"

    @property
    def pipeline_paths(self) -> tuple[Path, ...]:
        """The paths that only the pipeline writes; the source must not read them."""
        return self.working_database, self.spill, self.releases


def _expanded_variable(variable: str, value: str) -> Path:
    """Return the path in an environment variable; an error names the variable."""
    try:
        return expanded(value)
    except PathError as error:
        raise PathError(f"{variable}: {error}. Set it to another folder.") from None
