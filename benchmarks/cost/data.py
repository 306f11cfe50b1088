"""Make the sources that are measured, in SQL and without chance: the same lines each time.

Contains how each source is made. A source is a folder with the lines of all days but the last; the file of the last day
is beside it, and is moved into the folder where a night with one more day is measured.
"""

import json
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import duckdb

# Making 54 million lines needs less.
_MEMORY = "4GB"
# Days of the made-up shop. The lines are in the order of their time, so the last day is the end of them.
_DAYS = 374
# With the columns named, because DuckDB looks into each of the 305 files for them otherwise.
_SHOP = """
create temp table shop as
select * replace (cast(try_cast(CustomerID as double) as bigint) as CustomerID)
from read_csv($files, auto_detect = false, header = true, delim = ',', quote = '"', escape = '"', columns = {
    InvoiceNo: 'varchar', StockCode: 'varchar', Description: 'varchar', Quantity: 'varchar', InvoiceDate: 'varchar',
    UnitPrice: 'varchar', CustomerID: 'varchar', Country: 'varchar'
})
"""


@dataclass(frozen=True)
class Made:
    """What was made.

    Attributes:
        lines: The number of lines, those of the last day included.
        seconds: How long it took to make them.
        csv_bytes: The size of the lines as CSV; 0 where it is not known.
    """

    lines: int
    seconds: float
    csv_bytes: int = 0


@dataclass(frozen=True)
class Source:
    """A source in a folder of its own."""

    home: Path

    @property
    def folder(self) -> Path:
        """The folder or file that the pipeline reads."""
        return self.home / "source"

    @property
    def aside(self) -> Path:
        """The folder with the file of the last day."""
        return self.home / "last_day"

    @property
    def made(self) -> Made:
        """What was made."""
        return Made(**json.loads(self._record.read_text("utf-8")))

    @property
    def pattern(self) -> str:
        """All files, for a program that reads a pattern; the last day must have arrived."""
        return f"{self.folder}/*{next(self.folder.iterdir()).suffix}"

    @property
    def _record(self) -> Path:
        return self.home / "made.json"

    def make(self, write: "Callable[[Source], Made]") -> None:
        """Make the source, unless it was made before.

        In a separate process: the kernel counts the memory of a process into the peak of those that it starts.
        """
        self.take_back_last_day()
        if self._record.exists():
            return
        shutil.rmtree(self.home, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.aside.mkdir()
        with ProcessPoolExecutor(1, get_context("spawn")) as aside:
            made = aside.submit(write, self).result()
        self._record.write_text(json.dumps(asdict(made)), "utf-8")

    def add_last_day(self) -> None:
        """Move the file of the last day into the source."""
        for file in self.aside.glob("last_day-*"):
            file.rename(self.folder / file.name)

    def take_back_last_day(self) -> None:
        """Move the file of the last day out of the source."""
        for file in self.folder.glob("last_day-*"):
            file.rename(self.aside / file.name)


@dataclass(frozen=True)
class DailyFiles:
    """The lines of Online Retail, a CSV for each day."""

    by_day: Path

    def __call__(self, source: Source) -> Made:
        """Copy the files."""
        started = time.perf_counter()
        *days, last = sorted(self.by_day.glob("*.csv"))
        for day in days:
            shutil.copy(day, source.folder)
        shutil.copy(last, source.aside / f"last_day-{last.name}")
        size = sum(day.stat().st_size for day in (*days, last))
        return Made(_count(f"{self.by_day}/*.csv"), time.perf_counter() - started, size)


@dataclass(frozen=True)
class Workbook:
    """The lines of Online Retail as one workbook with cells of mixed type, like the original."""

    by_day: Path

    def __call__(self, source: Source) -> Made:
        """Write the workbook."""
        from segmentation_pipeline_tests.workbooks import mixed, write_workbook

        started = time.perf_counter()
        with _connected() as connection:
            lines = connection.execute(
                "select InvoiceNo, StockCode, Description, Quantity::integer as Quantity,"
                " InvoiceDate::timestamp as InvoiceDate, UnitPrice::double as UnitPrice,"
                " CustomerID::double as CustomerID, Country from read_csv($files, all_varchar = true)",
                {"files": f"{self.by_day}/*.csv"},
            )
            header = [column[0] for column in lines.description or ()]
            rows = [(mixed(invoice), mixed(code), *rest) for invoice, code, *rest in lines.fetchall()]
        write_workbook(source.folder / "online_retail.xlsx", {"Online Retail": [header, *rows]})
        return Made(len(rows), time.perf_counter() - started)


@dataclass(frozen=True)
class Copies:
    """The lines of Online Retail several times: the same shop, each time with customers of its own.

    The invoices are the same in each copy, because their numbers have six digits.

    Attributes:
        by_day: The lines, a CSV for each day.
        copies: How many times.
        kind: The format, `csv` or `parquet`.
    """

    by_day: Path
    copies: int
    kind: str

    def __call__(self, source: Source) -> Made:
        """Write a file of all days but the last, and one of the last."""
        started = time.perf_counter()
        with _connected() as connection:
            connection.execute(_SHOP, {"files": f"{self.by_day}/*.csv"})
            [(last_day,)] = connection.execute("select max(InvoiceDate[:10]) from shop").fetchall()
            paths = source.folder / f"days.{self.kind}", source.aside / f"last_day-1.{self.kind}"
            for path, days in zip(paths, ("<", ">="), strict=True):
                statement = f"copy ({self._lines} where InvoiceDate {days} $day) to $path ({_format(self.kind)})"
                values = {"copies": self.copies, "day": last_day, "path": str(path)}
                connection.execute(statement, values)
            seconds = time.perf_counter() - started
            return Made(_count(*map(str, paths)), seconds, self._csv_bytes(connection, source, paths))

    @property
    def _lines(self) -> str:
        customer = "cast(CustomerID + 100000 * copy as varchar) as CustomerID"
        return f"select shop.* replace ({customer}) from range($copies) as copies(copy), shop"  # noqa: S608 - own SQL

    def _csv_bytes(self, connection: "duckdb.DuckDBPyConnection", source: Source, paths: tuple[Path, ...]) -> int:
        if self.kind == "csv":
            return sum(path.stat().st_size for path in paths)
        # One copy is written, without customers: no formula knows which texts are quoted. A number is not.
        path = source.home / "one.csv"
        copied = f"copy (select * replace (null as CustomerID) from shop) to $path ({_format('csv')})"  # noqa: S608 - own SQL
        connection.execute(copied, {"path": str(path)})
        header, one = len(path.read_bytes().split(b"\n", 1)[0]) + 1, path.stat().st_size
        path.unlink()
        select = f"select sum(strlen(CustomerID)) from ({self._lines})"  # noqa: S608 - own SQL
        [(customers,)] = connection.execute(select, {"copies": self.copies}).fetchall()
        return header + self.copies * (one - header) + int(customers)


@dataclass(frozen=True)
class MadeUp:
    """A shop that never existed, with the columns of Online Retail: each value is a hash of the number of its line.

    Some customers buy often and most seldom, a fifth of the invoices name nobody, one in fifty is a refund, and one
    line in two hundred is postage.

    Attributes:
        lines: The number of lines.
        customers: The number of customers; each has an invoice at least.
        kind: The format, `csv` or `parquet`.
        invoice_lines: The number of lines of an invoice.
    """

    lines: int
    customers: int
    kind: str = "parquet"
    invoice_lines: int = 8

    def __call__(self, source: Source) -> Made:
        """Write a file of all days but the last, and one of the last.

        Raises:
            ValueError: There are fewer invoices than customers.
        """
        started = time.perf_counter()
        first_of_last_day = self.lines - self.lines // _DAYS
        parts = {
            source.folder / f"days.{self.kind}": (0, first_of_last_day),
            source.aside / f"last_day-1.{self.kind}": (first_of_last_day, self.lines),
        }
        invoices = -(-self.lines // self.invoice_lines)
        if invoices < self.customers:
            raise ValueError(f"{self.customers:,} customers cannot have {invoices:,} invoices: each has one at least")
        with _connected() as connection:
            for path, (start, end) in parts.items():
                connection.execute(
                    f"copy ({_MADE_UP}) to $path ({_format(self.kind)})",
                    {
                        "start": start,
                        "end": end,
                        "lines": self.lines,
                        "invoice_lines": self.invoice_lines,
                        "every": invoices // self.customers,
                        "customers": self.customers,
                        "seconds": _DAYS * 86_400,
                        "path": str(path),
                    },
                )
        return Made(self.lines, time.perf_counter() - started)


# Invoices are in the order of their time. A square makes a few customers frequent; one invoice in `every` is that of
# the next customer, so that each has one.
_MADE_UP = """
with numbers as (
    select
        range as line,
        range // $invoice_lines as invoice,
        hash(range) as chance,
        hash(range // $invoice_lines) as other
    from range($start, $end)
), chosen as (
    select *,
        other % 50 = 7 as is_refund,
        invoice % $every = 0 and invoice // $every < $customers as is_own,
        (other // 1_000 % 1_000_000) / 1_000_000 as place
    from numbers
)
select
    case when is_refund then 'C' else '' end || cast(100_000 + invoice % 900_000 as varchar) as InvoiceNo,
    case when chance % 200 = 3 then 'POST'
        else cast(10_000 + chance // 200 % 4_000 as varchar) || case when chance % 7 = 1 then 'B' else '' end
    end as StockCode,
    'ARTICLE ' || cast(chance // 200 % 4_000 as varchar) as Description,
    cast(case when is_refund then -1 else 1 end * (1 + chance // 1_000_000 % 12) as integer) as Quantity,
    timestamp '2010-12-01' + to_seconds(cast(line // $invoice_lines * $invoice_lines / $lines * $seconds as bigint))
        as InvoiceDate,
    (25 + chance // 100_000_000 % 2_000) / 100 as UnitPrice,
    case when is_own then 10_000 + invoice // $every
        when other % 5 > 0 then 10_000 + cast(floor($customers * place * place) as bigint)
    end as CustomerID,
    case when other % 11 > 0 then 'United Kingdom' else 'Germany' end as Country
from chosen
"""


def _connected() -> "duckdb.DuckDBPyConnection":
    """Return a connection to a database in memory, without a bar of progress between the lines of the bench."""
    # Here, because the process that measures others must stay small.
    import duckdb

    connection = duckdb.connect(config={"memory_limit": _MEMORY})
    connection.execute("set enable_progress_bar = false")
    return connection


def _format(kind: str) -> str:
    return "format csv, header" if kind == "csv" else "format parquet"


def _count(*paths: str) -> int:
    select = "read_csv($paths, all_varchar = true)" if paths[0].endswith("csv") else "read_parquet($paths)"
    count = f"select count(*) from {select}"  # noqa: S608 - own SQL
    with _connected() as connection:
        [(lines,)] = connection.execute(count, {"paths": list(paths)}).fetchall()
    return int(lines)
