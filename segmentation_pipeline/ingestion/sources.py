"""Find what a run reads: files, objects of a store that are downloaded, or a database that a query names."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from segmentation_pipeline.config.paths import expanded
from segmentation_pipeline.config.source_settings import Source, is_url
from segmentation_pipeline.errors import SourceError
from segmentation_pipeline.ingestion.discovery import source_files, source_roots
from segmentation_pipeline.ingestion.object_store import ObjectStores, check_packages
from segmentation_pipeline.ingestion.query_connection import Address
from segmentation_pipeline.ingestion.staging import temporary_folder


@dataclass(frozen=True)
class FoundFiles:
    """The files of a source.

    Attributes:
        files: The path of each by its name.
        roots: Folders that the files must be in after links are followed.
        fetch: Brings the content of a file before it is read.
    """

    files: dict[str, Path]
    roots: tuple[Path, ...]
    fetch: Callable[[Path], None]


@contextmanager
def found_files(
    source: Source, base: Path, pipeline_paths: Sequence[Path], spill: Path | None = None
) -> Iterator[FoundFiles]:
    """Find the files of a source; none where it is a query. Objects of a store are listed, and downloaded when fetched.

    Args:
        source: Where they are.
        base: The folder that relative paths start from.
        pipeline_paths: Paths that the pipeline itself writes; no source file may be there.
        spill: Where a folder is made for objects, by the holder of the writer's lock; None: among the system's
            temporary files, for a caller that does not read them.

    Raises:
        SourceError: There is nothing to read, or the environment has no address of the database.
    """
    if source.query is not None:
        Address.of(source.connection or "")
        yield FoundFiles({}, (), lambda path: None)
    elif not any(map(is_url, source.paths)):
        yield FoundFiles(source_files(source, base, pipeline_paths), source_roots(source, base), lambda path: None)
    else:
        with TemporaryDirectory() if spill is None else temporary_folder(spill, "objects-") as folder:
            yield _found_objects(source, base, pipeline_paths, Path(folder).resolve())


def _found_objects(source: Source, base: Path, pipeline_paths: Sequence[Path], folder: Path) -> FoundFiles:
    """List objects into a folder, and return them as files with the names that they have in the store."""
    stores = ObjectStores(folder)
    local = [str(base.absolute() / expanded(path)) for path in source.paths if not is_url(path)]
    mirrored = source.model_copy(update={"path": [*map(stores.mirror, filter(is_url, source.paths)), *local]})
    own = [path for path in pipeline_paths if not folder.is_relative_to(path.resolve())]
    failure = None
    try:
        files = source_files(mirrored, folder, own)
    except SourceError as error:
        failure = SourceError(stores.with_urls(str(error)))
    if failure:
        raise failure
    return FoundFiles(files, source_roots(mirrored, folder), stores.fetch)


def check_source(source: Source, base: Path, pipeline_paths: Sequence[Path]) -> None:
    """Check what needs no network: files on disk, drivers, and the address of a database.

    Raises:
        SourceError: There is nothing to read, a driver is not installed, or the environment has no address.
    """
    if source.query is not None:
        Address.of(source.connection or "")
    for path in filter(is_url, source.paths):
        check_packages(path)
    if local := [path for path in source.paths if not is_url(path)]:
        source_files(source.model_copy(update={"path": local}), base, pipeline_paths)


def source_place(source: Source, base: Path) -> str:
    """Return where a source is, as `ingested_files.source_path` has it."""
    if source.query is not None:
        return f"source.query in {source.connection}"
    return ", ".join(path if is_url(path) else str(base / expanded(path)) for path in source.paths)
