"""Compare the columns of the files of a run with those of the files before them.

Contains the comparison only. What a run does about a difference is in `defs.ingestion`.
"""

from segmentation_pipeline.config.validation import normalised
from segmentation_pipeline.ingestion.file_ledger import QUARANTINED, IngestedFile
from segmentation_pipeline.ingestion.incremental import SourceLoad

_CHANGES = {"added": "added", "removed": "removed", "changed_type": "changed type"}


def changed_columns(load: SourceLoad) -> list[dict[str, str]]:
    """Return the files of a run whose columns no file before them had, each with the difference.

    Files are compared in the order of their names, each with the file before it. Columns that were reported once are
    known from then on. An empty file is not compared, and a quarantined one is no standard for others.
    """
    loaded = [file for file in load.previous if file.columns and file.status != QUARANTINED]
    known, last = [file.types_by_column for file in loaded], loaded[-1] if loaded else None
    read, changes = set(load.read), []
    for file in load.files:
        if not file.columns or (file.source_file not in read and file.status != QUARANTINED):
            continue
        if last and file.types_by_column not in known:
            changes.append(_difference(last, file))
        known.append(file.types_by_column)
        last = last if file.status == QUARANTINED else file
    return changes


def message(changes: list[dict[str, str]]) -> str:
    """Return a message with the first file of each change, and the columns that changed."""
    files = [
        f"{change['source_file']}: "
        + "; ".join(f"{change[kind]} {verb}" for kind, verb in _CHANGES.items() if change[kind])
        for change in changes
    ]
    return f"The columns of the source have changed, from these files on: {' | '.join(files)}."


def _difference(before: IngestedFile, after: IngestedFile) -> dict[str, str]:
    old, new = before.types_by_column, after.types_by_column
    names = {normalised(name): name for name in (*after.columns, *before.columns)}
    changed = [f"{names[name]} ({old[name]} to {new[name]})" for name in old if name in new and old[name] != new[name]]
    return {
        "source_file": after.source_file,
        "added": ", ".join(names[name] for name in new if name not in old),
        "removed": ", ".join(names[name] for name in old if name not in new),
        "changed_type": ", ".join(changed),
        "compared_with": before.source_file,
    }
