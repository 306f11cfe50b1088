"""The SELECTs of the stage history: input rows and expected rows."""

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from segmentation_pipeline.tables.catalog import check_select
from segmentation_pipeline.warehouse.database import Warehouse
from segmentation_pipeline_tests.tables.derivation import AS_OF, Row, columns_of, derive, sales, store, timestamp

DAY_1, DAY_2, DAY_3 = (timestamp(f"2024-03-{day} 12:00:00") for day in (29, 30, 31))
assert DAY_3 == AS_OF
Period = tuple[str, str, bool, str, str, datetime, datetime | None]
PERIOD = ("customer_id", "segment_key", "is_move_pending", "model_id", "reason", "valid_from", "valid_to")
NO_CUSTOMER = "select customer_id, segment_key, is_move_pending from assigned_segments where false"


def store_membership(warehouse: Warehouse, *periods: Period) -> None:
    store(warehouse, "segment_membership", *(dict(zip(PERIOD, item, strict=True)) for item in periods))


def derive_membership(
    warehouse: Warehouse,
    today: dict[str, tuple[str, bool]],
    by_previous_model: dict[str, tuple[str, bool]] | None = None,
    as_of: datetime = AS_OF,
) -> list[tuple[Any, ...]]:
    """Return the history after a run with today's segments, and those that the previous model would give."""
    store(
        warehouse,
        "customer_segments",
        *(
            {"customer_id": who, "segment_key": key, "is_move_pending": pending, "as_of": as_of, "model_id": "m2"}
            for who, (key, pending) in today.items()
        ),
    )
    store(
        warehouse,
        "assigned_segments",
        *(
            {"customer_id": who, "segment_key": key, "is_move_pending": pending}
            for who, (key, pending) in (by_previous_model or {}).items()
        ),
    )
    relation = (
        "select customer_id, segment_key, is_move_pending from assigned_segments" if by_previous_model else NO_CUSTOMER
    )
    return columns_of(derive(warehouse, "segment_membership", {"assigned_by_previous_model": relation}), *PERIOD)


def period(who: str, key: str = "nurture", pending: bool = False, to: datetime | None = None) -> Period:
    """Return a period since the first day, under the first model."""
    return (who, key, pending, "m1", "behaviour", DAY_1, to)


def test_segment_membership_begins_with_new_customers(warehouse: Warehouse) -> None:
    store_membership(warehouse)
    assert derive_membership(warehouse, {"a": ("retain", False), "b": ("dormant", False)}) == [
        ("a", "retain", False, "m2", "new", AS_OF, None),
        ("b", "dormant", False, "m2", "new", AS_OF, None),
    ]


def test_segment_membership_records_moves_arrivals_removals_and_pending_moves(warehouse: Warehouse) -> None:
    store_membership(
        warehouse,
        period("back", to=DAY_2),
        period("freed", "retain", pending=True),
        period("gone"),
        period("held"),
        period("left"),
        period("moved"),
        period("same"),
    )
    today = {
        "back": ("nurture", False),
        "freed": ("retain", False),
        "held": ("nurture", True),
        "left": ("examine", False),
        "moved": ("retain", False),
        "new": ("retain", True),
        "same": ("nurture", False),
    }
    assert derive_membership(warehouse, today) == [
        period("back", to=DAY_2),
        ("back", "nurture", False, "m2", "new", AS_OF, None),
        period("freed", "retain", pending=True, to=AS_OF),
        ("freed", "retain", False, "m2", "behaviour", AS_OF, None),
        period("gone", to=AS_OF),
        period("held", to=AS_OF),
        ("held", "nurture", True, "m2", "behaviour", AS_OF, None),
        period("left", to=AS_OF),
        ("left", "examine", False, "m2", "behaviour", AS_OF, None),
        period("moved", to=AS_OF),
        ("moved", "retain", False, "m2", "behaviour", AS_OF, None),
        ("new", "retain", True, "m2", "new", AS_OF, None),
        period("same"),
    ]


def test_segment_membership_separates_effects_of_model_and_behaviour(warehouse: Warehouse) -> None:
    """Under the previous model `by model` and `drifting` stay; `by both` and `by itself` move."""
    store_membership(
        warehouse,
        period("by both"),
        period("by itself"),
        period("by model"),
        period("drifting"),
        period("unpaused", pending=True),
    )
    today = dict.fromkeys(("by both", "by itself", "by model", "drifting", "new"), ("retain", False))
    by_previous_model = {
        "by both": ("grow", False),
        "by itself": ("retain", False),
        "by model": ("nurture", False),
        "drifting": ("nurture", True),
        "new": ("retain", False),
        "unpaused": ("nurture", True),
    }
    rows = derive_membership(warehouse, {**today, "unpaused": ("nurture", False)}, by_previous_model)
    assert {row[0]: row[4] for row in rows if row[5] == AS_OF} == {
        "by both": "behaviour",
        "by itself": "behaviour",
        "by model": "model",
        "drifting": "model",
        "new": "new",
        "unpaused": "model",
    }


def test_leaving_refunded_for_no_spend_is_no_behaviour(warehouse: Warehouse) -> None:
    """Refunds do not vanish by what a customer does; a refund of free goods is behaviour."""
    store_membership(warehouse, period("renamed", "refunded"), period("returned", "no_spend"))
    rows = derive_membership(warehouse, {"renamed": ("no_spend", False), "returned": ("refunded", False)})
    assert {row[0]: row[4] for row in rows if row[5] == AS_OF} == {"renamed": "model", "returned": "behaviour"}


def test_segment_membership_is_equal_when_written_again_for_as_of(warehouse: Warehouse) -> None:
    store_membership(warehouse, period("gone"), period("held"), period("moved"), period("same"))
    today = {"held": ("nurture", True), "moved": ("retain", False), "new": ("grow", False), "same": ("nurture", False)}
    once = derive_membership(warehouse, today)
    assert derive_membership(warehouse, today) == once
    store_membership(warehouse, period("moved"))
    by_model = derive_membership(warehouse, {"moved": ("retain", False)}, {"moved": ("nurture", False)})
    assert derive_membership(warehouse, {"moved": ("retain", False)}, {"moved": ("nurture", False)}) == by_model


def test_segment_membership_withdraws_earlier_rows_of_the_same_as_of(warehouse: Warehouse) -> None:
    """The run is repeated with other lines."""
    store_membership(warehouse, period("a"), period("b"), period("c"))
    derive_membership(warehouse, {"a": ("retain", False), "b": ("nurture", True), "wrong": ("grow", False)})
    assert derive_membership(warehouse, {"a": ("nurture", False), "b": ("grow", False), "c": ("nurture", False)}) == [
        period("a"),
        period("b", to=AS_OF),
        ("b", "grow", False, "m2", "behaviour", AS_OF, None),
        period("c"),
    ]


def test_segment_membership_keeps_ended_periods(warehouse: Warehouse) -> None:
    ended = [
        ("a", "grow", False, "m1", "new", DAY_1, DAY_2),
        ("a", "retain", True, "m1", "model", DAY_2, None),
        ("z", "grow", False, "m1", "new", DAY_1, DAY_2),
    ]
    store_membership(warehouse, *ended)
    assert derive_membership(warehouse, {"a": ("retain", True)}) == ended


def test_segment_membership_holds_each_customer_once_at_any_time(warehouse: Warehouse) -> None:
    chance = np.random.default_rng(4)
    names, keys = [f"c{n}" for n in range(30)], ["retain", "nurture", "grow"]
    store_membership(warehouse)
    nights = []
    for night in range(12):
        as_of = DAY_1 + timedelta(days=night)
        there = {who: (str(chance.choice(keys)), bool(chance.integers(2))) for who in names if chance.random() < 0.8}
        nights.append((as_of, there))
        derive_membership(warehouse, there, as_of=as_of)
    for as_of, there in nights:
        found = warehouse.rows(
            "select customer_id, segment_key, is_move_pending from segment_membership"
            " where valid_from <= $at and (valid_to > $at or valid_to is null) order by customer_id",
            at=as_of,
        )
        assert [tuple(row.values()) for row in found] == [(who, *there[who]) for who in sorted(there)]


def test_segment_changes_holds_segments_time_and_reason(warehouse: Warehouse) -> None:
    store_membership(
        warehouse,
        ("back", "grow", False, "m1", "new", DAY_1, DAY_2),
        ("back", "grow", False, "m2", "new", DAY_3, None),
        ("gone", "grow", False, "m1", "new", DAY_1, DAY_2),
        ("held", "grow", False, "m1", "new", DAY_1, DAY_2),
        ("held", "grow", True, "m1", "behaviour", DAY_2, None),
        ("moved", "grow", False, "m1", "new", DAY_1, DAY_2),
        ("moved", "retain", False, "m1", "behaviour", DAY_2, DAY_3),
        ("moved", "nurture", True, "m2", "model", DAY_3, None),
        ("stays", "grow", False, "m1", "new", DAY_1, None),
    )
    store(warehouse, "kmeans_model", {"model_id": "m2"})
    store(warehouse, "erased_customers", {"customer_hash": "a-hash", "as_of": DAY_3})
    names = ("customer_id", "as_of", "from_segment", "to_segment", "reason", "model_id")
    assert columns_of(derive(warehouse, "segment_changes"), *names) == [
        ("a-hash", DAY_3, None, None, "erased", "m2"),
        ("back", DAY_1, None, "grow", "new", "m1"),
        ("back", DAY_2, "grow", None, "removed", "m1"),
        ("back", DAY_3, None, "grow", "new", "m2"),
        ("gone", DAY_1, None, "grow", "new", "m1"),
        ("gone", DAY_2, "grow", None, "removed", "m1"),
        ("held", DAY_1, None, "grow", "new", "m1"),
        ("moved", DAY_1, None, "grow", "new", "m1"),
        ("moved", DAY_2, "grow", "retain", "behaviour", "m1"),
        ("moved", DAY_3, "retain", "nurture", "model", "m2"),
        ("stays", DAY_1, None, "grow", "new", "m1"),
    ]


def derive_months(
    warehouse: Warehouse, lines: list[Row], as_of: datetime = AS_OF, look_back_days: int | None = None
) -> list[Row]:
    store(warehouse, "clean_transactions", *lines)
    store(warehouse, "rfm_features", {"customer_id": "a", "as_of": as_of})
    store(warehouse, "kmeans_model", {"model_id": "m1"})
    return derive(warehouse, "history_months", look_back_days=look_back_days, history_digest="h")


YEAR = sales(
    ("a", "1", "P", "2023-11-10 10:00:00", 5),
    ("a", "2", "P", "2023-11-30 23:59:59.999999", 5),
    ("a", "3", "P", "2023-12-01 00:00:00", 5),
    ("b", "4", "P", "2024-02-29 12:00:00", 5),
    ("b", "C5", "P", "2024-03-30 12:00:00", -5),
)


def test_history_months_counts_the_lines_before_each_month_end(warehouse: Warehouse) -> None:
    """A line at midnight belongs to the new month; a month may have no lines; March is not over."""
    rows = derive_months(warehouse, YEAR)
    assert columns_of(rows, "month_end", "lines", "is_comparable", "model_id", "settings_digest") == [
        (timestamp("2023-12-01"), 2, False, "m1", "h"),
        (timestamp("2024-01-01"), 3, False, "m1", "h"),
        (timestamp("2024-02-01"), 3, False, "m1", "h"),
        (timestamp("2024-03-01"), 4, False, "m1", "h"),
    ]
    prints = [row["fingerprint"] for row in rows]
    assert prints[1] == prints[2]
    assert len({*prints}) == 3


@pytest.mark.parametrize(
    ("as_of", "last"), [("2024-03-01 00:00:00", "2024-03-01"), ("2024-02-29 23:59:59", "2024-02-01")]
)
def test_history_months_includes_a_month_that_ends_at_as_of(warehouse: Warehouse, as_of: str, last: str) -> None:
    assert derive_months(warehouse, YEAR[:3], timestamp(as_of))[-1]["month_end"] == timestamp(last)


@pytest.mark.parametrize(
    ("first", "look_back_days", "is_comparable"),
    [
        ("2023-03-02 23:00:00", None, True),
        ("2023-03-03 00:00:00", None, False),
        ("2024-01-31 23:00:00", 30, True),
        ("2024-02-01 00:00:00", 30, False),
    ],
)
def test_history_months_is_comparable_after_look_back_or_a_year(
    warehouse: Warehouse, first: str, look_back_days: int | None, is_comparable: bool
) -> None:
    """From 2 March 2023 to 1 March 2024 are 365 days, from 31 January to 1 March 30."""
    lines = sales(("a", "1", "P", first, 5))
    found = {
        row["month_end"]: row["is_comparable"] for row in derive_months(warehouse, lines, look_back_days=look_back_days)
    }
    assert found[timestamp("2024-03-01")] is is_comparable


def test_history_months_fingerprint_changes_from_a_late_line_on(
    warehouse: Warehouse,
) -> None:
    def prints(lines: list[Row]) -> list[str]:
        return [row["fingerprint"] for row in derive_months(warehouse, lines)]

    before = prints(YEAR)
    assert prints(YEAR[::-1]) == before
    late = prints([*YEAR, *sales(("c", "9", "P", "2024-01-15 10:00:00", 3))])
    assert [new == old for new, old in zip(late, before, strict=True)] == [True, True, False, False]
    for changed in ({"amount": Decimal(6)}, {"customer_id": "x"}, {"invoice": "x"}, {"is_cancellation": True}):
        other = prints([*YEAR[:2], YEAR[2] | changed, *YEAR[3:]])
        assert [new == old for new, old in zip(other, before, strict=True)] == [True, False, False, False]


def test_history_months_is_empty_in_the_first_month(warehouse: Warehouse) -> None:
    assert derive_months(warehouse, sales(("a", "1", "P", "2024-03-02 10:00:00", 5))) == []


def store_history(warehouse: Warehouse, *rows: tuple[str, str, str], comparable_from: str = "2024-02-01") -> None:
    """Store customers from (month end, name, segment key)."""
    store(
        warehouse,
        "segment_history",
        *(
            {
                "month_end": timestamp(month),
                "customer_id": who,
                "segment_key": key,
                "is_comparable": month >= comparable_from,
            }
            for month, who, key in rows
        ),
    )


PAST = [
    ("2024-01-01", "a", "grow"),
    ("2024-02-01", "a", "retain"),
    ("2024-02-01", "b", "retain"),
    ("2024-03-01", "a", "nurture"),
    ("2024-03-01", "b", "nurture"),
    ("2024-03-01", "c", "grow"),
    ("2024-04-01", "a", "nurture"),
    ("2024-04-01", "b", "retain"),
    ("2024-04-01", "c", "grow"),
    ("2024-04-01", "d", "grow"),
]


def test_segment_migrations_counts_moves_between_comparable_months(warehouse: Warehouse) -> None:
    store_history(warehouse, *PAST)
    assert [tuple(row.values()) for row in derive(warehouse, "segment_migrations")] == [
        (timestamp("2024-03-01"), "new", "grow", 1),
        (timestamp("2024-03-01"), "retain", "nurture", 2),
        (timestamp("2024-04-01"), "grow", "grow", 1),
        (timestamp("2024-04-01"), "new", "grow", 1),
        (timestamp("2024-04-01"), "nurture", "nurture", 1),
        (timestamp("2024-04-01"), "nurture", "retain", 1),
    ]
    assert warehouse.rows(check_select("migrations_sum_to_customers")) == []


@pytest.mark.parametrize("damage", ["customers = customers + 1", "month_end = '2024-04-01'"])
def test_segment_migrations_check_finds_sums_unlike_the_customers(warehouse: Warehouse, damage: str) -> None:
    store_history(warehouse, *PAST)
    derive(warehouse, "segment_migrations")
    warehouse.connection.execute(f"update segment_migrations set {damage} where month_end = '2024-03-01'")
    found = warehouse.rows(check_select("migrations_sum_to_customers"))
    assert timestamp("2024-03-01") in [row["month_end"] for row in found]


def test_segment_migrations_of_random_months_sum_to_the_customers(warehouse: Warehouse) -> None:
    chance, keys = np.random.default_rng(8), ["grow", "retain", "nurture", "delight", "dormant"]
    rows = [
        (f"2024-{month:02d}-01", f"c{n}", str(chance.choice(keys)))
        for month in range(1, 13)
        for n in range(40)
        if n < 10 + month * 3
    ]
    store_history(warehouse, *rows)
    sums: dict[datetime, int] = {}
    for row in derive(warehouse, "segment_migrations"):
        sums[row["month_end"]] = sums.get(row["month_end"], 0) + row["customers"]
    assert sums == {datetime(2024, month, 1): min(40, 10 + month * 3) for month in range(3, 13)}  # noqa: DTZ001


def test_segment_migrations_is_empty_before_two_comparable_months(warehouse: Warehouse) -> None:
    store_history(warehouse, *PAST, comparable_from="2024-04-01")
    assert derive(warehouse, "segment_migrations") == []
