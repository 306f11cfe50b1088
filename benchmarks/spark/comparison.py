"""Compare the tables of a run on Spark with those of a run on DuckDB."""

from contextlib import closing
from pathlib import Path

import duckdb

from benchmarks.cost.processes import RETAILER
from segmentation_pipeline.tables.catalog import contracts
from segmentation_pipeline.tables.contract import literal, quoted
from segmentation_pipeline.warehouse.contents import contents_of
from segmentation_pipeline.warehouse.line_engine import LINE_FILES, LINE_TABLES

# What each run writes anew: its id, and times of the clock.
OF_THE_RUN = ("run_id", "source_path", "modified_at", "fitted_at", "created_at")


def compared(home: Path) -> tuple[dict[str, int], tuple[int, int, int, int]]:
    """Return the rows that differ by table, and how many tables, rows, customers and invoices there are."""
    different, rows, tables = {}, 0, 0
    with closing(duckdb.connect(config={"memory_limit": "8GB"})) as connection:
        for engine in ("duckdb", "spark"):
            path = literal(str(home / engine / RETAILER / "work.duckdb"))
            connection.execute(f"attach {path} as {engine} (read_only)")
        for name in sorted(contracts()):
            if name not in LINE_TABLES and not _exists(connection, name):
                continue
            columns = ", ".join(
                quoted(column.name) for column in contracts()[name].columns if _is_compared(column.name)
            )
            selects = {
                engine: f"select {columns} from {_relation(connection, home, engine, name)}"  # noqa: S608 - own SQL
                for engine in ("duckdb", "spark")
            }
            found = contents_of(connection, selects)
            rows, tables = rows + found["duckdb"].rows, tables + 1
            # By their digest first, because the rows of the largest tables do not fit into memory.
            if found["duckdb"] != found["spark"] and (number := _different_rows(connection, *selects.values())):
                different[name] = number
        counts = [
            connection.execute(f"select count(*) from duckdb.{name}").fetchall()[0][0]  # noqa: S608 - own SQL
            for name in ("rfm_features", "invoice_totals")
        ]
    return different, (tables, rows, counts[0], counts[1])


def _different_rows(connection: duckdb.DuckDBPyConnection, one: str, other: str) -> int:
    select = f"select count(*) from (({one} except all {other}) union all ({other} except all {one}))"  # noqa: S608 - own SQL
    return int(connection.execute(select).fetchall()[0][0])


def _is_compared(column: str) -> bool:
    return column not in OF_THE_RUN


def _exists(connection: duckdb.DuckDBPyConnection, name: str) -> bool:
    select = "select 1 from duckdb_tables() where table_name = $name"
    return bool(connection.execute(select, {"name": name}).fetchall())


def _relation(connection: duckdb.DuckDBPyConnection, home: Path, engine: str, name: str) -> str:
    """Return a table as each engine holds it: that of Spark's lines in Parquet files."""
    if engine != "spark" or name not in LINE_TABLES:
        return f"{engine}.{quoted(name)}"
    select = f"select path from spark.{LINE_FILES} where table_name = $name order by 1"  # noqa: S608 - own SQL
    paths = [
        str(home / "spark" / "lines" / RETAILER / path)
        for (path,) in connection.execute(select, {"name": name}).fetchall()
    ]
    return f"read_parquet([{', '.join(map(literal, paths))}])"
