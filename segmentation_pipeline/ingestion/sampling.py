"""Read the beginning of a source into a database in memory, and derive what a run would reject of it.

Contains which files and how many of their lines. They are read, cleaned and judged as in a run; nothing is written to
the working database.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.config.source_settings import is_url
from segmentation_pipeline.ingestion.cleaning import query_inputs
from segmentation_pipeline.ingestion.discovery import source_roots
from segmentation_pipeline.ingestion.file_ledger import QUARANTINED, IngestedFile
from segmentation_pipeline.ingestion.incremental import LoadRequest, load_source
from segmentation_pipeline.ingestion.losses import Losses, explain_loss
from segmentation_pipeline.ingestion.query_fetch import QUERY
from segmentation_pipeline.ingestion.query_load import load_query
from segmentation_pipeline.tables.catalog import select_of
from segmentation_pipeline.warehouse.connection import temporary_database
from segmentation_pipeline.warehouse.database import Warehouse
from segmentation_pipeline.warehouse.table_write import TableWrite

SAMPLED_LINES = 10_000
# Exports change over the years, so not only the first files are read; more would be slow to open.
_MAX_FILES = 20
# A line takes more bytes of a file than this, even compressed.
_MIN_LINE_BYTES = 4
# The tables between raw lines and the loss, in the order of derivation.
_TABLES = ("clean_transactions", "rejected_transactions", "cleaning_report", "unparsed_values")


@dataclass(frozen=True)
class Sample:
    """The beginning of a source as a run would read it.

    Attributes:
        warehouse: A database in memory with the tables of ingestion and cleaning.
        files: The files that were read.
        losses: What is rejected.
        error: Why a run would fail before any check; empty if it would not.
    """

    warehouse: Warehouse
    files: list[IngestedFile]
    losses: Losses
    error: str

    @property
    def quarantined(self) -> list[IngestedFile]:
        """The files that cannot be read."""
        return [file for file in self.files if file.status == QUARANTINED]


@contextmanager
def sampled(
    retailer: Retailer,
    base: Path,
    files: Mapping[str, Path],
    own_paths: Sequence[Path] = (),
    max_lines: int = SAMPLED_LINES,
    fetch: Callable[[Path], None] = lambda path: None,
) -> Iterator[Sample]:
    """Read the first lines of some files, and yield what a run would make of them.

    Args:
        retailer: The settings of a run (see `Retailer.for_run`).
        base: The folder that relative paths of the retailer file start from.
        files: The path of each file of the source by its name; none where it is a query.
        own_paths: Paths that the pipeline itself writes; the source must not read them.
        max_lines: About how many lines to read in all.
        fetch: Brings the content of a file, which may still be in an object store.

    Raises:
        SourceError: A run would not read the source: too many files cannot be read, or there are no lines.
    """
    limits = lines_of_each({name: _size(path) for name, path in files.items()}, max_lines) if files else {}
    # Objects of a store are not where the settings say.
    roots = () if any(map(is_url, retailer.source.paths)) else source_roots(retailer.source, base)
    request = LoadRequest("sample", "", "", base=base, roots=roots, max_lines=limits, fetch=fetch)
    chosen = {name: files[name] for name in limits}
    with temporary_database() as warehouse, TemporaryDirectory() as spill:
        if retailer.source.query is not None:
            request = replace(request, max_lines={QUERY: max_lines})
            loading = load_query(warehouse, retailer, Path(spill), request, own_paths)
        else:
            loading = load_source(warehouse, retailer, chosen, Path(spill), request)
        with loading as load:
            results = warehouse.write(load.writes, retailer.sql_values, load.inputs)
        inputs = query_inputs(retailer)
        if not any(result.violations for result in results):
            for table in _TABLES:
                results += warehouse.write([TableWrite(table, select_of(table))], retailer.sql_values, inputs)
        errors = [result.message for result in results if result.violations]
        if not warehouse.has("raw_transactions"):
            yield Sample(warehouse, load.files, Losses((), ()), " ".join(errors))
            return
        if errors:
            errors.append(explain_loss(warehouse, retailer))
        else:
            # The search for copies reads them.
            warehouse.write([TableWrite("invoice_totals", select_of("invoice_totals"))], retailer.sql_values, inputs)
        yield Sample(warehouse, load.files, Losses.of(warehouse, inputs), " ".join(filter(None, errors)))


def _size(path: Path) -> int:
    """Return the size of a file in bytes; 0 of a link that leads nowhere, which is quarantined."""
    return path.stat().st_size if path.exists() else 0


def lines_of_each(sizes: Mapping[str, int], max_lines: int) -> dict[str, int]:
    """Return about how many lines to read of which files, in their order.

    The files are spread evenly over all, with the first and the last. Each has an equal share of the lines, and the
    larger ones have what smaller ones do not need.

    Args:
        sizes: The size of each file in bytes, in the order of their names.
        max_lines: How many lines to read in all.
    """
    names, last = list(sizes), min(len(sizes), _MAX_FILES) - 1
    chosen = [names[round(number * (len(names) - 1) / max(last, 1))] for number in range(last + 1)]
    limits: dict[str, int] = {}
    for name in sorted(chosen, key=lambda name: (sizes[name], name)):
        share = (max_lines - sum(limits.values())) // (len(chosen) - len(limits))
        limits[name] = min(max(share, 1), sizes[name] // _MIN_LINE_BYTES + 1)
    return {name: limits[name] for name in chosen}
