"""Tests of the webhook: each failed run is posted once, with what to do and without data of a source file."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

import dagster as dg
import pytest
from typer.testing import CliRunner, Result

from segmentation_pipeline.cli.app import app
from segmentation_pipeline.config.environment import WEBHOOK
from segmentation_pipeline.defs.automation import dead_runs
from segmentation_pipeline.orchestration import alerts
from segmentation_pipeline.orchestration.instance import prepare
from segmentation_pipeline.warehouse.lock import writer
from segmentation_pipeline_tests.scenarios import definitions, line, regular_customers, retailer_file, write_csv

SEGMENTS = Path(sys.executable).with_name("segments")
SECRET = "T0K3N"  # noqa: S105 - of a webhook of a test
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


@dataclass
class Webhook:
    """A server on this machine, and the messages that it received."""

    address: str
    messages: list[dict[str, Any]] = field(default_factory=list)

    @property
    def texts(self) -> list[str]:
        return [message["text"] for message in self.messages]


@contextmanager
def webhook(status: int = 200, answers: Event | None = None) -> Iterator[Webhook]:
    """Start a server that answers with a status, and only once an event is set."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            assert self.headers["Content-Type"] == "application/json"
            server_state.messages.append(json.loads(body))
            if answers is not None:
                answers.wait(60)
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server_state = Webhook(f"http://127.0.0.1:{server.server_port}/{SECRET}")
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server_state
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def received(monkeypatch: pytest.MonkeyPatch) -> Iterator[Webhook]:
    """Return the server that SEGMENTATION_WEBHOOK names."""
    with webhook() as server:
        monkeypatch.setenv(WEBHOOK, server.address)
        yield server


@pytest.fixture
def shop(tmp_path: Path, data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a shop with too little data for a run."""
    source = write_csv(tmp_path / "source" / "a.csv", regular_customers(1)).parent
    monkeypatch.setenv("SEGMENTATION_RETAILER", str(retailer_file(tmp_path, source)))
    monkeypatch.setenv("DAGSTER_HOME", str(data_folder / "dagster"))
    return data_folder / "corner_shop"


@pytest.fixture
def home(shop: Path) -> Iterator[dg.DagsterInstance]:
    prepare()
    with dg.DagsterInstance.get() as instance:
        # The files are created here, so that two processes do not create them at the same time.
        instance.get_runs()
        instance.all_instigator_state()
        yield instance


def run_command() -> Result:
    return CliRunner().invoke(app, ["run"])


def test_a_failed_command_posts_advice_and_no_source_data(
    home: dg.DagsterInstance, tmp_path: Path, received: Webhook
) -> None:
    """The message to the user quotes a cell as a masked pattern; the one to the webhook quotes nothing."""
    write_csv(tmp_path / "source" / "a.csv", [line(price="twenty-two", customer="77077", at="yesterday")])
    ran = run_command()
    assert ran.exit_code == 1
    [run] = home.get_runs()
    [message] = received.messages
    assert set(message) == {"text"}
    first, step, advice = message["text"].splitlines()
    assert first == f"refit_segmentation failed (run {run.run_id})."
    assert step == "• step clean_transactions failed"
    assert "run `segments run` again" in advice.replace("\n", " ")
    data = ("twenty-two", "aaaaaa", "77077", "99999", "yesterday")
    assert not [word for word in data if word in message["text"]]
    assert SECRET not in ran.output + "".join(str(entry) for entry in home.all_logs(run.run_id))


def failed_run(instance: dg.DagsterInstance, error: Exception, tags: dict[str, str] | None = None) -> dg.DagsterRun:
    """Return a run that failed with an error."""

    @dg.op
    def step() -> None:
        raise error

    @dg.job
    def nightly() -> None:
        step()

    result = nightly.execute_in_process(instance=instance, run_config=QUIET, tags=tags, raise_on_error=False)
    run = instance.get_run_by_id(result.run_id)
    assert run is not None
    return run


@dg.job
def _empty() -> None: ...


def evaluate_sensor(instance: dg.DagsterInstance, cursor: str | None) -> str | None:
    """Evaluate the sensor of failed runs, and return its cursor."""
    sensor = definitions().resolve_sensor_def("failed_runs")
    return sensor.evaluate_tick(dg.build_sensor_context(instance, cursor=cursor, definitions=definitions())).cursor


def test_sensor_posts_each_run_once_but_no_command(instance: dg.DagsterInstance, received: Webhook) -> None:
    cursor = evaluate_sensor(instance, None)
    scheduled = failed_run(instance, ValueError("17850 O'Hara is not in the list"))
    command = instance.create_run_for_job(_empty, status=dg.DagsterRunStatus.STARTED)
    instance.add_run_tags(command.run_id, alerts.command_tag(command.run_id))
    instance.report_run_failed(command, "it died")
    reexecution = failed_run(instance, dg.Failure("17850 O'Hara"), tags=alerts.command_tag(command.run_id))
    for _ in range(5):
        cursor = evaluate_sensor(instance, cursor)
    assert [text.splitlines()[:2] for text in received.texts] == [
        [f"nightly failed (run {run.run_id}).", "• step step failed"] for run in (scheduled, reexecution)
    ]
    assert "17850" not in str(received.texts)


def test_killed_command_is_posted_once_by_its_finder(shop: Path, home: dg.DagsterInstance, received: Webhook) -> None:
    """The sensor of dead runs finds one, the next run the other."""
    cursor = evaluate_sensor(home, None)
    dead = []
    for finder in ("sensor", "run"):
        with writer(shop / "work.lock", "another", 0, pytest.fail):
            process = subprocess.Popen([SEGMENTS, "run"], stdout=subprocess.PIPE, text=True)
            assert process.stdout is not None
            assert process.stdout.readline().startswith("waiting for another")
            process.send_signal(signal.SIGKILL)
            process.wait()
        dead += [run.run_id for run in home.get_runs(limit=1)]
        if finder == "sensor":
            dead_runs(dg.build_sensor_context(home))
        else:
            assert run_command().exit_code == 1
        cursor = evaluate_sensor(home, cursor)
        posted = [text.splitlines()[:2] for text in received.texts if "minimum_data" not in text]
        assert posted == [
            [
                f"refit_segmentation failed (run {run_id}).",
                "• The process of the run died. No table is half written.",
            ]
            for run_id in dead
        ]
    assert len(received.messages) == 3, "both dead runs, and the failed run that found the second"


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("down", "ConnectionError"),
        ("slow", "ReadTimeout"),
        ("error", "it answered 500"),
        ("invalid address", "InvalidSchema"),
    ],
)
def test_webhook_error_is_a_warning_without_the_address(
    fault: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alerts, "_TIMEOUT", (0.5, 0.5))
    warnings, answers = list[str](), Event()
    with webhook(500 if fault == "error" else 200, answers if fault == "slow" else None) as server:
        monkeypatch.setenv(WEBHOOK, f"no://address/{SECRET}" if fault == "invalid address" else server.address)
        if fault != "down":
            alerts.post("a run failed", warnings.append)
        answers.set()
    if fault == "down":
        alerts.post("a run failed", warnings.append)
    [warning] = warnings
    assert message in warning
    assert SECRET not in warning


def test_command_reports_its_failure_although_the_webhook_is_down(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with webhook() as server:
        monkeypatch.setenv(WEBHOOK, server.address)
    ran = run_command()
    assert ran.exit_code == 1
    assert "Too little data" in ran.stderr
    assert f"{WEBHOOK}: ConnectionError. Check the address" in ran.stderr
    assert SECRET not in ran.output
    assert "Traceback" not in ran.output
