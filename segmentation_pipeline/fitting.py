"""What the fitted assets share: whether to fit, how the standing model is handed on, and the model as rows.

Belongs here: between `core`, which knows arrays, and the tables of the model.
"""

import hashlib
import json
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from segmentation_pipeline.assets import CONTRACT_CHECK, Results
from segmentation_pipeline.contracts import quoted
from segmentation_pipeline.gate import Figures, faults
from segmentation_pipeline.releases import Releases
from segmentation_pipeline.resource import RetailerResource
from segmentation_pipeline.settings import Retailer
from segmentation_pipeline.tables import CONTRACTS, FEATURES
from segmentation_pipeline.warehouse import Filling, Warehouse

if TYPE_CHECKING:
    from segmentation_pipeline.core.kmeans import Array, KMeansFit, Scaler


MODEL_TABLES = ("kmeans_model", "kmeans_scaler", "kmeans_centroids")


class Fit(dg.Config):
    """Whether a fitted asset is fitted again although its model stands."""

    refit: bool = Field(False, description="Fit again; the weekly job sets it. Otherwise the standing model is kept.")
    accept_change: bool = Field(False, description="Fit although figures fell or as_of jumped since the last release.")


def refuse_bad_data(retailer: RetailerResource, accept_change: bool) -> None:
    """Fit nothing on data that the gate will not publish: a model outlives its night, the source may be whole the next.

    Raises:
        dagster.Failure: Figures fell or as_of jumped since the standing release, and nobody has accepted that.
    """
    figures = Figures.of(retailer.warehouse, "rfm_features")
    standing = Releases(retailer.folders.releases).current
    found = " ".join(
        filter(None, faults(standing, figures, retailer.latest_moment, retailer.settings.release).values())
    )
    if found and not accept_change:
        raise dg.Failure(
            f"{found} Nothing was fitted or published; the standing model and release go on. If the change is right,"
            " fit with accept_change (segments run --refit --accept-change).",
            allow_retries=False,
        )


def stands(retailer: RetailerResource, table: str, digest: str) -> bool:
    """Whether a model that was fitted with the same settings stands in the table, and in those that go with it."""
    warehouse = retailer.warehouse
    # The warehouse drops a table of another version; two thirds of a model are none.
    if not all(warehouse.has(needed) for needed in (MODEL_TABLES if table in MODEL_TABLES else [table])):
        return False
    digests = warehouse.rows(f"select distinct settings_digest as digest from {quoted(table)}")
    return [row["digest"] for row in digests] == [digest]


def handed_on(retailer: RetailerResource, tables: Sequence[str]) -> Results:
    """Report standing tables as they are: their contracts are checked, nothing is written."""
    for table in tables:
        violations = CONTRACTS[table].violations(retailer.warehouse.connection)
        yield dg.AssetCheckResult(check_name=CONTRACT_CHECK, asset_key=table, passed=not violations)
        rows = retailer.warehouse.count(table)
        yield dg.MaterializeResult(asset_key=table, metadata={"dagster/row_count": rows, "refitted": False})


def fit_model(warehouse: Warehouse, settings: Retailer) -> list[Filling]:
    """Fit k-means on `normal_customers` and give the rows of the model's three tables.

    Raises:
        dagster.Failure: There are too few different customers.
    """
    import numpy as np

    from segmentation_pipeline.core import kmeans, naming

    customers = warehouse.connection.execute(
        f"select {', '.join(f'cast({quoted(name)} as double) as {quoted(name)}' for name in FEATURES)}"
        " from normal_customers order by customer_id"
    ).fetchnumpy()
    features = np.column_stack([customers[name] for name in FEATURES])
    as_of = warehouse.row("select max(as_of) as as_of from rfm_features")["as_of"]
    try:
        fitted = kmeans.fit(features, **settings.model.model_dump())
    except ValueError as error:
        raise dg.Failure(
            f"normal_customers cannot be clustered: {error}. Look at normal_customers, or lower model.n_clusters.",
            allow_retries=False,
        ) from None
    names = [segment.key for segment in naming.name_clusters(fitted.standardised_)]
    return model_rows(fitted, names, as_of, settings)


def model_rows(fitted: "KMeansFit", keys: Sequence[str], as_of: datetime, settings: Retailer) -> list[Filling]:
    """The fitted model as rows of `kmeans_model`, `kmeans_scaler` and `kmeans_centroids`."""
    exponents = [None] * len(FEATURES) if fitted.scaler.exponents_ is None else fitted.scaler.exponents_.tolist()
    scaler = [
        (name, fitted.scaler.transform, exponent, center, scale)
        for name, exponent, center, scale in zip(
            FEATURES, exponents, fitted.scaler.center_.tolist(), fitted.scaler.scale_.tolist(), strict=True
        )
    ]
    centroids = [
        (cluster, key, size, *scaled, *means)
        for cluster, (key, size, scaled, means) in enumerate(
            zip(keys, fitted.sizes_.tolist(), fitted.centroids_.tolist(), fitted.means_.tolist(), strict=True)
        )
    ]
    content = hashlib.sha256(json.dumps([scaler, centroids]).encode()).hexdigest()[:8]
    model = (
        f"{as_of:%Y%m%d}-{content}",
        as_of,
        settings.model_digest,
        fitted.scaler.transform,
        len(centroids),
        settings.model.random_state,
        int(fitted.sizes_.sum()),
        fitted.inertia_,
        fitted.silhouette_,
    )
    return [
        Filling("kmeans_model", rows=[model]),
        Filling("kmeans_scaler", rows=scaler),
        Filling("kmeans_centroids", rows=centroids),
    ]


def standing_model(warehouse: Warehouse) -> "tuple[Scaler, Array]":
    """The standing model's scaler and centroids (clusters x features, scaled), read from its tables."""
    import numpy as np

    from segmentation_pipeline.core.kmeans import Scaler

    rows = {row["feature"]: row for row in warehouse.rows("select * from kmeans_scaler")}
    ordered = [rows[name] for name in FEATURES]
    exponents = None if ordered[0]["exponent"] is None else np.array([row["exponent"] for row in ordered])
    center, scale = (np.array([row[name] for row in ordered]) for name in ("center", "scale"))
    centroids = warehouse.rows("select * from kmeans_centroids order by cluster")
    scaled = np.array([[row[f"scaled_{name}"] for name in FEATURES] for row in centroids])
    return Scaler(ordered[0]["transform"], exponents, center, scale), scaled
