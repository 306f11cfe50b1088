"""What a table promises, and how the promise is checked, written as DDL and told to a reader.

Belongs here: the notion of a contract. Does not: the contracts themselves (`tables`).
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any

import duckdb


@dataclass(frozen=True)
class Column:
    """One column: DuckDB type, meaning, unit, and the rules that its values keep."""

    name: str
    type: str
    description: str
    unit: str = ""
    nullable: bool = False
    allowed: tuple[str | int, ...] = ()
    minimum: float | None = None
    maximum: float | None = None

    @property
    def rules(self) -> str:
        """The rules on its values in words, for a reader."""
        words = [f"one of {', '.join(map(str, self.allowed))}" if self.allowed else ""]
        words += [f"at least {self.minimum:g}" if self.minimum is not None else ""]
        words += [f"at most {self.maximum:g}" if self.maximum is not None else ""]
        return "; ".join(filter(None, words))


@dataclass(frozen=True)
class Violation:
    """A rule of a contract that a table breaks."""

    column: str
    rule: str
    found: str


@dataclass(frozen=True)
class Contract:
    """A table's name, grain (what one row is), key and columns.

    `published` tables are in every release. What an `is_state` table holds cannot be derived from the sources.
    """

    table: str
    grain: str
    description: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]
    published: bool = False
    may_be_empty: bool = False
    is_state: bool = False
    if_empty: str = ""

    @property
    def text(self) -> str:
        """Grain and description as one text: the asset's description and the table's comment."""
        return f"{self.grain[0].upper()}{self.grain[1:]}. {self.description}".strip()

    @property
    def key_order(self) -> str:
        """The key's columns, quoted, for ORDER BY."""
        return ", ".join(quoted(name) for name in self.key)

    @property
    def names(self) -> str:
        """The names of its columns, quoted, for SELECT."""
        return ", ".join(quoted(column.name) for column in self.columns)

    @property
    def is_of_customers(self) -> bool:
        """Whether a row of it is of one customer."""
        return "customer_id" in self.key

    def without(self, names: Collection[str]) -> "Contract":
        """The same without some columns, where it is of customers."""
        if not self.is_of_customers:
            return self
        return replace(self, columns=tuple(column for column in self.columns if column.name not in names))

    def ddl(self, *, constraints: bool = True) -> str:
        """CREATE TABLE with types and, unless they are left out, NOT NULL and the primary key."""
        needed = " not null" if constraints else ""
        columns = [f"{quoted(c.name)} {c.type}{'' if c.nullable else needed}" for c in self.columns]
        columns += [f"primary key ({self.key_order})"] if constraints else []
        return f"create table {quoted(self.table)} ({', '.join(columns)})"

    def write_comments(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Put the contract's words on the table and each of its columns, where any SQL client shows them."""
        comments = [(f"table {quoted(self.table)}", self.text)]
        for column in self.columns:
            unit = f" [{column.unit}]" if column.unit else ""
            comments.append((f"column {quoted(self.table)}.{quoted(column.name)}", f"{column.description}{unit}"))
        # COMMENT takes no bound value; the words are this package's own, and quoted.
        connection.execute("; ".join(f"comment on {what} is {literal(words)}" for what, words in comments))

    def violations(self, connection: duckdb.DuckDBPyConnection) -> list[Violation]:
        """Check the table as it stands in the connection's transaction, in one scan.

        Returns:
            Every broken rule; a table whose columns or types differ is not examined further.
        """
        stands = connection.execute(f"select column_name, column_type from (describe {quoted(self.table)})").fetchall()
        wanted = [(column.name, column.type) for column in self.columns]
        if stands != wanted:
            return list(_shape_violations(dict(wanted), dict(stands)))
        rules = list(self._rules())
        parameters = {name: value for *_, values in rules for name, value in values.items()}
        counts = connection.execute(
            f"select count(*), {', '.join(f'count(*) filter (where {broken})' for _, _, broken, _ in rules) or '0'}"
            f" from {quoted(self.table)}",
            parameters,
        ).fetchone()
        assert counts is not None
        rows, *broken = counts
        found = [
            Violation(column, rule, f"{count:,} rows")
            for (column, rule, _, _), count in zip(rules, broken, strict=False)
            if count
        ]
        key = f"select count(*) from (select distinct {self.key_order} from {quoted(self.table)})"
        distinct = connection.execute(key).fetchone()
        assert distinct is not None
        if distinct[0] != rows:
            found.append(Violation(", ".join(self.key), "unique", f"{rows - distinct[0]:,} rows repeat a key"))
        if rows == 0 and not self.may_be_empty:
            found.append(Violation("", "not empty", f"0 rows{self.if_empty and f': {self.if_empty}'}"))
        return found

    def _rules(self) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
        """Each rule as column, words, the SQL condition of a broken row, and its bound values."""
        for number, column in enumerate(self.columns):
            name = quoted(column.name)
            if not column.nullable:
                yield column.name, "not null", f"{name} is null", {}
            if column.type == "DOUBLE":
                # For DuckDB NaN lies above every minimum, and one of them spoils every figure made from the column.
                yield column.name, "a finite number", f"not isfinite({name})", {}
            if column.allowed:
                allowed = f"allowed_{number}"
                words = f"one of {', '.join(map(str, column.allowed))}"
                yield column.name, words, f"not list_contains(${allowed}, {name})", {allowed: list(column.allowed)}
            if column.minimum is not None:
                low = f"low_{number}"
                yield column.name, f"at least {column.minimum:g}", f"{name} < ${low}", {low: column.minimum}
            if column.maximum is not None:
                high = f"high_{number}"
                yield column.name, f"at most {column.maximum:g}", f"{name} > ${high}", {high: column.maximum}


def _shape_violations(wanted: dict[str, str], stands: dict[str, str]) -> Iterator[Violation]:
    for name, kind in wanted.items():
        if stands.get(name) != kind:
            yield Violation(name, f"a column of type {kind}", stands.get(name, "no such column"))
    for name, kind in stands.items():
        if name not in wanted:
            yield Violation(name, "no column beyond the contract", kind)
    if dict(wanted) == dict(stands):
        yield Violation(", ".join(stands), f"columns in the order {', '.join(wanted)}", "another order")


def quoted(identifier: str) -> str:
    """An identifier for SQL text."""
    return '"' + identifier.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text literal for the few statements that take no bound value."""
    return "'" + text.replace("'", "''") + "'"
