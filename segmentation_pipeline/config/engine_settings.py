"""The table `[engine]` of a retailer file: where the tables of lines are, and what computes with them."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from segmentation_pipeline.config.validation import Section, SettingError, Text


class Engine(Section):
    """What reads the source and computes with its lines. Everything per customer is on DuckDB in any case."""

    kind: Literal["duckdb", "spark"] = "duckdb"
    """`duckdb`: this process. `spark`: a Spark cluster, for more lines than one machine can process in a night. Needs
    the extra segmentation-pipeline[spark], and this package on every worker."""
    master: Text | None = None
    """Required with `spark`: the master, such as spark://HOST:7077 or local[4], or the address of Spark Connect,
    sc://HOST:15002."""
    location: Text | None = None
    """Required with `spark`: absolute path of a folder, under which the tables of lines are stored as Parquet. The
    driver and every worker must have it, and the source, under the same path: a shared file system."""
    options: dict[str, str] = Field(default_factory=dict)
    """Options of the Spark session, such as `"spark.executor.memory" = "8g"`. Over Spark Connect, only those that begin
    with `spark.sql.`: the server has the others."""
    wait_minutes: int = Field(30, ge=1)
    """With `spark`: a run ends with an error after so many minutes in which the cluster ran none of its tasks, because
    no worker has a free core, or the master is lost."""

    @classmethod
    def combined_errors(cls, settings: dict[str, Any]) -> Iterator[SettingError]:
        """Yield an error for each setting that is missing for Spark, or that DuckDB does not use."""
        is_spark = settings.get("kind") == "spark"
        for name in ("master", "location"):
            if is_spark and settings.get(name) is None:
                yield SettingError((name,), 'required with kind = "spark", but missing', settings)
        for name in ("master", "location", "options", "wait_minutes"):
            if not is_spark and settings.get(name):
                yield SettingError((name,), 'only used with kind = "spark"; remove it', settings[name])
        location = settings.get("location")
        if isinstance(location, str) and (not Path(location).is_absolute() or ".." in Path(location).parts):
            yield SettingError(("location",), "allowed: an absolute path without `..`", location)
        if is_connect(settings.get("master")):
            yield from _unsupported_by_connect(settings)


def is_connect(master: object) -> bool:
    """Return whether a master is the address of Spark Connect."""
    return str(master).startswith("sc://")


def _unsupported_by_connect(settings: dict[str, Any]) -> Iterator[SettingError]:
    if re.search(r";\s*token=", settings["master"]):
        message = (
            "a retailer file has no secrets; set the environment variable SPARK_CONNECT_AUTHENTICATE_TOKEN,"
            " and leave the token out"
        )
        yield SettingError(("master",), message, settings["master"].partition(";")[0])
    options = settings.get("options")
    for name, value in (options if isinstance(options, dict) else {}).items():
        if not name.startswith("spark.sql."):
            message = (
                "the server of Spark Connect has it, and a session cannot change it; set it where the server starts"
            )
            yield SettingError(("options", name), message, value)


def unsupported_by_spark(settings: dict[str, Any]) -> Iterator[SettingError]:
    """Yield an error for each other setting of a retailer file that Spark would not treat as DuckDB does.

    Args:
        settings: The whole file, before validation.
    """
    source, cleaning = settings.get("source"), settings.get("cleaning")
    if isinstance(source, dict):
        if source.get("query") is not None:
            message = (
                "one connection reads a query, so a cluster does not help; export the rows to files for engine.kind ="
                ' "spark", or set "duckdb"'
            )
            yield SettingError(("source", "query"), message, source["query"])
        path = source.get("path")
        if urls := [one for one in (path if isinstance(path, list) else [path]) if "://" in str(one)]:
            message = (
                "objects of a store are downloaded by one machine; mount the store on every worker for engine.kind ="
                ' "spark", and give the path'
            )
            yield SettingError(("source", "path"), message, urls[0])
    if isinstance(cleaning, dict) and cleaning.get("sources_overlap") is True:
        message = (
            'compares the lines of all files with each other, and engine.kind = "spark" judges each file by itself;'
            " allowed: false"
        )
        yield SettingError(("cleaning", "sources_overlap"), message, True)
