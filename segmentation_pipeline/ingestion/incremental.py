"""What of the source is new: its files held against the ledger of those that are loaded.

Belongs here: which files a run reads, whose lines it keeps, and what `ingested_files` then says of each. Does not:
finding files (`sources`), reading their lines (`lines`).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.errors import SourceError, first_line, is_of_the_machine
from segmentation_pipeline.ingestion.decompression import content_hash
from segmentation_pipeline.ingestion.discovery import refuse_what_is_no_file_of
from segmentation_pipeline.ingestion.file_ledger import EPOCH, GONE, LOADED, SET_ASIDE, Entry, ledger
from segmentation_pipeline.ingestion.staging import Lines, read_lines
from segmentation_pipeline.privacy.masking import ERASED_CUSTOMERS, LinePrivacy
from segmentation_pipeline.tables.catalog import select_of
from segmentation_pipeline.warehouse.database import TableWrite, Warehouse
from segmentation_pipeline.warehouse.queries import QueryInputs

VERSION = "1"
# What the mouth fills; of who is forgotten it hands on what stands: that the mouth asks it, the lineage shows.
TABLES = ("raw_transactions", "ingested_files", ERASED_CUSTOMERS)
_SHOWN = 5
_HALF = "{}: it changed while it was read; the next run reads it again"
# Before any file system, and after all: what a clock that was set wrong may have written cannot be told by Python.
_EARLIEST, _LATEST = -(10**16), 10**17


@dataclass(frozen=True)
class LoadRequest:
    """What a run asks of the intake.

    Attributes:
        run_id: The run.
        settings_digest: Of all that reading hangs on; a file that was read with another is read again.
        source_path: Where the source is.
        reload: Read every file, and forget those that are gone.
        accept_change: Keep the lines of a source whose place and files are all others.
        roots: What a file must lie in when links are followed; empty: anywhere.
    """

    run_id: str
    settings_digest: str
    source_path: str
    reload: bool = False
    accept_change: bool = False
    roots: tuple[Path, ...] = ()


@dataclass(frozen=True)
class SourceLoad:
    """What a run takes in: the tables to fill, and what is to be told of it."""

    writes: list[TableWrite]
    inputs: QueryInputs
    before: list[Entry]
    entries: list[Entry]
    read: list[str]

    @property
    def metrics(self) -> dict[str, Any]:
        """Numbers of files, what was read, and which files changed."""
        known = {entry.source_file for entry in self.before if entry.status != SET_ASIDE}
        counts = {f"files_{status}": sum(e.status == status for e in self.entries) for status in (GONE, SET_ASIDE)}
        present = [entry for entry in self.entries if entry.status != GONE]
        read = [entry for entry in self.entries if entry.source_file in self.read]
        return {
            "files": len(present),
            "files_read": len(read),
            "files_kept": len(present) - len(read) - counts["files_set_aside"],
            **counts,
            "bytes_read": sum(entry.size for entry in read),
            "read_again": shown([name for name in self.read if name in known]),
        }


def shown(names: Sequence[str]) -> str:
    """Names for a sentence; of many the first."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more or "none"


@contextmanager
def load_source(
    warehouse: Warehouse, settings: Retailer, files: dict[str, Path], spill: Path, asked: LoadRequest
) -> Iterator[SourceLoad]:
    """Read what is new or has changed; the rest stands as it was read.

    Raises:
        SourceError: More files cannot be read than the settings allow, or there is not one line.
    """
    files = {_told(name): path for name, path in files.items()}
    stands, privacy = warehouse.has("raw_transactions"), LinePrivacy.of(warehouse, settings)
    before = [Entry(**row) for row in warehouse.rows("select * from ingested_files order by source_file")]
    known = {entry.source_file: entry for entry in before if stands}
    looked, refused = _looked_at(settings, files, known, asked)
    waiting = {name: files[name] for name in files if looked[name].status != LOADED and name not in refused}
    with read_lines(warehouse.connection, settings, waiting, spill) as lines:
        refused |= lines.refused
        refused |= {name: _HALF.format(name) for name in waiting if _is_written(files[name], looked[name])}
        _refuse_too_many(settings, files, refused)
        erased = privacy.count_erased(warehouse, select_of("raw_transactions"), lines)
        loaded = [_loaded(entry, lines, erased) for name, entry in looked.items() if name not in refused]
        aside = [_set_aside(looked[name], known.get(name), lines, reason) for name, reason in refused.items()]
        gone = [] if asked.reload else _gone(known, files, loaded, asked)
        entries = sorted([*loaded, *aside, *gone], key=lambda entry: entry.source_file)
        if not any(entry.lines or entry.erased for entry in entries):
            raise SourceError(_nothing(len(files), any(entry.columns for entry in entries)))
        read = [name for name in waiting if name not in refused]
        kept = [entry.source_file for entry in entries if entry.lines and entry.source_file not in set(read)]
        rows, cells = ledger(entries)
        selects = (_raw(stands, privacy), rows, f"select * from {ERASED_CUSTOMERS}")
        writes = [TableWrite(table, select) for table, select in zip(TABLES, selects, strict=True)]
        inputs = QueryInputs(lines.relations, lines.values | privacy.values | cells | {"read": read, "kept": kept})
        yield SourceLoad(writes, inputs, list(known.values()), entries, read)


def _looked_at(
    settings: Retailer, files: dict[str, Path], known: dict[str, Entry], asked: LoadRequest
) -> tuple[dict[str, Entry], dict[str, str]]:
    """Each file's entry, `loaded` where its lines stand; and why a file cannot be looked at.

    Size and time tell that a file is unchanged; only where they do not, its content is looked at.
    """
    looked, refused = dict[str, Entry](), dict[str, str]()
    for name, path in files.items():
        entry = Entry(name, settings_digest=asked.settings_digest, source_path=asked.source_path, run_id=asked.run_id)
        looked[name] = entry
        old = None if asked.reload else known.get(name)
        if old and (old.status == SET_ASIDE or old.settings_digest != asked.settings_digest):
            old = None
        try:
            size, modified_at = _stat(path)
            refuse_what_is_no_file_of(asked.roots, path)
            entry = replace(entry, size=size, modified_at=modified_at)
            if old and (old.size, old.modified_at) == (size, modified_at):
                looked[name] = _returned(old, asked)
                continue
            entry = replace(entry, content_hash=content_hash(path, settings.source.max_unpacked_gb))
        except OSError as error:
            if is_of_the_machine(error):
                raise
            refused[name] = f"{name}: cannot be read: {first_line(error)}"
        if old and old.content_hash == entry.content_hash:
            entry = replace(_returned(old, asked), size=entry.size, modified_at=entry.modified_at)
        looked[name] = entry
    return looked, refused


def _returned(entry: Entry, asked: LoadRequest) -> Entry:
    """The entry of a file whose lines stand; one that was gone is back."""
    return replace(entry, status=LOADED, run_id=asked.run_id) if entry.status == GONE else entry


def _told(name: str) -> str:
    """A name as text; one that is not UTF-8 with its bytes as escapes."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def _stat(path: Path) -> tuple[int, datetime]:
    if _told(str(path)) != str(path):
        raise OSError("its name is not UTF-8; rename it")
    found = path.stat()
    microseconds = min(max(found.st_mtime_ns // 1000, _EARLIEST), _LATEST)
    return found.st_size, EPOCH + timedelta(microseconds=microseconds)


def _is_written(path: Path, entry: Entry) -> bool:
    """Whether somebody wrote to a file since it was looked at."""
    try:
        return _stat(path) != (entry.size, entry.modified_at)
    except OSError:
        return True


def _loaded(entry: Entry, lines: Lines, erased: dict[str, int]) -> Entry:
    if entry.status == LOADED:
        return entry
    count, broken = lines.records.get(entry.source_file, (0, 0))
    left_out = erased.get(entry.source_file, 0)
    return _with_columns(replace(entry, status=LOADED, lines=count - left_out, broken=broken, erased=left_out), lines)


def _set_aside(entry: Entry, before: Entry | None, lines: Lines, reason: str) -> Entry:
    """The entry of a file that cannot be read; of one that was loaded before, the lines are kept."""
    run_id = before.run_id if before and before.reason == reason else entry.run_id
    stands = before if before and before.lines else entry
    return _with_columns(replace(stands, status=SET_ASIDE, reason=reason, run_id=run_id), lines)


def _with_columns(entry: Entry, lines: Lines) -> Entry:
    columns = lines.columns.get(entry.source_file, {})
    return replace(entry, columns=list(columns), types=list(columns.values()))


def _gone(known: dict[str, Entry], files: dict[str, Path], loaded: list[Entry], asked: LoadRequest) -> list[Entry]:
    """The entries of files that are no longer there; not of those whose content is there under another name.

    Raises:
        SourceError: The source is in another place, and none of its files is one that was loaded.
    """
    there = {entry.content_hash for entry in loaded}
    with_lines = [entry for entry in known.values() if entry.lines]
    gone = [entry for entry in with_lines if entry.source_file not in files and entry.content_hash not in there]
    # What was gone before tells nothing of where the source is: a restored database knows of nothing else.
    missed, there_before = ([entry for entry in some if entry.status != GONE] for some in (gone, with_lines))
    elsewhere = missed and all(entry.source_path != asked.source_path for entry in missed)
    if elsewhere and len(missed) == len(there_before) and not asked.accept_change:
        raise SourceError(
            f"source.path: it was {missed[0].source_path}, it is {asked.source_path}, and none of the {len(missed)}"
            f" files that are loaded ({shown([entry.source_file for entry in missed])}) is there. If this is another"
            " source, forget their lines with reload (segments run --reload); to keep them, accept_change"
            " (--accept-change)."
        )
    return [
        entry if entry.status == GONE else replace(entry, status=GONE, reason=None, run_id=asked.run_id)
        for entry in gone
    ]


def _refuse_too_many(settings: Retailer, files: dict[str, Path], refused: dict[str, str]) -> None:
    bound = settings.source.max_set_aside
    if not refused or (len(refused) <= bound and len(refused) < len(files)):
        return
    reasons = list(refused.values())
    if len(reasons) == 1:
        raise SourceError(reasons[0])
    more = f" And {len(reasons) - _SHOWN} more." if len(reasons) > _SHOWN else ""
    raise SourceError(
        f"{len(reasons)} of {len(files)} files cannot be read, and source.max_set_aside allows {bound}."
        f" {' '.join(reasons[:_SHOWN])}{more}"
    )


def _nothing(files: int, with_header: bool) -> str:
    counted = "1 file" if files == 1 else f"{files} files"
    if with_header:
        return f"source.path: no line in it ({counted} with a header and nothing below it)"
    return f"source.path: nothing in it ({counted}, all empty)"


def _raw(stands: bool, privacy: LinePrivacy) -> str:
    """The SELECT of `raw_transactions`: what was read before, and what is read now."""
    kept = "select * from raw_transactions where source_file in (select unnest(cast($kept as varchar[])))"
    text = privacy.stored(select_of("raw_transactions"))
    read = f"select * from ({text}) where source_file in (select unnest(cast($read as varchar[])))"
    return f"{kept} union all {read}" if stands else read
