"""Fit what customers are expected to buy and spend, try the fit on the last quarter, and score every customer.

Contains which customers and days are fitted, and the rows of the tables of customer value. The models themselves are in
`model.customer_value`.
"""

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.model import thresholds
from segmentation_pipeline.segments.customer_blocks import AS_OF, blocks_of, derive_in_blocks
from segmentation_pipeline.tables.catalog import contracts
from segmentation_pipeline.tables.contract import quoted
from segmentation_pipeline.warehouse.database import Warehouse
from segmentation_pipeline.warehouse.queries import inline_upstream
from segmentation_pipeline.warehouse.table_write import WHOLE_TABLE, TableWrite

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from segmentation_pipeline.model.arrays import Array
    from segmentation_pipeline.model.customer_value import Parameters

    # Customers by column.
    Columns = dict[str, NDArray[Any]]

TABLES = ("customer_value_model", "customer_value_calibration", "customer_value_errors")
# Raise it when the method of the fit or of the forecast changes.
METHOD_VERSION = "1"
# The days that are forecast: a quarter and a year.
HORIZONS = (90, 365)
_DECILES = 10
# Customers that are scored at once: in Python, unlike in SQL, their columns take memory beside that of DuckDB.
_BLOCK = 100_000
# Days with a purchase, as in inter_purchase_times. Where more was refunded than spent, nothing was spent.
_HISTORY = """
select
    features.customer_id,
    cast(features.purchase_days - 1 as double) as repeats,
    cast(date_diff('day', cast(features.first_purchase_at as date), cast(features.last_purchase_at as date)) as double)
        as last_day,
    cast(date_diff('day', cast(features.first_purchase_at as date), cast(features.as_of as date)) as double) as age,
    cast(greatest(features.total_spend, 0) as double) / features.purchase_days as mean_spend
from rfm_features as features
where features.purchase_days > 0
"""
_COUNTS = f"select count(*) as customers, count_if(repeats > 0) as repeating from ({_HISTORY})"  # noqa: S608 - own SQL
# A systematic sample of the customers, if there are more than its size.
_SAMPLE = f"""
select * exclude (customer_id, place, customers)
from (select history.*, row_number() over (order by customer_id) - 1 as place, count(*) over () as customers
    from ({_HISTORY}) as history) as placed
where place * $size % customers < $size
order by customer_id
"""  # noqa: S608 - own SQL
# Of one block of customers: each is scored alone. DuckDB reads the rows of these numbers only.
_IN_BLOCK = "features.rowid >= $start and features.rowid < $end"
# What the customers of a past day did afterwards, and the spend of the year before, beside their history.
_LATER = """
select
    customer_id,
    sum(amount) as spend,
    count(distinct case when is_purchase then cast(transaction_at as date) end) as purchases
from temp.chosen_invoices
where transaction_at >= $as_of and transaction_at < $until
group by customer_id
"""
_PAST = """
select customer_id, sum(amount) as spend
from temp.chosen_invoices
where transaction_at >= $year_before and transaction_at < $as_of
group by customer_id
"""
_HOLDOUT = f"""
select
    history.*,
    cast(greatest(coalesce(later.spend, 0), 0) as double) as actual_spend,
    cast(coalesce(later.purchases, 0) as double) as actual_purchases,
    cast(greatest(coalesce(past.spend, 0), 0) as double) as past_spend
from ({_HISTORY}) as history
left join later on history.customer_id = later.customer_id
left join past on history.customer_id = past.customer_id
"""  # noqa: S608 - own SQL
# With the days of purchases, which a block has too; the median gap of all customers is not read.
_INPUTS = {name: text for name, text in AS_OF.items() if name != "inter_purchase_times"} | {
    "later": _LATER,
    "past": _PAST,
}


@dataclass(frozen=True)
class ValueModel:
    """The models of purchases and of spend."""

    purchases: "Parameters"
    spend: "Parameters"

    def forecast(self, customers: "Columns", days: int) -> "tuple[Array, Array]":
        """Return the expected purchases and spend of each customer in the next days."""
        import numpy as np

        from segmentation_pipeline.model.customer_value import expected_purchases, expected_spend

        repeats, last, age = (customers[name] for name in ("repeats", "last_day", "age"))
        purchases = expected_purchases(np.array(self.purchases.values), repeats, last, age, days)
        each = expected_spend(np.array(self.spend.values), repeats + 1, customers["mean_spend"])
        return purchases, purchases * each


def fit_value(database: Warehouse, settings: Retailer) -> list[TableWrite]:
    """Return the model of all customers, and how well one fitted a quarter earlier forecast that quarter.

    Of more than `BACKTEST.max_customers` customers, a systematic sample is fitted, and another is forecast.
    The parameters are fitted when a segmentation model is, and kept by other runs of the model group. Where the
    customers cannot be fitted, the row of the model has the reason, and every parameter is null.
    """
    run = database.row(
        "select max(as_of) as as_of, any_value(model_id) as model_id from rfm_features cross join kmeans_model"
    )
    calibration, errors = _tried(database, settings, run["as_of"])
    write = TableWrite("customer_value_model", "select * from customer_value_model")
    if _fit_is_due(database, run["as_of"]):
        counted = database.row(_COUNTS)
        customers = database.fetch(_SAMPLE, {"size": thresholds.BACKTEST.max_customers})
        model, reason = _fitted(customers)
        row = _model_row(run["model_id"], run["as_of"], counted, customers, model, reason)
        write = TableWrite("customer_value_model", rows=[row])
    return [
        write,
        *(TableWrite(table, rows=rows) for table, rows in zip(TABLES[1:], (calibration, errors), strict=True)),
    ]


def _fit_is_due(database: Warehouse, as_of: datetime) -> bool:
    """Return whether this run fitted a segmentation model, or one was fitted since the parameters were.

    A run that only writes the tables of the model group again, as after a restore, keeps the parameters.
    """
    fitted = database.row("select max(fitted_as_of) as last from segmentation_models")["last"]
    stored = database.row("select max(fitted_as_of) as last from customer_value_model")["last"]
    return stored is None or fitted is None or fitted >= as_of or stored < fitted


def score_value(database: Warehouse) -> TableWrite:
    """Return what every customer is expected to buy and spend, by the model that was fitted last.

    Customers who have equal purchase days are scored once. Without a model, and for customers without a purchase,
    every value is null.
    """
    import numpy as np

    contract = contracts()["customer_value"]
    stored = database.rows("select * from customer_value_model")
    features, read = database.versions("rfm_features"), [METHOD_VERSION, contract.model_dump_json(), stored]
    digest = hashlib.sha256(repr([*read, sorted(features.items())]).encode()).hexdigest()[:16]
    versions = {WHOLE_TABLE: digest} if features else {}
    if versions and database.versions("customer_value") == versions:
        return TableWrite("customer_value", files=frozenset(), versions=versions)
    model, names = _stored(stored), [column.name for column in contract.columns]
    casts = ", ".join(
        f"try_cast(case when isfinite({quoted(column.name)}) then {quoted(column.name)} end as {column.type})"
        f" as {quoted(column.name)}"
        for column in contract.columns[1:-1]
    )
    rows = database.row("select coalesce(max(rowid) + 1, 0) as number from rfm_features")["number"]
    for block in range(blocks_of(rows, _BLOCK)):
        values = {"start": block * _BLOCK, "end": (block + 1) * _BLOCK}
        customers = database.fetch(f"{_HISTORY} and {_IN_BLOCK}", values)
        columns: Columns = {name: np.full(len(customers["customer_id"]), np.nan) for name in names[1:-1]}
        if model is not None:
            columns |= _scores(model, customers)
        database.connection.register("scored_customers", {"customer_id": customers["customer_id"], **columns})
        target = "insert into temp.scored_values" if block else "create or replace temp table scored_values as"
        database.connection.execute(f"{target} select customer_id, {casts} from scored_customers")  # noqa: S608 - quoted
        database.connection.unregister("scored_customers")
    joined = ", ".join(f"scored.{quoted(name)}" for name in names[1:-1])
    return TableWrite(
        "customer_value",
        f"select features.customer_id, {joined}, features.as_of"  # noqa: S608 - quoted names
        " from rfm_features as features left join temp.scored_values as scored using (customer_id)",
        versions=versions,
    )


def _fitted(customers: "Columns") -> tuple[ValueModel | None, str | None]:
    """Return the model of some customers, or the reason for which there is none."""
    from segmentation_pipeline.model.customer_value import CannotFitError, fit_purchases, fit_spend

    seed = thresholds.FIT.random_state
    repeating = (customers["repeats"] > 0) & (customers["mean_spend"] > 0)
    try:
        purchases = fit_purchases(customers["repeats"], customers["last_day"], customers["age"], random_state=seed)
        spend = fit_spend(customers["repeats"][repeating] + 1, customers["mean_spend"][repeating], random_state=seed)
    except CannotFitError as error:
        return None, f"{error}."
    return ValueModel(purchases, spend), None


def _model_row(
    model_id: str,
    as_of: datetime,
    counted: dict[str, int],
    customers: "Columns",
    model: ValueModel | None,
    reason: str | None,
) -> tuple[Any, ...]:
    import numpy as np

    repeating = (customers["repeats"] > 0) & (customers["mean_spend"] > 0)
    counts, means = customers["repeats"][repeating], customers["mean_spend"][repeating]
    varies = len(counts) > 1 and counts.std() > 0 and means.std() > 0
    return (
        model_id,
        as_of,
        counted["customers"],
        counted["repeating"],
        *(model.purchases.values if model else (None,) * 4),
        list(model.purchases.covariance) if model else [],
        model.purchases.log_likelihood if model else None,
        *(model.spend.values if model else (None,) * 3),
        list(model.spend.covariance) if model else [],
        model.spend.log_likelihood if model else None,
        round(float(np.corrcoef(counts, means)[0, 1]), 12) if varies else None,
        reason,
    )


def _stored(rows: list[dict[str, Any]]) -> ValueModel | None:
    """Return the model of the row of `customer_value_model`; None if it has none."""
    from segmentation_pipeline.model.customer_value import Parameters

    if not rows or rows[0]["reason"] is not None:
        return None
    [row] = rows

    def parameters(names: tuple[str, ...], of: str) -> Parameters:
        values = tuple(row[name] for name in names)
        return Parameters(values, tuple(row[f"{of}_covariance"]), row[f"{of}_log_likelihood"], row["customers"])

    return ValueModel(parameters(("r", "alpha", "a", "b"), "purchase"), parameters(("p", "q", "gamma"), "spend"))


def _scores(model: ValueModel, customers: "Columns") -> "Columns":
    """Return the columns of `customer_value` that the model gives."""
    import numpy as np

    from segmentation_pipeline.model.customer_value import (
        around,
        expected_purchases,
        expected_spend,
        probability_active,
        standard_error,
    )

    rows = np.column_stack([customers[name] for name in ("repeats", "last_day", "age")])
    # Whole numbers of days, in one number: a sort of rows takes ten times as long.
    key = (rows[:, 0] * 1e5 + rows[:, 1]) * 1e5 + rows[:, 2]
    _, places, inverse = np.unique(key, return_index=True, return_inverse=True)
    repeats, last, age = rows[places].T
    values, purchases, mean = np.array(model.purchases.values), rows[:, 0] + 1, customers["mean_spend"]
    active = probability_active(values, repeats, last, age)[inverse]
    each = expected_spend(np.array(model.spend.values), purchases, mean)
    each_error = standard_error(model.spend, lambda at: expected_spend(at, purchases, mean), q=1)
    columns: Columns = {"probability_active": active}
    for days in HORIZONS:

        def forecast(at: "Array", days: int = days) -> "Array":
            return expected_purchases(at, repeats, last, age, days)

        expected, error = forecast(values)[inverse], standard_error(model.purchases, forecast)[inverse]
        spend, spend_error = expected * each, np.hypot(error, each_error)
        columns[f"expected_purchases_{days}"] = expected
        columns[f"expected_purchases_{days}_low"], columns[f"expected_purchases_{days}_high"] = around(expected, error)
        columns[f"expected_spend_{days}"] = spend
        columns[f"expected_spend_{days}_low"], columns[f"expected_spend_{days}_high"] = around(spend, spend_error)
    # An active customer would be expected to spend spend / active.
    columns["spend_at_risk_365"] = columns["expected_spend_365"] * (1 / np.maximum(active, 1e-12) - 1)
    return columns


def _tried(
    database: Warehouse, settings: Retailer, as_of: datetime
) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    """Return how well a model fitted a quarter ago forecast the quarter: by tenths of customers, and its errors.

    Both are empty where there are fewer days before the quarter than the back-test needs, or no model.
    """
    import numpy as np

    days = HORIZONS[0]
    start = as_of - timedelta(days=days)
    first = database.row("select min(transaction_at) as first_at from invoice_totals")["first_at"]
    if first is None or start - first < timedelta(days=thresholds.BACKTEST.history_days):
        return [], []
    year = min(365.0, (start - first) / timedelta(days=1))
    # Until after as_of, which is the time of the last line where the settings say so.
    periods = {"as_of": start, "until": as_of + timedelta(microseconds=1), "year_before": start - timedelta(days=365)}
    text, limit = inline_upstream(_HOLDOUT, _INPUTS), thresholds.BACKTEST.max_customers
    derive_in_blocks(database, "tried_customers", text, [settings.sql_values | periods], max_customers=limit)
    customers = database.fetch("select * exclude (customer_id) from temp.tried_customers order by customer_id", {})
    model, _ = _fitted(customers)
    if model is None:
        return [], []
    purchases, spend = model.forecast(customers, days)
    naive, actual = customers["past_spend"] * days / year, customers["actual_spend"]
    order = np.argsort(-spend, kind="stable")
    calibration = [
        (
            decile,
            len(members),
            *(
                round(float(column[members].mean()), 6)
                for column in (purchases, customers["actual_purchases"], spend, actual, naive)
            ),
        )
        for decile, members in enumerate(np.array_split(order, _DECILES), start=1)
        if len(members)
    ]
    errors = [_errors(name, start, forecast, actual) for name, forecast in (("model", spend), ("naive", naive))]
    return calibration, errors


def _errors(name: str, start: datetime, forecast: "Array", actual: "Array") -> tuple[Any, ...]:
    """Return the row of `customer_value_errors` of a forecast."""
    import numpy as np

    from segmentation_pipeline.model.lift import lift

    missed = forecast - actual
    return (
        name,
        start,
        len(actual),
        round(float(forecast.sum()), 4),
        round(float(actual.sum()), 4),
        round(float(np.abs(missed).mean()), 6),
        round(float(np.sqrt((missed**2).mean())), 6),
        lift(np.unique(forecast, return_inverse=True)[1], forecast, actual).gini,
    )
