"""The pages agree with the code: generated pages, versions, links and queries."""

import importlib.util
import re
import tomllib
from pathlib import Path
from types import ModuleType

import duckdb
import pytest

from segmentation_pipeline import __version__
from segmentation_pipeline.releases.files import OLDEST_CLIENT
from segmentation_pipeline.tables.catalog import CONTRACT_VERSION, published
from segmentation_pipeline_tests.shops import Shop

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
_MONTH_END = "timestamp '2024-11-01'"


def _page(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def _reference_docs() -> ModuleType:
    """Import `tools/reference_docs.py`, which is not part of a package."""
    spec = importlib.util.spec_from_file_location("reference_docs", ROOT / "tools" / "reference_docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["tables", "retailer_file"])
def test_reference_pages_are_what_make_docs_writes(name: str) -> None:
    generated = getattr(_reference_docs(), f"{name}_page")()
    assert _page(f"docs/{name}.md") == generated, "run `make docs`"


def test_architecture_page_names_every_package_and_module() -> None:
    page = _page("docs/architecture.md")
    package = ROOT / "segmentation_pipeline"
    names = {path.name for path in package.glob("*.py")} - {"__init__.py"}
    names |= {path.name for path in package.iterdir() if path.is_dir()} - {"__pycache__"}
    assert sorted(name for name in names if f"`{name}`" not in page) == []


def test_changelog_names_versions_and_published_tables() -> None:
    page = _page("CHANGELOG.md")
    assert f"## {__version__} - contract {CONTRACT_VERSION}" in page
    assert [contract.table for contract in published() if f"`{contract.table}`" not in page] == []


def test_readme_and_makefile_name_the_oldest_supported_client() -> None:
    assert f"duckdb=={OLDEST_CLIENT}" in _page("README.md")
    assert f"OLDEST_CLIENT := {OLDEST_CLIENT}" in _page("Makefile")


def test_makefile_tests_the_oldest_allowed_duckdb() -> None:
    dependencies = tomllib.loads(_page("pyproject.toml"))["project"]["dependencies"]
    [(oldest,)] = [re.findall(r"^duckdb>=([0-9.]+),", name) for name in dependencies if name.startswith("duckdb>")]
    assert f"OLDEST_DUCKDB := {oldest}\n" in _page("Makefile")


def test_links_between_pages_work() -> None:
    broken = [
        (page.name, link)
        for page in PAGES
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text("utf-8"))
        if not (page.parent / link).exists()
    ]
    assert broken == []


def test_constraints_pin_every_dependency_by_version_only() -> None:
    pins = [line for line in _page("constraints.txt").splitlines() if line and not line.startswith("#")]
    assert [pin for pin in pins if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9._!+-]+", pin)] == []
    pinned = {pin.split("==")[0].lower().replace("_", "-") for pin in pins}
    project = tomllib.loads(_page("pyproject.toml"))["project"]
    required = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    assert {re.split(r"[<>=!~ ]", name)[0].lower() for name in required} <= pinned


def test_documented_queries_return_rows_of_a_release(finished_shop: Shop) -> None:
    # A month end, so that the same time is in the membership history and in the monthly history.
    assert finished_shop.run(as_of="2024-10-31").success
    # Those of docs/queries.md are tested in `test_queries`.
    pages = [page for page in PAGES if page.name != "queries.md"]
    blocks = [block for page in pages for block in re.findall(r"```sql\n(.*?)```", page.read_text("utf-8"), re.DOTALL)]
    # The query of "Add a table" in docs/architecture.md is not a query of a release: it begins with its file's name.
    blocks = [block for block in blocks if not block.startswith("-- segmentation_pipeline/")]
    queries = [query for block in blocks for query in re.findall(r"([^;]+);([^\n]*)", block)]
    with duckdb.connect(str(finished_shop.release.database), read_only=True) as release:
        results = [release.execute(re.sub(r"timestamp '.*?'", _MONTH_END, query)).fetchall() for query, _ in queries]
    assert [query for (query, _), rows in zip(queries, results, strict=True) if not rows] == []
    # The comment `-- 0` promises this result for every retailer.
    counts = [rows for (_, comment), rows in zip(queries, results, strict=True) if comment.strip() == "-- 0"]
    assert counts == [[(0,)]]
