"""Measure what runs cost, write `docs/benchmarks.md`, and exit with 1 if a goal is missed.

`make bench` runs the usual sizes, `make bench-scale` those of up to 100 million lines and 10 million customers
(`--scale`). Each writes its own part of the page. The results are also written to `docs/benchmarks.json`, from which
`--page-only` writes the page again.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.cost.goals import Verdict, verdicts
from benchmarks.cost.machine import QUIET, Machine
from benchmarks.cost.page import part_of_page, updated
from benchmarks.cost.processes import ROOT
from benchmarks.cost.scenarios import QUICK, SCALE, SCENARIOS, Bench, Result

PAGE = ROOT / "docs" / "benchmarks.md"
RESULTS = PAGE.with_suffix(".json")


def main() -> int:
    """Measure and write the page; return the exit code."""
    options = _options()
    part = SCENARIOS[options.only].part if options.only else SCALE if options.scale else QUICK
    names = [name for name, scenario in SCENARIOS.items() if scenario.part == part]
    stored: dict[str, Any] = {}
    if RESULTS.exists() and not options.trial:
        stored = json.loads(RESULTS.read_text("utf-8"))
    if not options.page_only:
        with tempfile.TemporaryDirectory(prefix="bench-") as temporary:
            _measure([options.only] if options.only else names, _bench(options, Path(temporary)), stored)
    results = {name: Result.of_json(values["result"]) for name, values in stored.items()}
    machines = {name: Machine(**values["machine"]) for name, values in stored.items()}
    text = part_of_page(part, results, machines) if any(name in results for name in names) else ""
    if options.trial:
        print(text)
    elif all(name in results for name in names):
        PAGE.write_text(updated(PAGE.read_text("utf-8") if PAGE.exists() else "", part, text), "utf-8")
        print(f"Wrote {PAGE}")
    else:
        print(f"No page: {', '.join(name for name in names if name not in results)} not measured yet.")
    found = verdicts(results, part)
    _print(found)
    failed = [name for name in names if name in results and results[name].error]
    return 1 if failed or not all(verdict.is_met for verdict in found) else 0


def _measure(names: Sequence[str], bench: Bench, stored: dict[str, Any]) -> None:
    """Measure scenarios, and store the results of each as soon as it has ended."""
    for name in names:
        machine = Machine.now()
        if name == names[0] and machine.load > QUIET:
            print(f"The machine is not idle (load {machine.load:.1f}): figures will be too high.", flush=True)
        result = SCENARIOS[name].measure(name, bench, lambda line: print(line, flush=True))
        stored[name] = {"result": result.as_json(), "machine": asdict(machine)}
        if not bench.is_trial:
            RESULTS.write_text(json.dumps(stored, indent=1), "utf-8")


def _bench(options: argparse.Namespace, temporary: Path) -> Bench:
    return Bench(
        folder=(options.folder or temporary).resolve(),
        by_day=(options.data / "online_retail" / "by-day").resolve(),
        script=(options.baselines / "notebook_baseline.py").resolve(),
        limit=(options.baselines / "limit.py").resolve(),
        turns=1 if options.trial else options.turns,
        is_trial=options.trial,
    )


def _print(found: Sequence[Verdict]) -> None:
    shown = Table(title="Goals", title_justify="left", box=SIMPLE_HEAD)
    for name in ("goal", "measured", "target", ""):
        shown.add_column(name, justify="left" if name == "goal" else "right")
    for verdict in found:
        shown.add_row(*verdict.cells, style="" if verdict.is_met else "red")
    Console().print(shown)


def _options() -> argparse.Namespace:
    shared = ROOT.parent / "shared"
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cost", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", action="store_true", help="the large shops instead of the usual sizes")
    parser.add_argument("--only", choices=SCENARIOS, help="one scenario")
    parser.add_argument("--turns", type=int, default=3, help="turns of each scenario that may have as many (default 3)")
    parser.add_argument("--data", type=Path, default=shared / "data", help="folder with the Online Retail data")
    parser.add_argument("--baselines", type=Path, default=shared / "bench", help="folder of the script and the limit")
    parser.add_argument("--folder", type=Path, help="keep the sources here, and use them again (default: temporary)")
    parser.add_argument("--page-only", action="store_true", help="write the page from the stored results")
    parser.add_argument(
        "--trial", action="store_true", help="test the bench itself: a hundredth of the lines, one turn, no page"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
