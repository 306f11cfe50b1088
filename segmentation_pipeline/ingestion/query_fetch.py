"""Fetch the rows of a source's query into a Parquet file of text, which is then read as a source file is.

Contains what is selected of the query. Connections are in `query_connection`, storing the rows in `query_load`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.config.sections import Columns
from segmentation_pipeline.config.validation import NUMBERS, normalised
from segmentation_pipeline.errors import SourceError
from segmentation_pipeline.ingestion.column_mapping import column_positions
from segmentation_pipeline.ingestion.file_formats import Part
from segmentation_pipeline.ingestion.query_connection import QuerySource
from segmentation_pipeline.tables.contract import quoted

# The name of the source in messages.
QUERY = "source.query"
# The columns of a row beside those of the query. No name of [columns.extra] begins like these.
ROW_KEY, CURSOR = "_row_key", "_cursor"
_TIMES = ("date", "timestamp")
_WITH_DECIMALS = ("numeric", "decimal", "real", "double", "float", "money")


@dataclass(frozen=True)
class Query:
    """The query of a source, whose columns are known.

    Attributes:
        retailer: The settings.
        types: The type of each column as the database names it, by the column's name.
    """

    retailer: Retailer
    types: dict[str, str]

    @classmethod
    def of(cls, retailer: Retailer, source: QuerySource) -> "Query":
        """Return the query of a retailer after a check of its columns.

        Raises:
            SourceError: The query is not valid, or lacks a column that the settings name.
        """
        query = cls(retailer, source.columns(_text(retailer)))
        query.positions()
        for name in retailer.source.key_columns:
            query.column("source.key", name)
        if (cursor := retailer.source.cursor) is not None:
            kind = query.types[query.column("source.cursor", cursor)]
            if not kind.lower().startswith(_TIMES):
                raise SourceError(
                    f"source.cursor: {cursor} is of type {kind}; set a column of dates or timestamps, or remove it to"
                    " fetch all rows in each run."
                )
        return query

    def positions(self) -> dict[str, int]:
        """Return the position of each mapped column, by our name."""
        part = Part(Path(), "parquet", QUERY, "", tuple(self.types), tuple(self.types.values()))
        return column_positions(self.retailer.columns, part)

    def column(self, setting: str, name: str) -> str:
        """Return the name of a column as the database has it.

        Raises:
            SourceError: The query has no such column.
        """
        for column in self.types:
            if normalised(column) == normalised(name):
                return column
        raise SourceError(f"{setting}: the query has no column {name!r}; it has {', '.join(self.types)}.")

    def select(self, since: datetime | None, max_rows: int | None = None) -> str:
        """Return the SELECT of all columns as text, of the key and of the cursor.

        Text, because it is exact in every database: ADBC and Parquet have no numbers of any size, no infinite dates and
        no types of the user.

        Args:
            since: The time of the cursor from which rows are fetched; None: all rows.
            max_rows: How many rows are fetched at most; None: all.
        """
        positions, columns = self.positions(), self.retailer.columns
        numbers = {name for name in positions if name in NUMBERS or name in columns.extra}
        decimals = {position for name, position in positions.items() if name in numbers}
        cells = [self._cell(name, with_mark=position in decimals) for position, name in enumerate(self.types)]
        key = " || '|' || ".join(self._key_parts())
        cursor = self._cursor()
        cells += [f"{key} as {quoted(ROW_KEY)}", f"{self._text(cursor) if cursor else 'null'} as {quoted(CURSOR)}"]
        select = f"select {', '.join(cells)} from (\n{_text(self.retailer)}\n) as q"  # noqa: S608 - the user's own query
        if since is None or cursor is None:
            return select if max_rows is None else f"{select} limit {max_rows}"
        kind = self.types[cursor]
        start = since.date().isoformat() if kind.lower() == "date" else since.isoformat(" ")
        return f"{select} where q.{quoted(cursor)} >= cast('{start}' as {kind}) or q.{quoted(cursor)} is null"

    def settings_for_reading(self) -> Retailer:
        """Return the settings with which the fetched rows are read: dates that are no text are written in ISO 8601."""
        retailer, source = self.retailer, self.retailer.source
        extra = {**retailer.columns.extra, ROW_KEY: ROW_KEY, CURSOR: CURSOR}
        columns: Columns = retailer.columns.model_copy(update={"extra": extra})
        kind = list(self.types.values())[self.positions()["transaction_at"]]
        if kind.lower().startswith(_TIMES):
            source = source.model_copy(update={"date_format": None})
        return retailer.model_copy(update={"columns": columns, "source": source})

    def _cell(self, name: str, *, with_mark: bool) -> str:
        """Return the SQL of a column as text; numbers of the database have the decimal mark of the settings."""
        text, mark = self._text(name), self.retailer.source.decimal
        if with_mark and mark != "." and self.types[name].lower().startswith(_WITH_DECIMALS):
            text = f"replace({text}, '.', '{mark}')"
        return f"{text} as {quoted(name)}"

    def _text(self, name: str) -> str:
        column = f"q.{quoted(name)}"
        if self.types[name].lower() == "money":
            # As text, it is in the notation of the server's language.
            column = f"cast({column} as numeric)"
        return f"cast({column} as text)"

    def _key_parts(self) -> Sequence[str]:
        """Return the SQL of each part of the key; of several, with the mark between them escaped."""
        parts = [self._text(self.column("source.key", name)) for name in self.retailer.source.key_columns]
        return parts if len(parts) == 1 else [rf"replace(replace({part}, '\', '\\'), '|', '\|')" for part in parts]

    def _cursor(self) -> str | None:
        cursor = self.retailer.source.cursor
        return None if cursor is None else self.column("source.cursor", cursor)


def _text(retailer: Retailer) -> str:
    """Return the query without the semicolon that ends it in a SQL client."""
    assert retailer.source.query is not None
    return retailer.source.query.rstrip().rstrip(";").rstrip()
