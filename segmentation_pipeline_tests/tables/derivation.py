"""Rows for input tables, and the rows that a SELECT derives from them."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

import numpy as np

from segmentation_pipeline.tables.catalog import contracts, select_of
from segmentation_pipeline.tables.contract import quoted
from segmentation_pipeline.warehouse.database import Warehouse
from segmentation_pipeline.warehouse.queries import QueryInputs, tables_read_by
from segmentation_pipeline.warehouse.table_write import TableWrite

timestamp = datetime.fromisoformat
AS_OF = timestamp("2024-03-31 12:00:00")
SCORES = ("recency_score", "frequency_score", "monetary_score")
Row = dict[str, Any]


def store(warehouse: Warehouse, table: str, *rows: Row) -> None:
    """Create a table with these rows; missing columns are null, or any value where null is not allowed."""
    contract = contracts()[table]
    warehouse.connection.execute(f"drop table if exists {quoted(table)}")
    warehouse.connection.execute(contract.ddl(constraints=False))
    defaults = {"VARCHAR": "", "TIMESTAMP": AS_OF, "BOOLEAN": False, "DOUBLE[]": []}
    assert {name for row in rows for name in row} <= {column.name for column in contract.columns}
    values = [
        [row.get(c.name, None if c.nullable else defaults.get(c.type, 0)) for c in contract.columns] for row in rows
    ]
    if values:
        places = ", ".join("?" * len(contract.columns))
        warehouse.connection.executemany(f"insert into {quoted(table)} values ({places})", values)


def derive(warehouse: Warehouse, table: str, relations: dict[str, str] | None = None, **values: Any) -> list[Row]:
    """Return the rows of a table's SELECT, which follow its contract, in the order of the key.

    A SELECT that reads `invoice_totals` gets those of the stored lines.
    """
    if "invoice_totals" in tables_read_by(select_of(table)):
        derive(warehouse, "invoice_totals")
    [result] = warehouse.write([TableWrite(table, select_of(table))], values, QueryInputs(relations or {}))
    assert result.violations == ()
    return warehouse.rows(f"select * from {quoted(table)} order by {contracts()[table].key_order}")


def columns_of(rows: Sequence[Row], *names: str) -> list[tuple[Any, ...]]:
    """Return some columns of the rows."""
    return [tuple(row[name] for name in names) for row in rows]


def sales(*sold: tuple[str, str, str, str, float | str], **common: Any) -> list[Row]:
    """Return lines of clean_transactions; an invoice that begins with C is a cancellation."""
    return [
        {
            "source_line": number,
            "customer_id": customer,
            "invoice": invoice,
            "stock_code": code,
            "transaction_at": datetime.fromisoformat(at),
            "amount": Decimal(str(money)),
            "is_cancellation": invoice.startswith("C"),
            "country": "Spain",
            **common,
        }
        for number, (customer, invoice, code, at, money) in enumerate(sold, 1)
    ]


def feature_rows(*customers: tuple[str, int, int, float | str]) -> list[Row]:
    return [
        {"customer_id": who, "recency": r, "frequency": f, "monetary": Decimal(str(m)), "as_of": AS_OF}
        for who, r, f, m in customers
    ]


def random_features(number: int, seed: int = 3) -> list[Row]:
    """Return features with skewed distributions and many ties, as in real data."""
    random = np.random.default_rng(seed)
    return [
        {
            "customer_id": f"c{n:04d}",
            "recency": int(random.integers(0, 300)),
            "frequency": int(1 + random.geometric(0.4)),
            "monetary": Decimal(str(round(float(random.lognormal(4, 1)), 2))),
            "as_of": AS_OF,
        }
        for n in range(number)
    ]
