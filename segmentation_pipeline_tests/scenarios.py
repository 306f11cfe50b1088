"""Tiny named data sets and retailers as plain functions; nothing else is shared between the tests."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import tomli_w

from segmentation_pipeline.definitions import defs

SHARED = Path(__file__).parents[2] / "shared"
REAL_DATA = SHARED / "data"
HEADER = ("InvoiceNo", "StockCode", "Description", "Quantity", "InvoiceDate", "UnitPrice", "CustomerID", "Country")
Line = tuple[str, str, str, str, str, str, str, str]


def line(
    invoice: str = "536365",
    stock_code: str = "85123A",
    description: str = "LANTERN",
    quantity: str = "2",
    at: str = "2024-03-01 10:00:00",
    price: str = "2.50",
    customer: str = "17850.0",
    country: str = "United Kingdom",
) -> Line:
    """One line of a source file, good unless told otherwise."""
    return (invoice, stock_code, description, quantity, at, price, customer, country)


def write_csv(path: Path, lines: Sequence[Sequence[str]], header: Sequence[str] = HEADER) -> Path:
    """A CSV file with a header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *lines])
    return path


def regular_customers(number: int = 60) -> list[Line]:
    """Customers whose recency, frequency and money differ: enough for a model of four clusters."""
    lines = []
    for customer in range(number):
        for purchase in range(1 + customer % 7):
            day, month = 1 + (customer * 5 + purchase * 3) % 28, 1 + (customer + purchase * 2) % 10
            lines.append(
                line(
                    invoice=f"{500000 + customer * 10 + purchase}",
                    at=f"2024-{month:02d}-{day:02d} 09:{customer % 60:02d}:00",
                    quantity=f"{1 + (customer * 7 + purchase) % 11}",
                    price=f"{1 + customer % 13}.{customer % 10}5",
                    customer=f"{10000 + customer}",
                )
            )
    return lines


def retailer_settings(source: Path, **sections: Any) -> dict[str, Any]:
    """A retailer file of the Online Retail shape as a dictionary; sections given are merged into it."""
    settings: dict[str, Any] = {
        "name": "corner_shop",
        "title": "Corner shop",
        "time_zone": "Europe/London",
        "currency": "GBP",
        "source": {"path": str(source)},
        "columns": {
            "invoice": "InvoiceNo",
            "stock_code": "StockCode",
            "description": "Description",
            "quantity": "Quantity",
            "transaction_at": "InvoiceDate",
            "price": "UnitPrice",
            "customer_id": "CustomerID",
            "country": "Country",
        },
        "cleaning": {
            "cancellation": r"^C\d{6}$",
            "rules": [
                {"name": "invalid_invoice", "reason": "not six digits", "column": "invoice", "matches": r"^\d{6}$"},
                {"name": "not_a_product", "reason": "a fee", "column": "stock_code", "matches": r"^\d{5}[a-zA-Z]*$"},
                {"name": "missing_customer", "reason": "no customer", "column": "customer_id", "required": True},
                {"name": "price_not_positive", "reason": "no price", "column": "price", "above": 0},
            ],
        },
        "checks": {"min_customers": 2, "min_days": 0, "min_silhouette": -1.0},
    }
    for name, section in sections.items():
        settings[name] = {**settings.get(name, {}), **section} if isinstance(section, dict) else section
    return settings


def retailer_file(folder: Path, source: Path, **sections: Any) -> Path:
    """The same, written as TOML."""
    path = folder / "retailer.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tomli_w.dumps(retailer_settings(source, **sections)).encode())
    return path


def run_job(
    instance: dg.DagsterInstance,
    *,
    job: str = "nightly_segmentation",
    config: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
) -> dg.ExecuteInProcessResult:
    """Run a job of the project through Dagster, with the retailer and the data folder of the environment."""
    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    return (
        defs()
        .resolve_job_def(job)
        .execute_in_process(
            instance=instance, run_config={**quiet, **(config or {})}, tags=dict(tags or {}), raise_on_error=False
        )
    )
