"""Match the columns of a file by name or position to those of the retailer file.

Contains the comparison of names and its error messages. Reading the lines is in `staging`.
"""

import re

from segmentation_pipeline.config.sections import Columns
from segmentation_pipeline.config.validation import normalised
from segmentation_pipeline.errors import SourceError, mask
from segmentation_pipeline.ingestion.csv_layout import layout_hint
from segmentation_pipeline.ingestion.file_formats import Part, first_lines

_SHOWN_COLUMNS, _SHOWN_NAME = 40, 60


def column_positions(columns: Columns, part: Part) -> dict[str, int]:
    """Return the position in the part of each mapped column, by our name: the first if there are several.

    Raises:
        SourceError: A column is missing.
    """
    places = _places(columns, part)
    if missing := [name for name, found in places.items() if not found]:
        raise SourceError(_missing_message(columns, part, missing))
    return {name: found[0] for name, found in places.items()}


def repeated_columns(columns: Columns, part: Part) -> dict[str, list[int]]:
    """Return all positions of each mapped column whose name the part has more than once, by our name.

    Raises:
        SourceError: They are keys of JSON objects, each of which may have another of them.
    """
    repeated = {name: found for name, found in _places(columns, part).items() if len(found) > 1}
    if repeated and part.kind == "jsonl":
        listed = ", ".join(_setting(columns, name) for name in repeated)
        raise SourceError(
            f"{part.location}: more than one key for {listed}; it has {_shown(part.columns)}. Rename or remove the"
            " others."
        )
    return repeated


def differing_message(columns: Columns, part: Part, name: str, found: list[int], lines: int, first: int | None) -> str:
    """Return the message for columns of the same name that have other values in some lines."""
    numbers = " and ".join(str(position + 1) for position in found)
    count = "1 line" if lines == 1 else f"{lines:,} lines"
    return (
        f"{part.location}: columns {numbers} are both named as in {_setting(columns, name)}, and differ in {count}"
        f"{f', first in line {first}' if first else ''}. Set the position of the right one: {name} = {found[0] + 1}."
    )


def names_to_keep(columns: Columns, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return column names as they may be stored and shown.

    If a file has no column of the retailer file, its header may be a line of data that names a customer. Names with
    digits or `@` are then masked.
    """
    mapped = {normalised(str(name)) for name in columns.source_names().values()}
    if any(normalised(name) in mapped for name in names):
        return names
    return tuple(mask(name) if re.search(r"\d|@", name) else name for name in names)


def _places(columns: Columns, part: Part) -> dict[str, list[int]]:
    """Return all positions of each mapped column; case and blanks of names do not matter."""
    names = [normalised(name) for name in part.columns]
    has_positions = part.kind != "jsonl"
    return {
        name: [position for position, found in enumerate(names) if found == normalised(theirs)]
        if isinstance(theirs, str)
        else [theirs - 1] * (has_positions and theirs <= len(names))
        for name, theirs in columns.source_names().items()
    }


def _setting(columns: Columns, name: str) -> str:
    """Return the setting of a column as the retailer file has it."""
    return f"{'extra.' if name in columns.extra else ''}{name} = {columns.source_names()[name]!r}"


def _missing_message(columns: Columns, part: Part, missing: list[str]) -> str:
    names = ", ".join(_setting(columns, name) for name in missing)
    sheets = ", or name the sheets that have them in source.sheets" if part.source_sheet else ""
    found = _shown(names_to_keep(columns, part.columns))
    if not part.layout.has_header:
        count = len(part.columns)
        found = f"{count} column{'s' if count > 1 else ''}"
    return (
        f"{part.location}: no column for {names}; it has {found}. Correct [columns] of the retailer file,"
        f" or leave out a column that the source does not have{sheets}.{_hint(columns, part, missing)}"
    )


def _hint(columns: Columns, part: Part, missing: list[str]) -> str:
    """Return which other settings may be wrong."""
    if part.kind == "jsonl":
        return ""
    if any(character in "".join(part.columns) for character in "\0\ufffd"):
        return " Check source.encoding too."
    wanted = [theirs for theirs in columns.source_names().values() if isinstance(theirs, str)]
    if not part.layout.has_header:
        return " Check source.delimiter too." if part.kind == "csv" else ""
    if part.kind == "csv" and (hint := layout_hint(wanted, first_lines(part.path), part.layout)):
        return hint
    if part.kind != "parquet" and len(missing) == len(columns.source_names()):
        return " If its header is further down, set source.skip_lines; if it has none, set source.header = false."
    return ""


def _shown(names: tuple[str, ...]) -> str:
    """Return the first names, since a wrong delimiter or encoding can make one name of a whole file."""
    shown = ", ".join("".join(filter(str.isprintable, name[:_SHOWN_NAME])) for name in names[:_SHOWN_COLUMNS])
    return shown + (f" and {len(names) - _SHOWN_COLUMNS} more" if len(names) > _SHOWN_COLUMNS else "")
