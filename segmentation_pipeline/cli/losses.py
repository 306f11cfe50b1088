"""What a run, or a sample of its source, leaves out of the segments, as a table in the terminal."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import dagster as dg
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.ingestion.losses import UNKNOWN, Losses


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
    read, rejected = steps[0], [step for step in steps[1:] if step["lines"]]
    kept = steps[-1]["lines_left"]
    share = f"{kept / max(read['lines'], 1):.1%}"
    title = f"{read['lines']:,} lines read, {kept:,} kept ({share}); money in {settings.currency}"
    console.print(title, highlight=False, soft_wrap=True)
    if not rejected:
        return
    table = _table("rejected by", "lines", "share", "money", "share", "money unknown")
    for step in rejected:
        table.add_row(
            Text(step["rule"]),
            f"{step['lines']:,}",
            f"{step['share']:.1%}",
            _shown(step["amount"], ",.2f"),
            _shown(step["amount_share"], ".1%"),
            f"{step['lines_without_amount']:,}" if step["lines_without_amount"] else "",
        )
    console.print(table)
    if losses.unparsed:
        table = _table("unreadable column", "pattern (a: letter, 9: digit)", "lines", "share")
        table.columns[1].justify, table.columns[1].overflow = "left", "fold"
        for row in losses.unparsed:
            pattern = Text(repr(row["pattern"]) if row["pattern"] else "(empty)")
            table.add_row(row["column_name"], pattern, f"{row['lines']:,}", f"{row['share']:.1%}")
        console.print(table)


def _table(*columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for number, name in enumerate(columns):
        table.add_column(name, justify="right" if number else "left")
    return table


def _shown(value: str | float | Decimal | None, form: str) -> str:
    return UNKNOWN if value is None else value if isinstance(value, str) else f"{value:{form}}"


def _records(metadata: Mapping[str, Mapping[str, Any]], asset: str, name: str) -> list[dict[str, Any]]:
    value = metadata.get(asset, {}).get(name)
    return [dict(record.data) for record in value.records] if isinstance(value, dg.TableMetadataValue) else []
