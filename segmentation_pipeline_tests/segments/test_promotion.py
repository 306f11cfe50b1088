"""A segment keeps its meaning: keys go on through refits, and what would change them waits for a person."""

import math
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from random import Random

import dagster as dg
import numpy as np
import pytest

from segmentation_pipeline.defs.history.checks import no_drift_since_fit
from segmentation_pipeline.defs.model.checks import last_model_was_promoted
from segmentation_pipeline.errors import RegistryError
from segmentation_pipeline.model.matching import match
from segmentation_pipeline.segments.promotion import FENCE_STEPS
from segmentation_pipeline_tests.scenarios import Nights, four_behaviours

FIRST = datetime.fromisoformat("2024-02-01")
WEEK = timedelta(days=7)
REGISTRY = ("segmentation_models", "model_features", "model_centroids", "segments")
LINES = four_behaviours()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    nights = Nights(LINES)
    nights.run(FIRST)
    return nights.save(tmp_path_factory.mktemp("saved") / "first.duckdb")


@pytest.fixture
def nights(saved: Path, tmp_path: Path) -> Nights:
    """The evening after the first model was fitted, on customers of four behaviours."""
    return Nights.opened(saved, tmp_path / "work.duckdb")


def kept(before: dict[str, str], after: dict[str, str]) -> float:
    known = before.keys() & after.keys()
    return sum(before[customer] == after[customer] for customer in known) / len(known)


def test_refits_keep_every_key_and_nearly_everybody(nights: Nights) -> None:
    seen, keys = [nights.segments], {*nights.segments.values()}
    for week in range(1, 5):
        nights.run(FIRST + week * WEEK, refit=True)
        seen.append(nights.segments)
        assert nights.last["status"] == "standing", nights.last["reasons"]
        assert {entry.keys for entry in nights.registry.entries} == {nights.registry.entries[0].keys}
    assert len(nights.registry.entries) == 5
    assert {*seen[-1].values()} == keys
    assert min(kept(before, after) for before, after in pairwise(seen)) > 0.95


def test_neither_the_seed_nor_the_order_of_the_rows_gives_a_customer_another_key() -> None:
    """The long form, on Online Retail, is `benchmarks/choice_of_k.py`."""
    found = set()
    for order in range(3):
        rows = Random(order).sample(LINES, len(LINES))  # noqa: S311 (nothing secret)
        shuffled = Nights(rows)
        for seed in range(10):
            for table in REGISTRY:
                shuffled.connection.execute(f"delete from {table}")
            shuffled.set("model", random_state=seed)
            shuffled.run(FIRST, until="assigned_segments")
            found.add(tuple(shuffled.segments.items()))
    assert len(found) == 1
    assert len({key for _, key in found.pop()}) > 4


@pytest.mark.parametrize(("shared", "goes_on"), [(49, None), (50, "nurture"), (100, "nurture")])
def test_a_cluster_goes_on_as_a_segment_if_they_share_half_of_their_customers(shared: int, goes_on: str | None) -> None:
    """Of 100 customers in one or the other, so many are in both."""
    clusters = np.array([0] * shared + [0] * (100 - shared) + [1] * 100)
    segments = np.array(["nurture"] * shared + ["dormant"] * (100 - shared) + ["retain"] * 100)
    places = np.array([[0.0, 0, 0], [5, 5, 5]])
    assert match(clusters, segments, ("nurture", "retain"), places, places) == [goes_on, "retain"]


def test_where_customers_cannot_tell_the_nearer_centroid_goes_on() -> None:
    """A segment falls into two halves of equal size: the half that lies where it lay is it."""
    clusters, segments = np.array([0] * 50 + [1] * 50), np.array(["nurture"] * 100)
    near, far, lay = [0.1, 0.0, 0.0], [2.0, 0.0, 0.0], np.array([[0.0, 0.0, 0.0]])
    assert match(clusters, segments, ("nurture",), np.array([near, far]), lay) == ["nurture", None]
    assert match(clusters, segments, ("nurture",), np.array([far, near]), lay) == [None, "nurture"]


def test_clusters_that_lie_where_other_names_belong_are_held(nights: Nights) -> None:
    """Somebody swapped two names: every customer would keep its key, but the keys say the contrary of what they are."""
    nights.connection.execute(
        "update model_centroids set segment_key = case segment_key when 'nurture' then 're_engage'"
        " when 're_engage' then 'nurture' else segment_key end"
    )
    nights.run(FIRST + WEEK, refit=True)
    assert nights.last["status"] == "held"
    for key in ("nurture", "re_engage"):
        assert f"The name of {key} no longer fits" in nights.last["reasons"]


def test_a_retired_segment_that_returns_gets_its_own_key_back(nights: Nights) -> None:
    first = nights.registry.entries[0]
    nights.set("model", n_clusters=3)
    nights.run(FIRST + WEEK, accept_change=True)
    [retired] = first.keys - nights.registry.find(nights.standing).keys
    row = "select introduced_by, in_active_model, segment from segments where segment_key = ?"
    [(introduced, in_active_model, name)] = nights.rows(row, retired)
    assert (introduced, in_active_model) == (first.model_id, False)
    nights.set("model", n_clusters=4)
    nights.run(FIRST + 2 * WEEK, accept_change=True)
    assert nights.registry.find(nights.standing).keys == first.keys
    assert nights.rows(row, retired) == [(first.model_id, True, name)]


SHUFFLED = """
with numbered as (select *, row_number() over (order by customer_id) as place from rfm_features),
others as (select *, row_number() over (order by md5(customer_id)) as place from rfm_features)
select numbered.* exclude (place) replace (
    others.recency as recency, others.frequency as frequency, others.monetary as monetary
) from numbered join others using (place)
"""
SPOILED = {
    "features shuffled among customers": (SHUFFLED, "the data changed, not the customers"),
    "one segment's customers missing": (
        # Still last night's, when the features of this one have just been made.
        "select rfm_features.* from rfm_features left join assigned_segments using (customer_id)"
        " where segment_key is distinct from 're_engage'",
        "retiring re_engage",
    ),
    "ten times the money": (
        "select * replace (cast(monetary * 10 as decimal(18, 4)) as monetary) from rfm_features",
        "the data changed, not the customers",
    ),
}


@pytest.mark.parametrize("spoiled", SPOILED)
def test_a_spoiled_refit_is_held_with_its_reasons_and_the_standing_model_goes_on(nights: Nights, spoiled: str) -> None:
    features, reason = SPOILED[spoiled]
    before, stood = nights.segments, nights.standing
    nights.run(FIRST + WEEK, features=features, refit=True, until="segmentation_model")
    assert nights.last["status"] == "held"
    assert reason in nights.last["reasons"]
    assert nights.standing == stood
    nights.run(FIRST + WEEK + timedelta(days=1))
    assert nights.standing == stood
    assert [entry.facts["status"] for entry in nights.registry.entries] == ["standing", "held"]
    assert nights.rows("select distinct model_id from customer_segments") == [(stood,)]
    assert kept(before, nights.segments) > 0.95


def test_a_small_drift_is_promoted(nights: Nights) -> None:
    dearer = "select * replace (cast(monetary * 1.02 as decimal(18, 4)) as monetary) from rfm_features"
    nights.run(FIRST + WEEK, features=dearer, refit=True)
    assert [entry.facts["status"] for entry in nights.registry.entries] == ["retired", "standing"]
    assert nights.last["kept_share"] >= 0.95


def test_a_held_model_is_not_fitted_again_each_night(nights: Nights) -> None:
    """The settings ask for another model, the gate holds it: one candidate, not one a night."""
    stood = nights.standing
    nights.set("model", n_clusters=5)
    nights.run(FIRST + WEEK, until="segmentation_model")
    held = nights.registry.entries[-1]
    assert (held.facts["status"], held.facts["n_clusters"]) == ("held", 5)
    assert held.facts["reasons"].startswith("5 clusters for 4")
    for day in (1, 2):
        nights.run(FIRST + WEEK + timedelta(days=day), until="segmentation_model")
    assert nights.registry.entries[1:] == (held,)
    assert nights.standing == stood


def test_changed_settings_make_a_candidate_that_stands_if_the_gate_lets_it(nights: Nights) -> None:
    nights.set("outliers", factor=1.55)
    nights.run(FIRST + WEEK, until="segmentation_model")
    assert [entry.facts["status"] for entry in nights.registry.entries] == ["retired", "standing"]
    assert nights.rows("select distinct factor from outlier_fences") == [(1.55,)]


def test_what_a_person_accepts_stands(nights: Nights) -> None:
    nights.set("model", n_clusters=5)
    nights.run(FIRST + WEEK, accept_change=True)
    assert nights.last["status"] == "standing"
    assert nights.last["reasons"].startswith("5 clusters for 4"), "what spoke against it is not forgotten"
    assert nights.rows("select count(*) from kmeans_centroids") == [(5,)]


def test_a_search_that_finds_another_number_of_clusters_proposes_it(nights: Nights) -> None:
    stood = nights.standing
    nights.set("model", n_clusters="auto", k_range=[3, 3], resamples=5)
    nights.run(FIRST + WEEK, search=True, until="segmentation_model")
    assert (nights.last["status"], nights.last["n_clusters"]) == ("held", 3)
    assert nights.standing == stood
    assert nights.rows("select n_clusters, is_chosen from kmeans_candidates") == [(3, True)]
    # A refit keeps the number that stands.
    nights.run(FIRST + 2 * WEEK, refit=True, until="segmentation_model")
    assert (nights.last["status"], nights.last["n_clusters"]) == ("standing", 4)


def test_three_holds_running_ask_for_a_person_until_a_model_is_promoted(nights: Nights) -> None:
    assert nights.check(last_model_was_promoted).passed
    found = []
    for week in range(1, 4):
        nights.run(FIRST + week * WEEK, features=SHUFFLED, refit=True, until="segmentation_model")
        result = nights.check(last_model_was_promoted)
        assert not result.passed
        found.append(result.severity)
    warning, error = dg.AssetCheckSeverity.WARN, dg.AssetCheckSeverity.ERROR
    assert found == [warning, warning, error]
    assert all(entry.facts["reasons"] for entry in nights.registry.entries[1:])
    nights.run(FIRST + 4 * WEEK, refit=True, until="segmentation_model")
    assert nights.last["status"] == "standing"
    assert nights.check(last_model_was_promoted).passed


def dumped(nights: Nights) -> bytes:
    return repr([nights.table(table) for table in REGISTRY]).encode()


@pytest.mark.parametrize(("n_clusters", "status"), [(4, "standing"), (5, "held")])
def test_a_refit_again_at_the_same_as_of_ends_in_the_same_registry(
    nights: Nights, n_clusters: int, status: str
) -> None:
    nights.set("model", n_clusters=n_clusters)
    nights.run(FIRST + WEEK, refit=True)
    once = dumped(nights)
    assert [entry.facts["status"] for entry in nights.registry.entries][1:] == [status]
    nights.run(FIRST + WEEK, refit=True)
    assert dumped(nights) == once


def test_what_a_person_promotes_stands_from_the_next_run_and_is_dated_by_it(nights: Nights) -> None:
    first, night = nights.standing, FIRST + WEEK + timedelta(days=1)
    nights.set("model", n_clusters=5)
    nights.run(FIRST + WEEK)
    held = nights.registry.entries[-1]
    decide(nights, held.model_id)
    assert nights.standing == first, "not before that run"
    nights.run(night)
    dates = "select model_id, status, promoted_by, active_from, active_to from segmentation_models order by number"
    assert nights.rows(dates) == [
        (first, "retired", "run", FIRST, night),
        (held.model_id, "standing", "person", night, None),
    ]
    assert nights.rows("select distinct model_id from customer_segments") == [(held.model_id,)]
    assert {key for (key,) in nights.rows("select segment_key from kmeans_centroids")} == held.keys


def decide(nights: Nights, model_id: str) -> None:
    nights.warehouse.write(nights.registry.promoting(nights.registry.find(model_id)).writes(), {})


def statuses(nights: Nights) -> list[str]:
    return [entry.facts["status"] for entry in nights.registry.entries]


def holding(nights: Nights, *weeks: int) -> None:
    for week in weeks:
        nights.run(FIRST + week * WEEK, features=SHUFFLED, refit=True, until="segmentation_model")


def test_a_decision_that_is_taken_back_before_the_next_run_leaves_no_trace(nights: Nights) -> None:
    holding(nights, 1, 2)
    before = dumped(nights)
    [first, second, third] = [entry.model_id for entry in nights.registry.entries]
    decide(nights, second)
    assert statuses(nights) == ["standing", "promoted", "held"]
    decide(nights, third)
    assert statuses(nights) == ["standing", "held", "promoted"]
    decide(nights, first)
    assert dumped(nights) == before
    with pytest.raises(RegistryError, match=f"{first} stands already"):
        decide(nights, first)


def test_what_a_person_promoted_outlasts_a_refit_as_of_the_same_moment(nights: Nights) -> None:
    """The feed is dead: the next run, and the weekly one, are as of the moment of the model that was held."""
    nights.set("model", n_clusters=5)
    nights.run(FIRST + WEEK)
    held = nights.registry.entries[-1].model_id
    decide(nights, held)
    for _ in range(2):
        nights.run(FIRST + WEEK, refit=True)
        assert nights.registry.find(held).facts["promoted_by"] == "person"
        assert len(nights.rows("select * from kmeans_centroids")) == 5
        assert nights.rows("select count(distinct model_id) = count(*) from segmentation_models") == [(True,)]


def test_holds_are_counted_from_when_the_standing_model_stands(nights: Nights) -> None:
    holding(nights, 1, 2, 3)
    assert not nights.check(last_model_was_promoted).passed
    decide(nights, nights.registry.entries[1].model_id)
    assert nights.check(last_model_was_promoted).passed, "a person has looked"
    nights.run(FIRST + 3 * WEEK + timedelta(days=1), until="segmentation_model")
    assert statuses(nights) == ["retired", "standing", "held", "held"]
    assert nights.check(last_model_was_promoted).passed
    nights.set("model", n_clusters=5)
    nights.run(FIRST + 4 * WEEK, until="segmentation_model")
    result = nights.check(last_model_was_promoted)
    assert (result.passed, result.metadata["pending"].value) == (False, 1)


def test_a_refit_keeps_the_number_that_a_person_promoted_though_the_settings_have_another(nights: Nights) -> None:
    nights.set("model", k_range=[3, 3], resamples=2)
    nights.run(FIRST + WEEK, accept_change=True)
    assert (nights.last["status"], nights.last["n_clusters"]) == ("standing", 4)
    nights.run(FIRST + 2 * WEEK, search=True)
    assert (nights.last["status"], nights.last["n_clusters"]) == ("held", 3)
    decide(nights, nights.last["model_id"])
    nights.run(FIRST + 3 * WEEK)
    nights.run(FIRST + 4 * WEEK, refit=True)
    assert (nights.last["status"], nights.last["n_clusters"]) == ("standing", 3)


@pytest.mark.parametrize("n_clusters", [9, 12])
def test_the_gate_does_not_hold_for_ever_what_was_so_from_the_start(n_clusters: int) -> None:
    """So many clusters are small, and some lie nearer to the place of another's name."""
    nights = Nights(LINES, model={"n_clusters": n_clusters})
    nights.run(FIRST, until="segmentation_model")
    nights.run(FIRST + WEEK, refit=True, until="segmentation_model")
    said = nights.last["reasons"] or ""
    assert "smallest cluster" not in said
    assert "no longer fits" not in said


# Purchases by a customer's place among all: the third quartile is 2 while {second} is .76, and 3 when it is .74. With
# it the fence goes from 3.5 to 6, and 3 x 2 % of the customers, with 4, 5 and 6 purchases, would come in over night.
JUMPING = """
select * exclude (place) replace (case
    when place < .35 then 1 when place < {second} then 2 when place < .90 then 3 when place < .92 then 4
    when place < .94 then 5 when place < .96 then 6 else 30 end as frequency,
    cast(case when place < {second} then 40 else 60 end + recency / 10 as decimal(18, 4)) as monetary)
from (select *, (row_number() over (order by md5(customer_id)) - 1) / count(*) over () as place from rfm_features)
"""


def test_fences_that_jump_are_approached_so_that_the_gate_does_not_hold_for_ever() -> None:
    nights = Nights(LINES, outliers={"features": ["frequency"]}, model={"n_clusters": 3})
    nights.run(FIRST, features=JUMPING.format(second=0.76))
    seen, fences, steps = [nights.segments], [3.5], list[float]()
    assert nights.rows("select upper_fence from outlier_fences") == [(3.5,)]
    for week in range(1, 9):
        nights.run(FIRST + week * WEEK, features=JUMPING.format(second=0.74), refit=True)
        assert nights.last["status"] == "standing", nights.last["reasons"]
        steps.append(nights.last["fence_step"])
        fences += [fence for (fence,) in nights.rows("select upper_fence from outlier_fences")]
        seen.append(nights.segments)
    assert steps[0] in FENCE_STEPS
    assert 3.5 < fences[1] < 6, "a part of the way at first"
    assert fences == sorted(fences)
    assert fences[-1] == 6, "and all of it in the end"
    assert min(kept(before, after) for before, after in pairwise(seen)) >= 0.95


def test_drift_is_the_stability_index_of_each_feature_and_the_shares_that_moved_and_are_new(nights: Nights) -> None:
    """By the books: the sum over ten bins of (actual - expected) x ln(actual / expected)."""
    dearer = "select * replace (cast(monetary * 2 as decimal(18, 4)) as monetary) from rfm_features"
    before = nights.segments
    nights.run(FIRST + WEEK, features=dearer)
    nights.materialize("model_drift")
    drift = {name: (value, bound) for name, value, bound, *_ in nights.table("model_drift")}
    for feature in ("monetary", "frequency", "recency"):
        bins = "select bin_edges, bin_shares from model_features where feature = ?"
        [(edges, expected)] = nights.rows(bins, feature)
        values = [float(value) for (value,) in nights.rows(f"select {feature} from normal_customers")]
        # A bin ends with its edge.
        places = [sum(value > edge for edge in edges) for value in values]
        actual = [places.count(place) / len(values) for place in range(len(expected))]
        index = sum((a - e) * math.log(a / e) for a, e in zip(actual, expected, strict=True))
        assert sum(expected) == pytest.approx(1)
        assert drift[f"psi_{feature}"][0] == pytest.approx(index, abs=1e-9)
    after = nights.segments
    assert drift["share_moved"][0] == pytest.approx(1 - kept(before, after))
    assert drift["share_new"][0] == pytest.approx(len(after.keys() - before.keys()) / len(after))
    assert drift["share_new"][0] > 0
    said = str(nights.check(no_drift_since_fit).description)
    assert "psi_monetary" in said
    assert "psi_recency" not in said
