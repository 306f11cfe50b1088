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
        ('column = "invoice"', "cleaning.rules.0: allowed: exactly one of matches, required, above, in; it has none"),
        (
            'column = "invoice"\nmatches = "x"\nin = ["x"]',
            "cleaning.rules.0: allowed: exactly one of matches, required, above, in; it has matches and in",
        ),
        ('column = "price"\nin = ["1"]', 'cannot test price; allowed: required, above; found ["1"]'),
        ('column = "invoice"\nabove = 1', "cannot test invoice; allowed: required, matches, in; found 1"),
        (
            'column = "transaction_at"\nmatches = "2024"',
            'cannot test transaction_at; allowed: required; found "2024"',
        ),
        ('column = "price"\nabove = 1e30', "cleaning.rules.0.above: allowed: less than 100000000000000; found 1e+30"),
        ('column = "colour"\nrequired = true', "cleaning.rules.0.column: allowed: 'invoice', 'stock_code', "),
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
    ],
)
def test_rule_on_a_value_that_is_not_stored(tmp_path: Path, privacy: str, rule: str, message: str) -> None:
    text = with_rule(rule).replace("[[cleaning", 'country = "Land"\n\n[[cleaning')
    assert only_error(tmp_path, f"{text}\n[privacy]\n{privacy}\n").endswith(f"cleaning.rules.0.column: {message}")
