"""What Dagster loads: assets by business stage, their checks, the jobs and schedules, the resources."""
