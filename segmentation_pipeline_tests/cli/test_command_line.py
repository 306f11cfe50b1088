"""`segments` as a person uses it: what it prints, where it leads, and its exit codes."""

import os
import re
import resource
import shlex
import subprocess
import sys
import venv
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import duckdb
import pytest

import segmentation_pipeline
from segmentation_pipeline.defs.model.assets import TABLES as FITTED
from segmentation_pipeline.ingestion.incremental import TABLES
from segmentation_pipeline.releases.store import Releases
from segmentation_pipeline.tables.catalog import contracts
from segmentation_pipeline_tests.scenarios import Line, line, regular_customers, retailer_file, run_job, write_csv

PACKAGE = Path(segmentation_pipeline.__file__).parent
PROJECT = PACKAGE.parent
SEGMENTS = Path(sys.executable).with_name("segments")
TOO_WIDE = 81


@dataclass(frozen=True)
class Shop:
    """A small retailer with a data folder of its own."""

    folder: Path

    @classmethod
    def with_lines(cls, folder: Path, lines: list[Line]) -> "Shop":
        source = write_csv(folder / "source" / "a.csv", lines)
        retailer_file(folder, source.parent)
        return cls(folder)

    @property
    def data(self) -> Path:
        """Its name is markup to the library that prints."""
        return self.folder / "the shop's [bold]data"

    @property
    def releases(self) -> Releases:
        return Releases(self.data / "corner_shop" / "releases")

    def segments(self, *arguments: str, **others: str) -> "subprocess.CompletedProcess[str]":
        environment = {
            "SEGMENTATION_DATA": str(self.data),
            "SEGMENTATION_RETAILER": str(self.folder / "retailer.toml"),
            "DAGSTER_HOME": str(self.folder / "dagster"),
            "COLUMNS": "80",
        }
        kept = {name: value for name, value in os.environ.items() if name != "SEGMENTATION_SOURCE"}
        return subprocess.run(
            [SEGMENTS, *arguments], env=kept | environment | others, capture_output=True, text=True, check=False
        )


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return Shop.with_lines(tmp_path_factory.mktemp("before"), regular_customers(8))


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return Shop.with_lines(tmp_path_factory.mktemp("shop"), regular_customers())


@pytest.fixture(scope="module")
def ran(shop: Shop) -> "subprocess.CompletedProcess[str]":
    """The first run of all, as of an earlier day."""
    return shop.segments("run", "--as-of", "2024-10-20")


@pytest.fixture(scope="module")
def newest(shop: Shop, ran: "subprocess.CompletedProcess[str]") -> str:
    """A second release, of all the data."""
    with pytest.MonkeyPatch.context() as environment, dg.DagsterInstance.ephemeral() as instance:
        environment.setenv("SEGMENTATION_DATA", str(shop.data))
        environment.setenv("SEGMENTATION_RETAILER", str(shop.folder / "retailer.toml"))
        environment.delenv("SEGMENTATION_SOURCE", raising=False)
        assert run_job(instance).success
    return shop.releases.all()[-1].name


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> "list[subprocess.CompletedProcess[str]]":
    """A run with too little data, and one with nothing usable that shows its traceback."""
    few = Shop.with_lines(tmp_path_factory.mktemp("few"), regular_customers(1))
    nothing = Shop.with_lines(tmp_path_factory.mktemp("nothing"), [line(invoice="none"), line(price="0")])
    with ThreadPoolExecutor() as both:
        runs = both.submit(few.segments, "run"), both.submit(nothing.segments, "run", "--traceback")
        return [run.result() for run in runs]


def unwrapped(text: str) -> str:
    return " ".join(text.split())


def warnings(ran: "subprocess.CompletedProcess[str]") -> list[str]:
    """The checks that a run warned of, if it complained of nothing else."""
    said = unwrapped(ran.stderr)
    found = re.findall(r"warning: \w+: check (\w+) failed\.", said)
    assert said.startswith("warning: ") == bool(found)
    assert "failed: " not in said
    return found


def test_a_run_ends_with_0_and_nothing_to_complain_about(ran: "subprocess.CompletedProcess[str]") -> None:
    assert (ran.returncode, ran.stderr) == (0, "")


def test_a_run_shows_every_asset_with_its_time(ran: "subprocess.CompletedProcess[str]") -> None:
    steps = dict(re.findall(r"^✓ (\w+) .* (\d+\.\d\d) s$", ran.stdout, re.MULTILINE))
    # Tables that are made together are one step.
    together = {
        *FITTED,
        *TABLES[1:],
        "history_months",
        "segment_history",
        "segment_backtest",
        "backtest_metrics",
    }
    one_step = {"segmentation_model", "segment_history", "segment_backtest"}
    assert steps.keys() >= (contracts().keys() - together) | one_step | {"release"}
    total = re.search(r"^ +\D+ (\d+\.\d\d) s$", ran.stdout, re.MULTILINE)
    assert total is not None
    assert float(total[1]) == pytest.approx(sum(map(float, steps.values())), abs=0.2)
    assert re.search(r"^✓ customer_segments +59 rows +\d+\.\d\d s$", ran.stdout, re.MULTILINE)


def test_a_run_shows_each_segment_whole_on_one_line(shop: Shop, ran: "subprocess.CompletedProcess[str]") -> None:
    assert "Corner shop, as of 2024-10-21 00:00:00, money in GBP" in ran.stdout, "that whole day counts"
    with duckdb.connect(str(shop.releases.all()[0].database), read_only=True) as connection:
        profiles = connection.execute("select segment, customers, revenue from segment_profiles").fetchall()
    assert len(profiles) > 1
    for segment, customers, revenue in profiles:
        assert re.search(rf"\b{segment}\b.* {customers}\b.* {revenue:,.0f}\b", ran.stdout)


def test_80_columns_hold_all_but_the_paths(shop: Shop, ran: "subprocess.CompletedProcess[str]", newest: str) -> None:
    listed = shop.segments("releases").stdout
    assert re.search(rf"^ *\* +{newest} +60 ", listed, re.MULTILINE)
    assert re.search(rf"^ +{shop.releases.all()[0].name} +59 ", listed, re.MULTILINE)
    for output in (ran.stdout, listed):
        assert "…" not in output
        assert not [text for text in output.splitlines() if len(text) >= TOO_WIDE and str(shop.folder) not in text]


def test_a_run_ends_on_paths_that_exist(shop: Shop, ran: "subprocess.CompletedProcess[str]") -> None:
    [command] = re.findall(r"duckdb -readonly .+$", ran.stdout, re.MULTILINE)
    [_, _, database] = shlex.split(command)
    assert Path(database) == shop.releases.folder / "current" / "segments.duckdb"
    assert Path(database).is_file()
    [manifest] = re.findall(r", (.+manifest\.json)$", ran.stdout, re.MULTILINE)
    assert Path(manifest) == shop.releases.folder / "current" / "manifest.json"
    assert f"{shop.releases.folder}/current/*.parquet" in ran.stdout
    assert shop.releases.all()[0].name in ran.stdout


def test_show_shows_what_a_run_ends_on(shop: Shop, ran: "subprocess.CompletedProcess[str]") -> None:
    [first, *_] = shop.releases.all()
    shop.releases.rollback(first.name)
    shown = shop.segments("show")
    shop.releases.resume()
    assert (shown.returncode, shown.stderr) == (0, "")
    assert ran.stdout.endswith(shown.stdout)


def test_show_before_the_first_run_says_what_to_do(before: Shop) -> None:
    shown = before.segments("show")
    assert (shown.returncode, shown.stdout) == (2, "")
    assert "no release of corner_shop" in unwrapped(shown.stderr)
    assert "yet; `segments run` publishes one" in unwrapped(shown.stderr)
    assert not before.data.exists(), "looking leaves nothing behind"


def test_a_release_is_rolled_back_to_until_publishing_is_resumed(shop: Shop, newest: str) -> None:
    first = shop.releases.all()[0].name
    back = shop.segments("releases", "rollback", first)
    assert (back.returncode, back.stderr) == (0, "")
    assert f"{first} is current" in back.stdout
    assert shop.releases.current is not None
    assert shop.releases.current.name == first
    listed = unwrapped(shop.segments("releases", SEGMENTATION_RETAILER=str(shop.folder / "retailer.toml")).stdout)
    assert f"Publishing is held at {first}" in listed
    assert "`segments releases resume`" in listed
    resumed = shop.segments("releases", "resume", "--retailer", str(shop.folder / "retailer.toml"))
    assert (resumed.returncode, resumed.stdout) == (0, f"{newest} is current; runs publish again.\n")
    assert shop.releases.current.name == newest
    assert shop.releases.paused_at is None


def test_an_unknown_release_is_bad_input(shop: Shop, newest: str) -> None:
    refused = shop.segments("releases", "rollback", "000009-20240101-unknown")
    assert (refused.returncode, refused.stdout) == (2, "")
    known = ", ".join(release.name for release in shop.releases.all())
    assert unwrapped(refused.stderr) == f"error: no release '000009-20240101-unknown'; there are: {known}"


def test_a_failed_run_ends_with_1_and_one_sentence_for_what_went_wrong(
    failed: "list[subprocess.CompletedProcess[str]]",
) -> None:
    few, _ = failed
    assert few.returncode == 1
    [said] = [text for text in few.stderr.split("failed: ") if "minimum_data" in text]
    assert unwrapped(said).startswith(
        "rfm_features: check minimum_data failed. Too little data: 1 customers over 0 days;"
        " the settings ask for 2 customers over 0 days ([checks])."
    )
    assert few.stderr.count("failed: ") == 1
    assert "The run failed. Its log:" in few.stderr
    assert "✗ rfm_features_minimum_data" in few.stdout
    for output in (few.stdout, few.stderr):
        assert "Traceback" not in output
        assert "Stack Trace" not in output
        assert 'File "' not in output


def test_a_run_with_nothing_usable_says_so_and_shows_its_traceback_where_asked(
    failed: "list[subprocess.CompletedProcess[str]]",
) -> None:
    _, nothing = failed
    assert nothing.returncode == 1
    said = "clean_transactions would break its contract (not empty, found 0 rows: every line was refused)"
    assert said in unwrapped(nothing.stderr)
    assert f'File "{PACKAGE}' in nothing.stdout + nothing.stderr


def test_another_source_of_the_sample_is_read_alone_and_nothing_is_written_into_it(tmp_path: Path) -> None:
    shop = Shop.with_lines(tmp_path, regular_customers(120))
    before = {path: path.read_bytes() for path in (tmp_path / "source").iterdir()}
    ran = shop.segments("run", "--source", str(tmp_path / "source"), SEGMENTATION_RETAILER="")
    # So few customers, made without segments in mind, have no clear number of them.
    assert (ran.returncode, warnings(ran)) == (0, ["number_of_clusters_is_clear"])
    assert {path: path.read_bytes() for path in (tmp_path / "source").iterdir()} == before
    assert re.search(r"^✓ customer_segments +120 rows", ran.stdout, re.MULTILINE)
    assert not (shop.data / "sample" / "source").exists()
    for file in (tmp_path / "source", tmp_path / "source" / "a.csv"):
        checked = shop.segments("retailer", "check", SEGMENTATION_RETAILER="sample", SEGMENTATION_SOURCE=str(file))
        assert (checked.returncode, "Source: 1 file." in checked.stdout) == (0, True), checked.stderr


def test_another_source_of_the_sample_may_be_a_file(tmp_path: Path) -> None:
    lines = regular_customers(8)
    shop = Shop.with_lines(tmp_path, lines)
    ran = shop.segments("run", SEGMENTATION_RETAILER="", SEGMENTATION_SOURCE=str(tmp_path / "source" / "a.csv"))
    assert re.search(rf"^✓ raw_transactions +{len(lines)} rows", ran.stdout, re.MULTILINE)
    assert (ran.returncode, "8 customers" in unwrapped(ran.stderr)) == (1, True), "it is read, and is too little"


def test_another_source_takes_the_place_of_the_one_before_with_reload(tmp_path: Path) -> None:
    shop = Shop.with_lines(tmp_path, regular_customers())
    assert shop.segments("run").returncode == 0
    other = write_csv(tmp_path / "other" / "b.csv", regular_customers()[:-1])
    ran = shop.segments("run", "--source", str(other.parent), "--reload")
    assert ran.returncode == 0, ran.stderr
    assert re.search(rf"^✓ raw_transactions +{len(regular_customers()) - 1:,} rows", ran.stdout, re.MULTILINE)


def test_a_run_without_a_single_setting_publishes_the_sample(tmp_path: Path) -> None:
    environment = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    environment |= {"SEGMENTATION_DATA": str(tmp_path), "HOME": str(tmp_path / "home")}
    ran = subprocess.run([SEGMENTS, "run"], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    # Its customers spend by a rule that rules find again better than clusters do: that is said, and is true.
    assert (ran.returncode, warnings(ran)) == (0, ["segments_predict_no_worse_than_rules"])
    assert re.search(r"^✓ customer_segments +5,0\d\d rows", ran.stdout, re.MULTILINE)
    assert len(list((tmp_path / "sample" / "source").glob("*.csv"))) == 24
    [release] = Releases(tmp_path / "sample" / "releases").all()
    with duckdb.connect(str(release.database), read_only=True) as connection:
        steps = connection.execute(
            "select rule, lines from cleaning_report where step > 0 and lines > 0 order by step"
        ).fetchall()
        groups = connection.execute("select distinct customer_group from customer_segments order by 1").fetchall()
    # Every flaw that is made up is met.
    assert [rule for rule, _ in steps] == [
        "invalid_invoice",
        "not_a_product",
        "missing_customer",
        "price_not_positive",
        "exact_duplicate",
    ]
    assert groups == [("inactive",), ("normal",), ("outlier",)]


def test_lines_whose_dates_are_written_otherwise_are_told_with_the_first_of_them_and_what_to_do(tmp_path: Path) -> None:
    lines = [(*given[:4], "12/1/2010 8:26", *given[5:]) for given in regular_customers(8)]
    refused = Shop.with_lines(tmp_path, lines).segments("run")
    assert refused.returncode == 1
    assert unwrapped(refused.stderr).startswith(
        "failed: clean_transactions: clean_transactions would break its contract (not empty, found 0 rows: every line"
        f" was refused), so it was left as it was. {len(lines)} of {len(lines)} lines were refused: unparseable_value"
        f" {len(lines)}. transaction_at could not be read in {len(lines)}, first in a.csv, line 2,"
        " written like '99/9/9999 9:99'. If dates are written so, say it in source.date_format, such as %m/%d/%Y %H:%M."
    )


def test_too_little_data_because_most_lines_are_refused_says_by_which_rules(tmp_path: Path) -> None:
    lines = [line(price="2,50"), line(price="2,50"), line(), line(invoice="X1"), line(stock_code="POST")]
    refused = Shop.with_lines(tmp_path, lines).segments("run")
    assert refused.returncode == 1
    assert (
        "([checks]). 4 of 5 lines were refused: unparseable_value 2, invalid_invoice 1, not_a_product 1. price could"
        " not be read in 2, first in a.csv, line 2, written like '9,99'. If numbers are written so, see source.decimal;"
    ) in unwrapped(refused.stderr)


# The models.

CLUSTERS = {"n_clusters": "auto", "resamples": 2, "min_stability": -1, "min_share": 0}


@pytest.fixture(scope="module")
def modelled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Shop, "subprocess.CompletedProcess[str]"]:
    """A shop whose first model has four segments; a week later a search for three; its output."""
    shop = Shop.with_lines(tmp_path_factory.mktemp("modelled"), regular_customers())
    retailer_file(shop.folder, shop.folder / "source", model={**CLUSTERS, "k_range": [4, 4]})
    first = shop.segments("run", "--as-of", "2024-10-20")
    assert first.returncode == 0, first.stderr
    retailer_file(shop.folder, shop.folder / "source", model={**CLUSTERS, "k_range": [3, 3]})
    return shop, shop.segments("model", "search")


def listed(shop: Shop) -> list[list[str]]:
    """The rows of `segments model list`: name, status, clusters."""
    printed = shop.segments("model", "list")
    assert (printed.returncode, printed.stderr) == (0, "")
    assert not [text for text in printed.stdout.splitlines() if len(text) >= TOO_WIDE]
    return [row.split()[:3] for row in printed.stdout.splitlines() if re.match(r" *\d{8}-\w{8} +\w+ +\d", row)]


def test_a_search_that_finds_another_number_of_segments_holds_it_for_a_person(
    modelled: tuple[Shop, "subprocess.CompletedProcess[str]"],
) -> None:
    shop, searched = modelled
    assert (searched.returncode, "last_model_was_promoted" in warnings(searched)) == (0, True)
    assert [row[1:] for row in listed(shop)] == [["standing", "4"], ["held", "3"]]
    [_, [held, *_]] = listed(shop)
    said = unwrapped(searched.stdout)
    assert re.search(rf"{held} is held: 3 clusters for 4: new .+; retiring ", said)
    assert unwrapped(shop.segments("model", "list").stdout) in said, "it ends on the list"
    assert shop.releases.current is not None
    assert shop.releases.current.manifest["model_id"] == listed(shop)[0][0], "the standing one goes on"


def test_a_model_is_promoted_by_how_its_name_begins_and_counts_from_the_next_run(
    modelled: tuple[Shop, "subprocess.CompletedProcess[str]"],
) -> None:
    shop, _ = modelled
    [[first, *_], [second, *_]] = listed(shop)
    with duckdb.connect(str(shop.releases.all()[-1].database), read_only=True) as connection:
        before = connection.execute("select count(distinct segment_key) from kmeans_centroids").fetchall()
    promoted = shop.segments("model", "promote", second[:10])
    said = f"{second} stands from the next run on; `segments run` publishes its segments."
    assert (promoted.returncode, promoted.stderr, unwrapped(promoted.stdout)) == (0, "", said)
    assert [row[1] for row in listed(shop)] == ["standing", "promoted"]
    assert len(shop.releases.all()) == 2, "nothing is published by a decision"
    ran = shop.segments("run")
    assert ran.returncode == 0, ran.stderr
    release = shop.releases.all()[-1]
    assert release.manifest["model_id"] == second
    with duckdb.connect(str(release.database), read_only=True) as connection:
        after = connection.execute("select count(distinct segment_key) from kmeans_centroids").fetchall()
        why = connection.execute("select distinct reason from segment_changes where model_id = ?", [second]).fetchall()
    assert (before, after) == ([(4,)], [(3,)])
    assert ("model",) in why

    assert [row[1] for row in listed(shop)] == ["retired", "standing"]
    again = shop.segments("model", "promote", second)
    assert (again.returncode, unwrapped(again.stderr)) == (2, f"error: {second} stands already")
    for said, status in (
        (f"{first} stands from the next run on; `segments run` publishes its segments.", "promoted"),
        (f"{second} goes on to stand; the promotion is taken back.", "retired"),
    ):
        back = shop.segments("model", "rollback")
        assert (back.returncode, back.stderr, unwrapped(back.stdout)) == (0, "", said)
        assert [row[1] for row in listed(shop)] == [status, "standing"]


def test_a_model_that_is_not_there_is_bad_input(modelled: tuple[Shop, "subprocess.CompletedProcess[str]"]) -> None:
    shop, _ = modelled
    known = ", ".join(name for name, *_ in listed(shop))
    for asked, said in (("19990101", "no model begins"), ("2024", "several models begin")):
        refused = shop.segments("model", "promote", asked)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert unwrapped(refused.stderr) == f"error: {said} with '{asked}': {known}"


@pytest.mark.parametrize("command", [["list"], ["promote", "2024"], ["rollback"]], ids=" ".join)
def test_there_is_no_model_before_the_first_run(before: Shop, command: list[str]) -> None:
    refused = before.segments("model", *command)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert unwrapped(refused.stderr).startswith("error: no model in ")
    assert unwrapped(refused.stderr).endswith("yet; `segments run` fits the first")
    assert not before.data.exists(), "looking leaves nothing behind"


def test_there_is_nothing_to_roll_back_to_where_one_model_stood(
    shop: Shop, ran: "subprocess.CompletedProcess[str]"
) -> None:
    refused = shop.segments("model", "rollback")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert unwrapped(refused.stderr) == "error: no model has stood before this one"


def test_a_search_that_fails_ends_with_1_and_a_sentence(tmp_path: Path) -> None:
    few = Shop.with_lines(tmp_path, [line(invoice="none")]).segments("model", "search")
    assert few.returncode == 1
    assert "every line was refused" in unwrapped(few.stderr)
    assert "Traceback" not in few.stdout + few.stderr


NOBODY = "~nobody-has-this-name/x"
NOWHERE: dict[str, tuple[list[str], dict[str, str]]] = {
    "a retailer of nobody": (["run", "--retailer", NOBODY], {}),
    "a source of nobody": (["run", "--source", NOBODY], {}),
    "a retailer of nobody in the environment": (["releases"], {"SEGMENTATION_RETAILER": NOBODY}),
    "data of nobody": (["show"], {"SEGMENTATION_DATA": NOBODY}),
    "a home of nobody": (["home"], {"DAGSTER_HOME": NOBODY}),
    "a retailer of too long a name": (["run", "--retailer", "x" * 300], {}),
    "a source of too long a name": (["run", "--source", "x" * 300], {}),
    "data of too long a name": (["run"], {"SEGMENTATION_DATA": f"/{'x' * 300}", "DAGSTER_HOME": ""}),
}


@pytest.mark.parametrize(("arguments", "environment"), NOWHERE.values(), ids=NOWHERE)
def test_a_path_that_cannot_be_ends_with_2_and_a_sentence(
    before: Shop, arguments: list[str], environment: dict[str, str]
) -> None:
    refused = before.segments(*arguments, **environment)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith("error: ")
    assert "Traceback" not in refused.stderr
    assert ("nobody-has-this-name" in refused.stderr) or ("xxxxxxxx" in refused.stderr)


def test_a_home_in_a_path_is_that_of_the_user_for_the_run_too(tmp_path: Path) -> None:
    Shop.with_lines(tmp_path, [line(invoice="none")])
    ran = Shop(tmp_path).segments("run", "--retailer", "~/retailer.toml", HOME=str(tmp_path))
    assert (ran.returncode, "every line was refused" in unwrapped(ran.stderr)) == (1, True), (
        "it came as far as the data"
    )


def without_room() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (6_000_000, 6_000_000))


def test_a_disk_without_room_fails_the_run_with_a_sentence(tmp_path: Path) -> None:
    shop = Shop.with_lines(tmp_path, regular_customers())
    # A limit of 6 MB a file: the first that grows beyond it is the copy in UTF-8, as on a disk that is full.
    write_csv(tmp_path / "source" / "a.csv", regular_customers() * 500)
    retailer_file(tmp_path, Path("source"), source={"encoding": "latin-1"})
    environment = os.environ | {
        "SEGMENTATION_DATA": str(shop.data),
        "SEGMENTATION_RETAILER": str(tmp_path / "retailer.toml"),
        "DAGSTER_HOME": str(tmp_path / "dagster"),
    }
    ran = subprocess.run(
        [SEGMENTS, "run"], env=environment, preexec_fn=without_room, capture_output=True, text=True, check=False
    )
    said = unwrapped(ran.stderr)
    assert ran.returncode == 1, ran.stderr
    assert "failed: raw_transactions: " in said
    assert "File too large" in said
    assert (
        f"See that disk and memory have room, and that this user may read the source and write to {shop.data};" in said
    )
    for output in (ran.stdout, ran.stderr):
        assert "Traceback" not in output
        assert 'File "' not in output


def test_a_folder_that_cannot_be_written_fails_the_run_with_a_sentence(tmp_path: Path) -> None:
    shop = Shop.with_lines(tmp_path, regular_customers())
    shop.releases.folder.parent.mkdir(parents=True)
    shop.releases.folder.write_text("a file where the folder should be", "utf-8")
    ran = shop.segments("run")
    said = unwrapped(ran.stderr)
    assert ran.returncode == 1
    assert said.count("failed: ") == 1
    assert "failed: release: " in said
    assert str(shop.releases.folder) in ran.stderr.replace("\n", "")
    assert "and that this user may read the source and write to" in said
    assert "Traceback" not in ran.stderr


BAD = {
    "a missing source": (["run", "--source", "nowhere/*.csv"], ["source.path: nothing to read at", "nowhere/*.csv"]),
    "a bad as-of": (["run", "--as-of", "yesterday"], ["rfm.as_of", "YYYY-MM-DD", "yesterday"]),
    "an unknown retailer": (["run", "--retailer", "smaple"], ["retailer 'smaple': no such file", "sample?"]),
    "an unknown option": (["run", "--retialer", "sample"], ["No such option", "--retailer"]),
}


@pytest.mark.parametrize(("arguments", "said"), BAD.values(), ids=BAD)
def test_bad_input_ends_with_2_and_a_sentence(before: Shop, arguments: list[str], said: list[str]) -> None:
    refused = before.segments(*arguments)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert [part for part in said if part not in unwrapped(refused.stderr)] == []
    assert "Traceback" not in refused.stderr
    assert not before.data.exists(), "nothing was begun"


@pytest.fixture
def bad_retailer(tmp_path: Path) -> Path:
    file = retailer_file(
        tmp_path, tmp_path, time_zone="Europe/Lundon", currency="pounds", outliers={"factor": -1}, cleening={}
    )
    # Whether all of it is told is a question of the columns that one error names in brackets.
    return file.rename(tmp_path / "bad.toml")


@pytest.mark.parametrize("command", [["run", "--retailer"], ["retailer", "check"]], ids=" ".join)
def test_every_error_of_a_retailer_file_is_told_at_once(before: Shop, bad_retailer: Path, command: list[str]) -> None:
    refused = before.segments(*command, str(bad_retailer))
    assert (refused.returncode, refused.stdout) == (2, "")
    for key in ("time_zone", "currency", "outliers.factor", "cleening"):
        assert key in refused.stderr
    assert "Europe/London?" in unwrapped(refused.stderr)
    assert "Traceback" not in refused.stderr


def test_a_sentence_may_name_a_section_in_brackets(before: Shop, tmp_path: Path) -> None:
    rule = {"name": "no_country", "reason": "none", "column": "amount", "required": True}
    file = retailer_file(tmp_path, tmp_path, cleaning={"rules": [rule]})
    assert "[columns] does not map it" in unwrapped(before.segments("retailer", "check", str(file)).stderr)


def test_bad_input_shows_its_traceback_where_asked(before: Shop, bad_retailer: Path) -> None:
    refused = before.segments("run", "--retailer", str(bad_retailer), "--traceback")
    assert refused.returncode == 2
    assert "Traceback (most recent call last)" in refused.stderr


def test_a_good_retailer_file_is_valid(shop: Shop) -> None:
    checked = shop.segments("retailer", "check", str(shop.folder / "retailer.toml"))
    assert (checked.returncode, checked.stderr) == (0, "")
    assert "Corner shop: valid." in checked.stdout
    assert re.search(r"\b1 file", checked.stdout)


def test_home_is_made_ready_in_the_data_folder_and_never_overwritten(tmp_path: Path) -> None:
    def home() -> str:
        return Shop(tmp_path).segments("home", DAGSTER_HOME="", SEGMENTATION_DATA=str(tmp_path / "my data")).stdout

    settings = tmp_path / "my data" / "dagster" / "dagster.yaml"
    assert home() == f"{settings.parent}\n"
    assert settings.read_text("utf-8") == (PACKAGE / "dagster.yaml").read_text("utf-8")
    settings.write_text("telemetry: {enabled: false}\n", "utf-8")
    assert home() == f"{settings.parent}\n"
    assert settings.read_text("utf-8") == "telemetry: {enabled: false}\n"


def test_a_home_that_dagster_takes_for_a_pattern_is_refused(tmp_path: Path) -> None:
    refused = Shop(tmp_path).segments("home", DAGSTER_HOME=str(tmp_path / "a[1]"))
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "would run without its settings. Name another folder in DAGSTER_HOME." in unwrapped(refused.stderr)
    assert not (tmp_path / "a[1]").exists()


def test_a_relative_home_is_meant_from_where_the_command_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Shop(tmp_path).segments("home", DAGSTER_HOME="my/dagster").stdout == f"{tmp_path / 'my' / 'dagster'}\n"


def test_a_data_folder_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    shop = Shop.with_lines(tmp_path, regular_customers(8))
    (tmp_path / "file").touch()
    refused = shop.segments("run", DAGSTER_HOME="", SEGMENTATION_DATA=str(tmp_path / "file"))
    assert refused.returncode == 2
    assert str(tmp_path / "file") in refused.stderr.replace("\n", "")
    assert "Traceback" not in refused.stderr


def test_the_data_folder_is_beside_the_project_wherever_one_stands(tmp_path: Path) -> None:
    text = "from segmentation_pipeline.config.paths import *; print(data_folder(), dagster_home(), sep='\\n')"
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SEGMENTATION_", "DAGSTER_"))}
    for there in (tmp_path, PROJECT, PACKAGE):
        printed = subprocess.run(
            [sys.executable, "-c", text], env=kept, cwd=there, capture_output=True, text=True, check=True
        )
        assert printed.stdout.splitlines() == [str(PROJECT / "data"), str(PROJECT / "data" / "dagster")]


def test_the_workspace_loads_where_the_package_is_not_installed(tmp_path: Path) -> None:
    venv.create(tmp_path / "plain", with_pip=False, symlinks=True)
    [packages] = (tmp_path / "plain" / "lib").glob("python*/site-packages")
    # Every dependency, and not the package itself: a path named in such a file has its own such files left unread.
    # DuckDB may be that of another folder: the suite is run with the oldest one, too.
    folders = dict.fromkeys(str(Path(str(module.__file__)).parents[1]) for module in (duckdb, dg))
    (packages / "dependencies.pth").write_text("\n".join(folders) + "\n", "utf-8")
    python = tmp_path / "plain" / "bin" / "python"
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    absent = subprocess.run(
        [python, "-c", "import duckdb, segmentation_pipeline"], env=kept, cwd=tmp_path, capture_output=True, check=False
    )
    assert b"No module named 'segmentation_pipeline'" in absent.stderr
    loaded = subprocess.run(
        [python, "-m", "dagster", "definitions", "validate", "-w", "workspace.yaml"],
        env=kept,
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert loaded.returncode == 0, loaded.stdout + loaded.stderr
    assert "Validation successful for code location segmentation_pipeline" in loaded.stdout + loaded.stderr
