"""The working DuckDB database: connection, reads, writes, and the SQL text of queries."""
