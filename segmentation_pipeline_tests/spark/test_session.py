"""Errors of Spark as messages of this package."""

import pytest

from segmentation_pipeline.spark.session import message_of


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "An exception was thrown from a UDF:\nTraceback (most recent call last):\n"
            "ModuleNotFoundError: No module named 'segmentation_pipeline'\n",
            "ModuleNotFoundError: No module named 'segmentation_pipeline'",
        ),
        ("Traceback:\nduckdb.ConversionError: Could not convert string 'VERA-77123' to INT32\n", "RuntimeError"),
    ],
)
def test_a_message_names_what_is_missing_and_no_value(text: str, message: str) -> None:
    assert message_of(RuntimeError(text)) == message
