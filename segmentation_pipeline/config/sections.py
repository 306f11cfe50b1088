"""The tables of a retailer file: each setting with its type, default, bounds and meaning.

Belongs here: what one section may say. Does not: the cleaning rules (`rules`), what the sections mean together
(`settings`).
"""

from collections.abc import Iterator
from datetime import MAXYEAR, date, datetime
from pathlib import Path
from typing import Any, Literal

import duckdb
from pydantic import Field, field_validator

from segmentation_pipeline.config.base import Feature, Section, SettingError, Text


class Sample(Section):
    """A made-up retailer: files that are written into the empty source folder, and anew when these settings change."""

    customers: int = Field(5_000, ge=50, le=100_000)
    """How many customers buy: by default some more than Online Retail has, which a run segments in seconds."""
    seed: int = Field(20_240_101, ge=0)
    """Another seed makes other customers; any will do."""


class Source(Section):
    """Where the transactions are and how their files are written."""

    path: str | list[str]
    """File, folder (with all below it), pattern, or a list; relative to this file (shipped ones: the data folder).
    `..` is not allowed, and a link below it that leads out of it is set aside: whoever may put files there, or write
    this one, shall not have others read. What it names may be a link itself."""
    format: Literal["csv", "parquet", "xlsx", "jsonl"] | None = None
    """Unset: each file is read by its ending, since a folder may hold several formats."""
    sheets: list[str] = Field([])
    """The sheets of a workbook to read; empty: all, so that none is forgotten. An error cell (`#N/A`) is read as an
    empty one."""
    encoding: str = "utf-8"
    """Of CSV files, as Python names it; UTF-8 is what programs write unless told otherwise."""
    delimiter: str = Field(",", pattern=r'^[^"\r\n]$')
    """Of CSV files: one character; the comma is the one that they are named after."""
    decimal: Literal[".", ","] = "."
    """The decimal mark of quantities and money, as most programs write it; the other one groups thousands."""
    date_format: str | None = None
    """As in strptime, such as %d/%m/%Y %H:%M; unset: ISO 8601, in which no day can be taken for a month."""
    max_set_aside: int = Field(3, ge=0)
    """So many files that cannot be read are set aside while the others load; with more, or where none can be read, the
    run fails: three daily files are a long weekend's, more are another export or a wrong setting."""
    max_unpacked_gb: float = Field(4, gt=0)
    """A file that unpacks to more is set aside: 4 GB are forty million lines, or a workbook that a small machine can
    just hold, and a few kilobytes can be made to unpack to a full disk."""
    settle_seconds: int = Field(60, ge=1)
    """The sensor `new_files` starts a run when new files have stood still between two looks so far apart: a minute
    outlasts the pauses of a copy over a network, and is soon enough for a run of a minute."""
    sample: Sample | None = None
    """Makes the files up; needs a folder in path."""

    @field_validator("path", mode="before")
    @classmethod
    def _leads_somewhere(cls, value: object) -> object:
        paths = value if isinstance(value, list) else [value]
        if not paths or not all(isinstance(path, str) and path and "\0" not in path for path in paths):
            raise ValueError("allowed: a file, a folder, a pattern, or a list of these, as text")
        if any(".." in Path(str(path)).parts for path in paths):
            raise ValueError("allowed: a path without `..`, which may lead anywhere; write an absolute path instead")
        return value

    @field_validator("date_format")
    @classmethod
    def _tells_days(cls, value: str | None) -> str | None:
        # Any day that has no part in common with a default.
        day = datetime.fromisoformat("2024-03-21")
        select = "select try_strptime(strftime($day, $format), $format)"
        try:
            found = duckdb.cursor().execute(select, {"day": day, "format": value}).fetchone()
        except duckdb.Error:
            found = None
        if value is not None and found != (day,):
            raise ValueError("allowed: strptime codes of year, month and day, no offset, such as %d/%m/%Y %H:%M")
        return value

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

    transaction_at: Text
    """When the line was sold, in the retailer's local time."""
    customer_id: Text
    """Who bought."""
    invoice: Text | None = None
    """Without it, one purchase is one customer on one day."""
    stock_code: Text | None = None
    """Which product."""
    description: Text | None = None
    """The product's name."""
    quantity: Text | None = None
    """How many; up to 3 decimals."""
    price: Text | None = None
    """Of one; up to 4 decimals."""
    amount: Text | None = None
    """Money of the line, up to 4 decimals; without it, quantity x price."""
    country: Text | None = None
    """The customer's country."""

    @classmethod
    def combined_errors(cls, settings: dict[str, Any]) -> Iterator[SettingError]:
        """Money must come from somewhere."""
        if "amount" not in settings and not {"price", "quantity"} <= settings.keys():
            message = "money is missing; allowed: amount, or both price and quantity"
            yield SettingError((), message, settings)

    def source_names(self) -> dict[str, str]:
        """The columns that the source has: our name to the source's name."""
        return {name: value for name, value in self if value is not None}


class Rfm(Section):
    """As of when, and how far back, customers are described."""

    as_of: Literal["last_transaction", "end_of_day", "schedule"] | datetime | date = "last_transaction"
    """`last_transaction`, `end_of_day` (the midnight after it), `schedule` (the last midnight before its tick, or
    before a person asked for the run), a day (which counts whole), or a moment. The last transaction suits a file that
    comes now and then: no empty days at its end make everybody look late."""
    look_back_days: int | None = Field(None, ge=1, le=36_500)
    """Frequency and money count within so many days before as_of; unset: over all, because whoever has bought
    nothing in the window is DORMANT, and a customer who lapsed long ago has a segment of its own instead."""
    lapsing_factor: float = Field(2.0, ge=1)
    """Away for longer than so many of the gaps to expect of it, a customer is slipping: 2 tells the lost from the
    late as well as 1.5 does, with a third fewer false alarms (ADR 6)."""

    @field_validator("as_of", mode="before")
    @classmethod
    def _is_a_moment(cls, value: object) -> object:
        if value in ("last_transaction", "end_of_day", "schedule"):
            return value
        try:
            moment = datetime.fromisoformat(str(value))
        except ValueError:
            raise ValueError(
                "allowed: last_transaction, end_of_day, schedule, YYYY-MM-DD, or YYYY-MM-DD HH:MM:SS"
            ) from None
        if moment.tzinfo is not None or moment.year == MAXYEAR:
            raise ValueError("allowed: a moment in the retailer's local time, without an offset, before the year 9999")
        return moment if len(str(value)) > len("YYYY-MM-DD") else moment.date()


class Outliers(Section):
    """Tukey fences: beyond factor x IQR from the quartiles a customer is set apart."""

    features: list[Feature] = Field(["monetary", "frequency"], min_length=1)
    """Which features have fences: not recency, because lapsed customers are better served by a segment of their own."""
    factor: float = Field(1.5, gt=0, le=1_000)
    """Tukey's factor: interquartile ranges from the quartiles to the fences; 1.5 is his own, that of every box plot."""


class Privacy(Section):
    """What of people is stored, and what of it is published."""

    pseudonymise: bool = False
    """Customers are named by a keyed hash from the mouth on, whose key is in SEGMENTATION_PRIVACY_KEY; of text that
    cannot be read, only the shape is kept. Off: whoever reads a release wants to know whom to write to."""
    drop: list[Literal["stock_code", "description", "country"]] = Field([])
    """Columns that are never stored; of text that cannot be read, only the shape is kept. The others are what segments
    are made of."""
    withhold: list[Text] = Field([])
    """Columns that are left out of the tables of customers in a release; the working database has them."""


class Release(Section):
    """What is published, and which changes against the standing release need a person."""

    keep: int = Field(14, ge=1)
    """How many releases stay on disk: two weeks of nights, so that one from before a fault is there when it is
    noticed."""
    group: Text | None = None
    """The group of this machine whose members may read the releases; unset: that of the user who publishes. Nobody else
    may: releases tell of people."""
    max_drop: float = Field(0.2, gt=0, le=1)
    """A release is not published if lines, customers or revenue fell by more than this share: but for corrections
    the data only grow, so a fifth less is a source that was cut short."""
    max_as_of_jump_days: int = Field(35, ge=1, le=36_500)
    """Nor if as_of moved by more days than this: a monthly feed may be some days late, a mistyped year is caught."""


class Checks(Section):
    """Bounds of the asset checks."""

    min_customers: int = Field(100, ge=1)
    """A run with fewer customers fails: a twentieth of a hundred, the least share of a cluster, is five people."""
    min_days: int = Field(30, ge=0)
    """A run over fewer days fails: within a month hardly anybody has bought twice, or stayed away."""
    min_silhouette: float = Field(0.25, ge=-1, le=1)
    """A model with a lower silhouette is warned of: up to .25 there is no substantial structure (Kaufman &
    Rousseeuw, 1990, "Finding Groups in Data")."""
    max_rejected_change: float = Field(0.05, gt=0, le=1)
    """A share of refused lines that differs by more than this from the last releases is warned of: a night adds few
    lines to all, so what moves the share by five points is another export."""
    max_feed_age_days: int = Field(5, ge=1)
    """At a schedule's tick, a newest transaction older than this is warned of; 5 days outlast Easter in a shop."""
    columns_drift: Literal["warn", "fail"] = "warn"
    """Files with other columns than those before are warned of, because columns are found by name and more of them do
    no harm; or nothing is loaded, until the run has accept_change."""
