"""`segments run --explain`: the statements that took most of the time, with what they are for."""

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from segmentation_pipeline.cli.explain import combined, print_dearest
from segmentation_pipeline.warehouse.statements import Statement
from segmentation_pipeline_tests.commands import Ended, segments
from segmentation_pipeline_tests.scenarios import regular_customers
from segmentation_pipeline_tests.shops import Shop

HEAD = "seconds   share          rows  purpose         step: table: statement"


@pytest.fixture(scope="module")
def explained(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """Return the output of a first run, whose source is in a folder with a name of its own."""
    shop = Shop.build(tmp_path_factory.mktemp("shop") / "ada lovelace", regular_customers())
    return segments(shop, "run", "--explain")


def test_explain_prints_the_dearest_first_with_their_share(explained: Ended) -> None:
    assert explained.code == 0, explained.errors
    after = explained.stdout.split(HEAD)[1]
    entries = re.findall(r"^ +([\d.]+) +([\d.]+)% +[\d,]* +(\w.*)$", after, re.MULTILINE)
    seconds = [float(entry[0]) for entry in entries]
    assert len(entries) == 20
    assert seconds == sorted(seconds, reverse=True)
    assert sum(float(entry[1]) for entry in entries) < 100


def test_explained_time_divides_by_purpose(explained: Ended) -> None:
    totals = explained.stdout.split("The run took ")[1].split(HEAD)[0]
    total, in_sql = (float(number) for number in re.findall(r"([\d.]+) s", totals)[:2])
    by_purpose = {name: float(took) for name, took in re.findall(r"^  (\w[\w ]+?) +([\d.]+) s ", totals, re.MULTILINE)}
    expected = {"read", "derive", "check contract", "comments", "query", "write to disk", "release", "outside SQL"}
    assert expected <= by_purpose.keys()
    assert sum(by_purpose.values()) - by_purpose["outside SQL"] == pytest.approx(in_sql, abs=0.06)
    assert in_sql < total


def test_explained_statements_contain_no_path(explained: Ended) -> None:
    assert "ada lovelace" not in explained.stdout.split("The run took ")[1].split("release  0")[0]


def test_explain_shows_where_a_failed_run_spent_its_time(tmp_path: Path) -> None:
    ended = segments(Shop.build(tmp_path, regular_customers(2)), "run", "--explain")
    assert ended.code == 1
    assert "outside SQL     raw_transactions\n" in ended.stdout.split(HEAD)[1]


def test_statements_that_differ_in_values_are_added_up() -> None:
    once = Statement("a", "t", "query", "select ?", 1.0, 2)
    other = Statement("b", "t", "query", "select ?", 4.0, 1)
    assert combined([once, other, once]) == [Statement("a", "t", "query", "select ?", 2.0, 4), other]


def test_time_that_no_statement_took_is_outside_sql() -> None:
    printed = io.StringIO()
    statements = [
        Statement("fit", "segments", "derive", "insert into t", 1.5, 1_000),
        Statement("", "", "open", "x", 0.5),
    ]
    print_dearest(Console(file=printed, width=60), statements, {"fit": 5.0}, 10.0)
    assert printed.getvalue() == (
        "\nThe run took 10.00 s: 2.00 s in 2 SQL statements, and the rest\n"
        "in Python: 3.50 s in the steps, 4.50 s between them.\n\n"
        "  outside SQL           3.50 s   35.0%\n"
        "  derive                1.50 s   15.0%\n"
        "  open                  0.50 s    5.0%\n\n"
        "  seconds   share          rows  purpose         step: table: statement\n"
        "     3.50   35.0%                outside SQL     fit\n"
        "     1.50   15.0%         1,000  derive          fit: segments: insert into t\n"
        "     0.50    5.0%                open            between steps: x\n"
    )
