"""The retailer file: find it, read it, and say in sentences what is wrong with it.

Belongs here: from a name or a path to `settings.Retailer`.
"""

import difflib
import re
import tomllib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from segmentation_pipeline.sections import Rule, Sample
from segmentation_pipeline.settings import Retailer

SHIPPED = Path(__file__).parent / "retailers"


class RetailerError(ValueError):
    """The retailer file cannot be used; the message names each key, what was found, and what is allowed."""


def shipped_names() -> list[str]:
    """The retailers that come with the package."""
    return sorted(path.stem for path in SHIPPED.glob("*.toml"))


def find(name_or_path: str) -> Path:
    """The retailer file that a shipped name or a path means.

    Raises:
        RetailerError: there is no such file.
    """
    path = Path(name_or_path).expanduser()
    if path.suffix != ".toml" and name_or_path in shipped_names():
        return SHIPPED / f"{name_or_path}.toml"
    if not path.is_file():
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
        text = path.read_text("utf-8")
        settings = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise RetailerError(f"{path}: not readable as TOML: {error}") from None
    for dotted, value in overrides.items():
        section, _, key = dotted.rpartition(".")
        (settings.setdefault(section, {}) if section else settings)[key] = value
    try:
        return Retailer.model_validate(settings)
    except ValidationError as error:
        lines = [_sentence(text, settings, one) for one in error.errors()]
        raise RetailerError("\n".join(f"{path.name}{line}" for line in lines)) from None


def _sentence(text: str, settings: dict[str, Any], error: Any) -> str:
    """One validation error as `:line: key: what is wrong; found …`."""
    location = [str(part) for part in error["loc"] if str(part) not in _UNION_TAGS]
    key = ".".join(location) or "file"
    line = _line_of(text, location)
    message = (
        error["msg"]
        .removeprefix("Value error, ")
        .replace("Input should be", "allowed:")
        .replace("String should match", "allowed: text of")
    )
    if error["type"] == "extra_forbidden":
        allowed = list(_section_at(location[:-1]).model_fields)
        near = difflib.get_close_matches(location[-1], allowed, 1)
        message = f"unknown key{f' ({near[0]}?)' if near else ''}; allowed: {', '.join(allowed)}"
    elif error["type"] == "missing":
        return f"{line}: {key}: missing; it has no default"
    found = error["input"]
    return f"{line}: {key}: {message}" + ("" if isinstance(found, (dict, list, BaseModel)) else f"; found {found!r}")


_UNION_TAGS = {"datetime", "date", "str", "list[str]", "literal['last_transaction']"}


def _section_at(location: list[str]) -> type[BaseModel]:
    section: type[BaseModel] = Retailer
    for part in location:
        if part == "rules":
            return Rule
        annotation = section.model_fields[part].annotation
        section = Sample if part == "sample" else annotation if isinstance(annotation, type) else section
    return section


def _line_of(text: str, location: list[str]) -> str:
    """`:12` for the line where the key stands, or else its table; nothing where neither stands."""
    *table, key = location or [""]
    current: list[str] = []
    seen: dict[str, int] = {}
    found = ""
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*(\[+)\s*([\w.]+)\s*\]+", line):
            name = header[2]
            current = name.split(".")
            if header[1] == "[[":
                current.append(str(seen.setdefault(name, 0)))
                seen[name] += 1
            if current in (table, location):
                found = f":{number}"
        elif current == table[: len(current)] and re.match(rf"\s*{re.escape(key)}\s*=", line):
            return f":{number}"
    return found
