"""Readers of `current` are served all the while, whatever other readers do to a release."""

import grp
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

import dagster as dg
import duckdb
import pytest

from segmentation_pipeline.releases.store import Releases
from segmentation_pipeline_tests.programs import readers
from segmentation_pipeline_tests.scenarios import regular_customers, retailer_file, run_job, write_csv

ROOT = Path(readers.__file__).parents[2]
SEGMENTS = Path(sys.executable).with_name("segments")
NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may be somebody else")


def test_readers_with_any_client_keep_reading_while_nights_publish() -> None:
    """A short form of `make soak`, in a process of its own because each night is a fork."""
    command = [sys.executable, "-m", "segmentation_pipeline_tests.programs.readers"]
    command += ["--readers", "10", "--nights", "2", "--keep", "2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    totals = json.loads(done.stdout.splitlines()[-1])
    assert totals["errors"] == []
    for client, seen in totals["clients"].items():
        assert seen["readers"] == 2, client
        assert seen["queries"] >= 2 * len(readers.QUERIES), client
        assert seen["releases"] >= 2, client
        assert seen["after_pruning"] >= 2, (client, "a release was queried after it was pruned")


def test_each_client_is_the_one_that_the_makefile_installs() -> None:
    """A version that is not that of its name would be tried twice, and its own not at all."""
    makefile = dict(
        line.split(" := ") for line in (ROOT / "Makefile").read_text("utf-8").splitlines() if " := " in line
    )
    asked = {
        "DuckDB 1.5": makefile["OLDEST_DUCKDB"],
        "DuckDB 1.4": makefile["CLIENT_1_4"],
        "DuckDB 1.1": makefile["OLDEST_CLIENT"],
    }
    for client, version in asked.items():
        folder = readers.PYTHON_CLIENTS[client]
        assert folder is not None
        assert version.startswith(client.removeprefix("DuckDB "))
        assert (folder / f"duckdb-{version}.dist-info").is_dir(), f"run `make clients`: no DuckDB {version} in {folder}"
    package = readers.NODE_CLIENT / "node_modules" / "@duckdb" / "node-api" / "package.json"
    assert json.loads(package.read_text("utf-8"))["version"] == makefile["NODE_CLIENT"], "run `make clients`"


@dataclass(frozen=True)
class Shop:
    """A retailer where anybody could come: only the modes of the project itself are in the way."""

    folder: Path
    group: int

    @property
    def releases(self) -> Releases:
        return Releases(self.folder / "data" / "corner_shop" / "releases")

    @property
    def database(self) -> Path:
        """What consumers open, as they are told to: where `current` leads."""
        return (self.releases.folder / "current").resolve() / "segments.duckdb"

    def verify(self) -> "subprocess.CompletedProcess[str]":
        command = [str(SEGMENTS), "releases", "verify"]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def night(self) -> None:
        """Another customer comes, and a run publishes him."""
        number = len(list((self.folder / "source").iterdir()))
        write_csv(self.folder / "source" / f"{number}.csv", [(*regular_customers(1)[0][:6], f"{20000 + number}", "UK")])
        with dg.DagsterInstance.ephemeral() as instance:
            assert run_job(instance).success


def customers(database: Path) -> int:
    with duckdb.connect(str(database), read_only=True) as connection:
        [(number,)] = connection.execute("select count(*) from customer_segments").fetchall()
        return int(number)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shop after its first run, to be copied."""
    folder = tmp_path_factory.mktemp("published")
    group = next(group for group in grp.getgrall() if group.gr_gid not in (os.getegid(), NOBODY))
    write_csv(folder / "source" / "0.csv", regular_customers())
    retailer_file(folder, Path("source"), release={"group": group.gr_name} if os.geteuid() == 0 else {})
    with pytest.MonkeyPatch.context() as environment, dg.DagsterInstance.ephemeral() as instance:
        environment.setenv("SEGMENTATION_DATA", str(folder / "data"))
        environment.setenv("SEGMENTATION_RETAILER", str(folder / "retailer.toml"))
        assert run_job(instance).success
    return folder


@pytest.fixture
def shop(published: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    folder = Path(mkdtemp(prefix="reachable-"))
    group = (published / "data" / "corner_shop" / "releases" / "current" / "segments.duckdb").stat().st_gid
    # As it is, groups too, which a copy would not keep.
    subprocess.run(["cp", "--archive", f"{published}/.", folder], check=True)
    for path in (folder, folder / "data", folder / "data" / "corner_shop"):
        path.chmod(0o755)
    monkeypatch.setenv("SEGMENTATION_DATA", str(folder / "data"))
    monkeypatch.setenv("SEGMENTATION_RETAILER", str(folder / "retailer.toml"))
    yield Shop(folder, group)
    shutil.rmtree(folder)


@pytest.mark.parametrize("language", ["python", "js"])
def test_what_consumers_are_told_to_do_reads_a_release(shop: Shop, tmp_path: Path, language: str) -> None:
    page = (ROOT / "docs" / "operations.md").read_text("utf-8")
    [told] = re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)
    place = "/var/lib/segmentation/corner_shop/releases/current"
    assert place in told
    program = tmp_path / {"python": "read.py", "js": "read.mjs"}[language]
    program.write_text(told.replace(place, str(shop.releases.folder / "current")), "utf-8")
    (tmp_path / "node_modules").symlink_to(readers.NODE_CLIENT / "node_modules")
    command = {"python": sys.executable, "js": "node"}[language]
    assert subprocess.check_output([command, program], text=True) == "60\n"


# The interpreter may lie where only root comes: it is loaded first, and then somebody else.
CARELESS = """
import duckdb, os, shutil, signal, sys
database, group, nobody = sys.argv[1], *map(int, sys.argv[2:])
duckdb.connect().execute("select 1").fetchall()
os.setgroups([group])
os.setgid(nobody)
os.setuid(nobody)

def changes():
    with duckdb.connect(database) as connection:
        connection.execute("delete from customer_segments")

attempts = {
    "opens it for writing": changes,
    "copies onto it": lambda: shutil.copyfile("/etc/hostname", database),
    "puts another in its place": lambda: os.replace(database, database + ".old"),
    "makes it writable": lambda: os.chmod(database, 0o666),
    "deletes it": lambda: os.unlink(database),
    "leaves a log beside it": lambda: open(database + ".wal", "w").close(),
    "leads current elsewhere": lambda: os.unlink(os.path.dirname(os.path.dirname(database)) + "/current"),
}
for name, attempt in attempts.items():
    try:
        attempt()
    except (duckdb.Error, OSError) as error:
        continue
    print(name)
holding = duckdb.connect(database, read_only=True)
holding.execute("begin")
print(holding.execute("select count(*) from customer_segments").fetchone()[0], flush=True)
signal.pause()
"""


@as_root
def test_a_careless_member_of_the_group_changes_nothing_and_his_death_harms_nobody(shop: Shop) -> None:
    first = shop.database
    command = [sys.executable, "-c", CARELESS, str(first), str(shop.group), str(NOBODY)]
    with subprocess.Popen(command, text=True, stdout=subprocess.PIPE) as careless:
        assert careless.stdout is not None
        assert careless.stdout.readline() == "60\n", "whatever comes before was possible"
        shop.night()
        careless.kill()
    assert (customers(first), customers(shop.database)) == (60, 61)
    told = shop.verify()
    assert told.returncode == 0, told.stdout + told.stderr


# Whom no mode stops.
AS_ROOT = {
    "changes it and dies": (
        "connection = duckdb.connect(database); connection.execute('delete from customer_segments');"
        " print('done', flush=True); signal.pause()",
        "segments.duckdb.wal does not belong to it",
    ),
    "changes it and closes it": (
        "connection = duckdb.connect(database); connection.execute('delete from customer_segments');"
        " connection.close(); print('done', flush=True)",
        "segments.duckdb ",
    ),
    "copies onto it": (
        "shutil.copyfile('/etc/hostname', database); print('done', flush=True)",
        "segments.duckdb has ",
    ),
}


@as_root
@pytest.mark.parametrize("what", AS_ROOT)
def test_what_root_does_to_a_release_is_told_and_the_next_run_publishes_a_whole_one(shop: Shop, what: str) -> None:
    does, said = AS_ROOT[what]
    spoilt = shop.database
    program = f"import duckdb, shutil, signal, sys; database = sys.argv[1]; {does}"
    with subprocess.Popen([sys.executable, "-c", program, spoilt], text=True, stdout=subprocess.PIPE) as root:
        assert root.stdout is not None
        assert root.stdout.readline() == "done\n"
        # While he still has it open, where he has.
        shop.night()
        root.kill()
    assert customers(shop.database) == 61
    told = shop.verify()
    assert told.returncode == 1
    assert spoilt.parent.name in told.stdout + told.stderr
    assert said in " ".join((told.stdout + told.stderr).split())
    current = shop.releases.current
    assert current is not None
    assert current.verify() == []


@as_root
def test_whoever_opened_a_release_before_root_wrote_beside_it_goes_on_reading(shop: Shop) -> None:
    """A reader's lock keeps a writer out, root too; what he may still leave there is a log."""
    with duckdb.connect(str(shop.database), read_only=True) as reader:
        program = "import duckdb, sys; duckdb.connect(sys.argv[1])"
        refused = subprocess.run(
            [sys.executable, "-c", program, shop.database], capture_output=True, text=True, check=False
        )
        assert refused.returncode == 1
        assert "lock" in refused.stderr
        shop.database.with_name("segments.duckdb.wal").write_bytes(b"left by somebody")
        spoilt = shop.database.parent.name
        shop.night()
        assert reader.execute("select count(*) from customer_segments").fetchall() == [(60,)]
    assert customers(shop.database) == 61
    told = shop.verify()
    assert f"{spoilt} is damaged: segments.duckdb.wal does not belong to it" in " ".join(told.stderr.split())
