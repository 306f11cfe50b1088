"""Working databases and releases of contract 2 are recognised, converted and kept in use."""

import io
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from segmentation_pipeline.errors import WarehouseError
from segmentation_pipeline.privacy.pseudonyms import ERASURE, Key
from segmentation_pipeline.releases.export import export
from segmentation_pipeline.releases.files import checksum
from segmentation_pipeline.releases.manifest import write_manifest
from segmentation_pipeline.releases.upgrade import state_tables
from segmentation_pipeline.segments import backtest, customer_value
from segmentation_pipeline.tables.catalog import CONTRACT_VERSION, contracts, state_selects
from segmentation_pipeline.warehouse.connection import reading_database
from segmentation_pipeline.warehouse.database import Warehouse
from segmentation_pipeline_tests.commands import segments
from segmentation_pipeline_tests.releases.version_2 import convert_release, write_state
from segmentation_pipeline_tests.scenarios import assets_up_to, regular_customers, write_csv
from segmentation_pipeline_tests.shops import REFIT_NIGHT, SECOND_NIGHT, Shop

KEY = "5f" * 32
Rows = list[tuple[object, ...]]


def ordered(shop: Shop, table: str, select: str = "") -> Rows:
    # run_id, source_path and modified_at differ between the copies of a shop.
    columns = "* exclude (run_id, source_path, modified_at)" if table == "ingested_files" else "*"
    return shop.rows(f"select {columns} from ({select or f'from {table}'}) order by {contracts()[table].key_order}")


def state_of(shop: Shop) -> dict[str, Rows]:
    return {table: ordered(shop, table, select) for table, select in state_selects().items()}


@pytest.fixture(scope="module", autouse=True)
def privacy_key() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("SEGMENTATION_PRIVACY_KEY", KEY)
        yield


@pytest.fixture(scope="module")
def template(finished_template: Shop, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """A shop of today with an erased customer and a missing file, so that all tables of the state have rows but one."""
    shop = finished_template.copy(tmp_path_factory.mktemp("today"))
    more = [(*one[:6], f"2{one[6]}", one[7]) for one in regular_customers(3)]
    write_csv(shop.source / "b.csv", more)
    assert shop.run(assets=assets_up_to("raw_transactions"), as_of=SECOND_NIGHT).success
    (shop.source / "b.csv").unlink()
    key = Key(KEY.encode())
    values = f"'{key.hashed(ERASURE, '99999')}', '{key.fingerprint}', timestamp '2024-10-01'"
    shop.execute(f"insert into erased_customers values ({values})")
    assert shop.run(as_of=SECOND_NIGHT).success
    return shop


@pytest.fixture(scope="module")
def next_night(template: Shop, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """The same shop after its next night, without any conversion."""
    shop = template.copy(tmp_path_factory.mktemp("next"))
    assert shop.run(as_of=REFIT_NIGHT).success
    return shop


@pytest.fixture
def old_shop(template: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """A shop whose working database and newest release are of contract 2."""
    shop = template.copy(tmp_path)
    shop.enter(monkeypatch)
    new = shop.work.with_name("new.duckdb")
    shop.work.rename(new)
    write_state(shop.work, new)
    new.unlink()
    convert_release(shop.release)
    return shop


def test_the_release_under_test_is_intact_and_of_contract_2(old_shop: Shop) -> None:
    assert old_shop.release.verify() == []
    assert old_shop.release.manifest["contract_version"] == "2.0.0"
    assert old_shop.release.manifest["state"]["raw_transactions"] > 0


def test_an_old_working_database_is_an_error_with_advice(old_shop: Shop) -> None:
    content = old_shop.work.read_bytes()
    with duckdb.connect(str(old_shop.work)) as connection, pytest.raises(WarehouseError) as raised:
        Warehouse(connection)
    message = str(raised.value)
    assert message.startswith(f"{old_shop.work}: another version of this package wrote the working database")
    assert "`segments restore RELEASE --replace`" in message
    assert "move the file away" in message
    with pytest.raises(WarehouseError, match="another version of this package"), reading_database(old_shop.work):
        pass
    assert old_shop.work.read_bytes() == content


def test_a_run_on_an_old_database_fails_with_advice(old_shop: Shop) -> None:
    ended = segments(old_shop, "run")
    assert ended.code == 1
    assert f"{old_shop.work}: another version of this package wrote the working database" in ended.errors
    assert "Traceback" not in ended.errors
    assert len(old_shop.releases.all()) == 2


def test_erased_customers_of_version_2_alone_are_recognised(tmp_path: Path) -> None:
    """Even if no other table were left, a run must not ignore the list and let the customers back."""
    with duckdb.connect(str(tmp_path / "work.duckdb")) as connection:
        connection.execute("create table forgotten_customers (customer_hash varchar)")
        with pytest.raises(WarehouseError, match=r"version of this package .*forgotten_customers"):
            Warehouse(connection)


def test_the_next_run_goes_on_after_a_converting_restore(old_shop: Shop, template: Shop, next_night: Shop) -> None:
    """Models, segments and membership history are those of a shop that was never converted.

    Consumers can return to the old release, and it can be deleted.
    """
    ended = segments(old_shop, "restore", old_shop.release.name, "--replace")
    assert (ended.code, ended.errors) == (0, "")
    assert "segmentation_models                 1 rows" in ended.stdout
    expected = state_of(template)
    assert [table for table, rows in expected.items() if not rows] == ["kmeans_candidates"], "no search for k"
    found = {table: ordered(old_shop, table, select) for table, select in stored_selects().items()}
    # Contract 2 had no customer value: the next run fits it.
    assert found.pop("customer_value_model") == []
    assert found == {table: rows for table, rows in expected.items() if table in found}
    assert old_shop.work.with_name("work.duckdb.before").exists()
    assert old_shop.run(as_of=REFIT_NIGHT).success
    # The back-test is computed with the model's tables, so after a restore as of the next run.
    for table in contracts().keys() - {*backtest.TABLES, *customer_value.TABLES, "customer_value", "segment_profiles"}:
        assert ordered(old_shop, table) == ordered(next_night, table), table
    *_, old, newest = (release.name for release in old_shop.releases.all())
    assert old_shop.release.name == newest
    assert segments(old_shop, "releases", "rollback", old).code == 0
    assert old_shop.release.name == old
    assert segments(old_shop, "releases", "resume").code == 0
    old_shop.releases.keep_only(newest)
    assert [release.name for release in old_shop.releases.all()] == [newest]


def stored_selects() -> dict[str, str]:
    """Return the SELECTs of the state from a database in which nothing else is stored yet."""
    return {table: f"from {table}" for table in state_selects()}


@pytest.mark.parametrize(
    ("table", "column", "old", "new"),
    [
        ("segmentation_models", "status", "standing", "active"),
        ("segmentation_models", "status", "held", "pending"),
        ("segmentation_models", "status", "promoted", "approved"),
        ("segmentation_models", "status", "retired", "retired"),
        ("ingested_files", "status", "gone", "missing"),
        ("ingested_files", "status", "set_aside", "quarantined"),
    ],
)
def test_values_of_contract_2_are_converted(tmp_path: Path, table: str, column: str, old: str, new: str) -> None:
    tables = state_tables({"contract_version": "2.0.0", "state": {table: 1}}, "digest")
    [select] = [one.select for one in tables if one.name == table]
    assert new in next(one.allowed for one in contracts()[table].columns if one.name == column)
    with duckdb.connect() as connection:
        connection.execute(f"attach '{tmp_path / 'state.duckdb'}' as state")
        connection.execute(f"create table state.{table} as select '{old}' as {column}")
        expression = select.split(", ")[1 if table == "ingested_files" else 2]
        assert connection.execute(f"select {expression} from state.main.{table}").fetchall() == [(new,)]


@pytest.mark.parametrize("version", ["3.0.0", CONTRACT_VERSION])
def test_a_state_since_contract_3_is_not_converted(version: str) -> None:
    manifest = {"contract_version": version, "state": {"erased_customers": 2, "segments": 8}}
    assert [(table.name, table.rows, table.select) for table in state_tables(manifest, "digest")] == [
        ("erased_customers", 2, 'select * from state.main."erased_customers"'),
        ("segments", 8, 'select * from state.main."segments"'),
    ]


def test_a_state_with_unknown_tables_is_not_restored() -> None:
    with pytest.raises(ValueError, match="does not know its tables stock_levels"):
        state_tables({"contract_version": "4.0.0", "state": {"segments": 8, "stock_levels": 2}}, "digest")


def test_an_old_state_without_a_column_is_not_restored(old_shop: Shop) -> None:
    """As the state of a release that was published while contract 2 was developed."""
    release = old_shop.release
    with duckdb.connect(str(release.state)) as state:
        state.execute("alter table segments drop column is_live")
    entries = {key: value for key, value in release.manifest.items() if key != "digest"}
    entries["files"]["state.duckdb"] = checksum(release.state)
    write_manifest(release.folder, entries)
    ended = segments(old_shop, "restore", release.name, "--replace")
    assert ended.code == 2
    assert f"the state of release {release.name} cannot be converted: " in ended.errors
    assert "version 0.2.0 of this package published it" in ended.errors


def test_an_old_release_is_listed_verified_and_exported(old_shop: Shop) -> None:
    name = old_shop.release.name
    listed, verified, shown = (segments(old_shop, *words) for words in (["releases"], ["releases", "verify"], ["show"]))
    assert (listed.code, verified.code, shown.code) == (0, 0, 0)
    assert f"* {name}" in " ".join(listed.stdout.split())
    assert f"{name} is intact" in verified.stdout
    assert name in shown.stdout
    for table in old_shop.release.manifest["tables"]:
        export(old_shop.release, table, io.BytesIO())


def test_a_run_is_compared_with_an_old_release(old_shop: Shop) -> None:
    old = old_shop.release.name
    assert segments(old_shop, "restore", old, "--replace").code == 0
    write_csv(old_shop.source / "a.csv", regular_customers(20))
    stopped = old_shop.run(as_of=REFIT_NIGHT)
    assert not stopped.success
    messages = [check.description or "" for check in stopped.get_asset_check_evaluations() if not check.passed]
    assert f"Compared with release {old}, clean_lines fell from" in " ".join(messages)
    assert old_shop.release.name == old
