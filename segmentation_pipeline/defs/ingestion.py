"""From source files to `raw_transactions`: every line, as it came."""

import dagster as dg

from segmentation_pipeline.assets import Results, asset_spec, contract_check, fill, sentences
from segmentation_pipeline.folders import expanded
from segmentation_pipeline.lines import read_lines
from segmentation_pipeline.resource import RetailerResource
from segmentation_pipeline.sample import write_once
from segmentation_pipeline.sources import source_files
from segmentation_pipeline.warehouse import Filling, select_of

_SELECT = select_of("raw_transactions")


@dg.multi_asset(
    name="raw_transactions",
    specs=[asset_spec("raw_transactions", "ingestion", _SELECT)],
    check_specs=[contract_check("raw_transactions")],
)
def raw_transactions(retailer: RetailerResource) -> Results:
    """The made-up retailer's files are written first, where they are asked for and not there yet."""
    with sentences():
        settings, warehouse = retailer.settings, retailer.warehouse
        if sample := settings.source.sample:
            folder = retailer.source_base / expanded(str(settings.source.path))
            write_once(folder, customers=sample.customers, seed=sample.seed)
        files = source_files(settings, retailer.source_base)
        with read_lines(warehouse.connection, settings, files, retailer.folders.spill) as given:
            yield from fill(
                retailer,
                [Filling("raw_transactions", _SELECT)],
                given=given,
                figures=lambda _: {"files": len(files), "retailer": settings.name},
            )
