"""Load every record of source files, malformed ones too, as lines of `raw_transactions` in a staging database.

The SELECT of `part_select` reads a file as text, that of `raw_transactions` converts the text to types, and `cleaning`
rejects lines.
"""

import glob
import hashlib
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import duckdb

from segmentation_pipeline import progress
from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.config.validation import MAX_COLUMNS
from segmentation_pipeline.errors import SourceError, first_line, is_system_error
from segmentation_pipeline.ingestion.column_mapping import (
    column_positions,
    differing_message,
    names_to_keep,
    repeated_columns,
)
from segmentation_pipeline.ingestion.discovery import format_of
from segmentation_pipeline.ingestion.file_formats import Part, numbered_csv, parts_of
from segmentation_pipeline.ingestion.fill_down import count_select, fill_down_select, filled_columns
from segmentation_pipeline.ingestion.number_formats import number_values
from segmentation_pipeline.ingestion.part_select import (
    FIRST_CELL,
    cells_select,
    differing_select,
    part_select,
    part_values,
)
from segmentation_pipeline.tables.catalog import contracts, macros, macros_called_by, select_of
from segmentation_pipeline.tables.contract import literal, quoted
from segmentation_pipeline.warehouse.connection import reading_connection
from segmentation_pipeline.warehouse.queries import QueryInputs, bound_values
from segmentation_pipeline.warehouse.statements import statements_for

# Raise the version of a format when its files would be read differently: only they are then read again.
READER_VERSIONS = {"csv": "3", "jsonl": "2", "parquet": "1", "xlsx": "1", "xls": "1", "xlsb": "1", "ods": "1"}
_PLACE = ("source_file", "source_sheet", "source_line")
# The columns of a line but its place in the source.
_VALUES = tuple(column.name for column in contracts()["raw_transactions"].columns if column.name not in _PLACE)


@dataclass
class FileLoad:
    """What was read of one file.

    Attributes:
        source_file: The file's name.
        path: The file.
        columns: Its columns, those of all its sheets, with their types where the format has any.
        records: How many records were read.
        malformed: How many of them are malformed.
        filled: How many empty values of each column `source.fill_down` filled.
        error: Why the file cannot be read. Lines of its other sheets may be in the relation all the same.
    """

    source_file: str
    path: Path
    columns: dict[str, str] = field(default_factory=dict)
    records: int = 0
    malformed: int = 0
    filled: Counter[str] = field(default_factory=Counter)
    error: str | None = None


@dataclass(frozen=True)
class StagedLines(QueryInputs):
    """The relation `staged_lines` of lines of `raw_transactions`, and what was read of each file, by its name."""

    files: Mapping[str, FileLoad] = field(default_factory=dict)


def reader_digest(path: Path, retailer: Retailer) -> str:
    """Return a digest that changes when the package would read or type the lines of a file differently."""
    version = READER_VERSIONS[format_of(path, retailer.source) or "csv"]
    return _digest_of_code(version, select_of("raw_transactions"))


@cache
def _digest_of_code(version: str, select: str) -> str:
    without_comments = " ".join(re.sub(r"--.*", "", select + macros_called_by(select)).split())
    return hashlib.sha256(f"{version} {without_comments}".encode()).hexdigest()[:8]


@contextmanager
def read_lines(
    connection: duckdb.DuckDBPyConnection,
    retailer: Retailer,
    files: Mapping[str, Path],
    spill: Path,
    max_lines: Mapping[str, int] | None = None,
) -> Iterator[StagedLines]:
    """Load files into a staging database, and attach it to a connection as the relation `staged_lines`.

    The working database reads no source file. Another connection does, which has access to these files only. A file
    that cannot be read, or lacks a column that the retailer file names, has an error.

    Args:
        connection: The connection to the working database.
        retailer: How the files are written, and which of their columns are which.
        files: The path of each file by its name.
        spill: The folder for the staging database.
        max_lines: About how many lines at the beginning of each file are read; None: all.
    """
    if not files:
        yield StagedLines({"staged_lines": _no_lines(retailer)})
        return
    with temporary_folder(spill, "read-") as folder:
        # A database of its own, because DuckDB keeps temporary tables in memory without compression.
        database = folder / "staging.duckdb"
        with statements_for("read"), reading_connection(database, files.values()) as reading:
            reading.execute(macros())
            loads = {name: FileLoad(name, path) for name, path in files.items()}
            staging = _Staging(reading, retailer, folder, loads, max_lines or {})
            relation = staging.load()
        progress.report("writing the lines")
        connection.execute(f"attach {literal(str(database))} as staging (read_only)")
        try:
            yield StagedLines({"staged_lines": relation}, files=staging.files)
        finally:
            connection.execute("detach staging")


@contextmanager
def temporary_folder(spill: Path, prefix: str) -> Iterator[Path]:
    """Create a folder for a run's files, which is deleted at the end."""
    spill.mkdir(parents=True, exist_ok=True)
    for abandoned in spill.glob(f"{prefix}*"):
        # A killed run left it: the writer's lock allows one run at a time.
        shutil.rmtree(abandoned, ignore_errors=True)
    folder = Path(mkdtemp(prefix=prefix, dir=spill))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _typing_values(retailer: Retailer) -> dict[str, Any]:
    """Return the values that the SELECT of `raw_transactions` binds to convert text to types."""
    return {
        **number_values(retailer),
        "has_date_format": bool(retailer.source.date_format),
        "time_zone": retailer.time_zone,
        "has_quantity": retailer.columns.quantity is not None,
        "has_price": retailer.columns.price is not None,
        "has_amount": retailer.columns.amount is not None,
    }


@dataclass
class _Staging:
    """Loads the parts of files into the staging database."""

    connection: duckdb.DuckDBPyConnection
    retailer: Retailer
    folder: Path
    files: dict[str, FileLoad]
    max_lines: Mapping[str, int] = field(default_factory=dict)
    tables: int = 0

    def load(self) -> str:
        """Load every file, note what was read of each, and return the SELECT of all their records."""
        parts: list[Part] = []
        for number, file in enumerate(self.files.values(), start=1):
            progress.report(f"opening file {number:,} of {len(self.files):,}")
            parts += self._parts(file)
        relation = " union all ".join(self._stage(parts)) or _no_lines(self.retailer)
        counts = "source_file, count(*), count(*) filter (where starts_with(unparsed, '{\"line\":'))"
        select = f"select {counts} from ({relation}) group by source_file"  # noqa: S608 - own SQL
        for name, records, malformed in self.connection.execute(select).fetchall():
            self.files[name].records, self.files[name].malformed = records, malformed
        return relation

    def _parts(self, file: FileLoad) -> list[Part]:
        """Return the parts of a file; none where it cannot be read or lacks a column."""
        try:
            limit = self.max_lines.get(file.source_file)
            parts = parts_of(self.connection, self.retailer.source, file.source_file, file.path, self.folder, limit)
            if (width := max((len(part.columns) for part in parts), default=0)) > MAX_COLUMNS:
                raise SourceError(
                    f"{file.source_file}: {width:,} columns; a sheet has {MAX_COLUMNS:,} at most, so it is damaged"
                )
            file.columns = {
                column: part.types[position] if part.types else ""
                for part in parts
                for position, column in enumerate(names_to_keep(self.retailer.columns, part.columns))
            }
            for part in parts:
                column_positions(self.retailer.columns, part)
            return [self._without_doubt(part) for part in parts]
        except SourceError as error:
            file.error = str(error)
            return []

    def _without_doubt(self, part: Part) -> Part:
        """Return a part after a check that mapped columns of the same name have the same values.

        Raises:
            SourceError: They differ.
        """
        columns = self.retailer.columns
        repeated = repeated_columns(columns, part)
        if repeated and part.kind == "csv":
            # DuckDB would leave out lines that it cannot read.
            part = numbered_csv(part, self.folder)
        for name, found in repeated.items():
            for other in found[1:]:
                values = part_values(self.retailer, part) | {"paths": [glob.escape(str(part.path))]}
                [(lines, first)] = self._execute(differing_select(part, found[0], other), values)
                if lines:
                    raise SourceError(differing_message(columns, part, name, [found[0], other], lines, first))
        return part

    def _stage(self, parts: Sequence[Part]) -> list[str]:
        """Load parts, those with the same columns together, and return the SELECT of each table.

        Whether DuckDB lost a line shows in the number of lines. Its own record of errors is not enough: of many files
        it omits a last line that ends inside a quote, without an error, and where each line opens a quote, recording
        takes time that grows with the square of the lines. Where DuckDB stops, halve the batch until the file is found.
        """
        batches: dict[tuple[object, ...], list[Part]] = {}
        for part in parts:
            batches.setdefault((part.kind, part.columns, part.types, part.layout), []).append(part)
        waiting = list(batches.values())
        selects: list[str] = []
        incomplete: list[Part] = []
        for batch in waiting:
            self._report(batch)
            table = f"lines_{self.tables}"
            self.tables += 1
            try:
                short = self._load_batch(table, batch)
            except duckdb.Error as error:
                if is_system_error(error):
                    raise
                if len(batch) > 1:
                    half = len(batch) // 2
                    waiting += [batch[:half], batch[half:]]
                elif batch[0].kind == "csv":
                    incomplete += batch
                else:
                    self._note_error(batch[0], error)
                continue
            incomplete += short
            if not short:
                selects.append(self._numbered_lines(table, batch))
            elif len(short) < len(batch):
                waiting.append([part for part in batch if part not in short])
        if reparsed := list(self._reparsed(incomplete)):
            selects += self._stage(reparsed)
        return selects

    def _report(self, batch: Sequence[Part]) -> None:
        """Report how many files are read in one statement, and how many lines were read before."""
        before = 0
        if self.tables:
            [(before,)] = self.connection.execute(
                "select coalesce(sum(estimated_size), 0) from duckdb_tables() where starts_with(table_name, 'lines_')"
            ).fetchall()
        files = len({part.source_file for part in batch})
        noun = "file" if len(self.files) == 1 else "files"
        of_all = f"{files:,} of " if files < len(self.files) else ""
        lines = f", {before:,} lines so far" if before else ""
        progress.report(
            f"reading {of_all}{len(self.files):,} {noun}{lines}", lambda: self.connection.query_progress() / 100
        )

    def _reparsed(self, parts: Sequence[Part]) -> Iterator[Part]:
        for part in parts:
            try:
                yield numbered_csv(part, self.folder)
            except OSError as error:
                self._note_error(part, error)

    def _note_error(self, part: Part, error: Exception) -> None:
        if is_system_error(error):
            raise error
        self.files[part.source_file].error = f"{part.location}: cannot be read as {part.kind}: {first_line(error)}"

    def _load_batch(self, table: str, parts: Sequence[Part]) -> list[Part]:
        """Load parts of the same columns into a table, and return the CSV parts of which a line was lost.

        The table is dropped if there are any.

        Raises:
            duckdb.Error: One of the parts cannot be read.
        """
        values = part_values(self.retailer, parts[0]) | _typing_values(self.retailer)
        values["paths"] = [glob.escape(str(part.path)) for part in parts]
        columns = filled_columns(self.retailer)
        cells = f"staging.cells_of_{table}" if columns else ""
        filled = self._fill_down(cells, parts[0], columns, values) if columns else {}
        extra = [f"struct_extract(extra, {literal(name)}) as {quoted(name)}" for name in self.retailer.columns.extra]
        text, listed = part_select(self.retailer, parts[0], cells), ", ".join(["* exclude (extra)", *extra])
        typed = f"with read_lines as ({text}) select {listed} from (\n{select_of('raw_transactions')}\n)"  # noqa: S608 - own SQL
        self._execute(f"create table staging.{table} as {typed}", values)
        if cells:
            self.connection.execute(f"drop table {cells}")
        if short := self._incomplete(table, parts) if parts[0].kind == "csv" else []:
            self.connection.execute(f"drop table staging.{table}")
            return short
        for part in parts:
            self.files[part.source_file].filled.update(filled.get(str(part.path), {}))
        return []

    def _incomplete(self, table: str, parts: Sequence[Part]) -> list[Part]:
        """Return the parts of which a line was lost."""
        select = f"select source_file, count(*) from staging.{table} group by source_file"  # noqa: S608 - own SQL
        loaded = dict(self.connection.execute(select).fetchall())
        return [part for part in parts if loaded.get(str(part.path), 0) != part.lines]

    def _fill_down(
        self, table: str, part: Part, columns: Sequence[str], values: Mapping[str, Any]
    ) -> dict[str, dict[str, int]]:
        """Load the cells of files into a table with the columns filled; return how many values were filled, by path."""
        self._execute(f"create table {table}_as_read as {cells_select(self.retailer, part)}", values)
        names = [*column_positions(self.retailer.columns, part), FIRST_CELL]
        select = fill_down_select(f"{table}_as_read", names, columns, _first_line(part))
        self._execute(f"create table {table} as {select}", values)
        before, after = (
            {path: counts for path, *counts in self._execute(count_select(name, columns), values)}
            for name in (f"{table}_as_read", table)
        )
        self._execute(f"drop table {table}_as_read", values)
        return {
            path: {name: now - was for name, was, now in zip(columns, before[path], counts, strict=True)}
            for path, counts in after.items()
        }

    def _execute(self, statement: str, values: Mapping[str, Any]) -> list[Any]:
        return self.connection.execute(statement, bound_values(statement, dict(values))).fetchall()

    def _numbered_lines(self, table: str, parts: Sequence[Part]) -> str:
        """Return the SELECT of a loaded table with each line's file, sheet and number.

        DuckDB keeps the order of files and lines when it creates a table. Where a line has no number yet, it is the
        distance of its rowid from the first of its file.
        """
        self.connection.execute(
            f"""
            create table staging.parts_of_{table} as
            with named as (
                select unnest($paths) as path, unnest($files) as source_file, unnest($sheets) as source_sheet
            ), firsts as (
                select source_file as path, min(rowid) as first_rowid from staging.{table} group by source_file
            )
            select named.*, firsts.first_rowid from named inner join firsts using (path)
            """,  # noqa: S608 - own SQL, values are bound
            {
                "paths": [str(part.path) for part in parts],
                "files": [part.source_file for part in parts],
                "sheets": [part.source_sheet for part in parts],
            },
        )
        values = ", ".join(map(quoted, (*_VALUES, *self.retailer.columns.extra)))
        first_line = _first_line(parts[0])
        return f"""
            select part.source_file, part.source_sheet,
                coalesce(line.source_line, line.rowid - part.first_rowid + {first_line}) as source_line, {values}
            from staging.{table} as line
            inner join staging.parts_of_{table} as part on line.source_file = part.path"""  # noqa: S608 - own SQL


def _first_line(part: Part) -> int:
    """Return the number of a part's first line, where its lines have no number: a CSV can have lines above it."""
    return part.layout.first_line if part.kind == "csv" else 1


def _no_lines(retailer: Retailer) -> str:
    """Return a SELECT of no line."""
    contract = contracts()["raw_transactions"].with_extra_columns(retailer.columns.extra)
    columns = ", ".join(f"cast(null as {column.type}) as {quoted(column.name)}" for column in contract.columns)
    return f"select {columns} where false"
