"""The past: month ends restated under the standing model, the ways between them, and what segments foretold."""

from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from segmentation_pipeline.segments import backtest, history
from segmentation_pipeline_tests.scenarios import Nights, four_behaviours, line

LINES = four_behaviours(200)
# The data are from 2023-01-01 on.
EVENINGS = [datetime.fromisoformat(f"2023-{month:02d}-20") for month in (6, 8, 11)]
LAST = datetime.fromisoformat("2024-02-20")
QUICK: dict[str, Any] = {"rfm": {"look_back_days": 150}, "backtest": {"resamples": 20}}
PAST = ("segment_history", "segment_migrations", "segment_backtest")
TABLES = (*history.TABLES, "segment_migrations", "segment_backtest", "backtest_metrics")


def lived(nights: Nights, as_of: datetime, **fit: Any) -> None:
    nights.run(as_of, **fit)
    for name in PAST:
        nights.materialize(name)


def tables(nights: Nights) -> dict[str, list[tuple[Any, ...]]]:
    return {table: nights.table(table) for table in TABLES}


def at_once(nights: Nights) -> dict[str, list[tuple[Any, ...]]]:
    """The same tables, where nothing stood before."""
    for table in TABLES:
        nights.connection.execute(f"delete from {table}")
    for name in PAST:
        nights.materialize(name)
    return tables(nights)


def restate_history(nights: Nights) -> list[str]:
    return str(nights.told["segment_history"]["restated"]).split(", ")


def month_list(nights: Nights, table: str = "segment_history") -> list[str]:
    return [f"{month:%Y-%m-%d}" for (month,) in nights.rows(f"select distinct month_end from {table} order by 1")]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working database of which the history grew month by month, with the lines that there were."""
    nights = Nights([sold for sold in LINES if sold[4] < f"{EVENINGS[0]}"], **QUICK)
    seen = EVENINGS[0]
    lived(nights, seen)
    for as_of in (*EVENINGS[1:], LAST):
        nights.sell([sold for sold in LINES if f"{seen}" <= sold[4] < f"{as_of}"])
        lived(nights, as_of)
        seen = as_of
    return nights.save(tmp_path_factory.mktemp("saved") / "lived.duckdb")


@pytest.fixture
def nights(saved: Path, tmp_path: Path) -> Nights:
    opened = Nights.opened(saved, tmp_path / "work.duckdb", **QUICK)
    opened.set("rfm", as_of=LAST)
    return opened


def test_a_history_that_grew_month_by_month_is_that_built_at_once(nights: Nights) -> None:
    grown = tables(nights)
    assert all(grown.values())
    assert at_once(nights) == grown


def test_a_run_computes_what_is_missing_and_says_which_months(nights: Nights) -> None:
    lived(nights, LAST)
    assert (restate_history(nights), nights.told["segment_history"]["months_restated"]) == (["none"], 0)
    assert (nights.told["segment_backtest"]["tried"], nights.told["segment_backtest"]["months_tried"]) == ("none", 0)
    lived(nights, LAST + timedelta(days=11))
    assert restate_history(nights) == ["2024-03-01"]


def test_a_late_line_restates_the_months_after_it_and_says_so(nights: Nights) -> None:
    before = tables(nights)
    [(customer, place)] = nights.rows(
        "select customer_id, segment_key from segment_history where segment_key = 're_engage'"
        " and month_end = '2024-01-01' order by customer_id limit 1"
    )
    nights.sell([line(invoice="999999", at="2023-11-15 10:00:00", customer=customer)])
    lived(nights, LAST)
    assert restate_history(nights) == ["2023-12-01", "2024-01-01", "2024-02-01"]
    after = tables(nights)
    assert after["segment_history"] != before["segment_history"]
    of_before = [row for row in after["segment_history"] if row[1] < datetime.fromisoformat("2023-12-01")]
    assert of_before == [row for row in before["segment_history"] if row in set(of_before)]
    moved = "select segment_key from segment_history where customer_id = ? and month_end = '2024-01-01'"
    assert nights.rows(moved, customer) != [(place,)]
    assert at_once(nights) == after


def test_another_model_restates_every_month(nights: Nights) -> None:
    months = month_list(nights)
    nights.set("model", n_clusters=3)
    lived(nights, LAST + timedelta(days=1), accept_change=True)
    assert restate_history(nights) == months == month_list(nights)
    assert nights.rows("select distinct model_id from segment_history") == [(nights.standing,)]


def test_the_history_is_where_the_standing_model_would_have_put_the_customers_then(nights: Nights) -> None:
    """A run for that day finds the same nearest segments; whom it knew before is forgotten."""
    past = "select customer_id, segment_key, monetary, frequency, recency from segment_history where month_end = ?"
    for month in ("2023-05-01", "2023-10-01", "2024-02-01"):
        found = sorted(nights.rows(past, month))
        nights.run(datetime.fromisoformat(month), until="nearest_segments")
        assert found == nights.rows(
            "select customer_id, segment_key, monetary, frequency, recency"
            " from rfm_features join nearest_segments using (customer_id) order by customer_id"
        )
        assert len(found) > 100


def test_months_with_less_history_than_the_look_back_are_not_comparable(nights: Nights) -> None:
    """From 2023-01-01, 150 days are over on 2023-05-31."""
    rows = nights.rows("select distinct month_end, is_comparable from segment_history order by month_end")
    assert [is_comparable for _, is_comparable in rows] == [month >= EVENINGS[0] - timedelta(19) for month, _ in rows]
    assert len(rows) == 13


def test_migrations_are_counted_from_month_to_month(nights: Nights) -> None:
    places: dict[datetime, dict[str, str]] = {}
    for customer, month, key in nights.rows(
        "select customer_id, month_end, segment_key from segment_history where is_comparable"
    ):
        places.setdefault(month, {})[customer] = key
    first, *others = sorted(places)
    expected = Counter[tuple[Any, ...]]()
    for before, month in zip((first, *others), others, strict=False):
        expected += Counter((month, places[before].get(who, "new"), key) for who, key in places[month].items())
    found = nights.rows("select month_end, from_segment, to_segment, customers from segment_migrations")
    assert {row[:3]: row[3] for row in found} == expected
    assert len(others) > 5


def test_the_backtest_is_of_months_with_enough_days_before_and_after(nights: Nights) -> None:
    """180 days from 2023-01-01 are over on 2023-06-30, and 90 before 2024-02-20 begin on 2023-11-22."""
    expected = [f"2023-{month:02d}-01" for month in (7, 8, 9, 10, 11)]
    assert month_list(nights, "segment_backtest") == month_list(nights, "backtest_metrics") == expected


def test_the_backtest_tells_what_each_segment_spent_in_the_days_after(nights: Nights) -> None:
    """Counted from the lines; every customer of before is in a segment."""
    for month in ("2023-07-01", "2023-11-01"):
        start = datetime.fromisoformat(month)
        end = start + timedelta(days=90)
        known = {sold[6] for sold in LINES if sold[4] < f"{start}"}
        later = [sold for sold in LINES if f"{start}" <= sold[4] < f"{end}" and sold[6] in known]
        [(customers, revenue, shares, back)] = nights.rows(
            "select sum(customers), sum(revenue), sum(revenue_share), sum(share_returned * customers)"
            " from segment_backtest where month_end = ?",
            start,
        )
        assert customers == len(known)
        assert float(revenue) == pytest.approx(sum(int(sold[3]) * float(sold[5]) for sold in later))
        assert shares == pytest.approx(1)
        assert back == pytest.approx(len({sold[6] for sold in later}))


def test_the_backtest_forms_its_segments_of_what_was_known_then(nights: Nights) -> None:
    columns = "month_end, segment_key, customers, past_monetary"
    formed = f"select {columns} from segment_backtest where month_end = '2023-10-01' order by all"
    before = nights.rows(formed)
    spent = "select sum(revenue) from segment_backtest where month_end = '2023-10-01'"
    [(revenue,)] = nights.rows(spent)
    nights.sell([line(invoice="999999", at="2023-10-02 10:00:00", quantity="1", price="1000", customer=LINES[0][6])])
    lived(nights, LAST)
    assert "2023-10-01" in nights.told["segment_backtest"]["tried"]
    assert nights.rows(formed) == before
    assert nights.rows(spent) == [(revenue + 1000,)]


def test_a_table_that_an_upgrade_dropped_is_made_anew_with_the_months_that_it_had(nights: Nights) -> None:
    """`history_months` alone says nothing of whether the rows of its months are there, nor the reverse."""
    before = tables(nights)
    for table in (*history.TABLES, "segment_backtest", "backtest_metrics"):
        nights.connection.execute(f"drop table {table}")
        for name in PAST:
            nights.materialize(name)
        assert tables(nights) == before, table


def test_months_of_which_a_method_is_another_are_computed_again(
    nights: Nights, monkeypatch: pytest.MonkeyPatch
) -> None:
    months, tried = month_list(nights), nights.told
    monkeypatch.setattr(history, "_AT_MONTH_END", f"{history._AT_MONTH_END}-- mended")
    monkeypatch.setattr(backtest, "_CUSTOMERS", f"{backtest._CUSTOMERS}-- mended")
    lived(nights, LAST)
    assert restate_history(nights) == months
    assert tried["segment_backtest"]["months_tried"] == 5


def test_months_in_which_nobody_was_active_are_left_out_of_the_backtest() -> None:
    """The shop opened again after a year, and only the last sixty days count."""
    again = [(*sold[:4], f"{datetime.fromisoformat(sold[4]) + timedelta(days=730)}", *sold[5:]) for sold in LINES]
    nights = Nights([*LINES, *again], rfm={"look_back_days": 60}, backtest={"resamples": 20})
    lived(nights, LAST + timedelta(days=730))
    tried = month_list(nights, "segment_backtest")
    assert "2024-04-01" in tried
    assert "2024-08-01" not in tried
    assert nights.told["segment_backtest"]["tried"] == ", ".join(tried)
