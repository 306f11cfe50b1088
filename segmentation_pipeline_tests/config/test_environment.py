"""Environment variables: read at use, typed, and never shown if secret."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

import segmentation_pipeline
from segmentation_pipeline.config.environment import Environment
from segmentation_pipeline.config.paths import dagster_home, data_folder
from segmentation_pipeline.errors import PathError


def test_environment_is_read_at_each_use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SEGMENTATION_RETAILER", "online_retail")
    monkeypatch.setenv("SEGMENTATION_DATA", str(tmp_path / "one"))
    assert (Environment.read().retailer, data_folder()) == ("online_retail", tmp_path / "one")
    monkeypatch.setenv("SEGMENTATION_RETAILER", "shop.toml")
    monkeypatch.setenv("SEGMENTATION_DATA", str(tmp_path / "two"))
    assert (Environment.read().retailer, data_folder()) == ("shop.toml", tmp_path / "two")


def test_empty_variables_count_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    unset = Environment.read()
    for name in ("RETAILER", "SOURCE", "MEMORY_LIMIT", "WEBHOOK", "PRIVACY_KEY"):
        monkeypatch.setenv(f"SEGMENTATION_{name}", "")
    monkeypatch.setenv("DAGSTER_HOME", "")
    assert Environment.read() == unset
    assert unset.retailer == "sample"
    assert dagster_home() == data_folder() / "dagster"


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGMENTATION_PRIVACY_KEY", "a-secret-key")
    monkeypatch.setenv("SEGMENTATION_WEBHOOK", "https://a-secret-address")
    environment = Environment.read()
    assert environment.privacy_key.get_secret_value() == "a-secret-key"
    assert "a-secret" not in f"{environment} {environment!r} {environment.webhook}"


@pytest.mark.parametrize(("variable", "read"), [("SEGMENTATION_DATA", data_folder), ("DAGSTER_HOME", dagster_home)])
def test_error_of_a_folder_names_its_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str, read: Callable[[], Path]
) -> None:
    monkeypatch.setenv(variable, "~no-such-user/data")
    with pytest.raises(PathError, match=rf"^{variable}: ~no-such-user/data: .* Set it to another folder"):
        read()


def test_only_one_module_reads_the_environment() -> None:
    package = Path(segmentation_pipeline.__file__).parent
    reading = [path for path in package.rglob("*.py") if re.search(r"environ\.get|getenv", path.read_text("utf-8"))]
    assert reading == [package / "config" / "environment.py"]
