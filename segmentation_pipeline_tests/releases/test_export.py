"""An exported table is complete and in order, and a spreadsheet runs none of its text as a formula."""

import csv
import io
import os
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from segmentation_pipeline.releases.export import export
from segmentation_pipeline.releases.files import Release
from segmentation_pipeline_tests.commands import segments
from segmentation_pipeline_tests.shops import Shop

SEGMENTS = Path(sys.executable).with_name("segments")
FULL_WIDTH = "\uff1d"
FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", f"{FULL_WIDTH}1"]
RENAME = "update {} set customer_id = list_extract({}, 1 + customer_id::int % 7) || ' Zoë, ' || customer_id"


@pytest.fixture(scope="module")
def shop(finished_template: Shop, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """A shop with a release whose customers have names that a spreadsheet would run."""
    shop = finished_template.copy(tmp_path_factory.mktemp("shop"))
    before = shop.release
    with duckdb.connect(str(shop.work)) as work:
        for table in ("customer_segments", "rfm_features", "rfm_scores"):
            work.execute(RENAME.format(table, "$formulas"), {"formulas": FORMULAS})
        shop.releases.publish(work, {"figures": {}}, macros=[], as_of=before.as_of, run_id="00000002-test", keep=2)
    return shop


def rows_of(content: bytes) -> list[dict[str, str]]:
    text = content.decode("utf-8")
    assert text.startswith("\ufeff"), "without a byte order mark, Excel breaks the accents"
    return list(csv.DictReader(io.StringIO(text.removeprefix("\ufeff"), newline="")))


def exported(release: Release, table: str) -> list[dict[str, str]]:
    content = io.BytesIO()
    export(release, table, content)
    return rows_of(content.getvalue())


def test_text_like_a_formula_gets_an_apostrophe(shop: Shop) -> None:
    rows = exported(shop.release, "customer_segments")
    customers = [customer for (customer,) in shop.released("select customer_id from customer_segments order by all")]
    assert len(customers) == 59
    assert {customer.lstrip()[0] for customer in customers} == {"=", "+", "-", "@", FULL_WIDTH}
    assert [row["customer_id"] for row in rows] == [f"'{customer}" for customer in customers], "in the key's order"
    assert not any(text.startswith(tuple(f"=+-@\t\r\n{FULL_WIDTH}")) for row in rows for text in row.values())


def test_numbers_stay_numbers_also_negative_ones(shop: Shop) -> None:
    rows = exported(shop.release, "cleaning_report")
    assert [row["step"] for row in rows] == [str(step) for step in range(len(rows))]
    amounts = "select cast(amount as varchar) from cleaning_report order by step"
    assert [row["amount"] for row in rows] == [amount or "" for (amount,) in shop.released(amounts)]
    fences = exported(shop.release, "outlier_fences")
    assert any(text.startswith("-") for row in fences for text in row.values()), "these customers need a negative fence"


def test_every_published_table_can_be_exported(shop: Shop) -> None:
    release = shop.release
    for table, rows in release.manifest["tables"].items():
        assert len(exported(release, table)) == rows, table


def test_a_release_with_another_key_is_exported(shop: Shop, tmp_path: Path) -> None:
    """As one of an earlier contract is, in which a column of the key had another name."""
    release = Release(tmp_path, shop.release.manifest)
    with duckdb.connect(str(release.database)) as connection:
        connection.execute("create table customer_segments as from (values (2, 'b'), (1, 'a')) as t(customer, name)")
    assert exported(release, "customer_segments") == [{"customer": "1", "name": "a"}, {"customer": "2", "name": "b"}]


def test_a_table_goes_to_standard_output_in_utf_8(shop: Shop) -> None:
    environment = os.environ | shop.environment | {"PYTHONIOENCODING": "latin-1"}
    command = [str(SEGMENTS), "export", "customer_segments"]
    output = subprocess.run(command, env=environment, capture_output=True, check=True).stdout
    assert rows_of(output) == exported(shop.release, "customer_segments")


def test_a_reader_that_stops_gets_no_traceback(shop: Shop) -> None:
    command = f"'{SEGMENTS}' export rfm_segment_map | head -c 9"
    environment = os.environ | shop.environment
    ended = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, check=True)
    assert (len(ended.stdout), ended.stderr) == (9, b"")


def test_an_unknown_table_is_an_error_and_empties_no_file(shop: Shop, tmp_path: Path) -> None:
    existing = tmp_path / "a.csv"
    existing.write_text("mine", "utf-8")
    for table in ("customers", "raw_transactions", 'segments"; drop table segments; --'):
        ended = segments(shop, "export", table, "--output", str(existing))
        assert (ended.code, ended.stdout) == (2, "")
        assert (
            f"no table {table!r} in release {shop.release.name}; there are: backtest_metrics, backtest_verdict,"
            " cleaning_report, " in ended.errors
        )
    assert existing.read_text("utf-8") == "mine"


def test_an_export_writes_the_named_file(shop: Shop, tmp_path: Path) -> None:
    ended = segments(shop, "export", "segments", "--output", str(tmp_path / "a.csv"))
    assert (ended.code, ended.stdout, ended.errors) == (0, "", "")
    assert rows_of((tmp_path / "a.csv").read_bytes()) == exported(shop.release, "segments")


def test_a_file_that_cannot_be_written_is_an_error(shop: Shop, tmp_path: Path) -> None:
    ended = segments(shop, "export", "segments", "--output", str(tmp_path / "nowhere" / "a.csv"))
    assert ended.code == 2
    assert "No such file or directory" in ended.errors


def test_without_a_release_the_error_names_the_next_command(shop: Shop, tmp_path: Path) -> None:
    ended = segments(shop, "export", "segments", SEGMENTATION_DATA=str(tmp_path))
    assert (ended.code, ended.stdout) == (2, "")
    assert "`segments run` publishes one" in ended.errors
