"""Kill nights at the end of a step or at a random time; check what they leave, and what the next night gives.

The tests kill one, `make soak` one at the end of each step and fifty at random times. Prints one line of JSON for
each error, and one of totals; the exit code is 1 if there is an error.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import dagster as dg

from segmentation_pipeline_tests.programs.forked_shop import MEMORY, ForkedShop, State, wait
from segmentation_pipeline_tests.scenarios import (
    instance_without_events,
    regular_customers,
    retailer_file,
    write_csv,
)

SEED = 20_240_229
# The kills are divided into so many parts, so that two processes can share them.
PARTS = 5


@dataclass(frozen=True)
class Kill:
    """A kill at the end of the n-th step of a night, or after a share of its usual time."""

    refit: bool
    boundary: int | None = None
    share: float | None = None


def shop_after_a_night(folder: Path, finished: Path | None = None) -> ForkedShop:
    """Build a shop with a first release, an active model and newer files, or continue one that has run."""
    shop = ForkedShop(folder)
    if finished:
        shutil.copytree(finished, folder, symlinks=True)
        (folder / "output").touch()
    else:
        write_csv(folder / "source" / "a.csv", regular_customers(40))
    retailer_file(folder, Path("source"), release={"max_as_of_jump_days": 400})
    if not finished:
        assert shop.night() == 0, shop.output
    # A test needs lines that change every table, but not the back-test of the four months after them.
    lines = [(*line[:4], _later(line[4], far=finished is None), *line[5:]) for line in regular_customers(60)]
    write_csv(folder / "source" / "b.csv", [line for line in lines if line[4] > "2024-11" and line[4] < "2025-03"])
    return shop


def _later(day: str, *, far: bool) -> str:
    return day.replace("2024-", "2025-") if far else day.replace("2024-01-", "2024-11-")


def _nothing() -> None: ...


def _store_no_events() -> None:
    """Store no events in this process, until it ends."""
    mock.patch.object(dg.DagsterInstance, "get", return_value=instance_without_events()).start()


def _kill_after_step(number: int) -> None:
    """Kill this process when Dagster has recorded the success of the step of this number."""
    report, done = dg.DagsterInstance.handle_new_event, 0

    def reported(self: dg.DagsterInstance, event: Any, **others: Any) -> Any:
        nonlocal done
        written = report(self, event, **others)
        if event.is_dagster_event and event.get_dagster_event().is_step_success:
            if done == number:
                os.kill(os.getpid(), signal.SIGKILL)
            done += 1
        return written

    mock.patch.object(dg.DagsterInstance, "handle_new_event", reported).start()


@dataclass
class Nights:
    """Killed nights, each compared with the same night without a kill."""

    before: ForkedShop
    old: State
    new: dict[bool, State]
    seconds: float
    steps: int

    @classmethod
    def prepared(cls, folder: Path, kinds: Sequence[bool], finished: Path | None = None) -> "Nights":
        """Run the night before, and each kind of night (with and without a refit) once without a kill."""
        before = shop_after_a_night(folder / "before", finished)
        complete, seconds, steps = {}, 0.0, 0
        for refit in kinds:
            shop = before.copy(folder / f"complete-{refit}")
            started = time.monotonic()
            # A shop that has run is that of a test, which needs no usual time of a night for kills at random times.
            code = shop.night(refit=refit, first=_store_no_events if finished else _nothing)
            assert code == 0, shop.output
            seconds = time.monotonic() - started
            complete[refit] = shop.state()
            done = shop.output[len(before.output) :]
            steps = len(re.findall(r"^✓ ", done, re.MULTILINE))
        return cls(before, before.state(), complete, seconds, steps)

    def errors(self, kill: Kill, folder: Path) -> list[str]:
        """Return what is wrong after a killed night, and after the next one."""
        shop, expected = self.before.copy(folder), self.new[kill.refit]
        if kill.boundary is not None:
            code = shop.night(refit=kill.refit, first=partial(_kill_after_step, kill.boundary))
        else:
            assert kill.share is not None
            process = shop.start(refit=kill.refit)
            time.sleep(kill.share * self.seconds)
            os.kill(process, signal.SIGKILL)
            code = wait(process)
        found = [] if code in (0, -signal.SIGKILL) else [f"the night ended with {code}: {shop.output[-500:]}"]
        state = shop.state()
        found += [
            f"{name} is neither the old table nor the new one"
            for name, digest in state.tables.items()
            if digest not in (self.old.tables.get(name), expected.tables.get(name))
        ]
        if state.release not in (self.old.release, expected.release):
            found.append("the current release is neither the old one nor the new one")
        if state.name == self.old.name and state.release != self.old.release:
            found.append("the old release has changed")
        if shop.night(refit=kill.refit) != 0:
            found.append(f"the next night failed: {shop.output[-500:]}")
        after = shop.state()
        differs = [
            name for name in {**expected.tables, **after.tables} if expected.tables.get(name) != after.tables.get(name)
        ]
        found += [f"after the next night {name} differs" for name in differs]
        if after.release != expected.release:
            found.append("after the next night the release differs")
        if left := [path.name for path in (shop.folder / "data" / "runs").iterdir() if path.name[0] != "."]:
            found.append(f"heartbeat files are left: {left}")
        shutil.rmtree(folder)
        return found


def planned(steps: int, boundaries: int | None, random_times: int) -> list[Kill]:
    """Return the kills at the end of each step and at random times, for both kinds of night.

    With `boundaries`, only so many of them, all in nights with a refit, which do everything that other nights do.
    """
    rng = random.Random(SEED)  # noqa: S311 - nothing secret
    if boundaries is not None:
        at_boundaries = [Kill(True, boundary=number) for number in rng.sample(range(steps), boundaries)]
        return at_boundaries + [Kill(True, share=rng.random()) for _ in range(random_times)]
    every = [Kill(refit, boundary=number) for refit in (False, True) for number in range(steps)]
    every += [Kill(rng.random() < 0.5, share=rng.random()) for _ in range(random_times)]
    # In random order, so that some of each kind are tried where there is no time for all.
    return rng.sample(every, len(every))


def main() -> int:
    """Run the kills that the command line requests."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--boundaries", type=int, help="how many kills at the end of a step; default: all")
    parser.add_argument("--random-times", type=int, default=50, help="how many kills at random times")
    parser.add_argument("--parts", type=int, nargs="*", default=range(PARTS), help=f"which of the {PARTS} parts")
    parser.add_argument("--minutes", type=float, default=60, help="skip the kills that remain after this time")
    parser.add_argument("--finished", type=Path, help="a shop after its first run, to copy instead of running one")
    options = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as scratch:
        nights = Nights.prepared(
            Path(scratch), (False, True) if options.boundaries is None else (True,), options.finished
        )
        every = planned(nights.steps, options.boundaries, options.random_times)
        todo = [kill for number, kill in enumerate(every) if number % PARTS in options.parts]
        errors, done = {}, list[Kill]()
        for number, kill in enumerate(todo):
            if time.monotonic() - started > options.minutes * 60:
                break
            done.append(kill)
            if found := nights.errors(kill, Path(scratch) / f"kill-{number}"):
                errors[str(kill)] = found
                print(json.dumps({str(kill): found}), file=sys.stderr, flush=True)
    at_boundary = sum(kill.boundary is not None for kill in done)
    totals = {
        "boundaries": at_boundary,
        "random_times": len(done) - at_boundary,
        "skipped": len(todo) - len(done),
        "steps": nights.steps,
        "errors": errors,
    }
    print(json.dumps(totals))
    return bool(errors)


if __name__ == "__main__":
    sys.exit(main())
