"""Retailer files: found by name or path, read, and overridden by a run."""

from datetime import date
from pathlib import Path

import pytest

from segmentation_pipeline.config.loading import (
    absolute_arguments,
    find,
    load,
    load_settings,
    resolve_retailer,
    shipped_names,
    source_base,
)
from segmentation_pipeline.errors import PathError, RetailerError
from segmentation_pipeline_tests.config.minimal import MINIMAL, write


def test_unknown_name_is_reported_with_the_shipped_names(tmp_path: Path) -> None:
    with pytest.raises(RetailerError) as raised:
        load("online_retai")
    assert str(raised.value) == (
        "retailer 'online_retai': no such file, and not a shipped retailer"
        f" ({', '.join(shipped_names())}); did you mean online_retail?"
    )
    for missing in (tmp_path, tmp_path / "none.toml"):
        with pytest.raises(RetailerError, match="no such file"):
            find(str(missing))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("~no-such-user/shop.toml", "home directory"),
        ("a" * 300, "File name too long"),
        ("a\0b", "no such file"),
    ],
)
def test_impossible_path_is_an_error_message(name: str, message: str) -> None:
    with pytest.raises(RetailerError, match=message) as raised:
        load_settings(name)
    assert repr(name) in str(raised.value)


@pytest.mark.parametrize("name", shipped_names())
def test_shipped_files_are_valid(name: str) -> None:
    assert load(name).name == name


@pytest.mark.parametrize("name", ["online_retail", "online_retail_ii", "sample"])
def test_files_of_the_online_retail_data_have_its_rules(name: str) -> None:
    settings = load(name)
    assert [rule.name for rule in settings.cleaning.rules] == [
        "invalid_invoice",
        "not_a_product",
        "missing_customer",
        "price_not_positive",
    ]


def test_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "shop.toml"
    path.write_bytes(MINIMAL.encode("utf-8-sig"))
    assert load(str(path)).title == "Corner shop"


def test_overrides_replace_values_of_the_file(tmp_path: Path) -> None:
    overrides = {"source.path": "other.csv", "rfm.as_of": "2024-03-01", "title": "Other"}
    settings = load(str(write(tmp_path, MINIMAL)), overrides)
    assert (settings.source.path, settings.rfm.as_of, settings.title) == ("other.csv", date(2024, 3, 1), "Other")


def test_retailer_is_argument_then_environment_then_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_retailer("") == "sample"
    monkeypatch.setenv("SEGMENTATION_RETAILER", "online_retail")
    assert (resolve_retailer(""), resolve_retailer("online_retail_ii")) == ("online_retail", "online_retail_ii")


@pytest.mark.parametrize("by_environment", [False, True])
def test_source_of_a_run_disables_the_sample(monkeypatch: pytest.MonkeyPatch, by_environment: bool) -> None:
    assert load_settings("sample").source.sample is not None
    monkeypatch.setenv("SEGMENTATION_SOURCE", "/mine" if by_environment else "")
    source = load_settings("sample", "" if by_environment else "/mine").source
    assert (source.path, source.sample) == ("/mine", None)


def test_source_of_a_run_may_contain_parent_steps(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    file = str(write(tmp_path / "files", MINIMAL))
    assert load_settings(file, "../exports/*.csv").source.path == str(tmp_path / "exports" / "*.csv")


def test_arguments_are_valid_in_every_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, MINIMAL)
    monkeypatch.chdir(tmp_path)
    assert absolute_arguments("shop.toml", "in/*.csv") == (f"{tmp_path}/shop.toml", f"{tmp_path}/in/*.csv")
    assert absolute_arguments("", "") == ("sample", "")
    with pytest.raises(PathError, match=r"^~no-such-user/in: "):
        absolute_arguments("sample", "~no-such-user/in")


def test_relative_sources_start_beside_the_file(tmp_path: Path, data_folder: Path) -> None:
    assert source_base(str(write(tmp_path, MINIMAL))) == tmp_path
    assert source_base("sample") == data_folder
