"""Convert the state of a release of an earlier contract to the tables of this version.

Contains the names and values that changed between major contract versions. Reading and writing the state is in
`restore`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from segmentation_pipeline.tables.catalog import contracts
from segmentation_pipeline.tables.contract import Contract, literal, quoted

# The database of the state is attached under this name.
_STATE = "state.main"


@dataclass(frozen=True)
class StateTable:
    """A table of the state: its name in this version, the SELECT from the attached state, and its row count there."""

    name: str
    select: str
    rows: int


@dataclass(frozen=True)
class _Renames:
    """What a table of an earlier contract was named.

    Attributes:
        table: The table's earlier name; empty if it did not change.
        columns: The earlier name of each renamed column, by its present name.
        values: For each column, the present value by its earlier value.
        added: The columns that later versions added; `restore` completes them.
    """

    table: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    added: frozenset[str] = frozenset()


# By the last major version that had these names.
_RENAMES: dict[int, dict[str, _Renames]] = {
    2: {
        "erased_customers": _Renames(table="forgotten_customers"),
        "ingested_files": _Renames(
            columns={"malformed": "broken"},
            values={"status": {"gone": "missing", "set_aside": "quarantined"}},
        ),
        "segmentation_models": _Renames(
            columns={"active_from": "standing_from", "active_to": "standing_to"},
            values={"status": {"standing": "active", "held": "pending", "promoted": "approved"}},
            added=frozenset({"compared_month_ends"}),
        ),
        "segments": _Renames(columns={"in_active_model": "is_live"}),
        "segment_membership": _Renames(columns={"is_move_pending": "is_held"}),
    }
}


def state_tables(manifest: Mapping[str, Any], model_digest: str) -> list[StateTable]:
    """Return the tables of a release's state as tables of this version.

    Args:
        manifest: The manifest of the release.
        model_digest: The digest of the present model settings.

    Raises:
        ValueError: The state has tables that this version does not know.
    """
    # A state with this table already has the present names: it was published while contract 3 was developed.
    is_converted = "erased_customers" in manifest["state"]
    renames = {} if is_converted else _RENAMES.get(major_version(manifest), {})
    names = {rename.table: name for name, rename in renames.items() if rename.table}
    published: dict[str, int] = {names.get(table, table): rows for table, rows in manifest["state"].items()}
    if unknown := sorted(published.keys() - contracts().keys()):
        raise ValueError(f"this version does not know its tables {', '.join(unknown)}")
    return [
        StateTable(name, _select(contracts()[name], renames.get(name, _Renames()), model_digest), rows)
        for name, rows in published.items()
    ]


def major_version(manifest: Mapping[str, Any]) -> int:
    """Return the major version of the contract of a release."""
    return int(str(manifest["contract_version"]).split(".")[0])


def _select(contract: Contract, renames: _Renames, model_digest: str) -> str:
    table = f"{_STATE}.{quoted(renames.table or contract.table)}"
    if not (renames.columns or renames.values):
        return f"select * from {table}"  # noqa: S608 - own SQL, values are bound
    columns = [_column(column.name, renames) for column in contract.columns if column.name not in renames.added]
    if contract.table == "segmentation_models":
        # The digest covers other settings than before. Unless it is replaced, the next run takes the settings for
        # changed, and fits another model.
        last = f"select arg_max(settings_digest, number) from {table}"  # noqa: S608 - own SQL, values are bound
        digest = f"if(settings_digest = ({last}), {literal(model_digest)}, settings_digest) as settings_digest"
        columns[columns.index(_column("settings_digest", renames))] = digest
    return f"select {', '.join(columns)} from {table}"  # noqa: S608 - own SQL, values are bound


def _column(name: str, renames: _Renames) -> str:
    stored = quoted(renames.columns.get(name, name))
    values = renames.values.get(name, {})
    if values:
        cases = " ".join(f"when {literal(before)} then {literal(now)}" for before, now in values.items())
        stored = f"case {stored} {cases} else {stored} end"
    return f"{stored} as {quoted(name)}"
