"""Tests of the first rows that the interface shows of a table: nothing in them names a customer."""

from collections.abc import Iterator
from typing import Any

import duckdb
import pytest

from segmentation_pipeline.config.sections import Privacy
from segmentation_pipeline.orchestration.previews import preview_of
from segmentation_pipeline.tables.catalog import contracts
from segmentation_pipeline.warehouse.database import Warehouse
from segmentation_pipeline_tests.tables.derivation import store

LINE = {
    "customer_id": "ACME Ltd. 12346",
    "invoice": "C536365",
    "description": "LANTERN 2",
    "quantity": 3,
    "unparsed": '{"price": "call Smith"}',
}


@pytest.fixture
def warehouse() -> Iterator[Warehouse]:
    with duckdb.connect() as connection:
        yield Warehouse(connection)


def shown(warehouse: Warehouse, table: str, **privacy: Any) -> list[dict[str, Any]]:
    preview = preview_of(warehouse, contracts()[table], Privacy.model_validate(privacy))
    return [dict(record.data) for value in preview.values() for record in value.records]


def test_every_text_and_number_of_a_line_is_masked(warehouse: Warehouse) -> None:
    store(warehouse, "raw_transactions", LINE)
    [row] = shown(warehouse, "raw_transactions")
    assert [row[name] for name in ("customer_id", "invoice", "unparsed")] == [
        "aaaa aaa. 99999",
        "a999999",
        '{"aaaaa": "aaaa aaaaa"}',
    ]
    assert (row["description"], row["quantity"], row["price"]) == ("aaaaaaa 9", "9.999", None)
    assert row["source_line"] == 0


def test_rules_and_places_of_rejected_lines_are_shown(warehouse: Warehouse) -> None:
    store(warehouse, "rejected_transactions", {**LINE, "source_file": "a.csv", "rule": "unparsed"})
    [row] = shown(warehouse, "rejected_transactions")
    assert (row["source_file"], row["rule"], row["quantity"]) == ("a.csv", "unparsed", "9.999")


@pytest.mark.parametrize("privacy", [{"pseudonymise": True}, {"drop": ["country"]}, {"withhold": ["country"]}])
def test_all_text_about_persons_is_masked_where_privacy_is_on(warehouse: Warehouse, privacy: dict[str, Any]) -> None:
    store(warehouse, "raw_transactions", LINE)
    store(warehouse, "segment_profiles", {"segment": "RETAIN"})
    assert shown(warehouse, "raw_transactions", **privacy)[0]["description"] == "aaaaaaa 9"
    assert shown(warehouse, "segment_profiles", **privacy)[0]["segment"] == "RETAIN"


def test_numbers_of_withheld_columns_are_masked(warehouse: Warehouse) -> None:
    store(warehouse, "rfm_features", {"customer_id": "1", "recency": 37})
    assert shown(warehouse, "rfm_features", withhold=["recency"])[0]["recency"] == "99"
    assert shown(warehouse, "rfm_features")[0]["recency"] == 37


def test_columns_that_the_retailer_adds_are_masked(warehouse: Warehouse) -> None:
    store(warehouse, "raw_transactions", LINE)
    warehouse.connection.execute("alter table raw_transactions add column email varchar default 'a.smith@b.com'")
    contract = contracts()["raw_transactions"].with_extra_columns({"email": "Email"})
    [row] = preview_of(warehouse, contract, Privacy())["first_rows"].records
    assert row.data["email"] == "a.aaaaa@a.aaa"


def test_three_rows_are_shown_and_none_of_an_empty_table(warehouse: Warehouse) -> None:
    store(warehouse, "rfm_features", *({"customer_id": str(number)} for number in range(9)))
    assert len(shown(warehouse, "rfm_features")) == 3
    store(warehouse, "rfm_features")
    assert shown(warehouse, "rfm_features") == []
