"""Nights that are killed: what one must leave behind, whenever it is cut off.

The tests kill a few, `make soak` one at the end of each step and fifty at random moments. Prints one line of JSON for
each fault that it found, and one of figures; the exit code is 1 where there is a fault.
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

from segmentation_pipeline_tests.programs.shop import MEMORY, Shop, State, ended
from segmentation_pipeline_tests.scenarios import regular_customers, retailer_file, write_csv

SEED = 20_240_229
# The kills are drawn into so many parts, so that two processes can share them as they have time.
PARTS = 5


@dataclass(frozen=True)
class Kill:
    """A night that is cut off: at the end of its n-th step, or after a share of its usual time."""

    refit: bool
    boundary: int | None = None
    moment: float | None = None


def after_a_night(folder: Path) -> Shop:
    """A shop with a first release, a standing model and, by now, newer files."""
    shop = Shop(folder)
    write_csv(folder / "source" / "a.csv", regular_customers(40))
    retailer_file(folder, Path("source"), release={"max_as_of_jump_days": 400})
    assert shop.night() == 0, shop.said
    lines = [(*line[:4], line[4].replace("2024-", "2025-"), *line[5:]) for line in regular_customers(60)]
    write_csv(folder / "source" / "b.csv", [line for line in lines if line[4] < "2025-03"])
    return shop


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

    mock.patch.object(dg.DagsterInstance, "handle_new_event", reported).start()


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
        before = after_a_night(folder / "before")
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
        if kill.boundary is not None:
            code = shop.night(refit=kill.refit, first=partial(_die_at_boundary, kill.boundary))
        else:
            assert kill.moment is not None
            process = shop.start(refit=kill.refit)
            time.sleep(kill.moment * self.seconds)
            os.kill(process, signal.SIGKILL)
            code = ended(process)
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


def planned(steps: int, boundaries: int | None, moments: int) -> list[Kill]:
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


def main() -> int:
    """Kill as many as are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--boundaries", type=int, help="how many that the seed draws (else all)")
    parser.add_argument("--moments", type=int, default=50)
    parser.add_argument("--parts", type=int, nargs="*", default=range(PARTS), help=f"which of the {PARTS} of them")
    parser.add_argument("--minutes", type=float, default=60, help="after which the rest is left out")
    asked = parser.parse_args()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as scratch:
        nights = Nights.prepared(Path(scratch), (False, True) if asked.boundaries is None else (True,))
        every = planned(nights.steps, asked.boundaries, asked.moments)
        todo = [kill for number, kill in enumerate(every) if number % PARTS in asked.parts]
        found, done = {}, list[Kill]()
        for number, kill in enumerate(todo):
            if time.monotonic() - begun > asked.minutes * 60:
                break
            done.append(kill)
            if faults := nights.faults(kill, Path(scratch) / f"kill-{number}"):
                found[str(kill)] = faults
                print(json.dumps({str(kill): faults}), file=sys.stderr, flush=True)
    at_boundary = sum(kill.boundary is not None for kill in done)
    figures = {
        "boundaries": at_boundary,
        "moments": len(done) - at_boundary,
        "left_out": len(todo) - len(done),
        "steps": nights.steps,
        "faults": found,
    }
    print(json.dumps(figures))
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
