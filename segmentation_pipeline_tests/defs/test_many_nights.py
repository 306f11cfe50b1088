"""Night after night: the database grows no rubbish, and the days of a year end in the tables of all of them at once."""

from pathlib import Path

import pytest

from segmentation_pipeline_tests.programs import many_nights


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SEGMENTATION_RETAILER", "SEGMENTATION_DATA"):
        monkeypatch.setenv(name, "set by the nights, and set back afterwards")


def test_the_working_database_does_not_grow_over_nights_on_the_same_files(tmp_path: Path) -> None:
    """Its size alternates, since a table is written before the old one goes; it must not creep."""
    measured = many_nights.sizes(6, tmp_path)
    assert many_nights.growth(measured) <= many_nights.GROWTH, measured


@pytest.mark.skipif(not many_nights.DAYS.is_dir(), reason=f"the real data is not at {many_nights.DAYS}")
def test_days_one_night_at_a_time_cost_their_bytes_and_end_in_the_tables_of_all_at_once(tmp_path: Path) -> None:
    """In any order, some again, and one that changes and changes back."""
    figures = many_nights.single_nights(8, tmp_path)
    assert figures["faults"] == []
    assert (figures["days"], figures["nights"]) == (8, 11), "8 of them, 1 that brings nothing, 2 that bring a change"
