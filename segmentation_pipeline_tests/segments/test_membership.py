"""Membership: which customers move, which moves are pending, the membership history and its changes."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest

from segmentation_pipeline.model.segment_catalog import FEATURES
from segmentation_pipeline_tests.scenarios import Nights, four_behaviours, line

FIRST = datetime.fromisoformat("2024-02-01")
LINES = four_behaviours()
CUSTOMER = "10050"
Open = Callable[[], Nights]


def night(number: int) -> datetime:
    return FIRST + timedelta(days=number)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    nights = Nights(LINES)
    nights.run(FIRST)
    return nights.save(tmp_path_factory.mktemp("saved") / "first.duckdb")


@pytest.fixture
def opened(saved: Path, tmp_path: Path) -> Open:
    """Return a function that opens another working database as of the first fit at each call."""
    copies = iter(range(9))
    return lambda: Nights.opened(saved, tmp_path / f"{next(copies)}.duckdb")


@pytest.fixture
def nights(opened: Open) -> Nights:
    return opened()


def between(nights: Nights, start: str, end: str, part: float) -> str:
    """Return features that place a customer a part of the way from one segment's centroid to another's.

    Frequency and recency are whole numbers, so the position is beside the line; spend makes the part exact.
    """
    model = nights.registry.find(nights.active_model).model
    centroids = dict(zip(model.keys, model.centroids_, strict=True))
    way = centroids[end] - centroids[start]
    place = centroids[start] + part * way
    whole = np.array([0, *model.scaler.invert(place[None])[0, 1:].round()])
    place[1:] = model.scaler.apply(whole[None])[0, 1:]
    place[0] += (part * way @ way - (place - centroids[start]) @ way) / way[0]
    return with_features(**dict(zip(FEATURES, model.scaler.invert(place[None])[0].tolist(), strict=True)))


def with_features(customer: str = CUSTOMER, **values: float) -> str:
    types = {"monetary": "decimal(18, 4)", "frequency": "integer", "recency": "integer"}
    changed = ", ".join(
        f"cast(case customer_id when '{customer}' then {value!r} else {name} end as {types[name]}) as {name}"
        for name, value in values.items()
    )
    return f"select * replace ({changed}) from rfm_features"


def of_customer(nights: Nights, columns: str, customer: str = CUSTOMER) -> Any:
    [row] = nights.rows(f"select {columns} from customer_segments where customer_id = ?", customer)
    return row if len(row) > 1 else row[0]


STATE = "segment_key, nearest_segment, is_move_pending"


def test_customer_clearly_nearer_to_another_segment_moves_at_once(nights: Nights) -> None:
    """At 60 % of the way the other centroid is nearer by a third; a move needs 9 %."""
    nights.run(night(1), features=between(nights, "retain", "nurture", 0.0))
    assert of_customer(nights, STATE) == ("retain", "RETAIN", False)
    nights.run(night(2), features=between(nights, "retain", "nurture", 0.6))
    assert of_customer(nights, STATE) == ("nurture", "NURTURE", False)
    assert of_customer(nights, "segment_since, previous_segment") == (night(2), "RETAIN")


def test_purchase_moves_a_lapsed_customer_at_once(nights: Nights) -> None:
    [(lapsed,), *_] = nights.rows("select customer_id from customer_segments where segment_key = 're_engage'")
    nights.add_lines([line(invoice="999999", at=f"{FIRST + timedelta(hours=9)}", customer=lapsed)])
    nights.run(night(1))
    assert of_customer(nights, "previous_segment, is_move_pending", lapsed) == ("RE-ENGAGE", False)
    assert of_customer(nights, "segment_key", lapsed) != "re_engage"


def test_pending_move_is_made_after_thirty_days(nights: Nights) -> None:
    """At 51 % of the way the other centroid is nearer by 4 %."""
    nights.run(night(1), features=between(nights, "retain", "nurture", 0.0))
    barely = between(nights, "retain", "nurture", 0.51)
    # Pending on the thirty nights from the second to the 31st.
    for number in (2, 31):
        nights.run(night(number), features=barely)
        assert of_customer(nights, STATE) == ("retain", "NURTURE", True)
        assert of_customer(nights, "segment_since") == night(1)
    nights.run(night(32), features=barely)
    assert of_customer(nights, STATE) == ("nurture", "NURTURE", False)
    # The way back needs the same margin.
    nights.run(night(33), features=between(nights, "retain", "nurture", 0.49))
    assert of_customer(nights, STATE) == ("nurture", "RETAIN", True)


def test_fences_are_crossed_by_a_margin_in_both_directions(nights: Nights) -> None:
    [(fence,)] = nights.rows("select upper_fence from outlier_fences where feature = 'monetary'")
    nights.run(night(1), features=between(nights, "reward", "retain", 0.0))
    found = []
    for number, relative in enumerate([1.04, 1.06, 0.96, 0.94], 2):
        nights.run(night(number), features=with_features(monetary=fence * relative, frequency=20.0, recency=9.0))
        found.append(of_customer(nights, "segment_key, is_move_pending, margin is null"))
    inside, outside = found[0], found[1]
    assert found == [("reward", True, False), ("pamper", False, True), ("pamper", True, True), ("reward", False, False)]
    assert (inside[0], outside[0]) == (found[3][0], found[2][0])


def test_columns_describe_the_present_and_previous_segment(nights: Nights) -> None:
    before = dict(nights.rows("select customer_id, segment from customer_segments"))
    since = dict(nights.rows("select customer_id, segment_since from customer_segments"))
    controls = {customer for (customer,) in nights.rows("select customer_id from customer_segments where is_control")}
    assert {*since.values()} == {FIRST}
    nights.run(night(20))
    rows = nights.rows(
        "select customer_id, segment, previous_segment, segment_since, is_move_pending, nearest_segment, margin,"
        " is_control from customer_segments"
    )
    assert {*before} < {row[0] for row in rows}
    assert 0 < sum(row[4] for row in rows) < 0.1 * len(rows)
    for customer, segment, previous, since_when, is_move_pending, nearest, _, is_control in rows:
        assert previous == before.get(customer)
        assert since_when == (FIRST if segment == previous else night(20))
        assert is_move_pending == (segment != nearest)
        assert is_control == (customer in controls) or customer not in before, "the same every night"


def test_margin_compares_the_two_nearest_centroids(nights: Nights) -> None:
    nights.run(night(1), features=between(nights, "retain", "nurture", 0.25))
    model = nights.registry.find(nights.active_model).model
    features = np.array([of_customer(nights, "cast(monetary as double), frequency, recency")])
    near, second, *_ = sorted(np.linalg.norm(model.centroids_ - model.scaler.apply(features), axis=1))
    assert of_customer(nights, "margin") == pytest.approx(1 - near / second)
    assert 0.3 < 1 - near / second < 1 - 0.25 / 0.75
    [(outliers, without)] = nights.rows(
        "select count(*), count(*) filter (where margin is null)"
        " from customer_segments where customer_group = 'outlier'"
    )
    assert outliers == without > 0


def test_control_group_has_its_share_of_every_segment() -> None:
    nights = Nights(four_behaviours(1200), membership={"control_share": 0.2})
    nights.run(FIRST)
    rows = nights.rows(
        "select segment, count(*), count(*) filter (where is_control) from customer_segments"
        " group by segment having count(*) > 60"
    )
    assert len(rows) >= 4
    for segment, customers, controls in rows:
        # Four standard deviations of a binomial share.
        assert abs(controls / customers - 0.2) < 4 * (0.2 * 0.8 / customers) ** 0.5, segment


HISTORY = "select * from segment_membership order by customer_id, valid_from"
# The fourth night has a refit.
NIGHTS = (1, 2, 4, 9)


@dataclass(frozen=True)
class Recorded:
    """Several nights of one shop: the history and the published segments after each, and the working database."""

    nights: Nights
    first: list[tuple[Any, ...]]
    histories: dict[datetime, list[tuple[Any, ...]]]
    repeated: dict[datetime, list[tuple[Any, ...]]]
    published: dict[datetime, dict[str, str]]


@pytest.fixture(scope="module")
def recorded(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """Run every night twice on all lines; a run counts only those before its as_of."""
    nights = Nights.opened(saved, tmp_path_factory.mktemp("recorded") / "work.duckdb")
    result = Recorded(nights, nights.rows(HISTORY), {}, {}, {FIRST: nights.segments})
    for number in NIGHTS:
        for histories in (result.histories, result.repeated):
            run(nights, number)
            histories[night(number)] = nights.rows(HISTORY)
        result.published[night(number)] = nights.segments
    return result


def run(nights: Nights, number: int) -> None:
    nights.run(night(number), refit=number == 4)


def test_repeated_run_writes_the_same_history(recorded: Recorded) -> None:
    assert recorded.repeated == recorded.histories


def test_history_is_append_only(recorded: Recorded) -> None:
    """A night adds periods and ends current ones; nothing else changes."""
    before = recorded.first
    for as_of, history in recorded.histories.items():
        earlier = [row for row in history if row[5] < as_of]
        assert [(*row[:6], None if row[6] == as_of else row[6]) for row in earlier] == before
        before = history
    assert any(row[6] is not None for row in before)


def test_history_gives_what_was_published_at_a_time(recorded: Recorded) -> None:
    for as_of, segments in recorded.published.items():
        for later in (timedelta(), timedelta(hours=23)):
            found = recorded.nights.rows(
                "select customer_id, segment_key from segment_membership"
                " where valid_from <= ? and (valid_to > ? or valid_to is null)",
                as_of + later,
                as_of + later,
            )
            assert len(found) == len(segments)
            assert dict(found) == segments


def test_lines_of_each_night_give_the_same_history(recorded: Recorded) -> None:
    """The history of nights on the lines known then equals that of nights on all lines."""
    nights = Nights([sold for sold in LINES if sold[4] < f"{FIRST}"])
    until = FIRST
    for number in (0, *NIGHTS):
        if fresh := [sold for sold in LINES if f"{until}" <= sold[4] < f"{night(number)}"]:
            nights.add_lines(fresh)
        until = night(number)
        run(nights, number)
    history = nights.rows(HISTORY)
    assert history == recorded.histories[night(NIGHTS[-1])]
    assert len(history) > len({row[0] for row in history})


def test_earlier_as_of_leaves_the_history_unchanged(nights: Nights) -> None:
    nights.run(night(9))
    history = nights.rows(HISTORY)
    assert nights.metadata["segment_membership"]["written"]
    registry = nights.registry
    nights.set("outliers", factor=1.55)
    nights.run(night(4))
    assert nights.registry == registry, "changed settings fit nothing in a run for the past"
    with pytest.raises(dg.Failure, match="and segment_membership goes to"):
        nights.run(night(4), refit=True)
    assert nights.rows(HISTORY) == history
    assert not nights.metadata["segment_membership"]["written"]
    assert nights.rows("select distinct as_of from customer_segments") == [(night(4),)], (
        "the other tables are as of the run"
    )


def test_accepted_earlier_run_takes_back_later_changes(opened: Open) -> None:
    """A line with a future date was accepted; without this, every later run would be for an earlier as_of."""
    corrected, never = opened(), opened()
    corrected.run(night(9))
    for nights in (corrected, never):
        nights.run(night(4), accept_change=True)
        nights.run(night(16))
    assert corrected.rows(HISTORY) == never.rows(HISTORY)


def changes(nights: Nights, as_of: datetime) -> dict[str, tuple[Any, ...]]:
    rows = nights.rows(
        "select customer_id, from_segment, to_segment, reason from segment_changes where as_of = ?", as_of
    )
    return {customer: tuple(change) for customer, *change in rows}


def test_changes_say_why_a_customer_moved(nights: Nights) -> None:
    first = nights.segments
    assert changes(nights, FIRST) == {customer: (None, key, "new") for customer, key in first.items()}
    nights.add_lines([line(invoice="999999", at=f"{FIRST + timedelta(hours=9)}", customer="99999")])
    nights.run(
        night(1),
        features=f"select * from ({between(nights, 'nurture', 'retain', 1.0)}) where customer_id <> '10001'",
    )
    found = changes(nights, night(1))
    assert found["99999"] == (None, nights.segments["99999"], "new")
    assert found["10001"] == (first["10001"], None, "removed")
    assert found[CUSTOMER] == (first[CUSTOMER], "retain", "behaviour")
    nights.run(night(2))
    assert changes(nights, night(2))["10001"] == (None, nights.segments["10001"], "new"), (
        "a returning customer is new again"
    )


def test_changes_separate_the_model_from_behaviour(opened: Open) -> None:
    """A change is by the model if the same night without the new model has none."""
    nights, without = opened(), opened()
    before = nights.segments
    nights.set("model", n_clusters=3)
    without.run(night(9))
    nights.run(night(9), accept_change=True)
    known = before.keys()
    expected = {
        customer: "model" if without.segments[customer] == before[customer] else "behaviour"
        for customer in known
        if nights.segments[customer] != before[customer]
    }
    found = {customer: reason for customer, (*_, reason) in changes(nights, night(9)).items() if customer in known}
    assert {*found.values()} == {"model", "behaviour"}
    assert found == expected


def test_model_changes_survive_a_run_that_failed(opened: Open) -> None:
    """The run of the refit fails before it writes the history; the next night writes the changes of both."""
    failed = opened()
    failed.set("model", n_clusters=3)
    failed.run(night(9), accept_change=True, until="customer_segments")
    failed.run(night(10))
    assert {"new", "model", "behaviour"} == {reason for (*_, reason) in changes(failed, night(10)).values()}
    without = opened()
    without.run(night(10))
    before = dict(without.rows("select customer_id, previous_segments.segment_key from previous_segments"))
    for customer, (start, _, reason) in changes(failed, night(10)).items():
        assert reason == (
            "new" if start is None else "model" if without.segments[customer] == before[customer] else "behaviour"
        )
