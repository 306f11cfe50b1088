"""What a run leaves out of the segments, in messages that name the setting which would read or expect it.

Does not contain the rules (`cleaning`) or the checks that judge the loss (`defs.cleaning.checks`).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from itertools import groupby
from typing import Any, Self

from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.ingestion.cleaning import query_inputs
from segmentation_pipeline.ingestion.file_ledger import QUERY_FOLDER
from segmentation_pipeline.ingestion.reading_advice import reading_advice
from segmentation_pipeline.warehouse.database import Warehouse
from segmentation_pipeline.warehouse.queries import QueryInputs, bound_values, inline_upstream

UNPARSED = "unparseable_value"
# Shown instead of an amount that nobody knows.
UNKNOWN = "unknown"
# Nobody knew of later lines on the as-of date, and a newer file has those of a superseded one.
SUPERSEDED = "superseded_file"
_NO_LOSS = ("after_as_of", SUPERSEDED)
# Where rules that nobody expected to reject so much reject more than this together, a rule or the source is wrong.
MAX_UNEXPECTED_SHARE = 0.5
_SHOWN_RULES = 3


@dataclass(frozen=True)
class Loss:
    """The lines of a source that one rule rejects.

    Attributes:
        rule: The rule's name.
        reason: Why it rejects them.
        lines: How many.
        share: Their share of the lines up to the as-of date.
        amount: Their money, where it could be read; None if it is unknown of all of them.
        amount_share: Their share of the money up to the as-of date, with refunds counted as positive; 0 if unknown.
        lines_without_amount: How many of them have unknown money.
    """

    rule: str
    reason: str
    lines: int
    share: float
    amount: Decimal | None
    amount_share: float
    lines_without_amount: int


@dataclass(frozen=True)
class Judgement:
    """What the settings say of a loss: it is expected, worth a warning, or makes the run fail."""

    warns: bool
    fails: bool
    message: str


@dataclass(frozen=True)
class Losses:
    """All losses of a run.

    Attributes:
        report: The rows of `cleaning_report`, in order.
        unparsed: The rows of `unparsed_values`, the column with most lines first.
    """

    report: Sequence[dict[str, Any]]
    unparsed: Sequence[dict[str, Any]]

    @classmethod
    def of(cls, warehouse: Warehouse, inputs: QueryInputs | None = None) -> Self:
        """Return the losses of a run.

        Args:
            warehouse: The working database.
            inputs: The relations of the cleaning stage, if its tables are not written yet.
        """
        relations, values = (inputs.relations, inputs.values) if inputs else ({}, {})

        def rows(select: str) -> list[dict[str, Any]]:
            text = inline_upstream(select, relations) if relations else select
            return warehouse.rows(text, **bound_values(text, values))

        return cls(
            rows("select * from cleaning_report order by step"),
            rows("select * from unparsed_values order by lines_of_column desc, column_name, position"),
        )

    @classmethod
    def by_report(cls, warehouse: Warehouse) -> Self:
        """Return the losses of a run without how unreadable values are written."""
        return cls(warehouse.rows("select * from cleaning_report order by step"), ())

    @property
    def lines(self) -> int:
        """The number of lines up to the as-of date, without those of superseded files."""
        return int(self.report[0]["lines"] - sum(step["lines"] for step in self._no_loss))

    @cached_property
    def by_rule(self) -> list[Loss]:
        """The loss of each rule, in the order of the rules."""
        amount_share = 1 - sum(step["amount_share"] or 0.0 for step in self._no_loss)
        return [
            Loss(
                step["rule"],
                step["reason"],
                step["lines"],
                step["lines"] / max(self.lines, 1),
                step["amount"],
                (step["amount_share"] or 0.0) / amount_share if amount_share > 0 else 0.0,
                step["lines_without_amount"],
            )
            for step in self.report[1:]
            if step["rule"] not in _NO_LOSS
        ]

    @property
    def unreadable(self) -> Loss:
        """The lines with a value that cannot be read."""
        return next(loss for loss in self.by_rule if loss.rule == UNPARSED)

    @property
    def rejected_share(self) -> float:
        """The share of the lines up to the as-of date that all rules reject together."""
        return sum(loss.lines for loss in self.by_rule) / max(self.lines, 1)

    @property
    def rejected_money_share(self) -> float:
        """The share of the money up to the as-of date that all rules reject together."""
        return sum(loss.amount_share for loss in self.by_rule)

    def unexpected(self, settings: Retailer) -> list[Loss]:
        """Return the losses by rules that reject more money, or all together more lines, than the settings expect."""
        expected = settings.cleaning.expected_share_of
        rules = [loss for loss in self.by_rule if loss.rule != UNPARSED]
        large = [loss for loss in rules if loss.amount_share >= settings.checks.warn_rejected_money]
        if found := [loss for loss in large if loss.amount_share > expected(loss.rule)]:
            return found
        more = [loss for loss in rules if max(loss.share, loss.amount_share) > expected(loss.rule)]
        together = max(sum(loss.share for loss in more), sum(loss.amount_share for loss in more))
        return more if together > MAX_UNEXPECTED_SHARE else []

    def judge_unreadable(self, settings: Retailer) -> Judgement:
        """Judge the lines that cannot be read by checks.warn_unparsed_share and checks.fail_unparsed_share."""
        bounds, loss = settings.checks, self.unreadable
        fails = loss.share >= bounds.fail_unparsed_share
        warns = loss.share >= bounds.warn_unparsed_share or loss.amount_share >= bounds.warn_rejected_money
        bound = (
            f"The run fails from checks.fail_unparsed_share = {bounds.fail_unparsed_share:.1%}."
            if fails
            else f"A check warns from checks.warn_unparsed_share = {bounds.warn_unparsed_share:.1%} of the lines and"
            f" from checks.warn_rejected_money = {bounds.warn_rejected_money:.1%} of the money."
        )
        return Judgement(warns or fails, fails, f"{self.unreadable_message(settings)} {bound}")

    def judge_rejected(self, warehouse: Warehouse, settings: Retailer) -> Judgement:
        """Judge the lines that the rules reject by what the settings expect of each rule."""
        message = (
            f"{self.unexpected_message(warehouse, settings)} A check warns from checks.warn_rejected_money ="
            f" {settings.checks.warn_rejected_money:.1%} of the money, or where such rules together reject more than"
            f" {MAX_UNEXPECTED_SHARE:.0%} of it or of the lines."
        )
        return Judgement(bool(self.unexpected(settings)), False, message)

    def unreadable_message(self, settings: Retailer) -> str:
        """Return how many lines cannot be read, how they are written, and which settings read them."""
        loss = self.unreadable
        columns = [list(rows) for _, rows in groupby(self.unparsed, key=lambda row: row["column_name"])]
        written = "; ".join(map(_written, columns))
        advice = dict.fromkeys(text for rows in columns for text in reading_advice(rows, settings.source))
        count = f"{loss.lines:,} of {self.lines:,} lines ({loss.share:.1%}) could not be read"
        return " ".join([f"{count}; {_money(loss, settings)}.", f"{written}.", *advice])

    def unexpected_message(self, warehouse: Warehouse, settings: Retailer) -> str:
        """Return which rules reject more than expected, and which settings keep or expect these lines."""
        return " ".join(
            text for loss in self.unexpected(settings) for text in self._unexpected(loss, warehouse, settings)
        )

    def summary(self) -> str:
        """Return how many lines were rejected, by which rules most; empty if less than half were."""
        # Nobody lost the lines of superseded files, but an as-of date before all lines is an error.
        steps = [step for step in self.report[1:] if step["rule"] != SUPERSEDED and step["lines"]]
        count, left = sum(step["lines"] for step in steps), self.report[-1]["lines_left"]
        if count <= left:
            return ""
        steps.sort(key=lambda step: (-step["lines"], step["rule"]))
        rules = ", ".join(f"{step['rule']} {step['lines']:,}" for step in steps[:_SHOWN_RULES])
        return f"{count:,} of {count + left:,} lines were rejected: {rules}."

    @property
    def _no_loss(self) -> list[dict[str, Any]]:
        return [step for step in self.report if step["rule"] in _NO_LOSS]

    def _unexpected(self, loss: Loss, warehouse: Warehouse, settings: Retailer) -> Iterator[str]:
        yield (
            f"{loss.rule} ({loss.reason}) rejected {loss.lines:,} of {self.lines:,} lines ({loss.share:.1%}) and"
            f" {loss.amount_share:.1%} of the money; {_money(loss, settings)}."
        )
        if lines := _lines_to_fill(loss.rule, warehouse, settings):
            yield (
                f"{lines:,} lines without a customer belong to an invoice that has one on another line. If the source"
                ' writes it on the first line only, set source.fill_down = ["customer_id"].'
            )
        is_own = any(rule.name == loss.rule for rule in settings.cleaning.rules)
        share = f"{math.ceil(max(loss.share, loss.amount_share) * 100) / 100:g}"
        setting = (
            f"expected_share = {share} in this rule of [[cleaning.rules]]"
            if is_own
            else f"{loss.rule} = {share} in [cleaning.expected_share]"
        )
        yield f"If this is expected, set {setting}; otherwise correct the source or the rule."


def too_little_data(warehouse: Warehouse, settings: Retailer) -> tuple[dict[str, int], str]:
    """Return the customers and days of the accepted lines, and a message if they are fewer than [checks] asks for."""
    row = warehouse.row(
        "select count(distinct customer_id) as customers,"
        " coalesce(date_diff('day', min(transaction_at), max(transaction_at)), 0) as days from clean_transactions"
    )
    bounds = settings.checks
    if row["customers"] >= bounds.min_customers and row["days"] >= bounds.min_days:
        return row, ""
    return row, (
        f"Too little data: {row['customers']:,} customers over {row['days']:,} days; the settings ask for"
        f" {bounds.min_customers:,} customers over {bounds.min_days:,} days ([checks])."
    )


def explain_loss(warehouse: Warehouse, settings: Retailer) -> str:
    """Return an explanation if most lines are rejected: the rules, what could not be read, and what to do."""
    losses = Losses.of(warehouse, query_inputs(settings))
    if not (summary := losses.summary()):
        return ""
    unreadable = losses.unreadable_message(settings) if losses.unreadable.lines else ""
    reasons = [unreadable, losses.unexpected_message(warehouse, settings)]
    return " ".join(filter(None, [summary, *reasons, "" if any(reasons) else "Correct the source or the rules."]))


def _money(loss: Loss, settings: Retailer) -> str:
    if loss.amount is None:
        return "their money is unknown"
    known = f"{loss.amount:,.2f} {settings.currency}"
    if loss.lines_without_amount:
        return f"the money of {loss.lines_without_amount:,} is unknown, that of the others is {known}"
    return f"their money is {known}"


def _written(rows: Sequence[dict[str, Any]]) -> str:
    """Return how the unreadable values of a column are written, and where the first one is."""
    first = rows[0]
    sheet = f" [{first['source_sheet']}]" if first["source_sheet"] else ""
    place = f"{first['source_file']}{sheet}, line {first['source_line']}"
    if first["source_file"].startswith(QUERY_FOLDER):
        place = f"{first['source_file']}, key {first['source_sheet']}"
    lines = "line" if first["lines_of_column"] == 1 else "lines"
    patterns = ", ".join(f"{row['pattern']!r} in {row['lines']:,}" for row in rows)
    return f"{first['column_name']} in {first['lines_of_column']:,} {lines}: {patterns}, first in {place}"


def _lines_to_fill(rule: str, warehouse: Warehouse, settings: Retailer) -> int:
    """Return the number of lines without a customer, in invoices that have one, if the rule rejects such lines."""
    own = {one.name for one in settings.cleaning.rules if one.column == "customer_id" and not one.accepts_empty}
    if rule not in own | {"missing_customer"} or "customer_id" in settings.source.fill_down:
        return 0
    row = warehouse.row(
        "select count(*) as lines from raw_transactions where customer_id is null and invoice in"
        " (select invoice from raw_transactions where customer_id is not null and invoice is not null)"
    )
    return int(row["lines"])
