"""The mouth: files of any format become lines of text with their file, sheet and number.

Belongs here: mapping columns by name and reading every line, also the broken ones. Typing the text is the SELECT of
`raw_transactions`; judging it is `cleaning`.
"""

import glob
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import duckdb

from segmentation_pipeline.contracts import quoted
from segmentation_pipeline.settings import Retailer
from segmentation_pipeline.sources import Part, SourceError, parts_of
from segmentation_pipeline.tables import LINE
from segmentation_pipeline.warehouse import Given


@contextmanager
def read_lines(
    connection: duckdb.DuckDBPyConnection, retailer: Retailer, files: dict[str, Path], spill: Path
) -> Iterator[Given]:
    """Read files into temporary tables of text, and give the relation `read_lines` over them.

    Raises:
        SourceError: A file cannot be read, or lacks a column that the retailer file names.
    """
    spill.mkdir(parents=True, exist_ok=True)
    folder = Path(mkdtemp(prefix="read-", dir=spill))
    try:
        batches: dict[tuple[str, tuple[str, ...]], list[Part]] = {}
        for name, path in files.items():
            for part in parts_of(connection, retailer, name, path, folder):
                batches.setdefault((part.kind, part.columns), []).append(part)
        if not batches:
            raise SourceError(f"source.path: all {len(files)} files are empty")
        relations = [_stage(connection, retailer, number, parts) for number, parts in enumerate(batches.values())]
        yield Given(
            {"read_lines": " union all ".join(relations)},
            {
                "date_format": retailer.source.date_format,
                "has_quantity": retailer.columns.quantity is not None,
                "has_price": retailer.columns.price is not None,
                "has_amount": retailer.columns.amount is not None,
            },
        )
        for number in range(len(batches)):
            connection.execute(f"drop table temp.lines_{number}; drop table temp.parts_{number}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _stage(connection: duckdb.DuckDBPyConnection, retailer: Retailer, number: int, parts: list[Part]) -> str:
    """Read parts of equal columns into a temporary table; the SELECT over it that numbers the lines.

    DuckDB keeps the order of the files and of their lines when it creates a table, so a line's number is its rowid,
    counted from its file's first. The numbers of broken records are those that DuckDB tells, and the others go around.
    """
    first = parts[0]
    names = _mapped(retailer, first)
    is_text = first.kind in ("csv", "sheet")
    cells = ", ".join(
        f"{_text(retailer, column.name, names[column.name])} as {quoted(column.name)}"
        if column.name in names
        else f"cast(null as varchar) as {quoted(column.name)}"
        for column in LINE
    )
    columns = {name or f"column_{place}": "VARCHAR" for place, name in enumerate(first.columns)}
    values: dict[str, Any] = {"paths": [glob.escape(str(part.path)) for part in parts]}
    if is_text:
        delimiter = "," if first.kind == "sheet" else retailer.source.delimiter
        values |= {"columns": columns, "delimiter": delimiter}
        reader = f"""read_csv($paths, columns = $columns, header = true, auto_detect = false, delim = $delimiter,
            quote = '"', escape = '"', nullstr = '', filename = '__path', store_rejects = true,
            rejects_table = 'broken_{number}', rejects_scan = 'scans_{number}')"""
    elif first.kind == "parquet":
        reader = "read_parquet($paths, filename = '__path')"
    else:
        values |= {"columns": columns}
        reader = "read_json($paths, format = 'newline_delimited', columns = $columns, filename = '__path')"
    try:
        connection.execute(
            f"create or replace temp table lines_{number} as select __path, {cells} from {reader}", values
        )
    except duckdb.Error as error:
        raise SourceError(f"{first.source_file}{_and_others(parts)}: cannot be read as {first.kind}: {error}") from None
    broken = "select null as path, null as line, null as text where false"
    if is_text:
        connection.execute(
            f"create or replace temp table broken_lines_{number} as "
            f"select file_path as path, line, min(csv_line) as text from broken_{number} "
            f"inner join scans_{number} using (scan_id, file_id) group by all"
        )
        connection.execute(f"drop table broken_{number}; drop table scans_{number}")
        broken = f"select * from broken_lines_{number}"
    _note_parts(connection, number, parts, broken, 2 if is_text else 1)
    texts = ", ".join(quoted(column.name) for column in LINE)
    nothing = ", ".join("null" for _ in LINE)
    return f"""
        select part.source_file, part.source_sheet,
            line.rowid - part.first_rowid + part.first_line
                + len(list_filter(part.good_before, lambda x: x <= line.rowid - part.first_rowid)) as source_line,
            {texts}, cast(null as varchar) as broken
        from lines_{number} as line inner join parts_{number} as part on line.__path = part.path
        union all
        select part.source_file, part.source_sheet, item.line, {nothing}, item.text
        from (select path, source_file, source_sheet, unnest(broken) as item from parts_{number}) as part"""


def _note_parts(
    connection: duckdb.DuckDBPyConnection, number: int, parts: list[Part], broken: str, first_line: int
) -> None:
    """A temporary table with a row for each part: its names, its first rowid, and its broken lines."""
    connection.execute(
        f"""
        create or replace temp table parts_{number} as
        with named as (
            select unnest($paths) as path, unnest($files) as source_file, unnest($sheets) as source_sheet
        ), firsts as (
            select __path as path, min(rowid) as first_rowid from lines_{number} group by __path
        ), broken as ({broken}), faults as (
            select path, list({{'line': line, 'text': text}} order by line) as broken,
                list(line order by line) as numbers
            from broken group by path
        )
        select named.*, coalesce(firsts.first_rowid, 0) as first_rowid, {first_line} as first_line, faults.broken,
            coalesce(list_transform(faults.numbers, lambda x, i: x - {first_line} - i + 1), []) as good_before
        from named left join firsts using (path) left join faults using (path)
        """,
        {
            "paths": [str(part.path) for part in parts],
            "files": [part.source_file for part in parts],
            "sheets": [part.source_sheet for part in parts],
        },
    )


def _mapped(retailer: Retailer, part: Part) -> dict[str, str]:
    """Our name of each column to the part's; names are compared without case and blanks."""

    def plain(name: str) -> str:
        return "".join(name.split()).casefold()

    stands = {plain(name): name for name in part.columns}
    where = f"{part.source_file}{f' [{part.source_sheet}]' if part.source_sheet else ''}"
    if len(stands) < len(part.columns):
        raise SourceError(f"{where}: two columns have the same name, or no name: {', '.join(part.columns)}")
    wanted = retailer.columns.mapped()
    if lacking := [f"{name} = {theirs!r}" for name, theirs in wanted.items() if plain(theirs) not in stands]:
        raise SourceError(
            f"{where}: no column for {', '.join(lacking)}; it has {', '.join(part.columns)}. "
            "Mend [columns] of the retailer file, or leave out a column that the source can do without."
        )
    return {name: stands[plain(theirs)] for name, theirs in wanted.items()}


def _text(retailer: Retailer, column: str, theirs: str) -> str:
    text = f"cast({quoted(theirs)} as varchar)"
    if retailer.source.decimal == "," and column in ("quantity", "price", "amount"):
        return f"replace(replace({text}, '.', ''), ',', '.')"
    return text


def _and_others(parts: list[Part]) -> str:
    return f" and {len(parts) - 1} other files" if len(parts) > 1 else ""
