"""The whole way through Dagster, on small data."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import numpy as np
import pytest

from segmentation_pipeline.releases.store import Releases
from segmentation_pipeline.tables.catalog import contracts
from segmentation_pipeline.tables.contract import quoted
from segmentation_pipeline_tests.scenarios import (
    Line,
    line,
    regular_customers,
    retailer_file,
    run_job,
    write_csv,
)

# They tell of the files of the source, and number their lines.
OF_LINES = {"raw_transactions", "ingested_files", "rejected_transactions", "clean_transactions"}


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
    assert len(failures) == 2
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
    run_job(instance, config={"resources": {"retailer": {"config": {"reload": True}}}})
    assert left.read_text("utf-8") == "".join(lines)
    with duckdb.connect(str(data_folder / "corner_shop" / "work.duckdb"), read_only=True) as connection:
        assert connection.execute("select count(*) from raw_transactions").fetchone() == (10,)


class Nights:
    """The same shop, night after night, with a history, a back-test, outliers and a searched model."""

    def __init__(self, folder: Path, lines: Sequence[Line], monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        half = len(lines) // 2
        write_csv(folder / "source" / "a.csv", lines[:half])
        write_csv(folder / "source" / "b.csv", lines[half:])
        sections: dict[str, Any] = {
            "model": {"n_clusters": "auto", "k_range": [3, 5], "resamples": 2, "min_stability": -1, "min_share": 0},
            "rfm": {"look_back_days": 200},
            "promotion": {"min_kept": 0.0, "min_agreement": -1.0, "max_moved": 1.0},
        }
        file = retailer_file(folder, folder / "source", **sections)
        monkeypatch.setenv("SEGMENTATION_RETAILER", str(file))
        monkeypatch.setenv("SEGMENTATION_DATA", str(folder / "data"))

    def run(self, instance: dg.DagsterInstance, as_of: str, *, job: str = "nightly_segmentation") -> None:
        config: Mapping[str, Any] = {"resources": {"retailer": {"config": {"as_of": as_of}}}}
        if job == "refit_segmentation":
            config = {**config, "ops": {"segmentation_model": {"config": {"refit": True}}}}
        assert run_job(instance, job=job, config=config).success

    @property
    def tables(self) -> dict[str, list[tuple[Any, ...]]]:
        with duckdb.connect(str(self.folder / "data" / "corner_shop" / "work.duckdb"), read_only=True) as connection:
            return {
                contract.table: connection.execute(
                    f"select * from {quoted(contract.table)} order by {contract.key_order}"
                ).fetchall()
                for contract in contracts().values()
            }

    @property
    def files(self) -> dict[str, bytes]:
        """The newest release's tables as Parquet: in the order of their keys, so that equal tables are equal files."""
        release = Releases(self.folder / "data" / "corner_shop" / "releases").all()[-1]
        return {path.stem: path.read_bytes() for path in release.folder.glob("*.parquet")}


NIGHTS = ("2024-10-14", "2024-10-21", "2024-10-28")
ODD = [
    line(invoice="600001", at="2024-09-02 11:00:00", customer="10001", quantity="5000", price="9.95"),
    line(invoice="C60002", at="2024-09-03 11:00:00", customer="10002", quantity="-1", price="0.95"),
    line(invoice="600003", at="2024-09-03 11:00:00", customer=""),
    line(invoice="600004", at="2024-09-03 11:00:00", customer="10004", price="?"),
]


def different(one: Mapping[str, Any], other: Mapping[str, Any]) -> set[str]:
    assert one.keys() == other.keys()
    return {name for name in one if one[name] != other[name]}


def test_a_run_done_twice_gives_every_table_and_file_byte_for_byte(
    tmp_path: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The night of a refit and the night after it, each done again: what was written for as_of itself is not read."""
    shop = Nights(tmp_path, [*regular_customers(), *ODD], monkeypatch)
    shop.run(instance, NIGHTS[0])
    for job, night in (("refit_segmentation", NIGHTS[1]), ("nightly_segmentation", NIGHTS[2])):
        shop.run(instance, night, job=job)
        tables, files = shop.tables, shop.files
        empty = {table for table, rows in tables.items() if not rows}
        assert empty == {"erased_customers"}, "there is something to be equal in each other one"
        shop.run(instance, night, job=job)
        assert different(tables, shop.tables) == set()
        assert different(files, shop.files) == set()


def test_rows_in_another_order_and_in_other_files_give_every_table_of_customers_byte_for_byte(
    tmp_path: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    ordered = [*regular_customers(), *ODD]
    tables, files = [], []
    for seed in (None, 1):
        lines = ordered.copy()
        if seed is not None:
            lines = [lines[at] for at in np.random.default_rng(seed).permutation(len(lines))]
        shop = Nights(tmp_path / str(seed), lines, monkeypatch)
        shop.run(instance, NIGHTS[0])
        shop.run(instance, NIGHTS[2], job="refit_segmentation")
        tables.append(shop.tables)
        files.append(shop.files)
    assert different(tables[0], tables[1]) == OF_LINES, "the order was another"
    assert different(files[0], files[1]) <= OF_LINES
