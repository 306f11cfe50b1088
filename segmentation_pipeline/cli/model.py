"""`segments model`: the registry of models, and what a person decides about it.

A decision is written into the working database at once and counts from the next run on.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from segmentation_pipeline.cli.console import (
    RetailerOption,
    TracebackOption,
    err,
    exit_on_user_error,
    out,
    retailer_settings,
)
from segmentation_pipeline.cli.run import execute
from segmentation_pipeline.config.paths import RetailerFolders, data_folder
from segmentation_pipeline.errors import RegistryError
from segmentation_pipeline.orchestration import instance
from segmentation_pipeline.segments.registry import Entry, Registry
from segmentation_pipeline.warehouse import lock
from segmentation_pipeline.warehouse.connection import connection_to
from segmentation_pipeline.warehouse.database import Warehouse

model_app = typer.Typer(no_args_is_help=True, help="The segmentation models: list, promote, roll back, search.")
ModelArgument = Annotated[str, typer.Argument(help="The model's name, or how it begins.")]
PATIENCE = 30.0


@model_app.command("list")
def list_models(retailer: RetailerOption = "sample", traceback: TracebackOption = False) -> None:
    """List the models, oldest first, with what became of each and why."""
    with exit_on_user_error(traceback), _opened(retailer) as (_, registry):
        table = Table(box=SIMPLE_HEAD, pad_edge=False)
        for name in ("model", "status", "k", "kept", "from", "to"):
            table.add_column(name, no_wrap=True, justify="right" if name in ("k", "kept") else "left")
        for entry in registry.entries:
            facts = entry.facts
            kept = "" if facts["kept_share"] is None else f"{facts['kept_share']:.1%}"
            dates = (f"{day:%Y-%m-%d}" if day else "" for day in (facts["active_from"], facts["active_to"]))
            table.add_row(entry.model_id, facts["status"], str(facts["n_clusters"]), kept, *dates)
        out.print(table)
        for entry in registry.entries:
            if entry.facts["status"] == "held":
                out.print(f"{entry.model_id} is held: {entry.facts['reasons']}", markup=False, highlight=False)


@model_app.command()
def promote(model: ModelArgument, retailer: RetailerOption = "sample", traceback: TracebackOption = False) -> None:
    """Let a held or a retired model stand, from the next run on."""
    with exit_on_user_error(traceback), _opened(retailer) as (warehouse, registry):
        _decide(warehouse, registry, registry.find(model))


@model_app.command()
def rollback(retailer: RetailerOption = "sample", traceback: TracebackOption = False) -> None:
    """Take a promotion back; where none waits, let the model stand again that stood before, from the next run on."""
    with exit_on_user_error(traceback), _opened(retailer) as (warehouse, registry):
        before = registry.stood_before if registry.promoted is None else registry.standing
        if before is None:
            raise RegistryError("no model has stood before this one")
        _decide(warehouse, registry, before)


@model_app.command()
def search(retailer: RetailerOption = "sample", traceback: TracebackOption = False) -> None:
    """Run the job and search for the number of clusters again; another than the standing one is held for a person."""
    with exit_on_user_error(traceback):
        retailer_settings(retailer)
        instance.prepare()
    if not execute(retailer=retailer, search=True, traceback=traceback):
        err.print("The run failed; run again with --traceback.", markup=False)
        raise typer.Exit(1)
    list_models(retailer, traceback)


def _decide(warehouse: Warehouse, registry: Registry, entry: Entry) -> None:
    warehouse.write(registry.promoting(entry).writes(), {})
    if entry.facts["status"] == "standing":
        typer.echo(f"{entry.model_id} goes on to stand; the promotion is taken back.")
    else:
        typer.echo(f"{entry.model_id} stands from the next run on; `segments run` publishes its segments.")


@contextmanager
def _opened(retailer: str) -> Iterator[tuple[Warehouse, Registry]]:
    """The working database under the writer's lock, and the registry in it.

    Raises:
        RegistryError: No model has been fitted yet.
    """
    folders = RetailerFolders(data_folder(), retailer_settings(retailer).name)
    if not folders.working_database.exists():
        raise RegistryError(f"no model in {folders.working_database.parent} yet; `segments run` fits the first")
    with (
        lock.writer(folders.lock, "segments model", PATIENCE, typer.echo),
        connection_to(folders.working_database, folders.spill, PATIENCE, typer.echo) as connection,
    ):
        warehouse = Warehouse(connection)
        registry = Registry.of(warehouse)
        if not registry.entries:
            raise RegistryError(f"no model in {folders.working_database} yet; `segments run` fits the first")
        yield warehouse, registry
