"""The entry point: everything in `defs/`, run in one process."""

from pathlib import Path

import dagster as dg


@dg.definitions
def defs() -> dg.Definitions:
    """The code location.

    The in-process executor stands on the definitions, because "Materialize all" uses a job of Dagster's own; the run's
    lock and connection last for its process, and eight processes would cost more than the work does.
    """
    loaded = dg.load_from_defs_folder(path_within_project=Path(__file__).parent)
    return dg.Definitions.merge(loaded, dg.Definitions(executor=dg.in_process_executor))
