"""`segments status`: what it says of an installation in each state, and with which exit code."""

import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pytest
from dagster._core.remote_origin import (
    InProcessCodeLocationOrigin,
    RemoteInstigatorOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    InstigatorType,
    ScheduleInstigatorData,
)
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._daemon.types import DaemonHeartbeat

from segmentation_pipeline.orchestration.instance import prepare
from segmentation_pipeline.status import installation
from segmentation_pipeline.warehouse.lock import this_process, writer
from segmentation_pipeline_tests import commands
from segmentation_pipeline_tests.commands import Ended
from segmentation_pipeline_tests.scenarios import regular_customers, write_csv
from segmentation_pipeline_tests.shops import Shop

OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"


def status(shop: Shop, *options: str, **environment: str) -> Ended:
    """Run the command with the shop's own Dagster folder."""
    return commands.segments(shop, "status", *options, event_log=True, **environment)


def found(shop: Shop, *options: str, **environment: str) -> dict[str, Any]:
    """Return the status as JSON, whose exit code is that of the command."""
    ended = status(shop, "--json", *options, **environment)
    assert ended.errors == ""
    parsed: dict[str, Any] = json.loads(ended.stdout)
    assert parsed["exit_code"] == ended.code
    return parsed


def problems(of: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the level and the subject of each problem, each with a message and an action."""
    listed = of["problems"]
    assert all(one["message"] and one["action"] for one in listed)
    return [(one["level"], one["subject"]) for one in listed]


@pytest.fixture
def shop(finished_shop: Shop) -> Shop:
    """A shop with a release and no Dagster folder."""
    return finished_shop


@pytest.fixture
def instance(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    """The Dagster instance in the shop's data folder."""
    monkeypatch.setenv("DAGSTER_HOME", str(shop.data / "dagster"))
    prepare()
    with dg.DagsterInstance.get() as instance:
        yield instance


def test_a_finished_shop_is_in_order(shop: Shop) -> None:
    ended = status(shop)
    assert (ended.code, ended.errors) == (0, ""), ended.stdout
    assert ended.stdout.startswith("OK: corner_shop: everything is in order\n")
    figures = shop.release.metrics
    assert f"{figures['customers']} customers, £" in ended.stdout
    assert re.search(rf"^loss +{figures['clean_lines']:,} of {figures['raw_lines']:,} lines kept", ended.stdout, re.M)
    assert not (shop.data / "dagster").exists(), "it creates nothing"


def test_before_the_first_run_the_first_command_is_named(tmp_path: Path) -> None:
    new = Shop.build(tmp_path / "new", regular_customers(8))
    of = found(new)
    assert (of["status"], problems(of)) == ("warning", [("warning", "release")])
    assert "`segments run` publishes the first" in status(new).stdout
    assert not new.data.exists(), "it creates nothing"


def test_json_has_the_documented_keys(shop: Shop, instance: dg.DagsterInstance) -> None:
    section = OPERATIONS.read_text("utf-8").split("\n## Status\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`[^|]+`) \| (.+) \|$", section, re.MULTILINE)
    keys = {key: text for cell, text in rows for key in re.findall(r"`(\w+)`", cell)}
    assert shop.run(instance, assets=["erased_customers", "raw_transactions", "ingested_files"]).success
    of = found(shop)
    assert of.keys() == keys.keys()
    for key in ("release", "model", "drift", "loss", "database", "daemon", "schedules", "runs", "disk"):
        value = of[key]
        part = value[0] if isinstance(value, list) else value
        assert isinstance(part, dict)
        assert [name for name in part if f"`{name}`" not in keys[key]] == [], key


def test_a_run_that_writes_is_named_with_its_process(shop: Shop) -> None:
    holder = this_process("segments: nightly_segmentation", "a-run")
    with writer(shop.folders.lock, holder, 0, pytest.fail):
        of, text = found(shop), status(shop).stdout
    assert of["database"]["holder"]["description"] == holder
    assert of["exit_code"] == 0
    assert re.search(rf"^database +{re.escape(holder)} writes to it, since just now \(\d{{4}}-", text, re.MULTILINE)
    assert found(shop)["database"]["holder"] is None


def test_a_failed_night_exits_with_2_and_its_message(shop: Shop, instance: dg.DagsterInstance) -> None:
    shutil.rmtree(shop.source)
    write_csv(shop.source / "b.csv", [])
    assert not shop.run(
        instance, assets=["erased_customers", "raw_transactions", "ingested_files"], reload=True
    ).success
    ended = status(shop)
    assert (ended.code, ended.stdout.split("\n")[0]) == (2, "ERROR: corner_shop: 1 error")
    assert "error: The last run failed. raw_transactions: source.path: no lines to read" in ended.stdout
    assert "docs/failures.md" in ended.stdout


def test_a_stale_release_exits_with_2(shop: Shop) -> None:
    assert problems(found(shop, "--max-age", "0")) == [("error", "release")]
    assert problems(found(shop, "--max-age", "1")) == []


def test_nightly_releases_are_stale_after_a_day(
    shop: Shop, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segmentation_pipeline.status.report._NIGHTLY_HOURS", 0.0)
    assert problems(found(shop)) == [], "nothing says that a night is due"
    instance.add_daemon_heartbeat(DaemonHeartbeat(time.time(), "SCHEDULER", "1", []))
    assert problems(found(shop)) == [("error", "release")]
    instance.add_daemon_heartbeat(DaemonHeartbeat(time.time() - 3600, "SCHEDULER", "1", []))
    assert problems(found(shop)) == [("warning", "schedules")], "the daemon has stopped"


def test_a_daemon_runs_the_nights_of_its_retailer(
    shop: Shop, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segmentation_pipeline.status.report._NIGHTLY_HOURS", 0.0)
    instance.add_daemon_heartbeat(DaemonHeartbeat(time.time(), "SCHEDULER", "1", []))
    other = {"SEGMENTATION_RETAILER": "sample"}
    assert problems(found(shop, "--retailer", str(shop.retailer), **other)) == [], "no night of this one is due"
    ended = status(shop, "--retailer", str(shop.retailer), **other)
    assert re.search("^daemon +running for sample:", ended.stdout, re.M), ended.stdout


def test_a_schedule_that_is_off_names_the_command(shop: Shop, instance: dg.DagsterInstance) -> None:
    target = LoadableTargetOrigin(module_name="segmentation_pipeline.definitions")
    location = InProcessCodeLocationOrigin(target, location_name="segmentation_pipeline")
    origin = RemoteInstigatorOrigin(RemoteRepositoryOrigin(location, "__repository__"), "nightly")
    instance.add_instigator_state(
        InstigatorState(origin, InstigatorType.SCHEDULE, InstigatorStatus.STOPPED, ScheduleInstigatorData("5 2 * * *"))
    )
    ended = status(shop)
    assert ended.code == 1
    assert "schedule nightly is switched off" in ended.stdout
    assert "`dagster schedule start nightly -w workspace.yaml` switches it on" in ended.stdout


def test_an_invalid_retailer_file_leaves_the_rest_visible(shop: Shop) -> None:
    name = shop.release.name
    shop.retailer.write_text(shop.retailer.read_text("utf-8") + "\n[cleening]\n", "utf-8")
    ended = status(shop)
    assert (ended.code, name in ended.stdout, "cleening" in ended.stdout) == (2, True, True)
    assert "`segments retailer check " in ended.stdout
    shop.retailer.write_text("name = [", "utf-8")
    assert problems(found(shop))[0] == ("error", "retailer")


def test_an_unknown_retailer_exits_with_3(shop: Shop) -> None:
    ended = status(shop, "--retailer", "nowhere.toml")
    assert (ended.code, ended.stdout) == (3, "")
    assert ended.errors.startswith("error: retailer 'nowhere.toml': no such file")


def test_a_full_disk_exits_with_2(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(shop.data)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=150_000_000))
    assert problems(found(shop)) == [("warning", "disk")]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=90_000_000))
    assert problems(found(shop)) == [("error", "disk"), ("error", "disk")]


def test_files_that_others_read_or_nobody_writes_are_named(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.work.chmod(0o644)
    shop.folders.releases.chmod(0o755)
    assert problems(found(shop)) == [("warning", "installation")] * 2
    assert f"`chmod 600 {shop.work}`" in status(shop).stdout
    monkeypatch.setattr(os, "access", lambda path, mode: path != shop.work)
    assert problems(found(shop))[0] == ("error", "installation")


def test_packages_of_other_versions_are_named(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        f"{installation.__name__}.version", lambda name: "1.13.1" if name == "dagster" else version(name)
    )
    ended = status(shop)
    assert ended.code == 2
    assert re.search(r"dagster-webserver [\d.]+ needs dagster==[\d.]+; 1\.13\.1 is installed", ended.stdout)


def test_an_open_working_database_is_named(shop: Shop) -> None:
    """In this process, which DuckDB answers with another error than to a second process."""
    with duckdb.connect(str(shop.work)):
        assert problems(found(shop)) in ([("error", "database")], [("warning", "database")])


def test_a_release_that_is_damaged_or_gone_exits_with_2(shop: Shop) -> None:
    (shop.releases.folder / "current").unlink()
    assert problems(found(shop)) == [("error", "release")]
    shop.releases.resume()
    database = shop.release.database
    database.chmod(0o640)
    database.write_bytes(b"no database")
    assert problems(found(shop)) == [("error", "release")]


def test_paused_publishing_is_a_warning(shop: Shop) -> None:
    shop.releases.rollback(shop.release.name)
    assert problems(found(shop, "--max-age", "0")) == [("warning", "release")]


def test_unreadable_settings_of_dagster_are_an_error(shop: Shop) -> None:
    home = shop.data / "dagster"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry: {enabled: [}", "utf-8")
    assert problems(found(shop)) == [("error", "runs")]


def test_a_lost_source_is_an_error_before_the_night(shop: Shop) -> None:
    shutil.rmtree(shop.source)
    of = found(shop)
    assert problems(of) == [("error", "source")]
