"""Draw the pictures of the README: the segments of the sample, the web interface after its first run, and the report.

`python tools/pictures.py DOCS` goes the way of a new user in a temporary folder, as the browser test does, and writes
the pictures to `DOCS/pictures`. `make picture` runs it. They depend on the fonts of the machine.
"""

import os
import sys
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import dagster as dg
from PIL import Image
from playwright.sync_api import Page, ViewportSize, expect

from segmentation_pipeline.config.loading import load_settings
from segmentation_pipeline.config.paths import RetailerFolders
from segmentation_pipeline.orchestration.instance import prepare
from segmentation_pipeline.releases.files import Release
from segmentation_pipeline.releases.store import Releases
from segmentation_pipeline.reports import charts
from segmentation_pipeline.reports.frames import read_frames
from segmentation_pipeline.reports.rendering import compact, svg_of
from segmentation_pipeline_tests.web_interface import (
    Server,
    browser_of,
    materialize_all,
    open_chart,
    started,
    wait_until,
)

WINDOW = ViewportSize(width=1280, height=800)


def save(page: Page, file: Path) -> None:
    """Write what the window shows, with 64 colours, which is a third as large as with all."""
    # Nothing on a page says that the last element has its place.
    page.wait_for_load_state("networkidle")
    with Image.open(BytesIO(page.screenshot(animations="disabled", caret="hide"))) as image:
        image.convert("RGB").quantize(64, dither=Image.Dither.NONE).save(file, "png", optimize=True)
    print(file, file.stat().st_size)


def photograph_interface(page: Page, pictures: Path) -> None:
    """Write the page of an asset, and its chart."""
    page.goto("/assets/customer_segments")
    expect(page.get_by_text("Row count")).to_be_visible()
    expect(page.get_by_text("Automation details")).to_be_visible()
    save(page, pictures / "asset.png")
    picture = open_chart(page, "customer_segments")
    page.wait_for_function("image => image.naturalWidth > 300", arg=picture.element_handle())
    save(page, pictures / "chart.png")


def main(pictures: Path, folder: Path) -> None:
    """Run the sample in a folder, and write the pictures."""
    os.environ["SEGMENTATION_DATA"] = str(folder)
    os.environ["DAGSTER_HOME"] = str(prepare())
    sample = load_settings("sample")
    server = Server({}, folder / "log")
    with dg.DagsterInstance.get() as instance, started(server), browser_of(server, [], viewport=WINDOW) as page:
        materialize_all(page)
        wait_until(lambda: all(run.is_finished for run in instance.get_runs()), lambda: server.text, 600)
        release = Releases(RetailerFolders(folder, sample.name).releases).current
        assert release is not None, server.text
        photograph_interface(page, pictures)
        page.set_content(release.report.read_text("utf-8"))
        save(page, pictures / "report.png")
    draw_segments(release, sample.currency, pictures)


def draw_segments(release: Release, currency: str, pictures: Path) -> None:
    """Write the share of customers and of revenue of each segment."""
    chart = charts.segment_sizes(read_frames(release)["segments"], currency)
    (pictures / "sample.svg").write_text(compact(svg_of(chart)) + "\n", "utf-8")


if __name__ == "__main__":
    with TemporaryDirectory() as temporary:
        main(Path(sys.argv[1]) / "pictures", Path(temporary))
