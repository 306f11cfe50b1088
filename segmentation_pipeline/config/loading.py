"""Find, read and validate retailer files.

Does not contain the settings (`retailer`) or the wording of their errors (`error_messages`).
"""

import difflib
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from segmentation_pipeline.config.environment import Environment
from segmentation_pipeline.config.error_messages import error_lines
from segmentation_pipeline.config.open_choices import open_settings
from segmentation_pipeline.config.paths import data_folder, expanded
from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.config.source_settings import is_url
from segmentation_pipeline.errors import PathError, RetailerError

SHIPPED = Path(__file__).parents[1] / "retailers"


def shipped_names() -> list[str]:
    """Return the names of the retailer files that the package contains."""
    return sorted(path.stem for path in SHIPPED.glob("*.toml"))


def find(name_or_path: str) -> Path:
    """Return the path of a retailer file.

    Args:
        name_or_path: A shipped retailer's name, or the path of a file.

    Raises:
        RetailerError: The file does not exist.
    """
    if name_or_path in shipped_names():
        return SHIPPED / f"{name_or_path}.toml"
    try:
        path = expanded(name_or_path)
        exists = path.is_file()
    except (PathError, OSError) as error:
        raise RetailerError(f"retailer {name_or_path!r}: {error}") from None
    if not exists:
        similar = difflib.get_close_matches(name_or_path, shipped_names(), 1)
        raise RetailerError(
            f"retailer {name_or_path!r}: no such file, and not a shipped retailer"
            f" ({', '.join(shipped_names())}){f'; did you mean {similar[0]}?' if similar else ''}"
        )
    return path.resolve()


def load(
    name_or_path: str,
    overrides: Mapping[str, Any] | None = None,
    *,
    withholdable: Collection[str] | None = None,
) -> Retailer:
    """Read and validate a retailer file.

    Args:
        name_or_path: A shipped retailer's name, or the path of a file.
        overrides: Values that replace those of the file, by dotted key such as `rfm.as_of`.
        withholdable: The columns that `privacy.withhold` may name. This package does not know the published tables;
            by default any name is valid.

    Raises:
        RetailerError: The file is not valid; the message lists all of its errors, one a line.
    """
    path = find(name_or_path)
    try:
        text = path.read_text("utf-8-sig")
        settings = tomllib.loads(text)
    # tomllib raises ValueError also for an integer of thousands of digits, and RecursionError for deep nesting.
    except (ValueError, RecursionError, OSError) as error:
        raise RetailerError(f"{path}: not readable as TOML: {error}") from None
    overrides = overrides or {}
    for key, value in overrides.items():
        section, _, name = key.rpartition(".")
        table = settings.setdefault(section, {}) if section else settings
        # Validation reports a section that is not a table.
        if isinstance(table, dict):
            table[name] = value
    left_open = dict(open_settings(settings))
    try:
        retailer = Retailer.model_validate(settings, context={"withholdable": withholdable})
    except ValidationError as error:
        raise RetailerError("\n".join(error_lines(path.name, text, error, overrides, left_open))) from None
    if left_open:
        raise RetailerError("\n".join(error_lines(path.name, text, None, overrides, left_open)))
    return retailer


def load_settings(
    file: str = "", source: str = "", as_of: str = "", *, withholdable: Collection[str] | None = None
) -> Retailer:
    """Return the settings of a retailer with the values that a run replaces.

    Args:
        file: A shipped retailer's name or a file's path; empty: the environment's.
        source: Replaces `source.path` or `source.query`, and disables `source.sample`: generated files are never
            written into a path that a run sets. Empty: the environment's.
        as_of: Replaces `rfm.as_of`, unless empty.
        withholdable: The columns that `privacy.withhold` may name; by default any.

    Raises:
        RetailerError: The file is not valid.
    """
    overrides: dict[str, Any] = {"rfm.as_of": as_of} if as_of else {}
    if path := source or Environment.read().source:
        replaced = dict.fromkeys(("sample", "query", "connection", "key", "cursor"))
        overrides |= {f"source.{name}": value for name, value in replaced.items()}
        overrides["source.path"] = _without_parent_steps(path, source_base(file))
    return load(resolve_retailer(file), overrides, withholdable=withholdable)


def resolve_retailer(file: str) -> str:
    """Return a retailer's name or path: the argument, or else that of the environment."""
    return file or Environment.read().retailer


def absolute_arguments(file: str, source: str) -> tuple[str, str]:
    """Return a retailer and a source of the command line as they are valid in every working folder.

    Dagster stores them in the configuration of the run, and a re-execution has another working folder.

    Raises:
        RetailerError: The retailer file does not exist.
        PathError: The source begins with `~` and the name of no user.
    """
    name = resolve_retailer(file)
    retailer = name if name in shipped_names() else str(find(name))
    return retailer, source if not source or is_url(source) else str(expanded(source).absolute())


def source_base(file: str = "") -> Path:
    """Return the folder that relative source paths start from.

    It is the folder of the retailer file, or the data folder for a shipped one.
    """
    path = find(resolve_retailer(file))
    return data_folder() if path.parent == SHIPPED else path.parent


def _without_parent_steps(path: str, base: Path) -> str:
    """Return a path without `..`.

    The retailer file must not contain `..`, but the person who starts a run may: they have the same rights as the run.
    """
    parts = expanded(path).parts
    if is_url(path) or ".." not in parts:
        return path
    after = len(parts) - parts[::-1].index("..")
    return str(Path(base, *parts[:after]).resolve().joinpath(*parts[after:]))
