"""The segmentation model: fitted on the normal customers, kept as rows of tables."""

from pathlib import Path

import dagster as dg

from segmentation_pipeline import core
from segmentation_pipeline.assets import Results, asset_spec, contract_check, fill, sentences
from segmentation_pipeline.fitting import MODEL_TABLES, Fit, fit_model, handed_on, refuse_bad_data, stands
from segmentation_pipeline.resource import RetailerResource

_METHOD = "".join(path.read_text("utf-8") for path in sorted(Path(core.__path__[0]).glob("*.py")))


@dg.multi_asset(
    specs=[
        asset_spec(
            table,
            "model",
            _METHOD,
            deps=["normal_customers", "rfm_features"],
            kinds=frozenset({"duckdb", "python", "scikitlearn"}),
        )
        for table in MODEL_TABLES
    ],
    check_specs=[contract_check(table) for table in MODEL_TABLES],
)
def kmeans_model(config: Fit, retailer: RetailerResource) -> Results:
    """The standing model, unless a refit is asked for or the settings that it hangs on have changed."""
    with sentences():
        if not config.refit and stands(retailer, "kmeans_model", retailer.settings.model_digest):
            yield from handed_on(retailer, MODEL_TABLES)
        else:
            refuse_bad_data(retailer, config.accept_change)
            fillings = fit_model(retailer.warehouse, retailer.settings)
            [model] = fillings[0].rows
            figures = {"refitted": True, "model_id": model[0], "inertia": model[7], "silhouette": model[8]}
            yield from fill(retailer, fillings, figures=lambda _: figures)
