"""Verify the files of one release, and hand them over to their readers.

Contains what is in the folder of a release, and its permissions. The files are written in `writing`; the manifest is in
`manifest`; which releases exist, and which of them is current, is in `store`.
"""

import grp
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from glob import escape
from pathlib import Path
from typing import Any

import duckdb

from segmentation_pipeline.errors import ReleaseError, RetailerError
from segmentation_pipeline.releases.manifest import MANIFEST
from segmentation_pipeline.tables.catalog import withholdable_columns
from segmentation_pipeline.tables.contract import literal, quoted

DATABASE = "segments.duckdb"
STATE_DATABASE = "state.duckdb"
# A view of a Parquet file finds it below the folder that this variable of a connection names; unset: below the folder
# that the release was published in. DuckDB would look for a relative path in the folder of the process.
RELEASES_VARIABLE = "segmentation_releases"
# Written after the release is published, and from it alone: it is no part of what is verified.
REPORT = "report.html"
# Two years older than the newest DuckDB that the package supports; it reads what this storage version writes.
OLDEST_CLIENT = "1.1.3"
STORAGE_VERSION = "v1.0.0"


@dataclass(frozen=True)
class Release:
    """One published release: its folder and its manifest."""

    folder: Path
    manifest: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The folder's name: sequence number, as-of date and run."""
        return self.folder.name

    @property
    def as_of(self) -> datetime:
        """The time up to which its transactions count."""
        return datetime.fromisoformat(self.manifest["as_of"])

    @property
    def metrics(self) -> Mapping[str, Any]:
        """The metrics of its run, by name."""
        metrics: Mapping[str, Any] = self.manifest["figures"]
        return metrics

    @property
    def database(self) -> Path:
        """The DuckDB file that consumers open."""
        return self.folder / DATABASE

    @property
    def state(self) -> Path:
        """The DuckDB file of what cannot be derived from the source again; only its owner can read it."""
        return self.folder / STATE_DATABASE

    @property
    def report(self) -> Path:
        """The page for people, which may be missing."""
        return self.folder / REPORT

    @property
    def parquet_only(self) -> Sequence[str]:
        """The tables whose rows are in their Parquet file alone; the database has a view of it."""
        tables: Sequence[str] = self.manifest.get("parquet_only", ())
        return tables

    def connect(self) -> duckdb.DuckDBPyConnection:
        """Open the database for reading, wherever the release is now; the caller closes the connection."""
        # The resolved path differs for each release: a process may have another release open through `current`.
        connection = duckdb.connect(str(self.database.resolve()), read_only=True)
        find_parquet_files(connection, self.folder)
        return connection

    def attach(self, connection: duckdb.DuckDBPyConnection, name: str) -> None:
        """Attach the database to a connection for reading; other releases on it must be of the same folder."""
        _attach(connection, self.database, name)

    def verify(self) -> list[str]:
        """Return the errors of its files; none if they are as they were published."""
        return verify_files(self.folder, self.manifest)


def check_withheld(columns: Sequence[str]) -> None:
    """Check the columns of `privacy.withhold`.

    Raises:
        RetailerError: A column is in no published table of customers, or consumers join by it.
    """
    if columns and (unknown := sorted({*columns} - {*withholdable_columns()})):
        raise RetailerError(
            f"privacy.withhold: {', '.join(unknown)} cannot be withheld; allowed: {', '.join(withholdable_columns())}"
        )


def verify_files(folder: Path, manifest: Mapping[str, Any]) -> list[str]:
    """Read every file of a release and count every table; return what does not match the manifest.

    The report does not count: the manifest was written before it.
    """
    present = {file.name for file in folder.iterdir()} - {MANIFEST, REPORT, f"{REPORT}.new"}
    with duckdb.connect() as connection:
        names = sorted(present | manifest["files"].keys())
        return [error for name in names for error in _file_errors(connection, folder, manifest, name)]


def verify_file(folder: Path, manifest: Mapping[str, Any], name: str) -> list[str]:
    """Return what does not match the manifest in one of the files."""
    with duckdb.connect() as connection:
        return _file_errors(connection, folder, manifest, name)


def _file_errors(
    connection: duckdb.DuckDBPyConnection, folder: Path, manifest: Mapping[str, Any], name: str
) -> list[str]:
    expected = manifest["files"].get(name)
    if expected is None:
        return [f"{name} does not belong to the release"]
    try:
        found = checksum(folder / name)
    except FileNotFoundError:
        return [f"{name} is missing"]
    except OSError as error:
        return [f"{name} cannot be read: {error.strerror}"]
    if found["bytes"] != expected["bytes"]:
        return [f"{name} has {found['bytes']:,} bytes, but {expected['bytes']:,} were published"]
    if found != expected:
        return [f"{name} was changed after it was published: its checksum does not match"]
    return list(_row_count_errors(connection, folder / name, manifest))


def _row_count_errors(connection: duckdb.DuckDBPyConnection, file: Path, manifest: Mapping[str, Any]) -> Iterator[str]:
    try:
        if file.suffix == ".parquet":
            expected = {file.stem: manifest["tables"].get(file.stem)}
            counts = {file.stem: _parquet_rows(connection, file)}
        else:
            expected = manifest["tables"] if file.name == DATABASE else manifest.get("state", {})
            counts = _table_rows(connection, file, expected)
    except duckdb.Error as error:
        yield f"{file.name} cannot be read: {str(error).splitlines()[0]}"
        return
    for table, rows in expected.items():
        if counts[table] != rows:
            yield f"{file.name} holds {counts[table]:,} rows of {table}, but {MANIFEST} says {rows}"


def _parquet_rows(connection: duckdb.DuckDBPyConnection, file: Path) -> int:
    rows = connection.execute("select count(*) from read_parquet($file)", {"file": escape(str(file))}).fetchall()
    return int(rows[0][0])


def _table_rows(connection: duckdb.DuckDBPyConnection, file: Path, tables: Iterable[str]) -> dict[str, int]:
    _attach(connection, file, "verified")
    try:
        selects = [f"select {literal(table)}, count(*) from verified.{quoted(table)}" for table in tables]  # noqa: S608 - quoted
        return dict(connection.execute(" union all ".join(selects)).fetchall()) if selects else {}
    finally:
        connection.execute("detach verified")


def _attach(connection: duckdb.DuckDBPyConnection, database: Path, name: str) -> None:
    connection.execute(f"attach {literal(str(database.resolve()))} as {quoted(name)} (read_only)")
    find_parquet_files(connection, database.parent)


def find_parquet_files(connection: duckdb.DuckDBPyConnection, release: Path) -> None:
    """Let the views of a release read the Parquet files in its folder, which must bear its name."""
    folder = literal(escape(str(release.resolve().parent)))
    connection.execute(f"set variable {RELEASES_VARIABLE} = {folder}")


def set_permissions(folder: Path, group: str | None) -> None:
    """Make a written release read-only for its owner and a group, and its state readable by its owner only.

    Nobody except the owner can change it: DuckDB cannot open the database for writing.

    Args:
        folder: The folder of the release.
        group: The group that may read it; None keeps the group of the files.
    """
    for file in folder.iterdir():
        if file.name == STATE_DATABASE:
            file.chmod(0o600)
        else:
            _set_group(file, group, 0o440)
        sync(file)
    _set_group(folder, group, 0o750)
    sync(folder)


def add_report(release: Release, html: str, group: str | None) -> None:
    """Write the report of a published release beside its files; a reader sees the whole page or the earlier one.

    Args:
        release: The release.
        html: The page.
        group: The group that may read it; None keeps the group of the file.
    """
    written = release.folder / f"{REPORT}.new"
    # One that a killed run left is read-only.
    written.unlink(missing_ok=True)
    written.write_text(html, "utf-8")
    _set_group(written, group, 0o440)
    sync(written)
    written.replace(release.report)
    sync(release.folder)


def grant_access(folder: Path, group: str | None) -> None:
    """Allow a group to read and enter the folder of all releases."""
    if group is not None:
        _set_group(folder, group, folder.stat().st_mode & 0o7777 | 0o050)


def _set_group(path: Path, group: str | None, mode: int) -> None:
    if group is not None:
        number = group_number(group)
        if path.stat().st_gid != number:
            try:
                os.chown(path, -1, number)
            except PermissionError:
                raise ReleaseError(
                    f"release.group = {group!r}: this user cannot give {path} to that group. Add the user to the group,"
                    " or set a group that the user is a member of."
                ) from None
    path.chmod(mode)


def group_number(group: str) -> int:
    """Return the number of a group of this machine.

    Raises:
        ReleaseError: No group has this name.
    """
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise ReleaseError(
            f"release.group = {group!r}: this machine has no such group; `getent group` lists its groups"
        ) from None


def checksum(file: Path) -> dict[str, Any]:
    """Return the size and the SHA-256 of a file."""
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
        return {"bytes": os.fstat(opened.fileno()).st_size, "sha256": digest}


def sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk: a power cut must not keep a rename and lose the content."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
