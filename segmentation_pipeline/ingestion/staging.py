"""Load every record of source files, malformed ones too, as lines of `raw_transactions` in a staging database.

Contains the SELECTs that read each kind of file as text. Columns are matched in `column_mapping`, the SELECT of
`raw_transactions` converts the text to types, and `cleaning` rejects lines.
"""

import glob
import hashlib
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import duckdb

from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.errors import SourceError, first_line, is_system_error
from segmentation_pipeline.ingestion.column_mapping import column_positions, names_to_keep
from segmentation_pipeline.ingestion.date_formats import CELL_FORMATS, date_format_values, time_sql
from segmentation_pipeline.ingestion.discovery import format_of
from segmentation_pipeline.ingestion.file_formats import MAX_COLUMNS, Part, numbered_csv, parts_of
from segmentation_pipeline.ingestion.number_formats import number_values
from segmentation_pipeline.tables.catalog import contracts, line_columns, macros, macros_called_by, select_of
from segmentation_pipeline.tables.contract import literal, quoted
from segmentation_pipeline.warehouse.connection import reading_connection
from segmentation_pipeline.warehouse.queries import QueryInputs, bound_values
from segmentation_pipeline.warehouse.statements import statements_for

# Raise the version of a format when its files would be read differently: only they are then read again.
READER_VERSIONS = {"csv": "2", "jsonl": "1", "parquet": "1", "xlsx": "1"}
_PLACE = ("source_file", "source_sheet", "source_line")
_NUMBERS = frozenset(column.name for column in line_columns() if column.type.startswith("DECIMAL"))
# The columns of a line but its place in the source.
_VALUES = ", ".join(
    quoted(column.name) for column in contracts()["raw_transactions"].columns if column.name not in _PLACE
)
_NO_LINES = "select {} where false".format(
    ", ".join(
        f"cast(null as {column.type}) as {quoted(column.name)}" for column in contracts()["raw_transactions"].columns
    )
)


@dataclass
class FileLoad:
    """What was read of one file.

    Attributes:
        source_file: The file's name.
        path: The file.
        columns: Its columns, those of all its sheets, with their types where the format has any.
        records: How many records were read.
        malformed: How many of them are malformed.
        error: Why the file cannot be read. Lines of its other sheets may be in the relation all the same.
    """

    source_file: str
    path: Path
    columns: dict[str, str] = field(default_factory=dict)
    records: int = 0
    malformed: int = 0
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
    connection: duckdb.DuckDBPyConnection, retailer: Retailer, files: Mapping[str, Path], spill: Path
) -> Iterator[StagedLines]:
    """Load files into a staging database, and attach it to a connection as the relation `staged_lines`.

    The working database reads no source file. Another connection does, which has access to these files only. A file
    that cannot be read, or lacks a column that the retailer file names, has an error.

    Args:
        connection: The connection to the working database.
        retailer: How the files are written, and which of their columns are which.
        files: The path of each file by its name.
        spill: The folder for the staging database.
    """
    if not files:
        yield StagedLines({"staged_lines": _NO_LINES})
        return
    with _temporary_folder(spill) as folder:
        # A database of its own, because DuckDB keeps temporary tables in memory without compression.
        database = folder / "staging.duckdb"
        with statements_for("read"), reading_connection(database, files.values()) as reading:
            reading.execute(macros())
            staging = _Staging(reading, retailer, folder, {name: FileLoad(name, path) for name, path in files.items()})
            relation = staging.load()
        connection.execute(f"attach {literal(str(database))} as staging (read_only)")
        try:
            yield StagedLines({"staged_lines": relation}, files=staging.files)
        finally:
            connection.execute("detach staging")


@contextmanager
def _temporary_folder(spill: Path) -> Iterator[Path]:
    spill.mkdir(parents=True, exist_ok=True)
    for abandoned in spill.glob("read-*"):
        # A killed run left it: the writer's lock allows one run at a time.
        shutil.rmtree(abandoned, ignore_errors=True)
    folder = Path(mkdtemp(prefix="read-", dir=spill))
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
    tables: int = 0

    def load(self) -> str:
        """Load every file, note what was read of each, and return the SELECT of all their records."""
        parts = [part for file in self.files.values() for part in self._parts(file)]
        relation = " union all ".join(self._stage(parts)) or _NO_LINES
        counts = "source_file, count(*), count(*) filter (where starts_with(unparsed, '{\"line\":'))"
        select = f"select {counts} from ({relation}) group by source_file"  # noqa: S608 - own SQL
        for name, records, malformed in self.connection.execute(select).fetchall():
            self.files[name].records, self.files[name].malformed = records, malformed
        return relation

    def _parts(self, file: FileLoad) -> list[Part]:
        """Return the parts of a file; none where it cannot be read or lacks a column."""
        try:
            parts = parts_of(self.connection, self.retailer.source, file.source_file, file.path, self.folder)
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
        except SourceError as error:
            file.error = str(error)
            return []
        return parts

    def _stage(self, parts: Sequence[Part]) -> list[str]:
        """Load parts, those with the same columns together, and return the SELECT of each table.

        Whether DuckDB lost a line shows in the number of lines. Its own record of errors is not enough: of many files
        it omits a last line that ends inside a quote, without an error, and where each line opens a quote, recording
        takes time that grows with the square of the lines. Where DuckDB stops, halve the batch until the file is found.
        """
        batches: dict[tuple[str, tuple[str, ...], tuple[str, ...]], list[Part]] = {}
        for part in parts:
            batches.setdefault((part.kind, part.columns, part.types), []).append(part)
        waiting = list(batches.values())
        selects: list[str] = []
        incomplete: list[Part] = []
        for batch in waiting:
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

    def _reparsed(self, parts: Sequence[Part]) -> Iterator[Part]:
        for part in parts:
            try:
                yield numbered_csv(part, self.retailer.source.delimiter, self.folder)
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
        text, values = _part_select(self.retailer, parts[0])
        values |= _typing_values(self.retailer) | {"paths": [glob.escape(str(part.path)) for part in parts]}
        typed = f"with read_lines as ({text}) select * from (\n{select_of('raw_transactions')}\n)"  # noqa: S608 - own SQL
        select = f"create table staging.{table} as {typed}"
        self.connection.execute(select, bound_values(select, values))
        if parts[0].kind != "csv":
            return []
        select = f"select source_file, count(*) from staging.{table} group by source_file"  # noqa: S608 - own SQL
        counts = self.connection.execute(select)
        loaded = dict(counts.fetchall())
        if short := [part for part in parts if loaded.get(str(part.path), 0) != part.lines]:
            self.connection.execute(f"drop table staging.{table}")
        return short

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
        first_number = 2 if parts[0].kind == "csv" else 1
        return f"""
            select part.source_file, part.source_sheet,
                coalesce(line.source_line, line.rowid - part.first_rowid + {first_number}) as source_line, {_VALUES}
            from staging.{table} as line
            inner join staging.parts_of_{table} as part on line.source_file = part.path"""  # noqa: S608 - own SQL


def _part_select(retailer: Retailer, part: Part) -> tuple[str, dict[str, Any]]:
    """Return the SELECT of the relation `read_lines` over files with the columns of a part, and the values it binds.

    The path stands in for the file and the sheet, which follow from it, and `$paths` is not among the values.
    """
    positions = column_positions(retailer.columns, part)
    pointers = ["/" + part.columns[at].replace("~", "~0").replace("/", "~1") for at in positions.values()]
    values: dict[str, Any] = {
        "time_zone": retailer.time_zone,
        "decimal": retailer.source.decimal,
        "delimiter": retailer.source.delimiter,
        "pointers": pointers,
        **date_format_values(_date_formats(retailer, part)),
    }
    width = len(part.columns)
    number = "number as source_line, malformed"
    if part.kind == "parquet":
        number, reader = "null::bigint as source_line, null::varchar as malformed", _read_parquet(width)
    elif part.kind == "csv":
        number, reader = "null::bigint as source_line, null::varchar as malformed", _read_source_csv(width)
    elif part.kind == "numbered":
        reader = _read_numbered_csv(width)
    else:
        reader = f"""(
            select __path, number,
                coalesce(malformed, case when coalesce(json_type(object), '') <> 'OBJECT' then c0 end) as malformed,
                json_extract_string(object, $pointers) as texts, json_type(object, $pointers) as kinds
            from (select *, try_cast(c0 as json) as object from {_read_numbered_csv(1)}))"""  # noqa: S608 - own SQL
    cells = {column.name: "null::varchar" for column in line_columns()} | {
        name: _cell(retailer, part, name, position, index)
        for index, (name, position) in enumerate(positions.items(), 1)
    }
    if time := cells.pop("transaction_time", None):
        # A date cell of a workbook has a time too.
        date = f"regexp_replace({cells['transaction_at']}, 'T00:00:00$', '')"
        cells["transaction_at"] = f"concat_ws(' ', {date}, {time})"
    cells["transaction_time"] = _time(retailer, part, positions, cells["transaction_at"])
    texts = ", ".join(f"{text} as {quoted(name)}" for name, text in cells.items())
    select = f"select __path as source_file, '' as source_sheet, {number}, {texts} from {reader}"  # noqa: S608 - own SQL
    return select, values


def _date_formats(retailer: Retailer, part: Part) -> tuple[str, ...]:
    """Return the formats of the dates of a part; none if they are written in ISO 8601."""
    formats = retailer.source.date_formats
    # A cell of a workbook can be a date.
    return (*formats, *CELL_FORMATS) if formats and part.source_sheet else formats


def _time(retailer: Retailer, part: Part, positions: Mapping[str, int], text: str) -> str:
    """Return the SQL of the time of a transaction, where `source.date_format` says how it is written."""
    formats = _date_formats(retailer, part)
    if not formats:
        return "null::timestamp"
    if part.kind == "parquet" and "transaction_time" not in positions:
        kind = part.types[positions["transaction_at"]]
        if kind.startswith(("DATE", "TIMESTAMP")):
            return f"cast({text} as timestamp)"
    return time_sql(f"nullif(trim({text}), '')", formats, retailer.source.decimal)


def _cell(retailer: Retailer, part: Part, name: str, position: int, pointer: int) -> str:
    """Return the SQL of a column as text in the notation of the retailer's CSV."""
    if part.kind == "jsonl":
        text, is_text = f"texts[{pointer}]", f"kinds[{pointer}] = 'VARCHAR'"
        return f"case when {is_text} then {text} else replace({text}, '.', $decimal) end" if name in _NUMBERS else text
    column = f"c{position}"
    if part.kind != "parquet":
        return column
    kind = part.types[position]
    if kind == "TIMESTAMP WITH TIME ZONE":
        column = f"timezone($time_zone, {column})"
    text = f"cast({column} as varchar)"
    return f"replace({text}, '.', $decimal)" if name in _NUMBERS and kind != "VARCHAR" else text


def _read_parquet(width: int) -> str:
    """Return the SQL that reads columns as c0, c1, ..., so that a name in a file never gets into SQL."""
    columns = ", ".join(f"c{position}" for position in range(width))
    return f"read_parquet($paths, filename = '__path') as file({columns})"


def _read_source_csv(width: int) -> str:
    """Return the SQL that reads a source's CSV, without the lines at which DuckDB fails."""
    options = f"columns = {{{_text_columns(width)}}}, header = true, delim = $delimiter, ignore_errors = true"
    return _read_csv(options)


def _read_numbered_csv(width: int) -> str:
    """Return the SQL that reads a numbered copy."""
    columns = f"{{'number': 'BIGINT', 'malformed': 'VARCHAR', {_text_columns(width)}}}"
    return _read_csv(f"columns = {columns}, header = false, delim = ',', new_line = '\\n'")


def _read_csv(options: str) -> str:
    return f"""read_csv($paths, auto_detect = false, quote = '"', escape = '"', nullstr = '',
        filename = '__path', {options})"""


def _text_columns(width: int) -> str:
    return ", ".join(f"'c{position}': 'VARCHAR'" for position in range(width))
