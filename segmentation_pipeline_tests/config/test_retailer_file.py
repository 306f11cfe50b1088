"""The retailer file: what it may say, and that every error is told at once, in sentences that mend it."""

import json
import tomllib
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from segmentation_pipeline.config.loading import find, load, load_settings, shipped_names
from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.errors import RetailerError
from segmentation_pipeline_tests.scenarios import retailer_file, retailer_settings

GOOD = """\
name = "corner_shop"
title = "Corner shop"
time_zone = "Europe/London"
currency = "GBP"

[source]
path = "lines.csv"

[columns]
transaction_at = "When"
customer_id = "Who"
amount = "Money"
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "shop.toml"
    path.write_text(text, "utf-8")
    return path


def errors_of(path: Path, **overrides: Any) -> list[str]:
    with pytest.raises(RetailerError) as told:
        load(str(path), **overrides)
    return str(told.value).splitlines()


def only_error(folder: Path, text: str, **overrides: Any) -> str:
    [error] = errors_of(written(folder, text), **overrides)
    return error


def with_rule(rule: str) -> str:
    return f'{GOOD}invoice = "Invoice"\nprice = "Price"\n\n[[cleaning.rules]]\nname = "own"\nreason = "why"\n{rule}\n'


def test_every_error_of_a_file_is_told_at_once_with_line_key_found_and_allowed(tmp_path: Path) -> None:
    errors = errors_of(
        written(
            tmp_path,
            """\
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
""",
        )
    )
    assert errors == [
        "shop.toml:1: name: allowed: text of pattern '^[a-z][a-z0-9_]*$'; found \"Corner Shop\"",
        'shop.toml:3: time_zone: allowed: a name of the IANA time zone database; Europe/London?; found "Europe/Londn"',
        "shop.toml:4: currency: allowed: text of pattern '^[A-Z]{3}$'; found \"pounds\"",
        "shop.toml:5: titel: unknown key (title?); allowed: name, title, time_zone, currency, source, columns, "
        "cleaning, rfm, outliers, model, promotion, membership, drift, backtest, privacy, release, checks; "
        'found "twice"',
        "shop.toml:6: release: allowed: a table; found 3",
        "shop.toml:9: source.path: allowed: a file, a folder, a pattern, or a list of these, as text; found 3",
        'shop.toml:10: source.delimiter: allowed: text of pattern \'^[^"\\r\\n]$\'; found "ab"',
        "shop.toml:11: source.encoding: allowed: an encoding that Python knows, such as utf-8, cp1252, latin-1; "
        'found "utf-9"',
        "shop.toml:12: source.date_format: allowed: strptime codes of year, month and day, no offset, such as "
        '%d/%m/%Y %H:%M; found "dd.mm.yyyy"',
        "shop.toml:15: source.sample.custmers: unknown key (customers?); allowed: customers, seed; found 60",
        "shop.toml:17: columns.customer_id: missing, and it has no default; allowed: Who bought.",
        "shop.toml:17: columns: money is missing; allowed: amount, or both price and quantity",
        "shop.toml:22: cleaning.refunds: allowed: 'net' or 'ignore'; found \"gross\"",
        "shop.toml:23: cleaning.cancellation: a pattern of invoice numbers; allowed: where [columns] names invoice; "
        'found "(["',
        'shop.toml:23: cleaning.cancellation: allowed: a regular expression of RE2; missing ]: [; found "(["',
        'shop.toml:27: cleaning.rules.0.reason: allowed: at least 1 character; found ""',
        "shop.toml:28: cleaning.rules.0.column: [columns] does not name it; allowed: transaction_at, price; "
        'found "stock_code"',
        'shop.toml:29: cleaning.rules.0.matches: allowed: a regular expression of RE2; missing ]: [; found "(["',
        "shop.toml:31: cleaning.rules.1: allowed: exactly one of matches, required, above, in; "
        "it has matches and above",
        'shop.toml:32: cleaning.rules.1.name: an earlier rule has this name; allowed: another; found "own"',
        'shop.toml:35: cleaning.rules.1.matches: does not go with price; allowed: required, above; found "x"',
        "shop.toml:39: rfm.as_of: allowed: last_transaction, end_of_day, schedule, YYYY-MM-DD, or YYYY-MM-DD HH:MM:SS;"
        ' found "yesterday"',
        "shop.toml:42: model.n_clusters: allowed: auto, or a whole number from 2 to 12; found 1",
        "shop.toml:45: outliers.features: allowed: at least 1 item; found []",
    ]


def test_every_missing_key_is_told(tmp_path: Path) -> None:
    errors = errors_of(written(tmp_path, ""))
    named = [error.split(": ")[1] for error in errors]
    assert sorted(named) == ["columns", "currency", "name", "source", "time_zone", "title"]
    assert all("missing, and it has no default; allowed: " in error for error in errors)


@pytest.mark.parametrize(
    ("rule", "sentence"),
    [
        (
            'column = "invoice"',
            "cleaning.rules.0: allowed: exactly one of matches, required, above, in; it has none",
        ),
        (
            'column = "invoice"\nmatches = "x"\nin = ["x"]',
            "cleaning.rules.0: allowed: exactly one of matches, required, above, in; it has matches and in",
        ),
        ('column = "price"\nin = ["1"]', 'does not go with price; allowed: required, above; found ["1"]'),
        ('column = "invoice"\nabove = 1', "does not go with invoice; allowed: required, matches, in; found 1"),
        (
            'column = "transaction_at"\nmatches = "2024"',
            'does not go with transaction_at; allowed: required; found "2024"',
        ),
        ('column = "price"\nabove = 1e30', "cleaning.rules.0.above: allowed: less than 100000000000000; found 1e+30"),
        ('column = "colour"\nrequired = true', "cleaning.rules.0.column: allowed: 'invoice', 'stock_code', "),
        ('column = "invoice"\nrequired = false', "cleaning.rules.0.required: allowed: True; found false"),
        ('column = "invoice"\nin = []', "cleaning.rules.0.in: allowed: at least 1 item; found []"),
        (
            'column = "invoice"\nmatch = "x"\nrequired = true',
            "cleaning.rules.0.match: unknown key (matches?); allowed: ",
        ),
    ],
)
def test_a_rule_is_one_test_that_suits_its_column(tmp_path: Path, rule: str, sentence: str) -> None:
    assert sentence in only_error(tmp_path, with_rule(rule))


@pytest.mark.parametrize(
    "name",
    [
        "unparseable_value",
        "cancellation",
        "positive_cancellation",
        "negative_money",
        "after_as_of",
        "exact_duplicate",
        "read",
    ],
)
def test_a_rule_cannot_take_the_name_of_one_that_always_holds(tmp_path: Path, name: str) -> None:
    text = with_rule('column = "price"\nabove = 0').replace('"own"', f'"{name}"')
    assert f'a rule that always holds has this name; allowed: another; found "{name}"' in only_error(tmp_path, text)


def test_the_rules_for_a_missing_customer_and_invoice_can_be_replaced_on_their_column_only(tmp_path: Path) -> None:
    own = with_rule('column = "customer_id"\nmatches = "^[0-9]+$"').replace('"own"', '"missing_customer"')
    assert load(str(written(tmp_path, own))).cleaning.rules[0].name == "missing_customer"
    assert 'found "missing_customer"' in only_error(tmp_path, own.replace('"customer_id"\nm', '"invoice"\nm'))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("name = \n", "not readable as TOML: Invalid value (at line 1, column 8)"),
        ("[source]\npath = 'a'\npath = 'b'\n", "not readable as TOML: Cannot overwrite a value"),
    ],
)
def test_a_file_that_is_no_toml_says_where(tmp_path: Path, text: str, sentence: str) -> None:
    path = written(tmp_path, text)
    assert only_error(tmp_path, text).startswith(f"{path}: {sentence}")


def test_a_file_that_is_not_utf8_says_so(tmp_path: Path) -> None:
    path = tmp_path / "shop.toml"
    path.write_bytes(GOOD.replace("Corner shop", "Café").encode("latin-1"))
    [error] = errors_of(path)
    assert error.startswith(f"{path}: not readable as TOML: 'utf-8' codec can't decode byte 0xe9")


def test_a_byte_order_mark_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "shop.toml"
    path.write_bytes(GOOD.encode("utf-8-sig"))
    assert load(str(path)).title == "Corner shop"


def test_a_name_that_is_no_file_is_told_with_what_is_shipped(tmp_path: Path) -> None:
    with pytest.raises(RetailerError) as told:
        load("online_retai")
    assert str(told.value) == (
        "retailer 'online_retai': no such file, and not a shipped retailer"
        " (online_retail, online_retail_ii, sample); online_retail?"
    )
    for missing in (tmp_path, tmp_path / "none.toml"):
        with pytest.raises(RetailerError, match="no such file"):
            find(str(missing))


@pytest.mark.parametrize("name", shipped_names())
def test_the_shipped_files_validate_under_their_name(name: str) -> None:
    settings = load(name)
    assert settings.name == name
    assert [rule.name for rule in settings.cleaning.rules] == [
        "invalid_invoice",
        "not_a_product",
        "missing_customer",
        "price_not_positive",
    ]


def test_a_run_sets_values_instead_of_those_of_the_file(tmp_path: Path) -> None:
    path = str(written(tmp_path, GOOD))
    settings = load(path, **{"source.path": "other.csv", "rfm.as_of": "2024-03-01", "title": "Other"})
    assert (settings.source.path, settings.rfm.as_of, settings.title) == ("other.csv", date(2024, 3, 1), "Other")


def test_a_wrong_value_that_a_run_sets_stands_in_no_line(tmp_path: Path) -> None:
    error = only_error(tmp_path, f'{GOOD}\n[rfm]\nas_of = "2024-03-01"\n', **{"rfm.as_of": "soon"})
    assert error == (
        "shop.toml: rfm.as_of: allowed: last_transaction, end_of_day, schedule, YYYY-MM-DD, or YYYY-MM-DD HH:MM:SS;"
        ' found "soon"'
    )


def test_a_value_that_a_run_sets_in_what_is_no_table_is_told(tmp_path: Path) -> None:
    assert only_error(tmp_path, f"rfm = 3\n{GOOD}", **{"rfm.as_of": "2024-03-01"}) == (
        "shop.toml:1: rfm: allowed: a table; found 3"
    )


@pytest.mark.parametrize("by_environment", [False, True])
def test_a_source_that_a_run_sets_is_no_folder_for_made_up_files(
    monkeypatch: pytest.MonkeyPatch, by_environment: bool
) -> None:
    assert load_settings("sample").source.sample is not None
    monkeypatch.setenv("SEGMENTATION_SOURCE", "/mine" if by_environment else "")
    source = load_settings("sample", "" if by_environment else "/mine").source
    assert (source.path, source.sample) == ("/mine", None)


@pytest.mark.parametrize("path", [["made"], ["made", "mine"], "made/*.csv", "made/20[12]4"])
def test_made_up_files_need_one_folder(tmp_path: Path, path: Any) -> None:
    text = GOOD.replace('"lines.csv"', f"{json.dumps(path)}\n\n[source.sample]\nseed = 1")
    assert only_error(tmp_path, text) == (
        "shop.toml:9: source.sample: allowed: where source.path is one folder, which the made-up files go into;"
        f" found {json.dumps(path)}"
    )


OUT_OF_BOUNDS = {
    "rfm.look_back_days": (10**19, "less than or equal to 36500"),
    "release.max_as_of_jump_days": (10**19, "less than or equal to 36500"),
    "outliers.factor": (1e300, "less than or equal to 1000"),
    "source.sample.customers": (100_001, "less than or equal to 100000"),
    "title": ("", "at least 1 character"),
    "columns.customer_id": ("", "at least 1 character"),
    "columns.amount": (" ", "at least 1 character"),
    "columns.country": ("", "at least 1 character"),
}


@pytest.mark.parametrize("key", OUT_OF_BOUNDS)
def test_a_value_out_of_bounds_is_told_with_them(tmp_path: Path, key: str) -> None:
    value, allowed = OUT_OF_BOUNDS[key]
    settings: dict[str, Any] = tomllib.loads(GOOD)
    *sections, name = key.split(".")
    table = settings
    for section in sections:
        table = table.setdefault(section, {})
    table[name] = value
    error = only_error(tmp_path, tomli_w.dumps(settings))
    assert f": {key}: allowed: {allowed}; found " in error


@pytest.mark.parametrize("number", ["inf", "-inf", "nan"])
@pytest.mark.parametrize(
    "key", ["outliers.factor", "release.max_drop", "checks.min_silhouette", "checks.max_rejected_change"]
)
def test_a_number_is_finite(tmp_path: Path, key: str, number: str) -> None:
    section, name = key.split(".")
    assert f"{key}: allowed: a finite number; found" in only_error(
        tmp_path, f"{GOOD}\n[{section}]\n{name} = {number}\n"
    )


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("~nobody-has-this-name/shop.toml", "home directory"),
        ("a" * 300, "File name too long"),
        ("a\0b", "no such file"),
    ],
)
def test_a_path_that_cannot_be_is_a_sentence(name: str, said: str) -> None:
    with pytest.raises(RetailerError, match=said) as told:
        load_settings(name)
    assert repr(name) in str(told.value)


@pytest.mark.parametrize("path", ["", [], ["a.csv", ""], ["a.csv", 3], "a\0b"])
def test_a_source_leads_somewhere(tmp_path: Path, path: Any) -> None:
    text = GOOD.replace('"lines.csv"', json.dumps(path))
    assert "source.path: allowed: a file, a folder, a pattern, or a list" in only_error(tmp_path, text)


@pytest.mark.parametrize("date_format", ["%d/%m %H:%M", "%H:%M", "%d.%m.%Y %z", "%Q", "2024"])
def test_a_date_format_that_tells_no_day_is_refused(tmp_path: Path, date_format: str) -> None:
    text = GOOD.replace('"lines.csv"', f'"lines.csv"\ndate_format = "{date_format}"')
    assert "source.date_format: allowed: strptime codes" in only_error(tmp_path, text)


@pytest.mark.parametrize("date_format", ["%d/%m/%Y", "%m/%d/%y %H:%M", "%d.%m.%Y %H:%M:%S", "%d %b %Y %I:%M %p"])
def test_a_date_format_that_tells_days_is_taken(tmp_path: Path, date_format: str) -> None:
    text = GOOD.replace('"lines.csv"', f'"lines.csv"\ndate_format = "{date_format}"')
    assert load(str(written(tmp_path, text))).source.date_format == date_format


@pytest.mark.parametrize(
    ("toml", "as_of", "transaction_cutoff"),
    [
        ('"last_transaction"', None, None),
        ('"end_of_day"', None, None),
        ('"2024-02-29"', "2024-03-01 00:00:00", "2024-03-01 00:00:00"),
        ("2024-02-29", "2024-03-01 00:00:00", "2024-03-01 00:00:00"),
        ('"2024-02-29 00:00:00"', "2024-02-29 00:00:00", "2024-02-29 00:00:00.000001"),
        ("2024-02-29 18:30:00", "2024-02-29 18:30:00", "2024-02-29 18:30:00.000001"),
        ('"2024-02-29T18:30"', "2024-02-29 18:30:00", "2024-02-29 18:30:00.000001"),
    ],
)
def test_a_day_counts_whole_and_a_moment_to_itself(
    tmp_path: Path, toml: str, as_of: str | None, transaction_cutoff: str | None
) -> None:
    settings = load(str(written(tmp_path, f"{GOOD}\n[rfm]\nas_of = {toml}\n")))
    assert settings.as_of == (as_of and datetime.fromisoformat(as_of))
    assert settings.transaction_cutoff == (transaction_cutoff and datetime.fromisoformat(transaction_cutoff))


@pytest.mark.parametrize(
    ("tick", "midnight"),
    [
        ("2024-03-01 02:00:00", "2024-03-01 00:00:00"),
        ("2024-03-01 00:00:00", "2024-03-01 00:00:00"),
        ("2024-02-29 23:59:59", "2024-02-29 00:00:00"),
    ],
)
def test_schedule_is_the_last_midnight_before_the_tick_and_no_line_at_it_counts(
    tmp_path: Path, tick: str, midnight: str
) -> None:
    settings = load(str(written(tmp_path, f'{GOOD}\n[rfm]\nas_of = "schedule"\n')))
    with pytest.raises(ValueError, match="tick of a run"):
        _ = settings.as_of
    of_a_run = settings.for_run(datetime.fromisoformat(tick))
    assert str(of_a_run.as_of) == str(of_a_run.transaction_cutoff) == midnight
    assert load(str(written(tmp_path, GOOD))).for_run(datetime.fromisoformat(tick)).as_of is None


@pytest.mark.parametrize(
    "toml",
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
def test_what_is_no_moment_is_refused(tmp_path: Path, toml: str) -> None:
    assert "rfm.as_of: allowed: " in only_error(tmp_path, f"{GOOD}\n[rfm]\nas_of = {toml}\n")


OF_THE_MODEL: list[dict[str, Any]] = [
    {"columns": {"country": "Land"}},
    {"cleaning": {"refunds": "ignore"}},
    {"cleaning": {"rules": []}},
    {"cleaning": {"sources_overlap": True}},
    {"rfm": {"look_back_days": 90}},
    {"outliers": {"factor": 3.0}},
    {"outliers": {"features": ["monetary"]}},
    {"model": {"n_clusters": 5}},
    {"model": {"random_state": 1}},
]
OF_NO_FIT: list[dict[str, Any]] = [
    {"rfm": {"as_of": "2024-03-01"}},
    {"rfm": {"as_of": "schedule"}},
    {"rfm": {"lapsing_factor": 9}},
    {"source": {"path": "elsewhere"}},
    {"source": {"delimiter": ";"}},
    {"promotion": {"min_kept": 0.5}},
    {"membership": {"margin": 0.5, "fence_margin": 0.5, "max_pending_days": 1, "control_share": 0.5}},
    {"drift": {"max_psi": 0.5}},
    {"backtest": {"resamples": 20}},
    {"release": {"keep": 3}},
    {"checks": {"min_customers": 7}},
    {"promotion": {"min_kept": 0.9}},
    {"membership": {"margin": 0.2}},
    {"drift": {"max_psi": 0.1}},
    {"backtest": {"horizon_days": 30}},
    {"title": "Other"},
]
EVERY_CHANGE = [*OF_THE_MODEL, *OF_NO_FIT]


def with_sections(sections: dict[str, Any]) -> Retailer:
    settings = retailer_settings(Path("source"))
    for name, section in sections.items():
        settings[name] = {**settings.get(name, {}), **section} if isinstance(section, dict) else section
    return Retailer.model_validate(settings)


@pytest.mark.parametrize("sections", OF_THE_MODEL, ids=str)
def test_what_matters_to_the_fit_changes_the_models_digest(sections: dict[str, Any]) -> None:
    assert with_sections(sections).model_digest != with_sections({}).model_digest


@pytest.mark.parametrize("sections", OF_NO_FIT, ids=str)
def test_what_does_not_matter_to_the_fit_asks_for_no_refit(sections: dict[str, Any]) -> None:
    assert with_sections(sections).model_digest == with_sections({}).model_digest


@pytest.mark.parametrize("sections", EVERY_CHANGE, ids=str)
def test_past_month_ends_are_computed_again_where_the_look_back_is_another(sections: dict[str, Any]) -> None:
    """The model and the lines are looked at apart: see `history_months`."""
    changed = with_sections(sections).history_digest != with_sections({}).history_digest
    assert changed == (sections == {"rfm": {"look_back_days": 90}})


@pytest.mark.parametrize("sections", EVERY_CHANGE, ids=str)
def test_past_months_are_tried_again_where_their_segments_or_their_bounds_are_others(sections: dict[str, Any]) -> None:
    changed = with_sections(sections).backtest_digest != with_sections({}).backtest_digest
    matters = {"look_back_days", "features", "factor", "n_clusters", "random_state", "resamples", "horizon_days"}
    [section] = sections.values()
    assert changed == bool(matters & {*section} if isinstance(section, dict) else False)


def test_a_whole_digest_changes_with_every_setting() -> None:
    plain = with_sections({}).digest()
    for sections in EVERY_CHANGE:
        assert with_sections(sections).digest() != plain


@pytest.mark.parametrize(
    ("share", "below"),
    [(0, "00000000"), (0.1, "1999999a"), (0.5, "80000000"), (0.25, "40000000")],
)
def test_the_share_of_the_control_group_is_a_share_of_all_hashes(share: float, below: str) -> None:
    """A tenth of 16^8 is 429,496,729.6: in hex 1999999a, rounded."""
    assert with_sections({"membership": {"control_share": share}}).sql_values["control_below"] == below


@pytest.mark.parametrize("k_range", ["[5, 3]", "[3]", "[3, 5, 7]", "[1, 8]", "[3, 13]"])
def test_the_range_of_the_search_is_the_least_and_the_most_number_of_clusters(tmp_path: Path, k_range: str) -> None:
    assert "model.k_range" in only_error(tmp_path, f"{GOOD}\n[model]\nk_range = {k_range}\n")


@pytest.mark.parametrize("n_clusters", ["1", "13", '"many"', "2.5", "true"])
def test_a_number_of_clusters_that_is_none_is_told_once(tmp_path: Path, n_clusters: str) -> None:
    error = only_error(tmp_path, f"{GOOD}\n[model]\nn_clusters = {n_clusters}\n")
    assert error.endswith(f": model.n_clusters: allowed: auto, or a whole number from 2 to 12; found {n_clusters}")


@pytest.mark.parametrize("value", ["[" * 5_000 + "]" * 5_000, "{a = " * 2_000, "9" * 5_000], ids=["[", "{", "9"])
def test_what_no_reader_of_toml_can_hold_is_a_sentence(tmp_path: Path, value: str) -> None:
    assert ": not readable as TOML: " in only_error(tmp_path, f"{GOOD}\n[model]\nn_clusters = {value}\n")


def test_a_key_with_a_line_break_is_told_on_one_line(tmp_path: Path) -> None:
    assert only_error(tmp_path, f'"a\\nb" = 1\n{GOOD}').startswith('shop.toml: "a\\nb": unknown key')


def test_a_file_written_by_the_scenarios_validates(tmp_path: Path) -> None:
    assert load(str(retailer_file(tmp_path, tmp_path))).name == "corner_shop"
