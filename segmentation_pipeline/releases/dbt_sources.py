"""Write the published tables as the sources of a dbt project.

Contains the property file (YAML) made of the contracts. The project attaches the database of a release by itself.
"""

from collections.abc import Collection, Iterator
from typing import Any

import yaml

from segmentation_pipeline.tables.catalog import CONTRACT_VERSION, published
from segmentation_pipeline.tables.contract import Column, Contract

_HEADER = (
    f"# `segments export-dbt` wrote this from the contracts of the published tables, version {CONTRACT_VERSION}.\n"
    "# Write it again after an upgrade; do not edit it. For dbt 1.10.8 or later.\n"
)


def dbt_sources(name: str, withheld: Collection[str] = ()) -> str:
    """Return a property file of dbt with one source, which has every published table.

    Columns have the description, type, unit and bounds of their contract. Its rules are tests where dbt has one:
    `not_null`, `unique` of the key, and `accepted_values`.

    Args:
        name: The retailer's name, which is that of the source and of the database that the project attaches.
        withheld: Columns that its releases leave out of the tables that describe customers.
    """
    source = {
        "name": name,
        "description": f"Customer segments of {name}: the tables of a release.",
        "database": name,
        "schema": "main",
        "config": {"meta": {"contract_version": CONTRACT_VERSION}},
        "tables": [_table(name, contract.without(withheld)) for contract in published()],
    }
    text: str = yaml.safe_dump({"version": 2, "sources": [source]}, sort_keys=False, allow_unicode=True, width=110)
    return _HEADER + text


def _table(source: str, contract: Contract) -> dict[str, Any]:
    table: dict[str, Any] = {"name": contract.table, "description": contract.description}
    if len(contract.key) > 1:
        # A test of the table, because one of a column tests that column alone.
        arguments = {"column_name": f"({contract.key_order})"}
        table["data_tests"] = [{"unique": {"name": f"unique_{source}_{contract.table}", "arguments": arguments}}]
    return {**table, "columns": [_column(column, is_key=contract.key == (column.name,)) for column in contract.columns]}


def _column(column: Column, *, is_key: bool) -> dict[str, Any]:
    facts = {"unit": column.unit or None, "minimum": column.minimum, "maximum": column.maximum}
    meta = {name: fact for name, fact in facts.items() if fact is not None}
    properties: dict[str, Any] = {"name": column.name, "description": column.description, "data_type": column.type}
    if meta:
        properties["config"] = {"meta": meta}
    if tests := list(_tests(column, is_key=is_key)):
        properties["data_tests"] = tests
    return properties


def _tests(column: Column, *, is_key: bool) -> Iterator[str | dict[str, Any]]:
    if not column.nullable:
        yield "not_null"
    if is_key:
        yield "unique"
    if column.allowed:
        # dbt puts each value between quotes, and does not double those inside.
        values = [value.replace("'", "''") if isinstance(value, str) else value for value in column.allowed]
        yield {"accepted_values": {"arguments": {"values": values, "quote": isinstance(values[0], str)}}}
