"""The numeric methods: the k-means fit compared with scikit-learn, names with positions, fences and matching."""

import re
import warnings
from collections import Counter
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score

from segmentation_pipeline.model import kmeans, matching, naming, segment_catalog
from segmentation_pipeline.model.segment_catalog import FEATURES
from segmentation_pipeline.model.segmentation_model import (
    Fence,
    SegmentationModel,
    is_active,
    is_normal,
    tukey_fences,
)

Array = NDArray[np.float64]
CATALOGUE = {segment.key: segment for segment in segment_catalog.SEGMENTS}
TRANSFORMS: list[kmeans.Transform] = ["standard", "log", "yeo-johnson", "robust"]


def segments_of(centroids: Any) -> list[segment_catalog.Segment]:
    """Return the segments that clusters get by their position."""
    catalogue = {segment.key: segment for segment in segment_catalog.SEGMENTS}
    return [catalogue[key] for key in naming.name_clusters(centroids)]


def customers(number: int = 400, seed: int = 11) -> Array:
    """Return skewed spend, frequency and recency, as of a shop: shape (number, 3)."""
    random = np.random.default_rng(seed)
    frequency = 1 + random.geometric(0.4, number)
    spend = np.round(random.lognormal(5, 0.8, number) * frequency / 3, 2)
    return np.column_stack([spend, frequency, random.integers(0, 370, number)]).astype(np.float64)


def fit(features: Array, **changed: Any) -> kmeans.KMeansFit:
    return kmeans.fit(features, **{"transform": "standard", "n_clusters": 4, "random_state": 42, **changed})


def learned_numbers(fitted: kmeans.KMeansFit) -> list[Any]:
    """Return every learned number, for exact comparison."""
    arrays = (fitted.centroids_, fitted.means_, fitted.standardised_, fitted.sizes_, fitted.scaler.center_)
    exponents = fitted.scaler.exponents_
    return [
        *(array.tolist() for array in arrays),
        fitted.scaler.scale_.tolist(),
        None if exponents is None else exponents.tolist(),
        fitted.inertia_,
        fitted.silhouette_,
    ]


# The fit.


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_fit_is_reproducible_to_the_last_bit(transform: kmeans.Transform) -> None:
    features = customers()
    assert learned_numbers(fit(features, transform=transform)) == learned_numbers(
        fit(features.copy(), transform=transform)
    )


def test_row_order_does_not_matter_once_sorted_by_key() -> None:
    features = customers()
    keys = np.array([f"c{number:05d}" for number in range(len(features))])
    shuffled = np.random.default_rng(0).permutation(len(features))
    sorted_again = features[shuffled][np.argsort(keys[shuffled])]
    assert learned_numbers(fit(sorted_again)) == learned_numbers(fit(features))


@pytest.mark.parametrize("transform", ["standard", "log"])
def test_seed_changes_no_names_and_few_customers(transform: kmeans.Transform) -> None:
    features = customers()

    def names(random_state: int) -> dict[str, int]:
        fitted = fit(features, transform=transform, random_state=random_state)
        named = naming.name_clusters(fitted.standardised_)
        return dict(zip(named, fitted.sizes_.tolist(), strict=True))

    first = names(0)
    for random_state in range(1, 6):
        other = names(random_state)
        assert other.keys() == first.keys()
        # Where k-means has several good optima, some customers at the borders differ; the groups do not.
        assert all(abs(other[key] - first[key]) < 0.05 * len(features) for key in first)


def test_clusters_are_ordered_by_position() -> None:
    centroids = fit(customers()).centroids_.tolist()
    assert centroids == sorted(centroids)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_fit_does_not_change_its_input(transform: kmeans.Transform) -> None:
    features = customers()
    before = features.copy()
    fitted = fit(features, transform=transform)
    scaled = fitted.scaler.apply(features)
    assert np.array_equal(features, before)
    assert not np.shares_memory(scaled, features)


def scikit_pipeline(transform: kmeans.Transform) -> Any:
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, PowerTransformer, RobustScaler, StandardScaler

    steps: dict[str, list[Any]] = {
        "standard": [StandardScaler()],
        "log": [FunctionTransformer(np.log1p), StandardScaler()],
        "yeo-johnson": [PowerTransformer("yeo-johnson", standardize=True)],
        "robust": [RobustScaler()],
    }
    return make_pipeline(*steps[transform])


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("n_clusters", [2, 4, 7])
def test_fit_equals_scikit_learn(transform: kmeans.Transform, n_clusters: int) -> None:
    from sklearn.cluster import KMeans
    from sklearn.metrics import silhouette_score

    features = customers()
    fitted = fit(features, transform=transform, n_clusters=n_clusters)
    scaled = fitted.scaler.apply(features)
    assert scaled == pytest.approx(scikit_pipeline(transform).fit_transform(features), abs=1e-9)
    alone = KMeans(n_clusters, random_state=42, n_init=10, max_iter=1000, tol=0).fit(scaled)
    assert fitted.inertia_ <= alone.inertia_ * (1 + 1e-9), "single moves never raise the inertia"
    # Started from these centroids, scikit-learn does not move.
    model = KMeans(n_clusters, init=fitted.centroids_, n_init=1, max_iter=1000, tol=0).fit(scaled)
    order = np.lexsort(model.cluster_centers_.T[::-1])
    labels = np.argsort(order)[model.labels_]

    assert fitted.centroids_ == pytest.approx(model.cluster_centers_[order], rel=1e-9)
    assert fitted.sizes_.tolist() == np.bincount(labels).tolist()
    assert fitted.inertia_ == pytest.approx(model.inertia_, rel=1e-9)
    assert fitted.silhouette_ == pytest.approx(silhouette_score(scaled, labels), rel=1e-9)
    means = [features[labels == cluster].mean(axis=0) for cluster in range(n_clusters)]
    assert fitted.means_ == pytest.approx(np.array(means), rel=1e-9)
    assert kmeans.nearest(scaled, fitted.centroids_).tolist() == labels.tolist()


def test_position_is_in_standard_deviations_from_the_mean() -> None:
    features = customers()
    fitted = fit(features)
    wanted = (fitted.means_ - features.mean(axis=0)) / features.std(axis=0)
    assert fitted.standardised_ == pytest.approx(wanted, rel=1e-9)
    assert fitted.sizes_ @ fitted.standardised_ == pytest.approx(np.zeros(3), abs=1e-6)


def test_learned_numbers_have_at_most_12_digits() -> None:
    fitted = fit(customers(), transform="yeo-johnson")
    numbers = [*fitted.centroids_.ravel(), *fitted.means_.ravel(), *fitted.scaler.center_, *fitted.scaler.scale_]
    assert fitted.scaler.exponents_ is not None
    numbers += [*fitted.scaler.exponents_, fitted.inertia_, fitted.silhouette_]
    assert [float(f"{number:.12g}") for number in numbers] == numbers


def test_fences_need_an_active_customer() -> None:
    with pytest.raises(ValueError, match="no customer has a purchase and money left"):
        tukey_fences(np.array([[0.0, 0, 10], [-5, 1, 3]]), ["monetary"], 1.5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("distinct", [1, 3, 4])
def test_too_few_distinct_customers_raise_a_clear_error(distinct: int) -> None:
    features = np.tile(customers(distinct), (50, 1))
    with pytest.raises(ValueError, match=f"{distinct} distinct normal customers are too few for 4 clusters"):
        fit(features)
    five = np.tile(customers(5), (50, 1))
    assert fit(five).sizes_.sum() == 250


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("value", [1.0, 3.3, 99.99])
def test_constant_feature_has_no_effect(transform: kmeans.Transform, value: float) -> None:
    """Where three quarters of the customers buy once, every normal customer has a frequency of 1."""
    features = customers(57)
    others = fit(features[:, [0, 2]], transform=transform)
    features[:, 1] = value
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        flat = fit(features, transform=transform)
    assert flat.sizes_.tolist() == others.sizes_.tolist()
    assert np.allclose(flat.centroids_[:, [0, 2]], others.centroids_)
    assert np.allclose(flat.centroids_[:, 1], 0)
    assert np.allclose(flat.means_[:, 1], value)
    assert np.isfinite(flat.standardised_).all()


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_constant_features_raise_a_clear_error(transform: kmeans.Transform) -> None:
    with pytest.raises(ValueError, match=r"every feature has the same value|too few for"):
        fit(np.full((57, 3), 3.3), transform=transform)


# The names.


def tutorial() -> tuple[Array, list[str]]:
    """Return the four published clusters of a tutorial on Online Retail II, standardised, and their names.

    The mean and the spread between the clusters follow from the published sizes and means; the spread within the
    clusters adds about a third.
    """
    sizes = np.array([1549, 942, 890, 482])
    means = np.array([[425.7, 1.62, 55.9], [378.4, 1.37, 258.1], [1250.3, 3.91, 46.8], [2426.7, 6.98, 30.7]])
    centre = sizes @ means / sizes.sum()
    between = np.sqrt(sizes @ (means - centre) ** 2 / sizes.sum())
    return (means - centre) / (between * 1.15), ["nurture", "re_engage", "retain", "reward"]


@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_published_clusters_get_their_names_in_any_order(order: tuple[int, ...]) -> None:
    centroids, names = tutorial()
    found = naming.name_clusters(centroids[list(order)])
    assert found == [names[cluster] for cluster in order]


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("n_clusters", range(2, 13))
def test_names_are_distinct_and_fit_the_positions(transform: kmeans.Transform, n_clusters: int) -> None:
    fitted = fit(customers(), transform=transform, n_clusters=n_clusters, n_init=1)
    named = naming.name_clusters(fitted.standardised_)
    assert len({*named}) == n_clusters
    segments = [CATALOGUE[key] for key in named]
    for segment, (monetary, frequency, recency) in zip(segments, fitted.standardised_.tolist(), strict=True):
        value = (monetary + frequency) / 2
        assert segment.customer_group == "normal"
        # Names of lapsed customers need a high recency, names of recent customers a low one.
        assert recency > 0.3 or segment.staleness < 1.5, (segment.name, value, recency)
        assert recency < 0.7 or segment.staleness > 0, (segment.name, value, recency)
        # Names of top customers need a high value, names of small customers a low one.
        assert value > 0.8 or segment.value < 2, (segment.name, value, recency)
        assert value < 0.6 or segment.value > 0, (segment.name, value, recency)


def test_plus_is_the_cluster_of_more_value() -> None:
    near = np.array([[-0.4, -0.4, -0.5], [-0.6, -0.6, -0.5], [2.0, 2.0, -0.5]])
    for order in permutations(range(3)):
        found = naming.name_clusters(near[list(order)])
        assert found == [["nurture_plus", "nurture", "reward"][cluster] for cluster in order]


def test_free_place_nearby_is_preferred_to_sharing() -> None:
    found = naming.name_clusters(np.array([[0.5, 0.5, -0.5], [0.8, 0.8, -0.5]]))
    assert found == ["retain", "grow"]


def test_assigned_key_is_kept_and_given_to_no_other() -> None:
    """Both clusters are at the place of NURTURE; the first continues GROW."""
    at = np.array([[-0.5, -0.5, -0.5], [-0.5, -0.5, -0.5]])
    assert naming.name_clusters(at, ["grow", None]) == ["grow", "nurture"]
    assert naming.name_clusters(at, [None, "nurture"]) == ["nurture_plus", "nurture"]
    assert naming.name_clusters(at, ["re_engage", "retain"]) == ["re_engage", "retain"]


def test_assigned_segment_does_not_become_plus() -> None:
    at = np.array([[-0.4, -0.4, -0.5], [-0.6, -0.6, -0.5]])
    assert naming.name_clusters(at) == ["nurture_plus", "nurture"]
    assert naming.name_clusters(at, ["nurture", None]) == ["nurture", "nurture_plus"]


def test_new_cluster_never_gets_a_reserved_name() -> None:
    """A campaign on a retired segment must not find other customers in it overnight."""
    at = np.array([[0.5, 0.5, -0.5], [-0.5, -0.5, -0.5]])
    assert naming.name_clusters(at, ["retain", None], ("retain", "nurture")) == ["retain", "nurture_plus"]


@pytest.mark.parametrize(
    ("value", "misplaced"), [(-0.5, False), (-2.0, False), (0.2, False), (0.3, True), (0.5, True), (2.0, True)]
)
@pytest.mark.parametrize("key", ["nurture", "nurture_plus"])
def test_name_is_misplaced_beyond_half_a_standard_deviation(key: str, value: float, misplaced: bool) -> None:
    """NURTURE has a value of -0.5, RETAIN of 0.5; at 0.25 RETAIN is nearer by 0.5."""
    at = np.array([[value, value, -0.5], [-0.6, -0.6, 1.7]])
    assert naming.misplaced(at, [key, "re_engage"]) == ([key] if misplaced else [])


def test_name_of_lapsed_customers_is_misplaced_for_recent_ones() -> None:
    assert naming.misplaced(np.array([[0.5, 0.5, -0.5]]), ["revive"]) == ["revive"]


def test_more_clusters_than_names_raise_a_clear_error() -> None:
    names = sum(segment.customer_group == "normal" for segment in segment_catalog.SEGMENTS)
    centroids = np.random.default_rng(1).normal(size=(names + 1, 3))
    assert len({*naming.name_clusters(centroids[:-1])}) == names
    with pytest.raises(ValueError, match=f"{names + 1} clusters, but only {names} names"):
        segments_of(centroids)


# Published names, which must never change. New segments can be added.
PUBLISHED_NAMES = {
    "nurture": "NURTURE",
    "retain": "RETAIN",
    "grow": "GROW",
    "reward": "REWARD",
    "remind": "REMIND",
    "reactivate": "REACTIVATE",
    "recover": "RECOVER",
    "reclaim": "RECLAIM",
    "re_engage": "RE-ENGAGE",
    "revive": "REVIVE",
    "rescue": "RESCUE",
    "win_back": "WIN-BACK",
    "nurture_plus": "NURTURE PLUS",
    "retain_plus": "RETAIN PLUS",
    "grow_plus": "GROW PLUS",
    "reward_plus": "REWARD PLUS",
    "remind_plus": "REMIND PLUS",
    "reactivate_plus": "REACTIVATE PLUS",
    "recover_plus": "RECOVER PLUS",
    "reclaim_plus": "RECLAIM PLUS",
    "re_engage_plus": "RE-ENGAGE PLUS",
    "revive_plus": "REVIVE PLUS",
    "rescue_plus": "RESCUE PLUS",
    "win_back_plus": "WIN-BACK PLUS",
    "pamper": "PAMPER",
    "upsell": "UPSELL",
    "delight": "DELIGHT",
    "examine": "EXAMINE",
    "dormant": "DORMANT",
    "refunded": "REFUNDED",
    "no_spend": "NO SPEND",
}


def test_published_keys_never_change_their_meaning() -> None:
    assert {key: CATALOGUE[key].name for key in PUBLISHED_NAMES} == PUBLISHED_NAMES
    groups = {
        "pamper": "outlier",
        "upsell": "outlier",
        "delight": "outlier",
        "examine": "outlier",
        "dormant": "inactive",
        "refunded": "inactive",
        "no_spend": "inactive",
    }
    assert {key: CATALOGUE[key].customer_group for key in PUBLISHED_NAMES} == {
        key: groups.get(key, "normal") for key in PUBLISHED_NAMES
    }


def test_every_key_is_listed_as_published() -> None:
    assert set(CATALOGUE) == set(PUBLISHED_NAMES)


def test_each_segment_has_its_own_colour() -> None:
    colours = [segment.colour for segment in segment_catalog.SEGMENTS]
    assert all(re.fullmatch("#[0-9a-f]{6}", colour) for colour in colours)
    assert len({*colours}) == len(colours)


def test_keys_and_names_are_unique() -> None:
    assert len({segment.key for segment in segment_catalog.SEGMENTS}) == len(segment_catalog.SEGMENTS)
    assert len({segment.name for segment in segment_catalog.SEGMENTS}) == len(segment_catalog.SEGMENTS)
    assert {segment.customer_group for segment in segment_catalog.SEGMENTS} == {"normal", "outlier", "inactive"}
    assert all(segment.key.isidentifier() and segment.key.islower() for segment in segment_catalog.SEGMENTS)
    assert all(segment.action.endswith(".") for segment in segment_catalog.SEGMENTS)


@pytest.mark.parametrize("segment", segment_catalog.SEGMENTS, ids=lambda segment: segment.key)
def test_each_segment_has_a_description_of_one_sentence(segment: segment_catalog.Segment) -> None:
    assert segment.description[0].isupper()
    assert re.findall(r"[.!?]+", segment.description) == ["."]
    assert segment.description.endswith(".")


def test_examine_covers_unusually_recent_customers() -> None:
    """With a fence on recency, unusually recent customers are outliers too, and belong to no other segment."""
    [examine] = [segment for segment in segment_catalog.SEGMENTS if segment.key == "examine"]
    assert "recent" in examine.description
    assert "less value" not in examine.description


# The model as a whole.

# Normal customers: 60 to 180 of spend, 2 to 8 purchases, a recency of 20 to 80 days.
FENCES = {"monetary": Fence(100, 140, 1), "frequency": Fence(4, 6, 1), "recency": Fence(40, 60, 1)}
UNSCALED = kmeans.Scaler("standard", None, np.zeros(3), np.ones(3))
TWO = SegmentationModel(FENCES, UNSCALED, np.array([[100.0, 5, 50], [140.0, 5, 50]]), ("retain", "grow"))


@pytest.mark.parametrize(
    ("customer", "key"),
    [
        ((100, 0, 50), "dormant"),
        ((-5, 0, 50), "dormant"),
        ((0, 5, 50), "no_spend"),
        ((-0.01, 99, 50), "refunded"),
        ((110, 5, 50), "retain"),
        ((130, 5, 50), "grow"),
        # Equally near to both: the lower key, whatever the order of the centroids.
        ((120, 5, 50), "grow"),
        # A customer on a fence is normal.
        ((180, 8, 80), "grow"),
        ((60, 2, 20), "retain"),
        ((181, 5, 50), "pamper"),
        ((120, 9, 50), "upsell"),
        ((181, 9, 50), "delight"),
        ((59, 5, 50), "examine"),
        ((120, 1, 50), "examine"),
        ((120, 5, 81), "examine"),
        # Below a fence of value takes precedence over above one.
        ((181, 1, 50), "examine"),
        ((181, 9, 81), "examine"),
        # An unusually recent customer is examined only if no other fence applies.
        ((120, 5, 19), "examine"),
        ((181, 5, 19), "pamper"),
    ],
)
def test_model_assigns_the_segment_of_the_features(customer: tuple[float, ...], key: str) -> None:
    assert TWO.assign(np.array([customer], dtype=float)).tolist() == [key]
    assert is_normal(FENCES, np.array([customer], dtype=float)).tolist() == [key in ("grow", "retain")]


def test_customers_without_money_are_told_apart_by_refunds() -> None:
    features = np.array([[0, 5, 50], [0, 5, 50], [-1, 5, 50], [0, 0, 50], [110, 5, 50]], dtype=float)
    keys = TWO.assign(features, np.array([0.0, 0.01, 1, 5, 5]))
    assert keys.tolist() == ["no_spend", "refunded", "refunded", "dormant", "retain"]


def test_assignment_is_independent_of_other_customers() -> None:
    features = customers(500)
    features[::9, 1] = 0
    features[::7, 0] *= -1
    normal = is_normal(FENCES, features)
    fitted = fit(features[is_active(features)])
    model = SegmentationModel(FENCES, fitted.scaler, fitted.centroids_, ("retain", "grow", "nurture", "reward"))
    before = features.copy()
    keys = model.assign(features)
    assert np.array_equal(features, before)
    assert keys.tolist() == [model.assign(features[[row]])[0] for row in range(len(features))]
    predicted = kmeans.nearest(fitted.scaler.apply(features[normal]), fitted.centroids_)
    assert keys[normal].tolist() == [model.keys[cluster] for cluster in predicted]


def test_without_fences_every_active_customer_is_normal() -> None:
    model = SegmentationModel({}, TWO.scaler, TWO.centroids_, TWO.keys)
    features = np.array([[1e9, 900, 5000], [0.01, 1, 0], [0, 1, 0]], dtype=float)
    assert model.assign(features).tolist() == ["grow", "retain", "no_spend"]


def test_renaming_changes_keys_only() -> None:
    renamed = TWO.with_keys(("nurture", "reward"))
    assert renamed.assign(np.array([[110.0, 5, 50]])).tolist() == ["nurture"]
    assert (TWO.keys, renamed.fences) == (("retain", "grow"), FENCES)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_centroids_in_natural_units_scale_back(transform: kmeans.Transform) -> None:
    fitted = fit(customers(), transform=transform)
    model = SegmentationModel({}, fitted.scaler, fitted.centroids_, ("a", "b", "c", "d"))
    back = fitted.scaler.apply(model.centroids_in_natural_units())
    assert back == pytest.approx(fitted.centroids_, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 6, 101])
@pytest.mark.parametrize("factor", [1.5, 3.0])
def test_fences_follow_numpys_quartiles_of_active_customers(number: int, factor: float) -> None:
    bought = customers(number)
    nothing_to_fit = np.array([[-900.0, 0, 9999], [0, 40, 5], [-1, 40, 5]])
    fences = tukey_fences(np.vstack([nothing_to_fit, bought]), ["recency", "monetary", "frequency"], factor)
    assert list(fences) == list(FEATURES)
    for place, fence in enumerate(fences.values()):
        q1, q3 = np.percentile(bought[:, place], [25, 75])
        wanted = [q1, q3, factor, q1 - factor * (q3 - q1), q3 + factor * (q3 - q1)]
        assert [fence.q1, fence.q3, fence.factor, fence.lower, fence.upper] == pytest.approx(wanted, rel=1e-9, abs=1e-9)


def test_only_requested_features_get_fences() -> None:
    assert list(tukey_fences(customers(), ["monetary"], 1.5)) == ["monetary"]


def test_fence_moves_part_of_the_way_by_quartiles() -> None:
    """From quartiles 0 and 10 to 4 and 20, the upper fence moves from 25 through 29.75 to 44."""
    fence, other = Fence(0, 10, 1.5), Fence(4, 20, 1.5)
    assert fence.towards(other, 0.25) == Fence(1, 12.5, 1.5)
    assert (fence.upper, fence.towards(other, 0.25).upper, other.upper) == (25, 29.75, 44)
    assert (fence.lower, fence.towards(other, 0.25).lower, other.lower) == (-15, -16.25, -20)
    assert (fence.towards(other, 0), fence.towards(other, 1)) == (fence, other)


# Matching.


def matched(
    clusters: list[int], segments: list[str], keys: tuple[str, ...], at: list[float], active: list[float]
) -> list[str | None]:
    """Match on one axis: the positions of the clusters, and of the active segments."""
    columns = np.array(at, dtype=float)[:, None], np.array(active, dtype=float)[:, None]
    return matching.match(np.array(clusters), np.array(segments), keys, *columns)


def test_cluster_continues_the_segment_with_most_shared_customers() -> None:
    segments = ["a"] * 5 + ["b"] * 5 + ["c"] * 5
    clusters = [2, 2, 2, 2, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2]
    assert matched(clusters, segments, ("a", "b", "c"), [0, 0, 0], [0, 0, 0]) == ["b", "c", "a"]


@pytest.mark.parametrize(
    ("clusters", "found"),
    [
        # 2 of the 4 customers in either are shared, then 2 of 5.
        ([0, 0, -1, -1, 1, 1], "a"),
        ([0, 0, -1, -1, 0, 1], None),
    ],
)
def test_less_than_half_in_common_does_not_match(clusters: list[int], found: str | None) -> None:
    segments = ["a", "a", "a", "a", "pamper", "pamper"]
    assert matched(clusters, segments, ("a",), [0, 9], [0])[0] == found


@pytest.mark.parametrize(("at", "key"), [(1.0, "a"), (8.0, "b")])
def test_equal_overlap_matches_the_nearer_segment(at: float, key: str) -> None:
    assert matched([0, 0, 0, 0], ["a", "a", "b", "b"], ("a", "b"), [at], [0, 9]) == [key]


def test_distance_never_outweighs_one_customer() -> None:
    clusters, segments = [0] * 5, ["a", "a", "a", "b", "b"]
    assert matched(clusters, segments, ("a", "b"), [1e6], [0, 1e6]) == ["a"]


def test_surplus_clusters_match_no_segment() -> None:
    assert matched([0, 0, 1, 1, 2, 2], ["a", "a", "b", "b", "b", "b"], ("a", "b"), [0, 1, 2], [0, 1]) == [
        "a",
        "b",
        None,
    ]


def pairs(before: str, after: str) -> Counter[tuple[str, str]]:
    """Return how many customers are in each segment before and in each after, one letter a customer."""
    return Counter(zip(before, after, strict=True))


def test_kept_share_and_agreement_are_independent() -> None:
    """Hubert and Arabie by hand: of 6 pairs, 1 is together in both, 2 in the first, 1 in the second; chance is 1/3."""
    same = pairs("aabb", "aabb")
    assert matching.kept_share(same) == matching.agreement(same) == 1
    swapped = pairs("aabb", "bbaa")
    assert (matching.kept_share(swapped), matching.agreement(swapped)) == (0, 1)
    changed = pairs("aabb", "aabc")
    assert matching.kept_share(changed) == 0.75
    assert matching.agreement(changed) == pytest.approx((1 - 1 / 3) / (1.5 - 1 / 3))


def test_agreement_of_counts_equals_scikit_learns_of_customers() -> None:
    random = np.random.default_rng(3)
    for segments in (1, 2, 7):
        before, after = ("".join(random.choice(list("abcdefg"[:segments]), 500)) for _ in range(2))
        # Half of the customers stay.
        after = before[:250] + after[250:]
        assert matching.agreement(pairs(before, after)) == pytest.approx(adjusted_rand_score(list(before), list(after)))
