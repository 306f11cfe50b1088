"""Names are true: the description of a segment holds for every customer who bears its name."""

from collections.abc import Callable
from datetime import datetime, timedelta

import numpy as np
import pytest

from segmentation_pipeline.model import thresholds
from segmentation_pipeline.model.naming import name_clusters
from segmentation_pipeline.model.segment_catalog import FEATURES, SEGMENTS, Segment
from segmentation_pipeline_tests.scenarios import Line, Nights, four_behaviours, line

FIRST = datetime.fromisoformat("2024-02-01")


class Customer:
    """A customer as its lines, the fences and the centroids describe it."""

    def __init__(
        self, sold: list[tuple[str, float, datetime]], as_of: datetime, fences: dict[str, tuple[float, float]]
    ):
        purchases = [(invoice, money, at) for invoice, money, at in sold if money >= 0 and invoice[0] != "C"]
        self.paid = round(sum(money for _, money, _ in purchases), 4)
        self.refunded = round(self.paid - sum(money for _, money, _ in sold), 4)
        self.frequency = len({invoice for invoice, *_ in purchases})
        last = max((at for *_, at in purchases), default=min(at for *_, at in sold))
        self.features = (self.paid - self.refunded, self.frequency, (as_of - last).days)
        self.fences = fences
        self.margin = 0.0

    def above(self, feature: str, outwards: int = 1) -> bool:
        """Return whether a feature is above its upper fence; outwards says which side the margin favours."""
        upper = self.fences[feature][1]
        return self.features[FEATURES.index(feature)] > upper - outwards * self.margin * abs(upper)

    def below(self, feature: str) -> bool:
        lower = self.fences[feature][0]
        return self.features[FEATURES.index(feature)] < lower + self.margin * abs(lower)


def is_extreme(customer: Customer) -> bool:
    """Return whether EXAMINE is true: low spend, few purchases, a long absence, or nothing but a recent purchase."""
    low = customer.below("monetary") or customer.below("frequency") or customer.above("recency")
    high = customer.above("monetary", -1) or customer.above("frequency", -1)
    return low or (customer.below("recency") and not high)


TRUE_OF: dict[str, Callable[[Customer], bool]] = {
    "dormant": lambda c: c.frequency == 0,
    "refunded": lambda c: c.frequency > 0 and c.refunded > 0 and c.refunded >= c.paid,
    "no_spend": lambda c: c.frequency > 0 and (c.paid, c.refunded) == (0, 0),
    "pamper": lambda c: c.above("monetary") and not c.above("frequency", -1),
    "upsell": lambda c: c.above("frequency") and not c.above("monetary", -1),
    "delight": lambda c: c.above("monetary") and c.above("frequency"),
    "examine": is_extreme,
}


def odd_customers() -> list[Line]:
    """Return customers of each kind that is not normal."""
    at, lines = [f"2023-{month:02d}-07 10:00:00" for month in range(1, 13)], list[Line]()

    def sell(customer: str, *sold: tuple[str, str, str]) -> None:
        for number, (day, quantity, price) in enumerate(sold):
            prefix = "C" if quantity.startswith("-") else ""
            invoice = f"{prefix}9{customer}{number}"
            lines.append(line(invoice=invoice, at=day, customer=customer, quantity=quantity, price=price))

    sell("free", (at[3], "1", "0"), (at[5], "2", "0"))
    sell("all back", (at[3], "1", "12.50"), (at[4], "-1", "12.50"))
    sell("more back", (at[3], "1", "12.50"), (at[4], "-2", "12.50"))
    sell("free and back", (at[3], "1", "0"), (at[4], "-1", "3"))
    sell("nearly all back", (at[10], "2", "40.00"), (at[11], "-1", "79.99"))
    sell("only back", (at[3], "-1", "12.50"))
    sell("away", ("2019-01-07 10:00:00", "1", "30"))
    sell("much", (at[11], "1", "90000"))
    sell("often", *[(f"{day[:8]}{number:02d} 10:00:00", "1", "2") for day in at for number in range(1, 28)])
    sell("both", *[(f"{day[:8]}{number:02d} 10:00:00", "1", "900") for day in at for number in range(1, 28)])
    return lines


@pytest.fixture(scope="module")
def nights() -> Nights:
    """Return a shop after two nights, of which the second moves customers."""
    nights = Nights([*four_behaviours(160), *odd_customers()], outliers={"features": [*FEATURES]})
    for number in range(2):
        nights.run(FIRST + timedelta(days=14 * number))
    return nights


def bearers(nights: Nights, group: str) -> list[tuple[str, str, bool, Customer]]:
    fences = {
        name: (low, high)
        for name, low, high in nights.rows("select feature, lower_fence, upper_fence from outlier_fences")
    }
    [(as_of,)] = nights.rows("select max(as_of) from customer_segments")
    found = []
    for who, key, is_pending in nights.rows(
        "select customer_id, segment_key, is_move_pending from customer_segments where customer_group = ?", group
    ):
        sold = nights.rows(
            "select invoice, cast(amount as double), transaction_at from clean_transactions where customer_id = ?", who
        )
        found.append((who, key, is_pending, Customer(sold, as_of, fences)))
    return found


@pytest.mark.parametrize("group", ["inactive", "outlier"])
def test_rules_are_true_of_every_customer_they_name(nights: Nights, group: str) -> None:
    """A pending move leaves a customer in a segment that its features still support within the margin."""
    found = bearers(nights, group)
    for who, key, is_pending, customer in found:
        customer.margin = thresholds.HYSTERESIS.fence_margin if is_pending else 0
        assert TRUE_OF[key](customer), (who, key, customer.features)
    assert {key for _, key, _, _ in found} == {one.key for one in SEGMENTS if one.customer_group == group}
    assert set(TRUE_OF) == {one.key for one in SEGMENTS if one.customer_group != "normal"}


def test_normal_customers_are_most_like_the_centroid_of_their_segment(nights: Nights) -> None:
    model = nights.registry.find(nights.active_model).model
    for who, key, is_pending, customer in bearers(nights, "normal"):
        distances = np.linalg.norm(model.scaler.apply(np.array([customer.features])) - model.centroids_, axis=1)
        own, margin = distances[model.keys.index(key)], thresholds.HYSTERESIS.margin if is_pending else 0
        assert own * (1 - margin) <= distances.min() * (1 + 1e-12), (who, key)


# What the words of a description say of the value and the recency of a centroid, in standard deviations.
WORDS: dict[str, Callable[[float, float], bool]] = {
    "bought recently": lambda _, recency: recency < 0.7,
    "for a while": lambda _, recency: -0.2 < recency < 1.5,
    "long": lambda _, recency: recency > 0.7,
    "seldom and little": lambda value, _: value < 0.4,
    "regularly": lambda value, _: -0.4 < value < 1.3,
    "more often than most": lambda value, _: 0.4 < value < 2.0,
    "best of the normal ones": lambda value, _: value > 1,
}


@pytest.mark.parametrize(
    "segment", [one for one in SEGMENTS if one.customer_group == "normal"], ids=lambda one: one.key
)
def test_the_name_of_a_normal_segment_is_true(segment: Segment) -> None:
    """A single cluster anywhere in the plane of value and recency gets a name whose words fit the position."""
    words = [word for word in WORDS if word in segment.description]
    assert len(words) == 2, segment.description
    for value in np.arange(-1.5, 3, 0.25):
        for recency in np.arange(-1.2, 2.6, 0.1):
            [key] = name_clusters(np.array([[value, value, recency]]))
            if key == segment.key.removesuffix("_plus"):
                assert all(WORDS[word](value, recency) for word in words), (segment.key, value, recency)
