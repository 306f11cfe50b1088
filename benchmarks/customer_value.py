"""Compare the models of customer value with those of pymc-marketing on the CDNOW sample of 2,357 customers.

Usage: python benchmarks/customer_value.py [--python INTERPRETER] [--methods map mcmc]

pymc-marketing is installed into an environment of its own, unless INTERPRETER is that of one. The result is written
into the section of `docs/customer_value.md` between two comments.
"""

import argparse
import csv
import json
import subprocess
import sys
import time
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.sections import write_section
from segmentation_pipeline.model.arrays import Array
from segmentation_pipeline.model.customer_value import expected_purchases, expected_spend, fit_purchases, fit_spend
from segmentation_pipeline.model.thresholds import FIT

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "customer_value.md"
BEGIN, END = "<!-- benchmarks/customer_value.py writes from here -->\n", "<!-- to here -->\n"
SUMMARY = files("lifetimes") / "datasets" / "cdnow_customers_summary_with_transactions.csv"
PACKAGE = "pymc-marketing==0.19.2"
# The weeks after the sample ends in which its customers were observed.
WEEKS = 39
TITLES = {"map": "posterior mode", "mcmc": "posterior mean"}


def ours() -> dict[str, Any]:
    """Fit both models with this package."""
    with SUMMARY.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    repeats, last, age, mean = (np.array([float(row[name]) for row in rows]) for name in ("x", "t_x", "T", "zbar"))
    again = repeats > 0
    start = time.perf_counter()
    purchases = fit_purchases(repeats, last, age, random_state=FIT.random_state)
    middle = time.perf_counter()
    spend = fit_spend(repeats[again], mean[again], random_state=FIT.random_state)
    return {
        "purchases": dict(zip(("r", "alpha", "a", "b"), purchases.values, strict=True)),
        "spend": dict(zip(("p", "q", "v"), spend.values, strict=True)),
        "purchases_expected": expected_purchases(np.array(purchases.values), repeats, last, age, WEEKS),
        "spend_expected": expected_spend(np.array(spend.values), repeats[again], mean[again]),
        "purchases_seconds": middle - start,
        "spend_seconds": time.perf_counter() - middle,
    }


def theirs(python: Path, method: str) -> dict[str, Any]:
    """Fit both models with pymc-marketing, in its environment."""
    script = Path(__file__).with_name("pymc_reference.py")
    done = subprocess.run(
        [str(python), str(script), method, str(WEEKS)], input=SUMMARY.read_text("utf-8"), capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{done.stderr}\npymc-marketing failed in {python}.")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def installed(python: Path) -> Path:
    """Install pymc-marketing where its environment does not exist yet."""
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(python.parents[1])], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", PACKAGE], check=True)
    return python


def section(found: dict[str, dict[str, Any]]) -> str:
    """Return the text of the section; the first result is that of this package."""
    versions = {one["version"] for one in found.values() if "version" in one}
    lines = [
        "Written by `benchmarks/customer_value.py`: the same models on the CDNOW sample of 2,357 customers, fitted by",
        f"pymc-marketing {', '.join(versions)} with its default priors. Purchases are those of the next {WEEKS} weeks.",
        "",
        "| | " + " | ".join(found) + " |",
        "|---|" + "--:|" * len(found),
    ]
    results = list(found.values())
    for of in ("purchases", "spend"):
        for name in results[0][of]:
            symbol = "gamma" if name == "v" else name
            lines.append(f"| {symbol} | {' | '.join(f'{one[of][name]:.3f}' for one in results)} |")
    for of, words, form in (("purchases", "purchases", ",.0f"), ("spend", "spend of a purchase, mean", ",.2f")):
        total = np.sum if of == "purchases" else np.mean
        cells = [format(float(total(one[f"{of}_expected"])), form) for one in results]
        lines.append(f"| expected {words} | {' | '.join(cells)} |")
        apart = [_apart(results[0][f"{of}_expected"], one[f"{of}_expected"]) for one in results[1:]]
        lines.append(f"| largest difference of a customer | | {' | '.join(apart)} |")
    cells = [f"{one['purchases_seconds'] + one['spend_seconds']:,.1f} s" for one in results]
    lines.append(f"| time of both fits | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _apart(ours: Array, theirs: list[float]) -> str:
    """Return the largest difference, and its share of the expectation."""
    differences = np.abs(np.asarray(theirs) - ours)
    place = int(differences.argmax())
    return f"{differences[place]:.3f} of {ours[place]:.2f}"


def main() -> None:
    """Fit all, and write the section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--python", type=Path, default=ROOT / ".venv" / "pymc" / "bin" / "python", help="interpreter of pymc-marketing"
    )
    parser.add_argument("--methods", nargs="+", choices=TITLES, default=list(TITLES))
    options = parser.parse_args()
    python = installed(options.python)
    found = {"this package": ours()}
    found |= {f"pymc-marketing, {TITLES[method]}": theirs(python, method) for method in options.methods}
    text = section(found)
    print(text)
    write_section(PAGE, BEGIN, END, text)


if __name__ == "__main__":
    main()
