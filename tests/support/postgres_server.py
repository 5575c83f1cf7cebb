"""A PostgreSQL of its own for tests, in a folder of its own, run by an unprivileged user."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

MISSING = "PostgreSQL is not installed: apt-get install postgresql"


def programs() -> Path | None:
    """The folder of `initdb`; None where there is none. Debian does not put it on the PATH."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name), reverse=True)
    if on_path := shutil.which("initdb"):
        folders.append(Path(on_path).resolve().parent)
    return next((folder for folder in folders if os.access(folder / "postgres", os.X_OK)), None)


class PostgresServer:
    """It listens on 127.0.0.1 and lets everybody in as `sonolora`."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self.programs, self.folder = programs, folder
        # The server refuses to be run by root.
        self.user = {"user": "postgres"} if os.geteuid() == 0 else {}
        if self.user:
            os.chown(folder, pwd.getpwnam("postgres").pw_uid, -1)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._numbers = count()
        self._shared: str | None = None
        command = [programs / "initdb", "-D", folder / "data", "-A", "trust", "-U", "sonolora", "--no-sync"]
        command += ["-E", "UTF8", "--locale=C"]
        subprocess.run(command, check=True, capture_output=True, cwd=folder, **self.user)
        self.start()

    def start(self) -> None:
        options = ["-p", str(self.port), "-c", "listen_addresses=127.0.0.1", "-k", str(self.folder), "-F"]
        with (self.folder / "log").open("a") as log:
            self.process = subprocess.Popen(
                [self.programs / "postgres", "-D", self.folder / "data", *options],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                **self.user,
            )
        end = time.monotonic() + 60
        while subprocess.run(
            [self.programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)], check=False
        ).returncode:
            assert self.process.poll() is None and time.monotonic() < end, (self.folder / "log").read_text()
            time.sleep(0.05)

    def stop(self) -> None:
        """At once, as in a crash: connections break."""
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait(60)

    def new_database(self) -> str:
        """The address of an empty database."""
        import psycopg

        name = f"test{next(self._numbers)}"
        with psycopg.connect(f"host=127.0.0.1 port={self.port} user=sonolora dbname=postgres", autocommit=True) as one:
            one.execute(f"CREATE DATABASE {name}")
        return f"postgresql+psycopg://sonolora@127.0.0.1:{self.port}/{name}"

    def emptied(self) -> str:
        """The address of one that tests share, without rows: that is faster than a new one."""
        import psycopg

        if self._shared is None:
            self._shared = self.new_database()
        with psycopg.connect(self._shared.replace("+psycopg", ""), autocommit=True) as one:
            rows = one.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
            if names := [name for (name,) in rows if name not in ("alembic_version", "store")]:
                one.execute(f"TRUNCATE {', '.join(names)} RESTART IDENTITY")
        return self._shared


@contextmanager
def running(programs: Path) -> Iterator[PostgresServer]:
    # A short path: that of its socket must be.
    with tempfile.TemporaryDirectory(prefix="postgres-", dir="/tmp") as folder:
        server = PostgresServer(programs, Path(folder))
        try:
            yield server
        finally:
            server.stop()
