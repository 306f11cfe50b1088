"""Parquet folders that another tool keeps, with folders for partitions."""

from pathlib import Path

import duckdb

from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.warehouse.database import Warehouse
from segmentation_pipeline_tests.ingestion.reading import read_source
from segmentation_pipeline_tests.scenarios import retailer_settings


def test_hive_partitions_are_read_as_files(tmp_path: Path) -> None:
    """Partition columns are in the folders' names only; the columns of the lines are those of the files."""
    duckdb.connect().execute(
        f"""copy (
            select '50000' || i as "InvoiceNo", '85123A' as "StockCode", 'LANTERN' as "Description", 2 as "Quantity",
                timestamp '2024-03-01 10:00:00' as "InvoiceDate", cast(2.5 as decimal(9, 2)) as "UnitPrice",
                'K1' as "CustomerID", 'France' as "Country", 2024 as year, i as month
            from range(1, 4) as numbers(i)
        ) to '{tmp_path}/in' (format parquet, partition_by (year, month))"""
    )
    settings = Retailer.model_validate(retailer_settings(tmp_path / "in"))
    warehouse = read_source(Warehouse(duckdb.connect()), settings, tmp_path)
    lines = warehouse.connection.execute(
        "select source_file, source_line, invoice, cast(amount as varchar) from raw_transactions order by all"
    ).fetchall()
    assert lines == [(f"year=2024/month={i}/data_0.parquet", 1, f"50000{i}", "5.0000") for i in (1, 2, 3)]
