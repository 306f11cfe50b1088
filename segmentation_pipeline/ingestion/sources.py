"""Find what a run reads: the files of a source, or a database that its query names."""

from collections.abc import Sequence
from pathlib import Path

from segmentation_pipeline.config.sections import Source
from segmentation_pipeline.ingestion.discovery import source_files
from segmentation_pipeline.ingestion.query_connection import Address


def found_files(source: Source, base: Path, pipeline_paths: Sequence[Path] = ()) -> dict[str, Path]:
    """Return the files of a source; none where it is a query, whose connection is not opened.

    Raises:
        SourceError: There is nothing to read, or the environment has no address of the database.
    """
    if source.query is None:
        return source_files(source, base, pipeline_paths)
    Address.of(source.connection or "")
    return {}
