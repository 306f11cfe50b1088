"""Write money, numbers and shares as is usual where a currency is used.

Contains the notation of each currency. Every text for people, in the terminal, in charts and in the report, uses it.
"""

from dataclasses import dataclass
from decimal import Decimal

# Blanks within a number are no-break spaces, so that no line ends between a sign and its number.
_BLANK = "\N{NO-BREAK SPACE}"


@dataclass(frozen=True)
class Notation:
    """How numbers and money are written.

    Attributes:
        prefix: Stands before money, such as £.
        suffix: Stands behind money, such as kr.
        thousands: Separates thousands.
        decimal: The decimal mark.
    """

    prefix: str = ""
    suffix: str = ""
    thousands: str = ","
    decimal: str = "."


def _before(sign: str, thousands: str = ",", decimal: str = ".") -> Notation:
    return Notation(prefix=sign, thousands=thousands, decimal=decimal)


def _behind(sign: str, thousands: str = _BLANK, decimal: str = ",") -> Notation:
    return Notation(suffix=f"{_BLANK}{sign}", thousands=thousands, decimal=decimal)


# The euro is written as in Dutch and Austrian German, with the sign in front, because the texts are in English.
_NOTATIONS = {
    "AUD": _before("A$"),
    "BRL": _before(f"R${_BLANK}", ".", ","),
    "CAD": _before("CA$"),
    "CHF": _before(f"CHF{_BLANK}", "’", "."),  # noqa: RUF001 - the separator of Swiss numbers
    "CNY": _before("CN¥"),
    "CZK": _behind("Kč"),
    "DKK": _behind("kr.", "."),
    "EUR": _before(f"€{_BLANK}", ".", ","),
    "GBP": _before("£"),
    "HUF": _behind("Ft"),
    "ILS": _before("₪"),
    "INR": _before("₹"),
    "JPY": _before("¥"),
    "KRW": _before("₩"),
    "MXN": _before("MX$"),
    "NOK": _behind("kr"),
    "NZD": _before("NZ$"),
    "PLN": _behind("zł"),
    "RON": _behind("lei", "."),
    "SEK": _behind("kr"),
    "TRY": _before("₺", ".", ","),
    "UAH": _behind("₴"),
    "USD": _before("$"),
    "VND": _behind("₫", "."),
    "ZAR": _before(f"R{_BLANK}", _BLANK, ","),
}


def notation_of(currency: str | None) -> Notation:
    """Return how money in a currency is written: another code than those known stands in front, as in `KES 1,234`."""
    if currency is None:
        return Notation()
    return _NOTATIONS.get(currency) or _before(f"{currency}{_BLANK}")


def format_money(amount: Decimal | float, currency: str | None, *, decimals: int = 0) -> str:
    """Write money, such as `£1,234`, `€ 1.234` or `1 234 kr`. Blanks are no-break spaces.

    Args:
        amount: The money, in units of the currency.
        currency: Its ISO 4217 code; None writes a number without a sign.
        decimals: Digits behind the decimal mark.
    """
    notation, text = notation_of(currency), format_number(amount, currency, decimals=decimals)
    minus, digits = ("-", text[1:]) if text.startswith("-") else ("", text)
    return f"{minus}{notation.prefix}{digits}{notation.suffix}"


def format_number(value: Decimal | float, currency: str | None = None, *, decimals: int = 0) -> str:
    """Write a number with the separators of a currency, so that a page writes counts as it writes money."""
    notation = notation_of(currency)
    text = f"{value:,.{decimals}f}"
    # A small loss is not -0.
    text = text.removeprefix("-") if not any(digit in text for digit in "123456789") else text
    return text.translate({ord(","): notation.thousands, ord("."): notation.decimal})


def format_share(share: float, currency: str | None = None, *, decimals: int = 1) -> str:
    """Write a share of 1 as per cent, such as `12.3%`."""
    return f"{format_number(100 * share, currency, decimals=decimals)}%"
