"""A retailer's files: of each format something that DuckDB reads as columns of text.

Belongs here: formats, records that break. Does not: which files (`finding`), their compression and encoding
(`unpacking`), what only workbooks have (`workbooks`), reading their lines (`lines`).
"""

import csv
import glob
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TextIO
from uuid import uuid4

import duckdb

from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.errors import SourceError, first_line, is_of_the_machine
from segmentation_pipeline.ingestion.decompression import unpacked
from segmentation_pipeline.ingestion.discovery import kind_of
from segmentation_pipeline.ingestion.excel import sheets_of

# A quote that is not closed within so many lines was never meant to span them.
_LINES_IN_A_RECORD, _FEWEST_LINES = 1_000, 10
# DuckDB reads no line above 2 MB, nor millions of columns; no transaction is longer, and no sheet that is whole wider.
_SHOWN_TEXT, MOST_COLUMNS = 100_000, 16_384
_LONGEST = 1 << 20


@dataclass(frozen=True)
class Part:
    """A file, or a sheet of one, as something that DuckDB reads; `path` may be a copy.

    A part of kind `numbered` is a CSV without a header: a record's number, its text if it is broken, and its columns;
    `jsonl` the same with one column, the object. `csv` and `parquet` are as they came; `lines`: below a CSV's header.
    """

    path: Path
    kind: str
    source_file: str
    source_sheet: str
    columns: tuple[str, ...]
    types: tuple[str, ...] = ()
    lines: int = field(default=0, kw_only=True)


def parts_of(
    connection: duckdb.DuckDBPyConnection, retailer: Retailer, name: str, path: Path, folder: Path
) -> Iterator[Part]:
    """The parts of one file; none where it is empty. Copies go to `folder`."""
    kind = kind_of(path, retailer) or "csv"
    try:
        if not path.stat().st_size:
            return
        if kind == "xlsx":
            for sheet, header, rows in sheets_of(retailer, name, path):
                below = enumerate(((row, "") for row in rows), 2) if len(header) <= MOST_COLUMNS else ()
                copy = _numbered(folder, below, len(header))
                yield Part(copy, "numbered", name, sheet, tuple(header))
        elif kind == "parquet":
            select = "select column_name, column_type from (describe select * from read_parquet($path))"
            described = connection.execute(select, {"path": glob.escape(str(path))}).fetchall()
            yield Part(path, kind, name, "", *zip(*described, strict=True))
        else:
            part = Part(unpacked(connection, retailer, path, folder), kind, name, "", ())
            yield from _csv(retailer, part, folder) if kind == "csv" else _jsonl(connection, part, folder)
    except (OSError, EOFError, zlib.error, UnicodeError, csv.Error, duckdb.Error) as error:
        if is_of_the_machine(error):
            raise
        raise SourceError(f"{name}: cannot be read as {kind}: {first_line(error)}") from None


def _csv(retailer: Retailer, part: Part, folder: Path) -> Iterator[Part]:
    """The part with the names in its first line that is not blank."""
    with part.path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        reader = csv.reader(_lines(file), delimiter=retailer.source.delimiter, strict=True)
        header = next((tuple(row) for row in reader if row), ())
    if not _is_whole("".join(header)):
        raise SourceError(f"{part.source_file}: its first line is too long to hold names of columns")
    with part.path.open(encoding="latin-1") as file:  # of which only line ends count
        named = replace(part, columns=header, lines=sum(line != "\n" for line in _lines(file)) - 1)
    if header:
        # DuckDB takes the first line for the header, whatever it is.
        plain = reader.line_num == 1 and not _has_long_line(part.path)
        yield named if plain else numbered_csv(named, retailer.source.delimiter, folder)


def _jsonl(connection: duckdb.DuckDBPyConnection, part: Part, folder: Path) -> Iterator[Part]:
    """The part as lines with their numbers, and the keys of all its objects as columns."""
    with _text_of(part.path) as file:
        lines = (line for line in _lines(file) if line.strip())
        records = (([line.rstrip("\r\n")], "") if _is_whole(line) else ([], line) for line in lines)
        copy = _numbered(folder, enumerate(records, 1), 1)
    keys = connection.execute(
        "select distinct unnest(json_keys(object)) from (select try_cast(text as json) as object from read_csv($path,"
        " columns = {'number': 'BIGINT', 'broken': 'VARCHAR', 'text': 'VARCHAR'}, header = false, auto_detect = false,"
        " quote = '\"', escape = '\"', new_line = '\\n')) where json_type(object) = 'OBJECT' order by 1",
        {"path": str(copy)},
    ).fetchall()
    if not keys and copy.stat().st_size:
        raise SourceError(f"{part.source_file}: no line of it is a JSON object")
    if keys:
        yield replace(part, path=copy, columns=tuple(str(key) for (key,) in keys))


def numbered_csv(part: Part, delimiter: str, folder: Path) -> Part:
    """A copy of a CSV part as Python reads it: each record with its number, each line that is none as its text.

    DuckDB loses lines without a word after a quote that is not closed, and stops at line ends of two kinds. Here such a
    fault costs the line that it stands in, and reading goes on with the next one.
    """
    with _text_of(part.path) as file:
        records = enumerate(_records(_lines(file), delimiter, len(part.columns)), 1)
        next(records)
        return replace(part, kind="numbered", path=_numbered(folder, records, len(part.columns)))


def _records(lines: Iterator[str], delimiter: str, width: int) -> Iterator[tuple[list[str], str]]:
    """Each record as its fields, or as the text of a broken line; blank lines are no records."""
    ahead: deque[str] = deque()
    record: list[str] = []
    reach = _LINES_IN_A_RECORD

    def feed() -> Iterator[str]:
        size = 0
        while len(record) < reach and size <= _SHOWN_TEXT:
            line = ahead.popleft() if ahead else next(lines, None)
            if line is None:
                return
            record.append(line)
            size += len(line)
            yield line

    while True:
        record.clear()
        fields: list[str] | None = None
        try:
            fields = next(csv.reader(feed(), delimiter=delimiter, strict=True), None)
        except csv.Error:
            fields = None
        if not record:
            return
        if fields is not None and len(fields) == width and _is_whole("".join(record)):
            reach = min(reach + 1, _LINES_IN_A_RECORD)
            yield fields, ""
        elif fields != []:
            if len(record) == reach:
                # Where every line opens a quote, each would else be sought an end of in the thousand after it.
                reach = max(reach // 2, _FEWEST_LINES)
            ahead.extendleft(reversed(record[1:]))
            yield [], record[0]


def _numbered(folder: Path, records: Iterable[tuple[int, tuple[Sequence[str], str]]], width: int) -> Path:
    path = folder / f"{uuid4()}.csv"
    nothing = [""] * width
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\n")
        writer.writerows([number, broken and _shown(broken), *(got or nothing)] for number, (got, broken) in records)
    return path


def _lines(file: TextIO) -> Iterator[str]:
    """The lines of a file; of one that is too long to be read, a first part that is too long as well.

    A line of ten gigabytes never gets into memory.
    """
    while line := file.readline(_LONGEST):
        yield line
        while len(line) == _LONGEST and line[-1] not in "\r\n":
            line = file.readline(_LONGEST)


def _has_long_line(path: Path) -> bool:
    """Whether a line may be longer than DuckDB's buffer (32 MB): it loses one without a word."""
    with path.open("rb") as file:
        while len(some := file.read(_LONGEST)) == _LONGEST:
            if b"\n" not in some:
                return True
    return False


def _text_of(path: Path) -> TextIO:
    return path.open(encoding="utf-8-sig", errors="surrogateescape", newline="")


def _is_whole(text: str) -> bool:
    """Whether all of it could be decoded, and it is short enough to be read."""
    try:
        return len(text.encode()) <= _SHOWN_TEXT
    except UnicodeEncodeError:
        return False


def _shown(broken: str) -> str:
    text = broken.rstrip("\r\n")[:_SHOWN_TEXT]
    return text.encode(errors="surrogateescape").decode(errors="backslashreplace")
