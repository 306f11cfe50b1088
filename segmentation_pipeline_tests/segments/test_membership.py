"""Where customers were and are: who moves and who is held, the ledger of it, the past restated, and tried."""

from collections.abc import Callable
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
WHO = "10050"
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
    """Another working database of the evening after the first model was fitted, at each call."""
    copies = iter(range(9))
    return lambda: Nights.opened(saved, tmp_path / f"{next(copies)}.duckdb")


@pytest.fixture
def nights(opened: Open) -> Nights:
    return opened()


def between(nights: Nights, start: str, end: str, part: float) -> str:
    """Features with which a customer lies a part of the way from the centroid of one segment to that of another.

    Purchases and days are whole numbers, so it lies beside the way; spend puts it where the part is exact.
    """
    model = nights.registry.find(nights.active_model).model
    places = dict(zip(model.keys, model.centroids_, strict=True))
    way = places[end] - places[start]
    place = places[start] + part * way
    whole = np.array([0, *model.scaler.invert(place[None])[0, 1:].round()])
    place[1:] = model.scaler.apply(whole[None])[0, 1:]
    place[0] += (part * way @ way - (place - places[start]) @ way) / way[0]
    return having(**dict(zip(FEATURES, model.scaler.invert(place[None])[0].tolist(), strict=True)))


def having(who: str = WHO, **values: float) -> str:
    types = {"monetary": "decimal(18, 4)", "frequency": "integer", "recency": "integer"}
    changed = ", ".join(
        f"cast(case customer_id when '{who}' then {value!r} else {name} end as {types[name]}) as {name}"
        for name, value in values.items()
    )
    return f"select * replace ({changed}) from rfm_features"


def of(nights: Nights, columns: str, who: str = WHO) -> Any:
    [row] = nights.rows(f"select {columns} from customer_segments where customer_id = ?", who)
    return row if len(row) > 1 else row[0]


STATE = "segment_key, nearest_segment, is_move_pending"


def test_who_is_clearly_nearer_to_another_segment_moves_the_same_night(nights: Nights) -> None:
    """The border is half-way; at 60 % the other centroid is nearer by a third, and 9 % are enough."""
    nights.run(night(1), features=between(nights, "retain", "nurture", 0.0))
    assert of(nights, STATE) == ("retain", "RETAIN", False)
    nights.run(night(2), features=between(nights, "retain", "nurture", 0.6))
    assert of(nights, STATE) == ("nurture", "NURTURE", False)
    assert of(nights, "segment_since, previous_segment") == (night(2), "RETAIN")


def test_a_purchase_moves_a_lapsed_customer_the_same_night(nights: Nights) -> None:
    [(lapsed,), *_] = nights.rows("select customer_id from customer_segments where segment_key = 're_engage'")
    nights.add_lines([line(invoice="999999", at=f"{FIRST + timedelta(hours=9)}", customer=lapsed)])
    nights.run(night(1))
    assert of(nights, "previous_segment, is_move_pending", lapsed) == ("RE-ENGAGE", False)
    assert of(nights, "segment_key", lapsed) != "re_engage"


def test_who_is_barely_nearer_is_held_but_for_no_longer_than_the_days_allowed(nights: Nights) -> None:
    """At 51 % the other centroid is nearer by 4 %."""
    nights.run(night(1), features=between(nights, "retain", "nurture", 0.0))
    barely = between(nights, "retain", "nurture", 0.51)
    # Held on the thirty nights from the second to the 31st.
    for number in (2, 20, 31):
        nights.run(night(number), features=barely)
        assert of(nights, STATE) == ("retain", "NURTURE", True)
        assert of(nights, "segment_since") == night(1)
    nights.run(night(32), features=barely)
    assert of(nights, STATE) == ("nurture", "NURTURE", False)
    for number in (33, 34):
        # And from there it does not go back by as little.
        nights.run(night(number), features=between(nights, "retain", "nurture", 0.49))
        assert of(nights, STATE) == ("nurture", "RETAIN", True)


def test_a_fence_is_crossed_by_a_margin_outwards_and_back(nights: Nights) -> None:
    [(fence,)] = nights.rows("select upper_fence from outlier_fences where feature = 'monetary'")
    nights.run(night(1), features=between(nights, "reward", "retain", 0.0))
    found = []
    for number, beside in enumerate([1.04, 1.06, 0.96, 0.94], 2):
        nights.run(night(number), features=having(monetary=fence * beside, frequency=20.0, recency=9.0))
        found.append(of(nights, "segment_key, is_move_pending, margin is null"))
    inside, outside = found[0], found[1]
    assert found == [("reward", True, False), ("pamper", False, True), ("pamper", True, True), ("reward", False, False)]
    assert (inside[0], outside[0]) == (found[3][0], found[2][0])


def test_the_columns_of_a_customer_say_where_it_stands_and_stood(nights: Nights) -> None:
    before = dict(nights.rows("select customer_id, segment from customer_segments"))
    since = dict(nights.rows("select customer_id, segment_since from customer_segments"))
    controls = {who for (who,) in nights.rows("select customer_id from customer_segments where is_control")}
    assert {*since.values()} == {FIRST}
    nights.run(night(20))
    rows = nights.rows(
        "select customer_id, segment, previous_segment, segment_since, is_move_pending, nearest_segment, margin, is_control"
        " from customer_segments"
    )
    assert {*before} < {row[0] for row in rows}
    assert 0 < sum(row[4] for row in rows) < 0.1 * len(rows)
    for who, segment, previous, begun, is_move_pending, nearest, _, is_control in rows:
        assert previous == before.get(who)
        assert begun == (FIRST if segment == previous else night(20))
        assert is_move_pending == (segment != nearest)
        assert is_control == (who in controls) or who not in before, "the same every night"


def test_the_margin_is_how_much_nearer_the_nearest_centroid_is_than_the_next(nights: Nights) -> None:
    nights.run(night(1), features=between(nights, "retain", "nurture", 0.25))
    model = nights.registry.find(nights.active_model).model
    features = np.array([of(nights, "cast(monetary as double), frequency, recency")])
    near, second, *_ = sorted(np.linalg.norm(model.centroids_ - model.scaler.apply(features), axis=1))
    assert of(nights, "margin") == pytest.approx(1 - near / second)
    assert 0.3 < 1 - near / second < 1 - 0.25 / 0.75
    [(outliers, without)] = nights.rows(
        "select count(*), count(*) filter (where margin is null)"
        " from customer_segments where customer_group = 'outlier'"
    )
    assert outliers == without > 0


def test_the_control_group_is_about_its_share_of_every_segment() -> None:
    nights = Nights(four_behaviours(1200), membership={"control_share": 0.2})
    nights.run(FIRST)
    rows = nights.rows(
        "select segment, count(*), count(*) filter (where is_control) from customer_segments"
        " group by segment having count(*) > 60"
    )
    assert len(rows) >= 4
    for segment, customers, controls in rows:
        # Four standard deviations of a draw.
        assert abs(controls / customers - 0.2) < 4 * (0.2 * 0.8 / customers) ** 0.5, segment


LEDGER = "select * from segment_membership order by customer_id, valid_from"
# A refit on the fourth night.
SEEN = (1, 2, 4, 9, 16)


def lived(nights: Nights, number: int) -> None:
    nights.run(night(number), refit=number == 4)


def test_the_ledger_is_append_only_and_a_run_done_again_writes_the_same_rows(nights: Nights) -> None:
    seen = nights.rows(LEDGER)
    for number in SEEN:
        lived(nights, number)
        ledger = nights.rows(LEDGER)
        lived(nights, number)
        assert nights.rows(LEDGER) == ledger
        earlier = [row for row in ledger if row[5] < night(number)]
        # What was open may have ended this night; all else is as it was.
        ended = [(*row[:6], None if row[6] == night(number) else row[6]) for row in earlier]
        assert ended == seen
        seen = ledger
    assert any(row[6] is not None for row in seen)


def test_a_replay_of_all_nights_writes_the_ledger_that_was_lived() -> None:
    """Once with the lines that there were each night, and once in hindsight."""
    ledgers = []
    for hindsight in (False, True):
        nights = Nights(LINES if hindsight else [sold for sold in LINES if sold[4] < f"{FIRST}"])
        until = FIRST
        for number in (0, *SEEN):
            fresh = [sold for sold in LINES if f"{until}" <= sold[4] < f"{night(number)}"]
            if not hindsight and fresh:
                nights.add_lines(fresh)
            until = night(number)
            lived(nights, number)
        ledgers.append(nights.rows(LEDGER))
    assert ledgers[0] == ledgers[1]
    assert len(ledgers[0]) > len({row[0] for row in ledgers[0]})


def test_a_run_for_an_earlier_as_of_leaves_the_ledger(nights: Nights) -> None:
    nights.run(night(9))
    ledger = nights.rows(LEDGER)
    assert nights.metadata["segment_membership"]["written"]
    stood, asked = nights.active_model, nights.registry
    nights.set("outliers", factor=1.55)
    nights.run(night(4))
    assert (nights.active_model, nights.registry) == (stood, asked), "no other settings make it fit"
    with pytest.raises(dg.Failure, match="and segment_membership goes to"):
        nights.run(night(4), refit=True)
    assert nights.rows(LEDGER) == ledger
    assert not nights.metadata["segment_membership"]["written"]
    assert nights.rows("select distinct as_of from customer_segments") == [(night(4),)], "all else is derived"


def test_a_person_may_have_taken_back_what_the_ledger_tells_beyond_a_run(opened: Open) -> None:
    """A line dated ahead was let through: from then on every run would be for an earlier moment."""
    mended, never = opened(), opened()
    mended.run(night(9))
    for nights in (mended, never):
        nights.run(night(4), accept_change=True)
        nights.run(night(16))
    assert mended.rows(LEDGER) == never.rows(LEDGER)


def test_at_any_moment_the_ledger_gives_what_was_published_then(nights: Nights) -> None:
    published = {FIRST: nights.segments}
    for number in SEEN:
        lived(nights, number)
        published[night(number)] = nights.segments
    for moment, segments in published.items():
        for later in (timedelta(), timedelta(hours=23)):
            found = nights.rows(
                "select customer_id, segment_key from segment_membership"
                " where valid_from <= ? and (valid_to > ? or valid_to is null)",
                moment + later,
                moment + later,
            )
            assert len(found) == len(segments)
            assert dict(found) == segments


def changes(nights: Nights, as_of: datetime) -> dict[str, tuple[Any, ...]]:
    rows = nights.rows(
        "select customer_id, from_segment, to_segment, reason from segment_changes where as_of = ?", as_of
    )
    return {who: tuple(change) for who, *change in rows}


def test_a_change_says_who_is_new_who_moved_and_who_is_gone(nights: Nights) -> None:
    first = nights.segments
    assert changes(nights, FIRST) == {who: (None, key, "new") for who, key in first.items()}
    nights.add_lines([line(invoice="999999", at=f"{FIRST + timedelta(hours=9)}", customer="99999")])
    nights.run(
        night(1),
        features=f"select * from ({between(nights, 'nurture', 'retain', 1.0)}) where customer_id <> '10001'",
    )
    found = changes(nights, night(1))
    assert found["99999"] == (None, nights.segments["99999"], "new")
    assert found["10001"] == (first["10001"], None, "removed")
    assert found[WHO] == (first[WHO], "retain", "behaviour")
    nights.run(night(2))
    assert changes(nights, night(2))["10001"] == (None, nights.segments["10001"], "new"), "it is back"


def test_a_night_of_promotion_tells_what_the_model_did_from_what_customers_did(opened: Open) -> None:
    """The same night is lived twice, with the new model and without it: what is the same without it, it did."""
    nights, without = opened(), opened()
    before = nights.segments
    nights.set("model", n_clusters=3)
    without.run(night(9))
    nights.run(night(9), accept_change=True)
    known = before.keys()
    expected = {
        who: "model" if without.segments[who] == before[who] else "behaviour"
        for who in known
        if nights.segments[who] != before[who]
    }
    found = {who: reason for who, (*_, reason) in changes(nights, night(9)).items() if who in known}
    assert {*found.values()} == {"model", "behaviour"}
    assert found == expected


def test_what_the_model_did_is_told_although_the_run_that_changed_it_never_wrote_the_ledger(opened: Open) -> None:
    """The refit's run ends before the ledger; the next night writes it, as if the refit had been its own."""
    broken = opened()
    broken.set("model", n_clusters=3)
    broken.run(night(9), accept_change=True, until="customer_segments")
    broken.run(night(10))
    assert {"new", "model", "behaviour"} == {reason for (*_, reason) in changes(broken, night(10)).values()}
    without = opened()
    without.run(night(10))
    before = dict(without.rows("select customer_id, previous_segments.segment_key from previous_segments"))
    for who, (start, _, reason) in changes(broken, night(10)).items():
        assert reason == ("new" if start is None else "model" if without.segments[who] == before[who] else "behaviour")
