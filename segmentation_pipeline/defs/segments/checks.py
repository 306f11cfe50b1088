"""Checks of the segments: every customer is in exactly one."""

from segmentation_pipeline.orchestration.check_results import sql_check

every_customer_in_one_segment = sql_check(
    "every_customer_in_one_segment",
    asset="customer_segments",
    deps=["rfm_features", "normal_customers", "outlier_customers", "inactive_customers"],
    description="Each customer is in one group and one segment, with the money of the customer's features.",
    message="Some customers, their money or their group are lost, counted twice or changed on the way to segments.",
)
