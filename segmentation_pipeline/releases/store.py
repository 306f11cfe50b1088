"""Releases: what SQL consumers open. Published whole, listed, verified, rolled back, pruned.

Belongs here: which releases there are, and `current`. A release is a folder of its own that never changes; `current` is
a symbolic link to one of them, switched by a rename, so a reader sees one release or another and never half of one.
"""

import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb

from segmentation_pipeline.config.paths import unused_name
from segmentation_pipeline.errors import ReleaseError
from segmentation_pipeline.releases import files
from segmentation_pipeline.releases.files import Release
from segmentation_pipeline.tables.catalog import CONTRACT_VERSION
from segmentation_pipeline.warehouse.lock import alone_in

_NAME = re.compile(r"\d{6,}-")
CURRENT = "current"


class Releases:
    """The releases of one retailer, in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def all(self) -> list[Release]:
        """Every release whose manifest is whole, oldest first."""
        return [release for _, release in self._read() if isinstance(release, Release)]

    @property
    def broken(self) -> dict[str, str]:
        """What is wrong with the manifest of each release where something is."""
        return {name: str(fault) for name, fault in self._read() if isinstance(fault, ReleaseError)}

    @property
    def current(self) -> Release | None:
        """The release that consumers see."""
        target = os.path.realpath(self._link)
        return next((release for release in self.all() if os.path.realpath(release.folder) == target), None)

    @property
    def standing(self) -> Release | None:
        """What a run's data are held against: the current release, or where none is, the one to be current."""
        if (current := self.current) is not None:
            return current
        releases = self.all()
        held = (release for release in releases if release.name == self.held_since)
        return next(held, releases[-1] if releases else None)

    @property
    def held_since(self) -> str | None:
        """The release that a person rolled back to, while publishing is held; else None."""
        hold = self._hold
        return hold.read_text("utf-8").strip() if hold.exists() else None

    @property
    def fault_of_current(self) -> str:
        """Why `current` leads to no release, as a clause; nothing if it does, or if there is none yet."""
        if self.current is not None or not self._folders():
            return ""
        if not os.path.lexists(self._link):
            return f"{CURRENT} is missing"
        if not self._link.is_symlink():
            return f"{CURRENT} is no link: a release was copied over it, or something else"
        target = self._link.readlink()
        if not self._link.exists():
            return f"{CURRENT} leads to {target}, which is not there"
        return f"{CURRENT} leads to {target}: {self.broken.get(target.name, 'no release of this folder')}"

    def faults(self, names: Sequence[str] = ()) -> dict[str, list[str]]:
        """What is wrong with each release, oldest first, or with those that are named.

        Raises:
            ReleaseError: There is no such release, or none at all.
        """
        found = dict(self._read())
        if not found:
            raise ReleaseError(f"no release in {self.folder} yet; `segments run` publishes the first")
        for name in names:
            if name not in found:
                raise ReleaseError(f"no release {name!r}; there are: {', '.join(found)}")
        said = {}
        for name, release in found.items():
            if not names or name in names:
                faults = [str(release)] if isinstance(release, ReleaseError) else _unless_gone(release)
                if (self.folder / name).exists():
                    said[name] = faults
        return said

    def publish(
        self,
        connection: duckdb.DuckDBPyConnection,
        facts: Mapping[str, Any],
        *,
        macros: Sequence[str],
        as_of: datetime,
        run_id: str,
        keep: int,
        group: str | None = None,
        withheld: Sequence[str] = (),
    ) -> Release:
        """Write a new release from the working database, verify it, and make it current unless publishing is held.

        Args:
            connection: The working database; each table is read in the order of its key.
            facts: What the manifest tells beside what this module knows.
            macros: The statements that give consumers functions.
            as_of: The as-of moment of the tables.
            run_id: The run that publishes.
            keep: How many releases to keep; the current one is never pruned.
            group: The group that may read it; by default that of the user who publishes.
            withheld: Columns that are left out of the tables of customers.

        Raises:
            ReleaseError: What was written is not what was to be published, or the group cannot have it.
        """
        self._make_ready(group)
        sequence = 1 + max((int(folder.name.split("-")[0]) for folder in self._folders()), default=0)
        name = f"{sequence:06d}-{as_of:%Y%m%d}-{run_id[:8]}"
        manifest: dict[str, Any] = {
            "release": name,
            **facts,
            "as_of": as_of.isoformat(sep=" "),
            "run_id": run_id,
            "published_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "contract_version": CONTRACT_VERSION,
            "withheld": sorted(withheld),
            "oldest_duckdb_client": files.OLDEST_CLIENT,
        }
        building = self.folder / f".building-{run_id}"
        building.mkdir(mode=0o700)
        try:
            files.write_manifest(building, manifest | files.write(connection, building, macros, withheld))
            files.hand_over(building, group)
            manifest = files.read_manifest(building)
            if faults := files.faults(building, manifest):
                raise ReleaseError(
                    f"not published: what was written reads back otherwise: {'; '.join(faults)}. Look after the disk"
                    " and run again"
                )
        except BaseException:
            # On a disk that is full, what is half written would be in the way of the next run.
            shutil.rmtree(building, ignore_errors=True)
            raise
        with alone_in(self.folder):
            release = Release(building.rename(self.folder / name), manifest)
            if self.held_since is None:
                self._switch(release)
            elif self.current is None:
                self._switch(self.standing or release)
            self._prune(self.all()[-keep:][0].name)
        return release

    def rollback(self, name: str) -> Release:
        """Make an earlier release current, and hold publishing until `resume`.

        Raises:
            ReleaseError: There is no such release, or it is damaged.
        """
        with alone_in(self.folder):
            release = self._whole(name)
            self._hold.write_text(name + "\n", "utf-8")
            self._switch(release)
        return release

    def resume(self) -> Release:
        """End a hold: the newest release becomes current, and runs publish again.

        Raises:
            ReleaseError: There is no release yet, or the newest is damaged.
        """
        with alone_in(self.folder):
            if not (releases := self.all()):
                raise ReleaseError(f"no release in {self.folder} yet; `segments run` publishes the first")
            newest = self._whole(releases[-1].name)
            self._hold.unlink(missing_ok=True)
            self._switch(newest)
        return newest

    def only(self, name: str) -> None:
        """Delete every other release and whatever is left of one, for ever; a hold goes on at this one.

        Raises:
            ReleaseError: There is no such release, or it is damaged.
        """
        with alone_in(self.folder):
            release = self._whole(name)
            if self.held_since is not None:
                self._hold.write_text(name + "\n", "utf-8")
            self._switch(release)
            self._prune(name)
            self._clear()

    def find(self, name: str) -> Release:
        """A release by its name.

        Raises:
            ReleaseError: There is none of that name, or its manifest is damaged.
        """
        found = dict(self._read())
        if name not in found:
            raise ReleaseError(f"no release {name!r}; there are: {', '.join(found) or 'none yet'}")
        return self._unbroken(name, found[name])

    def _whole(self, name: str) -> Release:
        """The same, with files that are as they were published."""
        release = self.find(name)
        return self._unbroken(name, ReleaseError("; ".join(faults)) if (faults := release.faults()) else release)

    @staticmethod
    def _unbroken(name: str, release: Release | ReleaseError) -> Release:
        if isinstance(release, ReleaseError):
            raise ReleaseError(f"release {name} is damaged: {release}. `segments releases verify` tells of all")
        return release

    @property
    def _hold(self) -> Path:
        return self.folder / "hold"

    @property
    def _link(self) -> Path:
        return self.folder / CURRENT

    def _folders(self) -> list[Path]:
        found = sorted(self.folder.iterdir()) if self.folder.is_dir() else []
        return [path for path in found if _NAME.match(path.name) and path.is_dir()]

    def _read(self) -> Iterator[tuple[str, Release | ReleaseError]]:
        for folder in self._folders():
            try:
                yield folder.name, Release(folder, files.read_manifest(folder))
            except ReleaseError as fault:
                # A run may prune it between the listing and the reading.
                if folder.exists():
                    yield folder.name, fault

    def _make_ready(self, group: str | None) -> None:
        if not self.folder.is_dir():
            self.folder.mkdir(parents=True)
            self.folder.chmod(0o750)
        files.open_to(self.folder, group)
        self._clear()

    def _clear(self) -> None:
        for rest in [*self.folder.glob(".building-*"), *self.folder.glob(".pruning-*")]:
            shutil.rmtree(rest)

    def _switch(self, release: Release) -> None:
        if os.path.lexists(self._link) and not self._link.is_symlink():
            # No rename replaces a folder. What is there is kept: nobody knows whose it is.
            self._link.rename(unused_name(self.folder / f"{CURRENT}.set-aside"))
        following = self.folder / ".current"
        following.unlink(missing_ok=True)
        following.symlink_to(release.name, target_is_directory=True)
        following.replace(self._link)
        files.sync(self.folder)

    def _prune(self, oldest: str) -> None:
        """A damaged one goes with those of its age: it is none of those that are kept, and none that is sought."""
        current = self.current
        for folder in self._folders():
            if folder.name < oldest and (current is None or folder.name != current.name):
                # Renamed first: whoever is killed while deleting leaves no half release in the list.
                shutil.rmtree(folder.rename(self.folder / f".pruning-{folder.name}"))


def _unless_gone(release: Release) -> list[str]:
    """The faults of a release that a run may prune meanwhile."""
    try:
        return release.faults()
    except FileNotFoundError:
        return []
