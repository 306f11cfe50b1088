"""Which column of a source is which, by its name and by what it contains.

Contains the choice. Names are in `names`, counts of the contents in `contents`. Columns that fit equally well are left
for a person to choose.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from segmentation_pipeline.inspection.contents import Column, Contents
from segmentation_pipeline.inspection.names import rank

_MAX_CHOICES = 12
# How many distinct values the column of a status has at most.
_MAX_LABELS = 20
# Where dates and customers stand only on the first line of an order, most are empty.
_MIN_FILLED = 0.02


@dataclass(frozen=True)
class Mapped:
    """A column that was found for a role.

    Attributes:
        role: Our name of the column.
        column: The column; None if there is none, or if several fit.
        evidence: Why.
        choices: The columns that fit equally well.
    """

    role: str
    column: Column | None
    evidence: str = ""
    choices: Sequence[Column] = ()

    @property
    def columns(self) -> list[Column]:
        """The column, or those to choose from."""
        return [self.column] if self.column else list(self.choices)


def mapped_columns(contents: Contents) -> dict[str, Mapped]:
    """Return the column of each role that the source has, by role.

    A column has one role. The roles that few columns can have come first.
    """
    found: dict[str, Mapped] = {}
    used: list[Column] = []
    for role, fits in _ROLES.items():
        candidates = [column for column in contents.columns if column not in used and fits(column, contents.lines)]
        mapped = _best(role, candidates, contents.lines)
        if mapped is None and role in _BY_CONTENT:
            mapped = _by_content(role, candidates)
        if mapped:
            found[role] = mapped
            used += [mapped.column] if mapped.column else []
    return found


def _best(role: str, candidates: Sequence[Column], lines: int) -> Mapped | None:
    ranks = {column.cell: rank(role, column.name) for column in candidates}
    named = [column for column in candidates if ranks[column.cell] is not None]
    if not named:
        return None
    best = min(value for value in ranks.values() if value is not None)
    first = [column for column in named if ranks[column.cell] == best]
    others = [column.name for column in named if column not in first]
    also = f"; also possible: {', '.join(others[:_MAX_CHOICES])}" if others else ""
    if len(first) > 1 and role in _CERTAIN and not _are_equal(first):
        return Mapped(role, None, f"{len(first)} columns have such a name{also}", first)
    return Mapped(role, first[0], f"by its name; {_contents(first[0], lines)}{also}")


def _are_equal(columns: Sequence[Column]) -> bool:
    """Return whether columns have the same counts, as with a header that has a name twice."""
    return len({(column.name, column.filled, column.distinct) for column in columns}) == 1


def _by_content(role: str, candidates: Sequence[Column]) -> Mapped | None:
    """Return what the contents alone say: a single column of dates is that of the sale."""
    if role == "transaction_at":
        dates = [column for column in candidates if column.is_date]
        epochs = [column for column in candidates if column.epochs >= 0.9 * column.filled]
        if len(dates or epochs) == 1:
            return Mapped(role, (dates or epochs)[0], "the only column of dates or times")
        candidates = dates or epochs
        if not candidates:
            return None
    return Mapped(role, None, "no column has such a name", candidates[:_MAX_CHOICES])


def _contents(column: Column, lines: int) -> str:
    kind = column.type.lower() or (
        "dates"
        if column.is_date
        else "whole numbers"
        if column.is_integer
        else "numbers"
        if column.is_number
        else "texts"
    )
    filled = f"{column.filled:,} of {lines:,} values, {column.distinct:,} different" if lines else "no values"
    return f"{kind}: {filled}"


def _is_time(column: Column, lines: int) -> bool:
    if column.type.startswith(("DATE", "TIMESTAMP")):
        return True
    is_serial = column.is_number and rank("transaction_at", column.name) is not None
    is_epoch = column.filled > 0 and column.epochs >= 0.9 * column.filled
    return column.filled >= _MIN_FILLED * lines and (column.is_date or is_serial or is_epoch)


def _is_id(column: Column, lines: int) -> bool:
    has_decimals = column.is_number and not column.is_integer and column.letters == 0 and column.distinct > 1
    # Ids can have a decimal zero, which a spreadsheet wrote, or the form of a date, such as INV-2024-01-0003.
    is_other = (has_decimals or column.is_date) and not _is_named_id(column)
    return column.filled >= _MIN_FILLED * lines and not is_other


def _is_named_id(column: Column) -> bool:
    return any(rank(role, column.name) is not None for role in ("customer_id", "invoice", "stock_code"))


def _is_number(column: Column, lines: int) -> bool:
    return column.filled >= _MIN_FILLED * lines and column.is_number and not column.is_date


def _is_label(column: Column, lines: int) -> bool:
    return column.filled >= _MIN_FILLED * lines and column.distinct <= _MAX_LABELS and not column.is_date


def _is_text(column: Column, lines: int) -> bool:
    return column.letters > 0.5 * column.filled and not column.is_date


def _is_country(column: Column, lines: int) -> bool:
    return column.filled > 0 and column.letters > 0.9 * column.filled and column.distinct <= 250


def _is_invoice(column: Column, lines: int) -> bool:
    # A name of a product or a person is none, though Shopify calls the order so.
    is_name = column.name.strip().casefold() == "name"
    return _is_id(column, lines) and not (is_name and column.distinct > 1 and column.letters > 0.5 * column.filled)


def _has_any(column: Column, lines: int) -> bool:
    return column.filled > 0


_ROLES: dict[str, Callable[[Column, int], bool]] = {
    "transaction_at": _is_time,
    "currency": _is_label,
    "invoice": _is_invoice,
    "customer_id": _is_id,
    "quantity": _is_number,
    "price": _is_number,
    "amount": _is_number,
    "stock_code": _is_id,
    "description": _is_text,
    "country": _is_country,
    "status": _is_label,
    "transaction_time": _has_any,
}
# Where a wrong column gives wrong segments, two that fit equally well are not chosen between.
_CERTAIN = ("transaction_at", "customer_id", "invoice", "quantity", "price", "amount")
# The segments need these.
_BY_CONTENT = ("transaction_at", "customer_id")
