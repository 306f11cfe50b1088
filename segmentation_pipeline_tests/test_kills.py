"""Nights that are cut off leave everything whole, and the database grows no rubbish: the short form of `make soak`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from segmentation_pipeline_tests import soak

ROOT = Path(soak.__file__).parents[1]


def test_a_night_that_is_killed_leaves_all_whole_and_the_next_one_ends_as_if_nothing_had_been() -> None:
    """Started apart from the tests, since each night is a fork, and a fork of a process with threads may hang."""
    command = [sys.executable, "-m", "segmentation_pipeline_tests.soak", "--boundaries", "1", "--moments", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert (figures["boundaries"], figures["moments"], figures["faults"]) == (1, 1, {})


def test_the_soak_kills_at_the_end_of_every_step_of_both_kinds_of_night_and_at_fifty_moments() -> None:
    all_of_them = soak.kills(steps=48, boundaries=None, moments=50)
    assert {(kill.refit, kill.boundary) for kill in all_of_them if kill.moment is None} == {
        (refit, number) for refit in (False, True) for number in range(48)
    }
    moments = [kill for kill in all_of_them if kill.moment is not None]
    assert len({kill.moment for kill in moments}) == 50
    assert {kill.refit for kill in moments} == {False, True}
    assert all_of_them == soak.kills(steps=48, boundaries=None, moments=50), "the seed draws them"


def test_the_working_database_does_not_grow_over_nights_on_the_same_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its size alternates, since a table is written before the old one goes; it must not creep."""
    for name in ("SEGMENTATION_RETAILER", "SEGMENTATION_DATA"):
        monkeypatch.setenv(name, "set by the nights, and set back afterwards")
    measured = soak.sizes(6, tmp_path)
    assert soak.growth(measured) <= soak.GROWTH, measured
