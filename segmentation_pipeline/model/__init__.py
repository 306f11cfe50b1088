"""The numeric methods, without Dagster and DuckDB: arrays and numbers in, numbers and names out."""
