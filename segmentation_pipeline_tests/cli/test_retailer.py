"""`segments retailer`: what a run would reject, before anything runs."""

import re
from pathlib import Path
from shutil import copytree

import pytest

import segmentation_pipeline_tests
from segmentation_pipeline_tests.commands import Ended, segments
from segmentation_pipeline_tests.shops import Shop

EXPORTS = Path(segmentation_pipeline_tests.__file__).parent / "exports"


def check(folder: Path, export: str, change: tuple[str, str] = ("", "")) -> Ended:
    """Check the sample of an export with a change to its retailer file."""
    copytree(EXPORTS / export, folder, dirs_exist_ok=True)
    shop = Shop(folder)
    shop.retailer.write_text(shop.retailer.read_text("utf-8").replace(*change), "utf-8")
    ended = segments(shop, "retailer", "check", str(shop.retailer), "--sample")
    assert not shop.data.exists(), "nothing is stored"
    return ended


def test_a_complete_sample_exits_with_0_and_names_its_files(tmp_path: Path) -> None:
    ended = check(tmp_path, "shopify")
    assert (ended.code, ended.errors) == (0, "")
    assert "the first lines of each file, about 10,000 in all; read: orders.csv (1,080). Nothing is stored." in (
        " ".join(ended.stdout.split())
    )
    assert "1.080 lines read, 1.080 kept (100,0%)" in ended.stdout


def test_a_failing_sample_exits_with_1_and_names_the_setting(tmp_path: Path) -> None:
    """A third of the lines has the second format of dates."""
    ended = check(tmp_path, "twoformats", (', "iso_8601"', ""))
    assert ended.code == 1
    assert re.search(r" unparseable_value +360 +33,3% +€\s53\.420,80 +35,5%", ended.stdout)
    assert re.search(r" transaction_at +'9999-99-99 99:99:99' +360 +33.3%", ended.stdout)
    assert ended.errors.startswith("failed: 360 of 1,080 lines (33.3%) could not be read")
    assert 'source.date_format = ["%d/%m/%Y %H:%M", "iso_8601"]' in ended.errors
    assert "The run fails from checks.fail_unparsed_share = 20.0%." in ended.errors


@pytest.mark.parametrize(
    ("export", "change", "warning"),
    [
        ("shopify", ('fill_down = ["customer_id", "transaction_at"]', 'fill_down = ["transaction_at"]'), "fill_down"),
        ("overlap", ("", ""), "exact_duplicate = 0.36 in [cleaning.expected_share]"),
        ("ids", ('"strip_leading_zeros"', '"trim"'), 'customers.normalise = ["trim", "strip_leading_zeros"]'),
        (
            "status",
            ('currency = "EUR"', 'currency = "EUR"\nchecks.min_customers = 300'),
            "customers over 329 days; the settings ask for 300 customers",
        ),
    ],
)
def test_a_sample_warns_as_a_run_does(tmp_path: Path, export: str, change: tuple[str, str], warning: str) -> None:
    ended = check(tmp_path, export, change)
    assert ended.code == 0
    assert "warning: " in ended.errors
    assert warning in ended.errors
