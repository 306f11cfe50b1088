"""A retailer's files: find them, and make of each format something that DuckDB reads as columns of text.

Belongs here: files, sheets, encodings, compression. Does not: reading their lines (`lines`).
"""

import codecs
import csv
import glob
import gzip
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TextIO, cast
from uuid import uuid4

import duckdb

from segmentation_pipeline.settings import Retailer

ENDINGS = {
    ".csv": "csv", ".tsv": "csv", ".txt": "csv", ".parquet": "parquet", ".xlsx": "xlsx", ".xlsm": "xlsx",
    ".jsonl": "jsonl", ".ndjson": "jsonl",
}  # fmt: skip
COMPRESSED = (".gz", ".zst")
_WILD = ("*", "?", "[")


class SourceError(RuntimeError):
    """The source cannot be read; the message names the file, what was found and what to do."""


@dataclass(frozen=True)
class Part:
    """A file, or a sheet of one, as something that DuckDB reads: `path` may be a copy as UTF-8 text."""

    path: Path
    kind: str
    source_file: str
    source_sheet: str
    columns: tuple[str, ...]


def source_files(retailer: Retailer, base: Path) -> dict[str, Path]:
    """The retailer's files by the name that `source_file` gives them: the path below the source's folder.

    Args:
        retailer: Its `source.path` is a file, a folder (searched with all below it), a pattern, or a list of these.
        base: The folder that relative paths start from.

    Raises:
        SourceError: A path leads to no file that can be read.
    """
    found: dict[str, Path] = {}
    for text in [retailer.source.path] if isinstance(retailer.source.path, str) else retailer.source.path:
        path = base / Path(text).expanduser()
        if path.is_dir():
            root, candidates = path, [Path(at) / name for at, _, names in os.walk(path) for name in names]
            candidates = [
                file for file in candidates if _kind(file, retailer) and not file.name.startswith((".", "~$"))
            ]
        elif path.exists():
            root, candidates = path.parent, [path]
        else:
            fixed = next((n for n, part in enumerate(path.parts) if any(c in part for c in _WILD)), len(path.parts) - 1)
            root = Path(*path.parts[:fixed])
            candidates = [Path(name) for name in glob.glob(str(path), recursive=True) if Path(name).is_file()]
        if not candidates:
            raise SourceError(
                f"source.path: nothing to read at {path}; expected files ending in {', '.join(ENDINGS)} "
                f"(csv and jsonl also with {' or '.join(COMPRESSED)}). Put them there, or name another path."
            )
        for file in candidates:
            if not _kind(file, retailer):
                raise SourceError(f"{file}: unknown ending; name source.format, or use one of {', '.join(ENDINGS)}")
            found[file.relative_to(root).as_posix()] = file
    return dict(sorted(found.items()))


def _kind(path: Path, retailer: Retailer) -> str | None:
    endings = path.suffixes[:-1] if path.suffix.lower() in COMPRESSED else path.suffixes
    kind = ENDINGS.get(endings[-1].lower()) if endings else None
    return retailer.source.format or kind


def parts_of(
    connection: duckdb.DuckDBPyConnection, retailer: Retailer, name: str, path: Path, folder: Path
) -> Iterator[Part]:
    """The parts of one file; none where it is empty."""
    kind = _kind(path, retailer) or "csv"
    try:
        if kind == "xlsx":
            yield from _sheets(connection, retailer, name, path, folder)
        elif kind == "csv":
            text = path
            if codecs.lookup(retailer.source.encoding).name != "utf-8":
                text = folder / f"{uuid4()}.csv"
                _copy_as_utf8(path, text, retailer.source.encoding)
            if columns := _header(connection, text, retailer.source.delimiter):
                yield Part(text, kind, name, "", columns)
        elif path.stat().st_size:
            reader = (
                "read_parquet($path)" if kind == "parquet" else "read_json_auto($path, format = 'newline_delimited')"
            )
            described = connection.execute(
                f"describe select * from {reader}", {"path": glob.escape(str(path))}
            ).fetchall()
            yield Part(path, kind, name, "", tuple(str(row[0]) for row in described))
    except (OSError, UnicodeError, csv.Error, duckdb.Error, gzip.BadGzipFile) as error:
        raise SourceError(f"{name}: cannot be read as {kind} ({retailer.source.encoding}): {error}") from None


def _header(connection: duckdb.DuckDBPyConnection, path: Path, delimiter: str) -> tuple[str, ...]:
    """The names in the first line that is not blank; none where the file is empty."""
    if path.suffix.lower() == ".zst":
        lines = connection.execute(
            "select line from read_csv($path, columns = {'line': 'VARCHAR'}, auto_detect = false, header = false,"
            " delim = chr(31), quote = '', escape = '') limit 1",
            {"path": glob.escape(str(path))},
        ).fetchall()
        return next((tuple(row) for row in csv.reader((line for (line,) in lines), delimiter=delimiter)), ())
    with _opened(path, "utf-8-sig") as file:
        return next((tuple(row) for row in csv.reader(file, delimiter=delimiter) if row), ())


def _opened(path: Path, encoding: str) -> TextIO:
    if path.suffix.lower() == ".gz":
        return cast(TextIO, gzip.open(path, "rt", encoding=encoding, newline=""))
    return path.open("r", encoding=encoding, newline="")


def _copy_as_utf8(path: Path, target: Path, encoding: str) -> None:
    """DuckDB has few encodings built in, Python all."""
    if path.suffix.lower() == ".zst":
        raise SourceError(f"{path.name}: a zst file is read as UTF-8 only; source.encoding is {encoding}")
    with _opened(path, encoding) as source, target.open("w", encoding="utf-8", newline="") as copy:
        shutil.copyfileobj(source, copy)


def _sheets(
    connection: duckdb.DuckDBPyConnection, retailer: Retailer, name: str, path: Path, folder: Path
) -> Iterator[Part]:
    """Each sheet as CSV: cell types are a guess of the workbook's author, text is what all formats have in common."""
    from python_calamine import CalamineError, CalamineWorkbook

    try:
        workbook = CalamineWorkbook.from_path(str(path))
        missing = set(retailer.source.sheets) - set(workbook.sheet_names)
        if missing:
            raise SourceError(f"{name}: no sheet {sorted(missing)}; it has {workbook.sheet_names}")
        for sheet in retailer.source.sheets or workbook.sheet_names:
            text = folder / f"{uuid4()}.csv"
            rows = workbook.get_sheet_by_name(sheet).iter_rows()
            with text.open("w", encoding="utf-8", newline="") as file:
                csv.writer(file).writerows([_cell(value) for value in row] for row in rows)
            if columns := _header(connection, text, ","):
                yield Part(text, "sheet", name, sheet, columns)
    except CalamineError as error:
        raise SourceError(f"{name}: cannot be read as a workbook: {error}") from None


def _cell(value: object) -> str:
    """A workbook's cell as the text that a CSV has: 17850.0 is 17850, a moment is ISO."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return value.isoformat(sep=" ") if isinstance(value, datetime) else str(value)
