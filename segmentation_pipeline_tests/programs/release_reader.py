"""Read releases as a consumer does: open the current one, query it, close it, and start again.

A program without imports of the package, for any version of the `duckdb` module; `release_reader.mjs` does the same
with the Node client. It also holds one connection until its release is pruned, and then queries it.
"""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb


@dataclass(frozen=True)
class OpenRelease:
    """An open release, and its manifest."""

    folder: Path
    manifest: dict[str, Any]
    connection: duckdb.DuckDBPyConnection

    @classmethod
    def current(cls, current: str) -> "OpenRelease":
        """Open the current release as the documentation says: resolve the link first, then read from its target."""
        folder = Path(os.path.realpath(current))
        manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
        database = str(folder / "segments.duckdb")
        return cls(folder, manifest, duckdb.connect(database, read_only=True, config={"threads": 1}))

    def query(self, queries: list[tuple[str, list[str]]]) -> int:
        """Compare each answer with the manifest, and return the number of queries."""
        for query, path in queries:
            expected: Any = self.manifest
            for key in path:
                expected = expected[key]
            answers = self.connection.execute(query).fetchall()
            assert answers == [(str(expected),)], (self.folder.name, query, answers, expected)
        return len(queries)


def main(current: str, stop: Path, queries: list[tuple[str, list[str]]]) -> None:
    """Read until the file `stop` exists."""
    count, after_pruning, seen = 0, 0, set[str]()
    kept = OpenRelease.current(current)
    while True:
        last = stop.exists()
        opened = OpenRelease.current(current)
        count += opened.query(queries)
        opened.connection.close()
        if not seen:
            print("reading", flush=True)
        seen.add(opened.folder.name)
        is_pruned = not kept.folder.exists()
        if is_pruned or last:
            after_pruning += is_pruned
            count += kept.query(queries)
            kept.connection.close()
            if last:
                break
            kept = OpenRelease.current(current)
    totals = {"queries": count, "seen": sorted(seen), "after_pruning": after_pruning}
    print(json.dumps({"version": duckdb.__version__, **totals}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3]))
