"""The files of one release: written from the working database, and read back to see whether they are as published.

Belongs here: what lies in a release's folder, who may read it, and what is wrong with it. Does not: which releases
there are, and which one consumers see (`releases`).
"""

import grp
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from glob import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb

from segmentation_pipeline.errors import ReleaseError
from segmentation_pipeline.tables.catalog import contracts, published, state_selects
from segmentation_pipeline.tables.contract import Contract, quoted

DATABASE = "segments.duckdb"
STATE_DATABASE = "state.duckdb"
MANIFEST = "manifest.json"
# Two years older than the newest DuckDB that the package runs on; read by what this storage version writes.
OLDEST_CLIENT = "1.1.3"
STORAGE_VERSION = "v1.0.0"
# What is asked of a manifest of before there was a digest in it.
_KEYS = frozenset({"release", "as_of", "published_at", "contract_version", "tables", "files", "figures"})


@dataclass(frozen=True)
class Release:
    """One published release: its folder, and its manifest."""

    folder: Path
    manifest: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The folder's name: sequence number, as-of date and run."""
        return self.folder.name

    @property
    def as_of(self) -> datetime:
        """The moment up to which its transactions count."""
        return datetime.fromisoformat(self.manifest["as_of"])

    @property
    def database(self) -> Path:
        """The DuckDB file."""
        return self.folder / DATABASE

    @property
    def state(self) -> Path:
        """The DuckDB file of what no source gives back, for its owner alone."""
        return self.folder / STATE_DATABASE

    def faults(self) -> list[str]:
        """What is wrong with its files; nothing if it is as it was published."""
        return faults(self.folder, self.manifest)


def write(
    connection: duckdb.DuckDBPyConnection, folder: Path, macros: Sequence[str], withheld: Sequence[str]
) -> dict[str, Any]:
    """Write the published tables, as a database and as Parquet, and the database of what no source gives back.

    Args:
        connection: The working database; each table is read in the order of its key.
        folder: An empty folder.
        macros: The statements that give consumers functions.
        withheld: Columns that are left out of the tables of customers.

    Returns:
        For the manifest: the rows of each table as they stand in the working database, and the checksum of each file.
    """
    published_contracts = [contract.without(withheld) for contract in published()]
    selects = {contract: f"select {contract.names} from {quoted(contract.table)}" for contract in published_contracts}
    tables = _write_database(connection, folder / DATABASE, selects, folder, macros)
    with TemporaryDirectory(dir=folder) as between:
        kept = {contracts()[table]: select for table, select in state_selects().items()}
        state = _write_database(connection, folder / STATE_DATABASE, kept, Path(between), constraints=False)
    files = {file.name: checksum(file) for file in sorted(folder.iterdir())}
    return {"tables": tables, "state": state, "files": files}


def _write_database(
    connection: duckdb.DuckDBPyConnection,
    database: Path,
    selects: Mapping[Contract, str],
    folder: Path,
    macros: Sequence[str] = (),
    *,
    constraints: bool = True,
) -> dict[str, int]:
    """The rows of each SELECT as Parquet in the folder, and from these files the database of their tables."""
    for contract, select in selects.items():
        ordered = connection.sql(f"select * from ({select}) order by {contract.key_order}")
        ordered.write_parquet(str(folder / f"{contract.table}.parquet"), compression="zstd")
    with duckdb.connect(str(database), config={"storage_compatibility_version": STORAGE_VERSION}) as written:
        # One transaction: each of the hundred comments would else wait for the disk.
        written.begin()
        for contract in selects:
            written.execute(contract.ddl(constraints=constraints))
            file = escape(str(folder / f"{contract.table}.parquet"))
            written.execute(f"insert into {quoted(contract.table)} select * from read_parquet($file)", {"file": file})
            contract.write_comments(written)
        for macro in macros:
            written.execute(macro)
        written.commit()
    return {
        contract.table: connection.execute(f"select count(*) from ({select})").fetchall()[0][0]
        for contract, select in selects.items()
    }


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Write the manifest with a digest of itself, by which a damaged one is told from a whole one."""
    whole = {**manifest, "digest": _digest(manifest)}
    (folder / MANIFEST).write_text(json.dumps(whole, indent=2) + "\n", "utf-8")
    return whole


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a release.

    Raises:
        ReleaseError: It is missing, cannot be read, or is not what was written.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        raise ReleaseError(f"{MANIFEST} {'is missing' if missing else f'cannot be read: {error.strerror}'}") from None
    except ValueError as error:
        raise ReleaseError(f"{MANIFEST} is no JSON: {error}") from None
    if not isinstance(manifest, dict):
        raise ReleaseError(f"{MANIFEST} is no table of facts")
    told = manifest.get("digest")
    if told is None and (lacking := sorted(_KEYS - manifest.keys())):
        raise ReleaseError(f"{MANIFEST} lacks {', '.join(lacking)}")
    if told is not None and told != _digest({key: value for key, value in manifest.items() if key != "digest"}):
        raise ReleaseError(f"{MANIFEST} is not what was published: its digest is another")
    return manifest


def faults(folder: Path, manifest: Mapping[str, Any]) -> list[str]:
    """What is wrong with the files of a release: each is read wholly, and every table counted."""
    present = {file.name for file in folder.iterdir()} - {MANIFEST}
    return [
        fault for name in sorted(present | manifest["files"].keys()) for fault in file_faults(folder, manifest, name)
    ]


def file_faults(folder: Path, manifest: Mapping[str, Any], name: str) -> list[str]:
    """What is wrong with one of the files."""
    published = manifest["files"].get(name)
    if published is None:
        return [f"{name} does not belong to it"]
    try:
        found = checksum(folder / name)
    except FileNotFoundError:
        return [f"{name} is missing"]
    except OSError as error:
        return [f"{name} cannot be read: {error.strerror}"]
    if found["bytes"] != published["bytes"]:
        return [f"{name} has {found['bytes']:,} bytes, but {published['bytes']:,} were published"]
    if found != published:
        return [f"{name} is not what was published: its checksum is another"]
    return list(_miscounted(folder / name, manifest))


def _miscounted(file: Path, manifest: Mapping[str, Any]) -> Iterator[str]:
    try:
        if file.suffix == ".parquet":
            wanted = {file.stem: manifest["tables"].get(file.stem)}
            rows = (
                duckdb.cursor()
                .execute("select count(*) from read_parquet($file)", {"file": escape(str(file))})
                .fetchall()
            )
            counted = {file.stem: rows[0][0]}
        else:
            wanted = manifest["tables"] if file.name == DATABASE else manifest.get("state", {})
            with duckdb.connect(str(file), read_only=True) as connection:
                counted = {table: _count(connection, table) for table in wanted}
    except duckdb.Error as error:
        yield f"{file.name} cannot be read: {str(error).splitlines()[0]}"
        return
    for table, rows in wanted.items():
        if counted[table] != rows:
            yield f"{file.name} holds {counted[table]:,} rows of {table}, but the manifest tells {rows}"


def hand_over(folder: Path, group: str | None) -> None:
    """Make a written release readable by its owner's group (or another), and its state by the owner alone.

    Nobody but its owner may change it: a consumer who opens a database for writing is refused.
    """
    for file in folder.iterdir():
        if file.name == STATE_DATABASE:
            file.chmod(0o600)
        else:
            _give(file, group, 0o440)
        sync(file)
    _give(folder, group, 0o750)
    sync(folder)


def open_to(folder: Path, group: str | None) -> None:
    """Let a group into the folder of all releases."""
    if group is not None:
        _give(folder, group, folder.stat().st_mode & 0o7777 | 0o050)


def _give(path: Path, group: str | None, mode: int) -> None:
    if group is not None:
        number = group_number(group)
        if path.stat().st_gid != number:
            try:
                os.chown(path, -1, number)
            except PermissionError:
                raise ReleaseError(
                    f"release.group = {group!r}: this user may not give {path} to that group; make it a member of the"
                    " group, or name one that it is in"
                ) from None
    path.chmod(mode)


def group_number(group: str) -> int:
    """The number of a group of this machine.

    Raises:
        ReleaseError: There is none of that name.
    """
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise ReleaseError(
            f"release.group = {group!r}: this machine has no such group; `getent group` lists those that it has"
        ) from None


def checksum(file: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file."""
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
        return {"bytes": os.fstat(opened.fileno()).st_size, "sha256": digest}


def sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk: in a power cut a rename could outlive what it names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _count(connection: duckdb.DuckDBPyConnection, table: str) -> int:
    [(rows,)] = connection.execute(f"select count(*) from {quoted(table)}").fetchall()
    return int(rows)


def _digest(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
