"""An erased customer is in no table, no file and no byte that the pipeline keeps, and does not come back."""

import hashlib
import hmac
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from segmentation_pipeline.tables.contract import quoted
from segmentation_pipeline_tests.commands import Ended, segments
from segmentation_pipeline_tests.scenarios import line, regular_customers, write_csv
from segmentation_pipeline_tests.shops import Shop

KEY, OTHER_KEY = "5f" * 32, "a0" * 32
# Names that no other text contains: one as a person writes it, and one as a program exports it.
PERSON, NUMBER = "VERA-77123", "7712399"
ERASED = (PERSON, NUMBER)


def command(shop: Shop, *arguments: str, key: str = KEY, event_log: bool = False) -> Ended:
    return segments(shop, *arguments, event_log=event_log, SEGMENTATION_PRIVACY_KEY=key)


def rows_that_name(folder: Path) -> Iterator[tuple[str, str, str, int]]:
    """Yield the file, the table, the name and the number of rows that show one of the names, in any file of a folder.

    One search finds all names, because opening the files takes most of its time.
    """
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and not file.is_symlink()]
    with duckdb.connect() as parquet:
        for file in files:
            if ".parquet" in file.name:
                parquet.execute(f"create or replace view one as select * from read_parquet('{file}')")
                yield from _rows_of(parquet, file.relative_to(folder).as_posix(), ["one"])
            elif ".duckdb" in file.name:
                with duckdb.connect(str(file), read_only=True) as connection:
                    tables = connection.execute("select table_name from duckdb_tables()").fetchall()
                    yield from _rows_of(connection, file.relative_to(folder).as_posix(), [name for (name,) in tables])


def _rows_of(
    connection: duckdb.DuckDBPyConnection, file: str, tables: list[str]
) -> Iterator[tuple[str, str, str, int]]:
    counts = ", ".join("count(*) filter (contains(row::varchar, ?))" for _ in ERASED)
    for table in tables:
        row = connection.execute(f"select {counts} from {quoted(table)} as row", ERASED).fetchone()
        assert row is not None
        yield from ((file, table, name, count) for name, count in zip(ERASED, row, strict=True) if count)


def files_that_contain(folder: Path, name: str) -> list[str]:
    """Return every file below a folder that contains the name as bytes, whatever kind of file it is."""
    files = (file for file in sorted(folder.rglob("*")) if file.is_file() and not file.is_symlink())
    return [file.relative_to(folder).as_posix() for file in files if name.encode() in file.read_bytes()]


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """Build a shop after two nights; two people are on good, rejected and malformed lines, and publishing is paused."""
    own = [
        line(invoice=f"60000{n}", at=f"2024-0{n}-11 10:00:00", quantity=f"{10 * n}", customer=name)
        for n in range(1, 6)
        for name in (f" {PERSON} ", f"{NUMBER}.0")
    ]
    rejected = line(invoice="600009", at="2024-03-02 10:00:00", price="0", customer=PERSON)
    unparsed = line(invoice="600010", at="2024-03-02 10:00:00", quantity=f"for {PERSON}", customer="10001")
    others = [one for one in regular_customers() if one[4] < "2024-06"]
    shop = Shop.build(
        tmp_path_factory.mktemp("before"), [*others, *own, rejected, unparsed], release={"max_as_of_jump_days": 400}
    )
    with (shop.source / "a.csv").open("a", encoding="utf-8") as file:
        file.write(f'600011,85123A,"LANTERN, blue",1,2024-03-03 10:00:00,2.50,{NUMBER}.0\n')
    # The erasure must leave also the event log without names.
    assert command(shop, "run", event_log=True).code == 0
    # Without times, so the midnight of as_of is a purchase of the next day, which does not count.
    dated = [(*one[:4], one[4][:10], *one[5:]) for one in regular_customers() if "2024-06" <= one[4] < "2024-08"]
    later = [line(invoice="700000", at="2024-08-01", customer=one[6]) for one in regular_customers()]
    write_csv(shop.source / "b.csv", [*dated, *later])
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("SEGMENTATION_PRIVACY_KEY", KEY)
        assert shop.run(as_of="2024-07-31").success
    # A kept database, as `segments restore --replace` leaves it.
    shutil.copy(shop.work, shop.work.with_name("work.duckdb.before"))
    assert command(shop, "releases", "rollback", shop.releases.all()[0].name).code == 0
    return shop


@pytest.fixture(scope="module")
def after(before: Shop, tmp_path_factory: pytest.TempPathFactory) -> tuple[Shop, Ended]:
    """Erase both people in a copy of the shop; return it and the output of the command."""
    shop = before.copy(tmp_path_factory.mktemp("after"))
    ended = command(shop, "erase", PERSON, f"{NUMBER}.0", event_log=True)
    assert ended.code == 0, ended
    return shop, ended


@pytest.fixture(scope="module")
def stored(before: Shop) -> list[tuple[str, str, str, int]]:
    """Return all that `rows_that_name` finds before the erasure."""
    return list(rows_that_name(before.folders.root))


def test_the_search_finds_customers_wherever_they_are_stored(
    before: Shop, stored: list[tuple[str, str, str, int]]
) -> None:
    """Otherwise the following tests could not fail."""
    for name in ERASED:
        found = {(file.split("/")[-1], table) for file, table, shown, _ in stored if shown == name}
        assert {
            ("work.duckdb", table) for table in ("raw_transactions", "rejected_transactions", "rfm_features")
        } <= found
        assert {("work.duckdb.before", "segment_history"), ("state.duckdb", "segment_membership")} <= found
        assert {("segments.duckdb", "customer_segments"), ("rfm_scores.parquet", "one")} <= found
    # DuckDB compresses long texts, so not every one of these files contains the bytes.
    assert files_that_contain(before.folders.root, PERSON)


def test_no_table_of_any_file_names_an_erased_customer(after: tuple[Shop, Ended]) -> None:
    assert list(rows_that_name(after[0].data)) == []


def test_no_stored_byte_names_an_erased_customer(after: tuple[Shop, Ended]) -> None:
    """Dagster's event log, and the unused blocks of databases, are included."""
    shop, ended = after
    for name in ERASED:
        assert files_that_contain(shop.data, name) == []
        assert name not in ended.stdout + ended.errors


def test_the_output_counts_rows_before_and_after(
    stored: list[tuple[str, str, str, int]], after: tuple[Shop, Ended]
) -> None:
    _, ended = after
    printed = dict(re.findall(r"^(\S+(?:: \w+)?) +([\d,]+) +(?:0|deleted)$", ended.stdout, re.MULTILINE))
    expected: dict[str, int] = {}
    for file, table, _, rows in stored:
        place = f"{file}: {table}" if file == "work.duckdb" else file
        expected[place] = expected.get(place, 0) + rows
    assert {place: int(rows) for place, rows in printed.items() if rows != "0"} == expected
    assert {"work.duckdb: scaled_customers", "work.duckdb: segment_history"} <= printed.keys()
    for place in expected:
        if place.startswith("releases") or "before" in place:
            assert re.search(rf"^{re.escape(place)} .*deleted$", ended.stdout, re.MULTILINE), place
    assert "a.csv (11)" in ended.stdout, "the source still holds their lines"


def test_the_new_release_is_current_and_publishing_stays_paused(before: Shop, after: tuple[Shop, Ended]) -> None:
    shop, _ = after
    [release] = shop.releases.all()
    assert shop.release.name == release.name == shop.releases.paused_at
    assert release.as_of == before.releases.all()[-1].as_of
    assert release.verify() == []
    assert not list(shop.folders.root.glob("work.duckdb?*"))
    assert shop.work.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("table", "columns"),
    [
        # Without inter_purchase_time, which depends on the median of all customers.
        ("rfm_features", "* exclude (inter_purchase_time)"),
        ("clean_transactions", "*"),
        ("segment_membership", "customer_id, valid_from"),
        ("model_centroids", "*"),
    ],
)
def test_other_customers_do_not_change(before: Shop, after: tuple[Shop, Ended], table: str, columns: str) -> None:
    """The same days count as before, also for lines without times."""
    others = f"where customer_id not in ('{PERSON}', '{NUMBER}')" if table != "model_centroids" else ""
    select = f"select {columns} from {table} {{}} order by all"
    assert after[0].rows(select.format("")) == before.rows(select.format(others))


def test_an_erased_customer_is_a_change_by_keyed_hash(after: tuple[Shop, Ended]) -> None:
    purpose = hmac.new(KEY.encode(), b"forgotten", hashlib.sha256).digest()
    hashes = {hmac.new(purpose, name.encode(), hashlib.sha256).hexdigest() for name in ERASED}
    changes = after[0].rows("select customer_id, from_segment, to_segment from segment_changes where reason = 'erased'")
    assert sorted(changes) == [(one, None, None) for one in sorted(hashes)]


def test_erased_customers_do_not_come_back(after: tuple[Shop, Ended], tmp_path: Path) -> None:
    """Neither with their files nor with later ones, also where the working database is restored from the release."""
    shop = after[0].copy(tmp_path)
    again = line(invoice="700001", at="2024-07-30 10:00:00", customer=PERSON)
    write_csv(shop.source / "c.csv", [again, line(invoice="700002", at="2024-07-30 10:00:00")])
    shop.work.unlink()
    assert command(shop, "restore", shop.releases.all()[0].name).code == 0
    ended = command(shop, "run", "--reload", event_log=True)
    assert ended.code == 0, ended.errors
    assert list(rows_that_name(shop.data)) == []
    for name in ERASED:
        assert files_that_contain(shop.data, name) == []
    # Each record of each file is a line, or is left out.
    counts = {
        file: (lines, erased)
        for file, lines, erased in shop.rows("select source_file, lines, erased from ingested_files")
    }
    records = {name: len((shop.source / name).read_text().splitlines()) - 1 for name in ("a.csv", "b.csv", "c.csv")}
    assert {file: sum(both) for file, both in counts.items()} == records
    assert (counts["a.csv"][1], counts["b.csv"][1], counts["c.csv"][1]) == (11, 0, 1)
    unparsed = shop.rows("select unparsed from raw_transactions where unparsed is not null order by 1")
    assert unparsed == [
        ('{"line":"erased"}',),
        ('{"transaction_at":null,"quantity":"erased","price":null,"amount":null}',),
    ]


def test_a_run_with_another_key_stops(after: tuple[Shop, Ended]) -> None:
    """It could not recognise the erased customers, so they would come back."""
    shop, _ = after
    ended = command(shop, "run", key=OTHER_KEY)
    assert ended.code == 1
    assert "SEGMENTATION_PRIVACY_KEY is not the key with which customers were erased" in ended.errors
    assert "Traceback" not in ended.errors
    assert len(shop.releases.all()) == 1


def test_customers_are_not_erased_with_a_second_key(after: tuple[Shop, Ended]) -> None:
    """With two keys, no run could recognise all erased customers."""
    shop, _ = after
    before = shop.rows("select * from erased_customers order by all")
    ended = command(shop, "erase", "10001", key=OTHER_KEY)
    assert ended.code == 2
    assert "is not the key with which customers were erased" in ended.errors
    assert shop.rows("select * from erased_customers order by all") == before


def test_erasing_a_customer_again_changes_nothing(after: tuple[Shop, Ended]) -> None:
    shop, _ = after
    [release] = shop.releases.all()
    ended = command(shop, "erase", PERSON)
    assert (ended.code, [one.name for one in shop.releases.all()]) == (0, [release.name])
    assert "already erased" in ended.stdout


@pytest.mark.parametrize(
    ("arguments", "key", "message"),
    [
        ([PERSON, "12"], KEY, "customer 2 of 2 is in no table"),
        ([PERSON], "", "SEGMENTATION_PRIVACY_KEY is not set"),
        (["-r", "online_retail", PERSON], KEY, "work.duckdb does not exist yet"),
    ],
    ids=["unknown customer", "no key", "no database"],
)
def test_an_impossible_erasure_is_an_error_and_changes_nothing(
    before: Shop, arguments: list[str], key: str, message: str
) -> None:
    content = before.work.read_bytes()
    ended = command(before, "erase", *arguments, key=key)
    assert ended.code == 2
    assert message in ended.errors
    assert PERSON not in ended.errors
    assert before.work.read_bytes() == content
    assert len(before.releases.all()) == 2


def test_an_erasure_without_a_release_can_be_finished_later(before: Shop, tmp_path: Path) -> None:
    shop = before.copy(tmp_path)
    shop.configure(checks={"min_customers": 1_000})
    ended = command(shop, "erase", PERSON, NUMBER)
    assert ended.code == 1
    assert "a release without them could not be published" in ended.errors
    assert len(shop.releases.all()) == 2
    assert not any(file.endswith("work.duckdb") for file, *_ in rows_that_name(shop.data))
    shop.configure()
    assert command(shop, "erase", PERSON, NUMBER).code == 0
    assert list(rows_that_name(shop.data)) == []
