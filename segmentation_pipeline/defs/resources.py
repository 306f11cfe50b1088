"""The resources that assets ask for by name."""

import dagster as dg

from segmentation_pipeline.orchestration.resources import RetailerResource


@dg.definitions
def resources() -> dg.Definitions:
    """The retailer of the run, from the environment unless the run's configuration says otherwise."""
    return dg.Definitions(resources={"retailer": RetailerResource()})
