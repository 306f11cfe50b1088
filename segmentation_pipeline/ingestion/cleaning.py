"""Turn a retailer's cleaning rules into SQL: which rule rejects which lines, in which order.

Contains the relations `judged_transactions` and `cleaning_rules`, which the SELECTs of the cleaning stage read as if
they were tables. What a retailer file may say of its rules is in `config.cleaning_rules`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import duckdb

from segmentation_pipeline.config.cleaning_rules import Rule
from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.ingestion.number_formats import number_sql, number_values
from segmentation_pipeline.tables.catalog import line_columns
from segmentation_pipeline.tables.contract import quoted
from segmentation_pipeline.warehouse.queries import QueryInputs

_DECIMAL_TYPES = {column.name: column.type for column in line_columns() if column.type.startswith("DECIMAL")}


@dataclass(frozen=True)
class RejectionRule:
    """A rule with the SQL condition of the lines that it rejects, and the values that the condition binds."""

    name: str
    reason: str
    condition: str
    values: dict[str, Any] = field(default_factory=dict)


def rejection_rules(retailer: Retailer) -> list[RejectionRule]:
    """Return every rule in the order of application; the first whose condition is true rejects the line."""
    return list(_rules(retailer))


def query_inputs(retailer: Retailer) -> QueryInputs:
    """Return the relations of the cleaning stage.

    `judged_transactions` is the raw lines with `is_cancellation` and the step of the rule that rejects them, null where
    none does; `cleaning_rules` lists the rules.
    """
    pattern = retailer.cleaning.cancellation
    values: dict[str, Any] = {} if pattern is None else {"cancellation": pattern}
    cases, rows = [], []
    for number, rule in enumerate(rejection_rules(retailer), 1):
        values |= rule.values | {f"name_{number}": rule.name, f"reason_{number}": rule.reason}
        cases.append(f"when {rule.condition} then {number}")
        rows.append(f"({number}, $name_{number}, $reason_{number})")
    step = f"case {' '.join(cases)} end as step"
    judged = f"{_marked_ctes(retailer)} select *, {step} from marked"  # noqa: S608 - own SQL
    listed = f"select * from (values {', '.join(rows)}) as listed(step, rule, reason)"  # noqa: S608 - own SQL
    thresholds = {"transaction_cutoff": "transaction_at"} if "transaction_cutoff" in values else {}
    return QueryInputs({"judged_transactions": judged, "cleaning_rules": listed}, values, thresholds)


def is_by_file(retailer: Retailer) -> bool:
    """Return whether the rules judge the lines of a file by that file alone, and not by copies in others."""
    return not retailer.cleaning.sources_overlap


def _marked_ctes(retailer: Retailer) -> str:
    """Return CTEs that end with `marked`: the raw lines with is_cancellation and, where sources overlap, is_copy.

    Without invoices, a purchase is all that a customer buys on a day. Without a pattern of cancellations, negative
    money is a refund. A copy is a line that an earlier file or sheet has too. Equal lines of one file are separate
    purchases and kept: the n-th of them in one file is a copy of the n-th in another. A line of a superseded file is
    not one that makes others copies.
    """
    by_day = "* replace (customer_id || '@' || cast(transaction_at as date) as invoice)"
    columns = "*" if retailer.columns.invoice else by_day
    # An empty list rejects nothing: the status of files changes without this text.
    superseded = ""
    if retailer.source.supersedes:
        superseded = (
            ", source_file in (select source_file from ingested_files where status = 'superseded') as is_superseded"
        )
    is_cancellation = "regexp_matches(invoice, $cancellation)" if retailer.cleaning.cancellation else "amount < 0"
    numbered = (
        f"with numbered as (select {columns}, coalesce({is_cancellation}, false)"  # noqa: S608 - own SQL
        " as is_cancellation"
        f"{superseded} from raw_transactions)"
    )
    if not retailer.cleaning.sources_overlap:
        return f"{numbered}, marked as (select * from numbered)"  # noqa: S608 - own SQL, values are bound
    # Lines that differ in a column for rules, such as the status of an order, are not the same.
    content = ", ".join(map(quoted, (*(column.name for column in line_columns()), *retailer.columns.extra)))
    return f"""{numbered}, repeated as (
        select *, row_number() over (partition by source_file, source_sheet, {content} order by source_line) as nth
        from numbered
    ), marked as (
        select * exclude (nth),
            row_number() over (
                partition by {content}, nth{", is_superseded" if superseded else ""} order by source_file, source_sheet
            ) > 1 as is_copy
        from repeated
    )"""  # noqa: S608 - own SQL, values are bound


def _rules(retailer: Retailer) -> Iterator[RejectionRule]:
    """Yield the rules that always apply, and between them the retailer's own.

    Lines after as_of come first: nobody knew of them on that day, so no other rule may count them.
    """
    own = retailer.cleaning.rules
    if (cutoff := retailer.transaction_cutoff) is not None:
        condition = "transaction_at >= $transaction_cutoff"
        yield RejectionRule("after_as_of", "sold after the as-of date", condition, {"transaction_cutoff": cutoff})
    if retailer.source.supersedes:
        yield RejectionRule("superseded_file", "a newer export supersedes the file", "is_superseded")
    yield RejectionRule("totals_line", "the line is the total of others", """unparsed like '{"totals_line":%'""")
    yield RejectionRule(
        "unparseable_value",
        "the line is malformed, or its date, quantity or money cannot be read",
        "unparsed is not null",
    )
    if retailer.cleaning.refunds == "ignore":
        yield RejectionRule("cancellation", "a cancellation, and refunds are ignored", "is_cancellation")
    for number, rule in enumerate(own):
        yield _own_rule(retailer, rule, f"rule_{number}")
    required = {rule.column for rule in own if not rule.accepts_empty}
    if "customer_id" not in required:
        yield RejectionRule("missing_customer", "the customer is missing", "customer_id is null")
    if retailer.columns.invoice is not None and "invoice" not in required:
        yield RejectionRule("missing_invoice", "the invoice number is missing", "invoice is null")
    if retailer.cleaning.cancellation is not None:
        yield _sign_rule(retailer)
    if retailer.cleaning.sources_overlap:
        yield RejectionRule("exact_duplicate", "the same line is in an earlier file or sheet", "is_copy")


def _sign_rule(retailer: Retailer) -> RejectionRule:
    """Return the rule for money whose sign contradicts the invoice number, which applies after the retailer's rules.

    A cancellation with positive money is rejected and not inverted, because only the retailer knows whether the number
    or the sign is wrong. Negative money on another invoice is a refund: net, or rejected where refunds are ignored.
    """
    if retailer.cleaning.refunds == "ignore":
        return RejectionRule(
            "negative_money", "money paid back without a cancellation, and refunds are ignored", "amount < 0"
        )
    condition = "is_cancellation and amount > 0"
    return RejectionRule("positive_cancellation", "a cancellation that would add to the money spent", condition)


def _own_rule(retailer: Retailer, rule: Rule, parameter: str) -> RejectionRule:
    """Return a rule of the retailer file. A rule on invoices leaves cancellations alone: `refunds` decides on them."""
    column = quoted(rule.column)
    if rule.required:
        return RejectionRule(rule.name, rule.reason, f"{column} is null")
    values: dict[str, Any]
    pattern = rule.not_matches if rule.matches is None else rule.matches
    listed = rule.not_in if rule.is_in is None else rule.is_in
    if pattern is not None:
        passes, values = f"regexp_matches({column}, ${parameter})", {parameter: pattern}
    elif listed is not None:
        is_extra = rule.column in retailer.columns.extra
        text = _label(column) if is_extra else column
        passes, values = f"list_contains(${parameter}, {text})", {parameter: _labels(listed) if is_extra else listed}
    else:
        passes, values = _compared(retailer, rule, f"${parameter}")
        values[parameter] = str(rule.below if rule.above is None else rule.above)
    if rule.not_matches is not None or rule.not_in is not None:
        passes = f"not {passes}"
    if rule.column == "invoice":
        passes = f"(is_cancellation and {column} is not null) or {passes}"
    return RejectionRule(rule.name, rule.reason, f"not coalesce({passes}, {str(rule.accepts_empty).lower()})", values)


def _compared(retailer: Retailer, rule: Rule, bound: str) -> tuple[str, dict[str, Any]]:
    """Return the SQL of the comparison of a number with a bound, and the values that it binds beside the bound."""
    column, sign = quoted(rule.column), ">" if rule.above is not None else "<"
    if rule.column in _DECIMAL_TYPES:
        return f"{column} {sign} cast({bound} as {_DECIMAL_TYPES[rule.column]})", {}
    # The notations of the source, as in the SELECT of raw_transactions.
    values = number_values(retailer)
    names = ("number", "written_money", "currency_mark", "thousands", "decimal")
    return f"{number_sql(column)} {sign} cast({bound} as double)", {name: values[name] for name in names}


def _label(text: str) -> str:
    """Return the SQL of a text in the form in which labels, such as the status of an order, are compared."""
    return rf"lower(regexp_replace({text}, '^([0-9]+)[.,]0$', '\1'))"


def _labels(texts: Sequence[str]) -> list[str]:
    """Return texts of a rule in the same form, computed by the same SQL."""
    stripped = [text.strip() for text in texts]
    select = f"select {_label('text')} from (select unnest($texts) as text)"  # noqa: S608 - own SQL
    return [label for (label,) in duckdb.cursor().execute(select, {"texts": stripped}).fetchall()]
