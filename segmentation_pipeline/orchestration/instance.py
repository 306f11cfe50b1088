"""The folder of the Dagster instance, with the shipped settings."""

import os
from glob import escape
from pathlib import Path

from segmentation_pipeline.config.paths import dagster_home
from segmentation_pipeline.errors import PathError

_SHIPPED = Path(__file__).parents[1] / "dagster.yaml"


def prepare() -> Path:
    """Create the folder of DAGSTER_HOME with `dagster.yaml` where they do not exist, set the variable, and return it.

    Raises:
        PathError: Dagster would not find its settings in this folder.
    """
    # Dagster requires an absolute path; a relative one starts at the working folder.
    home = dagster_home().absolute()
    if escape(str(home)) != str(home):
        raise PathError(
            f"{home}: Dagster reads *, ? and [ in this path as a pattern, and would run without its settings. Name"
            " another folder in DAGSTER_HOME."
        )
    home.mkdir(parents=True, exist_ok=True)
    settings = home / _SHIPPED.name
    if not settings.exists():
        settings.write_text(_SHIPPED.read_text("utf-8"), "utf-8")
    # DagsterInstance.get() reads only the environment.
    os.environ["DAGSTER_HOME"] = str(home)
    return home
