"""Every blocking check stops a release. What the release checks compare is tested with the other checks."""

import dagster as dg
import pytest

from segmentation_pipeline.definitions import defs
from segmentation_pipeline.orchestration.job_selection import NIGHTLY_JOB, REFIT_JOB
from segmentation_pipeline.tables.catalog import published

DEFINITIONS = defs()
GRAPH = DEFINITIONS.resolve_asset_graph()


def ancestors(asset: dg.AssetKey, selected: set[dg.AssetKey]) -> set[dg.AssetKey]:
    """Return the assets of a job that an asset depends on, directly or through other assets of the job."""
    found = set[dg.AssetKey]()
    remaining = [asset]
    while remaining:
        new = GRAPH.get(remaining.pop()).parent_keys & selected - found
        found |= new
        remaining += new
    return found


@pytest.mark.parametrize("job", [NIGHTLY_JOB, REFIT_JOB])
def test_every_blocking_check_of_a_job_stops_the_release(job: str) -> None:
    """A failed check skips what is downstream of its asset; a failed check of a write fails the step of the write.

    So the checked asset, or one that the same step materialises, must be upstream of the release.
    """
    selected = {*DEFINITIONS.resolve_job_def(job).asset_layer.executable_asset_keys}
    upstream = ancestors(dg.AssetKey("release"), selected)
    stops = {key for asset in upstream for key in GRAPH.get(asset).execution_set_asset_keys} | upstream
    checked = {key.asset_key for key in GRAPH.asset_check_keys if getattr(GRAPH.get(key), "blocking", False)}
    assert checked & selected > {dg.AssetKey("rfm_features"), dg.AssetKey("customer_segments")}
    assert checked & selected - stops == set()


def test_the_release_depends_on_the_published_tables_only() -> None:
    """The blocking checks of the other tables stop a release through these."""
    parents = {key.to_user_string() for key in GRAPH.get(dg.AssetKey("release")).parent_keys}
    assert parents == {contract.table for contract in published()}
