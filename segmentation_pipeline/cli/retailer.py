"""`segments retailer`: check retailer files."""

from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime

import typer

from segmentation_pipeline.cli.console import check_source_files, err, exit_on_user_error, out, retailer_settings, say
from segmentation_pipeline.cli.losses import print_losses
from segmentation_pipeline.config.loading import absolute_arguments, source_base
from segmentation_pipeline.config.paths import RetailerFolders, data_folder
from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.ingestion.losses import too_little_data
from segmentation_pipeline.ingestion.query_load import check_query
from segmentation_pipeline.ingestion.sampling import SAMPLED_LINES, Sample, sampled
from segmentation_pipeline.ingestion.sources import found_files
from segmentation_pipeline.inspection.money import NO_CURRENCY
from segmentation_pipeline.orchestration.engines import check_engine
from segmentation_pipeline.privacy.customer_ids import CustomerIds, SimilarIds, similar_ids_select
from segmentation_pipeline.tables.catalog import withholdable_columns


def check(retailer: str, source: str, sample: bool, traceback: bool) -> None:
    """Print that a retailer file is valid, and how many source files and merged customers it names.

    Of a query, the database is asked for the columns.

    With `sample`, print also what a run would reject of the first lines; exit with 1 if a run would fail on them.
    """
    with exit_on_user_error(traceback):
        name, source = absolute_arguments(retailer, source)
        settings = retailer_settings(name, source, withholdable=withholdable_columns())
        check_engine(settings)
        ids, files = CustomerIds.of(settings, source_base(name)), _count_files(name, settings)
        typer.echo(f"{settings.title}: valid. Columns: {', '.join(settings.columns.source_names())}.")
        counted = f"{files:,} file{'s' if files > 1 else ''}"
        if ids.merged:
            typer.echo(f"Merged customers: {len(ids.merged):,} ids.")
        if settings.source.query is not None:
            columns = check_query(settings, RetailerFolders(data_folder(), settings.name))
            typer.echo(f"Source: a query in {settings.source.connection}, with {columns} columns.")
        else:
            typer.echo(f"Source: {counted}." if files else "Source: sample files, written by the first run.")
        if settings.currency == NO_CURRENCY:
            typer.echo(f"Currency: {NO_CURRENCY}, which stands for none. Set the ISO code of the money.")
        has_source = bool(files) or settings.source.query is not None
        fails = sample and has_source and _check_sample(name, settings)
    if fails:
        raise typer.Exit(1)


def _count_files(name: str, settings: Retailer) -> int:
    """Return the number of source files, also of those in object stores; 0 of sample files and of a query."""
    check_source_files(name, settings)
    if settings.source.sample:
        return 0
    own = RetailerFolders(data_folder(), settings.name).pipeline_paths
    with found_files(settings.source, source_base(name), own) as found:
        return len(found.files)


def _check_sample(name: str, settings: Retailer) -> bool:
    """Print what a run would reject of the first lines of the source, and return whether a run would fail on them."""
    settings = settings.for_run(datetime.now(settings.zone).replace(tzinfo=None))
    own, base = RetailerFolders(data_folder(), settings.name).pipeline_paths, source_base(name)
    with ExitStack() as stack:
        found = stack.enter_context(found_files(settings.source, base, own))
        files = found.files
        sample = stack.enter_context(sampled(settings, base, files, own, fetch=found.fetch))
        read = ", ".join(f"{file.source_file} ({file.lines:,})" for file in sample.files)
        of_all = f"{len(sample.files):,} of {len(files):,} files" if len(sample.files) < len(files) else "each file"
        if settings.source.query is not None:
            of_all = "the query"
        text = f"Sample: the first lines of {of_all}, about {SAMPLED_LINES:,} in all; read: {read}. Nothing is stored."
        out.print(text, highlight=False, markup=False, soft_wrap=True)
        print_losses(out, sample.losses, settings)
        for warning in _warnings(sample, settings):
            say(err, "yellow", "warning:", warning)
        if sample.error:
            say(err, "red", "failed:", sample.error)
            return True
        if (judgement := sample.losses.judge_unreadable(settings)).fails:
            say(err, "red", "failed:", judgement.message)
        return judgement.fails


def _warnings(sample: Sample, settings: Retailer) -> Iterator[str]:
    """Yield what the checks of a run would warn of, where a sample shows it."""
    for file in sample.quarantined:
        yield f"Quarantined: {file.reason}"
    if sample.error:
        return
    unreadable, rejected = (
        sample.losses.judge_unreadable(settings),
        sample.losses.judge_rejected(sample.warehouse, settings),
    )
    if unreadable.warns and not unreadable.fails:
        yield unreadable.message
    if rejected.warns:
        yield rejected.message
    if few := too_little_data(sample.warehouse, settings)[1]:
        yield f"{few} This is of the sample; a run fails if all lines together have no more."
    if not settings.privacy.pseudonymise:
        select = similar_ids_select("select customer_id from clean_transactions")
        ids = SimilarIds.of(sample.warehouse.row(select))
        if ids.number > settings.checks.max_similar_ids:
            yield ids.message(settings)
