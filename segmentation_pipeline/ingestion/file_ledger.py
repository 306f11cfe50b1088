"""The ledger of the files: what a row of `ingested_files` tells, and how its rows get there.

Belongs here: one file's entry. Does not: what a run makes of it (`intake`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from segmentation_pipeline.ingestion.column_mapping import plain
from segmentation_pipeline.tables.catalog import contracts
from segmentation_pipeline.tables.contract import quoted

LEDGER = contracts()["ingested_files"]
LOADED, GONE, SET_ASIDE = "loaded", "gone", "set_aside"
# UTC, as every moment of the ledger.
EPOCH = datetime.fromisoformat("1970-01-01")


@dataclass(frozen=True)
class Entry:
    """A row of `ingested_files`."""

    source_file: str
    settings_digest: str
    source_path: str
    run_id: str
    status: str = ""
    lines: int = 0
    broken: int = 0
    erased: int = 0
    columns: Sequence[str] = ()
    types: Sequence[str] = ()
    size: int = 0
    modified_at: datetime = EPOCH
    content_hash: str | None = None
    reason: str | None = None

    @property
    def shape(self) -> dict[str, str]:
        """The columns, by their names without case and blanks, with name and type: their order does not matter."""
        return {plain(name): kind for name, kind in zip(self.columns, self.types, strict=True)}


def ledger(entries: Sequence[Entry]) -> tuple[str, dict[str, Any]]:
    """The SELECT of `ingested_files`, and the values of each column: row by row they would take seconds."""
    cells = [
        f"unnest(cast($ledger_{number} as {column.type}[])) as {quoted(column.name)}"
        for number, column in enumerate(LEDGER.columns)
    ]
    values = {
        f"ledger_{number}": [getattr(entry, column.name) for entry in entries]
        for number, column in enumerate(LEDGER.columns)
    }
    return f"select {', '.join(cells)}", values
