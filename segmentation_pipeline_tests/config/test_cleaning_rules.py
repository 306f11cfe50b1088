"""Cleaning rules: one test that suits the column, under a name that is not taken."""

from pathlib import Path

import pytest

from segmentation_pipeline.config.loading import load
from segmentation_pipeline_tests.config.minimal import MINIMAL, only_error, write


def with_rule(rule: str, name: str = "own") -> str:
    columns = 'invoice = "Invoice"\nprice = "Price"\n'
    return f'{MINIMAL}{columns}\n[[cleaning.rules]]\nname = "{name}"\nreason = "why"\n{rule}\n'


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (
            'column = "invoice"',
            "cleaning.rules.0: allowed: exactly one of matches, not_matches, required, above, below, in, not_in; it has"
            " none",
        ),
        (
            'column = "invoice"\nmatches = "x"\nin = ["x"]',
            "not_in; it has matches and in",
        ),
        ('column = "price"\nin = ["1"]', 'cannot test price; allowed: required, above, below; found ["1"]'),
        (
            'column = "transaction_at"\nmatches = "2024"',
            'cannot test transaction_at; allowed: required; found "2024"',
        ),
        ('column = "price"\nabove = 1e30', "cleaning.rules.0.above: allowed: less than 100000000000000; found 1e+30"),
        (
            'column = "colour"\nrequired = true',
            "cleaning.rules.0.column: unknown column; allowed: invoice, transaction_at, price, amount, customer_id;"
            ' [columns.extra] names other columns of the source; found "colour"',
        ),
        ('column = "Invoices"\nrequired = true', "unknown column (did you mean invoice?); allowed: invoice, "),
        ("column = 3\nrequired = true", "cleaning.rules.0.column: allowed: a valid string; found 3"),
        ('column = "invoice"\nrequired = false', "cleaning.rules.0.required: allowed: True; found false"),
        ('column = "invoice"\nin = []', "cleaning.rules.0.in: allowed: at least 1 item; found []"),
        (
            'column = "invoice"\nmatch = "x"\nrequired = true',
            "cleaning.rules.0.match: unknown key (did you mean matches?); allowed: ",
        ),
    ],
)
def test_rule_needs_one_test_that_suits_its_column(tmp_path: Path, rule: str, message: str) -> None:
    assert message in only_error(tmp_path, with_rule(rule))


@pytest.mark.parametrize(
    "name",
    [
        "totals_line",
        "unparseable_value",
        "cancellation",
        "positive_cancellation",
        "negative_money",
        "after_as_of",
        "exact_duplicate",
        "read",
    ],
)
def test_names_of_the_pipelines_rules_are_reserved(tmp_path: Path, name: str) -> None:
    error = only_error(tmp_path, with_rule('column = "price"\nabove = 0', name))
    assert error.endswith(f'the pipeline has a rule of this name; allowed: another name; found "{name}"')


@pytest.mark.parametrize(("name", "column"), [("missing_customer", "customer_id"), ("missing_invoice", "invoice")])
def test_missing_value_rules_are_replaceable_on_their_column(tmp_path: Path, name: str, column: str) -> None:
    text = with_rule(f'column = "{column}"\nmatches = "^[0-9]+$"', name)
    assert load(str(write(tmp_path, text))).cleaning.rules[0].name == name
    other = text.replace(f'column = "{column}"', 'column = "price"').replace('matches = "^[0-9]+$"', "above = 0")
    assert only_error(tmp_path, other).endswith(f'found "{name}"')


@pytest.mark.parametrize("test", ['not_in = ["9"]', 'not_matches = "9"', 'in = ["", "7"]'])
def test_rule_that_accepts_an_empty_value_replaces_no_rule(tmp_path: Path, test: str) -> None:
    error = only_error(tmp_path, with_rule(f'column = "customer_id"\n{test}', "missing_customer"))
    assert error.endswith('the pipeline has a rule of this name; allowed: another name; found "missing_customer"')


@pytest.mark.parametrize("column", ["Status", "statuss", "Financial Status", "financialstatus"])
def test_rule_on_a_source_column_suggests_the_right_name(tmp_path: Path, column: str) -> None:
    extra = '\n[columns.extra]\nstatus = "Financial Status"\n\n[[cleaning'
    text = with_rule(f'column = "{column}"\nin = ["paid"]').replace("\n[[cleaning", extra)
    assert "column: unknown column (did you mean status?); allowed: invoice, " in only_error(tmp_path, text)
    assert load(str(write(tmp_path, text.replace(f'"{column}"', '"status"')))).columns.extra["status"]


@pytest.mark.parametrize(
    ("privacy", "rule", "message"),
    [
        (
            'drop = ["country"]',
            'column = "country"\nrequired = true',
            'privacy.drop removes it before the rules apply; allowed: another column; found "country"',
        ),
        (
            "pseudonymise = true",
            'column = "customer_id"\nmatches = "^1"',
            "privacy.pseudonymise hashes it before the rules apply; allowed: required = true, or another column;"
            ' found "customer_id"',
        ),
        (
            'drop = ["status"]',
            'column = "status"\nin = ["paid"]',
            'privacy.drop removes it before the rules apply; allowed: another column; found "status"',
        ),
    ],
)
def test_rule_on_a_value_that_is_not_stored(tmp_path: Path, privacy: str, rule: str, message: str) -> None:
    columns = 'country = "Land"\n\n[columns.extra]\nstatus = "Status"\n\n[[cleaning'
    text = with_rule(rule).replace("[[cleaning", columns)
    assert only_error(tmp_path, f"{text}\n[privacy]\n{privacy}\n").endswith(f"cleaning.rules.0.column: {message}")
