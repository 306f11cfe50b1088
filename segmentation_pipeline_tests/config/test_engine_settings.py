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
    found = errors({"master": "local", "options": {"a": "b"}, "wait_minutes": 5})
    assert [key for key, _ in found] == ["engine.master", "engine.options", "engine.wait_minutes"]


def test_over_connect_only_options_of_a_session_are_allowed() -> None:
    options = {"spark.executor.memory": "8g", "spark.sql.shuffle.partitions": "8"}
    [(key, message)] = errors({**SPARK, "master": "sc://host:15002", "options": options})
    assert key == "engine.options.spark.executor.memory"
    assert "set it where the server starts" in message


def test_a_token_of_connect_is_not_in_the_file() -> None:
    engine = {**SPARK, "master": "sc://host:15002/;use_ssl=true;token=marker"}
    with pytest.raises(ValidationError) as raised:
        Retailer.model_validate(retailer_settings(Path("/source"), engine=engine))
    [error] = raised.value.errors()
    assert error["loc"] == ("engine", "master")
    assert "SPARK_CONNECT_AUTHENTICATE_TOKEN" in error["msg"]
    assert "marker" not in f"{error['input']}{error['msg']}"


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
