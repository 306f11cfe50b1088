"""The release: what SQL consumers open, published after every blocking check."""

from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import dagster as dg
from pydantic import Field

from segmentation_pipeline import __version__, scoring
from segmentation_pipeline.assets import OWNERS, Results, sentences
from segmentation_pipeline.gate import Figures, faults
from segmentation_pipeline.releases import Releases
from segmentation_pipeline.resource import RetailerResource
from segmentation_pipeline.settings import Retailer
from segmentation_pipeline.tables import CONTRACTS
from segmentation_pipeline.warehouse import Warehouse

GATE = {
    "no_sudden_loss": "Lines, customers and revenue fell by no more than release.max_drop since the last release.",
    "as_of_plausible": "as_of jumped by no more than release.max_as_of_jump_days, and is not ahead of the run's time;"
    " one that is set as a day, which counts whole, may end with the day of the run.",
}


class Publish(dg.Config):
    """Whether a person has looked at what the gate would stop."""

    accept_change: bool = Field(False, description="Publish although figures fell or as_of jumped.")


@dg.asset(
    deps=sorted(CONTRACTS),
    group_name="serving",
    owners=OWNERS,
    kinds={"duckdb", "parquet"},
    check_specs=[
        dg.AssetCheckSpec(name, asset="release", blocking=True, description=text) for name, text in GATE.items()
    ],
)
def release(context: dg.AssetExecutionContext, config: Publish, retailer: RetailerResource) -> Results:
    """One materialisation is one release: a folder with `segments.duckdb`, the same tables as Parquet, and a manifest.

    It depends on every table, so that each blocking check stands before it. `current` is switched at the end.
    """
    with sentences():
        settings, warehouse = retailer.settings, retailer.warehouse
        releases = Releases(retailer.folders.releases)
        figures = Figures.of(warehouse, "customer_segments")
        yield from _judged(
            faults(releases.current, figures, retailer.latest_moment, settings.release), config.accept_change
        )
        published = releases.publish(
            warehouse.connection,
            _facts(settings, warehouse, figures),
            macros=[scoring.score_macro(warehouse), scoring.comment()],
            as_of=figures.as_of,
            run_id=context.run.run_id,
            keep=settings.release.keep,
        )
        held = releases.held_since
        if held:
            context.log.warning(f"publishing is held at {held}: not current until `segments releases resume`")
        yield dg.MaterializeResult(metadata=_told(published.folder, published.manifest, held))


def _judged(found: dict[str, str], accepted: bool) -> Iterator[dg.AssetCheckResult]:
    """The gate's answers as checks.

    Raises:
        dagster.Failure: One of them is a fault that nobody has accepted.
    """
    severity = dg.AssetCheckSeverity.WARN if accepted else dg.AssetCheckSeverity.ERROR
    for name, fault in found.items():
        yield dg.AssetCheckResult(check_name=name, passed=not fault, severity=severity, description=fault or None)
    if any(found.values()) and not accepted:
        raise dg.Failure(
            " ".join(filter(None, found.values())) + " Nothing was published; the standing release goes on. If the"
            " change is right, publish with accept_change (segments run --accept-change).",
            allow_retries=False,
        )


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


def _told(folder: Any, manifest: Any, held: str | None) -> dict[str, Any]:
    return {
        "release": manifest["release"],
        "path": dg.MetadataValue.path(str(folder)),
        "as_of": manifest["as_of"],
        "current": held is None,
        "customers": manifest["figures"]["customers"],
        "revenue": float(manifest["figures"]["revenue"]),
    }
