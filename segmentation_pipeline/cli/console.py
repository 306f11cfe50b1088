"""What the commands share: the consoles, the settings of a retailer, and the handling of user errors."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from traceback import print_exc

import duckdb
import typer
from rich.console import Console
from rich.text import Text

from segmentation_pipeline.config.loading import load_settings, source_base
from segmentation_pipeline.config.paths import RetailerFolders, data_folder
from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.errors import PipelineError
from segmentation_pipeline.ingestion.discovery import source_files

_USER_ERRORS = (PipelineError, ValueError, OSError, duckdb.Error)
out = Console()
err = Console(stderr=True)


@contextmanager
def exit_on_user_error(traceback: bool) -> Iterator[None]:
    """Print an error that the user can resolve, and exit with code 2."""
    try:
        yield
    except _USER_ERRORS as error:
        if traceback:
            print_exc()
        say(err, "red", "error:", str(error))
        raise typer.Exit(2) from None


def say(console: Console, style: str, label: str, text: str) -> None:
    """Print a coloured label and a text. The text is not markup, and is not broken at the width of the terminal."""
    console.print(Text.assemble((label, style), " ", text), soft_wrap=True)


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


def count_source_files(retailer: str, settings: Retailer) -> int:
    """Return the number of source files; 0 where the run writes sample files.

    Raises:
        SourceError: There is nothing to read.
    """
    if settings.source.sample:
        return 0
    own = RetailerFolders(data_folder(), settings.name).pipeline_paths
    return len(source_files(settings.source, source_base(retailer), own))
