"""The SELECTs of the active model: input rows and expected rows."""

from segmentation_pipeline.model.segment_catalog import FEATURES
from segmentation_pipeline.warehouse.database import Warehouse
from segmentation_pipeline_tests.tables.derivation import derive, store, timestamp

EARLIER = timestamp("2024-02-01 09:00:00")


def store_models(warehouse: Warehouse) -> None:
    """Store a retired, an active and a pending model; the active one has fences of one feature."""
    facts = {"transform": "yeo-johnson", "n_clusters": 2, "customers": 7, "inertia": 2.5, "silhouette": 0.5}
    store(
        warehouse,
        "segmentation_models",
        {"model_id": "old", "number": 1, "status": "retired", **facts},
        {
            "model_id": "now",
            "number": 2,
            "status": "active",
            "fitted_as_of": EARLIER,
            "settings_digest": "d",
            "random_state": 42,
            **facts,
        },
        {"model_id": "new", "number": 3, "status": "pending", **facts},
    )
    store(
        warehouse,
        "model_features",
        *({"model_id": "old", "feature": name, "factor": 9, "center": 9, "scale": 9} for name in FEATURES),
        {
            "model_id": "now",
            "feature": "monetary",
            "exponent": 0.5,
            "center": 1,
            "scale": 2,
            "q1": 4,
            "q3": 8,
            "factor": 1.5,
            "lower_fence": -2,
            "upper_fence": 14,
        },
        {"model_id": "now", "feature": "frequency", "exponent": 0.25, "center": 3, "scale": 4},
        {"model_id": "now", "feature": "recency", "exponent": -1, "center": 5, "scale": 6},
        *({"model_id": "new", "feature": name, "factor": 8, "center": 8, "scale": 8} for name in FEATURES),
    )
    store(
        warehouse,
        "model_centroids",
        *({"model_id": name, "cluster": 0, "segment_key": "grow", "customers": 1} for name in ("old", "new")),
        {
            "model_id": "now",
            "cluster": 0,
            "segment_key": "retain",
            "customers": 4,
            "scaled_monetary": 1,
            "scaled_frequency": 2,
            "scaled_recency": 3,
            "mean_monetary": 4,
            "mean_frequency": 5,
            "mean_recency": 6,
        },
        {"model_id": "now", "cluster": 1, "segment_key": "nurture", "customers": 3},
    )


def test_outlier_fences_are_those_of_the_active_model(warehouse: Warehouse) -> None:
    """A feature without a factor has no fences."""
    store_models(warehouse)
    assert derive(warehouse, "outlier_fences") == [
        {
            "feature": "monetary",
            "q1": 4,
            "q3": 8,
            "factor": 1.5,
            "lower_fence": -2,
            "upper_fence": 14,
            "fitted_as_of": EARLIER,
            "settings_digest": "d",
        }
    ]


def test_kmeans_model_is_the_active_model(warehouse: Warehouse) -> None:
    store_models(warehouse)
    assert derive(warehouse, "kmeans_model") == [
        {
            "model_id": "now",
            "fitted_as_of": EARLIER,
            "settings_digest": "d",
            "transform": "yeo-johnson",
            "n_clusters": 2,
            "random_state": 42,
            "customers": 7,
            "inertia": 2.5,
            "silhouette": 0.5,
        }
    ]


def test_kmeans_scaler_is_that_of_the_active_model(warehouse: Warehouse) -> None:
    store_models(warehouse)
    assert [tuple(row.values()) for row in derive(warehouse, "kmeans_scaler")] == [
        ("frequency", "yeo-johnson", 0.25, 3, 4),
        ("monetary", "yeo-johnson", 0.5, 1, 2),
        ("recency", "yeo-johnson", -1, 5, 6),
    ]


def test_kmeans_centroids_are_those_of_the_active_model(warehouse: Warehouse) -> None:
    store_models(warehouse)
    assert [tuple(row.values()) for row in derive(warehouse, "kmeans_centroids")] == [
        (0, "retain", 4, 1, 2, 3, 4, 5, 6),
        (1, "nurture", 3, 0, 0, 0, 0, 0, 0),
    ]
