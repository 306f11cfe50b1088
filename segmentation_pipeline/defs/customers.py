"""Which customers can be compared: the inactive set aside, the outliers set apart, the normal ones left."""

from segmentation_pipeline.orchestration.sql_assets import derived_asset

inactive_customers = derived_asset("inactive_customers", group="customers")
previous_segments = derived_asset("previous_segments", group="customers", state=("segment_membership",))
fence_sides = derived_asset("fence_sides", group="customers")
outlier_customers = derived_asset("outlier_customers", group="customers")
normal_customers = derived_asset("normal_customers", group="customers")
