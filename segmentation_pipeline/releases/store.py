"""Publish releases atomically, list them, verify them, roll back and prune.

Contains which releases exist and which of them is current. A release is a folder that never changes after it is
published; `current` is a symbolic link to one of them. A rename switches the link, so a reader sees either release.
"""

import math
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
from segmentation_pipeline.releases.manifest import read_manifest, write_manifest
from segmentation_pipeline.releases.writing import write_files
from segmentation_pipeline.tables.catalog import CONTRACT_VERSION
from segmentation_pipeline.warehouse.lock import folder_lock

_NAME = re.compile(r"\d{6,}-")
CURRENT = "current"


class Releases:
    """The releases of one retailer, in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def all(self) -> list[Release]:
        """Return every release with a readable manifest, oldest first."""
        return [release for _, release in self._read() if isinstance(release, Release)]

    @property
    def damaged(self) -> dict[str, str]:
        """The error of each release whose manifest cannot be read, by name."""
        return {name: str(error) for name, error in self._read() if isinstance(error, ReleaseError)}

    @property
    def current(self) -> Release | None:
        """The release that consumers see."""
        target = os.path.realpath(self._link)
        return next((release for release in self.all() if os.path.realpath(release.folder) == target), None)

    @property
    def baseline(self) -> Release | None:
        """The release that a run is compared with: the current one or, without one, the one to make current."""
        if (current := self.current) is not None:
            return current
        releases = self.all()
        paused = (release for release in releases if release.name == self.paused_at)
        return next(paused, releases[-1] if releases else None)

    @property
    def paused_at(self) -> str | None:
        """The release that a user rolled back to, while publishing is paused; otherwise None."""
        return self._pause_file.read_text("utf-8").strip() if self._pause_file.exists() else None

    @property
    def current_error(self) -> str:
        """Why `current` does not lead to a release, as a clause; empty if it does, or if there is no release yet."""
        if self.current is not None or not self._folders():
            return ""
        if not os.path.lexists(self._link):
            return f"{CURRENT} is missing"
        if not self._link.is_symlink():
            return f"{CURRENT} is not a link: something, perhaps a copy of a release, replaced it"
        target = self._link.readlink()
        if not self._link.exists():
            return f"{CURRENT} links to {target}, which does not exist"
        return f"{CURRENT} links to {target}: {self.damaged.get(target.name, 'not a release of this folder')}"

    def verify(self, names: Sequence[str] = ()) -> dict[str, list[str]]:
        """Return the errors of each release, oldest first, or of those that are named.

        Raises:
            ReleaseError: There is no such release, or none at all.
        """
        found = dict(self._read())
        if not found:
            raise ReleaseError(f"no release in {self.folder} yet; `segments run` publishes the first")
        for name in names:
            if name not in found:
                raise ReleaseError(f"no release {name!r}; there are: {', '.join(found)}")
        errors = {}
        for name, release in found.items():
            if not names or name in names:
                found_errors = [str(release)] if isinstance(release, ReleaseError) else _verify_unless_pruned(release)
                if (self.folder / name).exists():
                    errors[name] = found_errors
        return errors

    def publish(
        self,
        connection: duckdb.DuckDBPyConnection,
        entries: Mapping[str, Any],
        *,
        macros: Sequence[str],
        as_of: datetime,
        run_id: str,
        keep: int,
        group: str | None = None,
        withheld: Sequence[str] = (),
        max_database_rows: float = math.inf,
    ) -> Release:
        """Write a new release from the working database, verify it, and make it current unless publishing is paused.

        Files that the last release made from the same rows are copied from it.

        Args:
            connection: The working database. Each table is read in the order of its key.
            entries: Entries of the manifest, beyond those of this module.
            macros: The statements that create functions for consumers.
            as_of: The time up to which the transactions of the tables count.
            run_id: The run that publishes.
            keep: How many releases to keep. The current one is never pruned.
            group: The group that may read it; by default that of the user who publishes.
            withheld: Columns to leave out of the tables that describe customers.
            max_database_rows: Of a table with more rows, the database has a view of the Parquet file.

        Raises:
            RetailerError: A column cannot be withheld.
            ReleaseError: The written files do not read back as expected, or cannot be given to the group.
        """
        files.check_withheld(withheld)
        self._prepare(group)
        sequence = 1 + max((int(folder.name.split("-")[0]) for folder in self._folders()), default=0)
        name = f"{sequence:06d}-{as_of:%Y%m%d}-{run_id[:8]}"
        manifest: dict[str, Any] = {
            "release": name,
            **entries,
            "as_of": as_of.isoformat(sep=" "),
            "run_id": run_id,
            "published_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "contract_version": CONTRACT_VERSION,
            "withheld": sorted(withheld),
            "oldest_duckdb_client": files.OLDEST_CLIENT,
        }
        published_as = self.folder / name
        # Under its name, because its views contain it.
        building = self.folder / f".building-{run_id}" / name
        for folder in (building.parent, building):
            folder.mkdir(mode=0o700)
        try:
            last = next(reversed(self.all()), None)
            written = write_files(
                connection,
                building,
                macros,
                withheld,
                last,
                published_as=published_as,
                max_database_rows=max_database_rows,
            )
            write_manifest(building, manifest | written)
            files.set_permissions(building, group)
            manifest = read_manifest(building)
            if errors := files.verify_files(building, manifest):
                raise ReleaseError(
                    f"{name} was not published: the written files do not read back as expected: {'; '.join(errors)}."
                    " Check the disk, then run again."
                )
        except BaseException:
            # On a full disk, a partly written release would make the next run fail too.
            shutil.rmtree(building.parent, ignore_errors=True)
            raise
        with folder_lock(self.folder):
            release = Release(building.rename(published_as), manifest)
            shutil.rmtree(building.parent)
            if self.paused_at is None:
                self._switch(release)
            elif self.current is None:
                self._switch(self.baseline or release)
            self._prune(self.all()[-keep:][0].name)
        return release

    def rollback(self, name: str) -> Release:
        """Make an earlier release current, and pause publishing until `resume`.

        Raises:
            ReleaseError: There is no such release, or it is damaged.
        """
        with folder_lock(self.folder):
            release = self._verified(name)
            self._pause_file.write_text(name + "\n", "utf-8")
            self._switch(release)
        return release

    def resume(self) -> Release:
        """Make the newest release current, and publish with the following runs again.

        Raises:
            ReleaseError: There is no release yet, or the newest is damaged.
        """
        with folder_lock(self.folder):
            if not (releases := self.all()):
                raise ReleaseError(f"no release in {self.folder} yet; `segments run` publishes the first")
            newest = self._verified(releases[-1].name)
            self._pause_file.unlink(missing_ok=True)
            self._switch(newest)
        return newest

    def keep_only(self, name: str) -> None:
        """Delete every other release and all partly written ones; paused publishing stays paused, at this release.

        Raises:
            ReleaseError: There is no such release, or it is damaged.
        """
        with folder_lock(self.folder):
            release = self._verified(name)
            if self.paused_at is not None:
                self._pause_file.write_text(name + "\n", "utf-8")
            self._switch(release)
            self._prune(name)
            self._delete_leftovers()

    def find(self, name: str) -> Release:
        """Return a release by its name.

        Raises:
            ReleaseError: There is none of that name, or its manifest is damaged.
        """
        found = dict(self._read())
        if name not in found:
            raise ReleaseError(f"no release {name!r}; there are: {', '.join(found) or 'none yet'}")
        release = found[name]
        if isinstance(release, ReleaseError):
            raise _damaged_error(name, str(release))
        return release

    def _verified(self, name: str) -> Release:
        """Return a release by its name, after all its files were verified."""
        release = self.find(name)
        if errors := release.verify():
            raise _damaged_error(name, "; ".join(errors))
        return release

    @property
    def _pause_file(self) -> Path:
        # Named `hold` since the first version; a new name would resume publishing at an upgrade.
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
                yield folder.name, Release(folder, read_manifest(folder))
            except ReleaseError as error:
                # A run may prune it after it was listed and before it is read.
                if folder.exists():
                    yield folder.name, error

    def _prepare(self, group: str | None) -> None:
        if not self.folder.is_dir():
            self.folder.mkdir(parents=True)
            self.folder.chmod(0o750)
        files.grant_access(self.folder, group)
        self._delete_leftovers()

    def _delete_leftovers(self) -> None:
        for leftover in [*self.folder.glob(".building-*"), *self.folder.glob(".pruning-*")]:
            shutil.rmtree(leftover)

    def _switch(self, release: Release) -> None:
        if os.path.lexists(self._link) and not self._link.is_symlink():
            # A rename cannot replace a folder. Its content is kept, because it may be somebody's only copy.
            self._link.rename(unused_name(self.folder / f"{CURRENT}.set-aside"))
        new_link = self.folder / ".current"
        new_link.unlink(missing_ok=True)
        new_link.symlink_to(release.name, target_is_directory=True)
        new_link.replace(self._link)
        files.sync(self.folder)

    def _prune(self, oldest: str) -> None:
        """Delete every release before the oldest to keep, damaged ones too, except the current one."""
        current = self.current
        for folder in self._folders():
            if folder.name < oldest and (current is None or folder.name != current.name):
                # Renamed first, so that a kill while deleting leaves no partial release in the list.
                shutil.rmtree(folder.rename(self.folder / f".pruning-{folder.name}"))


def _damaged_error(name: str, errors: str) -> ReleaseError:
    return ReleaseError(f"release {name} is damaged: {errors}. `segments releases verify` checks all releases")


def _verify_unless_pruned(release: Release) -> list[str]:
    """Return the errors of a release; none where a run prunes it meanwhile."""
    try:
        return release.verify()
    except FileNotFoundError:
        return []
