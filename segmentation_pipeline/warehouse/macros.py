"""Expressions made of the macros in `tables/macros.sql`, for SQL that must not depend on them.

Contains the inlining of macro bodies. The macros themselves are created by `database.Warehouse`.
"""

from functools import cache
from typing import Any

from segmentation_pipeline.tables.catalog import macros
from segmentation_pipeline.warehouse.syntax import Tree, macro_bodies, syntax_tree, text_of


def inlined(macro: str, *arguments: str) -> str:
    """Return the body of a macro with SQL expressions in place of its parameters.

    A macro that calls another one fails where its database is attached under another name ("Scalar Function with name
    ... does not exist", DuckDB 1.1.3 to 2.0), so a published function holds the bodies instead of calls.

    Raises:
        KeyError: There is no such macro.
        ValueError: The number of arguments is not that of the parameters.
    """
    parameters, tree = _body(macro)
    # One statement for all of them: a release has some forty expressions, and each statement takes half a millisecond.
    values = syntax_tree(f"select {', '.join(arguments)}")["statements"][0]["node"]["select_list"]
    expressions = dict(zip(parameters, values, strict=True))
    return text_of(_replaced(tree, expressions)).removeprefix("SELECT ")


@cache
def _body(macro: str) -> tuple[tuple[str, ...], Tree]:
    parameters, body = macro_bodies(macros())[macro]
    return parameters, syntax_tree(f"select {body}")


def _replaced(node: Any, expressions: dict[str, Any]) -> Any:
    """Return a part of a syntax tree with the columns that are parameters replaced."""
    if isinstance(node, list):
        return [_replaced(child, expressions) for child in node]
    if not isinstance(node, dict):
        return node
    if node.get("class") == "COLUMN_REF" and len(node["column_names"]) == 1:
        return expressions.get(node["column_names"][0], node)
    return {name: _replaced(child, expressions) for name, child in node.items()}
