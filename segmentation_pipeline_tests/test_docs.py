"""The pages say what the code does."""

import re
import tomllib
from pathlib import Path

from segmentation_pipeline import __version__
from segmentation_pipeline.dictionary import retailer_file, tables
from segmentation_pipeline.releases import OLDEST_CLIENT
from segmentation_pipeline.tables import CONTRACT_VERSION, PUBLISHED

ROOT = Path(__file__).parents[1]


def _page(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def test_the_reference_pages_are_those_that_the_code_writes() -> None:
    assert _page("docs/tables.md") == tables(), "run `make docs`"
    assert _page("docs/retailer_file.md") == retailer_file(), "run `make docs`"


def test_the_plan_names_every_room_of_the_house() -> None:
    plan = _page("docs/design.md")
    rooms = {path.name for path in (ROOT / "segmentation_pipeline").glob("*.py")} - {"__init__.py"}
    rooms |= {path.name for path in (ROOT / "segmentation_pipeline").iterdir() if path.is_dir()} - {"__pycache__"}
    assert sorted(room for room in rooms if room not in plan) == []


def test_the_changelog_knows_the_version_the_contract_and_the_published_tables() -> None:
    page = _page("CHANGELOG.md")
    assert f"## {__version__} - contract {CONTRACT_VERSION}" in page
    assert [contract.table for contract in PUBLISHED if f"`{contract.table}`" not in page] == []


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
