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
from segmentation_pipeline.errors import ErasureError
from segmentation_pipeline.privacy.line_privacy import ERASED_TEXT, LinePrivacy, possible_names
from segmentation_pipeline.privacy.pseudonyms import ERASURE, Key
from segmentation_pipeline.releases.files import sync
from segmentation_pipeline.releases.store import Releases
from segmentation_pipeline.segments.membership import last_change_at
from segmentation_pipeline.tables.contract import literal, quoted
from segmentation_pipeline.warehouse import lock
from segmentation_pipeline.warehouse.connection import connection_to
from segmentation_pipeline.warehouse.database import Warehouse

LOCK_TIMEOUT = 3600.0
_HOLDER = "segments erase"
# The columns that may name a customer, each with the SQL condition that it names one of `$customers`.
_CONDITIONS = {
    "customer_id": "list_contains($customers, customer_id)",
    "unparsed": f"coalesce(list_has_any({possible_names('unparsed')}, $customers), false)",
}
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


def stored_names(settings: Retailer, key: Key, customers: Sequence[str]) -> list[str]:
    """Return the names of the customers that tables may hold: as given, and as pseudonyms where these are used."""
    plain = [_as_stored(customer) for customer in customers]
    return [*plain, *(key.pseudonym(customer) for customer in plain if settings.privacy.pseudonymise)]


def _as_stored(customer: str) -> str:
    """Return a customer as `raw_transactions` reads it."""
    return re.sub(r"^([0-9]+)[.]0+$", r"\1", customer.strip())


def count_rows(folders: RetailerFolders, names: Sequence[str], report: Callable[[str], None]) -> RowCounts:
    """Return how many rows name the customers, by file and, for the working database, by table.

    Every table and file that can name a customer is included, also with no rows.
    """
    with lock.writer(folders.lock, _HOLDER, LOCK_TIMEOUT, report):
        return _count_rows(folders, names)


def _count_rows(folders: RetailerFolders, names: Sequence[str]) -> RowCounts:
    counts: RowCounts = {}
    with closing(duckdb.connect()) as parquet:
        for file in sorted(folders.root.rglob("*")):
            place = file.relative_to(folders.root).as_posix()
            if file.is_symlink() or not file.is_file() or not _DATA_FILES.search(file.name):
                continue
            try:
                rows = _rows_in_parquet(parquet, file, names) if file.suffix == ".parquet" else _rows_in(file, names)
            except duckdb.Error:
                counts[place] = None
                continue
            if file == folders.working_database:
                counts |= {f"{place}: {table}": number for table, number in rows.items()}
            elif rows:
                counts[place] = sum(rows.values())
    return counts


def _rows_in(database: Path, names: Sequence[str]) -> dict[str, int]:
    """Return how many rows name the customers, by table that can name one."""
    with closing(duckdb.connect(str(database), read_only=True)) as connection:
        tables = _customer_tables(connection)
        return {table: _count(connection, quoted(table), columns, names) for table, columns in tables.items()}


def _rows_in_parquet(connection: duckdb.DuckDBPyConnection, file: Path, names: Sequence[str]) -> dict[str, int]:
    """Return the same of a Parquet file; one connection reads them all, since a new one takes longer than the query."""
    relation = f"read_parquet({literal(escape(str(file)))})"
    described = connection.execute(f"describe select * from {relation}").fetchall()  # noqa: S608 - names are quoted
    columns = [str(name) for name, *_ in described if name in _CONDITIONS]
    return {file.stem: _count(connection, relation, columns, names)} if columns else {}


def _customer_tables(connection: duckdb.DuckDBPyConnection) -> dict[str, list[str]]:
    """Return the columns that can name a customer, by table."""
    rows = connection.execute(
        "select table_name, list(column_name order by column_index) from duckdb_columns()"
        " where not internal and list_contains($columns, column_name) group by table_name order by table_name",
        {"columns": list(_CONDITIONS)},
    ).fetchall()
    return {str(table): list(columns) for table, columns in rows}


def _count(connection: duckdb.DuckDBPyConnection, relation: str, columns: list[str], names: Sequence[str]) -> int:
    condition = " or ".join(_CONDITIONS[column] for column in columns)
    select = f"select count(*) from {relation} where {condition}"  # noqa: S608 - names are quoted
    [(rows,)] = connection.execute(select, {"customers": list(names)}).fetchall()
    return int(rows)


def erase(
    folders: RetailerFolders, settings: Retailer, key: Key, customers: Sequence[str], report: Callable[[str], None]
) -> Erasure:
    """Erase customers from the working database in one transaction, and store their keyed hashes.

    Raises:
        ErasureError: No table names one of them, or there is no finished run yet.
        PrivacyError: Earlier customers were erased with another key.
        LockTimeoutError: A run is writing.
    """
    names, database = stored_names(settings, key, customers), folders.working_database
    with lock.writer(folders.lock, _HOLDER, LOCK_TIMEOUT, report):
        if not database.exists():
            raise ErasureError(f"{database} does not exist yet, so it names no customer; `segments run` creates it")
        before = _count_rows(folders, names)
        with connection_to(database, folders.spill, LOCK_TIMEOUT, report) as connection:
            warehouse = Warehouse(connection)
            # Raises for a second key: a run has only one, and could not recognise all erased customers.
            LinePrivacy.of(warehouse, settings)
            _check_known(warehouse, folders, settings, key, customers)
            tables_as_of = _as_of(warehouse)
            as_of = _as_argument(warehouse, tables_as_of)
            sources = dict(warehouse.execute(_LINES_BY_SOURCE, {"customers": names}).fetchall())
            connection.begin()
            _store_hashes(warehouse, key, customers, tables_as_of)
            for table, columns in _customer_tables(connection).items():
                _delete(connection, table, columns, names)
            warehouse.forget_versions()
            connection.execute(_COUNT_ERASED, {"files": list(sources), "lines": list(sources.values())})
            connection.commit()
        _rewrite(folders, report)
    return Erasure(as_of, before, sources)


_LINES_BY_SOURCE = """
    select source_file, count(*) as lines from raw_transactions where list_contains($customers, customer_id)
    group by source_file order by source_file
"""
_COUNT_ERASED = """
    update ingested_files set lines = lines - erased_now.lines_now, erased = erased + erased_now.lines_now
    from (select unnest(cast($files as varchar[])) as file, unnest(cast($lines as bigint[])) as lines_now) as erased_now
    where source_file = erased_now.file
"""


def _check_known(
    warehouse: Warehouse, folders: RetailerFolders, settings: Retailer, key: Key, customers: Sequence[str]
) -> None:
    """Check that a table names each customer, or that the customer was erased before.

    A mistyped customer must not look like an erased one. After a killed erasure, the second attempt finds the hash.
    """
    tables = _customer_tables(warehouse.connection)
    for number, customer in enumerate(customers, 1):
        names, hashed = stored_names(settings, key, [customer]), key.hashed(ERASURE, _as_stored(customer))
        is_named = any(_count(warehouse.connection, quoted(table), columns, names) for table, columns in tables.items())
        select = "select 1 as one from erased_customers where customer_hash = $hash"
        if is_named or warehouse.rows(select, hash=hashed):
            continue
        raise ErasureError(
            f"customer {number} of {len(customers)} is in no table of {folders.working_database}, so nobody was erased."
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


def _store_hashes(warehouse: Warehouse, key: Key, customers: Sequence[str], as_of: datetime) -> None:
    known = {row["customer_hash"] for row in warehouse.rows("select customer_hash from erased_customers")}
    for customer in dict.fromkeys(_as_stored(customer) for customer in customers):
        if (hashed := key.hashed(ERASURE, customer)) not in known:
            values = [hashed, key.fingerprint, as_of]
            warehouse.connection.execute("insert into erased_customers values (?, ?, ?)", values)


def _delete(connection: duckdb.DuckDBPyConnection, table: str, columns: list[str], names: Sequence[str]) -> None:
    values = {"customers": list(names)}
    if "customer_id" in columns:
        condition = _CONDITIONS["customer_id"]
        connection.execute(f"delete from {quoted(table)} where {condition}", values)  # noqa: S608 - quoted names
    if "unparsed" in columns:
        connection.execute(
            f"update {quoted(table)} set unparsed = {ERASED_TEXT}"  # noqa: S608 - quoted names
            f" where {_CONDITIONS['unparsed']}",
            values,
        )


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
