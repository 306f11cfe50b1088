"""Tests of how money and numbers are written."""

from decimal import Decimal

import pytest

from segmentation_pipeline.ingestion.number_formats import _SIGNS
from segmentation_pipeline.reports.formatting import format_money, format_number, format_share, notation_of


@pytest.mark.parametrize(
    ("currency", "text"),
    [
        ("GBP", "£1,234,567.90"),
        ("USD", "$1,234,567.90"),
        ("EUR", "€ 1.234.567,90"),
        ("SEK", "1 234 567,90 kr"),
        ("CHF", "CHF 1’234’567.90"),  # noqa: RUF001 - the separator of Swiss numbers
        ("KES", "KES 1,234,567.90"),
        (None, "1,234,567.90"),
    ],
)
def test_money_is_written_as_its_currency_usually_is(currency: str | None, text: str) -> None:
    written = format_money(Decimal("1234567.8999"), currency, decimals=2)
    assert written.replace("\N{NO-BREAK SPACE}", " ") == text
    assert " " not in written


def test_minus_stands_before_the_sign_and_never_before_zero() -> None:
    assert format_money(Decimal(-1234), "GBP") == "-£1,234"
    assert format_money(Decimal("-0.4"), "GBP") == "£0"
    assert format_number(-0.001, "EUR", decimals=2) == "0,00"


def test_counts_and_shares_use_the_separators_of_the_money() -> None:
    assert format_number(4338, "EUR") == "4.338"
    assert format_share(0.1234, "EUR") == "12,3%"
    assert format_share(1, None) == "100.0%"


def test_every_currency_sign_that_is_read_is_written() -> None:
    assert [code for code in _SIGNS if code != "CHF" and notation_of(code).prefix.startswith(code)] == []
