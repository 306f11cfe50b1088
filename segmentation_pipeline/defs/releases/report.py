"""The asset `segment_report`: the page for people beside a release, and the charts on the assets that they explain."""

import base64
import re
import time
from collections.abc import Sequence
from traceback import format_exc
from typing import TYPE_CHECKING, Any

import dagster as dg

from segmentation_pipeline import __version__
from segmentation_pipeline.errors import first_line
from segmentation_pipeline.orchestration.check_results import warning_result
from segmentation_pipeline.orchestration.resources import RetailerConfig
from segmentation_pipeline.orchestration.sql_assets import OWNERS, Results
from segmentation_pipeline.releases.store import Releases
from segmentation_pipeline.reports.publishing import write_report

if TYPE_CHECKING:
    from segmentation_pipeline.reports.figures import Drawing

_CHECK = "report_is_complete"
_PUNCTUATION = re.compile("[!-/:-@[-`{-~]")


@dg.asset(
    deps=["release"],
    group_name="releases",
    owners=OWNERS,
    kinds={"duckdb", "html"},
    code_version=__version__,
    # An error is the warning of the check, and the asset is then not materialised.
    output_required=False,
    check_specs=[
        dg.AssetCheckSpec(
            _CHECK,
            asset="segment_report",
            description="The report of the newest release was written with all its charts.",
        )
    ],
)
def segment_report(context: dg.AssetExecutionContext, retailer: RetailerConfig) -> Results:
    """`report.html` beside the files of the newest release: one page for people, without names of customers.

    Each chart is also an observation of the asset that it explains. The release stands whether or not this succeeds.
    """
    errors: list[str] = []
    if retailer.settings.release.report:
        try:
            metadata = _write(context, retailer, errors)
        except Exception as error:
            # The release is published, so no error of its report may fail the run.
            context.log.error(format_exc())
            errors.append(f"{type(error).__name__}: {first_line(error)}")
        else:
            yield dg.MaterializeResult(metadata=metadata)
    yield _result(errors)


def _result(errors: Sequence[str]) -> dg.AssetCheckResult:
    message = (
        f"The release is published, but its report is missing or incomplete: {'; '.join(errors)}."
        " `segments report --write` tries again. To publish without reports, set release.report = false."
    )
    rows = [{"error": error} for error in errors]
    return warning_result(rows, message)._replace(check_name=_CHECK, asset_key=dg.AssetKey("segment_report"))


def _write(context: dg.AssetExecutionContext, retailer: RetailerConfig, errors: list[str]) -> dict[str, Any]:
    """Write the report of the newest release, and log its charts; add the errors of charts that cannot be drawn."""
    started, settings, releases = time.perf_counter(), retailer.settings, Releases(retailer.folders.releases)
    release = releases.all()[-1]
    written = write_report(releases, release, settings.title, settings.release.group)
    drawn = [drawing for drawing in written.drawings if drawing.svg]
    errors += [f"{drawing.figure.name}: {drawing.error}" for drawing in written.drawings if drawing.error]
    for drawing in drawn:
        context.log_event(observation(drawing, release.name))
    return {
        "release": release.name,
        "path": dg.MetadataValue.path(str(release.report)),
        "drawn": f"no: {written.same_as} shows the same" if written.same_as else f"{len(drawn)} charts",
        "bytes": release.report.stat().st_size,
        "seconds": time.perf_counter() - started,
    }


def observation(drawing: "Drawing", release: str) -> dg.AssetObservation:
    """Return a chart as metadata of the asset that it explains."""
    from segmentation_pipeline.reports.rendering import png_of

    picture = base64.b64encode(png_of(drawing.svg)).decode()
    # Names of products come from the source: as Markdown they could load a picture from another host.
    title, text = drawing.figure.title, _PUNCTUATION.sub(r"\\\g<0>", drawing.text)
    markdown = f"**{title}**\n\n![{title}](data:image/png;base64,{picture})\n\n{text}"
    return dg.AssetObservation(
        drawing.figure.asset, metadata={drawing.figure.name: dg.MetadataValue.md(markdown), "release": release}
    )
