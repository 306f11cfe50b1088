"""Past month ends: restated under the active model, the moves between them, and the back-test of the segments."""

from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from segmentation_pipeline.model.thresholds import BacktestPeriods
from segmentation_pipeline.segments import backtest, customer_blocks, history
from segmentation_pipeline.segments.past_customers import read_customers, read_past
from segmentation_pipeline_tests.scenarios import Nights, constants, four_behaviours, line

LINES = four_behaviours(200)
# The data begin on 2023-01-01.
RUNS = [datetime.fromisoformat(f"2023-{month:02d}-20") for month in (6, 8, 11)]
LAST = datetime.fromisoformat("2024-02-20")
CUSTOMERS = sorted({sold[6] for sold in LINES if sold[4] < f"{LAST}"})
QUICK: dict[str, Any] = {"rfm": {"look_back_days": 150}}
HISTORY_ASSETS = ("segment_history", "segment_migrations")
HISTORY_TABLES = (*history.TABLES, "segment_migrations")
BACKTEST_TABLES = ("segment_backtest", "backtest_metrics", "backtest_verdict")


def run(nights: Nights, as_of: datetime, **fit: Any) -> None:
    nights.run(as_of, **fit)
    for name in HISTORY_ASSETS:
        nights.materialize(name)


def tables(nights: Nights, names: tuple[str, ...] = HISTORY_TABLES) -> dict[str, list[tuple[Any, ...]]]:
    return {table: nights.table(table) for table in names}


def computed_at_once(nights: Nights) -> dict[str, list[tuple[Any, ...]]]:
    """Return the tables of the history, computed without any stored month."""
    for table in HISTORY_TABLES:
        nights.connection.execute(f"delete from {table}")
    nights.warehouse.forget_versions()
    for name in HISTORY_ASSETS:
        nights.materialize(name)
    return tables(nights)


def restated_months(nights: Nights) -> list[str]:
    return str(nights.metadata["segment_history"]["restated"]).split(", ")


def month_ends(nights: Nights, table: str = "segment_history") -> list[str]:
    return [f"{month:%Y-%m-%d}" for (month,) in nights.rows(f"select distinct month_end from {table} order by 1")]


@pytest.fixture(scope="module", autouse=True)
def few_resamples() -> Iterator[None]:
    """Resample a tenth as often: the intervals are not what is tested here."""
    with constants(BACKTEST=BacktestPeriods(resamples=20)):
        yield


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working database whose history grew in four runs, each on the lines that existed then."""
    nights = Nights([sold for sold in LINES if sold[4] < f"{RUNS[0]}"], **QUICK)
    previous = RUNS[0]
    run(nights, previous)
    for as_of in (*RUNS[1:], LAST):
        nights.add_lines([sold for sold in LINES if f"{previous}" <= sold[4] < f"{as_of}"])
        run(nights, as_of)
        previous = as_of
    nights.materialize("segment_backtest")
    return nights.save(tmp_path_factory.mktemp("saved") / "grown.duckdb")


@pytest.fixture
def nights(saved: Path, tmp_path: Path) -> Nights:
    opened = Nights.opened(saved, tmp_path / "work.duckdb", **QUICK)
    opened.set("rfm", as_of=LAST)
    return opened


def test_incremental_history_equals_one_computed_at_once(nights: Nights) -> None:
    grown = tables(nights)
    assert all(grown.values())
    assert computed_at_once(nights) == grown


def test_history_and_backtest_are_the_same_in_many_blocks(nights: Nights, monkeypatch: pytest.MonkeyPatch) -> None:
    names = (*HISTORY_TABLES, *BACKTEST_TABLES)
    at_once = tables(nights, names)
    for module in (customer_blocks, backtest):
        monkeypatch.setattr(module, "BLOCK", 37)
    computed_at_once(nights)
    nights.materialize("segment_backtest")
    assert tables(nights, names) == at_once
    assert nights.warehouse.row("select count(*) // 37 as blocks from rfm_features")["blocks"] > 3


def test_run_computes_only_missing_months(nights: Nights) -> None:
    run(nights, LAST)
    assert (restated_months(nights), nights.metadata["segment_history"]["months_restated"]) == (["none"], 0)
    run(nights, LAST + timedelta(days=11))
    assert restated_months(nights) == ["2024-03-01"]


def test_late_line_restates_the_months_after_it(nights: Nights) -> None:
    before = tables(nights)
    [(customer, segment)] = nights.rows(
        "select customer_id, segment_key from segment_history where segment_key = 're_engage'"
        " and month_end = '2024-01-01' order by customer_id limit 1"
    )
    nights.add_lines([line(invoice="999999", at="2023-11-15 10:00:00", customer=customer)])
    run(nights, LAST)
    assert restated_months(nights) == ["2023-12-01", "2024-01-01", "2024-02-01"]
    after = tables(nights)
    assert after["segment_history"] != before["segment_history"]
    earlier = [row for row in after["segment_history"] if row[1] < datetime.fromisoformat("2023-12-01")]
    assert earlier == [row for row in before["segment_history"] if row in set(earlier)]
    select = "select segment_key from segment_history where customer_id = ? and month_end = '2024-01-01'"
    assert nights.rows(select, customer) != [(segment,)]
    assert computed_at_once(nights) == after


def test_new_model_restates_every_month(nights: Nights) -> None:
    months = month_ends(nights)
    nights.set("model", n_clusters=3)
    run(nights, LAST + timedelta(days=1), accept_change=True)
    assert restated_months(nights) == months == month_ends(nights)
    assert nights.rows("select distinct model_id from segment_history") == [(nights.active_model,)]


def test_history_equals_nearest_segments_of_a_run_then(nights: Nights) -> None:
    """A month of the history has the nearest segments of a run as of that month end under the active model."""
    select = "select customer_id, segment_key, monetary, frequency, recency from segment_history where month_end = ?"
    for month in ("2023-05-01", "2023-10-01", "2024-02-01"):
        found = sorted(nights.rows(select, month))
        nights.run(datetime.fromisoformat(month), until="nearest_segments")
        assert found == nights.rows(
            "select customer_id, segment_key, monetary, frequency, recency"
            " from rfm_features join nearest_segments using (customer_id) order by customer_id"
        )
        assert len(found) > 100


def test_months_shorter_than_the_look_back_are_not_comparable(nights: Nights) -> None:
    """The look-back of 150 days after 2023-01-01 ends on 2023-05-31."""
    rows = nights.rows("select distinct month_end, is_comparable from segment_history order by month_end")
    assert [is_comparable for _, is_comparable in rows] == [month >= RUNS[0] - timedelta(19) for month, _ in rows]
    assert len(rows) == 13


def test_migrations_count_moves_from_month_to_month(nights: Nights) -> None:
    segments: dict[datetime, dict[str, str]] = {}
    for customer, month, key in nights.rows(
        "select customer_id, month_end, segment_key from segment_history where is_comparable"
    ):
        segments.setdefault(month, {})[customer] = key
    first, *others = sorted(segments)
    expected = Counter[tuple[Any, ...]]()
    for before, month in zip((first, *others), others, strict=False):
        expected += Counter((month, segments[before].get(who, "new"), key) for who, key in segments[month].items())
    found = nights.rows("select month_end, from_segment, to_segment, customers from segment_migrations")
    assert {row[:3]: row[3] for row in found} == expected
    assert len(others) > 5


def test_dropped_history_table_is_computed_again(nights: Nights) -> None:
    """An upgrade can drop one of the two tables; neither alone says whether the rows of the other exist."""
    before = tables(nights)
    for table in history.TABLES:
        nights.warehouse.drop(table)
        for name in HISTORY_ASSETS:
            nights.materialize(name)
        assert tables(nights) == before, table


def test_changed_history_query_restates_every_month(nights: Nights, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "_AT_MONTH_END", f"{history._AT_MONTH_END}-- changed")
    run(nights, LAST)
    assert restated_months(nights) == month_ends(nights)


# The back-test.


def test_backtest_covers_months_with_enough_days_around_them(nights: Nights) -> None:
    """180 days from 2023-01-01 end on 2023-06-30, and 90 days before 2024-02-20 begin on 2023-11-22."""
    expected = [f"2023-{month:02d}-01" for month in (7, 8, 9, 10, 11)]
    assert month_ends(nights, "segment_backtest") == month_ends(nights, "backtest_metrics") == expected


def test_backtest_leaves_out_the_months_that_the_search_compared(nights: Nights) -> None:
    nights.connection.execute("update segmentation_models set compared_month_ends = ['2023-09-01', '2023-11-01']")
    nights.materialize("segment_backtest")
    for table in ("segment_backtest", "backtest_metrics"):
        assert month_ends(nights, table) == ["2023-07-01", "2023-08-01", "2023-10-01"]
    assert {row[1] for row in nights.table("backtest_verdict")} == {3}


def test_search_compares_every_second_month_end_as_it_was_then(nights: Nights) -> None:
    """What happened since is unknown to the features, and the spend is that of the 90 days after."""
    as_of = datetime.fromisoformat("2024-02-20")
    past = read_past(nights.warehouse, nights.settings, as_of)
    assert past is not None
    assert [f"{month.month_end:%Y-%m-%d}" for month in past.months] == ["2023-07-01", "2023-09-01", "2023-11-01"]
    start = past.months[0].month_end
    known = sorted({sold[6] for sold in LINES if sold[4] < f"{start}"})
    every = read_customers(nights.warehouse, nights.settings, start, start + timedelta(days=90))
    later = [sold for sold in LINES if f"{start}" <= sold[4] < f"{start + timedelta(days=90)}" and sold[6] in known]
    assert len(every.features) == len(known)
    assert every.spend.sum() == pytest.approx(sum(int(sold[3]) * float(sold[5]) for sold in later))
    # Three month ends are too few to compare one and to report another.
    assert read_past(nights.warehouse, nights.settings, datetime.fromisoformat("2023-12-15")) is None


def test_backtest_is_computed_whole_and_reproducible(nights: Nights) -> None:
    before = tables(nights, BACKTEST_TABLES)
    metadata = nights.materialize("segment_backtest")
    assert tables(nights, BACKTEST_TABLES) == before
    assert metadata["month_ends"] == ", ".join(month_ends(nights, "segment_backtest"))
    assert metadata["months"] == 5
    assert metadata["customers"] == metadata["evaluated_customers"] == len(CUSTOMERS)
    for table in BACKTEST_TABLES:
        nights.connection.execute(f"drop table {table}")
    nights.materialize("segment_backtest")
    assert tables(nights, BACKTEST_TABLES) == before, "it needs no stored month"


def test_verdict_averages_the_gini_of_the_month_ends(nights: Nights) -> None:
    values = nights.rows(
        "select population, count(distinct month_end), avg(value) filter (where segmentation = 'segments'),"
        " avg(value) filter (where segmentation = 'rfm_segments'), avg(value) filter (where segmentation = 'spend')"
        " from backtest_metrics where metric = 'gini' group by population order by population"
    )
    for row, expected in zip(nights.table("backtest_verdict"), values, strict=True):
        assert row[:2] == expected[:2]
        assert row[2:5] == pytest.approx(expected[2:], abs=1e-11)
        assert row[-2] in ("ahead", "equal", "behind")


def test_backtest_sums_to_the_spend_of_all_customers(nights: Nights) -> None:
    """Every customer with a line before the month end is in exactly one segment of the back-test."""
    for month in ("2023-07-01", "2023-11-01"):
        start = datetime.fromisoformat(month)
        end = start + timedelta(days=90)
        known = {sold[6] for sold in LINES if sold[4] < f"{start}"}
        later = [sold for sold in LINES if f"{start}" <= sold[4] < f"{end}" and sold[6] in known]
        [(customers, revenue, shares, returned)] = nights.rows(
            "select sum(customers), sum(revenue), sum(revenue_share), sum(share_returned * customers)"
            " from segment_backtest where month_end = ?",
            start,
        )
        assert customers == len(known)
        assert float(revenue) == pytest.approx(sum(int(sold[3]) * float(sold[5]) for sold in later))
        assert shares == pytest.approx(1)
        assert returned == pytest.approx(len({sold[6] for sold in later}))


def test_backtest_of_many_customers_is_that_of_a_sample(nights: Nights) -> None:
    """Every second customer, by customer id, as if there were no others."""
    number = len(CUSTOMERS) // 2
    sampled = {who for place, who in enumerate(CUSTOMERS) if place * number % len(CUSTOMERS) < number}
    assert len(sampled) == number
    with constants(BACKTEST=BacktestPeriods(resamples=20, max_customers=number)):
        metadata = nights.materialize("segment_backtest")
    assert metadata["customers"] == len(CUSTOMERS)
    assert metadata["evaluated_customers"] == number
    month = datetime.fromisoformat("2023-11-01")
    end = month + timedelta(days=90)
    known = sampled & {sold[6] for sold in LINES if sold[4] < f"{month}"}
    later = [sold for sold in LINES if f"{month}" <= sold[4] < f"{end}" and sold[6] in known]
    [(counted, revenue)] = nights.rows(
        "select sum(customers), sum(revenue) from segment_backtest where month_end = ?", month
    )
    assert counted == len(known)
    assert float(revenue) == pytest.approx(sum(int(sold[3]) * float(sold[5]) for sold in later))
    assert nights.rows("select count(*) > 0 from backtest_metrics where low is not null") == [(True,)]


def test_backtest_forms_segments_from_earlier_lines_only(nights: Nights) -> None:
    formed = (
        "select month_end, segment_key, customers, past_monetary from segment_backtest"
        " where month_end = '2023-10-01' order by all"
    )
    spent = "select sum(revenue) from segment_backtest where month_end = '2023-10-01'"
    before = nights.rows(formed)
    [(revenue,)] = nights.rows(spent)
    nights.add_lines(
        [line(invoice="999999", at="2023-10-02 10:00:00", quantity="1", price="1000", customer=LINES[0][6])]
    )
    nights.run(LAST)
    nights.materialize("segment_backtest")
    assert nights.rows(formed) == before
    assert nights.rows(spent) == [(revenue + 1000,)]


def test_backtest_uses_the_number_of_clusters_of_the_active_model(nights: Nights) -> None:
    """The active model keeps the number of clusters that a person accepted, whatever the settings say later."""
    nights.set("model", n_clusters=3)
    nights.run(LAST, accept_change=True)
    nights.set("model", n_clusters=4)
    nights.materialize("segment_backtest")
    select = "select distinct groups from backtest_metrics where population = 'normal' and segmentation = 'segments'"
    assert nights.rows(select) == [(3,)]


def test_backtest_leaves_out_months_without_active_customers() -> None:
    """The shop opened again after a year, and only the last sixty days count."""
    again = [(*sold[:4], f"{datetime.fromisoformat(sold[4]) + timedelta(days=730)}", *sold[5:]) for sold in LINES]
    nights = Nights([*LINES, *again], rfm={"look_back_days": 60})
    nights.run(LAST + timedelta(days=730), until="customer_segments")
    metadata = nights.materialize("segment_backtest")
    months = month_ends(nights, "segment_backtest")
    assert "2024-04-01" in months
    assert "2024-08-01" not in months
    assert metadata["month_ends"] == ", ".join(months)
