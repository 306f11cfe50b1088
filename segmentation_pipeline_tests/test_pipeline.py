"""The whole way through Dagster, on small data."""

from pathlib import Path

import dagster as dg
import duckdb
import pytest

from segmentation_pipeline_tests.scenarios import regular_customers, retailer_file, run_job, write_csv


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
