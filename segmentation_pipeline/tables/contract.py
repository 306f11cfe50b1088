"""The contract of a table: columns, key and rules, and the checks and SQL derived from them.

Contains the model of a contract. The contracts are the YAML files of this package, loaded by `catalog`.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import duckdb
from pydantic import BaseModel, ConfigDict, Field

# Lines in a bitmap, which takes 512 bytes for each file and block.
_BLOCK = 4096
_EXTRA_TYPE = "VARCHAR"


class Column(BaseModel):
    """A column: its DuckDB type, description and unit, the rules for its values, and whether they name a person.

    `before` is the SQL of its value in stored rows of an earlier version, which had no such column.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    type: str
    description: str
    unit: str = ""
    nullable: bool = False
    allowed: tuple[str | int, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    personal: bool = False
    before: str = "null"

    @property
    def rules(self) -> str:
        """The rules for its values, in words."""
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


class Contract(BaseModel):
    """The contract of a table.

    Attributes:
        table: The table's name.
        stage: The folder of its files, which is its asset group.
        description: What the table holds, beginning with "One row per ...".
        key: The columns that identify a row.
        columns: The columns, in order.
        published: Whether it is part of every release.
        state: Whether it holds data that cannot be derived from the source again.
        may_be_empty: Whether a table without rows is valid.
        if_empty: The usual reason for a table without rows that must have some.
        has_extra_columns: Whether more columns of text may follow, which the retailer file names.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    table: str
    stage: str
    description: str = Field(pattern=r"^One row ")
    key: tuple[str, ...] = Field(min_length=1)
    columns: tuple[Column, ...] = Field(min_length=1)
    published: bool = False
    state: bool = False
    may_be_empty: bool = False
    if_empty: str = ""
    has_extra_columns: bool = False

    @property
    def key_order(self) -> str:
        """The quoted key columns, for ORDER BY."""
        return ", ".join(quoted(name) for name in self.key)

    @property
    def names(self) -> str:
        """The quoted column names, for SELECT."""
        return ", ".join(quoted(column.name) for column in self.columns)

    @property
    def describes_customers(self) -> bool:
        """Whether each row belongs to one customer."""
        return "customer_id" in self.key

    def without(self, names: Collection[str]) -> Self:
        """Return the contract without some columns; a table that does not describe customers keeps all."""
        if not self.describes_customers:
            return self
        return self.model_copy(update={"columns": tuple(c for c in self.columns if c.name not in names)})

    def with_extra_columns(self, names: Mapping[str, str | int]) -> Self:
        """Return the contract with columns of text that the retailer file names.

        Args:
            names: The source's name or position of each column, by our name.
        """
        extra = (
            Column(
                name=name,
                type=_EXTRA_TYPE,
                description=f"The column {theirs!r} of the source, for cleaning rules",
                nullable=True,
                personal=True,
            )
            for name, theirs in names.items()
        )
        return self.model_copy(update={"columns": (*self.columns, *extra)})

    def extra_columns(self, found: Sequence[tuple[str, str]]) -> list[str] | None:
        """Return the names of the columns that a table has beyond the contract; None if these do not fit together.

        Args:
            found: The name and type of each column of the table.
        """
        expected = [(column.name, column.type) for column in self.columns]
        extra = list(found)[len(expected) :]
        fits = list(found)[: len(expected)] == expected and (
            not extra or (self.has_extra_columns and all(kind == _EXTRA_TYPE for _, kind in extra))
        )
        return [name for name, _ in extra] if fits else None

    def completed(self, found: Sequence[tuple[str, str]]) -> str:
        """Return the expressions that complete the rows of an earlier version, whose table lacks columns.

        Args:
            found: The name and type of each column of the table.

        Returns:
            The text between SELECT and FROM; empty if a column cannot be completed, or has another type.
        """
        types = dict(found)
        lacking = [column for column in self.columns if column.name not in types]
        can_be = all(column.nullable or column.before != "null" for column in lacking)
        if not can_be or {column.name: column.type for column in self.columns if column.name in types} != types:
            return ""
        return ", ".join(
            quoted(column.name)
            if column.name in types
            else f"cast({column.before} as {column.type}) as {quoted(column.name)}"
            for column in self.columns
        )

    def renamed(self, table: str) -> Self:
        """Return the same contract for a table of another name."""
        return self.model_copy(update={"table": table})

    @property
    def empty_select(self) -> str:
        """A SELECT of no rows with the columns of the table."""
        columns = (f"cast(null as {column.type}) as {quoted(column.name)}" for column in self.columns)
        return f"select {', '.join(columns)} where false"

    def ddl(self, *, constraints: bool = True) -> str:
        """Return CREATE TABLE with column types and, with `constraints`, NOT NULL.

        No primary key: its index takes ten times the space of the rows, and the contract checks that keys are unique.
        """
        needed = " not null" if constraints else ""
        columns = [f"{quoted(c.name)} {c.type}{'' if c.nullable else needed}" for c in self.columns]
        return f"create table {quoted(self.table)} ({', '.join(columns)})"

    def write_comments(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Write the descriptions as comments on the table and its columns, where SQL clients show them."""
        comments = [(f"table {quoted(self.table)}", self.description)]
        for column in self.columns:
            unit = f" [{column.unit}]" if column.unit else ""
            comments.append((f"column {quoted(self.table)}.{quoted(column.name)}", f"{column.description}{unit}"))
        # COMMENT accepts no bound parameters.
        connection.execute("; ".join(f"comment on {target} is {literal(text)}" for target, text in comments))

    def check(self, connection: duckdb.DuckDBPyConnection) -> tuple[int, list[Violation]]:
        """Check the table inside the connection's transaction.

        Returns:
            The number of rows, and every broken rule. The rows of a table with other columns or types are not checked.
        """
        relation = connection.table(quoted(self.table))
        found = list(zip(relation.columns, map(str, relation.types), strict=True))
        if self.extra_columns(found) is None:
            expected = [(column.name, column.type) for column in self.columns]
            [count] = self._counts(connection, ["count(*)"])
            return count, list(_column_violations(dict(expected), dict(found)))
        rules = list(self._rules())
        values = {name: value for rule in rules for name, value in rule.values.items()}
        # Nearly always no row breaks a rule, and one condition for all of them is cheaper than one count for each.
        any_rule = " or ".join(f"({rule.broken_if})" for rule in rules) or "false"
        aggregates = ["count(*)", f"count(*) filter (where {any_rule})", f"({self._count_keys()})"]
        rows, broken, distinct = self._counts(connection, aggregates, values)
        violations = list(self._broken_rules(connection, rules, values)) if broken else []
        if distinct != rows:
            violations.append(Violation(", ".join(self.key), "unique", f"{rows - distinct:,} rows repeat a key"))
        if rows == 0 and not self.may_be_empty:
            violations.append(Violation("", "not empty", f"0 rows{self.if_empty and f': {self.if_empty}'}"))
        return rows, violations

    def _count_keys(self) -> str:
        """Return the SELECT of the number of distinct keys.

        The lines of a file are numbered, so a bitmap for each block of lines counts them: 54 million keys take 1.4 s of
        CPU time, and 7.9 s and memory for each key where a hash table holds them.
        """
        *others, last = self.key
        if self._type_of(last) != "BIGINT":
            keys = f"select distinct {self.key_order} from {quoted(self.table)}"  # noqa: S608 - quoted names
            return f"select count(*) from ({keys})"  # noqa: S608 - quoted names
        line = quoted(last)
        position = f"cast({line} & {_BLOCK - 1} as integer)"
        in_block = (
            f"coalesce(bit_count(bitstring_agg({position}, 0, {_BLOCK - 1})), 0)"
            f" + cast(count(*) > count({line}) as integer)"
        )
        block = ", ".join([*map(quoted, others), f"{line} - ({line} & {_BLOCK - 1})"])
        blocks = f"select {in_block} as keys from {quoted(self.table)} group by {block}"  # noqa: S608 - quoted names
        return f"select coalesce(cast(sum(keys) as bigint), 0) from ({blocks})"  # noqa: S608 - quoted names

    def _type_of(self, name: str) -> str:
        return next(column.type for column in self.columns if column.name == name)

    def _broken_rules(
        self, connection: duckdb.DuckDBPyConnection, rules: Sequence["_Rule"], values: Mapping[str, Any]
    ) -> Iterator[Violation]:
        counts = self._counts(connection, [f"count(*) filter (where {rule.broken_if})" for rule in rules], values)
        for rule, count in zip(rules, counts, strict=True):
            if count:
                yield Violation(rule.column, rule.words, f"{count:,} rows")

    def _counts(
        self, connection: duckdb.DuckDBPyConnection, aggregates: Sequence[str], values: Mapping[str, Any] | None = None
    ) -> tuple[int, ...]:
        select = f"select {', '.join(aggregates)} from {quoted(self.table)}"  # noqa: S608 - quoted names
        [counts] = connection.execute(select, dict(values or {})).fetchall()
        return tuple(counts)

    def _rules(self) -> Iterator["_Rule"]:
        for number, column in enumerate(self.columns):
            name = quoted(column.name)
            if not column.nullable:
                yield _Rule(column.name, "not null", f"{name} is null")
            if column.type == "DOUBLE":
                # DuckDB sorts NaN above every minimum, and one NaN makes every aggregate of the column NaN.
                yield _Rule(column.name, "a finite number", f"not isfinite({name})")
            if column.allowed:
                allowed = f"allowed_{number}"
                words = f"one of {', '.join(map(str, column.allowed))}"
                condition = f"not list_contains(${allowed}, {name})"
                yield _Rule(column.name, words, condition, {allowed: list(column.allowed)})
            if column.minimum is not None:
                low = f"low_{number}"
                yield _Rule(column.name, f"at least {column.minimum:g}", f"{name} < ${low}", {low: column.minimum})
            if column.maximum is not None:
                high = f"high_{number}"
                yield _Rule(column.name, f"at most {column.maximum:g}", f"{name} > ${high}", {high: column.maximum})


@dataclass(frozen=True)
class _Rule:
    """A rule for the values of a column: in words, and as the SQL condition of a row that breaks it."""

    column: str
    words: str
    broken_if: str
    values: Mapping[str, Any] = field(default_factory=dict)


def _column_violations(expected: dict[str, str], found: dict[str, str]) -> Iterator[Violation]:
    for name, kind in expected.items():
        if found.get(name) != kind:
            yield Violation(name, f"a column of type {kind}", found.get(name, "no such column"))
    for name, kind in found.items():
        if name not in expected:
            yield Violation(name, "no column beyond the contract", kind)
    if expected == found:
        yield Violation(", ".join(found), f"columns in the order {', '.join(expected)}", "another order")


def quoted(identifier: str) -> str:
    """Quote an identifier for SQL text."""
    return '"' + identifier.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Quote a text, for the few statements that accept no bound parameters."""
    return "'" + text.replace("'", "''") + "'"
