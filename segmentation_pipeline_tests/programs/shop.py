"""A retailer's folder whose nights are processes of their own that run the command `segments`.

Each is forked from one that has Dagster imported, which saves seconds of each. For the programs that drive many nights
(`soak`, `readers`): a test starts them apart from itself, since a fork of a process with threads may hang.
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

from segmentation_pipeline.releases.store import Releases
from segmentation_pipeline.tables.contract import quoted

# So that no night imports them again.
for module in ("sklearn.cluster", "segmentation_pipeline.definitions"):
    import_module(module)
# What a kill leaves does not hang on the disk, but Dagster's books wait for it a thousand times a night.
MEMORY = Path("/dev/shm")  # noqa: S108 - folders of their own in it


@dataclass(frozen=True)
class State:
    """What a run left: a digest of each table of the working database, and of each file of the current release."""

    tables: dict[str, str]
    release: dict[str, str]
    name: str


class Shop:
    """A retailer's folder that is copied for each night, so that all begin alike."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def copy(self, to: Path) -> "Shop":
        """The same in another folder."""
        shutil.copytree(self.folder, to, symlinks=True)
        return Shop(to)

    @property
    def said(self) -> str:
        """What the nights printed."""
        return (self.folder / "said").read_text("utf-8")

    @property
    def home(self) -> Path:
        """Where the working database and the releases are."""
        return self.folder / "data" / "corner_shop"

    def start(self, *, refit: bool = False, first: Callable[[], object] = lambda: None) -> int:
        """Begin a night: its process, which does something else first."""
        return forked(lambda: self._night(refit, first))

    def night(self, *, refit: bool = False, first: Callable[[], object] = lambda: None) -> int:
        """A night from its beginning to its end, how ever it ends."""
        return ended(self.start(refit=refit, first=first))

    def _night(self, refit: bool, first: Callable[[], object]) -> None:
        os.environ |= {
            "SEGMENTATION_DATA": str(self.folder / "data"),
            "SEGMENTATION_RETAILER": str(self.folder / "retailer.toml"),
            "DAGSTER_HOME": str(self.folder / "data" / "dagster"),
        }
        output = os.open(self.folder / "said", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        first()
        from segmentation_pipeline.cli.app import app

        app(["run", *(["--refit"] if refit else [])])

    def state(self) -> State:
        """What stands now; a file that differs from its manifest is a fault of its own."""
        answer = self.folder / "state.json"
        code = ended(forked(lambda: answer.write_text(json.dumps(asdict(self._state())), "utf-8")))
        assert code == 0, self.folder
        return State(**json.loads(answer.read_text("utf-8")))

    def _state(self) -> State:
        tables = {}
        with duckdb.connect(str(self.home / "work.duckdb")) as connection:
            names = connection.execute("select table_name from duckdb_tables() order by 1").fetchall()
            for (name,) in names:
                # Each shop is a copy in a place of its own, and each run has a name of its own.
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


def forked(work: Callable[[], object]) -> int:
    """A process that does this work and ends."""
    sys.stdout.flush()
    if process := os.fork():
        return process
    code = 1
    try:
        work()
        code = 0
    except SystemExit as ended:
        code = int(ended.code or 0)
    except BaseException as error:
        sys.stderr.write(f"{error!r}\n")
    finally:
        sys.stderr.flush()
        os._exit(code)


def ended(process: int) -> int:
    """The exit code of a process, waited for; that of a signal is below zero."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
