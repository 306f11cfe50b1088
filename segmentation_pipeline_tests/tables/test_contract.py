"""A write that breaks a contract is reported by rule, and changes no table."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import dagster as dg
import duckdb
import pytest

from segmentation_pipeline.config.sections import Privacy
from segmentation_pipeline.errors import WarehouseError
from segmentation_pipeline.orchestration.sql_assets import write_tables
from segmentation_pipeline.tables.catalog import contracts, has_select
from segmentation_pipeline.tables.contract import Column, Contract, Violation, literal, quoted
from segmentation_pipeline.warehouse.connection import connection_to
from segmentation_pipeline.warehouse.database import Warehouse
from segmentation_pipeline.warehouse.queries import QueryInputs
from segmentation_pipeline.warehouse.table_write import TableWrite
from segmentation_pipeline_tests.scenarios import OpenDatabase

SHELF = Contract(
    table="shelf",
    stage="shop",
    description="One row per product on the shelf. Counted by hand.",
    key=("product", "place"),
    columns=(
        Column(name="product", type="VARCHAR", description="The product's name"),
        Column(name="place", type="INTEGER", description="Its place, from the left"),
        Column(name="units", type="INTEGER", description="What lies there", unit="units", minimum=0, maximum=9),
        Column(name="colour", type="VARCHAR", description="The label's colour", nullable=True, allowed=("red", "blue")),
        Column(name="price", type="DOUBLE", description="Price of a unit", unit="pounds", nullable=True, minimum=0.5),
    ),
)
Row = tuple[Any, ...]
GOOD: list[Row] = [("jam", 1, 0, "red", 0.5), ("jam", 2, 9, None, None), ("tea", 1, 5, "blue", 7.25)]


def violations(connection: duckdb.DuckDBPyConnection, rows: Sequence[Row]) -> list[Violation]:
    """Return the violations of a table `shelf` with these rows."""
    connection.execute("create or replace table shelf (product text, place int, units int, colour text, price double)")
    for row in rows:
        connection.execute("insert into shelf values (?, ?, ?, ?, ?)", list(row))
    return SHELF.check(connection)[1]


def test_a_table_that_follows_every_rule_has_no_violation(connection: duckdb.DuckDBPyConnection) -> None:
    assert violations(connection, GOOD) == []


@pytest.mark.parametrize(
    ("bad", "violation"),
    [
        pytest.param([("jam", None, 1, "red", 1.0)], ("place", "not null", "1 rows"), id="null"),
        pytest.param([("jam", 3, 1, "green", 1.0)], ("colour", "one of red, blue", "1 rows"), id="value not allowed"),
        pytest.param([("jam", 3, -1, "red", 1.0)], ("units", "at least 0", "1 rows"), id="below"),
        pytest.param([("jam", 3, 10, "red", 1.0)], ("units", "at most 9", "1 rows"), id="above"),
        pytest.param([("jam", 3, 1, "red", 0.499)], ("price", "at least 0.5", "1 rows"), id="below a fraction"),
        pytest.param([("jam", 3, 1, "red", float("nan"))], ("price", "a finite number", "1 rows"), id="not a number"),
        pytest.param([("jam", 3, 1, "red", float("inf"))], ("price", "a finite number", "1 rows"), id="infinite"),
        pytest.param([GOOD[0], GOOD[0]], ("product, place", "unique", "2 rows repeat a key"), id="repeated key"),
    ],
)
def test_a_violation_names_column_rule_and_number_of_rows(
    connection: duckdb.DuckDBPyConnection, bad: list[Row], violation: tuple[str, str, str]
) -> None:
    assert violations(connection, [*GOOD, *bad]) == [Violation(*violation)]


def test_all_violations_are_reported_at_once(connection: duckdb.DuckDBPyConnection) -> None:
    bad = violations(
        connection, [("jam", None, 11, "green", 1.0), ("jam", None, -3, "green", 0.1), ("tea", 1, 1, "x", 1)]
    )
    assert [(item.column, item.rule, item.found) for item in bad] == [
        ("place", "not null", "2 rows"),
        ("units", "at least 0", "1 rows"),
        ("units", "at most 9", "1 rows"),
        ("colour", "one of red, blue", "3 rows"),
        ("price", "at least 0.5", "1 rows"),
        ("product, place", "unique", "1 rows repeat a key"),
    ]


@pytest.mark.parametrize(
    ("lines", "repeated"),
    [
        pytest.param([1, 2, 4095, 4096, 4097, 8192, 2**40, -1, -4096], 0, id="at the ends of blocks"),
        pytest.param([1, 4097, 1, 4097, 4097], 3, id="repeated in two blocks"),
        pytest.param([-1, 4095, -1], 1, id="below zero"),
    ],
)
def test_repeated_line_numbers_are_counted(
    connection: duckdb.DuckDBPyConnection, lines: list[int], repeated: int
) -> None:
    """Line numbers are counted block by block; each of two files has these lines."""
    columns = (
        Column(name="file", type="VARCHAR", description="A"),
        Column(name="line", type="BIGINT", description="B"),
    )
    pages = Contract(
        table="pages", stage="shop", description="One row per line.", key=("file", "line"), columns=columns
    )
    connection.execute(
        "create table pages as select file, line from (select unnest(['a', 'b']) as file)"
        " cross join (select unnest(cast($lines as bigint[])) as line)",
        {"lines": lines},
    )
    expected = [Violation("file, line", "unique", f"{2 * repeated} rows repeat a key")] if repeated else []
    assert pages.check(connection) == (2 * len(lines), expected)
    connection.execute("insert into pages values ('a', null)")
    [missing, *others] = pages.check(connection)[1]
    assert (missing, others) == (Violation("line", "not null", "1 rows"), expected)


def test_an_empty_table_violates_unless_it_may_be_empty(warehouse: Warehouse) -> None:
    assert violations(warehouse.connection, []) == [Violation("", "not empty", "0 rows")]
    [result] = warehouse.write([TableWrite("outlier_segments", OUTLIERS + " where false")], {})
    assert (result.rows, result.violations) == (0, ())


@pytest.mark.parametrize(
    ("select", "expected"),
    [
        pytest.param(
            "select product, place, units::bigint as units, colour, price from good",
            [("units", "a column of type INTEGER", "BIGINT")],
            id="wrong type",
        ),
        pytest.param(
            "select * exclude (colour) from good",
            [("colour", "a column of type VARCHAR", "no such column")],
            id="missing column",
        ),
        pytest.param(
            "select *, 1 as depth from good",
            [("depth", "no column beyond the contract", "INTEGER")],
            id="column too many",
        ),
        pytest.param(
            "select place, product, units, colour, price from good",
            [
                (
                    "place, product, units, colour, price",
                    "columns in the order product, place, units, colour, price",
                    "another order",
                )
            ],
            id="reordered columns",
        ),
    ],
)
def test_other_columns_types_or_order_are_violations(
    connection: duckdb.DuckDBPyConnection, select: str, expected: list[tuple[str, str, str]]
) -> None:
    violations(connection, GOOD)
    connection.execute("alter table shelf rename to good")
    connection.execute(f"create table shelf as {select}")
    assert SHELF.check(connection)[1] == [Violation(*item) for item in expected]


OUTLIERS = "select 'c' || x as customer_id, 'pamper' as segment_key from range(3) as made(x)"
NAMED = ("pamper", "PAMPER", "outlier", "A description", "An action", "#c51b8a", None, True)
STORED = [("c0", "pamper"), ("c1", "pamper"), ("c2", "pamper")]


def outliers(warehouse: Warehouse) -> list[Row]:
    return warehouse.connection.execute("select * from outlier_segments order by customer_id").fetchall()


@pytest.mark.parametrize(
    ("bad", "column", "rule"),
    [
        pytest.param("select 'x' as customer_id, null::varchar as segment_key", "segment_key", "not null", id="null"),
        pytest.param("select 'x' as customer_id, 'VIP' as segment_key", "segment_key", "one of", id="not allowed"),
        pytest.param(f"{OUTLIERS} union all {OUTLIERS}", "customer_id", "unique", id="repeated key"),
        pytest.param("select 1 as customer_id, 'pamper' as segment_key", "customer_id", "a column of type", id="type"),
        pytest.param("select 'x' as customer_id", "segment_key", "a column of type", id="missing column"),
        pytest.param(
            "select 'x' as customer_id, 'pamper' as segment_key, 1 as extra", "extra", "no column beyond", id="extra"
        ),
        pytest.param(
            "select 'pamper' as segment_key, 'x' as customer_id",
            "segment_key, customer_id",
            "columns in the order",
            id="reordered",
        ),
    ],
)
def test_a_select_that_breaks_the_contract_changes_nothing(
    warehouse: Warehouse, bad: str, column: str, rule: str
) -> None:
    warehouse.write([TableWrite("outlier_segments", OUTLIERS)], {})
    [result] = warehouse.write([TableWrite("outlier_segments", bad)], {})
    [violation] = result.violations
    assert (violation.column, violation.rule[: len(rule)]) == (column, rule)
    assert outliers(warehouse) == STORED


@pytest.mark.parametrize(
    ("bad", "column", "rule"),
    [
        pytest.param([("pamper", None, *NAMED[2:])], "segment", "not null", id="null"),
        pytest.param([NAMED, NAMED], "segment_key", "unique", id="repeated key"),
        pytest.param([("vip", *NAMED[1:])], "segment_key", "one of", id="not allowed"),
        pytest.param([], "", "not empty", id="empty"),
    ],
)
def test_rows_from_python_that_break_the_contract_change_nothing(
    warehouse: Warehouse, bad: list[Row], column: str, rule: str
) -> None:
    warehouse.write([TableWrite("segments", rows=[NAMED])], {})
    [result] = warehouse.write([TableWrite("segments", rows=bad)], {})
    [violation] = result.violations
    assert (violation.column, violation.rule[: len(rule)]) == (column, rule)
    assert warehouse.connection.execute("select * from segments").fetchall() == [NAMED]


def test_valid_rows_replace_all_old_rows(warehouse: Warehouse) -> None:
    warehouse.write([TableWrite("outlier_segments", OUTLIERS)], {})
    [result] = warehouse.write(
        [TableWrite("outlier_segments", "select 'z' as customer_id, 'examine' as segment_key")], {}
    )
    assert (result.table, result.rows, result.violations) == ("outlier_segments", 1, ())
    assert outliers(warehouse) == [("z", "examine")]


def test_a_select_may_read_the_table_that_it_replaces(warehouse: Warehouse) -> None:
    warehouse.write([TableWrite("outlier_segments", OUTLIERS)], {})
    again = "select customer_id, 'delight' as segment_key from outlier_segments where customer_id > 'c0'"
    warehouse.write([TableWrite("outlier_segments", again)], {})
    assert outliers(warehouse) == [("c1", "delight"), ("c2", "delight")]


@pytest.mark.parametrize("broken_at", [0, 1])
def test_several_tables_are_replaced_together_or_not_at_all(warehouse: Warehouse, broken_at: int) -> None:
    old = [TableWrite("outlier_segments", OUTLIERS), TableWrite("segments", rows=[NAMED])]
    assert [result.violations for result in warehouse.write(old, {})] == [(), ()]
    new = [
        TableWrite("outlier_segments", "select 'n' as customer_id, 'upsell' as segment_key"),
        TableWrite("segments", rows=[("upsell", "UPSELL", *NAMED[2:])]),
    ]
    bad = [
        TableWrite("outlier_segments", "select 'n' as customer_id, 'VIP' as segment_key"),
        TableWrite("segments", rows=[("upsell", "UPSELL", "no group", *NAMED[3:])]),
    ]
    results = warehouse.write([bad[0], new[1]] if broken_at == 0 else [new[0], bad[1]], {})
    assert [bool(result.violations) for result in results] == [broken_at == 0, broken_at == 1]
    assert outliers(warehouse) == STORED
    assert warehouse.connection.execute("select * from segments").fetchall() == [NAMED]
    warehouse.write(new, {})
    assert outliers(warehouse) == [("n", "upsell")]
    assert warehouse.count("segments") == 1


def test_a_violation_creates_no_table(warehouse: Warehouse) -> None:
    warehouse.write([TableWrite("outlier_segments", "select 'x' as customer_id, 'VIP' as segment_key")], {})
    assert not warehouse.has("outlier_segments")


def test_opening_creates_state_tables_empty_and_a_violation_keeps_them(
    warehouse: Warehouse,
) -> None:
    state = {table for table, contract in contracts().items() if contract.state}
    assert state >= {"segmentation_models", "model_features", "model_centroids", "segments", "segment_membership"}
    assert {table: warehouse.count(table) for table in contracts() if warehouse.has(table)} == dict.fromkeys(state, 0)
    warehouse.write([TableWrite("segments", rows=[("vip", *NAMED[1:])])], {})
    assert warehouse.count("segments") == 0


def test_an_error_of_a_select_rolls_back_all_writes(warehouse: Warehouse) -> None:
    warehouse.write([TableWrite("outlier_segments", OUTLIERS)], {})
    good = TableWrite("segments", rows=[NAMED])
    with pytest.raises(duckdb.ConversionException):
        warehouse.write([good, TableWrite("outlier_segments", "select cast('x' as integer) as customer_id")], {})
    assert outliers(warehouse) == STORED
    assert warehouse.count("segments") == 0
    warehouse.write([good], {})
    assert warehouse.count("segments") == 1


def test_the_file_does_not_hold_what_was_rolled_back(tmp_path: Path) -> None:
    file, spill = tmp_path / "work.duckdb", tmp_path / "tmp"
    with connection_to(file, spill, 0, pytest.fail) as connection:
        Warehouse(connection).write([TableWrite("outlier_segments", OUTLIERS)], {})
    with connection_to(file, spill, 0, pytest.fail) as connection:
        Warehouse(connection).write(
            [TableWrite("outlier_segments", "select 'x' as customer_id, '' as segment_key")], {}
        )
    with connection_to(file, spill, 0, pytest.fail) as connection:
        assert outliers(Warehouse(connection)) == STORED


def test_opening_drops_derived_tables_of_another_version(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    Warehouse(connection).write([TableWrite("outlier_segments", OUTLIERS), TableWrite("segments", rows=[NAMED])], {})
    connection.execute("alter table outlier_segments rename segment_key to label")
    opened = Warehouse(connection)
    assert (opened.has("outlier_segments"), opened.count("segments")) == (False, 1)


def test_opening_never_drops_state_of_another_version(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    Warehouse(connection).write([TableWrite("segments", rows=[NAMED])], {})
    connection.execute("alter table segments rename colour to color")
    with pytest.raises(
        WarehouseError, match=r"another version of this package wrote the working database \(segments\)"
    ):
        Warehouse(connection)
    assert connection.execute("select count(*) from segments").fetchone() == (1,)


def test_values_are_bound_and_unused_ones_ignored(warehouse: Warehouse) -> None:
    nasty = "x'); drop table segments; --"
    inputs = QueryInputs({"own": "select $who as customer_id", "unread": "select $never_bound"}, {"who": nasty})
    select = "select customer_id, $key as segment_key from own"
    [result] = warehouse.write([TableWrite("outlier_segments", select)], {"key": "examine", "other": 1}, inputs)
    assert result.violations == ()
    assert outliers(warehouse) == [(nasty, "examine")]


def test_ddl_creates_types_and_not_null(connection: duckdb.DuckDBPyConnection) -> None:
    connection.execute(SHELF.ddl())
    described = connection.execute('select column_name, column_type, "null" from (describe shelf)').fetchall()
    assert described == [
        ("product", "VARCHAR", "NO"),
        ("place", "INTEGER", "NO"),
        ("units", "INTEGER", "NO"),
        ("colour", "VARCHAR", "YES"),
        ("price", "DOUBLE", "YES"),
    ]
    with pytest.raises(duckdb.ConstraintException):
        connection.execute("insert into shelf values ('jam', 1, null, null, null)")


def test_comments_hold_descriptions_and_units(connection: duckdb.DuckDBPyConnection) -> None:
    connection.execute(SHELF.ddl())
    SHELF.write_comments(connection)
    table = connection.execute("select comment from duckdb_tables() where table_name = 'shelf'").fetchone()
    assert table == ("One row per product on the shelf. Counted by hand.",)
    columns = connection.execute(
        "select comment from duckdb_columns() where table_name = 'shelf' order by column_index"
    )
    assert [comment for (comment,) in columns.fetchall()] == [
        "The product's name",
        "Its place, from the left",
        "What lies there [units]",
        "The label's colour",
        "Price of a unit [pounds]",
    ]


def test_any_identifier_and_text_is_quoted(connection: duckdb.DuckDBPyConnection) -> None:
    table, column = 'odd"; drop table victim; --', 'select "x" from'
    odd = Contract(
        table=table,
        stage="shop",
        description="One row per table of Bobby's. '; drop table victim; --",
        key=(column,),
        columns=(Column(name=column, type="VARCHAR", description="It's 'quoted'", unit="'\"", allowed=("it's",)),),
    )
    connection.execute("create table victim (x integer)")
    connection.execute(odd.ddl())
    connection.execute(f"insert into {quoted(table)} values ('it''s')")
    odd.write_comments(connection)
    assert odd.check(connection)[1] == []
    connection.execute(f"insert into {quoted(table)} values ('its')")
    assert odd.check(connection)[1] == [Violation(column, "one of it's", "1 rows")]
    tables = connection.execute("select table_name, comment from duckdb_tables() order by table_name").fetchall()
    assert tables == [(table, "One row per table of Bobby's. '; drop table victim; --"), ("victim", None)]
    assert connection.execute(f"select {literal(odd.description)}").fetchone() == (odd.description,)


def test_rules_are_described_for_the_columns_tab() -> None:
    assert [column.rules for column in SHELF.columns] == [
        "",
        "",
        "at least 0; at most 9",
        "one of red, blue",
        "at least 0.5",
    ]


# Each table is written as its asset writes it: by a SELECT, or with rows from Python.


def valid_value(column: Column) -> Any:
    """Return a value that follows every rule of a column."""
    if column.allowed:
        return column.allowed[0]
    examples = {
        "VARCHAR": "x",
        "TIMESTAMP": datetime.fromisoformat("2024-03-31 12:00:00"),
        "BOOLEAN": False,
        "DOUBLE[]": [0.5],
        "VARCHAR[]": ["x"],
        "TIMESTAMP[]": [datetime.fromisoformat("2024-03-31 12:00:00")],
    }
    return examples.get(column.type, 1 if column.minimum is None else column.minimum)


def invalid_values(column: Column) -> Iterator[tuple[Any, str]]:
    """Yield a value that breaks each rule of a column, with the rule in words."""
    if not column.nullable:
        yield None, "not null"
    if column.allowed:
        yield "no such" if column.type == "VARCHAR" else -1, f"one of {', '.join(map(str, column.allowed))}"
    if column.minimum is not None:
        yield column.minimum - 1, f"at least {column.minimum:g}"
    if column.maximum is not None:
        yield column.maximum + 1, f"at most {column.maximum:g}"
    # DuckDB sorts NaN above every number, so it would break a maximum too.
    if column.type == "DOUBLE" and column.maximum is None:
        yield float("nan"), "a finite number"


def invalid_rows(contract: Contract, valid: Row) -> Iterator[tuple[list[Row], str, str]]:
    """Yield rows that break one rule of a contract each, with the column and the rule in words."""
    yield [valid, valid], ", ".join(contract.key), "unique"
    for place, column in enumerate(contract.columns):
        for value, rule in invalid_values(column):
            yield [(*valid[:place], value, *valid[place + 1 :])], column.name, rule


def materialised(warehouse: Warehouse, contract: Contract, rows: Sequence[Row]) -> tuple[list[Any], str]:
    """Return what the asset of a table yields for these rows, and the message that it fails with."""
    values: dict[str, Any] = {}
    if has_select(contract.table):
        selects = []
        for number, row in enumerate(rows):
            values |= {f"v{number}_{place}": value for place, value in enumerate(row)}
            cells = [
                f"cast($v{number}_{place} as {column.type}) as {quoted(column.name)}"
                for place, column in enumerate(contract.columns)
            ]
            selects.append(f"select {', '.join(cells)}")
        write = TableWrite(contract.table, " union all ".join(selects))
    else:
        write = TableWrite(contract.table, rows=rows)
    retailer: Any = SimpleNamespace(settings=SimpleNamespace(sql_values=values, privacy=Privacy()))
    yielded: list[Any] = []
    try:
        for result in write_tables(retailer, cast(Any, OpenDatabase(warehouse)), [write]):
            yielded.append(result)  # noqa: PERF402 - keeps the results before a failure
    except dg.Failure as failure:
        return yielded, failure.description or ""
    return yielded, ""


@pytest.mark.parametrize("table", contracts())
def test_each_table_follows_every_rule_of_its_contract(warehouse: Warehouse, table: str) -> None:
    contract = contracts()[table]
    names = [column.name for column in contract.columns]
    assert len(set(names)) == len(names)
    assert {column.name for column in contract.columns if not column.nullable} >= set(contract.key)
    assert all(column.description for column in contract.columns)
    assert all(column.unit for column in contract.columns if column.type.startswith("DECIMAL"))
    valid = tuple(map(valid_value, contract.columns))
    [check, materialization], message = materialised(warehouse, contract, [valid])
    assert (check.passed, check.asset_key.to_user_string(), message) == (True, table, "")
    assert materialization.metadata["dagster/row_count"] == 1
    stored = warehouse.rows(f"select * from {quoted(table)}")
    for rows, column, rule in invalid_rows(contract, valid):
        [check], message = materialised(warehouse, contract, rows)
        violated = [record.data for record in check.metadata["violations"].records]
        assert not check.passed
        assert [(found["column"], found["rule"]) for found in violated] == [(column, rule)]
        assert message.startswith(f"{table} would break its contract ({column}: {rule}, found 1 rows")
        assert warehouse.rows(f"select * from {quoted(table)}") == stored
