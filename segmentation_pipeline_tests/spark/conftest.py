"""One cluster of all tests on Spark, and a shop on DuckDB that their tables are compared with."""

from collections.abc import Iterator

import pytest

from segmentation_pipeline_tests.shops import FIRST_NIGHT, Shop
from segmentation_pipeline_tests.spark_cluster import Cluster, processes_below, running_cluster
from segmentation_pipeline_tests.spark_shops import build


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    with running_cluster(folder) as running, pytest.MonkeyPatch.context() as patch:
        # Spark's web interface would listen on every address.
        patch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
        yield running
    assert processes_below(folder) == []


@pytest.fixture(scope="session")
def shop_on_duckdb(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """Build a shop on DuckDB, and run its first night."""
    shop = build(tmp_path_factory.mktemp("here"), None)
    assert shop.run(as_of=FIRST_NIGHT).success
    return shop
