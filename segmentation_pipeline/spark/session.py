"""The Spark session of a run, with the settings that the translation of SELECTs relies on."""

import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from segmentation_pipeline.config.engine_settings import Engine
from segmentation_pipeline.errors import EngineError, first_line

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

# Times have no zone in this package, overflow is an error, and text compares byte by byte, as in DuckDB.
_REQUIRED = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.timestampType": "TIMESTAMP_NTZ",
    "spark.sql.ansi.enabled": "true",
    "spark.sql.caseSensitive": "false",
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
    "spark.sql.sources.partitionColumnTypeInference.enabled": "false",
}
_DEFAULTS = {
    "spark.ui.showConsoleProgress": "false",
    "spark.log.level": "ERROR",
    "spark.app.name": "segmentation-pipeline",
}
# Errors of a worker whose messages hold no value of a file.
_OF_THE_WORKER = re.compile(r"^(?:\w+\.)*((?:ModuleNotFound|Import|FileNotFound|Permission|OS|Memory)Error: .*)$", re.M)


@contextmanager
def spark_session(settings: Engine) -> "Iterator[SparkSession]":
    """Open a session, and stop it at the end.

    Raises:
        EngineError: The package pyspark or Java is missing, or the master does not answer.
    """
    check_installed()
    from pyspark.sql import SparkSession

    # It would write each error to the standard error as JSON with a stack trace; the error is raised anyway.
    logging.getLogger("SQLQueryContextLogger").disabled = True
    # PySpark reads the interpreter of the workers from the environment alone.
    os.environ.setdefault("PYSPARK_PYTHON", settings.options.get("spark.pyspark.python", sys.executable))
    builder = SparkSession.builder
    builder = builder.remote(str(settings.master)) if is_connect(settings) else builder.master(str(settings.master))
    for name, value in {**_DEFAULTS, **settings.options, **_REQUIRED}.items():
        builder = builder.config(name, value)
    try:
        session = builder.getOrCreate()
    except Exception as error:
        # Py4J and gRPC raise errors of many classes.
        raise EngineError(
            f"engine.master: no Spark session on {settings.master}: {first_line(error)}. Check that the cluster is"
            " running, that this machine reaches it, and that Java 17 or later is installed here."
        ) from None
    try:
        yield session
    finally:
        session.stop()


def check_installed() -> None:
    """Check that the package pyspark is installed.

    Raises:
        EngineError: It is missing.
    """
    try:
        import pyspark.sql  # noqa: F401 - only whether it is there
    except ImportError:
        raise EngineError(
            'engine.kind = "spark" needs the package pyspark, which is not installed: pip install'
            " 'segmentation-pipeline[spark]'"
        ) from None


def address_of_ui(session: "SparkSession", settings: Engine) -> str:
    """Return the address of the session's web interface; the master's where Spark Connect hides it."""
    if is_connect(settings):
        return str(settings.master)
    return str(session.sparkContext.uiWebUrl or settings.master)


def is_connect(settings: Engine) -> bool:
    """Return whether the session is one of Spark Connect, which has no context."""
    return str(settings.master).startswith("sc://")


def message_of(error: Exception) -> str:
    """Return what failed on the cluster, without values of files."""
    found = _OF_THE_WORKER.findall(str(error))
    condition = getattr(error, "getCondition", lambda: None)()
    return found[-1] if found else str(condition or type(error).__name__)
