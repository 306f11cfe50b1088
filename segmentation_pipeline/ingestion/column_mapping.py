"""Which column of a file is which of ours: by name, as the retailer file maps them.

Belongs here: what is compared, and what is said where a column is lacking. Does not: reading the lines (`lines`).
"""

import re

from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.errors import SourceError, shape
from segmentation_pipeline.ingestion.parsing import Part

_SHOWN_COLUMNS, _SHOWN_NAME = 40, 60


def mapped(retailer: Retailer, part: Part) -> dict[str, int]:
    """Our name of each column to its place in the part; names are compared without case and blanks."""
    stand = [plain(name) for name in part.columns]
    wanted = {name: (theirs, stand.count(plain(theirs))) for name, theirs in retailer.columns.source_names().items()}
    if lacking := [f"{name} = {theirs!r}" for name, (theirs, times) in wanted.items() if not times]:
        sheets = ", or name the sheets that have them in source.sheets" if part.source_sheet else ""
        encoding = (
            " Or is source.encoding another?" if any(sign in "".join(part.columns) for sign in "\0\ufffd") else ""
        )
        raise SourceError(
            f"{where(part)}: no column for {', '.join(lacking)}; it has {_shown(told(retailer, part.columns))}. Mend"
            f" [columns] of the retailer file, or leave out a column that the source can do without{sheets}.{encoding}"
        )
    if twice := [f"{name} = {theirs!r}" for name, (theirs, times) in wanted.items() if times > 1]:
        raise SourceError(f"{where(part)}: more than one column for {', '.join(twice)}; it has {_shown(part.columns)}")
    return {name: stand.index(plain(theirs)) for name, (theirs, _) in wanted.items()}


def told(retailer: Retailer, columns: tuple[str, ...]) -> tuple[str, ...]:
    """The names as they may be kept and shown.

    Where not one of those is there that the retailer file names, the header may be a line of data, which names a
    customer: of what has digits in it, or is an address, the shape is shown.
    """
    wanted = {plain(name) for name in retailer.columns.source_names().values()}
    if any(plain(name) in wanted for name in columns):
        return columns
    return tuple(shape(name) if re.search(r"\d|@", name) else name for name in columns)


def plain(name: str) -> str:
    """A column's name as it is compared."""
    return "".join(name.split()).casefold()


def where(part: Part) -> str:
    """The part's file and sheet, for a sentence."""
    return f"{part.source_file}{f' [{part.source_sheet}]' if part.source_sheet else ''}"


def _shown(columns: tuple[str, ...]) -> str:
    """The columns, not a whole file whose delimiter or encoding was guessed wrong."""
    shown = ", ".join("".join(filter(str.isprintable, name[:_SHOWN_NAME])) for name in columns[:_SHOWN_COLUMNS])
    return shown + (f" and {len(columns) - _SHOWN_COLUMNS} more" if len(columns) > _SHOWN_COLUMNS else "")
