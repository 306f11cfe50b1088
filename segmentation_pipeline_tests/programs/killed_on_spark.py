"""Read the source of a shop on a Spark cluster, and wait to be killed when its lines are written but not yet named.

Usage: python -m segmentation_pipeline_tests.programs.killed_on_spark SHOP
"""

import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

from segmentation_pipeline.spark.line_files import LineFiles
from segmentation_pipeline_tests.scenarios import assets_up_to
from segmentation_pipeline_tests.shops import Shop
from segmentation_pipeline_tests.spark_cluster import missing


def _wait(*_: Any) -> None:
    print("written", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    assert not missing()
    with patch.object(LineFiles, "replace", _wait):
        Shop(Path(sys.argv[1])).run(assets=assets_up_to("raw_transactions"))
