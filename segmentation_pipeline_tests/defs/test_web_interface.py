"""Tests of the web interface and the daemon, as `make dev` starts them, in a real browser and beside the command line.

All tests use one shop, because a start takes ten seconds and a run of its own process five. A new user looks at its
first run, its source breaks, and it loses power once.
"""

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import dagster as dg
import duckdb
import pytest
from playwright.sync_api import Page, ViewportSize, expect

from segmentation_pipeline.orchestration.instance import prepare
from segmentation_pipeline.orchestration.job_selection import NIGHTLY_JOB
from segmentation_pipeline.orchestration.schedules import declared
from segmentation_pipeline.tables.catalog import contracts
from segmentation_pipeline.warehouse import lock
from segmentation_pipeline_tests.scenarios import definitions
from segmentation_pipeline_tests.shops import Shop
from segmentation_pipeline_tests.web_interface import (
    COMMANDS,
    SECONDS,
    WINDOW,
    Server,
    browser_of,
    choose,
    materialize_all,
    open_chart,
    started,
    wait_until,
)

# Only the part of the lineage within the window is drawn, and the lineage is taller than wide. Large pages take long.
LINEAGE_WINDOW = ViewportSize(width=2400, height=6400)
ZONE = ZoneInfo("Europe/London")
NIGHTLY = "nightly"
SECRETS = {"SEGMENTATION_PRIVACY_KEY": "7e" * 32, "SEGMENTATION_WEBHOOK": "http://127.0.0.1:9/hook-5c0ffee5"}


QUEUED, STARTED = dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.STARTED
AT = {"repositoryName": "__repository__", "repositoryLocationName": "segmentation_pipeline"}


class Visit(NamedTuple):
    page: Page
    shop: Shop
    server: Server
    home: dg.DagsterInstance
    external: list[str]  # requests of the page to other hosts

    @property
    def statuses(self) -> list[dg.DagsterRunStatus]:
        """The statuses of the runs that are not finished."""
        return sorted((run.status for run in self.home.get_runs() if not run.is_finished), key=str)

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


def environment(shop: Shop) -> dict[str, str]:
    """Return the environment variables of a process of the shop."""
    return shop.environment | SECRETS | {"DAGSTER_HOME": str(shop.data / "dagster")}


@contextmanager
def command(shop: Shop, log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Start `segments run`, and kill it at the end."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            [COMMANDS / "segments", "run"], env=os.environ | environment(shop), stdout=out, stderr=out
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def settings_of(*, report: bool) -> dict[str, Any]:
    """Return the settings of the shop."""
    return {
        "source": {"settle_seconds": 2},
        "rfm": {"look_back_days": 200},
        "release": {"max_as_of_jump_days": 30, "report": report},
    }


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Shop, dg.DagsterInstance]]:
    """Return a shop that has not run yet, and its instance with the shipped dagster.yaml, but for one interval."""
    shop = Shop.build(tmp_path_factory.mktemp("interface"), **settings_of(report=True))
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("DAGSTER_HOME", environment(shop)["DAGSTER_HOME"])
        patched.setenv("SEGMENTATION_DATA", str(shop.data))
        settings = prepare() / "dagster.yaml"
        # The daemon looks at the queue every second, not every five.
        settings.write_text(f"{settings.read_text('utf-8')}\nrun_queue:\n  dequeue_interval_seconds: 1\n", "utf-8")
        with dg.DagsterInstance.get() as instance:
            # The files are created here, so that two processes do not create them at the same time.
            instance.get_runs()
            instance.all_instigator_state()
            yield shop, instance


@pytest.fixture(scope="module")
def visit(home: tuple[Shop, dg.DagsterInstance]) -> Iterator[Visit]:
    """Start the server and the browser."""
    shop, instance = home
    server, external = Server(environment(shop), shop.folder / "log"), list[str]()
    with started(server), browser_of(server, external) as page:
        yield Visit(page, shop, server, instance, external)


@pytest.fixture(scope="module")
def begun(visit: Visit) -> str:
    """Start the first run of the shop in the browser; the first tests look around meanwhile."""
    return materialize_all(visit.page)


@pytest.fixture(scope="module")
def first_run(visit: Visit, begun: str) -> str:
    """The first run of the shop, which is finished."""
    visit.wait(lambda: visit.statuses == [])
    return begun


@pytest.fixture(scope="module")
def broken_run(visit: Visit, first_run: str) -> str:
    """A run while the source has no column of customers. Afterwards the source is as it was."""
    [file] = visit.shop.source.iterdir()
    text = file.read_text("utf-8")
    file.write_text(text.replace("CustomerID", "Kunde", 1), "utf-8")
    run = materialize_all(visit.page)
    visit.wait(lambda: visit.statuses == [])
    file.write_text(text, "utf-8")
    # Nobody looks at the reports of later runs.
    visit.shop.configure(**settings_of(report=False))
    return run


START_SENSOR = """mutation($sensor: SensorSelector!) {
    startSensor(sensorSelector: $sensor) { ... on Sensor { sensorState { status } } }
}"""


class Outage(NamedTuple):
    """What the shop was doing when it lost power."""

    queued: str  # the run that was started in the browser
    begun: list[str]  # the runs of the daemon, for new files, and of a command; both waited for the lock


@pytest.fixture(scope="module")
def outage(visit: Visit, broken_run: str) -> Outage:
    """The machine loses power while a run of the daemon and a command wait for the lock, and another run is queued."""
    shop, home = visit.shop, visit.home
    heartbeats = shop.data / "runs"
    with lock.writer(shop.folders.lock, "another", 0, pytest.fail):
        sensor = visit.query(START_SENSOR, sensor={**AT, "sensorName": "new_files"})
        assert sensor == {"sensorState": {"status": "RUNNING"}}
        visit.wait(lambda: visit.statuses == [STARTED])
        with command(shop, shop.folder / "first.log"):
            queued = materialize_all(visit.page)
            visit.wait(lambda: visit.statuses == [QUEUED, STARTED, STARTED])
            visit.wait(lambda: len(list(heartbeats.iterdir())) == 2)
            visit.wait(lambda: {NIGHTLY, "dead_runs"} <= instigators(home).keys())
            visit.server.kill()
    assert visit.statuses == [QUEUED, STARTED, STARTED], "Dagster does not know that they are dead"
    return Outage(queued, [run.run_id for run in home.get_runs() if run.status == STARTED])


def instigators(instance: dg.DagsterInstance) -> dict[str, Any]:
    """Return the states of the schedules and sensors that the daemon has evaluated."""
    return {state.instigator_name: state for state in instance.all_instigator_state()}


class Restart(NamedTuple):
    """The runs after the power loss, in the order in which they publish."""

    launched: str  # the run that was started in the browser before
    commanded: str
    scheduled: str


@pytest.fixture(scope="module")
def restart(visit: Visit, first_run: str, broken_run: str, outage: Outage) -> Restart:
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
    [commanded] = {run.run_id for run in home.get_runs()} - {
        first_run,
        broken_run,
        outage.queued,
        *outage.begun,
        scheduled.run_id,
    }
    return Restart(outage.queued, commanded, scheduled.run_id)


@pytest.mark.usefixtures("begun")
def test_lineage_shows_every_asset(visit: Visit) -> None:
    assets = {key.to_user_string() for key in definitions().resolve_asset_graph().get_all_asset_keys()}
    visit.page.set_viewport_size(LINEAGE_WINDOW)
    visit.page.goto("/")
    choose(visit.page, "Lineage")
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
        choose(visit.page, entry)
        visit.page.wait_for_load_state("networkidle")
    expect(visit.page.get_by_role("dialog")).to_have_count(0)


def test_a_run_of_all_assets_succeeds(visit: Visit, first_run: str) -> None:
    visit.page.goto(f"/runs/{first_run}")
    expect(visit.page.get_by_text("Success", exact=True).first).to_be_visible()
    assert [release.manifest["run_id"] for release in visit.shop.releases.all()] == [first_run]


@pytest.mark.usefixtures("first_run")
def test_asset_page_shows_rows_columns_their_sources_and_passed_checks(visit: Visit) -> None:
    page, name = visit.page, "customer_segments"
    page.goto(f"/assets/{name}")
    [(rows,)] = visit.shop.rows(f"select count(*) from {name}")
    expect(page.get_by_text("Row count", exact=True).locator("..")).to_have_text(re.compile(rf"^Row count\s*{rows}$"))
    for column in contracts()[name].columns:
        row = page.get_by_role("row").filter(has=page.get_by_text(column.name, exact=True))
        expect(row.filter(has_text=column.description).first).to_be_visible()
    sources = page.get_by_role("row").filter(has=page.get_by_text("assigned_segments.margin", exact=True)).last
    expect(sources).to_contain_text("margin")
    page.get_by_role("tab", name="Checks").click()
    checks = definitions().resolve_asset_graph().get_check_keys_for_assets({dg.AssetKey(name)})
    assert len(checks) > 1
    expect(page.get_by_text(f"Checks ({len(checks)})")).to_be_visible()
    for check in checks:
        expect(page.get_by_title(check.name, exact=True).locator("..")).to_contain_text("Succeeded")


@pytest.mark.usefixtures("first_run")
def test_the_page_of_an_asset_leads_to_its_chart(visit: Visit) -> None:
    picture = open_chart(visit.page, "customer_segments")
    # A picture that cannot be drawn has no size.
    visit.page.wait_for_function("image => image.naturalWidth > 300", arg=picture.element_handle())


def test_schedules_are_switched_on(visit: Visit) -> None:
    visit.page.goto("/automation")
    for name, kind, starts_on, _ in declared():
        if kind == "schedule":
            link = visit.page.locator(f'a[href$="/schedules/{name}"]')
            expect(link.locator("xpath=following::input[@type='checkbox'][1]")).to_be_checked(checked=starts_on)


def test_a_broken_source_fails_with_what_to_do(visit: Visit, broken_run: str) -> None:
    visit.page.goto(f"/runs/{broken_run}")
    expect(visit.page.get_by_text("Failure", exact=True).first).to_be_visible()
    expect(visit.page.get_by_text("Correct [columns] of the retailer file").first).to_be_visible()
    # The release of the first run is still the current one.
    assert len(visit.shop.releases.all()) == 1


def test_new_files_start_one_run(visit: Visit, restart: Restart) -> None:
    """The daemon requests the run once, although it dies."""
    runs = [run for run in visit.home.get_runs() if run.tags.get("dagster/sensor_name") == "new_files"]
    assert [(run.job_name, run.status) for run in runs] == [(NIGHTLY_JOB, dg.DagsterRunStatus.FAILURE)]


def test_dead_runs_fail_and_the_queue_goes_on(
    visit: Visit, first_run: str, broken_run: str, outage: Outage, restart: Restart
) -> None:
    """A dead run that Dagster takes for a live one would block the queue."""
    assert {run.run_id: run.status for run in visit.home.get_runs()} == {
        **dict.fromkeys([broken_run, *outage.begun], dg.DagsterRunStatus.FAILURE),
        **dict.fromkeys([first_run, *restart], dg.DagsterRunStatus.SUCCESS),
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
    # A digest may contain the digits of a customer.
    assert customers & set(re.findall(r"\w+", answers)) == set()
    assert [secret for secret in SECRETS.values() if secret in answers] == []


def test_no_page_contacts_another_host(visit: Visit) -> None:
    """Of all pages that the tests above have opened."""
    assert visit.external == []
