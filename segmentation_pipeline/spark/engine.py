"""Holds the tables of lines as Parquet files that a Spark cluster writes and reads.

Contains the implementation of `warehouse.line_engine` for Spark. Which Parquet file has the rows of which source file
is a table of the working database, so that lines, their versions and everything else change in one transaction.
"""

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
from sqlglot import exp

from segmentation_pipeline.config.engine_settings import Engine
from segmentation_pipeline.errors import EngineError
from segmentation_pipeline.ingestion.staging import StagedLines
from segmentation_pipeline.spark.line_files import LINES, SCRATCH, LineFiles, new_file, parquet
from segmentation_pipeline.spark.session import OpenSession, message_of, spark_session
from segmentation_pipeline.spark.tasks import DeriveFiles, ReadFiles, WrittenFile, distribute
from segmentation_pipeline.spark.translation import spark_select, spark_values
from segmentation_pipeline.spark.waiting import bounded_wait
from segmentation_pipeline.tables.catalog import contracts
from segmentation_pipeline.tables.contract import Violation, literal, quoted
from segmentation_pipeline.warehouse.line_engine import LINE_TABLES, EngineFactory
from segmentation_pipeline.warehouse.queries import QueryInputs, bound_values, tables_read_by
from segmentation_pipeline.warehouse.table_write import TableWrite, WriteResult

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

_STAGED, _INVOICES = "staged_lines", "invoice_totals"
_SHOWN_VIOLATIONS = 5


@contextmanager
def spark_lines(settings: Engine, retailer: str, report: Callable[[str], None]) -> Iterator[EngineFactory]:
    """Yield what makes the engine of a working database; its Spark session is opened on first use.

    Args:
        settings: The engine's settings.
        retailer: The retailer, which has a folder of its own below the location.
        report: Called with the address of Spark's web interface by each step that uses Spark.
    """
    with ExitStack() as stack:
        yield partial(SparkEngine, settings=settings, retailer=retailer, report=report, stack=stack)


class SparkEngine:
    """Reads, writes and aggregates lines on Spark. See `LineEngine` for its methods."""

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        *,
        settings: Engine,
        retailer: str,
        report: Callable[[str], None],
        stack: ExitStack,
    ) -> None:
        self._files = LineFiles(connection, Path(str(settings.location)) / retailer)
        stack.callback(self._files.delete_scratch)
        self._connection = connection
        self._settings = settings
        self._report = report
        self._stack = stack
        self._opened: OpenSession | None = None
        self._error: EngineError | None = None
        self._staged: dict[str, WrittenFile] = {}
        self._registered: dict[str, tuple[str, ...]] = {}
        self._results = 0

    # The tables of lines.

    def held(self) -> Mapping[str, Sequence[tuple[str, str]]]:
        """Return the columns of each table of lines, with their types."""
        return self._files.columns()

    @contextmanager
    def staged(
        self, read: Callable[..., AbstractContextManager[Any]], files: Mapping[str, Path], spill: Path
    ) -> Iterator[Any]:
        """Read the files on the workers, each into a Parquet file."""
        if not files:
            with read(self._connection, files=files, spill=spill) as nothing:
                yield nothing
            return
        task = ReadFiles(read, self._files.location, SCRATCH)
        sizes = [path.stat().st_size for path in files.values()]
        # An absolute path, because a worker has another current folder.
        named = [(name, str(path.absolute())) for name, path in files.items()]
        written = self._distribute("reading files", task, named, sizes)
        self._staged = {file.source_file: file for file in written if file.path}
        loads = {file.source_file: file.load for file in written if file.load is not None}
        with ExitStack() as stack:
            relation = stack.enter_context(read(self._connection, files={}, spill=spill)).relations[_STAGED]
            if self._staged:
                paths = [str(self._files.location / file.path) for file in self._staged.values()]
                relation = f"select * from {parquet(paths)}"  # noqa: S608 - own SQL
            yield StagedLines({_STAGED: relation}, files=loads)
        self._staged = {}

    def write(self, write: TableWrite, values: Mapping[str, Any], inputs: QueryInputs) -> WriteResult | TableWrite:
        """Derive the rows of a table of lines, or of invoices, on the workers, file by file.

        The working database holds invoices, of which there are far fewer than lines, so it reads the rows of the
        workers; other tables are its own.
        """
        if write.table not in (*LINE_TABLES, _INVOICES):
            return write
        written = self._derived(write, values, inputs)
        if violations := _violations(written):
            return WriteResult(write.table, sum(file.rows for file in written), violations)
        if write.table == _INVOICES:
            paths = [str(self._files.location / file.path) for file in written if file.path]
            rows = f"select * from {parquet(paths)}" if paths else write.contract.empty_select  # noqa: S608 - own SQL
            return replace(write, select=rows)
        replaced = [(file.source_file, file.path, file.rows) for file in written if file.path]
        self._files.replace(write.contract, write.files, replaced)
        number = self._files.rows(write.table)
        violations = () if number or write.contract.may_be_empty else (Violation("", "not empty", "0 rows"),)
        return WriteResult(write.table, number, violations)

    def _derived(self, write: TableWrite, values: Mapping[str, Any], inputs: QueryInputs) -> list[WrittenFile]:
        """Let the workers derive the rows of each source file."""
        bound = {**values, **inputs.values}
        sources = self._sources_of(write, inputs)
        relations = {name: text for name, text in inputs.relations.items() if name not in sources}
        names = {name for files in sources.values() for name in files}
        wanted = sorted(names if write.files is None else names & write.files)
        tables = self._shipped(self._reads(write.select, relations) - {*sources, *relations})
        task = DeriveFiles(
            TableWrite(write.table, write.select, files=frozenset(wanted), extra_columns=write.extra_columns),
            bound,
            QueryInputs(relations, bound),
            tables,
            self._files.location,
            SCRATCH if write.table == _INVOICES else LINES,
        )
        jobs = [
            (
                name,
                {table: str(self._files.location / files[name]) for table, files in sources.items() if name in files},
            )
            for name in wanted
        ]
        sizes = [sum(Path(path).stat().st_size for path in paths.values()) for _, paths in jobs]
        return self._distribute(f"deriving {write.table}", task, jobs, sizes)

    def drop(self, table: str) -> None:
        """Forget the files of a table; the next run deletes them."""
        self._files.drop(table)

    def _sources_of(self, write: TableWrite, inputs: QueryInputs) -> dict[str, dict[str, str]]:
        """Return the Parquet file of each source file, by the table or relation of lines that a write reads."""
        reads = self._reads(write.select, inputs.relations)
        # What reads new lines compares them with all that are stored.
        own = {write.table} if _STAGED in reads else set()
        sources = {table: self._files.of(table) for table in reads & {*LINE_TABLES} - own}
        if _STAGED in reads:
            sources[_STAGED] = {name: file.path for name, file in self._staged.items()}
        return sources

    # SELECTs that read lines.

    def relation(self, select: str, values: Mapping[str, Any]) -> str:
        """Return the SELECT as it is, or a SELECT of its rows as Spark has computed them."""
        reads = tables_read_by(select)
        if not reads & {*LINE_TABLES}:
            return select
        self._results += 1
        path = self._computed(select, values, f"result_{self._results}")
        return f"select * from {parquet([f'{path}/*.parquet'])}"  # noqa: S608 - own SQL

    def _computed(self, select: str, values: Mapping[str, Any], name: str) -> Path:
        """Let Spark write the rows of a SELECT as Parquet, and return their folder."""
        path, bound = self._files.location / SCRATCH / name, bound_values(select, dict(values))
        reads = tables_read_by(select)
        text = spark_select(select, bound)
        shipped = self._shipped(reads - {*LINE_TABLES})
        with self._session(f"computing {name}") as session:
            for table in sorted(reads & {*LINE_TABLES}):
                self._register(session, table)
            for table, file in shipped.items():
                session.read.parquet(file).createOrReplaceTempView(table)
            session.sql(text, spark_values(bound)).write.mode("overwrite").parquet(str(path))
        return path

    def _register(self, session: "SparkSession", table: str) -> None:
        """Let Spark know the lines of a table by its name. Listing many files takes seconds, so it is done once."""
        files = tuple(self._files.of(table).values())
        if self._registered.get(table) != files:
            self._frame(session, table).createOrReplaceTempView(table)
            self._registered[table] = files

    def _frame(self, session: "SparkSession", table: str) -> "DataFrame":
        """Return the lines of a table."""
        columns = self.held().get(table) or [(column.name, column.type) for column in contracts()[table].columns]
        schema = ", ".join(f"`{name}` {_spark_type(kind)}" for name, kind in columns)
        paths = [str(self._files.location / path) for path in self._files.of(table).values()]
        return session.read.schema(schema).parquet(*paths) if paths else session.createDataFrame([], schema)

    def _reads(self, select: str, relations: Mapping[str, str]) -> set[str]:
        """Return every table that a SELECT reads, also by one of the relations."""
        reads = set(tables_read_by(select))
        for name, text in reversed(list(relations.items())):
            reads |= tables_read_by(text) if name in reads else set()
        return reads

    def _shipped(self, tables: Collection[str]) -> dict[str, str]:
        """Write tables of the working database as Parquet, where the workers can read them."""
        shipped = {}
        for table in sorted(tables):
            path = str(self._files.location / new_file(SCRATCH))
            self._connection.execute(f"copy {quoted(table)} to {literal(path)} (format parquet)")
            shipped[table] = path
        return shipped

    def _distribute(self, what: str, task: Any, files: Sequence[Any], sizes: Sequence[int]) -> list[WrittenFile]:
        if not files:
            return []
        with self._session(what) as session:
            return distribute(session, task, files, sizes)

    @contextmanager
    def _session(self, what: str) -> Iterator["SparkSession"]:
        """Yield the session, and turn an error of Spark into a message; report the address of Spark's interface."""
        opened = self._open()
        from py4j.protocol import Py4JError
        from pyspark.errors import PySparkException

        with bounded_wait(opened, self._settings.wait_minutes) as cancelled:
            try:
                self._report(f"{what} on Spark: {opened.address}")
                yield opened.spark
            except (ConnectionError, Py4JError, PySparkException) as error:
                logging.getLogger(__name__).debug("Spark failed", exc_info=True)
                if not cancelled.is_set():
                    raise EngineError(
                        f"Spark failed while {what}: {message_of(error)}. See its interface or the logs of the workers;"
                        " the tables and the release were not changed."
                    ) from None
                # The next steps of the run must not wait again.
                self._error = EngineError(
                    f"Spark ran no task for {self._settings.wait_minutes} minutes (engine.wait_minutes) while {what}:"
                    f" the cluster of {opened.address} has no free core for it, or its master is lost. Start the"
                    " cluster, or let it have workers with the cores and memory of an executor, and run again; the"
                    " tables and the release were not changed."
                )
                raise self._error from None

    def _open(self) -> OpenSession:
        """Return the session; the first call opens it.

        Raises:
            EngineError: There is none, or the cluster did not run what this run gave it.
        """
        if self._error is not None:
            raise self._error
        if self._opened is None:
            try:
                self._opened = self._stack.enter_context(spark_session(self._settings))
            except EngineError as error:
                self._error = error
                raise
        return self._opened


def _spark_type(kind: str) -> str:
    return exp.DataType.build(kind, dialect="duckdb").sql("spark")


def _violations(written: Sequence[WrittenFile]) -> tuple[Violation, ...]:
    """Return the broken rules with the number of files that break each, and the first of them."""
    broken = [(violation, file.source_file) for file in written for violation in file.violations]
    files = Counter((violation.column, violation.rule) for violation, _ in broken)
    first = {(violation.column, violation.rule): (violation.found, file) for violation, file in reversed(broken)}
    return tuple(
        Violation(column, rule, f"{first[column, rule][0]} of {first[column, rule][1]}, and {number - 1} more files")
        for (column, rule), number in list(files.items())[:_SHOWN_VIOLATIONS]
    )
