"""Each file is taken in once, whatever the nights bring; what cannot be read blocks nobody, and no line is lost."""

import csv
import gzip
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any

import dagster as dg
import duckdb
import numpy as np
import pytest
import tomli_w

from segmentation_pipeline.definitions import defs
from segmentation_pipeline.ingestion.incremental import TABLES
from segmentation_pipeline.tables.catalog import contracts
from segmentation_pipeline.tables.contract import quoted
from segmentation_pipeline_tests.scenarios import (
    HEADER,
    Line,
    line,
    regular_customers,
    retailer_settings,
    run_job,
    write_csv,
)

LOADED = defs()
JOB = LOADED.resolve_job_def("nightly_segmentation")
MOUTH = [dg.AssetKey(table) for table in TABLES]
QUIET = {"console": {"config": {"log_level": "CRITICAL"}}}


class Night:
    """What one run of the mouth came to."""

    def __init__(self, result: dg.ExecuteInProcessResult) -> None:
        self.success = result.success
        failures = [event.step_failure_data.user_failure_data for event in result.get_step_failure_events()]
        self.said = " ".join(str(failure.description) for failure in failures if failure)
        told = [event.materialization.metadata for event in result.get_asset_materialization_events()]
        self.told = {name: value.value for name, value in (told[0] if told else {}).items()}
        found = result.get_asset_check_evaluations()
        self.checks = {check.check_name: check for check in found if check.check_name != "contract"}

    def warning(self, check: str) -> str:
        """What a check warns of; nothing where it passed."""
        found = self.checks[check]
        if found.passed:
            return ""
        assert found.severity == dg.AssetCheckSeverity.WARN
        return str(found.description)


class Shop:
    """A retailer whose files come and go; a night runs the assets of the mouth alone, with their checks."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.source, self.monkeypatch = folder, folder / "in", monkeypatch
        self.instance = dg.DagsterInstance.ephemeral()
        self.settle()

    def settle(self, **sections: Any) -> None:
        """Write the retailer file."""
        given = {"path": str(self.source), **sections.pop("source", {})}
        settings = retailer_settings(self.source, **sections) | {"source": given}
        self.folder.mkdir(exist_ok=True)
        file = self.folder / "retailer.toml"
        file.write_bytes(tomli_w.dumps(settings).encode())
        self.monkeypatch.setenv("SEGMENTATION_RETAILER", str(file))
        self.monkeypatch.setenv("SEGMENTATION_DATA", str(self.folder / "data"))

    def file(self, name: str, lines: Sequence[Sequence[str]], header: Sequence[str] = HEADER) -> Path:
        """A CSV file in the source."""
        return write_csv(self.source / name, lines, header)

    def night(self, **config: bool) -> Night:
        """One run."""
        given = {"loggers": QUIET, "resources": {"retailer": {"config": config}}}
        return Night(
            JOB.execute_in_process(
                instance=self.instance, run_config=given, asset_selection=MOUTH, raise_on_error=False
            )
        )

    def rows(self, select: str) -> list[tuple[Any, ...]]:
        """Rows of the working database."""
        with duckdb.connect(str(self.folder / "data" / "corner_shop" / "work.duckdb"), read_only=True) as connection:
            return connection.execute(select).fetchall()

    @property
    def invoices(self) -> list[tuple[str, str]]:
        """Each line's file and invoice."""
        return self.rows("select source_file, invoice from raw_transactions order by all")

    @property
    def statuses(self) -> dict[str, str]:
        """What became of each file."""
        return dict(self.rows("select source_file, status from ingested_files order by all"))


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    shop = Shop(tmp_path, monkeypatch)
    shop.file("a.csv", [line("1"), line("2")])
    shop.file("b.csv", [line("3")])
    with shop.instance:
        yield shop


A, B = [("a.csv", "1"), ("a.csv", "2")], [("b.csv", "3")]


def daily(lines: Sequence[Line]) -> Mapping[str, list[Line]]:
    """Lines by the file of their month and day."""
    files: dict[str, list[Line]] = {}
    for sold in lines:
        files.setdefault(f"{sold[4][:7]}/{sold[4][:10]}.csv", []).append(sold)
    return files


# -- nothing twice


def test_files_one_night_at_a_time_in_any_order_with_repeats_give_the_tables_of_all_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {name: lines for name, lines in daily(regular_customers()).items() if name < "2024-04"}
    assert len(files) > 20
    tables = []
    for seed in (None, 1):
        shop, names = Shop(tmp_path / str(seed), monkeypatch), sorted(files)
        if seed is not None:
            # A few a night, so that this stays quick; some nights bring nothing, some what they brought before.
            order = np.random.default_rng(seed).permutation(len(names))
            for night in np.array_split(order, 5):
                for place in night:
                    shop.file(names[place], files[names[place]])
                assert shop.night().told["files_read"] == len(night)
                shop.file(names[night[0]], files[names[night[0]]])
                assert shop.night().told["files_read"] == 0
        for name in names:
            shop.file(name, files[name])
        with shop.instance:
            assert run_job(shop.instance).success
        tables.append({name: shop.rows(f"select * from {quoted(name)} order by all") for name in contracts()})
    at_once, by_night = tables
    assert {name for name in contracts() if at_once[name] != by_night[name]} == {"ingested_files"}
    # But for when and by which run.
    ledgers = [[(row[:7], row[9]) for row in one["ingested_files"]] for one in tables]
    assert ledgers[0] == ledgers[1]


def test_a_file_that_stands_is_not_opened_again(shop: Shop) -> None:
    first = shop.night()
    assert (first.told["files"], first.told["files_read"], first.told["files_kept"]) == (2, 2, 0)
    assert first.told["bytes_read"] == sum(path.stat().st_size for path in shop.source.iterdir())
    for path in shop.source.iterdir():
        # Whoever opened it would find something else.
        stood, size = path.stat(), path.stat().st_size
        path.write_bytes(b"x" * size)
        os.utime(path, ns=(stood.st_atime_ns, stood.st_mtime_ns))
    again = shop.night()
    assert (again.told["files_read"], again.told["files_kept"], again.told["bytes_read"]) == (0, 2, 0)
    assert shop.invoices == A + B


def test_a_night_costs_the_bytes_of_the_new_files(shop: Shop) -> None:
    shop.night()
    new = shop.file("c.csv", [line("4")])
    night = shop.night()
    assert (night.told["files_read"], night.told["bytes_read"]) == (1, new.stat().st_size)
    assert shop.invoices == [*A, *B, ("c.csv", "4")]


def test_a_file_that_was_only_touched_is_not_read_again(shop: Shop) -> None:
    shop.night()
    os.utime(shop.source / "a.csv", (1, 1))
    night = shop.night()
    assert (night.success, night.told["files_read"], shop.invoices) == (True, 0, A + B)


def test_the_lines_of_a_file_that_changed_are_replaced_and_the_run_says_so(shop: Shop) -> None:
    assert shop.night().told["read_again"] == "none"
    shop.file("a.csv", [line("1"), line("5"), line("6")])
    night = shop.night()
    assert (night.told["files_read"], night.told["read_again"]) == (1, "a.csv")
    assert shop.invoices == [("a.csv", "1"), ("a.csv", "5"), ("a.csv", "6"), *B]


def test_a_night_without_anything_new_leaves_both_tables_as_they_were(shop: Shop) -> None:
    shop.night()
    before = [shop.rows(f"select * from {table} order by all") for table in ("raw_transactions", "ingested_files")]
    shop.night()
    assert before == [
        shop.rows(f"select * from {table} order by all") for table in ("raw_transactions", "ingested_files")
    ]


@pytest.mark.parametrize("change", [{"columns": {"country": "Description"}}, {"time_zone": "Asia/Tokyo"}])
def test_other_settings_of_reading_have_every_file_read_again(shop: Shop, change: dict[str, Any]) -> None:
    shop.night()
    shop.settle(**change)
    assert shop.night().told["files_read"] == 2


def test_settings_that_reading_does_not_hang_on_have_none_read_again(shop: Shop) -> None:
    shop.night()
    shop.settle(cleaning={"sources_overlap": True}, source={"max_quarantined": 1})
    assert shop.night().told["files_read"] == 0


def test_lines_that_another_version_wrote_are_read_again(shop: Shop) -> None:
    shop.night()
    with duckdb.connect(str(shop.folder / "data" / "corner_shop" / "work.duckdb")) as connection:
        connection.execute("alter table raw_transactions drop column country")
    assert shop.night().told["files_read"] == 2
    assert shop.invoices == A + B


def test_lines_of_another_version_are_not_dropped_where_their_files_are_gone(shop: Shop) -> None:
    shop.night()
    (shop.source / "a.csv").unlink()
    shop.night()
    with duckdb.connect(str(shop.folder / "data" / "corner_shop" / "work.duckdb")) as connection:
        connection.execute("alter table raw_transactions drop column country")
    night = shop.night()
    assert not night.success
    assert "go back to that version" in night.said
    assert shop.invoices == A + B


# -- files that go


def test_the_lines_of_a_file_that_is_gone_are_kept_and_the_run_that_misses_it_warns(shop: Shop) -> None:
    assert shop.night().warning("no_file_is_missing") == ""
    (shop.source / "a.csv").unlink()
    night = shop.night()
    assert night.warning("no_file_is_missing").startswith("Missing from the source: a.csv. Their lines are kept")
    assert (shop.invoices, shop.statuses) == (A + B, {"a.csv": "missing", "b.csv": "loaded"})
    assert shop.night().warning("no_file_is_missing") == ""
    assert shop.invoices == A + B


def test_a_file_that_comes_back_is_not_read_again(shop: Shop) -> None:
    shop.night()
    (shop.source / "a.csv").rename(shop.folder / "a.csv")
    shop.night()
    (shop.folder / "a.csv").rename(shop.source / "a.csv")
    night = shop.night()
    assert (night.told["files_read"], shop.invoices) == (0, A + B)
    assert shop.statuses == {"a.csv": "loaded", "b.csv": "loaded"}


def test_each_night_may_take_the_file_of_the_night_before_away(shop: Shop) -> None:
    for number in range(3):
        shop.file(f"{number}.csv", [line(f"{number}")])
        for other in shop.source.iterdir():
            if other.name != f"{number}.csv":
                other.unlink()
        assert shop.night().success
    assert shop.invoices == [("0.csv", "0"), ("1.csv", "1"), ("2.csv", "2")]


def renamed(path: Path) -> None:
    path.rename(path.with_name("z.csv"))


def archived(path: Path) -> None:
    (path.parent / "archive").mkdir()
    path.rename(path.parent / "archive" / path.name)


def packed(path: Path) -> None:
    path.with_name("a.csv.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()


@pytest.mark.parametrize("move", [renamed, archived, packed])
def test_a_file_that_moved_counts_once(shop: Shop, move: Callable[[Path], None]) -> None:
    shop.night()
    move(shop.source / "a.csv")
    assert shop.night().warning("no_file_is_missing") == ""
    assert [invoice for _, invoice in shop.invoices] == (["1", "2", "3"] if move is not renamed else ["3", "1", "2"])


def test_a_copy_counts_until_one_of_the_two_is_gone(shop: Shop) -> None:
    shop.night()
    shop.file("copy.csv", [line("1"), line("2")])
    shop.night()
    assert len(shop.invoices) == 5
    (shop.source / "a.csv").unlink()
    shop.night()
    assert shop.invoices == [*B, ("copy.csv", "1"), ("copy.csv", "2")]


def test_a_source_that_is_empty_all_at_once_is_no_quiet_night(shop: Shop) -> None:
    shop.night()
    for path in shop.source.iterdir():
        path.unlink()
    night = shop.night()
    assert not night.success
    assert night.said.startswith(f"source.path: nothing to read at {shop.source}; expected files")
    assert shop.invoices == A + B


def test_a_full_reload_reads_every_file_and_forgets_those_that_are_gone(shop: Shop) -> None:
    shop.night()
    (shop.source / "a.csv").unlink()
    shop.night()
    night = shop.night(reload=True)
    assert (night.told["files_read"], shop.invoices, shop.statuses) == (1, B, {"b.csv": "loaded"})


def test_another_source_is_not_added_to_the_one_before(shop: Shop) -> None:
    shop.night()
    other = write_csv(shop.folder / "other" / "o.csv", [line("9")]).parent
    shop.settle(source={"path": str(other)})
    night = shop.night()
    assert not night.success
    assert f"it was {shop.source}, it is {other}, and none of the 2 loaded files" in night.said
    assert "(a.csv, b.csv)" in night.said
    assert shop.invoices == A + B
    assert shop.night(reload=True).success
    assert shop.invoices == [("o.csv", "9")]


def test_another_source_may_go_on_from_the_one_before(shop: Shop) -> None:
    shop.night()
    shop.settle(source={"path": str(write_csv(shop.folder / "other" / "o.csv", [line("9")]).parent)})
    assert shop.night(accept_change=True).success
    assert shop.invoices == [*A, *B, ("o.csv", "9")]
    assert shop.night().success


# -- files that cannot be read


def broken_gzip(folder: Path) -> Path:
    path = folder / "c.csv.gz"
    path.write_bytes(gzip.compress(b"InvoiceNo,StockCode\n" * 999)[:-20])
    return path


def other_columns(folder: Path) -> Path:
    return write_csv(folder / "c.csv", [line("9")], (*HEADER[:6], "Customer", "Country"))


def no_workbook(folder: Path) -> Path:
    path = folder / "c.xlsx"
    path.write_bytes(b"PK no workbook")
    return path


def no_parquet(folder: Path) -> Path:
    path = folder / "c.parquet"
    path.write_bytes(b"PAR1 no table PAR1")
    return path


def cut_off_parquet(folder: Path) -> Path:
    """Its end, where the columns stand, is whole; its lines are not."""
    path = folder / "c.parquet"
    columns = ", ".join(f"'{value}' || i as \"{name}\"" for name, value in zip(HEADER, line(), strict=True))
    duckdb.connect().execute(f"copy (select {columns} from range(5000) t(i)) to '{path}' (format parquet)")
    data = bytearray(path.read_bytes())
    data[10:2000] = b"\xff" * 1990
    path.write_bytes(bytes(data))
    return path


def leads_nowhere(folder: Path) -> Path:
    path = folder / "c.csv"
    path.symlink_to(folder / "nowhere.csv")
    return path


def not_utf8(folder: Path) -> Path:
    path = Path(os.fsdecode(os.fsencode(folder) + b"/c\xff.csv"))
    return write_csv(path, [line("9")])


UNREADABLE = [broken_gzip, other_columns, no_workbook, no_parquet, cut_off_parquet, leads_nowhere, not_utf8]


@pytest.mark.parametrize("write", UNREADABLE)
def test_a_file_that_cannot_be_read_is_quarantined_with_its_reason_while_the_others_load(
    shop: Shop, write: Callable[[Path], Path]
) -> None:
    path = write(shop.source)
    name = path.name.encode(errors="surrogateescape").decode(errors="backslashreplace")
    for _ in range(2):
        night = shop.night()
        assert night.success, night.said
        assert f"next run: {name}: " in night.warning("files_are_readable")
        assert (shop.invoices, shop.statuses[name]) == (A + B, "quarantined")
        [(reason,)] = shop.rows("select reason from ingested_files where status = 'quarantined'")
        assert reason.startswith(f"{name}: ")
        assert "\n" not in reason
    path.unlink()
    assert shop.night().warning("files_are_readable") == ""
    assert shop.statuses == {"a.csv": "loaded", "b.csv": "loaded"}, "of a file that gave no line nothing is left"


def test_a_file_that_was_mended_is_loaded_by_the_next_run(shop: Shop) -> None:
    other_columns(shop.source)
    shop.night()
    shop.file("c.csv", [line("9")])
    night = shop.night()
    assert (night.told["files_read"], night.warning("files_are_readable")) == (1, "")
    assert shop.invoices == [*A, *B, ("c.csv", "9")]


def test_the_lines_of_a_file_that_can_no_longer_be_read_are_kept(shop: Shop) -> None:
    shop.night()
    good = (shop.source / "a.csv").read_bytes()
    shop.file("a.csv", [line("9")], (*HEADER[:6], "Customer", "Country"))
    night = shop.night()
    assert "a.csv: no column for customer_id" in night.warning("files_are_readable")
    assert (shop.invoices, shop.statuses["a.csv"]) == (A + B, "quarantined")
    (shop.source / "a.csv").write_bytes(good)
    assert shop.night().success
    assert (shop.invoices, shop.statuses["a.csv"]) == (A + B, "loaded")


def test_more_files_than_the_bound_that_cannot_be_read_fail_the_run_with_every_reason(shop: Shop) -> None:
    shop.night()
    shop.settle(source={"max_quarantined": 1})
    other_columns(shop.source)
    assert shop.night().success
    no_workbook(shop.source)
    night = shop.night()
    assert not night.success
    assert "2 of 4 files cannot be read, and source.max_quarantined allows 1." in night.said
    assert "c.csv: no column for customer_id" in night.said
    assert "c.xlsx: cannot be read as a workbook" in night.said
    assert shop.invoices == A + B


def test_a_source_of_which_nothing_can_be_read_fails_the_run(shop: Shop) -> None:
    shop.night()
    for name in ("a.csv", "b.csv"):
        shop.file(name, [line("9")], (*HEADER[:6], "Customer", "Country"))
    night = shop.night()
    assert not night.success
    assert "a.csv: no column for customer_id" in night.said
    assert "b.csv: no column for customer_id" in night.said
    shop.settle(source={"path": str(shop.source / "a.csv")})
    assert shop.night().said.startswith("a.csv: no column for customer_id")
    assert shop.invoices == A + B


@contextmanager
def written_to(path: Path) -> Iterator[None]:
    """Somebody goes on writing lines to a file."""
    done = Event()

    def write() -> None:
        with path.open("a", encoding="utf-8") as file:
            while not done.is_set():
                csv.writer(file).writerow(line("8"))
                file.flush()
                time.sleep(0.001)

    writer = Thread(target=write)
    writer.start()
    yield
    done.set()
    writer.join()


def test_a_file_that_somebody_is_writing_is_left_to_the_next_run(shop: Shop) -> None:
    path = shop.file("c.csv", [line("9")])
    with written_to(path):
        night = shop.night()
    assert "c.csv: it changed while it was read" in night.warning("files_are_readable")
    assert shop.invoices == A + B
    assert shop.night().success
    with path.open(encoding="utf-8") as file:
        records = len(list(csv.reader(file))) - 1
    assert shop.rows("select lines from ingested_files where source_file = 'c.csv'") == [(records,)]


# -- physical records = raw + broken


def test_the_records_of_each_file_are_its_lines_and_its_broken_lines(shop: Shop) -> None:
    texts = {
        "a.csv": 'x,y\n1,2,"LANTERN,4,5,6,7,8\n',
        "d.csv": "".join(f"{number}," * 7 + "x\n" for number in range(100)),
        "e.csv": "total\n" * 7,
        "f.csv": "",
    }
    header = ",".join(HEADER) + "\n"
    good = "536365,85123A,LANTERN,2,2024-03-01 10:00:00,2.50,17850.0,France\n"
    for name, text in texts.items():
        (shop.source / name).write_text(header + good + text + good)
    (shop.source / "empty.csv").write_text("")
    night = shop.night()
    assert night.checks["lines_of_each_file"].passed
    assert shop.rows("select source_file, lines, malformed from ingested_files order by 1") == [
        ("a.csv", 4, 2),
        ("b.csv", 1, 0),
        ("d.csv", 102, 0),
        ("e.csv", 9, 7),
        ("empty.csv", 0, 0),
        ("f.csv", 2, 0),
    ]
    raw = "select source_file, count(*), count(unparsed ->> 'line') from raw_transactions group by 1 order by 1"
    assert shop.rows(raw) == [
        ("a.csv", 4, 2),
        ("b.csv", 1, 0),
        ("d.csv", 102, 0),
        ("e.csv", 9, 7),
        ("f.csv", 2, 0),
    ]


# -- drift of the source

MORE = (*HEADER, "Store")


def test_a_column_that_comes_is_told_with_its_first_file_and_then_known(shop: Shop) -> None:
    assert shop.night().warning("columns_unchanged") == ""
    for name in ("c.csv", "d.csv"):
        shop.file(name, [(*line("4"), "7")], MORE)
    assert shop.night().warning("columns_unchanged").endswith("from these files on: c.csv: Store added.")
    shop.file("e.csv", [(*line("5"), "7")], MORE)
    assert shop.night().warning("columns_unchanged") == ""


def test_the_order_and_case_of_columns_do_not_matter(shop: Shop) -> None:
    shop.night()
    shop.file("c.csv", [line("4")[::-1]], [f" {name.upper()}" for name in HEADER[::-1]])
    assert shop.night().warning("columns_unchanged") == ""
    assert ("c.csv", "4") in shop.invoices


def test_columns_that_go_are_told_also_where_the_file_cannot_do_without_them(shop: Shop) -> None:
    shop.file("a.csv", [(*line("1"), "7")], MORE)
    shop.file("b.csv", [(*line("3"), "7")], MORE)
    assert shop.night().warning("columns_unchanged") == ""
    shop.file("c.csv", [line("4")])
    shop.file("d.csv", [(*line("4"), "7")], (*HEADER[:6], "Customer", *MORE[7:]))
    warned = shop.night().warning("columns_unchanged")
    assert "c.csv: Store removed" in warned
    assert "d.csv: Customer, Store added; CustomerID removed" in warned
    assert shop.statuses["d.csv"] == "quarantined"


def test_files_of_a_first_load_are_held_against_each_other(shop: Shop) -> None:
    shop.file("b.csv", [(*line("3"), "7")], MORE)
    shop.settle(checks={"columns_drift": "fail"})
    night = shop.night()
    assert night.success
    assert night.warning("columns_unchanged").endswith("b.csv: Store added.")


def test_a_type_that_changes_is_told_of_parquet(shop: Shop) -> None:
    for name, kind in (("c", "bigint"), ("d", "double"), ("e", "double")):
        columns = ", ".join(
            f"cast('{value}' as {kind if column == 'Quantity' else 'varchar'}) as \"{column}\""
            for column, value in zip(HEADER, line("4"), strict=True)
        )
        duckdb.connect().execute(f"copy (select {columns}) to '{shop.source}/{name}.parquet' (format parquet)")
    (shop.source / "a.csv").unlink()
    (shop.source / "b.csv").unlink()
    warned = shop.night().warning("columns_unchanged")
    assert warned.endswith("d.parquet: Quantity (BIGINT to DOUBLE) changed type.")


def test_drift_fails_the_run_where_the_settings_say_so_until_a_person_accepts_it(shop: Shop) -> None:
    shop.settle(checks={"columns_drift": "fail"})
    assert shop.night().success
    shop.file("c.csv", [(*line("4"), "7")], MORE)
    for _ in range(2):
        night = shop.night()
        assert not night.success
        assert "c.csv: Store added. Nothing was loaded." in night.said
        assert night.checks["columns_unchanged"].severity == dg.AssetCheckSeverity.ERROR
        assert shop.invoices == A + B
    assert shop.night(accept_change=True).success
    assert shop.night().success
    assert shop.invoices == [*A, *B, ("c.csv", "4")]
