"""The bench of `make bench`: the sources that it makes, its verdicts, and the page."""

import shutil
from pathlib import Path

import duckdb
import pytest

from benchmarks.cost.data import Copies, Made, MadeUp, Source
from benchmarks.cost.goals import exponent, verdicts
from benchmarks.cost.machine import Machine
from benchmarks.cost.page import part_of_page, updated
from benchmarks.cost.processes import Measured, RunFailedError, measured
from benchmarks.cost.release_forms import multiply
from benchmarks.cost.scenarios import BOTH, FIRST, LIMIT, NO_NEWS, QUICK, SCALE, SCENARIOS, SCRIPT, Result
from benchmarks.spark.page import Sized
from benchmarks.spark.page import page as spark_page
from segmentation_pipeline.tables.catalog import published
from segmentation_pipeline_tests.shops import Shop

HEADER = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n"
DAYS = {
    "2010-12-01": '536365,85123A,"WHITE, HANGING",6,2010-12-01 08:26:00,2.55,17850.0,United Kingdom\n',
    "2010-12-02": "536366,71053,LANTERN,6,2010-12-02 08:26:00,3.39,,United Kingdom\n",
}
MACHINE = Machine("2026-01-01: 2 cores", 0.0)


@pytest.fixture
def by_day(tmp_path: Path) -> Path:
    folder = tmp_path / "by-day"
    folder.mkdir()
    for day, lines in DAYS.items():
        (folder / f"{day}.csv").write_text(HEADER + lines, "utf-8")
    return folder


def new_source(folder: Path) -> Source:
    source = Source(folder)
    source.folder.mkdir(parents=True)
    source.aside.mkdir()
    return source


def rows(source: Source) -> list[tuple[object, ...]]:
    return duckdb.execute(f"select * from '{source.pattern}' order by all").fetchall()


def seconds(*values: float) -> list[Measured]:
    return [Measured(value, 100.0) for value in values]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_each_copy_has_customers_of_its_own(tmp_path: Path, by_day: Path, kind: str) -> None:
    source = new_source(tmp_path / "shop")
    assert Copies(by_day, 3, kind)(source).lines == 6
    assert {str(row[6]) for row in rows(source)} == {"17850", "117850", "217850"}
    assert {str(row[0]) for row in rows(source)} == {"536365"}


def test_last_day_arrives_and_is_taken_back(tmp_path: Path, by_day: Path) -> None:
    source = new_source(tmp_path / "shop")
    Copies(by_day, 2, "parquet")(source)
    before = rows(source)
    source.add_last_day()
    assert len(rows(source)) == 4
    source.take_back_last_day()
    assert rows(source) == before


def test_size_as_csv_is_that_of_the_written_lines(tmp_path: Path, by_day: Path) -> None:
    source = new_source(tmp_path / "shop")
    made = Copies(by_day, 12, "parquet")(source)
    source.add_last_day()
    duckdb.execute(f"copy (from '{source.pattern}') to '{tmp_path}/all.csv' (header)")
    assert made.csv_bytes == (tmp_path / "all.csv").stat().st_size


def test_made_up_shop_is_the_same_each_time(tmp_path: Path) -> None:
    sources = [new_source(tmp_path / name) for name in ("first", "second")]
    for source in sources:
        MadeUp(8_000, 300)(source)
        source.add_last_day()
    assert rows(sources[0]) == rows(sources[1])
    [(lines, customers)] = duckdb.execute(
        f"select count(*), count(distinct CustomerID) from '{sources[0].pattern}'"
    ).fetchall()
    assert (lines, customers) == (8_000, 300)


def test_made_up_shop_has_all_its_customers_or_none(tmp_path: Path) -> None:
    source = new_source(tmp_path / "shop")
    with pytest.raises(ValueError, match="5,000 customers cannot have 1,000 invoices"):
        MadeUp(8_000, 5_000)(source)
    MadeUp(8_000, 4_000, invoice_lines=2)(source)
    source.add_last_day()
    assert duckdb.execute(f"select count(distinct CustomerID) from '{source.pattern}'").fetchall() == [(4_000,)]


def test_process_is_measured_with_its_steps_and_disk(tmp_path: Path) -> None:
    script = f"open('{tmp_path}/kept', 'w').write('x' * 2_000_000); print('✓ release     3 rows   1.25 s')"
    found = measured(["python3", "-c", script], {"PYTHONIOENCODING": "utf-8"}, tmp_path, [tmp_path / "kept"])
    assert found.steps == {"release": 1.25}
    assert found.disk == 2.0
    assert found.memory > 1


def test_failed_process_raises_its_error() -> None:
    with pytest.raises(RunFailedError, match=r"exit code 3: why"):
        measured(["python3", "-c", "import sys; sys.stderr.write('why'); sys.exit(3)"], {})


def test_ratio_is_the_median_of_the_ratios_of_turns() -> None:
    result = Result({NO_NEWS: seconds(2, 9, 12), SCRIPT: seconds(1, 3, 6)})
    assert result.ratio(NO_NEWS, SCRIPT, "seconds") == 2


def test_goal_is_met_up_to_its_target() -> None:
    results = {"csv": Result({BOTH: seconds(6), NO_NEWS: seconds(4.1), SCRIPT: seconds(2)}, Made(1, 1.0))}
    assert [verdict.cells[1:] for verdict in verdicts(results, QUICK)] == [
        ("3.00 x script", "<= 3.00 x script", "met"),
        ("2.05 x script", "<= 2.00 x script", "MISSED"),
    ]


def test_goals_of_a_failed_scenario_are_missed() -> None:
    found = verdicts({"100m": Result({}, None, "out of memory")}, SCALE)
    assert {verdict.cells[1] for verdict in found} == {"did not finish"}
    assert not any(verdict.is_met for verdict in found)


def test_proportional_growth_has_the_exponent_1() -> None:
    assert exponent(2.0, 20.0, 10.0) == 1
    assert exponent(2.0, 2.0, 10.0) == 0


def test_results_are_the_same_after_they_were_stored() -> None:
    result = Result({NO_NEWS: [Measured(1.0, 2.0, steps={"release": 0.5})]}, Made(5, 1.0), "")
    assert Result.of_json(result.as_json()) == result


def test_part_of_a_page_replaces_only_itself() -> None:
    page = updated(updated("", SCALE, "large"), QUICK, "old")
    assert updated(page, QUICK, "new") == page.replace("old", "new")
    assert "large" in page


def test_page_has_a_table_for_each_scenario() -> None:
    results = {"sample": Result({NO_NEWS: seconds(6.5)}), "small": Result({}, Made(1_000, 0.1), "no space")}
    text = part_of_page(QUICK, results, dict.fromkeys(results, MACHINE))
    assert "| night without news | 6.50 s | 100 MB |  |  |" in text
    assert "Did not finish: `no space`" in text
    assert all(f"### {SCENARIOS[name].title}" in text for name in results)


def test_plans_of_spark_follow_the_measured_processor_times() -> None:
    """Each part has 10 s and 4 s for a million lines: 100 M lines are 5 + 400 / 8 s, of the workers 5 + 400 / 16 s."""
    runs = {"first run": 10.0, "night with one more day": 10.0}
    sizes = []
    for millions in (1, 10):
        cpu = {run: fixed + 4 * millions for run, fixed in runs.items()}
        measured = {run: Measured(seconds=1.0, memory=0.0, cpu=seconds) for run, seconds in cpu.items()}
        both = {"duckdb": measured, "spark": measured}
        sizes.append(Sized(millions * 10**6, 1, millions * 10**5, both, cpu, {}, 1, 1, "a machine"))
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in spark_page(sizes).splitlines()]
    assert ["duckdb", "first run", "10.0 s", "4.00 s"] in rows
    assert ["100 M", "10.00 M", "8", "16", "55 s", "85 s", "55 s", "85 s"] in rows


def test_multiplied_customers_keep_the_contracts(finished_template: Shop, tmp_path: Path) -> None:
    work = Path(shutil.copy(finished_template.work, tmp_path / "work.duckdb"))
    before = finished_template.rows("select count(*), sum(frequency) from segment_history")
    multiply(work, 7 * 59)
    with duckdb.connect(str(work)) as connection:
        of_customers = [contract for contract in published() if contract.describes_customers]
        counts = {contract.table: contract.check(connection) for contract in of_customers}
        after = connection.execute("select count(*), sum(frequency) from segment_history").fetchall()
    assert counts["customer_segments"] == (7 * 59, [])
    assert [table for table, (_, violations) in counts.items() if violations] == []
    assert after == [tuple(7 * value for value in row) for row in before]


def test_page_has_the_longest_steps_of_ten_million_customers() -> None:
    runs = {FIRST: [Measured(9.0, 1.0, steps={"release": 5.0, "rfm_features": 7.5})], LIMIT: seconds(1)}
    text = part_of_page(SCALE, {"10m_customers": Result(runs)}, {"10m_customers": MACHINE})
    assert "| step | first run |\n| --- | --: |\n| `rfm_features` | 7.50 s |\n| `release` | 5.00 s |" in text
