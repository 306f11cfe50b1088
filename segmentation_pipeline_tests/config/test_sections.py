"""Single settings: what each accepts, and the message for what it does not."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from segmentation_pipeline.config.loading import load
from segmentation_pipeline.tables.catalog import contracts
from segmentation_pipeline_tests.config.minimal import MINIMAL, only_error, with_source, write


@pytest.mark.parametrize(
    ("path", "message"),
    [
        *[(path, "a file, a folder, a pattern, or a list") for path in ("", [], ["a.csv", ""], ["a.csv", 3], "a\0b")],
        ("../a.csv", "a path without `..`"),
        (["a.csv", "b/../c.csv"], "a path without `..`"),
    ],
)
def test_source_path_names_files_below_its_base(tmp_path: Path, path: Any, message: str) -> None:
    text = MINIMAL.replace('"lines.csv"', json.dumps(path))
    assert f"source.path: allowed: {message}" in only_error(tmp_path, text)


@pytest.mark.parametrize("date_format", ["%d/%m %H:%M", "%H:%M", "%d.%m.%Y %z", "%Q", "2024"])
def test_date_format_without_a_date_is_an_error(tmp_path: Path, date_format: str) -> None:
    error = only_error(tmp_path, with_source(f'date_format = "{date_format}"'))
    assert "source.date_format: allowed: strptime codes" in error


@pytest.mark.parametrize("date_format", ["%d/%m/%Y", "%m/%d/%y %H:%M", "%d.%m.%Y %H:%M:%S", "%d %b %Y %I:%M %p"])
def test_date_format_with_a_date_is_valid(tmp_path: Path, date_format: str) -> None:
    text = with_source(f'date_format = "{date_format}"')
    assert load(str(write(tmp_path, text))).source.date_format == date_format


@pytest.mark.parametrize("path", [["made"], ["made", "mine"], "made/*.csv", "made/20[12]4"])
def test_sample_needs_one_folder(tmp_path: Path, path: Any) -> None:
    text = MINIMAL.replace('"lines.csv"', f"{json.dumps(path)}\n\n[source.sample]\nseed = 1")
    assert only_error(tmp_path, text) == (
        "shop.toml:9: source.sample: allowed: if source.path is one folder, into which the generated files are written;"
        f" found {json.dumps(path)}"
    )


@pytest.mark.parametrize(
    "as_of",
    [
        '"2024-02-30"',
        '"soon"',
        '"29.2.2024"',
        '"2024-02-29T10:00:00Z"',
        "2024-02-29T10:00:00+01:00",
        "10:00:00",
        "true",
        '""',
        "9999-12-31",
        "[2024]",
    ],
)
def test_invalid_as_of_is_reported_once(tmp_path: Path, as_of: str) -> None:
    assert "rfm.as_of: allowed: " in only_error(tmp_path, f"{MINIMAL}\n[rfm]\nas_of = {as_of}\n")


OUT_OF_RANGE = {
    "rfm.look_back_days": (10**19, "less than or equal to 36500"),
    "release.max_as_of_jump_days": (10**19, "less than or equal to 36500"),
    "outliers.factor": (1e300, "less than or equal to 1000"),
    "source.sample.customers": (100_001, "less than or equal to 100000"),
    "title": ("", "at least 1 character"),
    "columns.customer_id": ("", "the name of a column, or its position from 1 to 16384"),
    "columns.amount": (" ", "the name of a column, or its position from 1 to 16384"),
    "columns.country": ("", "the name of a column, or its position from 1 to 16384"),
    "outliers.features": ([], "at least 1 item"),
    **{
        f"{key}.{number}": (float(number), "a finite number")
        for key in ("outliers.factor", "release.max_drop", "checks.min_silhouette", "checks.max_rejected_change")
        for number in ("inf", "-inf", "nan")
    },
}


@pytest.mark.parametrize("case", OUT_OF_RANGE)
def test_value_out_of_range_is_reported_with_the_range(tmp_path: Path, case: str) -> None:
    value, allowed = OUT_OF_RANGE[case]
    key = case.removesuffix(".inf").removesuffix(".-inf").removesuffix(".nan")
    settings: dict[str, Any] = tomllib.loads(MINIMAL)
    *sections, name = key.split(".")
    table = settings
    for section in sections:
        table = table.setdefault(section, {})
    table[name] = value
    assert f": {key}: allowed: {allowed}; found " in only_error(tmp_path, tomli_w.dumps(settings))


@pytest.mark.parametrize("section", ["promotion", "drift", "backtest"])
def test_removed_section_is_reported_with_what_to_do(tmp_path: Path, section: str) -> None:
    message = "is no longer a setting; its values are constants since 0.3.0; remove the section"
    error = only_error(tmp_path, f"{MINIMAL}\n[{section}]\nmax_moved = 0.1\n")
    assert error == f"shop.toml:14: [{section}] {message}"


@pytest.mark.parametrize(
    "key", ["model.k_range", "model.random_state", "membership.margin", "membership.max_held_days"]
)
def test_removed_key_is_reported_with_what_to_do(tmp_path: Path, key: str) -> None:
    section, name = key.split(".")
    error = only_error(tmp_path, f"{MINIMAL}\n[{section}]\n{name} = 1\n")
    assert error == f"shop.toml:15: {key} is no longer a setting; its value is a constant since 0.3.0; remove the line"


@pytest.mark.parametrize("n_clusters", ["1", "13", '"many"', "2.5", "true"])
def test_invalid_n_clusters_is_reported_once(tmp_path: Path, n_clusters: str) -> None:
    error = only_error(tmp_path, f"{MINIMAL}\n[model]\nn_clusters = {n_clusters}\n")
    assert error.endswith(f": model.n_clusters: allowed: auto, or a whole number from 2 to 12; found {n_clusters}")


@pytest.mark.parametrize("withhold", ['["colour"]', '["country", "customer_id"]'])
def test_withheld_columns_are_checked_where_they_are_known(tmp_path: Path, withhold: str) -> None:
    text = f"{MINIMAL}\n[privacy]\nwithhold = {withhold}\n"
    assert load(str(write(tmp_path, text))).privacy.withhold == json.loads(withhold)
    assert only_error(tmp_path, text, withholdable=["country", "monetary"]) == (
        f"shop.toml:15: privacy.withhold: allowed: country, monetary; found {withhold}"
    )


def test_invoice_cannot_be_dropped(tmp_path: Path) -> None:
    error = only_error(tmp_path, f'{MINIMAL}\n[privacy]\ndrop = ["invoice"]\n')
    assert error == 'shop.toml:15: privacy.drop.0: allowed: stock_code, description, country; found "invoice"'


@pytest.mark.parametrize(
    ("columns", "fill_down", "message"),
    [
        (
            "",
            '["customer_id"]',
            'fills values within an invoice; allowed: if [columns] maps invoice; found ["customer_id"]',
        ),
        ('invoice = "No"', '["invoice"]', "cannot fill invoice; allowed: transaction_at, customer_id"),
        ('invoice = "No"', '["amount"]', "cannot fill amount; allowed: transaction_at, customer_id"),
        ('invoice = "No"', '["country"]', "cannot fill country; allowed: transaction_at, customer_id"),
        (
            'invoice = "No"\nextra = {tag = "Tag"}',
            '["Tag"]',
            "cannot fill Tag; allowed: transaction_at, customer_id, tag",
        ),
        ('invoice = "No"', '"customer_id"', 'allowed: a valid list; found "customer_id"'),
    ],
)
def test_only_columns_of_an_invoices_head_are_filled_down(
    tmp_path: Path, columns: str, fill_down: str, message: str
) -> None:
    text = with_source(f"fill_down = {fill_down}") + columns
    assert only_error(tmp_path, text).startswith(f"shop.toml:9: source.fill_down: {message}")


@pytest.mark.parametrize("name", ["Status", "financial-status", "2nd", "é", ""])
def test_name_of_an_extra_column_is_a_plain_identifier(tmp_path: Path, name: str) -> None:
    error = only_error(tmp_path, f'{MINIMAL}\n[columns.extra]\n"{name}" = "S"\n')
    assert error.endswith(
        f"columns.extra.{name}: the name of a column; allowed: lower-case letters, digits and _, such as"
        f' financial_status; found "{name}"'
    )


def test_extra_column_has_no_name_of_the_pipeline(tmp_path: Path) -> None:
    """Also none that a table of lines has, in which the column could be stored one day."""
    tables = ("raw_transactions", "clean_transactions", "rejected_transactions")
    taken = {column.name for table in tables for column in contracts()[table].columns}
    for name in sorted({*taken, "transaction_time", "step", "nth", "is_copy", "is_erased", "extra"}):
        error = only_error(tmp_path, f'{MINIMAL}\n[columns.extra]\n{name} = "S"\n')
        expected = (
            f'columns.extra.{name}: the pipeline has a column of this name; allowed: another name; found "{name}"'
        )
        assert error == f"shop.toml:15: {expected}"


def test_extra_column_may_be_dropped_and_stores_no_hashed_value(tmp_path: Path) -> None:
    text = f'{MINIMAL}\n[columns.extra]\nmail = "WHO"\n\n[privacy]\npseudonymise = true\n'
    message = "privacy.pseudonymise hashes the customers of this column; allowed: another column"
    assert only_error(tmp_path, text) == f'shop.toml:15: columns.extra.mail: {message}; found "WHO"'
    assert load(str(write(tmp_path, f'{text}drop = ["mail"]\n'))).privacy.drop == ["mail"]


def test_a_date_language_without_a_name_to_read_is_rejected(tmp_path: Path) -> None:
    error = only_error(tmp_path, with_source('date_format = "%d.%m.%Y"\ndate_language = "de"'))
    assert "source.date_language: names in dates; allowed: if source.date_format has one of %a, %A, %b, %B" in error
    text = with_source('date_format = ["%d.%m.%Y", "%d. %B %Y"]\ndate_language = "de"')
    assert load(str(write(tmp_path, text))).source.date_language == "de"
