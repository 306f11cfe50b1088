"""`score_customer` of a release gives each customer the segment of the pipeline, in every supported client."""

import json
import math
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.model.kmeans import Scaler
from segmentation_pipeline.model.segment_catalog import FEATURES, SEGMENTS
from segmentation_pipeline.model.segmentation_model import Fence, SegmentationModel
from segmentation_pipeline.releases.files import OLDEST_CLIENT, STORAGE_VERSION
from segmentation_pipeline.segments import score_macro
from segmentation_pipeline.tables.catalog import contracts, select_of, shared_columns
from segmentation_pipeline.tables.contract import quoted
from segmentation_pipeline.warehouse.database import Warehouse
from segmentation_pipeline.warehouse.table_write import TableWrite
from segmentation_pipeline_tests.scenarios import retailer_settings

Row = dict[str, Any]
Customer = tuple[Any, Any, Any]
NORMAL = [segment for segment in SEGMENTS if segment.customer_group == "normal"]
OLD_CLIENT = Path(__file__).parents[2] / ".venv" / "oldest-client"
UNSCALED = [
    {"feature": name, "transform": "standard", "exponent": None, "center": 0.0, "scale": 1.0} for name in FEATURES
]
TWO = [
    {"segment_key": key, "segment": key.upper(), "scaled_monetary": x, "scaled_frequency": 1.0, "scaled_recency": 0.0}
    for key, x in (("nurture", 1.0), ("grow", 3.0))
]
# Runs in a process of its own, with the current or the oldest client.
SCORES = """
import json, sys
import duckdb
customers, *databases = sys.argv[1:]
answers = [duckdb.__version__]
for database in databases:
    with duckdb.connect() as connection:
        connection.execute(f"attach '{database}' as rel (read_only)")
        connection.execute("create table customers (n integer, m decimal(18, 4), f integer, r integer)")
        rows = [[n, *customer] for n, customer in enumerate(json.loads(customers))]
        connection.executemany("insert into customers values (?, ?, ?, ?)", rows)
        for name in ("rel.score_customer", "rel.main.score_customer"):
            found = connection.execute(f"select {name}(m, f, r) from customers order by n").fetchall()
            there = connection.execute(f"select count(*) from customers where {name}(m, f, r) = 'DORMANT'").fetchall()
            answers += [[segment for segment, in found], there[0][0]]
    with duckdb.connect(database, read_only=True) as connection:
        select = "select comment from duckdb_functions() where function_name = 'score_customer'"
        answers += connection.execute(select).fetchone()
print(json.dumps(answers))
"""


def seeded(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 - test data, no secret


def random_model(transform: str, seed: int, clusters: int = 5) -> tuple[list[Row], list[Row], list[Row]]:
    """Return random fences (for some features), scaler and centroids (not in the order of their keys)."""
    chance = seeded(seed)
    fenced = [name for name in FEATURES if seed % 3 == 0 or chance.random() < 0.6]
    typical = {"monetary": 400.0, "frequency": 8.0, "recency": 120.0}
    # Some lower fences are above zero, as few retailers have them.
    fences = [
        {
            "feature": name,
            "lower_fence": typical[name] * chance.choice([-0.5, 0.3]),
            "upper_fence": typical[name] * chance.uniform(1.5, 2.5),
        }
        for name in fenced
    ]
    scaler = []
    for place, name in enumerate(FEATURES):
        exponent = [0.0, 2.0, chance.uniform(-1, 1.5)][(place + seed) % 3] if transform == "yeo-johnson" else None
        middle = float(transformed(np.array([typical[name] / 2]), transform, exponent)[0])
        scaler.append(
            {
                "feature": name,
                "transform": transform,
                "exponent": exponent,
                "center": middle,
                "scale": abs(middle) * chance.uniform(0.3, 1) + 1e-3,
            }
        )
    centroids = [
        {
            "cluster": cluster,
            "segment_key": segment.key,
            "segment": segment.name,
            **{f"scaled_{name}": chance.gauss(0, 1) for name in FEATURES},
        }
        for cluster, segment in enumerate(chance.sample(NORMAL, clusters))
    ]
    return fences, scaler, centroids


def random_customers(seed: int, count: int = 400) -> list[Customer]:
    chance = seeded(seed)
    return [
        (
            Decimal(round(chance.lognormvariate(5, 1.2) * 10_000)) / 10_000 * chance.choice([1] * 12 + [0, -1]),
            int(chance.expovariate(1 / 6)),
            int(chance.expovariate(1 / 90)),
        )
        for _ in range(count)
    ]


def transformed(x: Any, transform: str, exponent: float | None) -> Any:
    from scipy.stats import yeojohnson

    if transform == "log":
        return np.log1p(x)
    return yeojohnson(x, lmbda=exponent) if transform == "yeo-johnson" else x


def expected(
    customer: Customer, fences: Sequence[Row], scaler: Sequence[Row], centroids: Sequence[Row], refunds: Any = 0
) -> str:
    """Return the segment's name, computed in Python without the code under test."""
    features = dict(zip(FEATURES, map(float, customer), strict=True))
    if features["frequency"] == 0:
        return "DORMANT"
    if features["monetary"] <= 0:
        return "REFUNDED" if features["monetary"] < 0 or refunds > 0 else "NO SPEND"
    bounds = {row["feature"]: row for row in fences}
    high = {name for name, row in bounds.items() if features[name] > row["upper_fence"]}
    low = {name for name, row in bounds.items() if features[name] < row["lower_fence"]}
    if low & {"monetary", "frequency"} or "recency" in high:
        return "EXAMINE"
    if bought := high & {"monetary", "frequency"}:
        return {1: "PAMPER" if "monetary" in bought else "UPSELL", 2: "DELIGHT"}[len(bought)]
    if "recency" in low:
        return "EXAMINE"
    scaled = []
    for row in scaler:
        y = transformed(np.array([features[row["feature"]]]), row["transform"], row["exponent"])[0]
        scaled.append((y - row["center"]) / row["scale"])
    distances = [math.dist(scaled, [row[f"scaled_{name}"] for name in FEATURES]) for row in centroids]
    return str(centroids[distances.index(min(distances))]["segment"])


def numpy_model(fences: Sequence[Row], scaler: Sequence[Row], centroids: Sequence[Row]) -> SegmentationModel:
    """Return the model as the fit makes it; a factor of 0 puts its fences on the quartiles."""
    exponents = [row["exponent"] for row in scaler]
    return SegmentationModel(
        {row["feature"]: Fence(row["lower_fence"], row["upper_fence"], 0) for row in fences},
        Scaler(
            scaler[0]["transform"],
            None if None in exponents else np.array(exponents),
            np.array([row["center"] for row in scaler]),
            np.array([row["scale"] for row in scaler]),
        ),
        np.array([[row[f"scaled_{name}"] for name in FEATURES] for row in centroids]),
        tuple(row["segment_key"] for row in centroids),
    )


def scored(customers: Sequence[Customer], *model: Sequence[Row], argument: str = "m, f, r") -> list[str | None]:
    """Return the segments of customers, who are rows of a table with the columns n, m, f and r."""
    with duckdb.connect(config={"threads": 1}) as connection:
        connection.execute("create table customers (n integer, m decimal(18, 4), f integer, r integer)")
        rows = [(n, *customer) for n, customer in enumerate(customers)]
        connection.executemany("insert into customers values (?, ?, ?, ?)", rows)
        connection.execute(score_macro.macro(*model))
        found = connection.execute(f"select score_customer({argument}) from customers order by n").fetchall()
    return [segment for (segment,) in found]


def scores(model: Sequence[Sequence[Row]], *arguments: str) -> dict[str, str | None]:
    """Return the segment for each text of three arguments."""
    with duckdb.connect(config={"threads": 1}) as connection:
        connection.execute(score_macro.macro(*model))
        found = connection.execute(f"select {', '.join(f'score_customer({one})' for one in arguments)}").fetchall()
    return dict(zip(arguments, found[0], strict=True))


def store(warehouse: Warehouse, table: str, rows: Sequence[Row]) -> None:
    """Create a table with the columns of its contract; columns that the rows lack get any value."""
    contract = contracts()[table]
    defaults = {"VARCHAR": "", "TIMESTAMP": "2024-03-31", "BOOLEAN": False}
    warehouse.drop(table)
    warehouse.connection.execute(contract.ddl(constraints=False))
    if rows:
        values = [
            [row.get(c.name, None if c.nullable else defaults.get(c.type, 0)) for row in rows] for c in contract.columns
        ]
        unnested = ", ".join(["unnest(?)"] * len(values))
        warehouse.connection.execute(f"insert into {quoted(table)} select {unnested}", values)


def released(folder: Path, *model: Sequence[Row]) -> Path:
    database = folder / f"{model[1][0]['transform']}.duckdb"
    with duckdb.connect(str(database), config={"storage_compatibility_version": STORAGE_VERSION}) as connection:
        connection.execute(score_macro.macro(*model))
        connection.execute(score_macro.comment())
    return database


@pytest.fixture(scope="module")
def warehouse() -> Warehouse:
    return Warehouse(duckdb.connect(config={"threads": 1}))


@pytest.mark.parametrize("transform", shared_columns()["transform"].allowed)
# They fence no, one or all features, below and above zero, and give each feature each kind of exponent.
@pytest.mark.parametrize("seed", [0, 1, 3, 5])
def test_macro_tables_numpy_and_python_give_equal_segments(warehouse: Warehouse, transform: str, seed: int) -> None:
    fences, scaler, centroids = random_model(transform, seed)
    customers = random_customers(seed)
    # Every second customer without money had refunds.
    refunds = [max(-customer[0], Decimal(n % 2)) for n, customer in enumerate(customers)]
    rows = [
        {"customer_id": f"{n:04d}", "refunds": refunded, **dict(zip(FEATURES, customer, strict=True))}
        for n, (customer, refunded) in enumerate(zip(customers, refunds, strict=True))
    ]
    for table, content in {
        "rfm_features": rows,
        "outlier_fences": fences,
        "kmeans_scaler": scaler,
        "kmeans_centroids": centroids,
    }.items():
        store(warehouse, table, content)
    settings = Retailer.model_validate(retailer_settings(Path("nowhere"))).sql_values
    # The membership history is empty, so today's features alone decide.
    derive = (
        "previous_segments",
        "inactive_customers",
        "outlier_flags",
        "outlier_customers",
        "outlier_segments",
        "normal_customers",
        "scaled_customers",
        "nearest_centroids",
        "nearest_segments",
        "kmeans_segments",
        "assigned_segments",
    )
    for table in derive:
        [result] = warehouse.write([TableWrite(table, select_of(table))], settings)
        assert result.violations == ()
    keys = warehouse.rows("select segment_key from nearest_segments order by customer_id")
    assert warehouse.rows("select segment_key from assigned_segments order by customer_id") == keys
    assert warehouse.rows("select count(*) as pending from assigned_segments where is_move_pending") == [{"pending": 0}]
    by_pipeline = [score_macro.NAMES[row["segment_key"]] for row in keys]
    # With constants read from tables, as in a release.
    warehouse.connection.execute(
        score_macro.macro(
            warehouse.rows("select * from outlier_fences"),
            warehouse.rows("select * from kmeans_scaler"),
            [
                row | {"segment": score_macro.NAMES[row["segment_key"]]}
                for row in warehouse.rows("from kmeans_centroids")
            ],
        )
    )
    by_macro = warehouse.rows(
        "select score_customer(monetary, frequency, recency, refunds := refunds) as name from rfm_features"
        " order by customer_id"
    )
    assert [row["name"] for row in by_macro] == by_pipeline
    assert by_pipeline == [
        expected(customer, fences, scaler, centroids, refunded)
        for customer, refunded in zip(customers, refunds, strict=True)
    ]
    by_numpy = numpy_model(fences, scaler, centroids).assign(
        np.array(customers, dtype=float), np.array(refunds, dtype=float)
    )
    assert [score_macro.NAMES[str(key)] for key in by_numpy] == by_pipeline
    assert {"DORMANT", "REFUNDED", "NO SPEND"} < set(by_pipeline)
    assert set(by_pipeline) & {row["segment"] for row in centroids}


@pytest.mark.parametrize("transform", shared_columns()["transform"].allowed)
def test_normal_customers_get_the_cluster_that_scikit_learn_predicts(transform: str) -> None:
    from sklearn.cluster import KMeans

    _, scaler, centroids = random_model(transform, seed=7, clusters=12)
    customers = [(m, f, r) for m, f, r in random_customers(7, count=150) if m > 0 and f > 0]
    table = np.array([[float(value) for value in customer] for customer in customers])
    scaled = np.column_stack(
        [
            (transformed(table[:, n], transform, row["exponent"]) - row["center"]) / row["scale"]
            for n, row in enumerate(scaler)
        ]
    )
    at = np.array([[row[f"scaled_{name}"] for name in FEATURES] for row in centroids])
    predicted = KMeans(len(at), init=at, n_init=1, max_iter=1).fit(at).predict(np.ascontiguousarray(scaled))
    assert scored(customers, [], scaler, centroids) == [centroids[label]["segment"] for label in predicted]


@pytest.mark.parametrize("path", [None, OLD_CLIENT], ids=["new client", "old client"])
def test_a_release_attached_under_another_name_scores_in_every_client(tmp_path: Path, path: Path | None) -> None:
    """The client also shows the description of the function."""
    if path:
        assert (path / "duckdb").is_dir(), f"{path}: no duckdb; `make test` installs it there"
    models = [random_model(transform, seed=3, clusters=24) for transform in ("standard", "yeo-johnson")]
    customers = random_customers(3, count=100)
    rows = json.dumps([[str(m), f, r] for m, f, r in customers])
    done = subprocess.run(
        [sys.executable, "-c", SCORES, rows, *(str(released(tmp_path, *model)) for model in models)],
        env=os.environ | ({"PYTHONPATH": str(path)} if path else {}),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    answers: list[Any] = [OLDEST_CLIENT if path else duckdb.__version__]
    for model in models:
        names = [expected(customer, *model) for customer in customers]
        answers += [names, names.count("DORMANT")] * 2 + [score_macro.COMMENT]
    assert json.loads(done.stdout) == answers


def test_the_exported_definition_creates_the_same_macro() -> None:
    """EXPORT DATABASE writes definitions as text, in which 0.1 would be a DECIMAL. Here the arguments are bound."""
    model = random_model("yeo-johnson", seed=9)
    customers = random_customers(9, count=50)
    with duckdb.connect() as connection:
        connection.execute(score_macro.macro(*model))
        definition = connection.execute(
            "select macro_definition from duckdb_functions() where function_name = 'score_customer'"
        ).fetchall()[0][0]
        connection.execute(
            f"create or replace macro score_customer(monetary, frequency, recency, refunds := 0) as {definition}"
        )
        found = [connection.execute("select score_customer(?, ?, ?)", [*customer]).fetchall() for customer in customers]
    assert found == [[(expected(customer, *model),)] for customer in customers]


@pytest.mark.parametrize(
    "value", [0.1, 1 / 3, -0.0, 5e-324, 1.7976931348623157e308, 1e16, 123456789012345680.0, -2.5e-7, 3.0]
)
def test_a_constant_keeps_every_bit(value: float) -> None:
    with duckdb.connect() as connection:
        [(found, kind)] = connection.execute(
            f"select {score_macro._number(value)}, typeof({score_macro._number(value)})"
        ).fetchall()
    assert (found.hex(), kind) == (value.hex(), "DOUBLE")
    assert score_macro._number(np.float64(value)) == score_macro._number(value)


@pytest.mark.parametrize("transform", shared_columns()["transform"].allowed)
def test_a_null_gives_null(transform: str) -> None:
    nulls = ("null, 1, 1", "1, null, 1", "1, 1, null", "null, 0, 1", "null, null, null", "0, null, 1", "1e9, 1, null")
    assert scores(random_model(transform, seed=3), *nulls) == dict.fromkeys(nulls)


@pytest.mark.parametrize("transform", shared_columns()["transform"].allowed)
def test_impossible_features_give_null_and_no_error(transform: str) -> None:
    impossible = ("1, -1, 1", "1, 1, -1", "-5, 1, -1000", "'nan'::double, 1, 1", "1, 'inf'::double, 1")
    assert scores(random_model(transform, seed=3), *impossible) == dict.fromkeys(impossible)


@pytest.mark.parametrize(
    "argument",
    [
        "m, f, r",
        "cast(m as decimal(18, 4)), cast(f as integer), cast(r as bigint)",
        "cast(m as double), cast(f as double), cast(r as double)",
        "cast(m as varchar), f, r",
        "(select m), (select max(x) from (values (f)) as t(x)), r",
    ],
)
def test_arguments_may_have_any_numeric_type(argument: str) -> None:
    model = random_model("log", seed=4)
    customers = random_customers(4, count=40)
    assert scored(customers, *model, argument=argument) == [expected(customer, *model) for customer in customers]


@pytest.mark.parametrize("centroids", [TWO, TWO[::-1]], ids=["in order", "reversed"])
def test_a_tie_goes_to_the_lowest_segment_key(centroids: list[Row]) -> None:
    customers = [(2, 1, 0), (1.9, 1, 0), (2.1, 1, 0)]
    assert scored(customers, [], UNSCALED, centroids) == ["GROW", "NURTURE", "GROW"]
    # By key, not by name: the segment named ABLE has the last key here.
    renamed = [row | {"segment": {"grow": "ZEAL", "nurture": "ABLE"}[row["segment_key"]]} for row in centroids]
    assert scored(customers, [], UNSCALED, renamed) == ["ZEAL", "ABLE", "ZEAL"]


def test_distances_equal_those_of_nearest_centroids_bit_by_bit() -> None:
    """Squares that differ in the last bit may have equal roots: both must treat them as a tie, or neither."""
    chance = seeded(5)
    differing = 0
    with duckdb.connect() as connection:
        for _ in range(15):
            place = [1 + chance.random() for _ in FEATURES]
            near = [place[0], place[1], math.nextafter(place[2], 9)]
            at = [{f"scaled_{name}": x for name, x in zip(FEATURES, spot, strict=True)} for spot in (near, place)]
            two = [row | {"segment_key": key, "segment": key} for row, key in zip(at, "ab", strict=True)]
            connection.execute(score_macro.macro([], UNSCALED, two))
            distances = "union all ".join(
                f"select '{row['segment_key']}' as name, sqrt(pow(1e0 - {row['scaled_monetary']!r}e0, 2)"
                f" + pow(5e0 - {row['scaled_frequency']!r}e0, 2)"
                f" + pow(0e0 - {row['scaled_recency']!r}e0, 2)) as distance "
                for row in two
            )
            by_root = connection.execute(f"select name from ({distances}) order by distance, name").fetchall()[0]
            assert connection.execute("select score_customer(1, 5, 0)").fetchall() == [by_root]
            differing += by_root == ("b",)
    assert 0 < differing < 15


@pytest.mark.parametrize("name", ["it's", "'); drop table t; --", "''", '"', "\\'", "$m", "${x} {0} %s", "new\nline"])
def test_a_name_cannot_break_out_of_its_literal(name: str) -> None:
    odd = [TWO[0] | {"segment": name}, TWO[1]]
    assert scored([(1, 1, 0), (3, 1, 0)], [], UNSCALED, odd) == [name, "GROW"]


def test_columns_of_a_consumer_do_not_collide_with_names_inside() -> None:
    with duckdb.connect() as connection:
        connection.execute(score_macro.macro([], UNSCALED, TWO))
        found = connection.execute(
            "with scaled(monetary, frequency, recency, scaled, distances) as"
            " (values (1, 1, 0, 7, [9]), (3, 1, 0, 7, [9]))"
            " select score_customer(monetary, frequency, recency), score_customer(scaled, scaled, scaled - 7),"
            " score_customer(distances[1], frequency, recency) from scaled order by monetary"
        ).fetchall()
    assert found == [("NURTURE", "GROW", "GROW"), ("GROW", "GROW", "GROW")]


def test_the_macro_works_wherever_an_expression_does() -> None:
    with duckdb.connect() as connection:
        connection.execute(score_macro.macro([], UNSCALED, TWO))
        connection.execute(
            "create table t as select 1 + n % 3 as m, n % 2 as f, 0 as r, '' as name from range(600) as x(n)"
        )
        connection.execute("update t set name = score_customer(m, f, r)")
        counted = connection.execute("select name, count(*) from t group by all order by all").fetchall()
        assert counted == [("DORMANT", 300), ("GROW", 200), ("NURTURE", 100)]
        again = "select score_customer(m, f, r) as s, count(*) from t group by s having s = any_value(name) order by s"
        assert connection.execute(again).fetchall() == counted
        of_some = "from t where score_customer(m, f, r) <> 'DORMANT'"
        filtered = "select count(*) filter (where score_customer(m, f, r) = 'GROW')"
        assert connection.execute(f"{filtered} {of_some}").fetchall() == [(200,)]
        totals = "select score_customer(sum(m), sum(f), min(r)) from t group by m order by m"
        assert connection.execute(totals).fetchall() == [("GROW",)] * 3
        joined = "select count(*) from t join (values ('GROW')) as wanted(s) on score_customer(m, f, r) = s"
        assert connection.execute(joined).fetchall() == [(200,)]
