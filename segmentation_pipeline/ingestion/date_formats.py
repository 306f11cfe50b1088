"""How dates and times may be written, as SQL that reads a text.

Contains the formats of `source.date_format`. A text that two of them read differently is not read: nothing says which
of the two is right.
"""

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from segmentation_pipeline.config.source_settings import EPOCH_FORMATS, EXCEL_FORMATS, ISO_FORMAT, NAME_CODES
from segmentation_pipeline.ingestion.calendar_names import MONTHS, WEEKDAYS

# A cell of a workbook that holds a date, not a text, has no notation; it is passed on in these.
CELL_FORMATS = ("%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S.%f", "%Y-%m-%d", "%Y-%m-%d %H:%M:%S")
# Day 60 of the first system is 29 February 1900, which was no day.
_FIRST_DAYS = {"excel_1900": ("1899-12-30", 61), "excel_1904": ("1904-01-01", 0)}
_LAST_SERIAL = 2_958_466


def date_format_values(formats: Sequence[str], language: str | None) -> dict[str, Any]:
    """Return the values that the SQL of `time_sql` binds, beside `$time_zone`."""
    values: dict[str, Any] = {
        _parameter(number): _without_names(text) if language and _has_names(text) else text
        for number, text in enumerate(formats)
    }
    if language:
        months = {name: f"{number:02d}" for number, names in enumerate(MONTHS[language], 1) for name in names.split()}
        values["month"], values["weekday"] = _any_of([*months]), _any_of(WEEKDAYS[language].split())
        values["month_names"], values["month_numbers"] = [*months], [*months.values()]
    return values


def time_sql(text: str, formats: Sequence[str], decimal: str, language: str | None) -> str:
    """Return the SQL of the one time that some formats read in a text; null if none does, or two read it differently.

    Args:
        text: The SQL of the text, without blanks around it.
        formats: Formats of `source.date_format`.
        decimal: The decimal mark of serial numbers.
        language: The language of the names of months and weekdays; None: English, as strptime reads them.
    """
    readings = [
        _named_reading(text, name, _parameter(number))
        if language and _has_names(name)
        else _reading(text, name, _parameter(number), decimal)
        for number, name in enumerate(formats)
    ]
    if len(readings) == 1:
        return readings[0]
    listed = ", ".join(readings)
    return f"case when least({listed}) = greatest({listed}) then least({listed}) end"


def _reading(text: str, name: str, parameter: str, decimal: str) -> str:
    if name == ISO_FORMAT:
        return f"iso_time({text}, $time_zone)"
    if name in EXCEL_FORMATS:
        first_day, first = _FIRST_DAYS[name]
        serial = f"try_cast(replace({text}, '{decimal}', '.') as double)"
        time = f"timestamp '{first_day}' + to_seconds(round({serial} * 86400))"
        return f"case when {serial} >= {first} and {serial} < {_LAST_SERIAL} then {time} end"
    if name in EPOCH_FORMATS:
        number = f"try_cast(replace({text}, '{decimal}', '.') as decimal(18, 3))"
        divisor = EPOCH_FORMATS[name]
        # Four-digit years. Other numbers are no times.
        time = f"to_timestamp(cast({number} as double) / {divisor}) at time zone $time_zone"
        return f"case when {number} between 0 and {253_402_300_799 * divisor} then {time} end"
    return f"try_strptime({text}, ${parameter})"


def _named_reading(text: str, name: str, parameter: str) -> str:
    """Return the SQL of a time with a name of a month, which is replaced by its number; null without such a name."""
    plain = f"lower(strip_accents({text}))"
    if re.search(r"%[aA]", name):
        # The first name: in French and Spanish, mar. is Tuesday and March.
        plain = f"trim(regexp_replace({plain}, $weekday, ''))"
    if not re.search(r"%[bB]", name):
        return f"try_strptime({plain}, ${parameter})"
    number = f"$month_numbers[list_position($month_names, regexp_extract({plain}, $month, 1))]"
    return f"try_strptime(regexp_replace({plain}, $month, {number}), ${parameter})"


def _has_names(name: str) -> bool:
    return any(code in name for code in NAME_CODES)


def _without_names(name: str) -> str:
    """Return a format for texts without accents and capitals, with months as numbers and without weekdays."""
    text = re.sub(r"%[bB]\.?", "%m", re.sub(r"%[aA]\.?", "", name))
    return re.sub(r"(%-?.)|[^%]+", lambda part: part[1] or _plain(part[0]), text).strip()


def _plain(text: str) -> str:
    letters = unicodedata.normalize("NFD", text)
    return "".join(letter for letter in letters if not unicodedata.combining(letter)).lower()


def _any_of(names: Sequence[str]) -> str:
    """Return the pattern of one of some names, with the dot of an abbreviation; the longest first."""
    return rf"\b({'|'.join(sorted(names, key=lambda name: (-len(name), name)))})\b[.]?"


def _parameter(number: int) -> str:
    return f"date_format_{number}"
