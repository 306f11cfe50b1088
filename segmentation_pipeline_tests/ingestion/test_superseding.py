"""Of several versions of an export, one counts: the newest that can be read."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import dagster as dg
import pytest

from segmentation_pipeline.ingestion.file_ledger import IngestedFile
from segmentation_pipeline.ingestion.superseding import resolve_versions
from segmentation_pipeline_tests.config.minimal import MINIMAL, only_error
from segmentation_pipeline_tests.ingestion.test_changed_files import ASSETS
from segmentation_pipeline_tests.ingestion.test_incremental import Shop as Source
from segmentation_pipeline_tests.ingestion.test_properties import File, Row, Shop
from segmentation_pipeline_tests.scenarios import line

PATTERN = r"sales_(?P<period>[0-9-]{7})(_v(?P<version>\w+))?\.csv"


@pytest.fixture(scope="module", autouse=True)
def context() -> Iterator[None]:
    """Share one context, because each creates an instance of Dagster."""
    with dg.build_asset_context() as made:
        Shop.shared_context = made
        yield


def resolved(files: Mapping[str, str], pattern: str = PATTERN) -> dict[str, str]:
    """Return the status of files after versions are compared, of those that keep lines or are quarantined."""
    empty = {name for name, status in files.items() if status.startswith("empty ")}
    records = [
        IngestedFile(name, "", "", "", status.removeprefix("empty "), lines=0 if name in empty else 3)
        for name, status in files.items()
    ]
    found = {record.source_file: record for record in resolve_versions(records, pattern)}
    assert all((record.reason is not None) == (record.status == "superseded") for record in found.values())
    return {
        name: record.status + (" without lines" if not record.lines and name not in empty else "")
        for name, record in found.items()
    }


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("sales_2024-01_v9.csv", "sales_2024-01_v10.csv"),
        ("sales_2024-01.csv", "sales_2024-01_v1.csv"),
        ("sales_2024-01_v1.csv", "sales_2024-01_v2.csv.gz"),
        ("sales_2024-01_v2024-02-01T0900.csv", "sales_2024-01_v2024-02-01T1000.csv"),
        ("sales_2024-01_vA.csv", "sales_2024-01_vb.csv"),
        ("in/sales_2024-01_v1.csv", "in/sales_2024-01_v1b.csv"),
    ],
)
def test_a_newer_version_supersedes_an_older_one(older: str, newer: str) -> None:
    pattern = PATTERN.replace(r"\w", r"[\w-]")
    for names in ([older, newer], [newer, older]):
        assert resolved(dict.fromkeys(names, "loaded"), pattern) == {older: "superseded", newer: "loaded"}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("sales_2024-01_v1.csv", "sales_2024-02_v2.csv"),
        ("berlin/sales_2024-01_v1.csv", "munich/sales_2024-01_v2.csv"),
        ("old_sales_2024-01_v1.csv", "sales_2024-01_v2.csv"),
        ("sales_2024-01_v1.csv", "sales_2024-01_v01.csv"),
        ("sales_2024-01_v1.csv", "refunds_2024-01_v2.csv"),
    ],
    ids=["period", "folder", "text before", "same version", "not matched"],
)
def test_other_exports_and_equal_versions_both_count(one: str, other: str) -> None:
    assert resolved({one: "loaded", other: "loaded"}) == {one: "loaded", other: "loaded"}


V1, V2, V3 = (f"sales_2024-01_v{number}.csv" for number in (1, 2, 3))


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({V1: "loaded", V2: "loaded", V3: "loaded"}, {V1: "superseded", V2: "superseded", V3: "loaded"}),
        # The newer disappears, cannot be read, or is empty.
        ({V1: "loaded", V2: "missing"}, {V1: "loaded"}),
        ({V1: "loaded", V2: "quarantined"}, {V1: "loaded", V2: "quarantined without lines"}),
        ({V1: "loaded", V2: "empty loaded"}, {V1: "loaded", V2: "loaded"}),
        ({V1: "loaded", V2: "empty quarantined"}, {V1: "loaded", V2: "quarantined"}),
        # The older does.
        ({V1: "missing", V2: "loaded"}, {V2: "loaded"}),
        ({V1: "quarantined", V2: "loaded"}, {V1: "quarantined without lines", V2: "loaded"}),
        # No version can be read: the newest keeps its lines.
        ({V1: "missing", V2: "missing"}, {V2: "missing"}),
        ({V1: "missing", V2: "quarantined"}, {V2: "quarantined"}),
        ({V1: "quarantined", V2: "missing"}, {V1: "quarantined without lines", V2: "missing"}),
        ({V1: "missing", V2: "empty quarantined"}, {V1: "missing", V2: "quarantined"}),
        ({V1: "missing", V2: "empty loaded"}, {V1: "missing", V2: "loaded"}),
    ],
)
def test_the_newest_version_that_can_be_read_counts(files: dict[str, str], expected: dict[str, str]) -> None:
    assert resolved(files) == expected


def test_a_version_of_erased_customers_only_supersedes_too() -> None:
    newer = IngestedFile(V2, "", "", "", "loaded", erased=3)
    found = resolve_versions([replace(newer, source_file=V1, lines=3, erased=0), newer], PATTERN)
    assert {record.source_file: record.status for record in found} == {V1: "superseded", V2: "loaded"}


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("sales_(", "allowed: a regular expression of Python; missing ), unterminated subpattern"),
        ("sales_(?P<period>.*)", "allowed: a pattern with a group (?P<version>...), which says how new a file is"),
        (" ", "allowed: at least 1 character"),
    ],
)
def test_a_pattern_without_a_version_is_an_error(tmp_path: Path, pattern: str, message: str) -> None:
    text = MINIMAL.replace("[source]", f"[source]\nsupersedes = '{pattern}'")
    assert f"source.supersedes: {message}" in only_error(tmp_path, text)


# -- night by night


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Source]:
    source = Source(tmp_path, monkeypatch)
    source.file("other.csv", [line("9")])
    source.file(V1, [line("1"), line("2")])
    source.configure(source={"supersedes": PATTERN})
    yield source
    source.close()


def test_an_older_version_counts_again_without_being_read(source: Source, caplog: pytest.LogCaptureFixture) -> None:
    """While the newer is there, the older has the status superseded, and its lines are stored."""
    assert source.load().metadata["files_superseded"] == 0
    newer = source.file(V2, [line("1"), line("2"), line("3")])
    load = source.load()
    assert (load.metadata["files_read"], load.metadata["files_superseded"]) == (1, 1)
    assert source.statuses == {"other.csv": "loaded", V1: "superseded", V2: "loaded"}
    assert source.rows(f"select reason from ingested_files where source_file = '{V1}'") == [(f"superseded by {V2}",)]
    assert load.warning("no_file_is_missing") == ""
    source.load()
    newer.unlink()
    load = source.load()
    source.load()
    assert caplog.messages[-2:] == [
        f"Not counted any more: {V1} (2 lines) is superseded by {V2}.",
        f"Counted again, because no newer version supersedes it: {V1} (2 lines).",
    ], "each once"
    assert (load.metadata["files_read"], source.statuses) == (0, {"other.csv": "loaded", V1: "loaded"})
    assert load.warning("no_file_is_missing") == "", "a version of the export is there"
    assert source.invoices == [("other.csv", "9"), (V1, "1"), (V1, "2")]


def test_a_superseded_file_that_disappears_takes_its_lines_along(source: Source) -> None:
    source.load()
    source.file(V2, [line("3")])
    source.load()
    (source.source / V1).unlink()
    assert source.load().warning("no_file_is_missing") == ""
    assert source.invoices == [("other.csv", "9"), (V2, "3")]


def test_only_the_newest_version_of_a_missing_period_is_kept(source: Source) -> None:
    source.load()
    source.file(V2, [line("3")])
    source.load()
    (source.source / V1).unlink()
    (source.source / V2).unlink()
    assert source.load().warning("no_file_is_missing").startswith(f"Missing from the source: {V2}.")
    assert source.invoices == [("other.csv", "9"), (V2, "3")]


def test_without_the_setting_every_file_counts_again(source: Source) -> None:
    source.load()
    source.file(V2, [line("3")])
    source.load()
    source.configure()
    load = source.load()
    assert (load.metadata["files_read"], {*source.statuses.values()}) == (0, {"loaded"})


def rows_of(*invoices: str) -> File:
    return File("csv", [Row(line(invoice), None, None, True) for invoice in invoices], "\n")


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    shop = Shop(tmp_path)
    shop.set("source", supersedes=PATTERN)
    shop.add_files({V1[:-4]: rows_of("500001", "500002"), "other": rows_of("500009")})
    shop.execute(ASSETS)
    return shop


def clean(shop: Shop) -> list[str]:
    return [invoice for (invoice,) in shop.rows("select invoice from clean_transactions order by all")]


def test_lines_of_superseded_files_are_rejected_and_reported(shop: Shop) -> None:
    shop.add_files({V2[:-4]: rows_of("500001", "500003")})
    shop.materialize("raw_transactions")
    found = str(shop.materialize("clean_transactions")["derived"])
    assert found == "the rows of 2 of 3 files, because their lines changed"
    shop.execute(ASSETS)
    assert clean(shop) == ["500001", "500003", "500009"]
    report = shop.rows("select rule, lines, amount, lines_left from cleaning_report where rule = 'superseded_file'")
    assert [(rule, lines, float(amount), left) for rule, lines, amount, left in report] == [
        ("superseded_file", 2, 10.0, 3)
    ]
    (shop.folder / "in" / V2).unlink()
    shop.execute(ASSETS)
    assert clean(shop) == ["500001", "500002", "500009"]


def test_superseded_lines_make_no_other_line_a_duplicate(shop: Shop) -> None:
    shop.set("cleaning", sources_overlap=True)
    shop.add_files({V2[:-4]: rows_of("500001", "500002"), "z": rows_of("500001")})
    shop.execute(ASSETS)
    assert clean(shop) == ["500001", "500002", "500009"]
    rejected = dict(shop.rows("select rule, count(*) from rejected_transactions group by rule"))
    assert rejected == {"superseded_file": 2, "exact_duplicate": 1}
