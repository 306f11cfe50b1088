"""Tests of the web interface and the daemon, as `make dev` starts them, in a real browser and beside the command line.

All tests use one shop, because a start takes ten seconds and a run of its own process five. It loses power once.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import dagster as dg
import duckdb
import pytest
from playwright.sync_api import Page, Route, ViewportSize, expect, sync_playwright

from segmentation_pipeline.orchestration.instance import prepare
from segmentation_pipeline.orchestration.job_selection import NIGHTLY_JOB
from segmentation_pipeline.tables.catalog import contracts
from segmentation_pipeline.warehouse import lock
from segmentation_pipeline_tests.scenarios import definitions
from segmentation_pipeline_tests.shops import Shop

PROJECT = Path(__file__).parents[2]
COMMANDS = Path(sys.executable).parent
HOST = "127.0.0.1"
EXTERNAL = re.compile(rf"^\w+://(?!{re.escape(HOST)}:)")
# The browser of the system, which `make test` installs. Playwright switches off its background requests.
CHROMIUM = "/usr/bin/chromium"
WINDOW = ViewportSize(width=1600, height=1200)
# Only the part of the lineage within the window is drawn, and the lineage is taller than wide. Large pages take long.
LINEAGE_WINDOW = ViewportSize(width=2400, height=6400)
SECONDS = 30
ZONE = ZoneInfo("Europe/London")
NIGHTLY = "nightly"
SECRETS = {"SEGMENTATION_PRIVACY_KEY": "7e" * 32, "SEGMENTATION_WEBHOOK": "http://127.0.0.1:9/hook-5c0ffee5"}


QUEUED, STARTED = dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.STARTED
AT = {"repositoryName": "__repository__", "repositoryLocationName": "segmentation_pipeline"}


class Server:
    """`dg dev` of a shop: the web interface and the daemon, always on the same port."""

    def __init__(self, shop: Shop, log: Path) -> None:
        self.shop, self.log = shop, log
        with socket.create_server((HOST, 0)) as free:
            self.port = free.getsockname()[1]
        self.address = f"http://{HOST}:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the processes; `wait` returns when they serve."""
        command = [str(COMMANDS / "dg"), "dev", "--host", HOST, "--port", str(self.port)]
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                command, cwd=PROJECT, env=environment(self.shop), stdout=out, stderr=out, start_new_session=True
            )

    def wait(self) -> None:
        """Wait until the web interface serves."""
        serving, process = f"Serving dagster-webserver on {self.address}", self.process
        assert process is not None
        wait_until(lambda: process.poll() is not None or serving in self.text, lambda: self.text)
        assert serving in self.text, self.text

    @property
    def text(self) -> str:
        """The log since the last start."""
        return self.log.read_text("utf-8")

    def kill(self) -> None:
        """Kill all processes of the server and of its runs."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


class Visit(NamedTuple):
    page: Page
    shop: Shop
    server: Server
    home: dg.DagsterInstance
    external: list[str]  # requests of the page to other hosts

    @property
    def statuses(self) -> list[dg.DagsterRunStatus]:
        return sorted((run.status for run in self.home.get_runs()), key=str)

    def run(self, **tags: str) -> dg.DagsterRun | None:
        """Return the run with these tags of Dagster, or none."""
        wanted = dg.RunsFilter(tags={f"dagster/{name}": value for name, value in tags.items()})
        return next(iter(self.home.get_runs(wanted)), None)

    def wait(self, condition: Callable[[], object]) -> None:
        wait_until(condition, lambda: f"{self.statuses}; the log of the server:\n{self.server.text}")

    def query(self, query: str, **variables: object) -> Any:
        """Return the answer of Dagster's GraphQL interface."""
        answer = self.page.request.post("/graphql", data={"query": query, "variables": variables}).json()
        assert "errors" not in answer, answer
        [value] = answer["data"].values()
        return value

    def choose(self, entry: str) -> None:
        """Click an entry of the menu; fails while a dialog covers it."""
        self.page.get_by_role("navigation").get_by_text(entry, exact=True).click()


def environment(shop: Shop) -> dict[str, str]:
    """Return the environment of a process of the shop."""
    return os.environ | shop.environment | SECRETS | {"DAGSTER_HOME": str(shop.data / "dagster")}


def wait_until(condition: Callable[[], object], message: str | Callable[[], str]) -> None:
    deadline = time.monotonic() + 3 * SECONDS
    while not condition():
        assert time.monotonic() < deadline, message if isinstance(message, str) else message()
        time.sleep(0.3)


@contextmanager
def started(server: Server) -> Iterator[None]:
    """Start a server, and kill it at the end."""
    server.start()
    try:
        yield
    finally:
        server.kill()


@contextmanager
def command(shop: Shop, log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Start `segments run`, and kill it at the end."""
    with log.open("wb") as out:
        process = subprocess.Popen([COMMANDS / "segments", "run"], env=environment(shop), stdout=out, stderr=out)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def home(
    finished_template: Shop, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Shop, dg.DagsterInstance]]:
    """Return a finished shop, and its instance with the shipped dagster.yaml, but for one interval."""
    shop = finished_template.copy(tmp_path_factory.mktemp("interface"))
    shop.configure(source={"settle_seconds": 2}, rfm={"look_back_days": 200}, release={"max_as_of_jump_days": 30})
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("DAGSTER_HOME", environment(shop)["DAGSTER_HOME"])
        settings = prepare() / "dagster.yaml"
        # The daemon looks at the queue every second, not every five.
        settings.write_text(f"{settings.read_text('utf-8')}\nrun_queue:\n  dequeue_interval_seconds: 1\n", "utf-8")
        with dg.DagsterInstance.get() as instance:
            # The files are created here, so that two processes do not create them at the same time.
            instance.get_runs()
            instance.all_instigator_state()
            yield shop, instance


@pytest.fixture(scope="module")
def another_run(home: tuple[Shop, dg.DagsterInstance]) -> Iterator[ExitStack]:
    """Hold the lock of the shop, as another run does, until the stack is closed."""
    shop, _ = home
    with ExitStack() as stack:
        stack.enter_context(lock.writer(shop.folders.lock, "another", 0, pytest.fail))
        yield stack


START_SENSOR = """mutation($sensor: SensorSelector!) {
    startSensor(sensorSelector: $sensor) { ... on Sensor { sensorState { status } } }
}"""


@pytest.fixture(scope="module")
def visit(home: tuple[Shop, dg.DagsterInstance], another_run: ExitStack) -> Iterator[Visit]:
    """Start the server and the sensor of new files, whose run waits for `another_run` while the first tests look."""
    shop, instance = home
    server = Server(shop, shop.folder / "log")
    external: list[str] = []

    def block(route: Route) -> None:
        external.append(route.request.url)
        route.abort()

    with (
        # The browser starts while the server does.
        started(server),
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=CHROMIUM, args=["--disable-gpu"]) as browser,
        browser.new_context(
            base_url=server.address, viewport=WINDOW, service_workers="block", reduced_motion="reduce"
        ) as context,
    ):
        context.set_default_timeout(SECONDS * 1000)
        expect.set_options(timeout=SECONDS * 1000)
        context.route(EXTERNAL, block)
        # A routed socket connects to no server unless the route does it.
        context.route_web_socket(EXTERNAL, lambda route: external.append(route.url))
        server.wait()
        visit = Visit(context.new_page(), shop, server, instance, external)
        sensor = visit.query(START_SENSOR, sensor={**AT, "sensorName": "new_files"})
        assert sensor == {"sensorState": {"status": "RUNNING"}}
        yield visit


class Outage(NamedTuple):
    """What the shop was doing when it lost power."""

    queued: str  # the run that was started in the browser
    begun: list[str]  # the runs of the daemon, for new files, and of a command; both waited for the lock


@pytest.fixture(scope="module")
def outage(visit: Visit, another_run: ExitStack) -> Outage:
    """The machine loses power while a run of the daemon and a command wait for the lock, and another run is queued."""
    shop, home = visit.shop, visit.home
    heartbeats = shop.data / "runs"
    with another_run:
        visit.wait(lambda: visit.statuses == [STARTED])
        with command(shop, shop.folder / "first.log"):
            queued = materialize_all(visit)
            visit.wait(lambda: visit.statuses == [QUEUED, STARTED, STARTED])
            visit.wait(lambda: len(list(heartbeats.iterdir())) == 2)
            visit.wait(lambda: {NIGHTLY, "dead_runs"} <= instigators(home).keys())
            visit.server.kill()
    assert visit.statuses == [QUEUED, STARTED, STARTED], "Dagster does not know that they are dead"
    return Outage(queued, [run.run_id for run in home.get_runs() if run.status == STARTED])


def materialize_all(visit: Visit) -> str:
    """Start a run in the browser, and return its id."""
    visit.page.goto("/")
    visit.choose("Lineage")
    visit.page.get_by_role("button", name="Materialize all").click()
    visit.page.get_by_text("View", exact=True).click()
    visit.page.wait_for_url("**/runs/*")
    run_id = Path(visit.page.url).name
    # An open page asks the server for news, and draws them.
    visit.page.goto("about:blank")
    return run_id


def instigators(instance: dg.DagsterInstance) -> dict[str, Any]:
    """Return the states of the schedules and sensors that the daemon has evaluated."""
    return {state.instigator_name: state for state in instance.all_instigator_state()}


class Restart(NamedTuple):
    """The runs after the power loss, in the order in which they publish."""

    launched: str  # the run that was started in the browser before
    commanded: str
    scheduled: str


@pytest.fixture(scope="module")
def restart(visit: Visit, outage: Outage) -> Restart:
    """After the restart the queued run, a command that waits for it, and the schedule's run wait for each other.

    A reader of the working database holds up the run that has the lock until the others have started. Dagster queues a
    run while another one is in progress. A command does not use the queue, so it is the one that waits for the lock.
    Dagster makes up for the last tick that it missed, so the test need not wait for the night.
    """
    shop, home = visit.shop, visit.home
    holder, log = shop.folders.lock, shop.folder / "second.log"
    evening = (datetime.now(ZONE) - timedelta(hours=25)).timestamp()
    for name, stamps in {
        NIGHTLY: ("start_timestamp", "last_iteration_timestamp"),
        "dead_runs": ("last_tick_timestamp", "last_tick_start_timestamp", "last_tick_success_timestamp"),
    }.items():
        state = instigators(home)[name]
        home.update_instigator_state(state.with_data(state.instigator_data._replace(**dict.fromkeys(stamps, evening))))

    with ExitStack() as reading:
        reading.enter_context(duckdb.connect(str(shop.work), read_only=True))
        visit.server.start()
        visit.server.wait()
        visit.wait(lambda: f", run {outage.queued}" in holder.read_text("utf-8"))
        waiting = f"waiting for {holder.read_text('utf-8')}, which writes to {holder.parent}"
        with command(shop, log) as process:
            wait_until(lambda: waiting in " ".join(log.read_text("utf-8").split()), waiting)
            visit.wait(lambda: (run := visit.run(schedule_name=NIGHTLY)) is not None and run.status == QUEUED)
            reading.close()
            assert process.wait(3 * SECONDS) == 0, log.read_text("utf-8")
    visit.wait(lambda: all(run.is_finished for run in home.get_runs()))
    scheduled = visit.run(schedule_name=NIGHTLY)
    assert scheduled is not None
    [commanded] = {run.run_id for run in home.get_runs()} - {outage.queued, *outage.begun, scheduled.run_id}
    return Restart(outage.queued, commanded, scheduled.run_id)


def test_lineage_shows_every_asset(visit: Visit) -> None:
    assets = {key.to_user_string() for key in definitions().resolve_asset_graph().get_all_asset_keys()}
    visit.page.set_viewport_size(LINEAGE_WINDOW)
    visit.page.goto("/")
    visit.choose("Lineage")
    expect(visit.page.get_by_role("button", name="Materialize all")).to_be_visible()
    visit.page.keyboard.press("Alt+KeyE")  # expand all groups
    drawn = visit.page.locator("foreignObject:not(.group) > div").filter(has_text=re.compile(r"\w"))
    expect(drawn).to_have_count(len(assets))
    for node in drawn.all():
        expect(node).to_be_in_viewport()
    # Long names are shortened in the middle.
    patterns = [text.replace("…", "*") for text in drawn.all_text_contents()]
    shown = [name for pattern in patterns for name in assets if fnmatchcase(name, pattern)]
    assert sorted(shown) == sorted(assets)
    visit.page.set_viewport_size(WINDOW)


def test_no_dialog_opens(visit: Visit) -> None:
    with visit.page.expect_response(lambda response: "ShouldShowNux" in (response.request.post_data or "")):
        visit.page.goto("/")
    for entry in ("Overview", "Runs", "Catalog", "Jobs", "Automation", "Lineage", "Deployment"):
        visit.choose(entry)
        visit.page.wait_for_load_state("networkidle")
    expect(visit.page.get_by_role("dialog")).to_have_count(0)


def test_new_files_start_one_run(visit: Visit, restart: Restart) -> None:
    """The daemon requests the run once, although it dies."""
    runs = [run for run in visit.home.get_runs() if run.tags.get("dagster/sensor_name") == "new_files"]
    assert [(run.job_name, run.status) for run in runs] == [(NIGHTLY_JOB, dg.DagsterRunStatus.FAILURE)]


def test_dead_runs_fail_and_the_queue_goes_on(visit: Visit, outage: Outage, restart: Restart) -> None:
    """A dead run that Dagster takes for a live one would block the queue."""
    assert {run.run_id: run.status for run in visit.home.get_runs()} == {
        **dict.fromkeys(outage.begun, dg.DagsterRunStatus.FAILURE),
        **dict.fromkeys(restart, dg.DagsterRunStatus.SUCCESS),
    }


def test_schedule_makes_up_for_the_night_of_a_power_loss(visit: Visit, restart: Restart) -> None:
    run = visit.home.get_run_by_id(restart.scheduled)
    assert run is not None
    assert run.job_name == NIGHTLY_JOB
    config: Any = run.run_config
    tick = datetime.fromisoformat(config["resources"]["retailer"]["config"]["tick"]).astimezone(ZONE)
    assert (tick.hour, tick.minute) == (2, 5)


def test_concurrent_runs_of_both_interfaces_wait_and_publish(visit: Visit, restart: Restart) -> None:
    releases = visit.shop.releases
    assert not any(releases.verify().values())
    three = releases.all()[1:]
    assert [release.manifest["run_id"] for release in three] == list(restart)
    assert releases.current == three[-1]
    # The same files give the same tables, so no run read what another one had half written.
    [one, *others] = [{file.name: file.read_bytes() for file in release.folder.glob("*.parquet")} for release in three]
    assert others == [one, one]


@pytest.mark.usefixtures("restart")
def test_asset_page_shows_columns_rows_and_passed_checks(visit: Visit) -> None:
    """Of an asset that only the run of the browser materialises.

    Dagster shows the checks of the run that was created last, which is not the one that published last here.
    """
    page, name = visit.page, "kmeans_model"
    page.goto(f"/assets/{name}")
    for column in contracts()[name].columns:
        row = page.get_by_role("row").filter(has=page.get_by_text(column.name, exact=True))
        expect(row.filter(has_text=column.description)).to_have_count(1)
    [(rows,)] = visit.shop.rows(f"select count(*) from {name}")
    expect(page.get_by_text("Row count", exact=True).locator("..")).to_have_text(re.compile(rf"^Row count\s*{rows}$"))
    page.get_by_role("tab", name="Checks").click()
    checks = definitions().resolve_asset_graph().get_check_keys_for_assets({dg.AssetKey(name)})
    assert len(checks) > 1
    expect(page.get_by_text(f"Checks ({len(checks)})")).to_be_visible()
    for check in checks:
        expect(page.get_by_title(check.name, exact=True).locator("..")).to_contain_text("Succeeded")


RESOURCES = """query ($at: RepositorySelector!) { allTopLevelResourceDetailsOrError(repositorySelector: $at) {
  ... on ResourceDetailsList { results { name configuredValues { key value } resourceType } } } }"""
EVENTS = """query ($run: ID!) { runOrError(runId: $run) { ... on Run {
  runConfigYaml tags { key value } eventConnection(limit: 1000) { events { ... on MessageEvent { message }
    ... on MaterializationEvent { metadataEntries { label ... on TextMetadataEntry { text }
      ... on MarkdownMetadataEntry { mdStr } ... on TableMetadataEntry { table { records } } } } } } } } }"""


def test_graphql_exposes_no_secret_and_no_customer(visit: Visit, restart: Restart) -> None:
    answers = json.dumps([visit.query(RESOURCES, at=AT), *(visit.query(EVENTS, run=run) for run in restart)])
    expected = ("retailer", "lock_timeout", "segment_profiles", "median monetary")
    assert [word for word in expected if word not in answers] == []
    customers = {str(customer) for (customer,) in visit.shop.rows("select customer_id from rfm_features")}
    assert len(customers) > 50
    assert [word for word in (*customers, *SECRETS.values()) if word in answers] == []


def test_no_page_contacts_another_host(visit: Visit) -> None:
    """Of all pages that the tests above have opened."""
    assert visit.external == []
