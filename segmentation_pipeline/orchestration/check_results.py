"""Build asset checks that select the rows violating a rule, and report the first of them.

Contains what the checks across tables have in common. The checks themselves are in `defs/<stage>/checks.py`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import dagster as dg

from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.orchestration.resources import RetailerConfig, WarehouseResource
from segmentation_pipeline.privacy.customer_ids import SimilarIds
from segmentation_pipeline.tables.catalog import check_select

SHOWN_ROWS = 20


def sql_check(
    name: str,
    *,
    asset: str,
    description: str,
    message: str,
    deps: Sequence[str] = (),
    values: Callable[[Retailer], dict[str, Any]] | None = None,
) -> dg.AssetChecksDefinition:
    """Build the blocking check of `tables/<stage>/checks/<name>.sql`, which passes where no row is selected.

    Args:
        name: The check's name and its file's.
        asset: The asset that is checked.
        description: What the check asks.
        message: What is wrong where a row is selected.
        deps: The other tables that the SELECT reads.
        values: Computes the values that the SELECT binds.
    """

    @dg.asset_check(name=name, asset=asset, additional_deps=list(deps), description=description, blocking=True)
    def check(retailer: RetailerConfig, warehouse: WarehouseResource) -> dg.AssetCheckResult:
        rows = warehouse.open().rows(check_select(name), **(values(retailer.settings) if values else {}))
        if rows and "customer_id" in rows[0]:
            where = f"Run tables/<stage>/checks/{name}.sql of the package on the working database to see the customers."
            return check_result(rows, f"{message} {where}")
        return check_result(rows, message)

    return check


def check_result(rows: Sequence[dict[str, Any]], message: str, **metadata: Any) -> dg.AssetCheckResult:
    """Return a result that passes where there are no rows, and otherwise shows the first of them.

    `customer_id` is left out: Dagster keeps results for years and shows them to everyone who reaches its interface.
    """
    shown: dict[str, Any] = dict(metadata)
    if rows:
        records = [
            dg.TableRecord({name: _plain(value) for name, value in row.items() if name != "customer_id"})
            for row in rows[:SHOWN_ROWS]
        ]
        shown["rows"] = dg.MetadataValue.table(records)
    return dg.AssetCheckResult(passed=not rows, description=message if rows else None, metadata=shown)


def warning_result(rows: Sequence[dict[str, Any]], message: str, **metadata: Any) -> dg.AssetCheckResult:
    """Return the same as a warning."""
    return check_result(rows, message, **metadata)._replace(severity=dg.AssetCheckSeverity.WARN)


def similar_ids_result(settings: Retailer, found: SimilarIds | None, of_which: str = "") -> dg.AssetCheckResult:
    """Return a warning if more ids differ in form only than the settings allow; it passes where none were compared."""
    if found is None:
        return warning_result([], "")
    rows = [{"normalisation": name, "ids": number} for name, number in found.by_normalisation.items()]
    too_many = found.number > settings.checks.max_similar_ids
    metadata = {"ids": found.ids, "similar_ids": found.number}
    result = warning_result(rows if too_many else [], found.message(settings, of_which), **metadata)
    return result._replace(passed=not too_many, description=result.description if too_many else None)


def _plain(value: Any) -> Any:
    return value if isinstance(value, (int, float)) else str(value)
