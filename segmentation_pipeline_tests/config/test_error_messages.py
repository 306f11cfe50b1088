"""Every error of a retailer file is reported at once, with its line, key, allowed values and the value found."""

from pathlib import Path

import pytest

from segmentation_pipeline_tests.config.minimal import MINIMAL, errors_of, only_error, write

INVALID = """\
name = "Corner Shop"
title = "Corner shop"
time_zone = "Europe/Londn"
currency = "pounds"
titel = "twice"
release = 3

[source]
path = 3
delimiter = "ab"
encoding = "utf-9"
date_format = "dd.mm.yyyy"

[source.sample]
custmers = 60

[columns]
transaction_at = "When"
price = "Price"

[cleaning]
refunds = "gross"
cancellation = '(['

[[cleaning.rules]]
name = "own"
reason = ""
column = "stock_code"
matches = '(['

[[cleaning.rules]]
name = "own"
reason = "why"
column = "price"
matches = 'x'
above = 0

[rfm]
as_of = "yesterday"

[model]
n_clusters = 1

[outliers]
features = []

[privacy]
withhold = ["country", "colour"]
"""
ERRORS = [
    "1: name: allowed: text that matches '^[a-z][a-z0-9_]*$'; found \"Corner Shop\"",
    '3: time_zone: allowed: a name of the IANA time zone database; did you mean Europe/London?; found "Europe/Londn"',
    "4: currency: allowed: text that matches '^[A-Z]{3}$'; found \"pounds\"",
    "5: titel: unknown key (did you mean title?); allowed: name, title, time_zone, currency, source, columns, "
    "customers, cleaning, rfm, outliers, model, membership, privacy, release, checks, engine; "
    'found "twice"',
    "6: release: allowed: a table; found 3",
    "9: source.path: allowed: a file, a folder, a pattern, or a list of these, as text; found 3",
    '10: source.delimiter: allowed: one character, no quote and no line end; or whitespace; found "ab"',
    '11: source.encoding: allowed: an encoding that Python knows, such as utf-8, cp1252, latin-1; found "utf-9"',
    "12: source.date_format: allowed: strptime codes of year, month and day, no offset, such as %d/%m/%Y %H:%M;"
    " iso_8601, excel_1900, excel_1904, epoch_seconds, epoch_milliseconds; or a list of these;"
    ' found "dd.mm.yyyy"',
    "15: source.sample.custmers: unknown key (did you mean customers?); allowed: customers, seed; found 60",
    "17: columns.customer_id: required, but missing: Identifier of the customer",
    "17: columns: no column gives the money of a line; allowed: amount, or both price and quantity",
    "22: cleaning.refunds: allowed: 'net' or 'ignore'; found \"gross\"",
    '23: cleaning.cancellation: a pattern of invoice numbers; allowed: if [columns] maps invoice; found "(["',
    '23: cleaning.cancellation: allowed: a regular expression of RE2; missing ]: [; found "(["',
    '27: cleaning.rules.0.reason: allowed: at least 1 character; found ""',
    '28: cleaning.rules.0.column: [columns] does not map it; allowed: transaction_at, price; found "stock_code"',
    '29: cleaning.rules.0.matches: allowed: a regular expression of RE2; missing ]: [; found "(["',
    "31: cleaning.rules.1: allowed: exactly one of matches, not_matches, required, above, below, in, not_in; it has"
    " matches and above",
    '32: cleaning.rules.1.name: an earlier rule has this name; allowed: another name; found "own"',
    '35: cleaning.rules.1.matches: cannot test price; allowed: required, above, below; found "x"',
    "39: rfm.as_of: allowed: last_transaction, end_of_day, schedule, YYYY-MM-DD, or YYYY-MM-DD HH:MM:SS;"
    ' found "yesterday"',
    "42: model.n_clusters: allowed: auto, or a whole number from 2 to 12; found 1",
    "45: outliers.features: allowed: at least 1 item; found []",
    '48: privacy.withhold: allowed: country, monetary; found ["country", "colour"]',
]


def test_all_errors_of_a_file_are_reported_at_once(tmp_path: Path) -> None:
    errors = errors_of(write(tmp_path, INVALID), withholdable=["monetary", "country"])
    assert sorted(errors) == sorted(f"shop.toml:{error}" for error in ERRORS)
    assert [int(error.split(":")[1]) for error in errors] == sorted(int(error.split(":")[0]) for error in ERRORS)


def test_every_missing_key_is_reported(tmp_path: Path) -> None:
    errors = errors_of(write(tmp_path, ""))
    keys = [error.split(": ")[1] for error in errors]
    assert sorted(keys) == ["columns", "currency", "name", "source", "time_zone", "title"]
    assert all(": required, but missing: " in error for error in errors)


def test_error_of_an_override_has_no_line(tmp_path: Path) -> None:
    text = f'{MINIMAL}\n[rfm]\nas_of = "2024-03-01"\n'
    assert only_error(tmp_path, text, {"rfm.as_of": "soon"}) == (
        "shop.toml: rfm.as_of: allowed: last_transaction, end_of_day, schedule, YYYY-MM-DD, or YYYY-MM-DD HH:MM:SS;"
        ' found "soon"'
    )


def test_override_in_a_section_of_another_type_is_reported(tmp_path: Path) -> None:
    error = only_error(tmp_path, f"rfm = 3\n{MINIMAL}", {"rfm.as_of": "2024-03-01"})
    assert error == "shop.toml:1: rfm: allowed: a table; found 3"


def test_key_with_a_line_break_is_reported_on_one_line(tmp_path: Path) -> None:
    assert only_error(tmp_path, f'"a\\nb" = 1\n{MINIMAL}').startswith('shop.toml: "a\\nb": unknown key')


def test_long_value_is_shortened(tmp_path: Path) -> None:
    error = only_error(tmp_path, f"titles = '{'x' * 1_000}'\n{MINIMAL}")
    assert error.endswith(f'; found "{"x" * 99}…')


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = \n", "Invalid value (at line 1, column 8)"),
        ("[source]\npath = 'a'\npath = 'b'\n", "Cannot overwrite a value"),
        (f"{MINIMAL}a = {'[' * 5_000}{']' * 5_000}\n", ""),
        (f"{MINIMAL}a = {'{a = ' * 2_000}\n", ""),
        (f"{MINIMAL}a = {'9' * 5_000}\n", ""),
    ],
    ids=["no value", "key twice", "nested lists", "nested tables", "long integer"],
)
def test_invalid_toml_is_reported_with_path(tmp_path: Path, text: str, message: str) -> None:
    assert only_error(tmp_path, text).startswith(f"{tmp_path / 'shop.toml'}: not readable as TOML: {message}")


def test_other_encoding_than_utf8_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "shop.toml"
    path.write_bytes(MINIMAL.replace("Corner shop", "Café").encode("latin-1"))
    [error] = errors_of(path)
    assert error.startswith(f"{path}: not readable as TOML: 'utf-8' codec can't decode byte 0xe9")
