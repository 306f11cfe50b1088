"""Tests of the choice between the nightly job and the refit job."""

import shutil
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import duckdb
import pytest

from segmentation_pipeline.config.paths import RetailerFolders
from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.errors import RetailerError
from segmentation_pipeline.orchestration.job_selection import NIGHTLY_JOB, REFIT_JOB, job_for, why_model_is_due
from segmentation_pipeline.orchestration.resources import RetailerConfig
from segmentation_pipeline.segments import backtest, customer_value
from segmentation_pipeline.tables.catalog import contracts
from segmentation_pipeline.warehouse.database import Warehouse
from segmentation_pipeline_tests.scenarios import Nights, four_behaviours

AS_OF = datetime.fromisoformat("2024-02-15")


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Retailer]:
    """Return a working database after a run that fitted a model, and the settings of that run."""
    path = tmp_path_factory.mktemp("fitted") / "work.duckdb"
    nights = Nights(four_behaviours(120), database=path)
    nights.run(AS_OF)
    for table in (*backtest.TABLES, *customer_value.TABLES):
        if not nights.warehouse.has(table):
            nights.connection.execute(contracts()[table].ddl(constraints=False))
    nights.connection.execute("insert into customer_value_model by name select 'm' as model_id, 'too few' as reason")
    nights.connection.close()
    return path, nights.settings


@pytest.fixture
def folders(fitted: tuple[Path, Retailer], tmp_path: Path) -> RetailerFolders:
    folders = RetailerFolders(tmp_path, "corner_shop")
    folders.root.mkdir()
    shutil.copyfile(fitted[0], folders.working_database)
    return folders


@pytest.fixture
def settings(fitted: tuple[Path, Retailer]) -> Retailer:
    return fitted[1]


@pytest.fixture
def database(folders: RetailerFolders) -> Iterator[Warehouse]:
    with duckdb.connect(str(folders.working_database)) as connection:
        yield Warehouse(connection)


def with_rfm(settings: Retailer, **values: object) -> Retailer:
    return settings.model_copy(update={"rfm": settings.rfm.model_copy(update=values)})


def test_first_run_fits_a_model(settings: Retailer, tmp_path: Path) -> None:
    folders = RetailerFolders(tmp_path, "another_shop")
    assert why_model_is_due(settings, folders) == "no model is active yet"
    assert job_for(settings, folders) == REFIT_JOB


def test_run_after_a_killed_first_run_fits_a_model(settings: Retailer, tmp_path: Path) -> None:
    folders = RetailerFolders(tmp_path, "another_shop")
    folders.root.mkdir()
    duckdb.connect(str(folders.working_database)).close()
    assert why_model_is_due(settings, folders) == "no model is active yet"


def test_later_run_with_the_same_settings_fits_nothing(settings: Retailer, folders: RetailerFolders) -> None:
    later = with_rfm(settings, as_of=AS_OF + timedelta(days=1))
    assert why_model_is_due(later, folders) == ""
    assert job_for(later, folders) == NIGHTLY_JOB


def test_changed_settings_make_a_fit_due(settings: Retailer, folders: RetailerFolders) -> None:
    assert why_model_is_due(with_rfm(settings, look_back_days=90), folders) == "the settings changed since the last fit"


def test_run_after_a_restore_derives_the_model_tables(
    settings: Retailer, folders: RetailerFolders, database: Warehouse
) -> None:
    database.connection.execute("drop table kmeans_scaler")
    database.connection.close()
    expected = "the working database has no table kmeans_scaler, as after a restore"
    assert why_model_is_due(settings, folders) == expected


def test_another_catalogue_of_segments_is_written_by_the_next_run(
    settings: Retailer, folders: RetailerFolders, database: Warehouse
) -> None:
    database.connection.execute("delete from segments where segment_key = 'no_spend'")
    database.connection.close()
    assert why_model_is_due(settings, folders) == "the table segments is of another version of this package"


def test_customer_value_is_fitted_where_its_table_was_created_empty(
    settings: Retailer, folders: RetailerFolders, database: Warehouse
) -> None:
    database.connection.execute("delete from customer_value_model")
    database.connection.close()
    assert why_model_is_due(settings, folders) == "customer value has not been fitted yet"


def test_run_for_an_earlier_date_fits_nothing(settings: Retailer, folders: RetailerFolders) -> None:
    earlier = with_rfm(settings, look_back_days=90, as_of=AS_OF - timedelta(days=1))
    assert why_model_is_due(earlier, folders) == ""


def test_approved_model_is_due(settings: Retailer, folders: RetailerFolders, database: Warehouse) -> None:
    database.connection.execute("update segmentation_models set status = 'approved'")
    database.connection.execute(
        "insert into segmentation_models by name select * replace ('other' as model_id, 2 as number, 'active' as"
        " status) from segmentation_models"
    )
    [(model_id,)] = database.connection.execute(
        "select model_id from segmentation_models where status = 'approved'"
    ).fetchall()
    database.connection.close()
    assert why_model_is_due(settings, folders) == f"model {model_id} is approved and not active yet"


@pytest.mark.usefixtures("database")
def test_database_in_use_by_another_writer_makes_nothing_due(settings: Retailer, folders: RetailerFolders) -> None:
    """One process may open a database once for writing, here as a writer in another process would."""
    assert why_model_is_due(with_rfm(settings, look_back_days=90), folders) == ""


@pytest.mark.parametrize("tick", ["tonight", "2024-03-21T02:00:00"])
def test_scheduled_time_without_offset_is_a_message(tick: str) -> None:
    with pytest.raises(RetailerError, match=r"resources\.retailer\.config\.tick: '.*' is not a time in ISO 8601"):
        _ = RetailerConfig(file="sample", tick=tick).settings
