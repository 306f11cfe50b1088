"""A table is two files: what docs/architecture.md shows under "Add a table" works as it is written there."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import yaml

import segmentation_pipeline
from segmentation_pipeline.tables.catalog import shared_columns
from segmentation_pipeline_tests.shops import Shop

PAGE = Path(__file__).parents[2] / "docs" / "architecture.md"
MATERIALISE = """
import json, sys
import dagster as dg
import segmentation_pipeline
from segmentation_pipeline.definitions import defs

key = dg.AssetKey(sys.argv[1])
job = defs().resolve_implicit_global_asset_job_def()
with dg.DagsterInstance.ephemeral() as instance:
    result = job.execute_in_process(instance=instance, asset_selection=[key])
[materialization] = result.asset_materializations_for_node(sys.argv[1])
spec = job.asset_layer.get(key)
columns = spec.metadata["dagster/column_schema"].columns
lineage = materialization.metadata["dagster/column_lineage"].value.deps_by_column
print(json.dumps({
    "package": segmentation_pipeline.__file__,
    "success": result.success,
    "group": spec.group_name,
    "parents": sorted(parent.to_user_string() for parent in spec.parent_keys),
    "columns": {column.name: [column.type, column.description] for column in columns},
    "rows": materialization.metadata["dagster/row_count"].value,
    "checks": {check.check_name: check.passed for check in result.get_asset_check_evaluations()},
    "lineage": {
        name: sorted(f"{dep.asset_key.to_user_string()}.{dep.column_name}" for dep in deps)
        for name, deps in lineage.items()
    },
}))
"""


def files_of_the_page() -> dict[str, str]:
    """Return the files that the section shows, by the path in the first comment of each code block."""
    section = PAGE.read_text("utf-8").split("\n## Add a table\n")[1].split("\n## ")[0]
    blocks = re.findall(r"```(?:sql|yaml)\n(?:--|#) (\S+)\n(.*?)```", section, flags=re.DOTALL)
    return dict(blocks)


def materialised(folder: Path, table: str) -> dict[str, Any]:
    """Materialise a table with the package in a folder, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", MATERIALISE, table],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert Path(found["package"]).is_relative_to(folder)
    return found


def test_the_two_files_of_the_page_add_a_table(finished_shop: Shop, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    package = Path(segmentation_pipeline.__file__).parent
    shutil.copytree(package, folder / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(package.parent / "pyproject.toml", folder)
    files = files_of_the_page()
    assert sorted(Path(path).suffix for path in files) == [".sql", ".yaml"]
    for path, text in files.items():
        (folder / path).write_text(text, "utf-8")
    [contract] = (yaml.safe_load(text) for path, text in files.items() if path.endswith(".yaml"))
    table, stage = Path(next(iter(files))).stem, Path(next(iter(files))).parent.name

    found = materialised(folder, table)

    assert (found["success"], found["group"], found["checks"]) == (True, stage, {"contract": True})
    assert found["parents"] == ["rfm_features"]
    assert found["lineage"] == {
        "country": ["rfm_features.country"],
        "customers": [],
        "revenue": ["rfm_features.monetary"],
    }
    described = {
        column["name"]: {"type": "VARCHAR", "description": shared_columns()["country"].description} | column
        for column in contract["columns"]
    }
    with duckdb.connect(str(finished_shop.work), read_only=True) as database:
        assert database.table(table).columns == list(described)
        assert [str(kind) for kind in database.table(table).types] == [column["type"] for column in described.values()]
        comments = "select column_name, comment from duckdb_columns() where table_name = $table order by column_index"
        columns = dict(database.execute(comments, {"table": table}).fetchall())
        comment = "select comment from duckdb_tables() where table_name = $table"
        assert database.execute(comment, {"table": table}).fetchall() == [(contract["description"].strip(),)]
        customers = database.execute("select count(*) from rfm_features where country is not null").fetchall()
        assert database.execute(f"select sum(customers), count(*) from {table}").fetchall() == [
            (*customers[0], found["rows"])
        ]
    for name, column in described.items():
        unit = f" [{column['unit']}]" if "unit" in column else ""
        assert columns[name] == f"{column['description']}{unit}"
        assert found["columns"][name] == [column["type"], columns[name]]
