"""URLs of a source: which are allowed, and no password or signature in an error."""

import json
from pathlib import Path
from typing import Any

import pytest

from segmentation_pipeline.config.loading import load
from segmentation_pipeline_tests.config.minimal import MINIMAL, only_error, write


@pytest.mark.parametrize(
    "path", ["s3://bucket/a/*.csv", "s3://bucket", "https://host/a.csv", "http://127.0.0.1:8080/a.csv", "gs://b/a?.csv"]
)
def test_url_is_a_path(tmp_path: Path, path: str) -> None:
    text = MINIMAL.replace('"lines.csv"', json.dumps(path))
    assert load(str(write(tmp_path, text))).source.paths == [path]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("https://me:secret@host/a.csv", "allowed: a URL without user, password and parameters"),
        ("https://host/a.csv?sig=secret", "allowed: a URL without user, password and parameters"),
        (["a.csv", "s3://secret:secret@bucket/a.csv"], "allowed: a URL without user, password and parameters"),
        ("ftp://host/secret.csv", "allowed: a URL that begins with s3://, gs://, az://, https://"),
        ("https://host/secret*.csv", "allowed: the URL of one file"),
        ("http://secret.example/a.csv", "allowed: https, because http"),
    ],
)
def test_url_with_credentials_is_an_error_without_them(tmp_path: Path, path: Any, message: str) -> None:
    error = only_error(tmp_path, MINIMAL.replace('"lines.csv"', json.dumps(path)))
    assert f"source.path: {message}" in error
    assert "secret" not in error
