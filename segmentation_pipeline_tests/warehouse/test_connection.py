"""Text from retailer files and source files is never executed, and SQL cannot leave the retailer's folders."""

import re
from collections.abc import Iterator
from glob import escape
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import openpyxl
import pytest
import tomli_w

from segmentation_pipeline.definitions import defs
from segmentation_pipeline.ingestion.incremental import TABLES
from segmentation_pipeline.orchestration.resources import WarehouseResource
from segmentation_pipeline.tables.contract import literal
from segmentation_pipeline.warehouse.connection import DEFAULT_MEMORY, connection_to, reading_connection
from segmentation_pipeline_tests.defs.test_automation import failure_message
from segmentation_pipeline_tests.scenarios import HEADER, regular_customers, retailer_settings, write_csv

JOB = defs().resolve_job_def("nightly_segmentation")
ESCAPES = (
    "attach '{out}/evil.duckdb' as evil",
    "attach '{home}/tmp/../../evil.duckdb' as evil",
    "attach '{home}/tmpevil.duckdb' as evil",
    "attach '{out}/their.duckdb' as their (read_only)",
    "copy (select 1) to '{out}/evil.csv'",
    "copy (select 1) to '{home}/releases/../../evil.parquet' (format parquet)",
    "copy (select 1) to '{home}/work.lock'",
    "export database '{out}/evil'",
    "import database '{out}'",
    "select * from read_csv('/etc/passwd')",
    "select * from read_text('/etc/passwd')",
    "select * from read_blob('{out}/their.csv')",
    "select * from read_json('{out}/their.csv')",
    "select * from read_parquet('{out}/their.csv')",
    "select * from sniff_csv('{out}/their.csv')",
    "select * from glob('{out}/*')",
    "select * from '{out}/their.csv'",
    "select * from read_text('{home}/tmp/link/their.csv')",
    "install httpfs",
    "load httpfs",
    "load '{out}/evil.duckdb_extension'",
    "set enable_external_access = true",
    "reset enable_external_access",
    "set lock_configuration = false",
    "set allowed_directories = ['/']",
    "set allowed_paths = ['/etc/passwd']",
    "set temp_directory = '{out}'",
    "set home_directory = '{out}'",
    "pragma memory_limit = '1GB'",
    "pragma enable_external_access = true",
    "create persistent secret evil (type http)",
)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder outside the retailer's, with files in it."""
    folder = tmp_path / "out"
    folder.mkdir()
    duckdb.connect(str(folder / "their.duckdb")).close()
    (folder / "their.csv").write_text("a\n1\n", "utf-8")
    return folder


def all_below(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def escaped(connection: duckdb.DuckDBPyConnection, out: Path, home: Path) -> list[str]:
    """Return the statements that DuckDB does not reject."""
    (home / "tmp").mkdir(parents=True, exist_ok=True)
    (home / "tmp" / "link").symlink_to(out, target_is_directory=True)
    ran = []
    for statement in ESCAPES:
        try:
            connection.execute(statement.format(out=out, home=home)).fetchall()
        except duckdb.Error:
            continue
        ran.append(statement)
    return ran


def test_a_run_cannot_access_other_files_extensions_or_settings(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_csv(tmp_path / "source" / "a.csv", regular_customers())
    monkeypatch.setenv("SEGMENTATION_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("SEGMENTATION_RETAILER", str(settings_file(tmp_path, tmp_path / "source")))
    home, ran = tmp_path / "data" / "corner_shop", list[str]()
    (home / "releases").mkdir(parents=True)

    @dg.asset
    def intruder(warehouse: WarehouseResource) -> None:
        ran.extend(escaped(warehouse.open().connection, out, home))

    loaded = dg.Definitions.merge(defs(), dg.Definitions(assets=[intruder]))
    with dg.DagsterInstance.ephemeral() as instance:
        job = loaded.resolve_implicit_global_asset_job_def()
        result = job.execute_in_process(instance=instance, asset_selection=[dg.AssetKey("intruder")])
    assert result.success
    assert ran == []
    assert {file.name for file in all_below(out)} == {"their.duckdb", "their.csv"}
    assert not list(tmp_path.rglob("evil*"))


def test_reading_can_access_only_its_files_and_its_folder(tmp_path: Path, out: Path) -> None:
    home, staging = tmp_path / "home", tmp_path / "home" / "tmp" / "read-1" / "staging.duckdb"
    staging.parent.mkdir(parents=True)
    mine = out / "a[1]*'; --.csv"
    mine.write_text("a\n1\n", "utf-8")
    (out / "a1.csv").write_text("a\n2\n", "utf-8")
    with reading_connection(staging, [mine]) as connection:
        assert escaped(connection, out, home) == []
        read = "select * from read_csv($path, header = true)"
        assert connection.execute(read, {"path": str(out / "a[[]1][*]'; --.csv")}).fetchall() == [(1,)]
        with pytest.raises(duckdb.PermissionException):
            connection.execute(read, {"path": str(out / "a1.csv")})
    assert not list(tmp_path.rglob("evil*"))


def test_a_run_can_write_into_links_and_folders_created_later(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (tmp_path / "disk").mkdir()
    home.symlink_to(tmp_path / "disk", target_is_directory=True)
    with connection_to(home / "work.duckdb", home / "tmp", 0, pytest.fail, folders=[home / "releases"]) as connection:
        (home / "releases").mkdir()
        connection.execute(f"copy (select 1) to {literal(str(home / 'releases' / 'a.parquet'))}")
        with pytest.raises(duckdb.PermissionException):
            connection.execute(f"copy (select 1) to {literal(str(home / 'a.parquet'))}")


def settings_file(folder: Path, source: Path, /, **sections: Any) -> Path:
    file = folder / "retailer.toml"
    file.write_text(tomli_w.dumps(retailer_settings(source, **sections)), "utf-8")
    return file


# If one of these characters ended a quoted text, a statement would run or the run would fail.
HOSTILE = (
    """'; attach 'evil.duckdb' as evil; --"; copy (select 1) to 'evil.csv'; -- $name $keys $paths {place} %s\\'; --"""
)
CLEANED = (*TABLES, "clean_transactions", "rejected_transactions", "cleaning_report", "unparsed_values")


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("SEGMENTATION_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("SEGMENTATION_RETAILER", str(tmp_path / "retailer.toml"))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert not {"evil.duckdb", "evil.csv"} & {path.name for path in all_below(tmp_path)}


def cleaned() -> dg.ExecuteInProcessResult:
    """Run the assets up to the cleaning."""
    wanted = [dg.AssetKey(table) for table in CLEANED]
    with dg.DagsterInstance.ephemeral() as instance:
        return JOB.execute_in_process(instance=instance, asset_selection=wanted, raise_on_error=False)


def work_of(shop: Path) -> duckdb.DuckDBPyConnection:
    return duckdb.connect(str(shop / "data" / "corner_shop" / "work.duckdb"), read_only=True)


@pytest.mark.parametrize("kind", ["csv", "xlsx", "parquet", "jsonl"])
def test_quotes_and_statements_in_names_rules_and_cells_are_text(shop: Path, kind: str) -> None:
    columns = retailer_settings(Path())["columns"] | {"country": f"{HOSTILE} country", "customer_id": HOSTILE}
    header = [{"Country": columns["country"], "CustomerID": HOSTILE}.get(name, name) for name in HEADER]
    lines = [(*line[:2], HOSTILE, *line[3:-1], HOSTILE) for line in regular_customers()]
    file = shop / HOSTILE / f"{HOSTILE}.{kind}"
    sheet = "'\"; attach $name {place} %s -- '"[1:-1]
    written = write_csv(file.with_suffix(".csv"), lines, header)
    if kind == "xlsx":
        workbook = openpyxl.Workbook()
        page = workbook.create_sheet(sheet, 0)
        for line in (header, *lines):
            page.append(line)
        workbook.save(file)
    elif kind != "csv":
        duckdb.connect().execute(
            f"copy (select * from read_csv($path, all_varchar = true)) to {literal(str(file))}"
            f" (format {'parquet' if kind == 'parquet' else 'json'})",
            {"path": escape(str(written))},
        )
    if kind != "csv":
        written.unlink()
    escaped_text = re.escape(HOSTILE)
    rules = [
        {"name": "matches", "reason": HOSTILE, "column": "country", "matches": f"^{escaped_text}$"},
        {"name": "is_in", "reason": HOSTILE, "column": "description", "in": [HOSTILE, "another"]},
    ]
    settings_file(
        shop,
        file.parent,
        source={"path": str(file.parent), "sheets": [sheet] if kind == "xlsx" else []},
        columns=columns,
        cleaning={"cancellation": f"^C|{escaped_text}", "rules": rules},
        title=HOSTILE,
    )
    assert cleaned().success
    with work_of(shop) as work:
        counted = "select count(*), count(distinct customer_id), any_value(country) from clean_transactions"
        assert work.execute(counted).fetchall() == [(len(lines), 60, HOSTILE)]
        place = "select distinct source_file, source_sheet from clean_transactions"
        assert work.execute(place).fetchall() == [(f"{HOSTILE}.{kind}", sheet if kind == "xlsx" else "")]
        reasons = "select distinct reason from cleaning_report where rule in ('matches', 'is_in')"
        assert work.execute(reasons).fetchall() == [(HOSTILE,)]


def test_quotes_and_statements_in_a_date_format_are_text(shop: Path) -> None:
    lines = [(*line[:4], f"{HOSTILE} {line[4]}", *line[5:]) for line in regular_customers()]
    write_csv(shop / "source" / "a.csv", lines)
    written = f"{HOSTILE.replace('%', '%%')} %Y-%m-%d %H:%M:%S"
    settings_file(shop, shop / "source", source={"path": "source", "date_format": written})
    assert cleaned().success
    with work_of(shop) as work:
        assert work.execute("select count(*) from clean_transactions").fetchall() == [(len(lines),)]


@pytest.mark.parametrize(
    ("section", "setting"),
    [("source", "encoding"), ("source", "delimiter"), ("source", "decimal"), ("", "name"), ("", "time_zone")],
)
def test_settings_with_a_fixed_format_reject_statements(shop: Path, section: str, setting: str) -> None:
    write_csv(shop / "source" / "a.csv", regular_customers())
    sections: dict[str, Any] = {section: {"path": "source", setting: HOSTILE}} if section else {setting: HOSTILE}
    settings_file(shop, shop / "source", **sections)
    result = cleaned()
    assert not result.success
    assert f"{section}.{setting}".strip(".") in failure_message(result, "raw_transactions")


@pytest.mark.parametrize(
    ("limit", "expected"), [("4GB", 3200), ("2GiB", 1347), ("600MB", 300), ("", DEFAULT_MEMORY - 800)]
)
def test_duckdb_gets_what_python_leaves_of_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, expected: int
) -> None:
    monkeypatch.setenv("SEGMENTATION_MEMORY_LIMIT", limit)
    with connection_to(tmp_path / "work.duckdb", tmp_path / "tmp", 5, print) as opened:
        [(text,)] = opened.execute("select current_setting('memory_limit')").fetchall()
    number, unit = text.split()
    assert float(number) * {"MiB": 1.048576, "GiB": 1073.741824}[unit] == pytest.approx(expected, rel=0.06)
