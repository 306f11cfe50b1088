"""Tests of the report in a real browser: silent, without a request, accessible, and readable on small screens."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from segmentation_pipeline.reports.report import Report

PROJECT = Path(__file__).parents[2]
AXE = PROJECT / ".venv" / "axe-core" / "node_modules" / "axe-core" / "axe.min.js"
CHROMIUM = "/usr/bin/chromium"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=CHROMIUM, args=["--disable-gpu"]) as started,
    ):
        yield started


@pytest.fixture(scope="module")
def address(written: Report, tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("report") / "report.html"
    file.write_text(written.html, "utf-8")
    return file.as_uri()


def opened(browser: Browser, address: str, **options: Any) -> tuple[Page, list[str]]:
    """Open the report; return the page, and its console messages, errors and requests."""
    page, events = browser.new_page(**options), []
    page.on("console", lambda message: events.append(message.text))
    page.on("pageerror", lambda error: events.append(str(error)))
    page.on("request", lambda request: events.append(request.url))
    page.goto(address)
    return page, events


@pytest.mark.parametrize(
    "options",
    [
        {"color_scheme": "light"},
        {"color_scheme": "dark"},
        {"color_scheme": "light", "viewport": {"width": 320, "height": 640}},
    ],
    ids=["light", "dark", "narrow"],
)
def test_the_report_is_silent_accessible_and_fits_the_screen(
    browser: Browser, address: str, options: dict[str, Any]
) -> None:
    page, events = opened(browser, address, **options)
    assert AXE.is_file(), "run `make clients`"
    page.evaluate(AXE.read_text("utf-8"))
    found = page.evaluate("axe.run()")
    assert [(rule["id"], [node["html"][:200] for node in rule["nodes"]]) for rule in found["violations"]] == []
    assert len(found["passes"]) > 20
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= page.evaluate("window.innerWidth")
    assert events == [address]
    page.close()


def test_every_chart_has_a_name_and_a_description(browser: Browser, address: str) -> None:
    page, _ = opened(browser, address)
    for chart in page.get_by_role("img").all():
        labels = (chart.get_attribute("aria-labelledby") or "").split()
        title, text = (page.locator(f"#{label}").inner_text() for label in labels)
        assert title
        assert re.search(r"\d", text), text
        box = chart.bounding_box()
        assert box is not None
        assert box["height"] > 50
    page.close()


def test_the_keyboard_reaches_sections_and_tables(browser: Browser, address: str) -> None:
    page, _ = opened(browser, address)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the report"
    focused = []
    for _ in range(20):
        page.keyboard.press("Tab")
        focused.append(page.evaluate("document.activeElement.getAttribute('href') || document.activeElement.ariaLabel"))
    assert focused[:2] == ["#first", "#segments"]
    assert "Lapsing customers by segment" in focused
    page.close()


def test_the_print_is_dark_on_white_in_dark_mode(browser: Browser, address: str) -> None:
    page, _ = opened(browser, address, color_scheme="dark")
    colour = "getComputedStyle(document.body).color"
    assert page.evaluate(colour) == "rgb(232, 237, 242)"
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate(colour) == "rgb(27, 39, 51)"
    assert page.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
    assert len(re.findall(rb"/Type /Page\b", page.pdf(prefer_css_page_size=True))) <= 8
    page.close()
