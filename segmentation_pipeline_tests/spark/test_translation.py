"""SELECTs in Spark's dialect. That they give the same rows is shown on a cluster, in `test_cluster`."""

import pytest
import sqlglot

from segmentation_pipeline.spark.translation import spark_select
from segmentation_pipeline.tables.catalog import FOLDER
from segmentation_pipeline.warehouse.line_engine import LINE_TABLES
from segmentation_pipeline.warehouse.queries import tables_read_by

SELECTS = {path.stem: path.read_text("utf-8") for path in sorted(FOLDER.glob("*/**/*.sql"))}
# Workers derive the rows of a file with DuckDB.
BY_FILE = {"invoice_totals"}
OF_LINES = [name for name, select in SELECTS.items() if tables_read_by(select) & {*LINE_TABLES} and name not in BY_FILE]


@pytest.mark.parametrize("name", OF_LINES)
def test_every_select_of_lines_translates_with_its_macros(name: str) -> None:
    text = spark_select(SELECTS[name], {})
    assert sqlglot.parse_one(text, read="spark").find(sqlglot.exp.Select)
    assert "$" not in text.replace("'$.", "")
    assert "masked_pattern" not in text.lower()
    assert "as_of_time" not in text.lower()


def test_a_replacement_of_the_first_match_is_rejected() -> None:
    with pytest.raises(sqlglot.errors.UnsupportedError, match="Spark replaces every match"):
        spark_select("select regexp_replace(name, 'a', 'b') from raw_transactions", {})


def test_values_stay_bound() -> None:
    text = spark_select("select * from raw_transactions where customer_id = $customer", {"customer": "marker"})
    assert ":customer" in text
    assert "marker" not in text
