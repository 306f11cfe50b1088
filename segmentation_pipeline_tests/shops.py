"""A retailer in one folder, with its source, its settings and all that its runs leave: build it once, copy it per test.

Use the fixtures of `conftest` where a test starts from a finished run. A run through Dagster takes 2-4 s of CPU time, a
copy about 20 ms:

    def test_a_run_publishes_one_release(finished_shop: Shop, instance: dg.DagsterInstance) -> None:
        assert finished_shop.run(instance).success        # the next night, as of the last transaction
        assert len(finished_shop.releases.all()) == 2

- `finished_shop`: the test's own copy after a first run; the environment variables lead to it.
- `refitted_shop`: the same after a second night and a refit, which made another model active.
- `finished_template`, `refitted_template`: copies that a worker keeps for tests that only read; one worker builds them.
- `Shop.build(folder, ...)`: a shop with other lines or settings, for fixtures of a module.

The shops have no event log, because an instance on disk costs 3 s more for each run: pass the `instance` fixture.
"""

import fcntl
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import dagster as dg
import duckdb
import pytest

from segmentation_pipeline.config.paths import RetailerFolders
from segmentation_pipeline.orchestration.job_selection import REFIT_JOB
from segmentation_pipeline.releases.files import Release
from segmentation_pipeline.releases.store import Releases
from segmentation_pipeline.tables.catalog import contracts
from segmentation_pipeline.tables.contract import quoted
from segmentation_pipeline_tests.scenarios import Line, line, regular_customers, retailer_file, run_job, write_csv

# An outlier, a cancellation, a line without a customer and one that cannot be parsed.
ODD_LINES = (
    line(invoice="600001", at="2024-09-02 11:00:00", customer="10001", quantity="5000", price="9.95"),
    line(invoice="C60002", at="2024-09-03 11:00:00", customer="10002", quantity="-1", price="0.95"),
    line(invoice="600003", at="2024-09-03 11:00:00", customer=""),
    line(invoice="600004", at="2024-09-03 11:00:00", customer="10004", price="?"),
)
# The source's last transaction is of 2024-10-28, so a night without an as_of follows these. Of the 60 customers, one
# buys first on 2024-10-22.
FIRST_NIGHT, SECOND_NIGHT, REFIT_NIGHT = "2024-10-18", "2024-10-21", "2024-10-25"


@dataclass(frozen=True)
class Shop:
    """The retailer `corner_shop` in a folder: `retailer.toml`, `source/` and `data/`; no path in them is absolute."""

    folder: Path

    @classmethod
    def build(cls, folder: Path, lines: Sequence[Line] = (), **sections: Any) -> "Shop":
        """Write the source and the retailer file of a shop that has not run yet; default: 60 customers, odd lines."""
        shop = cls(folder)
        write_csv(shop.source / "a.csv", [*lines] or [*regular_customers(), *ODD_LINES])
        shop.configure(**sections)
        return shop

    @property
    def source(self) -> Path:
        """The folder of the source files."""
        return self.folder / "source"

    @property
    def retailer(self) -> Path:
        """The retailer file."""
        return self.folder / "retailer.toml"

    @property
    def data(self) -> Path:
        """The data folder, which is that of the `data_folder` fixture in a copy."""
        return self.folder / "data"

    @property
    def folders(self) -> RetailerFolders:
        """The retailer's folders in the data folder."""
        return RetailerFolders(self.data, "corner_shop")

    @property
    def work(self) -> Path:
        """The working database."""
        return self.folders.working_database

    @property
    def releases(self) -> Releases:
        """The published releases."""
        return Releases(self.folders.releases)

    @property
    def release(self) -> Release:
        """The current release."""
        current = self.releases.current
        assert current is not None
        return current

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables that lead a process to this shop."""
        return {"SEGMENTATION_DATA": str(self.data), "SEGMENTATION_RETAILER": str(self.retailer)}

    def configure(self, **sections: Any) -> None:
        """Write the retailer file; sections are merged into the defaults."""
        retailer_file(self.folder, Path("source"), **sections)

    def enter(self, environment: pytest.MonkeyPatch) -> None:
        """Make this the shop of the process until the test ends."""
        for name, value in self.environment.items():
            environment.setenv(name, value)

    def copy(self, folder: Path) -> "Shop":
        """Copy everything into a folder; modification times stay, so no source file is read again."""
        shutil.copytree(self.folder, folder, symlinks=True, dirs_exist_ok=True)
        return Shop(folder)

    def run(
        self,
        instance: dg.DagsterInstance | None = None,
        *,
        job: str = "",
        refit: bool = False,
        config: Mapping[str, Any] | None = None,
        assets: Sequence[str] = (),
        **retailer: Any,
    ) -> dg.ExecuteInProcessResult:
        """Run a night through Dagster.

        Args:
            instance: Where the events go; by default nowhere.
            job: A job's name; by default the one that the night needs.
            refit: Fit a model.
            config: Further run config.
            assets: The assets to materialise, such as `assets_up_to("rfm_features")`; by default all of the job.
            retailer: Fields of RetailerConfig, such as `as_of` and `accept_change`.
        """
        run_config: dict[str, Any] = {"resources": {"retailer": {"config": retailer}}, **(config or {})}
        with pytest.MonkeyPatch.context() as environment:
            self.enter(environment)
            job = REFIT_JOB if refit else job
            return run_job(instance, job=job, config=run_config, assets=assets)

    def rows(self, select: str, database: Path | None = None) -> list[tuple[Any, ...]]:
        """Return the rows of a query on the working database, or on another one."""
        with duckdb.connect(str(database or self.work), read_only=True) as connection:
            return connection.execute(select).fetchall()

    @property
    def tables(self) -> dict[str, list[tuple[Any, ...]]]:
        """Every table of the working database, in the order of its key."""
        with duckdb.connect(str(self.work), read_only=True) as connection:
            return {
                name: connection.execute(f"select * from {quoted(name)} order by {contract.key_order}").fetchall()
                for name, contract in contracts().items()
            }

    def released(self, select: str) -> list[tuple[Any, ...]]:
        """Return the rows of a query on the current release."""
        with self.release.connect() as connection:
            return connection.execute(select).fetchall()

    @property
    def files(self) -> dict[str, bytes]:
        """The Parquet files of the current release."""
        return {path.stem: path.read_bytes() for path in self.release.folder.glob("*.parquet")}

    def execute(self, *statements: str) -> None:
        """Change the working database."""
        with duckdb.connect(str(self.work)) as connection:
            for statement in statements:
                connection.execute(statement)


def build_once(folder: Path, build: Callable[[Path], Shop]) -> Shop:
    """Return the shop of a folder that several processes share; the first of them builds it.

    Args:
        folder: The folder, which no process has to create.
        build: Builds the shop in an empty folder.
    """
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            # Renamed when it is complete, so that a shop whose first run failed is built again, with its error.
            unfinished = Path(mkdtemp(dir=folder.parent))
            build(unfinished)
            unfinished.rename(folder)
    return Shop(folder)


def finished(folder: Path) -> Shop:
    """Build a shop and run its first night, with back-test months, an outlier and four clusters."""
    shop = Shop.build(folder, rfm={"look_back_days": 200})
    assert shop.run(as_of=FIRST_NIGHT).success
    return shop


def refitted(template: Shop, folder: Path) -> Shop:
    """Copy a finished shop and run a second night and a refit, whose model becomes active."""
    shop = template.copy(folder)
    assert shop.run(as_of=SECOND_NIGHT).success
    assert shop.run(refit=True, as_of=REFIT_NIGHT, accept_change=True).success
    return shop
