"""The table `[cleaning]` of a retailer file: which transaction lines count.

Does not contain the SQL of the rules: see `ingestion.cleaning`.
"""

from collections.abc import Iterator
from decimal import Decimal
from typing import Annotated, Any, Literal

import duckdb
from pydantic import AfterValidator, Field

from segmentation_pipeline.config.validation import NUMBERS, Section, SettingError, Text, tables

# The rules of the pipeline, with the column on which a retailer's rule may replace one.
_PIPELINE_RULES = {
    "read": "",
    "totals_line": "",
    "unparseable_value": "",
    "cancellation": "",
    "after_as_of": "",
    "superseded_file": "",
    "exact_duplicate": "",
    "positive_cancellation": "",
    "negative_money": "",
    "missing_customer": "customer_id",
    "missing_invoice": "invoice",
}

_TESTS = ("matches", "not_matches", "required", "above", "below", "in", "not_in")
_TESTS_OF_NUMBERS = ("required", "above", "below")


def _check_pattern(value: str) -> str:
    try:
        duckdb.cursor().execute("select regexp_matches('', $pattern)", {"pattern": value})
    except duckdb.Error as error:
        message = str(error).removeprefix("Invalid Input Error: ")
        raise ValueError(f"allowed: a regular expression of RE2; {message}") from None
    return value


def _accepts_empty(rule: dict[str, Any]) -> bool:
    listed = rule.get("in", rule.get("not_in"))
    lists_empty = isinstance(listed, list) and "" in listed
    return "not_matches" in rule or lists_empty != ("not_in" in rule)


Pattern = Annotated[str, AfterValidator(_check_pattern)]
Share = Annotated[float, Field(ge=0, le=1)]


class Rule(Section):
    """A cleaning rule: one test of one column. Lines that fail it are rejected."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    """Name of the rule in rejected_transactions and cleaning_report."""
    reason: str = Field(min_length=1)
    """Explanation of the rule, for the readers of these tables."""
    column: Text
    """Column to test: one that [columns] maps, or a name of [columns.extra]. On invoice, cancellations always pass."""
    matches: Pattern | None = None
    """Regular expression (RE2) that must match a part of the value."""
    not_matches: Pattern | None = None
    """Regular expression (RE2) that must match no part of the value. An empty value passes."""
    required: Literal[True] | None = None
    """Requires a value."""
    above: Decimal | None = Field(None, gt=-(10**14), lt=10**14)
    """Number that the value must exceed. A text is read as a number in the notation of the source's money, but not as
    minor units; without a number, the line is rejected."""
    below: Decimal | None = Field(None, gt=-(10**14), lt=10**14)
    """Number that the value must be less than, as with above."""
    is_in: list[str] | None = Field(None, alias="in", min_length=1)
    """Texts that the value must be one of; "" is an empty value. In columns of [columns.extra], case, blanks around the
    text and .0 behind a number do not matter."""
    not_in: list[str] | None = Field(None, min_length=1)
    """Texts that the value must not be one of, compared in the same way. An empty value passes unless "" is listed."""
    # What is expected does not change what is rejected, so no digest of settings includes it.
    expected_share: Share | None = Field(None, exclude=True)
    """Share of the lines and of the money that the rule is expected to reject, such as 0.25. Of a rule that rejects
    more, a check warns (see `checks.warn_rejected_money`). Unset: none is expected."""

    @property
    def accepts_empty(self) -> bool:
        """Whether a line without a value passes."""
        return _accepts_empty(self.model_dump(by_alias=True, exclude_none=True))

    @classmethod
    def combined_errors(cls, settings: dict[str, Any]) -> Iterator[SettingError]:
        """Yield errors unless the rule has one test that suits its column, and a name that is not taken."""
        tests = [key for key in _TESTS if key in settings]
        if len(tests) != 1:
            listed = " and ".join(tests) or "none"
            message = f"allowed: exactly one of {', '.join(_TESTS)}; it has {listed}"
            yield SettingError((), message, settings)
        column, name = settings.get("column"), settings.get("name")
        suitable = _TESTS_OF_NUMBERS if column in NUMBERS else ("required",) if column == "transaction_at" else _TESTS
        for key in tests:
            if key not in suitable:
                message = f"cannot test {column}; allowed: {', '.join(suitable)}"
                yield SettingError((key,), message, settings[key])
        replaces = _PIPELINE_RULES.get(str(name)) == column and not _accepts_empty(settings)
        if str(name) in _PIPELINE_RULES and not replaces:
            yield SettingError(("name",), "the pipeline has a rule of this name; allowed: another name", name)


class ExpectedShare(Section):
    """Shares of the lines and of the money that the pipeline's own rules are expected to reject, between 0 and 1.

    The expected share of a rule in [[cleaning.rules]] is a key of that rule.
    """

    missing_customer: Share = 0.0
    """Lines without a customer, such as sales to guests or over the counter."""
    missing_invoice: Share = 0.0
    """Lines without an invoice number."""
    cancellation: Share = 0.0
    """Cancellations, where `refunds` is `ignore`."""
    negative_money: Share = 0.0
    """Other lines of negative money, where `refunds` is `ignore`."""
    positive_cancellation: Share = 0.0
    """Cancellations of positive money."""
    exact_duplicate: Share = 0.0
    """Lines that are in an earlier file or sheet too, where `sources_overlap` is on."""


class Cleaning(Section):
    """Which transaction lines count."""

    rules: list[Rule] = Field([])
    """Rules in the order of application. The first one that a line fails is the reason for its rejection."""
    refunds: Literal["net", "ignore"] = "net"
    """How cancellations and other lines of negative money count. `net`: they reduce monetary on their own date, because
    the retailer did not earn that money. `ignore`: they are rejected."""
    cancellation: Pattern | None = None
    """Regular expression (RE2) of the invoice numbers of cancellations. Unset: a cancellation is a line of negative
    money, which every source has."""
    sources_overlap: bool = False
    """Whether the same line in two files or sheets counts once. Off by default, because two equal lines may be two
    sales."""
    expected_share: ExpectedShare = Field(ExpectedShare(), exclude=True)

    def expected_share_of(self, rule: str) -> float:
        """Return the share that a rule is expected to reject; 0 where none is expected."""
        own = next((one.expected_share for one in self.rules if one.name == rule), None)
        return float(getattr(self.expected_share, rule, 0.0)) if own is None else own

    @classmethod
    def combined_errors(cls, settings: dict[str, Any]) -> Iterator[SettingError]:
        """Yield an error for each rule with the name of an earlier one."""
        names: list[object] = []
        for position, rule in enumerate(tables(settings.get("rules"))):
            if "name" in rule and rule["name"] in names:
                message = "an earlier rule has this name; allowed: another name"
                yield SettingError(("rules", position, "name"), message, rule["name"])
            names.append(rule.get("name"))
