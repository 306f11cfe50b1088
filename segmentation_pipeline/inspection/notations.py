"""How dates and numbers of a source are written, found by reading all sampled values with the reader's own SQL.

Contains which formats are tried. What a format reads is in `ingestion.date_formats` and `ingestion.number_formats`.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from segmentation_pipeline.config.source_settings import ISO_FORMAT
from segmentation_pipeline.errors import mask
from segmentation_pipeline.ingestion.calendar_names import MONTHS, WEEKDAYS
from segmentation_pipeline.ingestion.date_formats import date_format_values, time_sql
from segmentation_pipeline.ingestion.number_formats import currency_signs, number_sql
from segmentation_pipeline.inspection.contents import Column, Contents, with_all_marks
from segmentation_pipeline.inspection.names import normalised_name

# A format that reads fewer values is not that of the source.
_MIN_READ = 0.95
_MAX_FORMATS, _MAX_PATTERNS = 3, 60
_TOKEN = re.compile(r"\d+|[^\W\d_]+[.]?|[\W_]+")
# Other orders of year, month and day are not in use.
_ORDERS = ("dmY", "mdY", "Ymd")
# Dates that are a single number.
_SINGLE_NUMBERS = (
    (r"\d{8}", "%Y%m%d"),
    (r"\d{8}", "%d%m%Y"),
    (r"\d{8}", "%m%d%Y"),
    (r"\d{12}", "%Y%m%d%H%M"),
    (r"\d{14}", "%Y%m%d%H%M%S"),
    # Files of the system that counts from 1904 are rare; the same number is four years and a day later there.
    (r"\d{5}([.,]\d+)?", "excel_1900"),
    (r"\d{10}([.]\d+)?", "epoch_seconds"),
    (r"\d{13}", "epoch_milliseconds"),
)
_DATE_VALUES = ("date_format_0", "month_names", "month_numbers", "month", "weekday")
_MONTH_NAMES = {language: frozenset(" ".join(months).split()) for language, months in MONTHS.items()}
_SHORT, _LONGEST_MARK = 2, 5
_NUMBER_SIGNS = r"[-+0-9.,()\s'\x{2010}-\x{2015}\x{2019}\x{2212}]"


@dataclass(frozen=True)
class Reading:
    """How one format reads the dates of a column.

    Attributes:
        format: The format.
        language: The language of its names, if they are not English.
        read: How many values it reads.
        first: The first time.
        last: The last time.
        digest: Equal for two formats that read the same times.
    """

    format: str
    language: str | None
    read: int
    first: Any
    last: Any
    digest: int


@dataclass(frozen=True)
class Dates:
    """How dates are written.

    Attributes:
        formats: The formats; none if they are ISO 8601.
        language: The language of names.
        evidence: How many values they read, from when to when.
        choices: The formats to choose from, each with what it reads, if they read all values differently.
        is_unknown: Whether no format that was tried reads any value.
    """

    formats: Sequence[str]
    language: str | None
    evidence: Sequence[str]
    choices: Sequence[Reading] = ()
    is_unknown: bool = False


@dataclass(frozen=True)
class _Search:
    """The values of a column, and the SQL that counts what formats read of them."""

    contents: Contents
    text: str
    decimal: str

    def examples(self) -> list[str]:
        """Return a value of each form, the most frequent forms first."""
        select = (
            f"select min(value) from (select {self.text} as value from cells where {self.text} <> '')"  # noqa: S608 - own SQL
            " group by case when regexp_matches(value, '\\p{L}{3}') then value else masked_pattern(value) end"
            f" order by count(*) desc, 1 limit {_MAX_PATTERNS}"
        )
        return [str(value) for (value,) in self.contents.rows(select)]

    def missing(self, chosen: Sequence[Reading]) -> tuple[int, int]:
        """Return how many values there are, and how many of them no format reads."""
        select = f"select count(*) filter ({self.text} <> ''), count(*) filter ({self._unread(chosen)}) from cells"  # noqa: S608 - own SQL
        [(total, missing)] = self.contents.rows(select, **_values([(one.format, one.language) for one in chosen]))
        return total, missing

    def reading(self, chosen: Sequence[Reading], name: str, language: str | None) -> Reading:
        """Return how a format reads the values that no other reads yet."""
        time = self._time(name, language, len(chosen))
        select = (
            "select count(time), min(time), max(time), coalesce(sum(hash(time, value)), 0) from"  # noqa: S608 - own SQL
            f" (select {time} as time, {self.text} as value from cells where {self._unread(chosen)})"
            " where time is not null"
        )
        values = _values([*((one.format, one.language) for one in chosen), (name, language)])
        [(read, first, last, digest)] = self.contents.rows(select, **values)
        return Reading(name, language, read, first, last, int(digest))

    def _unread(self, chosen: Sequence[Reading]) -> str:
        conditions = [f"{self._time(one.format, one.language, number)} is null" for number, one in enumerate(chosen)]
        return " and ".join([f"{self.text} <> ''", *conditions])

    def _time(self, name: str, language: str | None, number: int) -> str:
        return suffixed(time_sql(self.text, [name], self.decimal, language), _DATE_VALUES, f"_of_{number}")


def dates_of(contents: Contents, columns: Sequence[Column], decimal: str) -> Dates:
    """Return how the dates of a column are written, with the time of a second one behind them if there is one.

    Formats are tried that the forms of the values allow. The one that reads most is taken, then the one that reads most
    of the rest. Two that read the same values as different times are left to be chosen.
    """
    date, *time = columns
    if date.type.startswith(("DATE", "TIMESTAMP")):
        return Dates((), None, (f"The column has times: {date.type}.",))
    search = _Search(contents, f"concat_ws(' ', {date.cell}, {time[0].cell})" if time else date.cell, decimal)
    examples = search.examples()
    candidates = list(dict.fromkeys(candidate for value in examples for candidate in _candidates(value)))
    chosen: list[Reading] = []
    total, missing = search.missing(chosen)
    while len(chosen) < _MAX_FORMATS and missing > (1 - _MIN_READ) * total:
        readings = [search.reading(chosen, *candidate) for candidate in candidates]
        most = max((one.read for one in readings), default=0)
        if not most:
            break
        # Of formats that read the same, the plain one is shown.
        best = sorted((one for one in readings if one.read == most), key=_plainness)
        different = list({one.digest: one for one in reversed(best)}.values())[::-1]
        if len(different) > 1:
            return _open(chosen, different, total)
        chosen.append(best[0])
        total, missing = search.missing(chosen)
    if not chosen:
        patterns = ", ".join(repr(mask(value)) for value in examples[:_MAX_FORMATS])
        return Dates((), None, (f"No format that was tried reads these values: {patterns}.",), is_unknown=True)
    return _chosen(chosen, total, missing)


def _plainness(reading: Reading) -> tuple[bool, int]:
    return reading.format != ISO_FORMAT, len(reading.format)


def _open(chosen: Sequence[Reading], different: Sequence[Reading], total: int) -> Dates:
    evidence = [
        f"{one.format} reads {one.read:,} of {total:,} values, from {one.first} to {one.last}." for one in different
    ]
    language = next((one.language for one in (*chosen, *different) if one.language), None)
    formats = [one.format for one in chosen]
    return Dates(formats, language, ["These formats read the same values as different times:", *evidence], different)


def _chosen(chosen: Sequence[Reading], total: int, missing: int) -> Dates:
    evidence = [
        f"{one.format} reads {one.read:,} of {total:,} values, from {one.first} to {one.last}." for one in chosen
    ]
    if missing:
        evidence.append(f"Not read: {missing:,} of {total:,}; `segments retailer check --sample` shows how they look.")
    formats = [one.format for one in chosen]
    language = next((one.language for one in chosen if one.language), None)
    return Dates(() if formats == [ISO_FORMAT] else formats, language, evidence)


def suffixed(sql: str, names: Iterable[str], suffix: str) -> str:
    """Return SQL whose parameters have another name, so that it can be in one SELECT with itself."""
    return re.sub(rf"\$({'|'.join(names)})\b", rf"$\1{suffix}", sql)


def _values(readings: Sequence[tuple[str, str | None]]) -> dict[str, Any]:
    values: dict[str, Any] = {"time_zone": "UTC"}
    for number, (name, language) in enumerate(readings):
        values |= {f"{key}_of_{number}": value for key, value in date_format_values([name], language).items()}
    return values


def _candidates(value: str) -> Iterator[tuple[str, str | None]]:
    """Yield the formats that the form of a date allows, each with the language of its names."""
    if re.match(r"\d{4}-\d\d?-\d\d?([T ]|$)", value):
        yield ISO_FORMAT, None
    for form, name in _SINGLE_NUMBERS:
        if re.fullmatch(form, value):
            yield name, None
    tokens = _TOKEN.findall(value)
    languages = _languages(tokens)
    for order in _ORDERS:
        text = _format(tokens, order)
        # Nobody writes 24.12.31 for the end of 2024.
        if text and not text.startswith("%y."):
            for name in _with_full_names(text):
                yield name, None
                yield from ((name, language) for language in languages)


def _with_full_names(text: str) -> list[str]:
    """Return a format with short and with full names of months and weekdays."""
    months = [text, text.replace("%b", "%B")]
    return list(dict.fromkeys(name for one in months for name in (one, one.replace("%a", "%A"))))


def _languages(tokens: Sequence[str]) -> list[str]:
    """Return the languages that the names in a date may be of."""
    words = {normalised_name(token) for token in tokens if token[0].isalpha()}
    return [language for language, names in _MONTH_NAMES.items() if words & names]


def _format(tokens: Sequence[str], order: str) -> str:
    """Return the format of a date with its parts in an order; empty if it cannot have that order."""
    parts, times = list(order), list("IMSf" if {"am", "pm"} & {token.lower() for token in tokens} else "HMSf")
    codes = [_code(token, before, parts, times) for before, token in zip(["", *tokens], tokens, strict=False)]
    return "" if parts or "" in codes else "".join(codes)


def _code(token: str, before: str, parts: list[str], times: list[str]) -> str:
    """Return the format code of a part of a text, and remove it from the remaining codes."""
    word = normalised_name(token)
    if token.isdecimal():
        if not parts and times[:1] == ["f"] and before not in (".", ","):
            return ""
        return _number_code(token, parts, times)
    if not token[0].isalpha():
        return token.replace("%", "%%")
    if parts[:1] == ["m"] and any(word in names for names in _MONTH_NAMES.values()):
        parts.pop(0)
        return "%b." if token.endswith(".") else "%b"
    if len(parts) == len(_ORDERS[0]) and any(word in names.split() for names in WEEKDAYS.values()):
        return "%a." if token.endswith(".") else "%a"
    return "%p" if word in ("am", "pm") else token


def _number_code(token: str, parts: list[str], times: list[str]) -> str:
    if not parts:
        return f"%{times.pop(0)}" if times and (len(token) <= _SHORT or times[0] == "f") else ""
    part = parts.pop(0)
    if part == "Y":
        return {2: "%y", 4: "%Y"}.get(len(token), "")
    return f"%{part}" if len(token) <= _SHORT else ""


@dataclass(frozen=True)
class Numbers:
    """How numbers are written.

    Attributes:
        decimal: The decimal mark; None if the values do not say.
        evidence: How many values each mark reads.
    """

    decimal: str | None
    evidence: str


def numbers_of(contents: Contents, columns: Sequence[Column]) -> Numbers:
    """Return the decimal mark of some columns: the one that reads more values.

    Where both read all values, and some of them as other numbers (1,234), nothing says which is right.
    """
    read = {mark: sum(column.numbers[mark] for column in columns) for mark in (".", ",")}
    filled = sum(column.filled for column in columns)
    names = {".": "a point", ",": "a comma"}
    counts = " and ".join(f"{names[mark]} as decimal mark reads {number:,}" for mark, number in read.items())
    evidence = f"of {filled:,} numbers, {counts}"
    if read["."] != read[","]:
        return Numbers(max(read, key=lambda mark: read[mark]), evidence)
    differing = sum(_differing(contents, column) for column in columns)
    if not differing:
        return Numbers(".", f"{evidence}; no number has decimals")
    return Numbers(None, f"{evidence}, {differing:,} of them differently, such as 1,234")


def _differing(contents: Contents, column: Column) -> int:
    """Return how many values two decimal marks read as different numbers."""
    sql: list[str] = []
    values: dict[str, Any] = {}
    for mark, name in ((".", "point"), (",", "comma")):
        marked = with_all_marks(mark)
        sql.append(suffixed(number_sql(column.cell), marked, f"_of_{name}"))
        values |= {f"{key}_of_{name}": value for key, value in marked.items()}
    select = f"select count(*) from cells where {sql[0]} <> {sql[1]}"  # noqa: S608 - own SQL
    [(count,)] = contents.rows(select, **values)
    return int(count)


def marks_of(contents: Contents, columns: Sequence[Column]) -> dict[str, int]:
    """Return the signs and codes beside the numbers of some columns, with how many values have each."""
    marks: dict[str, int] = {}
    for column in columns:
        mark = f"trim(regexp_replace({column.cell}, $number_signs, '', 'g'))"
        numbers = f"regexp_matches({column.cell}, '[0-9]') and mark <> ''"
        select = f"select {mark} as mark, count(*) from cells where {numbers} group by mark order by 2 desc, 1"  # noqa: S608 - own SQL
        for text, number in contents.rows(select, number_signs=_NUMBER_SIGNS):
            if len(text) <= _LONGEST_MARK:
                marks[text] = marks.get(text, 0) + number
    return marks


def currencies_of(mark: str) -> list[str]:
    """Return the currencies that a sign or code can mean."""
    signs = currency_signs()
    return [mark] if mark in signs else [code for code, listed in signs.items() if mark in listed]
