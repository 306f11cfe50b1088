"""A PostgreSQL server of the tests on the loopback address, with a database and a user who may only read."""

import os
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from urllib.parse import quote

import adbc_driver_manager as adbc
import adbc_driver_postgresql as postgresql

BINARIES = max(Path("/usr/lib/postgresql").glob("*/bin"), default=Path("/usr/lib/postgresql"))
OWNER, OWNER_PASSWORD = "till_owner", "owner"
READER, PASSWORD, DATABASE = "till_reader", "pa:ss/w@rd #7%", "till_lines"


@dataclass(frozen=True)
class Server:
    """A running server."""

    port: int

    def address(self, user: str = READER, password: str = PASSWORD, database: str = DATABASE) -> str:
        """Return the address of a database, as an environment variable has it."""
        return f"postgresql://{user}:{quote(password, safe='')}@127.0.0.1:{self.port}/{database}"

    def execute(self, *statements: str, database: str = DATABASE) -> None:
        """Execute statements as the owner."""
        with (
            closing(postgresql.connect(self.address(OWNER, OWNER_PASSWORD, database))) as opened,
            closing(adbc.AdbcConnection(opened)) as connection,
        ):
            for text in statements:
                with closing(adbc.AdbcStatement(connection)) as statement:
                    statement.set_sql_query(text)
                    statement.execute_update()

    @property
    def secrets(self) -> list[str]:
        """What must appear nowhere."""
        return [PASSWORD, quote(PASSWORD, safe=""), READER, DATABASE, "127.0.0.1", f":{self.port}", f"port {self.port}"]


@contextmanager
def running_server() -> Iterator[Server]:
    """Start a server, and stop it at the end."""
    memory = Path("/dev/shm")  # noqa: S108 - a folder of its own in it
    folder = Path(mkdtemp(prefix="postgresql-", dir=memory if memory.is_dir() else None))
    # PostgreSQL does not run as root.
    user = "postgres" if os.geteuid() == 0 else None
    try:
        password = folder / "password"
        password.write_text(OWNER_PASSWORD)
        if user:
            for path in (folder, password):
                os.chown(path, pwd.getpwnam(user).pw_uid, pwd.getpwnam(user).pw_gid)
        data = str(folder / "data")
        create = ["initdb", "-D", data, "-U", OWNER, f"--pwfile={password}", "-A", "scram-sha-256", "-E", "UTF8"]
        _run([*create, "--locale=C.UTF-8", "--no-sync"], user)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        options = [f"port={port}", "listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off"]
        command = [str(BINARIES / "postgres"), "-D", data, *(part for option in options for part in ("-c", option))]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, user=user, extra_groups=[] if user else None)
        try:
            yield _ready(Server(port), process)
        finally:
            process.terminate()
            process.wait(timeout=20)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _ready(server: Server, process: "subprocess.Popen[bytes]") -> Server:
    deadline = time.monotonic() + 20
    while True:
        try:
            server.execute(f"create database {DATABASE}", database="postgres")
            break
        except adbc.Error:
            assert process.poll() is None
            assert time.monotonic() < deadline
        time.sleep(0.05)
    server.execute(f"create user {READER} password '{PASSWORD}'")
    return server


def _run(command: list[str], user: str | None) -> None:
    program, *arguments = command
    subprocess.run(
        [BINARIES / program, *arguments], check=True, capture_output=True, user=user, extra_groups=[] if user else None
    )
