"""Tables as they would be under another model, derived inside a query without changing any table.

Contains the replacement of the active model's tables. `warehouse.queries.inline_upstream` derives the rest.
"""

from segmentation_pipeline.segments.registry import ModelRecord
from segmentation_pipeline.tables.catalog import contracts
from segmentation_pipeline.tables.contract import quoted
from segmentation_pipeline.warehouse.database import Warehouse
from segmentation_pipeline.warehouse.queries import QueryInputs, inline_upstream


def with_model(
    database: Warehouse, model: ModelRecord, table: str, relations: dict[str, str] | None = None
) -> QueryInputs:
    """Return a table as it would be if another model were active, as the relation `with_other_model`.

    Args:
        database: Receives the model as temporary tables.
        model: The other model; it need not be in the registry.
        table: The table. Every table between the model and it is derived inside the query.
        relations: The SELECT of every other relation that replaces a table.
    """
    for name in ("model_features", "model_centroids"):
        contract = contracts()[name].renamed(f"other_{name}")
        temporary = contract.ddl(constraints=False).replace("create table", "create or replace temp table", 1)
        database.connection.execute(temporary)
        rows = model.rows(name)
        # One statement: executemany takes a millisecond for each row.
        places = ", ".join([f"({', '.join('?' * len(contract.columns))})"] * len(rows))
        insert = f"insert into {quoted(contract.table)} values {places}"  # noqa: S608 - names are quoted
        database.connection.execute(insert, [value for row in rows for value in row])
    replacements = {
        "outlier_fences": "select * from other_model_features where factor is not null",
        "kmeans_scaler": "select *, $transform as transform from other_model_features",
        "kmeans_centroids": "select * from other_model_centroids",
        **(relations or {}),
    }
    text = inline_upstream(f"select * from {quoted(table)}", replacements)  # noqa: S608 - names are quoted
    return QueryInputs({"with_other_model": text}, {"transform": model.transform})
