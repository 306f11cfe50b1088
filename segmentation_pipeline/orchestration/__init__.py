"""What Dagster needs to run the pipeline: resources, assets from SQL, alerts; does not contain definitions (`defs`)."""
