"""The tables of a retailer file: each setting with its type, default, bounds and meaning.

Belongs here: what one section may say. Does not: what the sections mean together (`settings`).
"""

from datetime import date, datetime
from decimal import Decimal
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Feature = Literal["monetary", "frequency", "recency"]
ColumnName = Literal[
    "invoice", "stock_code", "description", "quantity", "transaction_at", "price", "amount", "customer_id", "country"
]


class Section(BaseModel):
    """A table of the retailer file: unknown keys are errors, values are never changed after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Sample(Section):
    """The made-up retailer: files that are written when the source folder lacks them."""

    customers: int = Field(5_000, ge=50, le=1_000_000)
    """How many customers buy."""
    seed: int = Field(20_240_101, ge=0)
    """Another seed makes other customers."""


class Source(Section):
    """Where the transactions are and how their files are written."""

    path: str | list[str]
    """File, folder (with all below it), pattern, or a list; relative to this file (shipped ones: the data folder)."""
    format: Literal["csv", "parquet", "xlsx", "jsonl"] | None = None
    """Read by the ending of each file, unless named."""
    sheets: list[str] = []
    """The sheets of a workbook to read; empty: all."""
    encoding: str = "utf-8"
    """Of CSV files, as Python names it."""
    delimiter: str = Field(",", min_length=1, max_length=1)
    """Of CSV files: one character."""
    decimal: Literal[".", ","] = "."
    """The decimal mark of quantities and money; the other one groups thousands."""
    date_format: str | None = None
    """As in strptime, such as %d/%m/%Y %H:%M; unset: ISO 8601."""
    sample: Sample | None = None
    """Makes the files up, where they are not there."""

    @field_validator("encoding")
    @classmethod
    def _is_known(cls, value: str) -> str:
        try:
            "".encode(value)
        except LookupError:
            raise ValueError("allowed: an encoding that Python knows, such as utf-8, cp1252, latin-1") from None
        return value


class Columns(Section):
    """The source's name of each column; a column that is left out is one that the source lacks."""

    transaction_at: str
    """When the line was sold, in the retailer's local time."""
    customer_id: str
    """Who bought."""
    invoice: str | None = None
    """Without it, one purchase is one customer on one day."""
    stock_code: str | None = None
    """Which product."""
    description: str | None = None
    """The product's name."""
    quantity: str | None = None
    """How many."""
    price: str | None = None
    """Of one."""
    amount: str | None = None
    """Money of the line; without it, quantity x price."""
    country: str | None = None
    """The customer's country."""

    @model_validator(mode="after")
    def _has_money(self) -> "Columns":
        if self.amount is None and (self.price is None or self.quantity is None):
            raise ValueError("money is missing: name either amount, or both price and quantity")
        return self

    def mapped(self) -> dict[str, str]:
        """The columns that the source has: our name to the source's name."""
        return {name: value for name, value in self if value is not None}


class Rule(Section):
    """A cleaning rule: lines whose column does not pass are refused with the rule's name and reason."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    """Stands in rejected_transactions and cleaning_report."""
    reason: str = Field(min_length=1)
    """A sentence for those who read them."""
    column: ColumnName
    """The column that is tested."""
    matches: str | None = None
    """Passes if this regular expression (RE2) finds a match; on invoice, cancellations pass too."""
    required: Literal[True] | None = None
    """Passes if there is a value."""
    above: Decimal | None = None
    """Passes if the number is greater."""
    is_in: list[str] | None = Field(None, alias="in", min_length=1)
    """Passes if the text is one of these."""

    @field_validator("matches")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        import duckdb

        if value is None:
            return None
        try:
            duckdb.connect().execute("select regexp_matches('', $pattern)", {"pattern": value})
        except duckdb.Error as error:
            raise ValueError(f"not a regular expression of RE2: {error}") from None
        return value

    @model_validator(mode="after")
    def _tests_one_thing(self) -> "Rule":
        given = [key for key in ("matches", "required", "above", "is_in") if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError("a rule has exactly one of: matches, required, above, in")
        numeric = self.column in ("quantity", "price", "amount")
        if (self.above is not None and not numeric) or (given[0] in ("matches", "is_in") and numeric):
            key = given[0].removeprefix("is_")
            raise ValueError(f"{key} does not go with {self.column}: above is for numbers, matches and in for text")
        return self


class Cleaning(Section):
    """Which lines count."""

    rules: list[Rule] = []
    """Applied in order; the first that a line fails names its reason."""
    refunds: Literal["net", "ignore"] = "net"
    """`net`: cancellations reduce monetary on their own date; `ignore`: they are refused."""
    cancellation: str | None = None
    """Pattern of the invoice numbers of cancellations; unset: lines of negative money."""
    sources_overlap: bool = False
    """The same line in two files or sheets counts once."""

    _compiles = field_validator("cancellation")(Rule._compiles.__func__)  # type: ignore[attr-defined]

    @field_validator("rules")
    @classmethod
    def _named_once(cls, rules: list[Rule]) -> list[Rule]:
        names = [rule.name for rule in rules]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"rule names must differ; twice: {', '.join(twice)}")
        return rules


class Rfm(Section):
    """As of when, and how far back, customers are described."""

    as_of: Literal["last_transaction"] | datetime | date = "last_transaction"
    """`last_transaction`, a day (which counts whole) or a moment."""
    look_back_days: int | None = Field(None, ge=1)
    """Frequency and money count within so many days before as_of; unset: over all."""

    @field_validator("as_of", mode="before")
    @classmethod
    def _is_a_moment(cls, value: object) -> object:
        return parse_as_of(value) if isinstance(value, str) else value


class Outliers(Section):
    """Tukey fences: beyond factor x IQR from the quartiles a customer is set apart."""

    features: list[Feature] = Field(["monetary", "frequency"], min_length=1)
    """Which features have fences."""
    factor: float = Field(1.5, gt=0)
    """Tukey's factor: interquartile ranges from the quartiles to the fences."""


class Model(Section):
    """The k-means fit; names as in scikit-learn."""

    transform: Literal["standard", "log", "yeo-johnson", "robust"] = "standard"
    """What the features go through: standardised, ln(1 + x), Yeo-Johnson, or median and IQR."""
    n_clusters: int = Field(4, ge=2, le=12)
    """How many segments the normal customers fall into."""
    random_state: int = Field(42, ge=0, lt=2**32)
    """Seed of the fit."""
    n_init: int = Field(10, ge=1, le=100)
    """Starts of the fit, of which the best counts: enough that the seed does not decide."""
    max_iter: int = Field(1000, ge=10)
    """Iterations of one start."""


class Release(Section):
    """What is published, and which changes against the standing release need a person."""

    keep: int = Field(14, ge=1)
    """How many releases stay on disk."""
    max_drop: float = Field(0.2, gt=0, le=1)
    """A release is not published if lines, customers or revenue fell by more than this share."""
    max_as_of_jump_days: int = Field(35, ge=1)
    """Nor if as_of moved by more days than this."""


class Checks(Section):
    """Bounds of the asset checks."""

    min_customers: int = Field(100, ge=1)
    """A run with fewer customers fails."""
    min_days: int = Field(30, ge=0)
    """A run over fewer days fails."""
    min_silhouette: float = Field(0.25, ge=-1, le=1)
    """A model with a lower silhouette is warned of."""
    max_refused_change: float = Field(0.05, gt=0, le=1)
    """A share of refused lines that differs by more than this from the last releases is warned of."""


def parse_as_of(value: str) -> str | datetime | date:
    """Read `last_transaction`, `YYYY-MM-DD` or `YYYY-MM-DD HH:MM:SS`.

    Raises:
        ValueError: the text is none of these.
    """
    if value == "last_transaction":
        return value
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise ValueError("allowed: last_transaction, YYYY-MM-DD, or YYYY-MM-DD HH:MM:SS") from None
    if moment.tzinfo is not None:
        raise ValueError("allowed: a moment in the retailer's local time, without an offset")
    return moment if len(value.strip()) > len("YYYY-MM-DD") else moment.date()
