"""The search over transforms: what makes a candidate useful, and that noise does not."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from segmentation_pipeline.model import model_search
from segmentation_pipeline.model.k_search import KCandidate, KSearchResult
from segmentation_pipeline.model.lift import block_ginis, lift
from segmentation_pipeline.model.segmentation_model import tukey_fences
from segmentation_pipeline.model.thresholds import FitRules, SearchRules
from segmentation_pipeline.model.usefulness import BLOCKS, Past, PastMonth

Array = NDArray[np.float64]
NUMBER = 1200
MONTHS = (datetime.fromisoformat("2024-03-01"), datetime.fromisoformat("2024-05-01"))


def customers(seed: int) -> Array:
    """Return customers of three levels of spend, each thirty times the one before.

    Standardised, the lower two are nearly the same; in logarithms all are apart.
    """
    money = 10.0 * 30 ** (np.arange(NUMBER) % 3) * np.random.default_rng(seed).lognormal(0, 0.1, NUMBER)
    return np.column_stack([money, np.ones(NUMBER), np.ones(NUMBER)])


def past(*, signal: bool, kept: float = 1, seed: int = 7) -> Past:
    """Return month ends after which customers spend more the more they spent before, or anything.

    Args:
        signal: Whether past spend predicts.
        kept: The share of customers that keep their segment overnight.
        seed: Seed of the later spend.
    """
    found, random = [], np.random.default_rng(seed)
    for place, month in enumerate(MONTHS):
        features = customers(place)
        spend = (np.log(features[:, 0]) if signal else 1) * random.lognormal(0, 0.3, NUMBER)
        found.append(PastMonth(month, features, spend, np.arange(NUMBER) % BLOCKS))
    return Past(tuple(found), lambda _: kept)


def search(of: Past, *, report: Callable[[str], None] = lambda _: None, **rules: Any) -> KSearchResult:
    features = customers(9)
    return model_search.search_model(
        features,
        fences=tukey_fences(features, ["frequency"], 9),
        past=of,
        rules=SearchRules(**{"resamples": 4, "block": 4, "k_max": 4, **rules}),
        method=FitRules(n_init=3),
        report=report,
    )


def chosen(found: KSearchResult) -> KCandidate:
    [one] = [candidate for candidate in found.candidates if candidate.is_chosen]
    assert len(found.fit.centroids_) == one.n_clusters
    assert found.fit.scaler.transform == one.transform
    assert (one.verdict.startswith("Chosen"), found.passes) == (True, one.passes)
    return one


@pytest.fixture(scope="module")
def useful() -> KSearchResult:
    return search(past(signal=True))


def test_a_transform_whose_segments_predict_spend_is_chosen(useful: KSearchResult) -> None:
    one = chosen(useful)
    assert one.transform in ("log", "yeo-johnson")
    assert one.gini == max(other.gini for other in useful.candidates if other.gini is not None and other.passes)
    assert one.gini_lead is not None
    assert one.gini_lead_low is not None
    assert 0 < one.gini_lead_low < one.gini_lead
    assert [other.kept_overnight for other in useful.candidates if other.kept_overnight is not None] == [1]
    assert useful.month_ends == MONTHS


def test_every_candidate_is_kept_with_its_reason(useful: KSearchResult) -> None:
    assert [(one.transform, one.n_clusters) for one in useful.candidates] == [
        (transform, k) for transform in ("standard", "log", "yeo-johnson", "robust") for k in (3, 4)
    ]
    assert all(one.verdict.endswith(".") and one.gini is not None for one in useful.candidates)
    default = next(one for one in useful.candidates if one.gini_lead == 0)
    assert default.transform == "standard"
    assert default.verdict.startswith("Not chosen: ")
    assert default.verdict.endswith("is clearly more useful, and passes.")


def test_the_search_is_reproducible_to_the_last_bit(useful: KSearchResult) -> None:
    assert search(past(signal=True)).candidates == useful.candidates


def test_where_nothing_predicts_spend_the_default_stays() -> None:
    """Seven candidates are compared with it, three times: some of them predict better, by chance alone."""
    leads = []
    for seed in (1, 2, 3):
        found = search(past(signal=False, seed=seed), min_lead=0)
        assert chosen(found).transform == "standard"
        leads += [one.gini_lead for one in found.candidates if one.gini_lead is not None]
    assert max(leads) > 0


def test_a_lead_that_nobody_would_notice_is_not_taken() -> None:
    found = search(past(signal=True), min_lead=0.9)
    assert chosen(found).transform == "standard"


def test_segments_that_change_overnight_are_not_taken() -> None:
    found = search(past(signal=True, kept=0.99))
    assert chosen(found).transform == "standard"
    assert any("keep their segment overnight, less than 99.2%" in one.verdict for one in found.candidates)


def test_an_unstable_candidate_is_not_taken() -> None:
    found = search(past(signal=True), min_stability=1.01)
    assert chosen(found).transform == "standard"
    assert not found.passes
    assert any(one.transform != "standard" and "resamples agrees" in one.verdict for one in found.candidates)


def test_without_spend_afterwards_only_numbers_are_searched() -> None:
    without = replace(past(signal=True).months[0], spend=np.zeros(NUMBER))
    steps = list[str]()
    found = search(Past((without, without), lambda _: 1), report=steps.append)
    assert {one.transform for one in found.candidates} == {"standard"}
    assert [step for step in steps if "later spend" in step] == ["comparing later spend of 3 to 4 clusters, standard"]
    assert {one.gini for one in found.candidates} == {None}
    assert found.month_ends == ()


def test_block_ginis_are_those_of_the_customers_outside_each_block() -> None:
    random = np.random.default_rng(4)
    groups, blocks = random.integers(0, 3, 400), random.integers(0, 5, 400)
    # Far enough apart that no block changes the order of the groups.
    past_spend = 100.0 * groups + random.random(400)
    future = random.normal(20.0 * groups, 40)
    found = block_ginis(groups, past_spend, future, blocks, 5)
    assert found[0] == lift(groups, past_spend, future).gini
    for block in range(5):
        rest = blocks != block
        assert found[1 + block] == pytest.approx(lift(groups[rest], past_spend[rest], future[rest]).gini, abs=1e-11)
