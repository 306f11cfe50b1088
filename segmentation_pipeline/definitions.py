"""The code location: the definitions of `defs/`, and the executor of every job."""

from pathlib import Path

import dagster as dg


@dg.definitions
def defs() -> dg.Definitions:
    """Load `defs/`, and run every job in one process.

    The executor is set here and not on the jobs, because "Materialize all" uses a job of Dagster's own. A run's lock
    and connection belong to its process, and eight trivial assets take 3-6 s in one process, 16-49 s in several.
    """
    loaded = dg.load_from_defs_folder(path_within_project=Path(__file__).parent)
    return dg.Definitions.merge(loaded, dg.Definitions(executor=dg.in_process_executor))
