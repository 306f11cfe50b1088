"""Column lineage: the columns from which each column of a table is derived, read from the table's SELECT.

Contains the analysis with sqlglot and its cache. Nothing here runs a query or knows Dagster.
"""

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from segmentation_pipeline.tables.catalog import contracts, has_select, select_of
from segmentation_pipeline.warehouse.queries import BUILT_RELATIONS

if TYPE_CHECKING:
    from sqlglot import exp
    from sqlglot.optimizer.scope import Scope

# Part of the cache's digest: raise it when the analysis below gives other results for the same SELECTs.
_VERSION = "2"
_IN_MEMORY: "dict[str, Mapping[str, TableLineage]]" = {}


class ColumnSource(NamedTuple):
    """A column from which another one is derived."""

    table: str
    column: str


TableLineage = Mapping[str, tuple[ColumnSource, ...]]


def column_lineage(select: str) -> TableLineage:
    """Return the sources of each column of a SELECT.

    A source is a stored column that the expression of the column names, in a CASE condition or a window too. Columns
    that only filter, join or group rows are no sources. Relations that Python builds lead to the table that they are
    built from.

    Raises:
        sqlglot.errors.SqlglotError: sqlglot does not understand the SELECT.
    """
    # 0.15 s: imported only where the cache does not answer.
    import sqlglot
    from sqlglot.optimizer.qualify import qualify
    from sqlglot.optimizer.scope import build_scope

    tree = sqlglot.parse_one(select, read="duckdb")
    _replace_using(tree)
    qualified = qualify(
        tree,
        schema=_schema(),
        dialect="duckdb",
        quote_identifiers=False,
        identify=False,
        validate_qualify_columns=False,
    )
    scope = build_scope(qualified)
    assert scope is not None
    return {name: tuple(sorted(sources)) for name, sources in _Analysis().outputs(scope).items()}


def lineage_of_tables(cache_file: Path) -> Mapping[str, TableLineage]:
    """Return the lineage of every table that has a SELECT.

    The analysis of all SELECTs takes half a second, so it is kept in memory and in the file for as long as SELECTs and
    contracts are the same. A table whose SELECT sqlglot does not understand is left out, with a warning.
    """
    if (digest := _digest()) not in _IN_MEMORY:
        _IN_MEMORY[digest] = _stored(cache_file, digest) or _computed(cache_file, digest)
    return _IN_MEMORY[digest]


def _stored(file: Path, digest: str) -> Mapping[str, TableLineage] | None:
    try:
        stored = json.loads(file.read_text("utf-8"))
        return _from_json(stored["tables"]) if stored["digest"] == digest else None
    except (OSError, ValueError, KeyError, TypeError):
        # Absent, or damaged.
        return None


def _computed(file: Path, digest: str) -> Mapping[str, TableLineage]:
    tables = _analysed()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps({"digest": digest, "tables": tables}), "utf-8")
        partial.replace(file)
    except OSError:
        logging.getLogger(__name__).debug("column lineage is not cached in %s", file, exc_info=True)
    return tables


def _from_json(tables: Any) -> dict[str, TableLineage]:
    return {
        table: {column: tuple(ColumnSource(*source) for source in sources) for column, sources in columns.items()}
        for table, columns in tables.items()
    }


def _analysed() -> dict[str, TableLineage]:
    tables: dict[str, TableLineage] = {}
    for table in filter(has_select, contracts()):
        try:
            found = column_lineage(select_of(table))
        except Exception as error:
            # sqlglot and the walk through its scopes raise many kinds of errors for a SELECT that they do not know, and
            # lineage is no reason to fail a run whose tables are right.
            logging.getLogger(__name__).warning("%s has no column lineage: %r", table, error)
            continue
        # `extra` of raw_transactions is no column of the table.
        tables[table] = {name: sources for name, sources in found.items() if name != "extra"}
    return tables


@cache
def _digest() -> str:
    texts = [_VERSION, repr(BUILT_RELATIONS)]
    texts += [f"{table} {contract.names}" for table, contract in contracts().items()]
    texts += [select_of(table) for table in contracts() if has_select(table)]
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


@cache
def _schema() -> dict[str, object]:
    """Return every relation's columns, which sqlglot needs to expand `*` and to find whose a column is."""
    schema = {
        table: {column.name: column.type for column in contract.columns} for table, contract in contracts().items()
    }
    for relation, built in BUILT_RELATIONS.items():
        columns = (schema[built.table] if built.table else {}) | dict.fromkeys(built.columns, "VARCHAR")
        # sqlglot rejects a relation without columns.
        if columns:
            schema[relation] = columns
    return dict(schema)


def _replace_using(tree: "exp.Expr") -> None:
    """Take a column that a USING joins on from the first relation, as sqlglot would name it in all of them."""
    from sqlglot import exp

    for select in list(tree.find_all(exp.Select)):
        joined = {name.name for join in select.args.get("joins") or () for name in join.args.get("using") or ()}
        for join in select.args.get("joins") or ():
            join.set("using", None)
        source = select.args.get("from_")
        if joined and source is not None:
            for column in _columns(select):
                if column.name in joined and not column.table:
                    column.set("table", exp.to_identifier(source.this.alias_or_name))


def _columns(select: "exp.Select") -> "Iterator[exp.Column]":
    """Yield the columns of a SELECT without those of its subqueries."""
    from sqlglot import exp

    for node in select.walk(prune=lambda node: isinstance(node, exp.Query) and node is not select):
        if isinstance(node, exp.Column):
            yield node


@dataclass
class _Analysis:
    """The outputs of the scopes of one qualified SELECT; each scope is analysed once."""

    known: dict[int, dict[str, set[ColumnSource]]] = field(default_factory=dict)

    def outputs(self, scope: "Scope") -> dict[str, set[ColumnSource]]:
        """Return the sources of each column that a scope selects."""
        if id(scope) not in self.known:
            self.known[id(scope)] = self._union(scope) if scope.set_operation_scopes else self._selected(scope)
        return self.known[id(scope)]

    def _union(self, scope: "Scope") -> dict[str, set[ColumnSource]]:
        first, *others = (self.outputs(part) for part in scope.set_operation_scopes)
        columns = zip(first, *(other.values() for other in others), strict=True)
        return {name: first[name].union(*sources) for name, *sources in columns}

    def _selected(self, scope: "Scope") -> dict[str, set[ColumnSource]]:
        from sqlglot import exp

        outputs: dict[str, set[ColumnSource]] = {}
        assert isinstance(scope.expression, exp.Query)
        for projection in scope.expression.selects:
            outputs.setdefault(projection.alias_or_name, set()).update(self._sources(projection, scope))
        return outputs

    def _sources(self, expression: "exp.Expr", scope: "Scope") -> Iterator[ColumnSource]:
        from sqlglot import exp

        windows = {window.name: window for window in scope.expression.args.get("windows") or ()}
        for node in expression.walk(prune=lambda node: isinstance(node, exp.Query)):
            if isinstance(node, exp.Column):
                yield from self._of_column(node.table, node.name, scope)
            elif isinstance(node, exp.Query):
                for subquery in scope.subquery_scopes:
                    if subquery.expression is node.unnest():
                        yield from set().union(*self.outputs(subquery).values())
            elif isinstance(node, exp.Window) and node.alias in windows:
                yield from self._sources(windows[node.alias].copy(), scope)

    def _of_column(self, alias: str, name: str, scope: "Scope") -> Iterator[ColumnSource]:
        from sqlglot import exp

        source = scope.sources.get(alias)
        if source is None:
            # A column of the query around this one; or the variable of a list comprehension, which has no source.
            if scope.parent is not None:
                yield from self._of_column(alias, name, scope.parent)
            return
        if isinstance(source, exp.Table):
            # sqlglot leaves a CTE that is unpivoted as a table.
            source = scope.cte_sources.get(source.name, source)
        for pivot in scope.pivots:
            made = _made_by(pivot)
            if alias == pivot.alias_or_name and name in made:
                for column in made[name]:
                    yield from self._in(source, column)
                return
        yield from self._in(source, name)

    def _in(self, source: Any, name: str) -> Iterator[ColumnSource]:
        """Yield the sources of a column of a table, a CTE or a subquery."""
        from sqlglot import exp

        if not isinstance(source, exp.Table):
            yield from self.outputs(source).get(name, ())
        elif source.name in BUILT_RELATIONS:
            built = BUILT_RELATIONS[source.name]
            if built.table:
                yield from (ColumnSource(built.table, column) for column in built.columns.get(name, (name,)))
        elif source.name in contracts():
            yield ColumnSource(source.name, name)


def _made_by(pivot: "exp.Pivot") -> dict[str, list[str]]:
    """Return the columns that an UNPIVOT makes, each with the columns that its values come from."""
    if not pivot.args.get("unpivot"):
        return {}
    [names] = pivot.fields
    made = {value.name: [column.name for column in names.expressions] for value in pivot.expressions}
    # Its other column holds the names of columns.
    return {**made, names.this.name: []}
