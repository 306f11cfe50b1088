"""Decide what of a table a run derives: nothing, the rows of some source files, or all.

Contains the versions of tables: where the version of what a table reads is the same, the run does not derive the table
again. The SELECTs are those of `tables`; `database` writes the rows and their versions in one transaction.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from segmentation_pipeline.tables.catalog import contracts, macros_called_by
from segmentation_pipeline.tables.contract import quoted
from segmentation_pipeline.warehouse.database import WHOLE_TABLE, TableWrite, Warehouse
from segmentation_pipeline.warehouse.queries import QueryInputs, bound_values, dependencies, tables_read_by

_SOURCE = "raw_transactions"


@dataclass(frozen=True)
class Derivation:
    """What a run derives of a table.

    Attributes:
        write: The rows to write; of no source file where nothing has changed.
        inputs: What the SELECT reads and binds.
        reason: How much is derived and why, in a sentence.
    """

    write: TableWrite
    inputs: QueryInputs
    reason: str


def derivation_of(
    database: Warehouse, table: str, select: str, values: Mapping[str, object], inputs: QueryInputs, *, by_file: bool
) -> Derivation:
    """Return what a run derives of a table whose rows a SELECT gives.

    A version is a digest of the SELECT with its macros and values, and of the versions of the tables that it reads. A
    table that reads one without a version, such as the model, is derived in every run.

    Args:
        database: The working database.
        table: The table.
        select: Its SELECT.
        values: The values that the SELECT may bind, beside those of the inputs.
        inputs: Relations that the SELECT reads beside the tables.
        by_file: Whether the rows of a source file depend on the lines of that file alone.
    """
    stored = dependencies(select)
    texts = [select, *(text for name, text in inputs.relations.items() if name in tables_read_by(select))]
    by_file = by_file and stored == [_SOURCE]
    bound, thresholds = {**values, **inputs.values}, inputs.thresholds if by_file else {}
    code = _code_digest([contracts()[table].model_dump_json(), *texts], bound, except_for=thresholds)
    versions = {name: database.versions(name) for name in stored}
    if not all(versions.values()):
        return Derivation(TableWrite(table, select), inputs, "all rows, as in every run")
    if by_file:
        reached = _reached_thresholds(database, inputs)
        wanted = {
            file: f"{code}-{_digest(version, reached.get(file, ''))}" for file, version in versions[_SOURCE].items()
        }
    else:
        wanted = {WHOLE_TABLE: f"{code}-{_digest(*(repr(sorted(version.items())) for version in versions.values()))}"}
    current = database.versions(table) if database.has(table) else {}
    changed = {part for part, version in wanted.items() if current.get(part) != version}
    files = frozenset(changed | (current.keys() - wanted.keys()))
    if not files:
        write = TableWrite(table, select, files=files, versions=wanted)
        return Derivation(write, inputs, f"no rows, because {_listed([*stored, 'the settings'])} are as before")
    if WHOLE_TABLE in files or not current.keys() & wanted.keys() - changed:
        return Derivation(
            TableWrite(table, select, versions=wanted), inputs, _why_all(current, code, [*stored, *thresholds])
        )
    lines = f"select * from main.{_SOURCE} where source_file in (select unnest($derived_files))"  # noqa: S608 - own SQL
    restricted = QueryInputs(
        {_SOURCE: lines, **inputs.relations}, {**inputs.values, "derived_files": sorted(files)}, inputs.thresholds
    )
    number = f"{len(files):,} of {len(current.keys() | wanted.keys()):,} files"
    reason = f"the rows of {number}, because {_listed(['their lines', *thresholds], 'or')} changed"
    return Derivation(TableWrite(table, select, files=files, versions=wanted), restricted, reason)


def _code_digest(texts: Iterable[str], values: Mapping[str, object], except_for: Mapping[str, str]) -> str:
    text = "\n".join(texts)
    bound = {name: value for name, value in sorted(bound_values(text, dict(values)).items()) if name not in except_for}
    return _digest(text, macros_called_by(text), repr(bound))


def _reached_thresholds(database: Warehouse, inputs: QueryInputs) -> dict[str, str]:
    """Return, for each source file with a line that reaches a threshold, the thresholds that it reaches.

    A threshold that no line of a file reaches does not matter to the file, so it may move every night.
    """
    reached: dict[str, str] = {}
    for name, column in inputs.thresholds.items():
        select = (
            f"select source_file from {_SOURCE} group by source_file"  # noqa: S608 - own SQL
            f" having max({quoted(column)}) >= $threshold"
        )
        for row in database.rows(select, threshold=inputs.values[name]):
            reached[row["source_file"]] = f"{reached.get(row['source_file'], '')} {name}={inputs.values[name]}"
    return reached


def _why_all(current: Mapping[str, str], code: str, inputs: Sequence[str]) -> str:
    if not current:
        return "all rows, because no earlier ones can be reused"
    if not any(version.startswith(f"{code}-") for version in current.values()):
        return "all rows, because the settings, the as-of date, the SELECT or the contract changed"
    return f"all rows, because {_listed(inputs, 'or')} changed"


def _listed(inputs: Iterable[str], word: str = "and") -> str:
    names = sorted("the as-of date" if name == "transaction_cutoff" else name for name in inputs)
    return f" {word} ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]
