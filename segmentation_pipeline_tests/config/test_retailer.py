"""What follows from several settings: the as-of date, digests, and values for SQL."""

from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from segmentation_pipeline.config.loading import load
from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.model import thresholds
from segmentation_pipeline_tests.config.minimal import MINIMAL, write
from segmentation_pipeline_tests.scenarios import retailer_settings


@pytest.mark.parametrize(
    ("toml", "as_of", "cutoff"),
    [
        ('"last_transaction"', None, None),
        ('"end_of_day"', None, None),
        ('"2024-02-29"', "2024-03-01 00:00:00", "2024-03-01 00:00:00"),
        ("2024-02-29", "2024-03-01 00:00:00", "2024-03-01 00:00:00"),
        ('"2024-02-29 00:00:00"', "2024-02-29 00:00:00", "2024-02-29 00:00:00.000001"),
        ("2024-02-29 18:30:00", "2024-02-29 18:30:00", "2024-02-29 18:30:00.000001"),
        ('"2024-02-29T18:30"', "2024-02-29 18:30:00", "2024-02-29 18:30:00.000001"),
    ],
)
def test_date_includes_its_day_and_time_itself(
    tmp_path: Path, toml: str, as_of: str | None, cutoff: str | None
) -> None:
    settings = load(str(write(tmp_path, f"{MINIMAL}\n[rfm]\nas_of = {toml}\n")))
    assert settings.as_of == (as_of and datetime.fromisoformat(as_of))
    assert settings.transaction_cutoff == (cutoff and datetime.fromisoformat(cutoff))


@pytest.mark.parametrize(
    ("scheduled_at", "midnight"),
    [
        ("2024-03-01 02:00:00", "2024-03-01 00:00:00"),
        ("2024-03-01 00:00:00", "2024-03-01 00:00:00"),
        ("2024-02-29 23:59:59", "2024-02-29 00:00:00"),
    ],
)
def test_schedule_is_the_midnight_before_the_scheduled_time(tmp_path: Path, scheduled_at: str, midnight: str) -> None:
    settings = load(str(write(tmp_path, f'{MINIMAL}\n[rfm]\nas_of = "schedule"\n')))
    with pytest.raises(ValueError, match="needs the scheduled time of a run"):
        _ = settings.as_of
    of_a_run = settings.for_run(datetime.fromisoformat(scheduled_at))
    assert str(of_a_run.as_of) == str(of_a_run.transaction_cutoff) == midnight
    assert load(str(write(tmp_path, MINIMAL))).for_run(datetime.fromisoformat(scheduled_at)).as_of is None


AFFECTS_THE_MODEL: list[dict[str, Any]] = [
    {"columns": {"country": "Land"}},
    {"cleaning": {"refunds": "ignore"}},
    {"cleaning": {"rules": []}},
    {"cleaning": {"sources_overlap": True}},
    {"rfm": {"look_back_days": 90}},
    {"outliers": {"factor": 3.0}},
    {"outliers": {"features": ["monetary"]}},
    {"model": {"n_clusters": 5}},
    {"model": {"transform": "log"}},
]
DOES_NOT_AFFECT_THE_MODEL: list[dict[str, Any]] = [
    {"rfm": {"as_of": "2024-03-01"}},
    {"rfm": {"as_of": "schedule"}},
    {"rfm": {"lapsing_factor": 9}},
    {"source": {"path": "elsewhere"}},
    {"source": {"delimiter": ";"}},
    {"membership": {"control_share": 0.5}},
    {"release": {"keep": 3}},
    {"checks": {"min_customers": 7}},
    {"title": "Other"},
]


def with_settings(settings: dict[str, Any]) -> Retailer:
    changed = retailer_settings(Path("source"))
    for name, value in settings.items():
        changed[name] = {**changed.get(name, {}), **value} if isinstance(value, dict) else value
    return Retailer.model_validate(changed)


@pytest.mark.parametrize("settings", [*AFFECTS_THE_MODEL, *DOES_NOT_AFFECT_THE_MODEL], ids=str)
def test_digests_change_with_the_settings_they_cover(settings: dict[str, Any]) -> None:
    """The history depends on `[rfm]` alone: `history_months` compares the model and the lines itself."""
    before, after = with_settings({}), with_settings(settings)
    assert after.digest() != before.digest()
    assert (after.model_digest != before.model_digest) == (settings in AFFECTS_THE_MODEL)
    assert (after.history_digest != before.history_digest) == (settings == {"rfm": {"look_back_days": 90}})


def test_model_digest_changes_with_the_constants_of_the_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = with_settings({})
    before = (settings.model_digest, settings.reading_digest, settings.history_digest)
    monkeypatch.setattr(thresholds, "SEARCH", replace(thresholds.SEARCH, tolerance=0.2))
    after = (settings.model_digest, settings.reading_digest, settings.history_digest)
    assert [old != new for old, new in zip(before, after, strict=True)] == [True, False, False]


@pytest.mark.parametrize(
    ("settings", "changes"),
    [
        ({"source": {"delimiter": ";"}}, True),
        ({"columns": {"country": "Land"}}, True),
        ({"privacy": {"drop": ["description"]}}, True),
        ({"source": {"path": "elsewhere"}}, False),
        ({"source": {"max_unpacked_gb": 1}}, False),
        ({"privacy": {"withhold": ["country"]}}, False),
        ({"cleaning": {"rules": []}}, False),
    ],
    ids=str,
)
def test_files_are_read_again_when_their_lines_would_differ(settings: dict[str, Any], changes: bool) -> None:
    assert (with_settings(settings).reading_digest != with_settings({}).reading_digest) == changes


def test_an_expected_share_fits_no_model_anew() -> None:
    """It changes no table. Retailer files of earlier versions keep their models."""
    settings = retailer_settings(Path("source"))
    before = Retailer.model_validate(settings)
    settings["cleaning"]["expected_share"] = {"missing_customer": 0.2}
    settings["cleaning"]["rules"][0]["expected_share"] = 0.3
    after = Retailer.model_validate(settings)
    assert [after.cleaning.expected_share_of(rule) for rule in ("missing_customer", "invalid_invoice")] == [0.2, 0.3]
    assert (after.model_digest, after.reading_digest) == (before.model_digest, before.reading_digest)
    assert "expected_share" not in after.model_dump_json(include={"cleaning"})


@pytest.mark.parametrize(("share", "below"), [(0, "00000000"), (0.1, "1999999a"), (0.5, "80000000")])
def test_control_share_is_a_share_of_all_hashes(share: float, below: str) -> None:
    """A tenth of 16^8 is 429,496,729.6: in hexadecimal, rounded, 1999999a."""
    assert with_settings({"membership": {"control_share": share}}).sql_values["control_below"] == below
