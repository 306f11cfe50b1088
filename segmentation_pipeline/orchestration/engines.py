"""The engine of a run's lines, as `[engine]` of the retailer file names it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb

from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.errors import EngineError
from segmentation_pipeline.warehouse.line_engine import LINE_FILES, EngineFactory, InDatabase, LineEngine


@dataclass(frozen=True)
class RunEngine:
    """The engine of a run.

    Attributes:
        of: Makes the engine of a working database.
        folders: Folders that it needs to read and write.
    """

    of: EngineFactory
    folders: Sequence[Path] = ()


@contextmanager
def run_engine(settings: Retailer, report: Callable[[str], None]) -> Iterator[RunEngine]:
    """Yield the engine of a run; what it has opened is closed at the end.

    Args:
        settings: The settings of the retailer.
        report: Called with what the engine does, and where it is shown.
    """
    if settings.engine.kind == "duckdb":
        yield RunEngine(_in_database)
        return
    # It needs sqlglot, which takes 0.15 s to import.
    from segmentation_pipeline.spark.engine import spark_lines

    with spark_lines(settings.engine, settings.name, report) as factory:
        yield RunEngine(factory, [Path(str(settings.engine.location)) / settings.name])


def check_engine(settings: Retailer) -> None:
    """Check that what the engine needs is installed here; the cluster is not asked.

    Raises:
        EngineError: It is not.
    """
    if settings.engine.kind == "spark":
        from segmentation_pipeline.spark.session import check_installed

        check_installed(settings.engine)


def _in_database(connection: duckdb.DuckDBPyConnection) -> LineEngine:
    """Return the engine of lines in the working database.

    Raises:
        EngineError: Its lines are elsewhere.
    """
    find = "select estimated_size from duckdb_tables() where table_name = $table"
    if connection.execute(find, {"table": LINE_FILES}).fetchall() not in ([], [(0,)]):
        raise EngineError(
            'the lines of this retailer were written with engine.kind = "spark", and the working database has none.'
            ' Set [engine] as before; or, to read the whole source again with "duckdb", start with a new data folder'
            " and restore the last release into it."
        )
    return InDatabase(connection)
