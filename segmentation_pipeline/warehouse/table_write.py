"""What is written into a table, and the outcome. Contains values only; `database` and the engines of lines write."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from segmentation_pipeline.tables.catalog import contracts
from segmentation_pipeline.tables.contract import Contract, Violation

# Stands for all rows of a table among the source files that its versions name.
WHOLE_TABLE = ""


@dataclass(frozen=True)
class TableWrite:
    """The new content of a table: the rows of a SELECT, rows made in Python, or both.

    Attributes:
        table: The table.
        select: The SELECT of the rows.
        rows: Rows made in Python.
        files: The source files whose rows are replaced; an empty set leaves the table as it is. None: the whole table
            is replaced. In a table whose key does not begin with the file, the new rows replace those of the same key.
        versions: What the rows are derived from, by source file, or under WHOLE_TABLE; see `derivation`. Without it,
            the table has no version, and what reads it is derived anew.
        extra_columns: The source's name of each column of text beyond the contract, by our name.
    """

    table: str
    select: str = ""
    rows: Sequence[tuple[Any, ...]] = ()
    files: frozenset[str] | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    extra_columns: Mapping[str, str | int] = field(default_factory=dict)

    @property
    def contract(self) -> Contract:
        """The table's contract."""
        return contracts()[self.table].with_extra_columns(self.extra_columns)


@dataclass(frozen=True)
class WriteResult:
    """The outcome of a write: how many rows it made, and the rules of the contract that they break."""

    table: str
    rows: int
    violations: tuple[Violation, ...]

    @property
    def message(self) -> str:
        """Which rules are broken."""
        broken = "; ".join(
            f"{item.column + ': ' if item.column else ''}{item.rule}, found {item.found}" for item in self.violations
        )
        return f"{self.table} would break its contract ({broken}), so the table was not changed."
