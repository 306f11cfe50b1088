"""Open the working database: alone, for its owner's eyes, and closed whatever happens.

Belongs here: what stands between a file and a connection. What is then done with it is told in `warehouse`.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb


class WarehouseError(RuntimeError):
    """The working database cannot be used; the message says where it is and what to do."""


@contextmanager
def connection_to(
    database: Path, spill: Path, patience: float, tell: Callable[[str], None]
) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open the working database through Dagster's DuckDB resource, and close it whatever happens.

    It is for its owner alone, as are the log that DuckDB writes beside it and whatever else is written meanwhile.

    Args:
        database: The file; created if absent.
        spill: The folder for what does not fit into memory.
        patience: Seconds to wait for somebody who looks into the database with another program.
        tell: Where to say that it waits.

    Raises:
        WarehouseError: DuckDB cannot open the file, or does not take SEGMENTATION_MEMORY_LIMIT.
    """
    from dagster_duckdb import DuckDBResource

    config = {"temp_directory": str(spill)} | _memory_limit()
    # For as long as it is open: DuckDB makes the log and the files of what it spills anew whenever it needs them.
    mask = os.umask(0o077)
    try:
        _wait_until_free(database, patience, tell)
        database.chmod(0o600)
        resource = DuckDBResource(database=str(database), connection_config=config)
        with resource.get_connection() as connection:
            try:
                yield connection
            finally:
                connection.close()
    finally:
        os.umask(mask)


def _memory_limit() -> dict[str, str]:
    """What SEGMENTATION_MEMORY_LIMIT allows DuckDB, as its setting; unset, it takes 80 % of the machine's."""
    if not (limit := os.environ.get("SEGMENTATION_MEMORY_LIMIT")):
        return {}
    try:
        duckdb.connect(config={"memory_limit": limit}).close()
    except duckdb.Error as error:
        said = f"SEGMENTATION_MEMORY_LIMIT: {limit!r} is no amount of memory, such as 4GB or 500MB"
        raise WarehouseError(f"{said}: {str(error).splitlines()[0]}") from None
    return {"memory_limit": limit}


def _wait_until_free(database: Path, patience: float, tell: Callable[[str], None]) -> None:
    """The resource retries every error for 102 s, also that of a damaged file; so the file is tried here first."""
    deadline, told = time.monotonic() + patience, False
    while True:
        try:
            duckdb.connect(str(database)).close()
            return
        except duckdb.Error as error:
            # Not just "lock": a damaged file is told of by its block.
            if "Could not set lock" not in str(error):
                raise WarehouseError(
                    f"{database}: DuckDB {duckdb.__version__} cannot open the working database: {error}. If another "
                    "version of DuckDB wrote it, use that one; if it is damaged, put a copy of it back, or `segments "
                    "restore RELEASE --replace`: it holds the registry of models and the ledger of memberships. "
                    "Without them the next run starts anew."
                ) from None
            if time.monotonic() > deadline:
                raise WarehouseError(
                    f"{database}: another program has held the working database open for {patience:g} s: {error}. "
                    "Close it there; to look at results, open a release instead."
                ) from None
            if not told:
                tell(f"waiting for another program that has the working database open: {error}")
                told = True
        time.sleep(0.25)
