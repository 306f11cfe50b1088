"""Fixtures of the tests of reports: the report of a shop after two nights and a refit, drawn once."""

import pytest

from segmentation_pipeline.releases.files import Release
from segmentation_pipeline.reports.publishing import previous_of
from segmentation_pipeline.reports.report import Report, report_of
from segmentation_pipeline_tests.shops import Shop

TITLE = "Corner <shop>"


def newest(shop: Shop) -> tuple[Release, Release | None]:
    """Return the newest release of a shop, and the one that it is compared with."""
    releases = shop.releases.all()
    return releases[-1], previous_of(releases[-1], releases)


@pytest.fixture(scope="session")
def written(refitted_template: Shop) -> Report:
    """The report of the newest release of a shop."""
    release, previous = newest(refitted_template)
    return report_of(release, TITLE, previous)
