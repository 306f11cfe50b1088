"""Query the current release from many processes with different clients while nights publish.

The tests run five readers, `make soak` fifty. Every answer of a connection must equal the manifest of its release. The
releases differ in as_of, customers and revenue, so an answer from another release is noticed.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segmentation_pipeline.tables.catalog import published
from segmentation_pipeline_tests.programs.forked_shop import MEMORY, ForkedShop
from segmentation_pipeline_tests.scenarios import line, regular_customers, retailer_file, write_csv

PROGRAMS = Path(__file__).parent
VENV = PROGRAMS.parents[1] / ".venv"
NODE_CLIENT = VENV / "node-client"
# The folder in which the Makefile installs each client.
PYTHON_CLIENTS: Mapping[str, Path | None] = {
    "DuckDB of the package": None,
    "DuckDB 1.5": VENV / "oldest-duckdb",
    "DuckDB 1.4": VENV / "client-1.4",
    "DuckDB 1.1": VENV / "oldest-client",
}
CLIENTS = (*PYTHON_CLIENTS, "Node")
WITH_AS_OF = ("rfm_features", "customer_segments", "segment_profiles", "model_drift")
# Each query of a connection, and the path of its answer in the manifest.
QUERIES: Sequence[tuple[str, Sequence[str]]] = (
    *((f"select distinct strftime(as_of, '%Y-%m-%d %H:%M:%S') from {name}", ["as_of"]) for name in WITH_AS_OF),
    *((f'select count(*)::varchar from "{one.table}"', ["tables", one.table]) for one in published()),
    ("select sum(customers)::varchar from segment_profiles", ["figures", "customers"]),
    ("select count(*)::varchar from customer_segments", ["figures", "customers"]),
    ("select sum(revenue)::decimal(18, 4)::varchar from segment_profiles", ["figures", "revenue"]),
    ("select sum(monetary)::decimal(18, 4)::varchar from customer_segments", ["figures", "revenue"]),
)


@dataclass(frozen=True)
class Reader:
    """A process that reads releases."""

    client: str
    process: "subprocess.Popen[str]"

    @classmethod
    def started(cls, client: str, current: Path, stop: Path) -> "Reader":
        """Start a reader with idle priority, because fifty of them would leave the nights 4 % of two cores."""
        arguments = [str(current), str(stop), json.dumps(QUERIES)]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        if client == "Node":
            command = ["node", str(PROGRAMS / "release_reader.mjs"), str(NODE_CLIENT), *arguments]
        else:
            command = [sys.executable, str(PROGRAMS / "release_reader.py"), *arguments]
            if (folder := PYTHON_CLIENTS[client]) is not None:
                environment["PYTHONPATH"] = str(folder)
        pipe = subprocess.PIPE
        idle = ["chrt", "--idle", "0", *command]
        return cls(client, subprocess.Popen(idle, env=environment, stdout=pipe, stderr=pipe, text=True))

    def wait_until_reading(self) -> None:
        """Wait until the reader has read a release once; if it failed, `result` has the reason."""
        assert self.process.stdout is not None
        self.process.stdout.readline()

    @property
    def memory(self) -> int:
        """The memory of the process in bytes, with its part of what it shares with others."""
        rollup = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text("utf-8")
        return 1024 * int(rollup.split("Pss:")[1].split()[0])

    def result(self) -> dict[str, Any]:
        """Wait for the end, and return the counts of the reader, or its error."""
        out, error = self.process.communicate(timeout=300)
        if self.process.returncode != 0:
            return {"client": self.client, "error": error.strip()[-1000:]}
        return {"client": self.client, **json.loads(out.splitlines()[-1])}


def shop_with_a_release(folder: Path, keep: int) -> ForkedShop:
    """Build a shop with one release; it keeps so few that releases are pruned while readers hold them."""
    shop = ForkedShop(folder)
    write_csv(folder / "source" / "0.csv", regular_customers(40))
    retailer_file(folder, Path("source"), release={"keep": keep})
    assert shop.night() == 0, shop.output
    return shop


def add_a_day(source: Path, night: int) -> None:
    """Add a line of a new customer, which changes as_of, rows and revenue."""
    day = f"2024-{11 + night // 28:02d}-{1 + night % 28:02d} 10:00:00"
    sold = line(invoice=f"{800000 + night}", at=day, customer=f"{20000 + night}", price=f"{3 + night}.25")
    write_csv(source / f"{night + 1}.csv", [sold])


def read_through(
    folder: Path, releases: Path, night: Callable[[int], str], *, number: int, nights: int
) -> dict[str, Any]:
    """Run nights while readers query; return the totals of the readers, and every error.

    Args:
        folder: A folder for the file that ends the readers.
        releases: The folder of the releases, which has one release already.
        night: Publishes a release that differs from all others in `QUERIES`; returns the error, or an empty text.
        number: How many readers.
        nights: How many nights.
    """
    stop = folder / "stop"
    readers = [Reader.started(CLIENTS[n % len(CLIENTS)], releases / "current", stop) for n in range(number)]
    try:
        for reader in readers:
            reader.wait_until_reading()
        started = time.monotonic()
        errors = [f"night {n}: {error}" for n in range(nights) if (error := night(n))]
        seconds = time.monotonic() - started
        memory = sum(reader.memory for reader in readers if reader.process.poll() is None)
        stop.touch()
        seen = [reader.result() for reader in readers]
    finally:
        for reader in readers:
            reader.process.kill()
            reader.process.wait()
    errors += [f"{one['client']}: {one['error']}" for one in seen if "error" in one]
    return {
        "readers": number,
        "nights": nights,
        "seconds_per_night": seconds / nights,
        "megabytes": memory // 10**6,
        "clients": {client: _totals(client, seen) for client in CLIENTS},
        "errors": errors,
    }


def _totals(client: str, seen: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the totals of the readers with one client; `releases` is the lowest number that one of them saw."""
    of_client = [one for one in seen if one["client"] == client and "error" not in one]
    return {
        "versions": sorted({one["version"] for one in of_client}),
        "readers": len(of_client),
        "queries": sum(one["queries"] for one in of_client),
        "releases": min((len(one["seen"]) for one in of_client), default=0),
        "after_pruning": sum(one["after_pruning"] for one in of_client),
    }


def main() -> int:
    """Run the readers and print one line of JSON; return 1 if there was an error."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--readers", type=int, default=50)
    parser.add_argument("--nights", type=int, default=30)
    parser.add_argument(
        "--keep", type=int, default=5, help="releases to keep; the one of a reader is pruned after as many nights"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as scratch:
        shop = shop_with_a_release(Path(scratch), options.keep)

        def night(number: int) -> str:
            add_a_day(shop.folder / "source", number)
            return "" if shop.night() == 0 else shop.output[-500:]

        releases = shop.home / "releases"
        totals = read_through(shop.folder, releases, night, number=options.readers, nights=options.nights)
    print(json.dumps(totals))
    return bool(totals["errors"])


if __name__ == "__main__":
    sys.exit(main())
