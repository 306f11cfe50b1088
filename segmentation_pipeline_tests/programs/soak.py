"""The long part of the tests: kills, many nights and readers, whose figures go into docs/reliability.md.

Belongs here: what runs beside what on two cores, within twenty minutes, and the words of the page. Each part is a
program of its own (`kills`, `many_nights`, `readers`) that ends in one line of JSON; the tests run a few of each. With
names of parts, only these are run, and only their figures written.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import dagster as dg
import duckdb

from segmentation_pipeline_tests.programs.many_nights import growth

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reliability.md"
# On a machine that is busy there are fewer kills in it, and the page says how many were left out.
MINUTES = 19
# By the name of its figures. Readers have a core for themselves beside that of their nights; then two lanes, in each of
# which nights have their number, and kills what time is left.
ALONE: Sequence[tuple[str, str]] = (("readers", "readers --readers 50 --nights 30"),)
LANES: Sequence[Sequence[tuple[str, str]]] = (
    (("same files", "many_nights --same 100"), ("kills", "kills --parts 0 1")),
    (("days", "many_nights --days 305"), ("kills", "kills --parts 2 3 4")),
)
Figures = Mapping[str, Any]


class Ran(NamedTuple):
    """A part that has run."""

    name: str
    code: int
    figures: Figures


def lane(parts: Sequence[tuple[str, str]], deadline: float) -> list[Ran]:
    """Run parts one after the other."""
    ran = []
    for name, part in parts:
        module, *arguments = part.split()
        if name == "kills":
            arguments += ["--minutes", str(max(0.0, deadline - time.monotonic()) / 60)]
        command = [sys.executable, "-m", f"segmentation_pipeline_tests.{module}", *arguments]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        # One that broke off has said why, and has no figures.
        said = done.stdout.splitlines() or ["{}"]
        ran.append(Ran(name, abs(done.returncode), json.loads(said[-1])))
    return ran


def of_kills(parts: Sequence[Figures]) -> str:
    """How many nights were killed."""
    boundaries, moments, left_out = (sum(one[name] for one in parts) for name in ("boundaries", "moments", "left_out"))
    faults = sum(len(one["faults"]) for one in parts)
    return (
        f"{boundaries} kills at the end of a step (a night has {parts[0]['steps']}; with and without a refit) and"
        f" {moments} at random moments: {boundaries + moments - faults} survived, {faults} not. {left_out} were left"
        " out for want of time."
    )


def of_readers(parts: Sequence[Figures]) -> str:
    """How many queries were served."""
    [readers] = parts
    clients = readers["clients"].values()
    queries, outlived = (sum(client[name] for client in clients) for name in ("queries", "outlived"))
    served = ", ".join(f"{' '.join(one['versions'])} {one['queries']:,}" for one in list(clients)[:-1])
    return (
        f"{readers['readers']} readers during {readers['nights']} nights: {queries:,} queries served (by client: DuckDB"
        f" {served}; Node {list(clients)[-1]['queries']:,}), {len(readers['faults'])} errors, no release mixed with"
        f" another. Each reader saw {min(one['releases'] for one in clients)} releases or more; {outlived:,} times one"
        f" asked a release that it held open after it was pruned. They took {readers['megabytes']:,} MB, and a night"
        f" beside them {readers['seconds_per_night']:.1f} s."
    )


def of_the_same_files(parts: Sequence[Figures]) -> str:
    """How large the database became."""
    [sizes] = [one["sizes"] for one in parts]
    return (
        f"{len(sizes)} nights on the same files: {max(sizes) / 1e6:.2f} MB at most, {growth(sizes):.2f} of the largest"
        " of the first three."
    )


def of_days(parts: Sequence[Figures]) -> str:
    """How many days came one at a time."""
    [days] = [one["days"] for one in parts]
    if days is None:
        return "The daily files of Online Retail were not there."
    return (
        f"{days['days']} daily files of Online Retail, one at a time in any order, in {days['nights']} nights:"
        f" {days['bytes'] / 1e6:.1f} MB came and were read, {len(days['faults'])} differences from all at once."
    )


WORDS: Mapping[str, Callable[[Sequence[Figures]], str]] = {
    "kills": of_kills,
    "readers": of_readers,
    "same files": of_the_same_files,
    "days": of_days,
}


def placed(page: str, name: str, words: str) -> str:
    """The page with these words where it has those of this name."""
    place = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
    text, number = place.subn(lambda found: f"{found[1]}- {words}\n{found[2]}", page)
    assert number == 1, f"{PAGE}: no place for the figures of {name}"
    return text


def write(name: str, words: str) -> None:
    """Say these words, and put them on the page."""
    print(words, flush=True)
    PAGE.write_text(placed(PAGE.read_text("utf-8"), name, words), "utf-8")


def run(names: Collection[str]) -> int:
    """Run these parts, two at a time, and write their figures; the worst of their exit codes."""
    begun = time.monotonic()
    deadline = begun + MINUTES * 60
    alone, *lanes = [[part for part in parts if part[0] in names] for parts in (ALONE, *LANES)]
    ran = lane(alone, deadline)
    with ThreadPoolExecutor(len(lanes)) as pool:
        ran += [one for parts in pool.map(lane, lanes, [deadline] * len(lanes)) for one in parts]
    for name in names:
        figures = [one.figures for one in ran if one.name == name]
        if all(figures):
            write(name, WORDS[name](figures))
        print(*[one["faults"] for one in figures if one.get("faults")], sep="\n", end="")
    if set(names) == set(WORDS):
        minutes = (time.monotonic() - begun) / 60
        write("all", f"All of it with DuckDB {duckdb.__version__}, Dagster {dg.__version__}: {minutes:.0f} minutes.")
    return max(one.code for one in ran)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[[], *WORDS], help="all of them by default")
    sys.exit(run(parser.parse_args().parts or list(WORDS)))
