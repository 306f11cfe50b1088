"""Which assets a run materialises: all, or all but the model group.

Materialising the model group fits a model, so a run includes it only when a fit is due or asked for.
"""

from datetime import datetime

import duckdb

from segmentation_pipeline.config.paths import RetailerFolders
from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.errors import PipelineError
from segmentation_pipeline.segments.membership import last_change_at
from segmentation_pipeline.segments.promotion import fit_is_due
from segmentation_pipeline.segments.registry import Registry
from segmentation_pipeline.warehouse.connection import reading_database

NIGHTLY_JOB, REFIT_JOB = "nightly_segmentation", "refit_segmentation"
MODEL_GROUP = "model"


def job_for(settings: Retailer, folders: RetailerFolders) -> str:
    """Return the name of the job that the next run of a retailer needs."""
    return REFIT_JOB if model_is_due(settings, folders) else NIGHTLY_JOB


def model_is_due(settings: Retailer, folders: RetailerFolders) -> bool:
    """Return whether the next run must materialise the model group, from the working database as it is now.

    A run for an earlier as_of than the last change of the membership history fits nothing. Where another process has
    the database open, a run is in progress, and what it leaves is unknown: the model is then not due.
    """
    if not folders.working_database.exists():
        return True
    try:
        with reading_database(folders.working_database) as database:
            as_of, last = _fixed_as_of(settings), last_change_at(database)
            if as_of is not None and last is not None and as_of < last:
                return False
            return fit_is_due(Registry.of(database), settings)
    except (duckdb.Error, PipelineError, OSError):
        return False


def _fixed_as_of(settings: Retailer) -> datetime | None:
    return None if settings.rfm.as_of == "schedule" else settings.as_of
