"""What runs on a Spark cluster cost, and whether their tables are those of DuckDB."""
