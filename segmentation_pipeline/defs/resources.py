"""The resources that assets and checks ask for by name."""

import dagster as dg

from segmentation_pipeline.orchestration.resources import RetailerConfig, WarehouseResource


@dg.definitions
def resources() -> dg.Definitions:
    """Bind the retailer, which the run's configuration may replace, and its working database."""
    retailer = RetailerConfig.configure_at_launch()
    return dg.Definitions(resources={"retailer": retailer, "warehouse": WarehouseResource(retailer=retailer)})
