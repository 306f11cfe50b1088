"""Find the files of a source, and reject paths that lead out of it.

Contains paths, patterns, links and file formats. Reading the files is in `file_formats`.
"""

import glob
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from segmentation_pipeline.config.paths import expanded
from segmentation_pipeline.config.source_settings import Source
from segmentation_pipeline.errors import SourceError
from segmentation_pipeline.ingestion.decompression import COMPRESSED

FORMAT_BY_ENDING = {
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "csv",
    ".parquet": "parquet",
    ".xlsx": "xlsx",
    ".xlsm": "xlsx",
    ".xls": "xls",
    ".xlsb": "xlsb",
    ".ods": "ods",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}
_WILDCARDS = ("*", "?", "[")


def source_files(source: Source, base: Path, pipeline_paths: Sequence[Path] = ()) -> dict[str, Path]:
    """Return the path of each source file by its name in `source_file`: its path below the source's folder.

    Args:
        source: Its path is a file, a folder (searched with all subfolders), a pattern, or a list of these. Files of a
            list are named from their common folder, and each is returned once.
        base: The folder that relative paths start from.
        pipeline_paths: Paths that the pipeline itself writes; no source file may be there.

    Raises:
        SourceError: A path has no readable file, or one that the pipeline wrote.
    """
    roots, found = [], []
    for path in map(expanded, source.paths):
        root, files = _files_at(base.absolute(), path, source)
        if not files:
            raise SourceError(
                f"source.path: nothing to read at {base / path}; expected files ending in {', '.join(FORMAT_BY_ENDING)}"
                f" (csv and jsonl also with {' or '.join(COMPRESSED)}). Put them there, or change the path."
            )
        if unknown := [file for file in files if not format_of(file, source)]:
            raise SourceError(
                f"{unknown[0]}: unknown ending. Set source.format, or use one of {', '.join(FORMAT_BY_ENDING)}."
            )
        # Only links above the root are followed: a link among the files must be quarantined, not fail the run.
        real = Path(os.path.realpath(root))
        if own := [file for file in files if _is_within(real / file.relative_to(root), pipeline_paths)]:
            raise SourceError(
                f"source.path: the pipeline itself wrote {own[0]}. Set a folder that contains neither the working"
                " database nor releases."
            )
        roots.append(root)
        found += files
    common = os.path.commonpath(roots)
    once = {os.path.realpath(file): file for file in sorted(found, reverse=True)}
    return {file.relative_to(common).as_posix(): file for file in sorted(once.values())}


def source_roots(source: Source, base: Path) -> tuple[Path, ...]:
    """Return the folders of the source, or files that it names directly, with links followed."""
    named = [(base / path, base / _without_pattern(path)) for path in map(expanded, source.paths)]
    return tuple(Path(os.path.realpath(path if path.exists() else fixed)) for path, fixed in named)


def check_regular_file(roots: Sequence[Path], path: Path) -> None:
    """Reject links out of the source, which would expose other files, and pipes, which would block the run.

    Raises:
        OSError: The path is not a regular file, or leads out of the source.
    """
    real = Path(os.path.realpath(path))
    if roots and not _is_within(real, roots):
        raise OSError("it is a link that leads out of the source; put the file itself there")
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError("it is not a regular file but a pipe, a socket or a device")


def format_of(path: Path, source: Source) -> str | None:
    """Return the format of a file from the settings or from its ending; None where the ending is unknown."""
    endings = path.suffixes[:-1] if path.suffix.lower() in COMPRESSED else path.suffixes
    by_ending = FORMAT_BY_ENDING.get(endings[-1].lower()) if endings else None
    return source.format or by_ending


def _files_at(base: Path, named: Path, source: Source) -> tuple[Path, list[Path]]:
    """Return the folder that file names start from, and the files at a path of the settings."""
    path = base / named
    if path.is_dir():
        below = []
        for folder, subfolders, names in os.walk(path, onerror=_raise_unlistable):
            subfolders[:] = [subfolder for subfolder in subfolders if not subfolder.startswith(".")]
            below += [Path(folder) / name for name in names if not name.startswith((".", "~$"))]
        return path, [file for file in below if format_of(file, source)]
    if path.exists():
        return path.parent, [path]
    found = [base / name for name in glob.glob(str(named), root_dir=base, recursive=True)]
    files = [file for file in found if not file.is_dir() and not file.name.startswith("~$")]
    return base / _without_pattern(named), files


def _without_pattern(named: Path) -> Path:
    """Return the folder above the first part of a path that has a wildcard."""
    parts = named.parts
    first = next((index for index, part in enumerate(parts) if any(c in part for c in _WILDCARDS)), len(parts))
    return Path(*parts[:first])


def _is_within(path: Path, folders: Sequence[Path]) -> bool:
    return any(path.is_relative_to(folder) for folder in folders)


def _raise_unlistable(error: OSError) -> None:
    raise SourceError(f"source.path: cannot be listed: {error}")
