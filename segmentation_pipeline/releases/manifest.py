"""Read and write the manifest of a release, which describes its run, tables and files.

Contains the JSON file and its digest. Whether the other files match the manifest is checked in `files`.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segmentation_pipeline.errors import ReleaseError

MANIFEST = "manifest.json"
# Required where a manifest has no digest: those of the first versions had none.
_REQUIRED_KEYS = frozenset({"release", "as_of", "published_at", "contract_version", "tables", "files", "figures"})


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Write the manifest with a digest of itself, and return it with the digest."""
    signed = {**manifest, "digest": _digest(manifest)}
    (folder / MANIFEST).write_text(json.dumps(signed, indent=2) + "\n", "utf-8")
    return signed


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a release.

    Raises:
        ReleaseError: It is missing, cannot be read, or was changed after it was published.
    """
    manifest = _load(folder)
    digest = manifest.get("digest")
    if digest is None and (missing := sorted(_REQUIRED_KEYS - manifest.keys())):
        raise ReleaseError(f"{MANIFEST} has no {', '.join(missing)}")
    if digest is not None and digest != _digest({key: value for key, value in manifest.items() if key != "digest"}):
        raise ReleaseError(f"{MANIFEST} was changed after it was published: its digest does not match")
    return manifest


def _load(folder: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
    except FileNotFoundError:
        raise ReleaseError(f"{MANIFEST} is missing") from None
    except OSError as error:
        raise ReleaseError(f"{MANIFEST} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ReleaseError(f"{MANIFEST} is not valid JSON: {error}") from None
    if not isinstance(manifest, dict):
        raise ReleaseError(f"{MANIFEST} is not a JSON object")
    return manifest


def _digest(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
