"""A consumer as they are: opens what `current` is now, asks several questions of it, closes it, and starts over.

A program of its own that knows nothing of the package, for any version of the `duckdb` module; `read_on.mjs` is the
same for Node. Beside that it holds one connection until its release is pruned, and only then asks it all its questions.
"""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb


@dataclass(frozen=True)
class Opened:
    """A release that is open, and what its manifest tells."""

    folder: Path
    manifest: dict[str, Any]
    connection: duckdb.DuckDBPyConnection

    @classmethod
    def current(cls, current: str) -> "Opened":
        """What consumers are told to do: the link is followed first, and all is read of where it led."""
        folder = Path(os.path.realpath(current))
        manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
        database = str(folder / "segments.duckdb")
        return cls(folder, manifest, duckdb.connect(database, read_only=True, config={"threads": 1}))

    def ask(self, questions: list[tuple[str, list[str]]]) -> int:
        """Hold each answer against what the manifest tells; their number."""
        for question, place in questions:
            told: Any = self.manifest
            for key in place:
                told = told[key]
            answers = self.connection.execute(question).fetchall()
            assert answers == [(str(told),)], (self.folder.name, question, answers, told)
        return len(questions)


def main(current: str, stop: Path, questions: list[tuple[str, list[str]]]) -> None:
    """Read until the file `stop` is there."""
    queries, outlived, seen = 0, 0, set[str]()
    kept = Opened.current(current)
    while True:
        last = stop.exists()
        opened = Opened.current(current)
        queries += opened.ask(questions)
        opened.connection.close()
        if not seen:
            print("reading", flush=True)
        seen.add(opened.folder.name)
        gone = not kept.folder.exists()
        if gone or last:
            outlived += gone
            queries += kept.ask(questions)
            kept.connection.close()
            if last:
                break
            kept = Opened.current(current)
    print(json.dumps({"version": duckdb.__version__, "queries": queries, "seen": sorted(seen), "outlived": outlived}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3]))
