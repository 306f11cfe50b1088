"""Loading a source run by run: each file is loaded once, unreadable files are quarantined, and no line is lost."""

import csv
import gzip
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Event, Thread
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import dagster as dg
import duckdb
import numpy as np
import pytest
import tomli_w
import zstandard

from segmentation_pipeline.defs.ingestion.assets import raw_transactions
from segmentation_pipeline.defs.ingestion.checks import files_are_readable, lines_of_each_file, no_file_is_missing
from segmentation_pipeline.errors import PipelineError
from segmentation_pipeline.ingestion import staging
from segmentation_pipeline.orchestration.resources import RetailerConfig
from segmentation_pipeline.tables.catalog import select_of
from segmentation_pipeline.warehouse.connection import connection_to
from segmentation_pipeline.warehouse.database import Warehouse
from segmentation_pipeline_tests.scenarios import (
    HEADER,
    Line,
    OpenDatabase,
    decorated,
    line,
    regular_customers,
    retailer_settings,
    write_csv,
)

CHECKS = (lines_of_each_file, files_are_readable, no_file_is_missing)
CONTEXT = SimpleNamespace(log=logging.getLogger(__name__))


class Load:
    """The outcome of one run of the ingestion: its message if it failed, its metadata and its checks."""

    def __init__(self) -> None:
        self.message = ""
        self.metadata: Mapping[str, Any] = {}
        self.checks: dict[str, dg.AssetCheckResult] = {}

    @property
    def success(self) -> bool:
        """Whether the run loaded the source."""
        return not self.message

    def add(self, result: dg.MaterializeResult[Any] | dg.AssetCheckResult) -> None:
        """Note what the asset yields."""
        if isinstance(result, dg.MaterializeResult):
            self.metadata = self.metadata or result.metadata or {}
        elif result.check_name != "contract":
            self.checks[str(result.check_name)] = result

    def warning(self, check: str) -> str:
        """Return the warning of a check; nothing where it passed."""
        result = self.checks[check]
        if result.passed:
            return ""
        assert result.severity == dg.AssetCheckSeverity.WARN
        return str(result.description)


class Shop:
    """A retailer whose files change; `load` runs the ingestion asset and its checks without Dagster's run.

    The working database stays open until `close`: opening it takes longer than loading a few lines.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.source, self.monkeypatch = folder, folder / "in", monkeypatch
        self.home = folder / "data" / "corner_shop"
        self.database = self.home / "work.duckdb"
        self.opened = ExitStack()
        self.warehouse: Warehouse | None = None
        self.configure()

    def open(self) -> Warehouse:
        """Return the working database."""
        if self.warehouse is None:
            self.home.mkdir(parents=True, exist_ok=True)
            with ExitStack() as opened:
                connection = opened.enter_context(connection_to(self.database, self.home / "tmp", 1, print))
                self.warehouse = Warehouse(connection)
                self.opened = opened.pop_all()
        return self.warehouse

    def close(self) -> None:
        """Close the working database, so that the next load opens it anew."""
        self.opened.close()
        self.warehouse = None

    def configure(self, **sections: Any) -> None:
        """Write the retailer file."""
        source = {"path": str(self.source), **sections.pop("source", {})}
        settings = retailer_settings(self.source, **sections) | {"source": source}
        self.folder.mkdir(exist_ok=True)
        file = self.folder / "retailer.toml"
        file.write_bytes(tomli_w.dumps(settings).encode())
        self.monkeypatch.setenv("SEGMENTATION_RETAILER", str(file))
        self.monkeypatch.setenv("SEGMENTATION_DATA", str(self.folder / "data"))

    def file(self, name: str, lines: Sequence[Sequence[str]], header: Sequence[str] = HEADER) -> Path:
        """Write a CSV file into the source."""
        return write_csv(self.source / name, lines, header)

    def load(self, *, reload: bool = False, accept_change: bool = False) -> Load:
        """Run the ingestion once."""
        load, retailer = Load(), RetailerConfig(reload=reload, accept_change=accept_change)
        retailer._run_id = str(uuid4())
        try:
            database = OpenDatabase(self.open())
            for result in decorated(raw_transactions)(CONTEXT, retailer, database):
                load.add(result)
            inputs = {"retailer": retailer, "warehouse": database}
            for check in CHECKS:
                function = decorated(check)
                names = function.__code__.co_varnames[: function.__code__.co_argcount]
                load.checks[next(iter(check.check_keys)).name] = function(**{name: inputs[name] for name in names})
        except dg.Failure as failure:
            load.message = str(failure.description)
        except PipelineError as error:
            load.message = str(error)
        return load

    def rows(self, select: str) -> list[tuple[Any, ...]]:
        """Return rows of the working database."""
        if self.warehouse:
            return self.warehouse.connection.execute(select).fetchall()
        with duckdb.connect(str(self.database), read_only=True) as connection:
            return connection.execute(select).fetchall()

    @property
    def invoices(self) -> list[tuple[str, str]]:
        """The file and invoice of each line."""
        return self.rows("select source_file, invoice from raw_transactions order by all")

    @property
    def statuses(self) -> dict[str, str]:
        """The status of each file."""
        return dict(self.rows("select source_file, status from ingested_files order by all"))


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    shop = Shop(tmp_path, monkeypatch)
    shop.file("a.csv", [line("1"), line("2")])
    shop.file("b.csv", [line("3")])
    yield shop
    shop.close()


A, B = [("a.csv", "1"), ("a.csv", "2")], [("b.csv", "3")]


def daily(lines: Sequence[Line]) -> Mapping[str, list[Line]]:
    """Return lines by the file of their month and day."""
    files: dict[str, list[Line]] = {}
    for sold in lines:
        files.setdefault(f"{sold[4][:7]}/{sold[4][:10]}.csv", []).append(sold)
    return files


# -- each file once


def test_loading_files_one_by_one_equals_loading_all_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In any order, a few at a time, with files that are written again unchanged, each load in an opened database."""
    files = {name: lines for name, lines in daily(regular_customers()).items() if name < "2024-04"}
    assert len(files) > 20
    at_once, by_run = Shop(tmp_path / "once", monkeypatch), Shop(tmp_path / "runs", monkeypatch)
    names = sorted(files)
    for batch in np.array_split(np.random.default_rng(1).permutation(len(names)), 5):
        for place in batch:
            by_run.file(names[place], files[names[place]])
        assert by_run.load().metadata["files_read"] == len(batch)
        by_run.close()
        by_run.file(names[batch[0]], files[names[batch[0]]])
        assert by_run.load().metadata["files_read"] == 0
        by_run.close()
    at_once.configure()
    for name, lines in files.items():
        at_once.file(name, lines)
    assert at_once.load().success
    for select in (
        "select * from raw_transactions order by all",
        "select source_file, status, lines, malformed, columns, content_hash from ingested_files order by all",
    ):
        assert at_once.rows(select) == by_run.rows(select)
    at_once.close()
    by_run.close()


def test_unchanged_file_is_not_opened_again(shop: Shop) -> None:
    first = shop.load()
    assert (first.metadata["files"], first.metadata["files_read"], first.metadata["files_kept"]) == (2, 2, 0)
    assert first.metadata["bytes_read"] == sum(path.stat().st_size for path in shop.source.iterdir())
    for path in shop.source.iterdir():
        # Opening the file would now find other content.
        before = path.stat()
        path.write_bytes(b"x" * before.st_size)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    again = shop.load()
    assert (again.metadata["files_read"], again.metadata["files_kept"], again.metadata["bytes_read"]) == (0, 2, 0)
    assert shop.invoices == A + B


def test_only_new_files_are_read(shop: Shop) -> None:
    shop.load()
    new = shop.file("c.csv", [line("4")])
    load = shop.load()
    assert (load.metadata["files_read"], load.metadata["bytes_read"]) == (1, new.stat().st_size)
    assert shop.invoices == [*A, *B, ("c.csv", "4")]


def test_file_with_another_time_and_same_content_is_kept(shop: Shop) -> None:
    shop.load()
    os.utime(shop.source / "a.csv", (1, 1))
    load = shop.load()
    assert (load.success, load.metadata["files_read"], shop.invoices) == (True, 0, A + B)


def test_lines_of_a_changed_file_are_replaced(shop: Shop) -> None:
    assert shop.load().metadata["read_again"] == "none"
    shop.file("a.csv", [line("1"), line("5"), line("6")])
    load = shop.load()
    assert (load.metadata["files_read"], load.metadata["read_again"]) == (1, "a.csv")
    assert shop.invoices == [("a.csv", "1"), ("a.csv", "5"), ("a.csv", "6"), *B]


def test_load_without_new_files_changes_no_table(shop: Shop) -> None:
    shop.load()
    before = [shop.rows(f"select * from {table} order by all") for table in ("raw_transactions", "ingested_files")]
    shop.load()
    assert before == [
        shop.rows(f"select * from {table} order by all") for table in ("raw_transactions", "ingested_files")
    ]


@pytest.mark.parametrize("change", [{"columns": {"country": "Description"}}, {"time_zone": "Asia/Tokyo"}])
def test_changed_reading_settings_read_every_file_again(shop: Shop, change: dict[str, Any]) -> None:
    shop.load()
    shop.configure(**change)
    assert shop.load().metadata["files_read"] == 2


def test_a_changed_mapping_of_merged_customers_reads_every_file_again(shop: Shop) -> None:
    mapping = shop.folder / "merged.csv"
    mapping.write_text("old_id,new_id\n1,2\n")
    shop.configure(customers={"merged": "merged.csv"})
    assert shop.load().metadata["files_read"] == 2
    mapping.write_text("\nold_id,new_id\n1,2\n".lstrip() + "\n")
    assert shop.load().metadata["files_read"] == 0, "a blank line changes nothing"
    mapping.write_text("old_id,new_id\n17850,13047\n")
    assert shop.load().metadata["files_read"] == 2
    assert shop.rows("select distinct customer_id from raw_transactions") == [("13047",)]
    mapping.unlink()
    assert "there is no file" in shop.load().message


def test_ids_that_pseudonyms_replace_are_compared_before(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Among the files that a run reads; without pseudonyms, the features show all ids."""
    monkeypatch.setenv("SEGMENTATION_PRIVACY_KEY", "5f" * 32)
    shop.file("b.csv", [line("3", customer="0017850")])
    shop.configure(privacy={"pseudonymise": True})
    assert (
        shop.load()
        .warning("read_ids_are_distinct")
        .startswith(
            "Customer ids of the files that were read that differ from another one only in form: 1 of 2 (1 by leading"
        )
    )
    assert shop.load().warning("read_ids_are_distinct") == ""
    shop.configure(privacy={"pseudonymise": True}, customers={"normalise": ["strip_leading_zeros"]})
    assert shop.load().warning("read_ids_are_distinct") == ""
    assert shop.rows("select count(distinct customer_id) from raw_transactions") == [(1,)]


def test_other_changed_settings_read_no_file_again(shop: Shop) -> None:
    shop.load()
    shop.configure(cleaning={"sources_overlap": True}, source={"max_quarantined": 1})
    assert shop.load().metadata["files_read"] == 0


def test_new_version_of_a_reader_reads_only_its_files_again(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    (shop.source / "c.jsonl").write_text(json.dumps(dict(zip(HEADER, line("4"), strict=True))))
    shop.load()
    monkeypatch.setitem(staging.READER_VERSIONS, "jsonl", "of a later release")
    load = shop.load()
    assert (load.metadata["files_read"], load.metadata["read_again"]) == (1, "c.jsonl")


def test_comment_in_sql_reads_no_file_again(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another SELECT of `raw_transactions` reads every file again."""
    shop.load()
    select = select_of("raw_transactions")
    monkeypatch.setattr(staging, "select_of", lambda _: f"-- a comment\n{select}")
    assert shop.load().metadata["files_read"] == 0
    monkeypatch.setattr(staging, "select_of", lambda _: f"{select} limit 10")
    assert shop.load().metadata["files_read"] == 2


def test_lines_with_columns_of_another_version_are_read_again(shop: Shop) -> None:
    shop.load()
    shop.open().connection.execute("alter table raw_transactions drop column country")
    shop.close()
    assert shop.load().metadata["files_read"] == 2
    assert shop.invoices == A + B


def test_lines_of_missing_files_survive_a_version_change(shop: Shop) -> None:
    shop.load()
    (shop.source / "a.csv").unlink()
    shop.load()
    shop.open().connection.execute("alter table raw_transactions drop column country")
    shop.close()
    load = shop.load()
    assert not load.success
    assert "another version of this package wrote the working database" in load.message
    assert shop.invoices == A + B


# -- missing files


def test_lines_of_a_missing_file_are_kept_with_one_warning(shop: Shop) -> None:
    assert shop.load().warning("no_file_is_missing") == ""
    (shop.source / "a.csv").unlink()
    load = shop.load()
    assert load.warning("no_file_is_missing").startswith("Missing from the source: a.csv. Their lines are kept")
    assert (shop.invoices, shop.statuses) == (A + B, {"a.csv": "missing", "b.csv": "loaded"})
    assert shop.load().warning("no_file_is_missing") == ""
    assert shop.invoices == A + B


def test_returning_file_is_not_read_again(shop: Shop) -> None:
    shop.load()
    (shop.source / "a.csv").rename(shop.folder / "a.csv")
    shop.load()
    (shop.folder / "a.csv").rename(shop.source / "a.csv")
    load = shop.load()
    assert (load.metadata["files_read"], shop.invoices) == (0, A + B)
    assert shop.statuses == {"a.csv": "loaded", "b.csv": "loaded"}


def test_source_may_hold_only_the_newest_file(shop: Shop) -> None:
    for number in range(3):
        shop.file(f"{number}.csv", [line(f"{number}")])
        for other in shop.source.iterdir():
            if other.name != f"{number}.csv":
                other.unlink()
        assert shop.load().success
    assert shop.invoices == [("0.csv", "0"), ("1.csv", "1"), ("2.csv", "2")]


def renamed(path: Path) -> None:
    path.rename(path.with_name("z.csv"))


def archived(path: Path) -> None:
    (path.parent / "archive").mkdir()
    path.rename(path.parent / "archive" / path.name)


def gzipped(path: Path) -> None:
    path.with_name("a.csv.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()


def zstandard_compressed(path: Path) -> None:
    path.with_name("a.csv.zst").write_bytes(zstandard.compress(path.read_bytes()))
    path.unlink()


@pytest.mark.parametrize("move", [renamed, archived, gzipped, zstandard_compressed])
def test_moved_file_counts_once(shop: Shop, move: Callable[[Path], None]) -> None:
    shop.load()
    move(shop.source / "a.csv")
    assert shop.load().warning("no_file_is_missing") == ""
    assert [invoice for _, invoice in shop.invoices] == (["1", "2", "3"] if move is not renamed else ["3", "1", "2"])


def test_copy_of_a_file_counts_until_one_is_missing(shop: Shop) -> None:
    shop.load()
    shop.file("copy.csv", [line("1"), line("2")])
    shop.load()
    assert len(shop.invoices) == 5
    (shop.source / "a.csv").unlink()
    shop.load()
    assert shop.invoices == [*B, ("copy.csv", "1"), ("copy.csv", "2")]


def test_empty_source_fails_the_run(shop: Shop) -> None:
    shop.load()
    for path in shop.source.iterdir():
        path.unlink()
    load = shop.load()
    assert not load.success
    assert load.message.startswith(f"source.path: nothing to read at {shop.source}; expected files")
    assert shop.invoices == A + B


def test_reload_reads_every_file_and_deletes_lines_of_missing_ones(shop: Shop) -> None:
    shop.load()
    (shop.source / "a.csv").unlink()
    shop.load()
    load = shop.load(reload=True)
    assert (load.metadata["files_read"], shop.invoices, shop.statuses) == (1, B, {"b.csv": "loaded"})


def test_another_source_fails_the_run_unless_reloaded(shop: Shop) -> None:
    shop.load()
    other = write_csv(shop.folder / "other" / "o.csv", [line("9")]).parent
    shop.configure(source={"path": str(other)})
    load = shop.load()
    assert not load.success
    assert f"it was {shop.source}, it is {other}, and none of the 2 loaded files" in load.message
    assert "(a.csv, b.csv)" in load.message
    assert shop.invoices == A + B
    assert shop.load(reload=True).success
    assert shop.invoices == [("o.csv", "9")]


def test_accepted_other_source_keeps_the_earlier_lines(shop: Shop) -> None:
    shop.load()
    shop.configure(source={"path": str(write_csv(shop.folder / "other" / "o.csv", [line("9")]).parent)})
    assert shop.load(accept_change=True).success
    assert shop.invoices == [*A, *B, ("o.csv", "9")]
    assert shop.load().success


# -- files that cannot be read


def truncated_gzip(folder: Path) -> Path:
    path = folder / "c.csv.gz"
    path.write_bytes(gzip.compress(b"InvoiceNo,StockCode\n" * 999)[:-20])
    return path


def other_columns(folder: Path) -> Path:
    return write_csv(folder / "c.csv", [line("9")], (*HEADER[:6], "Customer", "Country"))


def invalid_workbook(folder: Path) -> Path:
    path = folder / "c.xlsx"
    path.write_bytes(b"PK not a workbook")
    return path


def invalid_parquet(folder: Path) -> Path:
    path = folder / "c.parquet"
    path.write_bytes(b"PAR1 not a table PAR1")
    return path


def damaged_parquet(folder: Path) -> Path:
    """Its footer, which has the columns, is whole; its lines are not."""
    path = folder / "c.parquet"
    columns = ", ".join(f"'{value}' || i as \"{name}\"" for name, value in zip(HEADER, line(), strict=True))
    duckdb.connect().execute(f"copy (select {columns} from range(5000) t(i)) to '{path}' (format parquet)")
    data = bytearray(path.read_bytes())
    data[10:2000] = b"\xff" * 1990
    path.write_bytes(bytes(data))
    return path


def broken_link(folder: Path) -> Path:
    path = folder / "c.csv"
    path.symlink_to(folder / "nowhere.csv")
    return path


def not_utf8(folder: Path) -> Path:
    path = Path(os.fsdecode(os.fsencode(folder) + b"/c\xff.csv"))
    return write_csv(path, [line("9")])


UNREADABLE = [
    [truncated_gzip, other_columns, invalid_workbook],
    [invalid_parquet, broken_link],
    [damaged_parquet, not_utf8],
]


@pytest.mark.parametrize("some", UNREADABLE)
def test_unreadable_files_are_quarantined_while_others_load(shop: Shop, some: list[Callable[[Path], Path]]) -> None:
    paths = [write(shop.source) for write in some]
    names = sorted(path.name.encode(errors="surrogateescape").decode(errors="backslashreplace") for path in paths)
    for _ in range(2):
        load = shop.load()
        assert load.success, load.message
        warned = load.warning("files_are_readable")
        assert f"next run: {names[0]}: " in warned
        assert all(f"{name}: " in warned for name in names)
        assert shop.invoices == A + B
        found = dict(
            shop.rows("select source_file, reason from ingested_files where status = 'quarantined' order by 1")
        )
        assert [*found] == names
        assert all(reason.startswith(f"{name}: ") and "\n" not in reason for name, reason in found.items())
    for path in paths:
        path.unlink()
    assert shop.load().warning("files_are_readable") == ""
    assert shop.statuses == {"a.csv": "loaded", "b.csv": "loaded"}, "a file without stored lines leaves no row"


def test_corrected_file_is_loaded_by_the_next_run(shop: Shop) -> None:
    other_columns(shop.source)
    shop.load()
    shop.file("c.csv", [line("9")])
    load = shop.load()
    assert (load.metadata["files_read"], load.warning("files_are_readable")) == (1, "")
    assert shop.invoices == [*A, *B, ("c.csv", "9")]


def test_lines_of_a_file_that_became_unreadable_are_kept(shop: Shop) -> None:
    shop.load()
    good = (shop.source / "a.csv").read_bytes()
    shop.file("a.csv", [line("9")], (*HEADER[:6], "Customer", "Country"))
    load = shop.load()
    assert "a.csv: no column for customer_id" in load.warning("files_are_readable")
    assert (shop.invoices, shop.statuses["a.csv"]) == (A + B, "quarantined")
    (shop.source / "a.csv").write_bytes(good)
    assert shop.load().success
    assert (shop.invoices, shop.statuses["a.csv"]) == (A + B, "loaded")


def test_too_many_unreadable_files_fail_with_every_reason(shop: Shop) -> None:
    shop.load()
    shop.configure(source={"max_quarantined": 1})
    other_columns(shop.source)
    assert shop.load().success
    invalid_workbook(shop.source)
    load = shop.load()
    assert not load.success
    assert "2 of 4 files cannot be read, and source.max_quarantined allows 1." in load.message
    assert "c.csv: no column for customer_id" in load.message
    assert "c.xlsx: cannot be read as a workbook" in load.message
    assert shop.invoices == A + B


def test_source_without_a_readable_file_fails_the_run(shop: Shop) -> None:
    shop.load()
    for name in ("a.csv", "b.csv"):
        shop.file(name, [line("9")], (*HEADER[:6], "Customer", "Country"))
    load = shop.load()
    assert not load.success
    assert "a.csv: no column for customer_id" in load.message
    assert "b.csv: no column for customer_id" in load.message
    shop.configure(source={"path": str(shop.source / "a.csv")})
    assert shop.load().message.startswith("a.csv: no column for customer_id")
    assert shop.invoices == A + B


@contextmanager
def written_to(path: Path) -> Iterator[None]:
    """Keep writing lines to a file."""
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


def test_file_being_written_is_left_to_the_next_run(shop: Shop) -> None:
    path = shop.file("c.csv", [line("9")])
    with written_to(path):
        load = shop.load()
    assert "c.csv: it changed while it was read" in load.warning("files_are_readable")
    assert shop.invoices == A + B
    assert shop.load().success
    with path.open(encoding="utf-8") as file:
        records = len(list(csv.reader(file))) - 1
    assert shop.rows("select lines from ingested_files where source_file = 'c.csv'") == [(records,)]


# -- records = lines + malformed


def test_every_record_is_a_line_or_malformed(shop: Shop) -> None:
    texts = {
        "a.csv": 'x,y\n1,2,"LANTERN,4,5,6,7,8\n',
        "d.csv": "".join(f"{number}," * 7 + "x\n" for number in range(100)),
        "e.csv": "word\n" * 7,
        "f.csv": "",
    }
    header = ",".join(HEADER) + "\n"
    good = "536365,85123A,LANTERN,2,2024-03-01 10:00:00,2.50,17850.0,France\n"
    for name, text in texts.items():
        (shop.source / name).write_text(header + good + text + good)
    (shop.source / "empty.csv").write_text("")
    load = shop.load()
    assert load.checks["lines_of_each_file"].passed
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


def test_added_column_is_reported_once(shop: Shop) -> None:
    assert shop.load().warning("columns_unchanged") == ""
    for name in ("c.csv", "d.csv"):
        shop.file(name, [(*line("4"), "7")], MORE)
    assert shop.load().warning("columns_unchanged").endswith("from these files on: c.csv: Store added.")
    shop.file("e.csv", [(*line("5"), "7")], MORE)
    assert shop.load().warning("columns_unchanged") == ""


def test_order_and_case_of_columns_do_not_matter(shop: Shop) -> None:
    shop.load()
    shop.file("c.csv", [line("4")[::-1]], [f" {name.upper()}" for name in HEADER[::-1]])
    assert shop.load().warning("columns_unchanged") == ""
    assert ("c.csv", "4") in shop.invoices


def test_removed_columns_are_reported_also_of_quarantined_files(shop: Shop) -> None:
    shop.file("a.csv", [(*line("1"), "7")], MORE)
    shop.file("b.csv", [(*line("3"), "7")], MORE)
    assert shop.load().warning("columns_unchanged") == ""
    shop.file("c.csv", [line("4")])
    shop.file("d.csv", [(*line("4"), "7")], (*HEADER[:6], "Customer", *MORE[7:]))
    warned = shop.load().warning("columns_unchanged")
    assert "c.csv: Store removed" in warned
    assert "d.csv: Customer, Store added; CustomerID removed" in warned
    assert shop.statuses["d.csv"] == "quarantined"


def test_files_of_the_first_load_are_compared_with_each_other(shop: Shop) -> None:
    shop.file("b.csv", [(*line("3"), "7")], MORE)
    shop.configure(checks={"columns_drift": "fail"})
    load = shop.load()
    assert load.success
    assert load.warning("columns_unchanged").endswith("b.csv: Store added.")


def test_changed_type_of_a_parquet_column_is_reported(shop: Shop) -> None:
    for name, kind in (("c", "bigint"), ("d", "double"), ("e", "double")):
        columns = ", ".join(
            f"cast('{value}' as {kind if column == 'Quantity' else 'varchar'}) as \"{column}\""
            for column, value in zip(HEADER, line("4"), strict=True)
        )
        duckdb.connect().execute(f"copy (select {columns}) to '{shop.source}/{name}.parquet' (format parquet)")
    (shop.source / "a.csv").unlink()
    (shop.source / "b.csv").unlink()
    warned = shop.load().warning("columns_unchanged")
    assert warned.endswith("d.parquet: Quantity (BIGINT to DOUBLE) changed type.")


def test_configured_drift_fails_the_run_until_accepted(shop: Shop) -> None:
    shop.configure(checks={"columns_drift": "fail"})
    assert shop.load().success
    shop.file("c.csv", [(*line("4"), "7")], MORE)
    for _ in range(2):
        load = shop.load()
        assert not load.success
        assert "c.csv: Store added. Nothing was loaded." in load.message
        assert load.checks["columns_unchanged"].severity == dg.AssetCheckSeverity.ERROR
        assert shop.invoices == A + B
    assert shop.load(accept_change=True).success
    assert shop.load().success
    assert shop.invoices == [*A, *B, ("c.csv", "4")]
