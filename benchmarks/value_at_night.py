"""Measure what customer value costs in a night, of which it is a step: every customer is scored, and nothing is fitted.

Usage: python benchmarks/value_at_night.py [--data FOLDER] [--turns N]

Each shop is run once, and then night by night, each as of a day later, so that every customer is a day older and is
scored anew; and each again without news. The result is written into the section of `docs/customer_value.md` between two
comments.
"""

import argparse
import json
import subprocess
import sys
import time
from datetime import timedelta
from statistics import median

import duckdb
from shops import ROOT, SHOPS, Folders, finished_run

from benchmarks.sections import write_section
from segmentation_pipeline.cli import run as command
from segmentation_pipeline.config.loading import load_settings
from segmentation_pipeline.warehouse.statements import Statement

PAGE = ROOT / "docs" / "customer_value.md"
BEGIN, END = "<!-- benchmarks/value_at_night.py writes from here -->\n", "<!-- until here -->\n"
TABLE = "customer_value"
MEASURED = ("sample", "online_retail")
NIGHTS = {"later": "a day later", "again": "without news"}
# The most that a night may be slower for it.
TARGET = 0.05


def night(retailer: str, as_of: str) -> None:
    """Run a night in this process, and print its seconds and those of customer value as JSON."""
    found: dict[str, float] = {}

    def measured(_: object, statements: list[Statement], steps: dict[str, float], __: float) -> None:
        # Beside its step, what the table costs where it is published.
        elsewhere = sum(one.seconds for one in statements if one.table == TABLE and one.step != TABLE)
        found["value"] = steps[TABLE] + elsewhere

    command.print_dearest = measured
    settings = load_settings(retailer, as_of=as_of)
    if not command.execute(command.RunRequest(retailer, as_of=as_of, explain=True), settings):
        raise SystemExit(f"The night of {retailer} as of {as_of} failed.")
    print(json.dumps(found))


def nights(name: str, folders: Folders, turns: int) -> dict[str, list[tuple[float, float]]]:
    """Return the seconds of each night, and those of customer value in it."""
    found: dict[str, list[tuple[float, float]]] = {of: [] for of in NIGHTS}
    with finished_run(name, folders) as run:
        with duckdb.connect(str(run.database), read_only=True) as connection:
            [(last,)] = connection.execute("select cast(max(as_of) as date) from rfm_features").fetchall()
        for turn in range(1, turns + 1):
            for of in NIGHTS:
                arguments = [sys.executable, __file__, "--night", name, f"{last + timedelta(days=turn):%Y-%m-%d}"]
                started = time.perf_counter()
                done = subprocess.run(arguments, env=run.environment, capture_output=True, text=True)
                seconds = time.perf_counter() - started
                if done.returncode:
                    raise SystemExit(f"{done.stdout}\n{done.stderr}\nA night of {name} failed.")
                found[of].append((seconds, json.loads(done.stdout.splitlines()[-1])["value"]))
    return found


def section(found: dict[str, dict[str, list[tuple[float, float]]]]) -> str:
    """Return the text of the section."""
    turns = len(found["sample"]["later"])
    lines = [
        f"Written by `benchmarks/value_at_night.py`: medians of {turns} nights each as of a day later, in which every",
        f"customer is scored anew, and of {turns} without news. Customer value is its step and the",
        f"publication of its table. Goal: at most {TARGET:.0%} of a night.",
        "Seconds depend on what else the machine does.",
        "",
        "| | night | seconds | customer value, seconds | share | goal |",
        "|---|---|--:|--:|--:|---|",
    ]
    for retailer, of_shop in found.items():
        for name, runs in of_shop.items():
            share = median(value / seconds for seconds, value in runs)
            cells = [f"{median(run[0] for run in runs):.2f}", f"{median(run[1] for run in runs):.2f}", f"{share:.1%}"]
            verdict = "met" if share <= TARGET else "**missed**"
            lines.append(f"| {SHOPS[retailer].title} | {NIGHTS[name]} | {' | '.join(cells)} | {verdict} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure all shops, and write the section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--night", nargs=2, help=argparse.SUPPRESS)
    folders, options = Folders.parsed(parser)
    if options.night:
        night(*options.night)
        return
    found = {name: nights(name, folders, options.turns) for name in MEASURED}
    text = section(found)
    print(text)
    write_section(PAGE, BEGIN, END, text)


if __name__ == "__main__":
    main()
