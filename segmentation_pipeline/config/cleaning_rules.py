"""The `[cleaning]` of a retailer file: which lines count, as declarative rules.

Belongs here: what the retailer may say of that. Does not: the rules as SQL (`cleaning`).
"""

from collections.abc import Iterator
from decimal import Decimal
from typing import Annotated, Any, Literal, get_args

import duckdb
from pydantic import AfterValidator, Field

from segmentation_pipeline.config.base import NUMBERS, ColumnName, Section, SettingError, tables

# Two of them are replaced by a rule of the retailer's on their column.
_RULES_THAT_ALWAYS_HOLD = {
    "read": "",
    "unparseable_value": "",
    "cancellation": "",
    "after_as_of": "",
    "exact_duplicate": "",
    "positive_cancellation": "",
    "negative_money": "",
    "missing_customer": "customer_id",
    "missing_invoice": "invoice",
}


def _compiled(value: str) -> str:
    try:
        duckdb.cursor().execute("select regexp_matches('', $pattern)", {"pattern": value})
    except duckdb.Error as error:
        wrong = str(error).removeprefix("Invalid Input Error: ")
        raise ValueError(f"allowed: a regular expression of RE2; {wrong}") from None
    return value


Pattern = Annotated[str, AfterValidator(_compiled)]


class Rule(Section):
    """A cleaning rule: lines whose column does not pass are refused with the rule's name and reason."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    """Stands in rejected_transactions and cleaning_report."""
    reason: str = Field(min_length=1)
    """A sentence for those who read them."""
    column: ColumnName
    """The column that is tested."""
    matches: Pattern | None = None
    """Passes if this regular expression (RE2) finds a match; on invoice, cancellations pass too."""
    required: Literal[True] | None = None
    """Passes if there is a value."""
    above: Decimal | None = Field(None, gt=-(10**14), lt=10**14)
    """Passes if the number is greater."""
    is_in: list[str] | None = Field(None, alias="in", min_length=1)
    """Passes if the text is one of these."""

    @classmethod
    def combined_errors(cls, settings: dict[str, Any]) -> Iterator[SettingError]:
        """A rule is one test, which suits its column, under a name that no rule of the package has."""
        tests = [key for key in ("matches", "required", "above", "in") if key in settings]
        if len(tests) != 1:
            has = " and ".join(tests) or "none"
            message = f"allowed: exactly one of matches, required, above, in; it has {has}"
            yield SettingError((), message, settings)
        column, name = settings.get("column"), settings.get("name")
        suits = ["above"] if column in NUMBERS else [] if column == "transaction_at" else ["matches", "in"]
        for key in tests:
            if key not in ("required", *suits) and column in get_args(ColumnName):
                message = f"does not go with {column}; allowed: {', '.join(['required', *suits])}"
                yield SettingError((key,), message, settings[key])
        if _RULES_THAT_ALWAYS_HOLD.get(str(name), column) != column:
            yield SettingError(("name",), "a rule that always holds has this name; allowed: another", name)


class Cleaning(Section):
    """Which lines count."""

    rules: list[Rule] = Field([])
    """Applied in order; the first that a line fails names its reason."""
    refunds: Literal["net", "ignore"] = "net"
    """`net`: cancellations and other negative money reduce monetary on their own date, because what was given back
    was not earned; `ignore`: they are refused."""
    cancellation: Pattern | None = None
    """Pattern of the invoice numbers of cancellations; unset: lines of negative money, which every source shows."""
    sources_overlap: bool = False
    """The same line in two files or sheets counts once; not by default, since two equal lines may be two sales."""

    @classmethod
    def combined_errors(cls, settings: dict[str, Any]) -> Iterator[SettingError]:
        """The report counts by name."""
        names: list[object] = []
        for place, rule in enumerate(tables(settings.get("rules"))):
            if "name" in rule and rule["name"] in names:
                message = "an earlier rule has this name; allowed: another"
                yield SettingError(("rules", place, "name"), message, rule["name"])
            names.append(rule.get("name"))
