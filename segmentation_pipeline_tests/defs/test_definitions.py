"""The rules of the graph and of the house: true of every asset, check, module and setting, also of those to come."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlglot
import yaml
from pydantic import BaseModel
from sqlglot import exp

import segmentation_pipeline
from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.definitions import defs
from segmentation_pipeline.segments import backtest, history
from segmentation_pipeline.tables.catalog import FOLDER, check_select, contracts, line_columns, select_of
from segmentation_pipeline.warehouse.queries import inline_upstream

PACKAGE = Path(segmentation_pipeline.__file__).parent
PROJECT = PACKAGE.parent
MODULES = sorted(PACKAGE.rglob("*.py"))
DEFS = sorted(path.stem for path in (PACKAGE / "defs").glob("[!_]*.py"))

# The assets that are made in Python, once: every other is the table, and the file in sql/, of its name.
MODEL = {
    "segmentation_models",
    "model_features",
    "model_centroids",
    "segments",
    "kmeans_candidates",
    "outlier_fences",
    "kmeans_model",
    "kmeans_scaler",
    "kmeans_centroids",
}
PYTHON = {
    *MODEL,
    "ingested_files",
    "erased_customers",
    "history_months",
    "segment_history",
    "segment_backtest",
    "backtest_metrics",
    "model_drift",
    "release",
}
# Of these, Python says when the file is run: with the model whose rows it selects, with the history it tells of.
SELECTED_IN_PYTHON = {"outlier_fences", "kmeans_model", "kmeans_scaler", "kmeans_centroids", "history_months"}
TABLES = sorted(contracts())
DERIVED = sorted({*TABLES} - PYTHON)
# Read as the runs before left it: today's ledger hangs on the segments, and those on where customers were before.
AS_LEFT = {"previous_segments": {"segment_membership"}, "segment_membership": {"segment_membership"}}
# What the SELECTs of the cleaning read instead of a table (it is made from it), and what comes from outside.
STAND_INS = {
    "judged_transactions": {"raw_transactions"},
    "cleaning_rules": set[str](),
    "read_lines": set[str](),
    "assigned_by_previous_model": {"assigned_segments", "segmentation_models"},
}

LOADED = defs()
GRAPH = LOADED.resolve_asset_graph()
ASSETS = sorted(key.to_user_string() for key in GRAPH.get_all_asset_keys())
CHECKS = sorted(GRAPH.asset_check_keys, key=lambda key: key.to_user_string())


def asset(name: str) -> Any:
    return GRAPH.get(dg.AssetKey(name))


def parents(name: str) -> set[str]:
    return {key.to_user_string() for key in asset(name).parent_keys}


def ancestors(name: str) -> set[str]:
    return parents(name).union(*(ancestors(parent) for parent in parents(name)))


def read_by(select: str) -> set[str]:
    """The tables behind a SELECT, told by another parser than the package's."""
    tree = sqlglot.parse_one(select, read="duckdb")
    ctes = {cte.alias for cte in tree.find_all(exp.CTE)}
    named = {table.name for table in tree.find_all(exp.Table) if table.db == "main" or table.name not in ctes}
    return set[str]().union(*(STAND_INS.get(name, {name}) for name in named))


# Assets.


@pytest.mark.parametrize("name", ASSETS)
def test_every_asset_says_what_it_is_whose_it_is_and_what_it_is_made_with(name: str) -> None:
    node = asset(name)
    assert len(node.description) > 30
    assert node.group_name not in (None, "default")
    assert node.owners == ["team:segmentation"]
    assert "duckdb" in node.kinds
    assert len(node.kinds) >= 2
    assert node.code_version or name == "release"


@pytest.mark.parametrize("name", TABLES)
def test_every_table_shows_its_columns_and_has_a_blocking_check_of_key_and_rules(name: str) -> None:
    schema = asset(name).metadata["dagster/column_schema"]
    contract = contracts()[name]
    assert [(column.name, column.type) for column in schema.columns] == [(c.name, c.type) for c in contract.columns]
    assert all(column.description for column in schema.columns)
    assert [c.name for c in schema.columns if c.constraints.unique] == list(
        contract.key if len(contract.key) == 1 else ()
    )
    assert [c.name for c in schema.columns if c.constraints.nullable] == [
        c.name for c in contract.columns if c.nullable
    ]
    assert GRAPH.get(dg.AssetCheckKey(dg.AssetKey(name), "contract")).blocking


@pytest.mark.parametrize("name", TABLES)
def test_an_assets_description_begins_with_what_one_row_is(name: str) -> None:
    assert asset(name).description == contracts()[name].description


def test_the_assets_are_the_contracts_and_the_release() -> None:
    assert set(ASSETS) == {*TABLES, "release"}


def test_a_derived_assets_key_is_its_table_and_its_file() -> None:
    assert {path.stem for path in FOLDER.glob("*.sql")} == {*DERIVED} | SELECTED_IN_PYTHON
    assert {asset(name).metadata["dagster/table_name"] for name in DERIVED} == set(DERIVED)
    assert all("sql" in asset(name).kinds for name in DERIVED)
    assert all("sql" not in asset(name).kinds for name in PYTHON)


@pytest.mark.parametrize("name", DERIVED)
def test_a_derived_asset_depends_on_what_its_select_reads(name: str) -> None:
    assert parents(name) == read_by(select_of(name)) - AS_LEFT.get(name, set())


STANDING = {"outlier_fences", "kmeans_model", "kmeans_scaler", "kmeans_centroids"}
IN_HINDSIGHT = {"clean_transactions", "rfm_features", "previous_segments"}
OF_PYTHON = {
    "ingested_files": set[str](),
    "erased_customers": set[str](),
    **{name: {"rfm_features", "previous_segments", "inactive_customers"} for name in MODEL},
    **{name: {*IN_HINDSIGHT, *STANDING} for name in ("history_months", "segment_history")},
    **{
        name: {*IN_HINDSIGHT, "history_months", "kmeans_model", "rfm_segment_map"}
        for name in ("segment_backtest", "backtest_metrics")
    },
    "model_drift": {
        "customer_segments",
        "normal_customers",
        "previous_segments",
        "model_features",
        "segmentation_models",
    },
}


def test_an_asset_made_in_python_depends_on_what_it_is_listed_with() -> None:
    assert {name: parents(name) for name in PYTHON - {"release"}} == OF_PYTHON


@pytest.mark.parametrize(
    ("name", "select", "given"),
    [
        ("segment_history", history._AT_MONTH_END, history.AS_OF_THEN),
        ("segment_backtest", backtest._CUSTOMERS, {**history.AS_OF_THEN, "later": backtest._LATER}),
        ("segment_membership", "select * from assigned_segments", dict.fromkeys(STANDING, "select 1 as one")),
    ],
)
def test_an_asset_depends_on_all_that_is_read_where_other_tables_stand_in(
    name: str, select: str, given: dict[str, str]
) -> None:
    """Every table that is read as it stands, however far down, was made before."""
    read = read_by(inline_upstream(select, given))
    assert read & {*TABLES}
    assert read <= ancestors(name)


# Checks.


@pytest.mark.parametrize("key", CHECKS, ids=lambda key: key.to_user_string())
def test_every_check_says_what_it_asks(key: dg.AssetCheckKey) -> None:
    node: Any = GRAPH.get(key)
    assert node.description
    assert node.description.endswith(".")


def test_only_the_warnings_do_not_block() -> None:
    mild = {key.name for key in CHECKS if not GRAPH.get(key).blocking}
    assert mild == {
        "files_are_readable",
        "no_file_is_missing",
        "feed_is_fresh",
        "rejected_share_is_usual",
        "silhouette_above_minimum",
        "number_of_clusters_is_clear",
        "last_model_was_promoted",
        "no_drift_since_fit",
        "segments_predict_no_worse_than_rules",
    }


def test_a_bad_night_is_stopped_before_the_model_the_ledger_and_the_release() -> None:
    gate = {key.name for key in CHECKS if key.asset_key == dg.AssetKey("rfm_features") and GRAPH.get(key).blocking}
    assert {"no_sudden_loss", "as_of_plausible", "minimum_data", "customers_and_money_reconcile"} <= gate
    assert all("rfm_features" in ancestors(name) for name in ("segmentation_models", "segment_membership", "release"))


def test_the_release_comes_after_every_asset_that_carries_a_blocking_check() -> None:
    blocking = {key.asset_key.to_user_string() for key in CHECKS if GRAPH.get(key).blocking}
    assert blocking - {"release"} <= parents("release")
    assert ancestors("release") == {*TABLES}


@pytest.mark.parametrize("name", sorted(path.stem for path in (FOLDER / "checks").glob("*.sql")))
def test_a_check_of_sql_runs_after_all_that_it_reads(name: str) -> None:
    [key] = [key for key in CHECKS if key.name == name]
    waits_for = {parent.to_user_string() for parent in GRAPH.get(key).parent_entity_keys}
    read = read_by(check_select(f"{name}"))
    checked = key.asset_key.to_user_string()
    assert read <= waits_for | {checked} | ancestors(checked)
    assert checked in read


# Running and loading.


@pytest.mark.parametrize("retailer", ["/no/such/retailer.toml", "~nobody-has-this-name/x", "x" * 300])
def test_definitions_load_without_a_retailer_that_validates_and_write_nothing(
    data_folder: Path, monkeypatch: pytest.MonkeyPatch, retailer: str
) -> None:
    monkeypatch.setenv("SEGMENTATION_RETAILER", retailer)
    assert {key.to_user_string() for key in defs().resolve_asset_graph().get_all_asset_keys()} == set(ASSETS)
    assert not data_folder.exists()


def test_every_job_runs_everything_in_one_process() -> None:
    for name in ("nightly_segmentation", "refit_segmentation"):
        job = LOADED.resolve_job_def(name)
        assert job.executor_def.name == "in_process"
        assert {key.to_user_string() for key in job.asset_layer.executable_asset_keys} == set(ASSETS)
    assert LOADED.resolve_implicit_global_asset_job_def().executor_def.name == "in_process"


def run_python(code: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *options, "-c", code], capture_output=True, text=True, cwd=PROJECT, timeout=60, check=False
    )


def test_importing_each_module_of_defs_is_silent_with_deprecations_as_errors() -> None:
    """Dagster's autoloading swallows what its modules warn of; that something is merely beta would be printed."""
    imports = "".join(f"import segmentation_pipeline.defs.{name}\n" for name in DEFS)
    classes = ("DeprecationWarning", "PendingDeprecationWarning", "FutureWarning")
    done = run_python(imports, *(f"-Werror::{name}" for name in classes))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_core_imports_neither_dagster_nor_duckdb() -> None:
    core = sorted(path.stem for path in (PACKAGE / "core").glob("[!_]*.py"))
    imports = "".join(f"import segmentation_pipeline.core.{name}\n" for name in core)
    done = run_python(imports + "import sys\nprint(sorted({'dagster', 'duckdb'} & {*sys.modules}))")
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
    for path in (PACKAGE / "core").glob("*.py"):
        named = {
            name
            for node in ast.walk(ast.parse(path.read_text("utf-8")))
            if isinstance(node, (ast.Import, ast.ImportFrom))
            for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names])
        }
        ours = {name for name in named if name.split(".")[0] == "segmentation_pipeline"}
        assert not {name.split(".")[0] for name in named} & {"dagster", "duckdb", "dagster_duckdb"}
        assert all(name.startswith("segmentation_pipeline.core") for name in ours)


def test_nothing_private_of_dagster_is_imported() -> None:
    for path in MODULES:
        assert not re.search(r"^\s*(from|import) dagster\._", path.read_text("utf-8"), flags=re.MULTILINE), path


def test_workspace_and_dg_name_the_same_module_and_location() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text("utf-8"))["tool"]["dg"]["project"]
    [entry] = yaml.safe_load((PROJECT / "workspace.yaml").read_text("utf-8"))["load_from"]
    assert entry["python_module"]["module_name"] == project["code_location_target_module"]
    assert entry["python_module"]["location_name"] == project["code_location_name"]
    assert project["root_module"] == segmentation_pipeline.__name__


# The house.


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_says_what_belongs_in_it_and_has_at_most_300_lines(path: Path) -> None:
    text = path.read_text("utf-8")
    assert len(text.splitlines()) <= 300
    assert ast.get_docstring(ast.parse(text)) or not text.strip()
    assert path.stem not in ("utils", "helpers", "common", "constants", "lib", "base")


def bodies(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Each function with the lines of its body, from the first statement behind the docstring to the last."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            yield node.name, (node.end_lineno or 0) - body[0].lineno + 1 if body else 0


@pytest.mark.parametrize("name", DEFS)
def test_the_body_of_an_asset_function_has_at_most_twenty_lines(name: str) -> None:
    """So has that of every other function in the rooms of the assets, or an asset would hide its length in one."""
    tree = ast.parse((PACKAGE / "defs" / f"{name}.py").read_text("utf-8"))
    assert [(function, lines) for function, lines in bodies(tree) if lines > 20] == []


def test_the_lines_of_a_body_are_counted_without_signature_and_docstring() -> None:
    code = """
@asset(
    deps=[],
)
def f(
    a: int,
) -> None:
    '''One.

    Two.'''
    x = (
        1
    )
"""
    assert list(bodies(ast.parse(code))) == [("f", 3)]


def settings_of(model: type[BaseModel], path: str = "") -> Iterator[str]:
    """The dotted key of each setting of a retailer file."""
    for name, field in model.model_fields.items():
        kinds = [field.annotation, *getattr(field.annotation, "__args__", ())]
        inner = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        for kind in inner:
            yield from settings_of(kind, f"{path}{name}.")
        if not inner:
            yield f"{path}{name}"


def reads(code: str, key: str) -> bool:
    """Whether code reads a setting off its section: `x.section.key`, or `y.key` where y is it or of its type."""
    section, _, name = key.rpartition(".")
    section = section.rpartition(".")[2]
    owners, variables = ({section}, set[str]()) if section else ({"settings"}, {"retailer", "settings"})
    nodes = list(ast.walk(ast.parse(code)))
    # `rules` holds what is of the type Rule.
    kinds = {
        alias.asname or alias.name
        for node in nodes
        if isinstance(node, ast.ImportFrom)
        and node.module
        in (
            "segmentation_pipeline.config.sections",
            "segmentation_pipeline.config.cleaning_rules",
            "segmentation_pipeline.config.model_settings",
        )
        for alias in node.names
        if alias.name in (section.capitalize(), section.capitalize().rstrip("s"))
    }
    for node in nodes:
        match node:
            case (
                ast.Assign(targets=[ast.Name(id=variable)], value=ast.Attribute(attr=attribute))
                | ast.NamedExpr(target=ast.Name(id=variable), value=ast.Attribute(attr=attribute))
            ) if attribute == section:
                variables.add(variable)
            case ast.Assign(targets=[ast.Tuple(elts=targets)], value=ast.Tuple(elts=values)):
                pairs = zip(targets, values, strict=True)
                variables |= {ast.unparse(to) for to, value in pairs if getattr(value, "attr", "") == section}
            case ast.arg(arg=variable, annotation=ast.Name(id=kind)) if kind in kinds:
                variables.add(variable)
            case _:
                pass
    return any(
        isinstance(node, ast.Attribute)
        and node.attr == name
        and (getattr(node.value, "attr", "") in owners or getattr(node.value, "id", "") in variables)
        for node in nodes
    )


def is_used(key: str) -> bool:
    """Whether the package reads a setting; those of `columns` are read as a whole, and then by their name."""
    section, _, name = key.rpartition(".")
    whole = {"columns": ("mapped", {column.name for column in line_columns()})}
    read_as, names = whole.get(section, (name, {name}))
    texts = [
        path.read_text("utf-8") for path in MODULES if path.name not in ("sections.py", "rules.py", "parameters.py")
    ]
    return name in names and any(reads(text, f"{section}.{read_as}" if section else read_as) for text in texts)


@pytest.mark.parametrize("key", list(settings_of(Retailer)))
def test_no_setting_is_unused(key: str) -> None:
    assert is_used(key)


@pytest.mark.parametrize(
    ("code", "seen"),
    [
        ("read(retailer.source.path)", True),
        ("source = settings.source\nread(source.path)", True),
        ("if source := settings.source: read(source.path)", True),
        ("one, two = settings.source, settings.model\nread(one.path)", True),
        ("one, two = settings.source, settings.model\nread(two.path)", False),
        ("from segmentation_pipeline.config.sections import Source as S\ndef f(one: S): return one.path", True),
        ("read(part.path)", False),
        ("read(source.path)", False),
        ("read(settings.release.path)", False),
        ("def f(one: Source): return one.path", False),
        ("path = settings.source", False),
    ],
)
def test_a_setting_counts_as_used_only_where_it_is_read_off_its_section(code: str, seen: bool) -> None:
    assert reads(code, "source.path") == seen


def test_a_setting_that_nobody_reads_is_seen() -> None:
    assert not any(map(is_used, ("source.colour", "title.path", "release.name", "model.colour", "columns.colour")))


# No value gets into FOLDER text: it is bound. Text may be put together from text.

# An f-string is FOLDER where it is handed to a connection or reads like FOLDER (which the package writes in lower case).
EXECUTING = {"execute", "executemany", "sql", "query", "rows", "row"}
LIKE_SQL = re.compile(
    r"(?<![\w.])(select|insert into|create (or replace )?(temp )?table|drop table|comment on|describe|union all"
    r"|order by|count\(|cast\(|regexp_\w+\(|list_contains\(|read_\w+\(|when\s+then|is null|with \w+ as"
    r"|primary key)(?!\w)"
)
# What holds FOLDER text wherever it is met, by the attribute's name: made of quoted identifiers by a contract, by a rule
# of `cleaning` (whose own f-strings are held to the same), or read from a file of sql/.
TEXT_BY_NAME = {"key_order", "names", "kept", "named", "ddl", "type", "condition", "select", "relations"}
# What the reading below does not see through, with the reason why it is no value.
REASONED = {
    (
        "contracts.py",
        "what",
    ): "'table' or 'column' and a quoted name, in the tuples beside the words, which are literals",
    ("lines.py", "number"): "a count: the number of a temporary table",
    ("privacy.py", "select"): "the SELECT of a table, from sql/",
    ("privacy.py", "text"): "an expression of FOLDER of the callers, which are held to the same",
    ("contracts.py", "broken"): "the condition of a rule: a quoted name beside names of bound values",
}


class Source:
    """A module, and which of its expressions can only be FOLDER text: literals, quoted names, counts, or made of these."""

    def __init__(self, name: str, text: str) -> None:
        self.name, self.tree = name, ast.parse(text)
        nodes = list(ast.walk(self.tree))
        self.parent = {child: node for node in nodes for child in ast.iter_child_nodes(node)}
        self.functions = {node.name: node for node in nodes if isinstance(node, ast.FunctionDef)}
        self.calls = [node for node in nodes if isinstance(node, ast.Call)]

    @cached_property
    def values_in_sql(self) -> list[str]:
        """Each interpolation of an FOLDER f-string that may be a value."""
        found = []
        for node in ast.walk(self.tree):
            if isinstance(node, ast.JoinedStr) and self._is_sql(node):
                parts = [part.value for part in node.values if isinstance(part, ast.FormattedValue)]
                found += [f"{node.lineno}: {ast.unparse(part)}" for part in parts if not self._is_text(part)]
        return found

    def _is_sql(self, node: ast.JoinedStr) -> bool:
        call = self.parent[node]
        handed = isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr in EXECUTING
        said = "".join(str(part.value) for part in node.values if isinstance(part, ast.Constant))
        return handed or bool(LIKE_SQL.search(said))

    def _is_text(self, node: ast.expr, seen: frozenset[tuple[str, int]] = frozenset()) -> bool:
        said, line = ast.unparse(node), getattr(node, "lineno", 0)
        if (said, line) in seen or (self.name, said) in REASONED:
            return True
        seen |= {(said, line)}
        match node:
            case ast.Constant():
                return True
            case ast.Call(
                func=ast.Name(id="quoted" | "literal" | "len" | "range" | "select_of" | "inline_upstream" | "shape_of")
            ):
                # The last three read files of sql/, put their text together with quoted names, or text around it.
                return True
            case ast.Attribute(attr=name) | ast.Call(func=ast.Attribute(attr=name)) if name in TEXT_BY_NAME:
                return True
            case ast.Call(func=ast.Name(id=name)) | ast.Subscript(value=ast.Call(func=ast.Name(id=name))) if (
                name in self.functions
            ):
                returned = [n.value for n in ast.walk(self.functions[name]) if isinstance(n, ast.Return) and n.value]
                match node:
                    case ast.Subscript(slice=ast.Constant(value=int(place))):
                        returned = [value.elts[place] for value in returned if isinstance(value, ast.Tuple)]
                return bool(returned) and all(self._is_text(value, seen) for value in returned)
            case ast.Call(func=ast.Attribute(value=text, attr="items" | "values" | "replace")):
                return self._is_text(text, seen)
            case ast.Name(id=name) if name.isupper():
                return True
            case ast.Name(id=name):
                sources = list(self._sources(name, node))
                return bool(sources) and all(source is None or self._is_text(source, seen) for source in sources)
        parts = list(_parts(node))
        return bool(parts) and all(self._is_text(part, seen) for part in parts)

    def _sources(self, name: str, node: ast.expr) -> Iterator[ast.expr | None]:
        """What a name is given in its function; None for a count."""
        at: ast.AST = node
        while not isinstance(at, (ast.FunctionDef, ast.Module)):
            at = self.parent[at]
        for inner in ast.walk(at):
            match inner:
                case ast.Assign(targets=[target], value=value) | ast.NamedExpr(target=target, value=value):
                    yield from _given(name, target, value)
                case ast.AugAssign(target=ast.Name(id=given), value=value) if given == name:
                    yield value
                case ast.AnnAssign(target=ast.Name(id=given), value=ast.expr() as value) if given == name:
                    yield value
                case ast.For(target=target, iter=looped) | ast.comprehension(target=target, iter=looped):
                    yield from _looped(name, target, looped)
                case ast.Call(func=ast.Attribute(value=ast.Name(id=given), attr="append"), args=[value]) if (
                    given == name
                ):
                    yield value
        if isinstance(at, ast.FunctionDef):
            yield from self._passed(name, at)

    def _passed(self, name: str, function: ast.FunctionDef) -> Iterator[ast.expr | None]:
        """What a parameter is given by the callers in the module; one of another type than text is a count."""
        for place, parameter in enumerate(function.args.args + function.args.kwonlyargs):
            if parameter.arg == name:
                counts = parameter.annotation and ast.unparse(parameter.annotation) in ("int", "int | None", "bool")
                callers = [call for call in self.calls if _called(call) == function.name]
                given = [
                    argument
                    for call in callers
                    for argument in [*call.args[place : place + 1], *(k.value for k in call.keywords if k.arg == name)]
                ]
                yield from [None] if counts else given or [_FROM_ELSEWHERE]


_FROM_ELSEWHERE = ast.Attribute(ast.Name("another"), "module")


def _called(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")


def _parts(node: ast.expr) -> Iterator[ast.expr]:
    """The expressions that a compound one is made of."""
    match node:
        case ast.JoinedStr(values=parts):
            yield ast.Constant("")
            yield from (part.value for part in parts if isinstance(part, ast.FormattedValue))
        case ast.BoolOp(values=parts) | ast.List(elts=parts) | ast.Tuple(elts=parts) | ast.Dict(values=parts):
            yield ast.Constant("")
            yield from parts
        case ast.IfExp(body=one, orelse=other) | ast.BinOp(left=one, right=other):
            yield from (one, other)
        case ast.ListComp(elt=part) | ast.GeneratorExp(elt=part) | ast.DictComp(value=part):
            yield part
        case (
            ast.Starred(value=part) | ast.Subscript(value=part) | ast.Call(func=ast.Attribute(attr="join"), args=[part])
        ):
            yield part


def _given(name: str, target: ast.expr, value: ast.expr) -> Iterator[ast.expr]:
    match target, value:
        case ast.Name(id=given), _ if given == name:
            yield value
        case ast.List(elts=[one]), _:
            yield from _given(name, one, value)
        case ast.Tuple(elts=targets), ast.Tuple(elts=values):
            for one, other in zip(targets, values, strict=True):
                yield from _given(name, one, other)
        case ast.Tuple(elts=targets), _:
            names = [one.id if isinstance(one, ast.Name) else "" for one in targets]
            yield from (ast.Subscript(value, ast.Constant(place)) for place, given in enumerate(names) if given == name)


def _looped(name: str, target: ast.expr, looped: ast.expr) -> Iterator[ast.expr | None]:
    match target, looped:
        case ast.Tuple(elts=[ast.Name(id=given), _]), ast.Call(func=ast.Name(id="enumerate")) if given == name:
            yield None
        case ast.Tuple(elts=[_, rest]), ast.Call(func=ast.Name(id="enumerate"), args=[inner, *_]):
            yield from _looped(name, rest, inner)
        case ast.Tuple(elts=[_, ast.Name(id=given)]), ast.Call(func=ast.Attribute(attr="items")) if given == name:
            yield looped
        case _ if any(isinstance(one, ast.Name) and one.id == name for one in ast.walk(target)):
            yield looped


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_f_string_puts_a_value_into_sql(path: Path) -> None:
    assert Source(path.name, path.read_text("utf-8")).values_in_sql == []


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("def f(c, who): c.execute(f'select 1 where x = {who}')", "who"),
        ("def f(c, settings): return c.rows(f'select {settings.factor}')", "settings.factor"),
        ("def f(c, path: str):\n    text = f\"select * from read_csv('{path}')\"\n    c.sql(text)", "path"),
        ("def f(c, row):\n    key = row['key']\n    c.execute(f'delete {key}')", "key"),
        ("def f(c, names): c.execute(f\"select {', '.join(f'cast({n} as text)' for n in names)}\")", "', '.join("),
    ],
)
def test_a_value_in_sql_is_seen(code: str, value: str) -> None:
    found = Source("made_up.py", code).values_in_sql
    assert any(value in item for item in found)


def test_text_made_of_quoted_names_is_not_taken_for_a_value() -> None:
    code = """
def f(c, names, table, value):
    columns = [quoted(name) for name in names]
    for number, name in enumerate(names):
        columns.append(f"{quoted(name)} as c{number}")
    c.execute(f"select {', '.join(columns)} from {g(table)} where x = $x", {"x": value})

def g(table):
    return f"select * from {quoted(table)}"
"""
    assert Source("made_up.py", code).values_in_sql == []


def test_no_sql_is_put_together_by_format_or_percent() -> None:
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            match node:
                case ast.BinOp(left=ast.Constant(value=str(text)), op=ast.Mod()):
                    assert not LIKE_SQL.search(text), (path.name, node.lineno)
                case ast.Call(func=ast.Attribute(value=ast.Constant(value=str(text)), attr="format")):
                    assert not LIKE_SQL.search(text), (path.name, node.lineno)
