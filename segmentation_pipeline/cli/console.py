"""What the commands share: the two consoles, the options, and errors as sentences.

Belongs here: how a command speaks. Does not: what it does (`cli`, `cli_model`).
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from traceback import print_exc
from typing import Annotated

import duckdb
import typer
from rich.console import Console
from rich.text import Text

from segmentation_pipeline.config.loading import load_settings
from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.errors import PipelineError

_USER_ERRORS = (PipelineError, ValueError, OSError, duckdb.Error)
out = Console()
err = Console(stderr=True)

RetailerOption = Annotated[
    str, typer.Option("--retailer", "-r", envvar="SEGMENTATION_RETAILER", help="A shipped retailer or a TOML file.")
]
SourceOption = Annotated[
    str, typer.Option(envvar="SEGMENTATION_SOURCE", help="File, folder or pattern instead of the file's source.path.")
]
TracebackOption = Annotated[bool, typer.Option("--traceback", help="Show tracebacks instead of sentences.")]


@contextmanager
def exit_on_user_error(traceback: bool) -> Iterator[None]:
    """Errors that a person can mend end the command with a sentence and exit code 2."""
    try:
        yield
    except _USER_ERRORS as error:
        if traceback:
            print_exc()
        say(err, "red", "error:", str(error))
        raise typer.Exit(2) from None


def say(console: Console, style: str, label: str, text: str) -> None:
    """Text that comes from elsewhere: brackets in it are brackets."""
    console.print(Text.assemble((label, style), " ", text))


def retailer_settings(
    retailer: str, source: str = "", as_of: str = "", *, withholdable: Collection[str] | None = None
) -> Retailer:
    """Return the settings of a retailer, with what the command line replaces.

    Args:
        retailer: A shipped retailer's name or a file's path.
        source: Replaces source.path, unless empty.
        as_of: Replaces rfm.as_of, unless empty.
        withholdable: The columns that privacy.withhold may name; by default any.

    Raises:
        RetailerError: The file is not valid.
    """
    return load_settings(retailer, source, as_of, withholdable=withholdable)
