"""Erase customers: from every table, every file and every release, with the proof of it.

Belongs here: finding where customers stand, and taking them away. Tables are found by their columns, so that none is
forgotten that is added later. Does not: keeping them out afterwards (`privacy`).
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
from segmentation_pipeline.privacy.pseudonyms import ERASED, FORGOTTEN, Key, Mouth, words_of
from segmentation_pipeline.releases.files import sync
from segmentation_pipeline.releases.store import Releases
from segmentation_pipeline.segments.membership import last_change_at
from segmentation_pipeline.tables.contract import literal, quoted
from segmentation_pipeline.warehouse import lock
from segmentation_pipeline.warehouse.connection import connection_to
from segmentation_pipeline.warehouse.database import Warehouse

PATIENCE = 3600.0
# By these columns a table tells of a customer, and by which condition in SQL of `$customers`.
_TELLING = {
    "customer_id": "list_contains($customers, customer_id)",
    "unparsed": f"coalesce(list_has_any({words_of('unparsed')}, $customers), false)",
}
_TABLES = re.compile(r"\.(parquet|duckdb(?!.*\.wal$))")
# Rows by place; None where a file cannot be read.
Counts = dict[str, int | None]


@dataclass(frozen=True)
class Erased:
    """What was taken out of the working database.

    Attributes:
        as_of: Of the tables that stood, as a run is told it: the fresh release is of the same.
        before: The rows that told of them, by table and file.
        sources: How many lines of each source file, which still holds them, are left out from now on.
    """

    as_of: str
    before: Counts
    sources: dict[str, int]


def named(settings: Retailer, key: Key, customers: Sequence[str]) -> list[str]:
    """The names by which the customers may stand in a table: their own, and what the mouth makes of it."""
    plain = [_as_read(customer) for customer in customers]
    return [*plain, *(key.pseudonym(customer) for customer in plain if settings.privacy.pseudonymise)]


def _as_read(customer: str) -> str:
    """A customer as `raw_transactions` reads it."""
    return re.sub(r"^([0-9]+)[.]0+$", r"\1", customer.strip())


def counted(folders: RetailerFolders, names: Sequence[str], tell: Callable[[str], None]) -> Counts:
    """How many rows tell of customers, by the file (and for the working database, the table) that has them.

    Every table and file that may tell of one is there, also with none.
    """
    with lock.writer(folders.lock, "segments forget", PATIENCE, tell):
        return _counted(folders, names)


def _counted(folders: RetailerFolders, names: Sequence[str]) -> Counts:
    counts: Counts = {}
    for file in sorted(folders.root.rglob("*")):
        place = file.relative_to(folders.root).as_posix()
        if file.is_symlink() or not file.is_file() or not _TABLES.search(file.name):
            continue
        try:
            with closing(_opened(file)) as connection:
                rows = {table: _count(connection, table, told, names) for table, told in _telling(connection).items()}
        except duckdb.Error:
            counts[place] = None
            continue
        if file == folders.working_database:
            counts |= {f"{place}: {table}": number for table, number in rows.items()}
        elif rows:
            counts[place] = sum(rows.values())
    return counts


def _opened(file: Path) -> duckdb.DuckDBPyConnection:
    if file.suffix != ".parquet":
        return duckdb.connect(str(file), read_only=True)
    connection = duckdb.connect()
    select = f"select * from read_parquet({literal(escape(str(file)))})"
    connection.execute(f"create view {quoted(file.stem)} as {select}")
    return connection


def _telling(connection: duckdb.DuckDBPyConnection) -> dict[str, list[str]]:
    """The tables that may tell of a customer, with the columns by which they do."""
    rows = connection.execute(
        "select table_name, list(column_name order by column_index) from duckdb_columns()"
        " where not internal and list_contains($telling, column_name) group by table_name order by table_name",
        {"telling": list(_TELLING)},
    ).fetchall()
    return {str(table): list(columns) for table, columns in rows}


def _count(connection: duckdb.DuckDBPyConnection, table: str, columns: list[str], names: Sequence[str]) -> int:
    condition = " or ".join(_TELLING[column] for column in columns)
    select = f"select count(*) from {quoted(table)} where {condition}"
    [(rows,)] = connection.execute(select, {"customers": list(names)}).fetchall()
    return int(rows)


def erase(
    folders: RetailerFolders, settings: Retailer, key: Key, customers: Sequence[str], tell: Callable[[str], None]
) -> Erased:
    """Take customers out of the working database, in one transaction, and remember their keyed hashes.

    Raises:
        ErasureError: One of them stands nowhere, or there is nothing yet.
        PrivacyError: The key is another than before.
        LockTimeoutError: A run is writing.
    """
    names, work = named(settings, key, customers), folders.working_database
    with lock.writer(folders.lock, "segments forget", PATIENCE, tell):
        if not work.exists():
            raise ErasureError(
                f"{work}: there is no working database yet, so nobody to forget; `segments run` makes it"
            )
        before = _counted(folders, names)
        with connection_to(work, folders.spill, PATIENCE, tell) as connection:
            warehouse = Warehouse(connection)
            # Two keys would keep out nobody: each run has but one.
            Mouth.of(warehouse, settings)
            _refuse_unknown(warehouse, folders, settings, key, customers)
            moment = _moment(warehouse)
            as_of = _as_asked(warehouse, moment)
            sources = dict(warehouse.execute(_SOURCES, {"customers": names}).fetchall())
            connection.begin()
            _remember(warehouse, key, customers, moment)
            for table, columns in _telling(connection).items():
                _take_out(connection, table, columns, names)
            values = {"files": list(sources), "lines": list(sources.values())}
            connection.execute(_LEFT_OUT, values)
            connection.commit()
        _write_anew(folders, tell)
    return Erased(as_of, before, sources)


_SOURCES = """
    select source_file, count(*) as lines from raw_transactions where list_contains($customers, customer_id)
    group by source_file order by source_file
"""
_LEFT_OUT = """
    update ingested_files set lines = lines - erased_now.lines_now, erased = erased + erased_now.lines_now
    from (select unnest(cast($files as varchar[])) as file, unnest(cast($lines as bigint[])) as lines_now) as erased_now
    where source_file = erased_now.file
"""


def _refuse_unknown(
    warehouse: Warehouse, folders: RetailerFolders, settings: Retailer, key: Key, customers: Sequence[str]
) -> None:
    """A mistyped customer must not look like one who was erased; one of whom a kill left a part is known."""
    for place, customer in enumerate(customers, 1):
        names, hashed = named(settings, key, [customer]), key.hashed("forgotten", _as_read(customer))
        is_known = any(
            _count(warehouse.connection, table, told, names) for table, told in _telling(warehouse.connection).items()
        )
        if is_known or warehouse.rows(f"select 1 as one from {FORGOTTEN} where customer_hash = $hash", hash=hashed):
            continue
        raise ErasureError(
            f"the customer in place {place} of {len(customers)} stands in no table of {folders.working_database}:"
            " nobody was forgotten. Write each as the source does; a name with blanks in quotes"
        )


def _moment(warehouse: Warehouse) -> datetime:
    """As of when the release without them is: as of the tables that stand, and no earlier than the ledger goes."""
    has = warehouse.has("customer_segments")
    stands = warehouse.row("select max(as_of) as as_of from customer_segments")["as_of"] if has else None
    moments = [moment for moment in (stands, last_change_at(warehouse)) if moment is not None]
    if not moments:
        raise ErasureError("no run has come to its end yet, so there are no segments to publish; run first")
    return max(moments)


def _as_asked(warehouse: Warehouse, moment: datetime) -> str:
    """The moment as a run is told it: as a day that counts whole, where it is the midnight after all lines that count.

    A source may have days without times: lines of that midnight are of the next day, and counted only as a moment.
    """
    newest = warehouse.row("select max(transaction_at) as newest from clean_transactions")["newest"]
    is_day = moment.time() == time() and newest < moment
    return str((moment - timedelta(days=1)).date() if is_day else moment)


def _remember(warehouse: Warehouse, key: Key, customers: Sequence[str], as_of: datetime) -> None:
    known = {row["customer_hash"] for row in warehouse.rows(f"select customer_hash from {FORGOTTEN}")}
    for customer in dict.fromkeys(_as_read(customer) for customer in customers):
        if (hashed := key.hashed("forgotten", customer)) not in known:
            values = [hashed, key.fingerprint, as_of]
            warehouse.connection.execute(f"insert into {FORGOTTEN} values (?, ?, ?)", values)


def _take_out(connection: duckdb.DuckDBPyConnection, table: str, columns: list[str], names: Sequence[str]) -> None:
    values = {"customers": list(names)}
    if "customer_id" in columns:
        connection.execute(f"delete from {quoted(table)} where {_TELLING['customer_id']}", values)
    if "unparsed" in columns:
        connection.execute(f"update {quoted(table)} set unparsed = {ERASED} where {_TELLING['unparsed']}", values)


def _write_anew(folders: RetailerFolders, tell: Callable[[str], None]) -> None:
    """The tables get a new file: what is deleted stays in the blocks of the old one until they are used again."""
    work = folders.working_database
    made = work.with_name(f"{work.name}.erasing")
    made.unlink(missing_ok=True)
    with connection_to(made, folders.spill, PATIENCE, tell, beside=[folders.root]) as connection:
        connection.execute(f"attach {literal(str(work))} as old (read_only)")
        [(new,)] = connection.execute("select current_database()").fetchall()
        connection.execute(f"copy from database old to {quoted(new)}")
    sync(made)
    made.replace(work)
    sync(work.parent)


def clear_away(folders: RetailerFolders, release: str) -> None:
    """Delete for ever whatever holds earlier tables: all other releases, and databases that were set aside.

    Raises:
        ReleaseError: The release to be kept is not there, or damaged.
    """
    Releases(folders.releases).only(release)
    for rest in _set_aside(folders):
        shutil.rmtree(rest) if rest.is_dir() else rest.unlink()


def _set_aside(folders: RetailerFolders) -> Iterator[Path]:
    work = folders.working_database
    live = {work.name, f"{work.name}.wal"}
    yield from (path for path in sorted(folders.root.glob(f"{work.name}*")) if path.name not in live)
    yield from sorted(folders.releases.glob("current.set-aside*"))
    if folders.spill.is_dir():
        yield from sorted(folders.spill.iterdir())
