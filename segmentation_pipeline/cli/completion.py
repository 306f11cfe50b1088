"""What the shell completes: retailers, releases and tables. Reads names of files only, so that it answers at once."""

import tomllib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import typer

_PACKAGE = Path(__file__).parents[1]


def retailers(incomplete: str) -> list[str]:
    """Return the shipped retailers, and the TOML files and folders that begin so."""
    shipped = [path.stem for path in sorted((_PACKAGE / "retailers").glob("*.toml"))]
    return [name for name in [*shipped, *_files(incomplete)] if name.startswith(incomplete)]


def releases(context: typer.Context, incomplete: str) -> list[str]:
    """Return the releases of the retailer that the command line names, newest first."""
    names: list[str] = []
    with suppress(Exception):
        folder = _releases_folder(str(context.params.get("retailer") or ""))
        names = [path.name for path in folder.iterdir() if path.is_dir() and path.name[:1].isdigit()]
    return [name for name in sorted(names, reverse=True) if name.startswith(incomplete)]


def tables(incomplete: str) -> list[str]:
    """Return the published tables."""
    contracts = sorted((_PACKAGE / "tables").glob("*/*.yaml"), key=lambda path: path.stem)
    published = [path.stem for path in contracts if "\npublished: true" in path.read_text("utf-8")]
    return [name for name in published if name.startswith(incomplete)]


def _files(incomplete: str) -> Iterator[str]:
    """Yield the paths that continue an incomplete one: folders, and files in TOML."""
    start, _, _ = incomplete.rpartition("/")
    folder = Path(f"{start}/" if incomplete.startswith("/") else start).expanduser()
    with suppress(OSError):
        for path in sorted(folder.iterdir()):
            name = f"{start}/{path.name}" if "/" in incomplete else path.name
            if path.name.startswith("."):
                continue
            if path.is_dir():
                yield f"{name}/"
            elif path.suffix == ".toml":
                yield name


def _releases_folder(retailer: str) -> Path:
    from segmentation_pipeline.config.environment import Environment
    from segmentation_pipeline.config.paths import RetailerFolders, data_folder

    name = retailer or Environment.read().retailer
    if "/" in name or name.endswith(".toml"):
        name = str(tomllib.loads(Path(name).expanduser().read_text("utf-8-sig"))["name"])
    return RetailerFolders(data_folder(), name).releases
