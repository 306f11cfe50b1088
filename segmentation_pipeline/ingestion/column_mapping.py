"""Match the columns of a file by name to those of the retailer file.

Contains the comparison of names and its error messages. Reading the lines is in `staging`.
"""

import re

from segmentation_pipeline.config.sections import Columns
from segmentation_pipeline.config.validation import normalised
from segmentation_pipeline.errors import SourceError, mask
from segmentation_pipeline.ingestion.file_formats import Part

_SHOWN_COLUMNS, _SHOWN_NAME = 40, 60


def column_positions(columns: Columns, part: Part) -> dict[str, int]:
    """Return the position in the part of each mapped column, by our name; case and blanks of names do not matter.

    Raises:
        SourceError: A column is missing, or is there more than once.
    """
    names = [normalised(name) for name in part.columns]
    counts = {name: (theirs, names.count(normalised(theirs))) for name, theirs in columns.source_names().items()}
    if missing := [_setting(columns, name) for name, (_, count) in counts.items() if not count]:
        raise SourceError(_missing_message(columns, part, missing))
    if repeated := [_setting(columns, name) for name, (_, count) in counts.items() if count > 1]:
        raise SourceError(
            f"{part.location}: more than one column for {', '.join(repeated)}; it has {_shown(part.columns)}."
            " Rename or remove the others."
        )
    return {name: names.index(normalised(theirs)) for name, (theirs, _) in counts.items()}


def names_to_keep(columns: Columns, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return column names as they may be stored and shown.

    If a file has no column of the retailer file, its header may be a line of data that names a customer. Names with
    digits or `@` are then masked.
    """
    mapped = {normalised(name) for name in columns.source_names().values()}
    if any(normalised(name) in mapped for name in names):
        return names
    return tuple(mask(name) if re.search(r"\d|@", name) else name for name in names)


def _setting(columns: Columns, name: str) -> str:
    """Return the setting of a column as the retailer file has it."""
    return f"{'extra.' if name in columns.extra else ''}{name} = {columns.source_names()[name]!r}"


def _missing_message(columns: Columns, part: Part, missing: list[str]) -> str:
    sheets = ", or name the sheets that have them in source.sheets" if part.source_sheet else ""
    is_undecoded = any(character in "".join(part.columns) for character in "\0\ufffd")
    encoding = " Check source.encoding too." if is_undecoded else ""
    found = _shown(names_to_keep(columns, part.columns))
    return (
        f"{part.location}: no column for {', '.join(missing)}; it has {found}. Correct [columns] of the retailer file,"
        f" or leave out a column that the source does not have{sheets}.{encoding}"
    )


def _shown(names: tuple[str, ...]) -> str:
    """Return the first names, since a wrong delimiter or encoding can make one name of a whole file."""
    shown = ", ".join("".join(filter(str.isprintable, name[:_SHOWN_NAME])) for name in names[:_SHOWN_COLUMNS])
    return shown + (f" and {len(names) - _SHOWN_COLUMNS} more" if len(names) > _SHOWN_COLUMNS else "")
