"""The sources of a dbt project describe every published table, and their tests pass on a release."""

from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from segmentation_pipeline.releases.dbt_sources import dbt_sources
from segmentation_pipeline.tables.contract import quoted
from segmentation_pipeline_tests.commands import segments
from segmentation_pipeline_tests.shops import Shop


@pytest.fixture(scope="module")
def source() -> dict[str, Any]:
    """The only source of the file."""
    [only] = yaml.safe_load(dbt_sources("corner_shop"))["sources"]
    assert isinstance(only, dict)
    return only


def broken(test: Any, table: str, column: str = "") -> str:
    """Return the SELECT that dbt makes of a test: the rows that break it."""
    name, properties = (test, {}) if isinstance(test, str) else next(iter(test.items()))
    arguments = properties.get("arguments", {})
    expression = arguments.get("column_name", column)
    if name == "not_null":
        return f"select {column} from {table} where {column} is null"
    if name == "unique":
        return (
            f"select {expression} from {table} where {expression} is not null group by {expression} having count(*) > 1"
        )
    assert name == "accepted_values"
    # As dbt writes them: it quotes, but does not escape.
    values = [f"'{value}'" if arguments["quote"] else str(value) for value in arguments["values"]]
    return f"select {column} from {table} where {column} not in ({', '.join(values)})"


def selects_of(source: dict[str, Any]) -> Iterator[str]:
    for table in source["tables"]:
        yield from (broken(test, quoted(table["name"])) for test in table.get("data_tests", []))
        for column in table["columns"]:
            for test in column.get("data_tests", []):
                yield broken(test, quoted(table["name"]), quoted(column["name"]))


def test_the_source_has_the_columns_and_types_of_a_release(finished_template: Shop, source: dict[str, Any]) -> None:
    described = {
        (table["name"], column["name"]): column["data_type"]
        for table in source["tables"]
        for column in table["columns"]
    }
    released = "select table_name, column_name, data_type from duckdb_columns() where not internal"
    assert described == {(table, column): kind for table, column, kind in finished_template.released(released)}
    assert (source["name"], source["database"], source["schema"]) == ("corner_shop", "corner_shop", "main")


def test_every_test_of_the_source_passes_on_a_release(finished_template: Shop, source: dict[str, Any]) -> None:
    selects = [*selects_of(source)]
    kinds = [sum(word in select for select in selects) for word in ("is null", "having count", "not in (")]
    assert [kind > 10 for kind in kinds] == [True, True, True]
    either = " union all ".join(f"select {number} from ({select})" for number, select in enumerate(selects))
    assert [selects[number] for (number,) in finished_template.released(either)] == []


def test_a_test_of_the_source_finds_what_breaks_the_contract(finished_template: Shop) -> None:
    """A wrong value, and one that is right although it has an apostrophe in it."""
    values = {"arguments": {"values": ["Can''t Lose"], "quote": True}}
    select = broken({"accepted_values": values}, "(values ('Can''t Lose'), ('Cannot Lose')) as t(name)", "name")
    assert finished_template.released(select) == [("Cannot Lose",)]
    text = dbt_sources("corner_shop")
    assert "Can''t Lose" in text


def test_every_key_is_tested_to_be_unique(source: dict[str, Any]) -> None:
    for table in source["tables"]:
        tests = [
            *table.get("data_tests", []),
            *(test for one in table["columns"] for test in one.get("data_tests", [])),
        ]
        assert sum(test == "unique" or "unique" in test for test in tests if test != "not_null") == 1, table["name"]


def test_no_text_is_a_jinja_expression() -> None:
    """dbt would evaluate it."""
    assert not any(mark in dbt_sources("corner_shop") for mark in ("{{", "{%", "{#"))


def test_the_command_leaves_out_withheld_columns(finished_shop: Shop) -> None:
    finished_shop.configure(privacy={"withhold": ["country"]})
    file = finished_shop.folder / "segments.yml"
    ended = segments(finished_shop, "export-dbt", "--output", str(file))
    assert (ended.code, ended.stdout, ended.errors) == (0, "", "")
    assert file.read_text("utf-8") == dbt_sources("corner_shop", ["country"])
    assert "- name: country" in dbt_sources("corner_shop")
    assert "- name: country" not in file.read_text("utf-8")
    assert segments(finished_shop, "export-dbt").stdout == file.read_text("utf-8")


def test_a_file_that_cannot_be_written_is_an_error(finished_shop: Shop) -> None:
    ended = segments(finished_shop, "export-dbt", "--output", str(finished_shop.folder / "nowhere" / "a.yml"))
    assert ended.code == 2
    assert "No such file or directory" in ended.errors
