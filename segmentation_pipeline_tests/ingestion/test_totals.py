"""A line that is the total of others is rejected by a rule of its own, and no money is counted twice."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pytest

from segmentation_pipeline.config.environment import PRIVACY_KEY
from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.ingestion import cleaning
from segmentation_pipeline.tables.catalog import select_of
from segmentation_pipeline.warehouse.database import Warehouse
from segmentation_pipeline.warehouse.table_write import TableWrite
from segmentation_pipeline_tests.ingestion.reading import read_source
from segmentation_pipeline_tests.scenarios import retailer_settings, write_csv
from segmentation_pipeline_tests.workbooks import write_workbook

HEADER = ("shop", "no", "what", "at", "who", "units", "money")
COLUMNS = {"transaction_at": "at", "customer_id": "who", "invoice": "no", "description": "what", "amount": "money"}
SOLD = ("Bonn", "1", "LANTERN", "2024-03-01", "ann", "1", "1.50")


@pytest.fixture(scope="module")
def warehouse() -> Iterator[Warehouse]:
    connection = duckdb.connect(config={"threads": 2})
    yield Warehouse(connection)
    connection.close()


def retailer(columns: Mapping[str, Any] = COLUMNS, **settings: Any) -> Retailer:
    source = {"path": "in", **settings.pop("source", {})}
    whole = retailer_settings(Path("anywhere")) | {"columns": columns, "cleaning": {}, "source": source} | settings
    return Retailer.model_validate(whole)


def rejected(warehouse: Warehouse, settings: Retailer, folder: Path) -> dict[tuple[str, int], str]:
    """Read and clean a source, and return the rule that rejects each line, by file and number."""
    read_source(warehouse, settings, folder)
    for table in ("clean_transactions", "rejected_transactions"):
        warehouse.write([TableWrite(table, select_of(table))], settings.sql_values, cleaning.query_inputs(settings))
    rows = warehouse.rows("select source_file, source_line, rule from rejected_transactions")
    return {(row["source_file"], row["source_line"]): row["rule"] for row in rows}


def write(folder: Path, *lines: Sequence[str], name: str = "a.csv") -> None:
    write_csv(folder / "in" / name, lines, HEADER)


LABELS = ["Total", "TOTALS:", "Grand Total", "Subtotal", "sub-total", "Total (2 rows)", "= Total =", "Report total"]
LABELS += [
    "Summe",
    "Gesamt",
    "Gesamtsumme",
    "Zwischensumme",
    "Total général",
    "Totaux",
    "Somme",
    "Suma",
    "Totale",
    "Totais",
    "💰 Total",
    "【Total】",
    "Total\uff1a2",
]


@pytest.mark.parametrize("place", range(5), ids=HEADER[:5])
def test_a_total_label_in_any_column_is_rejected(warehouse: Warehouse, tmp_path: Path, place: int) -> None:
    totals = [(*tuple(label if at == place else "" for at in range(5)), "2", "3.00") for label in LABELS]
    write(tmp_path, SOLD, SOLD, *totals)
    found = rejected(warehouse, retailer(), tmp_path)
    assert found == {("a.csv", 4 + number): "totals_line" for number in range(len(LABELS))}
    row = warehouse.row(
        "select count(*) as lines, sum(amount) as money, count(distinct customer_id) as customers from raw_transactions"
    )
    assert (row["lines"], f"{row['money']:.2f}", row["customers"]) == (2 + len(LABELS), "3.00", 1)
    kept = warehouse.rows(
        "select unparsed ->> 'amount' as amount, unparsed ->> 'totals_line' as label"
        " from rejected_transactions order by source_line"
    )
    assert kept == [{"amount": "3.00", "label": label} for label in LABELS]


def test_total_with_fewer_fields_is_no_malformed_line(warehouse: Warehouse, tmp_path: Path) -> None:
    path = tmp_path / "in"
    write(tmp_path, SOLD)
    totals = ["Total,3.00", "Total", '"Total","3,00"', "Total: 3.00", "Total 2024,,,\t3.00"]
    with (path / "a.csv").open("a") as file:
        file.writelines(f"{line}\n" for line in totals)
    assert rejected(warehouse, retailer(), tmp_path) == {("a.csv", 3 + at): "totals_line" for at in range(len(totals))}
    kept = warehouse.rows("select unparsed ->> 'totals_line' as line from rejected_transactions order by source_line")
    assert [row["line"] for row in kept] == totals


OTHERS = {
    "no date": ("Bonn", "2", "Total War", "", "ann", "1", "1.50"),
    "no label": ("Bonn", "2", "LANTERN", "", "", "1", "1.50"),
    "a longer word with an umlaut": ("Totalität", "2", "LANTERN", "", "", "1", "1.50"),
    "a longer word": ("Totalsports", "2", "LANTERN", "", "", "1", "1.50"),
    "a date that cannot be read": ("Total", "", "", "31.12.2024", "", "1", "1.50"),
    "cut off": ("Total War", "2024-03-01", "ann", "7"),
    "cut off after a time": ("Total", "10:30", "7"),
    "cut off after a short date": ("Total", "1.3.24", "7"),
    "cut off with words": ("Total", "1", "LANTERN"),
}


def test_line_that_may_be_a_sale_is_no_total(warehouse: Warehouse, tmp_path: Path) -> None:
    write(tmp_path, SOLD, *OTHERS.values())
    found = rejected(warehouse, retailer(), tmp_path)
    assert dict(zip(OTHERS, found.values(), strict=True)) == dict.fromkeys(OTHERS, "unparseable_value")


def test_sale_of_a_product_named_total_counts(warehouse: Warehouse, tmp_path: Path) -> None:
    write(tmp_path, ("Total", "1", "Total War", "2024-03-01", "Total Ltd", "1", "1.50"))
    assert rejected(warehouse, retailer(), tmp_path) == {}


def test_total_is_found_in_every_layout_and_format(warehouse: Warehouse, tmp_path: Path) -> None:
    """Without a header, between blanks, in a sheet, in Parquet, and where values are filled down."""
    total = ("Total", "", "", "", "", "1", "1.50")
    write_workbook(tmp_path / "in" / "a.xlsx", {"S": [HEADER, SOLD, [cell or None for cell in total]]})
    write(tmp_path, SOLD, total, name="b.csv")
    select = "select * from (values ('1', 'x', '2024-03-01', 'ann', '1'),"
    select += " (null, 'Total', null, null, '1')) as t(\"no\", what, \"at\", who, money)"
    duckdb.execute(f"copy ({select}) to '{tmp_path / 'in' / 'c.parquet'}' (format parquet)")
    expected = {("a.xlsx", 3): "totals_line", ("b.csv", 3): "totals_line", ("c.parquet", 2): "totals_line"}
    assert rejected(warehouse, retailer(), tmp_path) == expected
    filled = retailer(source={"fill_down": ["customer_id", "transaction_at"]})
    assert rejected(warehouse, filled, tmp_path) == expected
    other = tmp_path / "other"
    (other / "in").mkdir(parents=True)
    (other / "in" / "a.csv").write_text(" 2024-03-01  ann   1.50\n Total            1.50\n")
    positions = {"transaction_at": 1, "customer_id": 2, "amount": 3}
    blanks = retailer(positions, source={"delimiter": "whitespace", "header": False})
    assert rejected(warehouse, blanks, other) == {("a.csv", 2): "totals_line"}


def test_total_is_found_where_customers_are_pseudonyms(
    warehouse: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PRIVACY_KEY, "k" * 32)
    write(tmp_path, SOLD, ("", "", "", "", "Total", "1", "1.50"))
    settings = retailer(privacy={"pseudonymise": True})
    assert rejected(warehouse, settings, tmp_path) == {("a.csv", 3): "totals_line"}
