"""What a run, or a sample of its source, leaves out of the segments, as a table in the terminal."""

from collections.abc import Callable, Mapping
from typing import Any

import dagster as dg
from rich.console import Console

from segmentation_pipeline.cli.console import Column, print_table, print_text
from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.ingestion.losses import UNKNOWN, Losses
from segmentation_pipeline.reports.formatting import format_money, format_number, format_share

_RULES = (
    Column("rejected by", is_text=True),
    Column("lines"),
    Column("share", rank=1),
    Column("money"),
    Column("share", rank=2),
    Column("money unknown", rank=3),
)
_PATTERNS = (
    Column("unreadable column", is_text=True),
    Column("pattern (a: letter, 9: digit)", is_text=True),
    Column("lines"),
    Column("share", rank=1),
)


def print_losses_of_run(console: Console, metadata: Mapping[str, Mapping[str, Any]], settings: Retailer) -> None:
    """Print what a run left out.

    Args:
        console: Where to print.
        metadata: The metadata of the run's materialisations, by asset.
        settings: The retailer's settings.
    """
    report = _records(metadata, "cleaning_report", "funnel")
    print_losses(console, Losses(report, _records(metadata, "unparsed_values", "patterns")), settings)


def print_losses(console: Console, losses: Losses, settings: Retailer) -> None:
    """Print the lines and the money that each rule rejected, and how unreadable values are written."""
    steps = losses.report
    if not steps:
        return
    currency = settings.currency
    read, rejected = steps[0], [step for step in steps[1:] if step["lines"]]
    kept = steps[-1]["lines_left"]
    share = format_share(kept / max(read["lines"], 1), currency)
    lines = f"{format_number(read['lines'], currency)} lines read, {format_number(kept, currency)} kept ({share})"
    console.print()
    print_text(console, lines)
    if not rejected:
        return
    rows = [
        (
            step["rule"],
            format_number(step["lines"], currency),
            format_share(step["share"], currency),
            _known(step["amount"], lambda amount: format_money(amount, currency, decimals=2)),
            _known(step["amount_share"], lambda share: format_share(share, currency)),
            format_number(step["lines_without_amount"], currency) if step["lines_without_amount"] else "",
        )
        for step in rejected
    ]
    print_table(console, _RULES, rows)
    if losses.unparsed:
        shown = [
            (
                row["column_name"],
                repr(row["pattern"]) if row["pattern"] else "(empty)",
                format_number(row["lines"], currency),
                format_share(row["share"], currency),
            )
            for row in losses.unparsed
        ]
        print_table(console, _PATTERNS, shown)


def _known(value: Any, form: Callable[[Any], str]) -> str:
    """Return a value as text; metadata has a text where it is unknown, tables have null."""
    return UNKNOWN if value is None or value == UNKNOWN else form(value)


def _records(metadata: Mapping[str, Mapping[str, Any]], asset: str, name: str) -> list[dict[str, Any]]:
    value = metadata.get(asset, {}).get(name)
    return [dict(record.data) for record in value.records] if isinstance(value, dg.TableMetadataValue) else []
