"""For any files: lines and pence reconcile, order does not matter, and a second run changes nothing."""

import csv
import gc
import gzip
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import dagster as dg
import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from segmentation_pipeline.tables.catalog import contracts
from segmentation_pipeline_tests.scenarios import ASSETS, HEADER, NIGHT, Nights, examples, regular_customers
from segmentation_pipeline_tests.workbooks import write_workbook

# The same examples each time, on machines of any speed.
SAME: Any = {"derandomize": True, "deadline": None, "database": None, "suppress_health_check": [HealthCheck.too_slow]}
INGESTION_AND_CLEANING = (
    "raw_transactions",
    "clean_transactions",
    "rejected_transactions",
    "cleaning_report",
    "unparsed_values",
)
ENDINGS = ("csv", "csv.gz", "tsv", "jsonl", "jsonl.gz", "xlsx", "parquet")


@pytest.fixture(scope="module", autouse=True)
def callbacks() -> Iterator[None]:
    """Remove the callback that Hypothesis adds to the garbage collector, which keeps DuckDB open at exit."""
    before = gc.callbacks.copy()
    yield
    gc.callbacks[:] = before


@pytest.fixture(scope="module", autouse=True)
def context() -> Iterator[None]:
    """Share one context, because each creates an instance of Dagster."""
    with dg.build_asset_context() as made:
        Shop.shared_context = made
        yield


# -- files, and the values that a person would read in them


@dataclass(frozen=True)
class Row:
    """A well-formed line and the values of its cells; None where a cell is not a number."""

    cells: tuple[str, ...]
    quantity: Decimal | None
    price: Decimal | None
    has_timestamp: bool

    @property
    def money(self) -> Decimal:
        """The money of the line, rounded half away from zero to four decimals; 0 where it cannot be read."""
        if self.quantity is None or self.price is None:
            return Decimal(0)
        return (self.quantity * self.price).quantize(Decimal("0.0001"), ROUND_HALF_UP)

    @property
    def counts(self) -> bool:
        """Whether no rule of the retailer file rejects the line."""
        invoice, stock_code, _, _, _, _, customer, _ = map(str.strip, self.cells)
        cancels = bool(re.search(r"^C\d{6}$", invoice))
        if self.quantity is None or self.price is None or not self.has_timestamp or not customer:
            return False
        named = cancels or re.search(r"^\d{6}$", re.sub(r"^(\d+)\.0+$", r"\1", invoice))
        a_product = re.search(r"^\d{5}[a-zA-Z]*$", stock_code)
        return bool(named and a_product and self.price > 0 and not (cancels and self.money > 0))


@dataclass(frozen=True)
class File:
    """Rows and malformed lines in their order; `end` is the line end."""

    ending: str
    lines: Sequence[Row | str]
    end: str

    @property
    def rows(self) -> list[Row]:
        """The well-formed lines."""
        return [line for line in self.lines if isinstance(line, Row)]

    @property
    def malformed(self) -> int:
        """The number of malformed lines; workbooks and Parquet files have none, and blank lines do not count."""
        return sum(isinstance(line, str) and bool(line.strip()) for line in self.lines) if self.has_text else 0

    @property
    def has_text(self) -> bool:
        """Whether the file consists of lines of text, which can be malformed."""
        return not self.ending.startswith(("xlsx", "parquet"))

    def write(self, path: Path, delimiter: str) -> None:
        """Write the file in its format."""
        rows = [row.cells for row in self.rows]
        if self.ending == "xlsx":
            write_workbook(path, {"Lines": [HEADER, *([cell or None for cell in row] for row in rows)]})
        elif self.ending == "parquet":
            columns = ", ".join(f"unnest(cast($c{at} as varchar[])) as {name}" for at, name in enumerate(HEADER))
            values = {f"c{at}": [row[at] for row in rows] for at in range(len(HEADER))}
            duckdb.execute(f"create or replace temp table lines as select {columns}", values)
            duckdb.execute(f"copy lines to '{path}' (format parquet)")
        else:
            as_text = _object if self.ending.startswith("jsonl") else _record(delimiter)
            head = [] if self.ending.startswith("jsonl") else [as_text(HEADER)]
            lines = [*head, *(line if isinstance(line, str) else as_text(line.cells) for line in self.lines)]
            data = "".join(f"{line}{self.end}" for line in lines).encode(errors="surrogateescape")
            path.write_bytes(gzip.compress(data) if self.ending.endswith("gz") else data)


def _object(cells: Sequence[str]) -> str:
    return json.dumps(dict(zip(HEADER, cells, strict=True)), ensure_ascii=False)


def _record(delimiter: str) -> Callable[[Sequence[str]], str]:
    def record(cells: Sequence[str]) -> str:
        text = io.StringIO()
        csv.writer(text, delimiter=delimiter, lineterminator="\n").writerow(cells)
        return text.getvalue()[:-1]

    return record


# Texts with their numbers.
QUANTITIES: dict[str, str | None] = {
    "1": "1",
    "2": "2",
    "-1": "-1",
    "0": "0",
    "1.5": "1.5",
    " 3 ": "3",
    "1,200": "1200",
    "1e3": "1000",
    "+4": "4",
    "3-": "-3",
    "6.000": "6",
    "two": None,
    "": None,
    "1.2345": None,
    "9" * 20: None,
    "1,5": None,
}
PRICES: dict[str, str | None] = {
    "2.50": "2.5",
    "0.0015": "0.0015",
    "1234.5600": "1234.56",
    "99": "99",
    "2.5500000000000003": "2.55",
    "0": "0",
    "-3.1": "-3.1",
    "£2": "2",
    "$2": None,
    "(2.50)": "-2.5",
    "": None,
    "2.50 EUR": None,
    "nan": None,
    "0.00001": None,
}
TIMESTAMPS = {
    "2024-03-01 10:00:00": True,
    "2024-03-02": True,
    "2024-12-31T23:59:59": True,
    "2024-03-01T10:00:00Z": True,
    "2024-02-30": False,
    "infinity": False,
    "": False,
    "yesterday": False,
    "01/03/2024 10:00": False,
}
MALFORMED = {
    False: ["536365", "1,2,3", "1;2;3", '"a"b,c', "br\udcffken", "=1+1", ",,,,,,,,,,,,,x", ";;;;;;;;;;;;;x"],
    True: ["{", "[1, 2]", "5", '"text"', '{"InvoiceNo": ', '{"InvoiceNo": "\udcff"}'],
}


def _row(
    invoice: str, stock_code: str, description: str, quantity: str, at: str, price: str, customer: str, country: str
) -> Row:
    one, of_one = QUANTITIES[quantity], PRICES[price]
    return Row(
        (invoice, stock_code, description, quantity, at, price, customer, country),
        None if one is None else Decimal(one),
        None if of_one is None else Decimal(of_one),
        TIMESTAMPS[at],
    )


ROWS = st.builds(
    _row,
    invoice=st.sampled_from(["536365", "536366", "C536367", " 536368 ", "536369.0", "A1", ""]),
    stock_code=st.sampled_from(["85123A", "22423", "POST"]),
    description=st.sampled_from(
        ["LANTERN", "", 'A "BIG", ONE', "OVER\nLINES", "OVER\nTHREE\n\nLINES;", "CRÈME ", "\t|"]
    ),
    quantity=st.sampled_from([*QUANTITIES]),
    at=st.sampled_from([*TIMESTAMPS]),
    price=st.sampled_from([*PRICES]),
    customer=st.sampled_from(["17850.0", "17850", "13047", " 9 ", ""]),
    country=st.sampled_from(["France", "Côte d'Ivoire", ""]),
)


@st.composite
def files(draw: st.DrawFn) -> File:
    """Draw a file of any format with well-formed, repeated, malformed and blank lines."""
    ending = draw(st.sampled_from(ENDINGS))
    odd = st.sampled_from([*MALFORMED[ending.startswith("jsonl")], "", ""])
    some: list[Row | str] = draw(st.lists(st.one_of(ROWS, ROWS, ROWS, odd), max_size=12))
    if ending.startswith("jsonl") and not any(isinstance(line, Row) for line in some):
        # A JSON lines file without an object is quarantined.
        some = []
    again = draw(st.lists(st.sampled_from(some), max_size=3)) if some else []
    return File(ending, [*some, *again], draw(st.sampled_from(["\n", "\r\n"])))


SOURCES = st.lists(files(), min_size=1, max_size=5).filter(
    lambda some: any(file.rows or file.malformed for file in some)
)


class Shop(Nights):
    """A retailer with files; `execute` runs the assets one after the other without Dagster."""

    shared_context: dg.AssetExecutionContext

    def context(self) -> dg.AssetExecutionContext:
        return self.shared_context

    def __init__(self, folder: Path, delimiter: str = ",", **sections: Any) -> None:
        source = {"path": str(folder / "in"), "delimiter": delimiter}
        super().__init__(**sections)
        self.set("source", **source)
        self.folder, self.delimiter = folder, delimiter
        (folder / "in").mkdir(parents=True)

    def add_files(self, some: Mapping[str, File]) -> None:
        """Write files into the source."""
        for name, file in some.items():
            file.write(self.folder / "in" / f"{name}.{file.ending}", self.delimiter)

    def execute(self, assets: Sequence[str] = INGESTION_AND_CLEANING, *, whole: bool = False) -> None:
        """Run the ingestion and the cleaning, and every other table if `whole`."""
        for name in assets:
            checks = [one for one in self.results(ASSETS[name]) if isinstance(one, dg.AssetCheckResult)]
            assert all(check.passed for check in checks if check.check_name == "contract")
        for name in NIGHT if whole else ():
            if name != "segmentation_model" or not self.registry.models:
                self.materialize(name)

    @property
    def tables(self) -> dict[str, list[tuple[Any, ...]]]:
        """The rows of every existing table, in the order of its key."""
        return {table: self.table(table) for table in contracts() if self.warehouse.has(table)}


def numbered(some: Sequence[File]) -> dict[str, File]:
    """Return files by unique names."""
    return {f"f{number}": file for number, file in enumerate(some)}


# -- lines and pence


@settings(max_examples=examples(6), **SAME)
@given(some=SOURCES, delimiter=st.sampled_from(",;\t|"))
def test_every_line_and_penny_is_clean_or_rejected(some: list[File], delimiter: str) -> None:
    """The expected numbers are counted from the lines that the test writes."""
    with TemporaryDirectory() as folder:
        shop = Shop(Path(folder), delimiter)
        shop.add_files(numbered(some))
        every = [row for file in some for row in file.rows]
        clean = [row for row in every if row.counts]
        if not clean:
            with pytest.raises(dg.Failure, match=r"^clean_transactions would break its contract \(not empty"):
                shop.execute()
        else:
            shop.execute()
            for table, rows, malformed in (
                ("clean_transactions", clean, 0),
                (
                    "rejected_transactions",
                    [row for row in every if not row.counts],
                    sum(file.malformed for file in some),
                ),
            ):
                [found] = shop.rows(f"select count(*), coalesce(sum(amount), 0) from {table}")
                assert found == (len(rows) + malformed, sum((row.money for row in rows), Decimal(0))), table
        [money] = shop.rows("select coalesce(sum(amount), 0) from raw_transactions")
        assert money == (sum((row.money for row in every), Decimal(0)),)
        assert shop.rows("select source_file, lines, malformed from ingested_files order by 1") == [
            (f"{name}.{file.ending}", len(file.rows) + file.malformed, file.malformed)
            for name, file in numbered(some).items()
        ]
        counted = dict(shop.rows("select source_file, count(*) from raw_transactions group by 1"))
        assert counted == {
            f"{name}.{file.ending}": len(file.rows) + file.malformed
            for name, file in numbered(some).items()
            if file.rows or file.malformed
        }


# -- order and repetition


def with_customers(some: Sequence[File], random: Random) -> dict[str, File]:
    """Return files that also contain enough customers for a model."""
    sold = [Row(line, None, None, True) for line in regular_customers(24)]
    dealt: list[list[Row | str]] = [[*file.lines] for file in some]
    for row in sold:
        dealt[random.randrange(len(dealt))].append(row)
    return numbered([File(file.ending, lines, file.end) for file, lines in zip(some, dealt, strict=True)])


def derived(shop: Shop) -> dict[str, list[tuple[Any, ...]]]:
    """Return the derived tables after a whole run."""
    shop.execute(whole=True)
    return {table: shop.table(table) for table in NIGHT if shop.warehouse.has(table)}


@settings(max_examples=examples(2), **SAME)
@given(some=st.lists(files(), min_size=2, max_size=4), seed=st.integers(0, 2**32), overlap=st.booleans())
def test_order_and_repeats_change_no_derived_table(some: list[File], seed: int, overlap: bool) -> None:
    """Compare all files at once, one a run in any order with repeats, and with shuffled lines."""
    random = Random(seed)  # noqa: S311 - nothing secret
    source = with_customers(some, random)
    with TemporaryDirectory() as folder:
        at_once, one_by_one, shuffled = (
            Shop(Path(folder) / name, cleaning={"sources_overlap": overlap}) for name in "abc"
        )
        at_once.add_files(source)
        wanted = derived(at_once)
        assert wanted["customer_segments"]
        order = random.sample([*source], len(source))
        for name in [*order, *order[:1]]:
            one_by_one.add_files({name: source[name]})
            one_by_one.execute(INGESTION_AND_CLEANING[:1])
        assert one_by_one.table("raw_transactions") == at_once.table("raw_transactions")
        assert derived(one_by_one) == wanted
        shuffled.add_files(
            {name: File(one.ending, random.sample(one.lines, len(one.lines)), one.end) for name, one in source.items()}
        )
        assert derived(shuffled) == wanted


@settings(max_examples=examples(2), **SAME)
@given(some=st.lists(files(), min_size=1, max_size=4), seed=st.integers(0, 2**32))
def test_second_run_changes_no_table(some: list[File], seed: int) -> None:
    with TemporaryDirectory() as folder:
        shop = Shop(Path(folder))
        shop.add_files(with_customers(some, Random(seed)))  # noqa: S311 - nothing secret
        shop.execute(whole=True)
        before = shop.tables
        assert {"ingested_files", "segmentation_models", "segment_membership", *NIGHT} - {"segmentation_model"} <= {
            *before
        }
        # Otherwise the second run would derive nothing.
        shop.warehouse.forget_versions()
        shop.execute(whole=True)
        after = shop.tables
        assert {table for table in before if repr(before[table]) != repr(after[table])} == set()
