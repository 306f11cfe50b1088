"""A workbook's sheets as rows of text, once it is seen that they fit into memory.

Belongs here: what only workbooks have. Does not: numbering and reading their rows (`sources`, `lines`).
"""

import re
import zipfile
from collections.abc import Iterator
from datetime import date
from functools import lru_cache, partial
from pathlib import Path
from zipfile import BadZipFile, ZipFile

from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.errors import SourceError
from segmentation_pipeline.ingestion.decompression import chunks

# Calamine lays a sheet out from its first cell to its last, 32 bytes for each between, and ends the whole process where
# memory does not suffice: one cell in the last corner would be 550 GB. These are three: a full sheet of 95 columns.
_MOST_CELLS = 100_000_000
# What a sheet has that may be larger: a column beyond Z, a row beyond 999,999, a cell that does not say at once where
# it is. Most have none. Each begins with a letter that is looked for fast; an alternation does not.
_HINTS = (
    re.compile(rb"""=\s*["']\s*(?:[A-Za-z]{2,}[0-9]|[A-Za-z]?[0-9]{7})"""),
    re.compile(rb"<c[\s/>](?!r=)"),
    re.compile(rb":c[\s/>]"),
)
_TAG = re.compile(rb"<(?:[\w.-]+:)?(row|c)(?=[\s/>])([^>]*)>")
_REFERENCE = re.compile(rb"""(?:^|\s)r\s*=\s*["']\s*([A-Za-z]*)([0-9]+)""")


def sheets_of(retailer: Retailer, name: str, path: Path) -> Iterator[tuple[str, list[str], Iterator[list[str]]]]:
    """Each sheet with its header and its rows as text, which all formats have in common.

    The types of cells are a guess of the workbook's author.

    Raises:
        SourceError: It is no workbook, lacks a sheet that the settings name, or does not fit into memory.
    """
    from python_calamine import CalamineError, CalamineWorkbook

    try:
        _refuse_what_does_not_fit(path, retailer.source.max_unpacked_gb)
        workbook = CalamineWorkbook.from_path(str(path))
        missing = [sheet for sheet in retailer.source.sheets if sheet not in workbook.sheet_names]
        if missing:
            raise SourceError(f"{name}: no sheet {', '.join(missing)}; it has {', '.join(workbook.sheet_names)}")
        for sheet in dict.fromkeys(retailer.source.sheets or workbook.sheet_names):
            # The same few dates, prices and names come again and again.
            cell = lru_cache(65_536, typed=True)(partial(_cell, retailer=retailer))
            cells = (list(map(cell, row)) for row in workbook.get_sheet_by_name(sheet).iter_rows())
            rows = (row for row in cells if any(row))
            if header := next(rows, None):
                yield sheet, header, rows
    except (CalamineError, BadZipFile) as error:
        raise SourceError(f"{name}: cannot be read as a workbook: {error}") from None


def _refuse_what_does_not_fit(path: Path, max_gb: float) -> None:
    """Unpack a workbook once without keeping anything: what it says of its own size may be a lie.

    Raises:
        OSError: It unpacks to more than the bound, or the cells of a sheet lie too far apart.
    """
    if not zipfile.is_zipfile(path):
        # An old or a broken one, which calamine tells apart.
        return
    with ZipFile(path) as packed:
        size = 0
        for member in packed.infolist():
            # Else no more would be unpacked than the file says that there is.
            member.file_size = 1 << 62
            is_far = False
            for text in _tags(packed, member, max_gb, size):
                size += len(text)
                is_far = is_far or any(hint.search(text) for hint in _HINTS)
            if is_far and (cells := _area(_tags(packed, member, None, 0))) > _MOST_CELLS:
                raise OSError(
                    f"a sheet spans {cells:,} cells from its first to its last, more than {_MOST_CELLS:,}; take away"
                    " what lies far from the others"
                )


def _tags(packed: ZipFile, member: zipfile.ZipInfo, max_gb: float | None, before: int) -> Iterator[bytes]:
    """What is in a file of the workbook, in pieces that end with a tag, as far as tags are of a sane length."""
    rest = b""
    with packed.open(member) as file:
        for some in chunks(file, max_gb, before):
            whole, end, rest = (rest + some).rpartition(b">")
            yield whole + end
    yield rest


def _area(texts: Iterator[bytes]) -> int:
    """The cells between the first and the last of a sheet that holds a value."""
    row = column = 0
    first: tuple[int, int] | None = None
    last = (0, 0)
    for text in texts:
        for tag, said in _TAG.findall(text):
            found = _REFERENCE.search(said)
            if tag == b"row":
                row, column = int(found[2]) if found else row + 1, 0
                continue
            row, column = (int(found[2]), _number(found[1])) if found else (row, column + 1)
            if not said.endswith(b"/"):
                first = (min(first[0], row), min(first[1], column)) if first else (row, column)
                last = (max(last[0], row), max(last[1], column))
    return (last[0] - first[0] + 1) * (last[1] - first[1] + 1) if first else 0


def _number(letters: bytes) -> int:
    number = 0
    for letter in letters.upper():
        number = number * 26 + letter - 64
    return number


def _cell(value: object, retailer: Retailer) -> str:
    """A workbook's cell as the text that the retailer's CSV has: 17850.0 is 17850, a moment as in date_format."""
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else str(value).replace(".", retailer.source.decimal)
    if isinstance(value, date) and retailer.source.date_format is not None:
        return value.strftime(retailer.source.date_format)
    return str(value)
