"""The retailer file: find it, read it, and say in sentences what is wrong with it.

Belongs here: from a name or a path to `settings.Retailer`.
"""

import difflib
import json
import re
import tomllib
from collections import Counter
from collections.abc import Container
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from segmentation_pipeline.config.cleaning_rules import Rule
from segmentation_pipeline.config.environment import Environment
from segmentation_pipeline.config.paths import data_folder, expanded
from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.config.sections import Sample
from segmentation_pipeline.errors import PathError, RetailerError

SHIPPED = Path(__file__).parents[1] / "retailers"
_SHOWN = 100


def shipped_names() -> list[str]:
    """The retailers that come with the package."""
    return sorted(path.stem for path in SHIPPED.glob("*.toml"))


def find(name_or_path: str) -> Path:
    """The retailer file that a shipped name or a path means.

    Raises:
        RetailerError: there is no such file.
    """
    if name_or_path in shipped_names():
        return SHIPPED / f"{name_or_path}.toml"
    try:
        path = expanded(name_or_path)
        stands = path.is_file()
    except (PathError, OSError) as error:
        raise RetailerError(f"retailer {name_or_path!r}: {error}") from None
    if not stands:
        near = difflib.get_close_matches(name_or_path, shipped_names(), 1)
        raise RetailerError(
            f"retailer {name_or_path!r}: no such file, and not a shipped retailer"
            f" ({', '.join(shipped_names())}){f'; {near[0]}?' if near else ''}"
        )
    return path.resolve()


def load(name_or_path: str, **overrides: Any) -> Retailer:
    """Read and validate a retailer file; `overrides` replace values by dotted path, such as `rfm.as_of`.

    Raises:
        RetailerError: with every error of the file at once, one a line.
    """
    path = find(name_or_path)
    try:
        text = path.read_text("utf-8-sig")
        settings = tomllib.loads(text)
    # Beside what tomllib says of TOML: a number of thousands of digits, and thousands of brackets in one another.
    except (ValueError, RecursionError, OSError) as error:
        raise RetailerError(f"{path}: not readable as TOML: {error}") from None
    for dotted, value in overrides.items():
        section, _, key = dotted.rpartition(".")
        table = settings.setdefault(section, {}) if section else settings
        if isinstance(table, dict):
            table[key] = value
    try:
        return Retailer.model_validate(settings)
    except ValidationError as error:
        found = sorted((_line_of(text, one, overrides), _sentence(one)) for one in error.errors())
        lines = [f"{path.name}{f':{line}' if line else ''}: {sentence}" for line, sentence in found]
        raise RetailerError("\n".join(lines)) from None


def resolve_retailer(file: str) -> str:
    """Return a retailer's name or path: the argument, or else that of the environment."""
    return file or Environment.read().retailer


def load_settings(file: str = "", source: str = "", as_of: str = "") -> Retailer:
    """The retailer's settings with what a run sets instead: another source is never one to write made-up files into.

    Raises:
        RetailerError: The file does not validate.
    """
    overrides: dict[str, Any] = {"rfm.as_of": as_of} if as_of else {}
    if elsewhere := source or Environment.read().source:
        overrides |= {"source.path": _resolved(elsewhere, source_base(file)), "source.sample": None}
    return load(resolve_retailer(file), **overrides)


def _resolved(path: str, base: Path) -> str:
    """A path without `..`, which whoever starts a run may write: it is their own."""
    parts = expanded(path).parts
    if ".." not in parts:
        return path
    after = len(parts) - parts[::-1].index("..")
    return str(Path(base, *parts[:after]).resolve().joinpath(*parts[after:]))


def source_base(file: str = "") -> Path:
    """Where relative source paths start: beside the retailer file, for a shipped one in the data folder."""
    path = find(resolve_retailer(file))
    return data_folder() if path.parent == SHIPPED else path.parent


def _sentence(error: ErrorDetails) -> str:
    """One validation error as `key: what is wrong; allowed: …; found …`."""
    location = [str(part) for part in error["loc"]]
    key = ".".join(part if part.isprintable() else _shown(part) for part in location) or "file"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        keys = [field.alias or name for name, field in _section_at(location[:-1]).model_fields.items()]
        near = difflib.get_close_matches(location[-1], keys, 1)
        message = f"unknown key{f' ({near[0]}?)' if near else ''}; allowed: {', '.join(keys)}"
    elif error["type"] == "missing":
        wanted = _section_at(location[:-1]).model_fields[location[-1]]
        # The first sentence of what the setting is.
        allowed = re.split(r"\.\s", wanted.description or "a table")[0]
        return f"{key}: missing, and it has no default; allowed: {' '.join(allowed.split())}"
    elif error["type"] == "model_type":
        message = "allowed: a table"
    for ours, theirs in _WORDS.items():
        message = re.sub(theirs, ours, message)
    found = error["input"]
    return f"{key}: {message}" + ("" if isinstance(found, dict) else f"; found {_shown(found)}")


# Pydantic's way of telling what is allowed, and the house's.
_WORDS = {
    "allowed: text of": r"^String should match",
    "allowed:": r"^\w+ should (be|have)",
    "": r" after validation, not \d+$",
}


def _shown(found: Any) -> str:
    text = json.dumps(found, default=str, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _section_at(location: list[str]) -> type[BaseModel]:
    section: type[BaseModel] = Retailer
    for part in location:
        if part == "rules":
            return Rule
        annotation = section.model_fields[part].annotation
        section = Sample if part == "sample" else annotation if isinstance(annotation, type) else section
    return section


def _line_of(text: str, error: ErrorDetails, overrides: Container[str]) -> int:
    """The line where the key of an error stands, or else the nearest table around it; 0 where none stands.

    What a run sets instead stands in no line.
    """
    location = [str(part) for part in error["loc"]]
    if ".".join(location) in overrides:
        return 0
    table: list[str] = []
    seen: Counter[str] = Counter()
    found, depth = 0, 0
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*(\[+)\s*([\w.]+)\s*\]+", line):
            table = header[2].split(".")
            if header[1] == "[[":
                table.append(str(seen[header[2]]))
                seen[header[2]] += 1
            here = table
        elif key := re.match(r"\s*([\w.]+)\s*=", line):
            here = [*table, *key[1].split(".")]
        else:
            continue
        if here == location[: len(here)] and len(here) > depth:
            found, depth = number, len(here)
    return found
