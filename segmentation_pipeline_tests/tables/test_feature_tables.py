"""The SELECTs of the stage features: input rows and expected rows, computed by hand or with numpy."""

import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import product

import duckdb
import numpy as np
import pytest

from segmentation_pipeline.model.segment_catalog import FEATURES
from segmentation_pipeline.tables.catalog import shared_columns
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


def derive_features(
    warehouse: Warehouse,
    lines: list[Row],
    as_of: datetime | None = AS_OF,
    days: int | None = None,
    to_end_of_day: bool = False,
) -> list[Row]:
    store(warehouse, "clean_transactions", *lines)
    derive(warehouse, "inter_purchase_times")
    derive(warehouse, "customer_totals", as_of=as_of, look_back_days=days, to_end_of_day=to_end_of_day)
    return derive(warehouse, "rfm_features", as_of=as_of, to_end_of_day=to_end_of_day)


def test_customer_totals_fills_every_column(warehouse: Warehouse) -> None:
    bought = sales(
        ("a", "C0", "P9", "2024-01-02 08:00:00", "-1.00"),
        ("a", "1", "P1", "2024-01-10 09:00:00", "10.00"),
        ("a", "2", "P1", "2024-02-01 12:00:01", "5.25"),
        ("a", "2", "P2", "2024-02-01 12:00:01", "0.00"),
    )
    store(warehouse, "clean_transactions", *bought)
    assert derive(warehouse, "customer_totals", as_of=None, look_back_days=None, to_end_of_day=False) == [
        {
            "customer_id": "a",
            "frequency": 2,
            "monetary": Decimal("14.2500"),
            "gross": Decimal("15.2500"),
            "refunds": Decimal("1.0000"),
            "products": 2,
            "total_spend": Decimal("14.2500"),
            "first_purchase_at": timestamp("2024-01-10 09:00:00"),
            "last_purchase_at": timestamp("2024-02-01 12:00:01"),
            "first_line_at": timestamp("2024-01-02 08:00:00"),
            "country": "Spain",
        }
    ]


def test_customer_totals_counts_within_the_look_back_window(warehouse: Warehouse) -> None:
    """Of four lines two are within 30 days before the last one, which is the as_of; dates and total are of all."""
    bought = sales(
        ("a", "1", "P1", "2024-01-10 09:00:00", "10.00"),
        ("a", "2", "P2", "2024-03-02 09:00:00", "5.00"),
        ("a", "3", "P3", "2024-03-31 09:00:00", "7.00"),
        ("b", "4", "P4", "2024-01-05 09:00:00", "9.00"),
    )
    store(warehouse, "clean_transactions", *bought)
    rows = derive(warehouse, "customer_totals", as_of=None, look_back_days=30, to_end_of_day=False)
    assert columns_of(rows, "customer_id", "frequency", "monetary", "products", "total_spend", "first_purchase_at") == [
        ("a", 2, 12, 2, 22, timestamp("2024-01-10 09:00:00")),
        ("b", 0, 0, 0, 9, timestamp("2024-01-05 09:00:00")),
    ]


def test_rfm_features_fills_every_column(warehouse: Warehouse) -> None:
    bought = sales(
        ("a", "1", "P1", "2024-01-10 09:00:00", "10.00"),
        ("a", "1", "P2", "2024-01-10 09:00:00", "20.50"),
        ("a", "2", "P1", "2024-02-01 12:00:01", "5.25"),
        ("a", "C3", "P3", "2024-03-30 10:00:00", "-4.00"),
    )
    assert derive_features(warehouse, bought) == [
        {
            "customer_id": "a",
            "recency": 58,  # one second less than 59 days; the later refund is no purchase
            "frequency": 2,
            "monetary": Decimal("31.7500"),
            "gross": Decimal("35.7500"),
            "refunds": Decimal("4.0000"),
            "average_order_value": Decimal("17.8750"),
            "products": 2,
            "first_purchase_at": timestamp("2024-01-10 09:00:00"),
            "last_purchase_at": timestamp("2024-02-01 12:00:01"),
            "tenure": 81,
            "purchase_days": 2,
            "inter_purchase_time": 22.0,
            "total_spend": Decimal("31.7500"),
            "country": "Spain",
            "as_of": AS_OF,
        }
    ]


def test_rfm_features_counts_refunds_and_free_lines(
    warehouse: Warehouse,
) -> None:
    lines = sales(
        ("a", "1", "P1", "2024-01-10 09:00:00", "540.00"),
        ("a", "2", "P2", "2024-03-31 09:00:00", "-450.00"),
        ("b", "3", "P1", "2024-03-29 12:00:00", "0.00"),
    )
    shown = ("customer_id", "recency", "frequency", "monetary", "gross", "refunds", "products", "country")
    assert columns_of(derive_features(warehouse, lines), *shown) == [
        ("a", 81, 1, Decimal(90), Decimal(540), Decimal(450), 1, "Spain"),
        ("b", 2, 1, Decimal(0), Decimal(0), Decimal(0), 1, "Spain"),
    ]


def test_rfm_features_holds_customers_with_refunds_only(warehouse: Warehouse) -> None:
    sent_back = sales(
        ("b", "C9", "P1", "2024-03-01 00:00:00", "-7.50"), ("b", "C10", "P1", "2024-03-20 00:00:00", "-1.00")
    )
    [row] = derive_features(warehouse, sent_back)
    assert (row["frequency"], row["recency"], row["products"]) == (0, 30, 0)
    assert (row["purchase_days"], row["inter_purchase_time"]) == (0, None)
    assert (row["monetary"], row["gross"], row["refunds"]) == (Decimal("-8.5"), 0, Decimal("8.5"))
    assert [row[name] for name in ("average_order_value", "first_purchase_at", "last_purchase_at", "tenure")] == [
        None
    ] * 4
    assert row["country"] == "Spain"


def test_rfm_features_counts_refunds_at_their_own_date(warehouse: Warehouse) -> None:
    """A window of 30 days begins on 1 March, 12:00. A refund counts at its own date, not at that of its purchase."""
    lines = sales(
        ("old", "1", "P", "2024-01-01 12:00:00", 100),
        ("old", "C2", "P", "2024-03-15 12:00:00", -40),
        ("new", "3", "P", "2024-03-10 12:00:00", 60),
        ("new", "C4", "P", "2024-02-10 12:00:00", -50),
    )
    new, old = derive_features(warehouse, lines, days=30)
    assert columns_of([new, old], "customer_id", "frequency", "monetary", "gross", "refunds", "recency", "tenure") == [
        ("new", 1, 60, 60, 0, 21, 21),
        ("old", 0, -40, 0, 40, 90, 90),
    ]


def test_rfm_features_uses_all_data_for_recency_and_dates(warehouse: Warehouse) -> None:
    lines = sales(
        ("a", "1", "P1", "2024-01-01 12:00:00", 100),
        ("a", "2", "P2", "2024-03-15 12:00:00", 7),
        ("z", "3", "P3", "2024-01-31 12:00:00", 5),
    )
    active, dormant = derive_features(warehouse, lines, days=30)
    names = ("frequency", "monetary", "products", "recency", "tenure", "purchase_days", "inter_purchase_time")
    assert columns_of([active, dormant], *names) == [
        (1, 7, 1, 16, 90, 2, 74.0),
        (0, 0, 0, 60, 60, 1, None),
    ]
    assert active["first_purchase_at"] == timestamp("2024-01-01 12:00:00")
    assert dormant["average_order_value"] is None


@pytest.mark.parametrize(
    ("at", "frequency"), [("2024-03-01 12:00:00", 1), ("2024-03-01 11:59:59.999999", 0), ("2024-03-31 12:00:00", 1)]
)
def test_rfm_features_includes_the_start_of_the_look_back(warehouse: Warehouse, at: str, frequency: int) -> None:
    [row] = derive_features(warehouse, sales(("a", "1", "P", at, 5)), days=30)
    assert (row["frequency"], row["monetary"]) == (frequency, 5 * frequency)


@pytest.mark.parametrize(
    ("at", "recency"),
    [
        ("2024-03-31 12:00:00", 0),
        ("2024-03-30 12:00:01", 0),
        ("2024-03-30 12:00:00", 1),
        ("2024-03-30 11:59:59", 1),
        ("2023-03-31 12:00:00", 366),
    ],
)
def test_rfm_features_counts_full_days(warehouse: Warehouse, at: str, recency: int) -> None:
    [row] = derive_features(warehouse, sales(("a", "1", "P", at, 5)))
    assert (row["recency"], row["tenure"]) == (recency, recency)


def test_rfm_features_is_as_of_the_last_transaction_by_default(warehouse: Warehouse) -> None:
    lines = sales(("a", "1", "P", "2024-03-01 10:00:00", 5), ("b", "C2", "P", "2024-03-09 11:00:00", -5))
    rows = derive_features(warehouse, lines, as_of=None)
    assert columns_of(rows, "customer_id", "recency", "as_of") == [
        ("a", 8, timestamp("2024-03-09 11:00:00")),
        ("b", 0, timestamp("2024-03-09 11:00:00")),
    ]


@pytest.mark.parametrize(
    ("last", "midnight"),
    [
        ("2024-02-28 23:59:59.999999", "2024-02-29 00:00:00"),
        ("2024-02-29 00:00:00", "2024-03-01 00:00:00"),
        ("2024-12-31 08:00:00", "2025-01-01 00:00:00"),
    ],
)
def test_rfm_features_can_be_as_of_the_next_midnight(warehouse: Warehouse, last: str, midnight: str) -> None:
    lines = sales(("a", "1", "P", "2024-02-01 10:00:00", 5), ("b", "C2", "P", last, -5))
    rows = derive_features(warehouse, lines, as_of=None, to_end_of_day=True)
    assert {row["as_of"] for row in rows} == {timestamp(midnight)}
    full_days = (timestamp(midnight) - timestamp("2024-02-01 10:00:00")).days
    assert columns_of(rows, "customer_id", "recency") == [
        ("a", full_days),
        ("b", (timestamp(midnight) - timestamp(last)).days),
    ]


def test_rfm_features_counts_each_invoice_once(warehouse: Warehouse) -> None:
    lines = sales(
        ("a", "1", "P", "2024-03-01 10:00:00", 5),
        ("a", "1", "P", "2024-03-01 10:00:00", 5),
        ("a", "1", "Q", "2024-03-01 10:00:00", 5),
        ("a", "2", "P", "2024-03-01 10:00:00", 5),
    )
    assert columns_of(derive_features(warehouse, lines), "frequency", "products", "monetary") == [(2, 2, 20)]


def test_rfm_features_takes_the_country_with_most_spend(warehouse: Warehouse) -> None:
    at = "2024-03-01 10:00:00"
    lines = [
        *sales(("a", "1", "P", at, 10), ("a", "2", "P", at, 10), country="France"),
        *sales(("a", "3", "P", at, 19), country="Belgium"),
        *sales(("a", "4", "P", at, 1000), ("b", "5", "P", at, 3), country=None),
        *sales(("tie", "6", "P", at, 3), ("tie", "C7", "P", at, -3), country="Spain"),
        *sales(("tie", "8", "P", at, 2), ("tie", "9", "P", at, 1), country="Austria"),
    ]
    for number, sold in enumerate(lines):
        sold["source_line"] = number
    rows = derive_features(warehouse, lines)
    assert columns_of(rows, "customer_id", "country") == [("a", "France"), ("b", None), ("tie", "Austria")]


@pytest.mark.parametrize(
    ("money", "invoices", "average"), [("2620.99", 8, "327.6238"), ("10.00", 3, "3.3333"), ("20.00", 3, "6.6667")]
)
def test_rfm_features_rounds_the_average_order_half_up(
    warehouse: Warehouse, money: str, invoices: int, average: str
) -> None:
    first = [("a", "0", "P", "2024-03-01 10:00:00", money)]
    lines = sales(*first, *(("a", str(n), "P", "2024-03-01 10:00:00", 0) for n in range(1, invoices)))
    assert derive_features(warehouse, lines)[0]["average_order_value"] == Decimal(average)


def test_rfm_features_does_not_depend_on_the_order_of_lines(warehouse: Warehouse) -> None:
    random = np.random.default_rng(5)
    lines = sales(
        *(
            (
                f"c{n % 9}",
                f"{'C' if n % 11 == 0 else ''}{n // 3}",
                f"P{n % 5}",
                f"2024-03-{1 + n % 28:02d} 10:00:00",
                (-1 if n % 11 == 0 else 1) * (n % 17) / 100,
            )
            for n in range(200)
        )
    )
    for sold in lines:
        sold["country"] = random.choice(["Spain", "France", "Italy"])
    first = derive_features(warehouse, lines)
    shuffled = [lines[place] for place in random.permutation(len(lines))]
    assert derive_features(Warehouse(duckdb.connect()), shuffled) == first


def bought_on(**days: Sequence[int]) -> list[Row]:
    """Return lines of customers who bought on these days of 2024."""
    start = timestamp("2023-12-31 10:00:00")
    return sales(
        *(
            (who, f"{who}{day}", "P", str(start + timedelta(days=day)), 5)
            for who, bought in days.items()
            for day in bought
        )
    )


def purchase_times(warehouse: Warehouse, lines: list[Row]) -> dict[str, tuple[int, float | None]]:
    store(warehouse, "clean_transactions", *lines)
    rows = derive(warehouse, "inter_purchase_times")
    return {row["customer_id"]: (row["purchase_days"], row["inter_purchase_time"]) for row in rows}


def test_inter_purchase_times_averages_own_gaps_with_two_median_gaps(warehouse: Warehouse) -> None:
    """The gaps are 10, 10, 10, 100 and 7, so their median is 10 days."""
    found = purchase_times(warehouse, bought_on(regular=[1, 11, 21, 31], slow=[1, 101], twice=[50, 57], once=[9]))
    assert found == {
        "once": (1, None),
        "regular": (4, (10 + 10 + 10 + 2 * 10) / 5),
        "slow": (2, (100 + 2 * 10) / 3),
        "twice": (2, (7 + 2 * 10) / 3),
    }


def test_inter_purchase_times_interpolates_the_median_gap(warehouse: Warehouse) -> None:
    """Gaps of 3 and 8: the median is 5.5."""
    assert purchase_times(warehouse, bought_on(a=[1, 4], b=[1, 9])) == {"a": (2, 14 / 3), "b": (2, 19 / 3)}


def test_inter_purchase_times_counts_days_without_refunds(warehouse: Warehouse) -> None:
    lines = sales(
        ("a", "1", "P", "2024-02-28 00:00:00", 5),
        ("a", "2", "P", "2024-02-28 23:59:59.999999", 5),
        ("a", "3", "P", "2024-03-01 00:00:00", 5),
        ("a", "C4", "P", "2024-03-20 10:00:00", -5),
        ("a", "5", "P", "2024-03-21 10:00:00", -5),
        ("only refunds", "C6", "P", "2024-03-20 10:00:00", -5),
        ("only refunds", "7", "P", "2024-03-21 10:00:00", -5),
    )
    assert purchase_times(warehouse, lines) == {"a": (2, 2.0)}


def test_inter_purchase_times_is_null_where_nobody_returned(warehouse: Warehouse) -> None:
    assert purchase_times(warehouse, bought_on(a=[1], b=[2])) == {"a": (1, None), "b": (1, None)}


def test_inter_purchase_times_ignores_the_order_of_lines() -> None:
    random = np.random.default_rng(7)
    days = {f"c{n}": random.integers(1, 300, 1 + n % 9).tolist() for n in range(60)}
    lines = bought_on(**days)
    found = purchase_times(Warehouse(duckdb.connect()), lines)
    shuffled = [lines[place] for place in random.permutation(len(lines))]
    assert purchase_times(Warehouse(duckdb.connect()), shuffled) == found
    gaps = {who: np.diff(sorted({*bought})) for who, bought in days.items()}
    median = np.median(np.concatenate(list(gaps.values())))
    assert found == {
        who: (1 + len(own), (own.sum() + 2 * median) / (len(own) + 2) if len(own) else None)
        for who, own in gaps.items()
    }


NEVER_BOUGHT = {"customer_id": "zz", "recency": 9999, "frequency": 0, "monetary": Decimal(-900), "as_of": AS_OF}
REFUNDED = {"customer_id": "yy", "recency": 5, "frequency": 40, "monetary": Decimal(-1), "as_of": AS_OF}


@pytest.mark.parametrize("number", [1, 2, 5, 7, 100])
def test_rfm_thresholds_are_quintiles_of_customers_with_a_purchase(warehouse: Warehouse, number: int) -> None:
    customers = random_features(number)
    store(warehouse, "rfm_features", *customers, NEVER_BOUGHT)
    rows = derive(warehouse, "rfm_thresholds")
    for feature in FEATURES:
        values = [float(customer[feature]) for customer in customers]
        found = [row["threshold"] for row in rows if row["feature"] == feature]
        assert found == pytest.approx(np.quantile(values, [0.2, 0.4, 0.6, 0.8]), rel=1e-12)
        assert [row["cut"] for row in rows if row["feature"] == feature] == [1, 2, 3, 4]


def test_rfm_thresholds_between_equal_values_equal_them_exactly(warehouse: Warehouse) -> None:
    """0.3 x 3.3 + 0.7 x 3.3 is not 3.3 in doubles; another threshold would change the scores of all these customers."""
    same = [{**row, "monetary": Decimal("3.3"), "frequency": 1, "recency": 7} for row in random_features(13)]
    store(warehouse, "rfm_features", *same)
    found = {(row["feature"], row["threshold"]) for row in derive(warehouse, "rfm_thresholds")}
    assert found == {("monetary", 3.3), ("frequency", 1.0), ("recency", 7.0)}


# By recency score; in each row by worth from 1 to 5 (the rounded-up mean of the frequency and monetary scores).
GRID = {
    5: ["New", "Potential Loyalist", "Potential Loyalist", "Champions", "Champions"],
    4: ["Promising", "Potential Loyalist", "Potential Loyalist", "Loyal", "Loyal"],
    3: ["About To Sleep", "About To Sleep", "Need Attention", "Loyal", "Loyal"],
    2: ["Lost", "Lost", "At Risk", "At Risk", "Can't Lose"],
    1: ["Lost", "Lost", "At Risk", "At Risk", "Can't Lose"],
}


def test_rfm_segment_map_names_each_combination_once(warehouse: Warehouse) -> None:
    rows = derive(warehouse, "rfm_segment_map")
    assert columns_of(rows, *SCORES) == list(product(range(1, 6), repeat=3))
    named = {combination: row["rfm_segment"] for row in rows for combination in columns_of([row], *SCORES)}
    assert named == {(r, f, m): GRID[r][math.ceil((f + m) / 2) - 1] for r, f, m in product(range(1, 6), repeat=3)}
    assert set(named.values()) == set(shared_columns()["rfm_segment"].allowed)


def store_thresholds(warehouse: Warehouse, **cuts: Sequence[float]) -> None:
    derive(warehouse, "rfm_segment_map")
    store(
        warehouse,
        "rfm_thresholds",
        *(
            {"feature": name, "cut": n, "threshold": cut}
            for name, four in cuts.items()
            for n, cut in enumerate(four, 1)
        ),
    )


def test_rfm_scores_gives_5_to_the_best_customers(warehouse: Warehouse) -> None:
    store_thresholds(warehouse, recency=[10, 20, 30, 40], frequency=[1, 2, 3, 4], monetary=[100, 200, 300, 400])
    customers = feature_rows(
        ("best", 0, 9, 900),
        ("cuts", 10, 1, 100),
        ("last", 41, 0, "400.01"),
        ("mid", 20, 3, "300.0001"),
        ("worst", 99, 0, -5),
    )
    store(warehouse, "rfm_features", *customers)
    rows = derive(warehouse, "rfm_scores")
    assert columns_of(rows, "customer_id", *SCORES, "rfm_segment") == [
        ("best", 5, 5, 5, "Champions"),
        ("cuts", 5, 1, 1, "New"),
        ("last", 1, 1, 5, "At Risk"),
        ("mid", 4, 3, 4, "Loyal"),
        ("worst", 1, 1, 1, "Lost"),
    ]


def test_rfm_scores_scores_equal_values_equally_where_cuts_are_equal(warehouse: Warehouse) -> None:
    store_thresholds(warehouse, recency=[7, 7, 7, 7], frequency=[1, 1, 1, 2], monetary=[3.3, 3.3, 5, 5])
    customers = feature_rows(("a", 7, 1, "3.3"), ("b", 7, 1, "3.3"), ("c", 8, 2, "3.31"), ("d", 8, 3, "5.01"))
    store(warehouse, "rfm_features", *customers)
    rows = derive(warehouse, "rfm_scores")
    assert columns_of(rows, *SCORES) == [(5, 1, 1), (5, 1, 1), (1, 4, 3), (1, 5, 5)]


def test_rfm_scores_counts_the_cuts_below_a_value(warehouse: Warehouse) -> None:
    customers = [*random_features(150), REFUNDED, NEVER_BOUGHT]
    store(warehouse, "rfm_features", *customers)
    derive(warehouse, "rfm_segment_map")
    thresholds = derive(warehouse, "rfm_thresholds")
    rows = {row["customer_id"]: row for row in derive(warehouse, "rfm_scores")}
    for customer in customers:
        below = {
            name: sum(float(customer[name]) > cut["threshold"] for cut in thresholds if cut["feature"] == name)
            for name in FEATURES
        }
        row = rows[customer["customer_id"]]
        assert row["recency_score"] == 5 - below["recency"]
        assert (row["frequency_score"], row["monetary_score"]) == (1 + below["frequency"], 1 + below["monetary"])
    assert {row["recency_score"] for row in rows.values()} == {1, 2, 3, 4, 5}
