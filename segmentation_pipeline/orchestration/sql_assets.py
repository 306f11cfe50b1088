"""How a table becomes a Dagster asset: lineage from its SELECT, words, columns and check from its contract.

Belongs here: what all assets have in common. Does not: any asset (`defs`).
"""

import errno
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from traceback import format_tb
from typing import Any

import dagster as dg
import duckdb

from segmentation_pipeline.config.paths import data_folder
from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.errors import PipelineError, first_line
from segmentation_pipeline.orchestration.resources import RetailerResource
from segmentation_pipeline.tables.catalog import CONTRACTS
from segmentation_pipeline.tables.contract import Contract
from segmentation_pipeline.warehouse.database import Filling, Given, Outcome, select_of, tables_read_by

OWNERS = ["team:segmentation"]
# What the cleaning gives its SELECTs to read instead of the table: see `cleaning.given`.
_STANDS_FOR = {"judged_transactions": "raw_transactions"}
CONTRACT_CHECK = "contract"

# What may pass by itself: a disk or a network path that answers again, a file that another program lets go.
_MAY_PASS = tuple(
    os.strerror(number)
    for number in (
        errno.EIO, errno.EBUSY, errno.ETIMEDOUT, errno.ESTALE, errno.ENOTCONN, errno.ECONNRESET, errno.ECONNABORTED,
        errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH,
    )
)  # fmt: skip
# A share that is mounted anew is back within a minute; what lasts longer is for a person.
RETRIES, _SECONDS_BETWEEN = 3, 20.0

Results = Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]
Figures = Callable[[RetailerResource], dict[str, Any]]


def asset_spec(
    table: str,
    group: str,
    code: str,
    *,
    deps: Sequence[str] = (),
    kinds: frozenset[str] = frozenset({"duckdb", "sql"}),
    freshness: dg.FreshnessPolicy | None = None,
) -> dg.AssetSpec:
    """What the web interface shows of a table: its contract's words and columns, and a version of its code.

    Args:
        table: The asset's key and the table's name.
        group: The business stage.
        code: The text whose change is a new version of the asset.
        deps: The assets that it reads.
        kinds: What it is made with.
        freshness: How old its last materialisation may be.
    """
    return dg.AssetSpec(
        table,
        deps=deps,
        description=CONTRACTS[table].text,
        group_name=group,
        owners=OWNERS,
        kinds=set(kinds),
        code_version=hashlib.sha256(code.encode()).hexdigest()[:8],
        freshness_policy=freshness,
        metadata={"dagster/column_schema": column_schema(CONTRACTS[table]), "dagster/table_name": table},
    )


def contract_check(table: str) -> dg.AssetCheckSpec:
    """The structural check of a table: evaluated inside the transaction that replaces it."""
    return dg.AssetCheckSpec(
        CONTRACT_CHECK,
        asset=table,
        blocking=True,
        description="Columns, types, unique key, not null, allowed values and ranges, before the table is replaced.",
    )


def derived_asset(
    table: str,
    *,
    group: str,
    given: Callable[[Retailer], Given] | None = None,
    figures: Figures | None = None,
    explained: Callable[[RetailerResource], str] | None = None,
    freshness: dg.FreshnessPolicy | None = None,
    state: Sequence[str] = (),
) -> dg.AssetsDefinition:
    """The asset of a table that is the SELECT in `sql/<table>.sql`; what it depends on is read off the SELECT.

    Args:
        table: The asset's key, the table's and the file's name.
        group: The business stage.
        given: Relations that the SELECT reads beside the tables, from the retailer's settings.
        figures: Metadata beside the row count.
        explained: What to say beside the rules where its contract is broken.
        freshness: How old its last materialisation may be.
        state: Tables that it reads as the runs before left them: as dependencies they would close a circle.
    """
    select = select_of(table)
    deps = [name for name in dependencies(select) if name not in state]

    @dg.multi_asset(
        name=table,
        specs=[asset_spec(table, group, select, deps=deps, freshness=freshness)],
        check_specs=[contract_check(table)],
    )
    def derived(retailer: RetailerResource) -> Results:
        with sentences():
            relations = given(retailer.settings) if given else None
            yield from fill(retailer, [Filling(table, select)], given=relations, figures=figures, explained=explained)

    return derived


def dependencies(select: str) -> list[str]:
    """The assets that a SELECT reads."""
    read = {_STANDS_FOR.get(name, name) for name in tables_read_by(select)}
    return sorted(read & set(CONTRACTS))


def fill(
    retailer: RetailerResource,
    fillings: Sequence[Filling],
    *,
    given: Given | None = None,
    figures: Figures | None = None,
    explained: Callable[[RetailerResource], str] | None = None,
) -> Results:
    """Replace tables and report them: for each its contract's check, and its materialisation if all kept theirs.

    Raises:
        dagster.Failure: A contract is broken; every table was left as it was.
    """
    outcomes = retailer.warehouse.replace(fillings, retailer.settings.sql_values, given)
    broken = [outcome for outcome in outcomes if outcome.violations]
    for outcome in outcomes:
        yield _reported(outcome)
    if broken:
        said = [_sentence(outcome) for outcome in broken] + [explained(retailer) if explained else ""]
        raise dg.Failure(description=" ".join(filter(None, said)), allow_retries=False)
    extra = figures(retailer) if figures else {}
    for outcome in outcomes:
        yield dg.MaterializeResult(asset_key=outcome.table, metadata={"dagster/row_count": outcome.rows, **extra})


def _reported(outcome: Outcome) -> dg.AssetCheckResult:
    records = [
        dg.TableRecord({"column": item.column, "rule": item.rule, "found": item.found}) for item in outcome.violations
    ]
    return dg.AssetCheckResult(
        check_name=CONTRACT_CHECK,
        asset_key=outcome.table,
        passed=not outcome.violations,
        metadata={"rows": outcome.rows, **({"violations": dg.MetadataValue.table(records)} if records else {})},
    )


def _sentence(outcome: Outcome) -> str:
    broken = "; ".join(
        f"{item.column + ': ' if item.column else ''}{item.rule}, found {item.found}" for item in outcome.violations
    )
    return f"{outcome.table} would break its contract ({broken}), so it was left as it was."


@contextmanager
def sentences() -> Iterator[None]:
    """Let what a person can mend end the run as a sentence, after trying again where it may pass by itself.

    Bad data does not: no broken contract is tried again. Nor is a lock, which is waited for with a patience of its own.
    """
    try:
        yield
    except PipelineError as error:
        said = str(error)
    except (OSError, duckdb.Error) as error:
        # Not what the error says: DuckDB quotes the whole line that it stumbles over.
        dg.get_dagster_logger().debug("".join(format_tb(error.__traceback__)))
        said = (
            f"{first_line(error)}. See that disk and memory have room, and that this user may read the source and"
            f" write to {data_folder()}; then run again. The table that was being made, and the release, stand as they"
            " were. The run's debug log tells where it happened."
        )
    else:
        return
    failure = dg.Failure(description=said, allow_retries=False)
    if any(sign in said for sign in _MAY_PASS):
        dg.get_dagster_logger().warning(
            f"{said} It may pass: it is tried {RETRIES + 1} times, {_SECONDS_BETWEEN:g} s apart."
        )
        raise dg.RetryRequested(RETRIES, _SECONDS_BETWEEN) from failure
    raise failure


def column_schema(contract: Contract) -> dg.TableSchema:
    """The Columns tab of a table."""
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                column.name,
                column.type,
                column.description + (f" [{column.unit}]" if column.unit else ""),
                dg.TableColumnConstraints(
                    nullable=column.nullable,
                    unique=contract.key == (column.name,),
                    other=[column.rules] if column.rules else [],
                ),
            )
            for column in contract.columns
        ]
    )
