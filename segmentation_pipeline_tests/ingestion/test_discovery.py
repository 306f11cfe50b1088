"""A path leads where whoever runs the pipeline wants it, and whoever may put files into the source reads no others."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tomli_w

from segmentation_pipeline.config.loading import load_settings
from segmentation_pipeline.errors import RetailerError
from segmentation_pipeline.ingestion.file_watcher import current_files
from segmentation_pipeline_tests.ingestion.test_incremental import Shop
from segmentation_pipeline_tests.scenarios import line, regular_customers, retailer_settings, write_csv


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    shop = Shop(tmp_path / "shop", monkeypatch)
    shop.file("a.csv", [line("1"), line("2")])
    with shop.instance:
        yield shop


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A file of somebody else."""
    return write_csv(tmp_path / "theirs" / "secret.csv", [line("SECRET")])


def reason(shop: Shop, name: str) -> str:
    [(said,)] = shop.rows(f"select reason from ingested_files where source_file = '{name}' and status = 'quarantined'")
    return str(said)


@pytest.mark.parametrize(
    "path", ["../exports", "exports/../../other/*.csv", "/srv/exports/../other", ["exports", "../other"], ".."]
)
def test_a_retailer_file_leads_nowhere_by_dots_and_says_what_to_write_instead(
    tmp_path: Path, path: str | list[str]
) -> None:
    settings = retailer_settings(tmp_path) | {"source": {"path": path}}
    file = tmp_path / "retailer.toml"
    file.write_bytes(tomli_w.dumps(settings).encode())
    with pytest.raises(RetailerError, match=r"retailer\.toml:\d+: source\.path: .*without `\.\.`.* an absolute path"):
        load_settings(str(file))


def test_dots_in_a_name_are_no_way_up(tmp_path: Path) -> None:
    settings = retailer_settings(tmp_path) | {"source": {"path": "exports/..a/b..csv"}}
    (tmp_path / "retailer.toml").write_bytes(tomli_w.dumps(settings).encode())
    assert load_settings(str(tmp_path / "retailer.toml")).source.path == "exports/..a/b..csv"


@pytest.mark.parametrize("given", ["../in/a.csv", "../in", "../in/*.csv", "./../../shop/in"])
def test_who_runs_the_pipeline_may_write_dots(shop: Shop, given: str) -> None:
    here = shop.folder / "here"
    here.mkdir()
    asked = ["retailer", "check", "--source", given]
    environment = os.environ | {"SEGMENTATION_RETAILER": str(shop.folder / "retailer.toml")}
    code = "from segmentation_pipeline.cli.app import app; app()"
    said = subprocess.run(
        [sys.executable, "-c", code, *asked], cwd=here, env=environment, capture_output=True, text=True
    )
    assert said.returncode == 0, said.stderr
    assert "Source: 1 file." in said.stdout


def test_the_environment_may_have_dots_from_the_folder_of_the_retailer_file_on(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGMENTATION_SOURCE", "../shop/in/*.csv")
    assert shop.night().success
    assert shop.invoices == [("a.csv", "1"), ("a.csv", "2")]


@pytest.mark.parametrize("pattern", ["", "*.csv", "**/*.csv", "*/*.csv"])
def test_a_link_that_leads_out_of_the_source_is_quarantined_and_the_rest_loads(
    shop: Shop, theirs: Path, pattern: str
) -> None:
    name = "below/b.csv" if "/" in pattern else "b.csv"
    (shop.source / "below").mkdir()
    (shop.source / name).symlink_to(theirs)
    (shop.source / "below" / "linked").symlink_to(theirs.parent, target_is_directory=True)
    shop.file("below/c.csv", [line("3")])
    shop.settle(source={"path": str(shop.source / pattern)})
    night = shop.night()
    assert night.success
    assert "link that leads out of the source" in reason(shop, name)
    assert "SECRET" not in str(shop.rows("select * from raw_transactions"))
    assert len(shop.invoices) >= 1


def test_a_folder_reached_by_a_link_below_a_pattern_is_not_read(shop: Shop, theirs: Path) -> None:
    shop.file("day/a.csv", [line("1")])
    (shop.source / "link").symlink_to(theirs.parent, target_is_directory=True)
    shop.settle(source={"path": str(shop.source / "*" / "*.csv")})
    assert shop.night().success
    assert shop.statuses == {"day/a.csv": "loaded", "link/secret.csv": "quarantined"}
    assert "leads out" in reason(shop, "link/secret.csv")


def test_a_link_within_the_source_is_read_and_so_is_a_source_that_is_a_link(shop: Shop, tmp_path: Path) -> None:
    (shop.source / "latest.csv").symlink_to("a.csv")
    (tmp_path / "link").symlink_to(shop.source, target_is_directory=True)
    (tmp_path / "file.csv").symlink_to(shop.source / "a.csv")
    for path in ("link", "link/*.csv", "file.csv"):
        shop.settle(source={"path": str(tmp_path / path)})
        assert shop.night(reload=True).success
        assert [invoice for _, invoice in shop.invoices] == ["1", "2"]


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(path.parent)
        server.bind(path.name)


@pytest.mark.parametrize(
    "make", [os.mkfifo, a_socket, lambda path: path.symlink_to("/dev/zero"), lambda path: path.symlink_to("nowhere")]
)
@pytest.mark.parametrize("pattern", ["", "*.csv"])
def test_what_is_no_file_never_hangs_a_run_nor_a_look_at_the_folder(
    shop: Shop, make: Callable[[Path], None], pattern: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shop.source)
    make(shop.source / "b.csv")
    shop.settle(source={"path": str(shop.source / pattern)})
    assert len(current_files() or ()) == 2
    assert shop.night().success
    assert shop.statuses == {"a.csv": "loaded", "b.csv": "quarantined"}


def test_a_pipe_that_is_named_itself_is_a_sentence(shop: Shop) -> None:
    os.mkfifo(shop.source / "b.csv")
    shop.settle(source={"path": str(shop.source / "b.csv")})
    night = shop.night()
    assert not night.success
    assert "b.csv: cannot be read: it is not a regular file but a pipe" in night.said


@pytest.mark.parametrize("inside", ["releases", "releases/current", "releases/*/*.parquet", "tmp", ".", "**/*.parquet"])
def test_what_the_pipeline_itself_wrote_is_no_source(shop: Shop, inside: str) -> None:
    home = shop.folder / "data" / "corner_shop"
    for file in ("releases/000001-x/segments.parquet", "tmp/a.parquet"):
        write_csv(home / file, regular_customers())
    (home / "releases" / "current").symlink_to("000001-x")
    shop.settle(source={"path": str(home / inside)})
    night = shop.night()
    assert not night.success
    assert "source.path: the pipeline itself wrote " in night.said


def test_a_link_to_a_release_in_the_source_is_quarantined_and_stops_nothing(shop: Shop) -> None:
    release = shop.folder / "data" / "corner_shop" / "releases" / "000001-x" / "a.csv"
    write_csv(release, [line("9")])
    (shop.source / "b.csv").symlink_to(release)
    assert shop.night().success
    assert shop.statuses == {"a.csv": "loaded", "b.csv": "quarantined"}
