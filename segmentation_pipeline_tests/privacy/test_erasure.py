"""Whoever is forgotten stands in no table, no file and no byte of what the pipeline keeps, and does not come back."""

import hashlib
import hmac
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pytest

from segmentation_pipeline.config.loading import load_settings
from segmentation_pipeline.config.paths import RetailerFolders
from segmentation_pipeline.privacy.erasure import erase
from segmentation_pipeline.privacy.pseudonyms import Key
from segmentation_pipeline.releases.store import Releases
from segmentation_pipeline.tables.contract import quoted
from segmentation_pipeline_tests.scenarios import line, regular_customers, retailer_file, run_job, write_csv

SEGMENTS = Path(sys.executable).with_name("segments")
KEY, OTHER_KEY = "5f" * 32, "a0" * 32
# A name that stands in nothing else, spelt as a person would and as a program exports it.
PERSON, NUMBER = "VERA-77123", "7712399"
Rows = list[tuple[Any, ...]]


@dataclass(frozen=True)
class Shop:
    """A retailer with its source, its data folder and Dagster's books in it."""

    folder: Path

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def home(self) -> Path:
        return self.data / "corner_shop"

    @property
    def releases(self) -> Releases:
        return Releases(self.home / "releases")

    def segments(self, *arguments: str, key: str = KEY) -> "subprocess.CompletedProcess[str]":
        environment = os.environ | {
            "SEGMENTATION_DATA": str(self.data),
            "SEGMENTATION_RETAILER": str(self.folder / "retailer.toml"),
            "SEGMENTATION_PRIVACY_KEY": key,
        }
        return subprocess.run(
            [SEGMENTS, *arguments], env=environment, capture_output=True, text=True, timeout=120, check=False
        )

    def rows(self, select: str) -> Rows:
        with duckdb.connect(str(self.home / "work.duckdb"), read_only=True) as connection:
            return connection.execute(select).fetchall()

    def copied(self, folder: Path) -> "Shop":
        shutil.copytree(self.folder, folder, symlinks=True)
        return Shop(folder)


def rows_that_tell(data: Path, name: str) -> Iterator[tuple[str, str, int]]:
    """Every file and table below a folder in which any column of any type shows the name, with how many rows do."""
    for file in sorted(data.rglob("*")):
        if file.is_symlink() or not file.is_file() or not re.search(r"\.(duckdb|parquet)", file.name):
            continue
        is_parquet = file.suffix == ".parquet"
        with duckdb.connect() if is_parquet else duckdb.connect(str(file), read_only=True) as connection:
            if is_parquet:
                connection.execute(f"create view one as select * from read_parquet('{file}')")
            tables = connection.execute(
                "select table_name from duckdb_tables() union all select 'one' where $1", [is_parquet]
            )
            for (table,) in tables.fetchall():
                shown = f"select count(*) from {quoted(table)} as row where contains(row::varchar, $1)"
                [(count,)] = connection.execute(shown, [name]).fetchall()
                if count:
                    yield file.relative_to(data).as_posix(), str(table), int(count)


def files_that_hold(folder: Path, name: str) -> list[str]:
    """Every file below a folder with the name in its bytes, whatever kind of file it is."""
    files = (file for file in sorted(folder.rglob("*")) if file.is_file() and not file.is_symlink())
    return [file.relative_to(folder).as_posix() for file in files if name.encode() in file.read_bytes()]


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """Two nights with two people who bought, gave back, stand on refused and on broken lines, and were set aside."""
    shop = Shop(tmp_path_factory.mktemp("before") / "shop")
    lines = [one for one in regular_customers() if one[4] < "2024-06"]
    theirs = [
        line(invoice=f"60000{n}", at=f"2024-0{n}-11 10:00:00", quantity=f"{10 * n}", customer=name)
        for n in range(1, 6)
        for name in (f" {PERSON} ", f"{NUMBER}.0")
    ]
    refused = line(invoice="600009", at="2024-03-02 10:00:00", price="0", customer=PERSON)
    unread = line(invoice="600010", at="2024-03-02 10:00:00", quantity=f"for {PERSON}", customer="10001")
    write_csv(shop.folder / "source" / "a.csv", [*lines, *theirs, refused, unread])
    with (shop.folder / "source" / "a.csv").open("a", encoding="utf-8") as file:
        file.write(f'600011,85123A,"LANTERN, blue",1,2024-03-03 10:00:00,2.50,{NUMBER}.0\n')
    retailer_file(shop.folder, Path("source"), release={"max_as_of_jump_days": 400})
    assert shop.segments("run").returncode == 0
    write_csv(shop.folder / "source" / "b.csv", [one for one in regular_customers() if "2024-06" <= one[4] < "2024-08"])
    assert shop.segments("run").returncode == 0
    first = shop.releases.all()[0].name
    # A database that was set aside by hand, as `segments restore --replace` does it.
    shutil.copy(shop.home / "work.duckdb", shop.home / "work.duckdb.before")
    assert shop.segments("releases", "rollback", first).returncode == 0
    return shop


@pytest.fixture(scope="module")
def after(before: Shop, tmp_path_factory: pytest.TempPathFactory) -> tuple[Shop, "subprocess.CompletedProcess[str]"]:
    shop = before.copied(tmp_path_factory.mktemp("after") / "shop")
    done = shop.segments("erase", PERSON, f"{NUMBER}.0")
    assert done.returncode == 0, done.stdout + done.stderr
    return shop, done


def test_the_search_finds_them_wherever_the_pipeline_had_put_them(before: Shop) -> None:
    """Else the tests below could not fail: they stand in the work, beside it, in releases and in their state."""
    for name in (PERSON, NUMBER):
        found = {(file.split("/")[-1], table) for file, table, _ in rows_that_tell(before.data, name)}
        assert {
            ("work.duckdb", table) for table in ("raw_transactions", "rejected_transactions", "rfm_features")
        } <= found
        assert {("work.duckdb.before", "segment_history"), ("state.duckdb", "segment_membership")} <= found
        assert {("segments.duckdb", "customer_segments"), ("rfm_scores.parquet", "one")} <= found
    # Of long runs of text DuckDB packs the bytes, so that not each of these files need show them.
    assert files_that_hold(before.data / "corner_shop", PERSON)


def test_no_table_of_any_file_tells_of_who_was_forgotten(
    after: tuple[Shop, "subprocess.CompletedProcess[str]"],
) -> None:
    shop, _ = after
    for name in (PERSON, NUMBER):
        assert list(rows_that_tell(shop.data, name)) == []


def test_not_a_byte_of_what_the_pipeline_keeps_tells_of_who_was_forgotten(
    after: tuple[Shop, "subprocess.CompletedProcess[str]"],
) -> None:
    """Dagster's books and the blocks that a database no longer uses included."""
    shop, done = after
    for name in (PERSON, NUMBER):
        assert files_that_hold(shop.data, name) == []
        assert name not in done.stdout + done.stderr


def test_the_proof_tells_of_each_table_and_file_the_rows_before_and_after(
    before: Shop, after: tuple[Shop, "subprocess.CompletedProcess[str]"]
) -> None:
    shop, done = after
    told = dict(re.findall(r"^(\S+(?:: \w+)?) +([\d,]+) +(?:0|deleted)$", done.stdout, re.MULTILINE))
    home = Path("corner_shop")
    by_hand: dict[str, int] = {}
    for name in (PERSON, NUMBER):
        for file, table, rows in rows_that_tell(before.data, name):
            place = Path(file).relative_to(home).as_posix()
            place = f"{place}: {table}" if place == "work.duckdb" else place
            by_hand[place] = by_hand.get(place, 0) + rows
    assert {place: int(rows) for place, rows in told.items() if rows != "0"} == by_hand
    assert {"work.duckdb: scaled_customers", "work.duckdb: segment_history"} <= told.keys()
    left = {place for place in by_hand if place.startswith("releases") or "before" in place}
    assert {
        place for place in left if not re.search(rf"^{re.escape(place)} .*deleted$", done.stdout, re.MULTILINE)
    } == set()
    assert "a.csv (11)" in done.stdout, "the source still has them, and the person is told where"
    assert len(shop.releases.all()) == 1


def test_the_release_without_them_is_current_whole_and_of_the_same_moment_and_a_hold_goes_on(
    before: Shop, after: tuple[Shop, "subprocess.CompletedProcess[str]"]
) -> None:
    shop, _ = after
    [release] = shop.releases.all()
    current = shop.releases.current
    assert current is not None
    assert current.name == release.name == shop.releases.paused_at
    assert release.as_of == before.releases.all()[-1].as_of
    assert release.verify() == []
    assert not list(shop.home.glob("work.duckdb?*"))
    assert (shop.home / "work.duckdb").stat().st_mode & 0o777 == 0o600


def test_all_others_are_as_they_were(before: Shop, after: tuple[Shop, "subprocess.CompletedProcess[str]"]) -> None:
    shop, _ = after
    for table, columns in (
        ("rfm_features", "* exclude (inter_purchase_time)"),  # of which a part is the median of everybody's gaps
        ("clean_transactions", "*"),
        ("segment_membership", "customer_id, valid_from"),
        ("model_centroids", "*"),
    ):
        own = f"where customer_id not in ('{PERSON}', '{NUMBER}')" if table != "model_centroids" else ""
        assert shop.rows(f"select {columns} from {table} order by all") == before.rows(
            f"select {columns} from {table} {own} order by all"
        )


def test_a_customer_who_was_erased_is_a_change_told_by_a_keyed_hash(
    after: tuple[Shop, "subprocess.CompletedProcess[str]"],
) -> None:
    shop, _ = after
    purpose = hmac.new(KEY.encode(), b"forgotten", hashlib.sha256).digest()
    hashes = {hmac.new(purpose, name.encode(), hashlib.sha256).hexdigest() for name in (PERSON, NUMBER)}
    changes = shop.rows("select customer_id, from_segment, to_segment from segment_changes where reason = 'erased'")
    assert sorted(changes) == [(one, None, None) for one in sorted(hashes)]


def test_they_do_not_come_back_with_their_files_nor_with_later_ones_not_even_into_a_restored_database(
    after: tuple[Shop, "subprocess.CompletedProcess[str]"], tmp_path: Path
) -> None:
    shop = after[0].copied(tmp_path / "shop")
    again = line(invoice="700001", at="2024-07-30 10:00:00", customer=PERSON)
    write_csv(shop.folder / "source" / "c.csv", [again, line(invoice="700002", at="2024-07-30 10:00:00")])
    (shop.home / "work.duckdb").unlink()
    assert shop.segments("restore", shop.releases.all()[0].name).returncode == 0
    done = shop.segments("run", "--reload")
    assert done.returncode == 0, done.stderr
    for name in (PERSON, NUMBER):
        assert list(rows_that_tell(shop.data, name)) == []
        assert files_that_hold(shop.data, name) == []
    # Each record of each file is a line, or was left out.
    stands = {
        file: (lines, erased)
        for file, lines, erased in shop.rows("select source_file, lines, erased from ingested_files")
    }
    records = {
        name: len((shop.folder / "source" / name).read_text().splitlines()) - 1 for name in ("a.csv", "b.csv", "c.csv")
    }
    assert {file: sum(both) for file, both in stands.items()} == records
    assert (stands["a.csv"][1], stands["b.csv"][1], stands["c.csv"][1]) == (11, 0, 1)
    broken = shop.rows("select unparsed from raw_transactions where unparsed is not null order by 1")
    assert broken == [
        ('{"line":"erased"}',),
        ('{"transaction_at":null,"quantity":"erased","price":null,"amount":null}',),
    ]


def test_with_another_key_a_run_stops_rather_than_let_them_back(
    after: tuple[Shop, "subprocess.CompletedProcess[str]"],
) -> None:
    shop, _ = after
    done = shop.segments("run", key=OTHER_KEY)
    assert done.returncode == 1
    said = " ".join(done.stderr.split())
    assert "SEGMENTATION_PRIVACY_KEY is another key than that by which customers were forgotten" in said
    assert "Traceback" not in said
    assert len(shop.releases.all()) == 1


def test_nobody_is_forgotten_by_another_key_than_those_before(
    after: tuple[Shop, "subprocess.CompletedProcess[str]"],
) -> None:
    """By two keys, no run could keep them all out any more."""
    shop, _ = after
    stood = shop.rows("select * from erased_customers order by all")
    done = shop.segments("erase", "10001", key=OTHER_KEY)
    assert done.returncode == 2
    assert "is another key than that by which customers were forgotten" in " ".join(done.stderr.split())
    assert shop.rows("select * from erased_customers order by all") == stood


def test_forgetting_again_finds_nothing_and_changes_nothing(
    after: tuple[Shop, "subprocess.CompletedProcess[str]"],
) -> None:
    shop, _ = after
    done = shop.segments("erase", PERSON)
    assert (done.returncode, shop.releases.all()[0].name) == (0, shop.releases.all()[-1].name)
    assert "forgotten already" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "key", "said"),
    [
        (["erase", PERSON, "12"], KEY, "the customer in place 2 of 2 stands in no table"),
        (["erase", PERSON], "", "SEGMENTATION_PRIVACY_KEY is not set"),
        (["erase", "-r", "online_retail", PERSON], KEY, "there is no working database yet"),
    ],
)
def test_what_cannot_be_forgotten_is_a_sentence_and_nothing_is_touched(
    before: Shop, arguments: list[str], key: str, said: str
) -> None:
    stood = (before.home / "work.duckdb").read_bytes()
    done = before.segments(*arguments, key=key)
    assert done.returncode == 2
    assert said in " ".join(done.stderr.split())
    assert PERSON not in done.stderr
    assert (before.home / "work.duckdb").read_bytes() == stood
    assert len(before.releases.all()) == 2


def test_where_no_release_without_them_can_be_published_the_command_says_so_and_goes_on_when_it_is_mended(
    before: Shop, tmp_path: Path
) -> None:
    shop = before.copied(tmp_path / "shop")
    retailer_file(shop.folder, Path("source"), checks={"min_customers": 1_000})
    done = shop.segments("erase", PERSON, NUMBER)
    assert done.returncode == 1
    assert "no release without them could be published" in " ".join(done.stderr.split())
    assert len(shop.releases.all()) == 2
    assert not any(file.endswith("work.duckdb") for file, *_ in rows_that_tell(shop.data, PERSON))
    retailer_file(shop.folder, Path("source"))
    assert shop.segments("erase", PERSON, NUMBER).returncode == 0
    assert list(rows_that_tell(shop.data, PERSON)) == []


def test_a_release_without_them_counts_the_same_days_also_where_days_have_no_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each line is of a midnight, and that after as_of is of a day that does not count."""
    lines = [(*one[:4], one[4][:10], *one[5:]) for one in regular_customers()]
    beyond = [line(invoice="700001", at="2024-07-01", customer=one[6]) for one in regular_customers()]
    write_csv(tmp_path / "source" / "a.csv", [*lines, *beyond])
    monkeypatch.setenv(
        "SEGMENTATION_RETAILER", str(retailer_file(tmp_path, Path("source"), rfm={"as_of": "2024-06-30"}))
    )
    monkeypatch.setenv("SEGMENTATION_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("SEGMENTATION_PRIVACY_KEY", KEY)
    shop = Shop(tmp_path)
    select = "select customer_id, frequency, monetary, as_of from rfm_features where customer_id <> '10003' order by 1"
    with dg.DagsterInstance.ephemeral() as instance:
        assert run_job(instance).success
        stood = shop.rows(select)
        settings = load_settings()
        erased = erase(RetailerFolders(shop.data, settings.name), settings, Key(KEY.encode()), ["10003"], print)
        given = {"as_of": erased.as_of, "accept_change": True}
        assert run_job(instance, config={"resources": {"retailer": {"config": given}}}).success
    assert shop.rows(select) == stood
    assert len(stood) > 50
