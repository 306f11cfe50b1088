"""Each column of a table leads back to the columns that it is derived from."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import dagster as dg
import duckdb
import pytest

from segmentation_pipeline.config.sections import Privacy
from segmentation_pipeline.orchestration.sql_assets import write_tables
from segmentation_pipeline.tables.catalog import contracts, has_select
from segmentation_pipeline.warehouse import column_lineage as lineage
from segmentation_pipeline.warehouse.column_lineage import ColumnSource, lineage_of_tables
from segmentation_pipeline.warehouse.database import Warehouse
from segmentation_pipeline.warehouse.table_write import TableWrite
from segmentation_pipeline_tests.scenarios import OpenDatabase

MONETARY, FREQUENCY = ("rfm_features", "monetary"), ("rfm_features", "frequency")
CUSTOMER, RECENCY = ("rfm_features", "customer_id"), ("rfm_features", "recency")


@pytest.mark.parametrize(
    ("select", "sources"),
    [
        pytest.param("select monetary + frequency from rfm_features", [FREQUENCY, MONETARY], id="expression"),
        pytest.param("select 1 from rfm_features where recency > 1", [], id="filter"),
        pytest.param("select count(*) from rfm_features group by recency", [], id="count of rows"),
        pytest.param(
            "select case when recency > 9 then monetary end from rfm_features", [MONETARY, RECENCY], id="condition"
        ),
        pytest.param(
            "select lag(monetary) over (partition by customer_id order by recency) from rfm_features",
            [CUSTOMER, MONETARY, RECENCY],
            id="window",
        ),
        pytest.param(
            "select lag(monetary) over w from rfm_features window w as (order by recency)",
            [MONETARY, RECENCY],
            id="named window",
        ),
        pytest.param(
            "select sum(monetary) filter (where recency > 1) from rfm_features",
            [MONETARY, RECENCY],
            id="aggregate filter",
        ),
        pytest.param(
            "select monetary from rfm_features union all select frequency from rfm_features",
            [FREQUENCY, MONETARY],
            id="union",
        ),
        pytest.param("with a as (select * from rfm_features) select monetary from a", [MONETARY], id="star"),
        pytest.param(
            "with rfm_features as (select frequency as monetary from rfm_features) select monetary from rfm_features",
            [FREQUENCY],
            id="CTE named like the table that it reads",
        ),
        pytest.param(
            "with a as (select * replace (frequency as monetary) from rfm_features) select monetary from a",
            [FREQUENCY],
            id="star with a replaced column",
        ),
        pytest.param(
            "select customer_id from rfm_features inner join rfm_scores using (customer_id)", [CUSTOMER], id="using"
        ),
        pytest.param("select (select max(monetary) from rfm_features)", [MONETARY], id="scalar subquery"),
        pytest.param(
            "select (select max(threshold) from rfm_thresholds where threshold < features.monetary) from rfm_features"
            " as features",
            [("rfm_thresholds", "threshold")],
            id="correlated subquery",
        ),
        pytest.param(
            "select x from rfm_features unpivot (x for feature in (monetary, frequency))",
            [FREQUENCY, MONETARY],
            id="values of an unpivot",
        ),
        pytest.param(
            "select feature from rfm_features unpivot (x for feature in (monetary, frequency))",
            [],
            id="names of an unpivot",
        ),
        pytest.param(
            "select len([x for x in [monetary, frequency] if x > recency]) from rfm_features",
            [FREQUENCY, MONETARY, RECENCY],
            id="list comprehension",
        ),
        pytest.param("select monetary + 1 as a, a * 2 as b from rfm_features", [MONETARY], id="alias of a neighbour"),
        pytest.param("select x from range(3) as numbers(x)", [], id="table function"),
        pytest.param("select scaled(monetary, 'log', null, 0, 1) from rfm_features", [MONETARY], id="macro"),
    ],
)
def test_a_column_is_derived_from_what_its_expression_names(select: str, sources: list[tuple[str, str]]) -> None:
    *_, found = lineage.column_lineage(select).values()
    assert sorted(found) == sorted(sources)


@pytest.mark.parametrize(
    ("table", "column", "sources"),
    [
        ("clean_transactions", "is_cancellation", "raw_transactions: invoice, amount"),
        ("rejected_transactions", "rule", ""),
        ("raw_transactions", "amount", ""),
        ("customer_totals", "country", "invoice_totals: country"),
        ("rfm_thresholds", "threshold", "rfm_features: monetary, frequency, recency"),
        ("kmeans_segments", "cluster", "nearest_centroids: cluster"),
        ("segment_profiles", "median_monetary", "customer_segments: monetary"),
        ("kmeans_scaler", "transform", "segmentation_models: transform"),
        ("segment_membership", "valid_from", "customer_segments: as_of; segment_membership: valid_from"),
        ("segment_changes", "as_of", "segment_membership: valid_from, valid_to; erased_customers: as_of"),
    ],
)
def test_columns_of_the_tables_have_these_sources(tmp_path: Path, table: str, column: str, sources: str) -> None:
    expected = {
        (name, source)
        for part in filter(None, sources.split("; "))
        for name, columns in [part.split(": ")]
        for source in columns.split(", ")
    }
    assert set(lineage_of_tables(tmp_path / "lineage.json")[table][column]) == expected


def test_lineage_has_the_columns_of_each_contract(tmp_path: Path) -> None:
    tables = lineage_of_tables(tmp_path / "lineage.json")
    columns = {table: [column.name for column in contract.columns] for table, contract in contracts().items()}
    assert {table: list(found) for table, found in tables.items()} == {
        table: names for table, names in columns.items() if has_select(table)
    }
    assert all(
        source.column in columns[source.table] for found in tables.values() for _ in found for source in found[_]
    )


def materialised_lineage(table: str) -> dg.TableColumnLineage:
    """Return the lineage in the metadata of a table's materialization."""
    database = Warehouse(duckdb.connect())
    columns = ", ".join(f"cast(null as {column.type}) as {column.name}" for column in contracts()[table].columns)
    writes = [TableWrite(table, f"select {columns} where false")]
    retailer: Any = type(
        "AnyRetailer", (), {"settings": type("AnySettings", (), {"sql_values": {}, "privacy": Privacy()})}
    )
    contract = contracts()[table].model_copy(update={"may_be_empty": True})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TableWrite, "contract", contract)
        *_, result = write_tables(retailer, cast(Any, OpenDatabase(database)), writes)
    assert isinstance(result, dg.MaterializeResult)
    found = (result.metadata or {})["dagster/column_lineage"]
    assert isinstance(found, dg.TableColumnLineage)
    return found


def test_monetary_of_customer_segments_leads_to_amount_of_raw_transactions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGMENTATION_DATA", str(tmp_path))
    path, steps = ("customer_segments", "monetary"), []
    while path[0] != "raw_transactions":
        deps = materialised_lineage(path[0]).deps_by_column[path[1]]
        [dep] = [dep for dep in deps if dep.column_name in ("monetary", "amount")]
        path = (dep.asset_key.to_user_string(), dep.column_name)
        steps.append(path)
    assert steps == [
        ("rfm_features", "monetary"),
        ("customer_totals", "monetary"),
        ("invoice_totals", "amount"),
        ("clean_transactions", "amount"),
        ("raw_transactions", "amount"),
    ]


def test_a_table_is_no_source_of_itself_in_the_metadata(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGMENTATION_DATA", str(tmp_path))
    deps = materialised_lineage("segment_membership").deps_by_column["valid_from"]
    assert deps == [dg.TableColumnDep(dg.AssetKey("customer_segments"), "as_of")]


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows by one whenever the lineage is computed."""
    calls: list[int] = []

    def analysed() -> dict[str, dict[str, tuple[ColumnSource, ...]]]:
        calls.append(1)
        return {"rfm_scores": {"customer_id": (ColumnSource("rfm_features", "customer_id"),)}}

    monkeypatch.setattr(lineage, "_analysed", analysed)
    monkeypatch.setattr(lineage, "_IN_MEMORY", {})
    return calls


def test_lineage_is_read_from_the_cache_while_selects_are_unchanged(
    tmp_path: Path, computed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = lineage_of_tables(tmp_path / "data" / "lineage.json")
    # As in another process.
    monkeypatch.setattr(lineage, "_IN_MEMORY", {})
    assert lineage_of_tables(tmp_path / "data" / "lineage.json") == first
    assert len(computed) == 1


def test_a_nightly_run_does_not_import_sqlglot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing it takes longer than everything else that lineage needs."""
    file = tmp_path / "lineage.json"
    monkeypatch.setattr(lineage, "_IN_MEMORY", {})
    lineage_of_tables(file)
    code = (
        "import sys; from pathlib import Path; from segmentation_pipeline.warehouse.column_lineage import *;"
        " assert lineage_of_tables(Path(sys.argv[1]))['rfm_scores']; assert 'sqlglot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(file)], check=True)


@pytest.mark.parametrize("content", ["", "[]", "null", '{"digest": "of other SELECTs", "tables": {}}', "\x00"])
def test_a_cache_that_is_old_or_damaged_is_replaced(tmp_path: Path, computed: list[int], content: str) -> None:
    file = tmp_path / "lineage.json"
    file.write_text(content, "utf-8")
    assert "rfm_scores" in lineage_of_tables(file)
    assert json.loads(file.read_text("utf-8"))["tables"] != {}
    assert len(computed) == 1


def test_lineage_needs_no_cache(tmp_path: Path, computed: list[int]) -> None:
    (tmp_path / "file").touch()
    assert "rfm_scores" in lineage_of_tables(tmp_path / "file" / "lineage.json")


@pytest.mark.parametrize(
    "select",
    [
        "select from",
        "select customer_id from rfm_features union all by name select customer_id from rfm_scores",
        "select a from (values (1)) as v(a)",
        "pivot rfm_features on country using count(*)",
    ],
)
def test_a_select_whose_lineage_is_not_known_fails_no_run(monkeypatch: pytest.MonkeyPatch, select: str) -> None:
    monkeypatch.setattr(lineage, "select_of", lambda table: select if table == "rfm_scores" else "select 1 as x")
    assert "rfm_thresholds" in lineage._analysed()


def test_a_select_that_sqlglot_does_not_read_has_no_lineage(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lineage, "select_of", lambda table: "select from" if table == "rfm_scores" else "select 1 as x")
    assert "rfm_scores" not in lineage._analysed()
    assert "rfm_scores has no column lineage" in caplog.text
