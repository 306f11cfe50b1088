"""Fill the empty cells of columns that stand only on the first line of an invoice (`source.fill_down`).

Contains the SQL on the cells of lines before they are converted to types. What else is read of a file is in `staging`.
"""

from collections.abc import Iterable, Sequence

from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.tables.contract import quoted


def filled_columns(retailer: Retailer) -> list[str]:
    """Return the columns to fill. The time of a sale may have a column of its own."""
    columns = list(dict.fromkeys(retailer.source.fill_down))
    has_time = "transaction_at" in columns and retailer.columns.transaction_time is not None
    return [*columns, "transaction_time"] if has_time else columns


def fill_down_select(table: str, names: Iterable[str], columns: Sequence[str], first_line: int) -> str:
    """Return the SELECT of a table of cells with some columns filled, in the order of the lines.

    An empty cell has the value of the nearest line above with the same invoice in the same file; a line without an
    invoice is left as it is. Lines between those of an invoice do not matter.

    Args:
        table: A table of the cells of files, with the lines of each file in their order.
        names: The columns of the cells.
        columns: Those of them to fill.
        first_line: The number of a file's first line, where the lines have no number yet.
    """
    filled = [
        f"case when invoice_key is null then {_value(name)}"
        f" else last_value({_value(name)} ignore nulls) over lines_above end as {quoted(name)}"
        for name in columns
    ]
    kept = [quoted(name) for name in names if name not in columns]
    return f"""
        with firsts as (select source_file, min(rowid) as first_position from {table} group by source_file),
        numbered as (
            select cells.*, cells.rowid as position, cells.rowid - firsts.first_position + {first_line} as line_number,
                regexp_replace(nullif(trim(invoice, $blanks), ''), '^([0-9]+)[.]0+$', '\\1') as invoice_key
            from {table} as cells
            inner join firsts on cells.source_file = firsts.source_file
        )
        select source_file, coalesce(source_line, line_number) as source_line, malformed, {", ".join([*kept, *filled])}
        from numbered
        window lines_above as (
            partition by source_file, invoice_key order by position rows between unbounded preceding and current row
        )
        order by position"""  # noqa: S608 - own SQL, names are quoted


def count_select(table: str, columns: Sequence[str]) -> str:
    """Return the SELECT of the number of values of each column, by file."""
    counts = ", ".join(f"count({_value(name)})" for name in columns)
    return f"select source_file, {counts} from {table} group by source_file"  # noqa: S608 - own SQL, names are quoted


def _value(name: str) -> str:
    return f"case when trim({quoted(name)}, $blanks) <> '' then {quoted(name)} end"
