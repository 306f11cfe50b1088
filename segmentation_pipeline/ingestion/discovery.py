"""Which files a retailer's source is, and which of them may be read.

Belongs here: paths, patterns and links. Does not: what is in a file (`sources`).
"""

import glob
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from segmentation_pipeline.config.paths import expanded
from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.errors import SourceError
from segmentation_pipeline.ingestion.decompression import COMPRESSED

ENDINGS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "csv",
    ".parquet": "parquet",
    ".xlsx": "xlsx",
    ".xlsm": "xlsx",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}
_WILD = ("*", "?", "[")


def source_files(retailer: Retailer, base: Path, own: Sequence[Path] = ()) -> dict[str, Path]:
    """The retailer's files by the name that `source_file` gives them: the path below the source's folder.

    Args:
        retailer: Its `source.path` is a file, a folder (searched with all below it), a pattern, or a list of these;
            files of a list are named from the folder that they have in common, and each counts once.
        base: The folder that relative paths start from.
        own: What the pipeline itself writes; no source may lie there.

    Raises:
        SourceError: A path leads to no file that can be read, or to what the pipeline wrote.
    """
    paths = [retailer.source.path] if isinstance(retailer.source.path, str) else retailer.source.path
    roots, found = [], []
    for path in map(expanded, paths):
        root, candidates = _candidates(base.absolute(), path, retailer)
        if not candidates:
            raise SourceError(
                f"source.path: nothing to read at {base / path}; expected files ending in {', '.join(ENDINGS)} "
                f"(csv and jsonl also with {' or '.join(COMPRESSED)}). Put them there, or name another path."
            )
        if unknown := [file for file in candidates if not kind_of(file, retailer)]:
            raise SourceError(f"{unknown[0]}: unknown ending; name source.format, or use one of {', '.join(ENDINGS)}")
        # As the paths say: whoever puts a link into the source shall not stop the run, but have it set aside.
        real = Path(os.path.realpath(root))
        if inside := [file for file in candidates if _is_within(real / file.relative_to(root), own)]:
            raise SourceError(
                f"source.path: {inside[0]} is what the pipeline itself wrote, and no source. Name a folder apart from"
                " the working database and the releases."
            )
        roots.append(root)
        found += candidates
    common = os.path.commonpath(roots)
    once = {os.path.realpath(file): file for file in sorted(found, reverse=True)}
    return {file.relative_to(common).as_posix(): file for file in sorted(once.values())}


def source_roots(retailer: Retailer, base: Path) -> tuple[Path, ...]:
    """What the paths of the source lead to, links followed: folders, or files that are named themselves."""
    paths = [retailer.source.path] if isinstance(retailer.source.path, str) else retailer.source.path
    named = [(base / path, base / _fixed(path)) for path in map(expanded, paths)]
    return tuple(Path(os.path.realpath(path if path.exists() else fixed)) for path, fixed in named)


def refuse_what_is_no_file_of(roots: Sequence[Path], path: Path) -> None:
    """Whoever may put files into the source may not have others read by a link, nor hang a run with a pipe.

    Raises:
        OSError: It is no file, or it leads out of the source.
    """
    real = Path(os.path.realpath(path))
    if roots and not _is_within(real, roots):
        raise OSError("it is a link that leads out of the source; put the file itself there")
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError("it is no file, but a pipe, a socket or a device")


def _is_within(path: Path, places: Sequence[Path]) -> bool:
    return any(path.is_relative_to(place) for place in places)


def _candidates(base: Path, named: Path, retailer: Retailer) -> tuple[Path, list[Path]]:
    """The folder that names start from, and the files that a path means."""
    path = base / named
    if path.is_dir():
        below = []
        for at, folders, names in os.walk(path, onerror=_cannot_be_listed):
            folders[:] = [folder for folder in folders if not folder.startswith(".")]
            below += [Path(at) / name for name in names if not name.startswith((".", "~$"))]
        return path, [file for file in below if kind_of(file, retailer)]
    if path.exists():
        return path.parent, [path]
    found = [base / name for name in glob.glob(str(named), root_dir=base, recursive=True)]
    return base / _fixed(named), [file for file in found if not file.is_dir() and file.name[:2] != "~$"]


def _fixed(named: Path) -> Path:
    """The folder before the first part of a path that is a pattern."""
    wild = next((place for place, part in enumerate(named.parts) if any(c in part for c in _WILD)), len(named.parts))
    return Path(*named.parts[:wild])


def _cannot_be_listed(error: OSError) -> None:
    raise SourceError(f"source.path: cannot be listed: {error}")


def kind_of(path: Path, retailer: Retailer) -> str | None:
    """The format of a file, by the settings or by its ending."""
    endings = path.suffixes[:-1] if path.suffix.lower() in COMPRESSED else path.suffixes
    kind = ENDINGS.get(endings[-1].lower()) if endings else None
    return retailer.source.format or kind
