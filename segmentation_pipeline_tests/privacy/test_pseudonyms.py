"""[privacy] holds from ingestion on, in every table, release and byte that the pipeline keeps."""

import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pytest

from segmentation_pipeline.config.loading import load_settings
from segmentation_pipeline.errors import ErasureError, PrivacyError
from segmentation_pipeline.privacy.customer_ids import CustomerIds
from segmentation_pipeline.privacy.erasure import NamedCustomers, erase
from segmentation_pipeline.privacy.line_privacy import LinePrivacy
from segmentation_pipeline.privacy.pseudonyms import ERASURE, Key, hash_sql
from segmentation_pipeline.tables.catalog import contracts, published
from segmentation_pipeline.tables.contract import quoted
from segmentation_pipeline.warehouse.database import Warehouse
from segmentation_pipeline.warehouse.queries import bound_values
from segmentation_pipeline_tests.scenarios import assets_up_to, line, regular_customers
from segmentation_pipeline_tests.shops import Shop

KEY = "c4" * 32
PERSON = "VERA-77123"
PSEUDONYMISED: dict[str, Any] = {"pseudonymise": True, "drop": ["description"], "withhold": ["country", "monetary"]}


def failures(result: dg.ExecuteInProcessResult) -> str:
    return " ".join(
        str(event.step_failure_data.user_failure_data.description)
        for event in result.all_events
        if event.is_step_failure and event.step_failure_data.user_failure_data
    )


def build(folder: Path, **privacy: Any) -> Shop:
    """Build a shop where one person buys, is on a rejected line and on a malformed record."""
    own = [line(invoice=f"60000{n}", at=f"2024-0{n}-11 10:00:00", customer=f" {PERSON} ") for n in range(1, 6)]
    unparsed = line(invoice="600010", at="17/3/2024", quantity="two", customer="10001")
    shop = Shop.build(folder, [*regular_customers(), *own, unparsed], privacy=privacy)
    with (shop.source / "a.csv").open("a", encoding="utf-8") as file:
        file.write(f'600011,85123A,"LANTERN, blue",1,2024-03-03 10:00:00,2.50,{PERSON}\n')
    return shop


@pytest.fixture(scope="module")
def hashed(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """A shop that stores customers by pseudonym, drops a column and withholds two."""
    shop = build(tmp_path_factory.mktemp("hashed"), **PSEUDONYMISED)
    # The event log is among what must not name a customer.
    event_log = shop.data / "dagster"
    event_log.mkdir(parents=True)
    with pytest.MonkeyPatch.context() as monkeypatch, dg.DagsterInstance.local_temp(str(event_log)) as instance:
        monkeypatch.setenv("SEGMENTATION_PRIVACY_KEY", KEY)
        result = shop.run(instance)
    assert result.success, failures(result)
    return shop


@pytest.fixture(scope="module")
def clear(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """The same shop without [privacy], after a run that ends before the release."""
    shop = build(tmp_path_factory.mktemp("clear"))
    assert shop.run(assets=assets_up_to("customer_segments", "rejected_transactions")).success
    return shop


def pseudonym(customer: str) -> str:
    """Make a pseudonym as the documentation describes it, with the HMAC of Python's standard library."""
    purposes = {name: hmac.new(KEY.encode(), name, hashlib.sha256).digest() for name in (b"pseudonym", b"fingerprint")}
    fingerprint = hmac.new(purposes[b"fingerprint"], b"", hashlib.sha256).hexdigest()
    digest = hmac.new(purposes[b"pseudonym"], customer.encode(), hashlib.sha256).hexdigest()
    return f"p{fingerprint[:8]}-{digest[:32]}"


def test_a_pseudonymised_customer_is_in_no_stored_byte(hashed: Shop, clear: Shop) -> None:
    def holding(shop: Shop) -> list[Path]:
        files = (file for file in shop.data.rglob("*") if file.is_file() and not file.is_symlink())
        return [file for file in files if PERSON.encode() in file.read_bytes()]

    assert holding(clear), "the search finds nothing at all"
    assert holding(hashed) == []


def test_a_pseudonym_is_a_keyed_hash_of_the_trimmed_customer(hashed: Shop) -> None:
    customers = {str(one) for (one,) in hashed.rows("select distinct customer_id from raw_transactions")}
    assert pseudonym(PERSON) in customers, "without the blanks around it"
    assert {pseudonym(f"{10_000 + number}") for number in range(60)} <= customers


def test_pseudonyms_change_only_the_names_of_customers(hashed: Shop, clear: Shop) -> None:
    names = {str(one): pseudonym(str(one)) for (one,) in clear.rows("select customer_id from rfm_features")}
    select = "select customer_id, segment_key, recency, frequency, monetary from customer_segments order by all"
    renamed = sorted((names[str(customer)], *rest) for customer, *rest in clear.rows(select))
    assert renamed == sorted(hashed.rows(select))
    assert len(renamed) > 55


def test_only_the_masked_pattern_of_unparsed_text_is_stored(hashed: Shop, clear: Shop) -> None:
    for table in ("raw_transactions", "rejected_transactions"):
        select = f"select unparsed from {table} where unparsed is not null order by source_line"
        unparsed, malformed = (json.loads(str(text)) for (text,) in hashed.rows(select))
        assert unparsed == {"transaction_at": "99/9/9999", "quantity": "aaa", "price": None, "amount": None}
        assert malformed == {"line": '999999,99999a,"aaaaaaa, aaaa",9,9999-99-99 99:99:99,9.99,aaaa-99999'}
        assert PERSON in str(clear.rows(select))


def test_a_dropped_column_is_not_stored(hashed: Shop, clear: Shop) -> None:
    select = "select count(*), count(description), count(country) from raw_transactions"
    [(lines, descriptions, countries)] = hashed.rows(select)
    assert clear.rows(select) == [(lines, countries, countries)]
    assert (descriptions, countries) == (0, int(str(lines)) - 1)


def test_a_withheld_column_is_in_no_release(hashed: Shop) -> None:
    release = hashed.release
    assert release.manifest["withheld"] == ["country", "monetary"]
    assert release.verify() == []
    for contract in published():
        expected = [column.name for column in contract.columns]
        if contract.key[0] == "customer_id":
            expected = [name for name in expected if name not in ("country", "monetary")]
        for reader in (quoted(contract.table), f"'{release.folder / contract.table}.parquet'"):
            described = hashed.released(f"describe select * from {reader}")
            assert [name for name, *_ in described] == expected, reader
    assert hashed.rows("select count(country) > 0, count(monetary) > 0 from rfm_features") == [(True, True)]
    uncommented = "select count(*) from duckdb_columns() where table_name = 'rfm_features' and comment is null"
    assert hashed.released(uncommented) == [(0,)]


def test_pseudonyms_instead_of_stored_names_stop_the_run(clear: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    clear.configure(privacy={"pseudonymise": True})
    monkeypatch.setenv("SEGMENTATION_PRIVACY_KEY", KEY)
    result = clear.run()
    assert not result.success
    assert "raw_transactions stores customers in clear text, or by pseudonyms of another key" in failures(result)
    assert KEY not in failures(result)
    assert clear.releases.all() == []


@pytest.mark.parametrize(
    ("key", "pseudonymise", "message"),
    [
        ("00" * 32, True, "stores customers in clear text, or by pseudonyms of another key"),
        (KEY, False, "stores customers by pseudonym"),
        ("", True, "SEGMENTATION_PRIVACY_KEY is not set"),
    ],
    ids=["another key", "no pseudonyms", "no key"],
)
def test_another_naming_than_the_stored_one_is_an_error(
    hashed: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, pseudonymise: bool, message: str
) -> None:
    shop = Shop.build(tmp_path, privacy={"pseudonymise": pseudonymise})
    shop.enter(monkeypatch)
    monkeypatch.setenv("SEGMENTATION_PRIVACY_KEY", key)
    with duckdb.connect(str(hashed.work)) as connection, pytest.raises(PrivacyError, match=message) as raised:
        LinePrivacy.of(Warehouse(connection), load_settings(), CustomerIds())
    assert not key or key not in str(raised.value)


@pytest.mark.parametrize("name", [PERSON, pseudonym(PERSON)], ids=["as in the source", "as in the tables"])
def test_a_pseudonymised_customer_is_erased_for_good(
    hashed: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    shop = hashed.copy(tmp_path)
    shop.enter(monkeypatch)
    monkeypatch.setenv("SEGMENTATION_PRIVACY_KEY", KEY)
    settings = load_settings()
    key = Key(KEY.encode())
    erase(shop.folders, settings, key, NamedCustomers.of(settings, key, [name], CustomerIds()), print)
    for table in contracts():
        naming = f"select count(*) from {table} as row where contains(row::varchar, '{pseudonym(PERSON)}')"
        assert shop.rows(naming) == [(0,)], table
    with duckdb.connect(str(shop.work)) as connection:
        privacy = LinePrivacy.of(Warehouse(connection), settings, CustomerIds())
        lines = "select '{}' as customer_id, 'LANTERN' as description, cast(null as varchar) as unparsed"
        select = privacy.stored(" union all ".join(lines.format(customer) for customer in (PERSON, "10001")))
        stored = connection.execute(select, bound_values(select, privacy.values)).fetchall()
    assert stored == [(pseudonym("10001"), None, None)]


def test_a_mistyped_pseudonymised_customer_is_not_erased(
    hashed: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = hashed.copy(tmp_path)
    shop.enter(monkeypatch)
    monkeypatch.setenv("SEGMENTATION_PRIVACY_KEY", KEY)
    settings, key = load_settings(), Key(KEY.encode())
    named = NamedCustomers.of(settings, key, [f"{PERSON}.0"], CustomerIds())
    with pytest.raises(ErasureError, match="customer 1 of 1 is in no table"):
        erase(shop.folders, settings, key, named, print)


def test_the_hash_in_sql_equals_that_of_python() -> None:
    key = Key(b"secret" * 9)
    values = {name: value for name, value in key.values.items() if name.startswith("erasure")}
    for text in ("", "12346", "Ünïcode ™", "x" * 1_000, "'; drop table raw_transactions; --"):
        found = duckdb.execute(f"select {hash_sql(ERASURE, '$text')}", values | {"text": text}).fetchone()
        assert found == (key.hashed(ERASURE, text),)


def test_the_hash_of_an_erased_customer_never_changes() -> None:
    """Otherwise a customer who was erased by an earlier version would come back."""
    by_python = hmac.new(hmac.new(b"secret" * 9, b"forgotten", "sha256").digest(), b"10001", "sha256")
    assert Key(b"secret" * 9).hashed(ERASURE, "10001") == by_python.hexdigest()


def test_a_key_has_at_least_32_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGMENTATION_PRIVACY_KEY", "k" * 32)
    assert Key.of_environment("the reason").secret == b"k" * 32
    monkeypatch.setenv("SEGMENTATION_PRIVACY_KEY", "k" * 31)
    with pytest.raises(PrivacyError, match="has 31 characters, fewer than 32: the reason") as raised:
        Key.of_environment("the reason")
    assert "kkk" not in str(raised.value)


def test_erased_customers_are_kept_in_no_release_for_consumers() -> None:
    contract = contracts()["erased_customers"]
    assert contract.state
    assert not contract.published
