"""Killed nights leave complete tables and releases: a short form of what `make soak` does at every step."""

import json
import subprocess
import sys
from pathlib import Path

from segmentation_pipeline_tests.programs import kills, soak
from segmentation_pipeline_tests.shops import Shop

ROOT = Path(kills.__file__).parents[2]


def test_a_killed_night_leaves_everything_complete(finished_template: Shop) -> None:
    """The next night ends as if nothing had happened.

    A process of its own, because each night is a fork, and a fork of a process with threads can hang.
    """
    program = [sys.executable, "-m", "segmentation_pipeline_tests.programs.kills"]
    command = [*program, "--boundaries", "1", "--random-times", "0", "--finished", str(finished_template.folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    totals = json.loads(done.stdout.splitlines()[-1])
    assert (totals["boundaries"], totals["random_times"], totals["errors"]) == (1, 0, {})


def test_the_soak_kills_at_every_step_and_fifty_random_times() -> None:
    planned = kills.planned(steps=48, boundaries=None, random_times=50)
    assert {(kill.refit, kill.boundary) for kill in planned if kill.share is None} == {
        (refit, number) for refit in (False, True) for number in range(48)
    }
    at_random = [kill for kill in planned if kill.share is not None]
    assert len({kill.share for kill in at_random}) == 50
    assert {kill.refit for kill in at_random} == {False, True}
    assert planned == kills.planned(steps=48, boundaries=None, random_times=50), "the seed decides"


def test_the_soak_runs_every_part_of_the_kills() -> None:
    parts = [part.split()[2:] for parts in soak.LANES for name, part in parts if name == "kills"]
    assert sorted(int(number) for part in parts for number in part) == list(range(kills.PARTS))


def test_the_soak_starts_programs_that_exist() -> None:
    commands = [part for parts in (soak.ALONE, *soak.LANES) for _, part in parts]
    programs = {path.stem for path in Path(kills.__file__).parent.glob("*.py")}
    assert {command.split()[0] for command in commands} <= programs


def test_the_page_keeps_the_other_results_of_the_soak() -> None:
    before = page = soak.PAGE.read_text("utf-8")
    for name in [*soak.TEXTS, "all"]:
        page = soak.replaced(soak.replaced(page, name, "an old result"), name, f"result of {name}")
    assert [line for line in page.splitlines() if line.startswith("- result of ")] == [
        f"- result of {name}" for name in [*soak.TEXTS, "all"]
    ]
    assert page.split("## Promises")[1] == before.split("## Promises")[1]
