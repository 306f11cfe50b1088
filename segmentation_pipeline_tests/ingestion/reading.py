"""Read source files into `raw_transactions` as the asset does, without Dagster."""

from pathlib import Path

from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.ingestion.discovery import source_files
from segmentation_pipeline.ingestion.incremental import LoadRequest, load_source
from segmentation_pipeline.tables.catalog import check_select
from segmentation_pipeline.warehouse.database import Warehouse


def read_source(warehouse: Warehouse, retailer: Retailer, base: Path) -> Warehouse:
    """Replace `raw_transactions` by the lines of a retailer's files; no file may be quarantined.

    Args:
        warehouse: The working database.
        retailer: The settings.
        base: The folder that relative source paths start from.
    """
    warehouse.drop("raw_transactions")
    strict = retailer.model_copy(update={"source": retailer.source.model_copy(update={"max_quarantined": 0})})
    files, request = source_files(strict.source, base), LoadRequest("a run", "", "", base=base)
    with load_source(warehouse, strict, files, base / "spill", request) as load:
        results = warehouse.write(load.writes, retailer.sql_values, load.inputs)
    assert not any(result.violations for result in results)
    assert warehouse.rows(check_select("lines_of_each_file")) == []
    assert not list((base / "spill").iterdir())
    return warehouse
