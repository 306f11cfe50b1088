"""The pages say what the code does."""

import re
import tomllib
from pathlib import Path

import dagster as dg
import duckdb
import pytest

from segmentation_pipeline import __version__, dictionary
from segmentation_pipeline.releases.files import OLDEST_CLIENT
from segmentation_pipeline.tables.catalog import CONTRACT_VERSION, published
from segmentation_pipeline_tests.scenarios import line, regular_customers, retailer_file, run_job, write_csv

ROOT = Path(__file__).parents[1]
_MONTH_END = "timestamp '2024-11-01'"


def _page(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def test_the_reference_pages_are_those_that_the_code_writes() -> None:
    assert _page("docs/tables.md") == dictionary.tables(), "run `make docs`"
    assert _page("docs/retailer_file.md") == dictionary.retailer_file(), "run `make docs`"


def test_the_plan_names_every_room_of_the_house() -> None:
    plan = _page("docs/architecture.md")
    rooms = {path.name for path in (ROOT / "segmentation_pipeline").glob("*.py")} - {"__init__.py"}
    rooms |= {path.name for path in (ROOT / "segmentation_pipeline").iterdir() if path.is_dir()} - {"__pycache__"}
    assert sorted(room for room in rooms if room not in plan) == []


def test_the_changelog_knows_the_version_the_contract_and_the_published_tables() -> None:
    page = _page("CHANGELOG.md")
    assert f"## {__version__} - contract {CONTRACT_VERSION}" in page
    assert [contract.table for contract in published() if f"`{contract.table}`" not in page] == []


def test_readme_and_makefile_install_the_oldest_client_that_a_release_is_written_for() -> None:
    assert f"duckdb=={OLDEST_CLIENT}" in _page("README.md")
    assert f"OLDEST_CLIENT := {OLDEST_CLIENT}" in _page("Makefile")


def test_the_suite_is_run_with_the_oldest_duckdb_that_may_be_installed() -> None:
    wanted = tomllib.loads(_page("pyproject.toml"))["project"]["dependencies"]
    [(oldest,)] = [re.findall(r"^duckdb>=([0-9.]+),", one) for one in wanted if one.startswith("duckdb>")]
    assert f"OLDEST_DUCKDB := {oldest}\n" in _page("Makefile")


def test_links_between_pages_lead_somewhere() -> None:
    dead = [
        (page.name, link)
        for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text("utf-8"))
        if not (page.parent / link).exists()
    ]
    assert dead == []


def test_the_constraints_pin_every_dependency_without_address_or_hash() -> None:
    pins = [line for line in _page("constraints.txt").splitlines() if line and not line.startswith("#")]
    assert [pin for pin in pins if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9._!+-]+", pin)] == []
    pinned = {pin.split("==")[0].lower().replace("_", "-") for pin in pins}
    project = tomllib.loads(_page("pyproject.toml"))["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    assert {re.split(r"[<>=!~ ]", name)[0].lower() for name in wanted} <= pinned


def test_every_query_of_the_pages_gives_rows_of_a_release(
    tmp_path: Path, data_folder: Path, monkeypatch: pytest.MonkeyPatch, instance: dg.DagsterInstance
) -> None:
    dear = line(invoice="600001", at="2024-09-02 11:00:00", customer="10001", quantity="5000", price="9.95")
    source = write_csv(tmp_path / "source" / "a.csv", [*regular_customers(), dear]).parent
    # A month end, so that one moment stands in the ledger as well as in the history.
    retailer = retailer_file(tmp_path, source, rfm={"as_of": "2024-10-31"})
    monkeypatch.setenv("SEGMENTATION_RETAILER", str(retailer))
    assert run_job(instance).success
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    blocks = [block for page in pages for block in re.findall(r"```sql\n(.*?)```", page.read_text("utf-8"), re.DOTALL)]
    queries = [query for block in blocks for query in re.findall(r"([^;]+);([^\n]*)", block)]
    with duckdb.connect(str(data_folder / "corner_shop/releases/current/segments.duckdb"), read_only=True) as release:
        found = [release.execute(re.sub(r"timestamp '.*?'", _MONTH_END, query)).fetchall() for query, _ in queries]
    assert [query for (query, _), rows in zip(queries, found, strict=True) if not rows] == []
    # What a comment promises of any retailer.
    assert [rows for (_, said), rows in zip(queries, found, strict=True) if said.strip() == "-- 0"] == [[(0,)]]
