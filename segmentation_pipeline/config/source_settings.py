"""The table `[source]` of a retailer file, and that of the sample, which is a generated source."""

import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import duckdb
from pydantic import Field, field_validator

from segmentation_pipeline.config.validation import Section, SettingError, Text

# Words that `source.date_format` accepts beside strptime codes.
ISO_FORMAT = "iso_8601"
# The strptime codes of names of weekdays and months.
NAME_CODES = ("%a", "%A", "%b", "%B")
EXCEL_FORMATS = ("excel_1900", "excel_1904")
# The value of `source.delimiter` for runs of blanks and tabs.
WHITESPACE = "whitespace"
# With how many of its units a second has.
EPOCH_FORMATS = {"epoch_seconds": 1, "epoch_milliseconds": 1000}
# The group of `source.supersedes` that says how new a file is.
VERSION_GROUP = "version"
# The schemes of URLs that `source.path` accepts, and those of web servers among them.
OBJECT_STORES = ("s3", "gs", "az", "https", "http")
WEB = ("https", "http")
# A number and a unit, as in `source.look_back`; ten years of weeks at most.
_LOOK_BACK = re.compile(r"([0-9]{1,6}) (minute|hour|day|week)s?")
_MAX_LOOK_BACK = 100_000
# The settings of `[source]` that only a query has, and those that a query has too. All others belong to files.
_OF_QUERIES = ("connection", "key", "cursor")
_OF_BOTH = ("look_back", "decimal", "currency_marks", "minor_unit_digits", "date_format", "date_language")


class Sample(Section):
    """Generated transactions for trying the pipeline.

    The files are written into the empty source folder, and written again when these settings change.
    """

    customers: int = Field(5_000, ge=50, le=100_000)
    """Number of customers who buy. The default is somewhat more than Online Retail has; a run takes seconds."""
    seed: int = Field(20_240_101, ge=0)
    """Seed of the random numbers. Another seed generates other customers; any value will do."""


class Source(Section):
    """Where the transactions are: in files, with how they are written, or in a database, with a query."""

    path: str | list[str] | None = None
    """Required without `query`: file, folder (with its subfolders), pattern, or a list of these. Relative paths start
    from the folder of this file; those of shipped files from the data folder. `..` is not allowed, and a link inside
    the source that leads out of it is quarantined, so that a person who may write this file or the source cannot make
    the pipeline read other files. The path itself may be a link. Also s3://BUCKET/PREFIX/*.csv and
    https://HOST/FILE.csv: see [operations](operations.md#object-stores)."""
    query: Text | None = None
    """SELECT of the lines in a database, instead of files, in the SQL of that database. [columns] maps its columns. It
    can only read: see [operations](operations.md#databases)."""
    connection: Text | None = None
    """Where the query runs: env: and the name of an environment variable, such as env:SHOP_DATABASE. Its value is
    postgresql://USER:PASSWORD@HOST/DATABASE, duckdb:///PATH of a DuckDB database, or parquet:///PATH of a folder of
    Parquet files, each subfolder or file a table. The value is never stored or shown."""
    key: Text | list[Text] | None = None
    """Column or columns of the query that identify a row, such as line_id or ["order_id", "line_number"]. They are
    stored in source_sheet, and a changed row replaces the one of the same key."""
    cursor: Text | None = None
    """Column of the query with the time when a row was last written, such as updated_at. A run then fetches only the
    rows since the newest time that it has seen, less `look_back`, and those without a time. Rows that were deleted in
    the database stay until `segments run --reload`. Unset: each run fetches all rows."""
    look_back: str = "3 days"
    """How far before the newest time of `cursor` rows are fetched again, for rows that are written late: a number of
    minutes, hours, days or weeks. Three days are a long weekend."""
    format: Literal["csv", "parquet", "xlsx", "xls", "xlsb", "ods", "jsonl"] | None = None
    """Format of all files. Unset: each file has the format of its extension, because a folder may hold several."""
    sheets: list[str] = Field([])
    """Names of the sheets to read from a workbook. Empty: all sheets, so that none is forgotten. An error cell such as
    `#N/A` is read as empty."""
    encoding: str = "utf-8"
    """Encoding of CSV files, by its Python name. UTF-8 is the default of most programs. A byte order mark of UTF-8,
    UTF-16 or UTF-32 at the start of a file counts before this setting."""
    delimiter: str | None = None
    """Delimiter of CSV files: one character, or `whitespace` for runs of blanks and tabs, as in columns of fixed width.
    Unset: a comma, or what a first line such as sep=; says. Such a line is skipped."""
    skip_lines: int = Field(0, ge=0, le=1_000)
    """Lines above the header of CSV files and of each sheet, such as the title of a report: 3 if the header is in
    line 4. Lines count as an editor numbers them, blank ones too."""
    header: bool = True
    """Whether CSV files and sheets have a line with the names of the columns. Without it, [columns] has their
    positions: customer_id = 1 is the first column."""
    decimal: Literal[".", ","] = "."
    """Decimal mark of quantities and money. The other of the two characters, an apostrophe or a blank separates
    thousands. A minus may be before or after the number, and parentheses mean minus."""
    currency_marks: list[Text] = Field([])
    """Signs or codes of `currency` that stand beside prices and amounts, such as $. Its ISO code and its own sign need
    not be listed. Money with another mark is rejected, because it may be another currency."""
    minor_unit_digits: int = Field(0, ge=0, le=4)
    """Decimals of the currency if prices and amounts are whole numbers of its smallest unit, as payment services
    export: 2 for cents. 0: they are in the currency."""
    date_format: str | list[str] | None = None
    """Format of dates and times in strptime codes, such as %d/%m/%Y %H:%M, or a list of formats. A value that two of
    them read differently is rejected. Also allowed: iso_8601; excel_1900 and excel_1904 (days since then); and
    epoch_seconds and epoch_milliseconds (since 1970, in UTC). Unset: ISO 8601, which cannot confuse days and months."""
    date_language: Literal["de", "en", "es", "fr", "it", "nl", "pt"] | None = None
    """Language of the names of months and weekdays in dates, such as fr for 12 févr. 2024 with %d %b %Y, or de for
    3. März 2024 with %d. %B %Y. %b and %B then read full names and abbreviations alike, with or without a dot; capitals
    and accents do not matter. Unset: English names, full with %A and %B, of three letters with %a and %b."""
    fill_down: list[Text] = Field([])
    """Columns of the lines, such as ["customer_id", "transaction_at"], that are filled in only on the first line of an
    order. An empty value is then that of the nearest line above with the same invoice in the same file or sheet. Not
    allowed: invoice, quantity, price and amount. transaction_at includes transaction_time."""
    supersedes: Text | None = None
    """Pattern of file names in which the group `version` says how new an export is, as a Python regular expression,
    such as sales_(?P<period>[0-9-]{7})_v(?P<version>[0-9]+). Of the files that have everything before the match and all
    other named groups in common, only those of the newest version count, number by number: v10 is newer than v9. The
    lines of the others are rejected by the rule `superseded_file`, and count again if the newer file disappears, is
    empty or is quarantined. Files that it does not match count as always. Unset: every file counts."""
    max_quarantined: int = Field(3, ge=0)
    """Maximum number of quarantined files: files that cannot be read while the others load. A run with more of them, or
    without any readable file, fails. Three daily files are a long weekend; more mean another export or a wrong
    setting."""
    max_unpacked_gb: float = Field(4, gt=0)
    """Maximum unpacked size of a file in GB. A larger one is quarantined, because a few kilobytes can unpack to a full
    disk. 4 GB are forty million lines, or the largest workbook that fits into the memory of a small machine."""
    settle_seconds: int = Field(60, ge=1)
    """Seconds without a change after which the sensor `new_files` starts a run for new files. A minute is longer than
    the pauses of a copy over a network, and short for a run of a minute."""
    sample: Sample | None = None
    """Generates the source files; `path` must then be one folder."""

    @field_validator("path", mode="before")
    @classmethod
    def _check_path(cls, value: object) -> object:
        if value is None:
            return value
        paths = value if isinstance(value, list) else [value]
        if not paths or not all(isinstance(path, str) and path and "\0" not in path for path in paths):
            raise ValueError("allowed: a file, a folder, a pattern, or a list of these, as text")
        if any(".." in Path(str(path)).parts for path in paths):
            raise ValueError("allowed: a path without `..`; write an absolute path instead")
        return value

    @field_validator("look_back")
    @classmethod
    def _check_look_back(cls, value: str) -> str:
        if not (found := _LOOK_BACK.fullmatch(value)) or int(found[1]) > _MAX_LOOK_BACK:
            raise ValueError("allowed: a number of minutes, hours, days or weeks, such as 3 days")
        return value

    @classmethod
    def combined_errors(cls, settings: dict[str, Any]) -> Iterator[SettingError]:
        """Yield an error for each setting that does not belong to the others, and for each that is missing.

        An error of `connection` does not have its value, which may be a password.
        """
        language, formats = settings.get("date_language"), settings.get("date_format")
        if language is not None and not any(code in str(formats) for code in NAME_CODES):
            message = f"names in dates; allowed: if source.date_format has one of {', '.join(NAME_CODES)}"
            yield SettingError(("date_language",), message, language)
        yield from _errors_of_query(cls, settings) if settings.get("query") is not None else _errors_of_path(settings)

    @property
    def paths(self) -> list[str]:
        """The paths of the files; none with a query."""
        return [self.path] if isinstance(self.path, str) else self.path or []

    @property
    def key_columns(self) -> list[str]:
        """The columns of the query that identify a row."""
        return [self.key] if isinstance(self.key, str) else self.key or []

    @property
    def look_back_time(self) -> timedelta:
        """How far before the newest time of the cursor rows are fetched again."""
        found = _LOOK_BACK.fullmatch(self.look_back)
        assert found is not None
        return timedelta(**{f"{found[2]}s": int(found[1])})

    @property
    def date_formats(self) -> tuple[str, ...]:
        """The formats of dates, in order; none if dates are written in ISO 8601."""
        formats = self.date_format or ()
        return (formats,) if isinstance(formats, str) else tuple(formats)

    @field_validator("delimiter")
    @classmethod
    def _check_delimiter(cls, value: str | None) -> str | None:
        if value not in (None, WHITESPACE) and not re.fullmatch(r'[^"\r\n]', value):
            raise ValueError(f"allowed: one character, no quote and no line end; or {WHITESPACE}")
        return value

    @field_validator("date_format")
    @classmethod
    def _check_date_format(cls, value: str | list[str] | None) -> str | list[str] | None:
        if value == [] or not all(map(_is_date_format, [value] if isinstance(value, str) else value or [])):
            raise ValueError(
                "allowed: strptime codes of year, month and day, no offset, such as %d/%m/%Y %H:%M;"
                f" {', '.join([ISO_FORMAT, *EXCEL_FORMATS, *EPOCH_FORMATS])}; or a list of these"
            )
        return value

    @field_validator("supersedes")
    @classmethod
    def _check_supersedes(cls, value: str | None) -> str | None:
        try:
            groups = re.compile(value or "").groupindex
        except re.error as error:
            raise ValueError(f"allowed: a regular expression of Python; {error}") from None
        if value is not None and VERSION_GROUP not in groups:
            raise ValueError(f"allowed: a pattern with a group (?P<{VERSION_GROUP}>...), which says how new a file is")
        return value

    @field_validator("encoding")
    @classmethod
    def _check_encoding(cls, value: str) -> str:
        try:
            "".encode(value)
        except LookupError:
            raise ValueError("allowed: an encoding that Python knows, such as utf-8, cp1252, latin-1") from None
        return value


def is_url(path: str) -> bool:
    """Return whether a path of a source is the address of an object and not of a file."""
    return bool(re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", path))


def url_error(path: str) -> str:
    """Return why a URL cannot be a path of a source; empty if it can, or is none."""
    if not is_url(path):
        return ""
    kind, _, rest = path.partition("://")
    host = rest.partition("/")[0]
    if kind not in OBJECT_STORES:
        return f"allowed: a URL that begins with {', '.join(f'{name}://' for name in OBJECT_STORES if name != 'http')}"
    if "@" in host or "#" in rest or (kind in WEB and "?" in rest):
        return "allowed: a URL without user, password and parameters; the environment has the credentials"
    if kind in WEB and set("*[") & set(rest):
        return "allowed: the URL of one file, because web servers list no files"
    if kind == "http" and host.partition(":")[0] not in ("127.0.0.1", "localhost"):
        return "allowed: https, because http can be read and changed on its way"
    return ""


def _errors_of_path(settings: dict[str, Any]) -> Iterator[SettingError]:
    """Yield the errors of a source of files: no path, or settings of a query."""
    path = settings.get("path")
    if path is None:
        yield SettingError(("path",), "required, but missing: a file, a folder, a pattern, or a list; or query", {})
    for one in path if isinstance(path, list) else [path]:
        # Without its value, which may hold a password or a signature.
        if isinstance(one, str) and (message := url_error(one)):
            yield SettingError(("path",), message, {})
    for name in (*_OF_QUERIES, "look_back"):
        if settings.get(name) is not None:
            yield SettingError((name,), "belongs to source.query, which is not set; remove it", {})


def _errors_of_query(section: type[Source], settings: dict[str, Any]) -> Iterator[SettingError]:
    """Yield the errors of a source with a query: settings of files, and missing ones."""
    for name, field in section.model_fields.items():
        is_set = name in settings and settings[name] != field.get_default()
        if name not in ("query", *_OF_QUERIES, *_OF_BOTH) and is_set:
            yield SettingError((name,), "belongs to files, and source.query is set; remove one of the two", {})
    if settings.get("cursor") is None and "look_back" in settings:
        yield SettingError(("look_back",), "belongs to source.cursor, which is not set; remove it", {})
    for name in ("connection", "key"):
        if settings.get(name) is None:
            yield SettingError((name,), "required with source.query, but missing", {})
    connection = settings.get("connection")
    if connection is not None and not re.fullmatch("env:[A-Za-z_][A-Za-z0-9_]*", str(connection).strip()):
        message = "allowed: env: and the name of an environment variable, such as env:SHOP_DATABASE"
        yield SettingError(("connection",), message, {})


def _is_date_format(text: str) -> bool:
    if text in (ISO_FORMAT, *EXCEL_FORMATS, *EPOCH_FORMATS):
        return True
    # No part of this day is the default that strptime gives to a part without a code.
    day = datetime.fromisoformat("2024-03-21")
    select = "select try_strptime(strftime($day, $format), $format)"
    try:
        return duckdb.cursor().execute(select, {"day": day, "format": text}).fetchone() == (day,)
    except duckdb.Error:
        return False
