"""An empty value of an invoice's later line is that of the nearest line above."""

import gc
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import pytest
import sqlglot
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlglot import exp

from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.ingestion.discovery import source_files
from segmentation_pipeline.ingestion.fill_down import fill_down_select
from segmentation_pipeline.ingestion.incremental import LoadRequest, SourceLoad, load_source
from segmentation_pipeline.warehouse.database import Warehouse
from segmentation_pipeline_tests.scenarios import examples, write_csv
from segmentation_pipeline_tests.workbooks import write_workbook

HEADER = ("No", "Mail", "At", "Tag", "Money")
FILLED = ("customer_id", "transaction_at", "tag")
Line = tuple[str, ...]


@pytest.fixture(scope="module")
def warehouse() -> Iterator[Warehouse]:
    """The working database; without the callback that Hypothesis adds to the garbage collector."""
    before = gc.callbacks.copy()
    with duckdb.connect(config={"threads": 2}) as connection:
        yield Warehouse(connection)
    gc.callbacks[:] = before


def shop(columns: dict[str, Any] | None = None, **source: Any) -> Retailer:
    return Retailer.model_validate(
        {
            "name": "corner_shop",
            "title": "Corner shop",
            "time_zone": "Europe/London",
            "currency": "GBP",
            "source": {"path": "in", "fill_down": FILLED, **source},
            "columns": {
                "invoice": "No",
                "customer_id": "Mail",
                "transaction_at": "At",
                "amount": "Money",
                "extra": {"tag": "Tag"},
                **(columns or {}),
            },
        }
    )


def load(warehouse: Warehouse, retailer: Retailer, base: Path) -> SourceLoad:
    """Read all files into `raw_transactions`."""
    warehouse.drop("raw_transactions")
    files, request = source_files(retailer.source, base), LoadRequest("a run", "", "")
    with load_source(warehouse, retailer, files, base / "spill", request) as source:
        results = warehouse.write(source.writes, retailer.sql_values, source.inputs)
    assert not any(result.violations for result in results)
    return source


def stored(warehouse: Warehouse, columns: str = "customer_id, transaction_at, tag") -> list[tuple[Any, ...]]:
    """Return columns of the lines, in the order of files and lines."""
    select = f"select {columns} from raw_transactions order by source_file, source_sheet, source_line"
    return warehouse.connection.execute(select).fetchall()


def expected(lines: Sequence[Line]) -> list[tuple[Any, ...]]:
    """Return what a person reads in the lines of one file."""
    read: list[tuple[str, list[str]]] = []
    for invoice, *head, _ in lines:
        key = invoice.strip().removesuffix(".0")
        cells = [cell.strip() for cell in head]
        above = next((values for other, values in reversed(read) if other == key), None)
        if key and above:
            cells = [cell or value for cell, value in zip(cells, above, strict=True)]
        read.append((key, cells))
    return [(mail or None, datetime.fromisoformat(at) if at else None, tag or None) for _, (mail, at, tag) in read]


cells = st.tuples(
    st.sampled_from(["1", "2", "1.0", " 2", "A-1", "", " "]),
    st.sampled_from(["", "", " ", "a@x.example", "b@x.example "]),
    st.sampled_from(["", "", "2024-03-01 10:00:00", "2024-03-02"]),
    st.sampled_from(["", "\u00a0", "gift", "7"]),
    st.just("5"),
)


@given(st.lists(st.lists(cells, min_size=1, max_size=12), min_size=1, max_size=3))
@settings(
    max_examples=examples(12),
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
def test_any_lines_are_filled_as_a_person_reads_them(warehouse: Warehouse, files: list[list[Line]]) -> None:
    with TemporaryDirectory() as folder:
        for number, lines in enumerate(files):
            write_csv(Path(folder) / "in" / f"{number}.csv", lines, HEADER)
        source = load(warehouse, shop(), Path(folder))
    assert stored(warehouse) == [line for lines in files for line in expected(lines)]
    as_written = [tuple(cell.strip() for cell in line[1:4]) for lines in files for line in lines]
    filled = sum(
        not cell and value is not None
        for line, values in zip(as_written, stored(warehouse), strict=True)
        for cell, value in zip(line, values, strict=True)
    )
    assert source.metrics["values_filled"] == filled
    assert stored(warehouse, "source_line") == [(n,) for lines in files for n in range(2, len(lines) + 2)]


ORDER = [
    ("1", "a@x.example", "2024-03-01 10:00:00", "gift", "5"),
    ("2", "", "", "", "6"),
    ("1", "", "", "", "7"),
    ("2", "b@x.example", "2024-03-02 10:00:00", "", "8"),
    ("1", "c@x.example", "", "", "9"),
    ("1", "", "", "", "10"),
]


def test_number_of_filled_values_is_reported_by_file_and_column(warehouse: Warehouse, tmp_path: Path) -> None:
    write_csv(tmp_path / "in" / "a.csv", ORDER, HEADER)
    write_csv(tmp_path / "in" / "b.csv", [("1", "", "", "", "5")], HEADER)
    source = load(warehouse, shop(), tmp_path)
    assert source.filled["a.csv"] == {"customer_id": 2, "transaction_at": 3, "tag": 3}
    assert sum(source.filled["b.csv"].values()) == 0
    # The first line of invoice 2 has no value, and neither has that of the second file.
    assert [row[0] for row in stored(warehouse)] == [
        "a@x.example",
        None,
        "a@x.example",
        "b@x.example",
        "c@x.example",
        "c@x.example",
        None,
    ]


def test_nothing_is_filled_without_the_setting(warehouse: Warehouse, tmp_path: Path) -> None:
    write_csv(tmp_path / "in" / "a.csv", ORDER, HEADER)
    assert load(warehouse, shop(fill_down=[]), tmp_path).metrics["values_filled"] == 0
    assert [row[0] for row in stored(warehouse)].count(None) == 3


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "xlsx", "csv with a broken line"])
def test_every_format_is_filled(warehouse: Warehouse, tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "in"
    plain = write_csv(folder / "a.csv", ORDER, HEADER)
    if kind == "csv with a broken line":
        plain.write_text(f'{plain.read_text("utf-8")}1,"never closed\n', "utf-8")
    elif kind == "xlsx":
        write_workbook(folder / "a.xlsx", {"one": [HEADER, *ORDER], "two": [HEADER, ("1", "", "", "", "5")]})
    else:
        json = "json, array false" if kind == "jsonl" else "parquet"
        select = f"select * from read_csv('{plain}', all_varchar = true)"
        duckdb.cursor().execute(f"copy ({select}) to '{folder / f'a.{kind}'}' (format {json})")
    if kind in ("xlsx", "jsonl", "parquet"):
        plain.unlink()
    source = load(warehouse, shop(), tmp_path)
    found = stored(warehouse)
    assert found[:6] == expected(ORDER)
    assert found[6:] in ([], [(None, None, None)])
    assert source.metrics["values_filled"] == 8


def test_a_separate_time_column_is_filled_with_the_date(warehouse: Warehouse, tmp_path: Path) -> None:
    lines = [("1", "a", "2024-03-01", "10:00", "5"), ("1", "", "", "", "5"), ("1", "", "", "11:30", "5")]
    write_csv(tmp_path / "in" / "a.csv", lines, HEADER)
    retailer = shop({"transaction_time": "Tag", "extra": {}}, fill_down=["customer_id", "transaction_at"])
    load(warehouse, retailer, tmp_path)
    assert [str(at) for (at,) in stored(warehouse, "transaction_at")] == [
        "2024-03-01 10:00:00",
        "2024-03-01 10:00:00",
        "2024-03-01 11:30:00",
    ]


def test_value_that_cannot_be_read_is_not_replaced(warehouse: Warehouse, tmp_path: Path) -> None:
    lines = [("1", "a", "2024-03-01", "", "5"), ("1", "", "soon", "", "5"), ("1", "", "", "", "5")]
    write_csv(tmp_path / "in" / "a.csv", lines, HEADER)
    load(warehouse, shop(), tmp_path)
    assert [at is None for (at,) in stored(warehouse, "transaction_at")] == [False, True, True]
    assert [text and "soon" in text for (text,) in stored(warehouse, "unparsed")] == [None, True, True]


def test_filling_translates_to_spark() -> None:
    select = fill_down_select("cells", ["invoice", "customer_id"], ["customer_id"], 2)
    [spark] = sqlglot.transpile(select, read="duckdb", write="spark", unsupported_level=sqlglot.ErrorLevel.RAISE)
    assert sqlglot.parse_one(spark, read="spark").find(exp.IgnoreNulls)
