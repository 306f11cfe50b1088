"""Turn the validation errors of a retailer file into messages: line, key, error, allowed values and value found."""

import difflib
import json
import re
from collections import Counter
from collections.abc import Container, Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from segmentation_pipeline.config.cleaning_rules import Rule
from segmentation_pipeline.config.model_settings import REMOVED_SETTINGS
from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.config.source_settings import Sample

_MAX_LENGTH = 100
# Pydantic's wording of allowed values, and ours.
_REPLACEMENTS = {
    r"^String should match pattern": "allowed: text that matches",
    r"^\w+ should (be|have)": "allowed:",
    r" after validation, not \d+$": "",
}


def error_lines(
    file: str,
    text: str,
    error: ValidationError | None,
    overrides: Container[str],
    left_open: Mapping[tuple[str | int, ...], str],
) -> list[str]:
    """Return one message per error, in the order of the file's lines.

    Args:
        file: The file's name, which begins each message.
        text: The file's text, in which the line numbers are found.
        error: The errors, if there are any.
        overrides: The dotted keys whose values do not come from the file.
        left_open: The keys of the settings that are left open, with what to do; their other errors do not matter.
    """
    found = [
        (details["loc"], _message(details))
        for details in (error.errors() if error else ())
        if not any(details["loc"][: len(key)] == key for key in left_open)
    ]
    found += [(key, f"{'.'.join(map(str, key))}: {message}") for key, message in left_open.items()]
    messages = sorted((_line_number(text, location, overrides), message) for location, message in found)
    return [f"{file}{f':{number}' if number else ''}: {message}" for number, message in messages]


def _message(error: ErrorDetails) -> str:
    location = [str(part) for part in error["loc"]]
    key = ".".join(part if part.isprintable() else _shown(part) for part in location) or "file"
    if key in REMOVED_SETTINGS:
        return _removed(key)
    if error["type"] == "missing":
        return f"{key}: required, but missing: {_first_sentence(location)}"
    message = _worded(error, location)
    value = error["input"]
    return f"{key}: {message}" + ("" if isinstance(value, dict) else f"; found {_shown(value)}")


def _removed(key: str) -> str:
    if "." in key:
        return f"{key} is no longer a setting; its value is a constant since 0.3.0; remove the line"
    return f"[{key}] is no longer a setting; its values are constants since 0.3.0; remove the section"


def _worded(error: ErrorDetails, location: list[str]) -> str:
    if error["type"] == "extra_forbidden":
        keys = [field.alias or name for name, field in _section_at(location[:-1]).model_fields.items()]
        similar = difflib.get_close_matches(location[-1], keys, 1)
        return f"unknown key{f' (did you mean {similar[0]}?)' if similar else ''}; allowed: {', '.join(keys)}"
    if error["type"] == "model_type":
        return "allowed: a table"
    message = error["msg"].removeprefix("Value error, ")
    for pattern, replacement in _REPLACEMENTS.items():
        message = re.sub(pattern, replacement, message)
    return message


def _first_sentence(location: list[str]) -> str:
    """Return what a setting is: the first sentence of its description."""
    field = _section_at(location[:-1]).model_fields[location[-1]]
    [sentence, *_] = re.split(r"\.(?:\s|$)", field.description or "a table")
    return " ".join(sentence.split())


def _shown(value: Any) -> str:
    # A mistyped key may have the address of a database as its value.
    text = re.sub(r"(\w+://)[^/@\s\"]*@", r"\1***@", json.dumps(value, default=str, ensure_ascii=False))
    return text if len(text) <= _MAX_LENGTH else f"{text[:_MAX_LENGTH]}…"


def _section_at(location: list[str]) -> type[BaseModel]:
    section: type[BaseModel] = Retailer
    for part in location:
        if part == "rules":
            return Rule
        annotation = section.model_fields[part].annotation
        section = Sample if part == "sample" else annotation if isinstance(annotation, type) else section
    return section


def _line_number(text: str, key: tuple[str | int, ...], overrides: Container[str]) -> int:
    """Return the line of an error's key, or else of the nearest table around it; 0 if the file has neither."""
    location = [str(part) for part in key]
    if ".".join(location) in overrides:
        return 0
    line, depth = 0, 0
    for number, path in _keys(text):
        if path == location[: len(path)] and len(path) > depth:
            line, depth = number, len(path)
    return line


def _keys(text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the line number and path of every table and key of a TOML text."""
    table: list[str] = []
    items: Counter[str] = Counter()
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*(\[+)\s*([\w.]+)\s*\]+", line):
            table = header[2].split(".")
            if header[1] == "[[":
                table.append(str(items[header[2]]))
                items[header[2]] += 1
            yield number, table
        elif key := re.match(r"\s*([\w.]+)\s*=", line):
            yield number, [*table, *key[1].split(".")]
