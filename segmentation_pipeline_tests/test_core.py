"""The methods alone: the k-means fit held against scikit-learn, and names held against where clusters lie."""

import re
import warnings
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from segmentation_pipeline.core import kmeans, naming

Array = NDArray[np.float64]
TRANSFORMS: list[kmeans.Transform] = ["standard", "log", "yeo-johnson", "robust"]


def customers(number: int = 400, seed: int = 11) -> Array:
    """Skewed spend, frequency and recency, as in a shop: shape (number, 3)."""
    random = np.random.default_rng(seed)
    frequency = 1 + random.geometric(0.4, number)
    spend = np.round(random.lognormal(5, 0.8, number) * frequency / 3, 2)
    return np.column_stack([spend, frequency, random.integers(0, 370, number)]).astype(np.float64)


def fit(features: Array, **changed: Any) -> kmeans.KMeansFit:
    return kmeans.fit(features, **{"transform": "standard", "n_clusters": 4, "random_state": 42, **changed})


def figures(fitted: kmeans.KMeansFit) -> list[Any]:
    """Every learned number, to be compared exactly."""
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
def test_the_same_customers_make_the_same_model_to_the_last_bit(transform: kmeans.Transform) -> None:
    features = customers()
    assert figures(fit(features, transform=transform)) == figures(fit(features.copy(), transform=transform))


def test_the_order_of_the_rows_cannot_matter_once_they_are_sorted_by_key() -> None:
    features = customers()
    keys = np.array([f"c{number:05d}" for number in range(len(features))])
    shuffled = np.random.default_rng(0).permutation(len(features))
    sorted_again = features[shuffled][np.argsort(keys[shuffled])]
    assert figures(fit(sorted_again)) == figures(fit(features))


@pytest.mark.parametrize("transform", ["standard", "log"])
def test_another_seed_gives_the_same_names_to_the_same_customers(transform: kmeans.Transform) -> None:
    features = customers()

    def names(random_state: int) -> dict[str, int]:
        fitted = fit(features, transform=transform, random_state=random_state)
        named = naming.name_clusters(fitted.standardised_)
        return {segment.key: size for segment, size in zip(named, fitted.sizes_.tolist(), strict=True)}

    first = names(0)
    for random_state in range(1, 6):
        other = names(random_state)
        assert other.keys() == first.keys()
        # Where k-means has several good ends, some customers on the borders go over; the groups stay.
        assert all(abs(other[key] - first[key]) < 0.05 * len(features) for key in first)


def test_clusters_are_numbered_by_where_they_lie() -> None:
    centroids = fit(customers()).centroids_.tolist()
    assert centroids == sorted(centroids)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_the_input_is_not_mutated(transform: kmeans.Transform) -> None:
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
def test_the_figures_are_scikit_learns(transform: kmeans.Transform, n_clusters: int) -> None:
    from sklearn.cluster import KMeans
    from sklearn.metrics import silhouette_score

    features = customers()
    fitted = fit(features, transform=transform, n_clusters=n_clusters)
    scaled = fitted.scaler.apply(features)
    assert scaled == pytest.approx(scikit_pipeline(transform).fit_transform(features), abs=1e-9)
    # From the same starting numbers to the last bit: where k-means ends may hang on them.
    model = KMeans(n_clusters, random_state=42, n_init=10, max_iter=1000, tol=0).fit(scaled)
    order = np.lexsort(model.cluster_centers_.T[::-1])
    labels = np.argsort(order)[model.labels_]

    assert fitted.centroids_ == pytest.approx(model.cluster_centers_[order], rel=1e-9)
    assert fitted.sizes_.tolist() == np.bincount(labels).tolist()
    assert fitted.inertia_ == pytest.approx(model.inertia_, rel=1e-9)
    assert fitted.silhouette_ == pytest.approx(silhouette_score(scaled, labels), rel=1e-9)
    means = [features[labels == cluster].mean(axis=0) for cluster in range(n_clusters)]
    assert fitted.means_ == pytest.approx(np.array(means), rel=1e-9)
    assert kmeans.nearest(scaled, fitted.centroids_).tolist() == labels.tolist()


def test_where_a_cluster_lies_is_told_in_standard_deviations_from_the_mean_customer() -> None:
    features = customers()
    fitted = fit(features)
    wanted = (fitted.means_ - features.mean(axis=0)) / features.std(axis=0)
    assert fitted.standardised_ == pytest.approx(wanted, rel=1e-9)
    assert fitted.sizes_ @ fitted.standardised_ == pytest.approx(np.zeros(3), abs=1e-6)


def test_the_learned_numbers_have_no_more_than_12_digits() -> None:
    fitted = fit(customers(), transform="yeo-johnson")
    numbers = [*fitted.centroids_.ravel(), *fitted.means_.ravel(), *fitted.scaler.center_, *fitted.scaler.scale_]
    assert fitted.scaler.exponents_ is not None
    numbers += [*fitted.scaler.exponents_, fitted.inertia_, fitted.silhouette_]
    assert [float(f"{number:.12g}") for number in numbers] == numbers


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("distinct", [1, 3, 4])
def test_too_few_different_customers_are_refused_in_a_sentence(distinct: int) -> None:
    features = np.tile(customers(distinct), (50, 1))
    with pytest.raises(ValueError, match=f"{distinct} distinct normal customers are too few for 4 clusters"):
        fit(features)
    five = np.tile(customers(5), (50, 1))
    assert fit(five).sizes_.sum() == 250


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("value", [1.0, 3.3, 99.99])
def test_a_feature_that_never_varies_tells_nobody_apart(transform: kmeans.Transform, value: float) -> None:
    """Where three of four buy once, every normal customer has a frequency of 1."""
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
def test_customers_of_whom_nothing_varies_are_refused_in_a_sentence(transform: kmeans.Transform) -> None:
    with pytest.raises(ValueError, match=r"every feature has the same value|too few for"):
        fit(np.full((57, 3), 3.3), transform=transform)


def test_labels_agree_with_the_prediction_or_with_a_centroid_that_is_as_near() -> None:
    centroids = np.array([[0.1, 0, 0], [0.3, 0, 0], [9.0, 0, 0]])
    scaled = np.array([[0.2, 0, 0], [0.2, 0, 0], [0.2, 0, 0], [0.21, 0, 0], [0.21, 0, 0], [0.1, 0, 0], [0.1, 0, 0]])
    labels = np.array([0, 1, 2, 0, 1, -1, 3])
    agreeing = kmeans.agree(labels, kmeans.nearest(scaled, centroids), scaled, centroids)
    assert agreeing.tolist() == [True, True, False, False, True, False, False]


# The names.


def tutorial() -> tuple[Array, list[str]]:
    """The four clusters of the recipe on Online Retail II: published sizes and means, and the names in use for them.

    Standardised over the customers: the mean and the spread between the clusters follow from these numbers, and to that
    comes the spread within, of about a third.
    """
    sizes = np.array([1549, 942, 890, 482])
    means = np.array([[425.7, 1.62, 55.9], [378.4, 1.37, 258.1], [1250.3, 3.91, 46.8], [2426.7, 6.98, 30.7]])
    centre = sizes @ means / sizes.sum()
    between = np.sqrt(sizes @ (means - centre) ** 2 / sizes.sum())
    return (means - centre) / (between * 1.15), ["NURTURE", "RE-ENGAGE", "RETAIN", "REWARD"]


@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_the_tutorials_clusters_get_their_names_in_any_order(order: tuple[int, ...]) -> None:
    centroids, names = tutorial()
    found = naming.name_clusters(centroids[list(order)])
    assert [segment.name for segment in found] == [names[cluster] for cluster in order]


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("n_clusters", range(2, 13))
def test_names_are_distinct_and_say_where_the_cluster_lies(transform: kmeans.Transform, n_clusters: int) -> None:
    fitted = fit(customers(), transform=transform, n_clusters=n_clusters, n_init=1)
    named = naming.name_clusters(fitted.standardised_)
    assert len({segment.key for segment in named}) == len({segment.name for segment in named}) == n_clusters
    for segment, (monetary, frequency, recency) in zip(named, fitted.standardised_.tolist(), strict=True):
        value = (monetary + frequency) / 2
        assert segment.customer_group == "normal"
        # Nobody who bought lately is "away for long", and nobody who is away "recent".
        assert recency > 0.3 or segment.staleness < 1.5, (segment.name, value, recency)
        assert recency < 0.7 or segment.staleness > 0, (segment.name, value, recency)
        # Nobody of little value is a "top customer", and nobody of much "small".
        assert value > 0.8 or segment.value < 2, (segment.name, value, recency)
        assert value < 0.6 or segment.value > 0, (segment.name, value, recency)


def test_of_two_clusters_in_one_place_that_of_more_value_is_the_plus() -> None:
    near = np.array([[-0.4, -0.4, -0.5], [-0.6, -0.6, -0.5], [2.0, 2.0, -0.5]])
    for order in permutations(range(3)):
        found = [segment.key for segment in naming.name_clusters(near[list(order)])]
        assert found == [["nurture_plus", "nurture", "reward"][cluster] for cluster in order]


def test_a_free_place_nearby_is_taken_before_a_place_is_shared() -> None:
    found = naming.name_clusters(np.array([[0.5, 0.5, -0.5], [0.8, 0.8, -0.5]]))
    assert [segment.key for segment in found] == ["retain", "grow"]


def test_more_clusters_than_names_are_refused_in_a_sentence() -> None:
    names = sum(segment.customer_group == "normal" for segment in naming.SEGMENTS)
    centroids = np.random.default_rng(1).normal(size=(names + 1, 3))
    assert len({segment.key for segment in naming.name_clusters(centroids[:-1])}) == names
    with pytest.raises(ValueError, match=f"{names + 1} clusters, but only {names} names"):
        naming.name_clusters(centroids)


def test_keys_and_names_of_the_catalogue_are_unique_and_speak_of_every_group() -> None:
    assert len({segment.key for segment in naming.SEGMENTS}) == len(naming.SEGMENTS)
    assert len({segment.name for segment in naming.SEGMENTS}) == len(naming.SEGMENTS)
    assert {segment.customer_group for segment in naming.SEGMENTS} == {"normal", "outlier", "inactive"}
    assert all(segment.key.isidentifier() and segment.key.islower() for segment in naming.SEGMENTS)
    assert all(segment.action.endswith(".") for segment in naming.SEGMENTS)


@pytest.mark.parametrize("segment", naming.SEGMENTS, ids=lambda segment: segment.key)
def test_each_segment_is_described_in_exactly_one_sentence(segment: naming.Segment) -> None:
    assert segment.description[0].isupper()
    assert re.findall(r"[.!?]+", segment.description) == ["."]
    assert segment.description.endswith(".")


def test_who_is_beyond_a_fence_for_buying_recently_is_not_said_to_be_of_less_value() -> None:
    """With a fence on recency, the unusually recent are outliers too, and no other segment of outliers is theirs."""
    [examine] = [segment for segment in naming.SEGMENTS if segment.key == "examine"]
    assert "recent" in examine.description
    assert "less value" not in examine.description
