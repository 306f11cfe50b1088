"""The verdict of the back-test: one comparison with the rules, over all month ends."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from segmentation_pipeline.model.lift import Resamples
from segmentation_pipeline.segments import backtest
from segmentation_pipeline.tables.catalog import contracts

Array = NDArray[Any]
CUSTOMERS = 500
COLUMNS = [column.name for column in contracts()["backtest_verdict"].columns]
Formed = Callable[[np.random.Generator, Array], Array]


def by_spend(_: np.random.Generator, future: Array) -> Array:
    """Form groups that know the future, as well as groups can."""
    return np.digitize(future, [1, 200, 1000]).astype("U1")


def by_chance(random: np.random.Generator, future: Array) -> Array:
    return random.integers(0, 4, len(future)).astype("U1")


def verdict(segments: Formed, rules: Formed, *, months: int = 3, signal: float = 1) -> dict[str, Any]:
    """Return the row of the verdict where both segmentations are formed so, and past spend has some signal."""
    random, resamples = np.random.default_rng(1), Resamples(CUSTOMERS, random_state=1)
    found = []
    for month in range(months):
        # A tenth of the customers comes with each month.
        number = np.arange(CUSTOMERS * (9 - months + month) // 9)
        past = random.lognormal(3, 1, len(number))
        future = random.lognormal(3, 1, len(number)) * past**signal * (random.random(len(number)) < 0.5)
        customers = {"number": number, "monetary": past, "spend": future, "rfm_segment": rules(random, future)}
        found.append(backtest._predicted(segments(random, future), customers, resamples))
    return dict(zip(COLUMNS, backtest._verdict_row("all", found), strict=True))


@pytest.mark.parametrize(
    ("segments", "rules", "signal", "expected"),
    [
        (by_spend, by_chance, 1, "ahead"),
        (by_chance, by_spend, 1, "behind"),
        (by_spend, by_spend, 1, "equal"),
        (by_chance, by_chance, 1, "equal"),
        (by_chance, by_chance, 0, "no_signal"),
    ],
)
def test_verdict_tells_whether_the_segments_are_behind(
    segments: Formed, rules: Formed, signal: float, expected: str
) -> None:
    """Where only past spend predicts, the data has a signal, and segments as poor as the rules are equal to them."""
    row = verdict(segments, rules, signal=signal)
    assert row["verdict"] == expected
    assert row["segments_lead"] == pytest.approx(row["segments_gini"] - row["rfm_segments_gini"], abs=1e-11)
    assert row["segments_lead_low"] <= row["segments_lead"] <= row["segments_lead_high"]
    assert row["sentence"].startswith("Among all customers, ")
    assert "90 days" in row["sentence"]


def test_more_month_ends_are_one_comparison_with_less_noise() -> None:
    widths = []
    for months in (1, 6):
        row = verdict(by_chance, by_chance, months=months)
        assert row["month_ends"] == months
        widths.append(row["segments_lead_high"] - row["segments_lead_low"])
    assert widths[1] < 0.8 * widths[0]


def test_without_month_ends_there_is_no_verdict() -> None:
    row = verdict(by_spend, by_chance, months=0)
    assert row["verdict"] == "no_data"
    assert row["month_ends"] == 0
    assert {row[name] for name in COLUMNS if "gini" in name or "lead" in name} == {None}


def test_month_ends_without_later_spend_are_left_out() -> None:
    resamples, number = Resamples(4, random_state=1), np.arange(4)
    columns = {"number": number, "monetary": number + 1.0, "spend": np.zeros(4), "rfm_segment": number.astype("U1")}
    silent = backtest._predicted(number.astype("U1"), columns, resamples)
    row = dict(zip(COLUMNS, backtest._verdict_row("all", [silent]), strict=True))
    assert (row["month_ends"], row["verdict"]) == (0, "no_data")
