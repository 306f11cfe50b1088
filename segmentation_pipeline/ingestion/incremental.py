"""Load the files of a source that are new or have changed, and keep the lines of all others.

Contains which files a run reads, and what `ingested_files` records of each. Finding files is in `discovery`, reading
their lines in `staging`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from segmentation_pipeline import progress
from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.errors import SourceError, first_line, is_system_error
from segmentation_pipeline.ingestion.decompression import content_hash
from segmentation_pipeline.ingestion.discovery import check_regular_file
from segmentation_pipeline.ingestion.file_ledger import (
    EPOCH,
    LOADED,
    MISSING,
    QUARANTINED,
    SUPERSEDED,
    IngestedFile,
    ingested_files_select,
)
from segmentation_pipeline.ingestion.staging import FileLoad, read_lines, reader_digest
from segmentation_pipeline.ingestion.superseding import resolve_versions
from segmentation_pipeline.privacy.customer_ids import CustomerIds, SimilarIds
from segmentation_pipeline.privacy.line_privacy import LinePrivacy
from segmentation_pipeline.warehouse.database import Warehouse
from segmentation_pipeline.warehouse.queries import QueryInputs
from segmentation_pipeline.warehouse.table_write import TableWrite

VERSION = "1"
# `erased_customers` is written unchanged, so that the lineage shows that ingestion reads it.
TABLES = ("raw_transactions", "ingested_files", "erased_customers")
_SHOWN_NAMES = 5
_COUNTED = (MISSING, QUARANTINED, SUPERSEDED)
# A clock that was set wrong can write times that datetime cannot represent.
_MIN_MICROSECONDS, _MAX_MICROSECONDS = -(10**16), 10**17


@dataclass(frozen=True)
class LoadRequest:
    """How a run loads the source.

    Attributes:
        run_id: The run.
        settings_digest: Of the settings that reading depends on; files that were read with others are read again.
        source_path: Where the source is.
        reload: Read every file, and delete the lines of missing files.
        accept_change: Keep the lines of a source although its place and all its files have changed.
        base: The folder that relative paths of the retailer file start from.
        roots: Folders that the files must be in after links are followed; empty: any.
        max_lines: About how many lines at the beginning of each file are read; None: all.
        fetch: Brings the content of a file, which may still be in an object store.
    """

    run_id: str
    settings_digest: str
    source_path: str
    reload: bool = False
    accept_change: bool = False
    base: Path = Path()
    roots: tuple[Path, ...] = ()
    max_lines: Mapping[str, int] | None = None
    fetch: Callable[[Path], None] = lambda path: None


@dataclass(frozen=True)
class SourceLoad:
    """The result of a load: the tables to write, and the files it found.

    Attributes:
        writes: The tables to write.
        inputs: What their SELECTs read and bind.
        previous: The files of the previous run.
        files: The files of this run.
        read: The names of the files that were read.
        filled: How many empty values `source.fill_down` filled, by file and column.
        superseded: The files that a newer one supersedes since this run.
        counted_again: The files that none supersedes any more.
        similar_ids: How many ids of these files differ in form only; None where later tables show the ids themselves.
        rows_fetched: How many rows were fetched from a database; None where the source is files.
        fetched_since: The time of the cursor from which rows were fetched; None: all rows.
    """

    writes: list[TableWrite]
    inputs: QueryInputs
    previous: list[IngestedFile]
    files: list[IngestedFile]
    read: list[str]
    filled: Mapping[str, Mapping[str, int]]
    superseded: list[IngestedFile]
    counted_again: list[IngestedFile]
    similar_ids: SimilarIds | None = None
    rows_fetched: int | None = None
    fetched_since: datetime | None = None

    @property
    def metrics(self) -> dict[str, Any]:
        """Numbers of files and bytes, and the changed files that were read again."""
        counts = {status: sum(file.status == status for file in self.files) for status in _COUNTED}
        present, names = len(self.files) - counts[MISSING], set(self.read)
        read = [file for file in self.files if file.source_file in names]
        loaded_before = {file.source_file for file in self.previous if file.status != QUARANTINED}
        return {
            "files": present,
            "files_read": len(read),
            "files_kept": present - len(read) - counts[QUARANTINED],
            "files_missing": counts[MISSING],
            "files_quarantined": counts[QUARANTINED],
            "files_superseded": counts[SUPERSEDED],
            "bytes_read": sum(file.size for file in read),
            "values_filled": sum(sum(counts.values()) for counts in self.filled.values()),
            "read_again": first_names([name for name in self.read if name in loaded_before]),
            **({} if self.rows_fetched is None else {"rows_fetched": self.rows_fetched}),
            **({} if self.fetched_since is None else {"fetched_since": self.fetched_since.isoformat(" ")}),
        }


@dataclass(frozen=True)
class _SourceFile:
    """A file of the source in this run.

    Attributes:
        path: The file.
        record: Its row of `ingested_files`; its status is `loaded` where the stored lines are current.
        previous: Its row of the previous run.
        error: Why it cannot be read.
    """

    path: Path
    record: IngestedFile
    previous: IngestedFile | None
    error: str | None = None

    @property
    def is_pending(self) -> bool:
        """Whether the file is to be read."""
        return self.record.status != LOADED and self.error is None


def first_names(names: Sequence[str]) -> str:
    """Return the first names for a message, and how many more there are."""
    more = f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
    return ", ".join(names[:_SHOWN_NAMES]) + more or "none"


@contextmanager
def load_source(
    warehouse: Warehouse, retailer: Retailer, files: Mapping[str, Path], spill: Path, request: LoadRequest
) -> Iterator[SourceLoad]:
    """Read the files that are new or have changed, and yield the tables to write.

    Raises:
        SourceError: More files cannot be read than the settings allow, the source has no lines, or it is another one.
    """
    ids = CustomerIds.of(retailer, request.base)
    request = replace(request, settings_digest=request.settings_digest + ids.merged_digest)
    privacy = LinePrivacy.of(warehouse, retailer, ids)
    stored = stored_records(warehouse)
    previous = {name: _without_superseding(record) for name, record in stored.items()}
    names = {_printable(name): path for name, path in files.items()}
    found = []
    for number, (name, path) in enumerate(names.items(), start=1):
        progress.report(f"comparing file {number:,} of {len(names):,}")
        found.append(_inspect(name, path, previous.get(name), retailer, request))
    pending = {file.record.source_file: file.path for file in found if file.is_pending}
    if request.reload:
        warehouse.forget_versions()
    reader = partial(read_lines, retailer=retailer, max_lines=request.max_lines)
    with warehouse.lines.staged(reader, pending, spill) as lines:
        found = [_with_read_error(file, lines.files.get(file.record.source_file)) for file in found]
        _check_errors(found, retailer.source.max_quarantined)
        erased = privacy.count_erased(warehouse, lines)
        records = [_record(file, lines.files, erased) for file in found]
        if not request.reload:
            records += missing_records(previous, records, request)
        if pattern := retailer.source.supersedes:
            records = resolve_versions(records, pattern)
        records.sort(key=lambda record: record.source_file)
        if not any(record.lines or record.erased for record in records):
            raise SourceError(_no_lines_message(len(found), any(record.columns for record in records)))
        read = [file.record.source_file for file in found if file.is_pending]
        ledger_select, ledger_values = ingested_files_select(records)
        lines_select = privacy.stored("select * from staged_lines")
        writes = [
            raw_write(warehouse, lines_select, records, read, request, retailer.columns.extra),
            *ledger_writes(ledger_select),
        ]
        values = privacy.values | ledger_values | {"read": read}
        before = {name for name, record in stored.items() if record.status == SUPERSEDED}
        superseded = [record for record in records if record.status == SUPERSEDED and record.source_file not in before]
        again = [record for record in records if record.status != SUPERSEDED and record.source_file in before]
        filled = {name: lines.files[name].filled for name in read if lines.files[name].filled}
        inputs = QueryInputs(lines.relations, values)
        similar_ids = privacy.similar_ids(warehouse, inputs) if retailer.privacy.pseudonymise and read else None
        yield SourceLoad(writes, inputs, list(previous.values()), records, read, filled, superseded, again, similar_ids)


def stored_records(warehouse: Warehouse) -> dict[str, IngestedFile]:
    """Return the record of each file of the previous run, by its name; none without their lines."""
    if not warehouse.has("raw_transactions"):
        return {}
    rows = warehouse.rows("select * from ingested_files order by source_file")
    return {row["source_file"]: IngestedFile(**row) for row in rows}


def ledger_writes(ledger_select: str) -> list[TableWrite]:
    """Return the writes of the files, and of the erased customers, who do not change."""
    return [
        TableWrite("ingested_files", ledger_select),
        TableWrite("erased_customers", "select * from erased_customers"),
    ]


def _without_superseding(record: IngestedFile) -> IngestedFile:
    """Return the record of a file as if no other superseded it: every run decides that anew."""
    return replace(record, status=LOADED, reason=None) if record.status == SUPERSEDED else record


def _printable(name: str) -> str:
    """Return a file name as text, with bytes that are not UTF-8 as escapes."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def _inspect(
    name: str, path: Path, previous: IngestedFile | None, retailer: Retailer, request: LoadRequest
) -> _SourceFile:
    """Find out whether a file is unchanged: by size and time, and only where they differ by its content."""
    digest = f"{request.settings_digest}-{reader_digest(path, retailer)}"
    record = IngestedFile(name, settings_digest=digest, source_path=request.source_path, run_id=request.run_id)
    error = None
    is_known = previous is not None and previous.status != QUARANTINED and previous.settings_digest == digest
    current = previous if is_known and not request.reload else None
    try:
        size, modified_at = _size_and_time(path)
        check_regular_file(request.roots, path)
        record = replace(record, size=size, modified_at=modified_at)
        if current and (current.size, current.modified_at) == (size, modified_at):
            return _SourceFile(path, _present(current, request), previous)
        request.fetch(path)
        size, modified_at = _size_and_time(path)
        record = replace(record, size=size, modified_at=modified_at)
        if request.max_lines is not None:
            # The hash would read all of a file of which only the beginning is wanted.
            return _SourceFile(path, record, previous)
        record = replace(record, content_hash=content_hash(path, retailer.source.max_unpacked_gb))
    except OSError as system_error:
        if is_system_error(system_error):
            raise
        error = f"{name}: cannot be read: {first_line(system_error)}"
    if current and current.content_hash == record.content_hash:
        record = replace(_present(current, request), size=record.size, modified_at=record.modified_at)
    return _SourceFile(path, record, previous, error)


def _present(record: IngestedFile, request: LoadRequest) -> IngestedFile:
    """Return the record of a file with current lines; a missing file is back."""
    return replace(record, status=LOADED, run_id=request.run_id) if record.status == MISSING else record


def _size_and_time(path: Path) -> tuple[int, datetime]:
    if _printable(str(path)) != str(path):
        raise OSError("its name is not UTF-8; rename it")
    status = path.stat()
    microseconds = min(max(status.st_mtime_ns // 1000, _MIN_MICROSECONDS), _MAX_MICROSECONDS)
    return status.st_size, EPOCH + timedelta(microseconds=microseconds)


def _with_read_error(file: _SourceFile, load: FileLoad | None) -> _SourceFile:
    """Return a file with the error of reading it, if there is one."""
    if load is None:
        return file
    if _has_changed(file):
        return replace(
            file, error=f"{file.record.source_file}: it changed while it was read; the next run reads it again"
        )
    return replace(file, error=load.error)


def _has_changed(file: _SourceFile) -> bool:
    """Return whether a file was written to after it was inspected."""
    try:
        return _size_and_time(file.path) != (file.record.size, file.record.modified_at)
    except OSError:
        return True


def _check_errors(files: Sequence[_SourceFile], max_quarantined: int) -> None:
    """Check that few enough files cannot be read to quarantine them and load the others."""
    errors = [file.error for file in files if file.error]
    if not errors or (len(errors) <= max_quarantined and len(errors) < len(files)):
        return
    if len(errors) == 1:
        raise SourceError(errors[0])
    more = f" And {len(errors) - _SHOWN_NAMES} more." if len(errors) > _SHOWN_NAMES else ""
    raise SourceError(
        f"{len(errors)} of {len(files)} files cannot be read, and source.max_quarantined allows {max_quarantined}."
        f" {' '.join(errors[:_SHOWN_NAMES])}{more}"
    )


def _record(file: _SourceFile, loads: Mapping[str, FileLoad], erased: Mapping[str, int]) -> IngestedFile:
    """Return the row of a file in `ingested_files`."""
    name = file.record.source_file
    load = loads.get(name) or FileLoad(name, file.path)
    columns, types = list(load.columns), list(load.columns.values())
    if file.error is not None:
        # Lines that were loaded before are kept.
        record = file.previous if file.previous and file.previous.lines else file.record
        is_same = file.previous is not None and file.previous.reason == file.error
        run_id = file.previous.run_id if file.previous and is_same else file.record.run_id
        return replace(record, status=QUARANTINED, reason=file.error, run_id=run_id, columns=columns, types=types)
    if file.record.status == LOADED:
        return file.record
    left_out = erased.get(name, 0)
    return replace(
        file.record,
        status=LOADED,
        lines=load.records - left_out,
        malformed=load.malformed,
        erased=left_out,
        columns=columns,
        types=types,
    )


def missing_records(
    previous: Mapping[str, IngestedFile], present: Sequence[IngestedFile], request: LoadRequest
) -> list[IngestedFile]:
    """Return the records of missing files, except those whose content is there under another name.

    Raises:
        SourceError: The source is in another place, and none of the loaded files is there.
    """
    names = {record.source_file for record in present}
    hashes = {record.content_hash for record in present if record.status == LOADED}
    with_lines = [record for record in previous.values() if record.lines]
    missing = [record for record in with_lines if record.source_file not in names and record.content_hash not in hashes]
    # Files that were missing before do not show where the source is; a restored database has no others.
    newly_missing = [record for record in missing if record.status != MISSING]
    present_before = [record for record in with_lines if record.status != MISSING]
    is_elsewhere = newly_missing and all(record.source_path != request.source_path for record in newly_missing)
    if is_elsewhere and len(newly_missing) == len(present_before) and not request.accept_change:
        raise SourceError(
            f"source.path: it was {newly_missing[0].source_path}, it is {request.source_path}, and none of the"
            f" {len(newly_missing)} loaded files ({first_names([record.source_file for record in newly_missing])}) is"
            " there. If this is another source, delete their lines with reload (segments run --reload); to keep them,"
            " run with accept_change (--accept-change)."
        )
    return [
        record if record.status == MISSING else replace(record, status=MISSING, reason=None, run_id=request.run_id)
        for record in missing
    ]


def _no_lines_message(files: int, with_header: bool) -> str:
    count = "1 file" if files == 1 else f"{files} files"
    if with_header:
        return f"source.path: no lines to read ({count} with a header and nothing below it). Check the export."
    return f"source.path: no lines to read ({count}, all empty). Check the export."


def raw_write(
    warehouse: Warehouse,
    lines: str,
    records: Sequence[IngestedFile],
    read: Sequence[str],
    request: LoadRequest,
    extra_columns: Mapping[str, str | int],
) -> TableWrite:
    """Return the write of `raw_transactions`: only the lines of files that were read, have changed or are gone.

    Args:
        warehouse: The working database.
        lines: The SELECT of the lines to store, of the files that were read among others.
        records: All files.
        read: The names of the files whose lines are replaced.
        request: How the run loads the source.
        extra_columns: The source's name of each column beyond the contract, by our name.
    """
    with_lines = [record for record in records if record.lines]
    kept = {record.source_file for record in with_lines} - {*read}
    files = None
    if warehouse.has("raw_transactions"):
        # A reload also deletes lines of files that `ingested_files` does not list.
        listed = "select source_file from ingested_files where lines > 0"
        stored = warehouse.rows("select distinct source_file from raw_transactions" if request.reload else listed)
        files = frozenset({*read} | {row["source_file"] for row in stored} - kept)
    versions = {record.source_file: _version(record) for record in with_lines}
    select = f"select * from ({lines}) where source_file in (select unnest(cast($read as varchar[])))"  # noqa: S608 - own SQL
    return TableWrite("raw_transactions", select, files=files, versions=versions, extra_columns=extra_columns)


def _version(record: IngestedFile) -> str:
    """Return what other tables derive from the lines of a file: none count while it is superseded."""
    superseded = f"-{SUPERSEDED}" if record.status == SUPERSEDED else ""
    return f"{record.content_hash}-{record.settings_digest}{superseded}"
