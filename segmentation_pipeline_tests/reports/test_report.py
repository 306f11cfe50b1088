"""Tests of the report: what it says of a release, what it must not say, and what it says where something is missing."""

import re
import shutil
from pathlib import Path
from typing import Any

import duckdb
import pytest

from segmentation_pipeline.releases.files import DATABASE, Release
from segmentation_pipeline.reports import charts, figures
from segmentation_pipeline.reports.figures import FIGURES
from segmentation_pipeline.reports.formatting import format_money
from segmentation_pipeline.reports.report import Report, report_of
from segmentation_pipeline_tests.reports.conftest import TITLE, newest
from segmentation_pipeline_tests.shops import Shop


@pytest.fixture
def changed(refitted_template: Shop, tmp_path: Path) -> Any:
    """Return a function that changes the tables of a copy of the newest release."""
    release, _ = newest(refitted_template)

    def change(*statements: str, **manifest: Any) -> Release:
        copy = Release(tmp_path / "copy", {**release.manifest, **manifest})
        copy.folder.mkdir()
        shutil.copyfile(release.database, copy.folder / DATABASE)
        with duckdb.connect(str(copy.database)) as connection:
            for statement in statements:
                connection.execute(statement)
        return copy

    return change


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw nothing where the words of the page are tested: thirteen charts take a second."""
    monkeypatch.setattr(figures, "svg_of", lambda chart: '<svg viewBox="0 0 9 9"></svg>')


def drawing(report: Report, name: str) -> Any:
    return next(drawing for drawing in report.drawings if drawing.figure.name == name)


def text_of(html: str) -> str:
    """Return what a reader sees of a page, in one line."""
    without = re.sub(r"<(style|svg|head)\b.*?</\1>", "", html, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]*>", " ", without).replace("\N{NO-BREAK SPACE}", " ").split())


def test_every_figure_is_drawn_or_says_why_not(written: Report) -> None:
    assert [drawing.figure for drawing in written.drawings] == list(FIGURES)
    assert [drawing.error for drawing in written.drawings if drawing.error] == []
    # The shop has ten months of data and a window of 200 days.
    assert [drawing.figure.name for drawing in written.drawings if not drawing.svg] == [
        "outlier_products",
        "outlier_months",
        "choice_of_k",
    ]
    assert all(drawing.text for drawing in written.drawings)


def test_headline_figures_are_those_of_the_release(written: Report, refitted_template: Shop) -> None:
    release, previous = newest(refitted_template)
    assert previous is not None
    text = text_of(written.html)
    select = "select count(*), sum(monetary) from customer_segments"
    [(customers, revenue)] = refitted_template.rows(select, release.database)
    [(before, _)] = refitted_template.rows(select, previous.database)
    assert f"customers {customers} {'+' if customers > before else ''}{customers - before or 'no change'}" in text
    assert f"revenue, net of refunds {format_money(revenue, 'GBP')}" in text
    [(valuable,)] = refitted_template.rows(
        "select count(*) from customer_segments where is_lapsing and monetary_score = 5", release.database
    )
    assert f"valuable customers lapsing {valuable} " in text


def test_every_segment_is_there_with_meaning_and_action(written: Report, refitted_template: Shop) -> None:
    text = text_of(written.html)
    rows = refitted_template.released("select segment, description, action, customers from segment_profiles")
    assert len(rows) > 3
    for segment, description, action, customers in rows:
        assert re.search(rf"{segment} (\(\w+\) )?{re.escape(description)} What to do: {re.escape(action)}", text)
        assert f"Customers {customers} (" in text


def test_the_page_names_no_customer(written: Report, refitted_template: Shop) -> None:
    customers = {str(row[0]) for row in refitted_template.rows("select customer_id from rfm_features")}
    assert len(customers) > 50
    assert customers & set(re.findall(r"\w+", written.html)) == set()


def test_the_page_has_no_address_or_script_and_escapes_titles(written: Report) -> None:
    for forbidden in ("http:", "https:", "//", "<script", "<link", "src=", "url(", "@import", "<shop>"):
        assert forbidden not in written.html
    assert written.html.count("Corner &lt;shop&gt;") == 2
    assert TITLE not in written.html


def test_the_same_release_gives_the_same_page(written: Report, refitted_template: Shop) -> None:
    release, previous = newest(refitted_template)
    assert report_of(release, TITLE, previous).html == written.html


@pytest.mark.usefixtures("undrawn")
def test_the_first_release_says_that_there_is_nothing_to_compare(refitted_template: Shop) -> None:
    release, _ = newest(refitted_template)
    report = report_of(release, TITLE)
    assert "This is the first release" in text_of(report.html)
    assert drawing(report, "flows").text == "There is no earlier release to compare with."


@pytest.mark.usefixtures("undrawn")
def test_withheld_columns_leave_out_what_needs_them(changed: Any) -> None:
    release = changed("alter table customer_segments drop column monetary", withheld=["monetary"])
    report = report_of(release, TITLE)
    missing = "privacy.withhold leaves monetary out of the releases."
    assert [d.figure.name for d in report.drawings if d.text == missing] == [
        "segment_map",
        "rfm_grid",
        "concentration",
        "features",
    ]
    assert f"Who is leaving A customer is lapsing who {missing}" in re.sub(
        r"has been away.*come again\. ", "", text_of(report.html)
    )


@pytest.mark.usefixtures("undrawn")
def test_a_release_of_an_older_contract_still_has_a_report(changed: Any) -> None:
    release = changed("drop table outlier_products; drop table outlier_months", contract_version="4.0.0")
    report = report_of(release, TITLE)
    assert drawing(report, "outlier_products").text == "A release of contract 4.0.0 does not hold what this needs."
    assert drawing(report, "segment_sizes").svg


@pytest.mark.usefixtures("undrawn")
def test_products_are_shown_of_segments_with_five_customers(changed: Any) -> None:
    fill = (
        "insert into outlier_products by name select segment_key, segment, 1 as place, 'cup' as product,"
        " 'Cup of tea' as description, customers, 1 as customer_share, revenue, 1 as revenue_share"
        " from outlier_profiles"
    )
    release = changed("delete from outlier_products", fill, "update segment_profiles set customers = 5")
    report = report_of(release, TITLE)
    assert "CUP OF TEA" in drawing(report, "outlier_products").text.upper()


@pytest.mark.usefixtures("undrawn")
def test_an_error_in_one_chart_leaves_out_that_one(refitted_template: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("no customers")

    monkeypatch.setattr(charts, "lift", fail)
    report = report_of(newest(refitted_template)[0], TITLE)
    assert [(d.figure.name, d.error) for d in report.drawings if d.error] == [
        ("lift", "ZeroDivisionError: no customers")
    ]
    assert "This chart could not be drawn" in report.html


def test_the_page_stays_small_with_many_customers(changed: Any) -> None:
    many = (
        "insert into customer_segments select customers.* replace (customer_id || '-' || n as customer_id,"
        " monetary * (1 + n / 7000) as monetary, (recency + n) % 300 as recency)"
        " from customer_segments as customers cross join range(1, 2001) as numbers(n)"
    )
    report = report_of(changed(many), TITLE)
    assert "A sample of 900 of 1" in drawing(report, "segment_map").text
    assert len(report.html.encode()) < 1_000_000
