"""Checks of the loaded files."""

import dagster as dg

from segmentation_pipeline.orchestration.check_results import SHOWN_ROWS, sql_check, warning_result
from segmentation_pipeline.orchestration.resources import RetailerConfig, WarehouseResource

lines_of_each_file = sql_check(
    "lines_of_each_file",
    # Nothing is downstream of ingested_files, so a check of it would block nothing.
    asset="raw_transactions",
    deps=["ingested_files"],
    description="Every record of every file is in raw_transactions exactly once, as a line or as a malformed record.",
    message="raw_transactions does not hold the records that were read from each file. If rows were changed by hand,"
    " `segments run --reload` reads every file again.",
)


@dg.asset_check(asset="ingested_files")
def files_are_readable(warehouse: WarehouseResource) -> dg.AssetCheckResult:
    """No file is quarantined because it cannot be read."""
    quarantined = warehouse.open().rows(
        "select source_file, reason, lines as lines_loaded_before from ingested_files"
        " where status = 'quarantined' order by 1"
    )
    reasons = " ".join(file["reason"] for file in quarantined[:SHOWN_ROWS])
    message = f"Quarantined, and read again by the next run: {reasons}"
    return warning_result(quarantined, message, files_quarantined=len(quarantined))


@dg.asset_check(asset="ingested_files")
def no_file_is_missing(retailer: RetailerConfig, warehouse: WarehouseResource) -> dg.AssetCheckResult:
    """No file is missing that an earlier run loaded; only the first run without it warns."""
    missing = warehouse.open().rows(
        "select source_file, lines, run_id from ingested_files where status = 'missing' order by 1"
    )
    new = [file for file in missing if file["run_id"] == retailer.run_id]
    names = ", ".join(file["source_file"] for file in new[:SHOWN_ROWS])
    message = (
        f"Missing from the source: {names}. Their lines are kept; to delete them, run with reload"
        " (segments run --reload)."
    )
    return warning_result(new, message, files_missing=len(missing))
