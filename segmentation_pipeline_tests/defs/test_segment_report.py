"""Tests of the asset `segment_report`, through Dagster and the command line: the page, its charts, and its failures."""

import re

import dagster as dg
import pytest

from segmentation_pipeline.defs.releases.report import observation
from segmentation_pipeline.orchestration.job_selection import NIGHTLY_JOB
from segmentation_pipeline.reports import publishing
from segmentation_pipeline.reports.figures import FIGURES, Drawing
from segmentation_pipeline_tests.commands import segments
from segmentation_pipeline_tests.shops import SECOND_NIGHT, Shop


@pytest.fixture(scope="module")
def reported(
    finished_template: Shop, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Shop, dg.DagsterInstance, dg.ExecuteInProcessResult]:
    """A shop after a night with a report, and the events of that night."""
    shop = finished_template.copy(tmp_path_factory.mktemp("reported"))
    shop.configure(rfm={"look_back_days": 200}, release={"report": True})
    instance = dg.DagsterInstance.ephemeral()
    return shop, instance, shop.run(instance, as_of=SECOND_NIGHT)


Reported = tuple[Shop, dg.DagsterInstance, dg.ExecuteInProcessResult]


def only_the_report(shop: Shop, instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    return shop.run(instance, job=NIGHTLY_JOB, assets=["segment_report"])


def test_a_run_writes_the_report_beside_its_release(reported: Reported) -> None:
    shop, _, result = reported
    assert result.success
    [first, second] = shop.releases.all()
    assert not first.report.exists()
    assert second.report.read_text("utf-8").startswith("<!DOCTYPE html>")
    assert second.report.stat().st_mode & 0o777 == 0o440
    assert not any(shop.releases.verify().values())
    [materialization] = result.asset_materializations_for_node("segment_report")
    assert materialization.metadata["release"].value == second.name
    assert re.fullmatch(r"\d+ charts", str(materialization.metadata["drawn"].value))
    assert materialization.metadata["bytes"].value == second.report.stat().st_size
    [evaluation] = [check for check in result.get_asset_check_evaluations() if check.check_name == "report_is_complete"]
    assert evaluation.passed


def test_each_chart_is_shown_on_the_asset_that_it_explains(reported: Reported) -> None:
    _, instance, _ = reported
    shown = {}
    for figure in FIGURES:
        events = instance.fetch_observations(dg.AssetKey(figure.asset), limit=1).records
        for record in events:
            assert record.asset_observation is not None
            text = str(record.asset_observation.metadata[figure.name].value)
            shown[figure.name] = text
            picture = re.search(r"!\[[^]]*\]\(data:image/png;base64,([A-Za-z0-9+/=]+)\)", text)
            assert picture is not None
            # Of each night, so the event log must not grow much by them.
            assert 2_000 < len(picture[1]) < 60_000
    assert {"segment_sizes", "segment_map", "loss_funnel", "lift"} <= shown.keys()


def test_names_of_products_are_no_markdown() -> None:
    """Opening the page would load a picture of another host."""
    empty = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"></svg>'
    drawing = Drawing(FIGURES[0], empty, "MUG ![x](http://example.org/x.png) <img src=y>")
    text = str(observation(drawing, "release").metadata[FIGURES[0].name].value)
    assert text.endswith(r"MUG \!\[x\]\(http\:\/\/example\.org\/x\.png\) \<img src\=y\>")


def test_first_rows_of_all_tables_name_no_customer(reported: Reported) -> None:
    shop, _, result = reported
    written = [event.step_materialization_data.materialization for event in result.get_asset_materialization_events()]
    shown = [item.metadata["first_rows"] for item in written if "first_rows" in item.metadata]
    assert len(shown) > 20
    words = set(re.findall(r"\w+", str([value.value for value in shown])))
    customers = {str(customer) for (customer,) in shop.rows("select customer_id from rfm_features")}
    assert "99999" in words
    assert customers & words == set()


def test_the_release_has_its_size_and_time_as_numbers(reported: Reported) -> None:
    shop, _, result = reported
    [materialization] = result.asset_materializations_for_node("release")
    files = [path for path in shop.release.folder.iterdir() if path.name not in ("manifest.json", "report.html")]
    assert materialization.metadata["bytes"].value == sum(path.stat().st_size for path in files)
    assert 0 < float(str(materialization.metadata["seconds"].value)) < 600


def test_the_command_line_says_where_the_report_is(reported: Reported) -> None:
    shop, _, _ = reported
    assert f"report   {shop.releases.folder / 'current' / 'report.html'}" in segments(shop, "show").stdout
    first, second = shop.releases.all()
    assert segments(shop, "report").stdout == f"{second.report}\n"
    assert segments(shop, "report", first.name).stdout == f"{first.report}\n"
    assert "This is the first release" in first.report.read_text("utf-8")
    assert segments(shop, "releases", "verify").code == 0


def test_a_failing_report_is_a_warning_and_the_run_succeeds(
    reported: Reported, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop, _, _ = reported

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(publishing, "add_report", fail)
    before = shop.release.report.read_bytes()
    result = only_the_report(shop, instance)
    assert result.success
    assert result.asset_materializations_for_node("segment_report") == []
    [evaluation] = result.get_asset_check_evaluations()
    assert not evaluation.passed
    assert evaluation.severity == dg.AssetCheckSeverity.WARN
    assert "its report is missing or incomplete: OSError: disk full." in str(evaluation.description)
    assert shop.release.report.read_bytes() == before


def test_a_report_that_is_switched_off_is_not_written(finished_shop: Shop, instance: dg.DagsterInstance) -> None:
    result = only_the_report(finished_shop, instance)
    assert result.success
    assert not finished_shop.release.report.exists()
    assert [check.passed for check in result.get_asset_check_evaluations()] == [True]
