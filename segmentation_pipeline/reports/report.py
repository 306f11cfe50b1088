"""The report of a release: one page for people who market, without names of customers and without script.

Contains what the page says. How it looks is in `report.html.jinja`; its charts are in `charts`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from segmentation_pipeline.releases.files import Release
from segmentation_pipeline.reports import theme
from segmentation_pipeline.reports.figures import Drawing, Shown, draw
from segmentation_pipeline.reports.formatting import format_money, format_number, format_share
from segmentation_pipeline.reports.frames import COMPARED, Frames, read_frames
from segmentation_pipeline.reports.rendering import inlined

_TEMPLATE = "report.html.jinja"
# A figure of the template that has a chart.
_FIGURE = re.compile(
    r'<figure data-rows="(\w+)">\s*<h3 id="(\w+)-title">[^<]*</h3>\s*'
    r"(<svg.*?</svg>)\s*<figcaption[^>]*>(.*?)</figcaption>",
    re.DOTALL,
)
# Kaufman & Rousseeuw (1990), "Finding Groups in Data".
_SILHOUETTES = ((0.7, "a strong structure"), (0.5, "a reasonable structure"), (0.25, "a weak structure"))
_DRIFT = {
    "psi_monetary": "money",
    "psi_frequency": "frequency",
    "psi_recency": "recency",
    "share_moved": "customers that changed segment",
    "share_new": "new customers",
}


@dataclass(frozen=True)
class Report:
    """The report of one release.

    Attributes:
        html: The page.
        drawings: Its charts, which the interface shows too.
    """

    html: str
    drawings: Sequence[Drawing]


def report_of(
    release: Release, title: str, previous: Release | None = None, *, digest: str = "", code: str = "", last: str = ""
) -> Report:
    """Return the report of a release.

    Args:
        release: The release, which says everything but the title: the same release gives the same page.
        title: The name of the retailer for readers.
        previous: The release that it is compared with.
        digest: A digest of all that the page shows, which it contains.
        code: A digest of what draws the page.
        last: The last page, whose charts are used again where they show the same rows.
    """
    from jinja2 import Environment, StrictUndefined

    frames = read_frames(release, previous)
    before = read_frames(previous, names=COMPARED) if previous is not None else None
    currency = release.manifest.get("currency")
    drawings = list(draw(frames, currency, code=code, last=figures_on(last)))
    template = (Path(__file__).parent / _TEMPLATE).read_text("utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page = _Page(release, previous, frames, before, currency)
    html = environment.from_string(template).render(
        page.content(),
        title=title,
        # A page that lacks a chart because of an error is drawn again in the next night.
        digest="" if any(drawing.error for drawing in drawings) else digest,
        figures={drawing.figure.name: _figure(drawing) for drawing in drawings},
    )
    return Report(html, drawings)


def figures_on(page: str) -> dict[str, Shown]:
    """Return the figures of a page by name, without those that have no chart."""
    return {name: Shown(rows, svg, text) for rows, name, svg, text in _FIGURE.findall(page)}


def _figure(drawing: Drawing) -> dict[str, Any]:
    from markupsafe import Markup

    name, svg, text = drawing.figure.name, "", drawing.text
    # The charts are drawn here, and their texts are escaped by the renderer.
    if drawing.shown is not None:
        svg, text = Markup(drawing.shown.svg), Markup(drawing.shown.text)  # noqa: S704
    elif drawing.svg:
        svg = Markup(inlined(drawing.svg, f"{name}-title {name}-text"))  # noqa: S704
    return {"name": name, "title": drawing.figure.title, "text": text, "svg": svg, "rows": drawing.rows}


class _Page:
    """What the page says about one release."""

    def __init__(
        self, release: Release, previous: Release | None, frames: Frames, before: Frames | None, currency: str | None
    ) -> None:
        self.release, self.previous, self.frames, self.before, self.currency = (
            release,
            previous,
            frames,
            before,
            currency,
        )

    def content(self) -> dict[str, Any]:
        """Return everything that the template shows."""
        return {
            "as_of": f"{self.release.as_of:%-d %B %Y, %H:%M}",
            "release": self.release.name,
            "compared": "" if self.previous is None else f"{self.previous.as_of:%-d %B %Y}",
            "headlines": self._headlines(),
            "actions": self._actions(),
            "segments": self._segments(),
            "lapsing": self._lapsing(),
            "lapsing_missing": self.frames.missing.get("lapsing", ""),
            "value": self._value(),
            "value_missing": self.frames.missing.get("value", ""),
            "moves": self._moves(),
            "outliers": self._outliers(),
            "losses": self._losses(),
            "quality": self._quality(),
            "made": self._made(),
        }

    def money(self, amount: Any) -> str:
        return format_money(float(amount), self.currency)

    def count(self, number: Any) -> str:
        return format_number(int(number), self.currency)

    def share(self, share: float, decimals: int = 1) -> str:
        return format_share(share, self.currency, decimals=decimals)

    def _headlines(self) -> list[dict[str, str]]:
        now = _figures(self.frames)
        before = _figures(self.before) if self.before is not None else {}
        rows: list[tuple[str, str, str]] = [
            ("customers", "customers", "count"),
            ("revenue", "revenue, net of refunds", "money"),
            ("outlier_share", "of revenue from outliers", "share"),
            ("valuable", "valuable customers lapsing", "count"),
            ("valuable_revenue", "spent by these so far", "money"),
            ("kept", "of the lines read count", "share"),
        ]
        return [
            {
                "label": label,
                "value": getattr(self, form)(now[name]),
                "change": self._change(now[name], before.get(name), form),
            }
            for name, label, form in rows
            if name in now
        ]

    def _change(self, now: float, before: float | None, form: str) -> str:
        if before is None:
            return ""
        difference = now - before
        if form == "share":
            points = format_number(100 * difference, self.currency, decimals=1)
            return f"{'+' if difference > 0 else ''}{points} points"
        text = getattr(self, form)(difference)
        if not any(digit in text for digit in "123456789"):
            return "no change"
        relative = f" ({'+' if difference > 0 else ''}{self.share(difference / before)})" if before else ""
        return f"{'+' if difference > 0 else ''}{text}{relative}"

    def _actions(self) -> list[dict[str, str]]:
        """Return what to do first: who is leaving, who earns most, who are most."""
        actions, segments = [], self.frames["segments"]
        lapsing = self.frames["lapsing"]
        if len(lapsing) and lapsing["valuable"].sum() > 0:
            first = lapsing.iloc[0]
            actions.append(
                {
                    "head": f"Contact the {self.count(lapsing['valuable'].sum())} valuable customers who are lapsing.",
                    "text": f"They have spent {self.money(lapsing['valuable_revenue'].sum())} so far."
                    f" {self.count(first['valuable'])} of them are in {theme.name_of(first['segment_key'])}"
                    f" ({self.money(first['valuable_revenue'])}): begin there.",
                }
            )
        paying = segments[segments["customer_group"] != "inactive"] if len(segments) else segments
        if len(paying):
            actions.append(self._action("Keep {name}, which earns most.", paying.iloc[0]))
            largest = paying.sort_values("customers", ascending=False).iloc[0]
            if largest["segment_key"] != paying.iloc[0]["segment_key"]:
                actions.append(self._action("{name} is the largest segment.", largest))
        return actions

    def _action(self, head: str, segment: pd.Series) -> dict[str, str]:
        return {
            "head": head.format(name=segment["segment"]),
            "text": f"{self.count(segment['customers'])} customers ({self.share(segment['customer_share'])}) bring"
            f" {self.money(segment['revenue'])} ({self._revenue_share(segment)}). {segment['action']}",
        }

    def _revenue_share(self, segment: pd.Series) -> str:
        share = segment["revenue_share"]
        return "share unknown" if pd.isna(share) else f"{self.share(share)} of revenue"

    def _segments(self) -> list[dict[str, Any]]:
        lapsing = _by_key(self.frames["lapsing"])
        months = self.frames["months"]
        return [
            {
                "name": row["segment"],
                "colour": theme.colour_of(row["segment_key"]),
                "group": row["customer_group"],
                "meaning": row["description"],
                "action": row["action"],
                "customers": f"{self.count(row['customers'])} ({self.share(row['customer_share'])})",
                "revenue": f"{self.money(row['revenue'])} ({self._revenue_share(row)})",
                "typical": f"{self.money(row['median_monetary'])}, {self.count(row['median_frequency'])} purchases,"
                f" {self.count(row['median_recency'])} days ago",
                "lapsing": self._lapsing_text(lapsing.get(row["segment_key"]), row["customers"]),
                "trend": self._trend(months, row["segment_key"]),
            }
            for _, row in self.frames["segments"].iterrows()
        ]

    def _lapsing_text(self, row: Mapping[str, Any] | None, customers: int) -> str:
        if row is None:
            return ""
        return f"{self.count(row['lapsing'])} ({self.share(row['lapsing'] / customers, 0)})"

    def _trend(self, months: pd.DataFrame, key: str) -> dict[str, Any]:
        """Return the customers of the segment at the comparable month ends of a year, as words and as a line."""
        comparable = months[months["is_comparable"]] if len(months) else months
        if not len(comparable) or comparable["month_end"].nunique() < 2:
            return {"text": "", "points": ""}
        ends = sorted(comparable["month_end"].unique())[-13:]
        found = comparable[comparable["segment_key"] == key].set_index("month_end")["customers"]
        counts = [int(found.get(end, 0)) for end in ends]
        top = max([*counts, 1])
        points = " ".join(f"{80 * n / (len(ends) - 1):.1f},{20 - 18 * c / top:.1f}" for n, c in enumerate(counts))
        change = (
            f" ({'+' if counts[-1] >= counts[0] else ''}{self.share(counts[-1] / counts[0] - 1)})" if counts[0] else ""
        )
        text = f"{self.count(counts[0])} to {self.count(counts[-1])} customers in {len(ends) - 1} months{change}"
        return {"text": text, "points": points}

    def _lapsing(self) -> list[list[str]]:
        rows = self.frames["lapsing"]
        shown = rows[rows["lapsing"] > 0] if len(rows) else rows
        return [
            [
                theme.name_of(row["segment_key"]),
                self.count(row["valuable"]),
                self.money(row["valuable_revenue"]),
                self.count(row["lapsing"]),
                self.money(row["lapsing_revenue"]),
            ]
            for _, row in shown.iterrows()
        ]

    def _value(self) -> list[list[str]]:
        return [
            [
                theme.name_of(row["segment_key"]),
                self.money(row["expected_spend_90"]),
                self.money(row["expected_spend_365"]),
                self.money(row["mean_expected_spend_365"]),
                self.money(0 if pd.isna(row["spend_at_risk_365"]) else row["spend_at_risk_365"]),
            ]
            for _, row in self.frames["value"].iterrows()
        ]

    def _moves(self) -> list[list[str]]:
        rows = self.frames["moved"]
        moved = rows[rows["from_segment"] != rows["to_segment"]].head(10) if len(rows) else rows
        return [
            [theme.name_of(row["from_segment"]), theme.name_of(row["to_segment"]), self.count(row["customers"])]
            for _, row in moved.iterrows()
        ]

    def _outliers(self) -> dict[str, Any]:
        rows = self.frames["outliers"]
        if not len(rows):
            return {"text": "No customer is beyond a fence.", "rows": []}
        shares = f"{self.share(rows['customer_share'].sum())} of the customers"
        revenue = rows["revenue_share"].sum()
        return {
            "text": f"{shares} spend far more or buy far more often than the others, and make {self.share(revenue)} of"
            " the revenue. The model is fitted without them.",
            "rows": [
                [
                    row["segment"],
                    self.count(row["customers"]),
                    self.money(row["revenue"]),
                    self.share(row["top_10_share"], 0),
                    self.count(row["lapsing_customers"]),
                    self.money(row["revenue_at_risk"]),
                ]
                for _, row in rows.iterrows()
            ],
        }

    def _losses(self) -> list[list[str]]:
        rows = self.frames["losses"]
        shown = rows[(rows["lines"] > 0) & (rows["step"] > 0)]
        return [
            [
                row["rule"],
                row["reason"],
                self.count(row["lines"]),
                self.share(row["share"]),
                "unknown" if pd.isna(row["amount"]) else self.money(row["amount"]),
            ]
            for _, row in shown.iterrows()
        ]

    def _quality(self) -> list[str]:
        texts = []
        model, candidates = self.frames["model"], self.frames["candidates"]
        if len(model):
            silhouette = float(model["silhouette"].iloc[0])
            words = next((words for bound, words in _SILHOUETTES if silhouette > bound), "no substantial structure")
            number = format_number(silhouette, self.currency, decimals=2)
            texts.append(f"The silhouette is {number}: {words}. 1 would be perfectly separate groups, 0 none.")
        if len(candidates):
            texts += [str(verdict) for verdict in candidates.loc[candidates["is_chosen"], "verdict"]]
        return [*texts, *map(str, self.frames["verdict"].get("sentence", ())), *self._drift()]

    def _drift(self) -> list[str]:
        rows = self.frames["drift"]
        above = [_DRIFT.get(row["metric"], row["metric"]) for _, row in rows.iterrows() if row["value"] > row["bound"]]
        if not len(rows):
            return []
        if above:
            return [f"Customers have changed since the fit beyond the bound in: {', '.join(above)}. Consider a refit."]
        return ["Customers have not changed beyond the bounds since the model was fitted."]

    def _made(self) -> list[tuple[str, str]]:
        manifest, model = self.release.manifest, self.frames["model"]
        rows = [
            ("Release", self.release.name),
            ("As of", f"{self.release.as_of:%Y-%m-%d %H:%M} ({manifest.get('time_zone', 'local time')})"),
            ("Compared with", self.previous.name if self.previous is not None else "nothing: no earlier release"),
            ("Currency", str(self.currency)),
            ("Settings", f"digest {manifest.get('settings_digest', 'unknown')}"),
            ("Contract", str(manifest["contract_version"])),
        ]
        if len(model):
            row = model.iloc[0]
            rows += [
                ("Model", str(row["model_id"])),
                ("Fitted as of", f"{row['fitted_as_of']:%Y-%m-%d %H:%M}, on {self.count(row['customers'])} customers"),
                (
                    "Method",
                    f"k-means, k = {row['n_clusters']}, transform {row['transform']}, seed {row['random_state']}",
                ),
            ]
        versions = manifest.get("versions", {})
        rows.append(("Versions", ", ".join(f"{name} {version}" for name, version in versions.items())))
        if withheld := manifest.get("withheld"):
            rows.append(("Withheld columns", ", ".join(withheld)))
        return rows


def _figures(frames: Frames) -> dict[str, float]:
    """Return the headline figures of a release, as far as it holds them."""
    found: dict[str, float] = {}
    segments, lapsing, losses = frames["segments"], frames["lapsing"], frames["losses"]
    if len(segments):
        outliers = segments[segments["customer_group"] == "outlier"]
        found["customers"] = int(segments["customers"].sum())
        found["revenue"] = float(segments["revenue"].sum())
        if found["revenue"] > 0:
            found["outlier_share"] = float(outliers["revenue"].sum()) / found["revenue"]
    if len(lapsing):
        found["valuable"] = int(lapsing["valuable"].sum())
        found["valuable_revenue"] = float(lapsing["valuable_revenue"].sum())
    if len(losses) and losses["lines"].iloc[0]:
        found["kept"] = float(losses["lines_left"].iloc[-1] / losses["lines"].iloc[0])
    return found


def _by_key(rows: pd.DataFrame) -> dict[str, Mapping[str, Any]]:
    found: dict[str, Mapping[str, Any]] = {}
    for _, row in rows.iterrows():
        values: dict[Any, Any] = row.to_dict()
        found[values["segment_key"]] = values
    return found
