"""Whatever the files: lines and pence reconcile, the order in which they come is no matter, reruns change nothing."""

import csv
import gc
import gzip
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
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
from segmentation_pipeline_tests.scenarios import ASSETS, HEADER, NIGHT, Nights, regular_customers
from segmentation_pipeline_tests.workbooks import write_workbook

# The same examples each time, on machines of any speed.
SAME: Any = {"derandomize": True, "deadline": None, "database": None, "suppress_health_check": [HealthCheck.too_slow]}
MOUTH = ("raw_transactions", "clean_transactions", "rejected_transactions", "cleaning_report")
ENDINGS = ("csv", "csv.gz", "tsv", "jsonl", "jsonl.gz", "xlsx", "parquet")


@pytest.fixture(scope="module", autouse=True)
def callbacks() -> Iterator[None]:
    """Hypothesis leaves one in the collector, with which DuckDB outlives the interpreter and says so in forty lines."""
    before = gc.callbacks.copy()
    yield
    gc.callbacks[:] = before


@pytest.fixture(scope="module", autouse=True)
def context() -> Iterator[None]:
    """One for all nights: each has an instance of Dagster's, which takes its time."""
    with dg.build_asset_context() as made:
        Shop.shared_context = made
        yield


# -- files, and what a person would read in them


@dataclass(frozen=True)
class Row:
    """A whole line as it is written, with what its cells mean: no number or moment where they mean none."""

    cells: tuple[str, ...]
    quantity: Decimal | None
    price: Decimal | None
    has_moment: bool

    @property
    def money(self) -> Decimal:
        """What the line adds to the money that was read."""
        return Decimal(0) if self.quantity is None or self.price is None else self.quantity * self.price

    @property
    def counts(self) -> bool:
        """Whether no rule of the shop refuses the line, in the words of its retailer file."""
        invoice, stock_code, _, _, _, _, customer, _ = map(str.strip, self.cells)
        cancels = bool(re.search(r"^C\d{6}$", invoice))
        if self.quantity is None or self.price is None or not self.has_moment or not customer:
            return False
        named = cancels or re.search(r"^\d{6}$", re.sub(r"^(\d+)\.0+$", r"\1", invoice))
        a_product = re.search(r"^\d{5}[a-zA-Z]*$", stock_code)
        return bool(named and a_product and self.price > 0 and not (cancels and self.money > 0))


@dataclass(frozen=True)
class File:
    """Rows, and lines that are none, in their order; `end` is that of its lines."""

    ending: str
    lines: Sequence[Row | str]
    end: str

    @property
    def rows(self) -> list[Row]:
        """Those that are whole."""
        return [line for line in self.lines if isinstance(line, Row)]

    @property
    def broken(self) -> int:
        """How many are not; a workbook and a Parquet file have none, and a blank line is nothing."""
        return sum(isinstance(line, str) and bool(line.strip()) for line in self.lines) if self.has_text else 0

    @property
    def has_text(self) -> bool:
        """Whether it consists of lines of text, which may break."""
        return not self.ending.startswith(("xlsx", "parquet"))

    def write(self, path: Path, delimiter: str) -> None:
        """Write it, in its format."""
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


# A text, and the number that it is.
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
    "£2": None,
    "": None,
    "2.50 EUR": None,
    "nan": None,
    "0.00001": None,
}
MOMENTS = {
    "2024-03-01 10:00:00": True,
    "2024-03-02": True,
    "2024-12-31T23:59:59": True,
    "2024-03-01T10:00:00Z": True,
    "2024-02-30": False,
    "": False,
    "yesterday": False,
    "01/03/2024 10:00": False,
}
BROKEN = {
    False: ["536365", "1,2,3", "1;2;3", '"a"b,c', "br\udcffken", "=1+1", ",,,,,,,,,,,,,", ";;;;;;;;;;;;;"],
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
        MOMENTS[at],
    )


ROWS = st.builds(
    _row,
    invoice=st.sampled_from(["536365", "536366", "C536367", " 536368 ", "536369.0", "A1", ""]),
    stock_code=st.sampled_from(["85123A", "22423", "POST"]),
    description=st.sampled_from(
        ["LANTERN", "", 'A "BIG", ONE', "OVER\nLINES", "OVER\nTHREE\n\nLINES;", "CRÈME ", "\t|"]
    ),
    quantity=st.sampled_from([*QUANTITIES]),
    at=st.sampled_from([*MOMENTS]),
    price=st.sampled_from([*PRICES]),
    customer=st.sampled_from(["17850.0", "17850", "13047", " 9 ", ""]),
    country=st.sampled_from(["France", "Côte d'Ivoire", ""]),
)


@st.composite
def files(draw: st.DrawFn) -> File:
    """A file of any format: whole lines, the same one again, broken and blank ones."""
    ending = draw(st.sampled_from(ENDINGS))
    odd = st.sampled_from([*BROKEN[ending.startswith("jsonl")], "", ""])
    some: list[Row | str] = draw(st.lists(st.one_of(ROWS, ROWS, ROWS, odd), max_size=12))
    if ending.startswith("jsonl") and not any(isinstance(line, Row) for line in some):
        # A file without one object is something else, and set aside.
        some = []
    again = draw(st.lists(st.sampled_from(some), max_size=3)) if some else []
    return File(ending, [*some, *again], draw(st.sampled_from(["\n", "\r\n"])))


SOURCES = st.lists(files(), min_size=1, max_size=5).filter(lambda some: any(file.rows or file.broken for file in some))


class Shop(Nights):
    """A retailer with files; its nights run the assets of the project one after the other."""

    shared_context: dg.AssetExecutionContext

    def context(self) -> dg.AssetExecutionContext:
        return self.shared_context

    def __init__(self, folder: Path, delimiter: str = ",", **sections: Any) -> None:
        source = {"path": str(folder / "in"), "delimiter": delimiter}
        super().__init__(**sections)
        self.set("source", **source)
        self.folder, self.delimiter = folder, delimiter
        (folder / "in").mkdir(parents=True)

    def bring(self, some: Mapping[str, File]) -> None:
        """More files, by their names."""
        for name, file in some.items():
            file.write(self.folder / "in" / f"{name}.{file.ending}", self.delimiter)

    def night(self, assets: Sequence[str] = MOUTH, *, whole: bool = False) -> None:
        """Run the ingestion and the cleaning, and every other table where `whole` is given."""
        for name in assets:
            checks = [one for one in self.results(ASSETS[name]) if isinstance(one, dg.AssetCheckResult)]
            assert all(check.passed for check in checks if check.check_name == "contract")
        for name in NIGHT if whole else ():
            if name != "segmentation_model" or not self.registry.models:
                self.materialize(name)

    @property
    def tables(self) -> dict[str, list[tuple[Any, ...]]]:
        """The rows of every table that stands, in the order of its key."""
        return {table: self.table(table) for table in contracts() if self.warehouse.has(table)}


def numbered(some: Sequence[File]) -> dict[str, File]:
    """Files by names of which none is another's."""
    return {f"f{number}": file for number, file in enumerate(some)}


# -- lines and pence


@settings(max_examples=40, **SAME)
@given(some=SOURCES, delimiter=st.sampled_from(",;\t|"))
def test_every_line_and_penny_is_clean_or_rejected(some: list[File], delimiter: str) -> None:
    """Counted here from what was written: each file's lines, those that break, and which lines the rules let pass."""
    with TemporaryDirectory() as folder:
        shop = Shop(Path(folder), delimiter)
        shop.bring(numbered(some))
        every = [row for file in some for row in file.rows]
        clean = [row for row in every if row.counts]
        if not clean:
            with pytest.raises(dg.Failure, match=r"^clean_transactions would break its contract \(not empty"):
                shop.night()
        else:
            shop.night()
            for table, rows, broken in (
                ("clean_transactions", clean, 0),
                ("rejected_transactions", [row for row in every if not row.counts], sum(file.broken for file in some)),
            ):
                [found] = shop.rows(f"select count(*), coalesce(sum(amount), 0) from {table}")
                assert found == (len(rows) + broken, sum((row.money for row in rows), Decimal(0))), table
        [money] = shop.rows("select coalesce(sum(amount), 0) from raw_transactions")
        assert money == (sum((row.money for row in every), Decimal(0)),)
        assert shop.rows("select source_file, lines, malformed from ingested_files order by 1") == [
            (f"{name}.{file.ending}", len(file.rows) + file.broken, file.broken)
            for name, file in numbered(some).items()
        ]
        counted = dict(shop.rows("select source_file, count(*) from raw_transactions group by 1"))
        assert counted == {
            f"{name}.{file.ending}": len(file.rows) + file.broken
            for name, file in numbered(some).items()
            if file.rows or file.broken
        }


# -- order, and again


def with_customers(some: Sequence[File], random: Random) -> dict[str, File]:
    """Files with enough customers for a model among them, dealt out."""
    sold = [Row(line, None, None, True) for line in regular_customers(24)]
    dealt: list[list[Row | str]] = [[*file.lines] for file in some]
    for row in sold:
        dealt[random.randrange(len(dealt))].append(row)
    return numbered([File(file.ending, lines, file.end) for file, lines in zip(some, dealt, strict=True)])


def derived(shop: Shop) -> dict[str, list[tuple[Any, ...]]]:
    """What is derived of customers, after a whole night."""
    shop.night(whole=True)
    return {table: shop.table(table) for table in NIGHT if shop.warehouse.has(table)}


@settings(max_examples=3, **SAME)
@given(some=st.lists(files(), min_size=2, max_size=4), seed=st.integers(0, 2**32), overlap=st.booleans())
def test_order_and_repeats_change_no_derived_table(some: list[File], seed: int, overlap: bool) -> None:
    """All at once; one a night in any order, some written again meanwhile; and with the lines of each file shuffled."""
    random = Random(seed)  # noqa: S311 - nothing secret
    brought = with_customers(some, random)
    with TemporaryDirectory() as folder:
        at_once, nightly, shuffled = (
            Shop(Path(folder) / name, cleaning={"sources_overlap": overlap}) for name in "abc"
        )
        at_once.bring(brought)
        wanted = derived(at_once)
        assert wanted["customer_segments"]
        order = random.sample([*brought], len(brought))
        for name in [*order, *order[:1]]:
            nightly.bring({name: brought[name]})
            nightly.night(MOUTH[:1])
        assert nightly.table("raw_transactions") == at_once.table("raw_transactions")
        assert derived(nightly) == wanted
        shuffled.bring(
            {name: File(one.ending, random.sample(one.lines, len(one.lines)), one.end) for name, one in brought.items()}
        )
        assert derived(shuffled) == wanted


@settings(max_examples=3, **SAME)
@given(some=st.lists(files(), min_size=1, max_size=4), seed=st.integers(0, 2**32))
def test_second_run_changes_no_table(some: list[File], seed: int) -> None:
    with TemporaryDirectory() as folder:
        shop = Shop(Path(folder))
        shop.bring(with_customers(some, Random(seed)))  # noqa: S311 - nothing secret
        shop.night(whole=True)
        before = shop.tables
        assert {"ingested_files", "segmentation_models", "segment_membership", *NIGHT} - {"segmentation_model"} <= {
            *before
        }
        shop.night(whole=True)
        after = shop.tables
        assert {table for table in before if repr(before[table]) != repr(after[table])} == set()
