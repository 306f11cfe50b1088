"""Readers of the current release are served while releases are published, whatever other users do to a release."""

import grp
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp

import duckdb
import pytest

from segmentation_pipeline_tests.commands import Ended, segments
from segmentation_pipeline_tests.programs import readers
from segmentation_pipeline_tests.shops import Shop

ROOT = Path(readers.__file__).parents[2]
NOBODY = 65534
CUSTOMERS = 59
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")


def test_readers_with_any_client_keep_reading_while_nights_publish(finished_shop: Shop) -> None:
    """A short form of `make soak`, one reader with each client."""
    finished_shop.configure(rfm={"look_back_days": 200}, release={"keep": 2})

    def night(number: int) -> str:
        readers.add_a_day(finished_shop.source, number)
        return "" if finished_shop.run().success else "the run failed"

    totals = readers.read_through(finished_shop.folder, finished_shop.releases.folder, night, number=5, nights=2)
    assert totals["errors"] == []
    assert len(totals["clients"]) == 5
    for client, seen in totals["clients"].items():
        assert seen["readers"] == 1, client
        assert seen["queries"] >= 2 * len(readers.QUERIES), client
        assert seen["releases"] >= 2, client
        assert seen["after_pruning"] >= 1, (client, "a release was queried after it was pruned")


def test_the_makefile_installs_every_client() -> None:
    """A client of another version would repeat the queries of that version, and miss those of its own."""
    makefile = dict(
        line.split(" := ") for line in (ROOT / "Makefile").read_text("utf-8").splitlines() if " := " in line
    )
    versions = {
        "DuckDB 1.5": makefile["OLDEST_DUCKDB"],
        "DuckDB 1.4": makefile["CLIENT_1_4"],
        "DuckDB 1.1": makefile["OLDEST_CLIENT"],
    }
    for client, version in versions.items():
        folder = readers.PYTHON_CLIENTS[client]
        assert folder is not None
        assert version.startswith(client.removeprefix("DuckDB "))
        assert (folder / f"duckdb-{version}.dist-info").is_dir(), f"run `make clients`: no DuckDB {version} in {folder}"
    package = readers.NODE_CLIENT / "node_modules" / "@duckdb" / "node-api" / "package.json"
    assert json.loads(package.read_text("utf-8"))["version"] == makefile["NODE_CLIENT"], "run `make clients`"


@pytest.fixture
def shop(finished_template: Shop) -> Iterator[Shop]:
    """A shop in a folder that every user may enter, so that only the modes of the project protect its releases."""
    folder = Path(mkdtemp(prefix="reachable-"))
    shop = finished_template.copy(folder / "shop")
    for path in (folder, shop.folder, shop.data, shop.folders.root):
        path.chmod(0o755)
    publish(shop)
    yield shop
    shutil.rmtree(folder)


def other_group() -> "grp.struct_group":
    return next(group for group in grp.getgrall() if group.gr_gid not in (os.getegid(), NOBODY))


def publish(shop: Shop, *, new_customers: int = 0) -> None:
    """Publish the tables, with more customers if requested, for a group that the user nobody may join."""
    with duckdb.connect(str(shop.work)) as work:
        work.execute(
            "insert into customer_segments select * replace ('new-' || customer_id as customer_id)"
            " from customer_segments order by customer_id limit $number",
            {"number": new_customers},
        )
        shop.releases.publish(
            work,
            {"figures": shop.release.metrics},
            macros=[],
            as_of=shop.release.as_of,
            run_id=f"{len(shop.releases.all()):08d}-of-a-test",
            keep=14,
            group=other_group().gr_name if os.geteuid() == 0 else None,
        )


def current_database(shop: Shop) -> Path:
    """Return the file that a consumer opens."""
    return shop.release.database.resolve()


def customers(database: Path) -> int:
    with duckdb.connect(str(database), read_only=True) as connection:
        [(number,)] = connection.execute("select count(*) from customer_segments").fetchall()
        return int(number)


def verify(shop: Shop) -> Ended:
    return segments(shop, "releases", "verify")


@pytest.mark.parametrize(("language", "block"), [("python", 0), ("python", 1), ("js", 0)])
def test_the_documented_code_of_consumers_reads_a_release(
    shop: Shop, tmp_path: Path, language: str, block: int
) -> None:
    page = (ROOT / "docs" / "clients.md").read_text("utf-8")
    code = re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)[block]
    path = "/var/lib/segmentation/corner_shop/releases/current"
    assert path in code
    program = tmp_path / {"python": "read.py", "js": "read.mjs"}[language]
    program.write_text(code.replace(path, str(shop.releases.folder / "current")), "utf-8")
    (tmp_path / "node_modules").symlink_to(readers.NODE_CLIENT / "node_modules")
    command = {"python": sys.executable, "js": "node"}[language]
    assert subprocess.check_output([command, program], text=True) == f"{CUSTOMERS}\n"


# DuckDB is imported first, since only root may be able to read the interpreter's folder.
CARELESS = """
import duckdb, os, shutil, signal, sys
database, group, nobody = sys.argv[1], *map(int, sys.argv[2:])
duckdb.connect().execute("select 1").fetchall()
os.setgroups([group])
os.setgid(nobody)
os.setuid(nobody)

def change():
    with duckdb.connect(database) as connection:
        connection.execute("delete from customer_segments")

attempts = {
    "opens it for writing": change,
    "copies a file over it": lambda: shutil.copyfile("/etc/hostname", database),
    "renames a file over it": lambda: os.replace(database, database + ".old"),
    "makes it writable": lambda: os.chmod(database, 0o666),
    "deletes it": lambda: os.unlink(database),
    "creates a log beside it": lambda: open(database + ".wal", "w").close(),
    "removes current": lambda: os.unlink(os.path.dirname(os.path.dirname(database)) + "/current"),
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
def test_a_careless_member_of_the_group_changes_nothing(shop: Shop) -> None:
    """Nor does the death of the member's process with the release open."""
    first = current_database(shop)
    command = [sys.executable, "-c", CARELESS, str(first), str(other_group().gr_gid), str(NOBODY)]
    with subprocess.Popen(command, text=True, stdout=subprocess.PIPE) as careless:
        assert careless.stdout is not None
        assert careless.stdout.readline() == f"{CUSTOMERS}\n", "the line names an attempt that succeeded"
        publish(shop, new_customers=1)
        careless.kill()
    assert (customers(first), customers(current_database(shop))) == (CUSTOMERS, CUSTOMERS + 1)
    assert verify(shop).code == 0


# File modes do not stop root.
AS_ROOT = {
    "changes it and dies": (
        "connection = duckdb.connect(database); connection.execute('delete from customer_segments');"
        " print('done', flush=True); signal.pause()",
        "segments.duckdb.wal does not belong to the release",
    ),
    "changes it and closes it": (
        "connection = duckdb.connect(database); connection.execute('delete from customer_segments');"
        " connection.close(); print('done', flush=True)",
        "segments.duckdb ",
    ),
    "copies a file over it": (
        "shutil.copyfile('/etc/hostname', database); print('done', flush=True)",
        "segments.duckdb has ",
    ),
}


@as_root
@pytest.mark.parametrize("action", AS_ROOT)
def test_damage_by_root_is_found_and_not_published_again(shop: Shop, action: str) -> None:
    statements, message = AS_ROOT[action]
    damaged = current_database(shop)
    program = f"import duckdb, shutil, signal, sys; database = sys.argv[1]; {statements}"
    with subprocess.Popen([sys.executable, "-c", program, damaged], text=True, stdout=subprocess.PIPE) as root:
        assert root.stdout is not None
        assert root.stdout.readline() == "done\n"
        # The process may still have the file open.
        publish(shop, new_customers=1)
        root.kill()
    assert customers(current_database(shop)) == CUSTOMERS + 1
    ended = verify(shop)
    assert ended.code == 1
    assert f"{damaged.parent.name} is damaged: " in ended.errors
    assert message in ended.errors
    assert shop.release.verify() == []


@as_root
def test_an_open_reader_keeps_reading_after_root_wrote_a_log(shop: Shop) -> None:
    """The lock of a reader keeps every writer out; root can still leave a log beside the database."""
    database = current_database(shop)
    with duckdb.connect(str(database), read_only=True) as reader:
        program = "import duckdb, sys; duckdb.connect(sys.argv[1])"
        ended = subprocess.run([sys.executable, "-c", program, database], capture_output=True, text=True, check=False)
        assert ended.returncode == 1
        assert "lock" in ended.stderr
        database.with_name("segments.duckdb.wal").write_bytes(b"left by root")
        publish(shop, new_customers=1)
        assert reader.execute("select count(*) from customer_segments").fetchall() == [(CUSTOMERS,)]
    assert customers(current_database(shop)) == CUSTOMERS + 1
    message = f"{database.parent.name} is damaged: segments.duckdb.wal does not belong to the release"
    assert message in verify(shop).errors
