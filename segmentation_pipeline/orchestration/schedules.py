"""The schedules and sensors of the project: their names, and when each is evaluated.

Contains no definitions, so that `segments status` lists them without loading any. What they do is in `defs.automation`.
"""

from collections.abc import Mapping

from segmentation_pipeline.config.loading import load_settings
from segmentation_pipeline.config.source_settings import Source
from segmentation_pipeline.errors import RetailerError

# Tag of a night's run: the retailer and the date.
NIGHT_TAG = "segmentation/night"
# Each is once a day or once a week. Of the first two exactly one starts a run each night. They are five minutes apart,
# because Dagster evaluates schedules of the same minute in any order.
CRON: Mapping[str, str] = {
    "nightly_fit_if_due": "0 2 * * *",
    "nightly": "5 2 * * *",
    "weekly_refit": "0 4 * * 0",
}
# Seconds between two evaluations of the sensors that start switched on.
SENSOR_SECONDS: Mapping[str, int] = {"dead_runs": 30, "failed_runs": 30}
# Starts switched off, and is evaluated every `settle_seconds`.
NEW_FILES = "new_files"


def time_zone() -> str:
    """Return the retailer's time zone. An invalid file must not unload the code location; its runs report it."""
    try:
        return load_settings().time_zone
    except RetailerError:
        return "UTC"


def settle_seconds() -> int:
    """Return how long files must be unchanged before `new_files` starts a run, by default for invalid settings."""
    try:
        return load_settings().source.settle_seconds
    except RetailerError:
        return int(Source.model_fields["settle_seconds"].default)


def declared() -> list[tuple[str, str, bool, str]]:
    """Return each schedule and sensor: its name, its kind, whether it starts switched on, and when it is evaluated."""
    schedules = [(name, "schedule", True, _in_words(cron)) for name, cron in CRON.items()]
    sensors = [(name, "sensor", True, f"every {seconds} s") for name, seconds in SENSOR_SECONDS.items()]
    return [*schedules, *sensors, (NEW_FILES, "sensor", False, f"every {settle_seconds()} s")]


def _in_words(cron: str) -> str:
    minute, hour, *_, weekday = cron.split()
    days = "Sundays" if weekday == "0" else "every day"
    return f"{int(hour):02}:{int(minute):02} {days} ({time_zone()})"
