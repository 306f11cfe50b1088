"""The release: what SQL consumers open, published after every blocking check."""

from importlib.metadata import version
from typing import Any

import dagster as dg

from segmentation_pipeline import __version__
from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.orchestration.resources import RetailerResource
from segmentation_pipeline.orchestration.sql_assets import OWNERS, Results, sentences
from segmentation_pipeline.releases.files import Release
from segmentation_pipeline.releases.gate import STOPPED, Figures, faults
from segmentation_pipeline.releases.store import Releases
from segmentation_pipeline.segments import score_macro
from segmentation_pipeline.tables.catalog import CONTRACTS
from segmentation_pipeline.warehouse.database import Warehouse


@dg.asset(
    deps=sorted(CONTRACTS),
    group_name="serving",
    owners=OWNERS,
    kinds={"duckdb", "parquet"},
)
def release(context: dg.AssetExecutionContext, retailer: RetailerResource) -> Results:
    """One materialisation is one release: a folder with `segments.duckdb`, the same tables as Parquet, and a manifest.

    It depends on every table, so that each blocking check stands before it. `current` is switched at the end. Beside
    the tables lies `state.duckdb`, for the owner alone: what no source gives back.
    """
    with sentences():
        settings, warehouse = retailer.settings, retailer.warehouse
        releases = Releases(retailer.folders.releases)
        figures = Figures.of(warehouse, "customer_segments")
        _pass_the_gate(retailer, releases, figures)
        was_wrong = releases.fault_of_current
        published = releases.publish(
            warehouse.connection,
            _facts(settings, warehouse, figures),
            macros=[score_macro.score_macro(warehouse), score_macro.comment()],
            as_of=figures.as_of,
            run_id=context.run.run_id,
            keep=settings.release.keep,
            group=settings.release.group,
            withheld=settings.privacy.withhold,
        )
        _warn(context, releases, was_wrong)
        yield dg.MaterializeResult(metadata=_told(published, releases.current))


def _pass_the_gate(retailer: RetailerResource, releases: Releases, figures: Figures) -> None:
    """Once more, for whoever materialises the release alone."""
    said = faults(releases.standing, figures, retailer.latest_moment, retailer.settings.release)
    found = " ".join(filter(None, said.values()))
    if found and not retailer.accept_change:
        raise dg.Failure(f"{found} {STOPPED}", allow_retries=False)


def _facts(settings: Retailer, warehouse: Warehouse, figures: Figures) -> dict[str, Any]:
    """What the manifest tells of the run beside what the release knows of itself."""
    versions = {name: version(name) for name in ("dagster", "duckdb", "scikit-learn")}
    return {
        "retailer": settings.name,
        "currency": settings.currency,
        "time_zone": settings.time_zone,
        "settings_digest": settings.digest(),
        "versions": versions | {"segmentation_pipeline": __version__},
        "model_id": warehouse.row("select model_id from kmeans_model")["model_id"],
        "figures": figures.as_facts(),
    }


def _warn(context: dg.AssetExecutionContext, releases: Releases, was_wrong: str) -> None:
    """Say what was mended, and what a person has still to end."""
    current = releases.current
    if was_wrong and current is not None:
        context.log.warning(f"{was_wrong}; it leads to {current.name} now")
    if held := releases.held_since:
        context.log.warning(f"publishing is held at {held}: not current until `segments releases resume`")


def _told(published: Release, current: Release | None) -> dict[str, Any]:
    manifest = published.manifest
    return {
        "release": published.name,
        "path": dg.MetadataValue.path(str(published.folder)),
        "as_of": manifest["as_of"],
        "current": current is not None and current.name == published.name,
        "customers": manifest["figures"]["customers"],
        "revenue": float(manifest["figures"]["revenue"]),
    }
