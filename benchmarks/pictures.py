"""Draw the pictures of the documentation from a run over Online Retail, and write the page of its results.

Usage: python benchmarks/pictures.py [--data FOLDER]

The pictures, small SVG files that are equal on each run, are written to `docs/pictures/`, the page to
`docs/online_retail.md`.
"""

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from replay import ROOT, WINDOWS, prepared, window

from segmentation_pipeline.config.loading import load_settings
from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.model import thresholds
from segmentation_pipeline.model.k_search import bootstrap_ari
from segmentation_pipeline.model.kmeans import fit
from segmentation_pipeline.model.segment_catalog import SEGMENTS

FOLDER = ROOT / "docs" / "pictures"
INK, GREY, BLUE, ORANGE, GREEN = "#333333", "#999999", "#08519c", "#d94801", "#33a02c"
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "segmentation_pipeline",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.edgecolor": INK,
    "legend.frameon": False,
}


def save(figure: Figure, name: str) -> None:
    figure.savefig(FOLDER / f"{name}.svg", metadata={"Date": None, "Creator": None})
    print(FOLDER / f"{name}.svg")


def choice_of_k(connection: duckdb.DuckDBPyConnection, settings: Retailer) -> Figure:
    """Draw silhouette and worst resample of each number of clusters, including those the search did not need."""
    rules = thresholds.SEARCH
    method: dict[str, Any] = asdict(thresholds.FIT)
    found = connection.execute(
        "select monetary::double as m, frequency::double as f, recency::double as r"
        " from normal_customers order by customer_id"
    ).fetchnumpy()
    features = np.column_stack([found["m"], found["f"], found["r"]])
    numbers = range(rules.k_min, rules.k_max + 1)
    models = [fit(features, transform=settings.model.transform, n_clusters=k, **method) for k in numbers]
    silhouettes = [model.silhouette_ for model in models]
    worst = [
        bootstrap_ari(m.scaler.apply(features), m.centroids_, resamples=rules.resamples, **method).min() for m in models
    ]
    [(chosen,)] = connection.execute("select n_clusters from kmeans_candidates where is_chosen").fetchall()
    figure = Figure(figsize=(7.5, 2.8), layout="constrained")
    for axes, title, values, floor in zip(
        figure.subplots(1, 2),
        ("Silhouette", f"Worst agreement of {rules.resamples} resamples (ARI)"),
        (silhouettes, worst),
        ((1 - rules.tolerance) * max(silhouettes), rules.min_stability),
        strict=True,
    ):
        axes.plot(numbers, values, color=GREY, zorder=1)
        colours = [
            BLUE if k == chosen else INK if value >= floor else ORANGE for k, value in zip(numbers, values, strict=True)
        ]
        axes.scatter(numbers, values, c=colours, s=36, zorder=2)
        axes.axhline(floor, color=ORANGE, linewidth=0.8, linestyle="--")
        axes.text(numbers[0], floor - 0.01, f"at least {floor:.2f}", color=ORANGE, va="top")
        axes.annotate("chosen", (chosen, values[chosen - numbers[0]]), (6, 5), textcoords="offset points", color=BLUE)
        axes.set(title=title, xlabel="clusters", ylim=(0, 1.04 * max(*values, floor)))
    return figure


def segments(connection: duckdb.DuckDBPyConnection) -> Figure:
    """Draw a third of the customers, selected by hash, in the plane of spend and recency."""
    rows = connection.execute(
        "select segment_key, monetary::double, recency from customer_segments"
        " where monetary > 1 and substr(md5(customer_id), 9, 1) < '5' order by customer_id"
    ).fetchall()
    counts = dict(connection.execute("select segment_key, customers from segment_profiles").fetchall())
    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    axes = figure.subplots()
    for segment in SEGMENTS:
        if mine := [(money, recency) for key, money, recency in rows if key == segment.key]:
            label = f"{segment.name} ({counts[segment.key]:,})"
            axes.scatter(*zip(*mine, strict=True), s=9, color=segment.colour, linewidths=0, label=label)
    axes.set(xscale="log", xlabel="money spent, net of refunds (GBP)", ylabel="days since the last purchase")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.invert_yaxis()
    figure.legend(loc="outside right center", markerscale=2)
    return figure


def stability(database: Path, settings: Retailer) -> Figure:
    """Draw the share of customers that keep their segment, night by night."""
    found = window(database, WINDOWS[0], 60, settings)
    nights = [found.last - timedelta(days=len(found.promoted) - 1 - night) for night in range(len(found.promoted))]
    lines = (
        ("raw", "fit each night, not matched", GREY, 0.8),
        ("matched", "fit each night, matched", ORANGE, 1.0),
        ("stateless", "nearest segment, same models", GREEN, 1.0),
        ("ours", "the pipeline", BLUE, 1.8),
    )
    figure = Figure(figsize=(7.5, 3.6), layout="constrained")
    whole, close = figure.subplots(1, 2)
    for axes, shown in ((whole, lines), (close, lines[1:])):
        for name, label, colour, width in shown:
            label = label if axes is whole else "_"
            axes.plot(nights, found.strategies[name].kept, color=colour, linewidth=width, label=label)
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.xaxis.set_major_locator(mpl.dates.MonthLocator())
        axes.xaxis.set_major_formatter(mpl.dates.DateFormatter("%d %b %Y"))
    promotions = [
        (night, share)
        for night, share, promoted in zip(nights, found.strategies["ours"].kept, found.promoted, strict=True)
        if promoted
    ]
    close.scatter(*zip(*promotions, strict=True), s=22, color=BLUE, zorder=3, label="refit promoted")
    whole.set(title="Customers that keep their segment overnight", ylim=(0, 1.02))
    close.set(title="The same, enlarged", ylim=(0.94, 1.002))
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def worth(connection: duckdb.DuckDBPyConnection) -> Figure:
    """Draw the Gini of later spend of three segmentations, with its intervals."""
    figure = Figure(figsize=(7.5, 3.2), layout="constrained")
    for axes, (population, title) in zip(
        figure.subplots(1, 2, sharey=True),
        (("all", "All customers"), ("normal", "Normal customers only")),
        strict=True,
    ):
        for place, (name, label, colour) in enumerate(
            (
                ("segments", "segments", BLUE),
                ("spend", "spend alone, as many groups", ORANGE),
                ("rfm_segments", "ten rule-based RFM segments", GREEN),
            )
        ):
            rows = connection.execute(
                "select month_end, value, low, high from backtest_metrics where metric = 'gini'"
                " and population = $population and segmentation = $name order by month_end",
                {"population": population, "name": name},
            ).fetchall()
            values, low, high = (np.array([row[at] for row in rows], float) for at in (1, 2, 3))
            axes.errorbar(
                np.arange(len(rows)) + 0.2 * (place - 1),
                values,
                [values - low, high - values],
                fmt="o",
                color=colour,
                markersize=4,
                linewidth=1.2,
                label=label if population == "all" else "_",
            )
        axes.set(title=title, xticks=range(len(rows)), ylim=(0, 0.75))
        axes.set_xticklabels([f"{row[0] - timedelta(days=1):%d %b %Y}" for row in rows])
    figure.axes[0].set_ylabel("Gini of the next 90 days' spend")
    figure.legend(loc="outside lower center", ncols=3)
    return figure


PAGE = """# Results on Online Retail

Written by `benchmarks/pictures.py` (`make bench-pages`), from one run with the shipped settings (refunds netted):
the lines to {as_of:%Y-%m-%d}, {customers:,} customers. [segments.md](segments.md) explains the tables,
[tables.md](tables.md) the columns, [choice_of_k.md](choice_of_k.md) the choice of the number of clusters.
"""
BACKTEST = """The metrics of `backtest_metrics`: segments as they would have been formed as of a month end, with the
active number of clusters, compared with the spend of the next {days} days; beside them spend alone in as many groups,
and the rule-based RFM segments. *Lead* is the 95 % interval of the segments' metric less the other's; in bold where it
does not contain 0, so that the difference is beyond the noise.
"""
METRICS = {"gini": "Gini", "top_decile": "top decile", "spearman": "Spearman"}
POPULATIONS = {"all": "all customers", "normal": "normal customers only"}
RIVALS = {"spend": "spend", "rfm_segments": "rules"}
Connection = duckdb.DuckDBPyConnection


def page(connection: Connection, settings: Retailer) -> Iterator[str]:
    """Yield the lines of the page."""
    [(as_of, customers)] = connection.execute("select max(as_of), count(*) from customer_segments").fetchall()
    yield PAGE.format(as_of=as_of, customers=customers)
    yield from ("## The segments", "")
    yield from table(
        connection,
        "select segment, customer_group, customers, customer_share, revenue, revenue_share, mean_monetary,"
        " mean_frequency, mean_recency from segment_profiles order by revenue desc",
        {
            "segment": "",
            "group": "",
            "customers": ",",
            "of all": ".1%",
            "revenue": ",.0f",
            "of the revenue": ".1%",
            "mean spend": ",.0f",
            "mean purchases": ".1f",
            "mean recency": ".0f",
        },
    )
    yield from ("", "## The outliers", "")
    [beyond] = connection.execute("select sum(customer_share), sum(revenue_share) from outlier_profiles").fetchall()
    yield "{:.1%} of the customers are beyond a fence and make {:.1%} of the revenue.".format(*beyond)
    yield ""
    yield from table(
        connection,
        "select segment, customers, revenue_share, gini, top_10_share, lapsing_customers, revenue_at_risk_share"
        " from outlier_profiles order by revenue desc",
        {
            "segment": "",
            "customers": ",",
            "of the revenue": ".1%",
            "Gini within": ".2f",
            "ten best customers make": ".0%",
            "lapsing": ",",
            "of its revenue at risk": ".1%",
        },
    )
    yield ""
    yield from table(
        connection,
        "select feature, q1, q3, lower_fence, upper_fence from outlier_fences order by feature desc",
        {"fences of": "", "first quartile": ",g", "third quartile": ",g", "lower": ",g", "upper": ",g"},
    )
    yield from ("", "## The back-test", "", BACKTEST.format(days=thresholds.BACKTEST.horizon_days))
    yield from verdicts(connection)
    for population, who in POPULATIONS.items():
        for metric, name in METRICS.items():
            yield from ("", f"### {name[0].upper()}{name[1:]}, {who}", "")
            yield from month_by_month(connection, population, metric)


def table(connection: Connection, select: str, columns: Mapping[str, str]) -> Iterator[str]:
    """Yield the rows of a SELECT as a table with these heads and formats; the first column is text."""
    yield f"| {' | '.join(columns)} |"
    yield f"|---|{'--:|' * (len(columns) - 1)}"
    for row in connection.execute(select).fetchall():
        yield f"| {' | '.join(map(format, row, columns.values()))} |"


def verdicts(connection: Connection) -> Iterator[str]:
    """Yield in how many months the segments are better or worse than each other method, beyond the noise."""
    yield "| | | months | better than spend | worse than spend | better than the rules | worse than the rules |"
    yield f"|---|---|{'--:|' * 5}"
    for population, who in POPULATIONS.items():
        for metric, name in METRICS.items():
            counts: list[int] = []
            for rival in RIVALS:
                [found] = connection.execute(
                    "select count(*), count_if(segments_lead_low > 0), count_if(segments_lead_high < 0)"
                    " from backtest_metrics where population = ? and metric = ? and segmentation = ?",
                    [population, metric, rival],
                ).fetchall()
                counts += found[1:] if counts else found
            yield f"| {who} | {name} | {' | '.join(map(str, counts))} |"


def month_by_month(connection: Connection, population: str, metric: str) -> Iterator[str]:
    """Yield one metric of one population, a row per month."""
    yield f"| to | segments | {' | '.join(f'{words} | lead over {words}' for words in RIVALS.values())} |"
    yield f"|---|--:|{'--:|--:|' * len(RIVALS)}"
    found = connection.execute(
        "select month_end, segmentation, value, segments_lead_low, segments_lead_high from backtest_metrics"
        " where population = ? and metric = ?",
        [population, metric],
    ).fetchall()
    values = {(month, name): rest for month, name, *rest in found}
    for month in sorted({month for month, _ in values}):
        cells = [f"{values[month, 'segments'][0]:.3f}"]
        for rival in RIVALS:
            value, low, high = values[month, rival]
            interval = f"{low:+.3f} to {high:+.3f}"
            cells += [f"{value:.3f}", f"**{interval}**" if low > 0 or high < 0 else interval]
        yield f"| {month - timedelta(days=1):%Y-%m-%d} | {' | '.join(cells)} |"


def main() -> None:
    """Draw the pictures, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder with the data")
    options = parser.parse_args()
    settings = load_settings("online_retail")
    FOLDER.mkdir(exist_ok=True)
    with prepared(options.data) as database, mpl.rc_context(STYLE):
        with duckdb.connect(str(database), read_only=True) as connection:
            save(choice_of_k(connection, settings), "choice_of_k")
            save(segments(connection), "segments")
            save(worth(connection), "backtest")
            text = "\n".join(page(connection, settings)) + "\n"
            (ROOT / "docs" / "online_retail.md").write_text(text, "utf-8")
        save(stability(database, settings), "stability")


if __name__ == "__main__":
    main()
