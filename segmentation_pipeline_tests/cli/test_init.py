"""`segments retailer init`: a retailer file from a source that nobody has described."""

import re
from pathlib import Path
from shutil import copytree

import pytest

import segmentation_pipeline_tests
from segmentation_pipeline_tests.commands import Ended, segments
from segmentation_pipeline_tests.shops import Shop

EXPORTS = Path(segmentation_pipeline_tests.__file__).parent / "exports"


def init(folder: Path, export: str, *options: str) -> Ended:
    copytree(EXPORTS / export / "in", folder / "in", dirs_exist_ok=True)
    target = folder / "shop.toml"
    ended = segments(Shop(folder), "retailer", "init", str(folder / "in"), "--output", str(target), *options)
    assert not (folder / "data").exists(), "nothing is stored"
    return ended


@pytest.fixture(scope="module")
def shopify(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    folder = tmp_path_factory.mktemp("shopify")
    return folder, init(folder, "shopify")


def test_a_retailer_file_is_written_with_evidence_and_checked(shopify: tuple[Path, Ended]) -> None:
    folder, ended = shopify
    assert (ended.code, ended.errors) == (0, "")
    assert f"written: {folder / 'shop.toml'}" in ended.stdout
    assert ended.stdout.splitlines()[-1].startswith("next: set time_zone and currency, then segments retailer check")
    text = (folder / "shop.toml").read_text("utf-8")
    assert 'path = "in"' in text
    assert 'fill_down = ["customer_id"]' in text
    for setting in re.findall(r"^\w+ = .*$", text.partition("[columns]")[2], re.MULTILINE):
        assert f".\n{setting}" in text, "the line above is its evidence"
    checked = segments(Shop(folder), "retailer", "check", str(folder / "shop.toml"), "--sample")
    assert (checked.code, checked.errors) == (0, "")
    assert "1,080 lines read, 1,080 kept (100.0%)" in checked.stdout
    assert "Currency: XXX, which stands for none." in checked.stdout


def test_the_first_ten_lines_are_shown_without_customers(shopify: tuple[Path, Ended]) -> None:
    folder, ended = shopify
    text = (folder / "shop.toml").read_text("utf-8")
    for shown in (ended.stdout, text):
        assert (
            len(re.findall(r"^(?:# )?#10\d\d +2025-\d\d-\d\d \d\d:\d\d:00  a9999@aaaaaaa\.aaa", shown, re.MULTILINE))
            == 10
        )
        assert "@example.com" not in shown
        assert not re.search(r"c0\d\d\d", shown)


def test_an_open_setting_is_named_by_the_check(tmp_path: Path) -> None:
    ended = init(tmp_path, "stripe")
    assert "left open: source.minor_unit_digits" in ended.stdout
    target = tmp_path / "shop.toml"
    number = target.read_text("utf-8").splitlines().index('minor_unit_digits = "? 0 | 2"') + 1
    checked = segments(Shop(tmp_path), "retailer", "check", str(target))
    assert (checked.code, checked.stdout) == (2, "")
    assert checked.errors == (
        f"error: shop.toml:{number}: source.minor_unit_digits: left open, because the source does not say which value"
        " is right: set 0 or 2"
    )


def test_an_existing_file_is_overwritten_only_by_force(tmp_path: Path) -> None:
    target = tmp_path / "shop.toml"
    target.write_text("mine")
    ended = init(tmp_path, "preamble")
    assert (ended.code, target.read_text()) == (2, "mine")
    assert f"{target} exists already. Overwrite it with --force, or name another with --output." in ended.errors
    assert init(tmp_path, "preamble", "--force").code == 0
    assert "skip_lines = 3" in target.read_text("utf-8")


def test_a_source_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    ended = segments(Shop(tmp_path), "retailer", "init", str(tmp_path / "none.csv"))
    assert ended.code == 2
    assert ended.errors == f"error: {tmp_path / 'none.csv'}: there is no such file or folder."
