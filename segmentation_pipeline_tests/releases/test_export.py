"""A table for people with spreadsheets: all of it, in order, and nothing that a spreadsheet would run."""

import csv
import io
import os
import subprocess
from pathlib import Path

import duckdb
import pytest

from segmentation_pipeline_tests.cli.test_command_line import SEGMENTS, Shop
from segmentation_pipeline_tests.scenarios import regular_customers

WIDE = "\uff1d"
RUN = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", f"{WIDE}1"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """A shop whose customers have names that a spreadsheet would run."""
    lines = [(*line[:6], f"{RUN[int(line[6]) % 7]} Zoë {line[6]}", line[7]) for line in regular_customers()]
    shop = Shop.with_lines(tmp_path_factory.mktemp("shop"), lines)
    ran = shop.segments("run")
    assert ran.returncode == 0, ran.stderr
    return shop


def rows_of(text: str) -> list[dict[str, str]]:
    assert text.startswith("\ufeff"), "Excel would break the accents"
    return list(csv.DictReader(io.StringIO(text.removeprefix("\ufeff"), newline="")))


def exported(shop: Shop, table: str, file: Path) -> list[dict[str, str]]:
    ended = shop.segments("export", table, "--output", str(file))
    assert (ended.returncode, ended.stdout) == (0, ""), ended.stderr
    return rows_of(file.read_bytes().decode("utf-8"))


def published(shop: Shop, select: str) -> list[tuple[str, ...]]:
    current = shop.releases.current
    assert current is not None
    with duckdb.connect(str(current.database.resolve()), read_only=True) as connection:
        return connection.execute(select).fetchall()


def test_text_that_would_be_run_stands_after_an_apostrophe_in_the_order_of_the_key(shop: Shop, tmp_path: Path) -> None:
    rows = exported(shop, "customer_segments", tmp_path / "a.csv")
    customers = [customer for (customer,) in published(shop, "select customer_id from customer_segments order by all")]
    assert len(customers) == 60
    assert {customer.lstrip()[0] for customer in customers} == {"=", "+", "-", "@", WIDE}
    assert [row["customer_id"] for row in rows] == [f"'{customer}" for customer in customers]
    assert not any(text.startswith(tuple(f"=+-@\t\r\n{WIDE}")) for row in rows for text in row.values())


def test_numbers_are_left_alone_also_negative_ones_and_rows_stand_as_numbers_do(shop: Shop, tmp_path: Path) -> None:
    rows = exported(shop, "cleaning_report", tmp_path / "a.csv")
    assert [row["step"] for row in rows] == [str(step) for step in range(len(rows))]
    money = "select cast(amount as varchar) from cleaning_report order by step"
    assert [row["amount"] for row in rows] == [amount or "" for (amount,) in published(shop, money)]
    fences = exported(shop, "outlier_fences", tmp_path / "b.csv")
    assert any(text.startswith("-") for row in fences for text in row.values()), (
        "no fence of these customers is negative"
    )


def test_every_published_table_goes_to_standard_output_whole(shop: Shop) -> None:
    current = shop.releases.current
    assert current is not None
    environment = os.environ | {"SEGMENTATION_DATA": str(shop.data), "PYTHONIOENCODING": "latin-1"}
    for table in ("segments", "rfm_segment_map"):
        asked = [str(SEGMENTS), "export", table, "--retailer", str(shop.folder / "retailer.toml")]
        said = subprocess.run(asked, env=environment, capture_output=True, check=True).stdout.decode("utf-8")
        assert len(rows_of(said)) == current.manifest["tables"][table]


def test_who_stops_reading_gets_no_traceback(shop: Shop) -> None:
    asked = f"'{SEGMENTS}' export rfm_segment_map --retailer '{shop.folder}/retailer.toml' | head -c 9"
    environment = os.environ | {"SEGMENTATION_DATA": str(shop.data)}
    ended = subprocess.run(["bash", "-c", asked], env=environment, capture_output=True, check=True)
    assert ended.stderr == b""


def test_a_table_that_is_none_is_a_sentence_that_tells_those_there_are(shop: Shop, tmp_path: Path) -> None:
    kept = tmp_path / "a.csv"
    kept.write_text("mine", "utf-8")
    for table in ("customers", "raw_transactions", 'segments"; drop table segments; --'):
        ended = shop.segments("export", table, "--output", str(kept))
        assert ended.returncode == 2
        assert "no table" in ended.stderr
        assert "customer_segments" in ended.stderr
        assert "Traceback" not in ended.stderr
    assert kept.read_text("utf-8") == "mine"


def test_a_file_that_cannot_be_written_and_no_release_are_sentences(shop: Shop, tmp_path: Path) -> None:
    ended = shop.segments("export", "segments", "--output", str(tmp_path / "nowhere" / "a.csv"))
    assert (ended.returncode, "Traceback" in ended.stderr) == (2, False)
    assert "No such file or directory" in ended.stderr
    nothing = shop.segments("export", "segments", SEGMENTATION_DATA=str(tmp_path))
    assert (nothing.returncode, nothing.stdout) == (2, "")
    assert "`segments run` publishes one" in " ".join(nothing.stderr.split())
