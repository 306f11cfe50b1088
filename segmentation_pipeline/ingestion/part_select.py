"""The SELECT that reads files with the same columns as the relation `read_lines`: each column as text.

Contains one reader for each kind of part. `staging` loads what the SELECT reads.
"""

from collections.abc import Mapping
from typing import Any

from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.ingestion.column_mapping import column_positions
from segmentation_pipeline.ingestion.date_formats import CELL_FORMATS, date_format_values, time_sql
from segmentation_pipeline.ingestion.file_formats import Part
from segmentation_pipeline.tables.catalog import line_columns
from segmentation_pipeline.tables.contract import quoted

_NUMBERS = frozenset(column.name for column in line_columns() if column.type.startswith("DECIMAL"))


def part_select(retailer: Retailer, part: Part) -> tuple[str, dict[str, Any]]:
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
