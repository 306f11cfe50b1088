"""The methods, free of Dagster and DuckDB: arrays and numbers in, numbers and names out."""
