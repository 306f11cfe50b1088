"""Turn a source file of any format into parts that DuckDB reads as columns of text.

Contains the formats, and which records are malformed. Finding files is in `discovery`, compression and encodings are
in `decompression`, the lines above a header in `csv_layout`, workbooks in `excel`; the parts are loaded in `staging`.
"""

import csv
import glob
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TextIO
from uuid import uuid4

import duckdb

from segmentation_pipeline.config.source_settings import WHITESPACE, Source
from segmentation_pipeline.config.validation import MAX_COLUMNS
from segmentation_pipeline.errors import SourceError, first_line, is_system_error
from segmentation_pipeline.ingestion.csv_layout import Layout, csv_reader, layout_of, numbered_columns
from segmentation_pipeline.ingestion.decompression import DECOMPRESSION_ERRORS, utf8_copy
from segmentation_pipeline.ingestion.discovery import format_of
from segmentation_pipeline.ingestion.excel import WORKBOOKS, sheets_of
from segmentation_pipeline.tables.contract import literal

# DuckDB reads no line above 2 MB, and no transaction is as long as this.
_MAX_RECORD_BYTES = 100_000
# A quote that is not closed within so many lines was not meant to span them.
_MAX_RECORD_LINES, _MIN_SEARCHED_LINES = 1_000, 10
_MAX_LINE_CHARACTERS = 1 << 20

Record = tuple[Sequence[str], str]
"""The fields of a record, or the text of a malformed one."""


@dataclass(frozen=True)
class Part:
    """A file, or a sheet of one, in a form that DuckDB reads; `path` may be a copy.

    Attributes:
        path: What DuckDB reads.
        kind: `csv` and `parquet` are read as they are. `numbered` is a CSV without a header whose columns are a
            record's number, its text if it is malformed, and its fields; `jsonl` is the same with the object as its
            only field.
        source_file: The file's name.
        source_sheet: The sheet's name; empty for other files.
        columns: The names of its columns, or their positions where there is no header.
        types: Their types, where the format has any.
        lines: Of a CSV, its lines below the header.
        layout: How a CSV is laid out.
    """

    path: Path
    kind: str
    source_file: str
    source_sheet: str
    columns: tuple[str, ...]
    types: tuple[str, ...] = ()
    lines: int = field(default=0, kw_only=True)
    layout: Layout = field(default=Layout(), kw_only=True)

    @property
    def location(self) -> str:
        """The file and sheet, for a message."""
        return f"{self.source_file}{f' [{self.source_sheet}]' if self.source_sheet else ''}"


def parts_of(
    connection: duckdb.DuckDBPyConnection,
    source: Source,
    source_file: str,
    path: Path,
    folder: Path,
    max_lines: int | None = None,
) -> list[Part]:
    """Return the parts of a file: none if it is empty, one for each sheet of a workbook.

    Args:
        connection: Reads Parquet schemas and JSON keys.
        source: How the file is written.
        source_file: The file's name.
        path: The file.
        folder: Where copies are written.
        max_lines: About how many lines at its beginning are wanted; None: all.

    Raises:
        SourceError: The file cannot be read.
    """
    kind = format_of(path, source) or "csv"
    try:
        if not path.stat().st_size:
            return []
        if kind in WORKBOOKS:
            return list(_workbook_parts(source, source_file, path, folder, max_lines))
        if kind == "parquet":
            return [_parquet_part(connection, source_file, _parquet_copy(connection, path, folder, max_lines))]
        part = Part(utf8_copy(path, source, folder, max_lines), kind, source_file, "", ())
        return _csv_parts(source, part, folder) if kind == "csv" else _jsonl_parts(connection, part, folder)
    except (OSError, *DECOMPRESSION_ERRORS, UnicodeError, csv.Error, duckdb.Error) as error:
        if is_system_error(error):
            raise
        raise SourceError(f"{source_file}: cannot be read as {kind}: {first_line(error)}") from None


def numbered_csv(part: Part, folder: Path) -> Part:
    """Return a copy of a CSV part as Python reads it: each record with its number, or its text if it is malformed.

    DuckDB loses lines after a quote that is not closed, without an error, and stops at mixed line ends. Here such a
    fault costs the line that it is in, and reading goes on with the next one.
    """
    layout, width = part.layout, len(part.columns)
    with _open_text(part.path) as file:
        lines = islice(_bounded_lines(file), layout.skipped, None)
        records = enumerate(_csv_records(lines, layout.delimiter, width), layout.skipped + 1)
        if layout.has_header:
            next(records)
        return replace(part, kind="numbered", path=_write_numbered(folder, records, width))


def first_lines(path: Path) -> list[str]:
    """Return some lines at the beginning of a text, of which long ones may be cut."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        return list(islice(_bounded_lines(file), _MIN_SEARCHED_LINES * 5))


def _workbook_parts(
    source: Source, source_file: str, path: Path, folder: Path, max_lines: int | None
) -> Iterator[Part]:
    layout = Layout(skipped=source.skip_lines, has_header=source.header)
    for sheet in sheets_of(source, source_file, path, max_lines):
        width = len(sheet.columns)
        records = enumerate(((row, "") for row in sheet.rows), layout.first_line) if width <= MAX_COLUMNS else ()
        copy = _write_numbered(folder, records, width)
        yield Part(copy, "numbered", source_file, sheet.name, sheet.columns, layout=layout)


def _parquet_copy(connection: duckdb.DuckDBPyConnection, path: Path, folder: Path, max_lines: int | None) -> Path:
    """Return a copy of the first lines of a Parquet file, or the file itself if all lines are wanted."""
    if max_lines is None:
        return path
    copy = folder / f"{uuid4()}.parquet"
    lines = "select * from read_parquet($path, hive_partitioning = false) limit $lines"
    statement = f"copy ({lines}) to {literal(str(copy))} (format parquet)"
    connection.execute(statement, {"path": glob.escape(str(path)), "lines": max_lines})
    return copy


def _parquet_part(connection: duckdb.DuckDBPyConnection, source_file: str, path: Path) -> Part:
    select = (
        "select column_name, column_type from (describe select * from read_parquet($path, hive_partitioning = false))"
    )
    described = connection.execute(select, {"path": glob.escape(str(path))}).fetchall()
    columns, types = tuple(name for name, _ in described), tuple(kind for _, kind in described)
    return Part(path, "parquet", source_file, "", columns, types)


def _csv_parts(source: Source, part: Part, folder: Path) -> list[Part]:
    """Return the part with its layout and the names of its columns: those in its first line that is not blank."""
    with part.path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        layout, lines = layout_of(source, _bounded_lines(file))
        header_lines = 0
        if layout.has_header:
            reader = csv_reader(lines, layout.delimiter)
            columns = next((tuple(row) for row in reader if row), ())
            header_lines = reader.line_num
        else:
            columns = numbered_columns(lines, layout.delimiter)
    if not columns:
        return []
    if not _is_readable("".join(columns)):
        raise SourceError(f"{part.source_file}: its first line is too long to hold names of columns")
    with part.path.open(encoding="latin-1") as file:  # only line ends matter here
        below = islice(_bounded_lines(file), layout.skipped, None)
        count = sum(line != "\n" for line in below) - layout.has_header
    found = replace(part, columns=columns, lines=count, layout=layout)
    # DuckDB takes the first line for the header, whatever it is.
    is_plain = header_lines == layout.has_header and layout.delimiter != WHITESPACE
    return [found] if is_plain and not _has_long_line(part.path) else [numbered_csv(found, folder)]


def _jsonl_parts(connection: duckdb.DuckDBPyConnection, part: Part, folder: Path) -> list[Part]:
    """Return the part as numbered lines, with the keys of all its objects as columns."""
    with _open_text(part.path) as file:
        lines = (line for line in _bounded_lines(file) if line.strip())
        records: Iterator[Record] = (
            ([line.rstrip("\r\n")], "") if _is_readable(line) else ([], line) for line in lines
        )
        copy = _write_numbered(folder, enumerate(records, 1), 1)
    keys = connection.execute(
        "select distinct unnest(json_keys(object)) from (select try_cast(text as json) as object from read_csv($path,"
        " columns = {'number': 'BIGINT', 'malformed': 'VARCHAR', 'text': 'VARCHAR'}, header = false,"
        " auto_detect = false, quote = '\"', escape = '\"', new_line = '\\n')) where json_type(object) = 'OBJECT'"
        " order by 1",
        {"path": str(copy)},
    ).fetchall()
    if keys:
        return [replace(part, path=copy, columns=tuple(str(key) for (key,) in keys))]
    if copy.stat().st_size:
        raise SourceError(f"{part.source_file}: no line of it is a JSON object")
    return []


def _csv_records(lines: Iterator[str], delimiter: str, width: int) -> Iterator[Record]:
    """Yield each record; blank lines are not records. Where a record is malformed, go on with its second line."""
    pushed_back: deque[str] = deque()
    record: list[str] = []
    # Blanks inside quotes of several lines could not be told from delimiters.
    max_lines = 1 if delimiter == WHITESPACE else _MAX_RECORD_LINES
    searched_lines = max_lines

    def record_lines() -> Iterator[str]:
        size = 0
        while len(record) < searched_lines and size <= _MAX_RECORD_BYTES:
            line = pushed_back.popleft() if pushed_back else next(lines, None)
            if line is None:
                return
            record.append(line)
            size += len(line)
            yield line

    while True:
        record.clear()
        fields: list[str] | None = None
        try:
            fields = next(csv_reader(record_lines(), delimiter), None)
        except csv.Error:
            fields = None
        if not record:
            return
        # As DuckDB does, accept delimiters at the end of a line without values after them.
        fits = fields is not None and len(fields) >= width and not any(fields[width:])
        if fields is not None and fits and _is_readable("".join(record)):
            searched_lines = min(searched_lines + 1, max_lines)
            yield fields[:width], ""
        elif fields != []:
            if len(record) == searched_lines:
                # Where every line opens a quote, the end of each would otherwise be searched in a thousand lines.
                searched_lines = min(max(searched_lines // 2, _MIN_SEARCHED_LINES), max_lines)
            pushed_back.extendleft(reversed(record[1:]))
            yield [], record[0]


def _write_numbered(folder: Path, records: Iterable[tuple[int, Record]], width: int) -> Path:
    path = folder / f"{uuid4()}.csv"
    empty = [""] * width
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\n")
        for number, (fields, malformed) in records:
            writer.writerow([number, malformed and _as_text(malformed), *(fields or empty)])
    return path


def _bounded_lines(file: TextIO) -> Iterator[str]:
    """Yield the lines of a file, of a very long one only the beginning, which is still too long for a record.

    So a line of ten gigabytes never gets into memory.
    """
    while line := file.readline(_MAX_LINE_CHARACTERS):
        yield line
        while len(line) == _MAX_LINE_CHARACTERS and line[-1] not in "\r\n":
            line = file.readline(_MAX_LINE_CHARACTERS)


def _has_long_line(path: Path) -> bool:
    """Return whether a line may be longer than DuckDB's buffer of 32 MB; it loses such a line without an error."""
    with path.open("rb") as file:
        while len(chunk := file.read(_MAX_LINE_CHARACTERS)) == _MAX_LINE_CHARACTERS:
            if b"\n" not in chunk:
                return True
    return False


def _open_text(path: Path) -> TextIO:
    return path.open(encoding="utf-8-sig", errors="surrogateescape", newline="")


def _is_readable(text: str) -> bool:
    """Return whether all of a text could be decoded, and it is short enough for a record."""
    try:
        return len(text.encode()) <= _MAX_RECORD_BYTES
    except UnicodeEncodeError:
        return False


def _as_text(malformed: str) -> str:
    """Return the text of a malformed record as it is stored, with bytes that could not be decoded as escapes."""
    text = malformed.rstrip("\r\n")[:_MAX_RECORD_BYTES]
    return text.encode(errors="surrogateescape").decode(errors="backslashreplace")
