"""Shops whose lines are on a Spark cluster, beside shops on DuckDB, and what compares their tables."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from segmentation_pipeline.config.engine_settings import Engine
from segmentation_pipeline.spark.engine import spark_lines
from segmentation_pipeline.tables.catalog import contracts
from segmentation_pipeline.tables.contract import literal, quoted
from segmentation_pipeline.warehouse.connection import temporary_database
from segmentation_pipeline.warehouse.database import Warehouse
from segmentation_pipeline.warehouse.line_engine import LINE_FILES, LINE_TABLES
from segmentation_pipeline_tests.scenarios import assets_up_to, line, regular_customers, write_csv
from segmentation_pipeline_tests.shops import ODD_LINES, SECOND_NIGHT, Shop

# A customer of whom no other text has the name.
PERSON = "VERA-77123"
# Columns that each run writes anew.
_OF_THE_RUN = {"run_id", "source_path", "modified_at", "fitted_at", "created_at"}


@dataclass(frozen=True)
class SparkShop(Shop):
    """A shop whose lines are on the cluster, below its own folder."""

    @property
    def lines(self) -> Path:
        """The location of the lines."""
        return self.folder / "lines"

    @property
    def tables(self) -> dict[str, list[tuple[Any, ...]]]:
        """Every table, in the order of its key: those of lines as the Parquet files have them."""
        with duckdb.connect(str(self.work)) as connection:
            for table in LINE_TABLES:
                find = f"select path from {LINE_FILES} where table_name = ?"
                paths = [
                    str(self.lines / "corner_shop" / path) for (path,) in connection.execute(find, [table]).fetchall()
                ]
                rows = f"read_parquet([{', '.join(map(literal, paths))}], union_by_name = true)"
                connection.execute(f"create temp view {quoted(table)} as select * from {rows}")
            return _tables(connection)


def _tables(connection: duckdb.DuckDBPyConnection) -> dict[str, list[tuple[Any, ...]]]:
    tables = {}
    for name, contract in contracts().items():
        columns = ", ".join(quoted(column.name) for column in contract.columns if column.name not in _OF_THE_RUN)
        select = f"select {columns} from {quoted(name)} order by {contract.key_order}"
        tables[name] = connection.execute(select).fetchall()
    return tables


def tables_of(shop: Shop) -> dict[str, list[tuple[Any, ...]]]:
    if isinstance(shop, SparkShop):
        return shop.tables
    with duckdb.connect(str(shop.work), read_only=True) as connection:
        return _tables(connection)


def build(folder: Path, engine: Mapping[str, Any] | None) -> Shop:
    """Build a shop of several files, with lines that are malformed, unreadable, refunds, or lack a value.

    Args:
        folder: The folder of the shop.
        engine: The master and the options of `[engine]`; None: DuckDB.
    """
    shop = SparkShop(folder) if engine else Shop(folder)
    configure(shop, engine)
    everything = [
        *(
            (*one[:4], f"{one[4]}.25", *one[5:]) if number % 7 == 0 else one
            for number, one in enumerate(regular_customers())
        ),
        *ODD_LINES,
        line(
            invoice="600005", description="Café, «crème»", country="", at="2024-06-30 23:59:59.999999", customer="10003"
        ),
        line(invoice="600006", at="2024-04-11 10:00:00", customer=PERSON, quantity="3"),
        line(invoice="600007", at="2024-05-11 10:00:00", customer="10005", quantity=f"for {PERSON}"),
    ]
    for part in range(4):
        path = write_csv(shop.source / f"part-{part}.csv", everything[part::4])
        if part == 1:
            with path.open("a", encoding="utf-8") as file:
                file.write(f'580000,85123A,"a quote that does not end,1,2024-03-20 10:00:00,1.5,{PERSON},Spain\n')
    return shop


def configure(shop: Shop, engine: Mapping[str, Any] | None) -> None:
    location = str(shop.folder / "lines")
    settings = {"kind": "spark", "location": location, **engine} if engine else {}
    shop.configure(engine=settings, rfm={"look_back_days": 200})


def copied(shops: tuple[Shop, Shop], folder: Path, engine: Mapping[str, Any]) -> tuple[Shop, Shop]:
    here, there = shops[0].copy(folder / "here"), SparkShop(shops[1].copy(folder / "there").folder)
    configure(there, engine)
    return here, there


def run_second_night(shop: Shop) -> None:
    """Add a file, change another one, and run up to the tables that are derived from lines."""
    write_csv(shop.source / "new.csv", [line(invoice="590000", at="2024-10-19 10:00:00", customer="99999")])
    with (shop.source / "part-0.csv").open("a", encoding="utf-8") as file:
        file.write("590001,85123A,LANTERN,2,2024-10-19 11:00:00,2.50,10001,Spain\n")
    run = shop.run(as_of=SECOND_NIGHT, assets=assets_up_to("rfm_features", "unparsed_values", "file_overlaps"))
    assert run.success, run.get_step_failure_events()


def assert_equal_tables(here: Shop, there: Shop) -> None:
    expected, found = tables_of(here), tables_of(there)
    assert [table for table in expected if found[table] != expected[table]] == []
    assert len(expected["customer_segments"]) > 50


@contextmanager
def on_spark(engine: Mapping[str, Any], location: Path, **settings: Any) -> Iterator[Warehouse]:
    """Yield an empty database whose lines are on Spark."""
    validated = Engine(kind="spark", location=str(location), **engine, **settings)
    with spark_lines(validated, "shop", lambda text: None) as factory, temporary_database(factory) as database:
        yield database
