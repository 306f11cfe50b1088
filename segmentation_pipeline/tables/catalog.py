"""Load the contract and the SELECT of each table from the files beside this module.

`<stage>/<table>.yaml` is a table's contract; `<stage>/<table>.sql`, where there is one, the SELECT that derives it.
`columns.yaml` describes the columns that several tables share. `<stage>/checks/<check>.sql` selects the rows that
violate a rule across tables.
"""

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from segmentation_pipeline.model.segment_catalog import FEATURES, SEGMENTS
from segmentation_pipeline.tables.contract import Column, Contract, quoted

FOLDER = Path(__file__).parent
# In the order of the data flow, which is the order of the data dictionary.
STAGES = ("ingestion", "cleaning", "features", "customers", "model", "segments", "history")
# Of the published tables. Removing a column, or changing its meaning, is a major version; adding one a minor version.
CONTRACT_VERSION = "4.1.0"
# Selects the loaded files whose lines cannot be read again.
WITHOUT_SOURCE = "select * from ingested_files where status in ('missing', 'quarantined') and lines > 0"


@cache
def contracts() -> Mapping[str, Contract]:
    """Return every table's contract by the table's name, stage by stage."""
    files = [file for stage in STAGES for file in sorted((FOLDER / stage).glob("*.yaml"))]
    return MappingProxyType({file.stem: _contract(file) for file in files})


@cache
def published() -> tuple[Contract, ...]:
    """Return the contracts of the tables that are part of every release."""
    return tuple(contract for contract in contracts().values() if contract.published)


@cache
def state_selects() -> Mapping[str, str]:
    """Return, for each table that cannot be derived again, the SELECT of the rows to keep."""
    tables = [name for name, contract in contracts().items() if contract.state]
    selects = {name: f"select * from {quoted(name)}" for name in tables}  # noqa: S608 - quoted names
    selects["ingested_files"] = WITHOUT_SOURCE
    selects["raw_transactions"] = (
        "select * from raw_transactions where source_file in"  # noqa: S608 - own SQL
        f" (select source_file from ({WITHOUT_SOURCE}))"
    )
    return MappingProxyType(selects)


def withholdable_columns() -> list[str]:
    """Return the columns that a retailer may leave out of releases: those of customers, except keys."""
    tables = [contract for contract in published() if contract.describes_customers]
    columns = {column.name for contract in tables for column in contract.columns}
    return sorted(columns - {name for contract in tables for name in contract.key})


@cache
def line_columns() -> tuple[Column, ...]:
    """Return the columns of a transaction line, without those that say where it comes from."""
    raw = contracts()["raw_transactions"]
    return tuple(column for column in raw.columns if column.name not in (*raw.key, "unparsed"))


def has_select(table: str) -> bool:
    """Return whether the table is derived by a SELECT of this package."""
    return _sql_file(table).is_file()


@cache
def select_of(table: str) -> str:
    """Return the SELECT that derives a table."""
    return _sql_file(table).read_text("utf-8")


@cache
def macros() -> str:
    """Return the statements that create the macros which SELECTs call, as temporary ones."""
    return (FOLDER / "macros.sql").read_text("utf-8")


def macros_called_by(select: str) -> str:
    """Return the statements that create the macros which a SELECT calls. No macro calls another one."""
    return "\n".join(text for name, text in _macros().items() if re.search(rf"\b{name}\(", select))


@cache
def _macros() -> Mapping[str, str]:
    """Return the statement that creates each macro, by its name, without comments."""
    statements = re.sub(r"^--.*\n", "", macros(), flags=re.MULTILINE).split(";\n")
    named = [(re.search(r" macro (\w+)\(", text), text.strip()) for text in statements]
    return MappingProxyType({found[1]: text for found, text in named if found})


@cache
def check_select(check: str) -> str:
    """Return the SELECT of the rows that a check across tables reports."""
    [file] = FOLDER.glob(f"*/checks/{check}.sql")
    return file.read_text("utf-8")


@cache
def shared_columns() -> Mapping[str, Column]:
    """Return the columns that several tables share, by name."""
    return MappingProxyType({name: _column({"name": name, **fields}) for name, fields in _shared()["columns"].items()})


def _sql_file(table: str) -> Path:
    return FOLDER / contracts()[table].stage / f"{table}.sql"


def _contract(file: Path) -> Contract:
    fields = _load(file)
    try:
        columns = [_column_of_table(entry) for entry in fields.pop("columns")]
        return Contract(table=file.stem, stage=file.parent.name, columns=tuple(columns), **fields)
    except (KeyError, ValueError) as error:
        raise ValueError(f"{file.parent.name}/{file.name}: {error}") from error


def _column_of_table(entry: str | dict[str, Any]) -> Column:
    """Return a column of a contract: a shared one by name, one `like` a shared one, or one of its own."""
    if isinstance(entry, str):
        return _column({"name": entry, **_shared()["columns"][entry]})
    fields = dict(entry)
    shared = _shared()["columns"].get(fields.pop("like", fields["name"]), {})
    return _column({**shared, **fields})


def _column(fields: dict[str, Any]) -> Column:
    allowed = fields.get("allowed")
    if isinstance(allowed, str):
        fields = {**fields, "allowed": _vocabularies()[allowed]}
    return Column(**fields)


@cache
def _vocabularies() -> dict[str, tuple[str, ...]]:
    """Return the named lists of allowed values: those of `columns.yaml`, and those that the code defines."""
    listed = {name: tuple(values) for name, values in _shared()["vocabularies"].items()}
    keys = tuple(segment.key for segment in SEGMENTS)
    return {**listed, "features": FEATURES, "segment_keys": keys, "segment_keys_or_new": (*keys, "new")}


@cache
def _shared() -> dict[str, Any]:
    return _load(FOLDER / "columns.yaml")


def _load(file: Path) -> dict[str, Any]:
    # PyYAML's loader in C takes a tenth of the time of the one in Python.
    loaded: dict[str, Any] = yaml.load(file.read_text("utf-8"), Loader=yaml.CSafeLoader)
    return loaded
