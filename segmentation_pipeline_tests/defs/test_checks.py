"""Each check passes on good data and fails on named bad data; a blocking one stops the release.

The checks run on the tables of a finished shop without Dagster. What Dagster adds, that a failed check stops what is
downstream of it, is tested with runs at the end. The number of checks and their place in the graph are in
`test_definitions`.
"""

import re
import warnings
from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from inspect import signature
from pathlib import Path
from shutil import copyfile
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg
import duckdb
import pytest

from segmentation_pipeline.defs.model.assets import TABLES as MODEL_TABLES
from segmentation_pipeline.orchestration.resources import RetailerConfig
from segmentation_pipeline.releases.files import Release
from segmentation_pipeline.releases.release_checks import CHECKS as RELEASE_CHECKS
from segmentation_pipeline.releases.release_checks import ReleaseMetrics, implausible_as_of, sudden_loss
from segmentation_pipeline.tables.catalog import check_select
from segmentation_pipeline.warehouse.database import Warehouse
from segmentation_pipeline_tests.scenarios import (
    Nights,
    OpenDatabase,
    decorated,
    definitions,
    line,
    regular_customers,
    retailer_file,
    write_csv,
)
from segmentation_pipeline_tests.shops import FIRST_NIGHT, Shop

CHECKS = {
    key.name: definition
    for definition in definitions().asset_checks or ()
    if isinstance(definition, dg.AssetChecksDefinition)
    for key in definition.check_keys
}
SECTIONS: dict[str, dict[str, Any]] = {
    "checks": {"min_customers": 50, "min_days": 200, "min_silhouette": 0.0, "max_rejected_change": 0.05},
    "rfm": {"look_back_days": 200},
}
# The night after the as_of of the finished shop, as a schedule requests it.
TICK = "2024-10-19T02:00:00+00:00"
timestamp = datetime.fromisoformat


class Tables:
    """The working database of a finished shop, and the checks of it."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self.connection, self.warehouse = connection, Warehouse(connection, read_only=True)

    def rows(self, select: str) -> list[tuple[Any, ...]]:
        return self.connection.execute(select).fetchall()

    def check(self, name: str, *changes: str, **retailer: Any) -> dg.AssetCheckResult:
        """Change the tables, and return the result of a check."""
        for statement in changes:
            self.connection.execute(statement)
        function = decorated(CHECKS[name])
        arguments = {"retailer": RetailerConfig(**retailer), "warehouse": OpenDatabase(self.warehouse)}
        found = function(**{parameter: arguments[parameter] for parameter in signature(function).parameters})
        if isinstance(found, dg.AssetCheckResult):
            return found
        [result] = [one for one in found if one.check_name == name]
        assert isinstance(result, dg.AssetCheckResult)
        return result


@pytest.fixture(scope="module")
def connection(
    finished_template: Shop, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[duckdb.DuckDBPyConnection]:
    copy = copyfile(finished_template.work, tmp_path_factory.mktemp("checks") / "work.duckdb")
    with duckdb.connect(str(copy)) as connection:
        yield connection


@pytest.fixture
def tables(
    connection: duckdb.DuckDBPyConnection, finished_template: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Tables]:
    """The tables inside a transaction, which ends with the test; the releases are the shop's."""
    monkeypatch.setenv("SEGMENTATION_DATA", str(finished_template.data))
    monkeypatch.setenv("SEGMENTATION_RETAILER", str(retailer_file(tmp_path, Path("source"), **SECTIONS)))
    connection.begin()
    yield Tables(connection)
    connection.rollback()


@pytest.fixture
def nights(finished_template: Shop, tmp_path: Path) -> Nights:
    """The assets on a copy of the shop's working database, without Dagster."""
    return Nights.opened(finished_template.work, tmp_path / "work.duckdb", **SECTIONS)


# The release checks, without tables


def release(**changes: Any) -> Release:
    figures = {"clean_lines": 1000, "customers": 100, "revenue": "50000.0000", **changes}
    return Release(Path("000001-20240331-abcdef"), {"as_of": "2024-03-31 12:00:00", "figures": figures})


def metrics(**changes: Any) -> ReleaseMetrics:
    values = {
        "as_of": timestamp("2024-04-01 12:00:00"),
        "last_transaction_at": timestamp("2024-04-01 12:00:00"),
        "raw_lines": 1200,
        "rejected_lines": 200,
        "clean_lines": 1000,
        "customers": 100,
        "revenue": Decimal("50000.0000"),
    }
    return ReleaseMetrics(**{**values, **changes})


@pytest.mark.parametrize(
    ("name", "least", "below"),
    [("clean_lines", 800, 799), ("customers", 80, 79), ("revenue", Decimal(40000), Decimal("39999.9999"))],
)
def test_a_fall_beyond_the_bound_is_reported(name: str, least: Any, below: Any) -> None:
    assert sudden_loss(release(), metrics(**{name: least}), 0.2) == ""
    message = sudden_loss(release(), metrics(**{name: below}), 0.2)
    assert name in message
    assert "000001-20240331-abcdef" in message
    assert "20%" in message


def test_growth_and_a_first_release_are_no_fall() -> None:
    assert sudden_loss(None, metrics(), 0.2) == ""
    assert sudden_loss(release(), metrics(clean_lines=10**6, customers=10**4, revenue=Decimal(10**7)), 0.2) == ""
    assert sudden_loss(release(revenue="-3.00"), metrics(revenue=Decimal(-5)), 0.2) == ""


def last_transaction(at: datetime) -> ReleaseMetrics:
    """Return metrics whose as_of is the last transaction's."""
    return metrics(as_of=at, last_transaction_at=at)


def test_a_jump_of_as_of_in_either_direction_is_reported() -> None:
    tick, before = timestamp("2024-08-01 02:00:00"), timestamp("2024-03-31 12:00:00")
    for days, jumps in ((35, False), (-35, False), (36, True), (-36, True)):
        message = implausible_as_of(release(), last_transaction(before + timedelta(days=days)), tick, 35)
        assert bool(message) == jumps
        assert ("35 days" in message) == jumps
    assert implausible_as_of(None, last_transaction(before), tick, 35) == ""


def test_an_as_of_after_the_scheduled_time_is_reported() -> None:
    tick = timestamp("2024-04-01 02:00:00")
    assert implausible_as_of(None, last_transaction(tick), tick, 10**6) == ""
    assert "later than the time of the run" in implausible_as_of(
        release(), last_transaction(timestamp("2099-01-01")), tick, 10**6
    )


@pytest.mark.parametrize("ahead", [timedelta(seconds=1), timedelta(hours=20), timedelta(hours=22)])
def test_a_transaction_after_the_scheduled_time_is_reported(ahead: timedelta) -> None:
    """22 hours later is a midnight: a source that has days without times has no grace either."""
    tick = timestamp("2024-04-01 02:00:00")
    message = implausible_as_of(None, last_transaction(tick + ahead), tick, 10**6)
    assert f"as_of {tick + ahead} is later than the time of the run, 2024-04-01 02:00" in message


@pytest.mark.parametrize(
    ("as_of", "ahead"),
    [
        # The midnight after the day of the run: that day counts whole.
        ("2024-04-02 00:00:00", False),
        ("2024-04-03 00:00:00", True),
        # A timestamp is not a day.
        ("2024-04-01 22:00:00", True),
    ],
)
def test_only_a_whole_day_may_end_after_the_run(as_of: str, ahead: bool) -> None:
    found = metrics(as_of=timestamp(as_of), last_transaction_at=timestamp("2024-03-31 18:00:00"))
    message = implausible_as_of(None, found, timestamp("2024-04-01 02:00:00"), 10**6)
    assert bool(message) == ahead
    assert ("the last transaction is at 2024-03-31 18:00:00" in message) == ahead


# Checks of tables

ONE_CUSTOMER = "customer_id = (select min(customer_id) from {0})"
PENDING = (
    "insert into segmentation_models select models.* replace ('pending' || n as model_id, number + n as number,"
    " 'pending' as status, 'Only ' || n || ' % keep theirs.' as reasons) from segmentation_models as models,"
    " range(1, {} + 1) as made(n)"
)
DORMANT = (
    "update customer_segments set customer_group = 'inactive', segment_key = 'dormant', segment = 'DORMANT' where "
    + ONE_CUSTOMER.format("normal_customers")
)
LAST_MONTH = "month_end = (select max(month_end) from segment_migrations)"
MONEY_MOVED = (
    "update {} set monetary = monetary + case customer_id when '10003' then 100 else -100 end"
    " where customer_id in ('10003', '10004')"
)

BAD = {
    "lines_of_each_file": {
        "a lost line": "delete from raw_transactions where source_line = 2",
        "a line twice": "insert into raw_transactions select * replace (999999 as source_line)"
        " from raw_transactions limit 1",
        "a line malformed later": 'update raw_transactions set unparsed = \'{"line":"x"}\' where source_line = 2',
        "an unknown file": "delete from ingested_files",
        "a file without its lines": "delete from raw_transactions",
    },
    "files_are_readable": {
        "a quarantined file": "update ingested_files set status = 'quarantined', reason = 'no text'",
    },
    "lines_and_money_reconcile": {
        "a lost line": "delete from clean_transactions where source_line = 2",
        "a line clean and rejected": "insert into clean_transactions"
        " select * exclude (unparsed, rule, reason), false from rejected_transactions",
        "a penny too much": "update clean_transactions set amount = amount + 0.01 where source_line = 2",
    },
    "customers_and_money_reconcile": {
        "a lost customer": "delete from rfm_features where customer_id = '10003'",
        "an invented customer": "insert into rfm_features"
        " select * replace ('x' as customer_id, 0 as monetary) from rfm_features limit 1",
        "a lost penny": "update rfm_features set monetary = monetary - 0.01 where customer_id = '10003'",
        "another customer's name": "update rfm_features set customer_id = 'ghost' where customer_id = '10003'",
        "money of another customer": MONEY_MOVED.format("rfm_features"),
    },
    "minimum_data": {
        "few customers": "delete from clean_transactions where customer_id >= '10049'",
        "few days": "delete from clean_transactions where transaction_at >= '2024-07-01'",
    },
    "all_combinations_named": {
        "a combination without a name": "delete from rfm_segment_map"
        " where recency_score = 3 and frequency_score = 2 and monetary_score = 1",
        "a combination with two names": "insert into rfm_segment_map values (3, 2, 1, 'Lost')",
    },
    "scores_direction_and_ties": {
        "recency backwards": "update rfm_scores set recency_score = 6 - recency_score",
        "frequency backwards": "update rfm_scores set frequency_score = 6 - frequency_score",
        "monetary backwards": "update rfm_scores set monetary_score = 6 - monetary_score",
        # As in qcut(frequency.rank(method="first"), 5), which several published notebooks have.
        "equal frequencies with two scores": "update rfm_scores set frequency_score = ranked.score from"
        " (select customer_id, ntile(5) over (order by frequency, customer_id) as score from rfm_features) as ranked"
        " where ranked.customer_id = rfm_scores.customer_id",
    },
    "migrations_sum_to_customers": {
        "a lost migration": f"delete from segment_migrations where {LAST_MONTH}"
        " and from_segment = (select min(from_segment) from segment_migrations)",
        "a lost month": f"delete from segment_migrations where {LAST_MONTH}",
        "a customer counted twice": "update segment_migrations set customers = customers + 1"
        " where (month_end, from_segment, to_segment) ="
        " (select min((month_end, from_segment, to_segment)) from segment_migrations)",
    },
    "every_customer_in_one_segment": {
        "lost in the split": "delete from normal_customers where " + ONE_CUSTOMER.format("normal_customers"),
        "normal and inactive at once": "insert into inactive_customers"
        " select *, 'dormant' from normal_customers limit 1",
        "lost on the way to segments": "delete from customer_segments where customer_id = '10003'",
        "one twice, another not at all": "update customer_segments set customer_id = '10004'"
        " where customer_id = '10003'",
        "a lost penny": "update customer_segments set monetary = monetary - 0.01 where customer_id = '10003'",
        "another customer's name": "update customer_segments set customer_id = 'ghost' where customer_id = '10003'",
        "another name in the split": "update normal_customers set customer_id = 'ghost' where "
        + ONE_CUSTOMER.format("normal_customers"),
        "money of another customer": MONEY_MOVED.format("customer_segments"),
        "a normal customer marked dormant": DORMANT,
        "a normal customer in a dormant segment": DORMANT.replace("customer_group = 'inactive',", ""),
    },
    "values_are_parsed": {
        "a third of the lines unread": "update cleaning_report set lines = (select lines from cleaning_report where"
        " step = 0) / 3, share = 0.34 where rule = 'unparseable_value'; insert into unparsed_values values"
        " ('price', 1, '9 aaa', 900, 0.34, null, 900, 900, 'a.csv', '', 2)",
    },
    "rejected_money_is_expected": {
        "a tenth of the money": "update cleaning_report set amount_share = 0.1 where rule = 'not_a_product'",
    },
    "rejected_share_is_usual": {
        "a tenth more rejected": "update cleaning_report set lines = lines + 30 where rule = 'price_not_positive'",
    },
    "feed_is_fresh": {
        "nothing new for nine days": "delete from clean_transactions where transaction_at >= '2024-10-10';"
        " delete from rejected_transactions",
    },
    "silhouette_above_minimum": {"overlapping clusters": "update kmeans_model set silhouette = -0.01"},
    "number_of_clusters_is_clear": {
        "no number passes": "insert into kmeans_candidates by name"
        " select 4 as n_clusters, true as is_chosen, false as passes, 'unstable' as verdict",
    },
    "last_model_was_promoted": {"a pending model": PENDING.format(1)},
    "model_is_up_to_date": {"other settings": "update segmentation_models set settings_digest = 'other'"},
    "no_drift_since_fit": {
        "half of the customers moved": "update model_drift set value = 0.5 where metric = 'share_moved'",
    },
    "segments_predict_no_worse_than_rules": {
        "rules predict better": "update backtest_verdict set verdict = 'behind' where population = 'all'",
    },
    "value_forecast_beats_last_year": {
        "larger errors": "update customer_value_errors set mean_absolute_error = 1e9 where forecast = 'model'",
    },
    "no_file_repeats_another": {
        "a file twice": "insert into file_overlaps values ('a.csv', '', 'b.csv', '', 5, 12, 1.0, 60)",
    },
    "customer_ids_are_distinct": {
        "a leading zero": "update rfm_features set customer_id = '010004' where customer_id = '10003'"
    },
    "no_sudden_loss": {
        "half of the customers lost": "delete from rfm_features where customer_id >= '10030'",
        "half of the money lost": "update rfm_features set monetary = monetary / 2",
    },
    "as_of_plausible": {
        "a line of 2099": "update rfm_features set as_of = '2099-01-01 10:00:00'",
        "data of a year ago": "update rfm_features set as_of = as_of - interval 1 year",
    },
}
BAD_DATA = [
    pytest.param(check, bad, id=f"{check}: {name}") for check, cases in BAD.items() for name, bad in cases.items()
]


def test_each_check_of_tables_has_bad_data() -> None:
    """Missing files are reported by the run that misses them, which the tests of ingestion hold."""
    assert set(BAD) == set(CHECKS) - {"no_file_is_missing"}


@pytest.mark.parametrize("check", sorted(CHECKS))
def test_a_check_passes_on_good_data(tables: Tables, check: str) -> None:
    assert tables.check(check, tick=TICK).passed


def test_every_checked_table_has_rows_in_a_finished_shop(tables: Tables) -> None:
    checked = {key.asset_key.to_user_string() for definition in CHECKS.values() for key in definition.check_keys}
    assert {table for table in checked if tables.rows(f"select count(*) from {table}") == [(0,)]} == {
        "file_overlaps",
        "kmeans_candidates",
    }


@pytest.mark.parametrize(("check", "bad"), BAD_DATA)
def test_a_check_fails_on_bad_data(tables: Tables, check: str, bad: str) -> None:
    result = tables.check(check, bad, tick=TICK)
    assert not result.passed
    assert result.description
    [spec] = [spec for spec in CHECKS[check].check_specs if spec.name == check]
    assert result.severity == (dg.AssetCheckSeverity.ERROR if spec.blocking else dg.AssetCheckSeverity.WARN)
    # The release checks compare sums, so no row is wrong.
    if spec.blocking and check not in RELEASE_CHECKS:
        rows = result.metadata["rows"]
        assert isinstance(rows, dg.TableMetadataValue)
        assert rows.records


@pytest.mark.parametrize(
    ("check", "table"),
    [("customers_and_money_reconcile", "rfm_features"), ("every_customer_in_one_segment", "customer_segments")],
)
def test_a_check_counts_each_bad_customer_and_names_none(tables: Tables, check: str, table: str) -> None:
    result = tables.check(
        check,
        f"update {table} set customer_id = 'ghost' where customer_id = '10003'",
        f"update {table} set monetary = monetary - 100 where customer_id = '10004'",
        f"update {table} set monetary = monetary + 100 where customer_id = '10005'",
    )
    rows = result.metadata["rows"]
    assert isinstance(rows, dg.TableMetadataValue)
    assert len(rows.records) == 4
    assert all("customer_id" not in record.data for record in rows.records)
    assert f"checks/{check}.sql of the package" in str(result.description)
    named = tables.rows(check_select(check).replace("$look_back_days", str(SECTIONS["rfm"]["look_back_days"])))
    assert [customer for customer, *_ in named] == ["10003", "10004", "10005", "ghost"]


@pytest.mark.parametrize(
    ("of_all", "of_normal", "passes"),
    [
        ("ahead", "behind", True),
        ("no_signal", "behind", True),
        ("no_data", "no_data", True),
        ("equal", "equal", True),
        ("equal", "behind", False),
        ("behind", "ahead", False),
    ],
)
def test_normal_customers_decide_only_where_all_leave_it_open(
    tables: Tables, of_all: str, of_normal: str, passes: bool
) -> None:
    verdicts = f"case population when 'all' then '{of_all}' else '{of_normal}' end"
    result = tables.check(
        "segments_predict_no_worse_than_rules",
        f"update backtest_verdict set verdict = {verdicts}, sentence = population",
    )
    assert result.passed == passes
    assert result.description == (None if passes else "normal" if of_all == "equal" else "all")
    assert [result.metadata[name].value for name in ("all", "normal")] == ["all", "normal"]


# What is lost


UNREAD = (
    "delete from cleaning_report where rule = 'after_as_of'",
    "update cleaning_report set lines = 1000, lines_left = 0 where step = 0",
    "insert into unparsed_values values ('price', 1, '9 aaa', 5, 0.005, null, 5, 5, 'a.csv', '', 2)",
)
UNREAD_LINES = "update cleaning_report set lines = {} where rule = 'unparseable_value'"
UNREAD_MONEY = "update cleaning_report set amount_share = {} where rule = 'unparseable_value'"


@pytest.mark.parametrize(
    ("lines", "severity"), [(0, ""), (9, ""), (10, "WARN"), (199, "WARN"), (200, "ERROR"), (1000, "ERROR")]
)
def test_unread_lines_warn_from_one_percent_fail_from_twenty(tables: Tables, lines: int, severity: str) -> None:
    result = tables.check("values_are_parsed", *UNREAD, UNREAD_LINES.format(lines))
    assert result.passed == (not severity)
    assert severity in ("", result.severity.value)
    assert result.metadata["unparsed_share"].value == lines / 1000
    setting = {"WARN": "checks.warn_unparsed_share = 1.0%", "ERROR": "checks.fail_unparsed_share = 20.0%"}
    assert setting.get(severity, "") in str(result.description)


@pytest.mark.parametrize(("share", "warns"), [(0.0999, False), (0.1, True)])
def test_few_unread_lines_with_a_tenth_of_the_money_warn(tables: Tables, share: float, warns: bool) -> None:
    result = tables.check("values_are_parsed", *UNREAD, UNREAD_LINES.format(1), UNREAD_MONEY.format(share))
    assert (result.passed, result.severity.value) == (not warns, "WARN")


def test_bounds_of_losses_are_settings(
    tables: Tables, finished_template: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bounds = {"warn_unparsed_share": 0.5, "fail_unparsed_share": 0.6, "warn_rejected_money": 0.3}
    sections = {**SECTIONS, "checks": {**SECTIONS["checks"], **bounds}}
    monkeypatch.setenv("SEGMENTATION_RETAILER", str(retailer_file(tmp_path, Path("source"), **sections)))
    for lines, severity in ((499, ""), (500, "WARN"), (600, "ERROR")):
        result = tables.check("values_are_parsed", *UNREAD, UNREAD_LINES.format(lines))
        assert (result.passed, severity in ("", result.severity.value)) == (not severity, True)
    tenth = "update cleaning_report set amount_share = {} where rule = 'not_a_product'"
    assert tables.check("rejected_money_is_expected", UNREAD_LINES.format(0), tenth.format(0.29)).passed
    assert not tables.check("rejected_money_is_expected", tenth.format(0.3)).passed


# The feed


def test_a_feed_is_old_after_five_days(tables: Tables) -> None:
    """A shop that sells nothing for a few days is not reported."""
    [(newest,)] = tables.rows("select max(transaction_at) from clean_transactions")
    tables.connection.execute("delete from rejected_transactions")
    for seconds, fresh in ((0, True), (1, False)):
        tick = (newest + timedelta(days=5, seconds=seconds)).replace(tzinfo=ZoneInfo("Europe/London")).isoformat()
        result = tables.check("feed_is_fresh", tick=tick)
        assert result.passed == fresh
        assert fresh or str(newest) in str(result.description)


def test_a_run_by_hand_over_old_data_is_not_warned(tables: Tables) -> None:
    result = tables.check("feed_is_fresh")
    assert (result.passed, result.metadata["scheduled"].value) == (True, False)


def test_future_lines_do_not_make_an_old_feed_fresh(tables: Tables) -> None:
    later = "2024-11-09T02:00:00+00:00"
    future = (
        "insert into clean_transactions select * replace (999 as source_line, timestamp '2099-01-01' as transaction_at)"
        " from clean_transactions limit 1"
    )
    after_as_of = "update rejected_transactions set rule = 'after_as_of', transaction_at = '2024-11-08 10:00:00'"
    assert not tables.check("feed_is_fresh", "delete from rejected_transactions", future, tick=later).passed
    tables.connection.rollback()
    tables.connection.begin()
    assert tables.check("feed_is_fresh", after_as_of, tick=later).passed
    result = tables.check(
        "feed_is_fresh",
        "delete from rejected_transactions",
        "update clean_transactions set transaction_at = '2099-01-01'",
        tick=later,
    )
    assert "No transaction is dated before" in str(result.description)


# The model


@pytest.mark.parametrize(("pending", "severity"), [(2, "WARN"), (3, "ERROR"), (4, "ERROR")])
def test_the_third_pending_model_in_a_row_is_an_error(tables: Tables, pending: int, severity: str) -> None:
    result = tables.check("last_model_was_promoted", PENDING.format(pending))
    assert (result.passed, result.severity.value) == (False, severity)
    assert f"The last: Only {pending} % keep theirs." in str(result.description)
    assert "`segments model list`" in str(result.description)


def test_models_pending_before_a_promotion_are_not_counted(tables: Tables) -> None:
    later = "update segmentation_models set active_from = fitted_as_of + interval 1 day where number = 1"
    assert tables.check("last_model_was_promoted", PENDING.format(5), later).passed


@pytest.mark.parametrize(
    ("change", "metric"),
    [
        ("recency = recency + 60", "psi_recency"),
        ("frequency = frequency + 4", "psi_frequency"),
        ("monetary = monetary * 3", "psi_monetary"),
    ],
)
def test_only_the_feature_that_drifts_is_named(nights: Nights, change: str, metric: str) -> None:
    nights.connection.execute(f"update normal_customers set {change}")
    nights.materialize("model_drift")
    result = nights.check(CHECKS["no_drift_since_fit"])
    assert not result.passed
    assert re.findall(r"psi_\w+|share_\w+", result.description or "") == [metric]


# Contracts


@pytest.mark.parametrize(
    ("emptied", "derived"),
    [
        ("rfm_features", "rfm_scores"),
        ("nearest_centroids", "kmeans_segments"),
        ("assigned_segments", "customer_segments"),
        ("customer_segments", "segment_profiles"),
    ],
)
def test_an_empty_result_breaks_the_contract(nights: Nights, emptied: str, derived: str) -> None:
    before = nights.table(derived)
    nights.connection.execute(f"delete from {emptied}")
    nights.warehouse.forget_versions()
    with pytest.raises(dg.Failure, match=f"{derived} would break its contract .*not empty"):
        nights.materialize(derived)
    assert nights.table(derived) == before != []


# Runs through Dagster


def evaluation(result: dg.ExecuteInProcessResult, name: str) -> dg.AssetCheckEvaluation:
    """Return the evaluation of a check, named `check` or `asset:check`."""
    found = {f"{e.asset_key.to_user_string()}:{e.check_name}": e for e in result.get_asset_check_evaluations()}
    [one] = [e for key, e in found.items() if name in (key, e.check_name)]
    return one


def materialised(result: dg.ExecuteInProcessResult) -> set[str]:
    events = [event for event in result.all_events if event.is_step_materialization]
    return {event.asset_key.to_user_string() for event in events if event.asset_key}


def failure(result: dg.ExecuteInProcessResult) -> str:
    """Return the messages of the failed steps."""
    failures = [event.step_failure_data.user_failure_data for event in result.all_events if event.is_step_failure]
    return " ".join(found.description or "" for found in failures if found)


def run_part(
    instance: dg.DagsterInstance, *assets: str, ops: dict[str, Any] | None = None, **retailer: Any
) -> dg.ExecuteInProcessResult:
    """Run some assets of the process's shop with their checks."""
    job = dg.define_asset_job("part", dg.AssetSelection.assets(*assets))
    return (
        dg.Definitions.merge(definitions(), dg.Definitions(jobs=[job]))
        .resolve_job_def("part")
        .execute_in_process(
            run_config={
                "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
                "resources": {"retailer": {"config": retailer}},
                "ops": ops or {},
            },
            instance=instance,
            raise_on_error=False,
        )
    )


def model(shop: Shop) -> list[list[tuple[Any, ...]]]:
    return [shop.rows(f"select * from {table} order by all") for table in MODEL_TABLES]


def test_a_whole_run_passes_every_check_without_deprecations(finished_shop: Shop) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = finished_shop.run(refit=True, as_of=FIRST_NIGHT)
    assert result.success
    evaluations = result.get_asset_check_evaluations()
    assert {(e.asset_key, e.check_name) for e in evaluations} == {
        (key.asset_key, key.name) for key in definitions().resolve_asset_graph().asset_check_keys
    }
    assert [(e.asset_key.to_user_string(), e.check_name) for e in evaluations if not e.passed] == []
    messages = [f"{warning.category.__name__}: {warning.message}" for warning in caught]
    assert [text for text in messages if re.search("Deprecat|FutureWarning|Supersession", text)] == []


def test_too_little_data_stops_the_release(finished_shop: Shop) -> None:
    finished_shop.configure(checks={"min_customers": 61}, rfm={"look_back_days": 200})
    result = finished_shop.run()
    assert not result.success
    assert "60 customers" in str(evaluation(result, "minimum_data").description)
    assert "release" not in materialised(result)
    assert len(finished_shop.releases.all()) == 1


def test_a_failed_check_stops_only_what_is_downstream(finished_shop: Shop, instance: dg.DagsterInstance) -> None:
    delete = "delete from assigned_segments where " + ONE_CUSTOMER.format("assigned_segments")
    finished_shop.execute(delete, "delete from table_versions")
    parts = ("customer_segments", "segment_profiles", "segment_membership", "release")
    result = run_part(instance, *parts)
    assert evaluation(result, "customer_segments:contract").passed
    assert not evaluation(result, "every_customer_in_one_segment").passed
    assert materialised(result) == {"customer_segments"}
    assert len(finished_shop.releases.all()) == 1


def test_a_broken_contract_is_recorded_and_changes_no_table(finished_shop: Shop, instance: dg.DagsterInstance) -> None:
    """What the instance records is what the web interface shows."""
    select = "select * from normal_customers order by customer_id"
    before = finished_shop.rows(select)
    assert len(before) > 10
    finished_shop.execute("update rfm_features set recency = -1 where frequency > 0", "delete from table_versions")
    result = run_part(instance, "normal_customers", "kmeans_segments")
    assert not result.success
    found = evaluation(result, "normal_customers:contract")
    assert (found.passed, found.blocking, found.severity) == (False, True, dg.AssetCheckSeverity.ERROR)
    key = dg.AssetCheckKey(dg.AssetKey("normal_customers"), "contract")
    [record] = instance.event_log_storage.get_latest_asset_check_execution_by_key([key]).values()
    assert record.event is not None
    assert record.event.dagster_event is not None
    recorded = record.event.dagster_event.asset_check_evaluation_data
    assert not recorded.passed
    violations = recorded.metadata["violations"]
    assert isinstance(violations, dg.TableMetadataValue)
    [violation] = violations.records
    assert (violation.data["column"], violation.data["rule"]) == ("recency", "at least 0")
    assert "normal_customers would break its contract (recency: at least 0" in failure(result)
    assert materialised(result) == set()
    assert finished_shop.rows(select) == before


def test_a_failed_fit_changes_no_table_of_the_model(finished_shop: Shop, instance: dg.DagsterInstance) -> None:
    """Every customer is the same, so nothing can be clustered."""
    before = model(finished_shop)
    finished_shop.execute("update rfm_features set recency = 1, frequency = 1, monetary = 1")
    result = run_part(instance, *MODEL_TABLES)
    assert not result.success
    assert "The customers cannot be clustered: 1 distinct" in failure(result)
    assert model(finished_shop) == before


def test_a_model_that_breaks_its_contract_is_not_written(finished_shop: Shop, instance: dg.DagsterInstance) -> None:
    finished_shop.execute("update model_centroids set segment_key = 'vip' where cluster = 0")
    before = model(finished_shop)
    keep = {"segmentation_model": {"config": {"refit": False}}}
    result = run_part(instance, *MODEL_TABLES, ops=keep)
    assert not result.success
    assert not evaluation(result, "model_centroids:contract").passed
    assert not evaluation(result, "kmeans_centroids:contract").passed
    assert evaluation(result, "kmeans_scaler:contract").passed
    assert model(finished_shop) == before, "tables that keep their contracts are not written either"


def test_a_truncated_source_is_published_only_when_accepted(finished_shop: Shop) -> None:
    """The run includes a fit, so that model, membership history and release are all stopped by the same check."""
    shop, history = finished_shop, "select * from segment_membership order by all"
    before, memberships, [current] = model(shop), shop.rows(history), shop.releases.all()
    lines = regular_customers()
    write_csv(shop.source / "a.csv", lines[: len(lines) // 2])
    result = shop.run(refit=True)
    assert not result.success
    found = evaluation(result, "no_sudden_loss")
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert "customers fell from 59 to" in str(found.description)
    assert "Nothing was fitted or published" in str(found.description)
    assert not {"release", "segmentation_models", "segment_membership"} & materialised(result)
    assert (model(shop), shop.rows(history), shop.releases.current) == (before, memberships, current)

    accepted = shop.run(refit=True, accept_change=True)
    assert accepted.success
    found = evaluation(accepted, "no_sudden_loss")
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert shop.release == shop.releases.all()[-1] != current
    assert shop.release.manifest["figures"]["customers"] < 40
    assert model(shop) != before


def test_a_release_materialised_alone_passes_the_release_checks(
    finished_shop: Shop, instance: dg.DagsterInstance
) -> None:
    finished_shop.execute("delete from customer_segments where customer_id >= '10030'")
    result = run_part(instance, "release")
    assert "customers fell from 59 to 30" in failure(result)
    assert len(finished_shop.releases.all()) == 1
    assert run_part(instance, "release", accept_change=True).success
    assert finished_shop.release.manifest["figures"]["customers"] == 30


def test_a_line_dated_2099_makes_no_customer_inactive(finished_shop: Shop) -> None:
    shop, [before] = finished_shop, finished_shop.releases.all()
    write_csv(shop.source / "b.csv", [line(invoice="999999", at="2099-01-01 10:00:00", customer="10001")])
    result = shop.run()
    found = evaluation(result, "as_of_plausible")
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert "2099-01-01 10:00:00 is later than the time of the run" in str(found.description)
    assert shop.releases.all() == [before]

    assert shop.run(as_of="2024-10-31").success
    assert str(shop.release.as_of) == "2024-11-01 00:00:00"
    late = "select rule, invoice from rejected_transactions where rule = 'after_as_of'"
    assert shop.rows(late) == [("after_as_of", "999999")]


# The time of a run


def test_a_run_is_checked_against_its_scheduled_time(tables: Tables) -> None:
    """A run that is late, or repeated later, is judged by the time that it was scheduled for."""
    assert not tables.check("as_of_plausible", tick="2024-09-01T02:00:00+00:00").passed
    assert tables.check("as_of_plausible", tick="2024-11-01T02:00:00+00:00").passed


def test_a_line_dated_hours_after_the_run_is_reported(tables: Tables) -> None:
    result = tables.check(
        "as_of_plausible",
        "update clean_transactions set transaction_at = '2024-11-01 22:00:00' where source_line = 2",
        "update rfm_features set as_of = '2024-11-01 22:00:00'",
        tick="2024-11-01T02:00:00+00:00",
    )
    assert "2024-11-01 22:00:00 is later than the time of the run" in str(result.description)


@pytest.mark.parametrize(("dated", "passes"), [(-timedelta(minutes=10), True), (timedelta(minutes=10), False)])
def test_lines_sold_while_a_run_waits_are_accepted(tables: Tables, dated: timedelta, passes: bool) -> None:
    """The run started an hour after its scheduled time."""
    now = datetime.now(ZoneInfo("Europe/London"))
    sold = f"'{(now + dated).replace(tzinfo=None):%Y-%m-%d %H:%M:%S}'"
    result = tables.check(
        "as_of_plausible",
        f"update clean_transactions set transaction_at = {sold} where source_line = 2",
        f"update rfm_features set as_of = {sold}",
        tick=(now - timedelta(hours=1)).isoformat(),
    )
    assert ("is later than the time of the run" not in str(result.description)) == passes


def test_an_accepted_jump_of_as_of_is_a_warning(tables: Tables) -> None:
    jump = "update rfm_features set as_of = as_of - interval 40 day"
    result = tables.check("as_of_plausible", jump, tick=TICK)
    assert (result.passed, result.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert "the limit is 35 days" in str(result.description)
    accepted = tables.check("as_of_plausible", tick=TICK, accept_change=True)
    assert (accepted.passed, accepted.severity) == (False, dg.AssetCheckSeverity.WARN)
