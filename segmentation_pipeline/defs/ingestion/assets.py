"""Assets of the source: every line that was read in `raw_transactions`, and its files in `ingested_files`."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import dagster as dg

from segmentation_pipeline.config.paths import expanded
from segmentation_pipeline.ingestion import incremental, schema_drift
from segmentation_pipeline.ingestion.query_load import load_query
from segmentation_pipeline.ingestion.sources import found_files, source_place
from segmentation_pipeline.ingestion.staging import READER_VERSIONS
from segmentation_pipeline.orchestration.check_results import check_result, similar_ids_result
from segmentation_pipeline.orchestration.resources import RetailerConfig, WarehouseResource
from segmentation_pipeline.orchestration.sql_assets import (
    Results,
    contract_check_spec,
    report_user_errors,
    table_spec,
    write_tables,
)
from segmentation_pipeline.sample_data import write_once
from segmentation_pipeline.tables.catalog import select_of

_ACCEPT_OR_CORRECT = (
    "To load them, run with accept_change (--accept-change), or set checks.columns_drift to warn; otherwise correct"
    " or remove the files."
)
COLUMNS_UNCHANGED = dg.AssetCheckSpec(
    "columns_unchanged",
    asset="ingested_files",
    blocking=True,
    description="No file has other columns than the files before it; checks.columns_drift says whether the run fails.",
)

READ_IDS_ARE_DISTINCT = dg.AssetCheckSpec(
    "read_ids_are_distinct",
    asset="ingested_files",
    description="No customer ids of the files that the run read differ in form only, where pseudonyms replace them.",
)


@dg.multi_asset(
    name="raw_transactions",
    specs=[
        table_spec("raw_transactions", f"{READER_VERSIONS} {select_of('raw_transactions')}"),
        table_spec("ingested_files", incremental.VERSION, kinds=("duckdb", "python")),
        table_spec("erased_customers", incremental.VERSION, kinds=("duckdb", "python")),
    ],
    check_specs=[*map(contract_check_spec, incremental.TABLES), COLUMNS_UNCHANGED, READ_IDS_ARE_DISTINCT],
)
def raw_transactions(
    context: dg.AssetExecutionContext, retailer: RetailerConfig, warehouse: WarehouseResource
) -> Results:
    """Read the files, or the rows of a query, that are new or have changed; write sample files first, if absent."""
    with report_user_errors():
        settings, base = retailer.settings, retailer.source_base
        if sample := settings.source.sample:
            write_once(base / expanded(str(settings.source.path)), customers=sample.customers, seed=sample.seed)
        with _load(retailer, warehouse) as load:
            context.log.info(f"read again, because they changed: {load.metrics['read_again']}")
            _report_superseded(context, load)
            yield (drift := _columns_unchanged(retailer, load))
            if not drift.passed and drift.severity == dg.AssetCheckSeverity.ERROR:
                raise dg.Failure(f"{drift.description} Nothing was loaded. {_ACCEPT_OR_CORRECT}", allow_retries=False)
            yield _read_ids_are_distinct(retailer, load)
            metadata = {**load.metrics, "retailer": settings.name, **_filled(context, load)}
            yield from write_tables(retailer, warehouse, load.writes, inputs=load.inputs, metadata=lambda _: metadata)


@contextmanager
def _load(retailer: RetailerConfig, warehouse: WarehouseResource) -> Iterator[incremental.SourceLoad]:
    """Load the files, or the rows of the query."""
    settings, base, database = retailer.settings, retailer.source_base.absolute(), warehouse.open()
    own, spill = retailer.folders.pipeline_paths, retailer.folders.spill
    request = incremental.LoadRequest(
        retailer.run_id,
        settings.reading_digest,
        source_place(settings.source, base),
        reload=retailer.reload,
        accept_change=retailer.accept_change,
        base=base,
    )
    if settings.source.query is not None:
        with load_query(database, settings, spill, request, own) as load:
            yield load
        return
    with found_files(settings.source, retailer.source_base, own, spill) as found:
        request = replace(request, roots=found.roots, fetch=found.fetch)
        with incremental.load_source(database, settings, found.files, spill, request) as load:
            yield load


def _filled(context: dg.AssetExecutionContext, load: incremental.SourceLoad) -> dict[str, Any]:
    """Return how many empty values were filled in each column of each file, as a table; nothing without the setting."""
    if not load.filled:
        return {}
    context.log.info(f"source.fill_down filled {load.metrics['values_filled']:,} empty values")
    records = [
        dg.TableRecord({"source_file": file, "column": column, "values": values})
        for file, counts in load.filled.items()
        for column, values in counts.items()
    ]
    return {"filled_down": dg.MetadataValue.table(records)}


def _report_superseded(context: dg.AssetExecutionContext, load: incremental.SourceLoad) -> None:
    """Print which files count no more or again; cleaning_report has lines and money of all that are superseded."""
    if load.superseded:
        files = [f"{file.source_file} ({file.lines:,} lines) is {file.reason}" for file in load.superseded]
        context.log.warning(f"Not counted any more: {incremental.first_names(files)}.")
    if load.counted_again:
        files = [f"{file.source_file} ({file.lines:,} lines)" for file in load.counted_again]
        context.log.warning(f"Counted again, because no newer version supersedes it: {incremental.first_names(files)}.")


def _read_ids_are_distinct(retailer: RetailerConfig, load: incremental.SourceLoad) -> dg.AssetCheckResult:
    """Compare ids before they are hashed; without pseudonyms, `customer_ids_are_distinct` compares all of them."""
    result = similar_ids_result(retailer.settings, load.similar_ids, " of the files that were read")
    return result._replace(check_name="read_ids_are_distinct", asset_key=dg.AssetKey("ingested_files"))


def _columns_unchanged(retailer: RetailerConfig, load: incremental.SourceLoad) -> dg.AssetCheckResult:
    """Warn of changed columns; fail where the settings say so, files were loaded before, and nobody accepted it."""
    fails = retailer.settings.checks.columns_drift == "fail" and bool(load.previous)
    warns = not fails or retailer.reload or retailer.accept_change
    changes = schema_drift.changed_columns(load)
    return check_result(changes, schema_drift.message(changes))._replace(
        check_name="columns_unchanged",
        asset_key=dg.AssetKey("ingested_files"),
        severity=dg.AssetCheckSeverity.WARN if warns else dg.AssetCheckSeverity.ERROR,
    )
