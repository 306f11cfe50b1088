"""The working database of one retailer: read its tables, and replace them in transactions.

Contains what DuckDB does with the working database. What the tables mean is in `tables`, what consumers read in
`releases`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import duckdb

from segmentation_pipeline.errors import WarehouseError
from segmentation_pipeline.tables.catalog import WITHOUT_SOURCE, contracts, macros
from segmentation_pipeline.tables.contract import Contract, Violation, quoted
from segmentation_pipeline.warehouse.contents import contents_of
from segmentation_pipeline.warehouse.line_engine import EngineFactory, InDatabase
from segmentation_pipeline.warehouse.queries import QueryInputs, bound_values, tables_read_by
from segmentation_pipeline.warehouse.statements import statements_for
from segmentation_pipeline.warehouse.table_write import TableWrite, WriteResult

# The table of erased customers before contract 3. Without it, they would come back.
_ERASED_IN_VERSION_2 = "forgotten_customers"

# What each table was derived from, see `TableWrite.versions`.
_VERSIONS_DDL = "create table if not exists table_versions (table_name varchar, part varchar, version varchar)"


class Warehouse:
    """An open working database. All writing of tables goes through `write`."""

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, *, read_only: bool = False, engine: EngineFactory = InDatabase
    ) -> None:
        self.connection = connection
        self.lines = engine(connection)
        # What the file holds is read once: a statement takes a millisecond, and a run asks some two hundred times.
        self._columns = {**self._stored_columns(), **self.lines.held()}
        self._tables = set(self._columns)
        self._versions: dict[str, dict[str, str]] = {}
        self._digests: dict[str, str] = {}
        outdated = self._outdated_tables()
        connection.execute(macros())
        if read_only:
            return
        connection.execute(_VERSIONS_DDL)
        for table in outdated:
            if self._can_be_completed(table):
                self._complete(table)
                continue
            # The next run derives it again.
            self.drop(table)
        # Without `has`, which would ask the file again for each.
        self._create_empty(name for name, one in contracts().items() if one.state and name not in self._tables)
        for row in self.rows("select table_name, part, version from table_versions"):
            # Somebody may have dropped the table by hand.
            if row["table_name"] in self._tables:
                self._versions.setdefault(row["table_name"], {})[row["part"]] = row["version"]

    def create_missing(self, tables: Iterable[str]) -> None:
        """Create those of the tables that do not exist, without rows."""
        self._create_empty(table for table in tables if not self.has(table))

    def drop(self, table: str) -> None:
        """Drop a table if it exists."""
        if table in self.lines.held():
            self.lines.drop(table)
        else:
            self.connection.execute(f"drop table if exists {quoted(table)}")
        self.connection.execute("delete from table_versions where table_name = $table", {"table": table})
        self._tables.discard(table)
        self._versions.pop(table, None)
        self._digests.pop(table, None)

    def versions(self, table: str) -> Mapping[str, str]:
        """Return what the rows of a table were derived from, by source file or under WHOLE_TABLE.

        Empty if that is unknown, or if the table does not exist.
        """
        return self._versions.get(table, {})

    def forget_versions(self) -> None:
        """Make the next run derive every table anew, because rows were changed in another way than by `write`."""
        self.connection.execute("delete from table_versions")
        self._versions, self._digests = {}, {}

    def content_digest(self, table: str) -> str:
        """Return a digest of the rows of a table, whatever their order; computed again after the table is written."""
        if table not in self._digests:
            select = f"select * from {quoted(table)}"  # noqa: S608 - names are quoted
            self._digests[table] = contents_of(self.connection, {table: select})[table].digest
        return self._digests[table]

    def write(
        self, writes: Sequence[TableWrite], values: dict[str, Any], inputs: QueryInputs | None = None
    ) -> list[WriteResult]:
        """Replace tables in one transaction, and check the contract of each inside it.

        If one row of one table breaks a rule, the transaction is rolled back and no table changes.

        Args:
            writes: The new content of each table.
            values: Values that the SELECTs may bind; those that they do not name are ignored.
            inputs: Relations that the SELECTs may read beside the tables.

        Returns:
            The result of each write, with every broken rule.
        """
        with self._transaction() as transaction:
            results = []
            for write in writes:
                with statements_for(table=write.table):
                    results.append(self._write(write, values, inputs or QueryInputs()))
            transaction.commits = not any(result.violations for result in results)
        if transaction.commits:
            for write in writes:
                self._digests.pop(write.table, None)
            self._tables |= {write.table for write in writes}
            self._versions |= {write.table: dict(write.versions) for write in writes}
        return results

    def _create_empty(self, tables: Iterable[str]) -> None:
        for table in tables:
            self.connection.execute(contracts()[table].ddl(constraints=False))
            self._tables.add(table)
            self._digests.pop(table, None)

    def _write(self, write: TableWrite, values: dict[str, Any], inputs: QueryInputs) -> WriteResult:
        done = self.lines.write(write, values, inputs)
        if isinstance(done, WriteResult):
            if not done.violations:
                self._write_versions(write)
            return done
        write = done
        if write.files is not None and write.contract.has_extra_columns:
            self._adapt_extra_columns(write)
        if write.files is not None and not write.files:
            self._write_versions(write)
            return WriteResult(write.table, self.count(write.table), ())
        if write.files is None:
            self._create(write, write.contract, values, inputs)
            rows, violations = self._check(write.contract)
        else:
            target, rows, violations = self.new_rows(write, values, inputs)
            if not violations:
                self._replace_rows(write, target)
                rows = self.count(write.table)
                violations = [] if rows else self._check(write.contract)[1]
        if not violations:
            # 0.05 s for all tables of a run.
            write.contract.write_comments(self.connection)
            self._write_versions(write)
        return WriteResult(write.table, rows, tuple(violations))

    def new_rows(
        self, write: TableWrite, values: dict[str, Any], inputs: QueryInputs
    ) -> tuple[Contract, int, list[Violation]]:
        """Create a temporary table of the rows that a write adds, and check them as a table of their own.

        No other row has one of their keys.

        Returns:
            The contract of the temporary table, the number of its rows, and the rules that they break.
        """
        target = write.contract.renamed("replaced_rows").model_copy(update={"may_be_empty": True})
        self._create(write, target, values, inputs)
        return target, *self._check(target)

    def _check(self, contract: Contract) -> tuple[int, list[Violation]]:
        with statements_for("check contract"):
            return contract.check(self.connection)

    def _create(self, write: TableWrite, target: Contract, values: dict[str, Any], inputs: QueryInputs) -> None:
        """Create the table of the new rows: the table itself, or a temporary one for the rows of some files."""
        table = quoted(target.table)
        kind = "table" if write.files is None else "temp table"
        if write.select:
            prefix = self._inputs_of(write, inputs)
            select = f"{prefix}select * from (\n{write.select}\n)"  # noqa: S608 - own SQL
            bound = values | inputs.values
            text = f"create or replace {kind} {table} as {self.lines.relation(select, bound)}"
            self.connection.execute(text, bound_values(text, bound))
        else:
            # Without constraints, which would raise at the first bad row: the contract reports every one.
            self.connection.execute(f"drop table if exists {table}; {target.ddl(constraints=False)}")
        if write.rows:
            places = ", ".join("?" * len(target.columns))
            insert = f"insert into {table} values ({places})"  # noqa: S608 - own SQL
            self.connection.executemany(insert, [list(row) for row in write.rows])

    def _inputs_of(self, write: TableWrite, inputs: QueryInputs) -> str:
        """Return the WITH clause of the relations that the SELECT reads.

        Raises:
            WarehouseError: A table that it reads does not exist.
        """
        reads = tables_read_by(write.select)
        for name, text in reversed(inputs.relations.items()):
            reads |= tables_read_by(text) if name in reads else frozenset()
        stored = (reads & contracts().keys()) - inputs.relations.keys()
        if missing := sorted(name for name in stored if not self.has(name)):
            listed = ", ".join(f"{name} (asset group {contracts()[name].stage})" for name in missing)
            raise WarehouseError(
                f"{write.table} reads {listed}, which the working database does not hold yet. Run the job"
                " refit_segmentation or `segments run`, which materialise every asset."
            )
        ctes = [f"{quoted(name)} as ({text})" for name, text in inputs.relations.items() if name in reads]
        return f"with {', '.join(ctes)} " if ctes else ""

    def _replace_rows(self, write: TableWrite, new: Contract) -> None:
        table, rows, key = quoted(write.table), quoted(new.table), ", ".join(map(quoted, write.contract.key))
        if write.contract.key[0] == "source_file":
            delete = f"delete from {table} where source_file in (select unnest($files))"  # noqa: S608 - quoted names
            self.connection.execute(delete, {"files": sorted(write.files or ())})
        else:
            self.connection.execute(f"delete from {table} where ({key}) in (select ({key}) from {rows})")  # noqa: S608 - quoted names
        self.connection.execute(f"insert into {table} by name select * from {rows}")  # noqa: S608 - quoted names
        self.connection.execute(f"drop table {rows}")

    def _adapt_extra_columns(self, write: TableWrite) -> None:
        """Add and drop columns of text, so that the table has those of the write; kept rows have no value in them."""
        table = quoted(write.table)
        stored = set(self.connection.table(table).columns[len(contracts()[write.table].columns) :])
        for name in sorted(write.extra_columns.keys() - stored):
            self.connection.execute(f"alter table {table} add column {quoted(name)} varchar")
        for name in sorted(stored - write.extra_columns.keys()):
            self.connection.execute(f"alter table {table} drop column {quoted(name)}")

    def _write_versions(self, write: TableWrite) -> None:
        if self.versions(write.table) == write.versions:
            return
        if self.versions(write.table):
            self.connection.execute("delete from table_versions where table_name = $table", {"table": write.table})
        self.connection.execute(
            "insert into table_versions select $table, unnest(cast($parts as varchar[])), unnest($versions)",
            {"table": write.table, "parts": [*write.versions], "versions": [*write.versions.values()]},
        )

    def rows(self, select: str, **values: Any) -> list[dict[str, Any]]:
        """Return the rows of a query as dictionaries; meant for small results, not for whole tables.

        The engine of the lines runs a query that reads them.
        """
        text = self.lines.relation(select, values)
        cursor = self.connection.execute(text, bound_values(text, values))
        names = [column[0] for column in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def execute(self, statement: str, values: dict[str, Any]) -> duckdb.DuckDBPyConnection:
        """Execute a statement in the working database, with those of the values that it names.

        It may read few lines: where another engine has their tables, the working database has views of their files.
        """
        return self.connection.execute(statement, bound_values(statement, values))

    def fetch(self, select: str, values: dict[str, Any]) -> dict[str, Any]:
        """Return the columns of a query as numpy arrays; values that it does not name are ignored."""
        return self.execute(self.lines.relation(select, values), values).fetchnumpy()

    def row(self, select: str, **values: Any) -> dict[str, Any]:
        """Return the only row of a query."""
        [row] = self.rows(select, **values)
        return row

    def count(self, table: str) -> int:
        """Return the number of rows of a table."""
        [(rows,)] = self.execute(f"select count(*) from {quoted(table)}", {}).fetchall()  # noqa: S608 - names are quoted
        return int(rows)

    def has(self, table: str) -> bool:
        """Return whether the table exists."""
        if table not in self._tables:
            select = "select 1 as one from duckdb_tables() where table_name = $table and not temporary"
            self._tables |= {table} if self.rows(select, table=table) else set()
        return table in self._tables

    def missing_or_outdated(self, tables: Iterable[str]) -> list[str]:
        """Return the tables that did not have the columns and types of their contracts when the file was opened."""
        return [table for table in tables if not _fits(table, self._columns.get(table, ()))]

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

    def _outdated_tables(self) -> list[str]:
        """Return the derived tables that another version of this package wrote.

        Raises:
            WarehouseError: An outdated table holds what cannot be derived again.
        """
        found = self._columns
        outdated = [name for name in contracts() if name in found and not _fits(name, found[name])]
        kept = [name for name in outdated if self._cannot_be_derived(name) and not self._can_be_completed(name)]
        if kept or _ERASED_IN_VERSION_2 in found:
            raise WarehouseError(
                f"{self._file()}: another version of this package wrote the working database"
                f" ({', '.join(kept) or _ERASED_IN_VERSION_2}). Convert the last release of that version with `segments"
                " restore RELEASE --replace`, which keeps the models, the membership history and the list of erased"
                " customers (`segments releases` lists the releases). Or move the file away, and the next run starts"
                " without them. Or use that version again."
            )
        return outdated

    def _can_be_completed(self, table: str) -> bool:
        return contracts()[table].state and bool(contracts()[table].completed(self._columns[table]))

    def _complete(self, table: str) -> None:
        """Add the columns that a stored table lacks, because an earlier version wrote it."""
        columns, name = contracts()[table].completed(self._columns[table]), quoted(table)
        self.connection.execute(f"create or replace table {name} as select {columns} from {name}")  # noqa: S608 - own SQL

    def _stored_columns(self) -> dict[str, list[tuple[str, str]]]:
        """Return the columns of every table, each with its type, in order."""
        # A new file has none. Asking for columns would bind all views of the system, which takes 15 ms.
        if not self.connection.execute("select 1 from duckdb_tables() limit 1").fetchall():
            return {}
        rows = self.connection.execute(
            "select table_name, list(column_name order by column_index), list(data_type order by column_index)"
            " from duckdb_columns() where not internal and database_name = current_database() group by table_name"
        ).fetchall()
        return {table: list(zip(names, types, strict=True)) for table, names, types in rows}

    def _cannot_be_derived(self, table: str) -> bool:
        return contracts()[table].state or (table == "raw_transactions" and self._holds_lines_without_source())

    def _file(self) -> str:
        return str(self.row("select path from duckdb_databases() where database_name = current_database()")["path"])

    def _holds_lines_without_source(self) -> bool:
        return self.has("ingested_files") and bool(self.rows(f"{WITHOUT_SOURCE} limit 1"))


def _fits(table: str, found: Sequence[tuple[str, str]]) -> bool:
    return contracts()[table].extra_columns(found) is not None


@dataclass
class _Transaction:
    """A transaction, which is rolled back unless `commits` is set."""

    commits: bool = False
