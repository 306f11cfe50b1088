"""Each test has a data folder and a Dagster home of its own, and none of the settings of who runs it."""

import os
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

# At once, because fixtures of whole modules run before those of a test.
for name in [name for name in os.environ if name.startswith("SEGMENTATION_") or name == "DAGSTER_HOME"]:
    del os.environ[name]


@pytest.fixture(autouse=True)
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "data"
    monkeypatch.setenv("SEGMENTATION_DATA", str(folder))
    return folder


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral
