"""Files of every format give the same lines, each with its number, and no line is lost."""

import csv
import gzip
import io
import json
import re
import tomllib
import zipfile
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import duckdb
import openpyxl
import pytest
import zstandard

from segmentation_pipeline.config.loading import SHIPPED
from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.errors import SourceError
from segmentation_pipeline.ingestion.discovery import source_files
from segmentation_pipeline.tables.catalog import line_columns
from segmentation_pipeline.warehouse.database import Warehouse
from segmentation_pipeline_tests.ingestion.reading import read_source
from segmentation_pipeline_tests.scenarios import HEADER, Line, line, retailer_settings, write_csv
from segmentation_pipeline_tests.workbooks import write_workbook


def at(*parts: int) -> datetime:
    """Return a timestamp in local time, as DuckDB returns it."""
    return datetime(*parts)  # type: ignore[arg-type]  # noqa: DTZ001


SHOP = (
    HEADER,
    [
        line("536365", "85123A", 'A "BIG", WHITE\nLANTERN', "2", "2024-03-01 10:00:00", "2.50", "17850.0", "France"),
        line("C536366", "71053", "CRÈME BOWL ", "-1", "2024-03-02 23:59:59", "3.39", "13047.0", "EIRE"),
        line("536367", "22423", "", "1200", "2024-03-03 00:00:00", "0.0015", "", "United Kingdom"),
        line("A563185", "B", "Adjust bad debt", "1", "2024-12-31 08:30:00", "-11062.06", "12346.0", ""),
    ],
)


def retailer(path: str | list[str], columns: dict[str, str] | None = None, **source: Any) -> Retailer:
    settings = retailer_settings(Path("anywhere"))
    settings["source"] = {"path": path, **source}
    if columns is not None:
        settings |= {"columns": columns, "cleaning": {}}
    return Retailer.model_validate(settings)


@cache
def working_database() -> Warehouse:
    """Return the working database of all tests: opening one takes longer than reading a small file."""
    return Warehouse(duckdb.connect(config={"threads": 2}))


@pytest.fixture(scope="module", autouse=True)
def closed() -> Iterator[None]:
    """Close the working database at the end."""
    yield
    working_database().connection.close()
    working_database.cache_clear()


def read(settings: Retailer, base: Path) -> Warehouse:
    """Return the working database with raw_transactions as the asset writes it; no file may be quarantined."""
    return read_source(working_database(), settings, base)


def lines_of(settings: Retailer, base: Path) -> list[tuple[Any, ...]]:
    columns = ", ".join(column.name for column in line_columns())
    return read(settings, base).connection.execute(f"select {columns} from raw_transactions order by all").fetchall()


def lines_of_each_file(settings: Retailer, base: Path) -> dict[str, list[tuple[Any, ...]]]:
    columns = ", ".join(column.name for column in line_columns())
    select = f"select source_file, {columns} from raw_transactions order by all"
    found: dict[str, list[tuple[Any, ...]]] = {}
    for file, *values in read(settings, base).connection.execute(select).fetchall():
        found.setdefault(file, []).append(tuple(values))
    return found


def numbers_of(settings: Retailer, base: Path) -> dict[tuple[str, str, int], str | None]:
    """Return the invoice of each line by its file, sheet and number, or the text of a malformed record."""
    rows = read(settings, base).connection.execute(
        "select source_file, source_sheet, source_line, coalesce(unparsed ->> 'line', invoice) from raw_transactions"
        " order by all"
    )
    return {(file, sheet, number): text for file, sheet, number, text in rows.fetchall()}


def text_of(lines: Sequence[Sequence[str]], delimiter: str = ",", end: str = "\n") -> str:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator=end).writerows(lines)
    return text.getvalue()


@pytest.fixture(scope="module")
def expected() -> list[tuple[Any, ...]]:
    """The shop's lines with typed values."""
    money = Decimal
    return [
        (
            "536365",
            "85123A",
            'A "BIG", WHITE\nLANTERN',
            money("2.000"),
            at(2024, 3, 1, 10),
            money("2.5000"),
            money("5.0000"),
            "17850",
            "France",
        ),
        (
            "536367",
            "22423",
            None,
            money("1200.000"),
            at(2024, 3, 3),
            money("0.0015"),
            money("1.8000"),
            None,
            "United Kingdom",
        ),
        (
            "A563185",
            "B",
            "Adjust bad debt",
            money("1.000"),
            at(2024, 12, 31, 8, 30),
            money("-11062.0600"),
            money("-11062.0600"),
            "12346",
            None,
        ),
        (
            "C536366",
            "71053",
            "CRÈME BOWL ",
            money("-1.000"),
            at(2024, 3, 2, 23, 59, 59),
            money("3.3900"),
            money("-3.3900"),
            "13047",
            "EIRE",
        ),
    ]


# -- formats, encodings and notations


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-le", "latin-1", "cp1252"])
def test_csv_gives_the_same_lines_in_every_encoding_and_compression(
    tmp_path: Path, expected: list[tuple[Any, ...]], encoding: str
) -> None:
    """The compressed files are two streams of their compression, one after the other."""
    header, lines = SHOP
    data = text_of([header, *lines]).encode(encoding)
    files = {
        "a.csv": data,
        "b.csv": text_of([header, *lines], end="\r\n").encode(encoding),
        "c.CSV.GZ": gzip.compress(data[:50]) + gzip.compress(data[50:]),
        "d.CSV.ZST": zstandard.compress(data[:50]) + zstandard.compress(data[50:]),
    }
    if encoding == "utf-8":
        # A byte order mark needs no setting.
        files |= {f"bom_{name}": content.decode().encode("utf-8-sig") for name, content in [*files.items()][:2]}
    (tmp_path / "in").mkdir()
    for name, content in files.items():
        (tmp_path / "in" / name).write_bytes(content)
    assert lines_of_each_file(retailer("in", encoding=encoding), tmp_path) == dict.fromkeys(files, expected)


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_the_delimiter_is_a_setting(tmp_path: Path, expected: list[tuple[Any, ...]], delimiter: str) -> None:
    header, lines = SHOP
    (tmp_path / "a.csv").write_text(text_of([header, *lines], delimiter), "utf-8")
    assert lines_of(retailer("a.csv", delimiter=delimiter), tmp_path) == expected


def test_parquet_with_typed_columns_gives_the_same_lines(tmp_path: Path, expected: list[tuple[Any, ...]]) -> None:
    write_csv(tmp_path / "a.csv", SHOP[1])
    types = "'Quantity': 'BIGINT', 'InvoiceDate': 'TIMESTAMP', 'UnitPrice': 'DOUBLE', 'CustomerID': 'DOUBLE'"
    duckdb.connect().execute(
        f"copy (select * from read_csv('{tmp_path}/a.csv', types = {{{types}}}, all_varchar = false))"
        f" to '{tmp_path}/a.parquet' (format parquet)"
    )
    assert lines_of(retailer("a.parquet"), tmp_path) == expected


def test_json_lines_give_the_same_lines(tmp_path: Path, expected: list[tuple[Any, ...]]) -> None:
    def objects() -> Iterator[str]:
        for invoice, code, text, quantity, at, price, customer, country in SHOP[1]:
            typed = (invoice, code, text or None, int(quantity), at, float(price), float(customer or "nan"), country)
            item = {name: value for name, value in zip(HEADER, typed, strict=True) if value == value}
            yield json.dumps(item, ensure_ascii=invoice.startswith("C"))

    data = "".join(f"{item}\n" for item in objects()).encode()
    files = {"a.jsonl": data, "a.ndjson": data, "a.jsonl.gz": gzip.compress(data)}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    assert lines_of_each_file(retailer("a.*"), tmp_path) == dict.fromkeys(files, expected)


def workbook(path: Path, sheets: dict[str, Sequence[Sequence[Any]]]) -> Path:
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(list(row))
    book.save(path)
    return path


def cells(sold: Line) -> list[Any]:
    """Return a line as a workbook has it: digits as numbers, timestamps as dates, and the rest as text."""
    invoice, code, text, quantity, at, price, customer, country = sold
    return [
        int(invoice) if invoice.isdigit() else invoice,
        int(code) if code.isdigit() else code,
        text or None,
        int(quantity),
        datetime.fromisoformat(at),
        float(price),
        float(customer) if customer else None,
        country or None,
    ]


def test_workbook_of_mixed_cells_gives_the_same_lines(tmp_path: Path, expected: list[tuple[Any, ...]]) -> None:
    header, lines = SHOP
    workbook(tmp_path / "a.xlsx", {"All": [header, *map(cells, lines)]})
    assert lines_of(retailer("a.xlsx"), tmp_path) == expected


def test_workbook_gives_text_in_the_notation_of_the_settings(tmp_path: Path, expected: list[tuple[Any, ...]]) -> None:
    header, lines = SHOP
    workbook(tmp_path / "a.xlsx", {"All": [header, *map(cells, lines)]})
    settings = retailer("a.xlsx", decimal=",", date_format="%d.%m.%Y %H:%M:%S")
    assert lines_of(settings, tmp_path) == expected


def test_typed_columns_ignore_the_notation_of_the_settings(tmp_path: Path) -> None:
    columns = {"transaction_at": "at", "customer_id": "who", "amount": "money"}
    select = "select timestamp '2024-03-21 10:00:00' as at, 17850.0::double as who, {} as money"
    for name, money in (("double", "1234.5::double"), ("decimal", "1234.50::decimal(9, 2)"), ("text", "'1.234,50'")):
        duckdb.connect().execute(f"copy ({select.format(money)}) to '{tmp_path}/{name}.parquet' (format parquet)")
    (tmp_path / "a.jsonl").write_text(
        '{"at": "21.03.2024 10:00", "who": 17850, "money": 1234.5}\n'
        '{"at": "21.03.2024 10:00", "who": "17850", "money": "1.234,5"}\n'
    )
    settings = retailer(["*.parquet", "a.jsonl"], columns, decimal=",", date_format="%d.%m.%Y %H:%M")
    rows = read(settings, tmp_path).rows(
        "select distinct transaction_at, customer_id, amount, unparsed from raw_transactions"
    )
    assert [tuple(row.values()) for row in rows] == [(at(2024, 3, 21, 10), "17850", Decimal("1234.5"), None)]


def test_timestamp_with_offset_is_converted_to_local_time(tmp_path: Path) -> None:
    columns = {"transaction_at": "at", "customer_id": "who", "amount": "money"}
    timestamps = [
        "2024-07-01T10:00:00Z",
        "2024-07-01 12:00:00+02",
        "2024-07-01T15:30:00.0+05:30",
        "2024-07-01 11:00:00",
    ]
    write_csv(tmp_path / "a.csv", [(at, "1", "1") for at in timestamps], ("at", "who", "money"))
    duckdb.connect().execute(
        "copy (select timestamptz '2024-07-01 10:00:00+00' as at, 1 as who, 1 as money)"
        f" to '{tmp_path}/a.parquet' (format parquet)"
    )
    rows = read(retailer(["a.csv", "a.parquet"], columns), tmp_path).rows(
        "select transaction_at, count(*) as lines from raw_transactions group by all"
    )
    assert rows == [{"transaction_at": at(2024, 7, 1, 11), "lines": 5}]


NUMBERS: dict[str, dict[str, str | None]] = {
    ".": {
        "1234.5": "1234.5",
        "1,234.5": "1234.5",
        "12,345,678": "12345678",
        "-.5": "-0.5",
        "1e3": "1000",
        "2,50": None,
        "1.234,50": None,
        "$2.50": None,
        "1_000": None,
        "nan": None,
    },
    ",": {"2,50": "2.5", "1.234,50": "1234.5", "1.234": "1234", "2.50": None, "1,234.50": None},
}


@pytest.mark.parametrize("decimal", NUMBERS)
def test_number_is_read_as_written_or_not_at_all(tmp_path: Path, decimal: str) -> None:
    columns = {"transaction_at": "at", "customer_id": "who", "amount": "money"}
    write_csv(tmp_path / "a.csv", [("2024-03-01", "1", text) for text in NUMBERS[decimal]], ("at", "who", "money"))
    rows = read(retailer("a.csv", columns, decimal=decimal), tmp_path).rows(
        "select amount, unparsed from raw_transactions order by source_line"
    )
    for row, (text, money) in zip(rows, NUMBERS[decimal].items(), strict=True):
        assert row["amount"] == (None if money is None else Decimal(money)), text
        assert (row["unparsed"] is None) == (money is not None), text
        assert money is not None or json.loads(row["unparsed"])["amount"] == text


FITTING: dict[str, dict[str, str | None]] = {
    "price": {
        # As many decimals as the type has, and no more.
        "1.2345": "1.2345",
        "1.23450000": "1.2345",
        "1.23456789": None,
        "1.23451": None,
        ".00005": None,
        "99999999999999.9999": "99999999999999.9999",
        "9999999999.12345": None,
        "100000000000000": None,
        "1e-300": None,
        # A short number as a double: one or two units in the last place away from it.
        "2.5500000000000003": "2.55",
        "2.5499999999999998": "2.55",
        "1.4500000000000002E1": "14.5",
        "-0.30000000000000004": "-0.3",
        "1234.5600000000002": "1234.56",
        "98765432.019999996": "98765432.02",
        # Digits that were written.
        "2.5500000001": None,
        "2.55000000000001": None,
    },
    "quantity": {
        "1.234": "1.234",
        ".1234": None,
        "1234500e-5": "12.345",
        "123456e-5": None,
        "6.999999999999999": "7",
        "6.9999999": None,
    },
}


@pytest.mark.parametrize("column", FITTING)
def test_number_that_does_not_fit_is_kept_as_text(tmp_path: Path, column: str) -> None:
    one = {"quantity": "1", "price": "1"}
    write_csv(tmp_path / "a.csv", [line(**one | {column: text}) for text in FITTING[column]])
    rows = read(retailer("a.csv"), tmp_path).rows(
        f"select {column} as value, amount, unparsed from raw_transactions order by source_line"
    )
    for row, (text, value) in zip(rows, FITTING[column].items(), strict=True):
        read_as = None if value is None else Decimal(value)
        assert (row["value"], row["amount"]) == (read_as, read_as), text
        assert (row["unparsed"] and json.loads(row["unparsed"])[column]) == (text if value is None else None)


def test_double_is_read_as_its_short_number_in_every_format(tmp_path: Path) -> None:
    columns = {"transaction_at": "at", "customer_id": "who", "amount": "money"}
    # The nearest doubles of 14.5 and 0.3, one unit in the last place off, as sums and spreadsheets leave them.
    off = [14.500000000000002, 0.1 + 0.2]
    rows = ", ".join(f"(timestamp '2024-03-21', 'a', {money!r}::double)" for money in off)
    duckdb.connect().execute(
        f"copy (select * from (values {rows}) as t(\"at\", who, money)) to '{tmp_path}/a.parquet' (format parquet)"
    )
    (tmp_path / "a.jsonl").write_text("".join(f'{{"at": "2024-03-21", "who": "a", "money": {m!r}}}\n' for m in off))
    write_csv(tmp_path / "a.csv", [("2024-03-21", "a", repr(money)) for money in off], ("at", "who", "money"))
    lines = read(retailer(["a.parquet", "a.jsonl", "a.csv"], columns), tmp_path).rows(
        "select amount, count(*) as lines, count(unparsed) as unparsed from raw_transactions group by 1 order by 1"
    )
    assert [tuple(row.values()) for row in lines] == [(Decimal("0.3"), 3, 0), (Decimal("14.5"), 3, 0)]


def test_money_that_does_not_fit_is_kept_as_text(tmp_path: Path) -> None:
    lines = [
        line("1"),
        line("2", quantity="1000000000", price="100000"),
        line("3", quantity="-99999999", price="99999999"),
    ]
    lines += [line("4", quantity="99999", price="99999.99"), line("5", quantity="1000000", price="2000000")]
    write_csv(tmp_path / "a.csv", lines)
    rows = read(retailer("a.csv"), tmp_path).rows("select amount, unparsed from raw_transactions order by invoice")
    # DECIMAL(18,4) ends below 1e14.
    assert [row["amount"] for row in rows] == [
        Decimal(5),
        None,
        None,
        Decimal("9999899000.01"),
        Decimal(2_000_000_000_000),
    ]
    assert [row["unparsed"] and json.loads(row["unparsed"])["amount"] for row in rows] == [
        None,
        "1000000000.000 x 100000.0000",
        "-99999999.000 x 99999999.0000",
        None,
        None,
    ]


def test_dates_follow_the_configured_format(tmp_path: Path) -> None:
    lines = [line("1", at="01/02/2024 10:00"), line("2", at="31/12/2024 23:59"), line("3", at="12/31/2024 10:00")]
    write_csv(tmp_path / "a.csv", lines)
    rows = read(retailer("a.csv", date_format="%d/%m/%Y %H:%M"), tmp_path).rows(
        "select transaction_at, unparsed ->> 'transaction_at' as text from raw_transactions order by invoice"
    )
    assert [row["transaction_at"] for row in rows] == [at(2024, 2, 1, 10), at(2024, 12, 31, 23, 59), None]
    assert [row["text"] for row in rows] == [None, None, "12/31/2024 10:00"]


def test_columns_are_found_by_name_in_any_order(tmp_path: Path, expected: list[tuple[Any, ...]]) -> None:
    header = ["Extra", " unit price", "COUNTRY", "Customer ID", "", "invoicedate", "", "Quantity ", "Description"]
    header += ["stockCode", "Invoice No", "Extra"]
    lines = [
        ["x", price, country, customer, "", at, "y", quantity, text, code, invoice, "z"]
        for invoice, code, text, quantity, at, price, customer, country in SHOP[1]
    ]
    write_csv(tmp_path / "a.csv", lines, header)
    assert lines_of(retailer("a.csv"), tmp_path) == expected


def test_files_of_a_folder_may_have_different_columns(tmp_path: Path, expected: list[tuple[Any, ...]]) -> None:
    header, lines = SHOP
    write_csv(tmp_path / "in" / "1.csv", lines[:1])
    write_csv(tmp_path / "in" / "2.csv", [sold[::-1] for sold in lines[1:2]], header[::-1])
    write_csv(tmp_path / "in" / "3.csv", [(*sold, "x") for sold in lines[2:3]], (*header, "Extra"))
    workbook(tmp_path / "in" / "4.xlsx", {"All": [header, *map(cells, lines[3:])]})
    assert lines_of(retailer("in"), tmp_path) == expected


@pytest.mark.parametrize("lacking", ["stock_code", "description", "country", "invoice"])
def test_column_that_the_source_lacks_is_null(tmp_path: Path, lacking: str) -> None:
    columns = {name: theirs for name, theirs in retailer_settings(tmp_path)["columns"].items() if name != lacking}
    write_csv(tmp_path / "a.csv", SHOP[1])
    row = read(retailer("a.csv", columns), tmp_path).row(
        f"select count(*) as lines, count({lacking}) as values, count(unparsed) as unparsed from raw_transactions"
    )
    assert row == {"lines": 4, "values": 0, "unparsed": 0}


def test_amount_column_replaces_price_and_quantity(tmp_path: Path) -> None:
    columns = {"transaction_at": "at", "customer_id": "who", "amount": "money", "quantity": "pieces"}
    lines = [("2024-03-01", "1", "9.99", "3"), ("2024-03-01", "2", "5", ""), ("2024-03-01", "3", "5", "many")]
    lines += [("2024-03-01", "4", "", "1")]
    write_csv(tmp_path / "a.csv", lines, ("at", "who", "money", "pieces"))
    rows = read(retailer("a.csv", columns), tmp_path).rows(
        "select amount, quantity, price, unparsed from raw_transactions order by customer_id"
    )
    assert [(row["amount"], row["quantity"], row["price"]) for row in rows] == [
        (Decimal("9.99"), Decimal(3), None),
        (Decimal(5), None, None),
        (Decimal(5), None, None),
        (None, Decimal(1), None),
    ]
    assert [row["unparsed"] is None for row in rows] == [True, True, False, False]


def test_unparsed_values_are_kept_as_text(tmp_path: Path) -> None:
    sold = line(quantity="two", at="1st of March", price="")
    write_csv(tmp_path / "a.csv", [sold])
    row = read(retailer("a.csv"), tmp_path).row("select * from raw_transactions")
    assert (row["quantity"], row["transaction_at"], row["price"], row["amount"]) == (None, None, None, None)
    assert {name: text for name, text in json.loads(row["unparsed"]).items() if text is not None} == {
        "quantity": "two",
        "transaction_at": "1st of March",
        "price": "",
    }


def test_popular_online_retail_csv_needs_the_two_documented_settings(
    tmp_path: Path,
) -> None:
    lines = [line(at="12/1/2010 8:26"), line(description="£1", at="1/31/2011 16:05")]
    (tmp_path / "data.csv").write_bytes(text_of([HEADER, *lines]).encode("cp1252"))
    shipped = (SHIPPED / "online_retail.toml").read_text("utf-8")
    for text, expected_lines in (
        (shipped, 0),
        (re.sub("^# (date_format|encoding)", r"\1", shipped, flags=re.MULTILINE), 2),
    ):
        settings = tomllib.loads(text)
        settings["source"]["path"] = "data.csv"
        rows = read(Retailer.model_validate(settings), tmp_path).rows(
            "select transaction_at as at, description from raw_transactions where unparsed is null order by 1"
        )
        assert len(rows) == expected_lines
    assert [(row["at"], row["description"]) for row in rows] == [
        (at(2010, 12, 1, 8, 26), "LANTERN"),
        (at(2011, 1, 31, 16, 5), "£1"),
    ]


# -- malformed records: each spoils itself only


def good(number: int) -> str:
    return text_of([line(invoice=str(number))])


HEAD = text_of([HEADER])
MALFORMED = {
    "too short": "a,b\n",
    "too long": "1,2,3,4,5,6,7,8,9\n",
    "one word": "word\n",
    "unclosed quote": '1,2,"LANTERN,4,5,6,7,8\n',
    "text after a quote": '1,2,"LAN"TERN,4,5,6,7,8\n',
    "blanks": "   \n",
}


# The numbers of good lines before and after a malformed one.
PLACES = {"first": (0, 3), "middle": (2, 2), "last": (3, 0), "alone": (0, 0)}


@pytest.mark.parametrize("kinds", [[kind] for kind in MALFORMED] + [[*MALFORMED]], ids=" and ".join)
def test_malformed_record_is_kept_as_text_with_its_number(tmp_path: Path, kinds: list[str]) -> None:
    """A file for each place of it: of one kind, and of all kinds together."""
    expected_lines = dict[tuple[str, str, int], str | None]()
    (tmp_path / "in").mkdir()
    for kind, (place, (before, after)) in product(kinds, PLACES.items()):
        lines = [*(str(number) for number in range(100, 100 + before)), MALFORMED[kind].rstrip("\n")]
        lines += [str(number) for number in range(200, 200 + after)]
        text = HEAD + "".join(good(int(one)) if one.isdigit() else f"{one}\n" for one in lines)
        (tmp_path / "in" / f"{kind} {place}.csv").write_text(text)
        expected_lines |= {(f"{kind} {place}.csv", "", 2 + at): one for at, one in enumerate(lines)}
    assert numbers_of(retailer("in"), tmp_path) == expected_lines


def test_all_kinds_of_malformed_records_spoil_no_other_line(tmp_path: Path) -> None:
    text, expected_lines = HEAD, dict[int, str]()
    for at, kind in enumerate(MALFORMED.values()):
        text += good(100 + at) + kind
        expected_lines |= {2 + 2 * at: str(100 + at), 3 + 2 * at: kind.rstrip("\n")}
    (tmp_path / "a.csv").write_text(text + good(999))
    found = numbers_of(retailer("a.csv"), tmp_path)
    assert {number: text for (_, _, number), text in found.items()} == expected_lines | {14: "999"}


def test_unclosed_quote_spoils_one_line_of_a_large_file(tmp_path: Path) -> None:
    lines = 40_000
    rest = "".join(good(number).replace("LANTERN", '"LANTERN, ""BIG"""') for number in range(lines))
    (tmp_path / "a.csv").write_text(HEAD + good(1) + MALFORMED["unclosed quote"] + rest)
    row = read(retailer("a.csv"), tmp_path).row(
        "select count(*) as lines, count(unparsed) as malformed, max(source_line) as last, sum(amount) as money,"
        " count(distinct source_line) as numbers from raw_transactions"
    )
    money = Decimal(5 * (lines + 1))
    assert row == {"lines": lines + 2, "malformed": 1, "last": lines + 3, "money": money, "numbers": lines + 2}


@pytest.mark.parametrize(
    "cut", ['536365,"LANT', '536365,8"x,"LANT', '"536365,"8x","LANT'], ids=["open", "inch", "junk"]
)
@pytest.mark.parametrize("files", [1, 12])
def test_last_line_cut_off_inside_a_quote_is_malformed(tmp_path: Path, files: int, cut: str) -> None:
    """DuckDB omits it without an error where there are more than twice as many files as threads."""
    (tmp_path / "in").mkdir()
    for number in range(files):
        (tmp_path / "in" / f"{number}.csv").write_text(HEAD + good(1) + cut)
    expected_lines = {
        (f"{number}.csv", "", 2 + at): text for number in range(files) for at, text in enumerate(("1", cut))
    }
    assert numbers_of(retailer("in"), tmp_path) == expected_lines


def test_undecodable_bytes_spoil_one_line(tmp_path: Path) -> None:
    bad = good(2).encode().replace(b"LAN", b"L\xc4N")
    (tmp_path / "a.csv").write_bytes(HEAD.encode() + good(1).encode() + bad + good(3).encode())
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress((tmp_path / "a.csv").read_bytes()))
    # cp1252 has no character for 0x81.
    (tmp_path / "c.csv").write_bytes((tmp_path / "a.csv").read_bytes().replace(b"\xc4", b"\x81"))
    shown = good(2).rstrip("\n").replace("LAN", r"L\xc4N")
    expected_lines = {2: "1", 3: shown, 4: "3"}
    for name, encoding in (("a.csv", "utf-8"), ("b.csv.gz", "utf-8")):
        found = numbers_of(retailer(name, encoding=encoding), tmp_path)
        assert {number: text for (_, _, number), text in found.items()} == expected_lines
    found = numbers_of(retailer("c.csv", encoding="cp1252"), tmp_path)
    assert {number: text for (_, _, number), text in found.items()} == {2: "1", 3: shown.replace("xc4", "x81"), 4: "3"}


def test_field_of_several_lines_is_one_record(tmp_path: Path) -> None:
    expected_lines = list[tuple[str, int, str | None]]()
    (tmp_path / "in").mkdir()
    for number, (end, inside) in enumerate(product(("\n", "\r\n"), ("\n", "\r\n", "\r"))):
        text = HEAD + good(1).replace("LANTERN", '"LAN~TERN"') + good(2) + "malformed\n" + good(3)
        (tmp_path / "in" / f"{number}.csv").write_bytes(text.replace("\n", end).replace("~", inside).encode())
        found = (f"LAN{inside}TERN", "LANTERN", None, "LANTERN")
        expected_lines += [(f"{number}.csv", 2 + at, description) for at, description in enumerate(found)]
    select = "select source_file, source_line, description from raw_transactions order by all"
    assert read(retailer("in"), tmp_path).connection.execute(select).fetchall() == expected_lines


def test_trailing_delimiters_do_not_spoil_a_line(tmp_path: Path) -> None:
    """Whether DuckDB reads the file, or Python does because of a malformed record."""
    trailing = "".join(good(number).replace("\n", "," * number + "\n") for number in range(3)) + "," * 13 + "\n"
    for name, end in (("a.csv", ""), ("b.csv", MALFORMED["unclosed quote"])):
        (tmp_path / name).write_text(HEAD + trailing + end + good(3) + good(4).replace("\n", ",,x\n"))
    last = good(4).replace("\n", ",,x")
    after = {"a.csv": ["3", last], "b.csv": [MALFORMED["unclosed quote"].rstrip(), "3", last]}
    assert numbers_of(retailer("*.csv"), tmp_path) == {
        (name, "", 2 + at): one for name, rest in after.items() for at, one in enumerate(["0", "1", "2", None, *rest])
    }


def test_mixed_line_ends_and_blank_lines_lose_nothing(tmp_path: Path) -> None:
    text = (
        "\n"
        + HEAD
        + good(1)
        + good(2).replace("\n", "\r\n")
        + "\n\r\n"
        + good(3).replace("\n", "\r")
        + good(4).rstrip()
    )
    (tmp_path / "a.csv").write_bytes(text.encode())
    found = numbers_of(retailer("a.csv"), tmp_path)
    assert {number: text for (_, _, number), text in found.items()} == {2: "1", 3: "2", 4: "3", 5: "4"}


def test_lines_are_numbered_per_file(tmp_path: Path) -> None:
    expected_lines: dict[tuple[str, str, int], str | None] = {}
    for at, name in enumerate(["a.csv", "b.csv", "deep/c.csv", "z.csv"]):
        lines = [str(1000 * at + number) for number in range(3 + at)]
        if at % 2:
            lines.insert(1, "malformed")
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(HEAD + "".join(good(int(one)) if one.isdigit() else f"{one}\n" for one in lines))
        expected_lines |= {(name, "", 2 + number): one for number, one in enumerate(lines)}
    assert numbers_of(retailer("in"), tmp_path) == expected_lines


def test_repeated_header_is_an_unparsed_line(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(HEAD + good(1) + HEAD + good(2))
    rows = read(retailer("a.csv"), tmp_path).rows(
        "select source_line, invoice, unparsed from raw_transactions order by 1"
    )
    assert [row["invoice"] for row in rows] == ["1", "InvoiceNo", "2"]
    assert [row["unparsed"] is None for row in rows] == [True, False, True]


def test_header_of_several_lines_is_one_record(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(HEAD.replace("InvoiceNo", '"Invoice\nNo"') + good(1))
    assert numbers_of(retailer("a.csv"), tmp_path) == {("a.csv", "", 2): "1"}


def test_malformed_json_lines_are_kept_as_text_with_their_number(tmp_path: Path) -> None:
    def item(number: int) -> str:
        return json.dumps(dict(zip(HEADER, line(invoice=str(number)), strict=True)))

    malformed = ['{"InvoiceNo": ', "[1, 2]", "5", f"{item(9)} x"]
    lines = [item(1), malformed[0], item(2), "", malformed[1], malformed[2], malformed[3], item(3)]
    (tmp_path / "a.jsonl").write_bytes("\n".join(lines).encode() + b'\n{"InvoiceNo": "\xff"}\n')
    found = numbers_of(retailer("a.jsonl"), tmp_path)
    expected_lines = ["1", malformed[0], "2", *malformed[1:], "3", r'{"InvoiceNo": "\xff"}']
    assert {number: text for (_, _, number), text in found.items()} == dict(enumerate(expected_lines, 1))


# -- which files are read


def names(settings: Retailer, base: Path) -> list[str]:
    return list(source_files(settings.source, base))


def test_folder_is_read_with_its_subfolders(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    for name in ("b.csv", "a.csv", "2024/03/c.csv.gz", "2024/d.xlsx", "e.PARQUET", "f.jsonl.zst", "g.tsv"):
        write_csv(folder / name, [])
    for other in ("readme.md", ".hidden.csv", "~$d.xlsx", ".ipynb_checkpoints/a.csv", "h.csv.bak", "photo.png"):
        write_csv(folder / other, [])
    assert names(retailer("in"), tmp_path) == [
        "2024/03/c.csv.gz",
        "2024/d.xlsx",
        "a.csv",
        "b.csv",
        "e.PARQUET",
        "f.jsonl.zst",
        "g.tsv",
    ]


def test_files_of_a_pattern_are_named_from_its_folder(tmp_path: Path) -> None:
    for name in ("in/2024-01/a.csv", "in/2024-02/a.csv", "in/2023-12/a.csv", "in/2024-02/b.xlsx"):
        write_csv(tmp_path / name, [])
    assert names(retailer("in/2024-*/*.csv"), tmp_path) == ["2024-01/a.csv", "2024-02/a.csv"]
    assert names(retailer(f"{tmp_path}/in/**/a.csv"), Path("/")) == ["2023-12/a.csv", "2024-01/a.csv", "2024-02/a.csv"]


def test_files_of_a_list_have_distinct_names(tmp_path: Path) -> None:
    for at, name in enumerate(("shop/a.csv", "web/a.csv", "web/b.csv")):
        write_csv(tmp_path / name, [line(invoice=str(at))])
    settings = retailer(["shop/a.csv", "web"])
    assert names(settings, tmp_path) == ["shop/a.csv", "web/a.csv", "web/b.csv"]
    assert [*numbers_of(settings, tmp_path).values()] == ["0", "1", "2"]


def test_file_named_twice_is_read_once(tmp_path: Path) -> None:
    write_csv(tmp_path / "in" / "deep" / "a.csv", [line()])
    (tmp_path / "in" / "latest.csv").symlink_to(tmp_path / "in" / "deep" / "a.csv")
    assert names(retailer(["in", "in/deep/a.csv", "in/*.csv"]), tmp_path) == ["deep/a.csv"]


def test_wildcards_in_file_names_are_literal(tmp_path: Path) -> None:
    folder = tmp_path / "a [1]"
    write_csv(folder / "a.csv", [line(invoice="2")])
    every = {("a.csv", "", 2): "2"}
    for name in ("a [1] 'x' *.csv", "[ab].csv", "what?.csv", "über uns.csv"):
        (folder / name).write_text(HEAD + good(1) + "malformed\n")
        expected_lines = {(name, "", 2): "1", (name, "", 3): "malformed"}
        assert numbers_of(retailer(f"a [1]/{name}"), tmp_path) == expected_lines
        every |= expected_lines
    assert numbers_of(retailer("a [1]"), tmp_path) == every
    assert names(retailer("*.csv"), folder) == sorted({name for name, _, _ in every})


def test_unknown_ending_needs_a_format(tmp_path: Path) -> None:
    write_csv(tmp_path / "export.dat", [line(invoice="1")])
    assert numbers_of(retailer("export.dat", format="csv"), tmp_path) == {("export.dat", "", 2): "1"}
    with pytest.raises(SourceError, match=r"export.dat: unknown ending. Set source.format"):
        names(retailer("export.dat"), tmp_path)


@pytest.mark.parametrize("path", ["nowhere", "nowhere.csv", "empty", "*.csv"])
def test_path_without_files_is_named_in_the_message(tmp_path: Path, path: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.md").write_text("x")
    with pytest.raises(SourceError) as error:
        names(retailer(path), tmp_path)
    assert str(error.value).startswith(
        f"source.path: nothing to read at {tmp_path / path}; expected files ending in .csv"
    )


# -- errors


def error_message(settings: Retailer, base: Path) -> str:
    with pytest.raises(SourceError) as error:
        read(settings, base)
    assert not list((base / "spill").iterdir())
    return str(error.value)


def test_empty_files_are_skipped(tmp_path: Path) -> None:
    write_csv(tmp_path / "in" / "a.csv", [line(invoice="1")])
    for name in ("b.csv", "c.jsonl", "d.parquet", "e.xlsx", "f.csv.gz"):
        (tmp_path / "in" / name).write_bytes(gzip.compress(b"") if name.endswith(".gz") else b"")
    (tmp_path / "in" / "g.csv").write_text("\n\n")
    write_csv(tmp_path / "in" / "h.csv", [])
    workbook(tmp_path / "in" / "i.xlsx", {"Empty": [], "Also": [[None, None]]})
    assert numbers_of(retailer("in"), tmp_path) == {("a.csv", "", 2): "1"}


def test_source_without_lines_is_an_error(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.csv").write_text("")
    assert (
        error_message(retailer("in"), tmp_path)
        == "source.path: no lines to read (1 file, all empty). Check the export."
    )
    write_csv(folder / "b.csv", [])
    assert (
        error_message(retailer("in"), tmp_path)
        == "source.path: no lines to read (2 files with a header and nothing below it). Check the export."
    )


def test_missing_column_is_reported_with_those_found(tmp_path: Path) -> None:
    write_csv(tmp_path / "in" / "good.csv", [line()])
    header = ("Invoice", *HEADER[1:4], "InvoiceDate", "UnitPrice", "Customer", "Country")
    write_csv(tmp_path / "in" / "other.csv", [line()], header)
    assert error_message(retailer("in"), tmp_path) == (
        "other.csv: no column for customer_id = 'CustomerID', invoice = 'InvoiceNo'; it has Invoice, StockCode, "
        "Description, Quantity, InvoiceDate, UnitPrice, Customer, Country. Correct [columns] of the retailer file, "
        "or leave out a column that the source does not have."
    )


def test_header_that_is_a_line_of_data_is_masked(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", [line()], ("1", "22A", "Vera", "x@shop.example"))
    assert "it has 9, 99a, Vera, a@aaaa.aaaaaaa. Correct" in error_message(retailer("a.csv"), tmp_path)


def test_wrong_delimiter_or_encoding_shows_the_columns_found(tmp_path: Path) -> None:
    header, lines = SHOP
    (tmp_path / "a.csv").write_text(text_of([header, *lines], ";"))
    assert "it has InvoiceNo;StockCode;" in error_message(retailer("a.csv"), tmp_path)
    (tmp_path / "b.csv").write_bytes(text_of([header, *lines]).encode("utf-16-le"))
    message = error_message(retailer("b.csv"), tmp_path)
    assert "InvoiceNo, StockCode, " in message
    assert message.endswith("Check source.encoding too.")
    assert "\0" not in message
    (tmp_path / "c.csv").write_text(text_of([header, *lines]))
    assert error_message(retailer("c.csv", encoding="utf-16"), tmp_path).startswith("c.csv: cannot be read as csv: ")


def test_message_shows_a_header_of_several_lines_in_one(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('"Who\n\x1bis it",Money\n1,2\n')
    message = error_message(retailer("a.csv"), tmp_path)
    assert "it has Whois it, Money. Correct" in message
    assert message.isprintable()


@pytest.mark.parametrize("name", ["a.parquet", "a.xlsx", "a.csv.gz", "a.jsonl.gz", "a.csv.zst", "a.jsonl"])
def test_file_with_wrong_content_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("This is not what its name says.\n")
    message = error_message(retailer(name), tmp_path)
    assert message.startswith((f"{name}: cannot be read as ", f"{name}: no line of it is a JSON object"))
    assert "\n" not in message


@pytest.mark.parametrize(("name", "compress"), [("a.csv.gz", gzip.compress), ("a.csv.zst", zstandard.compress)])
def test_truncated_compressed_file_is_an_error(tmp_path: Path, name: str, compress: Callable[[bytes], bytes]) -> None:
    data = compress("".join([HEAD, *map(good, range(1000))]).encode())
    (tmp_path / name).write_bytes(data[: len(data) // 2])
    assert error_message(retailer(name), tmp_path).startswith(f"{name}: cannot be read as csv: Compressed file ended")


# -- workbooks


def test_all_sheets_or_named_ones_are_read(tmp_path: Path) -> None:
    header, (first, second, *_) = SHOP
    workbook(tmp_path / "a.xlsx", {"2009": [header, cells(first)], "2010": [header, cells(second)], "Empty": []})
    both = {("a.xlsx", "2009", 2): "536365", ("a.xlsx", "2010", 2): "C536366"}
    assert numbers_of(retailer("a.xlsx"), tmp_path) == both
    assert numbers_of(retailer("a.xlsx", sheets=["2010"]), tmp_path) == {("a.xlsx", "2010", 2): "C536366"}


def test_missing_sheet_is_reported_with_those_found(tmp_path: Path) -> None:
    workbook(tmp_path / "a.xlsx", {"Lines": SHOP[1], "Notes": []})
    assert (
        error_message(retailer("a.xlsx", sheets=["Line"]), tmp_path)
        == "a.xlsx: no sheet Line; it has Lines, Notes. Correct source.sheets."
    )


def test_sheet_without_the_columns_is_named(tmp_path: Path) -> None:
    workbook(tmp_path / "a.xlsx", {"Lines": [HEADER, cells(line())], "Notes": [["Made by"], ["us"]]})
    message = error_message(retailer("a.xlsx"), tmp_path)
    assert message.startswith("a.xlsx [Notes]: no column for transaction_at = 'InvoiceDate', ")
    assert "or name the sheets that have them in source.sheets." in message


def test_error_cell_is_read_as_empty(tmp_path: Path) -> None:
    path = workbook(tmp_path / "a.xlsx", {"Lines": [HEADER, cells(line("1")), cells(line("2"))]})
    book = openpyxl.load_workbook(path)
    cell = book["Lines"]["G2"]
    cell.value, cell.data_type = "#N/A", "e"
    book.save(path)
    rows = read(retailer("a.xlsx"), tmp_path).rows(
        "select customer_id, unparsed from raw_transactions order by invoice"
    )
    assert [tuple(row.values()) for row in rows] == [(None, None), ("17850", None)]


def test_file_with_too_many_columns_is_an_error(tmp_path: Path) -> None:
    """DuckDB would run out of memory with the columns between a distant cell and the others."""
    book = write_workbook(tmp_path / "book.xlsx", {"Lines": [HEADER, line()]})
    with zipfile.ZipFile(book) as whole, zipfile.ZipFile(tmp_path / "a.xlsx", "w") as damaged:
        for name in whole.namelist():
            damaged.writestr(name, whole.read(name).replace(b'r="E2"', b'r="ABCDE2"'))
    problem = "columns; a sheet has 16,384 at most, so it is damaged"
    assert error_message(retailer("a.xlsx"), tmp_path) == f"a.xlsx: 494,265 {problem}"
    write_csv(tmp_path / "b.csv", [line()], (*HEADER, *map(str, range(20_000))))
    assert error_message(retailer("b.csv"), tmp_path) == f"b.csv: 20,008 {problem}"


def test_blank_rows_of_a_workbook_are_skipped(tmp_path: Path) -> None:
    rows = [[None], [None], HEADER, cells(line("1")), [None] * 8, cells(line("2"))]
    workbook(tmp_path / "a.xlsx", {"Lines": rows})
    assert numbers_of(retailer("a.xlsx"), tmp_path) == {("a.xlsx", "Lines", 2): "1", ("a.xlsx", "Lines", 3): "2"}
