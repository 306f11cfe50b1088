"""How dates and times may be written, as SQL that reads a text.

Contains the formats of `source.date_format`. A text that two of them read differently is not read: nothing says which
of the two is right.
"""

from collections.abc import Sequence

from segmentation_pipeline.config.sections import EPOCH_FORMATS, EXCEL_FORMATS, ISO_FORMAT

# A cell of a workbook that holds a date, not a text, has no notation; it is passed on in these.
CELL_FORMATS = ("%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S.%f", "%Y-%m-%d", "%Y-%m-%d %H:%M:%S")
# Day 60 of the first system is 29 February 1900, which was no day.
_FIRST_DAYS = {"excel_1900": ("1899-12-30", 61), "excel_1904": ("1904-01-01", 0)}
_LAST_SERIAL = 2_958_466


def date_format_values(formats: Sequence[str]) -> dict[str, str]:
    """Return the values that the SQL of `time_sql` binds, beside `$time_zone`."""
    return {f"date_format_{number}": text for number, text in enumerate(formats)}


def time_sql(text: str, formats: Sequence[str], decimal: str) -> str:
    """Return the SQL of the one time that some formats read in a text; null if none does, or two read it differently.

    Args:
        text: The SQL of the text, without blanks around it.
        formats: Formats of `source.date_format`.
        decimal: The decimal mark of serial numbers.
    """
    readings = [_reading(text, name, f"${name_of}", decimal) for name_of, name in date_format_values(formats).items()]
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
    return f"try_strptime({text}, {parameter})"
