"""Decide which versions of an export count: a newer one supersedes those before it (`source.supersedes`).

Contains the comparison of file names and what becomes of each version. The rule that rejects the lines of superseded
files is in `cleaning`.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from segmentation_pipeline.config.source_settings import VERSION_GROUP
from segmentation_pipeline.ingestion.file_ledger import LOADED, MISSING, SUPERSEDED, IngestedFile

# Equal for two versions of the same export.
_Export = tuple[str, ...]
_Version = list[tuple[int, str]]


def resolve_versions(records: Sequence[IngestedFile], pattern: str) -> list[IngestedFile]:
    """Return the records with one version of each export that counts, the newest that can be read.

    Older versions in the source are superseded: their lines are kept, and count again without the newer one. A version
    that is missing or cannot be read keeps lines only where no other version can be read, because it must not count
    beside that one. Files that the pattern does not match are no versions of anything.
    """
    exports: dict[_Export, list[tuple[_Version, IngestedFile]]] = {}
    resolved = []
    for record in records:
        if found := re.search(pattern, record.source_file):
            exports.setdefault(_export(found), []).append((_version(found[VERSION_GROUP]), record))
        else:
            resolved.append(record)
    for versions in exports.values():
        resolved += _resolve_export(versions)
    return resolved


def _resolve_export(versions: Sequence[tuple[_Version, IngestedFile]]) -> Iterator[IngestedFile]:
    with_lines = [(version, record) for version, record in versions if record.lines or record.erased]
    loaded = [(version, record) for version, record in with_lines if record.status == LOADED]
    # Two files of the same version both count.
    newest, name = max(
        ((version, record.source_file) for version, record in loaded or with_lines), default=([], ""), key=lambda v: v
    )
    for version, record in versions:
        counts = version == newest and (record.status == LOADED or not loaded)
        if counts or (version, record) not in with_lines:
            yield record
        elif record.status == LOADED:
            yield replace(record, status=SUPERSEDED, reason=f"superseded by {name}")
        elif record.status != MISSING:
            yield replace(record, lines=0, malformed=0, erased=0)


def _export(found: re.Match[str]) -> _Export:
    """Return what two versions of an export have in common: the text before the match, and all groups but one."""
    groups = {name: text or "" for name, text in found.groupdict().items() if name != VERSION_GROUP}
    return (found.string[: found.start()], *groups.values())


def _version(text: str | None) -> _Version:
    """Return a version that compares number by number, so that 10 is after 9; without one, it is before all others."""
    parts = re.findall(r"\d+|\D+", text or "")
    return [(int(part), "") if part.isdecimal() else (-1, part.casefold()) for part in parts]
