"""The asset `release`, which SQL consumers open. It is published after every blocking check has passed."""

import time
from importlib.metadata import version
from typing import Any

import dagster as dg

from segmentation_pipeline import __version__
from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.orchestration.resources import RetailerConfig, WarehouseResource
from segmentation_pipeline.orchestration.sql_assets import OWNERS, Results, report_user_errors
from segmentation_pipeline.releases.files import Release
from segmentation_pipeline.releases.release_checks import NOT_PUBLISHED, ReleaseMetrics, release_check_messages
from segmentation_pipeline.releases.store import Releases
from segmentation_pipeline.segments import score_macro
from segmentation_pipeline.tables.catalog import published
from segmentation_pipeline.warehouse.database import Warehouse


@dg.asset(
    deps=sorted(contract.table for contract in published()),
    group_name="releases",
    owners=OWNERS,
    kinds={"duckdb", "parquet"},
)
def release(context: dg.AssetExecutionContext, retailer: RetailerConfig, warehouse: WarehouseResource) -> Results:
    """One release per materialization: `segments.duckdb`, the same tables as Parquet, and a manifest.

    The link `current` is switched at the end. `state.duckdb`, which only the owner can read, holds what cannot be
    derived from the source again.
    """
    with report_user_errors():
        settings, database = retailer.settings, warehouse.open()
        releases = Releases(retailer.folders.releases)
        metrics = ReleaseMetrics.of(database, "customer_segments")
        _fail_on_change(retailer, releases, metrics)
        current_error = releases.current_error
        published_release = releases.publish(
            database.connection,
            _manifest_entries(settings, database, metrics),
            macros=[score_macro.score_macro(database), score_macro.comment()],
            as_of=metrics.as_of,
            run_id=context.run.run_id,
            keep=settings.release.keep,
            group=settings.release.group,
            withheld=settings.privacy.withhold,
            max_database_rows=settings.release.max_database_rows,
        )
        _log_warnings(context, releases, current_error)
        yield dg.MaterializeResult(metadata=_metadata(context, published_release, releases.current, settings))


def _fail_on_change(retailer: RetailerConfig, releases: Releases, metrics: ReleaseMetrics) -> None:
    """Repeat the release checks, since the release may be materialised alone."""
    messages = release_check_messages(
        releases.baseline, metrics, retailer.latest_possible_at, retailer.settings.release
    )
    message = " ".join(filter(None, messages.values()))
    if message and not retailer.accept_change:
        raise dg.Failure(f"{message} {NOT_PUBLISHED}", allow_retries=False)


def _manifest_entries(settings: Retailer, database: Warehouse, metrics: ReleaseMetrics) -> dict[str, Any]:
    """Return the entries of the manifest that describe the run."""
    versions = {name: version(name) for name in ("dagster", "duckdb", "scikit-learn")}
    return {
        "retailer": settings.name,
        "currency": settings.currency,
        "time_zone": settings.time_zone,
        "settings_digest": settings.digest(),
        "versions": versions | {"segmentation_pipeline": __version__},
        "model_id": database.row("select model_id from kmeans_model")["model_id"],
        "figures": metrics.as_json(),
    }


def _log_warnings(context: dg.AssetExecutionContext, releases: Releases, current_error: str) -> None:
    """Log a repaired link `current`, and paused publishing."""
    current = releases.current
    if current_error and current is not None:
        context.log.warning(f"{current_error}. It was repaired and links to {current.name} now.")
    if paused_at := releases.paused_at:
        context.log.warning(
            f"Publishing is paused at {paused_at}: the new release is not current until `segments releases resume`."
        )


def _metadata(
    context: dg.AssetExecutionContext, published_release: Release, current: Release | None, settings: Retailer
) -> dict[str, Any]:
    manifest, limit = published_release.manifest, settings.release.max_database_rows
    return {
        "release": published_release.name,
        "path": dg.MetadataValue.path(str(published_release.folder)),
        "as_of": manifest["as_of"],
        "current": current is not None and current.name == published_release.name,
        "customers": published_release.metrics["customers"],
        "revenue": float(published_release.metrics["revenue"]),
        "files_copied": len(manifest["copied"]),
        "parquet_only": f"{', '.join(published_release.parquet_only) or 'no table'}: more than {limit:,} rows"
        " (release.max_database_rows)",
        "bytes": sum(file["bytes"] for file in manifest["files"].values()),
        "seconds": _seconds_since_start(context),
    }


def _seconds_since_start(context: dg.AssetExecutionContext) -> float:
    """Return how long the run has taken to publish, which Dagster plots."""
    record = context.instance.get_run_record_by_id(context.run.run_id)
    return time.time() - record.start_time if record is not None and record.start_time is not None else 0.0
