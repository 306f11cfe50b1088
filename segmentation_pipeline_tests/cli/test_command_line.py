"""Tests of the command `segments`: its output, its exit codes, and its messages for invalid input."""

import os
import re
import resource
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from io import StringIO
from pathlib import Path
from shutil import copytree

import dagster as dg
import duckdb
import pytest
import tomli_w
from rich.console import Console

import segmentation_pipeline
import segmentation_pipeline_tests
from segmentation_pipeline.cli import console
from segmentation_pipeline.cli.losses import print_losses_of_run
from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.defs.model.assets import TABLES as MODEL_TABLES
from segmentation_pipeline.ingestion.incremental import TABLES as LOADED_TABLES
from segmentation_pipeline.ingestion.losses import UNKNOWN
from segmentation_pipeline.model import thresholds
from segmentation_pipeline.releases.store import Releases
from segmentation_pipeline.segments.backtest import TABLES as BACKTEST_TABLES
from segmentation_pipeline.segments.customer_value import TABLES as VALUE_TABLES
from segmentation_pipeline.segments.history import TABLES as HISTORY_TABLES
from segmentation_pipeline.tables.catalog import contracts
from segmentation_pipeline.tables.contract import literal
from segmentation_pipeline_tests import commands
from segmentation_pipeline_tests.commands import Ended
from segmentation_pipeline_tests.scenarios import (
    NO_BACKTEST,
    QUICK_SEARCH,
    Line,
    constants,
    line,
    regular_customers,
    retailer_file,
    retailer_settings,
    write_csv,
)
from segmentation_pipeline_tests.shops import Shop

SEGMENTS = Path(sys.executable).with_name("segments")
COLUMNS = 80
SEARCH = thresholds.SearchRules(k_max=3, resamples=5)


def shop_in(folder: Path, lines: list[Line] | None = None) -> Shop:
    """Return a shop in a folder whose name is markup to the library that prints."""
    return Shop.build(folder / "the shop's [bold]folder", lines or regular_customers())


def segments(shop: Shop, *arguments: str, **environment: str) -> Ended:
    """Run a command without a back-test, which no output here depends on.

    Its Dagster folder is outside the shop, since Dagster does not allow brackets in its path.
    """
    with constants(BACKTEST=NO_BACKTEST):
        return commands.segments(
            shop, *arguments, event_log=False, **{"DAGSTER_HOME": os.environ["DAGSTER_HOME"], **environment}
        )


@pytest.fixture(scope="module", autouse=True)
def narrow_terminal() -> None:
    console.out.width = console.err.width = COLUMNS


@pytest.fixture(scope="module", autouse=True)
def dagster_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("DAGSTER_HOME", str(tmp_path_factory.mktemp("dagster")))
        yield


@pytest.fixture(scope="module")
def new_shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """Return a shop that has not run."""
    return shop_in(tmp_path_factory.mktemp("new"), regular_customers(8))


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return shop_in(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def first_run(shop: Shop) -> Ended:
    """Return the output of a first run, as of an earlier day than the last of the source."""
    return segments(shop, "run", "--verbose", "--as-of", "2024-10-20")


@pytest.fixture(scope="module")
def reloaded(shop: Shop, first_run: Ended) -> Ended:
    """Return the output of a run of all the data, from another source that lacks the last line."""
    other = write_csv(shop.folder / "other" / "b.csv", regular_customers()[:-1])
    return segments(shop, "run", "--source", str(other.parent), "--reload", "--verbose")


@pytest.fixture(scope="module")
def newest(shop: Shop, reloaded: Ended) -> str:
    """Return the name of a second release, of all the data."""
    assert reloaded.code == 0, reloaded.errors
    return shop.releases.all()[-1].name


def unwrap(text: str) -> str:
    return " ".join(text.split())


def warned_checks(ended: Ended) -> list[str]:
    """Return the checks that a run warned of; it printed no other error."""
    assert "failed: " not in ended.errors.replace(" failed.", "")
    return re.findall(r"warning: \w+: check (\w+) failed\.", ended.errors)


def test_successful_run_exits_with_0_and_prints_no_error(first_run: Ended) -> None:
    assert (first_run.code, first_run.errors) == (0, "")


def test_run_prints_each_step_with_its_time(first_run: Ended) -> None:
    steps = dict(re.findall(r"^✓ (\w+) .* (\d+\.\d\d) s$", first_run.stdout, re.MULTILINE))
    written_with_others = {*MODEL_TABLES, *LOADED_TABLES[1:], *HISTORY_TABLES, *BACKTEST_TABLES, *VALUE_TABLES}
    steps_of_others = {"segmentation_model", "segment_history", "segment_backtest", "customer_value_model", "release"}
    assert steps.keys() >= (contracts().keys() - written_with_others) | steps_of_others
    total = re.search(r"^ +all steps +(\d+\.\d\d) s$", first_run.stdout, re.MULTILINE)
    assert total is not None
    assert float(total[1]) == pytest.approx(sum(map(float, steps.values())), abs=0.3)
    assert re.search(r"^✓ customer_segments +59 rows +\d+\.\d\d s$", first_run.stdout, re.MULTILINE)


def test_run_without_explain_prints_no_statement(first_run: Ended) -> None:
    assert "SQL statements" not in first_run.stdout


def test_run_prints_each_segment_on_one_line(shop: Shop, first_run: Ended) -> None:
    assert "Corner shop, as of 2024-10-21 00:00:00\n" in first_run.stdout, "the whole day counts"
    with duckdb.connect(str(shop.releases.all()[0].database), read_only=True) as connection:
        profiles = connection.execute("select segment, customers, revenue from segment_profiles").fetchall()
    assert len(profiles) > 1
    for segment, customers, revenue in profiles:
        assert re.search(rf"\b{segment}\b.* {customers}\b.* £{revenue:,.0f}\b", first_run.stdout)


def test_output_without_paths_fits_80_columns(shop: Shop, first_run: Ended, newest: str) -> None:
    releases = segments(shop, "releases").stdout
    assert re.search(rf"^ *\* +{newest} +60 ", releases, re.MULTILINE)
    assert re.search(rf"^ +{shop.releases.all()[0].name} +59 ", releases, re.MULTILINE)
    for output in (first_run.stdout, releases):
        assert "…" not in output
        assert not [text for text in output.splitlines() if len(text) > COLUMNS and "/releases/" not in text]


def test_run_ends_with_paths_that_exist(shop: Shop, first_run: Ended) -> None:
    current = shop.releases.folder / "current"
    [command] = re.findall(r"duckdb -readonly .+$", first_run.stdout, re.MULTILINE)
    [_, _, database] = shlex.split(command)
    assert Path(database) == current / "segments.duckdb"
    assert Path(database).is_file()
    assert ("pip install duckdb-cli" in first_run.stdout) == (shutil.which("duckdb") is None)
    assert f"{current}/*.parquet, {current}/manifest.json" in first_run.stdout
    assert (current / "manifest.json").is_file()
    assert shop.releases.all()[0].name in first_run.stdout


def test_show_prints_the_end_of_the_run_again(shop: Shop, first_run: Ended) -> None:
    shop.releases.rollback(shop.releases.all()[0].name)
    shown = segments(shop, "show")
    shop.releases.resume()
    assert (shown.code, shown.errors) == (0, "")
    assert first_run.stdout.endswith(shown.stdout)


def test_web_interface_shows_the_retailer_of_the_command_line(shop: Shop, first_run: Ended) -> None:
    then = "make dev, then http://127.0.0.1:3000\n"
    assert f"browser  {then}" in first_run.stdout
    named = segments(shop, "show", "--retailer", str(shop.retailer), SEGMENTATION_RETAILER="sample")
    assert f"browser  SEGMENTATION_RETAILER={shlex.quote(str(shop.retailer))} {then}" in named.stdout


def test_show_before_the_first_run_names_the_command(new_shop: Shop) -> None:
    shown = segments(new_shop, "show")
    assert (shown.code, shown.stdout) == (2, "")
    assert "no release of corner_shop" in shown.errors
    assert "yet; `segments run` publishes one" in shown.errors
    assert not new_shop.data.exists(), "reading creates nothing"


def test_rollback_pauses_publishing_until_resume(shop: Shop, newest: str) -> None:
    first = shop.releases.all()[0].name
    rolled_back = segments(shop, "releases", "rollback", first)
    assert (rolled_back.code, rolled_back.errors) == (0, "")
    assert f"{first} is current" in rolled_back.stdout
    assert shop.releases.current is not None
    assert shop.releases.current.name == first
    listed = unwrap(segments(shop, "releases").stdout)
    assert f"Publishing is paused at {first}" in listed
    assert "`segments releases resume`" in listed
    resumed = segments(shop, "releases", "resume", "--retailer", str(shop.retailer))
    assert (resumed.code, resumed.errors) == (0, "")
    assert f"{newest} is current" in resumed.stdout
    assert shop.releases.current.name == newest
    assert shop.releases.paused_at is None


def test_unknown_release_lists_the_known_ones(shop: Shop, newest: str) -> None:
    ended = segments(shop, "releases", "rollback", "000009-20240101-unknown")
    assert (ended.code, ended.stdout) == (2, "")
    known = ", ".join(release.name for release in shop.releases.all())
    assert ended.errors == f"error: no release '000009-20240101-unknown'; there are: {known}"


def test_failed_run_exits_with_1_and_one_message(tmp_path: Path) -> None:
    failed = segments(shop_in(tmp_path, regular_customers(1)), "run")
    assert failed.code == 1
    assert failed.errors.startswith(
        "failed: rfm_features: check minimum_data failed. Too little data: 1 customers over 0 days; the settings ask"
        " for 2 customers over 0 days ([checks])."
    )
    assert failed.errors.count("failed: ") == 1
    assert "The run failed. See its log with `DAGSTER_HOME=" in failed.errors
    assert "✗ rfm_features_minimum_data" in failed.stdout
    for output in (failed.stdout, failed.errors):
        assert "Traceback" not in output
        assert "Stack Trace" not in output
        assert 'File "' not in output


def test_first_run_with_unparsed_dates_fails_and_prints_the_loss(tmp_path: Path) -> None:
    """The export of `exports/twoformats` with one of its two formats of dates."""
    shop = Shop(tmp_path)
    export = Path(segmentation_pipeline_tests.__file__).parent / "exports" / "twoformats"
    copytree(export / "in", tmp_path / "in")
    settings = tomllib.loads((export / "retailer.toml").read_text("utf-8"))
    settings["source"]["date_format"] = settings["source"]["date_format"][0]
    shop.retailer.write_text(tomli_w.dumps(settings), "utf-8")
    ended = segments(shop, "run")
    assert (ended.code, Releases(shop.data / "twoformats" / "releases").current) == (1, None)
    printed = unwrap(ended.stdout)
    assert "1.080 lines read, 720 kept (66,7%)" in printed
    assert re.search(r" unparseable_value +360 +33,3% +€\s53\.420,80 +35,5%", ended.stdout)
    assert re.search(r" transaction_at +'9999-99-99 99:99:99' +360 +33,3%", ended.stdout)
    stages = re.findall(r"^([✓✗]) (\w+) +(?:[\d,]+ [a-z ]+?)? +\d+\.\d\d s$", ended.stdout, re.MULTILINE)
    assert stages[0] == ("✓", "ingestion")
    assert ("✗", "cleaning") in stages
    assert "✗ clean_transactions_values_are_parsed\n" in ended.stdout
    assert "clean_transactions " not in ended.stdout, "no line for each step"
    assert "failed: clean_transactions: check values_are_parsed failed. 360 of 1,080 lines (33.3%)" in ended.errors
    assert 'source.date_format = ["%d/%m/%Y %H:%M", "iso_8601"]' in ended.errors


def test_first_run_prints_what_was_rejected(first_run: Ended) -> None:
    """The lines after the as-of date are listed, though they are no loss."""
    assert re.search(r" after_as_of +[\d,]+ +\d+\.\d% +£[\d,.]+ +\d+\.\d%", first_run.stdout)


def test_money_that_nobody_knows_is_printed_as_unknown() -> None:
    step: dict[str, str | int | float] = {
        "rule": "read",
        "lines": 4,
        "share": 1.0,
        "amount": 5.0,
        "amount_share": 1.0,
        "lines_without_amount": 3,
    }
    lost = {**step, "rule": "unparseable_value", "lines": 3, "share": 0.75, "amount": UNKNOWN, "amount_share": UNKNOWN}
    steps = [{**step, "lines_left": 4}, {**lost, "lines_left": 1}]
    metadata = {"cleaning_report": {"funnel": dg.MetadataValue.table([dg.TableRecord(one) for one in steps])}}
    console = Console(width=COLUMNS, record=True, file=StringIO())
    print_losses_of_run(console, metadata, Retailer.model_validate(retailer_settings(Path("source"))))
    printed = console.export_text()
    assert "4 lines read, 1 kept (25.0%)" in printed
    assert re.search(r"unparseable_value +3 +75.0% +unknown +unknown +3", printed)


def test_traceback_option_shows_the_traceback_of_a_failed_run(tmp_path: Path) -> None:
    failed = segments(shop_in(tmp_path, [line(invoice="none"), line(price="0")]), "run", "--traceback")
    assert failed.code == 1
    assert "clean_transactions would break its contract (not empty, found 0 rows: " in failed.errors
    assert "orchestration/sql_assets.py" in failed.stdout + failed.errors


def test_sample_reads_another_source_and_writes_nothing_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thresholds, "SEARCH", QUICK_SEARCH)
    shop = shop_in(tmp_path, regular_customers(120))
    before = {path: path.read_bytes() for path in shop.source.iterdir()}
    source = str(shop.source / "a.csv")
    ended = segments(shop, "run", "--verbose", SEGMENTATION_RETAILER="", SEGMENTATION_SOURCE=source)
    assert (ended.code, ended.errors) == (0, "")
    assert {path: path.read_bytes() for path in shop.source.iterdir()} == before
    assert re.search(r"^✓ customer_segments +120 rows", ended.stdout, re.MULTILINE)
    assert not (shop.data / "sample" / "source").exists()
    for path in (shop.source, shop.source / "a.csv"):
        checked = segments(shop, "retailer", "check", SEGMENTATION_RETAILER="sample", SEGMENTATION_SOURCE=str(path))
        assert (checked.code, "Source: 1 file." in checked.stdout) == (0, True), checked.errors


def test_first_run_says_what_it_published(first_run: Ended) -> None:
    after = first_run.stdout.split("The first release:\n")[1]
    assert re.match(r"customers 59\nrevenue   £[\d,]+\nloss      \d+ of 234 lines rejected \(\d\.\d%\)\n", after)


def test_next_run_says_first_what_changed(shop: Shop, reloaded: Ended) -> None:
    first, second = shop.releases.all()[:2]
    [customers, revenue, moved, loss] = reloaded.stdout.split(f"Since {first.name}, as of 2024-10-21 00:00:00:\n")[
        1
    ].splitlines()[:4]
    assert customers == "customers 60: 1 new"
    now, before = (Decimal(release.metrics["revenue"]) for release in (second, first))
    share = 100 * (now / before - 1)
    assert revenue == f"revenue   £{now:,.0f}: +£{now - before:,.0f} (+{share:.1f}%)"
    with duckdb.connect(str(second.database), read_only=True) as connection:
        connection.execute(f"attach {literal(str(first.database))} as before (read_only)")
        moves = connection.execute(
            "select b.segment, n.segment, count(*) from before.customer_segments b join customer_segments n"
            " using (customer_id) where b.segment <> n.segment group by all order by 3 desc, 1, 2"
        ).fetchall()
    assert moved.startswith(f"moved     {sum(number for *_, number in moves)} customers (")
    assert [move for move in moves[:3] if f"{move[0]} → {move[1]} {move[2]}" not in moved] == []
    assert re.fullmatch(r"loss      \d+ of 23\d lines rejected \(\d\.\d%, before \d\.\d%\)", loss)
    assert (
        reloaded.stdout.index("Since ")
        < reloaded.stdout.index("lines read,")
        < reloaded.stdout.index("Corner shop, as of")
    )


def test_reload_replaces_the_lines_of_the_previous_source(reloaded: Ended) -> None:
    lines = len(regular_customers()) - 1
    assert reloaded.code == 0, reloaded.errors
    assert re.search(rf"^✓ raw_transactions +{lines:,} rows", reloaded.stdout, re.MULTILINE)


def test_installed_command_generates_and_publishes_the_sample(tmp_path: Path) -> None:
    """With fewer customers than shipped, no search and no report, which take 15 s of CPU time."""
    shipped = (Path(segmentation_pipeline.__file__).parent / "retailers" / "sample.toml").read_text("utf-8")
    fast = "\n[model]\nn_clusters = 4\n\n[checks]\nmin_silhouette = -1.0\n\n[release]\nreport = false\n"
    assert "customers = 5000" in shipped
    (tmp_path / "small.toml").write_text(shipped.replace("customers = 5000", "customers = 300") + fast, "utf-8")
    environment = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    environment |= {"SEGMENTATION_DATA": str(tmp_path / "data"), "HOME": str(tmp_path / "home")}
    command = [str(SEGMENTS), "run", "--verbose", "--retailer", "small.toml"]
    ran = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert re.findall(r"^(\w+): (?:\w+): (\w+)", ran.stderr, re.MULTILINE) == []
    assert re.search(r"^✓ customer_segments +30\d rows", ran.stdout, re.MULTILINE)
    assert len(list((tmp_path / "sample" / "source").glob("*.csv"))) == 24
    [release] = Releases(tmp_path / "data" / "sample" / "releases").all()
    with duckdb.connect(str(release.database), read_only=True) as connection:
        steps = connection.execute(
            "select rule from cleaning_report where step > 0 and lines > 0 order by step"
        ).fetchall()
        groups = connection.execute("select distinct customer_group from customer_segments order by 1").fetchall()
    assert [rule for (rule,) in steps] == [
        "invalid_invoice",
        "not_a_product",
        "missing_customer",
        "price_not_positive",
        "exact_duplicate",
    ], "each kind of error that the sample contains"
    assert groups == [("inactive",), ("normal",), ("outlier",)]


def test_unparsed_dates_are_reported_with_place_and_setting(tmp_path: Path) -> None:
    lines = [(*fields[:4], "12/1/2010 8:26", *fields[5:]) for fields in regular_customers(8)]
    failed = segments(shop_in(tmp_path, lines), "run")
    assert failed.code == 1
    assert failed.errors.startswith(
        "failed: clean_transactions: clean_transactions would break its contract (not empty"
    )
    assert f"unparseable_value {len(lines)}. {len(lines)} of {len(lines)} lines (100.0%) could not" in failed.errors
    assert f"transaction_at in {len(lines)} lines: '99/9/9999 9:99' in {len(lines)}, first in a.csv" in failed.errors
    assert 'source.date_format = ["iso_8601", "%d/%m/%Y %H:%M"]' in failed.errors
    assert "If the other of day and month is first, it is %m/%d/%Y %H:%M." in failed.errors


def test_too_little_data_names_the_rules_that_rejected_most(tmp_path: Path) -> None:
    lines = [line(), line(invoice="X1"), line(stock_code="POST"), line(stock_code="POST")]
    failed = segments(shop_in(tmp_path, lines), "run")
    assert failed.code == 1
    assert "Too little data: 1 customers over 0 days" in failed.errors
    assert "3 of 4 lines were rejected: not_a_product 2, invalid_invoice 1. invalid_invoice (not" in failed.errors


# The models.


@pytest.fixture(scope="module")
def searched(finished_template: Shop, tmp_path_factory: pytest.TempPathFactory) -> tuple[Shop, Ended]:
    """Return a shop with a model of four segments after a search that found three, and the output of the search."""
    shop = finished_template.copy(tmp_path_factory.mktemp("searched"))
    shop.configure(model={"n_clusters": "auto"})
    with pytest.MonkeyPatch.context() as rules:
        # The search itself is tested in `test_k_search`.
        rules.setattr(thresholds, "SEARCH", SEARCH)
        return shop, segments(shop, "model", "search")


def listed_models(shop: Shop) -> list[list[str]]:
    """Return the rows of `segments model list`: name, status, number of segments."""
    listed = segments(shop, "model", "list")
    assert (listed.code, listed.errors) == (0, "")
    return [row.split()[:3] for row in listed.stdout.splitlines() if re.match(r" *\d{8}-\w{8} +\w+ +\d", row)]


def test_search_with_another_number_of_segments_awaits_approval(searched: tuple[Shop, Ended]) -> None:
    shop, ended = searched
    assert (ended.code, "last_model_was_promoted" in warned_checks(ended)) == (0, True)
    [[active, *first], [pending, *second]] = listed_models(shop)
    assert (first, second) == (["active", "4"], ["pending", "3"])
    assert re.search(rf"{pending} is pending approval: 3 clusters instead of 4: new .+; retired ", unwrap(ended.stdout))
    assert unwrap(segments(shop, "model", "list").stdout) in unwrap(ended.stdout), "the output ends with the list"
    assert shop.release.manifest["model_id"] == active


def test_approved_model_becomes_active_with_the_next_run(
    searched: tuple[Shop, Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    shop, _ = searched
    [[first, *_], [second, *_]] = listed_models(shop)
    count_segments = "select count(distinct segment_key) from kmeans_centroids"
    with duckdb.connect(str(shop.releases.all()[-1].database), read_only=True) as connection:
        before = connection.execute(count_segments).fetchall()
    monkeypatch.setattr(thresholds, "SEARCH", SEARCH)
    promoted = segments(shop, "model", "promote", second[:10])
    message = f"{second} becomes active with the next run; `segments run` publishes its segments."
    assert (promoted.code, promoted.errors, unwrap(promoted.stdout)) == (0, "", message)
    assert [row[1] for row in listed_models(shop)] == ["active", "approved"]
    assert len(shop.releases.all()) == 2, "an approval publishes nothing"
    ran = segments(shop, "run")
    assert ran.code == 0, ran.errors
    release = shop.releases.all()[-1]
    assert release.manifest["model_id"] == second
    with duckdb.connect(str(release.database), read_only=True) as connection:
        after = connection.execute(count_segments).fetchall()
        reasons = connection.execute(
            "select distinct reason from segment_changes where model_id = ?", [second]
        ).fetchall()
    assert (before, after) == ([(4,)], [(3,)])
    assert ("model",) in reasons

    assert [row[1] for row in listed_models(shop)] == ["retired", "active"]
    again = segments(shop, "model", "promote", second)
    assert (again.code, again.stdout) == (2, "")
    assert second in again.errors
    for message, status in (
        (f"{first} becomes active with the next run; `segments run` publishes its segments.", "approved"),
        (f"{second} stays active; the approval is withdrawn.", "retired"),
    ):
        rolled_back = segments(shop, "model", "rollback")
        assert (rolled_back.code, rolled_back.errors, unwrap(rolled_back.stdout)) == (0, "", message)
        assert [row[1] for row in listed_models(shop)] == [status, "active"]


@pytest.mark.parametrize("name", ["19990101", "2024"], ids=["unknown", "ambiguous"])
def test_unknown_or_ambiguous_model_lists_the_known_ones(searched: tuple[Shop, Ended], name: str) -> None:
    shop, _ = searched
    known = ", ".join(model for model, *_ in listed_models(shop))
    ended = segments(shop, "model", "promote", name)
    assert (ended.code, ended.stdout) == (2, "")
    assert f"'{name}': {known}" in ended.errors


@pytest.mark.parametrize("command", [["list"], ["promote", "2024"], ["rollback"]], ids=" ".join)
def test_model_commands_before_the_first_run_name_the_command(new_shop: Shop, command: list[str]) -> None:
    ended = segments(new_shop, "model", *command)
    assert (ended.code, ended.stdout) == (2, "")
    assert ended.errors.startswith("error: no model in ")
    assert ended.errors.endswith("yet; `segments run` fits the first")
    assert not new_shop.data.exists(), "reading creates nothing"


def test_rollback_without_a_previous_model_is_an_error(shop: Shop, first_run: Ended) -> None:
    ended = segments(shop, "model", "rollback")
    assert (ended.code, ended.stdout) == (2, "")
    assert ended.errors == "error: there is no previous model; `segments model list` shows all"


def test_failed_search_exits_with_1_and_a_message(tmp_path: Path) -> None:
    """The tilde in the path of the retailer file means the home of the user, also in the run."""
    shop = shop_in(tmp_path, [line(invoice="none")])
    failed = segments(shop, "model", "search", "--retailer", "~/retailer.toml", HOME=str(shop.folder))
    assert failed.code == 1
    assert "clean_transactions would break its contract (not empty" in failed.errors
    assert "Traceback" not in failed.stdout + failed.errors


UNKNOWN_HOME = "~nobody-has-this-name/x"
INVALID_PATHS: dict[str, tuple[list[str], dict[str, str]]] = {
    "retailer of an unknown user": (["run", "--retailer", UNKNOWN_HOME], {}),
    "source of an unknown user": (["run", "--source", UNKNOWN_HOME], {}),
    "retailer variable of an unknown user": (["releases"], {"SEGMENTATION_RETAILER": UNKNOWN_HOME}),
    "data folder of an unknown user": (["show"], {"SEGMENTATION_DATA": UNKNOWN_HOME}),
    "Dagster folder of an unknown user": (["home"], {"DAGSTER_HOME": UNKNOWN_HOME}),
    "long name of a retailer": (["run", "--retailer", "x" * 300], {}),
    "long name of a source": (["run", "--source", "x" * 300], {}),
    "long name of a data folder": (["run"], {"SEGMENTATION_DATA": f"/{'x' * 300}", "DAGSTER_HOME": ""}),
}


@pytest.mark.parametrize(("arguments", "environment"), INVALID_PATHS.values(), ids=INVALID_PATHS)
def test_invalid_path_exits_with_2_and_a_message(
    new_shop: Shop, arguments: list[str], environment: dict[str, str]
) -> None:
    ended = segments(new_shop, *arguments, **environment)
    assert (ended.code, ended.stdout) == (2, "")
    assert ended.errors.startswith("error: ")
    assert ("nobody-has-this-name" in ended.errors) or ("xxxxxxxx" in ended.errors)
    assert "Traceback" not in ended.errors


@contextmanager
def limited_file_size() -> Iterator[None]:
    """Limit each file that this process writes to a megabyte."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_file_size_limit_fails_the_run_with_a_message(tmp_path: Path) -> None:
    """The first file to exceed the limit is the copy in UTF-8, as on a full disk."""
    shop = shop_in(tmp_path, regular_customers() * 80)
    shop.configure(source={"encoding": "latin-1"})
    with limited_file_size():
        ran = segments(shop, "run")
    assert ran.code == 1, ran.errors
    assert "failed: raw_transactions: " in ran.errors
    assert "File too large" in ran.errors
    assert "Check the free disk space and memory, and that this user can read the source" in ran.errors
    assert f"write to {shop.data}; then run again." in ran.errors
    for output in (ran.stdout, ran.errors):
        assert "Traceback" not in output
        assert 'File "' not in output


INVALID_INPUT = {
    "missing source": (["run", "--source", "nowhere/*.csv"], ["source.path: nothing to read at", "nowhere/*.csv"]),
    "invalid as_of": (["run", "--as-of", "yesterday"], ["rfm.as_of", "YYYY-MM-DD", "yesterday"]),
    "unknown retailer": (["run", "--retailer", "smaple"], ["smaple", "sample?"]),
    "unknown option": (["run", "--retialer", "sample"], ["No such option", "--retailer"]),
}


@pytest.mark.parametrize(("arguments", "parts"), INVALID_INPUT.values(), ids=INVALID_INPUT)
def test_invalid_input_exits_with_2_and_a_message(new_shop: Shop, arguments: list[str], parts: list[str]) -> None:
    ended = segments(new_shop, *arguments)
    assert (ended.code, ended.stdout) == (2, "")
    assert [part for part in parts if part not in ended.errors] == []
    assert "Traceback" not in ended.errors
    assert not new_shop.data.exists(), "no run has started"


@pytest.fixture
def invalid_retailer(tmp_path: Path) -> Path:
    file = retailer_file(
        tmp_path, tmp_path, time_zone="Europe/Lundon", currency="pounds", outliers={"factor": -1}, cleening={}
    )
    return file.rename(tmp_path / "invalid.toml")


@pytest.mark.parametrize("command", [["run", "--retailer"], ["retailer", "check"]], ids=" ".join)
def test_all_errors_of_a_retailer_file_are_listed(new_shop: Shop, invalid_retailer: Path, command: list[str]) -> None:
    ended = segments(new_shop, *command, str(invalid_retailer))
    assert (ended.code, ended.stdout) == (2, "")
    for key in ("time_zone", "currency", "outliers.factor", "cleening", "Europe/London?"):
        assert key in ended.errors
    assert "Traceback" not in ended.errors


def test_messages_keep_names_in_brackets(new_shop: Shop, tmp_path: Path) -> None:
    rule = {"name": "no_country", "reason": "none", "column": "amount", "required": True}
    file = retailer_file(tmp_path, tmp_path, cleaning={"rules": [rule]})
    assert "[columns]" in segments(new_shop, "retailer", "check", str(file)).errors


def test_traceback_option_shows_the_traceback_of_invalid_input(new_shop: Shop, invalid_retailer: Path) -> None:
    ended = segments(new_shop, "run", "--retailer", str(invalid_retailer), "--traceback")
    assert ended.code == 2
    assert "Traceback (most recent call last)" in ended.errors


def test_valid_retailer_file_reports_its_source_files(shop: Shop) -> None:
    checked = segments(shop, "retailer", "check", str(shop.retailer))
    assert (checked.code, checked.errors) == (0, "")
    assert "Corner shop: valid." in checked.stdout
    assert "Source: 1 file." in checked.stdout


def test_a_check_reads_the_file_of_merged_customers(shop: Shop, tmp_path: Path) -> None:
    file = retailer_file(tmp_path, shop.source, customers={"merged": "merged.csv"})
    missing = segments(shop, "retailer", "check", str(file))
    assert (missing.code, f"customers.merged: there is no file {tmp_path / 'merged.csv'}" in missing.errors) == (
        2,
        True,
    )
    (tmp_path / "merged.csv").write_text("old_id,new_id\n1,2\n3,2\n")
    assert "Merged customers: 2 ids." in segments(shop, "retailer", "check", str(file)).stdout
