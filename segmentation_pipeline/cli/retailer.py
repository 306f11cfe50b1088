"""`segments retailer`: check retailer files."""

import typer

from segmentation_pipeline.cli.console import count_source_files, exit_on_user_error, retailer_settings
from segmentation_pipeline.config.loading import absolute_arguments
from segmentation_pipeline.tables.catalog import withholdable_columns


def check(retailer: str, source: str, traceback: bool) -> None:
    """Print that a retailer file is valid, and how many source files it names."""
    with exit_on_user_error(traceback):
        name, source = absolute_arguments(retailer, source)
        settings = retailer_settings(name, source, withholdable=withholdable_columns())
        files = count_source_files(name, settings)
        typer.echo(f"{settings.title}: valid. Columns: {', '.join(settings.columns.source_names())}.")
        counted = f"{files:,} file{'s' if files > 1 else ''}"
        typer.echo(f"Source: {counted}." if files else "Source: sample files, written by the first run.")
