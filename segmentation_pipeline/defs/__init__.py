"""What Dagster loads: one package per stage with its assets and checks, the jobs and schedules, the resources."""
