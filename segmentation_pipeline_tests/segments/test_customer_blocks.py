"""Customers in blocks: the memory of a statement does not grow with the number of all customers."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import duckdb
import pytest

from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.segments import customer_blocks, history, past_customers
from segmentation_pipeline.warehouse.database import Warehouse
from segmentation_pipeline.warehouse.queries import inline_upstream
from segmentation_pipeline_tests.scenarios import retailer_settings

CUSTOMERS, BLOCK, MEMORY = 200_000, 20_000, "40MB"
MODEL = """
insert into outlier_fences by name
    select feature, -1e9 as lower_fence, 1e9 as upper_fence
    from unnest(['monetary', 'frequency', 'recency']) as features(feature);
insert into kmeans_scaler by name
    select feature, 'standard' as transform, 0.0 as center, 100.0 as scale
    from unnest(['monetary', 'frequency', 'recency']) as features(feature);
insert into kmeans_centroids by name
    select
        range as cluster, 'segment_' || range as segment_key,
        range as scaled_monetary, range as scaled_frequency, range as scaled_recency
    from range(6)
"""
INVOICES = """
insert into invoice_totals by name
select
    'C-' || cast(number % $customers as varchar) || '-of-a-shop' as customer_id,
    cast(number as varchar) as invoice,
    timestamp '2023-01-01' + to_hours(cast(number % 8_000 as bigint)) as transaction_at,
    true as is_purchase,
    1 + number % 500 as amount
from range(2 * $customers) as numbers(number)
"""


@pytest.fixture
def warehouse(tmp_path: Path) -> Iterator[Warehouse]:
    with duckdb.connect(
        str(tmp_path / "work.duckdb"), config={"memory_limit": MEMORY, "threads": 2, "temp_directory": str(tmp_path)}
    ) as connection:
        warehouse = Warehouse(connection)
        warehouse.create_missing(
            ["invoice_totals", "outlier_fences", "kmeans_scaler", "kmeans_centroids", "previous_segments"]
        )
        connection.execute(MODEL)
        connection.execute(INVOICES, {"customers": CUSTOMERS})
        yield warehouse


@pytest.mark.parametrize(
    ("select", "inputs"),
    [(history._AT_MONTH_END, customer_blocks.AS_OF), (past_customers.CUSTOMERS, past_customers.INPUTS)],
    ids=["history", "back-test"],
)
def test_many_customers_fit_into_little_memory(
    warehouse: Warehouse, select: str, inputs: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same statement over all customers at once needs more memory, so the limit is small against the data."""
    values = Retailer.model_validate(retailer_settings(Path("in"))).sql_values | {
        "as_of": datetime.fromisoformat("2023-12-01"),
        "until": datetime.fromisoformat("2024-03-01"),
        "is_comparable": True,
        "model_id": "a",
    }
    text = inline_upstream(select, inputs)
    monkeypatch.setattr(customer_blocks, "BLOCK", CUSTOMERS)
    with pytest.raises(duckdb.OutOfMemoryException):
        customer_blocks.derive_in_blocks(warehouse, "derived", text, [values])
    monkeypatch.setattr(customer_blocks, "BLOCK", BLOCK)
    customer_blocks.derive_in_blocks(warehouse, "derived", text, [values])
    found = warehouse.row("select count(*) as rows, count(distinct customer_id) as customers from temp.derived")
    assert found == {"rows": CUSTOMERS, "customers": CUSTOMERS}
