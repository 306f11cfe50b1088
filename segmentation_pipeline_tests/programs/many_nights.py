"""A hundred nights on the same files, and the days of a year, each in a night of its own.

The tests run a few of each, `make soak` all. Prints one line of JSON; the exit code is 1 where something is wrong.
"""

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import tomli_w

from segmentation_pipeline.config.loading import SHIPPED
from segmentation_pipeline.definitions import defs
from segmentation_pipeline.ingestion.incremental import TABLES
from segmentation_pipeline.tables.contract import literal, quoted
from segmentation_pipeline_tests.programs.shop import MEMORY
from segmentation_pipeline_tests.scenarios import (
    NO_BACKTEST,
    REAL_DATA,
    constants,
    regular_customers,
    retailer_file,
    run_job,
    write_csv,
)

# Of the largest size before the fourth run: what a database that is replaced every night may grow by.
GROWTH = 1.1
DAYS = REAL_DATA / "online_retail" / "by-day"
SEED = 1
MOUTH = [dg.AssetKey(table) for table in TABLES]
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


def sizes(runs: int, folder: Path) -> list[int]:
    """The size of the working database after each of so many nights on the same files."""
    write_csv(folder / "source" / "a.csv", regular_customers(60) * 30)
    os.environ |= {
        "SEGMENTATION_RETAILER": str(retailer_file(folder, folder / "source")),
        "SEGMENTATION_DATA": str(folder / "data"),
    }
    measured = []
    for _ in range(runs):
        with dg.DagsterInstance.ephemeral() as instance:
            assert run_job(instance).success
        measured.append((folder / "data" / "corner_shop" / "work.duckdb").stat().st_size)
    return measured


def growth(measured: Sequence[int]) -> float:
    """The largest size after the third run, over the largest up to it."""
    return max(measured[3:]) / max(measured[:3])


class SourceLoad:
    """A shipped retailer whose files come night by night; a night runs the mouth alone, with its checks."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.source = folder, folder / "source"
        self.source.mkdir(parents=True)
        settings = tomllib.loads((SHIPPED / "online_retail.toml").read_text("utf-8"))
        settings["source"]["path"] = str(self.source)
        # Without a search and a back-test: neither depends on the order in which the lines arrived.
        settings |= {"model": {"n_clusters": 4}}
        settings.setdefault("checks", {})["min_days"] = 0
        (folder / "retailer.toml").write_text(tomli_w.dumps(settings), "utf-8")
        self.instance = dg.DagsterInstance.ephemeral()

    @property
    def database(self) -> Path:
        """The working database."""
        return self.folder / "data" / "online_retail" / "work.duckdb"

    def bring(self, day: Path) -> int:
        """A file comes, with the time that it had; its size."""
        return Path(shutil.copy2(day, self.source)).stat().st_size

    def night(self) -> tuple[int, int]:
        """The mouth alone: how many files it read, and bytes of them."""
        self._settle()
        job = defs().resolve_job_def("nightly_segmentation")
        result = job.execute_in_process(instance=self.instance, run_config=QUIET, asset_selection=MOUTH)
        [told, *_] = [event.materialization.metadata for event in result.get_asset_materialization_events()]
        files, size = (told[name].value for name in ("files_read", "bytes_read"))
        assert isinstance(files, int)
        assert isinstance(size, int)
        return files, size

    def whole_night(self) -> None:
        """All of the job."""
        self._settle()
        with constants(BACKTEST=NO_BACKTEST):
            assert run_job(self.instance).success

    def _settle(self) -> None:
        os.environ |= {
            "SEGMENTATION_RETAILER": str(self.folder / "retailer.toml"),
            "SEGMENTATION_DATA": str(self.folder / "data"),
        }


def single_nights(number: int, folder: Path) -> dict[str, Any]:
    """So many days of the real data, each in a night of its own, held against all of them at once.

    They come in an order that the seed draws. Now and then one comes again as it was; one changes, and changes back.
    """
    drawn = random.Random(SEED)  # noqa: S311 - nothing secret
    days = sorted(DAYS.glob("*.csv"))[:number]
    order, faults, nights, read = drawn.sample(days, len(days)), list[str](), 0, 0
    changes = len(order) // 2
    by_night, at_once = SourceLoad(folder / "by night"), SourceLoad(folder / "at once")

    def night(expected: tuple[int, int], what: str) -> None:
        nonlocal nights, read
        nights += 1
        found = by_night.night()
        read += found[1]
        if found != expected:
            faults.append(f"{what}: {expected} files and bytes came, {found} were read")

    for place, day in enumerate(order):
        night((1, by_night.bring(day)), day.name)
        if place % 10 == 0:
            (by_night.source / drawn.choice(order[: place + 1]).name).touch()
            night((0, 0), "a file that came again as it was")
        if place == changes:
            file = by_night.source / day.name
            text = file.read_bytes()
            file.write_bytes(text + text.splitlines(keepends=True)[-1])
            night((1, file.stat().st_size), "a file that changed")
            night((1, by_night.bring(day)), "a file that changed back")
    for day in days:
        by_night.bring(day)
        at_once.bring(day)
    for one in (by_night, at_once):
        one.whole_night()
    faults += different(by_night.database, at_once.database)
    return {"days": len(days), "nights": nights, "bytes": read, "faults": faults}


def different(one: Path, other: Path) -> list[str]:
    """The tables that are not the same in two working databases."""
    found = []
    with duckdb.connect() as connection:
        for name, database in (("one", one), ("other", other)):
            connection.execute(f"attach {literal(str(database))} as {name} (read_only)")
        tables = connection.execute("select database_name, table_name from duckdb_tables()").fetchall()
        sides = {side: {table for database, table in tables if database == side} for side in ("one", "other")}
        found += [f"{table} is in one of them only" for table in sorted(sides["one"] ^ sides["other"])]
        for table in sorted(sides["one"] & sides["other"]):
            # Each has a place of its own, and each file was read by the run of its night.
            columns = "* exclude (run_id, source_path)" if table == "ingested_files" else "*"
            left, right = (f"(select {columns} from {side}.{quoted(table)})" for side in sides)
            differ = f"({left} except all {right}) union all ({right} except all {left})"
            [(rows,)] = connection.execute(f"select count(*) from ({differ})").fetchall()
            if rows:
                found.append(f"{table}: {rows} rows differ")
    return found


def main() -> int:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--same", type=int, default=0, help="nights on the same files")
    parser.add_argument("--days", type=int, default=0, help="of the real data, where it is there")
    asked = parser.parse_args()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as scratch:
        measured = sizes(asked.same, Path(scratch) / "same") if asked.same else []
        days = single_nights(asked.days, Path(scratch) / "days") if asked.days and DAYS.is_dir() else None
    print(json.dumps({"sizes": measured, "days": days, "seconds": round(time.monotonic() - begun)}))
    return bool(days and days["faults"]) or (len(measured) > 3 and growth(measured) > GROWTH)


if __name__ == "__main__":
    sys.exit(main())
