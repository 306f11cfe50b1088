"""The first rows of a table as metadata of its asset, without anything that names a customer.

Dagster keeps metadata for years, longer than a customer whom `segments erase` removes.
"""

from typing import Any

import dagster as dg

from segmentation_pipeline.config.sections import Privacy
from segmentation_pipeline.errors import mask
from segmentation_pipeline.tables.catalog import contracts
from segmentation_pipeline.tables.contract import Contract, quoted
from segmentation_pipeline.warehouse.database import Warehouse

_ROWS = 3
_LINES, _FILE = "raw_transactions", "source_file"
# Where a line is in the source.
_PLACE = {_FILE, "source_sheet", "source_line"}
_TEXT_OR_NUMBER = ("VARCHAR", "DECIMAL")


def preview_of(warehouse: Warehouse, contract: Contract, privacy: Privacy) -> dict[str, Any]:
    """Return the first rows of a table, in which what names a person is a masked pattern.

    In tables of lines, every text and number of the source is masked: where the columns of a line are shifted, a
    customer is found in any of them. Where the retailer hashes, drops or withholds columns, all text of tables about
    persons is masked.

    Args:
        warehouse: The working database.
        contract: The contract of the table.
        privacy: What the retailer stores and publishes.
    """
    select = f"select {contract.names} from {quoted(contract.table)} limit {_ROWS}"  # noqa: S608 - quoted names
    found = warehouse.execute(select, {})
    names = [column.name for column in contract.columns]
    rows = [dict(zip(names, row, strict=True)) for row in found.fetchall()]
    if not rows:
        return {}
    masked = {column.name for column in contract.columns if column.personal or column.name in privacy.withhold}
    if contract.key[0] == _FILE:
        masked |= {column.name for column in contracts()[_LINES].columns if column.type.startswith(_TEXT_OR_NUMBER)}
        masked -= _PLACE
    if masked and (privacy.pseudonymise or privacy.drop or privacy.withhold):
        masked |= {column.name for column in contract.columns if column.type == "VARCHAR"}
    records = [
        dg.TableRecord({name: _shown(value, masks=name in masked) for name, value in row.items()}) for row in rows
    ]
    return {"first_rows": dg.MetadataValue.table(records)}


def _shown(value: Any, *, masks: bool) -> str | int | float | bool | None:
    if masks and value is not None:
        return mask(str(value))
    return value if value is None or isinstance(value, (bool, int, float)) else str(value)
