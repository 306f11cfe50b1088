"""Derive what depends on the invoices of a customer alone, in blocks of customers.

Contains the temporary tables of the customers and invoices that are read, and the inputs of SELECTs that read them. The
memory that a statement takes grows with a block, and not with the number of all customers.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from segmentation_pipeline.tables.catalog import contracts
from segmentation_pipeline.tables.contract import quoted
from segmentation_pipeline.warehouse.database import Warehouse

# Customers of a block: more take more memory, and fewer read the invoices more often.
BLOCK = 500_000
_NUMBERED = """
create or replace temp table numbered_customers as
select customer_id, row_number() over (order by customer_id) - 1 as number
from (select distinct customer_id from main.invoice_totals)
"""
_BLOCK = "number >= $start and number < $end"
# A systematic sample, if there are more customers than its size.
_SAMPLE = "number * $size % (select count(*) from temp.numbered_customers) < $size"
_NUMBERED_SAMPLE = f"""
create or replace temp table numbered_customers as
select customer_id, row_number() over (order by number) - 1 as number
from temp.numbered_customers
where {_SAMPLE}
"""  # noqa: S608 - own SQL
_INVOICES = """
create or replace temp table chosen_invoices as
select totals.customer_id, totals.invoice, totals.transaction_at, '' as country, totals.is_purchase, totals.amount
from main.invoice_totals as totals
semi join temp.chosen_customers as chosen on totals.customer_id = chosen.customer_id
"""
# Each customer that is read, with a number that is the same at every time.
NUMBERS = "select customer_id, number from temp.chosen_customers"
# The inputs of a past time: the invoices before it, and no previous segments, so that hysteresis plays no part.
# Without products, countries and the days between purchases, which no column of a past time needs.
AS_OF = {
    "invoice_totals": "select * from temp.chosen_invoices where transaction_at < $as_of",
    "clean_transactions": contracts()["clean_transactions"].empty_select,
    "inter_purchase_times": contracts()["inter_purchase_times"].empty_select,
    "previous_segments": "select * from main.previous_segments where false",
}


def derive_in_blocks(
    database: Warehouse,
    table: str,
    select: str,
    times: Sequence[Mapping[str, Any]],
    *,
    max_customers: int | None = None,
) -> None:
    """Create a temporary table of the rows that a SELECT has at some times, one block of customers after another.

    Args:
        database: Receives the temporary tables.
        table: The temporary table.
        select: The SELECT. It must read invoices from the inputs of this module, and nothing that depends on the
            invoices of other customers.
        times: The values that the SELECT binds, for each time.
        max_customers: Of more customers, a systematic sample of this size is read; default: all are.
    """
    target = f"create or replace temp table {quoted(table)} as"
    for _ in _blocks(database, max_customers):
        for values in times:
            database.execute(f"{target} {select}", dict(values))
            target = f"insert into temp.{quoted(table)}"
    # So that nothing reads the last block as if it were a sample.
    database.connection.execute("drop table temp.chosen_invoices; drop table temp.chosen_customers")


def blocks_of(customers: int, size: int) -> int:
    """Return the number of blocks of this size that hold a number of customers; without customers, one."""
    return max(-(-customers // size), 1)


def sample_customers(database: Warehouse, size: int) -> None:
    """Create the temporary tables of a systematic sample of the customers, and of their invoices."""
    database.connection.execute(_NUMBERED)
    _choose(database, _SAMPLE, {"size": size})


def _blocks(database: Warehouse, max_customers: int | None) -> Iterator[None]:
    """Create the temporary tables of one block after another."""
    database.connection.execute(_NUMBERED)
    if max_customers is not None:
        database.execute(_NUMBERED_SAMPLE, {"size": max_customers})
    customers = database.row("select count(*) as customers from temp.numbered_customers")["customers"]
    for block in range(blocks_of(customers, BLOCK)):
        _choose(database, _BLOCK, {"start": block * BLOCK, "end": (block + 1) * BLOCK})
        yield


def _choose(database: Warehouse, condition: str, values: dict[str, Any]) -> None:
    chosen = f"select customer_id, number from temp.numbered_customers where {condition}"  # noqa: S608 - own SQL
    database.execute(f"create or replace temp table chosen_customers as {chosen}", values)
    database.connection.execute(_INVOICES)
