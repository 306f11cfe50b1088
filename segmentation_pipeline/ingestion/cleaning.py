"""A retailer's cleaning rules as SQL: which lines are refused, by which rule, in which order.

Belongs here: turning the declarative rules of the retailer file, and those that always hold, into two relations that
the SELECTs of the cleaning assets read as if they were tables: `judged_transactions` and `cleaning_rules`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from segmentation_pipeline.config.cleaning_rules import Rule
from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.privacy.masking import masked_pattern
from segmentation_pipeline.tables.catalog import line_columns
from segmentation_pipeline.tables.contract import quoted
from segmentation_pipeline.warehouse.database import Warehouse
from segmentation_pipeline.warehouse.queries import QueryInputs

_DECIMAL_COLUMNS = {column.name: column.type for column in line_columns() if column.type.startswith("DECIMAL")}

_SHOWN_RULES, _SHOWN_TEXT = 3, 60


@dataclass(frozen=True)
class Refusal:
    """One rule: the SQL condition that holds for the lines that it refuses, and the values bound in it."""

    name: str
    reason: str
    condition: str
    values: dict[str, Any] = field(default_factory=dict)


def refusals(retailer: Retailer) -> list[Refusal]:
    """Every rule in the order of application; the first whose condition holds names the reason."""
    return list(_refusals(retailer))


def query_inputs(retailer: Retailer) -> QueryInputs:
    """The relations `judged_transactions` (raw lines with is_cancellation and refusing step) and `cleaning_rules`."""
    rules = refusals(retailer)
    pattern = retailer.cleaning.cancellation
    values: dict[str, Any] = {} if pattern is None else {"cancellation": pattern}
    cases, listed = [], []
    for step, rule in enumerate(rules, 1):
        values |= rule.values | {f"name_{step}": rule.name, f"reason_{step}": rule.reason}
        cases.append(f"when {rule.condition} then {step}")
        listed.append(f"({step}, $name_{step}, $reason_{step})")
    return QueryInputs(
        {
            "judged_transactions": f"{_marked(retailer)} select *, case {' '.join(cases)} end as step from marked",
            "cleaning_rules": f"select * from (values {', '.join(listed)}) as listed(step, rule, reason)",
        },
        values,
    )


def explain_loss(warehouse: Warehouse, retailer: Retailer) -> str:
    """Where most lines are refused: by which rules, what could not be read, and what to do, in words; else nothing."""
    judged = query_inputs(retailer)
    lines = warehouse.count("raw_transactions")
    refused = warehouse.rows(
        f"with judged_transactions as ({judged.relations['judged_transactions']}),"
        f" cleaning_rules as ({judged.relations['cleaning_rules']})"
        " select rule, count(*) as lines from judged_transactions inner join cleaning_rules using (step)"
        " group by rule order by lines desc, rule",
        **judged.values,
    )
    count = sum(rule["lines"] for rule in refused)
    if count <= lines / 2:
        return ""
    most = ", ".join(f"{rule['rule']} {rule['lines']:,}" for rule in refused[:_SHOWN_RULES])
    unread = [_unread(**row) for row in warehouse.rows(_FIRST_UNREAD)]
    return " ".join(
        [f"{count:,} of {lines:,} lines were refused: {most}.", *unread, "Mend the source, or [[cleaning.rules]]."]
    )


# Of the column that could not be read most often; its shape, because a line may name a customer, and a log is kept.
_FIRST_UNREAD = f"""
    with texts as (
        select source_file, source_sheet, source_line, text.key as name, {masked_pattern("(text.value ->> '$')")} as text
        from raw_transactions, json_each(unparsed) as text
        where unparsed is not null and text.type <> 'NULL'
    )
    select *, count(*) over (partition by name) as lines from texts
    order by lines desc, name, source_file, source_sheet, source_line limit 1
"""


def _unread(*, source_file: str, source_sheet: str, source_line: int, name: str, text: str, lines: int) -> str:
    advice = {
        "transaction_at": "If dates are written so, say it in source.date_format, such as %m/%d/%Y %H:%M.",
        "line": "If that is no broken line, see source.delimiter and source.encoding.",
    }.get(name, "If numbers are written so, see source.decimal; digits that do not fit are not rounded.")
    where = f"{source_file}{f' [{source_sheet}]' if source_sheet else ''}, line {source_line}"
    return f"{name} could not be read in {lines:,}, first in {where}, written like {text[:_SHOWN_TEXT]!r}. {advice}"


def _marked(retailer: Retailer) -> str:
    """CTEs that end on `marked`: the raw lines with is_cancellation and, where sources overlap, is_copy.

    Without invoices, one purchase is a customer's day. Without a pattern for cancellations, negative money is a refund.
    A copy is a line that an earlier file or sheet holds too. Equal lines of one file are purchases of the same thing
    twice, and kept: the n-th of them in one file is a copy of the n-th in another only.
    """
    daily = "* replace (customer_id || '@' || cast(transaction_at as date) as invoice)"
    invoices = "*" if retailer.columns.invoice else daily
    cancels = "regexp_matches(invoice, $cancellation)" if retailer.cleaning.cancellation else "amount < 0"
    numbered = (
        f"with numbered as (select {invoices}, coalesce({cancels}, false) as is_cancellation from raw_transactions)"
    )
    if not retailer.cleaning.sources_overlap:
        return f"{numbered}, marked as (select * from numbered)"
    content = ", ".join(quoted(column.name) for column in line_columns())
    return f"""{numbered}, repeated as (
        select *, row_number() over (partition by source_file, source_sheet, {content} order by source_line) as nth
        from numbered
    ), marked as (
        select * exclude (nth),
            row_number() over (partition by {content}, nth order by source_file, source_sheet) > 1 as is_copy
        from repeated
    )"""


def _refusals(retailer: Retailer) -> Iterator[Refusal]:
    """The rules that always hold stand around the retailer's own.

    What comes after as_of comes before all: as of that day nobody knew of it, so no other rule counts it.
    """
    own = retailer.cleaning.rules
    if (moment := retailer.transaction_cutoff) is not None:
        condition = "transaction_at >= $transaction_cutoff"
        yield Refusal("after_as_of", "sold after the as-of date", condition, {"transaction_cutoff": moment})
    yield Refusal(
        "unparseable_value",
        "the line is broken, or its date, quantity or money cannot be read",
        "unparsed is not null",
    )
    if retailer.cleaning.refunds == "ignore":
        yield Refusal("cancellation", "a cancellation, and refunds are ignored", "is_cancellation")
    for number, rule in enumerate(own):
        yield _own(rule, f"rule_{number}")
    if not any(rule.column == "customer_id" for rule in own):
        yield Refusal("missing_customer", "no customer is named", "customer_id is null")
    if retailer.columns.invoice is not None and not any(rule.column == "invoice" for rule in own):
        yield Refusal("missing_invoice", "no invoice is named", "invoice is null")
    if retailer.cleaning.cancellation is not None:
        yield _against_its_sign(retailer)
    if retailer.cleaning.sources_overlap:
        yield Refusal("exact_duplicate", "the same line already came in another file or sheet", "is_copy")


def _against_its_sign(retailer: Retailer) -> Refusal:
    """Where the invoice number tells a cancellation, the money may say otherwise: after every rule of the retailer.

    A cancellation of positive money is refused and not turned round: whether the mark or the sign is wrong, only the
    retailer can tell. Negative money on another invoice is a refund: netted, or refused where refunds are ignored.
    """
    if retailer.cleaning.refunds == "ignore":
        return Refusal(
            "negative_money", "money given back without a cancellation, and refunds are ignored", "amount < 0"
        )
    condition = "is_cancellation and amount > 0"
    return Refusal("positive_cancellation", "a cancellation that would add to what was spent", condition)


def _own(rule: Rule, bound: str) -> Refusal:
    """A rule of the retailer file. One on the invoice number leaves cancellations alone: `refunds` judges them."""
    column = quoted(rule.column)
    if rule.required:
        return Refusal(rule.name, rule.reason, f"{column} is null")
    if rule.above is not None:
        kind = _DECIMAL_COLUMNS[rule.column]
        passes, value = f"{column} > cast(${bound} as {kind})", str(rule.above)
        return Refusal(rule.name, rule.reason, f"not coalesce({passes}, false)", {bound: value})
    by_pattern = rule.matches is not None
    passes = f"regexp_matches({column}, ${bound})" if by_pattern else f"list_contains(${bound}, {column})"
    if rule.column == "invoice":
        passes = f"(is_cancellation and {column} is not null) or {passes}"
    return Refusal(rule.name, rule.reason, f"not coalesce({passes}, false)", {bound: rule.matches or rule.is_in})
