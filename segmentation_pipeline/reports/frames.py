"""Read what the charts and the report show from a release, as pandas frames.

Contains the queries in `queries/`, each one SELECT on published tables. A query that a release cannot answer, because
of `privacy.withhold` or an older contract, leaves its frame out and a reason instead.
"""

import hashlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from segmentation_pipeline.releases.files import Release

if TYPE_CHECKING:
    import pandas as pd

_FOLDER = Path(__file__).parent / "queries"
_PREVIOUS = "previous"
# Of the previous release, what headline figures are compared with.
COMPARED = ("segments", "lapsing", "losses")


@dataclass(frozen=True)
class Frames:
    """What a release holds for people.

    Attributes:
        found: The rows of each query, by its name.
        missing: Why a query has no rows that can be shown, by its name.
    """

    found: Mapping[str, "pd.DataFrame"]
    missing: Mapping[str, str]

    def __getitem__(self, name: str) -> "pd.DataFrame":
        """Return the rows of a query; none where the release cannot answer it."""
        import pandas as pd

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
    for name, relation in _answers(release, previous, names):
        if isinstance(relation, str):
            missing[name] = relation
        else:
            found[name] = relation.df()
    return Frames(found, missing)


def digest_of(release: Release, previous: Release | None = None, names: Collection[str] = ()) -> str:
    """Return a digest of the same rows, without pandas, which takes half a second to import."""
    digest = hashlib.sha256()
    for name, relation in _answers(release, previous, names):
        rows = relation if isinstance(relation, str) else relation.fetchall()
        digest.update(f"{name} {rows}".encode())
    return digest.hexdigest()


def _answers(
    release: Release, previous: Release | None, names: Collection[str]
) -> Iterator[tuple[str, duckdb.DuckDBPyConnection | str]]:
    """Yield each query with its open result, or the reason why there is none."""
    with _attached(release, previous) as connection:
        for name, select in queries().items():
            if names and name not in names:
                continue
            compares = f"{_PREVIOUS}." in select
            if compares and previous is None:
                yield name, "There is no earlier release to compare with."
                continue
            try:
                result = connection.execute(select)
            except (duckdb.BinderException, duckdb.CatalogException):
                yield name, _why_missing(release, previous if compares else None)
            else:
                yield name, result


@contextmanager
def _attached(release: Release, previous: Release | None) -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        release.attach(connection, "shown")
        if previous is not None:
            previous.attach(connection, _PREVIOUS)
        connection.execute("use shown")
        yield connection


def _why_missing(release: Release, previous: Release | None) -> str:
    if previous is not None:
        return f"The earlier release {previous.name} cannot be compared with this one."
    if withheld := release.manifest.get("withheld"):
        return f"privacy.withhold leaves {', '.join(withheld)} out of the releases."
    return f"A release of contract {release.manifest['contract_version']} does not hold what this needs."
