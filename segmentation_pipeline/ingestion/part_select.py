"""The SELECT that reads files with the same columns as the relation `read_lines`: each column as text.

Contains one reader for each kind of part. `staging` loads what the SELECT reads; `fill_down` fills empty cells.
"""

from typing import Any

from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.ingestion.column_mapping import column_positions
from segmentation_pipeline.ingestion.csv_layout import Layout
from segmentation_pipeline.ingestion.date_formats import CELL_FORMATS, date_format_values, time_sql
from segmentation_pipeline.ingestion.file_formats import Part
from segmentation_pipeline.tables.catalog import line_columns
from segmentation_pipeline.tables.contract import quoted

_NUMBERS = frozenset(column.name for column in line_columns() if column.type.startswith("DECIMAL"))
_TYPES_WITH_DECIMALS = ("DECIMAL", "DOUBLE", "FLOAT")
FIRST_CELL = "first_cell"
# Around a text, they do not belong to it. Spreadsheets and editors write several.
BLANKS = " \t\r\n\u00a0\u2007\u2009\u202f\ufeff"


def cells_select(retailer: Retailer, part: Part) -> str:
    """Return the SELECT of each line's place and of the text of each mapped column, by our name."""
    place, reader = _reader(part)
    cells = ", ".join(f"{text} as {quoted(name)}" for name, text in _cells(retailer, part).items())
    return f"select {place}, {cells} from {reader}"  # noqa: S608 - own SQL


def differing_select(part: Part, one: int, other: int) -> str:
    """Return the SELECT of in how many lines two columns differ, and of the number of the first."""
    place, reader = _reader(part)
    texts = (f"coalesce(trim(cast(c{position} as varchar), $blanks), '')" for position in (one, other))
    lines = f"select {place} from {reader} where {' <> '.join(texts)}"  # noqa: S608 - own SQL
    return f"select count(*), min(source_line) from ({lines})"  # noqa: S608 - own SQL


def part_select(retailer: Retailer, part: Part, cells_table: str = "") -> str:
    """Return the SELECT of the relation `read_lines`.

    The path stands in for the file and the sheet, which follow from it.

    Args:
        retailer: How the files are written.
        part: Any of the parts of the files; all have the same columns.
        cells_table: A table of their cells, in place of the files.
    """
    place, reader = _reader(part)
    mapped = _cells(retailer, part)
    if cells_table:
        place, reader = "source_file, source_line, malformed", cells_table
        mapped = {name: quoted(name) for name in mapped}
    cells = {column.name: "null::varchar" for column in line_columns()} | mapped
    if time := cells.pop("transaction_time", None):
        # A date cell of a workbook has a time too.
        date = f"regexp_replace({cells['transaction_at']}, 'T00:00:00$', '')"
        cells["transaction_at"] = f"concat_ws(' ', {date}, {time})"
    cells["transaction_time"] = _time(retailer, part, cells["transaction_at"])
    extra = {name: f"nullif(trim({cells.pop(name)}, $blanks), '')" for name in retailer.columns.extra}
    packed = ", ".join(f"{quoted(name)} := {text}" for name, text in extra.items())
    cells["extra"] = f"struct_pack({packed})" if extra else "null"
    texts = ", ".join(f"{text} as {quoted(name)}" for name, text in cells.items())
    return f"select {place}, '' as source_sheet, {texts} from {reader}"  # noqa: S608 - own SQL


def part_values(retailer: Retailer, part: Part) -> dict[str, Any]:
    """Return the values that these SELECTs bind, except for `$paths`."""
    positions = column_positions(retailer.columns, part)
    pointers = ["/" + part.columns[at].replace("~", "~0").replace("/", "~1") for at in positions.values()]
    return {
        "time_zone": retailer.time_zone,
        "decimal": retailer.source.decimal,
        "delimiter": part.layout.delimiter,
        "blanks": BLANKS,
        "pointers": pointers,
        **date_format_values(_date_formats(retailer, part), retailer.source.date_language),
    }


def _reader(part: Part) -> tuple[str, str]:
    """Return the SQL of each line's place and malformed text, and of what reads the files."""
    width = len(part.columns)
    numbered = "__path as source_file, number as source_line, malformed"
    unnumbered = "__path as source_file, null::bigint as source_line, null::varchar as malformed"
    if part.kind == "parquet":
        return unnumbered, _read_parquet(width)
    if part.kind == "csv":
        return unnumbered, _read_source_csv(width, part.layout)
    if part.kind == "numbered":
        return numbered, _read_numbered_csv(width)
    objects = f"""(
        select __path, number,
            coalesce(malformed, case when coalesce(json_type(object), '') <> 'OBJECT' then c0 end) as malformed,
            json_extract_string(object, $pointers) as texts, json_type(object, $pointers) as kinds
        from (select *, try_cast(c0 as json) as object from {_read_numbered_csv(1)}))"""  # noqa: S608 - own SQL
    return numbered, objects


def _cells(retailer: Retailer, part: Part) -> dict[str, str]:
    """Return the SQL of the text of each mapped column, by our name."""
    positions = column_positions(retailer.columns, part)
    cells = {
        name: _cell(retailer, part, name, position, index)
        for index, (name, position) in enumerate(positions.items(), 1)
    }
    # It can say that the line is a total.
    return cells | {FIRST_CELL: "c0" if part.kind in ("csv", "numbered") else "null::varchar"}


def _date_formats(retailer: Retailer, part: Part) -> tuple[str, ...]:
    """Return the formats of the dates of a part; none if they are written in ISO 8601."""
    formats = retailer.source.date_formats
    # A cell of a workbook can be a date.
    return (*formats, *CELL_FORMATS) if formats and part.source_sheet else formats


def _time(retailer: Retailer, part: Part, text: str) -> str:
    """Return the SQL of the time of a transaction, where `source.date_format` says how it is written."""
    formats = _date_formats(retailer, part)
    if not formats:
        return "null::timestamp"
    if part.kind == "parquet" and retailer.columns.transaction_time is None:
        kind = part.types[column_positions(retailer.columns, part)["transaction_at"]]
        if kind.startswith(("DATE", "TIMESTAMP")):
            return f"cast({text} as timestamp)"
    language = retailer.source.date_language
    return time_sql(f"nullif(trim({text}), '')", formats, retailer.source.decimal, language)


def _cell(retailer: Retailer, part: Part, name: str, position: int, pointer: int) -> str:
    """Return the SQL of a column as text in the notation of the retailer's CSV."""
    is_extra = name in retailer.columns.extra
    if part.kind == "jsonl":
        text, kind = f"texts[{pointer}]", f"kinds[{pointer}]"
        if name not in _NUMBERS and not is_extra:
            return text
        as_it_is = f"{kind} = 'VARCHAR'" if name in _NUMBERS else f"{kind} is distinct from 'DOUBLE'"
        return f"case when {as_it_is} then {text} else replace({text}, '.', $decimal) end"
    column = f"c{position}"
    if part.kind != "parquet":
        return column
    kind = part.types[position]
    if kind == "TIMESTAMP WITH TIME ZONE":
        column = f"timezone($time_zone, {column})"
    text = f"cast({column} as varchar)"
    is_number = kind != "VARCHAR" if name in _NUMBERS else is_extra and kind.startswith(_TYPES_WITH_DECIMALS)
    return f"replace({text}, '.', $decimal)" if is_number else text


def _read_parquet(width: int) -> str:
    """Return the SQL that reads columns as c0, c1, ..., so that a name in a file never gets into SQL."""
    columns = ", ".join(f"c{position}" for position in range(width))
    return f"read_parquet($paths, hive_partitioning = false, filename = '__path') as file({columns})"


def _read_source_csv(width: int, layout: Layout) -> str:
    """Return the SQL that reads a source's CSV, without the lines at which DuckDB fails."""
    skip = f", skip = {layout.skipped}" if layout.skipped else ""
    header = str(layout.has_header).lower()
    options = f"columns = {{{_text_columns(width)}}}, header = {header}, delim = $delimiter, ignore_errors = true{skip}"
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
