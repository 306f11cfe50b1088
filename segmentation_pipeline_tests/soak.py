"""Kill nights, and run a hundred: what a night must leave behind, whenever it is cut off.

`make soak` runs all of it and writes the figures into docs/reliability.md; the tests run a few of each. Each night is a
process of its own that runs the command `segments`, forked from one that has Dagster imported, which saves seconds of
each. Prints one line of JSON for each fault that it found; the exit code is 1 where there is one.
"""

import argparse
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import sklearn.cluster  # noqa: F401 - so that no night imports it again

from segmentation_pipeline.contracts import quoted
from segmentation_pipeline.releases import Releases
from segmentation_pipeline_tests.scenarios import regular_customers, retailer_file, run_job, write_csv

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reliability.md"
SEED = 20_240_229
# What a kill leaves does not hang on the disk, but Dagster's books wait for it a thousand times a night.
MEMORY = Path("/dev/shm")  # noqa: S108 - folders of their own in it
# Of the largest size before the fourth run: what a database that is replaced every night may grow by.
GROWTH = 1.1
# The long part is done within twenty minutes; on a machine that is busy, with fewer kills, and the page says how many.
MINUTES = 16


@dataclass(frozen=True)
class Kill:
    """A night that is cut off: at the end of its n-th step, or after a share of its usual time."""

    refit: bool
    boundary: int | None = None
    moment: float | None = None


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

    @classmethod
    def after_a_night(cls, folder: Path) -> "Shop":
        """One with a first release, a standing model and, by now, newer files."""
        shop = cls(folder)
        write_csv(folder / "source" / "a.csv", regular_customers(40))
        retailer_file(folder, Path("source"), release={"max_as_of_jump_days": 400})
        assert shop.night() == 0, shop.said
        lines = [(*line[:4], line[4].replace("2024-", "2025-"), *line[5:]) for line in regular_customers(60)]
        write_csv(folder / "source" / "b.csv", [line for line in lines if line[4] < "2025-03"])
        return shop

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

    def start(self, *, refit: bool = False, kill_after: int | None = None) -> int:
        """Begin a night: its process."""
        return _forked(lambda: self._night(refit, kill_after))

    def night(self, *, refit: bool = False, kill_after: int | None = None) -> int:
        """A night from its beginning to its end, how ever it ends."""
        return _ended(self.start(refit=refit, kill_after=kill_after))

    def _night(self, refit: bool, kill_after: int | None) -> None:
        os.environ |= {
            "SEGMENTATION_DATA": str(self.folder / "data"),
            "SEGMENTATION_RETAILER": str(self.folder / "retailer.toml"),
            "DAGSTER_HOME": str(self.folder / "data" / "dagster"),
        }
        output = os.open(self.folder / "said", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        if kill_after is not None:
            _die_at_boundary(kill_after)
        from segmentation_pipeline.cli import app

        app(["run", *(["--refit"] if refit else [])])

    def state(self) -> State:
        """What stands now; a file that differs from its manifest is a fault of its own."""
        answer = self.folder / "state.json"
        code = _ended(_forked(lambda: answer.write_text(json.dumps(asdict(self._state())), "utf-8")))
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


def _die_at_boundary(number: int) -> None:
    """Let this process kill itself when Dagster has written down that the step of this number is done."""
    report, done = dg.DagsterInstance.handle_new_event, 0

    def reported(self: dg.DagsterInstance, event: Any, **others: Any) -> Any:
        nonlocal done
        written = report(self, event, **others)
        if event.is_dagster_event and event.get_dagster_event().is_step_success:
            if done == number:
                os.kill(os.getpid(), signal.SIGKILL)
            done += 1
        return written

    dg.DagsterInstance.handle_new_event = reported  # type: ignore[method-assign, assignment]


def _forked(work: Callable[[], object]) -> int:
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


def _ended(process: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


@dataclass
class Nights:
    """Nights that are cut off, each held against the same night without a kill."""

    before: Shop
    old: State
    new: dict[bool, State]
    seconds: float
    steps: int

    @classmethod
    def prepared(cls, folder: Path, kinds: Sequence[bool]) -> "Nights":
        """The night before, and each kind of night, with a refit or not, once without a kill."""
        before = Shop.after_a_night(folder / "before")
        whole, seconds, steps = {}, 0.0, 0
        for refit in kinds:
            shop = before.copy(folder / f"whole-{refit}")
            begun = time.monotonic()
            assert shop.night(refit=refit) == 0, shop.said
            seconds = time.monotonic() - begun
            whole[refit] = shop.state()
            done = shop.said[len(before.said) :]
            steps = len(re.findall(r"^✓ ", done, re.MULTILINE))
        return cls(before, before.state(), whole, seconds, steps)

    def faults(self, kill: Kill, folder: Path) -> list[str]:
        """What is wrong after a night that was cut off, and after the next one."""
        shop, wanted = self.before.copy(folder), self.new[kill.refit]
        if kill.moment is None:
            code = shop.night(refit=kill.refit, kill_after=kill.boundary)
        else:
            process = shop.start(refit=kill.refit)
            time.sleep(kill.moment * self.seconds)
            os.kill(process, signal.SIGKILL)
            code = _ended(process)
        found = [] if code in (0, -signal.SIGKILL) else [f"the night ended with {code}: {shop.said[-500:]}"]
        state = shop.state()
        found += [
            f"{name} is neither that of before nor that of after"
            for name, digest in state.tables.items()
            if digest not in (self.old.tables.get(name), wanted.tables.get(name))
        ]
        if state.release not in (self.old.release, wanted.release):
            found.append("the current release is neither that of before nor that of after")
        if state.name == self.old.name and state.release != self.old.release:
            found.append("the release of before has changed")
        if shop.night(refit=kill.refit) != 0:
            found.append(f"the next night failed: {shop.said[-500:]}")
        after = shop.state()
        differs = [
            name for name in {**wanted.tables, **after.tables} if wanted.tables.get(name) != after.tables.get(name)
        ]
        found += [f"after the next night {name} differs" for name in differs]
        if after.release != wanted.release:
            found.append("after the next night the release differs")
        if left := [path.name for path in (shop.folder / "data" / "runs").iterdir() if path.name[0] != "."]:
            found.append(f"signs of life are left: {left}")
        shutil.rmtree(folder)
        return found


def kills(steps: int, boundaries: int | None, moments: int) -> list[Kill]:
    """Those of each boundary, and those of random moments, of both kinds of night.

    The few that the seed draws instead are of a refit, which does all that another night does, and more.
    """
    drawn = random.Random(SEED)  # noqa: S311 - nothing secret
    if boundaries is not None:
        at_boundaries = [Kill(True, boundary=number) for number in drawn.sample(range(steps), boundaries)]
        return at_boundaries + [Kill(True, moment=drawn.random()) for _ in range(moments)]
    every = [Kill(refit, boundary=number) for refit in (False, True) for number in range(steps)]
    every += [Kill(drawn.random() < 0.5, moment=drawn.random()) for _ in range(moments)]
    # So that of all kinds some are tried where there is no time for every one.
    return drawn.sample(every, len(every))


def sizes(runs: int, folder: Path) -> list[int]:
    """The size of the working database after each of so many nights on the same files."""
    write_csv(folder / "source" / "a.csv", regular_customers(60) * 30)
    os.environ |= {
        "SEGMENTATION_RETAILER": str(retailer_file(folder, folder / "source")),
        "SEGMENTATION_DATA": str(folder / "data"),
    }
    measured = []
    for _ in range(runs):
        with dg.DagsterInstance.ephemeral() as instance:
            assert run_job(instance).success
        measured.append((folder / "data" / "corner_shop" / "work.duckdb").stat().st_size)
    return measured


def growth(measured: Sequence[int]) -> float:
    """The largest size after the third run, over the largest up to it."""
    return max(measured[3:]) / max(measured[:3])


def main() -> int:
    """Run what is asked for; with `--page`, in two processes and with its figures on the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--boundaries", type=int, help="how many that the seed draws (else all)")
    parser.add_argument("--moments", type=int, default=50)
    parser.add_argument("--nights", type=int, default=0, help="on the same files, of which the sizes are measured")
    parser.add_argument("--part", default="0/1", help="the n-th of so many parts of the kills")
    parser.add_argument("--page", action="store_true")
    asked = parser.parse_args()
    if asked.page:
        return _whole()
    begun = time.monotonic()
    part, parts = map(int, asked.part.split("/"))
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as scratch:
        nights = Nights.prepared(Path(scratch), (False, True) if asked.boundaries is None else (True,))
        todo = kills(nights.steps, asked.boundaries, asked.moments)[part::parts]
        found, done = {}, list[Kill]()
        for number, kill in enumerate(todo):
            if time.monotonic() - begun > MINUTES * 60:
                break
            done.append(kill)
            if faults := nights.faults(kill, Path(scratch) / f"kill-{number}"):
                found[str(kill)] = faults
                print(json.dumps({str(kill): faults}), file=sys.stderr, flush=True)
        measured = sizes(asked.nights, Path(scratch) / "growth") if asked.nights else []
    at_boundary = sum(kill.boundary is not None for kill in done)
    figures = {
        "boundaries": at_boundary,
        "moments": len(done) - at_boundary,
        "left_out": len(todo) - len(done),
        "steps": nights.steps,
        "faults": found,
        "sizes": measured,
    }
    print(json.dumps(figures))
    return bool(found) or (len(measured) > 3 and growth(measured) > GROWTH)


def _whole() -> int:
    """Two halves side by side, as there are two cores; the figures go into the page."""
    begun = time.monotonic()
    command = [sys.executable, "-m", "segmentation_pipeline_tests.soak"]
    halves = [
        subprocess.Popen([*command, "--part", f"{part}/2", "--nights", str(nights)], stdout=subprocess.PIPE, text=True)
        for part, nights in ((0, 0), (1, 100))
    ]
    said = [json.loads(half.communicate()[0].splitlines()[-1]) for half in halves]
    boundaries, moments, left_out = (sum(half[name] for half in said) for name in ("boundaries", "moments", "left_out"))
    faults = sum(len(half["faults"]) for half in said)
    measured = said[1]["sizes"]
    lines = [
        f"- {boundaries} kills at the end of a step (a night has {said[0]['steps']}; with and without a refit) and"
        f" {moments} at random moments: {boundaries + moments - faults} survived, {faults} not. {left_out} were left"
        " out for want of time.",
        f"- {len(measured)} nights on the same files: {max(measured) / 1e6:.2f} MB at most, {growth(measured):.2f} of"
        " the largest of the first three.",
        f"- DuckDB {duckdb.__version__}, Dagster {dg.__version__}, {(time.monotonic() - begun) / 60:.0f} minutes.",
    ]
    text = PAGE.read_text("utf-8")
    between = re.compile(r"(<!-- soak -->\n).*(<!-- end -->)", re.DOTALL)
    PAGE.write_text(between.sub(lambda found: found[1] + "\n".join(lines) + "\n" + found[2], text), "utf-8")
    print("\n".join(lines))
    return max(half.returncode for half in halves)


if __name__ == "__main__":
    sys.exit(main())
