"""Which customers can be compared: the inactive set aside, the outliers set apart, the normal ones left."""

import dagster as dg

from segmentation_pipeline.assets import (
    Results,
    asset_spec,
    contract_check,
    dependencies,
    derived_asset,
    fill,
    sentences,
)
from segmentation_pipeline.fitting import Fit, handed_on, refuse_bad_data, stands
from segmentation_pipeline.resource import RetailerResource
from segmentation_pipeline.warehouse import Filling, select_of

_FENCES = select_of("outlier_fences")


@dg.multi_asset(
    name="outlier_fences",
    specs=[asset_spec("outlier_fences", "customers", _FENCES, deps=dependencies(_FENCES))],
    check_specs=[contract_check("outlier_fences")],
)
def outlier_fences(config: Fit, retailer: RetailerResource) -> Results:
    """The standing fences, unless a refit is asked for or the settings that they hang on have changed."""
    with sentences():
        if not config.refit and stands(retailer, "outlier_fences", retailer.settings.fences_digest):
            yield from handed_on(retailer, ["outlier_fences"])
        else:
            refuse_bad_data(retailer, config.accept_change)
            filling = Filling("outlier_fences", _FENCES)
            yield from fill(retailer, [filling], figures=lambda _: {"refitted": True})


inactive_customers = derived_asset("inactive_customers", group="customers")
normal_customers = derived_asset("normal_customers", group="customers")
outlier_customers = derived_asset("outlier_customers", group="customers")
