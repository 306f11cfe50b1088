"""The whole way through Dagster, on small data."""

from pathlib import Path

import dagster as dg
import duckdb
import pytest

from segmentation_pipeline_tests.scenarios import line, regular_customers, retailer_file, run_job, write_csv


def test_a_run_publishes_every_customer_in_one_segment(
    tmp_path: Path, data_folder: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_csv(tmp_path / "source" / "a.csv", regular_customers())
    monkeypatch.setenv("SEGMENTATION_RETAILER", str(retailer_file(tmp_path, source.parent)))
    assert run_job(instance).success
    release = data_folder / "corner_shop" / "releases" / "current" / "segments.duckdb"
    with duckdb.connect(str(release), read_only=True) as connection:
        rows = connection.execute("select count(*), count(distinct customer_id) from customer_segments").fetchone()
    assert rows == (60, 60)


def test_a_line_of_more_money_than_its_type_holds_is_refused_and_the_run_goes_on(
    tmp_path: Path, data_folder: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    slip = line("999999", quantity="1000000000", price="1000000000", at="2024-05-05 10:00:00")
    source = write_csv(tmp_path / "source" / "a.csv", [*regular_customers(), slip])
    monkeypatch.setenv("SEGMENTATION_RETAILER", str(retailer_file(tmp_path, source.parent)))
    assert run_job(instance).success
    with duckdb.connect(str(data_folder / "corner_shop" / "work.duckdb"), read_only=True) as connection:
        refused = connection.execute(
            "select invoice, rule, unparsed ->> 'amount', (select count(*) from clean_transactions)"
            " from rejected_transactions"
        ).fetchall()
    assert refused == [("999999", "unparseable_value", "1000000000.000 x 1000000000.0000", len(regular_customers()))]


def test_refunds_of_customers_without_a_purchase_are_reported_with_their_lines_and_money(
    tmp_path: Path, data_folder: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    only_back = [
        line("C700001", quantity="-2", price="2.50", customer="90001"),
        line("C700002", quantity="-1", price="3.25", customer="90001"),
        line("C700003", quantity="-1", price="10.00", customer="90002"),
        # Who also bought is not one of them.
        line("C700004", quantity="-1", price="0.05", customer="10000"),
    ]
    source = write_csv(tmp_path / "source" / "a.csv", [*regular_customers(), *only_back])
    monkeypatch.setenv("SEGMENTATION_RETAILER", str(retailer_file(tmp_path, source.parent)))
    [event] = run_job(instance).asset_materializations_for_node("rfm_features")
    told = {name: value.value for name, value in event.metadata.items() if name.startswith("without_purchase")}
    assert told == {"without_purchase": 2, "without_purchase_lines": 3, "without_purchase_money": -18.25}
