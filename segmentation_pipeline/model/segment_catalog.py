"""The catalogue of segments: the key, name, meaning and colour of each, and the names of the features.

Contains data only, and imports neither numpy nor DuckDB. The rule that names clusters is in `naming`.
"""

from dataclasses import dataclass, replace
from typing import Literal

# The order of the columns of every feature array.
FEATURES = ("monetary", "frequency", "recency")


@dataclass(frozen=True)
class Segment:
    """A segment of the catalogue.

    Attributes:
        key: The permanent key, which other systems store.
        name: The name in reports.
        customer_group: Whether its customers are normal, outliers or inactive.
        description: The meaning, in one sentence.
        action: The recommended action.
        colour: The colour in pictures, as #rrggbb.
        value: For normal segments: the mean of spend and frequency, in standard deviations from the mean customer.
        staleness: For normal segments: recency, in standard deviations from the mean customer.
    """

    key: str
    name: str
    customer_group: Literal["normal", "outlier", "inactive"]
    description: str
    action: str
    colour: str
    value: float = 0.0
    staleness: float = 0.0


def _normal(name: str, value: float, staleness: float, colour: str, typical: str, action: str) -> Segment:
    """Return a segment of a cluster, described so that it is true of each customer: by the centroid nearest to it."""
    key, description = name.lower().replace("-", "_"), f"Most like customers who {typical}"
    return Segment(key, name, "normal", description, action, colour, value, staleness)


def _half_white(colour: str) -> str:
    """Return a lighter colour of the same hue, which can be distinguished from the colour itself."""
    return "#" + "".join(f"{(int(colour[at : at + 2], 16) + 255) // 2:02x}" for at in (1, 3, 5))


# Four levels of value by three of staleness: twelve places. The levels are typical positions of standardised centroids
# on skewed retail data: few customers far above the mean and most below it; recent customers about half a deviation
# below the mean recency, lapsed ones nearly two above.
NORMAL = (
    _normal(
        "NURTURE",
        -0.5,
        -0.5,
        "#a6cee3",
        "bought recently, but seldom and little so far.",
        "Win the next purchase: welcome series, starter offers.",
    ),
    _normal(
        "RETAIN",
        0.5,
        -0.5,
        "#1f78b4",
        "buy regularly, and bought recently.",
        "Keep the habit: loyalty points, news of what they buy.",
    ),
    _normal(
        "GROW",
        1.2,
        -0.5,
        "#08519c",
        "buy more and more often than most, and bought recently.",
        "Raise the basket: bundles, cross-selling, early access.",
    ),
    _normal(
        "REWARD",
        2.0,
        -0.6,
        "#08306b",
        "are the best of the normal ones, by money and purchases taken together, and bought recently.",
        "Reward loyalty: exclusive offers, personal thanks.",
    ),
    _normal(
        "REMIND",
        -0.5,
        0.5,
        "#b2df8a",
        "bought seldom and little, and not for a while.",
        "Remind at low cost: what is new, a small incentive.",
    ),
    _normal(
        "REACTIVATE",
        0.5,
        0.5,
        "#33a02c",
        "bought regularly, but not for a while.",
        "Reach out before they lapse: replenishment, a survey.",
    ),
    _normal(
        "RECOVER",
        1.2,
        0.5,
        "#006d2c",
        "bought more and more often than most, but not for a while.",
        "Find out why and mend it: a call, a tailored offer.",
    ),
    _normal(
        "RECLAIM",
        2.0,
        0.5,
        "#00441b",
        "were among the best of the normal ones, but have not bought for a while.",
        "Personal contact now: much revenue is at stake.",
    ),
    _normal(
        "RE-ENGAGE",
        -0.6,
        1.7,
        "#fdbf6f",
        "bought seldom and little, and long ago.",
        "One win-back campaign, then leave them in peace.",
    ),
    _normal(
        "REVIVE",
        0.5,
        1.7,
        "#ff7f00",
        "once bought regularly, and have been away for long.",
        "Win back with a reason to return: what changed since.",
    ),
    _normal(
        "RESCUE",
        1.2,
        1.7,
        "#d94801",
        "once bought more and more often than most, and have been away for long.",
        "A strong, personal win-back offer.",
    ),
    _normal(
        "WIN-BACK",
        2.0,
        1.7,
        "#7f2704",
        "once were among the best of the normal ones, and have been away for long.",
        "Personal win-back: a call from a person who can decide.",
    ),
)
# Of many clusters most lie where most customers are, among the recent ones. With one name for each place, half of the
# names of twelve clusters contradicted their customers (those of WIN-BACK had bought recently); with two names, none.
PLUS = tuple(
    replace(
        segment,
        key=f"{segment.key}_plus",
        name=f"{segment.name} PLUS",
        colour=_half_white(segment.colour),
        description=f"{segment.description.removesuffix('.')}; of two such clusters the one of more value.",
    )
    for segment in NORMAL
)
SEGMENTS: tuple[Segment, ...] = (
    *NORMAL,
    *PLUS,
    Segment(
        "pamper",
        "PAMPER",
        "outlier",
        "Spends far more than the others: beyond the upper fence of spend, but not of number of purchases.",
        "Pamper: a personal contact, service without limits.",
        "#c51b8a",
    ),
    Segment(
        "upsell",
        "UPSELL",
        "outlier",
        "Buys far more often than the others: beyond the upper fence of number of purchases, but not of spend.",
        "Upsell: bigger baskets, bundles, free delivery above a sum.",
        "#9e9ac8",
    ),
    Segment(
        "delight",
        "DELIGHT",
        "outlier",
        "Spends far more and buys far more often than the others: beyond the upper fences of both.",
        "Delight: key accounts, to be known and kept by name.",
        "#6a51a3",
    ),
    Segment(
        "examine",
        "EXAMINE",
        "outlier",
        "Beyond a fence of unusually low spend, few purchases or long absence, or of nothing but an unusually recent"
        " purchase.",
        "Examine by hand before any campaign.",
        "#8c6d31",
    ),
    Segment(
        "dormant",
        "DORMANT",
        "inactive",
        "Made no purchase within the time looked at.",
        "Leave out of campaigns, or ask once whether to stay in touch.",
        "#bdbdbd",
    ),
    Segment(
        "refunded",
        "REFUNDED",
        "inactive",
        "Bought, and got back all that was spent, or more.",
        "Find out what went wrong; exclude from offers.",
        "#737373",
    ),
    Segment(
        "no_spend",
        "NO SPEND",
        "inactive",
        "Got goods for nothing only, and no refunds.",
        "Find out why: samples, gifts, or a price that is missing in the data.",
        "#969696",
    ),
)
