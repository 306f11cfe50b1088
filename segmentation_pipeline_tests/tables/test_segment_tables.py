"""The SELECTs of the stage segments: input rows and expected rows, computed by hand, with numpy or scikit-learn."""

import hashlib
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from segmentation_pipeline.model import kmeans, segment_catalog
from segmentation_pipeline.model.segment_catalog import FEATURES
from segmentation_pipeline.warehouse.database import Warehouse
from segmentation_pipeline_tests.tables.derivation import (
    AS_OF,
    SCORES,
    Row,
    columns_of,
    derive,
    feature_rows,
    random_features,
    sales,
    store,
    timestamp,
)

CROSSED_FENCES = pytest.mark.parametrize(
    ("monetary", "frequency", "recency", "segment"),
    [
        ("high", None, None, "pamper"),
        (None, "high", None, "upsell"),
        ("high", "high", None, "delight"),
        ("low", None, None, "examine"),
        (None, "low", None, "examine"),
        ("low", "high", None, "examine"),
        ("high", "low", None, "examine"),
        # High recency means less value.
        (None, None, "high", "examine"),
        ("high", "high", "high", "examine"),
        ("high", None, "low", "pamper"),
        (None, None, "low", "examine"),
    ],
)


@CROSSED_FENCES
def test_outlier_segments_follow_the_crossed_fences(
    warehouse: Warehouse, monetary: str | None, frequency: str | None, recency: str | None, segment: str
) -> None:
    row = {"customer_id": "x", "monetary_side": monetary, "frequency_side": frequency, "recency_side": recency}
    store(warehouse, "outlier_customers", row)
    assert derive(warehouse, "outlier_segments") == [{"customer_id": "x", "segment_key": segment}]


def store_model(
    warehouse: Warehouse,
    centroids: Sequence[tuple[float, float, float]],
    transform: str = "standard",
    exponents: Sequence[float | None] = (None, None, None),
    center: Sequence[float] = (0, 0, 0),
    scale: Sequence[float] = (1, 1, 1),
) -> None:
    store(
        warehouse,
        "kmeans_scaler",
        *(
            {"feature": name, "transform": transform, "exponent": e, "center": c, "scale": s}
            for name, e, c, s in zip(FEATURES, exponents, center, scale, strict=True)
        ),
    )
    keys = [segment.key for segment in segment_catalog.SEGMENTS]
    scaled = [f"scaled_{name}" for name in FEATURES]
    store(
        warehouse,
        "kmeans_centroids",
        *(
            {"cluster": n, "segment_key": keys[n], **dict(zip(scaled, at, strict=True))}
            for n, at in enumerate(centroids)
        ),
    )


def scaled(row: Row) -> tuple[float, ...]:
    return tuple(row[f"scaled_{name}"] for name in FEATURES)


def test_scaled_customers_are_active_centred_and_scaled(warehouse: Warehouse) -> None:
    """Monetary is 2 above its centre with scale 2, frequency 3 above and recency 4 above: (1, 3, 4)."""
    store_model(warehouse, [], center=(10, 1, 20), scale=(2, 1, 1))
    store(warehouse, "rfm_features", *feature_rows(("a", 24, 4, 12), ("dormant", 24, 0, 12), ("refunded", 24, 4, 0)))
    [row] = derive(warehouse, "scaled_customers")
    assert (row["customer_id"], scaled(row)) == ("a", (1, 3, 4))


@pytest.mark.parametrize("exponent", [-1.5, 0.0, 0.5, 1.0, 2.0, 3.0])
def test_scaled_customers_equal_scipys_yeo_johnson(warehouse: Warehouse, exponent: float) -> None:
    """Recency is negative for lines dated after as_of."""
    from scipy.stats import yeojohnson

    store_model(warehouse, [], "yeo-johnson", [exponent] * 3)
    store(warehouse, "rfm_features", *feature_rows(("a", -7, 3, "12.34"), ("b", 0, 1, "0.01")))
    wanted = yeojohnson(np.array([12.34, 3, -7, 0.01, 1, 0]), lmbda=exponent)
    found = [value for row in derive(warehouse, "scaled_customers") for value in scaled(row)]
    assert found == pytest.approx(wanted, rel=1e-9, abs=1e-9)


def scikit_scaled(transform: str, fitted_on: Any, scored: Any) -> Any:
    """Return features scaled by scikit-learn, without the code under test."""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, PowerTransformer, RobustScaler, StandardScaler

    steps: dict[str, list[Any]] = {
        "standard": [StandardScaler()],
        "log": [FunctionTransformer(np.log1p), StandardScaler()],
        "yeo-johnson": [PowerTransformer("yeo-johnson", standardize=True)],
        "robust": [RobustScaler()],
    }
    return make_pipeline(*steps[transform]).fit(fitted_on).transform(scored)


def store_scaled(warehouse: Warehouse, *customers: tuple[str, float, float, float], **previous: str) -> None:
    """Store scaled customers, and their previous segments."""
    names = ("customer_id", *(f"scaled_{name}" for name in FEATURES))
    store(warehouse, "scaled_customers", *(dict(zip(names, customer, strict=True)) for customer in customers))
    store(warehouse, "previous_segments", *({"customer_id": who, "segment_key": key} for who, key in previous.items()))


def test_nearest_centroids_holds_nearest_second_and_previous_distance(warehouse: Warehouse) -> None:
    """The clusters 0, 1, 2 are nurture, retain and grow, at distances 5, 4 and 13 from (1, 3, 4)."""
    store_model(warehouse, [(1, 0, 0), (1, 3, 8), (4, 7, 16)])
    customers = [(who, 1, 3, 4) for who in ("new", "stays", "third", "vip")]
    store_scaled(warehouse, *customers, stays="retain", third="grow", vip="delight")
    rows = derive(warehouse, "nearest_centroids")
    assert [tuple(row.values()) for row in rows] == [
        ("new", 1, "retain", 4.0, 5.0, None),
        ("stays", 1, "retain", 4.0, 5.0, 4.0),
        ("third", 1, "retain", 4.0, 5.0, 13.0),
        ("vip", 1, "retain", 4.0, 5.0, None),
    ]


def test_nearest_centroids_resolves_ties_by_the_lowest_key(warehouse: Warehouse) -> None:
    """The customer is as near to nurture as to grow; the number of the cluster does not matter."""
    store_model(warehouse, [(0, 0, 0), (9, 9, 9), (2, 0, 0)])
    store_scaled(warehouse, ("a", 1, 0, 0))
    assert columns_of(
        derive(warehouse, "nearest_centroids"), "cluster", "segment_key", "distance", "second_distance"
    ) == [(2, "grow", 1.0, 1.0)]


@pytest.mark.parametrize("transform", ["standard", "log", "yeo-johnson", "robust"])
def test_nearest_centroids_equal_scikit_learns_predict(warehouse: Warehouse, transform: kmeans.Transform) -> None:
    from sklearn.cluster import KMeans

    def table(customers: list[Row]) -> Any:
        return np.array([[float(row[name]) for name in FEATURES] for row in customers])

    fitted_on, scored = random_features(200, seed=1), random_features(300, seed=2)
    fitted = kmeans.fit(table(fitted_on), transform=transform, n_clusters=5, random_state=42)
    scaler = fitted.scaler
    exponents = [None] * 3 if scaler.exponents_ is None else scaler.exponents_.tolist()
    centroids = [(at[0], at[1], at[2]) for at in fitted.centroids_.tolist()]
    store_model(warehouse, centroids, transform, exponents, scaler.center_.tolist(), scaler.scale_.tolist())
    store(warehouse, "rfm_features", *scored)
    store(warehouse, "previous_segments")
    of_scikit = scikit_scaled(transform, table(fitted_on), table(scored))
    found = [scaled(row) for row in derive(warehouse, "scaled_customers")]
    assert np.array(found) == pytest.approx(of_scikit, rel=1e-6, abs=1e-9)
    rows = derive(warehouse, "nearest_centroids")
    model = KMeans(5, init=fitted.centroids_, n_init=1, max_iter=1).fit(fitted.centroids_)
    assert [row["cluster"] for row in rows] == model.predict(of_scikit).tolist()
    nearest, second, *_ = np.sort(model.transform(of_scikit), axis=1).T
    assert [row["distance"] for row in rows] == pytest.approx(nearest, rel=1e-6)
    assert [row["second_distance"] for row in rows] == pytest.approx(second, rel=1e-6)


NEAREST = {"cluster": 1, "segment_key": "retain", "distance": 4.0, "second_distance": 5.0}


def test_kmeans_segments_are_nearest_centroids_of_normal_customers(warehouse: Warehouse) -> None:
    store(warehouse, "normal_customers", {"customer_id": "a"})
    store(warehouse, "nearest_centroids", {"customer_id": "a", **NEAREST}, {"customer_id": "vip", **NEAREST})
    assert derive(warehouse, "kmeans_segments") == [{"customer_id": "a", **NEAREST}]


@CROSSED_FENCES
def test_nearest_segments_use_todays_side_of_the_fences(
    warehouse: Warehouse, monetary: str | None, frequency: str | None, recency: str | None, segment: str
) -> None:
    """Not the side with margin."""
    crossed = zip(FEATURES, (monetary, frequency, recency), strict=True)
    store(
        warehouse,
        "outlier_flags",
        *({"customer_id": "x", "feature": name, "nearest_side": side, "side": None} for name, side in crossed),
        {"customer_id": "held", "feature": "monetary", "nearest_side": None, "side": "high"},
    )
    store(warehouse, "nearest_centroids", *({"customer_id": who, **NEAREST} for who in ("held", "x")))
    store(warehouse, "inactive_customers")
    assert [tuple(row.values()) for row in derive(warehouse, "nearest_segments")] == [
        ("held", "retain"),
        ("x", segment),
    ]


def test_nearest_segments_include_inactive_customers_and_need_no_fences(warehouse: Warehouse) -> None:
    store(warehouse, "outlier_flags")
    store(warehouse, "nearest_centroids", {"customer_id": "a", **NEAREST})
    store(warehouse, "inactive_customers", {"customer_id": "gone", "segment_key": "dormant"})
    assert [tuple(row.values()) for row in derive(warehouse, "nearest_segments")] == [
        ("a", "retain"),
        ("gone", "dormant"),
    ]


def store_normal(
    warehouse: Warehouse,
    distance: float,
    previous_distance: float | None,
    before: str | None,
    pending_days: int = 0,
    second_distance: float = 1.25,
) -> None:
    """Store one normal customer, nearest to `retain`, with the distance to the previous segment."""
    at = {"cluster": 1, "segment_key": "retain", "distance": distance, "second_distance": second_distance}
    store(warehouse, "kmeans_segments", {"customer_id": "a", **at})
    store(warehouse, "nearest_centroids", {"customer_id": "a", **at, "previous_distance": previous_distance})
    store(warehouse, "nearest_segments", {"customer_id": "a", "segment_key": "retain"})
    previous = [{"customer_id": "a", "segment_key": before, "pending_days": pending_days}] if before else []
    store(warehouse, "previous_segments", *previous)
    store(warehouse, "outlier_segments")
    store(warehouse, "inactive_customers")


@pytest.mark.parametrize(
    ("distance", "previous_distance", "before", "pending_days", "segment"),
    [
        # Kept until the nearest is nearer by a tenth: at 0.9 it is.
        (0.95, 1.0, "nurture", 0, "nurture"),
        (0.9001, 1.0, "nurture", 0, "nurture"),
        (0.9, 1.0, "nurture", 0, "retain"),
        (0.5, 1.0, "nurture", 0, "retain"),
        (1.0, 1.0, "nurture", 0, "nurture"),
        # Pending for at most 30 days.
        (0.95, 1.0, "nurture", 29, "nurture"),
        (0.95, 1.0, "nurture", 30, "retain"),
        # Nearest is the previous segment; new; or the previous segment has no centroid.
        (0.95, 0.95, "retain", 0, "retain"),
        (0.95, None, None, 0, "retain"),
        (0.95, None, "delight", 0, "retain"),
        (0.95, None, "dormant", 0, "retain"),
        # The previous segment is not in the active model.
        (0.95, None, "revive", 0, "retain"),
        (0.0, 0.0, "nurture", 0, "retain"),
    ],
)
def test_assigned_segments_change_only_for_a_clearly_nearer_centroid(
    warehouse: Warehouse,
    distance: float,
    previous_distance: float | None,
    before: str | None,
    pending_days: int,
    segment: str,
) -> None:
    store_normal(warehouse, distance, previous_distance, before, pending_days)
    rows = derive(warehouse, "assigned_segments", margin=0.1, max_pending_days=30)
    assert columns_of(rows, "customer_id", "segment_key", "nearest_key", "is_move_pending") == [
        ("a", segment, "retain", segment != "retain")
    ]


@pytest.mark.parametrize(
    ("distance", "second", "margin"), [(1.0, 1.25, 0.2), (1.0, 1.0, 0.0), (0.0, 0.0, 0.0), (0.0, 2.0, 1.0)]
)
def test_assigned_segments_margin_is_the_relative_lead(
    warehouse: Warehouse, distance: float, second: float, margin: float
) -> None:
    store_normal(warehouse, distance, None, None, second_distance=second)
    [row] = derive(warehouse, "assigned_segments", margin=0.1, max_pending_days=30)
    assert row["margin"] == pytest.approx(margin, abs=1e-12)


def test_assigned_segments_mark_moves_pending_at_a_fence(
    warehouse: Warehouse,
) -> None:
    store_normal(warehouse, 1.0, None, None)
    store(warehouse, "outlier_segments", *({"customer_id": who, "segment_key": "pamper"} for who in ("kept", "vip")))
    store(warehouse, "inactive_customers", {"customer_id": "gone", "segment_key": "dormant"})
    nearest = {"a": "retain", "gone": "dormant", "kept": "grow", "vip": "pamper"}
    store(warehouse, "nearest_segments", *({"customer_id": who, "segment_key": key} for who, key in nearest.items()))
    rows = derive(warehouse, "assigned_segments", margin=0.1, max_pending_days=30)
    assert [tuple(row.values()) for row in rows] == [
        ("a", "retain", "retain", False, pytest.approx(0.2)),
        ("gone", "dormant", "dormant", False, None),
        ("kept", "pamper", "grow", True, None),
        ("vip", "pamper", "pamper", False, None),
    ]


EARLIER = timestamp("2024-02-01 09:00:00")


def store_catalogue(warehouse: Warehouse) -> None:
    store(
        warehouse,
        "segments",
        *(
            {
                "segment_key": item.key,
                "segment": item.name,
                "customer_group": item.customer_group,
                "description": item.description,
                "action": item.action,
                "colour": item.colour,
                "in_active_model": True,
            }
            for item in segment_catalog.SEGMENTS
        ),
    )


def store_assigned(warehouse: Warehouse, *customers: tuple[str, str, str]) -> None:
    """Store customers from (name, segment key, nearest key)."""
    names = ("customer_id", "segment_key", "nearest_key")
    rows = [dict(zip(names, customer, strict=True)) for customer in customers]
    store(
        warehouse,
        "assigned_segments",
        *(row | {"is_move_pending": row["segment_key"] != row["nearest_key"]} for row in rows),
    )
    store(warehouse, "kmeans_model", {"model_id": "m1"})


def scores(**customers: tuple[int, str]) -> list[Row]:
    return [
        {"customer_id": who, **dict.fromkeys(SCORES, score), "rfm_segment": segment}
        for who, (score, segment) in customers.items()
    ]


SETTINGS: dict[str, Any] = {"lapsing_factor": 2.0, "control_below": "80000000"}


def test_customer_segments_holds_every_group_once(warehouse: Warehouse) -> None:
    store_catalogue(warehouse)
    store(warehouse, "rfm_features", *feature_rows(("gone", 90, 0, 0), ("usual", 3, 2, 20), ("vip", 1, 50, 9000)))
    store(warehouse, "rfm_scores", *scores(gone=(1, "Lost"), usual=(3, "Need Attention"), vip=(5, "Champions")))
    store_assigned(
        warehouse, ("gone", "dormant", "dormant"), ("usual", "retain", "grow"), ("vip", "delight", "delight")
    )
    store(warehouse, "previous_segments")
    rows = derive(warehouse, "customer_segments", **SETTINGS)
    names = (
        "customer_id",
        "segment",
        "segment_key",
        "nearest_segment",
        "is_move_pending",
        "customer_group",
        "rfm_segment",
    )
    assert columns_of(rows, *names, "model_id") == [
        ("gone", "DORMANT", "dormant", "DORMANT", False, "inactive", "Lost", "m1"),
        ("usual", "RETAIN", "retain", "GROW", True, "normal", "Need Attention", "m1"),
        ("vip", "DELIGHT", "delight", "DELIGHT", False, "outlier", "Champions", "m1"),
    ]
    assert columns_of(rows, "recency", "frequency", "monetary", *SCORES, "as_of") == [
        (90, 0, 0, 1, 1, 1, AS_OF),
        (3, 2, 20, 3, 3, 3, AS_OF),
        (1, 50, 9000, 5, 5, 5, AS_OF),
    ]
    actions = {item.key: item.action for item in segment_catalog.SEGMENTS}
    assert [row["action"] for row in rows] == [actions[row["segment_key"]] for row in rows]


def test_customer_segments_holds_previous_segment_and_start(warehouse: Warehouse) -> None:
    store_catalogue(warehouse)
    store(warehouse, "rfm_features", *feature_rows(("moved", 3, 2, 20), ("new", 3, 2, 20), ("stays", 3, 2, 20)))
    store(warehouse, "rfm_scores", *scores(moved=(3, "Lost"), new=(3, "Lost"), stays=(3, "Lost")))
    store_assigned(warehouse, *((who, "retain", "retain") for who in ("moved", "new", "stays")))
    store(
        warehouse,
        "previous_segments",
        {"customer_id": "moved", "segment_key": "re_engage", "segment_since": EARLIER},
        {"customer_id": "stays", "segment_key": "retain", "segment_since": EARLIER},
    )
    rows = derive(warehouse, "customer_segments", **SETTINGS)
    assert columns_of(rows, "customer_id", "previous_segment", "segment_since") == [
        ("moved", "RE-ENGAGE", AS_OF),
        ("new", None, AS_OF),
        ("stays", "RETAIN", EARLIER),
    ]


@pytest.mark.parametrize(("below", "share"), [("00000000", 0), ("1999999a", 0.1), ("80000000", 0.5)])
def test_customer_segments_selects_controls_by_a_hash(warehouse: Warehouse, below: str, share: float) -> None:
    """The first eight hex digits of the MD5 of the id select the same customers in each run."""
    names = [f"c{n:04d}" for n in range(250)]
    store_catalogue(warehouse)
    store(warehouse, "rfm_features", *feature_rows(*((who, 3, 2, 20) for who in names)))
    store(warehouse, "rfm_scores", *scores(**dict.fromkeys(names, (3, "Lost"))))
    store_assigned(warehouse, *((who, "retain", "retain") for who in names))
    store(warehouse, "previous_segments")
    rows = derive(warehouse, "customer_segments", **{**SETTINGS, "control_below": below})
    found = [row["customer_id"] for row in rows if row["is_control"]]
    digits = {who: hashlib.md5(who.encode(), usedforsecurity=False).hexdigest() for who in names}
    assert found == [who for who in names if int(digits[who][:8], 16) < int(below, 16)]
    assert len(found) / len(names) == pytest.approx(share, abs=0.07)


@pytest.mark.parametrize(
    ("recency", "inter_purchase_time", "factor", "is_lapsing"),
    [
        (20, 10.0, 2.0, False),
        (21, 10.0, 2.0, True),
        (21, 10.0, 2.5, False),
        (21, 10.4, 2.0, True),
        (300, None, 2.0, None),
        (0, 1.0, 1.0, False),
    ],
)
def test_customer_segments_compares_recency_with_the_own_inter_purchase_time(
    warehouse: Warehouse, recency: int, inter_purchase_time: float | None, factor: float, is_lapsing: bool | None
) -> None:
    store_catalogue(warehouse)
    store(
        warehouse, "rfm_features", {"customer_id": "a", "recency": recency, "inter_purchase_time": inter_purchase_time}
    )
    store(warehouse, "rfm_scores", *scores(a=(3, "Need Attention")))
    store_assigned(warehouse, ("a", "retain", "retain"))
    store(warehouse, "previous_segments")
    [row] = derive(warehouse, "customer_segments", **{**SETTINGS, "lapsing_factor": factor})
    assert row["is_lapsing"] is is_lapsing


def store_members(warehouse: Warehouse, *members: tuple[str, str, int, int, float | str]) -> None:
    store_catalogue(warehouse)
    store(warehouse, "customer_value")
    store(
        warehouse,
        "customer_segments",
        *(
            {"customer_id": who, "segment_key": key, "recency": r, "frequency": f, "monetary": Decimal(str(m))}
            for who, key, r, f, m in members
        ),
    )


def test_segment_profiles_holds_size_revenue_and_typical_customer(warehouse: Warehouse) -> None:
    store_members(
        warehouse,
        ("a", "retain", 10, 2, "10.0001"),
        ("b", "retain", 20, 3, "10.0002"),
        ("c", "retain", 30, 10, "100"),
        ("d", "retain", 60, 5, "39.9997"),
        ("e", "delight", 1, 40, "840"),
    )
    delight, retain = derive(warehouse, "segment_profiles")
    catalogue = {item.key: item for item in segment_catalog.SEGMENTS}
    for row in (delight, retain):
        item = catalogue[row["segment_key"]]
        assert columns_of([row], "segment", "customer_group", "description", "action", "as_of") == [
            (item.name, item.customer_group, item.description, item.action, AS_OF)
        ]
    shares = ("customers", "customer_share", "revenue", "revenue_share")
    assert columns_of([delight, retain], *shares) == [(1, 0.2, 840, 0.84), (4, 0.8, 160, 0.16)]
    figures = [f"{kind}_{name}" for name in FEATURES for kind in ("mean", "median")]
    assert [retain[name] for name in figures] == pytest.approx([40, 24.99995, 5, 4, 30, 25], rel=1e-12)
    assert [delight[name] for name in figures] == [840, 840, 40, 40, 1, 1]


def test_segment_profiles_sums_expected_and_lapsing_spend(warehouse: Warehouse) -> None:
    store_catalogue(warehouse)
    customers = {"a": ("retain", True), "b": ("retain", False), "c": ("retain", None), "d": ("dormant", None)}
    rows = (
        {"customer_id": who, "segment_key": key, "is_lapsing": lapsing} for who, (key, lapsing) in customers.items()
    )
    store(warehouse, "customer_segments", *rows)
    names = ("customer_id", "expected_spend_90", "expected_spend_365", "spend_at_risk_365")
    values = (("a", 1, 4, 16), ("b", 2, 8, 32), ("c", 3, 12, 0), ("d", None, None, None))
    store(warehouse, "customer_value", *(dict(zip(names, row, strict=True)) for row in values))
    found = ("segment_key", *names[1:], "mean_expected_spend_365")
    assert columns_of(derive(warehouse, "segment_profiles"), *found) == [
        ("dormant", None, None, None, None),
        ("retain", 6, 24, 16, 8),
    ]


def test_segment_profiles_has_no_revenue_share_without_revenue(warehouse: Warehouse) -> None:
    store_members(warehouse, ("a", "dormant", 9, 0, -5), ("b", "retain", 9, 1, 5))
    assert [row["revenue_share"] for row in derive(warehouse, "segment_profiles")] == [None, None]


def store_outliers(warehouse: Warehouse, *customers: tuple[str, str, float | str, int, bool | None]) -> None:
    """Store customers from (name, segment key, money, recency, is lapsing)."""
    catalogue = {item.key: item for item in segment_catalog.SEGMENTS}
    names = ("customer_id", "segment_key", "monetary", "recency", "is_lapsing")
    rows: list[Row] = [dict(zip(names, customer, strict=True)) for customer in customers]
    for row in rows:
        item = catalogue[row["segment_key"]]
        row |= {"segment": item.name, "customer_group": item.customer_group, "monetary": Decimal(str(row["monetary"]))}
    store(warehouse, "customer_segments", *rows)


def test_outlier_profiles_holds_size_revenue_and_revenue_at_risk(warehouse: Warehouse) -> None:
    store_outliers(
        warehouse,
        ("a", "delight", "1000.0001", 10, False),
        ("b", "delight", "3000", 50, True),
        ("c", "delight", "5999.9999", 3, None),
        ("d", "pamper", 2000, 400, None),
        ("e", "retain", 7000, 3, True),
        ("f", "dormant", 1000, 3, None),
    )
    delight, pamper = derive(warehouse, "outlier_profiles")
    names = ("segment_key", "segment", "customers", "customer_share", "revenue", "revenue_share", "as_of")
    assert columns_of([delight, pamper], *names) == [
        ("delight", "DELIGHT", 3, 0.5, 10_000, 0.5, AS_OF),
        ("pamper", "PAMPER", 1, 1 / 6, 2000, 0.1, AS_OF),
    ]
    risk = ("lapsing_customers", "revenue_at_risk", "revenue_at_risk_share", "mean_recency", "top_10_share")
    assert columns_of([delight, pamper], *risk) == [(1, 3000, 0.3, 21.0, 1.0), (0, 0, 0.0, 400.0, 1.0)]


@pytest.mark.parametrize(
    ("spend", "gini"),
    [([5], 0), ([7, 7, 7], 0), ([1, 3], 0.25), ([3, 1], 0.25), ([1, 2, 3, 4], 0.25), (["0.0001", 9999], 0.49999999)],
)
def test_outlier_profiles_computes_gini(warehouse: Warehouse, spend: Sequence[float | str], gini: float) -> None:
    store_outliers(warehouse, *((f"c{n}", "pamper", money, 1, None) for n, money in enumerate(spend)))
    assert derive(warehouse, "outlier_profiles")[0]["gini"] == pytest.approx(gini, abs=1e-12)


def test_outlier_profiles_equals_gini_by_mean_difference(
    warehouse: Warehouse,
) -> None:
    """Gini is half the mean absolute difference of two customers, divided by the mean."""
    spend = np.random.default_rng(2).lognormal(8, 1, 200).round(2)
    spend[:30] = spend[30]
    store_outliers(warehouse, *((f"c{n}", "upsell", money, 1, None) for n, money in enumerate(spend.tolist())))
    [row] = derive(warehouse, "outlier_profiles")
    gini = np.abs(spend[:, None] - spend[None, :]).mean() / (2 * spend.mean())
    assert row["gini"] == pytest.approx(gini, rel=1e-12)
    assert row["top_10_share"] == pytest.approx(np.sort(spend)[-10:].sum() / spend.sum(), rel=1e-12)


def test_outlier_profiles_has_no_revenue_share_without_revenue(
    warehouse: Warehouse,
) -> None:
    store_outliers(warehouse, ("a", "pamper", 10, 1, None), ("b", "refunded", -10, 1, None))
    [row] = derive(warehouse, "outlier_profiles")
    assert (row["revenue_share"], row["customer_share"], row["top_10_share"]) == (None, 0.5, 1.0)


def test_outlier_profiles_is_empty_without_outliers(warehouse: Warehouse) -> None:
    store_outliers(warehouse, ("a", "retain", 10, 1, True))
    assert derive(warehouse, "outlier_profiles") == []


def store_outliers_who_buy(warehouse: Warehouse, *sold: tuple[str, str, str, str, float | str], **common: Any) -> None:
    """Store lines of two customers of DELIGHT, a and b, and of one who is no outlier, n."""
    money = {who: sum(Decimal(str(line[4])) for line in sold if line[0] == who) for who in ("a", "b", "n")}
    store_outliers(
        warehouse,
        ("a", "delight", str(money["a"]), 1, None),
        ("b", "delight", str(money["b"]), 1, None),
        ("n", "retain", str(money["n"]), 1, None),
    )
    store(warehouse, "clean_transactions", *sales(*sold, **common))


def test_outlier_products_ranks_products_by_money_net_of_refunds(warehouse: Warehouse) -> None:
    store_outliers_who_buy(
        warehouse,
        ("a", "1", "cup", "2024-01-05", 60),
        ("b", "2", "cup", "2024-02-05", 20),
        ("a", "3", "tea", "2024-02-06", 90),
        ("a", "C4", "tea", "2024-02-07", -70),
        ("b", "C5", "mug", "2024-02-08", -1),
        ("n", "6", "pot", "2024-02-09", 500),
    )
    rows = derive(warehouse, "outlier_products", look_back_days=None)
    names = ("place", "product", "customers", "customer_share", "revenue", "revenue_share")
    assert columns_of(rows, *names) == [
        (1, "cup", 2, 1.0, 80, pytest.approx(80 / 99)),
        (2, "tea", 1, 0.5, 20, pytest.approx(20 / 99)),
    ]
    assert columns_of(rows, "segment_key", "segment") == [("delight", "DELIGHT")] * 2


def test_outlier_products_uses_the_name_with_most_money(warehouse: Warehouse) -> None:
    store_outliers_who_buy(
        warehouse,
        ("a", "1", "85123A", "2024-01-05", 60),
        ("a", "2", "85123A", "2024-01-06", 40),
        ("n", "3", "85123A", "2024-01-06", 1),
    )
    warehouse.connection.execute(
        "update clean_transactions set description = case invoice when '1' then 'holder' else 'HOLDER, wrong' end"
    )
    assert columns_of(derive(warehouse, "outlier_products", look_back_days=None), "product", "description") == [
        ("85123A", "holder")
    ]


def test_outlier_products_are_ten_and_count_within_the_window(warehouse: Warehouse) -> None:
    lines = [("a", f"{n}", f"product {n:02d}", "2024-03-01", 100 + n) for n in range(12)]
    store_outliers_who_buy(warehouse, *lines, ("b", "x", "old", "2023-01-01", 9999), ("n", "y", "pot", "2024-03-01", 1))
    products = derive(warehouse, "outlier_products", look_back_days=90)
    assert [row["product"] for row in products] == [f"product {n:02d}" for n in range(11, 1, -1)]
    assert derive(warehouse, "outlier_products", look_back_days=None)[0]["product"] == "old"


def test_outlier_products_is_empty_without_a_column_of_products(warehouse: Warehouse) -> None:
    store_outliers_who_buy(
        warehouse, ("a", "1", "", "2024-01-05", 60), ("b", "2", "", "2024-01-05", 6), stock_code=None, description=None
    )
    assert derive(warehouse, "outlier_products", look_back_days=None) == []


def test_outlier_months_compares_the_year_of_outliers_and_others(warehouse: Warehouse) -> None:
    store_outliers_who_buy(
        warehouse,
        ("a", "1", "cup", "2024-01-05", 60),
        ("b", "2", "cup", "2023-01-31 23:59", 15),
        ("a", "3", "tea", "2024-02-06", 50),
        ("a", "C4", "tea", "2024-02-07", -25),
        ("n", "5", "pot", "2024-01-09", 30),
        ("n", "6", "pot", "2024-03-09", 10),
    )
    names = ("segment_key", "month_of_year", "purchases", "revenue", "revenue_share", "others_revenue_share")
    assert columns_of(derive(warehouse, "outlier_months", look_back_days=None), *names) == [
        ("delight", 1, 2, 75, 0.75, 0.75),
        ("delight", 2, 1, 25, 0.25, 0.0),
    ]
    assert columns_of(derive(warehouse, "outlier_months", look_back_days=60), *names) == [
        ("delight", 2, 1, 25, 1.0, 0.0),
    ]
