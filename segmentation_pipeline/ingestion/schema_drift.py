"""Drift of the source: which file is the first with other columns than those before it, and which.

Belongs here: comparing the columns of files. Does not: what a run then does (`defs.ingestion`).
"""

from segmentation_pipeline.ingestion.column_mapping import plain
from segmentation_pipeline.ingestion.file_ledger import SET_ASIDE, Entry
from segmentation_pipeline.ingestion.incremental import SourceLoad

_WHAT = {"came": "came", "went": "went", "changed_type": "changed its type"}


def changed_columns(intake: SourceLoad) -> list[dict[str, str]]:
    """The files of a run whose columns no file before them had, each with what came, went or changed its type.

    In the order of names, each against the file before it; columns that were told of once are known from then on. An
    empty file tells nothing, and one that was set aside is no measure for others.
    """
    stood = [entry for entry in intake.before if entry.columns and entry.status != SET_ASIDE]
    known, last = [entry.shape for entry in stood], stood[-1] if stood else None
    faults = []
    for entry in intake.entries:
        if not entry.columns or (entry.source_file not in intake.read and entry.status != SET_ASIDE):
            continue
        if last and entry.shape not in known:
            faults.append(_difference(last, entry))
        known.append(entry.shape)
        last = last if entry.status == SET_ASIDE else entry
    return faults


def _difference(before: Entry, after: Entry) -> dict[str, str]:
    old, new = before.shape, after.shape
    names = {plain(name): name for name in (*after.columns, *before.columns)}
    changed = [f"{names[name]} ({old[name]} to {new[name]})" for name in old if name in new and old[name] != new[name]]
    return {
        "source_file": after.source_file,
        "came": ", ".join(names[name] for name in new if name not in old),
        "went": ", ".join(names[name] for name in old if name not in new),
        "changed_type": ", ".join(changed),
        "unlike": before.source_file,
    }


def message(faults: list[dict[str, str]]) -> str:
    """What the differences say: from which file on, and what."""
    told = [
        f"{fault['source_file']}: " + "; ".join(f"{fault[what]} {word}" for what, word in _WHAT.items() if fault[what])
        for fault in faults
    ]
    return f"The columns of the source are others than before, from these files on: {' | '.join(told)}."
