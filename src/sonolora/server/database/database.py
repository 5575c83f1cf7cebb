"""The database file: opened, checked, brought to this version's tables, its faults told in words.

In: a path. Out: two SQLAlchemy engines on it. Several processes may have it open at the same time.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.pool import QueuePool

from sonolora.core.errors import SonoloraError
from sonolora.server.database.tables import metadata

# Each entry leads one version on: the first from version 1 to 2. A new file gets the tables as `tables` has them.
MIGRATIONS: tuple[tuple[str, ...], ...] = ()

_APPLICATION = int.from_bytes(b"Sono", "big")  # marks the file as ours
_PATIENCE = 60.0  # seconds that a writer waits for others
_WAL_KEPT = 64 << 20  # bytes; a longer log of one large transaction is cut back to this

_FAULTS = {
    sqlite3.SQLITE_CORRUPT: "it is damaged. Put back a copy of it, or move it away: then a new one is made",
    sqlite3.SQLITE_NOTADB: "it is not a database. Move it away: then a new one is made",
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_IOERR: "the disk reports an error",
    sqlite3.SQLITE_READONLY: "it may not be written. Check the permissions of the file and of its folder",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened. Check the permissions of the file and of its folder",
    sqlite3.SQLITE_PERM: "it is not permitted",
    sqlite3.SQLITE_BUSY: f"another process has kept it locked for {_PATIENCE:.0f} seconds",
    sqlite3.SQLITE_PROTOCOL: "it cannot be locked. Keep it on a disk of this machine",
}


class StoreError(SonoloraError):
    """The database cannot be used, with the reason in words."""

    def __init__(self, path: Path, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"{path}: {reason}.")


def open_database(path: Path) -> tuple[Engine, Engine]:
    """The engines for writing and for reading; the file, readable by its owner alone, is made if there is none.

    A transaction of the first one holds the write lock from its start, and threads queue up for it. The second one
    cannot write, and each of its statements sees what was committed before it. Raises `StoreError`, also from
    any later use of the engines.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
    except OSError as error:
        raise StoreError(path, f"it cannot be made: {error.strerror}") from error
    # Before anything, such as the journal's mode, is changed in what may be another program's file.
    with faults_in_words(path), closing(sqlite3.connect(path, timeout=_PATIENCE)) as connection:
        version = _version(connection, path)
    writer, reader = _engine(path, write=True), _engine(path, write=False)
    if version <= len(MIGRATIONS):
        with writer.begin() as transaction:
            _migrate(transaction, path)
    return writer, reader


@contextmanager
def faults_in_words(path: Path) -> Iterator[None]:
    """Turn what SQLite raises inside the block into `StoreError`; faults of a statement stay what they are."""
    try:
        yield
    except sqlite3.Error as error:
        if reason := _reason(error):
            raise StoreError(path, reason) from error
        raise


def _reason(error: BaseException) -> str | None:
    # The low byte is the kind of fault, the others detail it.
    return _FAULTS.get(getattr(error, "sqlite_errorcode", 0) & 0xFF)


def _engine(path: Path, *, write: bool) -> Engine:
    def connect() -> sqlite3.Connection:
        with faults_in_words(path):
            # No transaction but those that are begun in so many words: the driver would begin them too late.
            connection = sqlite3.connect(path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False)
            for setting in (
                "journal_mode = WAL",
                "synchronous = FULL",
                "foreign_keys = ON",
                f"journal_size_limit = {_WAL_KEPT}",
                f"query_only = {int(not write)}",
            ):
                connection.execute(f"PRAGMA {setting}")
            return connection

    one = {"pool_size": 1, "max_overflow": 0, "pool_timeout": _PATIENCE}
    many = {"pool_size": 8, "max_overflow": -1}
    engine = create_engine("sqlite://", creator=connect, poolclass=QueuePool, **(one if write else many))

    @event.listens_for(engine, "handle_error")
    def in_words(context: ExceptionContext) -> None:
        if reason := _reason(context.original_exception):
            raise StoreError(path, reason) from context.original_exception

    if write:

        @event.listens_for(engine, "begin")
        def begin(connection: Connection) -> None:
            # A transaction that reads first and then writes could not wait for another process's.
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _version(connection: sqlite3.Connection, path: Path) -> int:
    """The file's version, 0 for an empty one. Raises for a newer one and for another program's file."""
    # In this order: whoever makes the file meanwhile writes its tables and what it is in one transaction.
    ((tables,),) = connection.execute("SELECT count(*) FROM sqlite_master")
    ((application,),) = connection.execute("PRAGMA application_id")
    ((version,),) = connection.execute("PRAGMA user_version")
    if tables and application != _APPLICATION:
        raise StoreError(path, "it is the database of another program. Choose another folder for the server")
    newest = len(MIGRATIONS) + 1
    if version > newest:
        raise StoreError(
            path,
            f"it was written by a newer Sonolora (its tables are version {version}, this program knows them up to "
            f"{newest}). Update Sonolora, or choose another folder for the server",
        )
    return int(version)


def _migrate(transaction: Connection, path: Path) -> None:
    """Make the tables or change older ones, all at once or not at all."""
    driver = transaction.connection.dbapi_connection
    assert isinstance(driver, sqlite3.Connection)
    version = _version(driver, path)  # again: another process may have done it meanwhile
    if version == 0:
        metadata.create_all(transaction)
    else:
        for statements in MIGRATIONS[version - 1 :]:
            for statement in statements:
                transaction.exec_driver_sql(statement)
    transaction.exec_driver_sql(f"PRAGMA application_id = {_APPLICATION}")
    transaction.exec_driver_sql(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
