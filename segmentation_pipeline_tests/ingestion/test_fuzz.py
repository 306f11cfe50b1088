"""Damaged files give a message or all their lines: a short form of `make fuzz`."""

import hashlib
import subprocess
import sys
import time

import pytest

from segmentation_pipeline_tests.programs import fuzz
from segmentation_pipeline_tests.programs.fuzz_inputs import input_of


def test_damaged_files_cause_no_traceback_and_lose_no_line() -> None:
    figures = fuzz.run(seconds=60, most=12)
    assert figures.failures == {}
    # Two of three inputs have nine files each.
    assert figures.tried == 4 + 8 * 9


@pytest.mark.parametrize(
    ("end", "message"),
    [("os.kill(os.getpid(), 11)", "its process ended with -11"), ("time.sleep(60)", "no end after 1 s")],
)
def test_crash_and_hang_of_an_input_are_reported(monkeypatch: pytest.MonkeyPatch, end: str, message: str) -> None:
    monkeypatch.setattr(fuzz, "HANG_SECONDS", 1.0)
    figures = fuzz.Figures()
    program = f"import json, os, time; print(json.dumps({{'at': 7}}), flush=True); {end}"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert fuzz._followed(process, figures, at=0, until=time.monotonic() + 60) == 7
    assert [found[0][: len(message)] for found in figures.failures.values()] == [message]
    assert [*figures.failures] == [7]


def test_input_depends_on_its_number_only() -> None:
    digest = (
        "import hashlib; from segmentation_pipeline_tests.programs.fuzz_inputs import input_of; print(hashlib.sha256("
    )
    digest += "repr([input_of(n) for n in range(5, 25)]).encode()).hexdigest())"
    ended = subprocess.run([sys.executable, "-c", digest], cwd=fuzz.ROOT, capture_output=True, text=True, check=True)
    here = repr([input_of(number) for number in range(5, 25)])
    assert ended.stdout.strip() == hashlib.sha256(here.encode()).hexdigest()
