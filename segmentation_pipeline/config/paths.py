"""Where things lie on disk: the data folder, and in it each retailer's working database, releases and locks.

Belongs here: paths, and nothing that opens them.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from segmentation_pipeline.errors import PathError

_PROJECT = Path(__file__).parents[2]


def expanded(text: str) -> Path:
    """The path that a text means.

    Raises:
        PathError: It begins with ~ and a name that no user has.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise PathError(f"{text}: {error}") from None


def data_folder() -> Path:
    """The folder that SEGMENTATION_DATA names, else `data/` beside the project (installed: the user's data folder)."""
    if named := os.environ.get("SEGMENTATION_DATA"):
        return expanded(named).resolve()
    if (_PROJECT / "pyproject.toml").is_file():
        return _PROJECT / "data"
    return expanded(os.environ.get("XDG_DATA_HOME") or "~/.local/share") / "segmentation_pipeline"


def unused_name(path: Path) -> Path:
    """The path, or one numbered after it: whatever was set aside before is kept."""
    number, name = 1, path
    while os.path.lexists(name):
        number += 1
        name = path.with_name(f"{path.name}-{number}")
    return name


def dagster_home() -> Path:
    """Dagster's own folder: DAGSTER_HOME, else `dagster/` in the data folder."""
    return expanded(os.environ.get("DAGSTER_HOME") or str(data_folder() / "dagster"))


@dataclass(frozen=True)
class RetailerFolders:
    """The places of one retailer: each has its own, so that two never mix."""

    data: Path
    retailer: str

    @property
    def root(self) -> Path:
        """All that is kept of this retailer."""
        return self.data / self.retailer

    @property
    def working_database(self) -> Path:
        """The database that belongs to the run."""
        return self.root / "work.duckdb"

    @property
    def lock(self) -> Path:
        """Held by the one run that writes."""
        return self.root / "work.lock"

    @property
    def spill(self) -> Path:
        """Where DuckDB and the readers put what does not fit into memory."""
        return self.root / "tmp"

    @property
    def pipeline_paths(self) -> tuple[Path, ...]:
        """What only the pipeline writes, and nobody's source is."""
        return self.working_database, self.spill, self.releases

    @property
    def releases(self) -> Path:
        """The published releases, and `current`."""
        return self.root / "releases"
