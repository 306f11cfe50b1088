"""The first lines of a source as columns of text, read by the reader of a run, and what each column contains.

Contains the reading and counting. Which column is which is decided in `columns`.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.config.source_settings import Source
from segmentation_pipeline.errors import SourceError
from segmentation_pipeline.ingestion.file_formats import Part, parts_of
from segmentation_pipeline.ingestion.number_formats import currency_signs, number_sql, number_values
from segmentation_pipeline.ingestion.sampling import SAMPLED_LINES, lines_of_each
from segmentation_pipeline.ingestion.staging import read_lines
from segmentation_pipeline.tables.contract import quoted
from segmentation_pipeline.warehouse.connection import reading_connection, temporary_database
from segmentation_pipeline.warehouse.database import Warehouse
from segmentation_pipeline.warehouse.queries import bound_values

# Three parts, of which the second can be a word, or a word before two numbers; and perhaps a time. Counted repetitions
# of letters would make these patterns slow.
_DATE = r"^\D*[0-9]{1,4}(\D+[0-9]{1,2}|\D+)\D+[0-9]{2,4}(\D.*)?$"
_NAMED_DATE = r"^\D+ [0-9]{1,2},? [0-9]{4}(\D.*)?$"
_LONGEST_DATE = 45
# Any of these can stand beside money; which one is the retailer's own is found later.
_MARKS = sorted({mark for marks in currency_signs().values() for mark in marks} | {*currency_signs()})


@dataclass(frozen=True)
class Column:
    """What the sampled values of a column have in common.

    Attributes:
        name: Its name, or its position if the source has no names.
        key: How the retailer file names it.
        cell: The column of the table `cells`.
        type: Its type, where the format has any.
        filled: How many values are not empty.
        distinct: How many different ones there are.
        numbers: How many are numbers, by decimal mark.
        integers: How many are whole numbers without any sign.
        dates: How many look like dates.
        epochs: How many can be seconds or milliseconds since 1970, in this century.
        letters: How many have a letter.
        addresses: How many have an @.
    """

    name: str
    key: str | int
    cell: str
    type: str
    filled: int
    distinct: int
    numbers: Mapping[str, int]
    integers: int
    dates: int
    epochs: int
    letters: int
    addresses: int

    @property
    def is_date(self) -> bool:
        """Whether its values look like dates."""
        return self.type.startswith(("DATE", "TIMESTAMP")) or 0 < 0.9 * self.filled <= self.dates

    @property
    def is_number(self) -> bool:
        """Whether its values are numbers in one of the notations."""
        return self.filled > 0 and max(self.numbers.values()) >= 0.9 * self.filled

    @property
    def is_integer(self) -> bool:
        """Whether its values are whole numbers."""
        return self.filled > 0 and self.integers >= 0.98 * self.filled


@dataclass(frozen=True)
class Contents:
    """The first lines of a source.

    Attributes:
        warehouse: A database in memory, whose table `cells` has a column of text for each column of the source, beside
            `source_file`, `source_sheet` and `source_line`.
        columns: The columns.
        lines: How many lines there are.
        files: How many lines of each file there are.
        others: The files and sheets that have other columns, with these.
        sheets: The sheets that have these columns, if others have not.
    """

    warehouse: Warehouse
    columns: Sequence[Column]
    lines: int
    files: Mapping[str, int]
    others: Mapping[str, Sequence[str]]
    sheets: Sequence[str]

    def rows(self, select: str, **values: Any) -> list[tuple[Any, ...]]:
        """Return the rows of a SELECT of `cells`."""
        return self.warehouse.connection.execute(select, bound_values(select, values)).fetchall()


@contextmanager
def contents_of(
    source: dict[str, Any],
    files: Mapping[str, Path],
    base: Path,
    max_lines: int = SAMPLED_LINES,
    only: Sequence[str | int] | None = None,
) -> Iterator[Contents]:
    """Read the first lines of some files, and count what their columns contain.

    Args:
        source: What was found of the settings in `[source]`.
        files: The path of each file by its name.
        base: The folder that relative paths start from.
        max_lines: About how many lines to read in all.
        only: The columns to read, as the retailer file names them; None: all.

    Raises:
        SourceError: No file can be read.
    """
    limits = lines_of_each({name: path.stat().st_size for name, path in files.items()}, max_lines)
    chosen = {name: files[name] for name in limits}
    with temporary_database() as warehouse, TemporaryDirectory() as folder:
        parts, errors = _parts(Source.model_validate(source), chosen, limits, Path(folder))
        if not parts:
            raise SourceError(" ".join(errors) or _no_lines(base, source))
        [(names, _)] = Counter(part.columns for part in parts).most_common(1)
        same = [part for part in parts if part.columns == names]
        others = {part.location: part.columns for part in parts if part.columns != names}
        others |= dict.fromkeys(errors, ())
        sheets = list(dict.fromkeys(part.source_sheet for part in same if part.source_sheet))
        if not any(part.source_sheet for part in parts if part.columns != names):
            sheets = []
        keys = [_key(same[0], position) for position in range(len(names))]
        positions = [position for position, key in enumerate(keys) if only is None or key in only]
        extra = {f"c{position}": keys[position] for position in positions}
        retailer = _reading(source | ({"sheets": sheets} if sheets else {}), extra)
        same_files = {part.source_file: chosen[part.source_file] for part in same}
        spill = Path(folder) / "spill"
        with read_lines(warehouse.connection, retailer, same_files, spill, limits) as lines:
            [relation] = lines.relations.values()
            cells = ", ".join(map(quoted, retailer.columns.extra))
            place = "source_file, source_sheet, source_line"
            warehouse.connection.execute(
                f"create table cells as select {place}, {cells} from ({relation})"  # noqa: S608 - own SQL
                " where unparsed is null or not starts_with(unparsed, '{\"line\":') order by source_file, source_sheet,"
                " source_line"
            )
        if not warehouse.count("cells"):
            raise SourceError(_no_lines(base, source))
        columns = [_counted(warehouse, same[0], position) for position in positions]
        counts = dict(
            warehouse.connection.execute("select source_file, count(*) from cells group by all order by 1").fetchall()
        )
        yield Contents(warehouse, columns, sum(counts.values()), counts, others, sheets)


def _no_lines(base: Path, source: dict[str, Any]) -> str:
    return f"{base / str(source['path'])}: no lines to read. Check the export."


def _parts(
    source: Source, files: Mapping[str, Path], limits: Mapping[str, int], folder: Path
) -> tuple[list[Part], list[str]]:
    parts, errors = [], []
    with reading_connection(folder / "parts.duckdb", files.values()) as reading:
        for name, path in files.items():
            try:
                parts += parts_of(reading, source, name, path, folder, limits[name])
            except SourceError as error:
                errors.append(str(error))
    return parts, errors


def _reading(source: dict[str, Any], extra: dict[str, str | int]) -> Retailer:
    """Return settings that read some columns as text; the columns that settings require do not matter."""
    first = next(iter(extra.values()))
    columns = {"transaction_at": first, "customer_id": first, "amount": first, "extra": extra}
    settings = {"name": "draft", "title": "Draft", "time_zone": "UTC", "currency": "XXX"}
    return Retailer.model_validate(settings | {"source": source, "columns": columns})


def _key(part: Part, position: int) -> str | int:
    """Return how a retailer file names a column: by its name, if it is the only one."""
    name = part.columns[position]
    is_name = part.layout.has_header and name.strip() and part.columns.count(name) == 1
    return name if part.kind == "jsonl" or is_name else position + 1


def _counted(warehouse: Warehouse, part: Part, position: int) -> Column:
    cell = f"c{position}"
    select = (
        f"select count({cell}), count(distinct {cell}),"  # noqa: S608 - own SQL
        f" count(*) filter (regexp_full_match({cell}, '[0-9]+')),"
        f" count(*) filter (length({cell}) <= {_LONGEST_DATE}"
        f" and (regexp_matches({cell}, $date) or regexp_matches({cell}, $named))),"
        f" count(*) filter (regexp_full_match({cell}, '[12][0-9]{{9}}([0-9]{{3}})?')),"
        f" count(*) filter (regexp_matches({cell}, '\\p{{L}}')), count(*) filter (contains({cell}, '@')),"
        f" count(*) filter (regexp_matches({cell}, '[0-9]')) from cells"
    )
    values = {"date": _DATE, "named": _NAMED_DATE}
    [(filled, distinct, integers, dates, epochs, letters, addresses, digits)] = warehouse.connection.execute(
        select, values
    ).fetchall()
    counts = {".": integers, ",": integers}
    if integers < filled and digits > filled / 2 and dates < digits / 2:
        counts = {mark: _numbers(warehouse, cell, mark) for mark in counts}
    name = part.columns[position] if part.layout.has_header else f"column {position + 1}"
    kind = part.types[position] if part.types else ""
    key = _key(part, position)
    return Column(name, key, cell, kind, filled, distinct, counts, integers, dates, epochs, letters, addresses)


def _numbers(warehouse: Warehouse, cell: str, decimal: str) -> int:
    """Return how many values of a column are numbers with a decimal mark."""
    select = f"select count({number_sql(cell)}) from cells"  # noqa: S608 - own SQL
    [(count,)] = warehouse.connection.execute(select, bound_values(select, with_all_marks(decimal))).fetchall()
    return int(count)


def with_all_marks(decimal: str) -> dict[str, Any]:
    """Return the values that `number_sql` binds, for money in any currency."""
    settings = {"name": "draft", "title": "Draft", "time_zone": "UTC", "currency": "XXX"}
    source = {"path": ".", "decimal": decimal, "currency_marks": _MARKS}
    columns = {"transaction_at": 1, "customer_id": 1, "amount": 1}
    return number_values(Retailer.model_validate(settings | {"source": source, "columns": columns}))
