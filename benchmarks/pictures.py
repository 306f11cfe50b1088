"""Draw the pictures of the documentation from a run over Online Retail, and write the page of its results.

Usage: python benchmarks/pictures.py [--data FOLDER]

The pictures, small SVG files that are equal on each run, are written to `docs/pictures/`, the page to
`docs/online_retail.md`.
"""

import argparse
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path

import altair as alt
import duckdb
import pandas as pd
from replay import WINDOWS, window
from shops import ROOT, Folders, finished_run

from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.model import thresholds
from segmentation_pipeline.releases.store import Releases
from segmentation_pipeline.reports import charts, theme
from segmentation_pipeline.reports.frames import read_frames
from segmentation_pipeline.reports.rendering import compact, svg_of

FOLDER = ROOT / "docs" / "pictures"
# Methods of `replay`, with the colour and the dashes of the line of each.
METHODS = {
    "raw": ("fit each night, not matched", theme.MUTED, [2, 2]),
    "matched": ("fit each night, matched", theme.LOST, [6, 2]),
    "stateless": ("nearest segment, same models", theme.THIRD, [8, 2, 2, 2]),
    "ours": ("the pipeline", theme.KEPT, [1, 0]),
}


def save(chart: charts.AnyChart, name: str) -> None:
    file = FOLDER / f"{name}.svg"
    file.write_text(compact(svg_of(chart)) + "\n", "utf-8")
    print(file)


def stability(database: Path, settings: Retailer) -> charts.AnyChart:
    """Draw the share of customers that keep their segment, night by night."""
    found = window(database, WINDOWS[0], 60, settings)
    nights = [found.last - timedelta(days=len(found.promoted) - 1 - night) for night in range(len(found.promoted))]
    rows = pd.DataFrame(
        [
            {"night": night.isoformat(), "kept": kept, "method": label}
            for name, (label, _, _) in METHODS.items()
            for night, kept in zip(nights, found.strategies[name].kept, strict=True)
        ]
    )
    labels, colours, dashes = zip(*METHODS.values(), strict=True)
    legend = alt.Legend(columns=2, symbolSize=900)
    colour = alt.Color("method:N", scale=alt.Scale(domain=labels, range=colours), legend=legend)
    dash = alt.StrokeDash("method:N", scale=alt.Scale(domain=labels, range=dashes), legend=legend)
    panels = []
    for title, lowest in (("share that keeps the segment", 0.0), ("the same, enlarged", 0.94)):
        y = alt.Y("kept:Q", title=title, scale=alt.Scale(domain=[lowest, 1]), axis=alt.Axis(format=".0%", tickCount=4))
        x = alt.X("night:T", title=None, axis=alt.Axis(format="%d %b %Y", tickCount=4))
        lines = alt.Chart(rows).mark_line(clip=True).encode(x=x, y=y, color=colour, strokeDash=dash)
        panels.append(lines.properties(width=theme.WIDTH, height=150))
    return alt.vconcat(*panels).configure(**theme.config(settings.currency))


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
    folders, _ = Folders.parsed(parser)
    FOLDER.mkdir(exist_ok=True)
    with finished_run("online_retail", folders) as run:
        database, settings = run.database, run.settings
        release = Releases(database.parent / "releases").all()[-1]
        frames, currency = read_frames(release), settings.currency
        # A few hundred customers, because every reader of the page downloads them.
        customers = frames["customers"].head(450)
        save(charts.segment_map(customers, frames["centroids"], frames["segments"], currency), "segments")
        save(charts.choice_of_k(frames["candidates"], currency), "choice_of_k")
        save(charts.lift(frames["backtest"], currency), "backtest")
        with duckdb.connect(str(database), read_only=True) as connection:
            text = "\n".join(page(connection, settings)) + "\n"
            (ROOT / "docs" / "online_retail.md").write_text(text, "utf-8")
        save(stability(database, settings), "stability")


if __name__ == "__main__":
    main()
