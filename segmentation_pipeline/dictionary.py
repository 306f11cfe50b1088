"""The reference pages, derived from the code that they describe.

`python -m segmentation_pipeline.dictionary DOCS` writes `tables.md` from the contracts and `retailer_file.md` from the
settings into the folder DOCS.
"""

import json
import sys
from collections.abc import Iterator
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.tables.catalog import CONTRACT_VERSION, contracts
from segmentation_pipeline.tables.contract import Contract

_TOML_TYPES = {
    str: "text",
    int: "integer",
    float: "number",
    Decimal: "number",
    bool: "boolean",
    date: "date",
    datetime: "date-time",
}
_WRITTEN = "Written by `make docs` from `{}`; change it there."


def tables() -> str:
    """Every table with its grain, key, columns, types, units and rules, as Markdown."""
    return "\n".join(_tables()) + "\n"


def retailer_file() -> str:
    """Every key of a retailer file with its type, default and meaning, as Markdown."""
    return "\n".join(_settings()) + "\n"


def _tables() -> Iterator[str]:
    yield from ("# Tables", "", _WRITTEN.format("segmentation_pipeline/tables/catalog.py"))
    yield f"Tables marked *published* are in every release, under contract version {CONTRACT_VERSION}."
    for contract in contracts().values():
        yield from _table(contract)


def _table(contract: Contract) -> Iterator[str]:
    yield from ("", f"## {contract.table}{' (published)' if contract.published else ''}", "")
    yield f"{contract.description} Key: {', '.join(f'`{name}`' for name in contract.key)}."
    yield from ("", "| column | type | meaning | unit | rules |", "|---|---|---|---|---|")
    for column in contract.columns:
        rules = "; ".join(filter(None, ["may be null" if column.nullable else "", column.rules]))
        yield f"| `{column.name}` | {column.type} | {column.description} | {column.unit} | {rules} |"


def _settings() -> Iterator[str]:
    yield from (
        "# The retailer file",
        "",
        _WRITTEN.format("segmentation_pipeline/config/sections.py`, `rules.py` and `parameters.py"),
    )
    yield "`segments retailer check FILE` tells every error of a file at once; the shipped files are examples."
    yield from _section("(top)", Retailer)


def _section(name: str, section: type[BaseModel]) -> Iterator[str]:
    yield from ("", f"## {name}", "", (section.__doc__ or "").strip(), "")
    yield from ("| key | type | default | meaning |", "|---|---|---|---|")
    inner: list[tuple[str, type[BaseModel]]] = []
    for key, field in section.model_fields.items():
        if nested := _nested(field.annotation):
            path = (field.alias or key) if name == "(top)" else f"{name.strip('[]')}.{field.alias or key}"
            inner.append((f"[[{path}]]" if str(field.annotation).startswith("list") else f"[{path}]", nested))
        else:
            words = " ".join((field.description or "").split())
            yield f"| `{field.alias or key}` | {_type(field)} | {_default(field)} | {words} |"
    for title, nested in inner:
        yield from _section(title, nested)


def _nested(annotation: Any) -> type[BaseModel] | None:
    candidates = [annotation, *get_args(annotation)]
    return next((item for item in candidates if isinstance(item, type) and issubclass(item, BaseModel)), None)


def _type(field: FieldInfo) -> str:
    return " or ".join(_words(field.annotation))


def _words(annotation: Any) -> list[str]:
    """A type as a reader of TOML calls it."""
    if get_origin(annotation) is Literal:
        return [f"`{json.dumps(value)}`" for value in get_args(annotation)]
    if get_origin(annotation) is Annotated:
        return _words(get_args(annotation)[0])
    if get_origin(annotation) is list:
        return [f"list of {' or '.join(_words(get_args(annotation)[0]))}"]
    if inner := [item for item in get_args(annotation) if item is not type(None)]:
        return [word for item in inner for word in _words(item)]
    return [_TOML_TYPES[annotation]]


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "required" if field.default_factory is None else ""
    return "unset" if field.default is None else f"`{json.dumps(field.default)}`"


if __name__ == "__main__":
    for page, text in (("tables.md", tables()), ("retailer_file.md", retailer_file())):
        (Path(sys.argv[1]) / page).write_text(text, "utf-8")
