"""Build Dagster assets from the tables' files: lineage from the SELECT, metadata and check from the contract.

Contains what all assets have in common. The assets themselves are in `defs`.
"""

import errno
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from traceback import format_tb
from typing import Any

import dagster as dg
import duckdb

from segmentation_pipeline.config.paths import data_folder
from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.errors import PipelineError, first_line
from segmentation_pipeline.orchestration.previews import preview_of
from segmentation_pipeline.orchestration.resources import RetailerConfig, WarehouseResource
from segmentation_pipeline.reports.figures import FIGURES
from segmentation_pipeline.tables.catalog import contracts, has_select, macros_called_by, select_of
from segmentation_pipeline.tables.contract import Contract
from segmentation_pipeline.warehouse.column_lineage import lineage_of_tables
from segmentation_pipeline.warehouse.database import Warehouse
from segmentation_pipeline.warehouse.derivation import derivation_of
from segmentation_pipeline.warehouse.queries import QueryInputs, dependencies
from segmentation_pipeline.warehouse.table_write import TableWrite, WriteResult

OWNERS = ["team:segmentation"]
CONTRACT_CHECK = "contract"
# Errors that can pass without a change: a share that is mounted again, a file that another program closes.
_TRANSIENT = tuple(
    os.strerror(number)
    for number in (
        errno.EIO,
        errno.EBUSY,
        errno.ETIMEDOUT,
        errno.ESTALE,
        errno.ENOTCONN,
        errno.ECONNRESET,
        errno.ECONNABORTED,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
    )
)
# A share is usually mounted again within a minute.
RETRIES, _RETRY_SECONDS = 3, 20.0

Results = Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]
Metadata = Callable[[Warehouse], dict[str, Any]]
Explain = Callable[[Warehouse, Retailer], str]


@dataclass(frozen=True)
class SqlAssetOptions:
    """What the asset of a SELECT has beyond its two files.

    Attributes:
        inputs: Builds relations that the SELECT reads beside the tables.
        metadata: Computes metadata of the materialization, beyond the row count.
        explain: Explains a broken contract to the user.
        freshness: How old the last materialization may be.
        previous: Tables that the SELECT reads as the previous run left them. As dependencies they would be a cycle.
        by_file: Whether the rows of a source file depend on the lines of that file alone.
        by_customer: Whether the row of a customer depends on the customer's lines alone, and not on the as-of date.
    """

    inputs: Callable[[Retailer], QueryInputs] | None = None
    metadata: Metadata | None = None
    explain: Explain | None = None
    freshness: dg.FreshnessPolicy | None = None
    previous: Sequence[str] = ()
    by_file: Callable[[Retailer], bool] = lambda _: False
    by_customer: Callable[[Retailer], bool] = lambda _: False


def sql_assets(
    stage: str, *, exclude: Sequence[str] = (), options: Mapping[str, SqlAssetOptions] | None = None
) -> list[dg.AssetsDefinition]:
    """Build one asset for each table of a stage's folder that has a SELECT.

    Args:
        stage: The folder in `tables`, which is the asset group.
        exclude: Tables that a Python asset writes.
        options: Options by table.
    """
    tables = [name for name, contract in contracts().items() if contract.stage == stage and has_select(name)]
    return [_sql_asset(name, (options or {}).get(name, SqlAssetOptions())) for name in tables if name not in exclude]


def _sql_asset(table: str, options: SqlAssetOptions) -> dg.AssetsDefinition:
    select = select_of(table)
    deps = [name for name in dependencies(select) if name not in options.previous]

    @dg.multi_asset(
        name=table,
        specs=[table_spec(table, select, deps=deps, freshness=options.freshness)],
        check_specs=[contract_check_spec(table)],
    )
    def materialize(retailer: RetailerConfig, warehouse: WarehouseResource) -> Results:
        with report_user_errors():
            settings, database = retailer.settings, warehouse.open()
            inputs = options.inputs(settings) if options.inputs else QueryInputs()
            derivation = derivation_of(
                database,
                table,
                select,
                settings.sql_values,
                inputs,
                by_file=options.by_file(settings),
                by_customer=options.by_customer(settings),
            )
            yield from write_tables(
                retailer,
                warehouse,
                [derivation.write],
                inputs=derivation.inputs,
                metadata=lambda _: {
                    **(options.metadata(database) if options.metadata else {}),
                    "derived": derivation.reason,
                },
                explain=options.explain,
            )

    return materialize


def table_spec(
    table: str,
    code: str,
    *,
    deps: Sequence[str] = (),
    kinds: Sequence[str] = ("duckdb", "sql"),
    freshness: dg.FreshnessPolicy | None = None,
) -> dg.AssetSpec:
    """Return the spec of a table's asset, with the description and columns of its contract.

    Args:
        table: The table, which is the asset's key.
        code: The text whose change is a new code version; the macros that a SELECT calls are added to it.
        deps: The assets that it reads.
        kinds: The technologies it uses.
        freshness: How old the last materialization may be.
    """
    contract = contracts()[table]
    return dg.AssetSpec(
        table,
        deps=deps,
        description=contract.description + _where_the_chart_is(table),
        group_name=contract.stage,
        owners=OWNERS,
        kinds=set(kinds),
        code_version=hashlib.sha256(f"{code}{macros_called_by(code)}".encode()).hexdigest()[:8],
        freshness_policy=freshness,
        metadata={"dagster/column_schema": column_schema(contract), "dagster/table_name": table},
    )


def _where_the_chart_is(table: str) -> str:
    """Return where the page of an asset shows its chart; empty if it has none.

    The page begins with the last materialization, and a chart is an observation, because it is drawn after the release.
    """
    titles = [figure.title for figure in FIGURES if figure.asset == table]
    if not titles:
        return ""
    return (
        f"\n\nChart: *{titles[0]}*, in [Events](/assets/{table}?view=events): the newest entry *Observed*,"
        " *Show Markdown*."
    )


def contract_check_spec(table: str) -> dg.AssetCheckSpec:
    """Return the check of a table's contract, which is evaluated inside the transaction that replaces the table."""
    return dg.AssetCheckSpec(
        CONTRACT_CHECK,
        asset=table,
        blocking=True,
        description="Columns, types, unique key, not null, allowed values and ranges, before the table is replaced.",
    )


def write_tables(
    retailer: RetailerConfig,
    warehouse: WarehouseResource,
    writes: Sequence[TableWrite],
    *,
    inputs: QueryInputs | None = None,
    metadata: Metadata | None = None,
    explain: Explain | None = None,
) -> Results:
    """Replace tables in one transaction; yield each contract's check, then the materializations if all passed.

    Raises:
        dagster.Failure: A contract is broken. No table was changed.
    """
    database = warehouse.open()
    results = database.write(writes, retailer.settings.sql_values, inputs)
    broken = [result for result in results if result.violations]
    for result in results:
        yield _contract_result(result)
    if broken:
        messages = [result.message for result in broken]
        messages += [explain(database, retailer.settings) if explain else ""]
        raise dg.Failure(description=" ".join(filter(None, messages)), allow_retries=False)
    extra = metadata(database) if metadata else {}
    for write, result in zip(writes, results, strict=True):
        preview = preview_of(database, write.contract, retailer.settings.privacy)
        counted = {"dagster/row_count": result.rows, **_lineage_metadata(result.table), **extra, **preview}
        if write.extra_columns:
            counted["dagster/column_schema"] = column_schema(write.contract)
        yield dg.MaterializeResult(asset_key=result.table, metadata=counted)


def _lineage_metadata(table: str) -> dict[str, Any]:
    """Return the column lineage of a table that has a SELECT, without the table itself.

    `column_sources` says the same as a table, because only Dagster+ draws `dagster/column_lineage`.
    """
    lineage = lineage_of_tables(data_folder() / "column_lineage.json").get(table)
    if lineage is None:
        return {}
    sources = {column: [item for item in found if item.table != table] for column, found in lineage.items()}
    deps = {
        column: [dg.TableColumnDep(dg.AssetKey(item.table), item.column) for item in found]
        for column, found in sources.items()
    }
    shown = [
        dg.TableRecord({"column": column, "from": ", ".join(f"{item.table}.{item.column}" for item in found)})
        for column, found in sources.items()
    ]
    return {"dagster/column_lineage": dg.TableColumnLineage(deps), "column_sources": dg.MetadataValue.table(shown)}


def _contract_result(result: WriteResult) -> dg.AssetCheckResult:
    records = [
        dg.TableRecord({"column": item.column, "rule": item.rule, "found": item.found}) for item in result.violations
    ]
    return dg.AssetCheckResult(
        check_name=CONTRACT_CHECK,
        asset_key=result.table,
        passed=not result.violations,
        metadata={"rows": result.rows, **({"violations": dg.MetadataValue.table(records)} if records else {})},
    )


@contextmanager
def report_user_errors() -> Iterator[None]:
    """End the step with a message where the user can resolve the error, and retry where the error can pass by itself.

    Bad data and locks are not retried: bad data stays bad, and a lock has a timeout of its own.
    """
    try:
        yield
    except PipelineError as error:
        message = str(error)
    except duckdb.CatalogException as error:
        message = (
            f"{first_line(error)} An asset that this one reads has not been materialised yet. Run the job"
            " refit_segmentation or `segments run`, which materialise every asset."
        )
    except (OSError, duckdb.Error) as error:
        # The traceback without the error's text: DuckDB quotes the whole line that it could not read.
        dg.get_dagster_logger().debug("".join(format_tb(error.__traceback__)))
        more = ""
        if isinstance(error, duckdb.OutOfMemoryException):
            more = " If the machine has more memory than SEGMENTATION_MEMORY_LIMIT, by default 2.5 GB, raise that."
        message = (
            f"{first_line(error)}. Check the free disk space and memory, and that this user can read the source and"
            f" write to {data_folder()}; then run again.{more} The table and the release were not changed. The debug"
            " log of the run shows where the error occurred."
        )
    else:
        return
    failure = dg.Failure(description=message, allow_retries=False)
    if any(words in message for words in _TRANSIENT):
        dg.get_dagster_logger().warning(
            f"{message} The error can pass by itself: trying {RETRIES + 1} times, {_RETRY_SECONDS:g} s apart."
        )
        raise dg.RetryRequested(RETRIES, _RETRY_SECONDS) from failure
    raise failure


def column_schema(contract: Contract) -> dg.TableSchema:
    """Return the columns of a table for the Columns tab."""
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
