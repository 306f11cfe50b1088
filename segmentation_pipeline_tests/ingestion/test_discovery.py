"""Paths of a source: a retailer file, a link or a pipe cannot make the pipeline read other files or block it."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tomli_w

from segmentation_pipeline.config.loading import load_settings
from segmentation_pipeline.errors import RetailerError
from segmentation_pipeline.ingestion.file_watcher import current_files
from segmentation_pipeline_tests.ingestion.test_incremental import Shop
from segmentation_pipeline_tests.scenarios import line, regular_customers, retailer_settings, write_csv


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    shop = Shop(tmp_path / "shop", monkeypatch)
    shop.file("a.csv", [line("1"), line("2")])
    return shop


@pytest.fixture
def foreign_file(tmp_path: Path) -> Path:
    """A file outside the source."""
    return write_csv(tmp_path / "elsewhere" / "secret.csv", [line("SECRET")])


def reason(shop: Shop, name: str) -> str:
    [(reason,)] = shop.rows(
        f"select reason from ingested_files where source_file = '{name}' and status = 'quarantined'"
    )
    return str(reason)


@pytest.mark.parametrize(
    "path", ["../exports", "exports/../../other/*.csv", "/srv/exports/../other", ["exports", "../other"], ".."]
)
def test_retailer_file_may_not_use_parent_folders(tmp_path: Path, path: str | list[str]) -> None:
    settings = retailer_settings(tmp_path) | {"source": {"path": path}}
    file = tmp_path / "retailer.toml"
    file.write_bytes(tomli_w.dumps(settings).encode())
    with pytest.raises(RetailerError, match=r"retailer\.toml:\d+: source\.path: .*without `\.\.`.* an absolute path"):
        load_settings(str(file))


def test_dots_inside_a_name_are_allowed(tmp_path: Path) -> None:
    settings = retailer_settings(tmp_path) | {"source": {"path": "exports/..a/b..csv"}}
    (tmp_path / "retailer.toml").write_bytes(tomli_w.dumps(settings).encode())
    assert load_settings(str(tmp_path / "retailer.toml")).source.path == "exports/..a/b..csv"


@pytest.mark.parametrize("path", ["../in/a.csv", "../in", "../in/*.csv", "./../../shop/in"])
def test_command_line_may_use_parent_folders(shop: Shop, path: str) -> None:
    here = shop.folder / "here"
    here.mkdir()
    arguments = ["retailer", "check", "--source", path]
    environment = os.environ | {"SEGMENTATION_RETAILER": str(shop.folder / "retailer.toml")}
    code = "from segmentation_pipeline.cli.app import app; app()"
    ended = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=here, env=environment, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    assert "Source: 1 file." in ended.stdout


def test_environment_may_use_parent_folders(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGMENTATION_SOURCE", "../shop/in/*.csv")
    assert shop.load().success
    assert shop.invoices == [("a.csv", "1"), ("a.csv", "2")]


@pytest.mark.parametrize("pattern", ["", "*.csv", "**/*.csv", "*/*.csv"])
def test_link_out_of_the_source_is_quarantined(shop: Shop, foreign_file: Path, pattern: str) -> None:
    name = "below/b.csv" if "/" in pattern else "b.csv"
    (shop.source / "below").mkdir()
    (shop.source / name).symlink_to(foreign_file)
    (shop.source / "below" / "linked").symlink_to(foreign_file.parent, target_is_directory=True)
    shop.file("below/c.csv", [line("3")])
    shop.configure(source={"path": str(shop.source / pattern)})
    load = shop.load()
    assert load.success
    assert "link that leads out of the source" in reason(shop, name)
    assert "SECRET" not in str(shop.rows("select * from raw_transactions"))
    assert len(shop.invoices) >= 1


def test_linked_folder_below_a_pattern_is_not_read(shop: Shop, foreign_file: Path) -> None:
    shop.file("day/a.csv", [line("1")])
    (shop.source / "link").symlink_to(foreign_file.parent, target_is_directory=True)
    shop.configure(source={"path": str(shop.source / "*" / "*.csv")})
    assert shop.load().success
    assert shop.statuses == {"day/a.csv": "loaded", "link/secret.csv": "quarantined"}
    assert "leads out" in reason(shop, "link/secret.csv")


def test_links_within_the_source_and_to_it_are_read(shop: Shop, tmp_path: Path) -> None:
    (shop.source / "latest.csv").symlink_to("a.csv")
    (tmp_path / "link").symlink_to(shop.source, target_is_directory=True)
    (tmp_path / "file.csv").symlink_to(shop.source / "a.csv")
    for path in ("link", "link/*.csv", "file.csv"):
        shop.configure(source={"path": str(tmp_path / path)})
        assert shop.load(reload=True).success
        assert [invoice for _, invoice in shop.invoices] == ["1", "2"]


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(path.parent)
        server.bind(path.name)


@pytest.mark.parametrize(
    "make", [os.mkfifo, make_socket, lambda path: path.symlink_to("/dev/zero"), lambda path: path.symlink_to("nowhere")]
)
@pytest.mark.parametrize("pattern", ["", "*.csv"])
def test_pipes_sockets_and_broken_links_never_block(
    shop: Shop, make: Callable[[Path], None], pattern: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shop.source)
    make(shop.source / "b.csv")
    shop.configure(source={"path": str(shop.source / pattern)})
    assert len(current_files() or ()) == 2
    assert shop.load().success
    assert shop.statuses == {"a.csv": "loaded", "b.csv": "quarantined"}


def test_pipe_as_source_fails_with_a_message(shop: Shop) -> None:
    os.mkfifo(shop.source / "b.csv")
    shop.configure(source={"path": str(shop.source / "b.csv")})
    load = shop.load()
    assert not load.success
    assert "b.csv: cannot be read: it is not a regular file but a pipe" in load.message


@pytest.mark.parametrize("inside", ["releases", "releases/current", "releases/*/*.parquet", "tmp", ".", "**/*.parquet"])
def test_pipeline_never_reads_its_own_output(shop: Shop, inside: str) -> None:
    home = shop.home
    for file in ("releases/000001-x/segments.parquet", "tmp/a.parquet"):
        write_csv(home / file, regular_customers())
    (home / "releases" / "current").symlink_to("000001-x")
    shop.configure(source={"path": str(home / inside)})
    load = shop.load()
    assert not load.success
    assert "source.path: the pipeline itself wrote " in load.message


def test_link_to_a_release_is_quarantined(shop: Shop) -> None:
    release = shop.home / "releases" / "000001-x" / "a.csv"
    write_csv(release, [line("9")])
    (shop.source / "b.csv").symlink_to(release)
    assert shop.load().success
    assert shop.statuses == {"a.csv": "loaded", "b.csv": "quarantined"}
