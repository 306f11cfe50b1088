"""The smallest valid retailer file, and the errors of its variants."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pytest

from segmentation_pipeline.config.loading import load
from segmentation_pipeline.errors import RetailerError

MINIMAL = """\
name = "corner_shop"
title = "Corner shop"
time_zone = "Europe/London"
currency = "GBP"

[source]
path = "lines.csv"

[columns]
transaction_at = "When"
customer_id = "Who"
amount = "Money"
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "shop.toml"
    path.write_text(text, "utf-8")
    return path


def with_source(setting: str) -> str:
    """Return the file with one more setting in `[source]`."""
    return MINIMAL.replace("[columns]", f"{setting}\n\n[columns]")


def errors_of(
    path: Path, overrides: Mapping[str, Any] | None = None, withholdable: Collection[str] | None = None
) -> list[str]:
    with pytest.raises(RetailerError) as raised:
        load(str(path), overrides, withholdable=withholdable)
    return str(raised.value).splitlines()


def only_error(
    folder: Path, text: str, overrides: Mapping[str, Any] | None = None, withholdable: Collection[str] | None = None
) -> str:
    [error] = errors_of(write(folder, text), overrides, withholdable)
    return error
