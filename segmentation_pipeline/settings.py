"""What a retailer file may say: its settings as validated, typed values, with their defaults.

Belongs here: the settings and what they mean together. Does not: finding and reading the file (`retailer`).
"""

import difflib
import hashlib
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Literal
from zoneinfo import ZoneInfo, available_timezones

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Feature = Literal["monetary", "frequency", "recency"]
ColumnName = Literal[
    "invoice", "stock_code", "description", "quantity", "transaction_at", "price", "amount", "customer_id", "country"
]


class Section(BaseModel):
    """A table of the retailer file: unknown keys are errors, values are never changed after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Sample(Section):
    """The made-up retailer: files that are written when the source folder lacks them."""

    customers: int = Field(5_000, ge=50, le=1_000_000)
    seed: int = Field(20_240_101, ge=0)


class Source(Section):
    """Where the transactions are and how their files are written."""

    path: str | list[str]
    format: Literal["csv", "parquet", "xlsx", "jsonl"] | None = None
    sheets: list[str] = []
    encoding: str = "utf-8"
    delimiter: str = Field(",", min_length=1, max_length=1)
    decimal: Literal[".", ","] = "."
    date_format: str | None = None
    sample: Sample | None = None

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
    customer_id: str
    invoice: str | None = None
    stock_code: str | None = None
    description: str | None = None
    quantity: str | None = None
    price: str | None = None
    amount: str | None = None
    country: str | None = None

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
    reason: str = Field(min_length=1)
    column: ColumnName
    matches: str | None = None
    required: Literal[True] | None = None
    above: Decimal | None = None
    is_in: list[str] | None = Field(None, alias="in", min_length=1)

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
    refunds: Literal["net", "ignore"] = "net"
    cancellation: str | None = None
    sources_overlap: bool = False

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
    look_back_days: int | None = Field(None, ge=1)

    @field_validator("as_of", mode="before")
    @classmethod
    def _is_a_moment(cls, value: object) -> object:
        return parse_as_of(value) if isinstance(value, str) else value


class Outliers(Section):
    """Tukey fences: beyond factor x IQR from the quartiles a customer is set apart."""

    features: list[Feature] = Field(["monetary", "frequency"], min_length=1)
    factor: float = Field(1.5, gt=0)


class Model(Section):
    """The k-means fit; names as in scikit-learn."""

    transform: Literal["standard", "log", "yeo-johnson", "robust"] = "standard"
    n_clusters: int = Field(4, ge=2, le=12)
    random_state: int = Field(42, ge=0, lt=2**32)
    n_init: int = Field(10, ge=1, le=100)
    max_iter: int = Field(1000, ge=10)


class Release(Section):
    """What is published, and which changes against the standing release need a person."""

    keep: int = Field(14, ge=1)
    max_drop: float = Field(0.2, gt=0, le=1)
    max_as_of_jump_days: int = Field(35, ge=1)


class Checks(Section):
    """Bounds of the asset checks."""

    min_customers: int = Field(100, ge=1)
    min_days: int = Field(30, ge=0)
    min_silhouette: float = Field(0.25, ge=-1, le=1)
    max_refused_change: float = Field(0.05, gt=0, le=1)


class Retailer(Section):
    """A whole retailer file."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    title: str
    time_zone: str
    currency: str = Field(pattern=r"^[A-Z]{3}$")
    source: Source
    columns: Columns
    cleaning: Cleaning = Cleaning()
    rfm: Rfm = Rfm()
    outliers: Outliers = Outliers()
    model: Model = Model()
    release: Release = Release()
    checks: Checks = Checks()

    @field_validator("time_zone")
    @classmethod
    def _exists(cls, value: str) -> str:
        if value not in available_timezones():
            near = difflib.get_close_matches(value, available_timezones(), 1)
            raise ValueError("allowed: a name of the IANA time zone database" + (f"; {near[0]}?" if near else ""))
        return value

    @model_validator(mode="after")
    def _rules_have_their_columns(self) -> "Retailer":
        mapped = self.columns.mapped()
        lacking = [rule for rule in self.cleaning.rules if rule.column not in mapped]
        if lacking:
            named = ", ".join(f"{rule.name} ({rule.column})" for rule in lacking)
            raise ValueError(f"cleaning.rules test columns that [columns] does not name: {named}")
        if self.cleaning.cancellation and "invoice" not in mapped:
            raise ValueError("cleaning.cancellation is a pattern of invoice numbers, but columns.invoice is not named")
        return self

    @property
    def zone(self) -> ZoneInfo:
        """The retailer's time zone; all its timestamps are local to it."""
        return ZoneInfo(self.time_zone)

    def digest(self, *sections: str) -> str:
        """Twelve hex digits that change when a setting of one of these sections changes (all, if none is named)."""
        text = self.model_dump_json(include=set(sections) or None, by_alias=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def fences_digest(self) -> str:
        """Changes when standing fences no longer suit the settings; the as-of date is no setting of the fit."""
        seen = self.model_copy(update={"rfm": self.rfm.model_copy(update={"as_of": "last_transaction"})})
        return seen.digest("columns", "cleaning", "rfm", "outliers")

    @property
    def model_digest(self) -> str:
        """Changes when the standing model no longer suits the settings."""
        return hashlib.sha256((self.fences_digest + self.digest("model")).encode()).hexdigest()[:12]

    @property
    def as_of(self) -> datetime | None:
        """The as-of moment in local time; None: the last transaction's. A day counts whole: the midnight after it."""
        if self.rfm.as_of == "last_transaction":
            return None
        if isinstance(self.rfm.as_of, datetime):
            return self.rfm.as_of
        return datetime.combine(self.rfm.as_of + timedelta(days=1), time())

    @property
    def first_moment_after(self) -> datetime | None:
        """Lines at or after this moment do not count; None where all do."""
        if self.as_of is None or not isinstance(self.rfm.as_of, datetime):
            return self.as_of
        return self.as_of + timedelta(microseconds=1)

    @property
    def sql_values(self) -> dict[str, object]:
        """The settings that the SELECTs bind, by the name that they have there."""
        return {
            "as_of": self.as_of,
            "look_back_days": self.rfm.look_back_days,
            "factor": self.outliers.factor,
            "outlier_features": self.outliers.features,
            "fences_digest": self.fences_digest,
        }


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
