"""Read the sheets of a workbook (XLSX, XLS, XLSB or ODS) as rows of text, after a check that they fit into memory.

Contains what only workbooks need. Numbering their rows is in `file_formats`, loading them in `staging`.
"""

import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from datetime import date
from functools import lru_cache, partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from zipfile import BadZipFile, ZipFile, ZipInfo

from segmentation_pipeline.config.source_settings import Source
from segmentation_pipeline.errors import SourceError
from segmentation_pipeline.ingestion.csv_layout import positions
from segmentation_pipeline.ingestion.decompression import chunks, limited

if TYPE_CHECKING:
    from python_calamine import CalamineWorkbook

WORKBOOKS = ("xlsx", "xls", "xlsb", "ods")
# Calamine allocates 32 bytes for every cell between a sheet's first and last, and aborts the process where memory does
# not suffice: one cell in the last corner would take 550 GB. This limit is 3 GB, a full sheet of 95 columns.
_MAX_CELLS = 100_000_000
# A sheet can exceed the limit only with a column beyond Z, a row beyond 999,999, or cells without a reference. Few
# sheets have these, and each pattern begins with a letter that is found fast; an alternation would not.
_FAR_CELL_HINTS = (
    re.compile(rb"""=\s*["']\s*(?:[A-Za-z]{2,}[0-9]|[A-Za-z]?[0-9]{7})"""),
    re.compile(rb"<c[\s/>](?!r=)"),
    re.compile(rb":c[\s/>]"),
)
_TAG = re.compile(rb"<(?:[\w.-]+:)?(row|c)(?=[\s/>])([^>]*)>")
_REFERENCE = re.compile(rb"""(?:^|\s)r\s*=\s*["']\s*([A-Za-z]*)([0-9]+)""")
# The other formats are not searched for such cells: a process of its own reads them first, with this limit, which is a
# full sheet of 50 columns.
_MAX_BYTES = 2_000_000_000
_NO_MEMORY = 3
_READ_ALL = f"""
import contextlib, resource, sys
from python_calamine import CalamineError, CalamineWorkbook
with contextlib.suppress(ValueError):  # not every system can limit memory
    resource.setrlimit(resource.RLIMIT_AS, ({_MAX_BYTES}, {_MAX_BYTES}))
try:
    with open(sys.argv[1], "rb") as file:
        workbook = CalamineWorkbook.from_filelike(file)
        for name in workbook.sheet_names:
            workbook.get_sheet_by_name(name)
except CalamineError:
    pass
except MemoryError:
    sys.exit({_NO_MEMORY})
"""
# The sizes that a workbook states can be wrong, and zipfile would stop reading there.
_ANY_SIZE = 1 << 62


class Sheet(NamedTuple):
    """A sheet's name, the names of its columns, and its rows below them as text."""

    name: str
    columns: tuple[str, ...]
    rows: Iterator[list[str]]


def sheets_of(source: Source, source_file: str, path: Path, max_lines: int | None = None) -> Iterator[Sheet]:
    """Yield the sheets that the settings name, or all, except empty ones.

    With `max_lines`, each has its share of so many rows.

    Raises:
        SourceError: The file is not a workbook, or lacks a sheet that the settings name.
        OSError: It does not fit into memory.
    """
    from python_calamine import CalamineError

    try:
        _check_size(path, source.max_unpacked_gb)
        workbook = _opened(path)
        if missing := [sheet for sheet in source.sheets if sheet not in workbook.sheet_names]:
            raise SourceError(
                f"{source_file}: no sheet {', '.join(missing)}; it has {', '.join(workbook.sheet_names)}."
                " Correct source.sheets."
            )
        names = dict.fromkeys(source.sheets or workbook.sheet_names)
        share = None if max_lines is None else -(-max_lines // len(names))
        for name in names:
            # Dates, prices and names repeat.
            as_text = lru_cache(65_536, typed=True)(partial(_cell_text, source=source))
            sheet = workbook.get_sheet_by_name(name)
            # Positions count from column A, also where it is empty.
            left = [""] * (0 if source.header or sheet.start is None else sheet.start[1])
            used = islice(sheet.iter_rows(), source.skip_lines, None)
            cells = ([*left, *map(as_text, row)] for row in used)
            rows = (row for row in cells if any(row))
            if not (first := next(rows, None)):
                continue
            if source.header:
                yield Sheet(name, tuple(first), islice(rows, share))
            else:
                yield Sheet(name, positions(len(first)), islice(chain([first], rows), share))
    except (CalamineError, BadZipFile) as error:
        raise SourceError(f"{source_file}: {_why_unreadable(path, error)}") from None


def first_rows(source: Source, path: Path, count: int) -> dict[str, list[list[str]]]:
    """Return the first rows of each sheet, empty ones too, from the first column on that is used.

    Raises:
        SourceError: The file is not a workbook.
        OSError: It does not fit into memory.
    """
    from python_calamine import CalamineError

    try:
        _check_size(path, source.max_unpacked_gb)
        workbook = _opened(path)
        sheets = {name: workbook.get_sheet_by_name(name) for name in workbook.sheet_names}
        return {
            name: [[_cell_text(cell, source) for cell in row] for row in islice(sheet.iter_rows(), count)]
            for name, sheet in sheets.items()
        }
    except (CalamineError, BadZipFile) as error:
        raise SourceError(f"{path.name}: {_why_unreadable(path, error)}") from None


def _why_unreadable(path: Path, error: Exception) -> str:
    """Return the message of an error on one line: it quotes names of the workbook, which hold any characters."""
    reason = "".join(one if one.isprintable() else " " for one in str(error))
    return f"cannot be read as a workbook: {reason}{_hint(path)}"


def _opened(path: Path) -> "CalamineWorkbook":
    """Return a workbook of any of the formats; many programs write one of them with the ending of another."""
    from python_calamine import CalamineError, CalamineWorkbook

    try:
        return CalamineWorkbook.from_path(str(path))
    except CalamineError as error:
        try:
            with path.open("rb") as file:
                return CalamineWorkbook.from_filelike(file)
        except CalamineError:
            raise error from None


def _hint(path: Path) -> str:
    """Return what to do if a file is a text with the ending of a workbook: a page of HTML, XML or a CSV."""
    with path.open("rb") as file:
        start = file.read(1_000)
    if not start or b"\0" in start:
        return ""
    if start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        return ". It is a page of HTML or XML: open it in a spreadsheet program and save it as XLSX"
    return '. It is a text: if its lines are those of a CSV, rename it, or set source.format = "csv"'


def _cell_text(value: object, source: Source) -> str:
    """Return a cell as the text of the retailer's CSV: 17850.0 as 17850. A date is written in ISO 8601."""
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else str(value).replace(".", source.decimal)
    if isinstance(value, date) and source.date_format is not None:
        return value.isoformat()
    return str(value)


def _check_size(path: Path, max_gb: float) -> None:
    """Decompress a workbook once without keeping anything, since the size that it states may be wrong.

    Raises:
        OSError: It decompresses to more than the limit, or the cells of a sheet are too far apart.
    """
    if not zipfile.is_zipfile(path):
        # An old or a damaged workbook, which calamine tells apart.
        _check_memory(path)
        return
    with ZipFile(path) as workbook:
        size = 0
        is_xlsx = path.suffix.lower() in (".xlsx", ".xlsm") and "xl/workbook.xml" in workbook.namelist()
        for member in workbook.infolist():
            member.file_size = _ANY_SIZE
            if not is_xlsx:
                with workbook.open(member) as file:
                    size += sum(map(len, limited(chunks(file), max_gb, size)))
                continue
            has_far_cell = False
            for text in _whole_tags(workbook, member, max_gb, size):
                size += len(text)
                has_far_cell = has_far_cell or any(hint.search(text) for hint in _FAR_CELL_HINTS)
            if has_far_cell and (cells := _cells_spanned(_whole_tags(workbook, member))) > _MAX_CELLS:
                raise OSError(
                    f"a sheet spans {cells:,} cells from its first to its last, more than {_MAX_CELLS:,}; delete the"
                    " cells that are far from the others"
                )

    if not is_xlsx:
        _check_memory(path)


def _check_memory(path: Path) -> None:
    """Read a workbook in another process: calamine aborts the process where memory does not suffice.

    Raises:
        OSError: It does not fit, or calamine fails on it.
    """
    command = [sys.executable, "-I", "-c", _READ_ALL, str(path.absolute())]
    code = subprocess.run(command, capture_output=True, check=False).returncode  # noqa: S603 - own program
    if code < 0 or code == _NO_MEMORY:
        size = f"more than {_MAX_BYTES / 1e9:g} GB of memory"
        raise OSError(f"its sheets take {size}; delete the cells that are far from the others")
    if code:
        raise OSError("it is damaged")


def _whole_tags(workbook: ZipFile, member: ZipInfo, max_gb: float | None = None, size: int = 0) -> Iterator[bytes]:
    """Yield a member's content in pieces that end with a tag."""
    rest = b""
    with workbook.open(member) as file:
        for chunk in limited(chunks(file), max_gb, size):
            whole, end, rest = (rest + chunk).rpartition(b">")
            yield whole + end
    yield rest


def _cells_spanned(texts: Iterator[bytes]) -> int:
    """Return the number of cells in the rectangle of a sheet's cells with a value."""
    row = column = 0
    first: tuple[int, int] | None = None
    last = (0, 0)
    for text in texts:
        for tag, attributes in _TAG.findall(text):
            reference = _REFERENCE.search(attributes)
            if tag == b"row":
                row, column = int(reference[2]) if reference else row + 1, 0
                continue
            row, column = (int(reference[2]), _column_number(reference[1])) if reference else (row, column + 1)
            if not attributes.endswith(b"/"):
                first = (min(first[0], row), min(first[1], column)) if first else (row, column)
                last = (max(last[0], row), max(last[1], column))
    return (last[0] - first[0] + 1) * (last[1] - first[1] + 1) if first else 0


def _column_number(letters: bytes) -> int:
    number = 0
    for letter in letters.upper():
        number = number * 26 + letter - 64
    return number
