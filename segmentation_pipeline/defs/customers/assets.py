"""Split the customers: inactive ones, outliers, and the normal ones that the model is fitted on."""

from segmentation_pipeline.orchestration.sql_assets import SqlAssetOptions, sql_assets

customer_assets = sql_assets(
    "customers", options={"previous_segments": SqlAssetOptions(previous=("segment_membership",))}
)
