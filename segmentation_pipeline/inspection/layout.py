"""How a text is laid out: its encoding, its delimiter, and the line with the names of its columns.

Contains guesses by what most lines have in common. The reader's own part is `ingestion.csv_layout`, whose function
splits the lines here too; for sheets only the line with the names is looked for.
"""

import codecs
import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from io import StringIO
from itertools import islice
from pathlib import Path

from segmentation_pipeline.config.source_settings import WHITESPACE
from segmentation_pipeline.config.validation import normalised
from segmentation_pipeline.ingestion.csv_layout import csv_reader, separator_of
from segmentation_pipeline.ingestion.decompression import byte_order_encoding, decompressed

# A semicolon or a tab is in fewer texts and numbers than a comma, so it counts first where both divide lines equally.
_DELIMITERS = ("\t", ";", "|", ",", "^", "~", ":")
_MIN_WIDTH, _MIN_SHARE = 2, 0.5
_SHOWN_LINES, _MAX_BYTES, _MAX_GB = 200, 256 << 20, 4
_MAX_TITLE_LINES = 50
_ENCODINGS = ("cp1252", "iso-8859-15", "cp1250", "cp850", "mac_roman")
# Letters and signs of the languages in which exports are expected; others in their place speak against an encoding.
_USUAL = frozenset(
    "äöüÄÖÜßàâæçéèêëîïôœùûüÿÀÂÆÇÉÈÊËÎÏÔŒÙÛÜáéíóúñÁÉÍÓÚÑ¿¡ãõÃÕªºåøÅØ€£°„«»…§®™²½\u00a0\u2013\u2014\u2018\u2019\u201c\u201d"
)
_VALUE = re.compile(r"[-+(]?[\W_]*\d[\d.,:' /-]*\)?%?|.*@.*\..*|\d{1,4}[-./]\d{1,2}[-./]\d{1,4}.*")


@dataclass(frozen=True)
class Found:
    """What was found of a setting: its value, why, and the possible values if it is not certain."""

    value: str | int | bool | None
    evidence: str
    choices: Sequence[str] = ()


@dataclass(frozen=True)
class TextLayout:
    """The layout of a text; `None` where the default of the retailer file reads it.

    Attributes:
        encoding: Its encoding.
        delimiter: What separates its fields.
        skip_lines: How many lines are above the names of the columns, or above the first line.
        header: Whether a line has the names of the columns.
    """

    encoding: Found
    delimiter: Found
    skip_lines: Found
    header: Found
    lines: Sequence[str] = field(default=(), repr=False)


def text_layout(path: Path) -> TextLayout:
    """Return the layout of a text file, which may be compressed."""
    encoding = _encoding(path)
    lines = first_text_lines(path, str(encoding.value or "utf-8"))
    separator = separator_of(lines[0]) if lines else None
    said = Found(None, f"the first line says that it is {_shown(separator)}") if separator else None
    delimiter = said or _delimiter(lines)
    mark = separator or str(delimiter.value or ",")
    width = _usual_width(lines, mark)
    rows = [_fields(line, mark) for line in lines[: _MAX_TITLE_LINES + 1]]
    skip, header = header_line(rows, width)
    if separator and skip.value == 1:
        skip = Found(None, skip.evidence)
    return TextLayout(encoding, delimiter, skip, header, lines)


def header_line(rows: Sequence[Sequence[str]], width: int) -> tuple[Found, Found]:
    """Return how many lines to skip, and whether the line below them has the names of the columns.

    Args:
        rows: The fields of the first lines.
        width: How many fields most records have.
    """
    for number, row in enumerate(rows):
        is_wide = len(row) >= width and sum(bool(text.strip()) for text in row) >= max(2, width / 2)
        if not is_wide and width > 1:
            continue
        has_text_above = any(any(text.strip() for text in one) for one in rows[:number])
        skip = Found(number if has_text_above else None, f"line {number + 1} is the first with {width} fields")
        if _are_names(row):
            return skip, Found(None, f"line {number + 1} has names, and no numbers or dates")
        if has_text_above or number == 0:
            return skip, Found(False, f"line {number + 1} has numbers or dates, so no line has names")
    return Found(None, "no line is as wide as most records"), Found(None, "")


def first_text_lines(path: Path, encoding: str) -> list[str]:
    """Return the first lines of a text as the reader decodes them."""
    content = decompressed(path, _MAX_GB)
    start = next(content, b"")
    used = byte_order_encoding(start) or encoding
    text = "".join(codecs.iterdecode([start], used, errors="replace")).removeprefix("\ufeff")
    return list(islice(StringIO(text, newline=""), _SHOWN_LINES))


def _are_names(row: Sequence[str]) -> bool:
    texts = [text.strip() for text in row if text.strip()]
    different = {normalised(text) for text in texts}
    return not any(map(_VALUE.fullmatch, texts)) and len(different) >= len(texts) / 2


def _encoding(path: Path) -> Found:
    """Return the encoding of all of a file, or of its first 256 MB."""
    decoder, size, others = codecs.getincrementaldecoder("utf-8")(), 0, bytearray()
    is_utf8, is_ascii, nulls = True, True, 0
    for chunk in decompressed(path, _MAX_GB):
        if not size:
            if by_mark := byte_order_encoding(chunk):
                return Found(None, f"the file begins with the byte order mark of {by_mark.upper()}")
            nulls = chunk.count(0)
            if nulls > len(chunk) / 10:
                name = "utf-16-le" if chunk[1::2].count(0) > chunk[::2].count(0) else "utf-16-be"
                return Found(name, "every other byte is zero")
        size += len(chunk)
        if not chunk.isascii():
            is_ascii = False
            others += bytes(byte for byte in chunk if byte > 127) if len(others) < 1 << 16 else b""
        with suppress(UnicodeDecodeError):
            if is_utf8:
                is_utf8 = False
                decoder.decode(chunk)
                is_utf8 = True
        if size >= _MAX_BYTES:
            break
    if is_utf8:
        return Found(None, "all bytes are ASCII" if is_ascii else "all bytes are valid UTF-8")
    return _single_byte_encoding(bytes(others))


def _single_byte_encoding(others: bytes) -> Found:
    """Return the encoding in which the bytes beyond ASCII are letters of Western European languages most often."""
    texts = {name: others.decode(name, errors="replace") for name in _ENCODINGS}
    scores = {name: sum(letter in _USUAL for letter in text) / len(text) for name, text in texts.items()}
    best = max(scores.values())
    possible = [name for name in _ENCODINGS if scores[name] == best]
    letters = ", ".join(f"{letter} ({number:,})" for letter, number in Counter(texts[possible[0]]).most_common(5))
    evidence = f"some bytes are not valid UTF-8; in {possible[0]} they are {letters}"
    if len({texts[name] for name in possible}) == 1:
        return Found(possible[0], evidence)
    return Found(None, evidence, choices=possible)


def _delimiter(lines: Sequence[str]) -> Found:
    shares = {mark: _share_of_usual_width(lines, mark) for mark in (*_DELIMITERS, WHITESPACE)}
    usual = {mark: share for mark, share in shares.items() if share >= _MIN_SHARE and mark != WHITESPACE}
    # Of those that divide nearly all lines, one that makes a line of names is right.
    likely = {mark: share for mark, share in usual.items() if share >= max(usual.values()) - 0.02}
    if not likely:
        share = shares[WHITESPACE]
        if share >= _MIN_SHARE and _usual_width(lines, WHITESPACE) > _MIN_WIDTH:
            return Found(WHITESPACE, _evidence(lines, WHITESPACE, share))
        return Found(None, "no character divides most lines into the same number of fields")
    with_names = [mark for mark in likely if _has_names(lines, mark)] or list(likely)
    mark = with_names[0]
    return Found(None if mark == "," else mark, _evidence(lines, mark, shares[mark]))


def _evidence(lines: Sequence[str], mark: str, share: float) -> str:
    width = _usual_width(lines, mark)
    return f"{_shown(mark)} divides {share:.0%} of the first {len(lines):,} lines into {width} fields"


def _shown(mark: str) -> str:
    return {"\t": "a tab", ",": "a comma", ";": "a semicolon"}.get(mark, repr(mark))


def _has_names(lines: Sequence[str], mark: str) -> bool:
    width = _usual_width(lines, mark)
    rows = [_fields(line, mark) for line in lines[:_MAX_TITLE_LINES]]
    return header_line(rows, width)[1].value is None and any(len(row) >= width for row in rows)


def _widths(lines: Iterable[str], mark: str) -> Counter[int]:
    widths: Counter[int] = Counter()
    rest = iter(list(lines))
    # After a malformed record, reading goes on with the next line.
    while True:
        try:
            row = next(csv_reader(rest, mark), None)
        except csv.Error:
            continue
        if row is None:
            return widths
        if row:
            widths[len(row)] += 1


def _usual_width(lines: Sequence[str], mark: str) -> int:
    # The widest of those that are nearly as frequent: lines of a title are short.
    widths = {width: number for width, number in _widths(lines, mark).items() if width >= _MIN_WIDTH}
    return max(widths, key=lambda width: (widths[width], width), default=1)


def _share_of_usual_width(lines: Sequence[str], mark: str) -> float:
    widths = _widths(lines, mark)
    return widths[_usual_width(lines, mark)] / max(sum(widths.values()), 1) if _usual_width(lines, mark) > 1 else 0.0


def _fields(line: str, mark: str) -> list[str]:
    try:
        return next(csv_reader([line], mark), [])
    except csv.Error:
        return []


def sheet_width(rows: Iterable[Sequence[str]]) -> int:
    """Return how many cells up to the last one that is filled most rows of a sheet have."""
    widths = Counter(_filled(row) for row in rows)
    del widths[0]
    return max(widths, key=lambda width: (widths[width], width), default=0)


def _filled(row: Sequence[str]) -> int:
    return max((number for number, text in enumerate(row, 1) if text.strip()), default=0)


def shown_rows(rows: Iterator[Sequence[str]]) -> list[list[str]]:
    """Return the first rows of a sheet."""
    return [list(row) for row in islice(rows, _SHOWN_LINES)]
