"""SQL text: the inputs of a query, the tables it reads, and queries with other inputs.

Contains functions of text. Nothing here reads or writes the working database.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from segmentation_pipeline.tables.catalog import contracts, has_select, select_of
from segmentation_pipeline.tables.contract import quoted
from segmentation_pipeline.warehouse.syntax import syntax_tree


@dataclass(frozen=True)
class QueryInputs:
    """Relations that a SELECT reads as if they were tables, and the values bound in it.

    Attributes:
        relations: The SELECT of each relation. One may read those before it.
        values: The values by parameter name.
        thresholds: The values that matter only to source files with a line that reaches them, each with the column of
            `raw_transactions` that is compared with it.
    """

    relations: dict[str, str] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    thresholds: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class BuiltRelation:
    """A relation that Python builds for SELECTs to read.

    Attributes:
        table: The table that it is built from; empty where it is built from files or settings.
        columns: The columns of that table from which its own columns are derived, where they have another name.
    """

    table: str = ""
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


BUILT_RELATIONS: Mapping[str, BuiltRelation] = {
    "read_lines": BuiltRelation(),
    "cleaning_rules": BuiltRelation(columns={"step": (), "rule": (), "reason": ()}),
    # The settings say whether negative money or a pattern of invoice numbers marks a cancellation.
    "judged_transactions": BuiltRelation("raw_transactions", {"is_cancellation": ("invoice", "amount"), "step": ()}),
    "assigned_by_previous_model": BuiltRelation("assigned_segments"),
}


@cache
def tables_read_by(select: str) -> frozenset[str]:
    """Return every relation that a SELECT reads, except its own CTEs.

    Raises:
        ValueError: The text is not a SELECT.
    """
    return frozenset(_tables(syntax_tree(select), frozenset()))


def dependencies(select: str) -> list[str]:
    """Return the tables that a SELECT reads, also by a relation that Python builds from one."""
    read = tables_read_by(select)
    built = {BUILT_RELATIONS[name].table for name in read & set(BUILT_RELATIONS)}
    return sorted((read | built) & set(contracts()))


def derived_between(first: Collection[str], select: str) -> list[str]:
    """Return the derived tables between some tables and a SELECT that depends on them, in an order to derive them in.

    State is read as stored, because the membership history would otherwise derive from itself.
    """
    found, changed = list[str](), set(first)

    def is_changed(table: str) -> bool:
        if table in changed:
            return True
        if not (table in contracts() and has_select(table)) or contracts()[table].state:
            return False
        # Visit every input, so that the tables are in the order of their dependencies.
        reads = [is_changed(read) for read in sorted(tables_read_by(select_of(table))) if read != table]
        if any(reads):
            changed.add(table)
            found.append(table)
        return table in changed

    for table in sorted(tables_read_by(select)):
        is_changed(table)
    return found


def inline_upstream(select: str, replacements: dict[str, str]) -> str:
    """Return a SELECT in which other relations replace some of the tables that it depends on.

    Every derived table between a replaced table and the SELECT is computed inside the SELECT, as a CTE. All other
    tables are read as they are.

    Args:
        select: The SELECT.
        replacements: The SELECT of each relation that replaces a table. Inside it, `main.<table>` names the stored
            table of the same name.
    """
    ctes = replacements | {table: select_of(table) for table in derived_between(replacements, select)}
    relations = ", ".join(f"{quoted(name)} as (\n{text}\n)" for name, text in ctes.items())
    return f"with {relations} {select}"


def bound_values(text: str, values: dict[str, Any]) -> dict[str, Any]:
    """Return the values that a text names; DuckDB rejects parameters that a statement does not use."""
    return {name: values[name] for name in set(re.findall(r"\$([a-z]\w*)", text))}


def _tables(node: Any, ctes: frozenset[str]) -> Iterator[str]:
    """Yield the tables that a part of a syntax tree reads where some names are CTEs."""
    if isinstance(node, list):
        for child in node:
            yield from _tables(child, ctes)
    if not isinstance(node, dict):
        return
    if node.get("type") == "BASE_TABLE" and (node["schema_name"] or node["table_name"] not in ctes):
        yield node["table_name"]
    if node.get("type") == "RECURSIVE_CTE_NODE":
        ctes |= {node["cte_name"]}
    for cte in node.get("cte_map", {}).get("map", []):
        # A CTE sees those before it. Unless it is recursive, its own name inside it is that of a table.
        yield from _tables(cte["value"], ctes)
        ctes |= {cte["key"]}
    for name, child in node.items():
        if name != "cte_map":
            yield from _tables(child, ctes)
