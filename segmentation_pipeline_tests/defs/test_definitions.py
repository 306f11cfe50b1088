"""The rules of the asset graph, its checks and jobs, which hold for every asset and check that is added.

Import rules between packages are held by import-linter, SQL text and complexity by ruff.
"""

import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlglot
import yaml
from sqlglot import exp

import segmentation_pipeline
from segmentation_pipeline.definitions import defs
from segmentation_pipeline.reports.figures import FIGURES
from segmentation_pipeline.segments import backtest, customer_blocks, history, past_customers
from segmentation_pipeline.segments.registry import ACTIVE_MODEL_TABLES
from segmentation_pipeline.tables.catalog import FOLDER, check_select, contracts, has_select, published, select_of
from segmentation_pipeline.warehouse.queries import inline_upstream

PACKAGE = Path(segmentation_pipeline.__file__).parent
PROJECT = PACKAGE.parent
TABLES = sorted(contracts())
MODEL = {
    "segmentation_models",
    "model_features",
    "model_centroids",
    "segments",
    "kmeans_candidates",
    *ACTIVE_MODEL_TABLES,
}
BACKTEST = {"segment_backtest", "backtest_metrics", "backtest_verdict"}
VALUE = {"customer_value_model", "customer_value_calibration", "customer_value_errors"}
# The assets that a Python function writes, with the assets that they depend on; all others derive from a SELECT alone.
PYTHON: dict[str, set[str]] = {
    "ingested_files": set(),
    "erased_customers": set(),
    **{name: {"invoice_totals", "rfm_features", "previous_segments", "inactive_customers"} for name in MODEL},
    **{
        name: {"invoice_totals", "rfm_features", "previous_segments", "rfm_segment_map", "segmentation_models"}
        for name in BACKTEST
    },
    **{
        name: {"invoice_totals", "rfm_features", "previous_segments", *ACTIVE_MODEL_TABLES}
        for name in ("history_months", "segment_history")
    },
    **{name: {"invoice_totals", "rfm_features", "segmentation_models", "kmeans_model"} for name in VALUE},
    "customer_value": {"rfm_features", "customer_value_model"},
    "model_drift": {"customer_segments", "normal_customers", "previous_segments", "model_features"},
    "release": {contract.table for contract in published()},
    "segment_report": {"release"},
}
DERIVED = sorted({*TABLES} - {*PYTHON})
# Tables read as the previous run left them; as dependencies they would be a cycle.
PREVIOUS = {"previous_segments": {"segment_membership"}, "segment_membership": {"segment_membership"}}
# What relations that Python builds at run time are built from.
BUILT_FROM: dict[str, set[str]] = {
    "judged_transactions": {"raw_transactions"},
    "cleaning_rules": set(),
    "read_lines": set(),
    "chosen_customers": {"invoice_totals"},
    "chosen_invoices": {"invoice_totals"},
    "past_customers": {"invoice_totals"},
    "assigned_by_previous_model": {"assigned_segments", "segmentation_models"},
}
WARNINGS = {
    "files_are_readable",
    "no_file_is_missing",
    "feed_is_fresh",
    "rejected_money_is_expected",
    "rejected_share_is_usual",
    "no_file_repeats_another",
    "customer_ids_are_distinct",
    "read_ids_are_distinct",
    "silhouette_above_minimum",
    "number_of_clusters_is_clear",
    "last_model_was_promoted",
    "model_is_up_to_date",
    "no_drift_since_fit",
    "segments_predict_no_worse_than_rules",
    "value_forecast_beats_last_year",
    "report_is_complete",
}

LOADED = defs()
GRAPH = LOADED.resolve_asset_graph()
ASSETS = sorted(key.to_user_string() for key in GRAPH.get_all_asset_keys())
CHECKS = sorted(GRAPH.asset_check_keys, key=lambda key: key.to_user_string())


def asset(name: str) -> Any:
    return GRAPH.get(dg.AssetKey(name))


def parents(name: str) -> set[str]:
    return {key.to_user_string() for key in asset(name).parent_keys}


@cache
def ancestors(name: str) -> frozenset[str]:
    return frozenset(parents(name)).union(*map(ancestors, parents(name)))


def read_by(select: str) -> set[str]:
    """Return the tables that a SELECT reads, found by another parser than the package's."""
    tree = sqlglot.parse_one(select, read="duckdb")
    ctes = {cte.alias for cte in tree.find_all(exp.CTE)}
    # A table function, such as range(), has no name.
    tables = [table for table in tree.find_all(exp.Table) if table.name]
    named = {table.name for table in tables if table.db == "main" or table.name not in ctes}
    return set[str]().union(*(BUILT_FROM.get(name, {name}) for name in named))


# Assets


def test_every_asset_has_description_group_owner_and_kinds() -> None:
    for name in ASSETS:
        node = asset(name)
        assert len(node.description) > 30, name
        assert node.group_name not in (None, "default"), name
        assert node.owners == ["team:segmentation"], name
        assert {"duckdb"} < node.kinds, name
        assert node.code_version or name == "release", name


def test_every_table_shows_its_contract_in_dagster() -> None:
    for contract in contracts().values():
        node = asset(contract.table)
        columns = node.metadata["dagster/column_schema"].columns
        chart = next((figure.title for figure in FIGURES if figure.asset == contract.table), "")
        description, _, rest = node.description.partition("\n\nChart: ")
        assert description == contract.description
        assert rest.startswith(f"*{chart}*, in [Events](/assets/{contract.table}?view=events)") if chart else rest == ""
        assert node.group_name == contract.stage
        assert node.metadata["dagster/table_name"] == contract.table
        assert [(column.name, column.type) for column in columns] == [(c.name, c.type) for c in contract.columns]
        assert all(column.description for column in columns), contract.table
        unique = [column.name for column in columns if column.constraints.unique]
        assert unique == list(contract.key if len(contract.key) == 1 else ())
        nullable = [column.name for column in columns if column.constraints.nullable]
        assert nullable == [column.name for column in contract.columns if column.nullable]


def test_the_assets_are_the_tables_the_release_and_its_report() -> None:
    assert set(ASSETS) == {*TABLES, "release", "segment_report"}


def test_a_derived_asset_is_named_like_its_table_and_file() -> None:
    files = {path.stem for path in FOLDER.glob("*/*.sql")}
    assert files == {*DERIVED} | {name for name in PYTHON if name in TABLES and has_select(name)}
    assert all("sql" in asset(name).kinds for name in DERIVED)
    assert all("sql" not in asset(name).kinds for name in PYTHON)


@pytest.mark.parametrize("name", DERIVED)
def test_a_derived_asset_depends_on_what_its_select_reads(name: str) -> None:
    assert parents(name) == read_by(select_of(name)) - PREVIOUS.get(name, set())


def test_a_python_asset_depends_on_what_it_reads() -> None:
    assert {name: parents(name) for name in PYTHON} == PYTHON


@pytest.mark.parametrize(
    ("name", "select", "replaced"),
    [
        ("segment_history", history._AT_MONTH_END, customer_blocks.AS_OF),
        ("segment_backtest", past_customers.CUSTOMERS, past_customers.INPUTS),
        ("segment_backtest", backtest._CUSTOMERS, backtest._AT_MONTH_END),
        ("segment_membership", "select * from assigned_segments", dict.fromkeys(ACTIVE_MODEL_TABLES, "select 1 as x")),
    ],
)
def test_an_inlined_select_reads_only_ancestors_of_its_asset(name: str, select: str, replaced: dict[str, str]) -> None:
    """Tables that are computed inside the SELECT may read any table that was written before."""
    read = read_by(inline_upstream(select, replaced))
    assert read & {*TABLES}
    assert read <= ancestors(name)


# Checks


@pytest.mark.parametrize("name", TABLES)
def test_every_table_has_a_blocking_contract_check(name: str) -> None:
    assert GRAPH.get(dg.AssetCheckKey(dg.AssetKey(name), "contract")).blocking


def test_every_check_describes_its_rule_in_a_sentence() -> None:
    descriptions = {key.to_user_string(): getattr(GRAPH.get(key), "description", None) or "" for key in CHECKS}
    assert [name for name, text in descriptions.items() if not text.endswith(".")] == []


def test_only_the_warnings_do_not_block() -> None:
    assert {key.name for key in CHECKS if not GRAPH.get(key).blocking} == WARNINGS


def test_bad_data_stops_before_model_membership_history_and_release() -> None:
    gate = {key.name for key in CHECKS if key.asset_key == dg.AssetKey("rfm_features") and GRAPH.get(key).blocking}
    assert {"no_sudden_loss", "as_of_plausible", "minimum_data", "customers_and_money_reconcile"} <= gate
    assert all("rfm_features" in ancestors(name) for name in ("segmentation_models", "segment_membership", "release"))


def test_every_blocking_check_is_upstream_of_the_release() -> None:
    """A check blocks only what is downstream of its asset; those of a write fail the step of the asset itself."""
    of_a_write = {"contract", "columns_unchanged"}
    blocking = {key for key in CHECKS if GRAPH.get(key).blocking and key.name not in of_a_write}
    assert {key.name for key in blocking if key.asset_key.to_user_string() not in ancestors("release")} == set()


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*/checks/*.sql")))
def test_a_sql_check_runs_after_every_table_it_reads(name: str) -> None:
    [key] = [key for key in CHECKS if key.name == name]
    node: Any = GRAPH.get(key)
    waits_for = {parent.to_user_string() for parent in node.parent_entity_keys}
    read, checked = read_by(check_select(name)), key.asset_key.to_user_string()
    assert checked in read
    assert read <= waits_for | {checked} | ancestors(checked)


# Jobs and loading


def test_the_nightly_job_leaves_out_only_the_model_group() -> None:
    selected = {
        name: {key.to_user_string() for key in LOADED.resolve_job_def(name).asset_layer.executable_asset_keys}
        for name in ("nightly_segmentation", "refit_segmentation")
    }
    model = {name for name in ASSETS if asset(name).group_name == "model"}
    assert model == MODEL | BACKTEST | VALUE
    assert selected == {"nightly_segmentation": {*ASSETS} - model, "refit_segmentation": {*ASSETS}}


def test_every_job_runs_in_one_process() -> None:
    jobs = [LOADED.resolve_job_def(name) for name in ("nightly_segmentation", "refit_segmentation")]
    jobs.append(LOADED.resolve_implicit_global_asset_job_def())
    assert {job.executor_def.name for job in jobs} == {"in_process"}


@pytest.mark.parametrize("retailer", ["/no/such/retailer.toml", "~nobody-has-this-name/x", "x" * 300])
def test_definitions_load_without_a_valid_retailer_and_write_nothing(
    data_folder: Path, monkeypatch: pytest.MonkeyPatch, retailer: str
) -> None:
    monkeypatch.setenv("SEGMENTATION_RETAILER", retailer)
    assert {key.to_user_string() for key in defs().resolve_asset_graph().get_all_asset_keys()} == set(ASSETS)
    assert not data_folder.exists()


def test_importing_the_definitions_raises_no_deprecation_warning() -> None:
    """In a process of its own, because Dagster's autoloading hides the warnings of the modules that it imports."""
    modules = sorted(path.relative_to(PROJECT).with_suffix("") for path in (PACKAGE / "defs").rglob("[!_]*.py"))
    imports = "".join(f"import {'.'.join(module.parts)}\n" for module in modules)
    classes = ("DeprecationWarning", "PendingDeprecationWarning", "FutureWarning")
    command = [sys.executable, *(f"-Werror::{name}" for name in classes), "-c", imports]
    done = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, timeout=60, check=False)
    assert len(modules) > 10
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_no_module_imports_a_private_module_of_dagster() -> None:
    private = re.compile(r"^\s*(from|import) dagster\._", flags=re.MULTILINE)
    assert [path for path in PACKAGE.rglob("*.py") if private.search(path.read_text("utf-8"))] == []


def test_workspace_and_project_name_the_same_code_location() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text("utf-8"))["tool"]["dg"]["project"]
    [entry] = yaml.safe_load((PROJECT / "workspace.yaml").read_text("utf-8"))["load_from"]
    assert entry["python_module"]["module_name"] == project["code_location_target_module"]
    assert entry["python_module"]["location_name"] == project["code_location_name"]
    assert project["root_module"] == segmentation_pipeline.__name__
