"""Erase customers from every table, file and release, and count the rows before and after.

Contains the search and the removal. Tables are found by their columns, so a table that is added later is included.
Leaving erased customers out of later runs is in `line_privacy`.
"""

import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from glob import escape
from pathlib import Path

import duckdb

from segmentation_pipeline.config.paths import RetailerFolders
from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.errors import ErasureError, WarehouseError
from segmentation_pipeline.privacy.customer_ids import CustomerIds, normalised
from segmentation_pipeline.privacy.line_privacy import ERASED_TEXT, LinePrivacy, possible_names
from segmentation_pipeline.privacy.pseudonyms import ERASURE, Key
from segmentation_pipeline.releases.files import sync
from segmentation_pipeline.releases.store import Releases
from segmentation_pipeline.segments.membership import last_change_at
from segmentation_pipeline.tables.catalog import contracts
from segmentation_pipeline.tables.contract import literal, quoted
from segmentation_pipeline.warehouse import lock
from segmentation_pipeline.warehouse.connection import connection_to
from segmentation_pipeline.warehouse.database import Warehouse
from segmentation_pipeline.warehouse.line_engine import EngineFactory, InDatabase
from segmentation_pipeline.warehouse.queries import QueryInputs
from segmentation_pipeline.warehouse.table_write import TableWrite, WriteResult

LOCK_TIMEOUT = 3600.0
_COMMAND = "segments erase"
# The columns that may name a customer.
_NAMING_COLUMNS = ("customer_id", "unparsed")
_DATA_FILES = re.compile(r"\.(parquet|duckdb(?!.*\.wal$))")
# Rows by place; None where a file cannot be read.
RowCounts = dict[str, int | None]


@dataclass(frozen=True)
class Erasure:
    """What was erased from the working database.

    Attributes:
        as_of: The as_of of the tables, as an argument of a run: the new release has the same.
        before: The rows that named the customers, by table and file.
        sources: For each source file that still holds lines of them, how many are left out from now on.
    """

    as_of: str
    before: RowCounts
    sources: dict[str, int]


@dataclass(frozen=True)
class NamedCustomers:
    """The customers to erase, by every name that tables may hold.

    Attributes:
        ids: The ids of each customer, one list for each that was given.
        names: All ids, and their pseudonyms where these are used.
        normalisations: How an id is normalised before it is compared, beside the id as it is.
    """

    ids: Sequence[Sequence[str]]
    names: Sequence[str]
    normalisations: Sequence[str] = ()

    @classmethod
    def of(cls, settings: Retailer, key: Key, customers: Sequence[str], ids: CustomerIds) -> "NamedCustomers":
        """Return the names of customers who are given as the source or a table writes them."""
        each = [ids.names_of(customer) for customer in customers]
        plain = list(dict.fromkeys(name for names in each for name in names))
        pseudonyms = [key.pseudonym(name) for name in plain if settings.privacy.pseudonymise]
        return cls(each, [*plain, *pseudonyms], ids.normalisations)

    def each(self, settings: Retailer, key: Key) -> Iterator["NamedCustomers"]:
        """Yield the customers one by one."""
        for ids in self.ids:
            pseudonyms = [key.pseudonym(name) for name in ids if settings.privacy.pseudonymise]
            yield NamedCustomers([ids], [*ids, *pseudonyms], self.normalisations)

    def condition(self, column: str) -> str:
        """Return the SQL condition that a column names one of `$customers`."""
        if column == "unparsed":
            return f"coalesce(list_has_any({possible_names('unparsed', self.normalisations)}, $customers), false)"
        condition = "list_contains($customers, customer_id)"
        if not self.normalisations:
            return condition
        name = normalised("customer_id", self.normalisations)
        return f"({condition} or coalesce(list_contains($customers, {name}), false))"


@dataclass(frozen=True)
class LinePlaces:
    """Where lines are.

    Attributes:
        engine: Makes the engine that holds them.
        folders: Folders of files with them, beside the folder of the retailer.
    """

    engine: EngineFactory = InDatabase
    folders: Sequence[Path] = ()


def count_rows(
    folders: RetailerFolders, named: NamedCustomers, report: Callable[[str], None], lines: LinePlaces = LinePlaces()
) -> RowCounts:
    """Return how many rows name the customers, by file and, for the working database, by table.

    Every table and file that can name a customer is included, also with no rows. Lines elsewhere are one place.
    """
    with lock.writer(folders.lock, lock.this_process(_COMMAND), LOCK_TIMEOUT, report):
        return _count_rows(folders, named, lines)


def _count_rows(folders: RetailerFolders, named: NamedCustomers, lines: LinePlaces) -> RowCounts:
    counts: RowCounts = {}
    with closing(duckdb.connect()) as parquet:
        for file in sorted(folders.root.rglob("*")):
            place = file.relative_to(folders.root).as_posix()
            if file.is_symlink() or not file.is_file() or not _DATA_FILES.search(file.name):
                continue
            try:
                rows = _rows_in_parquet(parquet, file, named) if file.suffix == ".parquet" else _rows_in(file, named)
            except duckdb.Error:
                counts[place] = None
                continue
            if file == folders.working_database:
                counts |= {f"{place}: {table}": number for table, number in rows.items()}
            elif rows:
                counts[place] = sum(rows.values())
        for folder in lines.folders:
            found = [_rows_in_parquet(parquet, file, named) for file in sorted(folder.rglob("*.parquet"))]
            counts[str(folder)] = sum(number for rows in found for number in rows.values())
    return counts


def _rows_in(database: Path, named: NamedCustomers) -> dict[str, int]:
    """Return how many rows name the customers, by table that can name one."""
    with closing(duckdb.connect(str(database), read_only=True)) as connection:
        tables = _customer_tables(connection)
        return {table: _count(connection, quoted(table), columns, named) for table, columns in tables.items()}


def _rows_in_parquet(connection: duckdb.DuckDBPyConnection, file: Path, named: NamedCustomers) -> dict[str, int]:
    """Return the same of a Parquet file; one connection reads them all, since a new one takes longer than the query."""
    relation = f"read_parquet({literal(escape(str(file)))})"
    described = connection.execute(f"describe select * from {relation}").fetchall()  # noqa: S608 - names are quoted
    columns = [str(name) for name, *_ in described if name in _NAMING_COLUMNS]
    return {file.stem: _count(connection, relation, columns, named)} if columns else {}


def _customer_tables(connection: duckdb.DuckDBPyConnection) -> dict[str, list[str]]:
    """Return the columns that can name a customer, by table."""
    rows = connection.execute(
        "select table_name, list(column_name order by column_index) from duckdb_columns()"
        " where not internal and list_contains($columns, column_name) group by table_name order by table_name",
        {"columns": list(_NAMING_COLUMNS)},
    ).fetchall()
    return {str(table): list(columns) for table, columns in rows}


def _count(connection: duckdb.DuckDBPyConnection, relation: str, columns: list[str], named: NamedCustomers) -> int:
    condition = " or ".join(map(named.condition, columns))
    select = f"select count(*) from {relation} where {condition}"  # noqa: S608 - names are quoted
    [(rows,)] = connection.execute(select, {"customers": list(named.names)}).fetchall()
    return int(rows)


def erase(
    folders: RetailerFolders,
    settings: Retailer,
    key: Key,
    named: NamedCustomers,
    report: Callable[[str], None],
    lines: LinePlaces = LinePlaces(),
) -> Erasure:
    """Erase customers from the tables in one transaction, and store their keyed hashes.

    Raises:
        ErasureError: No table names one of them, or there is no finished run yet.
        PrivacyError: Earlier customers were erased with another key.
        LockTimeoutError: A run is writing.
    """
    database = folders.working_database
    with lock.writer(folders.lock, lock.this_process(_COMMAND), LOCK_TIMEOUT, report):
        if not database.exists():
            raise ErasureError(f"{database} does not exist yet, so it names no customer; `segments run` creates it")
        before = _count_rows(folders, named, lines)
        with connection_to(database, folders.spill, LOCK_TIMEOUT, report, folders=lines.folders) as connection:
            warehouse = Warehouse(connection, engine=lines.engine)
            # Raises for a second key: a run has only one, and could not recognise all erased customers.
            LinePrivacy.of(warehouse, settings, CustomerIds())
            _check_known(warehouse, folders, settings, key, named)
            tables_as_of = _as_of(warehouse)
            as_of = _as_argument(warehouse, tables_as_of)
            by_source = _LINES_BY_SOURCE.format(condition=named.condition("customer_id"))
            sources = dict(warehouse.execute(by_source, {"customers": list(named.names)}).fetchall())
            connection.begin()
            _store_hashes(warehouse, key, named, tables_as_of)
            for table, columns in _customer_tables(connection).items():
                if table in warehouse.lines.held():
                    _delete_lines(warehouse, table, named, settings)
                else:
                    _delete(connection, table, columns, named)
            warehouse.forget_versions()
            connection.execute(_COUNT_ERASED, {"files": list(sources), "lines": list(sources.values())})
            connection.commit()
            # Opening deletes files of lines that no table has any more.
            Warehouse(connection, engine=lines.engine)
        _rewrite(folders, report)
    return Erasure(as_of, before, sources)


_LINES_BY_SOURCE = """
    select source_file, count(*) as lines from raw_transactions where {condition}
    group by source_file order by source_file
"""
_COUNT_ERASED = """
    update ingested_files set lines = lines - erased_now.lines_now, erased = erased + erased_now.lines_now
    from (select unnest(cast($files as varchar[])) as file, unnest(cast($lines as bigint[])) as lines_now) as erased_now
    where source_file = erased_now.file
"""


def _check_known(
    warehouse: Warehouse, folders: RetailerFolders, settings: Retailer, key: Key, named: NamedCustomers
) -> None:
    """Check that a table names each customer, or that the customer was erased before.

    A mistyped customer must not look like an erased one. After a killed erasure, the second attempt finds the hash.
    """
    tables = _customer_tables(warehouse.connection)
    for number, one in enumerate(named.each(settings, key), 1):
        hashes = [key.hashed(ERASURE, name) for name in one.ids[0]]
        is_named = any(_count(warehouse.connection, quoted(table), columns, one) for table, columns in tables.items())
        select = "select 1 as one from erased_customers where list_contains($hashes, customer_hash)"
        if is_named or warehouse.rows(select, hashes=hashes):
            continue
        raise ErasureError(
            f"customer {number} of {len(named.ids)} is in no table of {folders.working_database}, so nobody was erased."
            " Write each customer as the source does; quote a name that contains spaces"
        )


def _as_of(warehouse: Warehouse) -> datetime:
    """Return the as_of of the release without the customers: that of the tables, or a later membership change."""
    has_segments = warehouse.has("customer_segments")
    segments = warehouse.row("select max(as_of) as as_of from customer_segments")["as_of"] if has_segments else None
    times = [at for at in (segments, last_change_at(warehouse)) if at is not None]
    if not times:
        raise ErasureError("no run has finished yet, so there is no release to replace; run `segments run` first")
    return max(times)


def _as_argument(warehouse: Warehouse, as_of: datetime) -> str:
    """Return the as_of as a run takes it: as a day where it is the midnight after all lines that count.

    A source may have dates without times. Its lines of that midnight belong to the next day, and would count if the
    run got the midnight itself.
    """
    newest = warehouse.row("select max(transaction_at) as newest from clean_transactions")["newest"]
    is_day = as_of.time() == time() and newest < as_of
    return str((as_of - timedelta(days=1)).date() if is_day else as_of)


def _store_hashes(warehouse: Warehouse, key: Key, named: NamedCustomers, as_of: datetime) -> None:
    known = {row["customer_hash"] for row in warehouse.rows("select customer_hash from erased_customers")}
    for name in dict.fromkeys(name for ids in named.ids for name in ids):
        if (hashed := key.hashed(ERASURE, name)) not in known:
            values = [hashed, key.fingerprint, as_of]
            warehouse.connection.execute("insert into erased_customers values (?, ?, ?)", values)


def _delete(connection: duckdb.DuckDBPyConnection, table: str, columns: list[str], named: NamedCustomers) -> None:
    values = {"customers": list(named.names)}
    if "customer_id" in columns:
        condition = named.condition("customer_id")
        connection.execute(f"delete from {quoted(table)} where {condition}", values)  # noqa: S608 - quoted names
    if "unparsed" in columns:
        connection.execute(
            f"update {quoted(table)} set unparsed = {ERASED_TEXT}"  # noqa: S608 - quoted names
            f" where {named.condition('unparsed')}",
            values,
        )


def _delete_lines(warehouse: Warehouse, table: str, named: NamedCustomers, settings: Retailer) -> None:
    """Let the engine that holds a table write the lines without the customers, of each source file that names them.

    Raises:
        WarehouseError: Lines break the contract of the table.
    """
    contract, values = contracts()[table], {"customers": list(named.names)}
    conditions = [named.condition(name) for name in _NAMING_COLUMNS if name in {one.name for one in contract.columns}]
    replaced = f"case when {named.condition('unparsed')} then {ERASED_TEXT} else unparsed end as unparsed"
    star = f"* replace ({replaced})" if len(conditions) == len(_NAMING_COLUMNS) else "*"
    select = f"select {star} from {quoted(table)} where not coalesce({conditions[0]}, false)"  # noqa: S608 - quoted names
    # Few files name a customer, so only these are written again.
    find = f"select distinct source_file from {quoted(table)} where {' or '.join(conditions)}"  # noqa: S608 - quoted names
    files = frozenset(file for (file,) in warehouse.execute(find, values).fetchall())
    columns = settings.columns.extra if contract.has_extra_columns else {}
    done = warehouse.lines.write(TableWrite(table, select, files=files, extra_columns=columns), values, QueryInputs())
    if isinstance(done, WriteResult) and done.violations:
        raise WarehouseError(done.message)


def _rewrite(folders: RetailerFolders, report: Callable[[str], None]) -> None:
    """Copy the tables into a new file: deleted rows stay in the blocks of the old one until these are reused."""
    database = folders.working_database
    rewritten = database.with_name(f"{database.name}.erasing")
    rewritten.unlink(missing_ok=True)
    with connection_to(rewritten, folders.spill, LOCK_TIMEOUT, report, folders=[folders.root]) as connection:
        connection.execute(f"attach {literal(str(database))} as old (read_only)")
        [(new,)] = connection.execute("select current_database()").fetchall()
        connection.execute(f"copy from database old to {quoted(new)}")
    sync(rewritten)
    rewritten.replace(database)
    sync(database.parent)


def delete_earlier_data(folders: RetailerFolders, release: str) -> None:
    """Delete everything with earlier tables: all other releases, and databases that were kept under other names.

    Raises:
        ReleaseError: The release to keep does not exist, or is damaged.
    """
    Releases(folders.releases).keep_only(release)
    for path in _kept_copies(folders):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _kept_copies(folders: RetailerFolders) -> Iterator[Path]:
    database = folders.working_database
    in_use = {database.name, f"{database.name}.wal"}
    yield from (path for path in sorted(folders.root.glob(f"{database.name}*")) if path.name not in in_use)
    yield from sorted(folders.releases.glob("current.set-aside*"))
    if folders.spill.is_dir():
        yield from sorted(folders.spill.iterdir())
