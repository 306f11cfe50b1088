"""New files start a run when they are complete: once, never half written, and not during another run.

For the sensor in the real daemon, see `test_web_interface`.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pytest

from segmentation_pipeline.definitions import defs
from segmentation_pipeline_tests.scenarios import definitions, line, retailer_file, write_csv


@dataclass
class Sensor:
    """The sensor, evaluated as the daemon does: each evaluation has the cursor of the one before."""

    instance: dg.DagsterInstance
    cursor: str | None = None
    message: str = ""
    job: str = ""

    def evaluate(self) -> list[str]:
        """Evaluate once and return the keys of the requested runs; `message` is the reason where there are none."""
        context = dg.build_sensor_context(self.instance, cursor=self.cursor, definitions=definitions())
        result = definitions().resolve_sensor_def("new_files").evaluate_tick(context)
        self.cursor, self.message = result.cursor, result.skip_message or ""
        assert bool(self.message) != bool(result.run_requests)
        requests = result.run_requests or []
        self.job = next((str(request.job_name) for request in requests), self.job)
        return [str(request.run_key) for request in requests]


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = write_csv(tmp_path / "source" / "a.csv", [line()]).parent
    monkeypatch.setenv("SEGMENTATION_RETAILER", str(retailer_file(tmp_path, folder)))
    return folder


@pytest.fixture
def sensor(source: Path, instance: dg.DagsterInstance) -> Sensor:
    """The sensor after it requested a run for `a.csv`."""
    fresh = Sensor(instance)
    assert fresh.evaluate() == []
    assert len(fresh.evaluate()) == 1
    return fresh


def test_complete_files_start_one_run(source: Path, instance: dg.DagsterInstance) -> None:
    sensor = Sensor(instance)
    assert [len(sensor.evaluate()) for _ in range(5)] == [0, 1, 0, 0, 0]
    assert sensor.message == "no file is new"
    assert sensor.job == "refit_segmentation", "no model is active yet"
    write_csv(source / "deep" / "b.csv", [line()])
    assert [len(sensor.evaluate()) for _ in range(4)] == [0, 1, 0, 0]


def test_file_being_written_starts_no_run(source: Path, sensor: Sensor) -> None:
    half = source / "b.csv"
    with half.open("w", encoding="utf-8") as file:
        for _ in range(4):
            file.write("536365,85123A,LANTERN\n")
            file.flush()
            assert sensor.evaluate() == []
            assert "when the next evaluation finds them unchanged" in sensor.message
    assert len(sensor.evaluate()) == 1


def test_rewritten_file_of_the_same_size_is_new(source: Path, sensor: Sensor) -> None:
    write_csv(source / "a.csv", [line(price="9.99")])
    os.utime(source / "a.csv", ns=(1, 1))
    assert [len(sensor.evaluate()) for _ in range(3)] == [0, 1, 0]


def test_other_files_start_no_run(source: Path, sensor: Sensor) -> None:
    for name in ("notes.md", ".b.csv.part", ".b.csv", "~$a.xlsx"):
        (source / name).write_text("x", "utf-8")
    assert [len(sensor.evaluate()) for _ in range(2)] == [0, 0]
    (source / ".b.csv").rename(source / "b.csv")
    assert [len(sensor.evaluate()) for _ in range(2)] == [0, 1]


def test_cursor_of_an_earlier_version_starts_one_run(source: Path, instance: dg.DagsterInstance) -> None:
    sensor = Sensor(instance, '{"seen": ["0123"], "asked_for": ["0123"], "asked": "4567"}')
    assert [len(sensor.evaluate()) for _ in range(3)] == [0, 1, 0]


def test_removed_file_starts_no_run_and_a_returning_one_does(source: Path, sensor: Sensor) -> None:
    keys = set[str]()
    for name in ("b.csv", "c.csv", "b.csv"):
        write_csv(source / name, [line()])
        os.utime(source / name, ns=(1, 1))
        assert sensor.evaluate() == []
        keys |= set(sensor.evaluate())
        (source / name).unlink()
        assert [len(sensor.evaluate()) for _ in range(2)] == [0, 0]
    assert len(keys) == 3, "a key that Dagster has seen would start no run"


def test_folder_that_was_away_starts_no_run(source: Path, sensor: Sensor) -> None:
    away = source.rename(source.with_name("away"))
    assert sensor.evaluate() == []
    assert sensor.message.startswith(f"source.path: nothing to read at {source}")
    away.rename(source)
    assert [len(sensor.evaluate()) for _ in range(3)] == [0, 0, 0]


def test_new_files_wait_for_the_current_run(source: Path, sensor: Sensor, instance: dg.DagsterInstance) -> None:
    @dg.job
    def another() -> None: ...

    run = instance.create_run_for_job(another, status=dg.DagsterRunStatus.STARTED)
    write_csv(source / "b.csv", [line()])
    assert [len(sensor.evaluate()) for _ in range(3)] == [0, 0, 0]
    assert sensor.message == f"new files are complete; they wait for run {run.run_id}"
    instance.report_run_failed(run)
    assert [len(sensor.evaluate()) for _ in range(2)] == [1, 0]


@pytest.mark.parametrize("broken", ["a file with errors", "no file", "made up"])
def test_sensor_explains_why_there_are_no_files(source: Path, instance: dg.DagsterInstance, broken: str) -> None:
    if broken == "no file":
        (source.parent / "retailer.toml").unlink()
    else:
        wrong = {"currency": "pounds"} if broken == "a file with errors" else {"source": {"sample": {"customers": 100}}}
        retailer_file(source.parent, source, **wrong)
    sensor = Sensor(instance)
    assert [len(sensor.evaluate()) for _ in range(2)] == [0, 0]
    assert {"a file with errors": "currency", "no file": "no such file", "made up": "sample data"}[
        broken
    ] in sensor.message


def test_sensor_is_off_and_evaluates_at_the_configured_interval(source: Path) -> None:
    for seconds in (60, 900):
        retailer_file(source.parent, source, **({"source": {"settle_seconds": seconds}} if seconds != 60 else {}))
        found = defs().resolve_sensor_def("new_files")
        assert (found.minimum_interval_seconds, found.default_status) == (seconds, dg.DefaultSensorStatus.STOPPED)
        assert {job.name for job in found.jobs} == {"nightly_segmentation", "refit_segmentation"}
