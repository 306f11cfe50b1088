"""`segments retailer`: check retailer files."""

import typer

from segmentation_pipeline.cli.console import count_source_files, exit_on_user_error, retailer_settings
from segmentation_pipeline.config.loading import absolute_arguments, source_base
from segmentation_pipeline.privacy.customer_ids import CustomerIds
from segmentation_pipeline.tables.catalog import withholdable_columns


def check(retailer: str, source: str, traceback: bool) -> None:
    """Print that a retailer file is valid, and how many source files and merged customers it names."""
    with exit_on_user_error(traceback):
        name, source = absolute_arguments(retailer, source)
        settings = retailer_settings(name, source, withholdable=withholdable_columns())
        ids, files = CustomerIds.of(settings, source_base(name)), count_source_files(name, settings)
        typer.echo(f"{settings.title}: valid. Columns: {', '.join(settings.columns.source_names())}.")
        counted = f"{files:,} file{'s' if files > 1 else ''}"
        if ids.merged:
            typer.echo(f"Merged customers: {len(ids.merged):,} ids.")
        typer.echo(f"Source: {counted}." if files else "Source: sample files, written by the first run.")
