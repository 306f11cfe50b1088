"""No customer and no secret is in what a run leaves beside the tables: event log, metadata, manifests."""

import json
import sqlite3
from pathlib import Path

import dagster as dg
import duckdb
import pytest

from segmentation_pipeline.errors import first_line
from segmentation_pipeline.privacy.line_privacy import possible_names
from segmentation_pipeline.tables.catalog import macros
from segmentation_pipeline_tests.scenarios import Line, line, regular_customers, write_csv
from segmentation_pipeline_tests.shops import Shop

# In capitals, in digits, and an address; no other text contains them.
PEOPLE = ("VERA-77123", "7712399", "vera@shop.example")
KEY, WEBHOOK = "e1" * 32, "http://127.0.0.1:9/hook-5c0ffee5"
SECRETS = (KEY, "hook-5c0ffee5")


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    shop = Shop.build(tmp_path, regular_customers())
    monkeypatch.setenv("SEGMENTATION_PRIVACY_KEY", KEY)
    monkeypatch.setenv("SEGMENTATION_WEBHOOK", WEBHOOK)
    return shop


def lines_of_people() -> list[Line]:
    """Return good and rejected lines of the people, and lines that hold them in columns where they cannot be parsed."""
    good = [line(invoice=f"60000{n}", at=f"2024-0{n}-11 10:00:00", customer=who) for n in range(1, 6) for who in PEOPLE]
    rejected = [line(invoice="600008", at="2024-03-02 10:00:00", price="0", customer=who) for who in PEOPLE]
    shifted = [line(at=who, quantity=who, price=who, customer="10001") for who in PEOPLE]
    return [*good, *rejected, *shifted]


def run(shop: Shop) -> dg.ExecuteInProcessResult:
    event_log = shop.data / "dagster"
    event_log.mkdir(parents=True, exist_ok=True)
    with dg.DagsterInstance.local_temp(str(event_log)) as instance:
        return shop.run(instance)


def kept_beside_the_tables(shop: Shop) -> str:
    """Return every byte and cell of Dagster's storage, the manifests, and what is known of the source files."""
    texts = []
    for file in (shop.data / "dagster").rglob("*"):
        if file.is_file():
            texts.append(file.read_bytes().decode("latin-1"))
        if file.suffix == ".db":
            with sqlite3.connect(file) as storage:
                tables = storage.execute("select name from sqlite_master where type = 'table'").fetchall()
                texts += [str(storage.execute(f"select * from {name}").fetchall()) for (name,) in tables]
    texts += [json.dumps(dict(release.manifest)) for release in shop.releases.all()]
    texts.append(str(shop.rows("select * from ingested_files")))
    return "\n".join(texts)


def named(text: str) -> list[str]:
    return [name for name in (*PEOPLE, *SECRETS) if name in text]


def test_a_successful_run_names_nobody(shop: Shop) -> None:
    write_csv(shop.source / "a.csv", [*regular_customers(), *lines_of_people()])
    with (shop.source / "a.csv").open("a", encoding="utf-8") as file:
        file.writelines(f"{who},too,few\n" for who in PEOPLE)
    # A quarantined file, whose first line is read as the header.
    write_csv(shop.source / "b.csv", lines_of_people()[1:], header=lines_of_people()[0])
    assert run(shop).success
    kept = kept_beside_the_tables(shop)
    assert "b.csv: no column for " in kept, "the search reads nothing"
    assert named(kept) == []


def test_a_run_that_rejects_most_lines_names_nobody(shop: Shop) -> None:
    write_csv(shop.source / "a.csv", lines_of_people()[-3:] * 40)
    assert not run(shop).success
    kept = kept_beside_the_tables(shop)
    assert "120 of 120 lines (100.0%) could not be read" in kept
    assert named(kept) == []


def test_a_run_whose_header_is_a_line_names_nobody(shop: Shop) -> None:
    write_csv(shop.source / "a.csv", lines_of_people()[1:], header=lines_of_people()[0])
    assert not run(shop).success
    kept = kept_beside_the_tables(shop)
    assert "it has 999999, 99999A, LANTERN" in kept.replace("99999a", "99999A")
    assert named(kept) == []


@pytest.mark.parametrize(
    "statement",
    [
        "select cast('VERA-77123' as integer)",
        "create table one (customer_id varchar primary key); insert into one values ('VERA-77123'), ('VERA-77123')",
        "select cast('VERA-77123' as date)",
        "select json('{VERA-77123')",
    ],
)
def test_a_message_of_duckdb_shows_values_as_masked_patterns(statement: str) -> None:
    with pytest.raises(duckdb.Error) as raised:
        duckdb.connect().execute(statement)
    assert "VERA" in str(raised.value)
    assert "VERA" not in first_line(raised.value)
    assert "77123" not in first_line(raised.value)


def test_a_message_of_duckdb_shows_paths_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "no.parquet").write_bytes(b"no parquet at all")
    with pytest.raises(duckdb.Error) as read:
        duckdb.connect().execute("select * from read_parquet($1)", [str(tmp_path / "no.parquet")])
    assert str(tmp_path / "no.parquet") in first_line(read.value)
    with pytest.raises(duckdb.Error) as opened:
        duckdb.connect("/no/such/folder/VERA-77123.duckdb")
    assert "/no/such/folder/VERA-77123.duckdb" in first_line(opened.value)


def test_possible_names_are_words_and_whole_fields() -> None:
    text = '{"line":"536365,\\"ACME Ltd.\\",17850.0, vera@shop.example ;77-1"}'
    names = set(duckdb.execute(f"select {possible_names('$text')}", {"text": text}).fetchall()[0][0])
    assert {"ACME Ltd.", "17850", "vera@shop.example", "77-1", "536365"} <= names
    assert "1785" not in names


def test_a_masked_pattern_shows_letters_and_digits_only_by_kind() -> None:
    with duckdb.connect() as connection:
        connection.execute(macros())
        shown = connection.execute("select masked_pattern($text)", {"text": "Žofie 3½, 12.5€ / ٣"}).fetchone()
    assert shown == ("aaaaa 99, 99.9€ / 9",)
