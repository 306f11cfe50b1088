"""New files of the source, once they stand still: what the sensor of the source folder goes by.

Belongs here: two looks at the files, and what came between them. Does not: starting a run (`defs.automation`).
"""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

from segmentation_pipeline.config.loading import load_settings, source_base
from segmentation_pipeline.config.paths import RetailerFolders, data_folder
from segmentation_pipeline.ingestion.discovery import source_files


@dataclass(frozen=True)
class Looked:
    """What is remembered from one look to the next; a file is known by a digest of its name, size and time."""

    seen: tuple[str, ...] = ()
    asked_for: tuple[str, ...] = ()
    """The files of the last run that was asked for."""
    asked: str = ""
    """The key of that run: made of the one before, so that files which come again have a run again."""

    @classmethod
    def of(cls, cursor: str | None) -> "Looked":
        """What the cursor of a sensor says."""
        said = json.loads(cursor or "{}")
        return cls(tuple(said.get("seen", ())), tuple(said.get("asked_for", ())), said.get("asked", ""))

    @property
    def cursor(self) -> str:
        """The same as text."""
        return json.dumps({"seen": self.seen, "asked_for": self.asked_for, "asked": self.asked})

    def again(self, files: tuple[str, ...]) -> "Looked":
        """After another look."""
        return replace(self, seen=files)

    def new(self, files: tuple[str, ...]) -> list[str]:
        """Those that came or changed since the last run that was asked for; of one that went, nothing is to be read."""
        return sorted({*files} - {*self.asked_for})

    def after_asking(self, files: tuple[str, ...]) -> "Looked":
        """With a run asked for these files."""
        return Looked(files, files, _digest(self.asked, *self.new(files)))


def files_now() -> tuple[str, ...] | None:
    """The source's files as they are; None where they are made up.

    Raises:
        RetailerError: The retailer file does not validate.
        SourceError: There is nothing to read.
    """
    settings = load_settings()
    if settings.source.sample is not None:
        return None
    files = source_files(settings, source_base(), RetailerFolders(data_folder(), settings.name).pipeline_paths)
    return tuple(_digest(name, *_state(path)) for name, path in files.items())


def _state(path: Path) -> tuple[str, ...]:
    """Size and time; nothing of a link that leads nowhere, which a run sets aside."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return str(found.st_size), str(found.st_mtime_ns)


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode("utf-8", "surrogateescape")).hexdigest()[:16]
