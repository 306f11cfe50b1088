"""Customer segments from retail transactions: Dagster runs it, DuckDB holds it, scikit-learn fits the model."""

__version__ = "0.5.0"
