"""Which ids name the same customer: normalisations of ids, and the mapping of merged customers.

Contains the SQL that replaces ids before they are hashed and stored, and the search for ids that differ in form only.
"""

import csv
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import duckdb

from segmentation_pipeline.config.paths import expanded
from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.config.sections import Normalisation
from segmentation_pipeline.errors import SourceError

NORMALISATIONS: tuple[str, ...] = get_args(Normalisation)
_DIFFERENCES = {
    "trim": "tabs or invisible characters around them",
    "strip_decimal": "a decimal zero",
    "strip_leading_zeros": "leading zeros",
    "lower": "upper and lower case",
}
_HEADER = ["old_id", "new_id"]
# White space, control characters and invisible ones such as a byte order mark.
_BLANKS = r"[\s\p{Z}\p{Cc}\p{Cf}]+"


def as_read(customer_id: str) -> str:
    """Return the SQL of an id as `raw_transactions.sql` reads it: without spaces around it and `.0` behind a number."""
    return rf"regexp_replace(trim({customer_id}), '^([0-9]+)[.]0+$', '\1')"


def normalised(customer_id: str, normalisations: Iterable[str]) -> str:
    """Return the SQL of an id after some normalisations; null where nothing is left."""
    names, text = set(normalisations), customer_id
    if not names:
        return text
    if "trim" in names:
        text = f"nullif(regexp_replace({text}, '^{_BLANKS}|{_BLANKS}$', '', 'g'), '')"
    zeros = "0*" if "strip_leading_zeros" in names else ""
    mark = "[.,]" if "strip_decimal" in names else "[.]"
    text = rf"regexp_replace({text}, '^{zeros}([0-9]+)({mark}0+)?$', '\1')"
    return f"lower({text})" if "lower" in names else text


@dataclass(frozen=True)
class CustomerIds:
    """How the ids of a source become customers; unchanged by default.

    Attributes:
        normalisations: The settings `customers.normalise`.
        merged: The id that replaces each old one, after the normalisations.
    """

    normalisations: tuple[str, ...] = ()
    merged: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, retailer: Retailer, base: Path) -> "CustomerIds":
        """Return what the settings say, with the mapping of merged customers.

        Raises:
            SourceError: The mapping cannot be read, or is not valid.
        """
        normalisations = tuple(retailer.customers.normalise)
        path = retailer.customers.merged
        return cls(normalisations, _merged(base / expanded(path), normalisations) if path else {})

    @property
    def change_ids(self) -> bool:
        """Whether a customer can be stored under another id than that of the source."""
        return bool(self.normalisations or self.merged)

    @cached_property
    def merged_digest(self) -> str:
        """Eight hex digits that change with the mapping; empty without one."""
        return hashlib.sha256(repr(sorted(self.merged.items())).encode()).hexdigest()[:8] if self.merged else ""

    @property
    def values(self) -> dict[str, Any]:
        """The values that the SQL binds."""
        return {"merged_from": [*self.merged], "merged_into": [*self.merged.values()]} if self.merged else {}

    def with_customer(self, select: str) -> str:
        """Return a SELECT of lines with two more columns: the normalised id, and the `customer` that it names."""
        name = normalised("customer_id", self.normalisations)
        lines = f"select *, {name} as normalised_id from ({select})"  # noqa: S608 - own SQL
        if not self.merged:
            return f"select *, normalised_id as customer from ({lines})"  # noqa: S608 - own SQL
        return (
            "select lines.*, coalesce(merged.new_id, lines.normalised_id) as customer"  # noqa: S608 - own SQL
            f" from ({lines}) as lines left join (select unnest(cast($merged_from as varchar[])) as old_id,"
            " unnest(cast($merged_into as varchar[])) as new_id) as merged on lines.normalised_id = merged.old_id"
        )

    def names_of(self, customer: str) -> list[str]:
        """Return every id that is known to name a customer, who is given as the source or a table writes them."""
        [(read, name)] = _rows(f"select {as_read('id')}, {normalised(as_read('id'), self.normalisations)}", [customer])
        current = self.merged.get(name, name)
        old = sorted(old for old, new in self.merged.items() if new == current)
        return list(dict.fromkeys([read, name, current, *old]))


@dataclass(frozen=True)
class SimilarIds:
    """How many ids there are, and how many would be left after further normalisations.

    Attributes:
        ids: The ids.
        customers: The ids after all normalisations.
        by_normalisation: How many more would be left without each of these.
    """

    ids: int
    customers: int
    by_normalisation: Mapping[str, int]

    @classmethod
    def of(cls, row: Mapping[str, int]) -> "SimilarIds":
        """Return the result of `similar_ids_select`."""
        kept = {name: row[name] - row["customers"] for name in NORMALISATIONS}
        return cls(row["ids"], row["customers"], {name: number for name, number in kept.items() if number})

    @property
    def number(self) -> int:
        """The ids that differ from another one in form only."""
        return self.ids - self.customers

    def message(self, settings: Retailer, of_which: str = "") -> str:
        """Return how the ids differ, and which setting makes them one."""
        names = [name for name in NORMALISATIONS if name in {*self.by_normalisation, *settings.customers.normalise}]
        differences = [f"{number:,} by {_DIFFERENCES[name]}" for name, number in self.by_normalisation.items()]
        setting = ", ".join(f'"{name}"' for name in names or NORMALISATIONS)
        return (
            f"Customer ids{of_which} that differ from another one only in form: {self.number:,} of {self.ids:,}"
            f" ({'; '.join(differences) or 'in several ways'}), so there may be only {self.customers:,} customers. If"
            f" such ids name the same customer, set customers.normalise = [{setting}]; otherwise raise"
            f" checks.max_similar_ids, now {settings.checks.max_similar_ids:,}."
        )


def similar_ids_select(select: str) -> str:
    """Return the SELECT of how many ids a SELECT of `customer_id` has, before and after normalisations."""
    ids = f"select distinct customer_id from ({select}) where customer_id is not null"  # noqa: S608 - own SQL
    forms = {
        name: normalised("customer_id", [other for other in NORMALISATIONS if other != name]) for name in NORMALISATIONS
    } | {"customers": normalised("customer_id", NORMALISATIONS)}
    counts = ", ".join(f"count(distinct {form}) as {name}" for name, form in forms.items())
    return f"select count(*) as ids, {counts} from ({ids})"  # noqa: S608 - own SQL


def _merged(path: Path, normalisations: tuple[str, ...]) -> dict[str, str]:
    """Return the last id of each chain of the mapping, after the normalisations.

    Raises:
        SourceError: The mapping cannot be read, or is not valid. The message names lines and no customer.
    """
    try:
        text = path.read_text("utf-8-sig")
    except FileNotFoundError:
        raise SourceError(
            f"customers.merged: there is no file {path}. Put it there, correct the path, or remove the setting."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"customers.merged: {path} cannot be read as UTF-8: {type(error).__name__}.") from None
    lines = [*_mapping_lines(path, text)]
    ids = f"select {normalised(as_read('id'), normalisations)}"
    names = [name for (name,) in _rows(ids, [one for _, *pair in lines for one in pair])]
    mapping: dict[str, str] = {}
    line_of: dict[str, int] = {}
    for (number, *_), old, new in zip(lines, names[::2], names[1::2], strict=True):
        if not old or not new:
            raise SourceError(f"{path}, line {number}: an id is empty. Write two ids, old_id and new_id.")
        if old in line_of:
            raise SourceError(
                f"{path}, line {number}: the same old_id as in line {line_of[old]}. Keep one line for each old_id."
            )
        mapping[old], line_of[old] = new, number
    return {old: _last_of_chain(path, mapping, line_of, old) for old in mapping}


def _mapping_lines(path: Path, text: str) -> Iterator[tuple[int, str, str]]:
    """Yield the number of each line of the mapping and its two ids."""
    first = next(iter(text.splitlines()), "")
    delimiter = next((mark for mark in ";\t" if mark in first), ",")
    rows = csv.reader(text.splitlines(), delimiter=delimiter, strict=True)
    try:
        header = next(rows, [])
        if [name.strip().lower() for name in header] != _HEADER:
            raise SourceError(f"{path}, line 1: expected the header {','.join(_HEADER)}, then two ids a line.")
        for row in rows:
            if not row:
                continue
            if len(row) != len(_HEADER):
                raise SourceError(f"{path}, line {rows.line_num}: {len(row)} columns; expected old_id and new_id.")
            yield rows.line_num, row[0], row[1]
    except csv.Error as error:
        raise SourceError(f"{path}, line {rows.line_num}: not readable as CSV: {error}.") from None


def _last_of_chain(path: Path, mapping: Mapping[str, str], line_of: Mapping[str, int], old: str) -> str:
    """Return the id that an old one is replaced by in the end."""
    chain, name = {old: None}, mapping[old]
    while name in mapping:
        if name in chain:
            circle = [*chain][[*chain].index(name) :]
            lines = ", ".join(str(number) for number in sorted(line_of[one] for one in circle))
            raise SourceError(f"{path}: the ids of these lines replace each other in a circle: {lines}. Correct one.")
        chain[name] = None
        name = mapping[name]
    return name


def _rows(select: str, ids: Sequence[str]) -> list[tuple[Any, ...]]:
    """Return the rows of a SELECT of `id`, one for each id in their order."""
    text = f"{select} from (select unnest(cast($ids as varchar[])) as id, generate_subscripts($ids, 1) as n) order by n"
    with duckdb.connect() as connection:
        return connection.execute(text, {"ids": list(ids)}).fetchall()
