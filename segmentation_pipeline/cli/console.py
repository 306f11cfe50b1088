"""What the commands share: the consoles, the settings of a retailer, and the handling of user errors."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from textwrap import wrap
from traceback import print_exc

import duckdb
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

from segmentation_pipeline.cli.encoding import ERRORS
from segmentation_pipeline.config.loading import load_settings, source_base
from segmentation_pipeline.config.paths import RetailerFolders, data_folder
from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.errors import PipelineError
from segmentation_pipeline.ingestion.sources import check_source

_USER_ERRORS = (PipelineError, ValueError, OSError, duckdb.Error)
out = Console()
err = Console(stderr=True)


@contextmanager
def exit_on_user_error(traceback: bool, *, code: int = 2) -> Iterator[None]:
    """Print an error that the user can resolve, and exit with a code."""
    try:
        yield
    except _USER_ERRORS as error:
        if traceback:
            print_exc()
        say(err, "red", "error:", str(error))
        raise typer.Exit(code) from None


def say(console: Console, style: str, label: str, text: str) -> None:
    """Print a coloured label and a text, which is not markup."""
    print_entry(console, label, text, width=0, style=style)


def print_entry(console: Console, label: str, text: str, *, width: int = 10, style: str = "bold") -> None:
    """Print a label and a text beside it.

    On a terminal the text is wrapped between words, so that no name, path or number is broken; elsewhere an entry is
    one line, for programs that search it.

    Args:
        console: Where to print.
        label: Stands before the text.
        text: The text, which is not markup.
        width: The columns of the label, by which later lines are indented.
        style: The style of the label.
    """
    first = f"{label:{width}}" if width else f"{label} "
    room, lines = (
        console.width - 1,
        [
            f"{first}{line}" if not number else f"{'':{width}}{line}"
            for number, line in enumerate(text.splitlines() or [""])
        ],
    )
    if console.is_terminal:
        lines = [part for line in lines for part in _wrapped(line, width, room)]
    for number, line in enumerate(lines):
        printed = Text(line)
        if not number:
            printed.stylize(style, 0, len(label))
        console.print(printed, soft_wrap=True)


def print_text(console: Console, text: str, style: str = "") -> None:
    """Print a text that is not markup, on a terminal wrapped between words."""
    for line in _wrapped(text, 0, console.width - 1) if console.is_terminal else [text]:
        console.print(Text(line, style), soft_wrap=True)


@dataclass(frozen=True)
class Column:
    """A column of a printed table.

    Attributes:
        name: Its header.
        is_text: Whether it is aligned on the left.
        rank: 0 for a column that is always printed; of the others, the highest are left out first on a narrow terminal.
    """

    name: str
    is_text: bool = False
    rank: int = 0


def print_table(console: Console, columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """Print a table with as many columns as fit the terminal; no cell is broken or cut.

    Cells are text and no markup. The last resort of a very narrow terminal is to break lines itself.
    """
    # What the terminal cannot show is replaced before the columns are measured.
    rows = [[text.encode(console.encoding, ERRORS).decode(console.encoding) for text in row] for row in rows]
    kept = list(range(len(columns)))
    widths = [max(len(column.name), *(len(row[i]) for row in rows), 0) for i, column in enumerate(columns)]

    def width() -> int:
        return sum(widths[i] for i in kept) + 2 * len(kept)

    while width() > console.width and any(columns[i].rank for i in kept):
        kept.remove(max(kept, key=lambda i: columns[i].rank))
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for i in kept:
        justify: JustifyMethod = "left" if columns[i].is_text else "right"
        table.add_column(Text(columns[i].name), justify=justify, no_wrap=True, min_width=widths[i])
    for row in rows:
        table.add_row(*(Text(row[i]) for i in kept))
    console.print(table, width=max(console.width, width() + 1), no_wrap=True, overflow="ignore", crop=False)


def _wrapped(line: str, indent: int, room: int) -> list[str]:
    return wrap(
        line,
        room,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
        drop_whitespace=True,
        replace_whitespace=False,
    ) or [line]


def retailer_settings(
    retailer: str, source: str = "", as_of: str = "", *, withholdable: Collection[str] | None = None
) -> Retailer:
    """Return the settings of a retailer with what the command line replaces.

    Args:
        retailer: Name of a shipped retailer, or path of a retailer file.
        source: Replaces source.path, unless empty.
        as_of: Replaces rfm.as_of, unless empty.
        withholdable: The columns that privacy.withhold may name; by default any.

    Raises:
        RetailerError: The retailer file is not valid.
    """
    return load_settings(retailer, source, as_of, withholdable=withholdable)


def check_source_files(retailer: str, settings: Retailer) -> None:
    """Check what a run reads, except for the network: the run itself finds out what a server has.

    Raises:
        SourceError: There is nothing to read, or no address of the database.
    """
    if not settings.source.sample:
        own = RetailerFolders(data_folder(), settings.name).pipeline_paths
        check_source(settings.source, source_base(retailer), own)
