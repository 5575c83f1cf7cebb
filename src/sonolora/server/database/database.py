"""The database file: opened, checked, migrated to this version's tables, and the transactions on it.

In: a path. Out: a `Database`, the only owner of connections to the file. Several processes may have it open at the
same time, so that commands work beside a running server.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Executable, Select, create_engine, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.pool import QueuePool

from sonolora.server.database import faults
from sonolora.server.database.faults import StoreError, faults_in_words, in_words
from sonolora.server.database.tables import metadata

# Each entry migrates from one version to the next: the first from 1 to 2. A new file gets the tables of `tables`.
MIGRATIONS: tuple[tuple[str, ...], ...] = ()

_APPLICATION_ID = int.from_bytes(b"Sono", "big")  # marks the file as ours
_MAX_WAL_BYTES = 64 << 20  # the log of a large transaction is cut back to this


class Database:
    """Transactions on one SQLite file. Any thread may call; each method is one transaction.

    A write is on the disk when it returns. Writes take the file's lock at their start, and threads queue up for it:
    a second write inside a first would wait for itself. A read sees what was committed before it began.
    Raises `StoreError` when the file cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)
        except OSError as error:
            raise StoreError(path, f"it cannot be created: {error.strerror}") from error
        # Before anything, such as the journal's mode, is changed in what may be another program's file.
        with faults_in_words(path), closing(sqlite3.connect(path, timeout=faults.BUSY_SECONDS)) as connection:
            version = _version(connection, path)
        self._writer, self._reader = _engine(path, write=True), _engine(path, write=False)
        if version <= len(MIGRATIONS):
            with self.transaction() as transaction:
                _migrate(transaction, path)

    def close(self) -> None:
        self._writer.dispose()
        self._reader.dispose()

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A write transaction: all of the block is kept or none."""
        with self._writer.begin() as connection:
            yield connection

    def write(self, statement: Executable, parameters: Any = None) -> int:
        """One statement in a transaction of its own; returns the number of rows that it changed."""
        with self._writer.begin() as connection:
            return connection.execute(statement, parameters).rowcount

    def read(self, statement: Select[Any]) -> Sequence[Any]:
        """The rows of a query."""
        with self._reader.connect() as connection:
            return connection.execute(statement).all()

    def fetch(self, sql: str, *parameters: str | int) -> Sequence[Any]:
        """The rows of a query that is already text, straight from the driver: a fifth of the time of `read`."""
        connection = self._reader.raw_connection()
        try:
            with faults_in_words(self.path):
                cursor = connection.cursor()
                cursor.execute(sql, parameters)
                return cursor.fetchall()
        finally:
            connection.close()


def _engine(path: Path, *, write: bool) -> Engine:
    def connect() -> sqlite3.Connection:
        with faults_in_words(path):
            # The driver would begin transactions too late: they are begun explicitly.
            connection = sqlite3.connect(
                path, timeout=faults.BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            for setting in (
                "journal_mode = WAL",
                "synchronous = FULL",
                "foreign_keys = ON",
                f"journal_size_limit = {_MAX_WAL_BYTES}",
                f"query_only = {int(not write)}",
            ):
                connection.execute(f"PRAGMA {setting}")
            return connection

    one = {"pool_size": 1, "max_overflow": 0, "pool_timeout": faults.BUSY_SECONDS}
    many = {"pool_size": 8, "max_overflow": -1}
    engine = create_engine("sqlite://", creator=connect, poolclass=QueuePool, **(one if write else many))

    @event.listens_for(engine, "handle_error")
    def translate(context: ExceptionContext) -> None:
        if fault := in_words(path, context.original_exception):
            raise fault from context.original_exception

    if write:

        @event.listens_for(engine, "begin")
        def begin(connection: Connection) -> None:
            # A transaction that reads first and then writes could not wait for another process's.
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _version(connection: sqlite3.Connection, path: Path) -> int:
    """The file's version, 0 for an empty one. Raises for a newer one and for another program's file."""
    # In this order: a process that creates the file meanwhile writes its tables and its id in one transaction.
    ((tables,),) = connection.execute("SELECT count(*) FROM sqlite_master")
    ((application,),) = connection.execute("PRAGMA application_id")
    ((version,),) = connection.execute("PRAGMA user_version")
    if tables and application != _APPLICATION_ID:
        raise StoreError(path, "it is the database of another program", "Choose another folder for the server")
    newest = len(MIGRATIONS) + 1
    if version > newest:
        raise StoreError(
            path,
            f"it was written by a newer Sonolora (its tables are version {version}, this program reads up to {newest})",
            "Update Sonolora, or choose another folder for the server",
        )
    return int(version)


def _migrate(transaction: Connection, path: Path) -> None:
    """Create the tables or change older ones, all at once or not at all."""
    driver = transaction.connection.dbapi_connection
    assert isinstance(driver, sqlite3.Connection)
    version = _version(driver, path)  # again: another process may have done it meanwhile
    if version == 0:
        metadata.create_all(transaction)
    else:
        for statements in MIGRATIONS[version - 1 :]:
            for statement in statements:
                transaction.exec_driver_sql(statement)
    transaction.exec_driver_sql(f"PRAGMA application_id = {_APPLICATION_ID}")
    transaction.exec_driver_sql(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
