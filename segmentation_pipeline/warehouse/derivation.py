"""Decide what of a table a run derives: nothing, the rows of some source files or customers, or all.

Contains the versions of tables: where the version of what a table reads is the same, the run does not derive the table
again. The SELECTs are those of `tables`; `database` writes the rows and their versions in one transaction.
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from segmentation_pipeline.tables.catalog import contracts, has_select, macros_called_by, select_of
from segmentation_pipeline.tables.contract import quoted
from segmentation_pipeline.warehouse.database import Warehouse
from segmentation_pipeline.warehouse.queries import QueryInputs, bound_values, dependencies, tables_read_by
from segmentation_pipeline.warehouse.table_write import WHOLE_TABLE, TableWrite

_RAW, _CLEAN, _INVOICES, _LINE = "raw_transactions", "clean_transactions", "invoice_totals", "source_line"
# Values that the rows of a table by customer do not depend on.
_AS_OF = frozenset({"as_of", "to_end_of_day"})
_IN_FILES = "source_file in (select unnest($derived_files))"
_OF_CUSTOMERS = f"customer_id in (select customer_id from main.{_INVOICES} where {_IN_FILES})"  # noqa: S608 - own SQL


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
    database: Warehouse,
    table: str,
    select: str,
    values: Mapping[str, object],
    inputs: QueryInputs,
    *,
    by_file: bool = False,
    by_customer: bool = False,
) -> Derivation:
    """Return what a run derives of a table whose rows a SELECT gives.

    A version is a digest of the SELECT with its macros and values, and of the versions of the tables that it reads. A
    table of lines without a version makes every run derive what reads it.

    Args:
        database: The working database.
        table: The table.
        select: Its SELECT.
        values: The values that the SELECT may bind, beside those of the inputs.
        inputs: Relations that the SELECT reads beside the tables.
        by_file: Whether the rows of a source file depend on its rows in the one table that the SELECT reads alone.
        by_customer: Whether the row of a customer depends on its lines in `clean_transactions` and `invoice_totals`
            alone, and not on the as-of date.
    """
    stored = dependencies(select)
    versions = {name: _version_of(database, name) for name in stored}
    if not all(versions.values()):
        return Derivation(TableWrite(table, select), inputs, "all rows, as in every run")
    has_parts = all(WHOLE_TABLE not in version for version in versions.values())
    by_file, by_customer = by_file and has_parts, by_customer and has_parts
    thresholds = inputs.thresholds if by_file else {}
    texts = [select, *(text for name, text in inputs.relations.items() if name in tables_read_by(select))]
    code = _code_digest(
        [contracts()[table].model_dump_json(), *texts],
        {**values, **inputs.values},
        except_for=_AS_OF if by_customer else thresholds.keys(),
    )
    if by_file or by_customer:
        reached = _reached_thresholds(database, inputs) if by_file else {}
        # Every file with lines is in each of the tables that it reads.
        wanted = {
            file: f"{code}-{_digest(*(version.get(file, '') for version in versions.values()), reached.get(file, ''))}"
            for file in versions[stored[0]]
        }
    else:
        wanted = {WHOLE_TABLE: f"{code}-{_digest(*(repr(sorted(version.items())) for version in versions.values()))}"}
    current = database.versions(table)
    changed = {part for part, version in wanted.items() if current.get(part) != version}
    files = frozenset(changed | (current.keys() - wanted.keys()))
    if not files:
        write = TableWrite(table, select, files=files, versions=wanted)
        return Derivation(write, inputs, f"no rows, because {_listed([*stored, 'the settings'])} are as before")
    is_whole = WHOLE_TABLE in files or not current.keys() & wanted.keys() - changed
    # Nothing tells which customers had lines in a file that has changed or is gone.
    if is_whole or (by_customer and files & current.keys()):
        reason = _why_all(current, code, [*stored, *thresholds])
        return Derivation(TableWrite(table, select, versions=wanted), inputs, reason)
    condition = _IN_FILES if by_file else _OF_CUSTOMERS
    parts = {name: f"select * from main.{quoted(name)} where {condition}" for name in stored}  # noqa: S608 - own SQL
    restricted = QueryInputs(
        {**parts, **inputs.relations}, {**inputs.values, "derived_files": sorted(files)}, inputs.thresholds
    )
    of_all = f"of {len(current.keys() | wanted.keys()):,} files"
    reason = (
        f"the rows of {len(files):,} {of_all}, because {_listed(['their lines', *thresholds], 'or')} changed"
        if by_file
        else f"the rows of the customers in {len(files):,} {of_all}, because they are new"
    )
    return Derivation(TableWrite(table, select, files=files, versions=wanted), restricted, reason)


def _version_of(database: Warehouse, table: str) -> Mapping[str, str]:
    """Return what the rows of a table were derived from or, of state and of what Python writes, what they are.

    State changes in every run, and what a SELECT reads of it seldom does: a table that reads state is what it holds.
    """
    versions = database.versions(table)
    reads = dependencies(select_of(table)) if has_select(table) else []
    if (versions and not any(contracts()[name].state for name in reads)) or _LINE in contracts()[table].key:
        return versions
    return {WHOLE_TABLE: database.content_digest(table)} if database.has(table) else {}


def _code_digest(texts: Iterable[str], values: Mapping[str, object], except_for: Collection[str]) -> str:
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
            f"select source_file from {_RAW} group by source_file"  # noqa: S608 - own SQL
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
