"""The table `[engine]`: what Spark needs, and what it rejects."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline_tests.scenarios import retailer_settings

SPARK = {"kind": "spark", "master": "spark://host:7077", "location": "/shared/lines"}


def errors(engine: dict[str, Any], **sections: Any) -> list[tuple[str, str]]:
    with pytest.raises(ValidationError) as raised:
        Retailer.model_validate(retailer_settings(Path("/source"), engine=engine, **sections))
    return [(".".join(map(str, error["loc"])), error["msg"]) for error in raised.value.errors()]


def test_spark_needs_a_master_and_a_location() -> None:
    assert [key for key, _ in errors({"kind": "spark"})] == ["engine.master", "engine.location"]


@pytest.mark.parametrize("location", ["relative", "/shared/../other"])
def test_the_location_is_one_path_on_all_machines(location: str) -> None:
    [(key, message)] = errors({**SPARK, "location": location})
    assert (key, message) == ("engine.location", "allowed: an absolute path without `..`")


def test_settings_of_spark_are_errors_without_spark() -> None:
    assert [key for key, _ in errors({"master": "local", "options": {"a": "b"}})] == ["engine.master", "engine.options"]


@pytest.mark.parametrize(
    ("sections", "key", "advice"),
    [
        ({"source": {"path": "s3://bucket/*.csv"}}, "source.path", "mount the store on every worker"),
        ({"cleaning": {"sources_overlap": True}}, "cleaning.sources_overlap", "allowed: false"),
        (
            {"source": {"path": None, "query": "select 1", "connection": "SHOP", "key": ["id"]}},
            "source.query",
            "export the rows to files",
        ),
    ],
)
def test_what_spark_would_treat_otherwise_is_rejected(sections: dict[str, Any], key: str, advice: str) -> None:
    found = dict(errors(SPARK, **sections))
    assert advice in found[key]
