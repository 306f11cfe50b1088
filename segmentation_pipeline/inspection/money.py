"""Which columns give the money of a line, and its currency.

Contains the comparison of quantity x price with an amount, and the signs, codes and columns that show a currency.
"""

import re
from collections.abc import Mapping, Sequence

from segmentation_pipeline.ingestion.number_formats import currency_signs, number_sql
from segmentation_pipeline.inspection.columns import Mapped
from segmentation_pipeline.inspection.contents import Column, Contents, with_all_marks
from segmentation_pipeline.inspection.guesses import Draft, RuleGuess
from segmentation_pipeline.inspection.notations import currencies_of, marks_of
from segmentation_pipeline.inspection.orders import is_on_first_line

# ISO 4217 for no currency.
NO_CURRENCY = "XXX"
_EQUAL, _MAIN = 0.95, 0.95
_ROLES = ("quantity", "price", "amount")
_OF_PRODUCTS = ("quantity", "price", "stock_code")
_MIN_CENTS = 100
# Two lines of an order can have the same price by chance.
_MIN_ORDERS = 3
# Prices that have nothing to do with the quantity stay as many.
_FEWER = 0.8
_WHOLE = "[-+]? ?[0-9]+ ?[-+]?"


def add_currency(draft: Draft, contents: Contents, mapped: Mapping[str, Mapped]) -> None:
    """Add the currency that a column, signs beside the money, or the name of a column shows."""
    money = [column for role in ("price", "amount") if role in mapped for column in mapped[role].columns]
    codes, where = _codes(contents, mapped), "the column of currencies has"
    if not codes:
        codes, where = marks_of(contents, money), "beside the money stand"
    if not codes:
        codes, where = _codes_in_names(money), "the names of the columns have"
    if not codes:
        draft.add("currency", NO_CURRENCY, "LEFT TO YOU: the ISO code of the money, such as EUR. Nothing shows it.")
        return
    total = sum(codes.values())
    evidence = f"{where} {', '.join(f'{text} ({number:,})' for text, number in codes.items())}."
    evidence = evidence[:1].upper() + evidence[1:]
    [(mark, number), *_] = codes.items()
    possible = currencies_of(mark) or ([mark.upper()] if re.fullmatch("[A-Za-z]{3}", mark) else [])
    if number < _MAIN * total:
        possible = list(dict.fromkeys(code for text in codes for code in currencies_of(text) or [text.upper()]))
    if len(possible) == 1:
        draft.add("currency", possible[0], evidence)
    elif possible:
        draft.add("currency", None, evidence, choices=possible)
    else:
        draft.add("currency", NO_CURRENCY, f"LEFT TO YOU: the ISO code of the money. {evidence}")
    known = {sign for code in possible for sign in (code, *currency_signs().get(code, ()))}
    if where.startswith("beside") and (marks := [text for text in codes if text not in known]) and len(possible) < 2:
        draft.add("source.currency_marks", marks, "These stand beside the money; remove those of other currencies.")
    if "currency" in mapped and len(codes) > 1:
        _add_rule(draft, contents, mapped, codes, is_open=number < _MAIN * total)


def _add_rule(
    draft: Draft, contents: Contents, mapped: Mapping[str, Mapped], codes: Mapping[str, int], *, is_open: bool
) -> None:
    one = mapped["currency"]
    assert one.column
    draft.add("columns.extra.order_currency", one.column.key)
    # A line without a currency has that of its order, or of most lines.
    empty = [""] if sum(codes.values()) < contents.lines else []
    if empty and is_on_first_line(contents, mapped, one):
        draft.fill_down("order_currency", f"{one.column.name!r} is filled in on the first line of an order only.")
        empty = []
    draft.rules.append(
        RuleGuess(
            "other_currency",
            "the line is in another currency",
            "order_currency",
            () if is_open else [next(iter(codes)), *empty],
            choices=[[code, *empty] for code in codes],
            evidence=["Lines in other currencies do not count."],
        )
    )


def _codes(contents: Contents, mapped: Mapping[str, Mapped]) -> dict[str, int]:
    one = mapped.get("currency")
    if not one or not one.column:
        return {}
    cell = one.column.cell
    select = f"select {cell}, count(*) from cells where {cell} <> '' group by 1 order by 2 desc, 1"  # noqa: S608 - own SQL
    return {code: number for code, number in contents.rows(select) if currencies_of(code.upper()) or len(code) == 3}


def _codes_in_names(money: Sequence[Column]) -> dict[str, int]:
    marks = sorted({*currency_signs(), "€", "£", "R$"})
    found = [mark for column in money for mark in marks if re.search(rf"(?<!\w){re.escape(mark)}(?!\w)", column.name)]
    return {mark: found.count(mark) for mark in dict.fromkeys(found)}


def add_money(draft: Draft, contents: Contents, mapped: Mapping[str, Mapped], decimal: str) -> None:
    """Add the columns that give the money of a line: an amount, or a quantity and a price."""
    mapped = _with_line_total(contents, mapped, decimal)
    columns = {role: mapped[role].column for role in _ROLES if role in mapped and mapped[role].column}
    has_both = {"quantity", "price"} <= columns.keys()
    for role in _ROLES:
        one = mapped.get(role)
        if not one:
            continue
        if not one.column:
            draft.add(f"columns.{role}", None, f"{one.evidence}.", choices=[column.key for column in one.choices])
        elif role == "amount" and not has_both and _is_of_order(contents, mapped, decimal, one.column):
            draft.add(
                "columns.amount",
                None,
                f"Amount {one.column.name!r} is the same on all lines of an order. Set it if it is that of a line; that"
                " of the order would count once for each line.",
                choices=[one.column.key],
            )
        elif role != "amount" or not has_both:
            draft.add(f"columns.{role}", one.column.key, f"{one.evidence[:1].upper()}{one.evidence[1:]}.")
    amount = mapped.get("amount")
    if has_both and not amount:
        draft.add("columns.amount", None, "No column has the money of a line, so it is quantity x price.")
    if has_both and amount and amount.column:
        _add_amount(draft, contents, mapped, decimal)
    elif not has_both and not amount:
        _add_any_amount(draft, contents, columns)
    money = [column for role in ("price", "amount") if (column := columns.get(role))]
    if money and (cents := _cents(contents, money, decimal)):
        draft.add("source.minor_unit_digits", None, cents, choices=[0, 2])


def _with_line_total(contents: Contents, mapped: Mapping[str, Mapped], decimal: str) -> Mapping[str, Mapped]:
    """Return the columns with a price as the amount, if it grows with the quantity: then it is that of all units."""
    quantity, price, product = (mapped[role].column if role in mapped else None for role in _OF_PRODUCTS)
    if not (quantity and price and product) or "amount" in mapped:
        return mapped
    q, p = number_sql(quantity.cell), number_sql(price.cell)
    products = (
        f"select count(distinct {p}) as prices, count(distinct round({p} / {q}, 2)) as unit_prices from cells"  # noqa: S608 - own SQL
        f" where {q} > 0 and {product.cell} <> '' group by {product.cell} having count(distinct {q}) > 1"
    )
    select = f"select count(*), sum(prices), sum(unit_prices) from ({products})"  # noqa: S608 - own SQL
    [(number, prices, unit_prices)] = contents.rows(select, **with_all_marks(decimal))
    if not number or unit_prices > _FEWER * prices:
        return mapped
    text = (
        f"{number:,} products that were sold in several quantities have {prices:,} prices, and {unit_prices:,} if these"
        " are divided by the quantity"
    )
    rest = {role: one for role, one in mapped.items() if role != "price"}
    return rest | {"amount": Mapped("amount", price, f"{text}, so it is that of all units: {price.name!r}")}


def _add_amount(draft: Draft, contents: Contents, mapped: Mapping[str, Mapped], decimal: str) -> None:
    """Compare the amount with quantity x price: it may be that of the line, of the order, or after a discount."""
    quantity, price, amount = (mapped[role].column for role in _ROLES)
    assert quantity
    assert price
    assert amount
    q, p, a = (number_sql(column.cell) for column in (quantity, price, amount))
    values = with_all_marks(decimal)
    lines = f"select {q} as q, {p} as p, {a} as a from cells"  # noqa: S608 - own SQL
    select = f"select count(*), count(*) filter (abs(q * p - a) <= 0.011) from ({lines}) where q * p is not null"  # noqa: S608 - own SQL
    [(known, equal)] = contents.rows(select, **values)
    name = f"Amount {amount.name!r}"
    if equal >= _EQUAL * known:
        draft.add("columns.amount", amount.key, f"{name} is quantity x price in {equal:,} of {known:,} lines.")
    elif _is_of_order(contents, mapped, decimal, amount):
        draft.add("columns.amount", None, f"{name} is the same on all lines of an order, so it is the order's.")
    else:
        draft.add(
            "columns.amount",
            None,
            f"{name} is quantity x price in only {equal:,} of {known:,} lines. Set it to count this money, or remove"
            " the line to count quantity x price.",
            choices=[amount.key],
        )


def _is_of_order(contents: Contents, mapped: Mapping[str, Mapped], decimal: str, column: Column) -> bool:
    """Return whether an amount is the same on all lines of an order, or stands on one of them only."""
    invoice = mapped.get("invoice")
    if not invoice or not invoice.column:
        return False
    amount = number_sql(column.cell)
    orders = (
        f"select count(*) as lines, count(distinct {amount}) as amounts from cells"  # noqa: S608 - own SQL
        f" where {invoice.column.cell} <> '' group by source_file, {invoice.column.cell} having count(*) > 1"
    )
    select = f"select count(*), count(*) filter (amounts <= 1) from ({orders})"  # noqa: S608 - own SQL
    [(number, same)] = contents.rows(select, **with_all_marks(decimal))
    return bool(number >= _MIN_ORDERS and same >= _EQUAL * number)


def _add_any_amount(draft: Draft, contents: Contents, columns: Mapping[str, Column | None]) -> None:
    """Leave the money open where nothing names it."""
    if price := columns.get("price"):
        text = "There is no quantity. Set the amount to the price if each unit is a line of its own."
        draft.add("columns.amount", None, text, choices=[price.key])
        return
    taken = [column for column in columns.values() if column]
    numbers = [column for column in contents.columns if column.is_number and not column.is_date and column not in taken]
    numbers.sort(key=lambda column: column.is_integer)
    text = "No column is named like the money of a line. Set one, or price and quantity in place of it."
    draft.add("columns.amount", None, text, choices=[column.key for column in numbers])


def _cents(contents: Contents, money: Sequence[Column], decimal: str) -> str:
    """Return why the money may be in the smallest unit of the currency; empty if it is not."""
    # With a mark in them, they are written in the currency.
    texts = " union all ".join(
        f"select case when regexp_full_match({one.cell}, $plain) then {number_sql(one.cell)} else 0.5 end as x"  # noqa: S608 - own SQL
        f" from cells where {one.cell} <> ''"
        for one in money
    )
    select = "select count(x), count(*) filter (x = round(x)), count(*) filter (x % 100 <> 0), median(abs(x))"
    [(known, whole, odd, median)] = contents.rows(f"{select} from ({texts})", plain=_WHOLE, **with_all_marks(decimal))
    if not known or whole < known or odd < known / 2 or median < _MIN_CENTS:
        return ""
    return (
        f"All {known:,} amounts of money are whole numbers, half of them {median:,.0f} or more: they may be cents (2),"
        " or be in the currency (0)."
    )
