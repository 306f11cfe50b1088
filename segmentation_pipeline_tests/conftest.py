"""Fixtures of all tests: an environment of their own, and finished shops to copy (see `shops`)."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from segmentation_pipeline_tests import shops
from segmentation_pipeline_tests.shops import Shop

# Deleted on import, because fixtures of a session or module run before those of a test.
for name in [name for name in os.environ if name.startswith("SEGMENTATION_") or name == "DAGSTER_HOME"]:
    del os.environ[name]

# A file of tests runs on each core. Threads of the linear algebra would wait for one another: 15 % of a small fit.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")

# Dagster's event log waits for the disk some hundred times a run. Temporary folders in memory save that, if there is
# room for the copies of the shops and the real data.
MEMORY = Path("/dev/shm")  # noqa: S108 - pytest creates a folder of its own in it
if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > 8 * 2**30:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))

# The files that take longest, longest first (150 to 25 s beside others), because they wait for processes or compute.
SLOW_FILES = (
    "test_real_data",
    "test_command_line",
    "test_web_interface",
    "test_readers",
    "test_parquet_only",
    "test_incremental",
    "test_erasure",
    "test_query_postgresql",
    "test_file_formats",
    "test_model_runs",
    "test_errors",
    "test_restore",
    "test_membership",
    "test_promotion",
    "test_object_store",
    "test_proposal",
    "test_cleaning",
    "test_layouts",
    "test_automation",
    "test_history",
    "test_many_nights",
    "test_store",
    "test_kills",
    "test_upgrade",
)

MAX_WORDS = 10


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Reject long names, and start slow files first, so that no core waits at the end for a long file on another one.

    Raises:
        pytest.UsageError: The name of a test has more than MAX_WORDS words after `test`.
    """
    names = {str(getattr(item, "originalname", item.name)) for item in items}
    if long := sorted(name for name in names if name.count("_") > MAX_WORDS):
        raise pytest.UsageError(f"Test names of more than {MAX_WORDS} words: {', '.join(long)}")
    ranks = {name: rank for rank, name in enumerate(SLOW_FILES)}
    items.sort(key=lambda item: ranks.get(item.path.stem, len(ranks)))


@pytest.fixture(autouse=True)
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data folder of the test, which SEGMENTATION_DATA names; nothing creates it in advance."""
    folder = tmp_path / "data"
    monkeypatch.setenv("SEGMENTATION_DATA", str(folder))
    return folder


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """A Dagster instance in memory."""
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all processes of the tests, for shops that one of them builds and the others copy."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def finished_template(shared_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """A shop after its first run, for tests that only read."""
    built = shops.build_once(shared_folder / "finished_shop", shops.finished)
    return built.copy(tmp_path_factory.mktemp("finished"))


@pytest.fixture
def finished_shop(finished_template: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """A copy of a shop after its first run, whose data folder is the test's."""
    shop = finished_template.copy(tmp_path)
    shop.enter(monkeypatch)
    return shop


@pytest.fixture(scope="session")
def refitted_template(finished_template: Shop, shared_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """A shop after two nights and a refit, for tests that only read."""
    built = shops.build_once(shared_folder / "refitted_shop", lambda folder: shops.refitted(finished_template, folder))
    return built.copy(tmp_path_factory.mktemp("refitted"))


@pytest.fixture
def refitted_shop(refitted_template: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """A copy of a shop after two nights and a refit, whose data folder is the test's."""
    shop = refitted_template.copy(tmp_path)
    shop.enter(monkeypatch)
    return shop
