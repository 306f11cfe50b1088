"""Columns that releases leave out: a name that is wrong stops everything before a release is written."""

import re
from datetime import datetime
from pathlib import Path

import duckdb
import pytest
from typer.testing import CliRunner

from segmentation_pipeline.cli.app import app
from segmentation_pipeline.errors import RetailerError
from segmentation_pipeline.orchestration.resources import RetailerConfig
from segmentation_pipeline.releases.files import check_withheld
from segmentation_pipeline.releases.store import Releases
from segmentation_pipeline.tables.catalog import published, withholdable_columns
from segmentation_pipeline_tests.config.minimal import MINIMAL, write


def test_keys_of_customer_tables_cannot_be_withheld() -> None:
    keys = {name for contract in published() for name in contract.key if "customer_id" in contract.key}
    assert {"customer_id", "valid_from"} <= keys
    assert not keys & set(withholdable_columns())
    assert {"monetary", "country", "segment_key"} <= set(withholdable_columns())


def test_unknown_column_is_not_published(tmp_path: Path) -> None:
    check_withheld(["monetary", "country"])
    with pytest.raises(RetailerError, match=r"^privacy\.withhold: colour cannot be withheld; allowed: .*country, "):
        check_withheld(["country", "colour"])
    with duckdb.connect() as database, pytest.raises(RetailerError, match="customer_id cannot be withheld"):
        Releases(tmp_path / "releases").publish(
            database,
            {},
            macros=[],
            as_of=datetime.fromisoformat("2024-03-01"),
            run_id="run",
            keep=1,
            withheld=["customer_id"],
        )
    assert not (tmp_path / "releases").exists()


@pytest.mark.parametrize("command", [["retailer", "check"], ["run", "--retailer"]])
def test_commands_report_unknown_columns_among_all_errors(
    tmp_path: Path, data_folder: Path, command: list[str]
) -> None:
    text = MINIMAL.replace("GBP", "pounds") + '\n[privacy]\nwithhold = ["colour"]\n'
    result = CliRunner().invoke(app, [*command, str(write(tmp_path, text))])
    output = re.sub(r"\s+", " ", result.output)
    assert result.exit_code == 2
    assert "shop.toml:4: currency: allowed: text that matches '^[A-Z]{3}$'; found \"pounds\"" in output
    assert "shop.toml:15: privacy.withhold: allowed: " in output
    assert 'found ["colour"]' in output
    assert not data_folder.exists()


def test_runs_of_dagster_report_unknown_columns(tmp_path: Path) -> None:
    file = write(tmp_path, f'{MINIMAL}\n[privacy]\nwithhold = ["colour"]\n')
    with pytest.raises(RetailerError, match=r"shop\.toml:15: privacy\.withhold: allowed: "):
        _ = RetailerConfig(file=str(file)).settings
