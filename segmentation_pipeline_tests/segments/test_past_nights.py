"""The replay of the nights before a fit: it is what those nights would have published."""

from datetime import datetime, timedelta
from itertools import pairwise

import pytest

from segmentation_pipeline.model.thresholds import HysteresisRules, SearchRules
from segmentation_pipeline.segments.past_customers import read_past
from segmentation_pipeline_tests.scenarios import Nights, constants, four_behaviours

LAST = datetime.fromisoformat("2024-02-20")
MEASURED, BEFORE = 4, 2


def test_replay_keeps_as_many_customers_as_the_nights_themselves() -> None:
    """With hysteresis, and with moves that have been pending for too long, under one model."""
    nights, published = Nights(four_behaviours(300)), list[dict[str, str]]()
    hysteresis = HysteresisRules(margin=0.4, max_pending_days=BEFORE)
    with constants(HYSTERESIS=hysteresis, SEARCH=SearchRules(nights=MEASURED)):
        for day in range(MEASURED + BEFORE, -1, -1):
            nights.run(LAST - timedelta(days=day), until="segment_membership")
            published.append(nights.segments)
        past, active = read_past(nights.warehouse, nights.settings, LAST), nights.registry.active
        assert past is not None
        assert active is not None
        found = past.kept_overnight(active.model)
    kept = [
        sum(before[customer] == after.get(customer) for customer in before) / len(before)
        for before, after in pairwise(published[-MEASURED - 1 :])
    ]
    assert found == pytest.approx(sum(kept) / MEASURED, abs=1e-12)
    assert found < 1
    with constants(HYSTERESIS=HysteresisRules(margin=0, max_pending_days=BEFORE), SEARCH=SearchRules(nights=MEASURED)):
        past = read_past(nights.warehouse, nights.settings, LAST)
        assert past is not None
        assert past.kept_overnight(active.model) != found, "hysteresis decides nothing here"
