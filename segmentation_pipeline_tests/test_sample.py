"""Sample data: the files, their flaws and how customers buy."""

import re
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest

from segmentation_pipeline.sample_data import HEADER, ORPHANS, RATES, write_once, write_sample

PRODUCT = r"\d{5}[A-Z]?"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_sample(tmp_path_factory.mktemp("sample") / "new" / "folder")


@pytest.fixture(scope="module")
def exported(files: list[Path]) -> pd.DataFrame:
    """Every line of every file as text, with numbers and dates."""
    parts = [pd.read_csv(path, dtype=str, keep_default_na=False).assign(file=path.name) for path in files]
    lines = pd.concat(parts, ignore_index=True)
    lines["quantity"] = lines["Quantity"].astype(int)
    lines["at"] = pd.to_datetime(lines["InvoiceDate"], format="%Y-%m-%d %H:%M:%S")
    lines["month"] = lines["InvoiceDate"].str[:7]
    return lines


@pytest.fixture(scope="module")
def lines(exported: pd.DataFrame) -> pd.DataFrame:
    """The lines without those that the next month's file repeats."""
    return exported[exported["file"].str[13:20] == exported["month"]]


@pytest.fixture(scope="module")
def purchases(lines: pd.DataFrame) -> pd.DataFrame:
    """Lines of products with a customer and a price, without duplicates."""
    bought = lines["InvoiceNo"].str.fullmatch(r"\d{6}") & lines["StockCode"].str.fullmatch(PRODUCT)
    paid = (lines["CustomerID"] != "") & (lines["UnitPrice"] != "0.00")
    return lines[bought & paid].drop_duplicates()


def test_same_seed_writes_the_same_bytes(tmp_path: Path) -> None:
    one, other = (write_sample(tmp_path / name, customers=150, seed=7) for name in ("one", "other"))
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in other]


def test_writing_again_replaces_the_files(tmp_path: Path) -> None:
    write_sample(tmp_path, customers=20, seed=1)
    paths = write_sample(tmp_path, customers=20, seed=2)
    assert sorted(tmp_path.iterdir()) == paths


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.csv")}


def test_edited_files_are_left_alone(tmp_path: Path) -> None:
    write_once(tmp_path / "sample", customers=20, seed=1)
    [edited, dropped, *_] = sorted((tmp_path / "sample").glob("*.csv"))
    edited.write_text("other", "utf-8")
    dropped.unlink()
    before = contents(tmp_path / "sample")
    assert len(before) == 23
    write_once(tmp_path / "sample", customers=20, seed=1)
    assert contents(tmp_path / "sample") == before


@pytest.mark.parametrize(("customers", "seed"), [(30, 1), (20, 2)])
def test_changed_size_or_seed_writes_new_files(tmp_path: Path, customers: int, seed: int) -> None:
    for size, number in ((20, 1), (customers, seed)):
        write_once(tmp_path / "sample", customers=size, seed=number)
    write_sample(tmp_path / "wanted", customers=customers, seed=seed)
    assert contents(tmp_path / "sample") == contents(tmp_path / "wanted")


def test_incomplete_files_are_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(path: Path, target: Path) -> Path:
        if target.name == "transactions-2024-07.csv":
            raise KeyboardInterrupt
        return real(path, target)

    real = Path.replace
    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_once(tmp_path, customers=20, seed=1)
    assert len(contents(tmp_path)) == 6
    write_once(tmp_path, customers=20, seed=1)
    assert len(contents(tmp_path)) == 24


def test_folder_of_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("other", "utf-8")
    write_once(tmp_path, customers=20, seed=1)
    write_once(tmp_path / "other.csv", customers=20, seed=1)
    assert [path.name for path in tmp_path.iterdir()] == ["other.csv"]


def test_another_seed_writes_other_lines(tmp_path: Path) -> None:
    one, other = (write_sample(tmp_path / str(seed), customers=20, seed=seed) for seed in (1, 2))
    assert [path.read_bytes() for path in one] != [path.read_bytes() for path in other]


@pytest.mark.parametrize("customers", [1, 3])
def test_few_customers_still_write_24_files_with_headers(tmp_path: Path, customers: int) -> None:
    paths = write_sample(tmp_path, customers=customers)
    assert [path.read_text(encoding="utf-8").split("\n")[0] for path in paths] == [HEADER] * 24


@pytest.mark.parametrize("customers", [0, 100_001])
def test_number_of_customers_out_of_range_is_an_error(tmp_path: Path, customers: int) -> None:
    with pytest.raises(ValueError, match="customers must be"):
        write_sample(tmp_path / "none", customers=customers)
    assert not (tmp_path / "none").exists()


def test_each_month_has_a_file_with_the_header(files: list[Path]) -> None:
    months = [f"{year}-{month:02}" for year in (2024, 2025) for month in range(1, 13)]
    assert [path.name for path in files] == [f"transactions-{month}.csv" for month in months]
    known = b"InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n"
    assert all(path.read_bytes().startswith(known) for path in files)


def test_every_field_has_its_format(exported: pd.DataFrame) -> None:
    forms = {
        "InvoiceNo": r"[CA]?\d{6}",
        "Quantity": r"-?[1-9]\d*",
        "InvoiceDate": r"202[45]-\d\d-\d\d \d\d:\d\d:\d\d",
        "UnitPrice": r"-?\d+\.\d\d",
        "CustomerID": r"(\d+\.0)?",
        "Country": r"[A-Z][A-Za-z ]+",
    }
    for column, form in forms.items():
        assert exported[column].str.fullmatch(form).all(), column


def test_default_has_about_300_000_lines_of_5_000_customers(exported: pd.DataFrame, purchases: pd.DataFrame) -> None:
    assert 250_000 < len(exported) < 350_000
    assert purchases["CustomerID"].nunique() == 5_000
    assert 9 < purchases.groupby("InvoiceNo").size().mean() < 15


def test_customers_are_skewed_as_in_a_real_shop(purchases: pd.DataFrame) -> None:
    visits = purchases.groupby("CustomerID")["InvoiceNo"].nunique()
    assert 0.35 < (visits <= 2).mean() < 0.5
    assert 0.01 < (visits > 20).mean() < 0.04
    amount = purchases["quantity"] * purchases["UnitPrice"].astype(float)
    money = amount.groupby(purchases["CustomerID"]).sum()
    low, high = money.quantile([0.25, 0.75])
    assert 0.05 < (money > high + 1.5 * (high - low)).mean() < 0.12
    quiet = purchases["at"].max() - purchases.groupby("CustomerID")["at"].max()
    assert 0.3 < (quiet > pd.Timedelta(days=180)).mean() < 0.6


def test_purchases_are_in_opening_hours(exported: pd.DataFrame) -> None:
    at = exported["at"].dt
    assert at.hour.between(8, 17).all()
    assert not (at.day_of_week == 5).any()
    assert not ((at.month == 12) & (at.day >= 24) | (at.month == 1) & (at.day == 1)).any()


def test_lines_are_ordered_by_time_and_invoice_number(exported: pd.DataFrame) -> None:
    number = exported["InvoiceNo"].str[-6:]
    for _, part in exported.assign(number=number).groupby("file"):
        assert part["at"].is_monotonic_increasing
        assert part["number"].is_monotonic_increasing
    of_invoice = exported.groupby(number)[["InvoiceNo", "InvoiceDate", "CustomerID", "Country"]]
    assert (of_invoice.nunique() == 1).all(axis=None)


def test_invoice_has_a_product_once(purchases: pd.DataFrame) -> None:
    assert not purchases.duplicated(["InvoiceNo", "StockCode"]).any()


def test_each_file_repeats_the_last_day_of_the_previous(files: list[Path]) -> None:
    for path, following in pairwise(files):
        own = path.read_bytes().splitlines(keepends=True)[1:]
        date = re.compile(rb"(\d{4}-\d\d-\d\d) \d\d:\d\d:\d\d,")
        dates = [match[1] for line in own if (match := date.search(line))]
        last_day = [line for line, day in zip(own, dates, strict=True) if day == dates[-1]]
        again = following.read_bytes().splitlines(keepends=True)[1 : len(last_day) + 2]
        assert again[:-1] == last_day
        assert following.stem[-7:].encode() in again[-1]


def test_flaws_occur_at_their_rates(lines: pd.DataFrame) -> None:
    free = lines["UnitPrice"] == "0.00"
    odd_codes = ["POST", "D", "M", "DOT", "CRUK", "PADS", "AMAZONFEE", "gift_0001_20", "BANK CHARGES"]
    columns = HEADER.split(",")
    flaws = {
        "guest": lines["CustomerID"] == "",
        "cancellation": lines["InvoiceNo"].str.startswith("C"),
        "duplicate": lines.duplicated(columns),
        "odd_code": lines["StockCode"].isin(odd_codes),
        "write_off": free & (lines["CustomerID"] == "") & (lines["quantity"] < 0),
        "gift": free & (lines["quantity"] > 0),
    }
    assert {name: flaw.mean() for name, flaw in flaws.items()} == pytest.approx(RATES, rel=0.1)
    assert free.mean() == pytest.approx(0.0046, rel=0.1)


def test_cancellations_refer_to_an_earlier_line_except_orphans(lines: pd.DataFrame, purchases: pd.DataFrame) -> None:
    key = ["CustomerID", "StockCode", "UnitPrice"]
    cancelled = lines[lines["InvoiceNo"].str.startswith("C")].reset_index(names="line")
    pairs = cancelled.merge(purchases, on=key, suffixes=("", "_bought"))
    earlier = pairs["at_bought"] < pairs["at"].dt.normalize()
    fits = earlier & (pairs["quantity_bought"] >= -pairs["quantity"])
    assert (cancelled["quantity"] < 0).all()
    assert len(cancelled) - pairs.loc[fits, "line"].nunique() == ORPHANS


def test_no_purchase_is_cancelled_twice(lines: pd.DataFrame, purchases: pd.DataFrame) -> None:
    key = ["CustomerID", "StockCode", "UnitPrice"]
    back = lines[lines["InvoiceNo"].str.startswith("C") & lines["CustomerID"].isin(purchases["CustomerID"])]
    bought = purchases.groupby(key)["quantity"].sum()
    assert (back.groupby(key)["quantity"].sum() + bought).min() >= 0


def test_bad_debts_and_negative_prices_are_there(lines: pd.DataFrame) -> None:
    debts = lines[lines["InvoiceNo"].str.startswith("A")]
    assert sorted(debts["UnitPrice"]) == ["-11062.06", "-11062.06", "11062.06"]
    assert (debts["CustomerID"] == "").all()
    assert lines["UnitPrice"].str.startswith("-").sum() == 4


def test_descriptions_and_countries_have_their_flaws(lines: pd.DataFrame) -> None:
    text = lines["Description"]
    assert 0.01 < (text != text.str.strip()).mean() < 0.1
    assert (lines.loc[text == "", ["CustomerID", "UnitPrice"]] == ["", "0.00"]).all(axis=None)
    assert (text == "").any()
    countries = lines[lines["CustomerID"] != ""].groupby("CustomerID")["Country"].nunique()
    assert countries.max() == 2
    assert 3 <= (countries == 2).sum() <= 25
    assert 0.85 < (lines["Country"] == "United Kingdom").mean() < 0.97
