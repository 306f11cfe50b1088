"""Export a table of a release as CSV for spreadsheets.

Contains what spreadsheets need: a byte order mark, and text that they do not run as a formula. Programs read the
release itself.
"""

import shutil
from tempfile import TemporaryFile
from typing import BinaryIO

import duckdb

from segmentation_pipeline.errors import ReleaseError
from segmentation_pipeline.releases.files import Release
from segmentation_pipeline.tables.catalog import contracts
from segmentation_pipeline.tables.contract import literal, quoted

# Without it, Excel reads the file in the machine's old encoding and breaks every accent.
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# A spreadsheet runs text that begins with one of these characters as a formula; after an apostrophe it shows the text.
# Some programs take the full-width signs for the others.
_FORMULA = r"^[=+\-@\t\r\n" + "\uff1d\uff0b\uff0d\uff20]"


def export(release: Release, table: str, file: BinaryIO) -> None:
    """Write a table in the order of its key; text that a spreadsheet would run gets an apostrophe before it.

    Args:
        release: The release.
        table: The name of a published table.
        file: The binary file to write to.
    """
    # COPY writes to a file; the destination may be a pipe, and has the byte order mark before the rows. The file has no
    # name, so that an export that is killed leaves no customer behind.
    with TemporaryFile() as rows:
        with release.connect() as connection:
            target = literal(f"/dev/fd/{rows.fileno()}")
            options = "(format csv, header, use_tmp_file false)"
            connection.execute(f"copy ({_select(connection, table)}) to {target} {options}")
        rows.seek(0)
        file.write(_BYTE_ORDER_MARK)
        shutil.copyfileobj(rows, file)


def check_table_exists(release: Release, table: str) -> None:
    """Check that the release has a table, before the output file is opened and emptied.

    Raises:
        ReleaseError: There is no such table.
    """
    if table not in (tables := sorted(release.manifest["tables"])):
        raise ReleaseError(f"no table {table!r} in release {release.name}; there are: {', '.join(tables)}")


def _select(connection: duckdb.DuckDBPyConnection, table: str) -> str:
    select = f"select column_name, column_type from (describe {quoted(table)})"  # noqa: S608 - quoted names
    described = connection.execute(select).fetchall()
    texts = [quoted(name) for name, kind in described if kind == "VARCHAR"]
    guarded = [f"regexp_replace({name}, {literal(_FORMULA)}, '''\\0') as {name}" for name in texts]
    replace = f" replace ({', '.join(guarded)})" if guarded else ""
    # Qualified, so that the published text orders the rows and not its replacement. A release of an earlier contract
    # may have another key.
    key = contracts()[table].key if table in contracts() else ()
    is_known = bool(key) and {*key} <= {name for name, _ in described}
    order = ", ".join(f"published.{quoted(name)}" for name in key) if is_known else "all"
    return f"select *{replace} from {quoted(table)} as published order by {order}"  # noqa: S608 - names are quoted
