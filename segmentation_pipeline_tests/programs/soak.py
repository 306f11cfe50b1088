"""Run the long tests (kills, many nights, readers), and write their results into docs/reliability.md.

Contains what runs at the same time on two cores within twenty minutes, and the sentences of the page. Each part is a
program of its own (`kills`, `many_nights`, `readers`) that prints one line of JSON. With names of parts, only these
run, and only their results are written.
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
# A busy machine manages fewer kills in this time; the page says how many were skipped.
MINUTES = 19
# Name of the result, and command. The readers run alone, on one core, with their nights on the other. Then two lanes
# run at the same time, each with nights first and then kills for the remaining time.
ALONE: Sequence[tuple[str, str]] = (("readers", "readers --readers 50 --nights 30"),)
LANES: Sequence[Sequence[tuple[str, str]]] = (
    (("same files", "many_nights --same 100"), ("kills", "kills --parts 0 1")),
    (("days", "many_nights --days 305"), ("kills", "kills --parts 2 3 4")),
)
Totals = Mapping[str, Any]


class Result(NamedTuple):
    """The result of a part."""

    name: str
    code: int
    totals: Totals


def run_lane(parts: Sequence[tuple[str, str]], deadline: float) -> list[Result]:
    """Run parts one after the other, and return their results."""
    results = []
    for name, part in parts:
        module, *arguments = part.split()
        if name == "kills":
            arguments += ["--minutes", str(max(0.0, deadline - time.monotonic()) / 60)]
        command = [sys.executable, "-m", f"segmentation_pipeline_tests.programs.{module}", *arguments]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        # A part that failed has printed why, and has no totals.
        printed = done.stdout.splitlines() or ["{}"]
        results.append(Result(name, abs(done.returncode), json.loads(printed[-1])))
    return results


def kills_text(parts: Sequence[Totals]) -> str:
    """Describe how many nights were killed."""
    boundaries, times, skipped = (sum(one[name] for one in parts) for name in ("boundaries", "random_times", "skipped"))
    errors = sum(len(one["errors"]) for one in parts)
    return (
        f"{boundaries} kills at the end of a step (a night has {parts[0]['steps']}; with and without a refit) and"
        f" {times} at random times: {boundaries + times - errors} nights recovered, {errors} did not. {skipped} kills"
        " were skipped for lack of time."
    )


def readers_text(parts: Sequence[Totals]) -> str:
    """Describe how many queries were answered."""
    [readers] = parts
    clients = readers["clients"].values()
    queries, after_pruning = (sum(client[name] for client in clients) for name in ("queries", "after_pruning"))
    answered = ", ".join(f"{' '.join(one['versions'])} {one['queries']:,}" for one in list(clients)[:-1])
    return (
        f"{readers['readers']} readers during {readers['nights']} nights: {queries:,} queries answered (by client:"
        f" DuckDB {answered}; Node {list(clients)[-1]['queries']:,}), {len(readers['errors'])} errors. Each reader"
        f" saw at least {min(one['releases'] for one in clients)} releases; {after_pruning:,} times a reader queried an"
        f" open release after it was pruned. The readers used {readers['megabytes']:,} MB; a night took"
        f" {readers['seconds_per_night']:.1f} s beside them."
    )


def same_files_text(parts: Sequence[Totals]) -> str:
    """Describe how large the working database became."""
    [sizes] = [one["sizes"] for one in parts]
    return (
        f"{len(sizes)} nights that each replace half of the lines: the working database had at most"
        f" {max(sizes) / 1e6:.2f} MB, {growth(sizes):.2f} of the largest of the first three nights."
    )


def days_text(parts: Sequence[Totals]) -> str:
    """Describe how many days were loaded one at a time."""
    [days] = [one["days"] for one in parts]
    if days is None:
        return "The daily files of Online Retail were missing."
    return (
        f"{days['days']} daily files of Online Retail, one at a time in random order, in {days['nights']} nights:"
        f" {days['bytes'] / 1e6:.1f} MB read, {len(days['errors'])} differences from loading all at once."
    )


TEXTS: Mapping[str, Callable[[Sequence[Totals]], str]] = {
    "kills": kills_text,
    "readers": readers_text,
    "same files": same_files_text,
    "days": days_text,
}


def replaced(page: str, name: str, text: str) -> str:
    """Return the page with another text between the markers of a result."""
    place = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
    changed, number = place.subn(lambda found: f"{found[1]}- {text}\n{found[2]}", page)
    assert number == 1, f"{PAGE}: no markers of {name}"
    return changed


def write(name: str, text: str) -> None:
    """Print a text, and write it into the page."""
    print(text, flush=True)
    PAGE.write_text(replaced(PAGE.read_text("utf-8"), name, text), "utf-8")


def run(names: Collection[str]) -> int:
    """Run these parts, two at a time, write their results, and return the highest exit code."""
    started = time.monotonic()
    deadline = started + MINUTES * 60
    alone, *lanes = [[part for part in parts if part[0] in names] for parts in (ALONE, *LANES)]
    results = run_lane(alone, deadline)
    with ThreadPoolExecutor(len(lanes)) as pool:
        results += [one for parts in pool.map(run_lane, lanes, [deadline] * len(lanes)) for one in parts]
    for name in names:
        totals = [one.totals for one in results if one.name == name]
        if all(totals):
            write(name, TEXTS[name](totals))
        print(*[one["errors"] for one in totals if one.get("errors")], sep="\n", end="")
    if set(names) == set(TEXTS):
        minutes = (time.monotonic() - started) / 60
        write("all", f"All parts with DuckDB {duckdb.__version__}, Dagster {dg.__version__}: {minutes:.0f} minutes.")
    return max(one.code for one in results)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[[], *TEXTS], help="the parts to run; default: all")
    sys.exit(run(parser.parse_args().parts or list(TEXTS)))
