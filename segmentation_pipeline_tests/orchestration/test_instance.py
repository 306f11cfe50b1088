"""Tests of Dagster's folder, of the data folder, and of loading the workspace without an installed package."""

import os
import subprocess
import sys
import venv
from pathlib import Path

import dagster as dg
import duckdb
import pytest

import segmentation_pipeline
from segmentation_pipeline_tests.commands import segments
from segmentation_pipeline_tests.scenarios import regular_customers
from segmentation_pipeline_tests.shops import Shop

PACKAGE = Path(segmentation_pipeline.__file__).parent
PROJECT = PACKAGE.parent


def test_home_is_created_in_the_data_folder_and_never_overwritten(tmp_path: Path) -> None:
    def home() -> str:
        return segments(Shop(tmp_path), "home", DAGSTER_HOME="", SEGMENTATION_DATA=str(tmp_path / "my data")).stdout

    settings = tmp_path / "my data" / "dagster" / "dagster.yaml"
    assert home() == f"{settings.parent}\n"
    assert settings.read_text("utf-8") == (PACKAGE / "dagster.yaml").read_text("utf-8")
    settings.write_text("telemetry: {enabled: false}\n", "utf-8")
    assert home() == f"{settings.parent}\n"
    assert settings.read_text("utf-8") == "telemetry: {enabled: false}\n"


def test_home_that_dagster_takes_for_a_pattern_is_rejected(tmp_path: Path) -> None:
    ended = segments(Shop(tmp_path), "home", DAGSTER_HOME=str(tmp_path / "a[1]"))
    assert (ended.code, ended.stdout) == (2, "")
    assert "Name another folder in DAGSTER_HOME." in ended.errors
    assert not (tmp_path / "a[1]").exists()


def test_relative_home_starts_at_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert segments(Shop(tmp_path), "home", DAGSTER_HOME="my/dagster").stdout == f"{tmp_path / 'my' / 'dagster'}\n"


def test_data_folder_that_cannot_be_created_is_an_error(tmp_path: Path) -> None:
    shop = Shop.build(tmp_path, regular_customers(8))
    (tmp_path / "file").touch()
    ended = segments(shop, "run", DAGSTER_HOME="", SEGMENTATION_DATA=str(tmp_path / "file"))
    assert ended.code == 2
    assert str(tmp_path / "file") in ended.errors
    assert "Traceback" not in ended.errors


def test_default_data_folder_is_beside_the_project(tmp_path: Path) -> None:
    script = "from segmentation_pipeline.config.paths import *; print(data_folder(), dagster_home(), sep='\\n')"
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("SEGMENTATION_", "DAGSTER_"))
    }
    for folder in (tmp_path, PROJECT, PACKAGE):
        printed = subprocess.run(
            [sys.executable, "-c", script], env=environment, cwd=folder, capture_output=True, text=True, check=True
        )
        assert printed.stdout.splitlines() == [str(PROJECT / "data"), str(PROJECT / "data" / "dagster")]


def test_workspace_loads_without_the_package_installed(tmp_path: Path) -> None:
    """The virtual environment of the test has every dependency, and not the package."""
    venv.create(tmp_path / "plain", with_pip=False, symlinks=True)
    [packages] = (tmp_path / "plain" / "lib").glob("python*/site-packages")
    # A folder named in a .pth file has its own .pth files ignored, so the package's is. DuckDB may be in another
    # folder, because the suite runs with the oldest one, too.
    folders = dict.fromkeys(str(Path(str(module.__file__)).parents[1]) for module in (duckdb, dg))
    (packages / "dependencies.pth").write_text("\n".join(folders) + "\n", "utf-8")
    python = tmp_path / "plain" / "bin" / "python"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    absent = subprocess.run(
        [python, "-c", "import duckdb, segmentation_pipeline"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    assert b"No module named 'segmentation_pipeline'" in absent.stderr
    loaded = subprocess.run(
        [python, "-m", "dagster", "definitions", "validate", "-w", "workspace.yaml"],
        env=environment,
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert loaded.returncode == 0, loaded.stdout + loaded.stderr
    assert "Validation successful for code location segmentation_pipeline" in loaded.stdout + loaded.stderr
