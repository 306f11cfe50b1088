"""Whoever asked to hear of a failed run hears of it once, what failed and what to do, and nothing of a source file."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

import dagster as dg
import pytest

import segmentation_pipeline
from segmentation_pipeline.config.environment import WEBHOOK
from segmentation_pipeline.definitions import defs
from segmentation_pipeline.defs.automation import dead_runs
from segmentation_pipeline.orchestration import alerts
from segmentation_pipeline.orchestration.instance import prepare
from segmentation_pipeline.warehouse.lock import writer
from segmentation_pipeline_tests.scenarios import line, regular_customers, retailer_file, run_job, write_csv

PROJECT = Path(segmentation_pipeline.__file__).parents[1]
COMMANDS = Path(sys.executable).parent
SECRET = "T0K3N"  # noqa: S105 - of a webhook of a test


@dataclass
class Webhook:
    """What a real server on this machine was told."""

    address: str
    told: list[dict[str, Any]] = field(default_factory=list)

    @property
    def texts(self) -> list[str]:
        return [message["text"] for message in self.told]


@contextmanager
def webhook(status: int = 200, answers: Callable[[], object] = lambda: None) -> Iterator[Webhook]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            assert self.headers["Content-Type"] == "application/json"
            heard.told.append(json.loads(body))
            answers()
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    heard = Webhook(f"http://127.0.0.1:{server.server_port}/{SECRET}")
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield heard
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def shop(tmp_path: Path, data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A shop with too little data for a run."""
    source = write_csv(tmp_path / "source" / "a.csv", regular_customers(1)).parent
    monkeypatch.setenv("SEGMENTATION_RETAILER", str(retailer_file(tmp_path, source)))
    monkeypatch.setenv("DAGSTER_HOME", str(data_folder / "dagster"))
    return data_folder / "corner_shop"


@pytest.fixture
def home(shop: Path) -> Iterator[dg.DagsterInstance]:
    prepare()
    with dg.DagsterInstance.get() as instance:
        instance.get_runs()
        instance.all_instigator_state()
        yield instance


def segments(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([COMMANDS / "segments", *arguments], capture_output=True, text=True, check=False)


def test_a_failed_command_tells_what_failed_and_what_to_do(
    home: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    with webhook() as heard:
        monkeypatch.setenv(WEBHOOK, heard.address)
        ran = segments("run")
        assert ran.returncode == 1
        [run] = home.get_runs()
        [message] = heard.told
        assert set(message) == {"text"}
        assert message["text"].splitlines()[:2] == [
            f"nightly_segmentation failed (run {run.run_id}).",
            "• rfm_features: check minimum_data failed. Too little data: 1 customers over 0 days; the settings ask for"
            " 2 customers over 0 days ([checks]).",
        ]
        assert "mend what is named here, then run again (`segments run`" in message["text"]
    assert SECRET not in ran.stdout + "".join(str(entry) for entry in home.all_logs(run.run_id))


def failure_of(instance: dg.DagsterInstance, error: Exception, tags: dict[str, str] | None = None) -> dg.DagsterRun:
    """A run that failed with an error."""

    @dg.op
    def step() -> None:
        raise error

    @dg.job
    def nightly() -> None:
        step()

    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    result = nightly.execute_in_process(instance=instance, run_config=quiet, tags=tags, raise_on_error=False)
    run = instance.get_run_by_id(result.run_id)
    assert run is not None
    return run


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            dg.Failure("price could not be read in 2, first in a.csv, line 2: 'M. O'Hara, \"17850\"'. If numbers"),
            "• step: price could not be read in 2, first in a.csv, line 2: …. If numbers",
        ),
        (dg.Failure("the shop's table is what the run's log says"), "• step: the shop's table is what the run's log"),
        (dg.Failure("Could not convert string 'O'Hara' to INT32"), "• step: Could not convert string … to INT32"),
        (dg.Failure("Could not convert string 'O. Hara' of 17850' to"), "• step: Could not convert string … to"),
        (dg.Failure("cut off: 'O'Hara 17850"), "• step: cut off: …\n"),
        (
            dg.Failure("a.csv: no column for price; it has 536365, O. Mendel, 17850. Mend [columns] of the file"),
            "• step: a.csv: no column for price; it has …. Mend [columns] of the file",
        ),
        (ValueError("17850 O'Hara is not in list"), "• step: an error that was not foreseen.\n"),
        (dg.Failure("x" * 5000), "• step: " + "x" * 500),
    ],
)
def test_nothing_that_may_stand_in_a_source_file_is_told(
    instance: dg.DagsterInstance, error: Exception, told: str
) -> None:
    text = alerts.text_of(instance, failure_of(instance, error))
    assert told in text
    assert not [word for word in ("Hara", "17850", "536365", "Mendel", "Traceback") if word in text]
    assert len(text) < 1500


def test_no_customer_and_no_cell_of_a_real_run_is_told(
    shop: Path, tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    write_csv(tmp_path / "source" / "a.csv", [line(price="twenty-two", customer="77077", at="yesterday")])
    run_job(instance)
    [run] = instance.get_runs()
    text = alerts.text_of(instance, run)
    assert "1 of 1 lines were refused" in text
    assert "see source.decimal" in text, "what to do stands behind what is left out"
    assert not [word for word in ("twenty-two", "77077", "yesterday") if word in text]


@dg.job
def _nothing() -> None: ...


def evaluated(instance: dg.DagsterInstance, cursor: str | None) -> tuple[str | None, list[str]]:
    """A tick of the sensor of failed runs: its cursor, and the runs that it looked at."""
    sensor = defs().resolve_sensor_def("failed_runs")
    ticked = sensor.evaluate_tick(dg.build_sensor_context(instance, cursor=cursor, definitions=defs()))
    return ticked.cursor, [
        run.run_id for reaction in ticked.dagster_run_reactions or [] if (run := reaction.dagster_run)
    ]


def test_the_sensor_tells_of_each_run_once_and_leaves_those_of_a_command_to_it(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    with webhook() as heard:
        monkeypatch.setenv(WEBHOOK, heard.address)
        cursor, _ = evaluated(instance, None)
        ours = failure_of(instance, dg.Failure("of a schedule"))
        commands = instance.create_run_for_job(_nothing, status=dg.DagsterRunStatus.STARTED)
        instance.add_run_tags(commands.run_id, alerts.of_command(commands.run_id))
        instance.report_run_failed(commands, "it died")
        again = failure_of(instance, dg.Failure("of its repetition"), tags=alerts.of_command(commands.run_id))
        for _ in range(5):
            cursor, _ = evaluated(instance, cursor)
        assert [text.splitlines()[0] for text in heard.texts] == [
            f"nightly failed (run {run.run_id})." for run in (ours, again)
        ]


def test_a_command_that_was_killed_is_told_of_once_by_whoever_finds_it(
    shop: Path, home: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    with webhook() as heard:
        monkeypatch.setenv(WEBHOOK, heard.address)
        cursor, _ = evaluated(home, None)
        dead = []
        for by in ("the sensor", "the next run"):
            with writer(shop / "work.lock", "another", 0, pytest.fail):
                process = subprocess.Popen([COMMANDS / "segments", "run"], stdout=subprocess.PIPE, text=True)
                assert process.stdout is not None
                assert process.stdout.readline().startswith("waiting for another")
                process.send_signal(signal.SIGKILL)
                process.wait()
            dead += [run.run_id for run in home.get_runs(limit=1)]
            if by == "the sensor":
                dead_runs(dg.build_sensor_context(home))
            else:
                assert segments("run").returncode == 1
            cursor, _ = evaluated(home, cursor)
            of_the_dead = [text for text in heard.texts if "Too little data" not in text]
            assert [text.splitlines()[:2] for text in of_the_dead] == [
                [
                    f"nightly_segmentation failed (run {run_id}).",
                    "• The process of this run died. Nothing was left half written; run it again.",
                ]
                for run_id in dead
            ]
        assert len(heard.told) == 3, "both of the dead, and the run that found one and failed itself"


@pytest.mark.parametrize("fault", ["down", "slow", "refuses", "no address"])
def test_a_webhook_that_does_not_take_it_is_a_warning_and_hurts_no_run(
    fault: str, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alerts, "_PATIENCE", 0.5)
    run, said, enough = failure_of(instance, dg.Failure("it failed")), list[str](), Event()
    with webhook(500 if fault == "refuses" else 200, enough.wait if fault == "slow" else lambda: None) as heard:
        address = f"no://address/{SECRET}" if fault == "no address" else heard.address
        monkeypatch.setenv(WEBHOOK, address)
        if fault != "down":
            begun = time.monotonic()
            alerts.tell_failure(instance, run.run_id, said.append)
            assert time.monotonic() - begun < 3
        enough.set()
    if fault == "down":
        alerts.tell_failure(instance, run.run_id, said.append)
    wanted = {"down": "refused", "slow": "", "refuses": "it answered 500", "no address": "begins with https://"}
    [warning] = said
    assert wanted[fault] in warning
    assert SECRET not in warning


def test_a_failed_command_with_a_webhook_that_is_down_ends_as_without_one(
    shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with webhook() as gone:
        monkeypatch.setenv(WEBHOOK, gone.address)
    ran = segments("run")
    said = " ".join(ran.stderr.split())
    assert ran.returncode == 1
    assert "Too little data" in said
    assert f"{WEBHOOK}: Connection refused. Look at the address" in said
    assert SECRET not in ran.stdout + ran.stderr
    assert "Traceback" not in ran.stdout + ran.stderr
