"""Published figures of UCI Online Retail, reproduced on the real data.

Expected numbers are in EXPECTED.md beside the data, written here as they are printed there, or are computed here with
pandas; none was copied from the pipeline. Each source is read once. The two nights on the daily files go to the
release, the run on their lines in another order to the segments. That on the Parquet file ends with the features of the
customers, from which all later tables derive. A workbook ends with its lines: they are those of the Parquet file.
"""

import random
import shutil
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest
import tomli_w
from numpy.typing import NDArray

from segmentation_pipeline.config.loading import SHIPPED
from segmentation_pipeline.model.kmeans import KMeansFit, Transform, fit, nearest
from segmentation_pipeline.model.naming import name_clusters
from segmentation_pipeline.model.segment_catalog import FEATURES, SEGMENTS
from segmentation_pipeline.tables.catalog import contracts
from segmentation_pipeline_tests.scenarios import REAL_DATA, assets_up_to, run_job
from segmentation_pipeline_tests.workbooks import mixed, write_workbook

pytestmark = pytest.mark.skipif(not REAL_DATA.is_dir(), reason=f"the real data is not at {REAL_DATA}")

DAILY = REAL_DATA / "online_retail" / "by-day"
PARQUET = REAL_DATA / "online_retail_II" / "year_2010_2011.parquet"
SUBSET = REAL_DATA / "online_retail_II" / "subset_10_countries.xlsx"
HEADER_II = ("Invoice", "StockCode", "Description", "Quantity", "InvoiceDate", "Price", "Customer ID", "Country")
NAMES = {segment.key: segment.name for segment in SEGMENTS}
# The tutorial's figures hold for each of them; the daily files lack one line of postage.
CLEANING = ("clean_transactions", "rejected_transactions")
SOURCES = ("daily", "shuffled", "parquet")
RAW_LINES = {"daily": 541_909, "shuffled": 541_909, "parquet": 541_910}
CONTENT = "invoice, stock_code, description, quantity, transaction_at, price, customer_id, country"


@dataclass(frozen=True)
class Ran:
    """What one run wrote: the retailer's folder in its data folder."""

    name: str
    home: Path

    def rows(self, select: str) -> list[tuple[Any, ...]]:
        """Return the rows of a query on the working database."""
        return _rows(self.home / "work.duckdb", select)

    def released(self, select: str) -> list[tuple[Any, ...]]:
        """Return the rows of a query on the current release."""
        return _rows(self.home / "releases" / "current" / "segments.duckdb", select)

    def features(self, table: str = "rfm_features") -> NDArray[np.float64]:
        """Return monetary, frequency and recency of the customers of a table, sorted by customer."""
        columns = ", ".join(f"cast({name} as double)" for name in FEATURES)
        return np.array(self.rows(f"select {columns} from {table} order by customer_id"))

    def normal(self) -> NDArray[np.float64]:
        """Return the features of the customers within Tukey's fences of money and frequency, computed with numpy."""
        active = self.features("rfm_features anti join inactive_customers using (customer_id)")
        q1, q3 = np.quantile(active[:, :2], [0.25, 0.75], axis=0)
        reach = 1.5 * (q3 - q1)
        within = (active[:, :2] >= q1 - reach) & (active[:, :2] <= q3 + reach)
        normal: NDArray[np.float64] = active[within.all(axis=1)]
        return normal


def _rows(database: Path, select: str) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(database), read_only=True) as connection:
        return connection.execute(select).fetchall()


def run_retailer(
    folder: Path,
    shipped: str,
    source: Path,
    *,
    cleaning: dict[str, Any] | None = None,
    by_environment: bool = False,
    until: Sequence[str] = ("inactive_customers", "cleaning_report"),
) -> Ran:
    """Run a shipped retailer with other cleaning in the data folder `folder / data`.

    Args:
        folder: Holds the retailer file and the data folder.
        shipped: The shipped retailer's name.
        source: Its files, named in the retailer file or in SEGMENTATION_SOURCE.
        cleaning: Settings of `[cleaning]` to replace.
        by_environment: Whether SEGMENTATION_SOURCE names the source.
        until: The last assets of the run; none for a whole run.
    """
    settings = tomllib.loads((SHIPPED / f"{shipped}.toml").read_text("utf-8"))
    settings["source"]["path"] = "nowhere" if by_environment else str(source)
    settings["cleaning"] |= cleaning or {}
    # The published number; the tests of the search find it too.
    settings.setdefault("model", {})["n_clusters"] = 4
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "retailer.toml"
    file.write_text(tomli_w.dumps(settings), "utf-8")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("SEGMENTATION_DATA", str(folder / "data"))
        environment.setenv("SEGMENTATION_RETAILER", str(file))
        if by_environment:
            environment.setenv("SEGMENTATION_SOURCE", str(source))
        assert run_job(assets=assets_up_to(*until) if until else ()).success
    return Ran(folder.name, folder / "data" / settings["name"])


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for all runs, deleted at the end, because pytest would keep a gigabyte of the last three sessions."""
    folder = tmp_path_factory.mktemp("real")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def loaded(scratch: Path) -> Path:
    """The data folder after the daily files are read; runs with other cleaning start from a copy."""
    return run_retailer(scratch / "loaded", "online_retail", DAILY, until=("raw_transactions",)).home.parent


@pytest.fixture(scope="module")
def daily(scratch: Path, loaded: Path) -> Ran:
    shutil.copytree(loaded, scratch / "daily" / "data")
    return run_retailer(scratch / "daily", "online_retail", DAILY, cleaning={"refunds": "ignore"}, until=())


@pytest.fixture(scope="module")
def shuffled(scratch: Path) -> Ran:
    """The lines of all daily files in one file in another order; SEGMENTATION_SOURCE names it."""
    texts = [path.read_text("utf-8").splitlines(keepends=True) for path in sorted(DAILY.glob("*.csv"))]
    lines = [line for _, *lines in texts for line in lines]
    random.Random(1).shuffle(lines)  # noqa: S311 - not for secrets
    source = scratch / "shuffled.csv"
    source.write_text("".join([texts[0][0], *lines]), "utf-8")
    cleaning = {"refunds": "ignore"}
    until = ("inactive_customers", "cleaning_report", "customer_segments", "segment_changes", "customer_value")
    folder = scratch / "shuffled"
    return run_retailer(folder, "online_retail", source, cleaning=cleaning, by_environment=True, until=until)


@pytest.fixture(scope="module")
def parquet(scratch: Path) -> Ran:
    cleaning = {"refunds": "ignore", "sources_overlap": False}
    return run_retailer(scratch / "parquet", "online_retail_ii", PARQUET, cleaning=cleaning)


@pytest.fixture(scope="module")
def workbook(scratch: Path) -> Ran:
    """The lines of one invoice in sixteen and of the A invoices, as cells of the types in the UCI workbook.

    A code of digits is a number, any other is text.
    """
    rows = duckdb.execute(f"select * from '{PARQUET}' where Invoice like 'A%' or hash(Invoice) % 16 = 0").fetchall()
    cells = (
        (mixed(invoice), mixed(stock_code), *others, None if customer is None else int(customer), country)
        for invoice, stock_code, *others, customer, country in rows
    )
    source = write_workbook(scratch / "online_retail_II.xlsx", {"Year 2010-2011": _with_header(cells)})
    return run_retailer(scratch / "workbook", "online_retail_ii", source, until=("raw_transactions",))


def _with_header(rows: Iterator[tuple[object, ...]]) -> Iterator[tuple[object, ...]]:
    yield HEADER_II
    yield from rows


@pytest.fixture(params=SOURCES)
def recipe(request: pytest.FixtureRequest) -> Ran:
    """Each source in turn, with refunds ignored as in the tutorial."""
    ran: Ran = request.getfixturevalue(request.param)
    return ran


@pytest.fixture(scope="module")
def net(scratch: Path, loaded: Path) -> Ran:
    """The daily files with the shipped rules; refunds reduce the money of a customer."""
    shutil.copytree(loaded, scratch / "net" / "data")
    return run_retailer(scratch / "net", "online_retail", DAILY)


@pytest.fixture(scope="module")
def net_of_all_codes(scratch: Path, loaded: Path) -> Ran:
    """The same with the lines that are not products."""
    shipped = tomllib.loads((SHIPPED / "online_retail.toml").read_text("utf-8"))["cleaning"]["rules"]
    rules = [rule for rule in shipped if rule["column"] != "stock_code"]
    assert len(rules) == len(shipped) - 1
    shutil.copytree(loaded, scratch / "net_of_all_codes" / "data")
    return run_retailer(scratch / "net_of_all_codes", "online_retail", DAILY, cleaning={"rules": rules})


@pytest.fixture(scope="module")
def subset(scratch: Path) -> Ran:
    """Both sheets of the subset workbook with the shipped rules; the sheets overlap."""
    return run_retailer(scratch / "subset", "online_retail_ii", SUBSET, until=CLEANING)


@pytest.fixture(scope="module")
def subset_without_rules(scratch: Path, subset: Ran) -> Ran:
    """The same lines without the retailer's rules."""
    folder = scratch / "subset_without_rules"
    shutil.copytree(subset.home.parent, folder / "data")
    return run_retailer(folder, "online_retail_ii", SUBSET, cleaning={"rules": []}, until=CLEANING)


@pytest.fixture(scope="module")
def lines() -> pd.DataFrame:
    """The daily files as pandas reads them; `mills` is the line's money in tenths of a penny, a whole number."""
    frames = [
        pd.read_csv(path, dtype=dict.fromkeys(("InvoiceNo", "StockCode", "CustomerID"), str))
        for path in sorted(DAILY.glob("*.csv"))
    ]
    frame = pd.concat(frames, ignore_index=True)
    frame["at"] = pd.to_datetime(frame["InvoiceDate"])
    frame["mills"] = frame["Quantity"] * (frame["UnitPrice"] * 1000).round().astype("int64")
    frame["is_cancellation"] = frame["InvoiceNo"].str.fullmatch(r"C\d{6}")
    frame["passes"] = (
        (frame["InvoiceNo"].str.fullmatch(r"\d{6}") | frame["is_cancellation"])
        & frame["StockCode"].str.fullmatch(r"\d{5}|\d{5}[a-zA-Z]+|PADS")
        & frame["CustomerID"].notna()
        & (frame["UnitPrice"] > 0)
    )
    return frame


@pytest.fixture(scope="module")
def subset_lines(subset: Ran) -> pd.DataFrame:
    """The lines of both sheets of the subset workbook; `is_copy` marks what the first sheet holds already."""
    with duckdb.connect(str(subset.home / "work.duckdb"), read_only=True) as connection:
        select = f"select source_sheet as sheet, source_line as line, {CONTENT} from raw_transactions order by all"
        frame: pd.DataFrame = connection.sql(select).df()
    content = CONTENT.split(", ")
    frame["nth"] = frame.groupby(["sheet", *content], dropna=False).cumcount()
    frame["is_copy"] = frame.duplicated([*content, "nth"])
    return frame


@cache
def fitted(
    customers: bytes,
    n_clusters: int,
    transform: Transform = "standard",
    random_state: int = 42,
    n_init: int = 1,
    tol: float = 1e-4,
) -> KMeansFit:
    """The published figures are those of `KMeans(random_state=42, max_iter=1000)`: one start, that tolerance.

    Sources whose customers are the same to the last bit share a fit.
    """
    features = np.frombuffer(customers).reshape(-1, len(FEATURES))
    return fit(
        features,
        transform=transform,
        n_clusters=n_clusters,
        random_state=random_state,
        n_init=n_init,
        max_iter=1000,
        tol=tol,
    )


def rounded(*values: Any, digits: int) -> str:
    """Figures as they are printed in EXPECTED.md."""
    return "/".join(f"{value:,.{digits}f}" for value in values)


# EXPECTED.md, "The tutorial's recipe on Online Retail II", where nothing else is said


def test_every_rule_leaves_the_published_number_of_lines(recipe: Ran) -> None:
    report = {
        rule: (lines, left) for rule, lines, left in recipe.rows("select rule, lines, lines_left from cleaning_report")
    }
    raw = RAW_LINES[recipe.name]
    assert report["read"] == (raw, raw)
    assert report["unparseable_value"][0] == 0
    # "Quirks of the data": 9,288 cancellation lines and 3 A invoices; the tutorial's invoice rule rejects both.
    assert report["cancellation"][0] == 9_288
    assert report["invalid_invoice"] == (3, {541_910: 532_619, 541_909: 532_618}[raw])
    assert report["not_a_product"][1] == 530_214
    assert report["missing_customer"][1] == 396_374
    assert report["price_not_positive"] == (34, 396_340)


def test_clean_lines_invoices_and_money_are_the_published_ones(recipe: Ran) -> None:
    clean = recipe.rows("select count(*), count(distinct invoice), sum(amount) from clean_transactions")
    assert [(lines, invoices, rounded(money, digits=2)) for lines, invoices, money in clean] == [
        (396_340, 18_402, "8,761,066.65")
    ]
    [(kept,)] = recipe.rows("select 100 - 100 * sum(share) from cleaning_report where step > 0")
    assert rounded(kept, digits=3) == "73.138"


def test_as_of_is_the_last_timestamp_of_the_source(recipe: Ran, lines: pd.DataFrame) -> None:
    assert recipe.rows("select distinct as_of from rfm_features") == [(lines["at"].max(),)]


def test_customers_and_their_quartiles_are_the_published_ones(recipe: Ran) -> None:
    quartiles = ", ".join(f"quantile_cont({name}::double, [0.25, 0.5, 0.75])" for name in FEATURES)
    [(customers, monetary, frequency, recency)] = recipe.rows(f"select count(*), {quartiles} from rfm_features")
    assert customers == 4_334
    assert rounded(*recency, digits=0) == "17/50/142"
    assert rounded(*frequency, digits=0) == "1/2/5"
    assert rounded(*monetary, digits=2) == "305.56/668.12/1,631.62"


def test_every_source_gives_each_customer_the_same_features(recipe: Ran, daily: Ran) -> None:
    """All later tables derive from these, and from inactive_customers, which is empty."""
    select = "select * from rfm_features order by customer_id"
    assert recipe.rows(select) == daily.rows(select)
    assert recipe.rows("select count(*) from inactive_customers") == [(0,)]


def test_fences_are_the_published_ones(daily: Ran) -> None:
    fences = daily.released("select feature, q1, q3, factor from outlier_fences order by feature")
    assert [(feature, rounded(q1, q3, digits=2), factor) for feature, q1, q3, factor in fences] == [
        ("frequency", "1.00/5.00", 1.5),
        ("monetary", "305.56/1,631.62", 1.5),
    ]


def test_outliers_of_each_fence_are_the_published_ones(daily: Ran) -> None:
    counts = daily.rows(
        "select count(monetary_side), count(frequency_side),"
        " count(*) filter (where monetary_side = 'high' and frequency_side = 'high'), count(*) from outlier_customers"
    )
    assert counts == [(425, 278, 232, 471)]


def test_normal_customers_and_their_means_are_the_published_ones(daily: Ran) -> None:
    normal = daily.features("normal_customers")
    assert len(normal) == 3_863
    assert rounded(*normal.mean(axis=0), digits=2) == "853.81/2.76/99.94"
    assert (normal == daily.normal()).all(), "numpy finds the same customers"


def test_silhouette_and_inertia_are_the_published_ones_for_each_k(daily: Ran) -> None:
    customers = daily.normal().tobytes()
    silhouettes = [fitted(customers, k).silhouette_ for k in range(2, 9)]
    published = [0.4582, 0.4607, 0.4154, 0.3999, 0.3698, 0.3597, 0.3490]
    assert silhouettes == pytest.approx(published, abs=0.001)
    # Converged fits are slightly tighter than scikit-learn's best start.
    inertias = np.array([fitted(customers, k).inertia_ for k in range(2, 6)])
    published = [6229.24, 3602.84, 2777.88, 2378.80]
    assert inertias == pytest.approx(published, rel=1e-4)
    assert (inertias < np.array(published) + 0.005).all()


def test_clusters_have_the_published_sizes_means_and_names(daily: Ran) -> None:
    profiles = daily.released(
        "select segment, customers, mean_monetary, mean_frequency, mean_recency from segment_profiles"
        " where customer_group = 'normal' order by customers"
    )
    assert [
        (segment, customers, f"{monetary:.1f}/{frequency:.2f}/{recency:.1f}")
        for segment, customers, monetary, frequency, recency in profiles
    ] == [
        ("REWARD", 482, "2426.7/6.98/30.7"),
        ("RETAIN", 890, "1250.3/3.91/46.8"),
        ("RE-ENGAGE", 942, "378.4/1.37/258.1"),
        ("NURTURE", 1_549, "425.7/1.62/55.9"),
    ]


def test_the_active_model_is_the_published_one(daily: Ran) -> None:
    [model] = daily.released("select n_clusters, customers, round(inertia, 2), round(silhouette, 4) from kmeans_model")
    assert model == (4, 3_863, 2777.88, 0.4154)
    assert daily.released("select sum(customers) from kmeans_centroids") == [(3_863,)]


def test_outlier_segments_have_the_published_sizes(daily: Ran) -> None:
    sizes = daily.released(
        "select customer_group, segment, count(*) from customer_segments where customer_group <> 'normal' group by all"
        " order by segment"
    )
    assert sizes == [("outlier", "DELIGHT", 232), ("outlier", "PAMPER", 193), ("outlier", "UPSELL", 46)]


def test_outliers_make_the_published_share_of_revenue(daily: Ran) -> None:
    # "Usefulness": IQR outliers are 10.9 % of customers and 62.4 % of revenue.
    shares = daily.released(
        "select sum(customer_share), sum(revenue_share) from segment_profiles where customer_group = 'outlier'"
    )
    assert [f"{customers:.1%} {revenue:.1%}" for customers, revenue in shares] == ["10.9% 62.4%"]


def test_outlier_profiles_are_those_that_pandas_computes(daily: Ran) -> None:
    """Inter-purchase times, lapsing, Gini and top-ten share, from the clean lines without the package's SQL."""
    select = "select customer_id, transaction_at from clean_transactions"
    bought = pd.DataFrame(daily.rows(select), columns=["who", "at"])
    days = bought.assign(day=bought["at"].dt.normalize())[["who", "day"]].drop_duplicates().sort_values("day")
    gaps = days.groupby("who")["day"].diff().dt.days
    own = gaps.groupby(days["who"]).agg(["count", "sum"])
    expected = ((own["sum"] + 2 * gaps.median()) / (own["count"] + 2)).where(own["count"] > 0)
    recency = (bought["at"].max() - bought.groupby("who")["at"].max()).dt.days
    is_lapsing = recency > 2 * expected
    assert 0.15 < is_lapsing[expected.notna()].mean() < 0.25

    select = "select customer_id, segment_key, monetary from customer_segments where customer_group = 'outlier'"
    outliers = pd.DataFrame(daily.rows(select), columns=["who", "segment_key", "monetary"])
    outliers["monetary"] = outliers["monetary"].astype(float)
    outliers["is_lapsing"] = outliers["who"].map(is_lapsing)
    found = {
        row[0]: row[1:]
        for row in daily.released(
            "select segment_key, customers, gini, top_10_share, lapsing_customers, revenue_at_risk_share"
            " from outlier_profiles"
        )
    }
    assert found.keys() == {"delight", "pamper", "upsell"}
    for key, members in outliers.groupby("segment_key"):
        spend, lapsing = members["monetary"].to_numpy(), members["is_lapsing"].to_numpy()
        gini = np.abs(spend[:, None] - spend[None, :]).mean() / (2 * spend.mean())
        figures = [len(spend), gini, np.sort(spend)[-10:].sum() / spend.sum(), lapsing.sum()]
        assert found[str(key)] == pytest.approx((*figures, spend[lapsing].sum() / spend.sum()), rel=1e-9)
    shares = daily.released("select sum(customer_share), sum(revenue_share) from outlier_profiles")
    assert [f"{customers:.1%} {revenue:.1%}" for customers, revenue in shares] == ["10.9% 62.4%"]


@pytest.mark.parametrize("random_state", [0, 1, 7, 2024])
def test_neither_row_order_nor_seed_moves_a_customer(daily: Ran, random_state: int) -> None:
    features = daily.features("normal_customers")
    released = np.array(
        daily.released("select segment from customer_segments where customer_group = 'normal' order by customer_id")
    ).ravel()
    for order in (np.arange(len(features)), np.random.default_rng(random_state).permutation(len(features))):
        model = fitted(features[order].tobytes(), 4, random_state=random_state, n_init=10, tol=0)
        names = np.array([NAMES[key] for key in name_clusters(model.standardised_)])
        segments = names[nearest(model.scaler.apply(features), model.centroids_)]
        assert set(segments) == {"REWARD", "RETAIN", "RE-ENGAGE", "NURTURE"}
        assert (segments == released).all()


# EXPECTED.md, "Refunds"


@pytest.mark.parametrize(
    ("customer", "rank", "before", "after"),
    [("16446", 4, "168,472.50", "2.90"), ("12346", 10, "77,183.60", "0.00")],
)
def test_a_customer_who_returned_everything_is_no_vip(
    daily: Ran, net: Ran, net_of_all_codes: Ran, customer: str, rank: int, before: str, after: str
) -> None:
    ranked = "select customer_id, gross, rank() over (order by gross desc) as rank from rfm_features"
    find = f"select gross, rank from ({ranked}) where customer_id = '{customer}'"
    [(gross, found)] = net_of_all_codes.rows(find)
    # The published ranks are those among all codes: among products alone, 12346 is ninth, by pandas too (below).
    assert (rounded(gross, digits=2), found) == (before, rank)
    for ran, money in ((daily, before), (net, after)):
        [(left,)] = ran.rows(f"select monetary from rfm_features where customer_id = '{customer}'")
        assert rounded(left, digits=2) == money


def test_ranks_before_refunds_are_those_that_pandas_computes(net: Ran, lines: pd.DataFrame) -> None:
    bought = lines[lines["passes"] & ~lines["is_cancellation"]]
    mills = bought.groupby("CustomerID")["mills"].sum().sort_values(ascending=False)
    top = [str(customer).removesuffix(".0") for customer in mills.index[:20]]
    assert [who for (who,) in net.rows("select customer_id from rfm_features order by gross desc limit 20")] == top
    assert (top.index("16446"), top.index("12346")) == (3, 8)


def test_14_customers_with_a_purchase_have_no_money_left(net: Ran) -> None:
    counts = "select count(*), count(*) filter (where monetary <= 0) from rfm_features where frequency > 0"
    assert net.rows(counts) == [(4_334, 14)]
    refunded = (
        "select count(*), max(monetary) <= 0, min(frequency) > 0 from inactive_customers where segment_key = 'refunded'"
    )
    assert net.rows(refunded) == [(14, True, True)]


def test_28_customers_with_only_cancellations_are_dormant(net: Ran, lines: pd.DataFrame) -> None:
    found = net.rows(
        "select customer_id, recency, frequency, monetary, segment_key from inactive_customers"
        " where segment_key <> 'refunded' order by customer_id"
    )
    assert len(found) == 28
    assert rounded(sum(row[3] for row in found), digits=0) == "-3,923"
    assert {(frequency, segment) for *_, frequency, _, segment in found} == {(0, "dormant")}
    passing = lines[lines["passes"]]
    bought = set(passing.loc[~passing["is_cancellation"], "CustomerID"])
    firsts = passing[~passing["CustomerID"].isin(bought)].groupby("CustomerID")["at"].min()
    days = (lines["at"].max() - firsts).dt.days
    assert [(row[0], row[1]) for row in found] == [
        (str(customer).removesuffix(".0"), int(since)) for customer, since in days.items()
    ]


def test_features_of_every_customer_are_those_that_pandas_computes(net: Ran, lines: pd.DataFrame) -> None:
    passing = lines[lines["passes"]]
    bought, back = passing[~passing["is_cancellation"]], passing[passing["is_cancellation"]]
    expected = pd.DataFrame({"net": passing.groupby("CustomerID")["mills"].sum()})
    expected["gross"] = bought.groupby("CustomerID")["mills"].sum()
    expected["refunds"] = -back.groupby("CustomerID")["mills"].sum()
    expected["frequency"] = bought.groupby("CustomerID")["InvoiceNo"].nunique()
    expected["products"] = bought.groupby("CustomerID")["StockCode"].nunique()
    last = bought.groupby("CustomerID")["at"].max().reindex(expected.index)
    first = passing.groupby("CustomerID")["at"].min()
    expected["recency"] = (lines["at"].max() - last.fillna(first)).dt.days
    expected = expected.fillna(0).astype("int64")
    found = net.rows(
        "select customer_id || '.0', (monetary * 1000)::bigint, (gross * 1000)::bigint, (refunds * 1000)::bigint,"
        " frequency, products, recency from rfm_features order by customer_id"
    )
    assert found == list(expected.itertuples(name=None))


def test_refunds_of_all_codes_are_the_published_ones(net_of_all_codes: Ran) -> None:
    # "Of 4,338 buyers 1,589 (36.6 %) have refunds, £611,342 in all": 4,338 customers with a purchase, all codes taken;
    # 1,589 with refunds, the 33 who have nothing but refunds among them, so 36.6 % is of the buyers in number only.
    figures = net_of_all_codes.rows(
        "select count(*) filter (where frequency > 0) as buyers, count(*) filter (where refunds > 0) as with_refunds,"
        " sum(refunds) from rfm_features"
    )
    assert [(buyers, refunded, rounded(money, digits=0)) for buyers, refunded, money in figures] == [
        (4_338, 1_589, "611,342")
    ]


def test_refunds_of_all_codes_are_those_that_pandas_computes(net_of_all_codes: Ran, lines: pd.DataFrame) -> None:
    back = lines[lines["is_cancellation"] & lines["CustomerID"].notna() & (lines["UnitPrice"] > 0)]
    sums = (-back.groupby("CustomerID")["mills"].sum()).items()
    found = net_of_all_codes.rows(
        "select customer_id || '.0', (refunds * 1000)::bigint from rfm_features where refunds <> 0 order by customer_id"
    )
    assert found == [(customer, int(str(mills))) for customer, mills in sums]
    buyers = set(lines.loc[lines["InvoiceNo"].str.fullmatch(r"\d{6}") & (lines["UnitPrice"] > 0), "CustomerID"])
    [(of_buyers,)] = net_of_all_codes.rows("select count(*) from rfm_features where refunds > 0 and frequency > 0")
    assert of_buyers == len(set(back["CustomerID"]) & buyers)


def test_silhouette_and_smallest_share_are_near_the_published_ones(net: Ran) -> None:
    # "Choosing k (net monetary, StandardScaler, normal customers)". It does not say how many starts it had, nor whether
    # the 14 with nothing left were among its customers: no choice of these gives all its digits, each comes this near.
    customers = net.normal().tobytes()
    fits = [fitted(customers, k, n_init=10) for k in range(2, 8)]
    silhouettes = [one.silhouette_ for one in fits]
    assert silhouettes == pytest.approx([0.459, 0.461, 0.415, 0.400, 0.370, 0.362], abs=0.002)
    shares = [one.sizes_.min() / one.sizes_.sum() for one in fits]
    assert shares == pytest.approx([0.26, 0.22, 0.12, 0.08, 0.08, 0.05], abs=0.01)


def test_robust_scaling_of_all_customers_misleads_the_silhouette(daily: Ran) -> None:
    # "Choosing k": RobustScaler on all customers, k = 2: .978, with a cluster of 8 customers; so it is before refunds.
    model = fitted(daily.features().tobytes(), 2, "robust", n_init=10)
    assert (rounded(model.silhouette_, digits=3), model.sizes_.min()) == ("0.978", 8)


# Names of more clusters than the published four

# By their descriptions: recent, less recent and long absent customers, each row from low to high value.
PROMISED = (
    ("NURTURE", "RETAIN", "GROW", "REWARD"),
    ("REMIND", "REACTIVATE", "RECOVER", "RECLAIM"),
    ("RE-ENGAGE", "REVIVE", "RESCUE", "WIN-BACK"),
)


@pytest.mark.parametrize("n_clusters", range(5, 13))
@pytest.mark.parametrize("source", ["daily", "net"])
def test_names_fit_the_clusters_beside_one_another(
    source: str, n_clusters: int, request: pytest.FixtureRequest
) -> None:
    ran: Ran = request.getfixturevalue(source)
    normal = ran.normal()
    model = fitted(normal.tobytes(), n_clusters, n_init=10, tol=0)
    recency = dict[tuple[int, int, bool], float]()
    value = dict[tuple[int, int, bool], float]()
    for key, means, (monetary, frequency, _) in zip(
        name_clusters(model.standardised_), model.means_.tolist(), model.standardised_.tolist(), strict=True
    ):
        name = NAMES[key].removesuffix(" PLUS")
        [absence] = [place for place, names in enumerate(PROMISED) if name in names]
        promise = absence, PROMISED[absence].index(name), name != NAMES[key]
        recency[promise], value[promise] = means[2], (monetary + frequency) / 2
    assert len(value) == n_clusters
    usual = normal[:, 2].mean()
    for one, other in product(value, repeat=2):
        # The name of a longer absence has the longer one; with the same absence, the higher name has the higher value.
        assert one[0] <= other[0] or recency[one] > recency[other], (one, other, recency)
        assert one[0] != other[0] or one[1:] <= other[1:] or value[one] > value[other], (one, other, value)
    for promise in value:
        absence, greatness, _ = promise
        assert absence != 0 or recency[promise] < usual, ("recent", recency)
        assert absence != 2 or recency[promise] > 2 * usual, ("long absent", recency)
        # Low value is below the mean customer, all others above.
        assert (value[promise] > 0) == (greatness > 0), (promise, value)


# EXPECTED.md, "Quirks of the data (2010-2011)", as far as raw_transactions shows them

QUIRKS: dict[str, tuple[str, tuple[object, ...]]] = {
    "cancellation lines and invoices": (
        r"select count(*), count(distinct invoice) from raw_transactions where regexp_full_match(invoice, 'C\d{6}')",
        (9_288, 3_836),
    ),
    "bad debt on A invoices without a customer": (
        "select count(*), count(distinct invoice), count(customer_id), min(amount)::varchar, max(amount)::varchar"
        " from raw_transactions where invoice like 'A%'",
        (3, 3, 0, "-11062.0600", "11062.0600"),
    ),
    "negative quantities": ("select count(*) from raw_transactions where quantity < 0", (10_624,)),
    "negative quantities not on a cancellation, without price and customer": (
        "select count(*), max(abs(price))::int, count(customer_id) from raw_transactions"
        " where quantity < 0 and invoice not like 'C%'",
        (1_336, 0, 0),
    ),
    "prices of zero and below": (
        "select count(*) filter (where price = 0), count(*) filter (where price < 0) from raw_transactions",
        (2_515, 2),
    ),
    "lines without customer": ("select count(*) from raw_transactions where customer_id is null", (135_080,)),
    "gross revenue without customer": (
        "select format('{:.1f} %', 100 * (sum(amount) filter (where customer_id is null) / sum(amount))::double)"
        " from raw_transactions where amount > 0",
        ("16.5 %",),
    ),
    "missing descriptions": ("select count(*) from raw_transactions where description is null", (1_454,)),
    "exact duplicates beyond the first": (
        f"select sum(copies - 1)::int from (select count(*) as copies from raw_transactions group by {CONTENT})",
        (5_268,),
    ),
    "exact duplicates that cleaning keeps": (
        "select sum(copies - 1)::int, sum((copies - 1) * amount)::decimal(18, 2)::varchar from"
        f" (select count(*) as copies, any_value(amount) as amount from clean_transactions group by {CONTENT})",
        (5_187, "23839.01"),
    ),
    "stock codes that are not products": (
        "select count(distinct stock_code) from raw_transactions where list_contains(['POST', 'DOT', 'M', 'm', 'C2',"
        " 'D', 'S', 'BANK CHARGES', 'AMAZONFEE', 'gift_0001_20', 'DCGS0003', 'CRUK', 'PADS', 'B'], stock_code)",
        (14,),
    ),
    "codes that differ in case": (
        "select count(distinct stock_code) from raw_transactions where lower(stock_code) = '15056bl'",
        (2,),
    ),
    "descriptions with edge blanks": (
        "select count(*) from raw_transactions where description <> trim(description)",
        (113_452,),
    ),
    "descriptions with a pound sign": ("select count(*) from raw_transactions where description like '%£%'", (32,)),
    "countries": ("select count(distinct country) from raw_transactions", (38,)),
    "customers in two countries": (
        "select count(*), max(countries) from (select count(distinct country) as countries from raw_transactions"
        " where customer_id is not null group by customer_id) where countries > 1",
        (8, 2),
    ),
    "invoices with two customers": (
        "select count(*) from (select invoice from raw_transactions group by invoice"
        " having count(distinct coalesce(customer_id, 'nobody')) > 1)",
        (0,),
    ),
    "invoices with two timestamps": (
        "select count(*), max(moments) from (select count(distinct transaction_at) as moments from raw_transactions"
        " group by invoice) where moments > 1",
        (43, 2),
    ),
    "customer ids are whole numbers": (
        r"select bool_and(regexp_full_match(customer_id, '\d{5}')) from raw_transactions",
        (True,),
    ),
    "no line is malformed": ("select count(unparsed) from raw_transactions", (0,)),
}


@pytest.mark.parametrize("quirk", QUIRKS)
def test_raw_transactions_show_the_published_quirk(daily: Ran, quirk: str) -> None:
    """With each other source: the next tests compare its lines with these."""
    select, expected = QUIRKS[quirk]
    assert daily.rows(select) == [expected]


def differing(one: Ran, other: Ran, of_one: str = "true") -> list[tuple[Any, ...]]:
    """Return which lines of one run, as far as a condition holds for them, are more or fewer in another one."""
    with duckdb.connect() as connection:
        for name, ran in (("one", one), ("other", other)):
            connection.execute(f"attach '{ran.home / 'work.duckdb'}' as {name} (read_only)")
        counts = f"""
            select hash({CONTENT}) as content, 1 as more from one.raw_transactions where {of_one}
            union all select hash({CONTENT}), -1 from other.raw_transactions
        """
        connection.execute(
            f"create table differing as select content, sum(more)::int as more from ({counts}) group by 1 having more"
        )
        both = "select * from one.raw_transactions union all select * from other.raw_transactions"
        lines = f"select distinct more, {CONTENT} from ({both}) join differing on content = hash({CONTENT})"
        return connection.sql(lines).fetchall() if connection.sql("from differing limit 1").fetchall() else []


def test_the_parquet_file_has_one_more_line_of_postage(daily: Ran, parquet: Ran) -> None:
    found = differing(parquet, daily)
    assert [(more, stock_code, description) for more, _, stock_code, description, *_ in found] == [
        (1, "POST", "POSTAGE")
    ]


def test_lines_in_another_order_are_read_with_the_same_values(daily: Ran, shuffled: Ran) -> None:
    assert differing(daily, shuffled) == []


def test_a_workbook_of_mixed_cells_equals_the_parquet_file(parquet: Ran, workbook: Ran) -> None:
    [(lines, kinds)] = workbook.rows("select count(*), count(distinct left(invoice, 1)) from raw_transactions")
    assert 20_000 < lines < 50_000
    assert kinds == 3, "invoices of digits, cancellations and A invoices"
    assert differing(parquet, workbook, "invoice like 'A%' or hash(invoice) % 16 = 0") == []


# Sheets that overlap: EXPECTED.md, "Quirks of the data"; PROVENANCE.txt has the sheets' rows


def test_both_sheets_of_the_subset_are_read_whole(subset: Ran) -> None:
    counts = "select source_sheet, count(*), min(source_line) from raw_transactions group by all order by all"
    assert subset.rows(counts) == [("Year 2009-2010", 14_269, 2), ("Year 2010-2011", 20_497, 2)]


def test_the_second_sheet_equals_the_parquet_file(parquet: Ran, subset: Ran) -> None:
    lines = subset.rows(f"select {CONTENT} from raw_transactions where source_sheet = 'Year 2010-2011' order by all")
    countries = tuple({country for *_, country in lines})
    assert len(countries) == 10
    assert parquet.rows(f"select {CONTENT} from raw_transactions where country in {countries} order by all") == lines


def test_441_lines_of_both_sheets_count_once(subset_without_rules: Ran, subset_lines: pd.DataFrame) -> None:
    copies = subset_lines[subset_lines["is_copy"]]
    found = subset_without_rules.rows(
        "select source_sheet, source_line from rejected_transactions where rule = 'exact_duplicate' order by all"
    )
    assert len(found) == 441
    assert found == list(zip(copies["sheet"], copies["line"], strict=True))
    assert set(copies["sheet"]) == {"Year 2010-2011"}


def test_lines_that_one_sheet_repeats_are_kept(subset_without_rules: Ran, subset_lines: pd.DataFrame) -> None:
    counts = subset_lines["customer_id"].notna() & ~subset_lines["is_copy"]
    repeated = subset_lines[counts & (subset_lines["nth"] > 0)]
    assert len(repeated)
    kept = subset_without_rules.rows("select source_sheet, source_line from clean_transactions")
    assert set(zip(repeated["sheet"], repeated["line"], strict=True)) <= set(kept)
    assert len(kept) == counts.sum()


def test_with_the_shipped_rules_the_first_sheet_counts(subset: Ran, subset_lines: pd.DataFrame) -> None:
    passes = (
        subset_lines["invoice"].str.fullmatch(r"C?\d{6}")
        & subset_lines["stock_code"].str.fullmatch(r"\d{5}|\d{5}[a-zA-Z]+|PADS")
        & subset_lines["customer_id"].notna()
        & (subset_lines["price"] > 0)
    )
    copies = subset_lines[subset_lines["is_copy"]]
    rejected = subset.rows("select source_sheet, source_line from rejected_transactions")
    assert set(zip(copies["sheet"], copies["line"], strict=True)) <= set(rejected)
    counted = subset_lines[passes & ~subset_lines["is_copy"]]
    clean = subset.rows("select source_sheet, source_line from clean_transactions order by all")
    assert clean == list(zip(counted["sheet"], counted["line"], strict=True))
    by_rule = subset.rows("select count(*) from rejected_transactions where rule = 'exact_duplicate'")
    assert by_rule == [(int((passes & subset_lines["is_copy"]).sum()),)]


# Reproducible runs: docs/architecture.md, guarantee 3

# The file and the number of a line are in the key of these.
LINE_TABLES = {"ingested_files", "raw_transactions", "clean_transactions", "rejected_transactions", "invoice_totals"}


def digests(ran: Ran, *, with_lines: bool = True) -> dict[str, tuple[Any, ...]]:
    """Return a digest of the rows of each table of the working database, without run ids."""
    found = {}
    with duckdb.connect(str(ran.home / "work.duckdb"), read_only=True) as connection:
        stored = {table for (table,) in connection.execute("select table_name from duckdb_tables()").fetchall()}
        for table, contract in contracts().items():
            if table in stored and (with_lines or table not in LINE_TABLES):
                columns = ", ".join(f'"{column.name}"' for column in contract.columns if column.name != "run_id")
                [found[table]] = connection.execute(f'select count(*), sum(hash({columns})) from "{table}"').fetchall()
    return found


def published(ran: Ran) -> dict[str, bytes]:
    """Return the Parquet files of the current release."""
    return {path.name: path.read_bytes() for path in (ran.home / "releases" / "current").glob("*.parquet")}


def test_row_order_changes_no_table_from_the_features_on(daily: Ran, shuffled: Ran) -> None:
    """Both runs started without a model, so a repeated first run gives the same segments too."""
    one, other = (digests(ran, with_lines=False) for ran in (daily, shuffled))
    assert other.keys() >= {"rfm_features", "customer_segments", "segment_membership", "segment_changes"}
    assert {name for name in other if one[name] != other[name]} == set()


def test_a_second_night_changes_no_table_and_no_file(daily: Ran, scratch: Path) -> None:
    tables, files = digests(daily), published(daily)
    assert tables
    assert files
    with duckdb.connect(str(daily.home / "work.duckdb")) as connection:
        # Otherwise the second night would derive nothing.
        connection.execute("delete from table_versions")
    again = run_retailer(scratch / "daily", "online_retail", DAILY, cleaning={"refunds": "ignore"}, until=())
    assert (digests(again), published(again)) == (tables, files)


# The writer of the workbook


def test_other_readers_read_a_written_workbook_with_its_types(tmp_path: Path) -> None:
    from openpyxl import load_workbook
    from python_calamine import CalamineWorkbook

    at, later = datetime(2010, 12, 1, 8, 26), datetime(2011, 12, 9, 12, 50, 59)  # noqa: DTZ001
    rows: list[tuple[object, ...]] = [
        HEADER_II,
        (536365, "85123A", ' <"T-LIGHT"> & £ ', 6, at, 2.55, 17850, "EIRE"),
        ("C536379", "00123", None, -1, later, 0.001, None, "EIRE"),
    ]
    path = write_workbook(tmp_path / "small.xlsx", {"Year 2010-2011": rows, "<other> & wide": [list(range(30))]})
    book = load_workbook(path)
    assert book.sheetnames == ["Year 2010-2011", "<other> & wide"]
    assert list(book["Year 2010-2011"].iter_rows(values_only=True)) == rows
    assert book["<other> & wide"]["AD1"].value == 29
    _, *found = CalamineWorkbook.from_path(str(path)).get_sheet_by_index(0).to_python()
    assert found == [["" if value is None else value for value in row] for row in rows[1:]]
    assert [row[4] for row in found] == [at, later]


def test_only_codes_of_digits_are_numbers_in_a_workbook() -> None:
    assert [mixed(text) for text in ("536365", "C536365", "85123A", "00123", None)] == [
        536365,
        "C536365",
        "85123A",
        "00123",
        None,
    ]


def test_a_workbook_takes_no_value_that_readers_misread(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="cannot be"):
        write_workbook(tmp_path / "bad.xlsx", {"sheet": [[b"bytes"]]})
    with pytest.raises(ValueError, match="XML cannot hold"):
        write_workbook(tmp_path / "bad.xlsx", {"sheet": [["\x01"]]})
