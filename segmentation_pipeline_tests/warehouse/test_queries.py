"""The relations that a SELECT reads are found in its syntax tree."""

import pytest

from segmentation_pipeline.warehouse.queries import tables_read_by


@pytest.mark.parametrize(
    ("select", "tables"),
    [
        ("with a as (select * from a) select * from a", {"a"}),
        ("with a as (select 1), b as (select * from a, c) select * from b", {"c"}),
        ("with recursive a as (select 1 union all select * from a) select * from a", set()),
        ("select * from (with a as (select * from b) select * from a), a", {"a", "b"}),
        ("with a as (select 1) select * from main.a", {"a"}),
        ("select (select max(x) from a) from b anti join d using (x) where exists (from c)", {"a", "b", "c", "d"}),
        ("select * from range(3), a unpivot (x for y in (b, c))", {"a"}),
    ],
)
def test_a_cte_hides_a_table_of_its_name(select: str, tables: set[str]) -> None:
    assert tables_read_by(select) == tables


def test_only_a_select_has_tables() -> None:
    with pytest.raises(ValueError, match="not a SELECT"):
        tables_read_by("drop table a")
