"""Tests of when a report is drawn: with news, with another title, and after an error; and when a page is used again."""

import shutil
from typing import Any

import duckdb
import pytest

from segmentation_pipeline.releases.files import Release
from segmentation_pipeline.releases.manifest import write_manifest
from segmentation_pipeline.reports import charts, figures
from segmentation_pipeline.reports.publishing import Written, previous_of, write_report
from segmentation_pipeline.reports.report import figures_on
from segmentation_pipeline_tests.shops import Shop


@pytest.fixture
def shop(refitted_shop: Shop, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """A shop after three nights, whose charts are not drawn: thirteen take a second."""
    monkeypatch.setattr(figures, "svg_of", lambda chart: '<svg viewBox="0 0 9 9"></svg>')
    return refitted_shop


def night_without_news(shop: Shop, number: int = 4, **manifest: Any) -> Release:
    """Publish a copy of the last release, as a night without news does."""
    last = shop.releases.all()[-1]
    folder = shop.releases.folder / f"00000{number}-20241025-again"
    shutil.copytree(last.folder, folder)
    (folder / "report.html").unlink(missing_ok=True)
    entries = {name: value for name, value in last.manifest.items() if name != "digest"}
    return Release(folder, write_manifest(folder, {**entries, "release": folder.name, "run_id": "again", **manifest}))


def write(shop: Shop, release: Release, title: str = "Corner shop", **options: Any) -> Written:
    return write_report(shop.releases, release, title, None, **options)


def test_a_night_without_news_uses_the_last_page_again(shop: Shop) -> None:
    last = shop.releases.all()[-1]
    assert write(shop, last).same_as == ""
    again = night_without_news(shop)
    assert write(shop, again) == Written((), last.name)
    page = again.report.read_text("utf-8")
    assert page == last.report.read_text("utf-8").replace(last.name, again.name)
    assert page.count(again.name) == 2
    assert not any(shop.releases.verify().values())


def test_a_page_is_drawn_where_anything_that_it_shows_differs(shop: Shop) -> None:
    write(shop, shop.releases.all()[-1])
    again = night_without_news(shop)
    assert write(shop, again, title="Another name").drawings
    assert write(shop, night_without_news(shop, 5, settings_digest="other")).drawings
    changed = night_without_news(shop, 6, settings_digest="other")
    with duckdb.connect(str(changed.database)) as connection:
        connection.execute("update segment_profiles set action = 'Call them.' where segment_key = 'nurture'")
    assert write(shop, changed).drawings
    assert "Call them." in changed.report.read_text("utf-8")
    assert write(shop, night_without_news(shop, 7), redraw=True).drawings


def test_charts_with_unchanged_rows_are_not_drawn_again(shop: Shop) -> None:
    """A night changes the customers. What a fit found, and past months, stay as they are."""
    last = shop.releases.all()[-1]
    write(shop, last)
    changed = night_without_news(shop)
    with duckdb.connect(str(changed.database)) as connection:
        connection.execute("update segment_profiles set customers = customers + 1")
    drawings = {drawing.figure.name: drawing for drawing in write(shop, changed).drawings}
    drawn = {name for name, drawing in drawings.items() if drawing.svg}
    used_again = {name for name, drawing in drawings.items() if drawing.shown is not None}
    assert "segment_sizes" in drawn
    assert {"lift", "monthly_flows", "rfm_grid"} <= used_again
    before, after = (figures_on(release.report.read_text("utf-8")) for release in (last, changed))
    assert before.keys() == after.keys() == drawn | used_again
    assert {name for name in after if before[name] == after[name]} == used_again
    # As drawn anew.
    redrawn = night_without_news(shop, 5)
    write(shop, redrawn, redraw=True)
    page = redrawn.report.read_text("utf-8").replace(redrawn.name, changed.name)
    assert page.partition("<body")[2] == changed.report.read_text("utf-8").partition("<body")[2]


def test_a_page_with_a_failed_chart_is_not_reused(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(charts, "lift", lambda *_: 1 / 0)
        [failed] = [drawing for drawing in write(shop, shop.releases.all()[-1]).drawings if drawing.error]
    assert failed.figure.name == "lift"
    drawn = write(shop, night_without_news(shop))
    assert [drawing.error for drawing in drawn.drawings if drawing.error] == []


def test_a_repeated_run_is_compared_with_the_day_before(shop: Shop) -> None:
    first, second, _ = shop.releases.all()
    again = night_without_news(shop)
    assert previous_of(again, shop.releases.all()) == second
    assert previous_of(first, shop.releases.all()) is None
