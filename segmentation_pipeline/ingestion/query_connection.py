"""Run the query of a source in PostgreSQL, in a DuckDB database, or over a folder of Parquet files.

Contains the connections and their errors, which never show the connection string. What is queried is in `query_fetch`.
"""

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import unquote, urlsplit

import duckdb

from segmentation_pipeline.config.environment import connection_string
from segmentation_pipeline.errors import SourceError, first_line, mask
from segmentation_pipeline.ingestion.driver_errors import without_cause
from segmentation_pipeline.tables.contract import literal, quoted
from segmentation_pipeline.warehouse.connection import query_connection

_POSTGRESQL = ("postgresql", "postgres")
# A server that restarts, and a program that writes a DuckDB database, are usually done after some seconds.
WAIT_SECONDS = 20.0
_PAUSE_SECONDS = 0.5
# libpq would wait for the timeout of the operating system, which is minutes.
_CONNECT_TIMEOUT = "10"
# Of PostgreSQL's messages, those about names in the query say what to correct; all others may quote values of rows.
_ERRORS_ABOUT_NAMES = ("42", "0A")
_DUCKDB_ERRORS_ABOUT_NAMES = (duckdb.CatalogException, duckdb.BinderException, duckdb.ParserException)
# Messages of libpq when no connection is made, and ours for each.
_CONNECT_ERRORS = (
    ("password authentication failed", "the server rejected the user or the password"),
    ("no password supplied", "the server asks for a password, and the variable has none"),
    ("no pg_hba.conf entry", "the server accepts no connection of this user from this machine (pg_hba.conf)"),
    ('role "', "the server does not accept the user"),
    ('database "', "the server does not have the database, or the user may not connect to it"),
    ("could not translate host name", "the name of the host is unknown"),
    ("Connection refused", "no server answers at its host and port"),
    ("starting up", "the server is starting up"),
    ("shutting down", "the server is shutting down"),
    ("timeout expired", "the server did not answer in time"),
    ("too many", "the server has no free connection"),
    ("remaining connection slots", "the server has no free connection"),
    ("SSL", "the server and the variable do not agree on SSL (sslmode)"),
    ("invalid", "the variable is no valid address: encode special characters of the password, such as %40 for @"),
)
_PASSING = ("Connection refused", "starting up", "shutting down", "too many", "remaining connection slots")
_Result = TypeVar("_Result")


class QuerySource(Protocol):
    """An open connection to a source that a query reads."""

    def rows(self, select: str) -> list[tuple[Any, ...]]:
        """Return the rows of a small query."""

    def columns(self, query: str) -> dict[str, str]:
        """Return the type of each column of a query, by its name."""

    def write_parquet(self, select: str, path: Path) -> None:
        """Write the rows of a SELECT into a Parquet file."""


@dataclass(frozen=True)
class Address:
    """Where a query runs.

    Attributes:
        setting: The value of `source.connection`, for messages.
        text: The connection string. It is secret.
    """

    setting: str
    text: str

    @classmethod
    def of(cls, setting: str) -> "Address":
        """Return the address that an environment variable has.

        Raises:
            SourceError: The variable is not set, or its value is no address.
        """
        name = setting.removeprefix("env:")
        text = connection_string(name).get_secret_value().strip()
        if not text:
            raise SourceError(
                f"source.connection: the environment variable {name} is not set. Set it to the address of the database,"
                " such as postgresql://USER:PASSWORD@HOST/DATABASE, where the pipeline runs."
            )
        address = cls(setting, text)
        if address.kind not in (*_POSTGRESQL, "duckdb", "parquet") or not (address.is_postgresql or address.path):
            raise SourceError(
                f"source.connection: the value of {name} begins with none of postgresql://, duckdb:///PATH and"
                " parquet:///PATH. Correct it."
            )
        return address

    @property
    def kind(self) -> str:
        """The scheme of the address."""
        return self.text.partition("://")[0]

    @property
    def is_postgresql(self) -> bool:
        """Whether it is the address of a PostgreSQL server."""
        return self.kind in _POSTGRESQL

    @property
    def path(self) -> Path | None:
        """The absolute path of a DuckDB database or of a folder; None if there is none."""
        rest = self.text.partition("://")[2]
        return Path(rest) if rest.startswith("/") and not self.is_postgresql else None

    @property
    def identity(self) -> str:
        """What distinguishes one database from another: not its user, whose password and name may change each day."""
        without_parameters = re.sub(r"(?<=[?&])(user|password|sslpassword|passfile)=[^&]*", "", self.text)
        return re.sub(r"://[^/]*@", "://", without_parameters)

    def without_secrets(self, text: str) -> str:
        """Return a text without the parts of the address."""
        for secret in sorted(self._secrets(), key=len, reverse=True):
            text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", "***", text)
        return text

    def _secrets(self) -> Iterator[str]:
        yield self.text
        if self.path is not None:
            yield str(self.path)
            return
        netloc, _, rest = self.text.partition("://")[2].partition("/")
        user, _, hosts = netloc.rpartition("@")
        parts = [*user.split(":", 1), *re.split("[:,]", hosts), *re.split("[?&=]", rest)]
        yield from (part for text in parts for part in {text, unquote(text)} if part)

    def error(self, message: str, advice: str) -> SourceError:
        """Return an error that names the environment variable, not its value."""
        return SourceError(f"source.connection ({self.setting}): {message}. {advice}")


@contextmanager
def opened_source(address: Address, folder: Path, own_paths: Sequence[Path] = ()) -> Iterator[QuerySource]:
    """Open a connection that can only read.

    Args:
        address: Where the query runs.
        folder: A folder of the run, for rows and for what does not fit into memory.
        own_paths: Paths that the pipeline itself writes; no source may be there.

    Raises:
        SourceError: There is no connection; a server or a database that is busy is tried again for `WAIT_SECONDS`.
    """
    with ExitStack() as stack:
        if address.is_postgresql:
            source: QuerySource = stack.enter_context(_postgresql(address, folder))
        else:
            source = stack.enter_context(_duckdb(address, folder, own_paths))
        yield source


def _when_free(action: Callable[[], _Result], passes: Callable[[str], bool]) -> _Result:
    """Return the result of an action, which is tried again while its error is one that passes."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            return action()
        except Exception as error:
            if not passes(str(error)) or time.monotonic() > deadline:
                raise
        time.sleep(_PAUSE_SECONDS)


@dataclass(frozen=True)
class _DuckDbSource:
    """A DuckDB database, or a folder of Parquet files whose tables are views."""

    address: Address
    connection: duckdb.DuckDBPyConnection

    def rows(self, select: str) -> list[tuple[Any, ...]]:
        return without_cause(lambda: self.connection.execute(select).fetchall(), self._query_error)

    def columns(self, query: str) -> dict[str, str]:
        statements = without_cause(lambda: duckdb.extract_statements(query), self._query_error)
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
            raise SourceError("source.query: allowed: one SELECT")
        rows = self.rows(f"describe select * from (\n{query}\n) as q")  # noqa: S608 - the user's own query
        return {str(name): str(kind) for name, kind, *_ in rows}

    def write_parquet(self, select: str, path: Path) -> None:
        self.rows(f"copy ({select}) to {literal(str(path))} (format parquet)")

    def _query_error(self, error: Exception) -> SourceError:
        text = first_line(error)
        if isinstance(error, _DUCKDB_ERRORS_ABOUT_NAMES):
            text = next(iter(str(error).splitlines()), "")
        return _query_error(self.address, text, "the query, or the files that it reads")


@dataclass(frozen=True)
class _PostgresqlSource:
    """A session of a PostgreSQL server that can only read, through ADBC: Arrow from the server into DuckDB."""

    address: Address
    session: Any
    folder: Path

    def rows(self, select: str) -> list[tuple[Any, ...]]:
        with query_connection(self.folder) as connection:
            return self._arrow(connection, select, lambda rows: rows.fetchall())

    def columns(self, query: str) -> dict[str, str]:
        # A function of the server gives the types: Arrow shows some as bytes or whole numbers.
        with query_connection(self.folder) as connection:
            empty = f"select * from (\n{query}\n) as q limit 0"  # noqa: S608 - the user's own query
            names = self._arrow(connection, empty, lambda rows: list(rows.columns))
        if not names:
            return {}
        kinds = ", ".join(f"pg_typeof(q.{quoted(name)})::text" for name in names)
        select = f"select {kinds} from (select 1) as one left join (\n{query}\n) as q on false"  # noqa: S608 - as above
        [row] = self.rows(select)
        return dict(zip(names, map(str, row), strict=True))

    def write_parquet(self, select: str, path: Path) -> None:
        def write(rows: duckdb.DuckDBPyRelation) -> None:
            rows.write_parquet(str(path))

        with query_connection(self.folder) as connection:
            self._arrow(connection, select, write)

    def execute(self, statement: str) -> None:
        """Execute a statement without a result."""
        import adbc_driver_manager as adbc

        with closing(adbc.AdbcStatement(self.session)) as prepared:
            prepared.set_sql_query(statement)
            without_cause(prepared.execute_update, self._query_error)

    def _arrow(
        self, connection: duckdb.DuckDBPyConnection, select: str, read: Callable[[duckdb.DuckDBPyRelation], _Result]
    ) -> _Result:
        import adbc_driver_manager as adbc

        def run() -> _Result:
            with closing(adbc.AdbcStatement(self.session)) as statement:
                statement.set_sql_query(select)
                stream, _ = statement.execute_query()
                return read(connection.from_arrow(stream))

        return without_cause(run, self._query_error)

    def _query_error(self, error: Exception) -> SourceError:
        found = re.search(r"(?:ERROR|FATAL):\s*(.*)", str(error))
        message = found[1].strip() if found else ""
        state = getattr(error, "sqlstate", None) or ""
        if not message:
            message = "the connection was lost" if "server closed" in str(error) else "no reason was given"
        if not state.startswith(_ERRORS_ABOUT_NAMES):
            message = re.sub(r'(?<=")[^"]*(?=")', lambda value: mask(value[0]), message)
        return _query_error(self.address, message, "the query, or the rights of the user")


def _query_error(address: Address, message: str, place: str) -> SourceError:
    message = address.without_secrets(message).rstrip(".")
    return SourceError(
        f"source.query: the database of {address.setting} could not answer it: {message}. Correct {place}; then run"
        " again. Nothing was loaded."
    )


@contextmanager
def _postgresql(address: Address, folder: Path) -> Iterator[_PostgresqlSource]:
    try:
        import adbc_driver_manager as adbc
        import adbc_driver_postgresql as postgresql
    except ImportError:
        raise SourceError(
            "source.connection: PostgreSQL needs further packages. Install them with"
            " `pip install 'segmentation-pipeline[postgres]'`."
        ) from None

    with ExitStack() as stack:

        def connect() -> Any:
            database = stack.enter_context(closing(postgresql.connect(_with_timeout(address.text))))
            return stack.enter_context(closing(adbc.AdbcConnection(database)))

        def is_passing(text: str) -> bool:
            return any(words in text for words in _PASSING)

        session = without_cause(lambda: _when_free(connect, is_passing), lambda error: _not_connected(address, error))
        source = _PostgresqlSource(address, session, folder)
        for statement in (
            "set client_encoding = 'UTF8'",
            "set timezone = 'UTC'",
            "set datestyle = 'ISO'",
            "set intervalstyle = 'iso_8601'",
            "set session characteristics as transaction read only",
        ):
            source.execute(statement)
        yield source


def _with_timeout(text: str) -> str:
    """Return the address with a timeout, unless it has one."""
    if "connect_timeout=" in text:
        return text
    return f"{text}{'&' if urlsplit(text).query else '?'}connect_timeout={_CONNECT_TIMEOUT}"


def _not_connected(address: Address, error: Exception) -> SourceError:
    text = str(error)
    message = next((words for pattern, words in _CONNECT_ERRORS if pattern in text), "the server cannot be reached")
    name = address.setting.removeprefix("env:")
    return address.error(message, f"See that the server runs, correct the variable {name}, then run again")


@contextmanager
def _duckdb(address: Address, folder: Path, own_paths: Sequence[Path]) -> Iterator[_DuckDbSource]:
    path, tables = address.path, dict[str, str]()
    assert path is not None
    if any(path.resolve().is_relative_to(own.resolve()) for own in own_paths):
        raise address.error("the pipeline itself wrote it", "Set the database of another program")
    if address.kind == "parquet":
        tables = _parquet_tables(address, path)
    elif not path.is_file():
        raise address.error("there is no such file", "Correct the variable")
    with ExitStack() as stack:

        def connect() -> duckdb.DuckDBPyConnection:
            opened = (
                query_connection(folder, tables=tables, root=path)
                if tables
                else query_connection(folder, database=path)
            )
            return stack.enter_context(opened)

        def failed(error: Exception) -> SourceError:
            if "Could not set lock" in str(error):
                advice = "Run when it has finished, or let it write a copy that nothing has open"
                return address.error(f"another program has had the database open for {WAIT_SECONDS:g} s", advice)
            message = address.without_secrets(first_line(error)).rstrip(".")
            return address.error(f"DuckDB {duckdb.__version__} cannot open it: {message}", "Correct the variable")

        connection = without_cause(lambda: _when_free(connect, lambda text: "Could not set lock" in text), failed)
        yield _DuckDbSource(address, connection)


def _parquet_tables(address: Address, folder: Path) -> dict[str, str]:
    """Return the pattern of the files of each table: those in a subfolder, or a single file."""
    if not folder.is_dir():
        raise address.error("there is no such folder", "Correct the variable")
    tables = {}
    for entry in sorted(folder.iterdir()):
        if entry.suffix == ".parquet" and entry.is_file():
            tables[entry.stem] = escape(str(entry))
        elif entry.is_dir() and next(entry.rglob("*.parquet"), None):
            tables[entry.name] = f"{escape(str(entry))}/**/*.parquet"
    if not tables:
        raise address.error("the folder has no Parquet files, and no subfolder has", "Correct the variable")
    return tables
