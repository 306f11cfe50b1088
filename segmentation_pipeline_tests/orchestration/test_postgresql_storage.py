"""Dagster's storage in a real PostgreSQL server, as `deploy/dagster.yaml` configures it."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from shutil import copyfile

import dagster as dg
import pytest

from segmentation_pipeline.orchestration import run_liveness
from segmentation_pipeline.orchestration.instance import prepare
from segmentation_pipeline.orchestration.job_selection import NIGHTLY_JOB, REFIT_JOB
from segmentation_pipeline.orchestration.schedules import NIGHT_TAG
from segmentation_pipeline_tests.postgresql import BINARIES, DATABASE, OWNER, OWNER_PASSWORD, running_server
from segmentation_pipeline_tests.scenarios import assets_up_to, definitions
from segmentation_pipeline_tests.shops import Shop

pytestmark = pytest.mark.skipif(
    not (BINARIES / "initdb").exists(), reason="PostgreSQL is not installed (Debian: apt-get install postgresql)"
)
SETTINGS = Path(__file__).parents[2] / "deploy" / "dagster.yaml"


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dg.DagsterInstance]:
    """The instance of a DAGSTER_HOME with the deployed settings, as commands open it."""
    home = tmp_path_factory.mktemp("home")
    copyfile(SETTINGS, home / "dagster.yaml")
    with running_server() as server, pytest.MonkeyPatch.context() as patched:
        values = {"HOST": "127.0.0.1", "PORT": server.port, "DB": DATABASE, "USER": OWNER, "PASSWORD": OWNER_PASSWORD}
        for name, value in values.items():
            patched.setenv(f"DAGSTER_POSTGRES_{name}", str(value))
        patched.setenv("DAGSTER_HOME", str(home))
        assert prepare() == home
        with dg.DagsterInstance.get() as instance:
            yield instance
        # Nothing was written to SQLite.
        assert [*home.rglob("*.db")] == []


def test_a_run_and_its_events_are_in_postgresql(stored: dg.DagsterInstance, finished_shop: Shop) -> None:
    result = finished_shop.run(stored, assets=assets_up_to("raw_transactions"))
    assert result.success
    run = stored.get_run_by_id(result.run_id)
    assert run is not None
    assert run.status == dg.DagsterRunStatus.SUCCESS
    [materialized] = stored.fetch_materializations(dg.AssetKey("raw_transactions"), limit=1).records
    assert materialized.run_id == result.run_id


def test_a_dead_run_is_marked_as_failed(stored: dg.DagsterInstance, tmp_path: Path) -> None:
    """Heartbeats are files, so they do not depend on the storage; the runs that they belong to are in it."""
    job = dg.GraphDefinition(name="nothing").to_job()
    alive, dead = (stored.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED).run_id for _ in range(2))
    (tmp_path / dead).touch()
    with run_liveness.heartbeat(tmp_path, alive):
        assert run_liveness.fail_dead_runs(stored, tmp_path) == [dead]
    statuses = {run.run_id: run.status for run in stored.get_runs() if run.job_name == "nothing"}
    assert statuses == {alive: dg.DagsterRunStatus.STARTED, dead: dg.DagsterRunStatus.FAILURE}


def test_schedules_find_the_run_of_the_night_by_its_tags(stored: dg.DagsterInstance, finished_shop: Shop) -> None:
    night = datetime.fromisoformat("2024-11-01T02:05:00+00:00")
    context = dg.build_schedule_context(instance=stored, scheduled_execution_time=night)
    schedule = definitions().resolve_schedule_def("nightly")
    [request] = schedule.evaluate_tick(context).run_requests or []
    assert schedule.job_name == NIGHTLY_JOB
    tags = {NIGHT_TAG: request.tags[NIGHT_TAG]}
    other = stored.create_run_for_job(dg.GraphDefinition(name=REFIT_JOB).to_job(), tags=tags)
    skipped = schedule.evaluate_tick(context)
    assert not skipped.run_requests
    assert skipped.skip_message == f"run {other.run_id} is the run of this night"
