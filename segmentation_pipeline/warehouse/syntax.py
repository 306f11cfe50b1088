"""DuckDB's syntax tree of a SELECT, and the text of a tree.

Contains what reads and writes SQL text through DuckDB's own parser. Nothing here opens the working database.
"""

import json
from functools import cache
from typing import Any

import duckdb

Tree = dict[str, Any]


def syntax_tree(select: str) -> Tree:
    """Return the syntax tree of a SELECT.

    Raises:
        ValueError: The text is not a SELECT.
    """
    tree: Tree = json.loads(_answer("select json_serialize_sql($text)", select))
    if tree["error"]:
        raise ValueError(f"not a SELECT: {tree['error_message']}")
    return tree


def text_of(tree: Tree) -> str:
    """Return the SELECT that has a syntax tree."""
    return _answer("select json_deserialize_sql(cast($text as json))", json.dumps(tree))


@cache
def macro_bodies(statements: str) -> dict[str, tuple[tuple[str, ...], str]]:
    """Return the parameters and the body of each macro that the statements create."""
    connection = duckdb.connect(config={"threads": 1})
    with connection:
        connection.execute(statements)
        found = connection.execute(
            "select function_name, parameters, macro_definition from duckdb_functions()"
            " where function_type = 'macro' and database_name = 'temp' and not internal"
        ).fetchall()
    return {name: (tuple(parameters), body) for name, parameters, body in found}


def _answer(query: str, text: str) -> str:
    row = _parser().execute(query, {"text": text}).fetchone()
    assert row is not None
    return str(row[0])


@cache
def _parser() -> duckdb.DuckDBPyConnection:
    return duckdb.connect(config={"threads": 1})
