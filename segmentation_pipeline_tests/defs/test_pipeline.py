"""Runs through Dagster on small data: the same input gives the same output, in whatever order and however often."""

from pathlib import Path

import numpy as np

from segmentation_pipeline_tests.scenarios import assets_up_to, line, regular_customers
from segmentation_pipeline_tests.shops import FIRST_NIGHT, ODD_LINES, REFIT_NIGHT, Shop

# They name files, and number their lines.
LINE_TABLES = {
    "raw_transactions",
    "ingested_files",
    "rejected_transactions",
    "clean_transactions",
    "unparsed_values",
    "invoice_totals",
}


def test_a_run_publishes_every_customer_in_one_segment(finished_template: Shop) -> None:
    [(rows, customers, segments)] = finished_template.released(
        "select count(*), count(distinct customer_id), count(segment) from customer_segments"
    )
    assert rows == customers == segments == 59


def test_money_beyond_its_type_rejects_the_line(tmp_path: Path) -> None:
    slip = line("999999", quantity="1000000000", price="1000000000", at="2024-05-05 10:00:00")
    shop = Shop.build(tmp_path, [*regular_customers(), slip])
    assert shop.run(assets=assets_up_to("clean_transactions", "rejected_transactions")).success
    rejected = shop.rows("select invoice, rule, unparsed ->> 'amount' from rejected_transactions")
    assert rejected == [("999999", "unparseable_value", "1000000000.000 x 1000000000.0000")]
    assert shop.rows("select count(*) from clean_transactions") == [(len(regular_customers()),)]


def test_refunds_without_a_purchase_are_metadata_of_the_features(tmp_path: Path) -> None:
    refunds = [
        line("C700001", quantity="-2", price="2.50", customer="90001"),
        line("C700002", quantity="-1", price="3.25", customer="90001"),
        line("C700003", quantity="-1", price="10.00", customer="90002"),
        # This customer has a purchase too.
        line("C700004", quantity="-1", price="0.05", customer="10000"),
    ]
    shop = Shop.build(tmp_path, [*regular_customers(), *refunds])
    result = shop.run(assets=assets_up_to("rfm_features"))
    assert result.success
    [event] = result.asset_materializations_for_node("rfm_features")
    metadata = {name: value.value for name, value in event.metadata.items() if name.startswith("without_purchase")}
    assert metadata == {"without_purchase": 2, "without_purchase_lines": 3, "without_purchase_money": -18.25}


def test_an_unwritable_data_folder_fails_each_root_with_a_message(tmp_path: Path, data_folder: Path) -> None:
    shop = Shop.build(tmp_path, regular_customers(8))
    data_folder.write_text("a file where the folder should be", "utf-8")
    result = shop.run()
    failures = [event.step_failure_data for event in result.all_events if event.is_step_failure]
    assert len(failures) == 2
    for failure in failures:
        assert failure.user_failure_data is not None
        assert str(data_folder / "runs") in str(failure.user_failure_data.description)
        assert f"write to {data_folder};" in str(failure.user_failure_data.description)
        assert failure.error is not None
        assert failure.error.cause is None, "no stack trace of another error"


def test_edited_sample_files_are_read_as_they_are(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shop.configure(source={"sample": {"customers": 50, "seed": 3}})
    assert shop.run(assets=assets_up_to("raw_transactions")).success
    first, *others = sorted(shop.source.glob("*.csv"))
    for path in others:
        path.unlink()
    lines = first.read_text("utf-8").splitlines(keepends=True)[:11]
    first.write_text("".join(lines), "utf-8")
    assert shop.run(assets=assets_up_to("raw_transactions"), reload=True).success
    assert first.read_text("utf-8") == "".join(lines)
    assert shop.rows("select count(*) from raw_transactions") == [(10,)]


def test_a_repeated_refit_changes_no_table_and_no_file(refitted_shop: Shop) -> None:
    """What a run wrote for its as_of is not input of the same run. For a night without a fit, see `test_model_runs`."""
    tables, files = refitted_shop.tables, refitted_shop.files
    assert {table for table, rows in tables.items() if not rows} == {
        "erased_customers",
        "file_overlaps",
        "kmeans_candidates",
    }
    # Otherwise the run would derive only what a model changes.
    refitted_shop.execute("delete from table_versions")
    assert refitted_shop.run(refit=True, as_of=REFIT_NIGHT, accept_change=True).success
    assert {table for table, rows in refitted_shop.tables.items() if rows != tables[table]} == set()
    assert refitted_shop.files == files


def test_line_order_changes_no_table_of_customers(finished_template: Shop, tmp_path: Path) -> None:
    lines = [*regular_customers(), *ODD_LINES]
    shuffled = [lines[place] for place in np.random.default_rng(1).permutation(len(lines))]
    shop = Shop.build(tmp_path, shuffled[: len(lines) // 2], rfm={"look_back_days": 200})
    Shop.build(tmp_path / "rest", shuffled[len(lines) // 2 :]).source.joinpath("a.csv").rename(shop.source / "b.csv")
    assert shop.run(as_of=FIRST_NIGHT).success
    tables, files = finished_template.tables, finished_template.files
    assert {table for table, rows in shop.tables.items() if rows != tables[table]} == LINE_TABLES
    assert {name for name, content in shop.files.items() if content != files[name]} <= LINE_TABLES
