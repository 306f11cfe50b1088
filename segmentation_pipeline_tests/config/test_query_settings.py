"""The settings of a source with a query: what belongs together, and no address of a database in an error."""

from pathlib import Path

import pytest

from segmentation_pipeline.config.loading import load
from segmentation_pipeline_tests.config.minimal import MINIMAL, errors_of, only_error, write

QUERY = MINIMAL.replace(
    'path = "lines.csv"',
    'query = "select * from lines"\nconnection = "env:SHOP"\nkey = "id"\ncursor = "updated_at"\nlook_back = "2 hours"',
)
CONNECTION = 'connection = "env:SHOP"'


def test_query_with_connection_and_key_is_valid(tmp_path: Path) -> None:
    source = load(str(write(tmp_path, QUERY))).source
    assert (source.paths, source.key_columns, str(source.look_back_time)) == ([], ["id"], "2:00:00")


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('key = "id"\n', "", "source.key: required with source.query, but missing"),
        (f"{CONNECTION}\n", "", "source.connection: required with source.query, but missing"),
        ('key = "id"', 'key = "id"\ndelimiter = ";"', "source.delimiter: belongs to files, and source.query is set"),
        ('key = "id"', 'key = "id"\npath = "a.csv"', "source.path: belongs to files, and source.query is set"),
        ('key = "id"', 'key = "id"\nsupersedes = "(?P<version>1)"', "source.supersedes: belongs to files"),
        ('cursor = "updated_at"\n', "", "source.look_back: belongs to source.cursor, which is not set"),
        ('"2 hours"', '"soon"', "source.look_back: allowed: a number of minutes, hours, days or weeks"),
        ('"2 hours"', '"999999 weeks"', "source.look_back: allowed: a number of minutes, hours, days or weeks"),
        ('query = "select * from lines"\n', 'path = "a.csv"\n', "source.connection: belongs to source.query, which"),
        ('query = "select * from lines"\n', "", "source.path: required, but missing: a file, a folder, a pattern"),
        ("[columns]", "[cleaning]\nsources_overlap = true\n[columns]", "cleaning.sources_overlap: each row of source"),
    ],
)
def test_settings_that_do_not_belong_together_are_errors(tmp_path: Path, before: str, after: str, message: str) -> None:
    assert message in "\n".join(errors_of(write(tmp_path, QUERY.replace(before, after))))


def test_key_that_names_customers_cannot_be_pseudonymised(tmp_path: Path) -> None:
    text = QUERY.replace('key = "id"', 'key = ["Who", "id"]') + "\n[privacy]\npseudonymise = true\n"
    assert "source.key: privacy.pseudonymise hashes the customers" in only_error(tmp_path, text)


@pytest.mark.parametrize(
    "replacement",
    [
        'connection = "postgresql://reader:secret@db/shop"',
        'connection = ["postgresql://reader:secret@db/shop"]',
        f'{CONNECTION}\nconection = "postgresql://reader:secret@db/shop"',
        f'{CONNECTION}\npath = "postgresql://reader:secret@db/shop"',
    ],
)
def test_address_in_the_file_is_an_error_without_it(tmp_path: Path, replacement: str) -> None:
    errors = "\n".join(errors_of(write(tmp_path, QUERY.replace(CONNECTION, replacement))))
    assert errors
    assert "secret" not in errors
    assert "reader" not in errors
