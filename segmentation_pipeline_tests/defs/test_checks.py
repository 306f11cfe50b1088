"""Each check passes on good data and fails on one named bad data set; blocking ones stop the release, warnings do not.

One good run is made once; each test works on a copy of what it left, and runs only the assets and checks it is about.
"""

import re
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg
import duckdb
import pytest

from segmentation_pipeline.definitions import defs
from segmentation_pipeline.defs.model.assets import TABLES as FITTED
from segmentation_pipeline.releases.files import Release
from segmentation_pipeline.releases.gate import CHECKS as RELEASE_CHECKS
from segmentation_pipeline.releases.gate import ReleaseMetrics, implausible_as_of, sudden_loss
from segmentation_pipeline.releases.store import Releases
from segmentation_pipeline.tables.catalog import check_select
from segmentation_pipeline_tests.scenarios import line, regular_customers, retailer_file, run_job, write_csv

LOADED = defs()
CHECKS = LOADED.resolve_asset_graph().asset_check_keys
SETTINGS: dict[str, dict[str, Any]] = {
    "checks": {"min_customers": 50, "min_days": 200, "min_silhouette": 0.0, "max_rejected_change": 0.05},
    # The number of clusters is searched for, quickly, and so that one passes among so few customers.
    "model": {
        "n_clusters": "auto",
        "k_range": [4, 5],
        "resamples": 2,
        "min_stability": -1,
        "min_share": 0,
        "tolerance": 0.9,
    },
    # Shorter than the data, so that the last month ends can be compared.
    "rfm": {"look_back_days": 200},
}
FREE = [line(invoice=f"60000{n}", price="0", customer="10001", at="2024-05-01 10:00:00") for n in range(5)]
GOOD = [*regular_customers(), *FREE]
moment = datetime.fromisoformat


class Shop:
    """A retailer with its data folder, and the parts of the project run on it through Dagster."""

    def __init__(self, folder: Path, data: Path, instance: dg.DagsterInstance) -> None:
        self.folder, self.data, self.instance = folder, data, instance

    @property
    def releases(self) -> Releases:
        return Releases(self.data / "corner_shop" / "releases")

    def tamper(self, *statements: str) -> None:
        with duckdb.connect(str(self.data / "corner_shop" / "work.duckdb")) as connection:
            for statement in statements:
                connection.execute(statement)

    def rows(self, select: str) -> list[tuple[Any, ...]]:
        with duckdb.connect(str(self.data / "corner_shop" / "work.duckdb"), read_only=True) as connection:
            return connection.execute(select).fetchall()

    def configure(self, **sections: Any) -> None:
        merged = {name: {**SETTINGS.get(name, {}), **sections.get(name, {})} for name in {*SETTINGS, *sections}}
        retailer_file(self.folder, self.folder / "source", **merged)

    def run(
        self,
        *assets: str,
        checks: Sequence[str] = (),
        config: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> dg.ExecuteInProcessResult:
        """Run some assets with their checks, and some checks alone."""
        asked = {*checks, *(RELEASE_CHECKS if {*checks} & {*RELEASE_CHECKS} else ())}
        keys = [key for key in CHECKS if key.name in asked]
        selection = dg.AssetSelection.assets(*assets) | dg.AssetSelection.checks(*keys)
        job = dg.define_asset_job("part", selection)
        quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
        return (
            dg.Definitions.merge(LOADED, dg.Definitions(jobs=[job]))
            .resolve_job_def("part")
            .execute_in_process(
                run_config={**quiet, **(config or {})},
                instance=self.instance,
                tags=dict(tags or {}),
                raise_on_error=False,
            )
        )


def evaluations(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetCheckEvaluation]:
    """By `asset:check`."""
    return {f"{e.asset_key.to_user_string()}:{e.check_name}": e for e in result.get_asset_check_evaluations()}


def evaluation(result: dg.ExecuteInProcessResult, name: str) -> dg.AssetCheckEvaluation:
    [found] = [e for key, e in evaluations(result).items() if name in (key, e.check_name)]
    return found


def materialised(result: dg.ExecuteInProcessResult) -> set[str]:
    events = [event for event in result.all_events if event.is_step_materialization]
    return {event.asset_key.to_user_string() for event in events if event.asset_key}


def metadata(result: dg.ExecuteInProcessResult, asset: str) -> dict[str, Any]:
    [event] = result.asset_materializations_for_node(asset)[:1]
    return {name: value.value for name, value in event.metadata.items()}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dg.ExecuteInProcessResult, list[str]]]:
    """The folder that a good run left, its result, and what it warned of."""
    folder = tmp_path_factory.mktemp("good")
    source = write_csv(folder / "source" / "a.csv", GOOD)
    file = retailer_file(folder, source.parent, **SETTINGS)
    with (
        pytest.MonkeyPatch.context() as environment,
        warnings.catch_warnings(record=True) as told,
        dg.DagsterInstance.ephemeral() as instance,
    ):
        warnings.simplefilter("always")
        environment.setenv("SEGMENTATION_RETAILER", str(file))
        environment.setenv("SEGMENTATION_DATA", str(folder / "data"))
        result = run_job(instance)
        yield folder, result, [f"{warning.category.__name__}: {warning.message}" for warning in told]


@pytest.fixture
def shop(
    good: tuple[Path, dg.ExecuteInProcessResult, list[str]],
    tmp_path: Path,
    data_folder: Path,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
) -> Shop:
    folder = tmp_path / "shop"
    shutil.copytree(good[0] / "data", data_folder, symlinks=True)
    shutil.copytree(good[0] / "source", folder / "source")
    made = Shop(folder, data_folder, instance)
    made.configure()
    monkeypatch.setenv("SEGMENTATION_RETAILER", str(folder / "retailer.toml"))
    return made


# The questions of the gate, without a run.


def standing(**changed: Any) -> Release:
    figures = {"clean_lines": 1000, "customers": 100, "revenue": "50000.0000", **changed}
    return Release(Path("000001-20240331-abcdef"), {"as_of": "2024-03-31 12:00:00", "figures": figures})


def figures(**changed: Any) -> ReleaseMetrics:
    values = {
        "as_of": moment("2024-04-01 12:00:00"),
        "last_transaction_at": moment("2024-04-01 12:00:00"),
        "raw_lines": 1200,
        "rejected_lines": 200,
        "clean_lines": 1000,
        "customers": 100,
        "revenue": Decimal("50000.0000"),
    }
    return ReleaseMetrics(**{**values, **changed})


@pytest.mark.parametrize(
    ("name", "least", "below"),
    [("clean_lines", 800, 799), ("customers", 80, 79), ("revenue", Decimal(40000), Decimal("39999.9999"))],
)
def test_a_fall_of_lines_customers_or_revenue_by_more_than_the_bound_is_told(name: str, least: Any, below: Any) -> None:
    assert sudden_loss(standing(), figures(**{name: least}), 0.2) == ""
    said = sudden_loss(standing(), figures(**{name: below}), 0.2)
    assert name in said
    assert "000001-20240331-abcdef" in said
    assert "20%" in said


def test_growth_and_a_first_release_are_no_fall() -> None:
    assert sudden_loss(None, figures(), 0.2) == ""
    assert sudden_loss(standing(), figures(clean_lines=10**6, customers=10**4, revenue=Decimal(10**7)), 0.2) == ""
    assert sudden_loss(standing(revenue="-3.00"), figures(revenue=Decimal(-5)), 0.2) == ""


def of_last(at: datetime) -> ReleaseMetrics:
    """An as-of that is the last transaction's."""
    return figures(as_of=at, last_transaction_at=at)


def test_an_as_of_that_jumps_either_way_by_more_than_the_bound_is_told() -> None:
    tick, before = moment("2024-08-01 02:00:00"), moment("2024-03-31 12:00:00")
    for days, jumps in ((35, False), (-35, False), (36, True), (-36, True)):
        said = implausible_as_of(standing(), of_last(before + timedelta(days=days)), tick, 35)
        assert bool(said) == jumps
        assert ("35 days" in said) == jumps
    assert implausible_as_of(None, of_last(before), tick, 35) == ""


def test_an_as_of_ahead_of_the_tick_is_told_also_for_a_first_release() -> None:
    tick = moment("2024-04-01 02:00:00")
    assert implausible_as_of(None, of_last(tick), tick, 10**6) == ""
    assert "later than the time of the run" in implausible_as_of(
        standing(), of_last(moment("2099-01-01 00:00:00")), tick, 10**6
    )


@pytest.mark.parametrize("ahead", [timedelta(seconds=1), timedelta(hours=20), timedelta(hours=22)])
def test_a_line_dated_ahead_of_the_tick_is_told_be_it_by_less_than_a_day(ahead: timedelta) -> None:
    """22 hours ahead is a midnight: a source that tells days only has no grace either."""
    tick = moment("2024-04-01 02:00:00")
    said = implausible_as_of(None, of_last(tick + ahead), tick, 10**6)
    assert f"as_of {tick + ahead} is later than the time of the run, 2024-04-01 02:00" in said


@pytest.mark.parametrize(
    ("as_of", "ahead"),
    [
        # The midnight after the day of the run: that day counts whole.
        ("2024-04-02 00:00:00", False),
        ("2024-04-03 00:00:00", True),
        # A moment is not a day.
        ("2024-04-01 22:00:00", True),
    ],
)
def test_only_a_day_of_the_settings_may_end_after_the_run(as_of: str, ahead: bool) -> None:
    found = figures(as_of=moment(as_of), last_transaction_at=moment("2024-03-31 18:00:00"))
    said = implausible_as_of(None, found, moment("2024-04-01 02:00:00"), 10**6)
    assert bool(said) == ahead
    assert ("the last transaction is at 2024-03-31 18:00:00" in said) == ahead


# Checks across tables.

BY_HAND = {
    "lines_of_each_file": "ingested_files",
    "files_are_readable": "ingested_files",
    "no_file_is_missing": "ingested_files",
    "lines_and_money_reconcile": "clean_transactions",
    "feed_is_fresh": "clean_transactions",
    "rejected_share_is_usual": "cleaning_report",
    "customers_and_money_reconcile": "rfm_features",
    "minimum_data": "rfm_features",
    "all_combinations_named": "rfm_segment_map",
    "scores_direction_and_ties": "rfm_scores",
    "no_sudden_loss": "rfm_features",
    "as_of_plausible": "rfm_features",
    "number_of_clusters_is_clear": "kmeans_candidates",
    "last_model_was_promoted": "segmentation_models",
    "silhouette_above_minimum": "kmeans_model",
    "sql_agrees_with_predict": "kmeans_segments",
    "score_customer_agrees": "nearest_segments",
    "every_customer_in_one_segment": "customer_segments",
    "no_drift_since_fit": "model_drift",
    "migrations_sum_to_customers": "segment_migrations",
    "segments_predict_no_worse_than_rules": "backtest_metrics",
}
WARNINGS = {
    "files_are_readable",
    "no_file_is_missing",
    "feed_is_fresh",
    "rejected_share_is_usual",
    "number_of_clusters_is_clear",
    "last_model_was_promoted",
    "silhouette_above_minimum",
    "no_drift_since_fit",
    "segments_predict_no_worse_than_rules",
}
ACCEPT = {"resources": {"retailer": {"config": {"accept_change": True}}}}
REFIT = {"ops": {"segmentation_model": {"config": {"refit": True}}}}


def test_every_check_passes_on_good_data(good: tuple[Path, dg.ExecuteInProcessResult, list[str]]) -> None:
    found = evaluations(good[1])
    assert good[1].success
    assert {key: e.passed for key, e in found.items()} == dict.fromkeys(found, True)
    assert set(found) == {key.to_user_string() for key in CHECKS}
    by_hand = {e.check_name: key.split(":")[0] for key, e in found.items() if e.check_name in BY_HAND}
    assert by_hand == BY_HAND
    others = {key for key, e in found.items() if e.check_name not in BY_HAND and not key.endswith(":contract")}
    # A part of its asset, which it may stop before anything is loaded; see test_intake.
    assert others == {"ingested_files:columns_unchanged"}


def test_the_good_data_are_enough_for_every_check_to_look_at_something(shop: Shop) -> None:
    for asset in {*BY_HAND.values()}:
        assert shop.rows(f"select count(*) from {asset}") > [(0,)], asset


def test_a_whole_run_uses_nothing_deprecated(good: tuple[Path, dg.ExecuteInProcessResult, list[str]]) -> None:
    assert [text for text in good[2] if "Deprecat" in text or "FutureWarning" in text or "Supersession" in text] == []


def test_the_checks_pass_alone_and_the_release_follows(shop: Shop) -> None:
    result = shop.run("release", checks=list(BY_HAND))
    assert {e.check_name for e in evaluations(result).values() if e.passed} == {*BY_HAND}
    assert materialised(result) == {"release"}
    assert len(shop.releases.all()) == 2


# The night after the last transaction, as a schedule's run knows it.
NIGHT = {".dagster/scheduled_execution_time": "2024-10-29T02:00:00+00:00"}
ONE_CUSTOMER = "customer_id = (select min(customer_id) from {0})"
HELD = (
    "insert into segmentation_models select models.* replace ('held' || n as model_id, number + n as number,"
    " 'held' as status, 'Only ' || n || ' % keep theirs.' as reasons) from segmentation_models as models,"
    " range(1, {} + 1) as made(n)"
)
MARKED_DORMANT = (
    "update customer_segments set customer_group = 'inactive', segment_key = 'dormant', segment = 'DORMANT' where "
    + ONE_CUSTOMER.format("normal_customers")
)

BAD = [
    ("lines_of_each_file", "a line lost", "delete from raw_transactions where source_line = 2"),
    (
        "lines_of_each_file",
        "a line twice",
        "insert into raw_transactions select * replace (999999 as source_line) from raw_transactions limit 1",
    ),
    (
        "lines_of_each_file",
        "a line that broke later",
        'update raw_transactions set unparsed = \'{"line":"x"}\' where source_line = 2',
    ),
    ("lines_of_each_file", "a file that nobody read", "delete from ingested_files"),
    ("lines_of_each_file", "a file without its lines", "delete from raw_transactions"),
    ("files_are_readable", "a file set aside", "update ingested_files set status = 'set_aside', reason = 'no text'"),
    ("lines_and_money_reconcile", "a line lost", "delete from clean_transactions where source_line = 2"),
    (
        "lines_and_money_reconcile",
        "a refused line counted as clean too",
        "insert into clean_transactions select * exclude (unparsed, rule, reason), false from rejected_transactions",
    ),
    (
        "lines_and_money_reconcile",
        "a penny too much",
        "update clean_transactions set amount = amount + 0.01 where source_line = 2",
    ),
    (
        "customers_and_money_reconcile",
        "a customer lost",
        "delete from rfm_features where customer_id = '10003'",
    ),
    (
        "customers_and_money_reconcile",
        "a customer made up",
        "insert into rfm_features select * replace ('x' as customer_id, 0 as monetary) from rfm_features limit 1",
    ),
    (
        "customers_and_money_reconcile",
        "a penny lost",
        "update rfm_features set monetary = monetary - 0.01 where customer_id = '10003'",
    ),
    (
        "customers_and_money_reconcile",
        "a ghost in place of a customer",
        "update rfm_features set customer_id = 'ghost' where customer_id = '10003'",
    ),
    (
        "customers_and_money_reconcile",
        "money moved between two customers",
        "update rfm_features set monetary = monetary + case customer_id when '10003' then 100 else -100 end"
        " where customer_id in ('10003', '10004')",
    ),
    ("minimum_data", "few customers", "delete from clean_transactions where customer_id >= '10049'"),
    ("minimum_data", "few days", "delete from clean_transactions where transaction_at >= '2024-07-01'"),
    (
        "all_combinations_named",
        "a combination without a name",
        "delete from rfm_segment_map where recency_score = 3 and frequency_score = 2 and monetary_score = 1",
    ),
    (
        "all_combinations_named",
        "a combination with two",
        "insert into rfm_segment_map values (3, 2, 1, 'Lost')",
    ),
    ("scores_direction_and_ties", "recent is 1", "update rfm_scores set recency_score = 6 - recency_score"),
    ("scores_direction_and_ties", "often is 1", "update rfm_scores set frequency_score = 6 - frequency_score"),
    ("scores_direction_and_ties", "spender is 1", "update rfm_scores set monetary_score = 6 - monetary_score"),
    (
        "scores_direction_and_ties",
        "a tie scored twice",
        "update rfm_scores set frequency_score = case when customer_id = '10000' then 2"
        " when customer_id in (select customer_id from rfm_features where frequency = 1) then 1 else 5 end",
    ),
    (
        "sql_agrees_with_predict",
        "a customer in another cluster",
        "update kmeans_segments set cluster = (cluster + 1) % 4 where " + ONE_CUSTOMER.format("kmeans_segments"),
    ),
    (
        "sql_agrees_with_predict",
        "a customer without a cluster",
        "delete from kmeans_segments where " + ONE_CUSTOMER.format("kmeans_segments"),
    ),
    (
        "sql_agrees_with_predict",
        "a scaler of another fit",
        "update model_features set center = center + 3 * scale",
    ),
    (
        "score_customer_agrees",
        "a customer in another segment",
        "update nearest_segments set segment_key = 'refunded' where " + ONE_CUSTOMER.format("nearest_segments"),
    ),
    (
        "score_customer_agrees",
        "a scaler of another fit",
        "update kmeans_scaler set center = center + 3 * scale",
    ),
    ("score_customer_agrees", "a fence of another fit", "update outlier_fences set upper_fence = upper_fence / 4"),
    (
        "score_customer_agrees",
        "names moved on by a cluster",
        "update kmeans_centroids set segment_key = (select other.segment_key from kmeans_centroids as other"
        " where other.cluster = (kmeans_centroids.cluster + 1) % (select count(*) from kmeans_centroids))",
    ),
    (
        "migrations_sum_to_customers",
        "a way lost",
        "delete from segment_migrations where month_end = (select max(month_end) from segment_migrations)"
        " and from_segment = (select min(from_segment) from segment_migrations)",
    ),
    (
        "migrations_sum_to_customers",
        "a month lost",
        "delete from segment_migrations where month_end = (select max(month_end) from segment_migrations)",
    ),
    (
        "migrations_sum_to_customers",
        "a customer counted twice",
        "update segment_migrations set customers = customers + 1 where (month_end, from_segment, to_segment) ="
        " (select min((month_end, from_segment, to_segment)) from segment_migrations)",
    ),
    (
        "every_customer_in_one_segment",
        "lost in the split",
        "delete from normal_customers where " + ONE_CUSTOMER.format("normal_customers"),
    ),
    (
        "every_customer_in_one_segment",
        "normal and inactive at once",
        "insert into inactive_customers select *, 'dormant' from normal_customers limit 1",
    ),
    (
        "every_customer_in_one_segment",
        "lost on the way to segments",
        "delete from customer_segments where customer_id = '10003'",
    ),
    (
        "every_customer_in_one_segment",
        "twice in segments, another not at all",
        "update customer_segments set customer_id = '10004' where customer_id = '10003'",
    ),
    (
        "every_customer_in_one_segment",
        "a penny lost on the way to segments",
        "update customer_segments set monetary = monetary - 0.01 where customer_id = '10003'",
    ),
    (
        "every_customer_in_one_segment",
        "a ghost in place of a customer",
        "update customer_segments set customer_id = 'ghost' where customer_id = '10003'",
    ),
    (
        "every_customer_in_one_segment",
        "a ghost in the split",
        "update normal_customers set customer_id = 'ghost' where " + ONE_CUSTOMER.format("normal_customers"),
    ),
    (
        "every_customer_in_one_segment",
        "money moved between two customers",
        "update customer_segments set monetary = monetary + case customer_id when '10003' then 100 else -100 end"
        " where customer_id in ('10003', '10004')",
    ),
    ("every_customer_in_one_segment", "a normal customer marked dormant", MARKED_DORMANT),
    (
        "every_customer_in_one_segment",
        "a normal customer in the segment of the dormant",
        MARKED_DORMANT.replace("customer_group = 'inactive',", ""),
    ),
    (
        "rejected_share_is_usual",
        "a tenth more refused",
        "update cleaning_report set lines = lines + 30 where rule = 'price_not_positive'",
    ),
    (
        "feed_is_fresh",
        "nothing came for nine days",
        "delete from clean_transactions where transaction_at >= '2024-10-20'",
    ),
    ("silhouette_above_minimum", "clusters in one another", "update kmeans_model set silhouette = -0.01"),
    (
        "number_of_clusters_is_clear",
        "the least bad number was taken",
        "update kmeans_candidates set passes = false, verdict = 'unstable' where is_chosen",
    ),
    ("last_model_was_promoted", "a model is held", HELD.format(1)),
    (
        "no_drift_since_fit",
        "half of the customers moved",
        "update model_drift set value = 0.5 where figure = 'share_moved'",
    ),
    (
        "segments_predict_no_worse_than_rules",
        "rules foretell better",
        "update backtest_metrics set segments_lead_low = -0.2, segments_lead_high = -0.01"
        " where segmentation = 'rfm_segments' and population = 'all' and figure = 'gini'",
    ),
    ("no_sudden_loss", "half of the customers lost", "delete from rfm_features where customer_id >= '10030'"),
    ("no_sudden_loss", "half of the money lost", "update rfm_features set monetary = monetary / 2"),
    ("as_of_plausible", "a line of 2099", "update rfm_features set as_of = '2099-01-01 10:00:00'"),
    ("as_of_plausible", "a feed of a year ago", "update rfm_features set as_of = as_of - interval 1 year"),
]


@pytest.mark.parametrize(
    ("check", "bad"), [pytest.param(check, bad, id=f"{check}: {name}") for check, name, bad in BAD]
)
def test_a_check_fails_on_bad_data_and_a_blocking_one_stops_the_release(shop: Shop, check: str, bad: str) -> None:
    shop.tamper(bad)
    result = shop.run("release", checks=[check], tags=NIGHT)
    found = evaluation(result, check)
    assert not found.passed
    assert found.description
    if check in WARNINGS:
        assert found.severity == dg.AssetCheckSeverity.WARN
        assert result.success
        assert len(shop.releases.all()) == 2
    else:
        assert found.severity == dg.AssetCheckSeverity.ERROR
        # The gate's are about sums: no row is at fault.
        if check not in RELEASE_CHECKS:
            faults = found.metadata["rows"]
            assert isinstance(faults, dg.TableMetadataValue)
            assert faults.records
        assert not result.success
        assert (materialised(result), len(shop.releases.all())) == (set(), 1)


@pytest.mark.parametrize(
    ("check", "table"),
    [("customers_and_money_reconcile", "rfm_features"), ("every_customer_in_one_segment", "customer_segments")],
)
def test_a_check_across_tables_finds_each_bad_customer_and_no_good_one_and_says_where_their_names_are(
    shop: Shop, check: str, table: str
) -> None:
    shop.tamper(
        f"update {table} set customer_id = 'ghost' where customer_id = '10003'",
        f"update {table} set monetary = monetary - 100 where customer_id = '10004'",
        f"update {table} set monetary = monetary + 100 where customer_id = '10005'",
    )
    found = evaluation(shop.run(checks=[check]), check)
    faults = found.metadata["rows"]
    assert isinstance(faults, dg.TableMetadataValue)
    assert len(faults.records) == 4
    assert all("customer_id" not in record.data for record in faults.records)
    assert f"sql/checks/{check}.sql of the package, asked of the working database, names the" in str(found.description)
    named = shop.rows(check_select(f"{check}").replace("$look_back_days", str(SETTINGS["rfm"]["look_back_days"])))
    assert [customer for customer, *_ in named] == ["10003", "10004", "10005", "ghost"]


@pytest.mark.parametrize(("tick", "fresh"), [("2024-11-02T09:39:00+00:00", True), ("2024-11-02T09:39:01+00:00", False)])
def test_a_dead_feed_does_not_look_like_a_quiet_shop(shop: Shop, tick: str, fresh: bool) -> None:
    """The newest transaction is of 2024-10-28 09:39; at five days to the second, it is old."""
    on_time = shop.run(checks=["feed_is_fresh"], tags={".dagster/scheduled_execution_time": tick})
    found = evaluation(on_time, "feed_is_fresh")
    assert found.passed == fresh
    assert fresh or "2024-10-28 09:39:00" in (found.description or "")
    assert on_time.success


def test_a_run_by_hand_over_old_data_is_no_dead_feed(shop: Shop) -> None:
    found = evaluation(shop.run(checks=["feed_is_fresh"]), "feed_is_fresh")
    assert (found.passed, found.metadata["scheduled"].value) == (True, False)


def test_lines_dated_in_the_future_or_after_as_of_neither_feign_nor_hide_life(shop: Shop) -> None:
    alive = "update rejected_transactions set rule = 'after_as_of', transaction_at = '2024-11-08 10:00:00'"
    week_later = {".dagster/scheduled_execution_time": "2024-11-09T02:00:00+00:00"}
    shop.tamper(
        "insert into clean_transactions select * replace (999 as source_line, timestamp '2099-01-01' as"
        " transaction_at) from clean_transactions limit 1"
    )
    assert not evaluation(shop.run(checks=["feed_is_fresh"], tags=week_later), "feed_is_fresh").passed
    shop.tamper(alive)
    assert evaluation(shop.run(checks=["feed_is_fresh"], tags=week_later), "feed_is_fresh").passed
    shop.tamper("delete from rejected_transactions", "update clean_transactions set transaction_at = '2099-01-01'")
    found = evaluation(shop.run(checks=["feed_is_fresh"], tags=week_later), "feed_is_fresh")
    assert "No transaction is dated before the tick" in (found.description or "")


def test_each_check_by_hand_has_a_bad_data_set() -> None:
    # What is gone is told by the run that misses it; see test_intake.
    assert {check for check, *_ in BAD} == set(BY_HAND) - {"no_file_is_missing"}


def test_a_tie_between_two_centroids_is_no_disagreement(shop: Shop) -> None:
    """Scikit-learn and SQL may break an exact tie differently in the last bits; either is a nearest centroid."""
    shop.tamper(
        "update model_features set center = 0, scale = 1",
        "update model_centroids set scaled_monetary = 0.1 + 0.2 * cluster, scaled_frequency = 0, scaled_recency = 0",
        "delete from kmeans_scaler",
        "insert into kmeans_scaler by name select feature, exponent, center, scale, 'standard' as transform"
        " from model_features",
        "delete from kmeans_centroids",
        "insert into kmeans_centroids by name select * exclude (model_id) from model_centroids",
        "delete from outlier_customers",
        "delete from inactive_customers",
        "update rfm_features set monetary = 0.2 * (1 + cast(customer_id as integer) % 3), frequency = 1, recency = 0",
        "update outlier_flags set side = 'within', nearest_side = 'within'",
    )
    shop.run("scaled_customers", "nearest_centroids", "normal_customers")
    assert shop.rows("select count(*) from normal_customers") == [(60,)]
    result = shop.run("kmeans_segments", "nearest_segments", checks=["sql_agrees_with_predict"])
    assert evaluation(result, "sql_agrees_with_predict").passed


def test_a_failing_check_in_the_middle_stops_what_is_downstream_of_it(shop: Shop) -> None:
    shop.tamper("delete from assigned_segments where " + ONE_CUSTOMER.format("assigned_segments"))
    result = shop.run("customer_segments", "segment_profiles", "segment_membership", "release")
    assert evaluation(result, "customer_segments:contract").passed
    assert not evaluation(result, "every_customer_in_one_segment").passed
    assert materialised(result) == {"customer_segments"}
    assert len(shop.releases.all()) == 1


@pytest.mark.parametrize(("held", "asks_for_a_person"), [(1, False), (2, False), (3, True), (4, True)])
def test_models_held_in_a_row_warn_and_the_third_asks_for_a_person(
    shop: Shop, held: int, asks_for_a_person: bool
) -> None:
    shop.tamper(HELD.format(held))
    result = shop.run("release", checks=["last_model_was_promoted"])
    found = evaluation(result, "last_model_was_promoted")
    wanted = dg.AssetCheckSeverity.ERROR if asks_for_a_person else dg.AssetCheckSeverity.WARN
    assert (found.passed, found.severity) == (False, wanted)
    assert f"The last: Only {held} % keep theirs." in (found.description or "")
    assert "`segments model list`" in (found.description or "")
    assert len(shop.releases.all()) == 2, "the standing model goes on"


def test_holds_before_a_promotion_are_past(shop: Shop) -> None:
    shop.tamper(
        HELD.format(5),
        "update segmentation_models set active_from = fitted_as_of + interval 1 day where status = 'standing'",
    )
    assert evaluation(shop.run(checks=["last_model_was_promoted"]), "last_model_was_promoted").passed


@pytest.mark.parametrize(
    ("drift", "figure"),
    [
        ("recency = recency + 60", "psi_recency"),
        ("frequency = frequency + 4", "psi_frequency"),
        ("monetary = monetary * 3", "psi_monetary"),
    ],
)
def test_the_feature_that_drifts_is_named_and_no_other(shop: Shop, drift: str, figure: str) -> None:
    shop.tamper(f"update normal_customers set {drift}")
    result = shop.run("model_drift", "release")
    found = evaluation(result, "no_drift_since_fit")
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert re.findall(r"psi_\w+|share_\w+", found.description or "") == [figure]
    assert "release" in materialised(result)


# The published defects of others, each made the way that others made it: what is downstream of it is derived anew.


def test_recency_scored_backwards_is_caught(shop: Shop) -> None:
    """The longest absence gets the 5: thresholds turned round, and all scores derived from them."""
    shop.tamper(
        "update rfm_thresholds set threshold = -threshold where feature = 'recency'",
        "update rfm_features set recency = -recency",
    )
    shop.run("rfm_scores")
    shop.tamper("update rfm_features set recency = -recency")
    assert shop.rows("select corr(recency, recency_score) > 0 from rfm_features join rfm_scores using (customer_id)")
    result = shop.run("release", checks=["scores_direction_and_ties"])
    assert not evaluation(result, "scores_direction_and_ties").passed
    assert len(shop.releases.all()) == 1


def test_equal_frequencies_scored_differently_are_caught(shop: Shop) -> None:
    """Ranks without ties, cut into fifths, as in `qcut(frequency.rank(method="first"), 5)`."""
    shop.tamper(
        "update rfm_scores set frequency_score = ranked.score from (select customer_id, ntile(5) over (order by"
        " frequency, customer_id) as score from rfm_features) as ranked"
        " where ranked.customer_id = rfm_scores.customer_id"
    )
    result = shop.run("release", checks=["scores_direction_and_ties"])
    assert not evaluation(result, "scores_direction_and_ties").passed
    assert len(shop.releases.all()) == 1


def test_training_and_scoring_scaled_differently_are_caught(shop: Shop) -> None:
    """The model was fitted on standardised features; those of today are brought to between 0 and 1."""
    shop.tamper(
        *(
            f"update kmeans_scaler set center = bounds.least, scale = bounds.most - bounds.least from (select"
            f" min({name})::double as least, max({name})::double as most from normal_customers) as bounds"
            f" where feature = '{name}'"
            for name in ("monetary", "frequency", "recency")
        ),
    )
    nearest = ("scaled_customers", "nearest_centroids", "nearest_segments", "kmeans_segments")
    result = shop.run(*nearest, "release", checks=["sql_agrees_with_predict", "score_customer_agrees"])
    assert not evaluation(result, "sql_agrees_with_predict").passed
    assert not evaluation(result, "score_customer_agrees").passed
    assert len(shop.releases.all()) == 1


def test_names_tied_to_cluster_numbers_are_caught(shop: Shop) -> None:
    """The same clusters, numbered otherwise by another fit; the names stay with the numbers."""
    shop.tamper(
        "create table renumbered as select named.cluster, named.segment_key, lying.* exclude (cluster, segment_key)"
        " from kmeans_centroids as named join kmeans_centroids as lying"
        " on lying.cluster = (named.cluster + 1) % (select count(*) from kmeans_centroids)",
        "delete from kmeans_centroids",
        "insert into kmeans_centroids by name select * from renumbered",
        "drop table renumbered",
    )
    nearest = ("nearest_centroids", "nearest_segments", "kmeans_segments")
    result = shop.run(*nearest, "release", checks=["sql_agrees_with_predict", "score_customer_agrees"])
    assert not evaluation(result, "score_customer_agrees").passed
    assert len(shop.releases.all()) == 1


@pytest.mark.parametrize(
    ("emptied", "derived"),
    [
        ("rfm_features", "rfm_scores"),
        ("nearest_centroids", "kmeans_segments"),
        ("assigned_segments", "customer_segments"),
        ("customer_segments", "segment_profiles"),
    ],
)
def test_an_empty_result_is_not_taken_for_success(shop: Shop, emptied: str, derived: str) -> None:
    before = shop.rows(f"select count(*) from {derived}")
    shop.tamper(f"delete from {emptied}")
    result = shop.run(derived, "release")
    assert not result.success
    assert not evaluation(result, f"{derived}:contract").passed
    assert recorded(shop, derived)[1]["violations"].records[0].data["rule"] == "not empty"
    assert shop.rows(f"select count(*) from {derived}") == before > [(0,)]
    assert len(shop.releases.all()) == 1


def test_too_little_data_stops_the_release_of_a_whole_run(shop: Shop) -> None:
    shop.configure(checks={"min_customers": 61})
    result = run_job(shop.instance)
    assert not result.success
    assert "60 customers" in (evaluation(result, "minimum_data").description or "")
    assert "release" not in materialised(result)
    assert len(shop.releases.all()) == 1


# Contracts, through Dagster.


def recorded(shop: Shop, asset: str, check: str = "contract") -> tuple[bool, dict[str, Any]]:
    """What Dagster's instance keeps of the last evaluation: the web interface shows it from there."""
    key = dg.AssetCheckKey(dg.AssetKey(asset), check)
    [record] = shop.instance.event_log_storage.get_latest_asset_check_execution_by_key([key]).values()
    event = record.event
    assert event is not None
    assert event.dagster_event is not None
    found = event.dagster_event.asset_check_evaluation_data
    return found.passed, {name: value.value for name, value in found.metadata.items()}


def test_a_broken_contract_is_recorded_rolled_back_and_stops_what_is_downstream(shop: Shop) -> None:
    before = shop.rows("select * from normal_customers order by customer_id")
    assert len(before) > 10
    shop.tamper("update rfm_features set recency = -1 where frequency > 0")
    result = shop.run("normal_customers", "kmeans_segments", "release")
    assert not result.success
    found = evaluation(result, "normal_customers:contract")
    assert (found.passed, found.blocking, found.severity) == (False, True, dg.AssetCheckSeverity.ERROR)
    passed, told = recorded(shop, "normal_customers")
    assert not passed
    [violation] = told["violations"].records
    assert (violation.data["column"], violation.data["rule"]) == ("recency", "at least 0")
    assert shop.rows("select * from normal_customers order by customer_id") == before
    assert materialised(result) == set()
    assert len(shop.releases.all()) == 1
    failure = next(event for event in result.all_events if event.is_step_failure)
    said = failure.step_failure_data.user_failure_data
    assert said is not None
    assert "normal_customers would break its contract (recency: at least 0" in (said.description or "")


def test_the_tables_of_the_model_are_left_together_where_nothing_can_be_fitted(shop: Shop) -> None:
    """Every customer is the same, so that nothing can be clustered."""
    before = model(shop)
    shop.tamper("update rfm_features set recency = 1, frequency = 1, monetary = 1")
    result = shop.run(*FITTED, config=REFIT)
    assert not result.success
    failure = next(event for event in result.all_events if event.is_step_failure).step_failure_data.user_failure_data
    assert failure is not None
    assert "the customers cannot be clustered: 1 distinct" in (failure.description or "")
    assert model(shop) == before


# The gate, through Dagster.


def refusal(result: dg.ExecuteInProcessResult) -> str:
    """Why a release that was asked for alone was not made."""
    said = [e.step_failure_data.user_failure_data for e in result.all_events if e.is_step_failure]
    return " ".join(failure.description or "" for failure in said if failure)


def test_a_truncated_source_is_stopped_and_goes_out_only_when_a_person_accepts(shop: Shop) -> None:
    ledger = shop.rows("select * from segment_membership order by all")
    write_csv(shop.folder / "source" / "a.csv", GOOD[: len(GOOD) // 2])
    shop.configure(checks={"min_customers": 2, "min_days": 0})
    result = run_job(shop.instance)
    assert not result.success
    found = evaluation(result, "no_sudden_loss")
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert "customers fell from 60 to" in (found.description or "")
    assert not {"release", "segmentation_models", "segment_membership"} & materialised(result)
    assert shop.rows("select * from segment_membership order by all") == ledger
    [standing_release] = shop.releases.all()
    assert shop.releases.current == standing_release

    accepted = run_job(shop.instance, config=ACCEPT)
    assert accepted.success
    found = evaluation(accepted, "no_sudden_loss")
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert shop.releases.current == shop.releases.all()[-1] != standing_release
    assert shop.releases.all()[-1].manifest["figures"]["customers"] < 40


def test_a_release_that_is_asked_for_alone_is_held_to_the_same(shop: Shop) -> None:
    shop.tamper("delete from customer_segments where customer_id >= '10030'")
    result = shop.run("release")
    assert "customers fell from 60 to 30" in refusal(result)
    assert len(shop.releases.all()) == 1
    assert shop.run("release", config=ACCEPT).success
    assert shop.releases.all()[-1].manifest["figures"]["customers"] == 30


def test_a_refit_on_a_truncated_source_leaves_the_model_until_a_person_accepts(shop: Shop) -> None:
    before = model(shop)
    write_csv(shop.folder / "source" / "a.csv", GOOD[: len(GOOD) // 2])
    shop.configure(checks={"min_customers": 2, "min_days": 0})
    result = run_job(shop.instance, job="refit_segmentation")
    assert not result.success
    assert [event.step_key for event in result.all_events if event.is_step_failure] == ["release_checks"]
    said = evaluation(result, "no_sudden_loss").description or ""
    assert "customers fell from 60 to" in said
    assert "Nothing was fitted or published" in said
    assert model(shop) == before
    accepted = run_job(shop.instance, config={**REFIT, **ACCEPT})
    assert accepted.success
    assert model(shop) != before


def test_one_line_dated_2099_makes_nobody_lapsed(shop: Shop) -> None:
    write_csv(shop.folder / "source" / "b.csv", [line(invoice="999999", at="2099-01-01 10:00:00", customer="10001")])
    result = run_job(shop.instance)
    found = evaluation(result, "as_of_plausible")
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert "2099-01-01 10:00:00 lies later than the time of the run" in (found.description or "")
    assert "release" not in materialised(result)
    [release] = shop.releases.all()
    assert release.as_of.year == 2024

    shop.configure(rfm={"as_of": "2024-10-31"})
    mended = run_job(shop.instance)
    assert mended.success
    current = shop.releases.current
    assert current is not None
    assert str(current.as_of) == "2024-11-01 00:00:00"
    assert shop.rows("select rule, count(*) from rejected_transactions group by all order by all") == [
        ("after_as_of", 1),
        ("price_not_positive", 5),
    ]


def test_a_line_dated_hours_ahead_of_the_run_moves_nothing_that_is_published(shop: Shop) -> None:
    shop.tamper(
        "update clean_transactions set transaction_at = '2024-11-01 22:00:00' where source_line = 2",
        "update rfm_features set as_of = '2024-11-01 22:00:00'",
        "update customer_segments set as_of = '2024-11-01 22:00:00'",
    )
    night = {".dagster/scheduled_execution_time": "2024-11-01T02:00:00+00:00"}
    result = shop.run("release", checks=[*RELEASE_CHECKS], tags=night)
    assert "2024-11-01 22:00:00 lies ahead" in (evaluation(result, "as_of_plausible").description or "")
    assert materialised(result) == set()
    assert "2024-11-01 22:00:00 lies ahead" in refusal(shop.run("release", tags=night))
    [release] = shop.releases.all()
    assert shop.releases.current == release
    assert release.as_of < moment("2024-11-01 00:00:00")


def test_the_time_of_a_run_is_its_schedules_tick(shop: Shop) -> None:
    """A run that is late, or run again later, is judged by the moment that it was for."""
    early = shop.run(
        "release", checks=[*RELEASE_CHECKS], tags={".dagster/scheduled_execution_time": "2024-09-01T02:00:00+00:00"}
    )
    assert not evaluation(early, "as_of_plausible").passed
    in_time = {".dagster/scheduled_execution_time": "2024-11-01T02:00:00+00:00"}
    result = shop.run("release", checks=[*RELEASE_CHECKS], tags=in_time)
    assert evaluation(result, "as_of_plausible").passed
    assert result.success


@pytest.mark.parametrize(("dated", "passed"), [(-timedelta(minutes=10), True), (timedelta(minutes=10), False)])
def test_a_shop_that_sells_while_its_run_waits_is_published(shop: Shop, dated: timedelta, passed: bool) -> None:
    """The run began an hour after its tick; a line of ten minutes ago is no future line, one of ten minutes on is."""
    now = datetime.now(ZoneInfo("Europe/London"))
    sold = f"'{(now + dated).replace(tzinfo=None):%Y-%m-%d %H:%M:%S}'"
    shop.tamper(
        f"update clean_transactions set transaction_at = {sold} where source_line = 2",
        f"update rfm_features set as_of = {sold}",
    )
    tags = {".dagster/scheduled_execution_time": (now - timedelta(hours=1)).isoformat()}
    found = evaluation(shop.run(checks=[*RELEASE_CHECKS], tags=tags), "as_of_plausible").description or ""
    assert ("lies ahead" not in found) == passed


def test_a_jump_of_as_of_is_stopped_and_may_be_accepted(shop: Shop) -> None:
    shop.tamper(
        *(f"update {table} set as_of = as_of - interval 40 day" for table in ("rfm_features", "customer_segments"))
    )
    result = shop.run("release", checks=[*RELEASE_CHECKS])
    assert "the bound is 35 days" in (evaluation(result, "as_of_plausible").description or "")
    assert not result.success
    accepted = shop.run("release", checks=[*RELEASE_CHECKS], config=ACCEPT)
    assert evaluation(accepted, "as_of_plausible").severity == dg.AssetCheckSeverity.WARN
    assert accepted.success


# The standing model.


def refitted(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    found = {}
    for event in result.all_events:
        if event.is_step_materialization and event.asset_key:
            told = event.step_materialization_data.materialization.metadata
            if "refitted" in told:
                found[event.asset_key.to_user_string()] = told["refitted"].value
    return found


def model(shop: Shop) -> list[list[tuple[Any, ...]]]:
    return [shop.rows(f"select * from {table} order by all") for table in FITTED]


def test_the_first_run_fits(good: tuple[Path, dg.ExecuteInProcessResult, list[str]]) -> None:
    assert refitted(good[1]) == dict.fromkeys(FITTED, True)


def test_a_standing_model_of_the_same_settings_is_handed_on_unchanged(shop: Shop) -> None:
    before = model(shop)
    shop.tamper("update rfm_features set monetary = monetary * 2", "delete from normal_customers where frequency = 1")
    result = shop.run(*FITTED)
    assert refitted(result) == dict.fromkeys(FITTED, False)
    assert model(shop) == before
    assert all(e.passed for e in evaluations(result).values())
    assert {key for key, e in evaluations(result).items() if e.check_name == "contract"} == {
        f"{table}:contract" for table in FITTED
    }


def test_refit_fits_again_on_the_customers_of_today(shop: Shop) -> None:
    fences = "select feature, upper_fence from outlier_fences where feature = 'monetary'"
    [[_, before]] = shop.rows(fences)
    shop.tamper("update rfm_features set monetary = monetary * 2")
    result = shop.run(*FITTED, config=REFIT)
    assert refitted(result) == dict.fromkeys(FITTED, True)
    assert shop.rows(fences) == [("monetary", pytest.approx(2 * before))]


@pytest.mark.parametrize(
    ("sections", "fitted_again"),
    [
        ({"model": {"n_clusters": 3}}, True),
        ({"model": {"transform": "log"}}, True),
        ({"outliers": {"factor": 3.0}}, True),
        ({"rfm": {"look_back_days": 250}}, True),
        ({"cleaning": {"refunds": "ignore"}}, True),
        # What the fit does not depend on.
        ({"rfm": {"as_of": "2024-10-31"}}, False),
        ({"rfm": {"lapsing_factor": 3.5}}, False),
        ({"release": {"keep": 3}}, False),
        ({"checks": {"min_days": 1}}, False),
    ],
    ids=str,
)
def test_changed_settings_fit_again_where_the_model_depends_on_them(
    shop: Shop, sections: dict[str, Any], fitted_again: bool
) -> None:
    shop.configure(**sections)
    assert refitted(shop.run(*FITTED)) == dict.fromkeys(FITTED, fitted_again)


def test_the_weekly_job_fits_again(shop: Shop) -> None:
    result = run_job(shop.instance, job="refit_segmentation")
    assert result.success
    assert refitted(result) == dict.fromkeys(FITTED, True)


def test_a_table_that_another_version_wrote_is_made_again_from_the_registry_and_nothing_is_fitted(shop: Shop) -> None:
    before = model(shop)
    shop.tamper("alter table kmeans_scaler rename center to middle", "drop table outlier_fences")
    result = shop.run(*FITTED)
    assert result.success
    assert refitted(result) == dict.fromkeys(FITTED, False)
    assert model(shop) == before


def test_a_standing_model_that_breaks_its_contract_is_not_handed_on(shop: Shop) -> None:
    before = [shop.rows(f"select * from {table} order by all") for table in ("kmeans_centroids", "kmeans_scaler")]
    shop.tamper("update model_centroids set segment_key = 'vip' where cluster = 0")
    result = shop.run(*FITTED, "scaled_customers", "release")
    assert not result.success
    assert not evaluation(result, "model_centroids:contract").passed
    assert not evaluation(result, "kmeans_centroids:contract").passed
    assert evaluation(result, "kmeans_scaler:contract").passed
    assert materialised(result) == set()
    after = [shop.rows(f"select * from {table} order by all") for table in ("kmeans_centroids", "kmeans_scaler")]
    assert after == before, "all of them, those that keep their contracts too"
