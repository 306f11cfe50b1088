"""The SELECTs of the stage customers: input rows and expected rows."""

from decimal import Decimal

import pytest

from segmentation_pipeline.warehouse.database import Warehouse
from segmentation_pipeline_tests.tables.derivation import AS_OF, Row, columns_of, derive, feature_rows, store, timestamp


def test_inactive_customers_are_dormant_refunded_or_without_spend(warehouse: Warehouse) -> None:
    """Refunds tell a customer who got all money back from one who never paid."""
    customers = feature_rows(
        ("active", 1, 1, "0.0001"),
        ("back", 3, 2, 0),
        ("free", 3, 2, 0),
        ("more", 3, 2, "-0.01"),
        ("none", 9, 0, 0),
        ("returns", 9, 0, -5),
    )
    refunds = {"active": 3, "back": Decimal("0.0001"), "more": Decimal("0.01"), "returns": 5}
    store(warehouse, "rfm_features", *(row | {"refunds": refunds.get(row["customer_id"], 0)} for row in customers))
    assert columns_of(derive(warehouse, "inactive_customers"), "customer_id", "segment_key", "monetary") == [
        ("back", "refunded", 0),
        ("free", "no_spend", 0),
        ("more", "refunded", Decimal("-0.01")),
        ("none", "dormant", 0),
        ("returns", "dormant", -5),
    ]


def store_periods(warehouse: Warehouse, *periods: tuple[str, str, bool, str, str | None]) -> None:
    """Store periods from (customer, segment key, is move pending, from, to)."""
    store(
        warehouse,
        "segment_membership",
        *(
            {
                "customer_id": who,
                "segment_key": key,
                "is_move_pending": pending,
                "reason": "behaviour",
                "model_id": "m1",
                "valid_from": timestamp(start),
                "valid_to": end and timestamp(end),
            }
            for who, key, pending, start, end in periods
        ),
    )


def test_previous_segments_holds_segment_and_start_of_the_last_stay(warehouse: Warehouse) -> None:
    """Adjacent rows of one segment are one stay, whether a move is pending or not."""
    store(warehouse, "rfm_features", *feature_rows(("any", 1, 1, 5)))
    store_periods(
        warehouse,
        ("again", "retain", False, "2024-01-01", "2024-02-01"),
        ("again", "retain", False, "2024-03-01", None),
        ("back", "retain", False, "2024-01-01", "2024-02-01"),
        ("back", "grow", False, "2024-02-01", "2024-03-01"),
        ("back", "retain", False, "2024-03-01", None),
        ("moved", "nurture", False, "2024-01-01", "2024-02-01"),
        ("moved", "retain", True, "2024-02-01", "2024-03-01"),
        ("moved", "retain", False, "2024-03-01", None),
        ("stays", "delight", False, "2024-01-01", None),
    )
    assert [tuple(row.values()) for row in derive(warehouse, "previous_segments")] == [
        ("again", "retain", timestamp("2024-03-01"), 0),
        ("back", "retain", timestamp("2024-03-01"), 0),
        ("moved", "retain", timestamp("2024-02-01"), 0),
        ("stays", "delight", timestamp("2024-01-01"), 0),
    ]


def test_previous_segments_reads_only_what_was_written_before_as_of(warehouse: Warehouse) -> None:
    at, later = str(AS_OF), "2024-04-01"
    store(warehouse, "rfm_features", *feature_rows(("any", 1, 1, 5)))
    store_periods(
        warehouse,
        ("ended before", "retain", False, "2024-01-01", "2024-03-30"),
        ("ends later", "retain", False, "2024-01-01", later),
        ("ends then", "retain", False, "2024-01-01", at),
        ("moves then", "nurture", False, "2024-01-01", at),
        ("moves then", "retain", False, at, None),
        ("new later", "retain", False, later, None),
        ("new then", "retain", False, at, None),
    )
    assert columns_of(derive(warehouse, "previous_segments"), "customer_id", "segment_key") == [
        ("ends later", "retain"),
        ("ends then", "retain"),
        ("moves then", "nurture"),
    ]


@pytest.mark.parametrize(
    ("since", "days"), [("2024-03-01 12:00:00", 30), ("2024-03-01 12:00:01", 29), ("2024-03-31 11:59:59", 0)]
)
def test_previous_segments_counts_full_days_of_a_pending_move(warehouse: Warehouse, since: str, days: int) -> None:
    store(warehouse, "rfm_features", *feature_rows(("any", 1, 1, 5)))
    store_periods(warehouse, ("a", "retain", False, "2024-01-01", since), ("a", "retain", True, since, None))
    assert columns_of(derive(warehouse, "previous_segments"), "segment_since", "pending_days") == [
        (timestamp("2024-01-01"), days)
    ]


def test_previous_segments_is_empty_before_the_first_run(warehouse: Warehouse) -> None:
    store(warehouse, "rfm_features", *feature_rows(("any", 1, 1, 5)))
    store_periods(warehouse)
    assert derive(warehouse, "previous_segments") == []


def store_fences(warehouse: Warehouse, **fences: tuple[float, float]) -> None:
    rows = ({"feature": name, "lower_fence": low, "upper_fence": high} for name, (low, high) in fences.items())
    store(warehouse, "outlier_fences", *rows)


def derive_flags(
    warehouse: Warehouse,
    customers: list[Row],
    before: dict[str, tuple[str, int]] | None = None,
    fence_margin: float = 0.05,
) -> list[Row]:
    """Return outlier_flags; `before` holds the previous segment and the days for which a move has been pending."""
    store(warehouse, "rfm_features", *customers)
    previous = (before or {}).items()
    store(
        warehouse,
        "previous_segments",
        *({"customer_id": who, "segment_key": key, "pending_days": days} for who, (key, days) in previous),
    )
    return derive(warehouse, "outlier_flags", fence_margin=fence_margin, max_pending_days=30)


def test_outlier_flags_excludes_values_on_a_fence(warehouse: Warehouse) -> None:
    store_fences(warehouse, monetary=(10, 100.5), recency=(-20, 200))
    customers = feature_rows(
        ("above", 201, 1, "100.6"),
        ("below", 5, 1, "9.5"),
        ("dormant", 5, 0, 500),
        ("lower", 5, 2, 10),
        ("refunded", 5, 9, 0),
        ("upper", 200, 5, "100.5"),
    )
    rows = derive_flags(warehouse, customers)
    assert columns_of(rows, "customer_id", "feature", "nearest_side", "side") == [
        ("above", "monetary", "high", "high"),
        ("above", "recency", "high", "high"),
        ("below", "monetary", "low", "low"),
        ("below", "recency", None, None),
        ("lower", "monetary", None, None),
        ("lower", "recency", None, None),
        ("upper", "monetary", None, None),
        ("upper", "recency", None, None),
    ]
    beyond = [row["beyond"] for row in rows]
    assert beyond == pytest.approx([0.1, 1, -0.5, 0, 0, 0, 0, 0], abs=1e-12)


MARGIN_CASES = [
    # Outwards, by a twentieth of the fence.
    ("retain", "monetary", 105, None),
    ("retain", "monetary", "105.0001", "high"),
    ("retain", "monetary", 38, None),
    ("retain", "monetary", "37.9999", "low"),
    ("retain", "frequency", 21, None),
    ("retain", "frequency", 22, "high"),
    ("retain", "recency", 210, None),
    ("retain", "recency", 211, "high"),
    # Back inwards.
    ("pamper", "monetary", "95.0001", "high"),
    ("pamper", "monetary", 95, None),
    ("delight", "monetary", 96, "high"),
    ("delight", "frequency", 20, "high"),
    ("delight", "frequency", 19, None),
    ("upsell", "frequency", 20, "high"),
    ("upsell", "frequency", 19, None),
    ("examine", "monetary", 41, "low"),
    ("examine", "monetary", 42, None),
    ("examine", "recency", 191, "high"),
    ("examine", "recency", 190, None),
    # Fences that the previous segment is not beyond are crossed outwards.
    ("pamper", "frequency", 21, None),
    ("pamper", "frequency", 22, "high"),
    ("upsell", "monetary", 105, None),
    ("upsell", "monetary", 106, "high"),
    ("delight", "recency", 205, None),
    ("examine", "monetary", 104, None),
    ("examine", "monetary", 106, "high"),
    # Inactive and new customers were on no side.
    ("dormant", "monetary", 101, "high"),
    ("refunded", "monetary", 99, None),
    (None, "monetary", 101, "high"),
    (None, "monetary", 39, "low"),
]


@pytest.mark.parametrize(("before", "feature", "value", "side"), MARGIN_CASES)
def test_outlier_flags_changes_side_only_beyond_a_margin(
    warehouse: Warehouse, before: str | None, feature: str, value: float | str, side: str | None
) -> None:
    store_fences(warehouse, monetary=(40, 100), frequency=(1, 20), recency=(-10, 200))
    at = {"monetary": Decimal(50), "frequency": 5, "recency": 50, feature: Decimal(str(value))}
    rows = derive_flags(warehouse, [{"customer_id": "a", **at}], {"a": (before, 0)} if before else {})
    assert {row["feature"]: row["side"] for row in rows}[feature] == side


@pytest.mark.parametrize(("pending_days", "side"), [(29, None), (30, "high")])
def test_outlier_flags_has_no_margin_after_max_pending_days(
    warehouse: Warehouse, pending_days: int, side: str | None
) -> None:
    store_fences(warehouse, monetary=(40, 100))
    [row] = derive_flags(warehouse, feature_rows(("a", 1, 2, 103)), {"a": ("retain", pending_days)})
    assert (row["nearest_side"], row["side"]) == ("high", side)


@pytest.mark.parametrize(("value", "side"), [(-22, None), (-23, "low")])
def test_outlier_flags_margin_of_a_negative_fence_points_outwards(
    warehouse: Warehouse, value: int, side: str | None
) -> None:
    """No feature of an active customer is negative; the margin would still move the fence outwards."""
    store_fences(warehouse, recency=(-20, 200))
    [row] = derive_flags(warehouse, feature_rows(("a", value, 2, 103)), {"a": ("retain", 0)}, fence_margin=0.125)
    assert row["side"] == side


SIDES = ("monetary_side", "frequency_side", "recency_side")


def test_outlier_customers_are_those_on_a_side_with_margin(warehouse: Warehouse) -> None:
    store_fences(warehouse, monetary=(10, 100), frequency=(2, 5))
    customers = feature_rows(
        ("both high", 5, 6, 101),
        ("both low", 5, 1, 9),
        ("high low", 5, 1, 104),
        ("inside", 999, 3, 50),
        ("kept in", 5, 3, 104),
        ("kept out", 5, 3, 96),
    )
    derive_flags(warehouse, customers, {"kept in": ("retain", 3), "kept out": ("pamper", 3)})
    rows = derive(warehouse, "outlier_customers")
    assert columns_of(rows, "customer_id", *SIDES) == [
        ("both high", "high", "high", None),
        ("both low", "low", "low", None),
        ("high low", "high", "low", None),
        ("kept out", "high", None, None),
    ]
    assert columns_of(rows[:1], "recency", "frequency", "monetary") == [(5, 6, 101)]
    beyond = ("monetary_beyond", "frequency_beyond", "recency_beyond")
    assert columns_of(rows, *beyond) == [(1, 1, None), (-1, -1, None), (4, -1, None), (0, 0, None)]


def test_normal_customers_are_active_and_no_outliers(warehouse: Warehouse) -> None:
    customers = feature_rows(
        ("a", 1, 2, 30), ("dormant", 1, 0, 5), ("far", 1, 2, 900), ("refunded", 1, 2, 0), ("z", 4, 5, 60)
    )
    store(warehouse, "rfm_features", *customers)
    store(warehouse, "outlier_customers", {"customer_id": "far", "monetary_side": "high"})
    rows = derive(warehouse, "normal_customers")
    assert [tuple(row.values()) for row in rows] == [("a", 1, 2, 30), ("z", 4, 5, 60)]
