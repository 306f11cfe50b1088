"""Write `docs/queries.md`: the questions in `docs/queries/`, their SQL, and their answers on the sample.

`python tools/queries_page.py DOCS [FOLDER]` runs the sample twice in a new folder, by default a temporary one. It runs
every query on the release, and writes the page into the folder DOCS. `make queries` runs it.
"""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb

_RUNS: Sequence[Sequence[str]] = (["--as-of", "2025-11-30"], [])
_RELEASE = "data/sample/releases/current/segments.duckdb"
_INTRODUCTION = f"""# Questions and their SQL

`make queries` writes this page from the files in [queries/](queries). Change the text there.

The answers are those of the sample after these two commands; the second is the run of three weeks later. Money is in
the retailer's currency. Times are the retailer's local time.

```console
segments run --as-of 2025-11-30
segments run
duckdb -readonly {_RELEASE} < docs/queries/02_left_reward.sql
```

[clients.md](clients.md) shows how to open a release from other programs, [tables.md](tables.md) describes every column.
For another retailer, replace the names of segments, the dates and the files. The table
`segments` lists the segments that its models have had.
"""


@dataclass(frozen=True)
class Query:
    """A question with its SQL, as in a file of `docs/queries/`.

    Attributes:
        file: The file's name.
        question: The first line of its comment.
        text: The other lines of its comment.
        sql: The SELECT.
    """

    file: str
    question: str
    text: str
    sql: str

    @classmethod
    def read(cls, file: Path) -> "Query":
        """Read a file: lines of comment, and then the SELECT."""
        lines = file.read_text("utf-8").splitlines()
        comment = [line.removeprefix("-- ") for line in lines if line.startswith("-- ")]
        return cls(file.name, comment[0], "\n".join(comment[1:]), "\n".join(lines[len(comment) :]))


@dataclass(frozen=True)
class Answer:
    """The names of the columns, and the rows."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


def queries(docs: Path) -> list[Query]:
    """Return the questions in the order of their files."""
    return [Query.read(file) for file in sorted((docs / "queries").glob("*.sql"))]


def answer(connection: duckdb.DuckDBPyConnection, sql: str) -> Answer:
    """Run a query."""
    rows = connection.execute(sql).fetchall()
    return Answer([column[0] for column in connection.description or ()], rows)


def page(answers: Sequence[tuple[Query, Answer]]) -> str:
    """Return the text of the page."""
    return "\n".join(line for part in (_introduction(answers), *map(_section, answers)) for line in part) + "\n"


def _introduction(answers: Sequence[tuple[Query, Answer]]) -> Iterator[str]:
    yield _INTRODUCTION
    for number, (query, _) in enumerate(answers, 1):
        yield f"{number}. [{query.question}](queries/{query.file})"


def _section(answered: tuple[Query, Answer]) -> Iterator[str]:
    query, found = answered
    yield from ("", f"## {query.question}", "", query.text, "", "```sql", query.sql, "```", "")
    is_number = [
        any(isinstance(row[at], int | float | Decimal) for row in found.rows) for at in range(len(found.columns))
    ]
    yield _line(found.columns)
    yield f"|{'|'.join('--:' if number else '---' for number in is_number)}|"
    yield from (_line([_cell(value) for value in row]) for row in found.rows)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, Decimal):
        return f"{value:,.2f}"
    if isinstance(value, float):
        # A zero below zero is printed as 0.
        return f"{value + 0.0:,}".removesuffix(".0")
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value).replace("|", "\\|")


def answers_of_the_sample(docs: Path, folder: Path) -> list[tuple[Query, Answer]]:
    """Run the sample in the folder `data` of a folder, and every query on its release."""
    segments = Path(sys.executable).with_name("segments")
    unset = {name for name in os.environ if name.startswith("SEGMENTATION_") or name == "DAGSTER_HOME"}
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    environment["SEGMENTATION_DATA"] = str(folder / "data")
    for arguments in _RUNS:
        command = [str(segments), "run", *arguments]
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - own command
    # The queries name the files of the sample relative to the project, which has the folder `data`.
    os.chdir(folder)
    with duckdb.connect(_RELEASE, read_only=True) as connection:
        return [(query, answer(connection, query.sql)) for query in queries(docs)]


if __name__ == "__main__":
    target = Path(sys.argv[1]).resolve()
    with TemporaryDirectory() as temporary:
        written = page(answers_of_the_sample(target, Path(*sys.argv[2:3] or [temporary]).resolve()))
    (target / "queries.md").write_text(written, "utf-8")
