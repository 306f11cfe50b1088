"""All settings of a retailer file, and what follows from several of them: errors, digests, the as-of date.

Does not contain the single tables (`sections`, `cleaning_rules`, `model_settings`) or reading the file (`loading`).
"""

import difflib
import hashlib
from collections.abc import Iterator
from datetime import datetime, time, timedelta
from functools import cache
from typing import Any, Self, get_args
from zoneinfo import ZoneInfo, available_timezones

from pydantic import Field, field_validator

from segmentation_pipeline.config.cleaning_rules import Cleaning
from segmentation_pipeline.config.engine_settings import Engine, unsupported_by_spark
from segmentation_pipeline.config.model_settings import Membership, Model
from segmentation_pipeline.config.sections import Checks, Columns, Customers, Outliers, Privacy, Release, Rfm
from segmentation_pipeline.config.source_settings import Source
from segmentation_pipeline.config.validation import NUMBERS, ColumnName, Section, SettingError, Text, normalised, tables
from segmentation_pipeline.model import thresholds

# Replaces the settings of `[rfm]` that do not affect a fit, so that the digest of the fit does not depend on them.
_NOT_OF_THE_FIT = {"as_of": "last_transaction", "lapsing_factor": 1.0}


class Retailer(Section):
    """All settings of a retailer file; those in no table come first."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    """Name of the retailer's folder in the data folder."""
    title: Text
    """Name of the retailer for readers."""
    time_zone: str
    """IANA name of the time zone of all timestamps in the source, and of the schedule."""
    currency: str = Field(pattern=r"^[A-Z]{3}$")
    """ISO 4217 code of all money."""
    source: Source
    columns: Columns
    customers: Customers = Customers()
    cleaning: Cleaning = Cleaning()
    rfm: Rfm = Rfm()
    outliers: Outliers = Outliers()
    model: Model = Model()
    membership: Membership = Membership()
    privacy: Privacy = Privacy()
    release: Release = Release()
    checks: Checks = Checks()
    engine: Engine = Engine()

    @field_validator("time_zone")
    @classmethod
    def _check_time_zone(cls, value: str) -> str:
        if value not in _time_zones():
            similar = difflib.get_close_matches(value, _time_zones(), 1)
            hint = f"; did you mean {similar[0]}?" if similar else ""
            raise ValueError(f"allowed: a name of the IANA time zone database{hint}")
        return value

    @classmethod
    def combined_errors(cls, settings: dict[str, Any]) -> Iterator[SettingError]:
        """Yield the errors that follow from several tables."""
        source = settings.get("source")
        if isinstance(source, dict):
            yield from _sample_errors(source)
        columns, cleaning, privacy = settings.get("columns"), settings.get("cleaning"), settings.get("privacy")
        if isinstance(columns, dict):
            names = _mapped_columns(columns)
            yield from _fill_down_errors(source, names)
            yield from _extra_column_errors(columns, privacy)
            if isinstance(source, dict) and source.get("header") is False:
                yield from _names_without_header(columns)
            if isinstance(cleaning, dict):
                yield from _unmapped_columns(cleaning, names)
            if isinstance(source, dict) and source.get("query") is not None:
                yield from _query_errors(source, columns, cleaning, privacy)
        if isinstance(cleaning, dict):
            yield from _columns_hidden_from_rules(cleaning, privacy)
        engine = settings.get("engine")
        if isinstance(engine, dict) and engine.get("kind") == "spark":
            yield from unsupported_by_spark(settings)

    @property
    def zone(self) -> ZoneInfo:
        """The retailer's time zone, in which all its timestamps are local time."""
        return ZoneInfo(self.time_zone)

    @property
    def as_of(self) -> datetime | None:
        """The as-of date in local time; None if it depends on the data. For a whole day, the midnight after it.

        Raises:
            ValueError: It depends on the run, and these are not the settings of a run (see `for_run`).
        """
        if self.rfm.as_of == "schedule":
            raise ValueError("rfm.as_of = schedule needs the scheduled time of a run")
        if isinstance(self.rfm.as_of, str):
            return None
        if isinstance(self.rfm.as_of, datetime):
            return self.rfm.as_of
        return datetime.combine(self.rfm.as_of + timedelta(days=1), time())

    @property
    def transaction_cutoff(self) -> datetime | None:
        """The time from which on transactions do not count; None if all count.

        It is the as-of date after a whole day. An as-of date with a time of day includes transactions at that time.
        """
        if self.as_of is None or not isinstance(self.rfm.as_of, datetime):
            return self.as_of
        return self.as_of + timedelta(microseconds=1)

    def for_run(self, scheduled_at: datetime) -> Self:
        """Return the settings of a run, with the last complete day before its scheduled time for `schedule`.

        It is a day and not its midnight, because an as-of date with a time includes transactions at that time.
        """
        if self.rfm.as_of != "schedule":
            return self
        day = scheduled_at.date() - timedelta(days=1)
        return self.model_copy(update={"rfm": self.rfm.model_copy(update={"as_of": day})})

    def digest(self, *sections: str) -> str:
        """Return twelve hex digits that change with any setting of some sections, by default of all.

        What a cleaning rule is expected to reject does not count: it changes no table.
        """
        text = self.model_dump_json(include=set(sections) or None, by_alias=True)
        return _digits(text)

    @property
    def model_digest(self) -> str:
        """Changes when the active model no longer fits the settings and constants. The as-of date does not matter."""
        settings = self._of_the_fit.digest("columns", "cleaning", "rfm", "outliers", "model")
        return _digits(f"{settings} {thresholds.FIT} {thresholds.SEARCH}")

    @property
    def reading_digest(self) -> str:
        """Changes when the same files would give other lines. Their path does not matter."""
        irrelevant = {"path": "", "sample": None, "max_quarantined": 0, "max_unpacked_gb": 1, "supersedes": None}
        irrelevant |= {"connection": None, "look_back": ""}
        source, privacy = self.source.model_copy(update=irrelevant), self.privacy.model_copy(update={"withhold": []})
        # What the mapping of merged customers says is not in the settings: see `CustomerIds.merged_digest`.
        customers = self.customers.model_copy(update={"merged": None})
        relevant = self.model_copy(update={"source": source, "privacy": privacy, "customers": customers})
        return relevant.digest("source", "columns", "customers", "time_zone", "privacy")

    @property
    def history_digest(self) -> str:
        """Changes when past month ends would differ for the same lines."""
        return self._of_the_fit.digest("rfm")

    @property
    def _of_the_fit(self) -> "Retailer":
        # A model of any transform suits `auto`; see `promotion.is_current` for the others.
        transform = "standard" if self.model.transform == "auto" else self.model.transform
        model = self.model.model_copy(update={"transform": transform})
        return self.model_copy(update={"rfm": self.rfm.model_copy(update=_NOT_OF_THE_FIT), "model": model})

    @property
    def sql_values(self) -> dict[str, object]:
        """The settings and constants that SELECTs bind, by parameter name."""
        return {
            "as_of": self.as_of,
            "to_end_of_day": self.rfm.as_of == "end_of_day",
            "look_back_days": self.rfm.look_back_days,
            "margin": thresholds.HYSTERESIS.margin,
            "fence_margin": thresholds.HYSTERESIS.fence_margin,
            "max_pending_days": thresholds.HYSTERESIS.max_pending_days,
            "history_digest": self.history_digest,
            "sources_overlap": self.cleaning.sources_overlap,
            "control_below": f"{round(self.membership.control_share * 16**8):08x}",
            "lapsing_factor": self.rfm.lapsing_factor,
        }


@cache
def _time_zones() -> frozenset[str]:
    # 11 ms, and the file is validated several times a run.
    return frozenset(available_timezones())


def _digits(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _sample_errors(source: dict[str, Any]) -> Iterator[SettingError]:
    """Yield an error if the generated files have no single folder to go into."""
    path = source.get("path")
    if source.get("sample") is not None and (isinstance(path, list) or set(str(path)) & set("*?[")):
        message = "allowed: if source.path is one folder, into which the generated files are written"
        yield SettingError(("source", "sample"), message, path)


def _query_errors(
    source: dict[str, Any], columns: dict[str, Any], cleaning: Any, privacy: Any
) -> Iterator[SettingError]:
    """Yield an error for each setting that contradicts the keys of the rows of a query."""
    if isinstance(cleaning, dict) and cleaning.get("sources_overlap") is True:
        message = "each row of source.query has its own key, so none counts twice; allowed: false"
        yield SettingError(("cleaning", "sources_overlap"), message, True)
    if not isinstance(privacy, dict) or privacy.get("pseudonymise") is not True:
        return
    key = source.get("key")
    customer = normalised(str(columns.get("customer_id")))
    if customer in [normalised(str(name)) for name in (key if isinstance(key, list) else [key])]:
        message = "privacy.pseudonymise hashes the customers, and the key is stored as it is; allowed: another column"
        yield SettingError(("source", "key"), message, key)


def _mapped_columns(columns: dict[str, Any]) -> dict[str, Any]:
    """Return the source's name of each column that a rule may test, by our name."""
    return {name: columns[name] for name in get_args(ColumnName) if name in columns} | _extra_columns(columns)


def _extra_columns(columns: dict[str, Any]) -> dict[str, Any]:
    extra = columns.get("extra")
    return extra if isinstance(extra, dict) else {}


def _fill_down_errors(source: Any, names: dict[str, Any]) -> Iterator[SettingError]:
    """Yield an error for each column that `source.fill_down` cannot fill."""
    filled = source.get("fill_down") if isinstance(source, dict) else None
    if not isinstance(filled, list) or not filled:
        return
    key = ("source", "fill_down")
    if "invoice" not in names:
        yield SettingError(key, "fills values within an invoice; allowed: if [columns] maps invoice", filled)
    allowed = [name for name in names if name not in ("invoice", *NUMBERS)]
    for name in filled:
        if isinstance(name, str) and name not in allowed:
            message = f"cannot fill {name}; allowed: {', '.join(allowed)}"
            yield SettingError(key, message, filled)


def _extra_column_errors(columns: dict[str, Any], privacy: Any) -> Iterator[SettingError]:
    """Yield an error for each column that cannot be dropped, and for each that stores what is to be hashed."""
    if not isinstance(privacy, dict):
        return
    extra = _extra_columns(columns)
    drop = privacy["drop"] if isinstance(privacy.get("drop"), list) else []
    allowed = ["stock_code", "description", "country", *extra]
    for position, name in enumerate(drop):
        if isinstance(name, str) and name not in allowed:
            yield SettingError(("privacy", "drop", position), f"allowed: {', '.join(allowed)}", name)
    if privacy.get("pseudonymise") is not True:
        return
    for name, theirs in extra.items():
        if isinstance(theirs, int) != isinstance(columns.get("customer_id"), int):
            message = "privacy.pseudonymise hashes the customers; allowed: a name or a position, as in customer_id"
            yield SettingError(("columns", "extra", name), message, theirs)
        elif normalised(str(theirs)) == normalised(str(columns.get("customer_id"))) and name not in drop:
            message = "privacy.pseudonymise hashes the customers of this column; allowed: another column"
            yield SettingError(("columns", "extra", name), message, theirs)


def _names_without_header(columns: dict[str, Any]) -> Iterator[SettingError]:
    """Yield an error for each column that is given by name, although the source has no names."""
    named: dict[tuple[str, ...], Any] = {("columns", name): theirs for name, theirs in columns.items()}
    named |= {("columns", "extra", name): theirs for name, theirs in _extra_columns(columns).items()}
    for key, theirs in named.items():
        if isinstance(theirs, str) and not theirs.strip().isdecimal():
            message = "source.header is false, so columns have no names; allowed: a position, 1 for the first column"
            yield SettingError(key, message, theirs)


def _unmapped_columns(cleaning: dict[str, Any], names: dict[str, Any]) -> Iterator[SettingError]:
    """Yield an error for each rule that tests a column that the source does not have."""
    for position, rule in enumerate(tables(cleaning.get("rules"))):
        column = rule.get("column")
        if not isinstance(column, str) or not column or column in names:
            continue
        message = f"[columns] does not map it; allowed: {', '.join(names)}"
        if column not in get_args(ColumnName):
            message = (
                f"unknown column{_did_you_mean(column, names)}; allowed: {', '.join(names)}; [columns.extra] names"
                " other columns of the source"
            )
        yield SettingError(("cleaning", "rules", position, "column"), message, column)
    if "cancellation" in cleaning and "invoice" not in names:
        message = "a pattern of invoice numbers; allowed: if [columns] maps invoice"
        yield SettingError(("cleaning", "cancellation"), message, cleaning["cancellation"])


def _did_you_mean(column: str, names: dict[str, Any]) -> str:
    """Return a hint at the column that a text is similar to, or whose name in the source it is."""
    of_source = [name for name, theirs in names.items() if normalised(str(theirs)) == normalised(column)]
    similar = of_source or difflib.get_close_matches(column.casefold(), names, 1)
    return f" (did you mean {similar[0]}?)" if similar else ""


def _columns_hidden_from_rules(cleaning: dict[str, Any], privacy: Any) -> Iterator[SettingError]:
    """Yield an error for each rule on a value that is not stored: rules test what is stored."""
    if not isinstance(privacy, dict):
        return
    drop = privacy.get("drop")
    for position, rule in enumerate(tables(cleaning.get("rules"))):
        key, column = ("cleaning", "rules", position, "column"), rule.get("column")
        if isinstance(drop, list) and column in drop:
            message = "privacy.drop removes it before the rules apply; allowed: another column"
            yield SettingError(key, message, column)
        if privacy.get("pseudonymise") is True and column == "customer_id" and not rule.get("required"):
            message = (
                "privacy.pseudonymise hashes it before the rules apply; allowed: required = true, or another column"
            )
            yield SettingError(key, message, column)
