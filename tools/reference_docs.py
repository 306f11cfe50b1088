"""Write the reference pages `docs/tables.md` and `docs/retailer_file.md` from the code that they describe.

`python tools/reference_docs.py DOCS` writes both pages into the folder DOCS. `make docs` runs it.
"""

import json
import sys
from collections.abc import Iterator
from datetime import date, datetime
from decimal import Decimal
from itertools import groupby
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
_GENERATED = "`make docs` writes this page from {}. Change the text there."


def tables_page() -> str:
    """Return the page of every table with its key, columns, types, units and rules, stage by stage."""
    return "\n".join(_tables()) + "\n"


def retailer_file_page() -> str:
    """Return the page of every setting of a retailer file with its type, default and meaning."""
    return "\n".join(_settings()) + "\n"


def _tables() -> Iterator[str]:
    yield from ("# Tables", "", _GENERATED.format("the contracts in `segmentation_pipeline/tables/<stage>/`"))
    yield f"Every release contains the tables marked *published*, under contract version {CONTRACT_VERSION}."
    for stage, tables in groupby(contracts().values(), key=lambda contract: contract.stage):
        yield from ("", f"## {stage.capitalize()}")
        for contract in tables:
            yield from _table(contract)


def _table(contract: Contract) -> Iterator[str]:
    yield from ("", f"### {contract.table}{' (published)' if contract.published else ''}", "")
    yield f"{contract.description} Key: {', '.join(f'`{name}`' for name in contract.key)}."
    yield from ("", "| column | type | meaning | unit | rules |", "|---|---|---|---|---|")
    for column in contract.columns:
        rules = "; ".join(filter(None, ["may be null" if column.nullable else "", column.rules]))
        yield f"| `{column.name}` | {column.type} | {column.description} | {column.unit} | {rules} |"


def _settings() -> Iterator[str]:
    yield from ("# The retailer file", "", _GENERATED.format("the classes in `segmentation_pipeline/config/`"))
    yield "`segments retailer check FILE` lists every error in the file. The files in"
    yield "`segmentation_pipeline/retailers/` are examples."
    yield from _section("(top)", Retailer)


def _section(name: str, section: type[BaseModel]) -> Iterator[str]:
    yield from ("", f"## {name}", "", " ".join((section.__doc__ or "").split()), "")
    yield from ("| key | type | default | meaning |", "|---|---|---|---|")
    inner: list[tuple[str, type[BaseModel]]] = []
    for key, field in section.model_fields.items():
        if nested := _nested_section(field.annotation):
            path = (field.alias or key) if name == "(top)" else f"{name.strip('[]')}.{field.alias or key}"
            inner.append((f"[[{path}]]" if str(field.annotation).startswith("list") else f"[{path}]", nested))
        else:
            meaning = " ".join((field.description or "").split()).replace("|", "\\|")
            types = " or ".join(_toml_types(field.annotation))
            yield f"| `{field.alias or key}` | {types} | {_default(field)} | {meaning} |"
    for title, nested in inner:
        yield from _section(title, nested)


def _nested_section(annotation: Any) -> type[BaseModel] | None:
    candidates = [annotation, *get_args(annotation)]
    return next((item for item in candidates if isinstance(item, type) and issubclass(item, BaseModel)), None)


def _toml_types(annotation: Any) -> list[str]:
    """Return the names of a Python type's alternatives in TOML."""
    if get_origin(annotation) is Literal:
        return [f"`{json.dumps(value)}`" for value in get_args(annotation)]
    if get_origin(annotation) is Annotated:
        return _toml_types(get_args(annotation)[0])
    if get_origin(annotation) is dict:
        return [f"table of {' or '.join(_toml_types(get_args(annotation)[1]))}"]
    if get_origin(annotation) is list:
        return [f"list of {' or '.join(_toml_types(get_args(annotation)[0]))}"]
    if alternatives := [item for item in get_args(annotation) if item is not type(None)]:
        return [name for item in alternatives for name in _toml_types(item)]
    return [_TOML_TYPES[annotation]]


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "required" if field.default_factory is None else ""
    return "unset" if field.default is None else f"`{json.dumps(field.default)}`"


if __name__ == "__main__":
    for page, text in (("tables.md", tables_page()), ("retailer_file.md", retailer_file_page())):
        (Path(sys.argv[1]) / page).write_text(text, "utf-8")
