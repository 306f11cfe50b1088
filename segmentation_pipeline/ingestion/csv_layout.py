"""How a CSV is laid out: its delimiter, the lines above its header, and the names of its columns.

Contains the first lines of a file, and how a line is split. Which records are malformed is in `file_formats`.
"""

import csv
import re
import typing
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, islice

from segmentation_pipeline.config.source_settings import WHITESPACE, Source
from segmentation_pipeline.config.validation import normalised

if typing.TYPE_CHECKING:
    import _csv

# Spreadsheet programs write this line and read the delimiter from it. No column has such a name.
_SEP_LINE = re.compile(r"""\ufeff?"?sep=([^\w"]?)"?[,;\t| ]*""", re.IGNORECASE)
_QUOTED_OR_BLANKS = re.compile(r'(?<![^ \t])"[^"]*(?:""[^"]*)*"|[ \t]+')
# Enough to know how many columns most lines have, where the first is damaged.
_SEARCHED_LINES = 100
_USUAL_DELIMITERS = (",", ";", "\t", "|")


@dataclass(frozen=True)
class Layout:
    """How a CSV is laid out.

    Attributes:
        delimiter: One character, or `whitespace`.
        skipped: The number of lines above the header, or above the first record where there is no header.
        has_header: Whether the first line that is not skipped has the names of the columns.
    """

    delimiter: str = ","
    skipped: int = 0
    has_header: bool = True

    @property
    def first_line(self) -> int:
        """The number of the first record below the header."""
        return self.skipped + self.has_header + 1


def layout_of(source: Source, lines: Iterator[str]) -> tuple[Layout, Iterator[str]]:
    """Return the layout of a file, and its lines from the header on.

    A line such as `sep=;` is the first line, or the first that is not skipped.
    """
    head = list(islice(lines, source.skip_lines + 1))
    separators = [separator_of(line) for line in (head[:1] + head[source.skip_lines :])]
    delimiter = source.delimiter or next(filter(None, separators), ",")
    has_sep_line = len(head) > source.skip_lines and separators[-1] is not None
    skipped = source.skip_lines + has_sep_line
    return Layout(delimiter, skipped, source.header), chain(head[skipped:], lines)


def separator_of(line: str) -> str | None:
    """Return the delimiter that a line such as `sep=;` names, which may be empty; None if it is no such line."""
    found = _SEP_LINE.fullmatch(line.rstrip("\r\n"))
    return found[1] if found else None


def csv_reader(lines: Iterable[str], delimiter: str) -> "_csv.Reader":
    """Return Python's reader of lines that are separated by a character or by whitespace."""
    if delimiter == WHITESPACE:
        lines, delimiter = map(_with_tabs, lines), "\t"
    return csv.reader(lines, delimiter=delimiter, strict=True)


def numbered_columns(lines: Iterable[str], delimiter: str) -> tuple[str, ...]:
    """Return the positions of the columns of a file without a header, as text: as many as most of its records have.

    Raises:
        csv.Error: The file has lines, and none of them is a record.
    """
    first = list(islice(lines, _SEARCHED_LINES))
    widths = Counter(map(len, _records(first, delimiter) or (_fields(line, delimiter) for line in first)))
    del widths[0]
    if not widths and any(line.strip() for line in first):
        raise csv.Error(f"none of its first {len(first)} lines is a record; check the quotes, and source.delimiter")
    [(width, _)] = widths.most_common(1) or [(0, 0)]
    return positions(width)


def layout_hint(wanted: Iterable[str], lines: Iterable[str], layout: Layout) -> str:
    """Return what to set if one of the first lines has the names of some columns; empty if none has."""
    names = {normalised(name) for name in wanted}
    for number, line in enumerate(islice(lines, _SEARCHED_LINES)):
        for delimiter in dict.fromkeys((layout.delimiter, *_USUAL_DELIMITERS)):
            if not names <= {normalised(name) for name in _fields(line, delimiter)}:
                continue
            skip = [f"source.skip_lines = {number}"] if number != layout.skipped else []
            other = [f'source.delimiter = "{delimiter}"'.replace("\t", r"\t")] if delimiter != layout.delimiter else []
            return f" Line {number + 1} has these names: set {' and '.join(skip + other)}."
    return ""


def _records(lines: Iterable[str], delimiter: str) -> list[list[str]]:
    """Return the records above the first malformed one, which may have several lines."""
    found: list[list[str]] = []
    with suppress(csv.Error):
        found.extend(csv_reader(lines, delimiter))
    return found


def _fields(line: str, delimiter: str) -> list[str]:
    """Return the fields of a line that is a record of its own; none of a malformed one."""
    try:
        return next(csv_reader([line], delimiter), [])
    except csv.Error:
        return []


def positions(width: int) -> tuple[str, ...]:
    """Return the names of columns without a header: 1, 2, 3 ..."""
    return tuple(map(str, range(1, width + 1)))


def _with_tabs(line: str) -> str:
    """Return a line with a tab in place of each run of blanks and tabs outside of quotes."""
    return _QUOTED_OR_BLANKS.sub(lambda found: found[0] if found[0][0] == '"' else "\t", line.strip(" \t\r\n"))
