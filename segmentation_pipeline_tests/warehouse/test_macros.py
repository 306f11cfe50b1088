"""Macros depend on their parameters alone, and are inlined as they are written."""

import duckdb
import pytest

from segmentation_pipeline.tables.catalog import contracts, has_select, macros, macros_called_by, select_of
from segmentation_pipeline.warehouse.macros import inlined
from segmentation_pipeline.warehouse.queries import tables_read_by
from segmentation_pipeline.warehouse.syntax import macro_bodies

BODIES = macro_bodies(macros())


@pytest.mark.parametrize("macro", BODIES)
def test_a_macro_reads_no_table_and_calls_no_macro(macro: str) -> None:
    _, body = BODIES[macro]
    assert tables_read_by(f"select {body}") == set()
    assert not any(f"{other}(" in body for other in BODIES)


@pytest.mark.parametrize(
    ("macro", "arguments", "value"),
    [
        ("inactive_segment", ["0", "5", "0"], "dormant"),
        ("inactive_segment", ["2", "5 - 5", "2 + 3"], "refunded"),
        ("inactive_segment", ["2", "5 - 5", "0"], "no_spend"),
        ("inactive_segment", ["2", "5", "1"], None),
        ("fence_side", ["1 + 1", "-1", "1"], "high"),
        ("fence_side", ["-2", "-1", "1"], "low"),
        ("fence_side", ["1", "null", "null"], None),
        ("outlier_segment", [inlined("fence_side", "9", "1", "2"), "null", "null"], "pamper"),
        ("scaled", ["3", "'robust'", "null", "1", "1 + 1"], 1),
        ("scaled_distance", ["1", "2", "3", "4", "6", "3"], 5),
    ],
)
def test_an_inlined_macro_gives_what_the_macro_gives(macro: str, arguments: list[str], value: object) -> None:
    with duckdb.connect() as connection:
        assert connection.execute(f"select {inlined(macro, *arguments)}").fetchall() == [(value,)]
        connection.execute(macros())
        assert connection.execute(f"select {macro}({', '.join(arguments)})").fetchall() == [(value,)]


def test_inlining_needs_an_argument_for_each_parameter() -> None:
    with pytest.raises(ValueError, match="argument"):
        inlined("fence_side", "1", "2")


def test_code_versions_include_the_macros_that_a_select_calls() -> None:
    calling = {table for table in contracts() if has_select(table) and macros_called_by(select_of(table))}
    assert {"outlier_flags", "scaled_customers", "nearest_centroids", "inactive_customers"} < calling
    assert "inter_purchase_times" not in calling
    assert macros_called_by("select scaled_monetary from scaled_customers") == ""
