"""Nights that are cut off leave everything whole: the short form of what `make soak` does to every step."""

import json
import subprocess
import sys
from pathlib import Path

from segmentation_pipeline_tests.programs import kills, soak

ROOT = Path(kills.__file__).parents[2]


def test_a_night_that_is_killed_leaves_all_whole_and_the_next_one_ends_as_if_nothing_had_been() -> None:
    """Started apart from the tests, since each night is a fork, and a fork of a process with threads may hang."""
    command = [
        sys.executable,
        "-m",
        "segmentation_pipeline_tests.programs.kills",
        "--boundaries",
        "1",
        "--moments",
        "1",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert (figures["boundaries"], figures["moments"], figures["faults"]) == (1, 1, {})


def test_the_soak_kills_at_the_end_of_every_step_of_both_kinds_of_night_and_at_fifty_moments() -> None:
    all_of_them = kills.planned(steps=48, boundaries=None, moments=50)
    assert {(kill.refit, kill.boundary) for kill in all_of_them if kill.moment is None} == {
        (refit, number) for refit in (False, True) for number in range(48)
    }
    moments = [kill for kill in all_of_them if kill.moment is not None]
    assert len({kill.moment for kill in moments}) == 50
    assert {kill.refit for kill in moments} == {False, True}
    assert all_of_them == kills.planned(steps=48, boundaries=None, moments=50), "the seed draws them"


def test_the_soak_leaves_no_part_of_the_kills_out() -> None:
    parts = [part.split()[2:] for parts in soak.LANES for name, part in parts if name == "kills"]
    assert sorted(int(number) for part in parts for number in part) == list(range(kills.PARTS))


def test_the_page_has_one_place_for_the_figures_of_each_part_and_keeps_those_of_the_others() -> None:
    before = page = soak.PAGE.read_text("utf-8")
    for name in [*soak.WORDS, "all"]:
        page = soak.placed(soak.placed(page, name, "of before"), name, f"figures of {name}")
    assert [line for line in page.splitlines() if line.startswith("- figures of ")] == [
        f"- figures of {name}" for name in [*soak.WORDS, "all"]
    ]
    assert page.split("## Promises")[1] == before.split("## Promises")[1]
