"""A standalone Spark cluster of the tests on the loopback address: a master and workers, each a process of its own."""

import ctypes
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import urlopen

# Where the Makefile installs PySpark, beside the environment: it takes 500 MB, and only these tests need it.
_INSTALLED = Path(sys.prefix) / "spark"
_PROJECT = Path(__file__).parents[1]
_SECONDS_TO_START = 120.0
# A process that lives for a minute is faster without the second compiler, and with the simplest collector.
_SHORT_LIVED = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
# Compiling SELECTs takes a fifth of the processor time where tables are small. Tests without Spark Connect do compile.
_INTERPRETED = {"spark.sql.codegen.wholeStage": "false", "spark.sql.codegen.factoryMode": "NO_CODEGEN"}
# PR_SET_PDEATHSIG of prctl(2).
_PARENT_DEATH_SIGNAL = 1


def missing() -> str:
    """Return what is missing for a cluster on this machine; empty if nothing is."""
    if _INSTALLED.is_dir() and str(_INSTALLED) not in sys.path:
        sys.path.append(str(_INSTALLED))
    if shutil.which("java") is None:
        return "Java is not installed (Debian: apt-get install openjdk-17-jre-headless)"
    if None in map(importlib.util.find_spec, ("pyspark", "grpc_status")):
        return "PySpark, or what Spark Connect needs, is not installed (make .venv/spark)"
    return ""


@dataclass
class Cluster:
    """A running cluster."""

    port: int
    interface: int
    folder: Path
    java_options: str
    workers: list["subprocess.Popen[bytes]"] = field(default_factory=list)
    started: list["subprocess.Popen[bytes]"] = field(default_factory=list)
    server: "subprocess.Popen[bytes] | None" = None

    @property
    def master(self) -> str:
        """The address of the master."""
        return f"spark://127.0.0.1:{self.port}"

    @property
    def options(self) -> dict[str, str]:
        """Options of a session: on the loopback address, with the package of this project on the workers."""
        return {
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.driver.host": "127.0.0.1",
            "spark.cores.max": "2",
            "spark.executor.cores": "1",
            "spark.executor.memory": "700m",
            "spark.executorEnv.PYTHONPATH": os.pathsep.join(
                # Another DuckDB than the installed one comes first.
                [*filter(None, [os.environ.get("PYTHONPATH")]), str(_PROJECT), str(installed())]
            ),
            "spark.sql.shuffle.partitions": "2",
            "spark.driver.extraJavaOptions": self.java_options,
            "spark.executor.extraJavaOptions": self.java_options,
        }

    @property
    def engine(self) -> dict[str, Any]:
        """The settings of `[engine]` that lead to this cluster."""
        return {"master": self.master, "options": self.options}

    @property
    def alive_workers(self) -> int:
        """How many workers the master knows to be alive."""
        with urlopen(f"http://127.0.0.1:{self.interface}/json/", timeout=5) as answer:
            return int(json.load(answer)["aliveworkers"])

    @property
    def cpu(self) -> float:
        """Return the seconds of processor time of the workers and of what they ran and waited for."""
        return sum(_cpu(worker.pid) for worker in self.workers)

    def start_worker(self) -> None:
        """Start one more worker, of one core."""
        own = self.folder / f"process-{len(self.started)}"
        own.mkdir()
        options = ["--host", "127.0.0.1", "--cores", "1", "--memory", "1g", "--webui-port", "0"]
        self.workers.append(_start("worker.Worker", [*options, "--work-dir", str(own), self.master], own))
        self.started.append(self.workers[-1])

    def wait_for_workers(self, number: int) -> None:
        """Wait until the master knows so many workers to be alive."""
        _wait_until(lambda: _has_workers(self, number), "the cluster")

    def kill_worker(self) -> None:
        """Kill the worker that has worked most, and what it runs, as if its machine was lost."""
        busiest = max(self.workers, key=_cpu_with_children)
        self.workers.remove(busiest)
        os.killpg(busiest.pid, signal.SIGKILL)

    def kill_master(self) -> None:
        """Kill the master; the workers and what they run live on."""
        os.killpg(self.started[0].pid, signal.SIGKILL)

    def kill_connect_server(self) -> None:
        """Kill the server of Spark Connect."""
        assert self.server is not None
        os.killpg(self.server.pid, signal.SIGKILL)

    @contextmanager
    def connect_server(self) -> Iterator[dict[str, Any]]:
        """Start a server of Spark Connect with the options of this cluster, and end it at the end.

        Yields:
            The settings of `[engine]` that lead to it.
        """
        own, port = self.folder / f"process-{len(self.started)}", free_port()
        own.mkdir()
        options = {
            **self.options,
            "spark.connect.grpc.binding.address": "127.0.0.1",
            "spark.connect.grpc.binding.port": str(port),
            # An error of a task is shown at once.
            "spark.task.maxFailures": "1",
        }
        named = [text for name, value in options.items() for text in ("--conf", f"{name}={value}")]
        server = ["--class", "org.apache.spark.sql.connect.service.SparkConnectServer", "spark-internal"]
        arguments = ["--master", self.master, *named, *server]
        self.server = started = _start("SparkSubmit", arguments, own, memory="700m")
        self.started.append(started)
        _wait_until(lambda: _listens(port, started), "Spark Connect")
        # A session cannot set the other options.
        of_session = {name: value for name, value in self.options.items() if name.startswith("spark.sql.")}
        yield {"master": f"sc://127.0.0.1:{port}", "options": {**of_session, **_INTERPRETED}}
        self.kill_connect_server()


@contextmanager
def running_cluster(folder: Path, workers: int = 2, java_options: str = _SHORT_LIVED) -> Iterator[Cluster]:
    """Start a master and workers; end them at the end, and every process that they have started."""
    folder.mkdir(parents=True, exist_ok=True)
    cluster = Cluster(free_port(), free_port(), folder, java_options)
    where = ["--host", "127.0.0.1", "--port", str(cluster.port), "--webui-port", str(cluster.interface)]
    try:
        cluster.started.append(_start("master.Master", where, folder))
        for _ in range(workers):
            cluster.start_worker()
        cluster.wait_for_workers(workers)
        yield cluster
    finally:
        while left := processes_below(folder):
            _end(left)
        for process in cluster.started:
            process.wait()


def _wait_until(is_ready: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _SECONDS_TO_START
    while not is_ready():
        assert time.monotonic() < deadline, f"{what} did not start"
        time.sleep(0.2)


def _has_workers(cluster: Cluster, workers: int) -> bool:
    try:
        return cluster.alive_workers == workers
    except OSError:
        return False


def _listens(port: int, server: "subprocess.Popen[bytes]") -> bool:
    assert server.poll() is None, "Spark Connect ended"
    with closing(socket.socket()) as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def _start(name: str, arguments: list[str], folder: Path, memory: str = "256m") -> "subprocess.Popen[bytes]":
    """Start one of Spark's daemons in a process group of its own."""
    command = [str(_pyspark() / "bin" / "spark-class"), f"org.apache.spark.deploy.{name}", *arguments]
    environment = {
        **os.environ,
        "SPARK_HOME": str(_pyspark()),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "SPARK_DAEMON_MEMORY": memory,
        "SPARK_DAEMON_JAVA_OPTS": _SHORT_LIVED,
        # The interpreter of a server's Python functions.
        "PYSPARK_PYTHON": sys.executable,
    }
    with (folder / f"{name}.log").open("wb") as log:
        return subprocess.Popen(
            command,
            env=environment,
            # What it starts works below this folder too.
            cwd=folder,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )


def processes_below(folder: Path) -> list[int]:
    """Return the ids of the processes that work in a folder: those of a cluster, and what its workers run."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        # Another process may end meanwhile.
        with suppress(OSError):
            if (process / "cwd").readlink().is_relative_to(folder):
                found.append(int(process.name))
    return found


def _cpu(process: int) -> float:
    """Return the seconds of processor time of a process, and of what it ran and waited for; 0 if it has ended."""
    with suppress(OSError):
        # The name of the program is in parentheses; behind it, the fields 3 and following of proc(5).
        fields = Path(f"/proc/{process}/stat").read_text("utf-8").rpartition(")")[2].split()
        return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def _cpu_with_children(worker: "subprocess.Popen[bytes]") -> float:
    """Return the seconds of processor time of a worker and of what it runs."""
    return sum(map(_cpu, processes_below(Path(f"/proc/{worker.pid}/cwd").readlink())))


def _end(processes: list[int]) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def _end_with_parent() -> None:
    """Let the kernel kill this process when its parent ends, also when that is killed."""
    ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)


def installed() -> Path:
    """Return the folder that has the package pyspark."""
    return _pyspark().parent


def _pyspark() -> Path:
    found = importlib.util.find_spec("pyspark")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent


def free_port() -> int:
    """Return a port of the loopback address on which nothing listens."""
    with closing(socket.socket()) as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])
