"""A run derives only what has changed, and its tables are those of a rebuild from nothing."""

import gc
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from random import Random
from shutil import copytree
from tempfile import TemporaryDirectory
from typing import Any

import dagster as dg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segmentation_pipeline_tests.ingestion.test_properties import SAME, File, Row, Shop
from segmentation_pipeline_tests.scenarios import examples, line, regular_customers

ASSETS = (
    "raw_transactions",
    "clean_transactions",
    "rejected_transactions",
    "cleaning_report",
    "invoice_totals",
    "customer_totals",
    "inter_purchase_times",
    "rfm_features",
)
CUSTOMERS = File("csv", [Row(sold, None, None, True) for sold in regular_customers(12)], "\n")
TIMES = ("2024-03-01 10:00:00", "2024-05-31 10:00:00", "2024-12-31 10:00:00", "2025-06-01 10:00:00", "never")
AS_OF = ("last_transaction", *map(datetime.fromisoformat, ("2024-03-02", "2024-06-01", "2025-01-01")))
KINDS = (*["write"] * 8, "remove", "overlap", "refunds", "as_of", "look_back", *["version"] * 6)
VERSIONS = ("c_v1", "c_v2", "c_v10")


@pytest.fixture(scope="module", autouse=True)
def shared() -> Iterator[None]:
    """Share one context, and remove the callback of Hypothesis that keeps DuckDB open at exit."""
    before = gc.callbacks.copy()
    with dg.build_asset_context() as context:
        Shop.shared_context = context
        yield
    gc.callbacks[:] = before


def derived(shop: Shop) -> dict[str, list[tuple[Any, ...]]]:
    """Return the tables of lines and of features."""
    return {table: shop.table(table) for table in ASSETS}


def some_lines(random: Random) -> list[Row | str]:
    """Return lines of which some are copies, some are rejected and some are later than an as-of date; often none."""
    made = [
        line(
            invoice=random.choice(["700000", "C70001", "X1"]),
            at=random.choice(TIMES),
            quantity=random.choice(["1", "-1"]),
            customer=random.choice(["10001", "20002", ""]),
        )
        for _ in range(random.choice([0, 0, 2, 5]))
    ]
    copies = random.choice([0, 0, 3])
    return [*(Row(one, None, None, True) for one in made), *CUSTOMERS.rows[:copies]]


class Versions:
    """Versions of an export of which one counts: the newest that can be read and has lines, or else the last one."""

    def __init__(self, shop: Shop) -> None:
        self.shop, self.good, self.counts = shop, dict[str, bytes](), ""
        shop.set("source", supersedes=r"c_v(?P<version>\d+)")

    def change(self, random: Random) -> None:
        """Write, damage or remove a version."""
        path = self.path(random.choice(VERSIONS))
        what = random.choice(["write", "write", "damage", "remove"])
        if what == "write":
            self.shop.add_files({path.stem: File("csv", some_lines(random), "\n")})
        elif what == "remove":
            path.unlink(missing_ok=True)
        else:
            path.write_text("no,columns\n1,2\n")

    def after_a_night(self) -> None:
        """Note which version counts now, and the content of each version that can be read."""
        contents = {name: self.path(name).read_bytes() for name in VERSIONS if self.path(name).exists()}
        readable = {name: content for name, content in contents.items() if not content.startswith(b"no,")}
        counted = [name for name in VERSIONS if readable.get(name, b"").count(b"\n") > 1]
        if counted:
            self.counts = counted[-1]
            self.good = readable
        elif self.counts:
            self.good = {self.counts: self.good[self.counts], **readable}

    def path(self, name: str) -> Path:
        """Return the path of a version."""
        return self.shop.folder / "in" / f"{name}.csv"


def change(shop: Shop, versions: Versions, random: Random) -> None:
    """Change a file of the source or a setting."""
    kind, name = random.choice(KINDS), random.choice("abcd")
    if kind == "version":
        versions.change(random)
    elif kind == "write":
        shop.add_files({name: File("csv", some_lines(random), "\n")})
    elif kind == "remove":
        (shop.folder / "in" / f"{name}.csv").unlink(missing_ok=True)
    elif kind == "as_of":
        shop.set("rfm", as_of=random.choice(AS_OF))
    elif kind == "look_back":
        shop.set("rfm", look_back_days=random.choice([None, 30]))
    elif kind == "overlap":
        shop.set("cleaning", sources_overlap=random.random() < 0.5)
    else:
        shop.set("cleaning", refunds=random.choice(["net", "ignore"]))


@settings(max_examples=examples(3), **SAME)
@given(seed=st.integers(0, 2**32))
def test_tables_after_any_nights_equal_a_rebuild(seed: int) -> None:
    """Files arrive, change, disappear and supersede others, settings change, and nights are killed between tables."""
    random = Random(seed)  # noqa: S311 - nothing secret
    with TemporaryDirectory() as folder:
        shop, every = Shop(Path(folder) / "shop"), Path(folder) / "anew" / "in"
        anew, versions = Shop(every.parent), Versions(shop)
        shop.set("cleaning", sources_overlap=random.random() < 0.5)
        shop.set("rfm", as_of=random.choice(AS_OF))
        shop.add_files({"customers": CUSTOMERS})
        for _ in range(6):
            shop.execute(ASSETS[: random.choice([len(ASSETS), random.randrange(1, len(ASSETS))])])
            # The lines of a missing file are kept, so the rebuild reads the file as the last night found it.
            copytree(shop.folder / "in", every, dirs_exist_ok=True)
            versions.after_a_night()
            change(shop, versions, random)
        copytree(shop.folder / "in", every, dirs_exist_ok=True)
        shop.execute(ASSETS)
        versions.after_a_night()
        for name in VERSIONS:
            (every / f"{name}.csv").unlink(missing_ok=True)
        for name, content in versions.good.items():
            (every / f"{name}.csv").write_bytes(content)
        anew.settings = shop.settings.model_copy(
            update={"source": shop.settings.source.model_copy(update={"path": str(every)})}
        )
        anew.execute(ASSETS)
        assert derived(shop) == derived(anew)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """A shop with two files, after a night."""
    shop = Shop(tmp_path)
    more = [Row(line(invoice="700001", customer="10001"), None, None, True)]
    shop.add_files({"a": CUSTOMERS, "b": File("csv", more, "\n")})
    shop.execute(ASSETS)
    return shop


def reasons(shop: Shop) -> dict[str, str]:
    """Run a night, and return how much of each table it derived and why."""
    shop.materialize("raw_transactions")
    return {table: str(shop.materialize(table)["derived"]) for table in ASSETS[1:]}


def rowids(shop: Shop, source_file: str) -> list[tuple[Any, ...]]:
    """Return where the lines of a file are stored."""
    return shop.rows("select rowid from clean_transactions where source_file = ? order by all", source_file)


def test_a_night_writes_the_lines_of_new_files_alone(shop: Shop) -> None:
    found = reasons(shop)
    assert {text.split(",")[0] for text in found.values()} == {"no rows"}
    assert found["rfm_features"] == (
        "no rows, because customer_totals, inter_purchase_times, invoice_totals and the settings are as before"
    )
    kept = rowids(shop, "a.csv")
    shop.add_files({"c": File("csv", [Row(line(invoice="700002"), None, None, True)], "\n")})
    found = reasons(shop)
    assert found["clean_transactions"] == "the rows of 1 of 3 files, because their lines changed"
    assert found["invoice_totals"] == found["clean_transactions"]
    assert found["rfm_features"].startswith("all rows, because customer_totals")
    assert rowids(shop, "a.csv") == kept
    assert len(rowids(shop, "c.csv")) == 1


def totals(shop: Shop) -> dict[str, Any]:
    """Return where the totals of each customer are stored."""
    return dict(shop.rows("select customer_id, rowid from customer_totals"))


def test_a_new_file_derives_the_totals_of_its_customers_alone(shop: Shop) -> None:
    before = totals(shop)
    sold = [line(invoice="700002", customer=who, at="2025-01-01 10:00:00", price="2.50") for who in ("10001", "99999")]
    shop.add_files({"c": File("csv", [Row(one, None, None, True) for one in sold], "\n")})
    assert reasons(shop)["customer_totals"] == "the rows of the customers in 1 of 3 files, because they are new"
    after = totals(shop)
    assert after.keys() - before.keys() == {"99999"}
    assert {who for who in before if after[who] != before[who]} == {"10001"}


def test_a_changed_or_missing_file_derives_the_totals_of_all(shop: Shop) -> None:
    changed = File("csv", [Row(line(invoice="700001", customer="10002"), None, None, True)], "\n")
    shop.add_files({"b": changed})
    assert reasons(shop)["customer_totals"].startswith("all rows, because clean_transactions")


def test_a_look_back_window_derives_the_totals_of_all(shop: Shop) -> None:
    shop.set("rfm", look_back_days=3_000)
    assert reasons(shop)["customer_totals"].startswith("all rows")
    shop.add_files({"c": File("csv", [Row(line(invoice="700002"), None, None, True)], "\n")})
    assert reasons(shop)["customer_totals"].startswith("all rows")


def test_a_later_as_of_alone_derives_no_totals(shop: Shop) -> None:
    shop.set("rfm", as_of=datetime.fromisoformat("2029-01-01"))
    shop.execute(ASSETS)
    shop.set("rfm", as_of=datetime.fromisoformat("2030-06-01"))
    found = reasons(shop)
    assert found["customer_totals"].startswith("no rows")
    assert found["rfm_features"].startswith("all rows")


def test_a_later_as_of_derives_the_files_that_it_reaches(shop: Shop) -> None:
    """A file whose lines are all before both dates is left as it is."""
    late = [Row(line(invoice="700003", at="2030-01-01 10:00:00"), None, None, True)]
    shop.add_files({"c": File("csv", late, "\n")})
    shop.set("rfm", as_of=datetime.fromisoformat("2029-01-01"))
    shop.execute(ASSETS)
    shop.set("rfm", as_of=datetime.fromisoformat("2030-06-01"))
    found = reasons(shop)["clean_transactions"]
    assert found == "the rows of 1 of 3 files, because the as-of date or their lines changed"
    assert len(rowids(shop, "c.csv")) == 1


def test_changed_rules_derive_every_line(shop: Shop) -> None:
    shop.set("cleaning", refunds="ignore")
    found = reasons(shop)
    assert (
        found["clean_transactions"]
        == "all rows, because the settings, the as-of date, the SELECT or the contract changed"
    )


def test_overlapping_sources_derive_every_line_when_a_file_changes(shop: Shop) -> None:
    shop.set("cleaning", sources_overlap=True)
    shop.execute(ASSETS)
    shop.add_files({"c": File("csv", [Row(line(invoice="700001", customer="10001"), None, None, True)], "\n")})
    assert reasons(shop)["clean_transactions"] == "all rows, because raw_transactions changed"
    assert len(rowids(shop, "c.csv")) == 0
