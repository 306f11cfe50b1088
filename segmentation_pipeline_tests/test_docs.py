"""The pages agree with the code: generated pages, versions, links and queries."""

import ast
import importlib.util
import re
import tomllib
from pathlib import Path
from types import ModuleType

import duckdb
import pytest

from segmentation_pipeline import __version__, errors
from segmentation_pipeline.releases.files import OLDEST_CLIENT
from segmentation_pipeline.tables.catalog import CONTRACT_VERSION, published
from segmentation_pipeline_tests.scenarios import definitions
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
    extras = [name for extra in project["optional-dependencies"].values() for name in extra]
    required = [name for name in (*project["dependencies"], *extras) if not name.startswith(f"{project['name']}[")]
    assert {re.split(r"[\[<>=!~ ]", name)[0].lower() for name in required} <= pinned


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


# Of a message, the words that its code contains; what the run fills in is left out.
_FILLED_IN = "\0"


def _failure_sections() -> dict[str, str]:
    """Return the section of docs/failures.md that names each class of user errors."""
    sections = _page("docs/failures.md").split("\n## ")[1:]
    return {name: section for section in sections for name in re.findall(r"`(\w+Error)`", section)}


def _words(node: ast.expr) -> str:
    match node:
        case ast.Constant(value=str() as text):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(map(_words, parts))
        case ast.FormattedValue(value=ast.IfExp(body=body, orelse=orelse)):
            return f"{_words(body)}{_FILLED_IN}{_words(orelse)}"
        case _:
            return _FILLED_IN


def _phrases(section: str) -> list[str]:
    """Return the words by which the tables of a section name messages."""
    cells = re.findall(r"^\| ((?!-+ )(?!message contains).+?) \|", section, re.MULTILINE)
    return [phrase for cell in cells for phrase in cell.split("; ")]


def _raised() -> list[tuple[str, str]]:
    """Return each class of user errors with the words of each message that the code writes where it raises it."""
    classes = {error.__name__ for error in errors.PipelineError.__subclasses__()}
    return [
        (node.func.id, words)
        for file in sorted((ROOT / "segmentation_pipeline").rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in classes and node.args
        if re.search(r"\w", words := _words(node.args[0]))
    ]


def test_failures_page_explains_every_class_of_errors() -> None:
    classes = {error.__name__ for error in errors.PipelineError.__subclasses__()}
    assert classes == _failure_sections().keys()


def test_failures_page_explains_every_message() -> None:
    sections = _failure_sections()
    phrases = {name: _phrases(section) for name, section in sections.items()}
    raised = _raised()
    assert len(raised) > 40
    assert [(name, words) for name, words in raised if not any(phrase in words for phrase in phrases[name])] == []


def test_failures_page_names_no_message_of_the_past() -> None:
    trees = [ast.parse(file.read_text("utf-8")) for file in (ROOT / "segmentation_pipeline").rglob("*.py")]
    written = [
        _words(node) for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant | ast.JoinedStr)
    ]
    phrases = {phrase for section in _failure_sections().values() for phrase in _phrases(section)}
    assert len(phrases) > 40
    assert [phrase for phrase in sorted(phrases) if not any(phrase in words for words in written)] == []


def test_failures_page_explains_every_check() -> None:
    explained = set(re.findall(r"`(\w+)`", _page("docs/failures.md").split("\n## Checks\n")[1]))
    checks = {key.name for key in definitions().resolve_asset_graph().asset_check_keys}
    assert sorted(checks - explained) == []
