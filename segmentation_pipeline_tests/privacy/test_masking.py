"""No customer and no secret gets into what is kept of a run beside the tables: logs, metadata, ledger, manifests."""

import json
import sqlite3
from pathlib import Path

import dagster as dg
import duckdb
import pytest

from segmentation_pipeline.errors import first_line
from segmentation_pipeline.releases.store import Releases
from segmentation_pipeline_tests.scenarios import Line, line, regular_customers, retailer_file, run_job, write_csv

# In capitals, with digits, and an address: each a name that stands in nothing else.
PEOPLE = ("VERA-77123", "7712399", "vera@shop.example")
KEY, WEBHOOK = "e1" * 32, "http://127.0.0.1:9/hook-5c0ffee5"
SECRETS = (KEY, "hook-5c0ffee5")


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEGMENTATION_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("SEGMENTATION_RETAILER", str(retailer_file(tmp_path, Path("source"))))
    monkeypatch.setenv("SEGMENTATION_PRIVACY_KEY", KEY)
    monkeypatch.setenv("SEGMENTATION_WEBHOOK", WEBHOOK)
    return tmp_path


def of_people() -> list[Line]:
    """Good lines, refused ones, and some in whose other columns a customer stands, which cannot be read."""
    good = [line(invoice=f"60000{n}", at=f"2024-0{n}-11 10:00:00", customer=who) for n in range(1, 6) for who in PEOPLE]
    refused = [line(invoice="600008", at="2024-03-02 10:00:00", price="0", customer=who) for who in PEOPLE]
    shifted = [line(at=who, quantity=who, price=who, customer="10001") for who in PEOPLE]
    return [*good, *refused, *shifted]


def night(shop: Path) -> dg.ExecuteInProcessResult:
    books = shop / "data" / "dagster"
    books.mkdir(parents=True, exist_ok=True)
    with dg.DagsterInstance.local_temp(str(books)) as instance:
        return run_job(instance)


def kept_beside_the_tables(shop: Path) -> str:
    """All that Dagster's books hold, cell by cell and byte by byte; the manifests; and the ledger of the files."""
    said = []
    for file in (shop / "data" / "dagster").rglob("*"):
        if file.is_file():
            said.append(file.read_bytes().decode("latin-1"))
        if file.suffix == ".db":
            with sqlite3.connect(file) as books:
                tables = books.execute("select name from sqlite_master where type = 'table'").fetchall()
                said += [str(books.execute(f"select * from {name}").fetchall()) for (name,) in tables]
    said += [json.dumps(dict(one.manifest)) for one in Releases(shop / "data" / "corner_shop" / "releases").all()]
    with duckdb.connect(str(shop / "data" / "corner_shop" / "work.duckdb"), read_only=True) as work:
        said.append(str(work.execute("select * from ingested_files").fetchall()))
    return "\n".join(said)


def test_a_good_night_names_nobody(shop: Path) -> None:
    write_csv(shop / "source" / "a.csv", [*regular_customers(), *of_people()])
    with (shop / "source" / "a.csv").open("a", encoding="utf-8") as file:
        file.writelines(f"{who},too,few\n" for who in PEOPLE)
    # Without a header, so that its first line is taken for one; set aside.
    write_csv(shop / "source" / "b.csv", of_people()[1:], header=of_people()[0])
    assert night(shop).success
    said = kept_beside_the_tables(shop)
    assert "b.csv: no column for " in said, "else this reads nothing"
    assert [name for name in (*PEOPLE, *SECRETS) if name in said] == []


def test_a_night_in_which_most_lines_are_refused_names_nobody(shop: Path) -> None:
    write_csv(shop / "source" / "a.csv", of_people()[-3:] * 40)
    assert not night(shop).success
    said = kept_beside_the_tables(shop)
    assert "could not be read in 120, first in a.csv, line 2" in said
    assert [name for name in (*PEOPLE, *SECRETS) if name in said] == []


def test_a_night_whose_header_is_a_line_names_nobody(shop: Path) -> None:
    write_csv(shop / "source" / "a.csv", of_people()[1:], header=of_people()[0])
    assert not night(shop).success
    said = kept_beside_the_tables(shop)
    assert "it has 999999, 99999A, LANTERN" in said.replace("99999a", "99999A")
    assert [name for name in (*PEOPLE, *SECRETS) if name in said] == []


@pytest.mark.parametrize(
    "statement",
    [
        "select cast('VERA-77123' as integer)",
        "create table one (customer_id varchar primary key); insert into one values ('VERA-77123'), ('VERA-77123')",
        "select cast('VERA-77123' as date)",
        "select json('{VERA-77123')",
    ],
)
def test_what_duckdb_says_of_a_value_is_told_by_its_shape(statement: str) -> None:
    with pytest.raises(duckdb.Error) as raised:
        duckdb.connect().execute(statement)
    assert "VERA" in str(raised.value)
    assert "VERA" not in first_line(raised.value)
    assert "77123" not in first_line(raised.value)


def test_what_duckdb_says_of_a_path_is_told_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "no.parquet").write_bytes(b"no parquet at all")
    with pytest.raises(duckdb.Error) as read:
        duckdb.connect().execute("select * from read_parquet($1)", [str(tmp_path / "no.parquet")])
    assert str(tmp_path / "no.parquet") in first_line(read.value)
    with pytest.raises(duckdb.Error) as raised:
        duckdb.connect("/no/such/folder/VERA-77123.duckdb")
    assert "/no/such/folder/VERA-77123.duckdb" in first_line(raised.value)
