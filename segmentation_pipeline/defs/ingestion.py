"""From source files to `raw_transactions`: every line, as it came; and the ledger of the files."""

import hashlib

import dagster as dg

from segmentation_pipeline.config.paths import expanded
from segmentation_pipeline.ingestion import (
    incremental,
    schema_drift,
)
from segmentation_pipeline.ingestion.discovery import source_files, source_roots
from segmentation_pipeline.ingestion.staging import READER_VERSION
from segmentation_pipeline.orchestration.check_results import found
from segmentation_pipeline.orchestration.resources import RetailerResource
from segmentation_pipeline.orchestration.sql_assets import Results, asset_spec, contract_check, fill, sentences
from segmentation_pipeline.privacy.pseudonyms import FORGOTTEN
from segmentation_pipeline.sample_data import write_once
from segmentation_pipeline.warehouse.database import select_of

_READING = READER_VERSION + select_of("raw_transactions")
# Another version of the code that reads may read the same files otherwise.
_VERSION = hashlib.sha256(_READING.encode()).hexdigest()[:8]
COLUMNS_AS_BEFORE = dg.AssetCheckSpec(
    "columns_as_before",
    asset="ingested_files",
    blocking=True,
    description="No file has other columns than those before it; whether one that has fails the run is a setting.",
)


@dg.multi_asset(
    name="raw_transactions",
    specs=[
        asset_spec("raw_transactions", "ingestion", _READING),
        asset_spec("ingested_files", "ingestion", incremental.VERSION, kinds=frozenset({"duckdb", "python"})),
        asset_spec(FORGOTTEN, "ingestion", "1", kinds=frozenset({"duckdb", "python"})),
    ],
    check_specs=[*map(contract_check, incremental.TABLES), COLUMNS_AS_BEFORE],
)
def raw_transactions(context: dg.AssetExecutionContext, retailer: RetailerResource) -> Results:
    """Files that are new or have changed are read; the made-up retailer's are written first, where they are not yet."""
    with sentences():
        settings, base = retailer.settings, retailer.source_base
        if sample := settings.source.sample:
            write_once(base / expanded(str(settings.source.path)), customers=sample.customers, seed=sample.seed)
        files, spill = source_files(settings, base, retailer.folders.own), retailer.folders.spill
        with incremental.taken_in(retailer.warehouse, settings, files, spill, _asked(retailer)) as taken:
            context.log.info(f"read again, because they changed: {taken.figures['read_again']}")
            yield (drift := _columns_as_before(retailer, taken))
            if not drift.passed and drift.severity == dg.AssetCheckSeverity.ERROR:
                raise dg.Failure(f"{drift.description} Nothing was loaded. {_ACCEPT}", allow_retries=False)
            told = {**taken.figures, "retailer": settings.name}
            yield from fill(retailer, taken.fillings, given=taken.given, figures=lambda _: told)


_ACCEPT = (
    "If that is meant, run with accept_change (--accept-change), or set checks.columns_drift to warn; else mend the"
    " source, or move the files away."
)


def _asked(retailer: RetailerResource) -> incremental.Asked:
    settings, base = retailer.settings, retailer.source_base.absolute()
    paths = [settings.source.path] if isinstance(settings.source.path, str) else settings.source.path
    return incremental.Asked(
        retailer.run_id,
        f"{settings.reading_digest}-{_VERSION}",
        ", ".join(str(base / expanded(path)) for path in paths),
        reload=retailer.reload,
        accept_change=retailer.accept_change,
        roots=source_roots(settings, base),
    )


def _columns_as_before(retailer: RetailerResource, taken: incremental.Intake) -> dg.AssetCheckResult:
    """Where nothing was loaded before, and where a person has it so, other columns are but a warning."""
    fails = retailer.settings.checks.columns_drift == "fail" and bool(taken.before)
    mild = not fails or retailer.reload or retailer.accept_change
    faults = schema_drift.drifted(taken)
    return found(faults, schema_drift.sentence(faults))._replace(
        check_name="columns_as_before",
        asset_key=dg.AssetKey("ingested_files"),
        severity=dg.AssetCheckSeverity.WARN if mild else dg.AssetCheckSeverity.ERROR,
    )
