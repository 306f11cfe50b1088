"""The segmentation model: fitted when somebody decides to, and put before the gate; else the standing one goes on."""

from datetime import datetime
from typing import Any

import dagster as dg
from pydantic import Field

from segmentation_pipeline.errors import FitError
from segmentation_pipeline.orchestration.resources import RetailerResource
from segmentation_pipeline.orchestration.sql_assets import Results, asset_spec, contract_check, fill, sentences
from segmentation_pipeline.segments.membership import is_late
from segmentation_pipeline.segments.promotion import refit
from segmentation_pipeline.segments.registry import STANDING_TABLES, Registry
from segmentation_pipeline.warehouse.database import Filling

TABLES = ("segmentation_models", "model_features", "model_centroids", "segments", "kmeans_candidates", *STANDING_TABLES)
# Raise it when the method of the fit changes.
METHOD_VERSION = "1"


class Fit(dg.Config):
    """Whether a model is fitted although one stands."""

    refit: bool = Field(False, description="Fit again; the weekly job sets it. Otherwise the standing model is kept.")
    search: bool = Field(False, description="Fit again, and search for the number of clusters again.")


@dg.multi_asset(
    name="segmentation_model",
    specs=[
        asset_spec(
            table,
            "model",
            METHOD_VERSION,
            deps=["rfm_features", "previous_segments", "inactive_customers"],
            kinds=frozenset({"duckdb", "python", "scikitlearn"}),
        )
        for table in TABLES
    ],
    check_specs=[contract_check(table) for table in TABLES],
)
def segmentation_model(config: Fit, retailer: RetailerResource) -> Results:
    """The standing model, unless a refit is asked for or the settings that it hangs on have changed."""
    with sentences():
        warehouse, settings = retailer.warehouse, retailer.settings
        as_of = warehouse.row("select max(as_of) as as_of from rfm_features")["as_of"]
        registry, searched, asked = Registry.of(warehouse), list[Filling](), config.refit or config.search
        if late := is_late(warehouse, as_of) and not retailer.accept_change:
            _refuse_to_fit_the_past(asked, as_of)
        else:
            registry = registry.decided(as_of)
        if fitted := not late and (asked or not _suits(registry, settings.model_digest)):
            registry, searched = refit(
                warehouse, settings, registry, as_of, search=config.search, accept_change=retailer.accept_change
            )
        kept = [Filling("kmeans_candidates", "select * from kmeans_candidates")]
        fillings = [*registry.fillings(), *(searched or kept)]
        yield from fill(retailer, fillings, figures=lambda _: _told(registry, fitted))


def _refuse_to_fit_the_past(asked: bool, as_of: datetime) -> None:
    if asked:
        raise FitError(
            f"This run is as of {as_of}, and the ledger of memberships goes beyond that. A model is fitted for what"
            " comes, not for the past: ask for it in a run as of the ledger's last moment, or later. If that is a"
            " fault, accept_change (--accept-change) takes back what the ledger tells beyond this run's."
        )


def _told(registry: Registry, fitted: bool) -> dict[str, Any]:
    assert registry.standing is not None
    facts, last = registry.standing.facts, registry.entries[-1].facts
    figures = {name: last[name] for name in ("kept_share", "agreement") if fitted and last[name] is not None}
    held = {"held": f"{last['model_id']}: {last['reasons']}"} if last["status"] == "held" else {}
    return {
        "refitted": fitted and last["status"] == "standing",
        "model_id": facts["model_id"],
        "inertia": facts["inertia"],
        "silhouette": facts["silhouette"],
        **figures,
        **held,
    }


def _suits(registry: Registry, digest: str) -> bool:
    """Whether the last model, standing or held, was fitted with these settings: a held one is not fitted each night."""
    return registry.standing is not None and registry.entries[-1].facts["settings_digest"] == digest
