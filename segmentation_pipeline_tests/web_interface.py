"""The web interface and the daemon as `make dev` starts them, and a browser that goes the way of a user.

The tests of the interface use it, and `tools/pictures.py`, which photographs the same pages.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from playwright.sync_api import Locator, Page, Route, ViewportSize, expect, sync_playwright

PROJECT = Path(__file__).parents[1]
COMMANDS = Path(sys.executable).parent
HOST = "127.0.0.1"
EXTERNAL = re.compile(rf"^\w+://(?!{re.escape(HOST)}:)")
# The browser of the system, which `make test` installs. Playwright switches off its background requests.
CHROMIUM = "/usr/bin/chromium"
WINDOW = ViewportSize(width=1600, height=1200)
SECONDS = 60
# In the request that starts a run.
_LAUNCH = "mutation Launch"
_RUN_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Server:
    """`dg dev` in an environment: the web interface and the daemon, always on the same port."""

    def __init__(self, environment: Mapping[str, str], log: Path) -> None:
        self.environment, self.log = environment, log
        with socket.create_server((HOST, 0)) as free:
            self.port = free.getsockname()[1]
        self.address = f"http://{HOST}:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the processes; `wait` returns when they serve."""
        command = [str(COMMANDS / "dg"), "dev", "--host", HOST, "--port", str(self.port)]
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                command, cwd=PROJECT, env=os.environ | self.environment, stdout=out, stderr=out, start_new_session=True
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


def wait_until(condition: Callable[[], object], message: str | Callable[[], str], seconds: float = 3 * SECONDS) -> None:
    """Wait until a condition holds; fail with the message after some seconds."""
    deadline = time.monotonic() + seconds
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
def browser_of(server: Server, external: list[str], **options: Any) -> Iterator[Page]:
    """Open a page of a server that is starting; add its requests to other hosts, which fail, to `external`."""

    def block(route: Route) -> None:
        external.append(route.request.url)
        route.abort()

    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=CHROMIUM, args=["--disable-gpu"]) as browser,
        browser.new_context(
            base_url=server.address, service_workers="block", reduced_motion="reduce", **{"viewport": WINDOW, **options}
        ) as context,
    ):
        context.set_default_timeout(SECONDS * 1000)
        expect.set_options(timeout=SECONDS * 1000)
        context.route(EXTERNAL, block)
        # A routed socket connects to no server unless the route does it.
        context.route_web_socket(EXTERNAL, lambda route: external.append(route.url))
        server.wait()
        yield context.new_page()


def choose(page: Page, entry: str) -> None:
    """Click an entry of the menu; fails while a dialog covers it."""
    page.get_by_role("navigation").get_by_text(entry, exact=True).click()


def materialize_all(page: Page) -> str:
    """Start a run in the browser, and return its id."""
    page.goto("/")
    choose(page, "Lineage")
    # The message that leads to the run disappears after some seconds, which may be too soon on a busy machine.
    with page.expect_response(
        lambda response: _LAUNCH in (response.request.post_data or ""), timeout=3_000 * SECONDS
    ) as launched:
        page.get_by_role("button", name="Materialize all").click()
    found = _RUN_ID.search(launched.value.text())
    assert found is not None, launched.value.text()
    # An open page asks the server for news, and draws them.
    page.goto("about:blank")
    return found[0]


def open_chart(page: Page, asset: str) -> Locator:
    """Follow the description of an asset from its page to its chart, and return the picture."""
    page.goto(f"/assets/{asset}")
    page.locator("p", has_text="Chart:").get_by_role("link", name="Events").click()
    expect(page.get_by_text("Observed in run")).to_be_visible()
    page.get_by_text("[Show Markdown]").click()
    picture = page.get_by_role("dialog").locator('img[src^="data:image/png"]')
    expect(picture).to_be_visible()
    return picture
