"""Silhouettes of several clusterings at once are those of scikit-learn, and a sample keeps small clusters."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics

from segmentation_pipeline.model import silhouette
from segmentation_pipeline_tests.model.test_k_search import blobs, noise

Array = NDArray[np.float64]


def test_each_clustering_has_the_silhouette_of_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever part of the distances is in memory at once."""
    scaled, random = noise(700), np.random.default_rng(1)
    labelings = [random.integers(0, k, len(scaled)) for k in (2, 5, 8)]
    expected = [metrics.silhouette_score(scaled, labels) for labels in labelings]
    for megabytes in (1, 32):
        monkeypatch.setattr(silhouette, "_WORKING_MEMORY", megabytes)
        assert silhouette.silhouettes(scaled, labelings, 0) == pytest.approx(expected, rel=1e-9)
    assert silhouette.silhouettes(scaled, labelings, 0)[1:2] == silhouette.silhouettes(scaled, labelings[1:2], 0)


def test_single_customers_and_equal_customers_count_as_0() -> None:
    """As in scikit-learn: neither has a distance to compare with."""
    scaled: Array = np.array([[0.0, 0], [0, 0], [0, 0], [0, 0], [7, 7]])
    assert silhouette.silhouettes(scaled, [np.array([0, 0, 1, 1, 2])], 0) == [0.0]


def test_sampled_silhouette_is_near_and_keeps_small_clusters(monkeypatch: pytest.MonkeyPatch) -> None:
    few: Array = np.array([[90.0, 90, 90], [91, 90, 90], [92, 90, 90]])
    scaled = np.vstack([blobs(3, each=700, spread=3), few])
    labels = np.append(np.repeat([0, 1, 2], 700), [3, 3, 3])
    [exact] = silhouette.silhouettes(scaled, [labels], 0)
    monkeypatch.setattr(silhouette, "SILHOUETTE_SAMPLE", 500)
    sampled = [silhouette.silhouettes(scaled, [labels], seed)[0] for seed in (0, 0, 1)]
    assert sampled[0] == sampled[1] != sampled[2]
    assert sampled == pytest.approx([exact] * 3, abs=0.02)

    seen: list[list[int]] = []
    distances = metrics.pairwise_distances_chunked

    def spy(rows: Array, **options: Any) -> Iterator[Array]:
        is_few = rows[:, 0] >= 90
        seen.append([int((~is_few).sum()), int(is_few.sum())])
        yield from distances(rows, **options)

    monkeypatch.setattr(metrics, "pairwise_distances_chunked", spy)
    silhouette.silhouettes(scaled, [labels], 0)
    assert seen == [[3 * 166, 2]]
