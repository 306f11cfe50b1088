"""The tables of a retailer file that describe columns, customers, features, privacy, releases and checks.

The source is in `source_settings`, the cleaning rules are in `cleaning_rules`, the model in `model_settings`, errors
across tables in `retailer`.
"""

import re
from collections.abc import Collection, Iterator
from datetime import MAXYEAR, date, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from segmentation_pipeline.config.validation import RESERVED_NAMES, Feature, Section, SettingError, SourceColumn, Text

Normalisation = Literal["trim", "strip_decimal", "strip_leading_zeros", "lower"]


class Columns(Section):
    """The source's name of each column, or its position: 1 is the first column of the file.

    Leave out the columns that the source does not have. Positions are for files without a header, and for a name that a
    header has twice.
    """

    transaction_at: SourceColumn
    """Date and time of the sale, in the retailer's local time."""
    transaction_time: SourceColumn | None = None
    """Time of the sale, if the source has it in a column of its own beside the date. Both are read as one text, with a
    blank between them."""
    customer_id: SourceColumn
    """Identifier of the customer."""
    invoice: SourceColumn | None = None
    """Invoice number. Without it, one purchase is everything that a customer bought on one day."""
    stock_code: SourceColumn | None = None
    """Identifier of the product."""
    description: SourceColumn | None = None
    """Name of the product."""
    quantity: SourceColumn | None = None
    """Number of units sold, with up to 3 decimals."""
    price: SourceColumn | None = None
    """Price of one unit, with up to 4 decimals."""
    amount: SourceColumn | None = None
    """Money of the line, with up to 4 decimals. Without it, quantity times price."""
    country: SourceColumn | None = None
    """Country of the customer."""
    extra: dict[str, SourceColumn] = Field({})
    """Further columns for cleaning rules, such as status = "Financial Status" below [columns.extra]: the name of a
    column of text in raw_transactions, and the source's name. A removed one is deleted from raw_transactions. They may
    be personal data: see privacy.drop."""

    @classmethod
    def combined_errors(cls, settings: dict[str, Any]) -> Iterator[SettingError]:
        """Yield an error if no columns give the money of a line, and for each name of `extra` that is not valid."""
        extra = settings.get("extra")
        for name in extra if isinstance(extra, dict) else ():
            if name in RESERVED_NAMES:
                message = "the pipeline has a column of this name; allowed: another name"
                yield SettingError(("extra", name), message, name)
            elif not re.fullmatch("[a-z][a-z0-9_]*", name):
                message = "the name of a column; allowed: lower-case letters, digits and _, such as financial_status"
                yield SettingError(("extra", name), message, name)
        if "amount" not in settings and not {"price", "quantity"} <= settings.keys():
            message = "no column gives the money of a line; allowed: amount, or both price and quantity"
            yield SettingError((), message, settings)

    def source_names(self) -> dict[str, str | int]:
        """Return the source's name or position of each column that the source has."""
        named = {name: value for name, value in self if value is not None and name != "extra"}
        return named | self.extra


class Customers(Section):
    """Which ids of the source name the same customer."""

    normalise: list[Normalisation] = Field([])
    """Differences between ids that do not matter. `trim`: tabs and invisible characters around an id.
    `strip_decimal`: a decimal zero, also with a comma (12345,0). `strip_leading_zeros`: zeros before a number (00123).
    `lower`: upper case. Spaces around an id and .0 behind a number never matter. Ids are normalised before they are
    hashed, stored or compared with erased customers. Lines of missing files keep the ids that they were read with."""
    merged: Text | None = None
    """Path of a CSV file with the header old_id,new_id, from the folder of this file: customers that were merged, each
    with the id that replaces the old one. Ids are normalised first. Of a chain, the last id counts; a circle or a
    repeated old_id is an error. When the file changes, the source is read again."""

    @field_validator("merged")
    @classmethod
    def _check_merged(cls, value: str | None) -> str | None:
        if value is not None and ("\0" in value or ".." in Path(value).parts):
            raise ValueError("allowed: a path without `..`; write an absolute path instead")
        return value


class Rfm(Section):
    """The as-of date and the period that recency, frequency and monetary describe."""

    as_of: Literal["last_transaction", "end_of_day", "schedule"] | datetime | date = "last_transaction"
    """Time up to which transactions count. `last_transaction`; `end_of_day` (the midnight after the last transaction);
    `schedule` (the last midnight before the scheduled time, or before the time that a person started the run); a date,
    which includes the whole day; or a date and time. The default suits files that come at irregular intervals: days
    without data at the end would make every customer look inactive."""
    look_back_days: int | None = Field(None, ge=1, le=36_500)
    """Days before `as_of` within which frequency and monetary count. Unset: all. With a window, a customer without
    purchases in it is DORMANT; without one, customers who lapsed long ago have a segment of their own."""
    lapsing_factor: float = Field(2.0, ge=1)
    """Number of inter-purchase times without a purchase after which a customer is lapsing. 2 separates lost customers
    from late ones as well as 1.5 does, with a third fewer false alarms (ADR 6)."""

    @field_validator("as_of", mode="before")
    @classmethod
    def _parse_as_of(cls, value: object) -> object:
        """Report one error: Pydantic would report one for each alternative of the type."""
        if value in ("last_transaction", "end_of_day", "schedule"):
            return value
        try:
            time = datetime.fromisoformat(str(value))
        except ValueError:
            raise ValueError(
                "allowed: last_transaction, end_of_day, schedule, YYYY-MM-DD, or YYYY-MM-DD HH:MM:SS"
            ) from None
        if time.tzinfo is not None or time.year == MAXYEAR:
            raise ValueError("allowed: the retailer's local time without an offset, before the year 9999")
        return time if len(str(value)) > len("YYYY-MM-DD") else time.date()


class Outliers(Section):
    """Tukey's fences: a customer further than factor x IQR from the quartiles is an outlier."""

    features: list[Feature] = Field(["monetary", "frequency"], min_length=1)
    """Features that have fences. Recency is left out by default: a lapsed customer belongs into a segment with others,
    not among the outliers."""
    factor: float = Field(1.5, gt=0, le=1_000)
    """Interquartile ranges from a quartile to its fence. 1.5 is Tukey's own factor, that of every box plot."""


class Privacy(Section):
    """Which personal data is stored and published."""

    pseudonymise: bool = False
    """Whether to replace customer identifiers by a keyed hash before anything is stored. The key is in
    SEGMENTATION_PRIVACY_KEY; of text that cannot be parsed, only a masked pattern is stored. Other columns, such as
    those of columns.extra, are stored as they are. Off by default: readers of a release want to contact its
    customers."""
    drop: list[Text] = Field([])
    """Columns that are never stored: stock_code, description, country, and those of columns.extra. Of text that cannot
    be parsed, only a masked pattern is stored then. Segments need the other columns."""
    withhold: list[Text] = Field([])
    """Columns to leave out of the customer tables of releases. The working database has them."""

    @field_validator("withhold")
    @classmethod
    def _check_withhold(cls, value: list[str], info: ValidationInfo) -> list[str]:
        """Compare with the columns in the validation context: this package does not know the published tables."""
        allowed: Collection[str] | None = (info.context or {}).get("withholdable")
        if allowed is not None and not set(value) <= set(allowed):
            raise ValueError(f"allowed: {', '.join(sorted(allowed))}")
        return value


class Release(Section):
    """What a release keeps, and which changes since the current release need a person's approval."""

    keep: int = Field(14, ge=1)
    """Number of releases on disk. Two weeks of nightly releases, so that one from before an error still exists when
    somebody notices the error."""
    group: Text | None = None
    """Operating system group whose members may read the releases. Unset: the group of the user who publishes. Nobody
    else may read them, because releases contain personal data."""
    max_database_rows: int = Field(10_000_000, ge=0)
    """Rows of a table above which a release has them in its Parquet file alone. `segments.duckdb` has a view of that
    file under the table's name, so that SQL is the same. Up to the default, a second copy of a table takes ten seconds
    and 170 MB at most (ADR 40)."""
    report: bool = True
    """Whether each run writes `report.html` beside its release, and shows its charts in Dagster's interface. It takes
    three seconds after the release is published, none in a night without news, and an error in it is a warning."""
    max_drop: float = Field(0.2, gt=0, le=1)
    """Maximum share of lines, customers or revenue that may be lost; beyond it, the release is not published. Except
    for corrections the data only grow, so a loss of a fifth is a truncated source."""
    max_as_of_jump_days: int = Field(35, ge=1, le=36_500)
    """Maximum days that `as_of` may move; beyond it, the release is not published. A monthly delivery may be some
    days late; a mistyped year is caught."""


class Checks(Section):
    """Bounds of the asset checks."""

    min_customers: int = Field(100, ge=1)
    """Minimum number of customers; a run with fewer fails. The smallest cluster may have a twentieth of them: of 100,
    five people."""
    min_days: int = Field(30, ge=0)
    """Minimum number of days with data; a run over fewer fails. Within a month hardly any customer has bought twice or
    lapsed."""
    min_silhouette: float = Field(0.25, ge=-1, le=1)
    """Silhouette of the active model below which a check warns. Up to .25 there is no substantial structure (Kaufman &
    Rousseeuw, 1990, "Finding Groups in Data")."""
    warn_unparsed_share: float = Field(0.01, gt=0, le=1)
    """Share of lines that cannot be read from which a check warns, also in the first run. Some typing errors are usual;
    one line in a hundred is a notation of numbers or dates that no setting reads."""
    fail_unparsed_share: float = Field(0.2, gt=0, le=1)
    """Share of lines that cannot be read from which the run fails: segments of what is left would mislead. 1: never."""
    warn_rejected_money: float = Field(0.1, gt=0, le=1)
    """Share of the money from which a check warns of a cleaning rule that rejects it, also in the first run, unless the
    rule has an `expected_share` as large. Refunds count as positive money here. The check also warns where all rules
    without an expected share together reject half of the lines or of the money."""
    max_rejected_change: float = Field(0.05, gt=0, le=1)
    """Change of the share of rejected lines since the last releases above which a check warns. A night adds few lines,
    so five percentage points mean another export."""
    max_similar_ids: int = Field(0, ge=0)
    """Number of customer ids that may differ from another one only by case, leading zeros, a decimal zero or tabs;
    with more, a check warns. Above 0, if such ids really name different customers. Pseudonyms show no such difference,
    so with privacy.pseudonymise only the ids of the files that a run reads are compared with each other."""
    max_repeated_share: float = Field(0.01, gt=0, le=1)
    """Share of a file's lines that may be found again, as whole invoices, in another file or sheet; above it, a check
    warns that they count twice. Single invoices can be in two files by chance, so fewer than ten lines matter only if
    they are half of the file. Not checked with cleaning.sources_overlap, which counts such lines once."""
    max_feed_age_days: int = Field(5, ge=1)
    """Days between the newest transaction and the scheduled time above which a check warns. A shop is closed for fewer
    days at Easter."""
    columns_drift: Literal["warn", "fail"] = "warn"
    """What happens when files have other columns than those loaded before. `warn`: a check warns, because columns are
    found by name and additional ones do no harm. `fail`: nothing is loaded unless the run has accept_change."""
