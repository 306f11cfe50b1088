"""Releases: what SQL consumers open. Published whole, listed, rolled back, pruned.

Belongs here: the release folder and its files. A release is a folder of its own that never changes; `current` is a
symbolic link to one of them, switched by a rename, so a reader sees one release or another and never half of one.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from glob import escape
from pathlib import Path
from typing import Any

import duckdb

from segmentation_pipeline.contracts import quoted
from segmentation_pipeline.locks import alone_in
from segmentation_pipeline.tables import CONTRACT_VERSION, PUBLISHED

DATABASE = "segments.duckdb"
MANIFEST = "manifest.json"
# Two years older than the newest DuckDB that the package runs on; read by what this storage version writes.
OLDEST_CLIENT = "1.1.3"
STORAGE_VERSION = "v1.0.0"


class ReleaseError(RuntimeError):
    """A release cannot be published, found or rolled back to; the message says which and what to do."""


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


class Releases:
    """The releases of one retailer, in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def all(self) -> list[Release]:
        """Every release, oldest first."""
        found = []
        for path in sorted(self.folder.glob(f"[0-9]*/{MANIFEST}")):
            # A run may prune it between the listing and the reading.
            with suppress(FileNotFoundError):
                found.append(Release(path.parent, json.loads(path.read_text("utf-8"))))
        return found

    @property
    def current(self) -> Release | None:
        """The release that consumers see."""
        link = self.folder / "current"
        target = link.resolve()
        return next((release for release in self.all() if release.folder.resolve() == target), None)

    @property
    def held_since(self) -> str | None:
        """The release that a person rolled back to, while publishing is held; else None."""
        hold = self._hold
        return hold.read_text("utf-8").strip() if hold.exists() else None

    def publish(
        self,
        connection: duckdb.DuckDBPyConnection,
        facts: Mapping[str, Any],
        *,
        macros: Sequence[str],
        as_of: datetime,
        run_id: str,
        keep: int,
    ) -> Release:
        """Write a new release from the working database, and make it current unless publishing is held.

        Args:
            connection: The working database; each published table is read in the order of its key.
            facts: What the manifest tells beside what this module knows.
            macros: The statements that give consumers functions.
            as_of: The as-of moment of the tables.
            run_id: The run that publishes.
            keep: How many releases to keep; the current one is never pruned.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for rest in [*self.folder.glob(".building-*"), *self.folder.glob(".pruning-*")]:
            shutil.rmtree(rest)
        building = self.folder / f".building-{run_id}"
        building.mkdir()
        rows = _write_tables(connection, building, macros)
        names = [release.name for release in self.all()]
        sequence = 1 + max((int(name.split("-")[0]) for name in names), default=0)
        name = f"{sequence:06d}-{as_of:%Y%m%d}-{run_id[:8]}"
        manifest = {
            "release": name,
            **facts,
            "as_of": as_of.isoformat(sep=" "),
            "run_id": run_id,
            "published_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "contract_version": CONTRACT_VERSION,
            "oldest_duckdb_client": OLDEST_CLIENT,
            "tables": rows,
            "files": dict(_checksums(building)),
        }
        (building / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", "utf-8")
        for file in building.iterdir():
            file.chmod(0o444)
            _sync(file)
        _sync(building)
        with alone_in(self.folder):
            release = Release(building.rename(self.folder / name), manifest)
            if self.held_since is None:
                self._switch(release)
            self._prune(keep)
        return release

    def rollback(self, name: str) -> Release:
        """Make an earlier release current, and hold publishing until `resume`.

        Raises:
            ReleaseError: There is no such release.
        """
        with alone_in(self.folder):
            known = {release.name: release for release in self.all()}
            if name not in known:
                raise ReleaseError(f"no release {name!r}; there are: {', '.join(known) or 'none yet'}")
            self._hold.write_text(name + "\n", "utf-8")
            self._switch(known[name])
        return known[name]

    def resume(self) -> Release:
        """End a hold: the newest release becomes current, and runs publish again.

        Raises:
            ReleaseError: There is no release yet.
        """
        with alone_in(self.folder):
            if not (releases := self.all()):
                raise ReleaseError(f"no release in {self.folder} yet; `segments run` publishes the first")
            self._hold.unlink(missing_ok=True)
            self._switch(releases[-1])
        return releases[-1]

    @property
    def _hold(self) -> Path:
        return self.folder / "hold"

    def _switch(self, release: Release) -> None:
        following = self.folder / ".current"
        following.unlink(missing_ok=True)
        following.symlink_to(release.name, target_is_directory=True)
        following.replace(self.folder / "current")
        _sync(self.folder)

    def _prune(self, keep: int) -> None:
        current = self.current
        for release in self.all()[:-keep]:
            if current is None or release.name != current.name:
                # Renamed first: whoever is killed while deleting leaves no half release in the list.
                shutil.rmtree(release.folder.rename(self.folder / f".pruning-{release.name}"))


def _write_tables(connection: duckdb.DuckDBPyConnection, folder: Path, macros: Sequence[str]) -> dict[str, int]:
    """Each published table as Parquet, and from these files the database; the rows of each as read back from it."""
    for contract in PUBLISHED:
        ordered = connection.sql(f"select * from {quoted(contract.table)} order by {contract.key_order}")
        ordered.write_parquet(str(folder / f"{contract.table}.parquet"), compression="zstd")
    database = str(folder / DATABASE)
    with duckdb.connect(database, config={"storage_compatibility_version": STORAGE_VERSION}) as release:
        # One transaction: each of the hundred comments would else wait for the disk.
        release.begin()
        for contract in PUBLISHED:
            release.execute(contract.ddl())
            file = escape(str(folder / f"{contract.table}.parquet"))
            release.execute(f"insert into {quoted(contract.table)} select * from read_parquet($file)", {"file": file})
            contract.write_comments(release)
        for macro in macros:
            release.execute(macro)
        release.commit()
    rows = {}
    with duckdb.connect(database, read_only=True) as release:
        for contract in PUBLISHED:
            count = f"select count(*) from {quoted(contract.table)}"
            [(found,)], [(wanted,)] = (source.execute(count).fetchall() for source in (release, connection))
            if found != wanted:
                raise ReleaseError(f"{contract.table}: {wanted} rows were written, {found} read back; not published")
            rows[contract.table] = int(found)
    return rows


def _checksums(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for file in sorted(folder.iterdir()):
        with file.open("rb") as opened:
            yield file.name, {"bytes": file.stat().st_size, "sha256": hashlib.file_digest(opened, "sha256").hexdigest()}


def _sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk: in a power cut a rename could outlive what it names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
