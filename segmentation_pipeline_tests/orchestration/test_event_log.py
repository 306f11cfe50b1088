"""Dagster's event log is kept open during a run, and loses nothing by it."""

import os
import sqlite3
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from sqlalchemy import Engine
from sqlalchemy.event import listen, remove

from segmentation_pipeline.orchestration.event_log import keep_event_log_open

RUN = str(uuid.UUID(int=1))
# Writes events like a run, and ends without closing anything.
_KILLED = f"""
import os, sys
import dagster as dg
from segmentation_pipeline.orchestration.event_log import keep_event_log_open
from segmentation_pipeline_tests.orchestration.test_event_log import report
instance = dg.DagsterInstance.get()
with keep_event_log_open(instance, {RUN!r}):
    report(instance, 3)
    os._exit(9)
"""


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A folder for DAGSTER_HOME, of this process too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", str(tmp_path))
        yield tmp_path


def report(instance: dg.DagsterInstance, number: int) -> None:
    """Store events of a run."""
    for _ in range(number):
        instance.report_engine_event("something happened", run_id=RUN, job_name="a_job")
        instance.report_runless_asset_event(dg.AssetMaterialization("a_table"))


def materializations(instance: dg.DagsterInstance) -> int:
    return len(instance.fetch_materializations(dg.AssetKey("a_table"), limit=100).records)


def connections(assets: int) -> Counter[str]:
    """Return how often a run of some assets connects to each SQLite file."""
    opened: Counter[str] = Counter()

    def count(connection: sqlite3.Connection, _: object) -> None:
        [(_, _, file)] = connection.execute("pragma database_list").fetchall()
        opened[Path(file).stem] += 1

    run_id = str(uuid.UUID(int=assets))
    definitions = dg.Definitions(assets=[dg.asset(name=f"asset_{number}")(_nothing) for number in range(assets)])
    with dg.DagsterInstance.get() as instance, keep_event_log_open(instance, run_id):
        listen(Engine, "connect", count)
        try:
            definitions.resolve_implicit_global_asset_job_def().execute_in_process(instance=instance, run_id=run_id)
        finally:
            remove(Engine, "connect", count)
        assert instance.get_latest_materialization_event(dg.AssetKey(f"asset_{assets - 1}")) is not None
    opened["run"] = opened.pop(run_id)
    return opened


def _nothing() -> None:
    """Do nothing."""


def test_more_events_need_no_more_connections(home: Path) -> None:
    connections(1)
    few, many = connections(2), connections(9)
    assert many["run"] == few["run"]
    # Dagster asks once an asset, with an engine of its own, whether a table exists; without this it connects ten times.
    assert many["index"] - few["index"] <= 9 - 2


def test_other_processes_read_events_while_the_run_goes_on(home: Path) -> None:
    with dg.DagsterInstance.get() as instance, dg.DagsterInstance.get() as reader, keep_event_log_open(instance, RUN):
        report(instance, 3)
        assert len(reader.all_logs(RUN)) == 3
        assert materializations(reader) == 3


def test_a_run_within_a_run_leaves_the_log_open(home: Path) -> None:
    with dg.DagsterInstance.get() as instance:
        with keep_event_log_open(instance, RUN):
            with keep_event_log_open(instance, RUN):
                report(instance, 1)
            report(instance, 1)
        report(instance, 1)
        assert len(instance.all_logs(RUN)) == materializations(instance) == 3


def test_a_killed_process_loses_no_event(home: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", _KILLED], env=dict(os.environ), check=False)
    assert killed.returncode == 9
    with dg.DagsterInstance.get() as instance:
        assert len(instance.all_logs(RUN)) == materializations(instance) == 3


def test_an_event_log_elsewhere_is_left_as_it_is() -> None:
    with dg.DagsterInstance.ephemeral() as instance, keep_event_log_open(instance, RUN):
        report(instance, 2)
        assert len(instance.all_logs(RUN)) == 2
