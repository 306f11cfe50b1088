"""Read what the charts and the report show from a release, as pandas frames.

Contains the queries in `queries/`, each one SELECT on published tables. A query that a release cannot answer, because
of `privacy.withhold` or an older contract, leaves its frame out and a reason instead.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import duckdb
import pandas as pd

from segmentation_pipeline.releases.files import Release
from segmentation_pipeline.tables.contract import literal

_FOLDER = Path(__file__).parent / "queries"
_PREVIOUS = "previous"


@dataclass(frozen=True)
class Frames:
    """What a release holds for people.

    Attributes:
        found: The rows of each query, by its name.
        missing: Why a query has no rows that can be shown, by its name.
    """

    found: Mapping[str, pd.DataFrame]
    missing: Mapping[str, str]

    def __getitem__(self, name: str) -> pd.DataFrame:
        """Return the rows of a query; none where the release cannot answer it."""
        return self.found.get(name, pd.DataFrame())


@cache
def queries() -> Mapping[str, str]:
    """Return the SELECTs by name."""
    return {file.stem: file.read_text("utf-8") for file in sorted(_FOLDER.glob("*.sql"))}


def read_frames(release: Release, previous: Release | None = None, names: Collection[str] = ()) -> Frames:
    """Read the frames of a release.

    Args:
        release: The release.
        previous: The release that it is compared with; without one, the frame `moved` is missing.
        names: Which frames; by default all.
    """
    found, missing = {}, {}
    with duckdb.connect() as connection:
        connection.execute(f"attach {literal(str(release.database))} as shown (read_only)")
        if previous is not None:
            connection.execute(f"attach {literal(str(previous.database))} as {_PREVIOUS} (read_only)")
        connection.execute("use shown")
        for name, select in queries().items():
            if names and name not in names:
                continue
            if previous is None and f"{_PREVIOUS}." in select:
                missing[name] = "There is no earlier release to compare with."
                continue
            try:
                found[name] = connection.execute(select).df()
            except (duckdb.BinderException, duckdb.CatalogException):
                missing[name] = _why_missing(release, previous if f"{_PREVIOUS}." in select else None)
    return Frames(found, missing)


def _why_missing(release: Release, previous: Release | None) -> str:
    if previous is not None:
        return f"The earlier release {previous.name} cannot be compared with this one."
    if withheld := release.manifest.get("withheld"):
        return f"privacy.withhold leaves {', '.join(withheld)} out of the releases."
    return f"A release of contract {release.manifest['contract_version']} does not hold what this needs."
