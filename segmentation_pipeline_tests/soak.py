"""The long part of the tests: kills, many nights and readers, whose figures go into docs/reliability.md.

Belongs here: what runs beside what on two cores, within twenty minutes, and the words of the page. Each part is a
program of its own (`kills`, `many_nights`, `readers`) that ends in one line of JSON; the tests run a few of each.
"""

import json
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb

from segmentation_pipeline_tests.many_nights import growth

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reliability.md"
# On a machine that is busy there are fewer kills in it, and the page says how many were left out.
MINUTES = 19
# What follows one another on a core: readers and nights have their number, and kills what time is left.
LANES: Sequence[Sequence[str]] = (
    ("readers --readers 50 --nights 30", "many_nights --same 100", "kills --parts 0 1"),
    ("many_nights --days 305", "kills --parts 2 3 4"),
)
Figures = Mapping[str, Any]


def lane(parts: Sequence[str], deadline: float) -> tuple[int, list[Figures]]:
    """Run parts one after the other: the worst of their exit codes, and the figures of each."""
    worst, figures = 0, list[Figures]()
    for part in parts:
        module, *arguments = part.split()
        if module == "kills":
            arguments += ["--minutes", str(max(0.0, deadline - time.monotonic()) / 60)]
        command = [sys.executable, "-m", f"segmentation_pipeline_tests.{module}", *arguments]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        worst = max(worst, abs(done.returncode))
        figures.append(json.loads(done.stdout.splitlines()[-1]))
        if faults := figures[-1].get("faults"):
            print(json.dumps(faults), file=sys.stderr, flush=True)
    return worst, figures


def words(readers: Figures, same: Figures, days: Figures | None, kills: Sequence[Figures]) -> list[str]:
    """The figures as they stand on the page."""
    boundaries, moments, left_out = (
        sum(part[name] for part in kills) for name in ("boundaries", "moments", "left_out")
    )
    faults = sum(len(part["faults"]) for part in kills)
    clients = readers["clients"].values()
    queries, outlived = (sum(client[name] for client in clients) for name in ("queries", "outlived"))
    served = ", ".join(f"{' '.join(one['versions'])} {one['queries']:,}" for one in clients)
    lines = [
        f"- {boundaries} kills at the end of a step (a night has {kills[0]['steps']}; with and without a refit) and"
        f" {moments} at random moments: {boundaries + moments - faults} survived, {faults} not. {left_out} were left"
        " out for want of time.",
        f"- {readers['readers']} readers during {readers['nights']} nights: {queries:,} queries served, with"
        f" {len(readers['faults'])} errors and no release mixed with another. Each saw"
        f" {min(one['releases'] for one in clients)} releases or more; {outlived} times one asked a release that it"
        f" held open after it was pruned. By client: {served}. They took {readers['megabytes']:,} MB, a night beside"
        f" them {readers['seconds_per_night']:.1f} s.",
        f"- {len(same['sizes'])} nights on the same files: {max(same['sizes']) / 1e6:.2f} MB at most,"
        f" {growth(same['sizes']):.2f} of the largest of the first three.",
    ]
    if days:
        lines.append(
            f"- {days['days']} daily files of Online Retail one at a time, in {days['nights']} nights:"
            f" {days['bytes'] / 1e6:.1f} MB came and were read, {len(days['faults'])} differences from all at once."
        )
    return lines


def main() -> int:
    """Run all of it, two parts at a time, and write the page."""
    begun = time.monotonic()
    with ThreadPoolExecutor(len(LANES)) as pool:
        ran = list(pool.map(lane, LANES, [begun + MINUTES * 60] * len(LANES)))
    (_, (readers, same, *some)), (_, (single, *others)) = ran
    lines = words(readers, same, single["days"], [*some, *others])
    lines.append(
        f"- DuckDB {duckdb.__version__}, Dagster {dg.__version__}, {(time.monotonic() - begun) / 60:.0f} minutes."
    )
    text = PAGE.read_text("utf-8")
    between = re.compile(r"(<!-- soak -->\n).*(<!-- end -->)", re.DOTALL)
    PAGE.write_text(between.sub(lambda found: found[1] + "\n".join(lines) + "\n" + found[2], text), "utf-8")
    print("\n".join(lines))
    return max(code for code, _ in ran)


if __name__ == "__main__":
    sys.exit(main())
