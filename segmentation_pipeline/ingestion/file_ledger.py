"""The record of each source file: a row of `ingested_files`, and how such rows are written.

Contains the row only. What a run does with the files is in `incremental`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from segmentation_pipeline.config.validation import normalised
from segmentation_pipeline.tables.catalog import contracts
from segmentation_pipeline.tables.contract import quoted

LOADED, MISSING, QUARANTINED, SUPERSEDED = "loaded", "missing", "quarantined", "superseded"
# The rows of a query are stored by month, under names that begin with this.
QUERY_FOLDER = "query/"
# In UTC, as every timestamp of a file.
EPOCH = datetime.fromisoformat("1970-01-01")


@dataclass(frozen=True)
class IngestedFile:
    """A row of `ingested_files`."""

    source_file: str
    settings_digest: str
    source_path: str
    run_id: str
    status: str = ""
    lines: int = 0
    malformed: int = 0
    erased: int = 0
    columns: Sequence[str] = ()
    types: Sequence[str] = ()
    size: int = 0
    modified_at: datetime = EPOCH
    content_hash: str | None = None
    reason: str | None = None

    @property
    def types_by_column(self) -> dict[str, str]:
        """The type of each column by its normalised name; the order of columns does not matter."""
        return {normalised(name): kind for name, kind in zip(self.columns, self.types, strict=True)}


def ingested_files_select(files: Sequence[IngestedFile]) -> tuple[str, dict[str, Any]]:
    """Return the SELECT of `ingested_files`, and the list of values of each column.

    Inserting row by row would take seconds.
    """
    columns = contracts()["ingested_files"].columns
    cells = [
        f"unnest(cast($file_{position} as {column.type}[])) as {quoted(column.name)}"
        for position, column in enumerate(columns)
    ]
    values = {
        f"file_{position}": [getattr(file, column.name) for file in files] for position, column in enumerate(columns)
    }
    return f"select {', '.join(cells)}", values
