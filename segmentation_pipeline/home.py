"""Dagster's own folder: made ready with the shipped settings, so that every way to start Dagster finds the same one."""

import os
from glob import escape
from pathlib import Path

from segmentation_pipeline.folders import dagster_home

_SHIPPED = Path(__file__).parent / "dagster.yaml"


def prepare() -> Path:
    """Create DAGSTER_HOME where it is absent, put `dagster.yaml` into it, and name it in the environment.

    Raises:
        ValueError: Dagster would not find its settings there.
    """
    # Dagster refuses a relative folder; one that the environment names is meant from where the command is run.
    home = dagster_home().absolute()
    if escape(str(home)) != str(home):
        raise ValueError(
            f"{home}: Dagster takes *, ? and [ in the path of its folder for a pattern, and would run without its"
            " settings. Name another folder in DAGSTER_HOME."
        )
    home.mkdir(parents=True, exist_ok=True)
    settings = home / _SHIPPED.name
    if not settings.exists():
        settings.write_text(_SHIPPED.read_text("utf-8"), "utf-8")
    os.environ["DAGSTER_HOME"] = str(home)
    return home
