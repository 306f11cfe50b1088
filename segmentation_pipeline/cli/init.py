"""`segments retailer init`: look at a source, and write a retailer file with what was found."""

from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from segmentation_pipeline.cli.console import exit_on_user_error, out, say
from segmentation_pipeline.config.paths import expanded
from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.errors import RetailerError, SourceError, mask
from segmentation_pipeline.ingestion.discovery import source_files
from segmentation_pipeline.ingestion.sampling import Sample, sampled
from segmentation_pipeline.inspection.copies import add_copies
from segmentation_pipeline.inspection.guesses import Draft
from segmentation_pipeline.inspection.money import NO_CURRENCY
from segmentation_pipeline.inspection.proposal import proposed_draft

_SHOWN_LINES, _CELL = 10, 28
_SHOWN_COLUMNS = (
    "invoice",
    "transaction_at",
    "customer_id",
    "stock_code",
    "description",
    "quantity",
    "price",
    "amount",
)


def init(path: Path, output: Path | None, force: bool, traceback: bool) -> None:
    """Write a retailer file for a file or folder, and print the first lines as it reads them and the next command."""
    with exit_on_user_error(traceback):
        source = expanded(str(path))
        if not source.exists():
            raise SourceError(f"{source}: there is no such file or folder.")
        target = output or Path(f"{_stem(source)}.toml")
        if target.exists() and not force:
            raise RetailerError(f"{target} exists already. Overwrite it with --force, or name another with --output.")
        draft = proposed_draft(source, target.absolute().parent)
        shown = _read(draft, target.absolute().parent)
        text = draft.text(_head(draft, target), shown)
        with target.open("w" if force else "x", encoding="utf-8") as file:
            file.write(text)
        for line in shown:
            out.print(line, markup=False, highlight=False, soft_wrap=True)
        say(out, "green", "written:", str(target))
        for key in draft.open_keys:
            say(out, "yellow", "left open:", f"{key}; the comment above it says what is possible.")
        say(out, "bold", "next:", f"set {_to_set(draft)}, then segments retailer check {target} --sample")


def _stem(path: Path) -> str:
    return path.resolve().name.partition(".")[0] or "retailer"


def _head(draft: Draft, target: Path) -> list[str]:
    left_open = f"Left open: {', '.join(draft.open_keys)}. A value that begins with ? has to be replaced."
    return [
        "Written by `segments retailer init`. Each comment is the evidence for the setting below it; a comment without"
        " a setting is about a default.",
        *([left_open] if draft.open_keys else []),
        f"Next: set {_to_set(draft)}, then `segments retailer check {target.name} --sample`.",
    ]


def _to_set(draft: Draft) -> str:
    """Return the settings that a person has to set or to confirm."""
    names = ["time_zone"]
    if draft.settings.get("currency") == NO_CURRENCY:
        names.append("currency")
    return " and ".join([*names, *(["what is left open"] if draft.open_keys else [])])


def _read(draft: Draft, base: Path) -> list[str]:
    """Return the first lines as a run would read them, and what it would reject; customers are masked."""
    chosen = [key for key in draft.open_keys if "rules" not in key]
    with_first = f" With the first choice of {', '.join(chosen)}:" if chosen else ""
    try:
        retailer = Retailer.model_validate(draft.settings)
    except ValidationError:
        return ["The first lines cannot be shown before the columns that are left open are set."]
    files = source_files(retailer.source, base)
    try:
        with sampled(retailer, base, files) as sample:
            add_copies(draft, sample, retailer)
            return [f"The first lines as they will be read, with customers masked.{with_first}", "", *_lines(sample)]
    except SourceError as error:
        return [f"The first lines cannot be read yet: {error}"]


def _lines(sample: Sample) -> Iterator[str]:
    rows = sample.warehouse.rows(
        f"select {', '.join(_SHOWN_COLUMNS)} from raw_transactions"  # noqa: S608 - own SQL
        f" order by source_file, source_sheet, source_line limit {_SHOWN_LINES}"
    )
    # Descriptions of products repeat; texts that do not may name a customer.
    [repeats] = sample.warehouse.rows(
        "select count(distinct description) <= count(description) / 2 as description from raw_transactions"
    )
    hidden = {"customer_id"} | {name for name, does_repeat in repeats.items() if not does_repeat}
    names = [name for name in _SHOWN_COLUMNS if any(row[name] is not None for row in rows)]
    cells = [names, *([_cell(row[name], name in hidden) for name in names] for row in rows)]
    widths = [max(len(row[number]) for row in cells) for number in range(len(names))]
    for row in cells:
        yield "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
    yield ""
    if sample.losses.report:
        rejected = [f"{loss.rule} {loss.lines:,}" for loss in sample.losses.by_rule if loss.lines]
        kept = sample.losses.report[-1]["lines_left"]
        text = f"{sample.losses.report[0]['lines']:,} lines looked at, {kept:,} kept"
        yield f"{text}; rejected: {', '.join(rejected)}" if rejected else text


def _cell(value: object, is_hidden: bool) -> str:
    text = "" if value is None else "".join(filter(str.isprintable, str(value)))
    if is_hidden or "@" in text:
        text = mask(text)
    return text if len(text) <= _CELL else f"{text[: _CELL - 1]}…"
