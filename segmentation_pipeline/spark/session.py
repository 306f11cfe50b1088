"""The Spark session of a run, with the settings that the translation of SELECTs relies on.

Contains all that differs between a driver that this process starts and a server of Spark Connect.
"""

import logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from segmentation_pipeline.config.engine_settings import Engine, is_connect
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
# Spark Connect itself tries for ten minutes to reach a server. Eight tries are two minutes.
_SECONDS_TO_CONNECT = 30
_RETRIES = 7
# Errors of a worker whose messages hold no value of a file.
_OF_THE_WORKER = re.compile(r"^(?:\w+\.)*((?:ModuleNotFound|Import|FileNotFound|Permission|OS|Memory)Error: .*)$", re.M)


@dataclass(frozen=True)
class OpenSession:
    """An open session.

    Attributes:
        spark: The session.
        address: The address of Spark's web interface; where this process does not know it, of the server.
        waits: Returns whether tasks of the session wait, and none of them runs.
        cancel: Ends what the session runs.
    """

    spark: "SparkSession"
    address: str
    waits: Callable[[], bool]
    cancel: Callable[[], None]


@contextmanager
def spark_session(settings: Engine) -> Iterator[OpenSession]:
    """Open a session, and stop it at the end.

    Raises:
        EngineError: A package or Java is missing, or the master does not answer.
    """
    check_installed(settings)
    # It would write each error to the standard error as JSON with a stack trace; the error is raised anyway.
    logging.getLogger("SQLQueryContextLogger").disabled = True
    try:
        session = _connected(settings) if is_connect(settings.master) else _with_driver(settings)
    except Exception as error:
        # Py4J and gRPC raise errors of many classes.
        needed = "" if is_connect(settings.master) else ", and that Java 17 or later is installed here"
        raise EngineError(
            f"engine.master: no Spark session on {_without_parameters(settings)}: {first_line(error)}. Check that the"
            f" cluster is running, and that this machine reaches it{needed}."
        ) from None
    try:
        yield session
    finally:
        session.spark.stop()


def check_installed(settings: Engine) -> None:
    """Check that PySpark is installed, with what Spark Connect needs if the settings name a server.

    Raises:
        EngineError: A package is missing.
    """
    try:
        if is_connect(settings.master):
            import pyspark.sql.connect.session
        else:
            import pyspark.sql  # noqa: F401 - only whether it is there
    except ImportError as error:
        raise EngineError(
            f'engine.kind = "spark" needs a package that is not installed ({first_line(error)}): pip install'
            " 'segmentation-pipeline[spark]'"
        ) from None


def message_of(error: Exception) -> str:
    """Return what failed on the cluster, without values of files."""
    found = _OF_THE_WORKER.findall(str(error))
    condition = getattr(error, "getCondition", lambda: None)()
    return found[-1] if found else str(condition or type(error).__name__)


def _with_driver(settings: Engine) -> OpenSession:
    """Open a session whose driver is a Java process of this one."""
    from pyspark.sql import SparkSession

    # PySpark reads the interpreter of the workers from the environment alone.
    os.environ.setdefault("PYSPARK_PYTHON", settings.options.get("spark.pyspark.python", sys.executable))
    builder = SparkSession.builder.master(str(settings.master))
    for name, value in {**_DEFAULTS, **settings.options, **_REQUIRED}.items():
        builder = builder.config(name, value)
    spark = builder.getOrCreate()
    context = spark.sparkContext
    tracker = context.statusTracker()

    def waits() -> bool:
        stages = map(tracker.getStageInfo, tracker.getActiveStageIds())
        return bool(tracker.getActiveJobsIds()) and not any(stage.numActiveTasks for stage in stages if stage)

    return OpenSession(spark, context.uiWebUrl or str(settings.master), waits, context.cancelAllJobs)


def _connected(settings: Engine) -> OpenSession:
    """Open a session of Spark Connect. Its server has a driver, a context and options of its own."""
    import grpc
    from pyspark.sql.connect.client import DefaultChannelBuilder
    from pyspark.sql.connect.client.retries import DefaultPolicy
    from pyspark.sql.connect.session import SparkSession

    channels = DefaultChannelBuilder(str(settings.master))
    with channels.toChannel() as channel:
        try:
            grpc.channel_ready_future(channel).result(_SECONDS_TO_CONNECT)
        except grpc.FutureTimeoutError:
            raise ConnectionError(f"it does not answer within {_SECONDS_TO_CONNECT} seconds") from None
    # Not the builder of `pyspark.sql`: it would make every later session of this process one of Spark Connect.
    spark = SparkSession.builder.channelBuilder(channels).create()
    spark.client.set_retry_policies([DefaultPolicy(max_retries=_RETRIES)])
    try:
        # The builder would ignore what the server does not let a session set.
        for name, value in {**settings.options, **_REQUIRED}.items():
            spark.conf.set(name, value)
    except Exception:
        spark.stop()
        raise
    progress = _Progress()
    spark.registerProgressHandler(progress)
    return OpenSession(spark, _without_parameters(settings), progress.waits, spark.interruptAll)


class _Progress:
    """Notes what a server of Spark Connect last said about a statement."""

    def __init__(self) -> None:
        self._waits = False

    def __call__(self, stages: Any, inflight_tasks: int, operation_id: str | None, done: bool) -> None:
        """Note whether tasks of a statement wait."""
        del operation_id
        self._waits = not done and not inflight_tasks and not all(stage.done for stage in stages or ())

    def waits(self) -> bool:
        """Return whether tasks of the last statement wait, and none of them runs."""
        return self._waits


def _without_parameters(settings: Engine) -> str:
    return str(settings.master).partition(";")[0].rstrip("/")
