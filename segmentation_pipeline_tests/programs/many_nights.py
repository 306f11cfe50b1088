"""Run many nights on the same number of lines, and one night for each day of the real data.

The tests run a few of each, `make soak` all. Prints one line of JSON; the exit code is 1 if there is an error.
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
from segmentation_pipeline.ingestion.incremental import TABLES
from segmentation_pipeline.tables.contract import literal, quoted
from segmentation_pipeline_tests.programs.forked_shop import MEMORY
from segmentation_pipeline_tests.scenarios import (
    NO_BACKTEST,
    REAL_DATA,
    constants,
    definitions,
    instance_without_events,
    regular_customers,
    retailer_file,
    run_job,
    write_csv,
)

# Upper bound of the size after the third run, relative to the largest size up to it.
GROWTH = 1.1
DAYS = REAL_DATA / "online_retail" / "by-day"
SEED = 1
INGESTION = [dg.AssetKey(table) for table in TABLES]
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


def sizes(runs: int, folder: Path) -> list[int]:
    """Return the size of the working database after each of several nights that replace one of two files."""
    lines = regular_customers(60) * 15
    write_csv(folder / "source" / "a.csv", lines)
    os.environ |= {
        "SEGMENTATION_RETAILER": str(retailer_file(folder, folder / "source")),
        "SEGMENTATION_DATA": str(folder / "data"),
    }
    measured = []
    for number in range(runs):
        # As many lines of other money, which replace those of the night before.
        write_csv(folder / "source" / "b.csv", [(*one[:5], f"{1 + number % 2}.50", *one[6:]) for one in lines])
        with constants(BACKTEST=NO_BACKTEST):
            assert run_job().success
        measured.append((folder / "data" / "corner_shop" / "work.duckdb").stat().st_size)
    return measured


def growth(measured: Sequence[int]) -> float:
    """Return the largest size after the third run, divided by the largest up to it."""
    return max(measured[3:]) / max(measured[:3])


class DailyFiles:
    """The retailer online_retail with files that arrive one by one; a night loads them and runs their checks."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.source = folder, folder / "source"
        self.source.mkdir(parents=True)
        settings = tomllib.loads((SHIPPED / "online_retail.toml").read_text("utf-8"))
        settings["source"]["path"] = str(self.source)
        # The search and the back-test do not depend on the order in which lines arrive.
        settings |= {"model": {"n_clusters": 4}, "release": {"report": False}}
        settings.setdefault("checks", {})["min_days"] = 0
        (folder / "retailer.toml").write_text(tomli_w.dumps(settings), "utf-8")

    @property
    def database(self) -> Path:
        """The working database."""
        return self.folder / "data" / "online_retail" / "work.duckdb"

    def add(self, day: Path) -> int:
        """Add a file with its modification time, and return its size."""
        return Path(shutil.copy2(day, self.source)).stat().st_size

    def night(self) -> tuple[int, int]:
        """Run ingestion alone, and return how many files and bytes it read."""
        self._set_environment()
        job = definitions().resolve_job_def("nightly_segmentation")
        instance = instance_without_events()
        result = job.execute_in_process(instance=instance, run_config=QUIET, asset_selection=INGESTION)
        [metadata, *_] = [event.materialization.metadata for event in result.get_asset_materialization_events()]
        files, size = (metadata[name].value for name in ("files_read", "bytes_read"))
        assert isinstance(files, int)
        assert isinstance(size, int)
        return files, size

    def whole_night(self) -> None:
        """Run the whole job."""
        self._set_environment()
        with constants(BACKTEST=NO_BACKTEST):
            assert run_job().success

    def _set_environment(self) -> None:
        os.environ |= {
            "SEGMENTATION_RETAILER": str(self.folder / "retailer.toml"),
            "SEGMENTATION_DATA": str(self.folder / "data"),
        }


def single_nights(number: int, folder: Path) -> dict[str, Any]:
    """Load days of the real data one night each, and compare the tables with those of all days loaded at once.

    The days arrive in random order. Every tenth night a file arrives again unchanged; one file changes and changes
    back.
    """
    rng = random.Random(SEED)  # noqa: S311 - nothing secret
    days = sorted(DAYS.glob("*.csv"))[:number]
    order, errors, nights, read = rng.sample(days, len(days)), list[str](), 0, 0
    changes = len(order) // 2
    by_night, at_once = DailyFiles(folder / "by night"), DailyFiles(folder / "at once")

    def night(expected: tuple[int, int], what: str) -> None:
        nonlocal nights, read
        nights += 1
        found = by_night.night()
        read += found[1]
        if found != expected:
            errors.append(f"{what}: {found} files and bytes were read, expected {expected}")

    for place, day in enumerate(order):
        night((1, by_night.add(day)), day.name)
        if place % 10 == 0:
            (by_night.source / rng.choice(order[: place + 1]).name).touch()
            night((0, 0), "an unchanged file")
        if place == changes:
            file = by_night.source / day.name
            text = file.read_bytes()
            file.write_bytes(text + text.splitlines(keepends=True)[-1])
            night((1, file.stat().st_size), "a changed file")
            night((1, by_night.add(day)), "a file changed back")
    for day in days:
        by_night.add(day)
        at_once.add(day)
    for one in (by_night, at_once):
        one.whole_night()
    errors += different(by_night.database, at_once.database)
    return {"days": len(days), "nights": nights, "bytes": read, "errors": errors}


def different(one: Path, other: Path) -> list[str]:
    """Return the tables that differ between two working databases."""
    found = []
    with duckdb.connect() as connection:
        for name, database in (("one", one), ("other", other)):
            connection.execute(f"attach {literal(str(database))} as {name} (read_only)")
        tables = connection.execute("select database_name, table_name from duckdb_tables()").fetchall()
        sides = {side: {table for database, table in tables if database == side} for side in ("one", "other")}
        found += [f"{table} is in one of them only" for table in sorted(sides["one"] ^ sides["other"])]
        for table in sorted(sides["one"] & sides["other"]):
            # Paths differ, and each file was read by another run.
            columns = "* exclude (run_id, source_path)" if table == "ingested_files" else "*"
            left, right = (f"(select {columns} from {side}.{quoted(table)})" for side in sides)
            differ = f"({left} except all {right}) union all ({right} except all {left})"
            [(rows,)] = connection.execute(f"select count(*) from ({differ})").fetchall()
            if rows:
                found.append(f"{table}: {rows} rows differ")
    return found


def main() -> int:
    """Run the parts that the command line requests."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--same", type=int, default=0, help="number of nights on the same files")
    parser.add_argument("--days", type=int, default=0, help="number of days of the real data")
    options = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as scratch:
        measured = sizes(options.same, Path(scratch) / "same") if options.same else []
        days = single_nights(options.days, Path(scratch) / "days") if options.days and DAYS.is_dir() else None
    errors = days["errors"] if days else []
    print(json.dumps({"sizes": measured, "days": days, "errors": errors, "seconds": round(time.monotonic() - started)}))
    return bool(errors) or (len(measured) > 3 and growth(measured) > GROWTH)


if __name__ == "__main__":
    sys.exit(main())
