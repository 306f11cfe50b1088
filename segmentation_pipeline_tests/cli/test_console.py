"""What is printed fits the terminal: its width, its encoding, and whether it can move a line."""

import io
import os
import pty
import re
import select
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from segmentation_pipeline import progress
from segmentation_pipeline.cli.console import Column, print_entry, print_table
from segmentation_pipeline.cli.encoding import ERRORS, allow_any_text
from segmentation_pipeline.cli.progress import Progress
from segmentation_pipeline.model.k_search import search_k
from segmentation_pipeline.model.thresholds import SearchRules
from segmentation_pipeline_tests.shops import Shop

SEGMENTS = Path(sys.executable).with_name("segments")
COLUMNS = (Column("segment", is_text=True), Column("revenue"), Column("share", rank=1), Column("days", rank=2))
ROWS = [("RE-ENGAGE", "€ 1.234.567", "12,3%", "31"), ("a segment of two words", "€ 1", "0,1%", "1.000")]


def printed(width: int, encoding: str = "utf-8") -> str:
    allow_any_text()
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors=ERRORS)
    print_table(Console(file=file, width=width), COLUMNS, ROWS)
    file.seek(0)
    return file.read()


@pytest.mark.parametrize(
    ("width", "headers"), [(80, "segment revenue share days"), (50, "segment revenue share"), (20, "segment revenue")]
)
def test_a_narrow_terminal_loses_columns_and_no_name(width: int, headers: str) -> None:
    text = printed(width)
    assert text.split("\n")[1].split() == headers.split()
    for cell in ("RE-ENGAGE", "a segment of two words", "€ 1.234.567"):
        assert cell in text
    assert width == 20 or max(map(len, text.splitlines())) <= width


def test_ascii_output_is_aligned_and_has_no_error() -> None:
    lines = printed(80, "ascii").strip().splitlines()
    assert "EUR 1.234.567" in "".join(lines)
    assert len({len(line) for line in lines}) == 1


def test_a_message_on_a_terminal_breaks_between_words_only() -> None:
    path = "/a/path-that-is/longer than/" + "x" * 40
    file = io.StringIO()
    print_entry(Console(file=file, width=33, force_terminal=True), "error:", f"of {path} here", width=0, style="")
    assert [line.strip() for line in file.getvalue().splitlines()] == [
        "error: of /a/path-that-is/longer",
        "than/" + "x" * 40,
        "here",
    ]


def test_the_moving_line_shortens_without_cutting_a_name() -> None:
    shown = Progress(Console(file=io.StringIO()), stages={"a_long_step": "cleaning", "other": "cleaning"})
    shown._step = "a_long_step"
    with progress.heard(shown._hear):
        progress.report("reading 3 of 24 files", lambda: 0.5)
    assert shown.line(80) == "cleaning: a_long_step | reading 3 of 24 files, 50% | 0 of 2 steps | 0 s"
    assert shown.line(60) == "a_long_step | reading 3 of 24 files, 50% | 0 s"
    assert shown.line(30) == "cleaning | 0 of 2 steps | 0 s"
    assert shown.line(4) == "0 s"


def test_long_steps_report_how_far_they_are(finished_shop: Shop) -> None:
    heard = list[str]()
    with progress.heard(lambda doing, _: heard.append(doing)):
        assert finished_shop.run(assets=["erased_customers", "raw_transactions", "ingested_files"], reload=True).success
        features = np.random.default_rng(1).gamma(2, size=(60, 3)).round(3)
        rules = SearchRules(k_min=2, k_max=3, resamples=2)
        search_k(features, transform="standard", rules=rules, report=progress.report)
    assert {"opening file 1 of 1", "reading 1 file", "writing the lines"} <= {*heard}
    assert [doing for doing in heard if "clusters" in doing][:2] == [
        "fitting 2 clusters, of 2 to 3",
        "fitting 3 clusters, of 2 to 3",
    ]


def run_in_terminal(shop: Shop, width: int, **environment: str) -> str:
    """Run `segments run` in a pseudo-terminal, and return all that it wrote."""
    pid, terminal = pty.fork()
    if not pid:
        os.environ.update(shop.environment | {"COLUMNS": str(width), "DAGSTER_HOME": str(shop.data / "dagster")})
        os.environ.update(environment)
        os.execv(SEGMENTS, [str(SEGMENTS), "run"])  # noqa: S606 - the command under test
    written = b""
    try:
        while select.select([terminal], [], [], 60)[0] and (part := os.read(terminal, 65536)):
            written += part
    except OSError:
        # Linux answers so when the process at the other end has ended.
        pass
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, written
    return written.decode()


def test_steps_collapse_to_one_line_on_a_terminal(finished_shop: Shop) -> None:
    written = run_in_terminal(finished_shop, 60, TERM="xterm", NO_COLOR="1")
    assert not re.search(r"\x1b\[[\d;]*3\dm", written), "no colour"
    moving, last = written.split("\x1b[?25h")
    text = re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", moving)
    frames = [frame.strip() for frame in re.split(r"[\r\n]+", text) if frame.strip()]
    # Which steps are seen depends on how long each takes.
    assert any(re.search(r"\d+ of \d+ steps", frame) for frame in frames)
    assert all(re.match(r"\S .*\d s$", frame) and len(frame) <= 60 for frame in frames), "nothing but the line"
    result = re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", last)
    assert re.match(r"\s*\d+ steps in \d+\.\d s\r\n\r\nSince \d{6}-", result)
    assert max(len(line) for line in result.splitlines() if "/" not in line) <= 60
