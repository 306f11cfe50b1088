"""What `[privacy]` says of people is so from the mouth on, in every table, release and byte that is kept."""

import hashlib
import hmac
import json
import shutil
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pytest

from segmentation_pipeline.config.loading import load
from segmentation_pipeline.config.paths import RetailerFolders
from segmentation_pipeline.errors import ErasureError, PrivacyError
from segmentation_pipeline.privacy.erasure import erase
from segmentation_pipeline.privacy.masking import LinePrivacy, masked_pattern, possible_names
from segmentation_pipeline.privacy.pseudonyms import ERASURE, Key, hash_sql
from segmentation_pipeline.releases.store import Releases
from segmentation_pipeline.tables.catalog import contracts, published
from segmentation_pipeline.tables.contract import quoted
from segmentation_pipeline.warehouse.database import Warehouse
from segmentation_pipeline.warehouse.queries import bound_values
from segmentation_pipeline_tests.scenarios import line, regular_customers, retailer_file, run_job, write_csv

KEY = "c4" * 32
PERSON = "VERA-77123"


def run(folder: Path, monkeypatch: pytest.MonkeyPatch, key: str = KEY, **privacy: Any) -> dg.ExecuteInProcessResult:
    """One night of a shop with such a [privacy]; its data folder, with Dagster's books in it, is `data`."""
    retailer_file(folder, Path("source"), privacy=privacy)
    monkeypatch.setenv("SEGMENTATION_DATA", str(folder / "data"))
    monkeypatch.setenv("SEGMENTATION_RETAILER", str(folder / "retailer.toml"))
    monkeypatch.setenv("SEGMENTATION_PRIVACY_KEY", key)
    books = folder / "data" / "dagster"
    books.mkdir(parents=True, exist_ok=True)
    with dg.DagsterInstance.local_temp(str(books)) as instance:
        return run_job(instance)


def failures(result: dg.ExecuteInProcessResult) -> str:
    return " ".join(
        str(event.step_failure_data.user_failure_data.description)
        for event in result.all_events
        if event.is_step_failure and event.step_failure_data.user_failure_data
    )


def source(folder: Path) -> None:
    """A shop in which one person buys, gives back and stands on a line that cannot be read, beside all others."""
    theirs = [line(invoice=f"60000{n}", at=f"2024-0{n}-11 10:00:00", customer=f" {PERSON} ") for n in range(1, 6)]
    unread = line(invoice="600010", at="17/3/2024", quantity="two", customer="10001")
    write_csv(folder / "source" / "a.csv", [*regular_customers(), *theirs, unread])
    with (folder / "source" / "a.csv").open("a", encoding="utf-8") as file:
        file.write(f'600011,85123A,"LANTERN, blue",1,2024-03-03 10:00:00,2.50,{PERSON}\n')


@pytest.fixture(scope="module")
def hashed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shop that names its customers by a hash, drops a column and publishes two fewer."""
    folder = tmp_path_factory.mktemp("hashed")
    source(folder)
    with pytest.MonkeyPatch.context() as monkeypatch:
        result = run(folder, monkeypatch, pseudonymise=True, drop=["description"], withhold=["country", "monetary"])
    assert result.success, failures(result)
    return folder / "data"


@pytest.fixture(scope="module")
def clear(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same shop without [privacy]."""
    folder = tmp_path_factory.mktemp("clear")
    source(folder)
    with pytest.MonkeyPatch.context() as monkeypatch:
        assert run(folder, monkeypatch).success
    return folder / "data"


def asked(database: Path, select: str) -> list[tuple[object, ...]]:
    with duckdb.connect(str(database), read_only=True) as connection:
        return connection.execute(select).fetchall()


def work(data: Path) -> Path:
    return data / "corner_shop" / "work.duckdb"


def released(data: Path) -> Path:
    return (data / "corner_shop" / "releases" / "current" / "segments.duckdb").resolve()


def pseudonym(customer: str) -> str:
    """As the documentation says it is made, by Python's own HMAC."""
    purposes = {name: hmac.new(KEY.encode(), name, hashlib.sha256).digest() for name in (b"pseudonym", b"fingerprint")}
    fingerprint = hmac.new(purposes[b"fingerprint"], b"", hashlib.sha256).hexdigest()
    named = hmac.new(purposes[b"pseudonym"], customer.encode(), hashlib.sha256).hexdigest()
    return f"p{fingerprint[:8]}-{named[:32]}"


def test_a_pseudonymised_customer_is_in_no_byte_of_what_is_kept(hashed: Path, clear: Path) -> None:
    def holding(data: Path) -> list[Path]:
        files = (file for file in data.rglob("*") if file.is_file() and not file.is_symlink())
        return [file for file in files if PERSON.encode() in file.read_bytes()]

    assert holding(clear), "else this could not fail"
    assert holding(hashed) == []


def test_a_pseudonym_is_a_keyed_hash_of_the_customer_as_it_is_read(hashed: Path) -> None:
    customers = {str(one) for (one,) in asked(work(hashed), "select distinct customer_id from raw_transactions")}
    assert pseudonym(PERSON) in customers, "without the blanks around it"
    assert {pseudonym(f"{10_000 + number}") for number in range(60)} <= customers


def test_pseudonyms_change_nothing_but_the_names(hashed: Path, clear: Path) -> None:
    names = {str(one): pseudonym(str(one)) for (one,) in asked(work(clear), "select customer_id from rfm_features")}
    select = "select customer_id, segment_key, recency, frequency, monetary from customer_segments order by all"
    renamed = sorted((names[str(customer)], *rest) for customer, *rest in asked(work(clear), select))
    assert renamed == sorted(asked(work(hashed), select))
    assert len(renamed) > 55


def test_of_a_text_that_could_not_be_read_only_the_shape_is_kept(hashed: Path, clear: Path) -> None:
    select = "select unparsed from {} where unparsed is not null order by source_line"
    for table in ("raw_transactions", "rejected_transactions"):
        unread, broken = (json.loads(str(text)) for (text,) in asked(work(hashed), select.format(table)))
        assert unread == {"transaction_at": "99/9/9999", "quantity": "aaa", "price": None, "amount": None}
        assert broken == {"line": '999999,99999a,"aaaaaaa, aaaa",9,9999-99-99 99:99:99,9.99,aaaa-99999'}
        assert PERSON in str(asked(work(clear), select.format(table)))


def test_a_dropped_column_is_never_stored(hashed: Path, clear: Path) -> None:
    select = "select count(*), count(description), count(country) from raw_transactions"
    [(lines, described, with_country)] = asked(work(hashed), select)
    assert asked(work(clear), select) == [(lines, with_country, with_country)]
    assert (described, with_country) == (0, int(str(lines)) - 1)


def test_a_withheld_column_stands_in_the_work_and_in_no_table_of_customers_of_a_release(hashed: Path) -> None:
    [release] = Releases(hashed / "corner_shop" / "releases").all()
    assert release.manifest["withheld"] == ["country", "monetary"]
    assert release.verify() == []
    for contract in published():
        wanted = [column.name for column in contract.columns]
        if contract.key[0] == "customer_id":
            wanted = [name for name in wanted if name not in ("country", "monetary")]
        for reader in (quoted(contract.table), f"'{released(hashed).parent / contract.table}.parquet'"):
            described = asked(released(hashed), f"describe select * from {reader}")
            assert [name for name, *_ in described] == wanted, reader
    assert asked(work(hashed), "select count(country) > 0, count(monetary) > 0 from rfm_features") == [(True, True)]
    [(comments,)] = asked(
        released(hashed), "select count(*) from duckdb_columns() where table_name = 'rfm_features' and comment is null"
    )
    assert comments == 0


def test_customers_named_otherwise_than_before_stop_the_run_rather_than_become_others(
    clear: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run(clear.parent, monkeypatch, pseudonymise=True)
    assert not result.success
    assert "raw_transactions names customers in clear, or by another key" in failures(result)
    assert KEY not in failures(result)
    assert len(Releases(clear / "corner_shop" / "releases").all()) == 1


@pytest.mark.parametrize(
    ("key", "pseudonymise", "said"),
    [
        ("00" * 32, True, "names customers in clear, or by another key"),
        (KEY, False, "names customers by a keyed hash"),
        ("", True, "SEGMENTATION_PRIVACY_KEY is not set"),
    ],
)
def test_another_key_or_none_is_told_where_customers_are_hashed(
    hashed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, pseudonymise: bool, said: str
) -> None:
    monkeypatch.setenv("SEGMENTATION_PRIVACY_KEY", key)
    settings = load(str(retailer_file(tmp_path, Path("source"), privacy={"pseudonymise": pseudonymise})))
    with duckdb.connect(str(work(hashed))) as connection, pytest.raises(PrivacyError, match=said) as refused:
        LinePrivacy.of(Warehouse(connection), settings)
    assert not key or key not in str(refused.value)


@pytest.mark.parametrize("name", [PERSON, f"{PERSON}.0", None], ids=["as the source", "mistyped", "as the tables"])
def test_a_pseudonymised_customer_is_forgotten_by_either_name_and_does_not_come_back(
    hashed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str | None
) -> None:
    shutil.copytree(hashed / "corner_shop", tmp_path / "corner_shop", symlinks=True)
    folders, key = RetailerFolders(tmp_path, "corner_shop"), Key(KEY.encode())
    monkeypatch.setenv("SEGMENTATION_PRIVACY_KEY", KEY)
    settings = load(str(retailer_file(tmp_path, Path("source"), privacy={"pseudonymise": True})))
    if name == f"{PERSON}.0":
        with pytest.raises(ErasureError, match="place 1 of 1 stands in no table"):
            erase(folders, settings, key, [name], print)
        return
    erase(folders, settings, key, [name or pseudonym(PERSON)], print)
    for table in contracts():
        assert (0,) in asked(
            work(tmp_path), f"select count(*) from {table} as row where contains(row::varchar, '{pseudonym(PERSON)}')"
        )
    with duckdb.connect(str(work(tmp_path))) as connection:
        mouth = LinePrivacy.of(Warehouse(connection), settings)
        line = f"select '{PERSON}' as customer_id, null::varchar as unparsed union all select '10001', null"
        kept = connection.execute(mouth.stored(line), bound_values(mouth.stored(line), mouth.values)).fetchall()
    assert kept == [(pseudonym("10001"), None)]


def test_the_hash_in_sql_is_pythons() -> None:
    key = Key(b"secret" * 9)
    for text in ("", "12346", "Ünïcode ™", "x" * 1_000, "'; drop table raw_transactions; --"):
        values = {name: value for name, value in key.values.items() if name.startswith("erasure")}
        found = duckdb.execute(f"select {hash_sql(ERASURE, '$text')}", values | {"text": text}).fetchone()
        by_python = hmac.new(hmac.new(b"secret" * 9, b"forgotten", "sha256").digest(), text.encode(), "sha256")
        assert found == (by_python.hexdigest(),)


def test_a_text_names_a_customer_as_a_word_or_as_a_whole_field() -> None:
    def words(text: str) -> set[str]:
        return set(duckdb.execute(f"select {possible_names('$text')}", {"text": text}).fetchall()[0][0])

    told = words('{"line":"536365,\\"ACME Ltd.\\",17850.0, vera@shop.example ;77-1"}')
    assert {"ACME Ltd.", "17850", "vera@shop.example", "77-1", "536365"} <= told
    assert "1785" not in told


def test_a_shape_tells_how_a_text_is_written_and_not_what() -> None:
    shown = duckdb.execute(f"select {masked_pattern('$text')}", {"text": "Žofie 3½, 12.5€ / ٣"}).fetchone()
    assert shown == ("aaaaa 99, 99.9€ / 9",)


def test_a_key_is_long_enough_not_to_be_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGMENTATION_PRIVACY_KEY", "k" * 32)
    assert Key.of_environment("it is asked for").secret == b"k" * 32
    monkeypatch.setenv("SEGMENTATION_PRIVACY_KEY", "k" * 31)
    with pytest.raises(PrivacyError, match="has 31 characters, fewer than 32: it is asked for") as refused:
        Key.of_environment("it is asked for")
    assert "kkk" not in str(refused.value)


def test_what_is_forgotten_is_state_and_no_consumer_sees_it() -> None:
    contract = contracts()["erased_customers"]
    assert contract.state
    assert not contract.published
