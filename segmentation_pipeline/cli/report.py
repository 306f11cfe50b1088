"""`segments report`: write the report of a release, and open it in a browser."""

import webbrowser

import typer

from segmentation_pipeline.cli.console import exit_on_user_error, retailer_settings
from segmentation_pipeline.cli.releases import current_of, releases_of
from segmentation_pipeline.reports.publishing import write_report


def report(release: str, retailer: str, *, open_: bool, write: bool, traceback: bool) -> None:
    """Print where the report of a release is; write it first where it is missing or `write` is set."""
    with exit_on_user_error(traceback):
        settings = retailer_settings(retailer)
        releases = releases_of(settings)
        found = releases.find(release) if release else current_of(settings)
        if write or not found.report.exists():
            write_report(releases, found, settings.title, settings.release.group, redraw=write)
        typer.echo(found.report)
        if open_ and not webbrowser.open(found.report.resolve().as_uri()):
            typer.echo("No browser could be opened. Open the file yourself.", err=True)
