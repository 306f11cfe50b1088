"""Look at a source and propose its retailer file.

Contains the order of the steps, and what becomes a setting. The steps are in the other modules of the package.
"""

import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

from segmentation_pipeline.config.loading import load, shipped_names
from segmentation_pipeline.config.source_settings import Source
from segmentation_pipeline.config.validation import normalised
from segmentation_pipeline.errors import SourceError
from segmentation_pipeline.ingestion.discovery import format_of, source_files
from segmentation_pipeline.ingestion.excel import WORKBOOKS, first_rows
from segmentation_pipeline.ingestion.sampling import SAMPLED_LINES
from segmentation_pipeline.inspection.columns import Mapped, mapped_columns
from segmentation_pipeline.inspection.contents import Contents, contents_of
from segmentation_pipeline.inspection.guesses import Draft
from segmentation_pipeline.inspection.layout import Found, header_line, sheet_width, text_layout
from segmentation_pipeline.inspection.money import add_currency, add_money
from segmentation_pipeline.inspection.names import normalised_name
from segmentation_pipeline.inspection.notations import dates_of, numbers_of
from segmentation_pipeline.inspection.orders import add_fill_down, add_status

_SHOWN = 5
_INSPECTED_ROWS = 200
# As many are read where the usual number does not tell days from months.
_MANY_LINES = 1_000_000
More = Callable[..., AbstractContextManager[Contents]]
_NUMBERS = ("quantity", "price", "amount")
# The first bytes of files whose ending says nothing.
_SIGNATURES = ((b"PAR1", "parquet"), (b"PK\x03\x04", "xlsx"), (b"\xd0\xcf\x11\xe0", "xls"), (b"{", "jsonl"))


def proposed_draft(path: Path, base: Path) -> Draft:
    """Return what was found of a source.

    Args:
        path: A file or a folder.
        base: The folder of the retailer file, from which a relative path starts.

    Raises:
        SourceError: There is nothing to read.
    """
    draft = Draft()
    name = _name(path)
    draft.add("name", name, "The name of the folder of its working database and releases.")
    draft.add("title", path.stem.replace("_", " ").strip() or name)
    draft.add(
        "time_zone",
        "UTC",
        "LEFT TO YOU: the IANA name of the time zone of the times in the source, such as Europe/Berlin. Times with an"
        " offset, and those counted from 1970, are converted to it.",
    )
    source: dict[str, Any] = {"path": _path(path, base)}
    if path.is_file() and format_of(path, Source(path=".")) is None:
        source["format"] = _format(path)
    files = source_files(Source.model_validate(source), base)
    largest = max(files, key=lambda file: (files[file].stat().st_size, file))
    found = _layout(Source.model_validate(source), files[largest])
    settings = source | {key: one.value for key, one in found.items() if one.value is not None}
    settings |= {key: one.choices[0] for key, one in found.items() if one.choices}
    with contents_of(settings, files, base) as contents:
        mapped = mapped_columns(contents)
        add_currency(draft, contents, mapped)
        _add_source(draft, source, found, contents, files)
        decimal = _add_decimal(draft, contents, mapped)
        more = partial(contents_of, settings, files, base, _MANY_LINES)
        _add_dates(draft, contents, mapped, decimal, more)
        add_fill_down(draft, contents, mapped)
        _add_columns(draft, contents, mapped)
        add_money(draft, contents, mapped, decimal)
        add_status(draft, contents, mapped)
    return draft


def _name(path: Path) -> str:
    words = "_".join(normalised_name(path.name.partition(".")[0]).split()) or "retailer"
    plain = re.sub("[^a-z0-9_]", "", words)
    return plain if re.match("[a-z]", plain) else f"retailer_{plain}".rstrip("_")


def _path(path: Path, base: Path) -> str:
    absolute, folder = path.resolve(), base.resolve()
    return str(absolute.relative_to(folder)) if absolute.is_relative_to(folder) else str(absolute)


def _format(path: Path) -> str:
    """Return the format of a file whose ending is unknown, by its first bytes."""
    with path.open("rb") as file:
        start = file.read(8)
    return next((kind for signature, kind in _SIGNATURES if start.startswith(signature)), "csv")


def _layout(source: Source, path: Path) -> dict[str, Found]:
    """Return what was found of the layout of a file, by setting."""
    kind = format_of(path, source)
    if kind == "csv":
        layout = text_layout(path)
        return {
            "encoding": layout.encoding,
            "delimiter": layout.delimiter,
            "skip_lines": layout.skip_lines,
            "header": layout.header,
        }
    if kind not in WORKBOOKS:
        return {}
    sheets = first_rows(source, path, _INSPECTED_ROWS)
    rows = max(sheets.values(), key=lambda rows: (sheet_width(rows), len(rows)), default=[])
    skip, header = header_line(rows, sheet_width(rows))
    return {"skip_lines": skip, "header": header}


def _add_source(
    draft: Draft, source: Mapping[str, Any], found: Mapping[str, Found], contents: Contents, files: Mapping[str, Path]
) -> None:
    read = ", ".join(list(contents.files)[:_SHOWN]) + (" ..." if len(contents.files) > _SHOWN else "")
    evidence = [f"{contents.lines:,} lines of {len(contents.files):,} of {len(files):,} files were looked at: {read}."]
    if contents.others:
        evidence.append(
            "These have other columns, or cannot be read, and a run quarantines them if they lack a column below:"
            f" {'; '.join(list(contents.others)[:_SHOWN])}. Set a path or pattern of files with the same columns."
        )
    evidence += [
        f"These are the columns of the shipped retailer file {name}, which may know more about them: compare with"
        f" `segments retailer check {name} --source PATH --sample`."
        for name in _shipped(contents)
    ]
    draft.add("source.path", source["path"], *evidence)
    if "format" in source:
        draft.add("source.format", source["format"], "By the first bytes; the ending of the file says nothing.")
    for key, one in found.items():
        if one.evidence:
            draft.add(f"source.{key}", one.value, f"{key}: {one.evidence}.", choices=list(one.choices) or None)
    if contents.sheets:
        draft.add("source.sheets", list(contents.sheets), "Other sheets have other columns.")


def _shipped(contents: Contents) -> list[str]:
    """Return the shipped retailer files all of whose columns the source has."""
    found = {normalised(column.name) for column in contents.columns}
    wanted = {name: load(name).columns.source_names().values() for name in shipped_names() if name != "sample"}
    return [name for name, columns in wanted.items() if {normalised(str(one)) for one in columns} <= found]


def _add_decimal(draft: Draft, contents: Contents, mapped: Mapping[str, Mapped]) -> str:
    columns = [column for role in _NUMBERS if role in mapped for column in mapped[role].columns]
    # Where no column is named like money, it is one of these.
    others = (column for column in contents.columns if column.is_number and not column.is_date)
    columns = columns or [column for column in others if not column.is_integer]
    if not columns:
        return "."
    found = numbers_of(contents, columns)
    if found.decimal is None:
        draft.add("source.decimal", None, f"decimal: {found.evidence}.", choices=[".", ","])
    else:
        draft.add("source.decimal", "," if found.decimal == "," else None, f"decimal: {found.evidence}.")
    return found.decimal or "."


def _add_dates(draft: Draft, contents: Contents, mapped: dict[str, Mapped], decimal: str, more: More) -> None:
    at, time = mapped.get("transaction_at"), mapped.pop("transaction_time", None)
    if not at or not at.column:
        return
    if time and time.column and not at.column.type.startswith("TIMESTAMP") and not _has_times(contents, at):
        mapped["transaction_time"] = time
    used = mapped.get("transaction_time")
    columns = [at.column, *(used.columns if used else ())]
    dates = dates_of(contents, columns, decimal)
    if dates.choices and contents.lines > SAMPLED_LINES / 2:
        # The first lines of a long file may be of a few days.
        with more(only=[column.key for column in columns]) as longer:
            dates = dates_of(longer, columns, decimal)
    single = list(dates.formats)
    if dates.is_unknown:
        draft.add("source.date_format", None, *dates.evidence, choices=[])
    elif dates.choices:
        choices = [[*single, one.format] if single else one.format for one in dates.choices]
        draft.add("source.date_format", None, *dates.evidence, choices=choices)
    else:
        value = None if not single else single[0] if len(single) == 1 else single
        draft.add("source.date_format", value, *dates.evidence)
    if dates.language:
        draft.add("source.date_language", dates.language, "The names of months are of this language.")


def _has_times(contents: Contents, at: Mapped) -> bool:
    assert at.column
    select = f"select count(*) from cells where regexp_matches({at.column.cell}, '[0-9]:[0-9]{{2}}')"  # noqa: S608 - own SQL
    [(count,)] = contents.rows(select)
    return bool(count)


def _no_dates(contents: Contents) -> str:
    others = (
        f" {', '.join(list(contents.others)[:_SHOWN])} have other columns: if the lines, orders and customers are in"
        " files of their own, join them to one line for each product of an order first."
        if contents.others
        else ""
    )
    files = ", ".join(list(contents.files)[:_SHOWN])
    message = "no column looks like a date or time, so these are no transactions. Name the file that has them."
    return f"{files}: {message}{others}"


def _add_columns(draft: Draft, contents: Contents, mapped: Mapping[str, Mapped]) -> None:
    """Add all columns but those of money, status and currency, which have their own steps."""
    for role in (
        "transaction_at",
        "transaction_time",
        "customer_id",
        "invoice",
        "stock_code",
        "description",
        "country",
    ):
        if one := mapped.get(role):
            key = one.column.key if one.column else None
            choices = None if one.column else [column.key for column in one.choices]
            draft.add(f"columns.{role}", key, f"{one.evidence[:1].upper()}{one.evidence[1:]}.", choices=choices)
    if not (at := mapped.get("transaction_at")) or not (at.column or at.choices):
        raise SourceError(_no_dates(contents))
