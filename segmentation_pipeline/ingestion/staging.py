"""The mouth: files of any format become lines of text with their file, sheet and number.

Belongs here: reading every line, also the broken ones. Which column is which is told in `mapping`; typing the text is
the SELECT of `raw_transactions`; judging it is `cleaning`.
"""

import glob
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import duckdb

from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.errors import SourceError, first_line, is_of_the_machine
from segmentation_pipeline.ingestion.column_mapping import mapped, told, where
from segmentation_pipeline.ingestion.parsing import MOST_COLUMNS, Part, numbered_csv, parts_of
from segmentation_pipeline.tables.catalog import line_columns
from segmentation_pipeline.tables.contract import literal, quoted
from segmentation_pipeline.warehouse.connection import reading_connection
from segmentation_pipeline.warehouse.queries import QueryInputs

# Raise it when the same file would be read differently: every file is then read again.
READER_VERSION = "1"
_NUMBERS = frozenset(column.name for column in line_columns() if column.type.startswith("DECIMAL"))

_NOTHING = f"""
    select null::varchar as source_file, null::varchar as source_sheet, null::bigint as source_line,
        {", ".join(f"null::varchar as {quoted(column.name)}" for column in line_columns())}, null::varchar as broken
    where false"""


@dataclass(frozen=True)
class Lines(QueryInputs):
    """The relation `read_lines` over files, and what was found in each by its name.

    Attributes:
        columns: The columns of each file, of all its sheets, with their types where the format has any.
        records: How many lines were read, and how many of them are broken; a file without a line is left out.
        refused: Why a file cannot be read. Lines of its other sheets may still stand in the relation.
    """

    columns: dict[str, dict[str, str]] = field(default_factory=dict)
    records: dict[str, tuple[int, int]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)


@contextmanager
def read_lines(
    connection: duckdb.DuckDBPyConnection, retailer: Retailer, files: dict[str, Path], spill: Path
) -> Iterator[Lines]:
    """Read files into tables of text beside the working database, and give it the relation `read_lines` over them.

    The working database reads no source itself: another connection does, which reaches nothing but the files. A file
    that cannot be read, or lacks a column that the retailer file names, is refused whole.
    """
    spill.mkdir(parents=True, exist_ok=True)
    for left in spill.glob("read-*"):
        # By a run that was killed: the lock lets one run read at a time.
        shutil.rmtree(left, ignore_errors=True)
    folder = Path(mkdtemp(prefix="read-", dir=spill))
    # A database of its own, not temporary tables: those stay in memory, uncompressed.
    staging = folder / "staging.duckdb"
    try:
        columns, refused = dict[str, dict[str, str]](), dict[str, str]()
        with reading_connection(staging, files.values()) as reading:
            parts = list(_parts_of_all(reading, retailer, files, folder, columns, refused))
            relation = " union all ".join(_stage_all(reading, retailer, parts, folder, refused)) or _NOTHING
            counts = f"select source_file, count(*), count(broken) from ({relation}) group by source_file"
            records = {name: (lines, broken) for name, lines, broken in reading.execute(counts).fetchall()}
        connection.execute(f"attach {literal(str(staging))} as staging (read_only)")
        try:
            yield Lines({"read_lines": relation}, _values(retailer), columns, records, refused)
        finally:
            connection.execute("detach staging")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _parts_of_all(
    connection: duckdb.DuckDBPyConnection,
    retailer: Retailer,
    files: dict[str, Path],
    folder: Path,
    columns: dict[str, dict[str, str]],
    refused: dict[str, str],
) -> Iterator[Part]:
    """The parts of the files that have the columns of the retailer file; notes columns, and why a file is refused."""
    for name, path in files.items():
        try:
            parts = list(parts_of(connection, retailer, name, path, folder))
            if (most := max((len(part.columns) for part in parts), default=0)) > MOST_COLUMNS:
                raise SourceError(f"{name}: {most:,} columns; a sheet has {MOST_COLUMNS:,} at most, so it is damaged")
            columns[name] = {
                column: part.types[place] if part.types else ""
                for part in parts
                for place, column in enumerate(told(retailer, part.columns))
            }
            for part in parts:
                mapped(retailer, part)
        except SourceError as error:
            refused[name] = str(error)
        else:
            yield from parts


def _values(retailer: Retailer) -> dict[str, Any]:
    """What the SELECT of `raw_transactions` needs to know to type the text."""
    decimal = retailer.source.decimal
    thousands = "," if decimal == "." else "."
    return {
        "date_format": retailer.source.date_format,
        "time_zone": retailer.time_zone,
        "decimal": decimal,
        "thousands": thousands,
        "number": rf"^[+-]?([0-9]+|[0-9]{{1,3}}([{thousands}][0-9]{{3}})+)?([{decimal}][0-9]*)?([eE][+-]?[0-9]+)?$",
        "has_quantity": retailer.columns.quantity is not None,
        "has_price": retailer.columns.price is not None,
        "has_amount": retailer.columns.amount is not None,
    }


def _stage_all(
    connection: duckdb.DuckDBPyConnection,
    retailer: Retailer,
    parts: list[Part],
    folder: Path,
    refused: dict[str, str],
    number: int = 0,
) -> list[str]:
    """Read the parts, those of equal columns together; the SELECT over each table, and why a file is refused.

    A line that DuckDB stumbles over is missed by counting. Its notes of faults do not tell: of many files it leaves out
    a last line that ends inside a quote, without one; and where each line opens a quote, they take it a time that
    grows with the square of the lines. Where it stops, a batch is halved until the file is found.
    """
    batches: dict[tuple[str, tuple[str, ...], tuple[str, ...]], list[Part]] = {}
    for part in parts:
        batches.setdefault((part.kind, part.columns, part.types), []).append(part)
    waiting = list(batches.values())
    staged: list[str] = []
    faulty: list[Part] = []
    for place, batch in enumerate(waiting, number):
        try:
            short = _load(connection, retailer, place, batch)
        except duckdb.Error as error:
            if is_of_the_machine(error):
                raise
            if len(batch) > 1:
                half = len(batch) // 2
                waiting += [batch[:half], batch[half:]]
            elif batch[0].kind == "csv":
                faulty += batch
            else:
                _refuse(refused, batch[0], error)
            continue
        faulty += short
        if not short:
            staged.append(_numbered_lines(connection, place, batch))
        elif len(short) < len(batch):
            waiting.append([part for part in batch if part not in short])
    if again := list(_numbered_again(retailer, faulty, folder, refused)):
        staged += _stage_all(connection, retailer, again, folder, refused, number + len(waiting))
    return staged


def _numbered_again(retailer: Retailer, parts: list[Part], folder: Path, refused: dict[str, str]) -> Iterator[Part]:
    for part in parts:
        try:
            yield numbered_csv(part, retailer.source.delimiter, folder)
        except OSError as error:
            _refuse(refused, part, error)


def _refuse(refused: dict[str, str], part: Part, error: Exception) -> None:
    if is_of_the_machine(error):
        raise error
    refused[part.source_file] = f"{where(part)}: cannot be read as {part.kind}: {first_line(error)}"


def _load(connection: duckdb.DuckDBPyConnection, retailer: Retailer, number: int, parts: list[Part]) -> list[Part]:
    """Read parts of equal columns into a table; if there are any of kind `csv` of which not each line is a row, these.

    Raises:
        duckdb.Error: One of them cannot be read.
    """
    first = parts[0]
    select, values = _select(retailer, first)
    values["paths"] = [glob.escape(str(part.path)) for part in parts]
    connection.execute(f"create table staging.lines_{number} as {select}", values)
    if first.kind != "csv":
        return []
    counts = connection.execute(f"select __path, count(*) from staging.lines_{number} group by __path")
    read = dict(counts.fetchall())
    if short := [part for part in parts if read.get(str(part.path), 0) != part.lines]:
        connection.execute(f"drop table staging.lines_{number}")
    return short


def _select(retailer: Retailer, part: Part) -> tuple[str, dict[str, Any]]:
    """The SELECT that reads the files `$paths`, all of which have the part's columns, and the values bound in it."""
    places = mapped(retailer, part)
    # The keys as JSON pointers.
    keys = ["/" + part.columns[place].replace("~", "~0").replace("/", "~1") for place in places.values()]
    values: dict[str, Any] = {"time_zone": retailer.time_zone, "decimal": retailer.source.decimal, "keys": keys}
    values["date_format"] = retailer.source.date_format
    own = "number, broken"
    if part.kind == "parquet":
        own, reader = "null::bigint as number, null::varchar as broken", _read_parquet(len(part.columns))
    elif part.kind == "csv":
        own, reader = "null::bigint as number, null::varchar as broken", _read_csv(len(part.columns), as_it_came=True)
        values["delimiter"] = retailer.source.delimiter
    elif part.kind == "numbered":
        reader = _read_csv(len(part.columns))
    else:
        reader = f"""(
            select __path, number, coalesce(broken, case when coalesce(json_type(object), '') <> 'OBJECT' then c0 end)
                as broken, json_extract_string(object, $keys) as texts, json_type(object, $keys) as kinds
            from (select *, try_cast(c0 as json) as object from {_read_csv(1)}))"""
    cells = {column.name: "null::varchar" for column in line_columns()} | {
        name: _cell(retailer, part, name, place, key) for key, (name, place) in enumerate(places.items(), 1)
    }
    texts = ", ".join(f"{text} as {quoted(name)}" for name, text in cells.items())
    select = f"select __path, {own}, {texts} from {reader}"
    return select, {name: value for name, value in values.items() if f"${name}" in select}


def _cell(retailer: Retailer, part: Part, name: str, place: int, key: int) -> str:
    """A column as text, as the retailer's CSV would have it."""
    if part.kind == "jsonl":
        text, is_text = f"texts[{key}]", f"kinds[{key}] = 'VARCHAR'"
        return f"case when {is_text} then {text} else replace({text}, '.', $decimal) end" if name in _NUMBERS else text
    if part.kind != "parquet":
        return f"c{place}"
    theirs, kind = f"c{place}", part.types[place]
    if kind == "TIMESTAMP WITH TIME ZONE":
        theirs = f"timezone($time_zone, {theirs})"
    if name == "transaction_at" and kind.startswith(("DATE", "TIMESTAMP")) and retailer.source.date_format is not None:
        return f"strftime(cast({theirs} as timestamp), $date_format)"
    text = f"cast({theirs} as varchar)"
    return f"replace({text}, '.', $decimal)" if name in _NUMBERS and kind != "VARCHAR" else text


def _read_parquet(width: int) -> str:
    """Files with their columns as c0, c1, ...: a name of theirs never gets into SQL."""
    columns = ", ".join(f"c{place}" for place in range(width))
    return f"read_parquet($paths, filename = '__path') as file({columns})"


def _read_csv(width: int, *, as_it_came: bool = False) -> str:
    """A file's columns c0, c1, ... as text; of a file as it came without the lines that DuckDB stumbles over."""
    columns = ", ".join(f"'c{place}': 'VARCHAR'" for place in range(width))
    form = f"""columns = {{'number': 'BIGINT', 'broken': 'VARCHAR', {columns}}}, header = false, delim = ',',
        new_line = '\\n'"""
    if as_it_came:
        form = f"columns = {{{columns}}}, header = true, delim = $delimiter, ignore_errors = true"
    return f"""read_csv($paths, auto_detect = false, quote = '"', escape = '"', nullstr = '',
        filename = '__path', {form})"""


def _numbered_lines(connection: duckdb.DuckDBPyConnection, number: int, parts: list[Part]) -> str:
    """The SELECT over a loaded table that names each line's file, sheet and number.

    DuckDB keeps the order of the files and of their lines when it creates a table, so where a line has no number yet,
    it is its rowid, counted from its file's first.
    """
    connection.execute(
        f"""
        create table staging.parts_{number} as
        with named as (
            select unnest($paths) as path, unnest($files) as source_file, unnest($sheets) as source_sheet
        ), firsts as (
            select __path as path, min(rowid) as first_rowid from staging.lines_{number} group by __path
        )
        select named.*, firsts.first_rowid from named inner join firsts using (path)
        """,
        {
            "paths": [str(part.path) for part in parts],
            "files": [part.source_file for part in parts],
            "sheets": [part.source_sheet for part in parts],
        },
    )
    first_line_number = 2 if parts[0].kind == "csv" else 1
    texts = ", ".join(quoted(column.name) for column in line_columns())
    return f"""
        select part.source_file, part.source_sheet,
            coalesce(line.number, line.rowid - part.first_rowid + {first_line_number}) as source_line,
            {texts}, line.broken
        from staging.lines_{number} as line inner join staging.parts_{number} as part on line.__path = part.path"""
