"""How a check says what it found: a table of the first faults, and a sentence.

Belongs here: what all checks that look across tables have in common. Does not: any check (`defs`).
"""

from collections.abc import Sequence
from typing import Any

import dagster as dg

from segmentation_pipeline.orchestration.resources import RetailerResource
from segmentation_pipeline.warehouse.database import select_of

SHOWN_FAULTS = 20


def found(faults: Sequence[dict[str, Any]], said: str, **figures: Any) -> dg.AssetCheckResult:
    """Passed where nothing was selected; else the first faults as a table.

    No customer is named: what Dagster keeps is kept for years, and shown to whoever reaches the web interface.
    """
    metadata: dict[str, Any] = dict(figures)
    if faults:
        shown = [
            {name: _plain(value) for name, value in fault.items() if name != "customer_id"}
            for fault in faults[:SHOWN_FAULTS]
        ]
        metadata["faults"] = dg.MetadataValue.table([dg.TableRecord(fault) for fault in shown])
    return dg.AssetCheckResult(passed=not faults, description=said if faults else None, metadata=metadata)


def _plain(value: Any) -> Any:
    return value if isinstance(value, (int, float)) else str(value)


def selected(retailer: RetailerResource, check: str, said: str, **values: Any) -> dg.AssetCheckResult:
    """What the SELECT of `sql/checks/<check>.sql` finds wrong."""
    faults = retailer.warehouse.rows(select_of(f"checks/{check}"), **values)
    if faults and "customer_id" in faults[0]:
        said = f"{said} sql/checks/{check}.sql of the package, asked of the working database, names the customers."
    return found(faults, said)


def warned(faults: Sequence[dict[str, Any]], said: str, **figures: Any) -> dg.AssetCheckResult:
    """The same, as a warning."""
    return found(faults, said, **figures)._replace(severity=dg.AssetCheckSeverity.WARN)
