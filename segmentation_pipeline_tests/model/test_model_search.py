"""The search over transforms: what makes a candidate useful, and that noise does not."""

from datetime import datetime
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from segmentation_pipeline.model import model_search
from segmentation_pipeline.model.k_search import KCandidate, KSearchResult
from segmentation_pipeline.model.kmeans import fit
from segmentation_pipeline.model.lift import block_ginis, lift
from segmentation_pipeline.model.segmentation_model import tukey_fences
from segmentation_pipeline.model.thresholds import FitRules, SearchRules
from segmentation_pipeline.model.usefulness import BLOCKS, Past, PastMonth, kept_overnight

Array = NDArray[np.float64]
NUMBER = 1200
MONTHS = (datetime.fromisoformat("2024-03-01"), datetime.fromisoformat("2024-05-01"))


def customers(seed: int) -> Array:
    """Return customers of three levels of spend, each thirty times the one before.

    Standardised, the lower two are nearly the same; in logarithms all are apart.
    """
    money = 10.0 * 30 ** (np.arange(NUMBER) % 3) * np.random.default_rng(seed).lognormal(0, 0.1, NUMBER)
    return np.column_stack([money, np.ones(NUMBER), np.ones(NUMBER)])


def past(*, signal: bool, restless: bool = False, months: int = 2, seed: int = 7) -> Past:
    """Return month ends after which customers spend more the more they spent before, or anything; and three days.

    Args:
        signal: Whether past spend predicts.
        restless: Whether customers spend a multiple from one day to the next, or a part.
        months: How many month ends there are.
        seed: Seed of the later spend.
    """
    found, random = [], np.random.default_rng(seed)
    for place, month in enumerate(MONTHS[:months]):
        features = customers(place)
        spend = (np.log(features[:, 0]) if signal else 1) * random.lognormal(0, 0.3, NUMBER)
        found.append(PastMonth(month, features, spend, np.arange(NUMBER) % BLOCKS))
    today = customers(9)
    other = today.copy()
    other[:, 0] *= 30.0 ** random.integers(-1, 2, NUMBER) if restless else 1
    return Past(tuple(found), (today, other, today))


def search(of: Past, **rules: Any) -> KSearchResult:
    features = customers(9)
    return model_search.search_model(
        features,
        fences=tukey_fences(features, ["frequency"], 9),
        past=of,
        rules=SearchRules(**{"resamples": 4, "block": 4, "k_max": 4, **rules}),
        method=FitRules(n_init=3),
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
    assert one.kept_overnight == 1
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
    found = search(past(signal=True, restless=True))
    assert chosen(found).transform == "standard"
    assert any("keep their segment overnight, less than 99.2%" in one.verdict for one in found.candidates)


def test_an_unstable_candidate_is_not_taken() -> None:
    found = search(past(signal=True), min_stability=1.01)
    assert chosen(found).transform == "standard"
    assert not found.passes
    assert any(one.transform != "standard" and "resamples agrees" in one.verdict for one in found.candidates)


def test_with_too_few_month_ends_only_numbers_are_searched() -> None:
    found = search(past(signal=True, months=1))
    assert {one.transform for one in found.candidates} == {"standard"}
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


def test_kept_overnight_counts_customers_of_all_groups() -> None:
    """Of four customers on three days, one changes its cluster once, and one becomes an outlier and returns."""
    fitted = fit(customers(1), transform="standard", n_clusters=3, random_state=0)
    fences = tukey_fences(np.array([[1.0, 1, 1], [2, 2, 1], [3, 3, 1]]), ["frequency"], 1.5)
    low, high = (fitted.means_[cluster] for cluster in np.argsort(fitted.means_[:, 0])[[0, -1]])
    first = np.array([low, low, high, high])
    first[:, 1] = 2
    second, third = first.copy(), first.copy()
    second[0, 0] = third[0, 0] = high[0]
    second[1, 1] = 99
    assert kept_overnight(fitted, fences, (first, second, third)) == (2 / 4 + 3 / 4) / 2
