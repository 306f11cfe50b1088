"""A run whose cluster is lost: it ends with a message within the minutes of `engine.wait_minutes`.

It is the last file of tests on the cluster, because nothing of the cluster is left behind it.
"""

import time
from pathlib import Path

import pytest

from segmentation_pipeline.errors import EngineError
from segmentation_pipeline.spark import waiting
from segmentation_pipeline_tests.spark_cluster import Cluster, missing
from segmentation_pipeline_tests.spark_shops import on_spark

if lacks := missing():
    pytest.skip(lacks, allow_module_level=True)

LINES = "select count(*) as lines from raw_transactions"


def test_a_run_ends_when_master_and_workers_are_lost(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with on_spark(cluster.engine, tmp_path, wait_minutes=60) as database:
        assert database.rows(LINES) == [{"lines": 0}]
        cluster.kill_master()
        # Executors work on without a master.
        assert database.rows(LINES) == [{"lines": 0}]
        while cluster.workers:
            cluster.kill_worker()
        # Sixty minutes of the test are three seconds.
        monkeypatch.setattr(waiting, "_SECONDS_OF_A_MINUTE", 0.05)
        message = r"ran no task for 60 minutes .*no free core for it, or its master is lost"
        with pytest.raises(EngineError, match=message):
            database.rows(LINES)
        started = time.monotonic()
        with pytest.raises(EngineError, match=message):
            database.rows(LINES)
        # The other steps of the run do not wait again.
        assert time.monotonic() - started < 1
