"""New files start a run when they stand still: once, never half written, and not while another run is on."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree

import dagster as dg
import pytest

import segmentation_pipeline
from segmentation_pipeline.definitions import defs
from segmentation_pipeline.orchestration.instance import prepare
from segmentation_pipeline_tests.orchestration.test_alerts import webhook
from segmentation_pipeline_tests.scenarios import line, retailer_file, write_csv

PROJECT = Path(segmentation_pipeline.__file__).parents[1]
COMMANDS = Path(sys.executable).parent


@dataclass
class Sensor:
    """The sensor of the source folder, looked at as the daemon does: each tick with the cursor of the one before."""

    instance: dg.DagsterInstance
    cursor: str | None = None
    said: str = ""

    def looks(self) -> list[str]:
        """The keys of the runs that one look asks for; what it says else is in `said`."""
        context = dg.build_sensor_context(self.instance, cursor=self.cursor, definitions=defs())
        ticked = defs().resolve_sensor_def("new_files").evaluate_tick(context)
        self.cursor, self.said = ticked.cursor, ticked.skip_message or ""
        assert bool(self.said) != bool(ticked.run_requests)
        return [str(request.run_key) for request in ticked.run_requests or []]


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = write_csv(tmp_path / "source" / "a.csv", [line()]).parent
    monkeypatch.setenv("SEGMENTATION_RETAILER", str(retailer_file(tmp_path, folder)))
    return folder


@pytest.fixture
def sensor(source: Path, instance: dg.DagsterInstance) -> Sensor:
    """It has seen `a.csv` and asked for its run."""
    fresh = Sensor(instance)
    assert fresh.looks() == []
    assert len(fresh.looks()) == 1
    return fresh


def test_files_are_asked_for_when_two_looks_find_them_the_same_and_then_no_more(
    source: Path, instance: dg.DagsterInstance
) -> None:
    sensor = Sensor(instance)
    assert [len(sensor.looks()) for _ in range(5)] == [0, 1, 0, 0, 0]
    assert sensor.said == "no file is new"
    write_csv(source / "deep" / "b.csv", [line()])
    assert [len(sensor.looks()) for _ in range(4)] == [0, 1, 0, 0]


def test_a_file_that_is_being_written_is_never_asked_for(source: Path, sensor: Sensor) -> None:
    half = source / "b.csv"
    with half.open("w", encoding="utf-8") as file:
        for _ in range(4):
            file.write("536365,85123A,LANTERN\n")
            file.flush()
            assert sensor.looks() == []
            assert "when the next evaluation finds them unchanged" in sensor.said
    assert len(sensor.looks()) == 1


def test_a_file_of_the_same_size_written_again_is_new(source: Path, sensor: Sensor) -> None:
    write_csv(source / "a.csv", [line(price="9.99")])
    os.utime(source / "a.csv", ns=(1, 1))
    assert [len(sensor.looks()) for _ in range(3)] == [0, 1, 0]


def test_what_is_no_source_file_starts_nothing(source: Path, sensor: Sensor) -> None:
    for name in ("notes.md", ".b.csv.part", ".b.csv", "~$a.xlsx"):
        (source / name).write_text("x", "utf-8")
    assert [len(sensor.looks()) for _ in range(2)] == [0, 0]
    (source / ".b.csv").rename(source / "b.csv")
    assert [len(sensor.looks()) for _ in range(2)] == [0, 1]


def test_a_file_that_went_starts_nothing_and_one_that_came_back_as_another_is_new(source: Path, sensor: Sensor) -> None:
    keys = set[str]()
    for name in ("b.csv", "c.csv", "b.csv"):
        write_csv(source / name, [line()])
        os.utime(source / name, ns=(1, 1))
        assert sensor.looks() == []
        keys |= set(sensor.looks())
        (source / name).unlink()
        assert [len(sensor.looks()) for _ in range(2)] == [0, 0]
    assert len(keys) == 3, "a key that Dagster has seen would start no run"


def test_a_folder_that_is_away_for_a_while_says_so_and_starts_nothing_when_it_is_back(
    source: Path, sensor: Sensor
) -> None:
    away = source.rename(source.with_name("away"))
    assert sensor.looks() == []
    assert sensor.said.startswith(f"source.path: nothing to read at {source}")
    away.rename(source)
    assert [len(sensor.looks()) for _ in range(3)] == [0, 0, 0]


def test_new_files_wait_while_a_run_is_on(source: Path, sensor: Sensor, instance: dg.DagsterInstance) -> None:
    @dg.job
    def another() -> None: ...

    run = instance.create_run_for_job(another, status=dg.DagsterRunStatus.STARTED)
    write_csv(source / "b.csv", [line()])
    assert [len(sensor.looks()) for _ in range(3)] == [0, 0, 0]
    assert sensor.said == f"new files are complete; they wait for run {run.run_id}"
    instance.report_run_failed(run)
    assert [len(sensor.looks()) for _ in range(2)] == [1, 0]


@pytest.mark.parametrize("broken", ["a file with errors", "no file", "made up"])
def test_without_a_source_it_says_why(source: Path, instance: dg.DagsterInstance, broken: str) -> None:
    if broken == "no file":
        (source.parent / "retailer.toml").unlink()
    else:
        wrong = {"currency": "pounds"} if broken == "a file with errors" else {"source": {"sample": {"customers": 100}}}
        retailer_file(source.parent, source, **wrong)
    sensor = Sensor(instance)
    assert [len(sensor.looks()) for _ in range(2)] == [0, 0]
    assert {"a file with errors": "currency", "no file": "no such file", "made up": "sample data"}[
        broken
    ] in sensor.said


def test_it_is_off_and_looks_as_often_as_the_retailer_says(source: Path) -> None:
    for seconds in (60, 900):
        retailer_file(source.parent, source, **({"source": {"settle_seconds": seconds}} if seconds != 60 else {}))
        found = defs().resolve_sensor_def("new_files")
        assert (found.minimum_interval_seconds, found.default_status) == (seconds, dg.DefaultSensorStatus.STOPPED)
        assert {job.name for job in found.jobs} == {"nightly_segmentation", "refit_segmentation"}


@contextmanager
def daemon(log: Path) -> Iterator[None]:
    command: list[Path | str] = [COMMANDS / "dagster-daemon", "run", "-w", PROJECT / "workspace.yaml"]
    with log.open("ab") as output:
        process = subprocess.Popen(command, cwd=PROJECT, stdout=output, stderr=output, start_new_session=True)
        try:
            yield
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def test_the_daemon_runs_what_came_and_tells_the_webhook_that_it_failed(
    source: Path, tmp_path: Path, data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too little came for a release; the run is asked for once all the same."""
    retailer_file(tmp_path, source, source={"settle_seconds": 1})
    monkeypatch.setenv("DAGSTER_HOME", str(data_folder / "dagster"))
    prepare()
    sensors: list[Path | str] = [COMMANDS / "dagster", "sensor", "start", "new_files", "-w", "workspace.yaml"]
    with webhook() as heard, dg.DagsterInstance.get() as home:
        home.get_runs()
        home.all_instigator_state()
        monkeypatch.setenv("SEGMENTATION_WEBHOOK", heard.address)
        rmtree(source)
        with daemon(tmp_path / "log"):
            subprocess.run(sensors, cwd=PROJECT, capture_output=True, check=True)
            deadline = time.monotonic() + 150
            # What fails before the first tick of its sensor is told to nobody.
            while not (ticked := {state.instigator_name for state in home.all_instigator_state()}) >= {"failed_runs"}:
                assert time.monotonic() < deadline, (ticked, (tmp_path / "log").read_text("utf-8"))
                time.sleep(0.2)
            write_csv(source / "a.csv", [line()])
            while not heard.told:
                assert time.monotonic() < deadline, (tmp_path / "log").read_text("utf-8")
                time.sleep(0.2)
            [run] = home.get_runs()
    assert (run.job_name, run.tags["dagster/sensor_name"]) == ("refit_segmentation", "new_files")
    [text] = heard.texts
    assert text.startswith(f"refit_segmentation failed (run {run.run_id}).\n• ")
    assert "Too little data" in text
