"""Translate the SELECTs of this package from DuckDB to Spark SQL, with the same result.

Contains every difference of the two dialects that the SELECTs meet and sqlglot does not treat: one rule each. Nothing
here runs a query. Spark runs with the session settings in `session`.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from functools import cache
from typing import Any

import sqlglot
from sqlglot import exp

from segmentation_pipeline.tables.catalog import macros


def spark_select(select: str, values: Mapping[str, Any]) -> str:
    """Return a SELECT in Spark's dialect; bound values keep their names, with `:` in place of `$`.

    Schemas such as `main` and `temp` are left out: Spark knows every relation by its name alone.

    Raises:
        sqlglot.errors.UnsupportedError: Spark has nothing for a part of the SELECT.
    """
    tree = sqlglot.parse_one(select, read="duckdb")
    for rule in _RULES:
        tree = tree.transform(rule, copy=False)
    tree = tree.transform(lambda node: _typed_value(node, values), copy=False)
    # In parentheses, because sqlglot would move the CTEs of inner SELECTs to the outermost one, where two of them can
    # have one name. Spark knows inner CTEs.
    return exp.paren(tree, copy=False).sql("spark", unsupported_level=sqlglot.ErrorLevel.RAISE)[1:-1]


def spark_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return bound values as Spark binds them: times as text, which `spark_select` casts to times without a zone."""
    return {name: value.isoformat(" ") if isinstance(value, datetime) else value for name, value in values.items()}


def _inlined_macro(node: exp.Expr) -> exp.Expr:
    """Replace the call of a macro of this package, which Spark does not know, by its body."""
    if not isinstance(node, exp.Anonymous) or node.name.lower() not in _macros():
        return node
    parameters, body = _macros()[node.name.lower()]
    arguments = dict(zip(parameters, node.expressions, strict=True))
    inlined: exp.Expr = exp.paren(body.copy(), copy=False).transform(
        lambda part: arguments[part.name].copy() if isinstance(part, exp.Column) and part.name in arguments else part
    )
    return inlined


@cache
def _macros() -> Mapping[str, tuple[tuple[str, ...], exp.Expr]]:
    """Return the parameters and the body of each macro by its name."""
    created = [statement for statement in sqlglot.parse(macros(), read="duckdb") if statement is not None]
    return {
        statement.this.this.name: (tuple(part.name for part in statement.this.expressions), statement.expression)
        for statement in created
    }


def _without_schema(node: exp.Expr) -> exp.Expr:
    if isinstance(node, exp.Table):
        node.set("db", None)
        node.set("catalog", None)
    return node


def _without_zone(node: exp.Expr) -> exp.Expr:
    """Keep the start of a month a time without a zone: Spark's `date_trunc` makes it one with the session's."""
    is_start = isinstance(node, (exp.DateTrunc, exp.TimestampTrunc)) and not isinstance(node.parent, exp.Cast)
    return exp.cast(node, "TIMESTAMP", copy=False) if is_start else node


def _days_by_date(node: exp.Expr) -> exp.Expr:
    """Count the midnights between two times, as DuckDB does: Spark counts periods of 24 hours."""
    if isinstance(node, exp.DateDiff) and node.text("unit").upper() == "DAY":
        for side in ("this", "expression"):
            node.set(side, exp.cast(node.args[side], "DATE"))
    return node


def _seconds_with_fractions(node: exp.Expr) -> exp.Expr:
    """Keep the fraction of a second, which Spark's `unix_timestamp` cuts off."""
    if not isinstance(node, (exp.TimeToUnix, exp.UnixSeconds)):
        return node
    epoch = exp.cast(exp.Literal.string("1970-01-01"), "TIMESTAMP")
    time = exp.cast(node.this.copy(), "TIMESTAMP")
    micros = exp.Anonymous(this="timestampdiff", expressions=[exp.Var(this="MICROSECOND"), epoch, time])
    return exp.paren(exp.Div(this=exp.cast(micros, "DOUBLE"), expression=exp.Literal.number("1000000")), copy=False)


def _wide_hash(node: exp.Expr) -> exp.Expr:
    """Take a hash of 64 bits, whose sum does not overflow. It is another than DuckDB's, and never leaves the engine."""
    if not isinstance(node, exp.Anonymous) or node.name.lower() != "hash":
        return node
    hashed = exp.Anonymous(this="xxhash64", expressions=node.expressions)
    return exp.cast(hashed, "DECIMAL(20, 0)")


def _wide_row_number(node: exp.Expr) -> exp.Expr:
    """Number rows by a sum of 64 bits, because Spark's `row_number` has 32."""
    if not isinstance(node, exp.Window) or not isinstance(node.this, exp.RowNumber):
        return node
    node.set("this", exp.Sum(this=exp.cast(exp.Literal.number(1), "BIGINT")))
    bounds = {"kind": "ROWS", "start": "UNBOUNDED", "start_side": "PRECEDING", "end": "CURRENT ROW"}
    node.set("spec", exp.WindowSpec(**bounds))
    return node


def _empty_series(node: exp.Expr) -> exp.Expr:
    """Give no month where the first is after the last, which is an error in Spark."""
    if not isinstance(node, exp.GenerateSeries) or isinstance(node.parent, exp.If):
        return node
    start, end = node.args["start"], node.args["end"]
    return exp.If(this=exp.LTE(this=start.copy(), expression=end.copy()), true=node, false=exp.null())


def _replaces_all(node: exp.Expr) -> exp.Expr:
    """Accept only a replacement of all matches: Spark always replaces all, DuckDB only with the option `g`.

    Raises:
        sqlglot.errors.UnsupportedError: The option is missing.
    """
    if isinstance(node, exp.RegexpReplace):
        if "g" not in node.text("modifiers"):
            raise sqlglot.errors.UnsupportedError(f"{node.sql('duckdb')}: Spark replaces every match")
        node.set("modifiers", None)
        node.set("single_replace", None)
    return node


def _replaced_columns(node: exp.Expr) -> exp.Expr:
    """Write `* replace` as the columns except the replaced ones, and these behind them."""
    if not isinstance(node, exp.Select):
        return node
    for star in [one for one in node.expressions if isinstance(one, exp.Star) and one.args.get("replace")]:
        replaced = star.args["replace"]
        star.set("replace", None)
        star.set("except_", [exp.column(one.alias) for one in replaced])
        node.set("expressions", [*node.expressions, *replaced])
    return node


_RULES: tuple[Callable[[exp.Expr], exp.Expr], ...] = (
    _inlined_macro,
    _without_schema,
    _without_zone,
    _days_by_date,
    _seconds_with_fractions,
    _wide_hash,
    _wide_row_number,
    _empty_series,
    _replaces_all,
    _replaced_columns,
)


def _typed_value(node: exp.Expr, values: Mapping[str, Any]) -> exp.Expr:
    """Cast a bound time, which would have the session's zone."""
    if not isinstance(node, (exp.Parameter, exp.Placeholder)) or isinstance(node.parent, exp.Cast):
        return node
    return exp.cast(node, "TIMESTAMP", copy=False) if isinstance(values.get(_name(node)), datetime) else node


def _name(node: exp.Expr) -> str:
    return node.name or node.this.name
