"""A draft of a retailer file reads its source completely, or leaves open what the source does not say."""

import json
import tomllib
from collections.abc import Callable, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pytest

from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.errors import SourceError
from segmentation_pipeline.ingestion.discovery import source_files
from segmentation_pipeline.ingestion.sampling import sampled
from segmentation_pipeline.inspection.copies import add_copies
from segmentation_pipeline.inspection.guesses import Draft
from segmentation_pipeline.inspection.proposal import proposed_draft
from segmentation_pipeline_tests.ingestion.test_exports import EXPECTED, EXPORTS
from segmentation_pipeline_tests.ingestion.test_shipped_retailers import SYSTEMS
from segmentation_pipeline_tests.workbooks import write_workbook

# What these exports do not say; their retailer files, which people wrote, do.
OPEN = {
    "accounting": ["currency"],
    "ids": ["customers.normalise"],
    "noheader": ["columns.customer_id", "columns.amount"],
    "overlap": ["cleaning.sources_overlap"],
    "status": ["cleaning.rules (not_counted)"],
    "stripe": ["source.minor_unit_digits"],
}


# The other exports differ from these in notations that the made-up files below have.
TRIED = ("accounting", "ids", "noheader", "overlap", "shopify", "status", "stripe", "twoformats")


@pytest.mark.parametrize("export", TRIED)
def test_a_draft_reads_like_the_shipped_retailer_file(export: str, tmp_path: Path) -> None:
    """The settings that are left open, and the time zone, are taken from that file."""
    draft = proposed_draft(EXPORTS / export / "in", tmp_path)
    written = tomllib.loads((EXPORTS / export / "retailer.toml").read_text("utf-8"))
    settings = draft.settings | {"time_zone": written["time_zone"]}
    retailer, expected = Retailer.model_validate(settings), EXPECTED[export]
    if export in ("ids", "overlap"):
        with sampled(retailer, tmp_path, source_files(retailer.source, tmp_path)) as sample:
            add_copies(draft, sample, retailer)
    assert draft.open_keys == OPEN.get(export, [])
    path = settings["source"]["path"]
    # Any of the currencies that a sign can mean reads the same numbers.
    for key in sorted({*draft.open_keys} - {"currency"}):
        section = key.partition(".")[0].partition(" ")[0]
        settings |= {section: written[section], "columns": written["columns"]}
    settings["source"]["path"] = path
    retailer = Retailer.model_validate(settings)
    with sampled(retailer, tmp_path, source_files(retailer.source, tmp_path)) as sample:
        raw = sample.warehouse.connection.execute(
            "select count(*), sum(amount), count(distinct customer_id), min(transaction_at), max(transaction_at),"
            " count(unparsed) from raw_transactions"
        ).fetchall()
        rejected = [(loss.rule, loss.lines) for loss in sample.losses.by_rule if loss.lines]
    times = datetime.fromisoformat(expected.first), datetime.fromisoformat(expected.last)
    assert raw == [(expected.lines, Decimal(expected.money), expected.customers, *times, 0)]
    assert [lines for _, lines in rejected] == ([expected.rejected[1]] if expected.rejected else [])


# -- made-up files

DAYS = [date(2024, 1, 3) + timedelta(days=13 * number) for number in range(26)]
MONTHS = {
    "de": [
        "Januar",
        "Februar",
        "März",
        "April",
        "Mai",
        "Juni",
        "Juli",
        "August",
        "September",
        "Oktober",
        "November",
        "Dezember",
    ],
    "fr": ["janv.", "févr.", "mars", "avr.", "mai", "juin", "juil.", "août", "sept.", "oct.", "nov.", "déc."],
    "es": [
        "enero",
        "febrero",
        "marzo",
        "abril",
        "mayo",
        "junio",
        "julio",
        "agosto",
        "septiembre",
        "octubre",
        "noviembre",
        "diciembre",
    ],
    "pt": ["jan", "fev", "mar", "abr", "mai", "jun", "jul", "ago", "set", "out", "nov", "dez"],
}
Row = Callable[[int, date], Sequence[object]]


def named(language: str, day: date) -> str:
    return MONTHS[language][day.month - 1]


def text(header: str, row: Row, delimiter: str, title: str = "") -> str:
    rows = [delimiter.join(map(str, row(number, day))) for number, day in enumerate(DAYS)]
    return title + "\n".join([header.replace("|", delimiter), *rows]) + "\n"


def comma(number: float) -> str:
    return f"{number:.2f}".replace(".", ",")


GERMAN = text(
    "Rechnungs-Nr.|Artikelnummer|Bezeichnung|Menge|Rechnungsdatum|Einzelpreis (EUR)|Gesamtpreis|Kunden-Nr.|Land",
    lambda n, day: [
        *(n, "A1", "Stück für Bäder", 1 + n % 3, f"{day.day}. {named('de', day)} {day.year}"),
        *(comma(2.5 + n), comma((1 + n % 3) * (2.5 + n)), f"K{n % 9}", "Österreich"),
    ],
    ";",
)
FRENCH = text(
    "N° commande|Réf. produit|Désignation|Qté|Date de commande|Prix unitaire|N° client|Pays",
    lambda n, day: [
        *(n, "A1", "Tasse à café", 1 + n % 3, f"{day.day} {named('fr', day)} {day.year}"),
        *(f"{comma(2.5 + n)} €", f"K{n % 9}", "France"),
    ],
    ";",
)
SPANISH = text(
    "Nº pedido|Código producto|Cantidad|Fecha|Precio unitario|Cliente|País",
    lambda n, day: [
        n,
        "A1",
        1 + n % 3,
        f"{day.day} de {named('es', day)} de {day.year}",
        comma(2.5 + n),
        f"K{n % 9}",
        "España",
    ],
    "\t",
)
PORTUGUESE = text(
    "Número do pedido|Qtde|Data do pedido|Preço unitário|ID do cliente",
    lambda n, day: [n, 1 + n % 3, f"{day:%d}/{named('pt', day)}/{day.year}", f"R$ {comma(2.5 + n)}", f"K{n % 9}"],
    "|",
)
ENGLISH = text(
    "OrderNo|OrderDate|OrderTime|Qty|UnitPrice|CustomerNo",
    lambda n, day: [n, f"{day:%m/%d/%Y}", "10:15", 1 + n % 3, 2.25 + n, f"K{n % 9}"],
    "\t",
)
TITLED = text(
    "Beleg|Datum|Kunde|Betrag|Währung",
    lambda n, day: [n, f"{day:%d.%m.%y}", f"K{n % 9}", f"{comma(2.5 + n)}{'-' if n % 7 == 0 else ''}", "CHF"],
    ";",
    "Umsatzliste;;;;\nZeitraum: 2024;;;;\n\n",
)
FOUND: dict[str, tuple[bytes, dict[str, Any]]] = {
    "german.csv": (
        GERMAN.encode("cp1252"),
        {
            "currency": "EUR",
            "source": {
                "encoding": "cp1252",
                "delimiter": ";",
                "decimal": ",",
                "date_format": "%d. %b %Y",
                "date_language": "de",
            },
            "columns": {
                "transaction_at": "Rechnungsdatum",
                "customer_id": "Kunden-Nr.",
                "invoice": "Rechnungs-Nr.",
                "stock_code": "Artikelnummer",
                "description": "Bezeichnung",
                "country": "Land",
                "quantity": "Menge",
                "price": "Einzelpreis (EUR)",
                "amount": "Gesamtpreis",
            },
        },
    ),
    "french.csv": (
        FRENCH.encode("utf-8-sig"),
        {
            "currency": "EUR",
            "source": {"delimiter": ";", "decimal": ",", "date_format": "%d %b %Y", "date_language": "fr"},
            "columns": {
                "transaction_at": "Date de commande",
                "customer_id": "N° client",
                "invoice": "N° commande",
                "stock_code": "Réf. produit",
                "description": "Désignation",
                "country": "Pays",
                "quantity": "Qté",
                "price": "Prix unitaire",
            },
        },
    ),
    "spanish.txt": (
        SPANISH.encode("latin-1"),
        {
            "currency": "XXX",
            "source": {
                "encoding": "cp1252",
                "delimiter": "\t",
                "decimal": ",",
                "date_format": "%d de %b de %Y",
                "date_language": "es",
            },
            "columns": {
                "transaction_at": "Fecha",
                "customer_id": "Cliente",
                "invoice": "Nº pedido",
                "stock_code": "Código producto",
                "country": "País",
                "quantity": "Cantidad",
                "price": "Precio unitario",
            },
        },
    ),
    "portuguese.csv": (
        PORTUGUESE.encode(),
        {
            "currency": "BRL",
            "source": {"delimiter": "|", "decimal": ",", "date_format": "%d/%b/%Y", "date_language": "pt"},
            "columns": {
                "transaction_at": "Data do pedido",
                "customer_id": "ID do cliente",
                "invoice": "Número do pedido",
                "quantity": "Qtde",
                "price": "Preço unitário",
            },
        },
    ),
    "english.csv": (
        ENGLISH.encode("utf-16"),
        {
            "currency": "XXX",
            "source": {"delimiter": "\t", "date_format": "%m/%d/%Y %H:%M"},
            "columns": {
                "transaction_at": "OrderDate",
                "transaction_time": "OrderTime",
                "customer_id": "CustomerNo",
                "invoice": "OrderNo",
                "quantity": "Qty",
                "price": "UnitPrice",
            },
        },
    ),
    "titled.csv": (
        TITLED.encode(),
        {
            "currency": "CHF",
            "source": {"delimiter": ";", "skip_lines": 3, "decimal": ",", "date_format": "%d.%m.%y"},
            "columns": {"transaction_at": "Datum", "customer_id": "Kunde", "invoice": "Beleg", "amount": "Betrag"},
        },
    ),
    "lines.jsonl": (
        "\n".join(
            json.dumps({"orderId": n, "createdAt": f"{day}T10:15:00Z", "total": 2.5 + n, "customerId": f"K{n % 9}"})
            for n, day in enumerate(DAYS)
        ).encode(),
        {
            "currency": "XXX",
            "source": {},
            "columns": {
                "transaction_at": "createdAt",
                "customer_id": "customerId",
                "invoice": "orderId",
                "amount": "total",
            },
        },
    ),
    # A file whose ending says nothing, whose columns differ in width only.
    "export.dat": (
        "".join(
            f"{a:<10} {b:<12} {c:<10} {d:>8}\n"
            for a, b, c, d in [
                ("order", "date", "customer", "amount"),
                *((n, day, f"K{n % 9}", f"{2.5 + n:.2f}") for n, day in enumerate(map(str, DAYS))),
            ]
        ).encode(),
        {
            "currency": "XXX",
            "source": {"format": "csv", "delimiter": "whitespace"},
            "columns": {"transaction_at": "date", "customer_id": "customer", "invoice": "order", "amount": "amount"},
        },
    ),
}


def draft_of(folder: Path, name: str, content: bytes | str) -> Draft:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return proposed_draft(path, folder)


@pytest.mark.parametrize("name", FOUND)
def test_everything_that_a_file_says_is_found(name: str, tmp_path: Path) -> None:
    content, expected = FOUND[name]
    draft = draft_of(tmp_path, name, content)
    assert draft.open_keys == []
    found = draft.settings
    assert found["source"].pop("path") == name
    assert {key: found[key] for key in expected} == expected
    retailer = Retailer.model_validate(draft.settings)
    with sampled(retailer, tmp_path, source_files(retailer.source, tmp_path)) as sample:
        assert (sample.error, sample.losses.unreadable.lines) == ("", 0)
        assert sample.warehouse.count("clean_transactions") == len(DAYS)


def test_a_titled_sheet_is_found_beside_an_empty_one(tmp_path: Path) -> None:
    rows = [(n, "A1", datetime.combine(day, datetime.min.time()), 2.5 + n, f"K{n % 9}") for n, day in enumerate(DAYS)]
    header = ("Belegnummer", "Artikel", "Datum", "Betrag", "Kundennummer")
    sheets: dict[str, Any] = {"Info": [("Bericht", "2024")], "Verkäufe": [("Verkaufsliste",), (), header, *rows]}
    draft = proposed_draft(write_workbook(tmp_path / "a.xlsx", sheets), tmp_path)
    assert draft.open_keys == []
    source = {"path": "a.xlsx", "skip_lines": 2}
    assert draft.settings["source"] in (source, source | {"sheets": ["Verkäufe"]})
    retailer = Retailer.model_validate(draft.settings)
    with sampled(retailer, tmp_path, source_files(retailer.source, tmp_path)) as sample:
        assert sample.warehouse.count("clean_transactions") == len(DAYS)


def test_columns_of_parquet_have_types_and_need_no_format(tmp_path: Path) -> None:
    duckdb.connect().execute(
        "copy (select i as invoice_id, timestamp '2024-01-03 10:00:00' + to_days(cast(i as integer)) as sold_at,"
        " 2 as qty, cast(2.5 as decimal(9, 2)) as unit_price, 'K' || i % 9 as client_id from range(50) as r(i))"
        f" to '{tmp_path}/a.parquet'"
    )
    draft = proposed_draft(tmp_path / "a.parquet", tmp_path)
    assert (draft.open_keys, draft.settings["source"]) == ([], {"path": "a.parquet"})
    assert draft.settings["columns"] == {
        "transaction_at": "sold_at",
        "customer_id": "client_id",
        "invoice": "invoice_id",
        "quantity": "qty",
        "price": "unit_price",
    }


AMBIGUOUS = {
    # No day is after the twelfth.
    "dates": ("Order,Order Date,Customer,Total\n1,05/01/2024,K1,2.50\n2,12/11/2024,K2,3.50\n", ["source.date_format"]),
    "decimals": ("Order;Date;Customer;Total\n1;2024-01-05;K1;1,234\n2;2024-01-06;K2;2,500\n", ["source.decimal"]),
    "two dates": (
        "Order,Order Date,Invoice Date,Customer,Total\n"
        "1,2024-01-05,2024-01-06,K1,2.5\n2,2024-01-07,2024-01-07,K2,3.5\n",
        ["columns.transaction_at"],
    ),
    "currencies": (
        "Order,Date,Customer,Total,Currency\n1,2024-01-05,K1,2.5,EUR\n2,2024-01-05,K2,2.5,USD\n",
        ["currency", "cleaning.rules (other_currency)"],
    ),
    "dollars": ("Order,Date,Customer,Total\n1,2024-01-05,K1,$2.50\n2,2024-01-05,K2,$3.50\n", ["currency"]),
    "money after a discount": (
        "Order,Date,Customer,Qty,Price,Total\n1,2024-01-05,K1,2,2.50,4.50\n2,2024-01-05,K2,1,3.50,3.00\n",
        ["columns.amount"],
    ),
    "ids like dates": (
        "Invoice,Date,Customer,Total,Paid\nINV-2024-01-0003,05/01/2024,K1,2.5,05/01/2024\n",
        ["source.date_format"],
    ),
    "unknown dates": ("Order,Date,Customer,Total\n1,2024-W05,K1,2.5\n2,2024-W06,K2,3.5\n", ["source.date_format"]),
    "no money": ("Order,Date,Customer,Net,Gross\n1,2024-01-05,K1,2.5,3\n", ["columns.amount"]),
    "cents": ("Order,Date,Customer,Total\n1,2024-01-05,K1,1999\n2,2024-01-05,K2,1250\n", ["source.minor_unit_digits"]),
}


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_what_a_file_does_not_say_is_left_open(name: str, tmp_path: Path) -> None:
    content, expected = AMBIGUOUS[name]
    draft = draft_of(tmp_path, "a.csv", content)
    assert draft.open_keys == expected
    for guess in draft.guesses:
        if guess.is_open:
            assert guess.evidence


def test_both_readings_of_a_date_are_shown_with_their_period(tmp_path: Path) -> None:
    draft = draft_of(tmp_path, "a.csv", AMBIGUOUS["dates"][0])
    [guess] = [one for one in draft.guesses if one.is_open]
    assert guess.choices == ["%d/%m/%Y", "%m/%d/%Y"]
    evidence = " ".join(guess.evidence)
    assert "%d/%m/%Y reads 2 of 2 values, from 2024-01-05 00:00:00 to 2024-11-12 00:00:00." in evidence
    assert "%m/%d/%Y reads 2 of 2 values, from 2024-05-01 00:00:00 to 2024-12-11 00:00:00." in evidence


def test_more_lines_are_read_if_the_first_span_few_days(tmp_path: Path) -> None:
    """Day 13 comes after more lines than are usually looked at."""
    lines = "".join(f"{n},{1 + n // 1000:02d}/01/2024,K{n % 99},2.50\n" for n in range(14_000))
    draft = draft_of(tmp_path, "a.csv", f"Order,Order Date,Customer,Total\n{lines}")
    assert (draft.open_keys, draft.settings["source"]["date_format"]) == ([], "%d/%m/%Y")


def test_an_order_total_is_not_a_line_total(tmp_path: Path) -> None:
    lines = "\n".join(f"{n // 2},2024-01-05,K{n},2,{2.5 + n},{99.5 + n // 2}" for n in range(10))
    draft = draft_of(tmp_path, "a.csv", f"Order,Date,Customer,Qty,Price,Order Total\n{lines}\n")
    assert set(draft.settings["columns"]) >= {"quantity", "price"}
    assert "amount" not in draft.settings["columns"]


def test_the_total_of_an_order_without_prices_is_left_open(tmp_path: Path) -> None:
    lines = "".join(f"{n // 2},2024-01-05,K{n // 2},A{n},{99.5 + n // 2}\n" for n in range(10))
    draft = draft_of(tmp_path, "a.csv", f"Order,Date,Customer,SKU,Total\n{lines}")
    assert draft.open_keys == ["columns.amount"]


def test_a_price_that_grows_with_quantity_is_a_line_total(tmp_path: Path) -> None:
    lines = "\n".join(f"{n},2024-01-05,K{n},A{n % 2},{1 + n % 3},{(1 + n % 3) * (2.5 + n % 2)}" for n in range(12))
    draft = draft_of(tmp_path, "a.csv", f"Order,Date,Customer,SKU,Qty,Item Price\n{lines}\n")
    assert draft.settings["columns"]["amount"] == "Item Price"
    assert "price" not in draft.settings["columns"]


def test_the_columns_of_a_shipped_retailer_file_are_recognised(tmp_path: Path) -> None:
    draft = proposed_draft(SYSTEMS / "amazon", tmp_path)
    [path] = [guess for guess in draft.guesses if guess.key == "source.path"]
    assert "the shipped retailer file amazon" in " ".join(path.evidence)
    assert draft.settings["columns"]["amount"] == "item-price"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no lines to read"),
        ("Date,Customer,Total\n", "no lines to read"),
        ("hello world\nno table\n", "no column looks like a date or time"),
    ],
)
def test_a_file_without_transactions_is_an_error(content: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=message):
        draft_of(tmp_path, "a.csv", content)
