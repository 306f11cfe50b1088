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


def test_a_data_folder_that_cannot_be_written_fails_each_root_with_a_sentence(
    tmp_path: Path, data_folder: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_csv(tmp_path / "source" / "a.csv", regular_customers(8))
    monkeypatch.setenv("SEGMENTATION_RETAILER", str(retailer_file(tmp_path, source.parent)))
    data_folder.write_text("a file where the folder should be", "utf-8")
    result = run_job(instance)
    failures = [event.step_failure_data for event in result.all_events if event.is_step_failure]
    assert len(failures) == 3
    for failure in failures:
        assert failure.user_failure_data is not None
        assert str(data_folder / "runs") in str(failure.user_failure_data.description)
        assert f"may read the source and write to {data_folder};" in str(failure.user_failure_data.description)
        assert failure.error is not None
        assert failure.error.cause is None, "no stack trace of another error hangs on it"


def test_somebodys_edits_of_the_made_up_files_are_what_is_read(
    tmp_path: Path, data_folder: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = retailer_file(tmp_path, Path("made"))
    with file.open("a", encoding="utf-8") as settings:
        settings.write("\n[source.sample]\ncustomers = 50\nseed = 3\n")
    monkeypatch.setenv("SEGMENTATION_RETAILER", str(file))
    assert run_job(instance).success
    for path in sorted((tmp_path / "made").glob("*.csv"))[1:]:
        path.unlink()
    [left] = (tmp_path / "made").glob("*.csv")
    lines = left.read_text("utf-8").splitlines(keepends=True)[:11]
    left.write_text("".join(lines), "utf-8")
    run_job(instance)
    assert left.read_text("utf-8") == "".join(lines)
    with duckdb.connect(str(data_folder / "corner_shop" / "work.duckdb"), read_only=True) as connection:
        assert connection.execute("select count(*) from raw_transactions").fetchone() == (10,)
