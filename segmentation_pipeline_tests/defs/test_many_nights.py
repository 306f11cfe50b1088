"""Many nights: the working database does not grow, and daily files give the tables of all files at once."""

from pathlib import Path

import pytest

from segmentation_pipeline_tests.programs import many_nights


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restore the variables that the program sets."""
    for name in ("SEGMENTATION_RETAILER", "SEGMENTATION_DATA"):
        monkeypatch.setenv(name, "set by the program")


def test_the_working_database_does_not_grow_on_the_same_files(tmp_path: Path) -> None:
    """Each night replaces one of two files. The size alternates, because rows are written before old ones go."""
    measured = many_nights.sizes(4, tmp_path)
    assert many_nights.growth(measured) <= many_nights.GROWTH, measured


@pytest.mark.skipif(not many_nights.DAYS.is_dir(), reason=f"the real data is not at {many_nights.DAYS}")
def test_daily_files_give_the_tables_of_all_at_once(tmp_path: Path) -> None:
    """The files arrive in random order; some arrive again, and one changes and changes back."""
    totals = many_nights.single_nights(5, tmp_path)
    assert totals["errors"] == []
    assert (totals["days"], totals["nights"]) == (5, 8), "5 files, 1 unchanged file, 2 changes"
