"""The shops that other tests copy are what these tests assume of them."""

from pathlib import Path

import pytest

from segmentation_pipeline_tests.scenarios import line
from segmentation_pipeline_tests.shops import Shop, build_once


def test_a_finished_shop_has_one_release_and_reads_nothing_again(finished_shop: Shop) -> None:
    assert len(finished_shop.releases.all()) == 1
    assert finished_shop.released("select count(*), count(distinct customer_id) from customer_segments") == [(59, 59)]
    assert finished_shop.released("select count(*) > 0 from outlier_profiles") == [(True,)]
    result = finished_shop.run()
    assert result.success
    [event] = result.asset_materializations_for_node("raw_transactions")[:1]
    assert event.metadata["files_read"].value == 0
    assert len(finished_shop.releases.all()) == 2


def test_a_refitted_shop_has_an_active_and_a_retired_model(refitted_shop: Shop) -> None:
    assert len(refitted_shop.releases.all()) == 3
    statuses = refitted_shop.rows("select status from segmentation_models order by fitted_as_of")
    assert len(statuses) == 2
    assert statuses[0] != statuses[1]


def test_a_shared_shop_is_built_again_after_a_failure(tmp_path: Path) -> None:
    built = list[Path]()

    def build(folder: Path) -> Shop:
        built.append(folder)
        shop = Shop.build(folder, [line()])
        assert len(built) > 1, "the first run failed"
        return shop

    with pytest.raises(AssertionError, match="the first run failed"):
        build_once(tmp_path / "shared", build)
    for _ in range(2):
        shop = build_once(tmp_path / "shared", build)
        assert sorted(path.name for path in shop.folder.iterdir()) == ["retailer.toml", "source"]
    assert len(built) == 2
