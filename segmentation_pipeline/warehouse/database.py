"""The working database of one retailer: fill tables, each wholly or not at all, and read them.

Belongs here: what only DuckDB knows about the working database. Does not: what the tables mean (`tables`), or what
consumers see (`releases`).
"""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import duckdb

from segmentation_pipeline.errors import WarehouseError
from segmentation_pipeline.tables.catalog import CONTRACTS, WITHOUT_SOURCE
from segmentation_pipeline.tables.contract import Contract, Violation, quoted

SQL = Path(__file__).parents[1] / "sql"


@dataclass(frozen=True)
class Given:
    """Relations that a SELECT may read as if they were tables, and the values bound in them."""

    relations: dict[str, str] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Filling:
    """What shall stand in a table: the rows of a SELECT, or rows made in Python, or both."""

    table: str
    select: str = ""
    rows: Sequence[tuple[Any, ...]] = ()

    @property
    def contract(self) -> Contract:
        """The contract of the table."""
        return CONTRACTS[self.table]


@dataclass(frozen=True)
class Outcome:
    """What became of a table: replaced, or left as it was because the new rows break its contract."""

    table: str
    rows: int
    violations: tuple[Violation, ...]


def select_of(table: str) -> str:
    """The SELECT that derives a table: the text of `sql/<table>.sql`."""
    return (SQL / f"{table}.sql").read_text("utf-8")


@cache
def tables_read_by(select: str) -> frozenset[str]:
    """Every relation that a SELECT reads, its own CTEs aside: the lineage, read off DuckDB's syntax tree."""
    answer = _parser().execute("select json_serialize_sql($select)", {"select": select}).fetchone()
    assert answer is not None
    tree = json.loads(answer[0])
    if tree["error"]:
        raise ValueError(f"not a SELECT: {tree['error_message']}")
    named = {node["table_name"] for node in _nodes(tree) if node.get("type") == "BASE_TABLE"}
    return frozenset(named) - set(re.findall(r"(\w+) as (?:not )?(?:materialized )?\(", select))


def composed(select: str, given: dict[str, str]) -> str:
    """A SELECT in which other relations stand in for some of the tables that it reads, however far away.

    Each table on the way is derived within the SELECT; every other is read as it stands.

    Args:
        select: The SELECT.
        given: The SELECT of each relation that stands in. A table that one of them reads by its own name is named
            `main.<table>` there.
    """
    ctes = dict(given)

    def is_other(table: str) -> bool:
        if table in ctes:
            return True
        # What runs left behind is read as it stands: through it the ledger would derive from itself.
        if not (SQL / f"{table}.sql").exists() or CONTRACTS[table].is_state:
            return False
        # Each table that it reads is looked at, so that all that are other stand before it.
        others = [read for read in sorted(tables_read_by(select_of(table))) if read != table and is_other(read)]
        if others:
            ctes[table] = select_of(table)
        return bool(others)

    for table in sorted(tables_read_by(select)):
        is_other(table)
    relations = ", ".join(f"{quoted(name)} as (\n{text}\n)" for name, text in ctes.items())
    return f"with {relations} {select}"


@cache
def _parser() -> duckdb.DuckDBPyConnection:
    return duckdb.connect(config={"threads": 1})


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    if isinstance(tree, dict):
        yield tree
    for child in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        yield from _nodes(child)


class Warehouse:
    """An open working database. All writing goes through `replace`."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self.connection = connection
        self._drop_tables_of_other_versions()
        for contract in CONTRACTS.values():
            if contract.is_state and not self.has(contract.table):
                self.connection.execute(contract.ddl(constraints=False))

    def replace(self, fillings: Sequence[Filling], values: dict[str, Any], given: Given | None = None) -> list[Outcome]:
        """Replace tables in one transaction, in which the contract of each is checked.

        If one row of one table breaks a rule, nothing is replaced, and the outcomes tell every broken rule.

        Args:
            fillings: What shall stand in each table.
            values: Values that the SELECTs may bind; those that they do not name are left out.
            given: Relations that the SELECTs may read beside the tables.
        """
        with self._transaction() as transaction:
            outcomes = [self._fill(filling, values, given or Given()) for filling in fillings]
            transaction.commits = not any(outcome.violations for outcome in outcomes)
        return outcomes

    def _fill(self, filling: Filling, values: dict[str, Any], given: Given) -> Outcome:
        contract, table = filling.contract, quoted(filling.table)
        if filling.select:
            reads = tables_read_by(filling.select)
            ctes = [f"{quoted(name)} as ({text})" for name, text in given.relations.items() if name in reads]
            prefix = f"with {', '.join(ctes)} " if ctes else ""
            text = f"create or replace table {table} as {prefix}select * from (\n{filling.select}\n)"
            self.connection.execute(text, bound_in(text, values | given.values))
        else:
            # Without constraints, which would raise at the first bad row: the contract tells of every one.
            self.connection.execute(f"drop table if exists {table}; {contract.ddl(constraints=False)}")
        if filling.rows:
            places = ", ".join("?" * len(contract.columns))
            rows = [list(row) for row in filling.rows]
            self.connection.executemany(f"insert into {table} values ({places})", rows)
        violations = contract.violations(self.connection)
        return Outcome(filling.table, self.count(filling.table), tuple(violations))

    def rows(self, select: str, **values: Any) -> list[dict[str, Any]]:
        """The rows of a query as dictionaries, for figures; not for whole tables."""
        cursor = self.connection.execute(select, values)
        names = [column[0] for column in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def execute(self, statement: str, values: dict[str, Any]) -> duckdb.DuckDBPyConnection:
        """A statement with those of the values that it names."""
        return self.connection.execute(statement, bound_in(statement, values))

    def fetch(self, select: str, values: dict[str, Any]) -> dict[str, Any]:
        """The columns of a query as arrays; values that it does not name are left out."""
        return self.execute(select, values).fetchnumpy()

    def row(self, select: str, **values: Any) -> dict[str, Any]:
        """The only row of a query."""
        [row] = self.rows(select, **values)
        return row

    def count(self, table: str) -> int:
        """The number of rows of a table."""
        return int(self.row(f"select count(*) as rows from {quoted(table)}")["rows"])

    def has(self, table: str) -> bool:
        """Whether the table stands in the database."""
        found = self.rows(
            "select 1 as one from duckdb_tables() where table_name = $table and not temporary", table=table
        )
        return bool(found)

    @contextmanager
    def _transaction(self) -> Iterator["_Transaction"]:
        transaction = _Transaction()
        self.connection.begin()
        try:
            yield transaction
        finally:
            if transaction.commits:
                self.connection.commit()
            else:
                self.connection.rollback()

    def _drop_tables_of_other_versions(self) -> None:
        """A table that another version of this package wrote is dropped: its run derives or fits it again."""
        for table, contract in CONTRACTS.items():
            if self.has(table):
                described = self.rows(f"select column_name, column_type from (describe {quoted(table)})")
                stands = [(row["column_name"], row["column_type"]) for row in described]
                if stands != [(column.name, column.type) for column in contract.columns]:
                    if contract.is_state or (table == "raw_transactions" and self._holds_what_is_gone()):
                        raise WarehouseError(
                            f"{table} in the working database has the columns of another version of this package, and"
                            " holds what no source has: go back to that version, or delete the file to begin anew."
                        )
                    self.connection.execute(f"drop table {quoted(table)}")

    def _holds_what_is_gone(self) -> bool:
        """Whether there are lines of files that no run can read again."""
        return self.has("ingested_files") and bool(self.rows(f"{WITHOUT_SOURCE} limit 1"))


@dataclass
class _Transaction:
    """Rolled back unless it is told otherwise."""

    commits: bool = False


def bound_in(text: str, values: dict[str, Any]) -> dict[str, Any]:
    """Those of the values that a text names; DuckDB refuses others."""
    return {name: values[name] for name in set(re.findall(r"\$([a-z]\w*)", text))}
