"""Compare the segments with the rule-based RFM segments and with past spend on several shops: which tell who spends.

Usage: python benchmarks/worth.py [--data FOLDER] [--packages FOLDER] [--shop NAME]

Every shop is run by the pipeline with the shipped settings. The figures are those that the run published, and those of
the same month ends without the search over transforms. The result is written to `docs/worth.md`.
"""

import argparse
import shutil
import tempfile
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
from numpy.typing import NDArray
from shops import ROOT, SHOPS, Folders, finished_run

from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.model.arrays import Array
from segmentation_pipeline.model.lift import METRICS, Interval, Resamples, interval, lift, spend_groups
from segmentation_pipeline.model.thresholds import BACKTEST, FIT
from segmentation_pipeline.segments.backtest import past_segments, run_backtest
from segmentation_pipeline.warehouse.database import Warehouse

POPULATIONS = {"all": "all customers", "normal": "normal customers"}
# The goals: at most this far behind past spend among all customers, and not behind the rules anywhere.
BEHIND_SPEND = 0.01


@dataclass(frozen=True)
class Grouping:
    """How well a grouping predicts later spend, averaged over month ends.

    Attributes:
        groups: The number of groups.
        gini: The Gini of the later spend.
        lead: The interval of the segments' Gini minus that of the grouping; None if no resample defines it.
    """

    groups: float
    gini: float
    lead: Interval | None


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
        groupings: By population and name, groupings with the number of groups of the segments or of the rules.
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
    groupings: dict[str, dict[str, Grouping]]


def measured(name: str, folders: Folders) -> Finding:
    """Run the pipeline on a shop, and evaluate its segments with and without the search over transforms."""
    with finished_run(name, folders) as run, tempfile.TemporaryDirectory() as folder:
        copy, settings = Path(folder) / "copy.duckdb", run.settings
        shutil.copy(run.database, copy)
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
            found = {population: groupings(database, settings, population) for population in POPULATIONS}
            connection.execute(
                "update segmentation_models set transform = 'standard', n_clusters = $k where status = 'active'",
                {"k": number},
            )
            writes, *_ = run_backtest(database, settings)
            database.write(writes, {})
            by_default = database.rows("select * from backtest_verdict")
    return Finding(
        SHOPS[name].title,
        customers,
        chosen["transform"],
        chosen["n_clusters"],
        number,
        chosen["verdict"],
        rejected,
        {row["population"]: row for row in published},
        {row["population"]: row for row in by_default},
        found,
    )


def groupings(database: Warehouse, settings: Retailer, population: str) -> dict[str, Grouping]:
    """Compare the segments with groupings of as many groups, at the month ends that are reported.

    The rules are merged by past spend, as customers are for the groups of past spend: neighbours of the order in which
    they are compared become one group, so that the groups are of nearly equal size.
    """
    customers = database.row("select count(distinct customer_id) as customers from invoice_totals")["customers"]
    resamples = Resamples(customers, random_state=FIT.random_state, resamples=BACKTEST.resamples)
    counts, ginis, draws = (dict[str, list[Any]]() for _ in range(3))
    in_hindsight = list[Any]()
    for past in past_segments(database, settings):
        keys, columns = past.of(population)
        spend = columns["monetary"]
        segments, rules = (np.unique(of, return_inverse=True)[1] for of in (keys, columns["rfm_segment"]))
        of_segments, of_rules = (len(np.unique(of)) for of in (segments, rules))
        compared = {
            "segments": segments,
            "rules_merged": spend_groups(_means(rules, spend)[rules], of_segments),
            "spend": spend_groups(spend, of_segments),
            "rules": rules,
            "spend_as_rules": spend_groups(spend, of_rules),
            "frequency": spend_groups(columns["frequency"], of_segments),
            "recency": spend_groups(-columns["recency"], of_segments),
        }
        every = resamples.draw(columns["number"], compared, spend, columns["spend"])
        for name, of in compared.items():
            counts.setdefault(name, []).append(len(np.unique(of)))
            ginis.setdefault(name, []).append(lift(of, spend, columns["spend"]).gini)
            draws.setdefault(name, []).append(every[name][:, METRICS.index("gini")])
        by_future = _means(segments, columns["spend"])[segments]
        in_hindsight.append(lift(segments, by_future, columns["spend"]).gini)
    mean = {name: np.mean(of, axis=0) for name, of in draws.items()}
    found = {
        name: Grouping(float(np.mean(counts[name])), float(np.mean(of)), interval(mean["segments"] - mean[name]))
        for name, of in ginis.items()
    }
    return found | {"in_hindsight": Grouping(found["segments"].groups, float(np.mean(in_hindsight)), None)}


def _means(groups: NDArray[np.int64], values: Array) -> Array:
    return np.asarray(np.bincount(groups, values) / np.bincount(groups))


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
    lines += [
        "",
        *_as_many_groups(found),
        "",
        *_each_feature(found),
        "",
        "## What the search chose",
        "",
        "| shop | customers | chosen | `standard` alone | reason |",
    ]
    lines.append("|---|--:|---|---|---|")
    for one in found:
        lines.append(
            f"| {one.title} | {one.customers:,} | {one.transform}, {one.n_clusters} clusters"
            f" | {one.number_of_default} clusters | {one.verdict} |"
        )
    lines += ["", *_rejected(found), "", "## Goals", "", *_goals(found)]
    return "\n".join(lines) + "\n"


def _as_many_groups(found: list[Finding]) -> Iterator[str]:
    yield "## As many groups"
    yield ""
    yield _paragraph(
        "A finer order has a higher Gini, since customers of one group are tied. So the rules are also merged into as"
        " many groups as there are segments, along the order of their past spend, and past spend is divided into as"
        " many groups as there are rules. Groups are averages over the month ends; those of all customers include"
        " outliers and inactive customers. The lead is that of the segments over the merged rules."
    )
    yield ""
    yield (
        "| shop | customers | groups | segments | rules merged | past spend | lead over the merged rules"
        " | groups of the rules | rules | past spend |"
    )
    yield "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|"
    for one in found:
        for population, words in POPULATIONS.items():
            of = one.groupings[population]
            cells = [f"{of['segments'].groups:.1f}", *_ginis(of, "segments", "rules_merged", "spend")]
            cells += [_words(of["rules_merged"].lead), f"{of['rules'].groups:.1f}"]
            yield f"| {one.title} | {words} | {' | '.join(cells + _ginis(of, 'rules', 'spend_as_rules'))} |"


def _each_feature(found: list[Finding]) -> Iterator[str]:
    yield "## What the segments divide by"
    yield ""
    yield _paragraph(
        "Normal customers, divided into as many groups as there are segments by one feature alone. All groups are"
        " ordered by their past spend, never by the later one. The last column has the segments in the order of the"
        " later spend, which nobody knows beforehand: the difference is what the order by past spend costs."
    )
    yield ""
    yield "| shop | segments | money alone | frequency alone | recency alone | segments, ordered in hindsight |"
    yield "|---|--:|--:|--:|--:|--:|"
    for one in found:
        cells = _ginis(one.groupings["normal"], "segments", "spend", "frequency", "recency", "in_hindsight")
        yield f"| {one.title} | {' | '.join(cells)} |"


def _paragraph(text: str) -> str:
    return textwrap.fill(text, 120)


def _ginis(of: dict[str, Grouping], *names: str) -> list[str]:
    return [f"{of[name].gini:.3f}" for name in names]


def _words(lead: Interval | None) -> str:
    return "not defined" if lead is None else f"{lead[0]:+.3f} to {lead[1]:+.3f}"


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
    yield _paragraph(
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
        merged = normal["segments_gini"] - one.groupings["normal"]["rules_merged"].gini
        words = {"ahead": "met", "equal": "open: the difference is within the noise"}
        met = words.get(normal["verdict"], "**missed**")
        yield f"- {one.title}, normal customers: {over_rules:+.3f} against the rules ({met}); {merged:+.3f} if merged."
        met = "met" if behind <= BEHIND_SPEND else "**missed**"
        yield f"- {one.title}, all customers: {-behind:+.3f} against past spend ({met})."


def main() -> None:
    """Measure all shops, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shop", choices=SHOPS, help="measure one shop, and print the page only")
    folders, options = Folders.parsed(parser)
    found = [measured(name, folders) for name in SHOPS if options.shop in (None, name)]
    text = page(found)
    print(text)
    if options.shop is None:
        (ROOT / "docs" / "worth.md").write_text(text, "utf-8")


if __name__ == "__main__":
    main()
