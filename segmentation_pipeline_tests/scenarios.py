"""Small data sets, retailer files, and two ways to run the project: jobs through Dagster, and assets without it.

For finished runs to start from, see `shops`.
"""

import csv
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from inspect import signature
from pathlib import Path
from random import Random
from shutil import copyfile
from tempfile import TemporaryDirectory
from typing import Any

import dagster as dg
import duckdb
import pytest
import tomli_w

from segmentation_pipeline.config.loading import load_settings
from segmentation_pipeline.config.paths import RetailerFolders, data_folder
from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.definitions import defs
from segmentation_pipeline.defs.cleaning.assets import cleaning_assets
from segmentation_pipeline.defs.customers.assets import customer_assets
from segmentation_pipeline.defs.features.assets import feature_assets
from segmentation_pipeline.defs.history.assets import history_assets, model_drift, segment_history, segment_membership
from segmentation_pipeline.defs.ingestion.assets import raw_transactions
from segmentation_pipeline.defs.model.assets import (
    FitConfig,
    customer_value_model,
    segment_backtest,
    segmentation_model,
)
from segmentation_pipeline.defs.segments.assets import customer_value, segment_assets
from segmentation_pipeline.errors import PipelineError
from segmentation_pipeline.model import thresholds
from segmentation_pipeline.orchestration.job_selection import NIGHTLY_JOB, REFIT_JOB, job_for
from segmentation_pipeline.orchestration.resources import RetailerConfig
from segmentation_pipeline.segments.membership import last_change_at
from segmentation_pipeline.segments.promotion import fit_is_due
from segmentation_pipeline.segments.registry import ACTIVE_MODEL_TABLES, ModelRecord, Registry
from segmentation_pipeline.tables.catalog import contracts
from segmentation_pipeline.warehouse.database import Warehouse
from segmentation_pipeline.warehouse.queries import derived_between

SHARED = Path(__file__).parents[2] / "shared"
REAL_DATA = SHARED / "data"
HEADER = ("InvoiceNo", "StockCode", "Description", "Quantity", "InvoiceDate", "UnitPrice", "CustomerID", "Country")
Line = tuple[str, str, str, str, str, str, str, str]
# A search that takes less than a second, and of which one number of clusters passes on `regular_customers`.
QUICK_SEARCH = thresholds.SearchRules(k_min=4, k_max=5, resamples=2, min_stability=-1, min_share=0, tolerance=0.9)
# A back-test of no month, for runs over much data.
NO_BACKTEST = thresholds.BacktestPeriods(history_days=36_500)


def examples(number: int) -> int:
    """Return how many examples a hypothesis test tries: `make fuzz` sets HYPOTHESIS_PROFILE=thorough for many more."""
    return number * (20 if os.environ.get("HYPOTHESIS_PROFILE") == "thorough" else 1)


@contextmanager
def constants(**replacements: Any) -> Iterator[None]:
    """Replace constants of `model.thresholds`, such as `SEARCH`, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in replacements.items():
            patch.setattr(thresholds, name, value)
        yield


def line(
    invoice: str = "536365",
    stock_code: str = "85123A",
    description: str = "LANTERN",
    quantity: str = "2",
    at: str = "2024-03-01 10:00:00",
    price: str = "2.50",
    customer: str = "17850.0",
    country: str = "United Kingdom",
) -> Line:
    """Return one line of a source file; the default passes every rule."""
    return (invoice, stock_code, description, quantity, at, price, customer, country)


def write_csv(path: Path, lines: Sequence[Sequence[str]], header: Sequence[str] = HEADER) -> Path:
    """Write a CSV file with a header, and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *lines])
    return path


def regular_customers(number: int = 60) -> list[Line]:
    """Return lines of customers whose recency, frequency and money differ enough for four clusters."""
    lines = []
    for customer in range(number):
        for purchase in range(1 + customer % 7):
            day, month = 1 + (customer * 5 + purchase * 3) % 28, 1 + (customer + purchase * 2) % 10
            lines.append(
                line(
                    invoice=f"{500000 + customer * 10 + purchase}",
                    at=f"2024-{month:02d}-{day:02d} 09:{customer % 60:02d}:00",
                    quantity=f"{1 + (customer * 7 + purchase) % 11}",
                    price=f"{1 + customer % 13}.{customer % 10}5",
                    customer=f"{10000 + customer}",
                )
            )
    return lines


def retailer_settings(source: Path, /, **sections: Any) -> dict[str, Any]:
    """Return the settings of a retailer with the columns of Online Retail; sections are merged into them.

    A value of None in a section removes the setting.
    """
    settings: dict[str, Any] = {
        "name": "corner_shop",
        "title": "Corner shop",
        "time_zone": "Europe/London",
        "currency": "GBP",
        "source": {"path": str(source)},
        "columns": {
            "invoice": "InvoiceNo",
            "stock_code": "StockCode",
            "description": "Description",
            "quantity": "Quantity",
            "transaction_at": "InvoiceDate",
            "price": "UnitPrice",
            "customer_id": "CustomerID",
            "country": "Country",
        },
        "cleaning": {
            "cancellation": r"^C\d{6}$",
            "rules": [
                {"name": "invalid_invoice", "reason": "not six digits", "column": "invoice", "matches": r"^\d{6}$"},
                {"name": "not_a_product", "reason": "a fee", "column": "stock_code", "matches": r"^\d{5}[a-zA-Z]*$"},
                {"name": "missing_customer", "reason": "no customer", "column": "customer_id", "required": True},
                {"name": "price_not_positive", "reason": "no price", "column": "price", "above": 0},
            ],
        },
        # A search for the number of clusters takes seconds; tests of it set auto.
        "model": {"n_clusters": 4},
        # Drawing the charts takes a second; tests of them set true.
        "release": {"report": False},
        "checks": {"min_customers": 2, "min_days": 0, "min_silhouette": -1.0},
    }
    for name, section in sections.items():
        settings[name] = {**settings.get(name, {}), **section} if isinstance(section, dict) else section
        if isinstance(section, dict):
            settings[name] = {key: value for key, value in settings[name].items() if value is not None}
    return settings


def retailer_file(folder: Path, source: Path, /, **sections: Any) -> Path:
    """Write `retailer.toml` with these settings into a folder, and return its path."""
    path = folder / "retailer.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tomli_w.dumps(retailer_settings(source, **sections)).encode())
    return path


@cache
def definitions() -> dg.Definitions:
    """Return the project's definitions, loaded once per process: loading them takes 0.3 s."""
    return defs()


@cache
def instance_without_events() -> dg.DagsterInstance:
    """Return this process's Dagster instance that stores no events.

    Storing and reading them takes a third of a small run, and no run depends on them. Tests that read events, or what
    other runs there were, pass an instance of their own.
    """
    instance, patched = dg.DagsterInstance.ephemeral(), pytest.MonkeyPatch()
    storage = instance.event_log_storage
    # Commands close the instance that they get.
    patched.setattr(instance, "dispose", lambda: None)
    patched.setattr(storage, "store_event", lambda event: None)
    patched.setattr(storage, "get_asset_records", lambda keys=None: [])
    patched.setattr(storage, "fetch_observations", lambda *_, **__: dg.EventRecordsResult([], "", has_more=False))
    return instance


def run_job(
    instance: dg.DagsterInstance | None = None,
    *,
    job: str = "",
    config: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
    assets: Sequence[str] = (),
) -> dg.ExecuteInProcessResult:
    """Run a job of the project through Dagster. The retailer and the data folder are those of the environment.

    Args:
        instance: Where the events go; by default nowhere.
        job: The job's name; by default the one that the next night needs.
        config: Further run config.
        tags: Tags of the run.
        assets: The assets to materialise; by default all of the job.
    """
    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    run_config = {**quiet, **(config or {})}
    if not job:
        job = _job_of_a_night(run_config.get("resources", {}).get("retailer", {}).get("config", {}))
        if job == REFIT_JOB and not assets:
            run_config.setdefault("ops", {"segmentation_model": {"config": {"refit": False}}})
    return (
        definitions()
        .resolve_job_def(job)
        .execute_in_process(
            instance=instance or instance_without_events(),
            run_config=run_config,
            tags=dict(tags or {}),
            raise_on_error=False,
            asset_selection=[dg.AssetKey(name) for name in assets] or None,
        )
    )


def assets_up_to(*last: str) -> list[str]:
    """Return some assets and all that they and their checks need, for a run that ends with them."""
    graph = definitions().resolve_asset_graph()
    keys = {dg.AssetKey(name) for name in last}
    size = 0
    while len(keys) > size:
        size = len(keys)
        keys |= dg.AssetSelection.assets(*keys).upstream().required_multi_asset_neighbors().resolve(graph)
        nodes = [graph.get(key) for key in graph.asset_check_keys if key.asset_key in keys]
        keys |= {key for node in nodes for key in node.parent_entity_keys if isinstance(key, dg.AssetKey)}
    return sorted(key.to_user_string() for key in keys)


def _job_of_a_night(retailer: Mapping[str, Any]) -> str:
    try:
        settings = load_settings(*(retailer.get(name, "") for name in ("file", "source", "as_of")))
    except PipelineError:
        return NIGHTLY_JOB
    return job_for(settings, RetailerFolders(data_folder(), settings.name))


# Purchases a month, money of a purchase, and first and last day of the customers' activity.
BEHAVIOURS = {
    "regular": (1.6, 60.0, 0, 425),
    "seldom": (0.5, 35.0, 0, 425),
    "lapsed": (0.8, 40.0, 0, 190),
    "lately": (1.2, 30.0, 330, 425),
}
FIRST_DAY = datetime.fromisoformat("2023-01-01")


def four_behaviours(number: int = 400, seed: int = 7) -> list[Line]:
    """Return fourteen months of lines of customers with four behaviours, of whom a few buy far more than the others."""
    random, lines = Random(seed), list[Line]()  # noqa: S311 (nothing secret)
    for customer in range(number):
        rate, money, start, end = list(BEHAVIOURS.values())[customer % 4]
        rate_factor = random.lognormvariate(0, 0.25) * (6 if customer % 23 == 0 else 1)
        price_factor = random.lognormvariate(0, 0.35) * (5 if customer % 29 == 0 else 1)
        day = start + random.expovariate(rate * rate_factor / 30)
        # Every customer has a purchase.
        day = min(day, end - 1)
        while day < end:
            lines.append(
                line(
                    invoice=f"{100000 + len(lines)}",
                    at=f"{FIRST_DAY + timedelta(days=int(day), hours=9, minutes=customer % 60)}",
                    quantity="1",
                    price=f"{money * price_factor * random.lognormvariate(0, 0.3):.2f}",
                    customer=f"{10000 + customer}",
                )
            )
            day += random.expovariate(rate * rate_factor / 30) + 0.5
    return lines


ASSETS: dict[str, dg.AssetsDefinition] = {
    asset.node_def.name: asset
    for asset in [
        *cleaning_assets,
        *feature_assets,
        *customer_assets,
        *segment_assets,
        *history_assets,
        raw_transactions,
        segmentation_model,
        segment_backtest,
        customer_value_model,
        customer_value,
        segment_membership,
        segment_history,
        model_drift,
    ]
}
_SEGMENTS = "select * from customer_segments"
_OF_MODEL = derived_between(ACTIVE_MODEL_TABLES, _SEGMENTS)
# In an order in which each asset finds its inputs. Tests materialise the others by name.
NIGHT = (
    "rfm_segment_map",
    *(table for table in derived_between(["clean_transactions"], _SEGMENTS) if table not in _OF_MODEL),
    "segmentation_model",
    *_OF_MODEL,
    "segment_membership",
    "segment_changes",
)


class Nights:
    """The project's assets of one retailer, called in order on a small working database without Dagster.

    Dagster's order and events would take seconds a night.
    """

    def __init__(self, lines: Sequence[Line] = (), database: str | Path = ":memory:", **sections: Any) -> None:
        fast = {"n_clusters": 4, **sections.pop("model", {})}
        self.settings = Retailer.model_validate(retailer_settings(Path("in"), model=fast, **sections))
        self.connection = duckdb.connect(str(database), config={"threads": 1})
        self.warehouse = Warehouse(self.connection)
        if not self.warehouse.has("all_lines"):
            ddl = contracts()["clean_transactions"].ddl(constraints=False)
            self.connection.execute(ddl.replace("clean_transactions", "all_lines", 1))
        if lines:
            self.add_lines(lines)
        self.metadata: dict[str, Mapping[str, Any]] = {}

    def save(self, path: Path) -> Path:
        """Write the database into a file, for `opened`."""
        self.connection.execute(f"attach '{path}' as saved")
        [(opened,)] = self.rows("select current_database()")
        self.connection.execute(f"copy from database {opened} to saved")
        self.connection.execute("detach saved")
        return path

    @classmethod
    def opened(cls, saved: Path, copy: Path, **sections: Any) -> "Nights":
        """Continue in a copy of a saved database."""
        copyfile(saved, copy)
        return cls(database=copy, **sections)

    def add_lines(self, lines: Sequence[Line]) -> None:
        """Add lines to the source."""
        start = self.warehouse.count("all_lines")
        with TemporaryDirectory() as folder:
            path = write_csv(
                Path(folder) / "lines.csv", [(*sold, str(n)) for n, sold in enumerate(lines, start + 2)], (*HEADER, "n")
            )
            self.connection.execute(
                "insert into all_lines select 'a.csv', '', cast(n as bigint), InvoiceNo, StockCode, Description,"
                " cast(Quantity as decimal(18, 3)), cast(InvoiceDate as timestamp), cast(UnitPrice as decimal(18, 4)),"
                " cast(cast(Quantity as decimal(9, 3)) * cast(UnitPrice as decimal(9, 4)) as decimal(18, 4)),"
                " CustomerID, Country, InvoiceNo like 'C%' from read_csv(?, all_varchar = true)",
                [str(path)],
            )

    def set(self, section: str, **values: Any) -> None:
        """Change settings of a section."""
        changed = getattr(self.settings, section).model_copy(update=values)
        self.settings = self.settings.model_copy(update={section: changed})

    def run(
        self,
        as_of: datetime,
        *,
        features: str = "select * from rfm_features",
        until: str = "segment_changes",
        accept_change: bool = False,
        **fit: bool,
    ) -> None:
        """Run a night.

        Args:
            as_of: Lines before it count.
            features: A SELECT that replaces rfm_features after they are computed.
            until: The last table.
            accept_change: Whether a person accepts a model that fails promotion.
            fit: `refit` or `search`, to fit a model.
        """
        self.set("rfm", as_of=as_of)
        self.connection.execute(
            "create or replace table clean_transactions as select * from all_lines where transaction_at < ?", [as_of]
        )
        for name in NIGHT[: NIGHT.index(until) + 1]:
            if name == "segmentation_model" and not (fit or self._model_is_due(as_of)):
                continue
            self.materialize(name, accept_change=accept_change, **fit)
            if name == "rfm_features":
                self.connection.execute(f"create or replace table rfm_features as {features}")

    def _model_is_due(self, as_of: datetime) -> bool:
        last = last_change_at(self.warehouse)
        return fit_is_due(self.registry, self.settings) and (last is None or as_of >= last)

    def materialize(self, name: str, *, accept_change: bool = False, **fit: bool) -> Mapping[str, Any]:
        """Materialise one asset, and return its metadata."""
        results = list(self.results(ASSETS[name], accept_change=accept_change, **fit))
        assert all(result.passed for result in results if isinstance(result, dg.AssetCheckResult)), name
        [*_, self.metadata[name]] = [one.metadata or {} for one in results if isinstance(one, dg.MaterializeResult)]
        return self.metadata[name]

    def results(
        self, definition: dg.AssetsDefinition | dg.AssetChecksDefinition, *, accept_change: bool = False, **fit: bool
    ) -> Any:
        """Call the function of an asset or a check with this working database, and return what it returns."""
        retailer = RetailerConfig(accept_change=accept_change)
        retailer._settings = self.settings
        function = decorated(definition)
        arguments: dict[str, Callable[[], Any]] = {
            "context": asset_context,
            "config": lambda: FitConfig(**{"refit": False, **fit}),
            "retailer": lambda: retailer,
            "warehouse": lambda: OpenDatabase(self.warehouse),
        }
        return function(**{name: arguments[name]() for name in signature(function).parameters})

    def rows(self, select: str, *values: Any) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        return self.connection.execute(select, list(values)).fetchall()

    def table(self, table: str) -> list[tuple[Any, ...]]:
        """Return the rows of a table in the order of its key."""
        return self.rows(f"select * from {table} order by {contracts()[table].key_order}")

    def check(self, check: dg.AssetChecksDefinition) -> dg.AssetCheckResult:
        """Return the result of a check of the current tables."""
        result: dg.AssetCheckResult = self.results(check)
        return result

    @property
    def segments(self) -> dict[str, str]:
        """The segment key of each customer."""
        return dict(self.rows("select customer_id, segment_key from assigned_segments order by customer_id"))

    @property
    def registry(self) -> Registry:
        """The registry of models."""
        return Registry.of(self.warehouse)

    @property
    def active_model(self) -> str:
        """The id of the active model."""
        active = self.registry.active
        assert active is not None
        return active.model_id

    @property
    def last_model(self) -> ModelRecord:
        """The model that was fitted last."""
        return self.registry.models[-1]


@dataclass(frozen=True)
class OpenDatabase:
    """An open working database in place of the resource."""

    database: Warehouse

    def open(self) -> Warehouse:
        """Return the database."""
        return self.database


@cache
def asset_context() -> dg.AssetExecutionContext:
    """Return the context of an asset, made once per process: Dagster creates an instance for it."""
    return dg.build_asset_context()


def decorated(definition: dg.AssetsDefinition | dg.AssetChecksDefinition) -> Any:
    """Return the function of an asset or a check, which a test calls with its own arguments."""
    compute: Any = definition.op.compute_fn
    return compute.decorated_fn
