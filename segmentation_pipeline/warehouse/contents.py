"""The number of rows of SELECTs, and a digest by which equal rows are known."""

from collections.abc import Mapping
from typing import NamedTuple, TypeVar

import duckdb

_Key = TypeVar("_Key")


class Content(NamedTuple):
    """How many rows there are, and a digest of them."""

    rows: int
    digest: str


def contents_of(connection: duckdb.DuckDBPyConnection, selects: Mapping[_Key, str]) -> dict[_Key, Content]:
    """Return the number and a digest of the rows of each SELECT, whatever their order: 0.02 s for 100,000 customers.

    The hash is that of this version of DuckDB.
    """
    # Hashed twice, because one hash of several columns is the exclusive or of theirs: the sum of two rows could stay
    # the same where they exchange a value. One statement, because a statement takes a millisecond.
    counts = [
        f"select {number} as number, count(*), sum(hash(hash(one))) from ({select}) as one"  # noqa: S608 - own SQL
        for number, select in enumerate(selects.values())
    ]
    rows = connection.execute(f"{' union all '.join(counts)} order by number").fetchall() if counts else []
    return {
        key: Content(count, f"{count}-{digest or 0}-{duckdb.__version__}")
        for key, (_, count, digest) in zip(selects, rows, strict=True)
    }
