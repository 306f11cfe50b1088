"""A whole retailer file as validated, typed values, and what its settings mean together.

Belongs here: what follows from several settings. Does not: the single settings (`sections`), reading the file
(`retailer`).
"""

import difflib
import hashlib
from collections.abc import Iterator
from datetime import datetime, time, timedelta
from typing import Any, Self, get_args
from zoneinfo import ZoneInfo, available_timezones

from pydantic import Field, field_validator

from segmentation_pipeline.config.base import ColumnName, Section, SettingError, Text, tables
from segmentation_pipeline.config.cleaning_rules import Cleaning
from segmentation_pipeline.config.model_settings import Backtest, Drift, Membership, Model, Promotion
from segmentation_pipeline.config.sections import Checks, Columns, Outliers, Privacy, Release, Rfm, Source

# What is said of the run and of its customers, not of the fit: a value of each that stands for all.
_OF_NO_FIT = {"as_of": "last_transaction", "lapsing_factor": 1.0}


class Retailer(Section):
    """A whole retailer file."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    """Names the retailer's folder in the data folder."""
    title: Text
    """What people read."""
    time_zone: str
    """IANA name; all timestamps of the source are local to it, and so is the schedule."""
    currency: str = Field(pattern=r"^[A-Z]{3}$")
    """ISO 4217 code of all money."""
    source: Source
    columns: Columns
    cleaning: Cleaning = Cleaning()
    rfm: Rfm = Rfm()
    outliers: Outliers = Outliers()
    model: Model = Model()
    promotion: Promotion = Promotion()
    membership: Membership = Membership()
    drift: Drift = Drift()
    backtest: Backtest = Backtest()
    privacy: Privacy = Privacy()
    release: Release = Release()
    checks: Checks = Checks()

    @field_validator("time_zone")
    @classmethod
    def _exists(cls, value: str) -> str:
        if value not in available_timezones():
            near = difflib.get_close_matches(value, available_timezones(), 1)
            raise ValueError("allowed: a name of the IANA time zone database" + (f"; {near[0]}?" if near else ""))
        return value

    @classmethod
    def combined_errors(cls, settings: dict[str, Any]) -> Iterator[SettingError]:
        """Made-up files go into a folder, and rules test columns that the source has."""
        source = settings.get("source")
        path = source.get("path") if isinstance(source, dict) and source.get("sample") is not None else ""
        if isinstance(path, list) or set(str(path)) & set("*?["):
            message = "allowed: where source.path is one folder, which the made-up files go into"
            yield SettingError(("source", "sample"), message, path)
        columns, cleaning = settings.get("columns"), settings.get("cleaning")
        if not isinstance(columns, dict) or not isinstance(cleaning, dict):
            return
        there = [name for name in get_args(ColumnName) if name in columns]
        sentence = f"[columns] does not name it; allowed: {', '.join(there)}"
        for place, rule in enumerate(tables(cleaning.get("rules"))):
            if (column := rule.get("column")) in get_args(ColumnName) and column not in there:
                yield SettingError(("cleaning", "rules", place, "column"), sentence, column)
        yield from _unseen_by_rules(cleaning, settings.get("privacy"))
        if "cancellation" in cleaning and "invoice" not in columns:
            sentence = "a pattern of invoice numbers; allowed: where [columns] names invoice"
            yield SettingError(("cleaning", "cancellation"), sentence, cleaning["cancellation"])

    @property
    def zone(self) -> ZoneInfo:
        """The retailer's time zone; all its timestamps are local to it."""
        return ZoneInfo(self.time_zone)

    def digest(self, *sections: str) -> str:
        """Twelve hex digits that change when a setting of one of these sections changes (all, if none is named)."""
        return _digits(self.model_dump_json(include=set(sections) or None, by_alias=True))

    @property
    def model_digest(self) -> str:
        """Changes when a standing model no longer suits the settings; the as-of date is no setting of the fit."""
        return self._of_any_run.digest("columns", "cleaning", "rfm", "outliers", "model")

    @property
    def reading_digest(self) -> str:
        """Changes when the same files would give other lines; where they lie does not matter."""
        anywhere = self.source.model_copy(update={"path": "", "sample": None, "max_set_aside": 0, "max_unpacked_gb": 1})
        stored = self.privacy.model_copy(update={"withhold": []})
        here = self.model_copy(update={"source": anywhere, "privacy": stored})
        return here.digest("source", "columns", "time_zone", "privacy")

    @property
    def history_digest(self) -> str:
        """Changes when past month ends would look different; the lines themselves are looked at apart."""
        return self._of_any_run.digest("rfm")

    @property
    def backtest_digest(self) -> str:
        """Changes when the back-test would come out differently on the same lines."""
        return self._of_any_run.digest("rfm", "outliers", "model", "backtest")

    @property
    def _of_any_run(self) -> "Retailer":
        return self.model_copy(update={"rfm": self.rfm.model_copy(update=_OF_NO_FIT)})

    @property
    def as_of(self) -> datetime | None:
        """The as-of moment in local time; None: the data tell it. A day counts whole: the midnight after it.

        Raises:
            ValueError: It hangs on a run, and these are not yet the settings of one (see `at`).
        """
        if self.rfm.as_of == "schedule":
            raise ValueError("rfm.as_of = schedule is told by the tick of a run")
        if isinstance(self.rfm.as_of, str):
            return None
        if isinstance(self.rfm.as_of, datetime):
            return self.rfm.as_of
        return datetime.combine(self.rfm.as_of + timedelta(days=1), time())

    def for_run(self, tick: datetime) -> Self:
        """The settings of a run for this moment in local time: `schedule` becomes the last day that was then over.

        A day, because that counts whole and the midnight after it does not: a moment counts to itself.
        """
        if self.rfm.as_of != "schedule":
            return self
        day = tick.date() - timedelta(days=1)
        return self.model_copy(update={"rfm": self.rfm.model_copy(update={"as_of": day})})

    @property
    def transaction_cutoff(self) -> datetime | None:
        """Lines at or after this moment do not count; None where all do."""
        if self.as_of is None or not isinstance(self.rfm.as_of, datetime):
            return self.as_of
        return self.as_of + timedelta(microseconds=1)

    @property
    def sql_values(self) -> dict[str, object]:
        """The settings that the SELECTs bind, by the name that they have there."""
        return {
            "as_of": self.as_of,
            "to_end_of_day": self.rfm.as_of == "end_of_day",
            "look_back_days": self.rfm.look_back_days,
            "margin": self.membership.margin,
            "fence_margin": self.membership.fence_margin,
            "max_pending_days": self.membership.max_pending_days,
            "history_digest": self.history_digest,
            "control_below": f"{round(self.membership.control_share * 16**8):08x}",
            "lapsing_factor": self.rfm.lapsing_factor,
        }


def _unseen_by_rules(cleaning: dict[str, Any], privacy: Any) -> Iterator[SettingError]:
    """Rules judge what is stored: a column that is dropped, or a customer's own name, they never see."""
    if not isinstance(privacy, dict):
        return
    drop = privacy.get("drop")
    for place, rule in enumerate(tables(cleaning.get("rules"))):
        at, column = ("cleaning", "rules", place, "column"), rule.get("column")
        if isinstance(drop, list) and column in drop:
            yield SettingError(at, "privacy.drop drops it before any rule; allowed: another column", column)
        if privacy.get("pseudonymise") is True and column == "customer_id" and not rule.get("required"):
            sentence = "privacy.pseudonymise hashes it before any rule; allowed: required = true, or another column"
            yield SettingError(at, sentence, column)


def _digits(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
