"""Find out whether the source has new files that are complete.

Contains the cursor that the sensor keeps between two evaluations. Starting a run is in `defs.automation`.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from segmentation_pipeline.config.loading import load_settings, source_base
from segmentation_pipeline.config.paths import RetailerFolders, data_folder
from segmentation_pipeline.ingestion.sources import found_files


@dataclass(frozen=True)
class FileCursor:
    """The state of the sensor between two evaluations.

    A file is a digest of its name, size and modification time, because Dagster stores the cursor with every tick.

    Attributes:
        seen: Digest of all files at the last evaluation.
        requested: The files for which the last run was requested.
        requests: How many runs were requested.
    """

    seen: str = ""
    requested: tuple[str, ...] = ()
    requests: int = 0

    @classmethod
    def parse(cls, text: str | None) -> "FileCursor":
        """Return the cursor that `text` holds; an empty one where it holds none."""
        values = json.loads(text or "{}")
        return cls(str(values.get("seen", "")), tuple(values.get("requested", ())), values.get("requests", 0))

    @property
    def text(self) -> str:
        """The cursor as Dagster stores it."""
        return json.dumps(asdict(self))

    @property
    def run_key(self) -> str:
        """The key of the last requested run; with its number, so that files that come back are processed again."""
        return _digest(str(self.requests), *self.requested)

    def has_new(self, files: tuple[str, ...]) -> bool:
        """Return whether files were added or changed after the last request; removed ones leave nothing to read."""
        return not {*files} <= {*self.requested}

    def is_unchanged(self, files: tuple[str, ...]) -> bool:
        """Return whether the last evaluation found the same files."""
        return self.seen == _digest(*files)

    def after_seeing(self, files: tuple[str, ...]) -> "FileCursor":
        """Return the cursor after an evaluation."""
        return replace(self, seen=_digest(*files))

    def after_request(self, files: tuple[str, ...]) -> "FileCursor":
        """Return the cursor after a run was requested for these files."""
        return FileCursor(_digest(*files), files, self.requests + 1)


def current_files() -> tuple[str, ...] | None:
    """Return the digests of the source's files; None where they are sample data, or the source is a query.

    Raises:
        RetailerError: The retailer file is not valid.
        SourceError: There is nothing to read.
    """
    settings = load_settings()
    if settings.source.sample is not None or settings.source.query is not None:
        return None
    own = RetailerFolders(data_folder(), settings.name).pipeline_paths
    with found_files(settings.source, source_base(), own) as found:
        return tuple(_digest(name, *_size_and_time(path)) for name, path in found.files.items())


def _size_and_time(path: Path) -> tuple[str, ...]:
    """Return size and modification time; nothing for a broken link, which a run quarantines."""
    try:
        status = path.stat()
    except OSError:
        return ()
    return str(status.st_size), str(status.st_mtime_ns)


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode("utf-8", "surrogateescape")).hexdigest()[:16]
