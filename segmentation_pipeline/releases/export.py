"""A table of a release as CSV for people with spreadsheets.

Belongs here: what a spreadsheet would make of a text. Programs read the release itself.
"""

import csv
from collections.abc import Iterator
from typing import TextIO

import duckdb

from segmentation_pipeline.errors import ReleaseError
from segmentation_pipeline.releases.files import Release
from segmentation_pipeline.tables.catalog import contracts
from segmentation_pipeline.tables.contract import quoted
from segmentation_pipeline.warehouse.queries import bound_values

# Excel takes a file without it for one in the machine's old encoding, and breaks every accent.
_MARK = "\ufeff"
_NO_TEXT = ("DECIMAL", "DOUBLE", "BIGINT", "INTEGER", "BOOLEAN", "DATE", "TIMESTAMP")
# A spreadsheet runs a text that begins so; after an apostrophe it shows it.
# Some programs take the wide signs for the others.
_RUN = r"^[=+\-@\t\r\n" + "\uff1d\uff0b\uff0d\uff20]"
_ROWS = 10_000


def export(release: Release, table: str, file: TextIO) -> None:
    """Write a table in the order of its key; text that a spreadsheet would run is written after an apostrophe.

    Args:
        release: The release.
        table: The name of a published table.
        file: Open for text, without translation of line ends.
    """
    file.write(_MARK)
    csv.writer(file).writerows(_rows(release, table))


def refuse_unknown(release: Release, table: str) -> None:
    """Before a file is opened, which would empty it.

    Raises:
        ReleaseError: There is no such table.
    """
    if table not in (there := sorted(release.manifest["tables"])):
        raise ReleaseError(f"no table {table!r} in release {release.name}; there are: {', '.join(there)}")


def _rows(release: Release, table: str) -> Iterator[tuple[str | None, ...]]:
    with duckdb.connect(str(release.database.resolve()), read_only=True) as connection:
        described = connection.execute(f"select column_name, column_type from (describe {quoted(table)})").fetchall()
        yield tuple(column for column, _ in described)
        cells = ", ".join(_cell(column, kind) for column, kind in described)
        order = contracts()[table].key_order if table in contracts() else "all"
        rows = connection.execute(
            f"select {cells} from {quoted(table)} order by {order}", bound_values(cells, {"run": _RUN})
        )
        while some := rows.fetchmany(_ROWS):
            yield from some


def _cell(column: str, kind: str) -> str:
    text = f"cast({quoted(column)} as varchar)"
    return text if kind.startswith(_NO_TEXT) else f"regexp_replace({text}, $run, '''\\0')"
