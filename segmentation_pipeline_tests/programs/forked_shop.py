"""A shop whose nights are processes of their own that run `segments run`, for programs that run many nights.

Each process is forked from this one, which has imported Dagster, and so saves seconds. Tests start these programs in a
process of their own, because a fork of a process with threads can hang.
"""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path

import duckdb

from segmentation_pipeline.definitions import defs
from segmentation_pipeline.releases.store import Releases
from segmentation_pipeline.tables.catalog import contracts
from segmentation_pipeline.tables.contract import quoted

# Imported here, so that no night imports them again.
for module in (
    "dagster._core.storage.sqlite_storage",
    "dagster._daemon",
    "segmentation_pipeline.cli.run",
    "segmentation_pipeline.warehouse.column_lineage",
    "sklearn.cluster",
    "sqlalchemy.dialects.sqlite",
    "sqlglot.optimizer.qualify",
):
    import_module(module)
defs()
# A kill leaves the same files in memory as on disk, where Dagster's event log waits for a thousand syncs a night.
MEMORY = Path("/dev/shm")  # noqa: S108 - only new folders are created in it


@dataclass(frozen=True)
class State:
    """What a run wrote: a digest of each table of the working database and of each file of the current release."""

    tables: dict[str, str]
    release: dict[str, str]
    name: str


class ForkedShop:
    """A retailer's folder; copies of it start every night from the same state."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def copy(self, to: Path) -> "ForkedShop":
        """Copy the shop into another folder."""
        shutil.copytree(self.folder, to, symlinks=True)
        return ForkedShop(to)

    @property
    def output(self) -> str:
        """What the nights printed."""
        return (self.folder / "output").read_text("utf-8")

    @property
    def home(self) -> Path:
        """The folder of the working database and the releases."""
        return self.folder / "data" / "corner_shop"

    def start(self, *, refit: bool = False, first: Callable[[], object] = lambda: None) -> int:
        """Start a night and return its process, which calls `first` before it runs."""
        return fork(lambda: self._run(refit, first))

    def night(self, *, refit: bool = False, first: Callable[[], object] = lambda: None) -> int:
        """Run a night and return its exit code."""
        return wait(self.start(refit=refit, first=first))

    def _run(self, refit: bool, first: Callable[[], object]) -> None:
        os.environ |= {
            "SEGMENTATION_DATA": str(self.folder / "data"),
            "SEGMENTATION_RETAILER": str(self.folder / "retailer.toml"),
            "DAGSTER_HOME": str(self.folder / "data" / "dagster"),
        }
        output = os.open(self.folder / "output", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        first()
        from segmentation_pipeline.cli.app import app

        app(["run", "--verbose", *(["--refit"] if refit else [])])

    def state(self) -> State:
        """Return the current tables and release; raise an error if a file differs from its manifest."""
        file = self.folder / "state.json"
        code = wait(fork(lambda: file.write_text(json.dumps(asdict(self._state())), "utf-8")))
        assert code == 0, self.folder
        return State(**json.loads(file.read_text("utf-8")))

    def _state(self) -> State:
        tables = {}
        with duckdb.connect(str(self.home / "work.duckdb")) as connection:
            names = connection.execute("select table_name from duckdb_tables() order by 1").fetchall()
            for (name,) in names:
                if name == "table_versions":
                    # Those of a table are written with the table.
                    for table in contracts():
                        select = "select part, version from table_versions where table_name = ? order by all"
                        rows = connection.execute(select, [table]).fetchall()
                        tables[f"versions of {table}"] = hashlib.sha256(repr(rows).encode()).hexdigest()[:12]
                    continue
                # Each copy has another path, and each run another id.
                columns = "* exclude (run_id, source_path)" if name == "ingested_files" else "*"
                rows = connection.execute(f"select {columns} from {quoted(name)} order by all").fetchall()
                tables[name] = hashlib.sha256(repr(rows).encode()).hexdigest()[:12]
        current = Releases(self.home / "releases").current
        assert current is not None, "no release is current"
        files = {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in current.folder.iterdir()
            if path.name != "manifest.json"
        }
        assert files == {name: known["sha256"] for name, known in current.manifest["files"].items()}
        parquet = {name: digest[:12] for name, digest in files.items() if name.endswith(".parquet")}
        return State(tables, parquet, current.name)


def fork(work: Callable[[], object]) -> int:
    """Start a process that does some work and ends; return its id."""
    sys.stdout.flush()
    if process := os.fork():
        return process
    code = 1
    try:
        work()
        code = 0
    except SystemExit as error:
        code = int(error.code or 0)
    except BaseException as error:
        sys.stderr.write(f"{error!r}\n")
    finally:
        sys.stderr.flush()
        os._exit(code)


def wait(process: int) -> int:
    """Wait for a process and return its exit code; that of a signal is negative."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
