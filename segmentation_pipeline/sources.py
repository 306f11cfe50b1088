"""A retailer's files: find them, and make of each format something that DuckDB reads as columns of text.

Belongs here: files, sheets, encodings, compression, records that break. Does not: reading their lines (`lines`).
"""

import csv
import glob
import gzip
import os
import shutil
import zlib
from codecs import lookup
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from functools import lru_cache, partial
from pathlib import Path
from typing import TextIO
from uuid import uuid4

import duckdb

from segmentation_pipeline.errors import first_line, is_of_the_machine
from segmentation_pipeline.folders import expanded
from segmentation_pipeline.settings import Retailer

ENDINGS = {
    ".csv": "csv", ".tsv": "csv", ".txt": "csv", ".parquet": "parquet", ".xlsx": "xlsx", ".xlsm": "xlsx",
    ".jsonl": "jsonl", ".ndjson": "jsonl",
}  # fmt: skip
COMPRESSED = (".gz", ".zst")
_WILD = ("*", "?", "[")
# A quote that is not closed within so many lines was never meant to span them.
_LINES_IN_A_RECORD = 1_000
# DuckDB reads no line above 2 MB, nor millions of columns; no transaction is longer, and no sheet that is whole wider.
_SHOWN_TEXT, MOST_COLUMNS = 100_000, 16_384


class SourceError(RuntimeError):
    """The source cannot be read; the message names the file, what was found and what to do."""


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


def source_files(retailer: Retailer, base: Path) -> dict[str, Path]:
    """The retailer's files by the name that `source_file` gives them: the path below the source's folder.

    Args:
        retailer: Its `source.path` is a file, a folder (searched with all below it), a pattern, or a list of these;
            files of a list are named from the folder that they have in common, and each counts once.
        base: The folder that relative paths start from.

    Raises:
        SourceError: A path leads to no file that can be read.
    """
    paths = [retailer.source.path] if isinstance(retailer.source.path, str) else retailer.source.path
    roots, found = [], []
    for path in map(expanded, paths):
        root, candidates = _candidates(base.absolute(), path, retailer)
        if not candidates:
            raise SourceError(
                f"source.path: nothing to read at {base / path}; expected files ending in {', '.join(ENDINGS)} "
                f"(csv and jsonl also with {' or '.join(COMPRESSED)}). Put them there, or name another path."
            )
        if unknown := [file for file in candidates if not _kind(file, retailer)]:
            raise SourceError(f"{unknown[0]}: unknown ending; name source.format, or use one of {', '.join(ENDINGS)}")
        roots.append(root)
        found += candidates
    common = os.path.commonpath(roots)
    once = {os.path.realpath(file): file for file in sorted(found, reverse=True)}
    return {file.relative_to(common).as_posix(): file for file in sorted(once.values())}


def _candidates(base: Path, named: Path, retailer: Retailer) -> tuple[Path, list[Path]]:
    """The folder that names start from, and the files that a path means."""
    path = base / named
    if path.is_dir():
        below = []
        for at, folders, names in os.walk(path, onerror=_cannot_be_listed):
            folders[:] = [folder for folder in folders if not folder.startswith(".")]
            below += [Path(at) / name for name in names if not name.startswith((".", "~$"))]
        return path, [file for file in below if _kind(file, retailer)]
    if path.exists():
        return path.parent, [path]
    fixed = next((n for n, part in enumerate(named.parts) if any(c in part for c in _WILD)), len(named.parts))
    found = [base / name for name in glob.glob(str(named), root_dir=base, recursive=True)]
    return base.joinpath(*named.parts[:fixed]), [file for file in found if file.is_file() and file.name[:2] != "~$"]


def _cannot_be_listed(error: OSError) -> None:
    raise SourceError(f"source.path: cannot be listed: {error}")


def _kind(path: Path, retailer: Retailer) -> str | None:
    endings = path.suffixes[:-1] if path.suffix.lower() in COMPRESSED else path.suffixes
    kind = ENDINGS.get(endings[-1].lower()) if endings else None
    return retailer.source.format or kind


def parts_of(
    connection: duckdb.DuckDBPyConnection, retailer: Retailer, name: str, path: Path, folder: Path
) -> Iterator[Part]:
    """The parts of one file; none where it is empty. Copies go to `folder`."""
    kind = _kind(path, retailer) or "csv"
    try:
        if not path.stat().st_size:
            return
        if kind == "xlsx":
            yield from _sheets(retailer, name, path, folder)
        elif kind == "parquet":
            select = "select column_name, column_type from (describe select * from read_parquet($path))"
            described = connection.execute(select, {"path": glob.escape(str(path))}).fetchall()
            yield Part(path, kind, name, "", *zip(*described, strict=True))
        else:
            part = Part(_plain(connection, retailer, path, folder), kind, name, "", ())
            yield from _csv(retailer, part, folder) if kind == "csv" else _jsonl(connection, part, folder)
    except (OSError, EOFError, zlib.error, UnicodeError, csv.Error, duckdb.Error) as error:
        if is_of_the_machine(error):
            raise
        raise SourceError(f"{name}: cannot be read as {kind}: {first_line(error)}") from None


def _csv(retailer: Retailer, part: Part, folder: Path) -> Iterator[Part]:
    """The part with the names in its first line that is not blank."""
    with part.path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        reader = csv.reader(file, delimiter=retailer.source.delimiter, strict=True)
        header = next((tuple(row) for row in reader if row), ())
    with part.path.open(encoding="latin-1") as file:  # of which only line ends count
        named = replace(part, columns=header, lines=sum(line != "\n" for line in file) - 1)
    if header:
        # DuckDB takes the first line for the header, whatever it is.
        yield named if reader.line_num == 1 else numbered_csv(named, retailer.source.delimiter, folder)


def _jsonl(connection: duckdb.DuckDBPyConnection, part: Part, folder: Path) -> Iterator[Part]:
    """The part as lines with their numbers, and the keys of all its objects as columns."""
    with _text_of(part.path) as file:
        lines = (line for line in file if line.strip())
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


def _plain(connection: duckdb.DuckDBPyConnection, retailer: Retailer, path: Path, folder: Path) -> Path:
    """The file, or a copy of it, as UTF-8 text that is not compressed.

    DuckDB has few encodings built in, Python all. Bytes that the encoding lacks stay bytes, so that they break their
    line and no other. DuckDB 1.5 reads a gzip file that was cut off without a word; Python does not.
    """
    plain, encoding = path, lookup(retailer.source.encoding).name
    if path.suffix.lower() == ".gz":
        plain = folder / f"{uuid4()}.txt"
        with gzip.open(path) as packed, plain.open("wb") as copy:
            shutil.copyfileobj(packed, copy)
    elif path.suffix.lower() == ".zst":
        # Python below 3.14 has no zst, so this is DuckDB's to unpack, as lines of text.
        if encoding != "utf-8":
            raise SourceError(f"{path.name}: zst is read as UTF-8 only, and source.encoding is {encoding}; unpack it")
        plain = folder / f"{uuid4()}.txt"
        rows = connection.cursor().execute(
            "select line from read_csv($path, columns = {'line': 'VARCHAR'}, auto_detect = false, header = false,"
            " delim = chr(31), quote = '', escape = '')",
            {"path": glob.escape(str(path))},
        )
        with plain.open("w", encoding="utf-8", newline="") as text:
            while some := rows.fetchmany(10_000):
                text.writelines(f"{line or ''}\n" for (line,) in some)
    if encoding == "utf-8":
        return plain
    copied = folder / f"{uuid4()}.txt"
    with (
        plain.open(encoding=encoding, errors="surrogateescape", newline="") as source,
        copied.open("w", encoding="utf-8", errors="surrogateescape", newline="") as target,
    ):
        shutil.copyfileobj(source, target)
    return copied


def numbered_csv(part: Part, delimiter: str, folder: Path) -> Part:
    """A copy of a CSV part as Python reads it: each record with its number, each line that is none as its text.

    DuckDB loses lines without a word after a quote that is not closed, and stops at line ends of two kinds. Here such a
    fault costs the line that it stands in, and reading goes on with the next one.
    """
    with _text_of(part.path) as file:
        records = enumerate(_records(file, delimiter, len(part.columns)), 1)
        next(records)
        return replace(part, kind="numbered", path=_numbered(folder, records, len(part.columns)))


def _records(lines: Iterator[str], delimiter: str, width: int) -> Iterator[tuple[list[str], str]]:
    """Each record as its fields, or as the text of a broken line; blank lines are no records."""
    ahead: deque[str] = deque()
    record: list[str] = []

    def feed() -> Iterator[str]:
        while len(record) < _LINES_IN_A_RECORD:
            line = ahead.popleft() if ahead else next(lines, None)
            if line is None:
                return
            record.append(line)
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
            yield fields, ""
        elif fields != []:
            ahead.extendleft(reversed(record[1:]))
            yield [], record[0]


def _numbered(folder: Path, records: Iterable[tuple[int, tuple[Sequence[str], str]]], width: int) -> Path:
    path = folder / f"{uuid4()}.csv"
    nothing = [""] * width
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\n")
        writer.writerows([number, broken and _shown(broken), *(got or nothing)] for number, (got, broken) in records)
    return path


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


def _sheets(retailer: Retailer, name: str, path: Path, folder: Path) -> Iterator[Part]:
    """Each sheet as text, which all formats have in common; cell types are a guess of the workbook's author."""
    from python_calamine import CalamineError, CalamineWorkbook

    try:
        workbook = CalamineWorkbook.from_path(str(path))
        missing = [sheet for sheet in retailer.source.sheets if sheet not in workbook.sheet_names]
        if missing:
            raise SourceError(f"{name}: no sheet {', '.join(missing)}; it has {', '.join(workbook.sheet_names)}")
        for sheet in dict.fromkeys(retailer.source.sheets or workbook.sheet_names):
            cell = lru_cache(65_536, typed=True)(partial(_cell, retailer=retailer))  # most cells come again and again
            cells = (list(map(cell, row)) for row in workbook.get_sheet_by_name(sheet).iter_rows())
            rows = (row for row in cells if any(row))
            if header := next(rows, None):
                below = enumerate(((row, "") for row in rows), 2) if len(header) <= MOST_COLUMNS else ()
                copy = _numbered(folder, below, len(header))
                yield Part(copy, "numbered", name, sheet, tuple(header))
    except CalamineError as error:
        raise SourceError(f"{name}: cannot be read as a workbook: {error}") from None


def _cell(value: object, retailer: Retailer) -> str:
    """A workbook's cell as the text that the retailer's CSV has: 17850.0 is 17850, a moment as in date_format."""
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else str(value).replace(".", retailer.source.decimal)
    if isinstance(value, date) and retailer.source.date_format is not None:
        return value.strftime(retailer.source.date_format)
    return str(value)
