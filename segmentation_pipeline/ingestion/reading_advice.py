"""Which setting reads the values that could not be read, judged by their masked patterns.

Contains texts. Which patterns occur, and how often, is in the table `unparsed_values`.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from segmentation_pipeline.config.source_settings import ISO_FORMAT, Source

# Forms of dates that only one format of `source.date_format` reads.
_CERTAIN_FORMATS = {
    r"9999-99?-99?([ a]9.*)?": ISO_FORMAT,
    r"9{5}([.,]9+)?": "excel_1900",
    r"9{10}": "epoch_seconds",
    r"9{13}": "epoch_milliseconds",
}
# Months and weekdays by name, and not the T of ISO 8601.
_WITH_NAME = re.compile(r".*a{3,}.*9.*|.*9.*a{3,}.*")
_DAY_AND_MONTH = re.compile(r"99?(?P<mark>[./-])99?(?P=mark)(?P<year>9999|99)(?P<time> 99?:99(?P<seconds>:99)?)?")


def reading_advice(rows: Sequence[dict[str, Any]], source: Source) -> list[str]:
    """Return what to do about the unreadable values of one column.

    Args:
        rows: The rows of `unparsed_values` of the column, in order.
        source: The settings of the source.
    """
    column, patterns = str(rows[0]["column_name"]), [str(row["pattern"]) for row in rows]
    if column == "line":
        return ["If these lines are not malformed, check source.delimiter and source.encoding."]
    advice = _date_advice(patterns, source) if column == "transaction_at" else _number_advice(column, patterns, source)
    return list(dict.fromkeys(advice))


def _date_advice(patterns: Sequence[str], source: Source) -> Iterator[str]:
    if "" in patterns and "transaction_at" not in source.fill_down:
        yield (
            "A line without a date is not read. If the source writes the date on the first line of an invoice only, set"
            ' source.fill_down = ["transaction_at"].'
        )
    written = [pattern for pattern in patterns if pattern]
    if not written:
        return
    if source.date_language is None and any(map(_WITH_NAME.fullmatch, written)):
        yield (
            'Names of months in another language than English are read with source.date_language, such as "de", and'
            " %b or %B in source.date_format."
        )
    present = list(source.date_formats) or [ISO_FORMAT]
    possible = [name for pattern in written if (name := _possible_format(pattern, present))]
    formats = list(dict.fromkeys([*present, *possible]))
    listed = ", ".join(f'"{name}"' for name in formats) + ("" if len(formats) > len(present) else ", ...")
    guessed = [name for name in formats[len(present) :] if "%d" in name]
    order = f" If the other of day and month is first, it is {_swapped(guessed[0])}." if guessed else ""
    yield (
        f"If this is how dates are written, list every format: source.date_format = [{listed}].{order} A value that two"
        " of them read differently is rejected."
    )


def _possible_format(pattern: str, present: Sequence[str]) -> str:
    """Return a format that may read the pattern, with the day first unless a format that is set has the month first."""
    for form, name in _CERTAIN_FORMATS.items():
        if re.fullmatch(form, pattern):
            return name
    if not (found := _DAY_AND_MONTH.fullmatch(pattern)):
        return ""
    month_first = any("%d" in name.partition("%m")[2] for name in present if not name.startswith("%Y"))
    day, month = ("%m", "%d") if month_first else ("%d", "%m")
    time = (" %H:%M" + (":%S" if found["seconds"] else "")) if found["time"] else ""
    return found["mark"].join([day, month, "%Y" if found["year"] == "9999" else "%y"]) + time


def _swapped(name: str) -> str:
    return name.replace("%d", "%D").replace("%m", "%d").replace("%D", "%m")


def _number_advice(column: str, patterns: Sequence[str], source: Source) -> Iterator[str]:
    for pattern in patterns:
        if not pattern:
            yield f"A line without {column} is not read; check which column of the source [columns] names."
        elif "9" not in pattern:
            yield "A text without digits is no number; correct the source."
        elif column == "amount" and re.fullmatch(r"[-9.]+ a [-9.]+", pattern):
            yield "A product of quantity and price beyond 14 digits is not read; correct the source."
        elif re.fullmatch(r"[-+9., ']+", pattern):
            yield (
                f'The decimal mark is source.decimal = "{source.decimal}"; if these numbers have the other one, change'
                " it. Numbers with more decimals than the column has are not rounded."
            )
        elif column == "quantity":
            yield "A quantity with other characters than those of a number is not read; correct the source."
        else:
            yield (
                "If a sign or code of the retailer's currency stands beside these numbers, list it in"
                " source.currency_marks."
            )
