"""Readers of `current`, each a process with a client of its own, that ask without pause while nights go on.

The tests run a few, `make soak` fifty. Whatever a reader asks in one connection must be what the manifest of its
release tells. The releases differ in as_of, customers and revenue, so that an answer of another one would be seen.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segmentation_pipeline.tables.catalog import published
from segmentation_pipeline_tests.programs.shop import MEMORY, Shop
from segmentation_pipeline_tests.scenarios import line, regular_customers, retailer_file, write_csv

TESTS = Path(__file__).parent
VENV = TESTS.parent / ".venv"
NODE_CLIENT = VENV / "node-client"
# The folder of each client that the Makefile installs, by the part of its version that this name tells.
PYTHON_CLIENTS: Mapping[str, Path | None] = {
    "DuckDB of the package": None,
    "DuckDB 1.5": VENV / "oldest-duckdb",
    "DuckDB 1.4": VENV / "client-1.4",
    "DuckDB 1.1": VENV / "oldest-client",
}
CLIENTS = (*PYTHON_CLIENTS, "Node")
OF_ONE_MOMENT = ("rfm_features", "customer_segments", "segment_profiles", "model_drift")
# In several queries of one connection: what the manifest tells of the release, and where it tells it.
QUESTIONS: Sequence[tuple[str, Sequence[str]]] = (
    *((f"select distinct strftime(as_of, '%Y-%m-%d %H:%M:%S') from {name}", ["as_of"]) for name in OF_ONE_MOMENT),
    *((f'select count(*)::varchar from "{one.table}"', ["tables", one.table]) for one in published()),
    ("select sum(customers)::varchar from segment_profiles", ["figures", "customers"]),
    ("select count(*)::varchar from customer_segments", ["figures", "customers"]),
    ("select sum(revenue)::decimal(18, 4)::varchar from segment_profiles", ["figures", "revenue"]),
    ("select sum(monetary)::decimal(18, 4)::varchar from customer_segments", ["figures", "revenue"]),
)


@dataclass(frozen=True)
class Reader:
    """A consumer that is reading."""

    client: str
    process: "subprocess.Popen[str]"

    @classmethod
    def started(cls, client: str, current: Path, stop: Path) -> "Reader":
        """One that asks in what time the nights leave: they would else have a twenty-fifth of two cores."""
        arguments = [str(current), str(stop), json.dumps(QUESTIONS)]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        if client == "Node":
            command = ["node", str(TESTS / "read_on.mjs"), str(NODE_CLIENT), *arguments]
        else:
            command = [sys.executable, str(TESTS / "read_on.py"), *arguments]
            if (folder := PYTHON_CLIENTS[client]) is not None:
                environment["PYTHONPATH"] = str(folder)
        pipe = subprocess.PIPE
        idle = ["chrt", "--idle", "0", *command]
        return cls(client, subprocess.Popen(idle, env=environment, stdout=pipe, stderr=pipe, text=True))

    def begun(self) -> None:
        """Wait until it has read a release once; where it failed, `ended` tells why."""
        assert self.process.stdout is not None
        self.process.stdout.readline()

    @property
    def memory(self) -> int:
        """What it holds that no other process shares, in bytes."""
        rollup = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text("utf-8")
        return 1024 * int(rollup.split("Pss:")[1].split()[0])

    def ended(self) -> dict[str, Any]:
        """What it saw; or what went wrong."""
        out, complaint = self.process.communicate(timeout=300)
        if self.process.returncode != 0:
            return {"client": self.client, "fault": complaint.strip()[-1000:]}
        return {"client": self.client, **json.loads(out.splitlines()[-1])}


def shop_of(folder: Path, keep: int) -> Shop:
    """One that has published a release, of which so few are kept that they are pruned while readers hold them."""
    shop = Shop(folder)
    write_csv(folder / "source" / "0.csv", regular_customers(40))
    retailer_file(folder, Path("source"), release={"keep": keep})
    assert shop.night() == 0, shop.said
    return shop


def new_lines(shop: Shop, night: int) -> None:
    """What a day brings: a customer more, so that as_of, rows and revenue are others."""
    day = f"2024-{11 + night // 28:02d}-{1 + night % 28:02d} 10:00:00"
    sold = line(invoice=f"{800000 + night}", at=day, customer=f"{20000 + night}", price=f"{3 + night}.25")
    write_csv(shop.folder / "source" / f"{night + 1}.csv", [sold])


def read_through(folder: Path, number: int, nights: int, keep: int) -> dict[str, Any]:
    """So many nights while so many read: what the readers saw, and what went wrong."""
    shop, stop = shop_of(folder, keep), folder / "stop"
    current = shop.home / "releases" / "current"
    readers = [Reader.started(CLIENTS[n % len(CLIENTS)], current, stop) for n in range(number)]
    try:
        for reader in readers:
            reader.begun()
        begun = time.monotonic()
        faults = []
        for night in range(nights):
            new_lines(shop, night)
            if shop.night() != 0:
                faults.append(f"night {night}: {shop.said[-500:]}")
        seconds = time.monotonic() - begun
        memory = sum(reader.memory for reader in readers if reader.process.poll() is None)
        stop.touch()
        seen = [reader.ended() for reader in readers]
    finally:
        for reader in readers:
            reader.process.kill()
            reader.process.wait()
    faults += [f"{one['client']}: {one['fault']}" for one in seen if "fault" in one]
    return {
        "readers": number,
        "nights": nights,
        "seconds_per_night": seconds / nights,
        "megabytes": memory // 10**6,
        "clients": {client: _of(client, seen) for client in CLIENTS},
        "faults": faults,
    }


def _of(client: str, seen: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What all readers with one client saw; of the releases, the number that the one saw that saw the fewest."""
    of_client = [one for one in seen if one["client"] == client and "fault" not in one]
    return {
        "versions": sorted({one["version"] for one in of_client}),
        "readers": len(of_client),
        "queries": sum(one["queries"] for one in of_client),
        "releases": min((len(one["seen"]) for one in of_client), default=0),
        "outlived": sum(one["outlived"] for one in of_client),
    }


def main() -> int:
    """Let them read, and print one line of JSON; 1 where something went wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--readers", type=int, default=50)
    parser.add_argument("--nights", type=int, default=30)
    parser.add_argument("--keep", type=int, default=5, help="releases; a reader's is pruned after as many nights")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as scratch:
        figures = read_through(Path(scratch), asked.readers, asked.nights, asked.keep)
    print(json.dumps(figures))
    return bool(figures["faults"])


if __name__ == "__main__":
    sys.exit(main())
