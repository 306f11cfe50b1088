"""`segments model`: list the models, approve or withdraw one, and search for the number of segments.

A decision is written to the working database at once, and the next run carries it out.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from segmentation_pipeline.cli.console import (
    Column,
    err,
    exit_on_user_error,
    out,
    print_table,
    print_text,
    retailer_settings,
)
from segmentation_pipeline.config.paths import RetailerFolders, data_folder
from segmentation_pipeline.errors import RegistryError
from segmentation_pipeline.segments.registry import ModelRecord, Registry
from segmentation_pipeline.warehouse import lock
from segmentation_pipeline.warehouse.connection import connection_to
from segmentation_pipeline.warehouse.database import Warehouse

_LOCK_TIMEOUT = 30.0
_COLUMNS = (
    Column("model", is_text=True),
    Column("status", is_text=True),
    Column("k"),
    Column("kept", rank=1),
    Column("from", is_text=True, rank=2),
    Column("to", is_text=True, rank=3),
)


def list_models(retailer: str, traceback: bool) -> None:
    """Print the models with their status, oldest first, and why a model is pending approval."""
    with exit_on_user_error(traceback), _open_registry(retailer) as (_, registry):
        rows = []
        for model in registry.models:
            kept = "" if model.kept_share is None else f"{model.kept_share:.1%}"
            dates = (f"{day:%Y-%m-%d}" if day else "" for day in (model.active_from, model.active_to))
            rows.append((model.model_id, model.status, str(model.n_clusters), kept, *dates))
        print_table(out, _COLUMNS, rows)
        for model in registry.models:
            if model.status == "pending":
                print_text(out, f"{model.model_id} is pending approval: {model.reasons}")


def promote(model: str, retailer: str, traceback: bool) -> None:
    """Approve a pending or retired model; the next run activates it."""
    with exit_on_user_error(traceback), _open_registry(retailer) as (warehouse, registry):
        _approve(warehouse, registry, registry.find(model))


def rollback(retailer: str, traceback: bool) -> None:
    """Withdraw an approval; without one, approve the previous model."""
    with exit_on_user_error(traceback), _open_registry(retailer) as (warehouse, registry):
        previous = registry.previously_active if registry.approved is None else registry.active
        if previous is None:
            raise RegistryError("there is no previous model; `segments model list` shows all")
        _approve(warehouse, registry, previous)


def search(retailer: str, traceback: bool) -> None:
    """Run the job with a search for the number of segments, and print the models."""
    from segmentation_pipeline.cli.run import RunRequest, execute
    from segmentation_pipeline.orchestration import instance
    from segmentation_pipeline.tables.catalog import withholdable_columns

    with exit_on_user_error(traceback):
        settings = retailer_settings(retailer, withholdable=withholdable_columns())
        instance.prepare()
    if not execute(RunRequest(retailer, search=True, traceback=traceback), settings):
        err.print("The run failed. Run again with --traceback to see why.", markup=False)
        raise typer.Exit(1)
    list_models(retailer, traceback)


def _approve(warehouse: Warehouse, registry: Registry, model: ModelRecord) -> None:
    warehouse.write(registry.approve(model).writes(), {})
    if model.status == "active":
        typer.echo(f"{model.model_id} stays active; the approval is withdrawn.")
    else:
        typer.echo(f"{model.model_id} becomes active with the next run; `segments run` publishes its segments.")


@contextmanager
def _open_registry(retailer: str) -> Iterator[tuple[Warehouse, Registry]]:
    """Open the working database under the writer's lock, and read its registry.

    Raises:
        RegistryError: No model has been fitted yet.
    """
    folders = RetailerFolders(data_folder(), retailer_settings(retailer).name)
    if not folders.working_database.exists():
        raise RegistryError(f"no model in {folders.working_database.parent} yet; `segments run` fits the first")
    with (
        lock.writer(folders.lock, lock.this_process("segments model"), _LOCK_TIMEOUT, typer.echo),
        connection_to(folders.working_database, folders.spill, _LOCK_TIMEOUT, typer.echo) as connection,
    ):
        warehouse = Warehouse(connection)
        registry = Registry.of(warehouse)
        if not registry.models:
            raise RegistryError(f"no model in {folders.working_database} yet; `segments run` fits the first")
        yield warehouse, registry
