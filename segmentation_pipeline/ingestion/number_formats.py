"""How quantities and money may be written, as patterns that the SELECT of `raw_transactions` binds.

A number is read only where its text has one meaning: signs, parentheses and blanks do, a mark of another currency does
not. The macro `written_number` reads what these patterns match.
"""

import re

from segmentation_pipeline.config.retailer import Retailer

# The sign of a currency is the retailer's own money. `$` and `kr` are the signs of several currencies.
_SIGNS = {
    "AUD": ("$", "A$"),
    "BRL": ("R$",),
    "CAD": ("$", "C$", "CA$"),
    "CHF": ("Fr.", "SFr."),
    "CNY": ("¥", "元"),
    "CZK": ("Kč",),
    "DKK": ("kr", "kr."),
    "EUR": ("€",),
    "GBP": ("£",),
    "HUF": ("Ft",),
    "ILS": ("₪",),
    "INR": ("₹", "Rs", "Rs."),
    "JPY": ("¥", "円"),
    "KRW": ("₩",),
    "MXN": ("$", "Mex$"),
    "NOK": ("kr", "kr."),
    "NZD": ("$", "NZ$"),
    "PLN": ("zł",),
    "RON": ("lei",),
    "SEK": ("kr", "kr."),
    "TRY": ("₺",),
    "UAH": ("₴",),
    "USD": ("$", "US$"),
    "VND": ("₫",),
    "ZAR": ("R",),
}
# RE2, the engine of DuckDB, has no pattern that matches nothing; no text has a character before its beginning.
_NEVER = r"[^\s\S]"


def number_values(retailer: Retailer) -> dict[str, object]:
    """Return the values that the SELECT of `raw_transactions` binds to convert text to numbers.

    `number` matches a plain number. `written_quantity` and `written_money` match one with its sign behind it, in
    parentheses, with other thousands separators or, if it is money, with a currency; `currency_mark` matches that.
    """
    decimal = retailer.source.decimal
    thousands = "," if decimal == "." else "."
    marks = (retailer.currency, *_SIGNS.get(retailer.currency, ()), *retailer.source.currency_marks)
    # The longest first, because a mark can begin with another one.
    mark = "|".join(re.escape(text) for text in sorted(set(marks), key=lambda text: (-len(text), text)))
    return {
        "decimal": decimal,
        "thousands": thousands,
        "number": rf"^[+-]?([0-9]+|[0-9]{{1,3}}([{thousands}][0-9]{{3}})+)?([{decimal}][0-9]*)?([eE][+-]?[0-9]+)?$",
        "written_quantity": _written(decimal, thousands, _NEVER),
        "written_money": _written(decimal, thousands, mark),
        "currency_mark": mark,
        "never": _NEVER,
        # 1234 hundredths are 1234e-2.
        "exponent": f"e-{retailer.source.minor_unit_digits}" if retailer.source.minor_unit_digits else "",
    }


def number_sql(text: str) -> str:
    """Return the SQL of the number that a text of money is, as a double; null if it is none.

    It binds `number`, `written_money`, `currency_mark`, `thousands` and `decimal` of `number_values`.
    """
    plain = f"replace(replace(regexp_extract({text}, $number), $thousands, ''), $decimal, '.')"
    written = f"written_number({text}, $written_money, $currency_mark, $thousands, $decimal)"
    return f"coalesce(try_cast({plain} as double), try_cast({written} as double))"


def currency_signs() -> dict[str, tuple[str, ...]]:
    """Return the signs of each currency, by its ISO code."""
    return _SIGNS


def _written(decimal: str, thousands: str, mark: str) -> str:
    """Return the pattern of a number with at most one sign: before it, after it, or as parentheses."""
    grouped = "|".join(rf"[0-9]{{1,3}}([{separator}][0-9]{{3}})+" for separator in (thousands, "'", " "))
    number = rf"(({grouped}|[0-9]+)([{decimal}][0-9]*)?|[{decimal}][0-9]+)"
    before, after = rf"(({mark}) ?)?", rf"( ?({mark}))?"
    amount = before + number + after
    return "|".join(
        [
            rf"([+-] ?)?{amount}",
            rf"{before}[+-] ?{number}{after}",
            rf"{amount} ?[+-]",
            rf"{before}{number} ?[+-]{after}",
            rf"\( ?{amount} ?\)",
            rf"{before}\( ?{number} ?\){after}",
        ]
    )
