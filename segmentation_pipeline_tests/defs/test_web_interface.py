"""Tests of Dagster's web interface, as `make dev` starts it, in a real browser."""

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
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import dagster as dg
import duckdb
import pytest
from playwright.sync_api import Page, Route, ViewportSize, expect, sync_playwright

from segmentation_pipeline.definitions import defs
from segmentation_pipeline.releases.store import Releases
from segmentation_pipeline.tables.catalog import contracts
from segmentation_pipeline_tests.scenarios import regular_customers, retailer_file, write_csv

PROJECT = Path(__file__).parents[2]
COMMANDS = Path(sys.executable).parent
HOST = "127.0.0.1"
EXTERNAL = re.compile(rf"^\w+://(?!{re.escape(HOST)}:)")
# The browser of the system, which `make test` installs. Playwright switches off its background requests.
CHROMIUM = "/usr/bin/chromium"
# Only the part of the lineage within the window is drawn, and the lineage is taller than wide.
WINDOW = ViewportSize(width=2400, height=6400)
SECONDS = 30
SECRETS = {"SEGMENTATION_PRIVACY_KEY": "7e" * 32, "SEGMENTATION_WEBHOOK": "http://127.0.0.1:9/hook-5c0ffee5"}


class Visit(NamedTuple):
    page: Page
    folder: Path
    external: list[str]  # requests of the page to other hosts

    def query(self, query: str, **variables: object) -> Any:
        """Return the answer of Dagster's GraphQL interface."""
        answer = self.page.request.post("/graphql", data={"query": query, "variables": variables}).json()
        assert "errors" not in answer, answer
        [value] = answer["data"].values()
        return value

    def choose(self, entry: str) -> None:
        """Click an entry of the menu; fails while a dialog covers it."""
        self.page.get_by_role("navigation").get_by_text(entry, exact=True).click()


def environment(folder: Path) -> dict[str, str]:
    """Return the environment of the shop in this folder."""
    data = {"SEGMENTATION_DATA": str(folder / "data"), "DAGSTER_HOME": str(folder / "data" / "dagster")}
    return os.environ | data | SECRETS | {"SEGMENTATION_RETAILER": str(folder / "retailer.toml")}


@contextmanager
def interface(folder: Path) -> Iterator[str]:
    """Start `dg dev` on a small shop, and yield its address."""
    retailer_file(folder, write_csv(folder / "source" / "a.csv", regular_customers()).parent)
    env = environment(folder)
    env["DAGSTER_HOME"] = subprocess.check_output([COMMANDS / "segments", "home"], env=env, text=True).strip()
    with socket.create_server((HOST, 0)) as free:
        port = free.getsockname()[1]
    command = [str(COMMANDS / "dg"), "dev", "--host", HOST, "--port", str(port)]
    with (folder / "log").open("wb") as out:
        process = subprocess.Popen(command, cwd=PROJECT, env=env, stdout=out, stderr=out, start_new_session=True)
    try:
        deadline = time.monotonic() + 3 * SECONDS
        while f"Serving dagster-webserver on http://{HOST}:{port}" not in (log := (folder / "log").read_text("utf-8")):
            assert process.poll() is None, log
            assert time.monotonic() < deadline, log
            time.sleep(0.1)
        yield f"http://{HOST}:{port}"
    finally:
        for ending in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(process.pid, ending)
                process.wait(20)


@pytest.fixture(scope="module")
def visit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Visit]:
    folder = tmp_path_factory.mktemp("interface")
    external: list[str] = []

    def block(route: Route) -> None:
        external.append(route.request.url)
        route.abort()

    with (
        interface(folder) as address,
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=CHROMIUM, args=["--disable-gpu"]) as browser,
        browser.new_context(base_url=address, viewport=WINDOW, service_workers="block") as context,
    ):
        context.set_default_timeout(SECONDS * 1000)
        expect.set_options(timeout=SECONDS * 1000)
        context.route(EXTERNAL, block)
        # A routed socket connects to no server unless the route does it.
        context.route_web_socket(EXTERNAL, lambda route: external.append(route.url))
        yield Visit(context.new_page(), folder, external)


@pytest.fixture(scope="module")
def run_id(visit: Visit) -> str:
    """Return the id of a run that was started in the browser, and succeeded."""
    visit.page.goto("/")
    visit.choose("Lineage")
    visit.page.get_by_role("button", name="Materialize all").click()
    visit.page.get_by_text("View", exact=True).click()
    visit.page.wait_for_url("**/runs/*")
    end = visit.page.get_by_text(re.compile("^(Success|Failure|Canceled)$")).first
    assert end.inner_text(timeout=3_000 * SECONDS) == "Success"
    return Path(visit.page.url).name


def test_lineage_shows_every_asset(visit: Visit) -> None:
    assets = {key.to_user_string() for key in defs().resolve_asset_graph().get_all_asset_keys()}
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


def test_materialize_all_publishes_the_current_release(visit: Visit, run_id: str) -> None:
    manifest = visit.folder / "data" / "corner_shop" / "releases" / "current" / "manifest.json"
    assert json.loads(manifest.read_text("utf-8"))["run_id"] == run_id


@pytest.mark.usefixtures("run_id")
def test_asset_page_shows_columns_rows_and_passed_checks(visit: Visit) -> None:
    page = visit.page
    page.goto("/assets/customer_segments")
    for column in contracts()["customer_segments"].columns:
        row = page.get_by_role("row").filter(has=page.get_by_text(column.name, exact=True))
        expect(row).to_contain_text(column.description)
    expect(page.get_by_text("Row count", exact=True).locator("..")).to_have_text(re.compile(r"^Row count\s*60$"))
    page.get_by_role("tab", name="Checks").click()
    checks = defs().resolve_asset_graph().get_check_keys_for_assets({dg.AssetKey("customer_segments")})
    expect(page.get_by_text(f"Checks ({len(checks)})")).to_be_visible()
    for check in checks:
        expect(page.get_by_title(check.name, exact=True).locator("..")).to_contain_text("Succeeded")


def test_no_dialog_opens_and_no_other_host_is_contacted(visit: Visit) -> None:
    with visit.page.expect_response(lambda response: "ShouldShowNux" in (response.request.post_data or "")):
        visit.page.goto("/")
    for entry in ("Overview", "Runs", "Catalog", "Jobs", "Automation", "Lineage", "Deployment"):
        visit.choose(entry)
        visit.page.wait_for_load_state("networkidle")
    expect(visit.page.get_by_role("dialog")).to_have_count(0)
    assert visit.external == []


LAUNCH = """mutation($run: ExecutionParams!) {
    launchRun(executionParams: $run) { __typename ... on LaunchRunSuccess { run { runId } } }
}"""
NIGHTLY = {
    "selector": {
        "repositoryLocationName": "segmentation_pipeline",
        "repositoryName": "__repository__",
        "jobName": "nightly_segmentation",
    },
}
STATUS = "query($run: ID!) { runOrError(runId: $run) { ... on Run { status } } }"


def wait_until(condition: Callable[[], object], message: str) -> None:
    deadline = time.monotonic() + 3 * SECONDS
    while not condition():
        assert time.monotonic() < deadline, message
        time.sleep(0.1)


@contextmanager
def command(folder: Path, log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Start `segments run`, and kill it at the end of the test."""
    with log.open("wb") as out:
        process = subprocess.Popen([COMMANDS / "segments", "run"], env=environment(folder), stdout=out, stderr=out)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def test_concurrent_runs_of_both_interfaces_wait_and_publish(visit: Visit, run_id: str) -> None:
    """A reader of the working database holds up the run that has the lock until the other run has started.

    Dagster queues a run of the web interface while another one is in progress. A command does not use the queue, so it
    is the one that waits for the lock.
    """
    shop, logs = visit.folder / "data" / "corner_shop", [visit.folder / "first.log", visit.folder / "second.log"]

    def lock_holder() -> str:
        return (shop / "work.lock").read_text("utf-8")

    def read_database() -> duckdb.DuckDBPyConnection:
        return duckdb.connect(str(shop / "work.duckdb"), read_only=True)

    def status() -> str:
        return str(visit.query(STATUS, run=launched)["status"])

    with command(visit.folder, logs[0]) as first:
        with read_database():
            wait_until(lambda: f"process {first.pid}, run " in lock_holder(), "the first command has no lock")
            launched = visit.query(LAUNCH, run=NIGHTLY)["run"]["runId"]
            wait_until(lambda: "waiting for" in logs[0].read_text("utf-8"), "the command does not wait for the reader")
            assert status() == "QUEUED"
        assert first.wait(3 * SECONDS) == 0, logs[0].read_text("utf-8")
    with ExitStack() as reading:
        reading.enter_context(read_database())
        wait_until(lambda: f", run {launched}" in lock_holder(), "the launched run has no lock")
        message = f"waiting for {lock_holder()}, which writes to {shop}"
        with command(visit.folder, logs[1]) as second:
            wait_until(lambda: message in " ".join(logs[1].read_text("utf-8").split()), message)
            reading.close()
            assert second.wait(3 * SECONDS) == 0, logs[1].read_text("utf-8")
    wait_until(lambda: status() in ("SUCCESS", "FAILURE"), "the launched run does not end")
    assert status() == "SUCCESS"
    releases = Releases(shop / "releases")
    assert not any(releases.verify().values())
    before, *three = releases.all()[-4:]
    assert before.manifest["run_id"] == run_id
    assert three[1].manifest["run_id"] == launched, "between the two commands"
    assert releases.current == three[2]
    # The same files give the same tables, so no run read what another one had half written.
    [one, *others] = [{file.name: file.read_bytes() for file in release.folder.glob("*.parquet")} for release in three]
    assert others == [one, one]


RESOURCES = """query ($at: RepositorySelector!) { allTopLevelResourceDetailsOrError(repositorySelector: $at) {
  ... on ResourceDetailsList { results { name configuredValues { key value } resourceType } } } }"""
EVENTS = """query ($run: ID!) { runOrError(runId: $run) { ... on Run {
  runConfigYaml tags { key value } eventConnection(limit: 1000) { events { ... on MessageEvent { message }
    ... on MaterializationEvent { metadataEntries { label ... on TextMetadataEntry { text }
      ... on MarkdownMetadataEntry { mdStr } ... on TableMetadataEntry { table { records } } } } } } } } }"""


def test_graphql_exposes_no_secret_and_no_customer(visit: Visit, run_id: str) -> None:
    at = {"repositoryName": "__repository__", "repositoryLocationName": "segmentation_pipeline"}
    answers = json.dumps([visit.query(RESOURCES, at=at), visit.query(EVENTS, run=run_id)])
    expected = ("retailer", "lock_timeout", "segment_profiles", "median monetary")
    assert [word for word in expected if word not in answers] == []
    customers = {fields[6] for fields in regular_customers()}
    assert [word for word in (*customers, *SECRETS.values()) if word in answers] == []
