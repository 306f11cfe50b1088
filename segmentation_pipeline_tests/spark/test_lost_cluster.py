"""Runs whose master is lost, or has no worker: they end with a message within the minutes of `engine.wait_minutes`."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from segmentation_pipeline.errors import EngineError
from segmentation_pipeline.spark import waiting
from segmentation_pipeline_tests.spark_cluster import Cluster, missing, processes_below, running_cluster
from segmentation_pipeline_tests.spark_shops import on_spark

if lacks := missing():
    pytest.skip(lacks, allow_module_level=True)

LINES = "select count(*) as lines from raw_transactions"


@pytest.fixture
def lonely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A cluster of a master alone."""
    monkeypatch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
    # A minute of the tests is a second.
    monkeypatch.setattr(waiting, "_SECONDS_OF_A_MINUTE", 1.0)
    with running_cluster(tmp_path / "cluster", workers=0) as running:
        yield running
    assert processes_below(tmp_path / "cluster") == []


def test_a_run_ends_without_workers_and_after_a_lost_master(
    lonely: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with on_spark(lonely.engine, tmp_path, wait_minutes=3) as database:
        with pytest.raises(
            EngineError, match=r"ran no task for 3 minutes .*no free core for it, or its master is lost"
        ):
            database.rows(LINES)
        started = time.monotonic()
        with pytest.raises(EngineError, match="ran no task for 3 minutes"):
            database.rows(LINES)
        # The other steps of the run do not wait again.
        assert time.monotonic() - started < 1
    lonely.start_worker()
    lonely.wait_for_workers(1)
    with on_spark(lonely.engine, tmp_path, wait_minutes=60) as database:
        assert database.rows(LINES) == [{"lines": 0}]
        lonely.kill_master()
        # What runs without the master still runs.
        assert database.rows(LINES) == [{"lines": 0}]
        lonely.kill_worker()
        monkeypatch.setattr(waiting, "_SECONDS_OF_A_MINUTE", 0.05)
        with pytest.raises(EngineError, match="ran no task for 60 minutes"):
            database.rows(LINES)
