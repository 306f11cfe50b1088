"""Customer value: the fit, the forecast of the last quarter, and the scores of every customer."""

from datetime import datetime, timedelta
from pathlib import Path

import pytest

from segmentation_pipeline.model.thresholds import BacktestPeriods
from segmentation_pipeline.segments import customer_blocks, customer_value
from segmentation_pipeline.segments.customer_value import TABLES
from segmentation_pipeline_tests.scenarios import Nights, constants, four_behaviours, line

AS_OF = datetime.fromisoformat("2024-02-20")
ODD = [
    line(invoice="C1", at="2023-12-07 10:00:00", quantity="-1", price="5", customer="only back"),
    line(invoice="2", at="2023-12-07 10:00:00", quantity="1", price="5", customer="all back"),
    line(invoice="C3", at="2023-12-08 10:00:00", quantity="-2", price="5", customer="all back"),
]
TABLES_OF_A_NIGHT = ("customer_value_model", "customer_value", "segment_profiles")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    nights = Nights([*four_behaviours(120), *ODD])
    nights.run(AS_OF)
    for name in TABLES_OF_A_NIGHT:
        nights.materialize(name)
    return nights.save(tmp_path_factory.mktemp("saved") / "work.duckdb")


@pytest.fixture
def nights(saved: Path, tmp_path: Path) -> Nights:
    nights = Nights.opened(saved, tmp_path / "work.duckdb")
    nights.set("rfm", as_of=AS_OF)
    return nights


def test_every_customer_is_scored_once(nights: Nights) -> None:
    rows = nights.rows(
        "select customer_id, probability_active, expected_purchases_90, expected_spend_365 from customer_value"
    )
    assert sorted(row[0] for row in rows) == sorted(
        who for (who,) in nights.rows("select customer_id from rfm_features")
    )
    assert {row[0] for row in rows if None in row} == {"only back"}
    assert all(0 <= row[1] <= 1 for row in rows if row[1] is not None)


def test_customers_are_scored_alike_in_many_blocks(nights: Nights, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = nights.table("customer_value")
    monkeypatch.setattr(customer_value, "_BLOCK", 37)
    nights.warehouse.forget_versions()
    nights.materialize("customer_value")
    assert nights.table("customer_value") == at_once
    assert customer_blocks.blocks_of(len(at_once), 37) > 3


def test_a_large_model_is_fitted_on_a_sample(nights: Nights) -> None:
    """And the row of the model still counts all of them."""
    counts = "select customers, repeat_customers from customer_value_model"
    tried = "select distinct customers from customer_value_errors"
    all_counts, [(all_tried,)] = nights.rows(counts), nights.rows(tried)
    nights.connection.execute("delete from customer_value_model")
    with constants(BACKTEST=BacktestPeriods(max_customers=80)):
        nights.materialize("customer_value_model")
    assert nights.rows(counts) == all_counts
    [(sampled,)] = nights.rows(tried)
    assert 0 < sampled <= 80 < all_tried
    assert nights.rows("select reason from customer_value_model") == [(None,)]


def test_expectations_grow_with_the_days_and_are_inside_their_intervals(nights: Nights) -> None:
    for name in ("expected_purchases_90", "expected_purchases_365", "expected_spend_90", "expected_spend_365"):
        outside = f"select count(*) from customer_value where not {name} between {name}_low and {name}_high"
        assert nights.rows(outside) == [(0,)]
        assert nights.rows(f"select count(*) > 100 from customer_value where {name}_low < {name}_high") == [(True,)]
    assert nights.rows("select count(*) from customer_value where expected_spend_365 < expected_spend_90") == [(0,)]


def test_customer_of_one_purchase_day_is_taken_for_active(nights: Nights) -> None:
    """And nothing of its spend is at risk, because the model cannot see it stop."""
    rows = nights.rows(
        "select probability_active, spend_at_risk_365 from customer_value join rfm_features using (customer_id)"
        " where purchase_days = 1"
    )
    assert rows
    assert set(rows) == {(1.0, 0)}


def test_spend_at_risk_is_what_certainty_would_add(nights: Nights) -> None:
    rows = nights.rows(
        "select cast(expected_spend_365 as double), probability_active, cast(spend_at_risk_365 as double)"
        " from customer_value where expected_spend_365 > 10 and probability_active < 1"
    )
    assert rows
    for expected, active, risk in rows:
        assert risk == pytest.approx(expected / active - expected, rel=1e-4, abs=0.001)


def test_profiles_sum_the_customers_and_risk_counts_lapsing_ones(nights: Nights) -> None:
    for key, quarter, year, mean, risk in nights.rows(
        "select segment_key, expected_spend_90, expected_spend_365, mean_expected_spend_365, spend_at_risk_365"
        " from segment_profiles"
    ):
        customers = nights.rows(
            "select value.expected_spend_90, value.expected_spend_365, value.spend_at_risk_365, is_lapsing"
            " from customer_value as value join customer_segments using (customer_id) where segment_key = ?",
            key,
        )
        known = [row for row in customers if row[1] is not None]
        if not known:
            assert (quarter, year, mean, risk) == (None, None, None, None)
        else:
            assert (quarter, year) == (sum(row[0] for row in known), sum(row[1] for row in known))
            assert mean == pytest.approx(float(year) / len(known))
        assert (risk or 0) == sum(row[2] for row in known if row[3])
    assert nights.rows("select sum(spend_at_risk_365) > 0 from segment_profiles") == [(True,)]


def test_last_quarter_forecast_is_compared_with_actual_spend(nights: Nights) -> None:
    start = AS_OF - timedelta(days=90)
    [(customers, spend)] = nights.rows(
        "select count(*), sum(greatest(later, 0)) from ("
        " select sum(amount) filter (where transaction_at >= ?) as later from all_lines where transaction_at < ?"
        " group by customer_id having min(transaction_at) filter (where amount >= 0 and not is_cancellation) < ?)",
        start,
        AS_OF,
        start,
    )
    [(naive,)] = nights.rows(
        "select sum(amount) * 90 / date_diff('day', (select min(transaction_at) from all_lines), ?) from all_lines"
        " where transaction_at < ?",
        start,
        start,
    )
    model, rival = nights.table("customer_value_errors")
    assert [model[0], rival[0]] == ["model", "naive"]
    assert (model[1], model[2], rival[2]) == (start, customers, customers)
    assert (model[4], rival[4]) == pytest.approx((float(spend), float(spend)))
    assert rival[3] == pytest.approx(float(naive), rel=0.02)
    deciles = nights.table("customer_value_calibration")
    assert [row[0] for row in deciles] == list(range(1, 11))
    assert sum(row[1] for row in deciles) == customers
    assert sum(row[1] * row[5] for row in deciles) == pytest.approx(float(spend))
    assert [row[4] for row in deciles] == sorted((row[4] for row in deciles), reverse=True)


def test_forecast_uses_no_line_after_its_start(nights: Nights) -> None:
    expected = (
        "select decile, expected_purchases, expected_spend, naive_spend from customer_value_calibration order by 1"
    )
    before = nights.rows(expected)
    late = line(invoice="9", at="2024-01-15 10:00:00", quantity="1", price="5000", customer="10001")
    nights.add_lines([late])
    nights.run(AS_OF, until="rfm_features")
    nights.materialize("customer_value_model")
    assert nights.rows(expected) == before


def test_run_that_fits_no_segments_keeps_the_parameters(nights: Nights) -> None:
    """As after a restore: what the forecast of a quarter is compared with is computed anew, the parameters stay."""
    before = nights.table("customer_value_model")
    nights.run(AS_OF + timedelta(days=20))
    for table in TABLES[1:]:
        nights.warehouse.drop(table)
    nights.materialize("customer_value_model")
    assert nights.table("customer_value_model") == before
    assert {row[1] for row in nights.table("customer_value_errors")} == {AS_OF - timedelta(days=70)}
    nights.run(AS_OF + timedelta(days=20), refit=True)
    nights.materialize("customer_value_model")
    assert nights.table("customer_value_model") != before


def test_fit_and_scores_are_reproducible(nights: Nights) -> None:
    before = {name: nights.table(name) for name in (*TABLES, "customer_value")}
    nights.materialize("customer_value_model")
    nights.warehouse.drop("customer_value")
    nights.materialize("customer_value")
    assert {name: nights.table(name) for name in before} == before


def test_too_few_repeats_give_a_reason_and_no_values() -> None:
    nights = Nights(
        [
            line(invoice=f"{who}{day}", at=f"2024-01-{day + 1:02d} 10:00:00", customer=f"c{who}", price=f"{who + day}")
            for who in range(40)
            for day in range(1 + who // 30)
        ]
    )
    nights.run(AS_OF)
    for name in TABLES_OF_A_NIGHT:
        nights.materialize(name)
    [row] = nights.rows("select customers, repeat_customers, r, p, reason from customer_value_model")
    assert row == (40, 10, None, None, "only 10 customers bought on a second day; 30 are needed.")
    assert nights.rows("select count(*), count(expected_spend_90), count(probability_active) from customer_value") == [
        (40, 0, 0)
    ]
    assert nights.rows("select count(expected_spend_365) from segment_profiles") == [(0,)]
    assert [nights.table(name) for name in TABLES[1:]] == [[], []]
