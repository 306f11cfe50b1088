"""Select the job of the next run: with the model group, or without it.

Materialising the model group fits or activates a model, so a run includes it only when that is due or requested.
"""

from datetime import datetime

import duckdb

from segmentation_pipeline.config.paths import RetailerFolders
from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.errors import PipelineError
from segmentation_pipeline.segments.membership import last_change_at
from segmentation_pipeline.segments.promotion import fit_is_due
from segmentation_pipeline.segments.registry import Registry
from segmentation_pipeline.tables.catalog import contracts
from segmentation_pipeline.warehouse.connection import reading_database
from segmentation_pipeline.warehouse.database import Warehouse

NIGHTLY_JOB, REFIT_JOB = "nightly_segmentation", "refit_segmentation"
MODEL_GROUP = "model"
# Tag of a run: why it materialises the model group.
REASON_TAG = "segmentation/model_is_due"
_NO_MODEL = "no model is active yet"


def job_for(settings: Retailer, folders: RetailerFolders) -> str:
    """Return the name of the job that the next run of a retailer needs."""
    return REFIT_JOB if model_is_due(settings, folders) else NIGHTLY_JOB


def model_is_due(settings: Retailer, folders: RetailerFolders) -> bool:
    """Return whether the next run must materialise the model group."""
    return bool(why_model_is_due(settings, folders))


def why_model_is_due(settings: Retailer, folders: RetailerFolders) -> str:
    """Return why the next run must materialise the model group; empty if it need not.

    A run for an earlier as_of than the last change of the membership history fits nothing. Where another process
    writes to the working database, the outcome of its run is unknown: the model is then not due.
    """
    if not folders.working_database.exists():
        return _NO_MODEL
    try:
        with reading_database(folders.working_database) as database:
            return (
                _why_fit_is_due_now(database, settings)
                or _why_tables_are_missing(database)
                or _why_catalogue_is_outdated(database)
                or _why_value_is_not_fitted(database)
            )
    except duckdb.CatalogException:
        # The first run was killed between creating the file and its tables.
        return _NO_MODEL
    except (duckdb.Error, PipelineError, OSError):
        return ""


def _why_fit_is_due_now(database: Warehouse, settings: Retailer) -> str:
    registry, as_of, last = Registry.of(database), _fixed_as_of(settings), last_change_at(database)
    if as_of is not None and last is not None and as_of < last:
        return ""
    return why_fit_is_due(registry, settings)


def _why_tables_are_missing(database: Warehouse) -> str:
    """Return why the tables of the group must be derived from the active model again, where some are missing."""
    missing = database.missing_or_outdated(
        table for table, contract in contracts().items() if contract.stage == MODEL_GROUP
    )
    return f"the working database has no table {', '.join(missing)}, as after a restore" if missing else ""


def _why_catalogue_is_outdated(database: Warehouse) -> str:
    """Return why the table of segments must be written again: this version has another catalogue."""
    stored = [tuple(row.values()) for row in database.rows("select * from segments order by segment_key")]
    is_current = stored == sorted(Registry.of(database).segments())
    return "" if is_current else "the table segments is of another version of this package"


def _why_value_is_not_fitted(database: Warehouse) -> str:
    """Return why customer value must be fitted: its table was created empty, as for an earlier version's database."""
    return "" if database.count("customer_value_model") else "customer value has not been fitted yet"


def why_fit_is_due(registry: Registry, settings: Retailer) -> str:
    """Return the reason for `fit_is_due` in words; empty if it is not."""
    if not fit_is_due(registry, settings):
        return ""
    if registry.active is None:
        return _NO_MODEL
    if registry.approved is not None:
        return f"model {registry.approved.model_id} is approved and not active yet"
    return "the settings changed since the last fit"


def _fixed_as_of(settings: Retailer) -> datetime | None:
    return None if settings.rfm.as_of == "schedule" else settings.as_of
