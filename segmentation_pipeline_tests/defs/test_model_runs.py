"""When a model is fitted: in five cases, which the event log shows, and in no other run.

Each test starts from a finished shop. What the promotion of a fitted model decides is tested with `segments`.
"""

from typing import Any

import dagster as dg
import pytest
from typer.testing import CliRunner

from segmentation_pipeline.cli.app import app
from segmentation_pipeline.config.loading import load_settings
from segmentation_pipeline.orchestration.job_selection import MODEL_GROUP, NIGHTLY_JOB, REFIT_JOB, job_for
from segmentation_pipeline_tests.scenarios import assets_up_to, definitions
from segmentation_pipeline_tests.shops import SECOND_NIGHT, Shop

GRAPH = definitions().resolve_asset_graph()
MODEL_ASSETS = {key for key in GRAPH.get_all_asset_keys() if GRAPH.get(key).group_name == MODEL_GROUP}
UNREQUESTED = {"ops": {"segmentation_model": {"config": {"refit": False}}}}
MODELS = "select model_id from segmentation_models order by number"


def up_to_the_model() -> list[str]:
    return assets_up_to(*(key.to_user_string() for key in MODEL_ASSETS))


def materialised(result: dg.ExecuteInProcessResult) -> set[dg.AssetKey]:
    return {event.asset_key for event in result.get_asset_materialization_events() if event.asset_key}


def last_fit(instance: dg.DagsterInstance) -> set[str]:
    """Return the runs that the event log names as the last to materialise the model group."""
    events = [instance.get_latest_materialization_event(key) for key in MODEL_ASSETS]
    return {event.run_id for event in events if event is not None}


def derived_anew(result: dg.ExecuteInProcessResult) -> set[str]:
    """Return the tables of which a run derived rows."""
    found = {
        event.asset_key.to_user_string(): str(event.materialization.metadata["derived"].value)
        for event in result.get_asset_materialization_events()
        if event.asset_key and "derived" in event.materialization.metadata
    }
    return {table for table, reason in found.items() if not reason.startswith("no rows")}


def due_job(shop: Shop) -> str:
    return job_for(load_settings(), shop.folders)


def test_the_first_run_fits_a_model(tmp_path_factory: pytest.TempPathFactory, instance: dg.DagsterInstance) -> None:
    """Nothing requests a fit; the rest of the run is in the shops from which all other tests start."""
    shop = Shop.build(tmp_path_factory.mktemp("first"))
    result = shop.run(instance, config=UNREQUESTED, assets=up_to_the_model())
    assert result.success
    assert materialised(result) >= MODEL_ASSETS
    assert last_fit(instance) == {result.run_id}


def test_the_weekly_job_fits_and_the_next_night_changes_nothing(
    finished_shop: Shop, instance: dg.DagsterInstance
) -> None:
    """The nightly job materialises no asset of the model group, and each table and file keeps its content.

    The membership history is written in each run, and tables that read it are derived only where it has changed.
    """
    fit = finished_shop.run(instance, job=REFIT_JOB, as_of=SECOND_NIGHT)
    assert fit.success
    assert last_fit(instance) == {fit.run_id}
    assert len(finished_shop.rows(MODELS)) == 2
    tables, files = finished_shop.tables, finished_shop.files
    night = finished_shop.run(instance, as_of=SECOND_NIGHT)
    assert (night.success, night.job_def.name) == (True, NIGHTLY_JOB)
    assert derived_anew(night) == {"previous_segments"}
    assert materialised(night) & MODEL_ASSETS == set()
    assert last_fit(instance) == {fit.run_id}, "the event log keeps the date of the fit"
    assert {table for table, rows in finished_shop.tables.items() if rows != tables[table]} == set()
    assert finished_shop.files == files


def test_materialising_the_model_group_by_hand_fits_a_model(finished_shop: Shop, instance: dg.DagsterInstance) -> None:
    finished_shop.execute("update rfm_features set monetary = monetary * 2")
    fences = "select feature, upper_fence from outlier_fences where feature = 'monetary'"
    [(_, before)] = finished_shop.rows(fences)
    result = materialise_model(instance)
    assert result.success
    assert last_fit(instance) == {result.run_id}
    assert finished_shop.rows(fences) == [("monetary", pytest.approx(2 * before))]


def test_changed_settings_of_the_model_fit_a_model(finished_shop: Shop, instance: dg.DagsterInstance) -> None:
    finished_shop.configure(model={"n_clusters": 3}, rfm={"look_back_days": 200})
    assert due_job(finished_shop) == REFIT_JOB
    result = finished_shop.run(instance, config=UNREQUESTED, assets=up_to_the_model(), as_of=SECOND_NIGHT)
    assert (result.success, result.job_def.name) == (True, REFIT_JOB)
    assert last_fit(instance) == {result.run_id}
    assert finished_shop.rows("select n_clusters from segmentation_models order by number") == [(4,), (3,)]
    assert due_job(finished_shop) == NIGHTLY_JOB


@pytest.mark.parametrize(
    ("sections", "fits"),
    [
        ({"model": {"transform": "log"}}, True),
        ({"outliers": {"factor": 3.0}}, True),
        ({"rfm": {"look_back_days": 250}}, True),
        ({"cleaning": {"refunds": "ignore"}}, True),
        ({"rfm": {"look_back_days": 200, "as_of": "2024-10-31"}}, False),
        ({"rfm": {"look_back_days": 200, "lapsing_factor": 3.5}}, False),
        ({"release": {"keep": 3}}, False),
        ({"checks": {"min_days": 1}}, False),
    ],
    ids=str,
)
def test_only_settings_that_the_model_depends_on_fit_it(
    finished_shop: Shop, sections: dict[str, Any], fits: bool
) -> None:
    finished_shop.configure(**{"rfm": {"look_back_days": 200}, **sections})
    assert due_job(finished_shop) == (REFIT_JOB if fits else NIGHTLY_JOB)


def test_a_promoted_model_becomes_active_in_the_next_run(refitted_shop: Shop, instance: dg.DagsterInstance) -> None:
    """A run that activates a model fits no other one."""
    [(retired,), (active,)] = refitted_shop.rows(MODELS)
    assert due_job(refitted_shop) == NIGHTLY_JOB
    assert CliRunner().invoke(app, ["model", "promote", retired]).exit_code == 0
    assert due_job(refitted_shop) == REFIT_JOB
    result = materialise_model(instance, refit=False)
    assert result.success
    assert last_fit(instance) == {result.run_id}
    assert refitted_shop.rows(MODELS) == [(retired,), (active,)]
    assert refitted_shop.rows("select distinct model_id from kmeans_model") == [(retired,)]
    assert due_job(refitted_shop) == NIGHTLY_JOB


def test_tables_of_another_version_are_written_again_without_a_fit(
    finished_shop: Shop, instance: dg.DagsterInstance
) -> None:
    """The tables of the active model derive from the registry."""
    select = "select * from kmeans_scaler order by all"
    before, models = finished_shop.rows(select), finished_shop.rows(MODELS)
    finished_shop.execute("alter table kmeans_scaler rename center to middle", "drop table outlier_fences")
    assert materialise_model(instance, refit=False).success
    assert (finished_shop.rows(select), finished_shop.rows(MODELS)) == (before, models)
    assert finished_shop.rows("select count(*) > 0 from outlier_fences") == [(True,)]


def materialise_model(instance: dg.DagsterInstance, *, refit: bool = True) -> dg.ExecuteInProcessResult:
    """Materialise the model group alone, as a person does in the web interface."""
    job = dg.define_asset_job("model_alone", dg.AssetSelection.groups(MODEL_GROUP))
    return (
        dg.Definitions.merge(definitions(), dg.Definitions(jobs=[job]))
        .resolve_job_def("model_alone")
        .execute_in_process(
            run_config={
                "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
                "ops": {} if refit else {"segmentation_model": {"config": {"refit": False}}},
            },
            instance=instance,
            raise_on_error=False,
        )
    )
