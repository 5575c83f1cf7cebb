"""A database in a SQLite file: checked, opened, migrated to this version's tables.

In: a path. Out: a `SqliteDatabase`, the only owner of connections to the file. Several processes may have it open at
the same time, so that commands work beside a running server.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine, event, update
from sqlalchemy.dialects import sqlite
from sqlalchemy.pool import QueuePool

from sonolora.server.database import faults, schema
from sonolora.server.database.database import Database
from sonolora.server.database.faults import StoreError, faults_in_words, in_words
from sonolora.server.database.identity import (
    WAL,
    Identity,
    check_identity,
    open_read_only,
    read_identity,
    set_log_aside,
    write_identity,
)
from sonolora.server.database.tables import store

# From version 1 to 2 and from 2 to 3, from before there were scripts for both dialects: see `schema`.
_FIRST_MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE store (id TEXT NOT NULL PRIMARY KEY, checkpoints INTEGER NOT NULL)",
        "ALTER TABLE files ADD COLUMN mtime_ns INTEGER",
    ),
    (
        "ALTER TABLE requests ADD COLUMN kind TEXT DEFAULT 'train' NOT NULL",
        "ALTER TABLE requests ADD COLUMN options TEXT DEFAULT '{}' NOT NULL",
        "ALTER TABLE requests ADD COLUMN paused BOOLEAN DEFAULT '0' NOT NULL",
        "ALTER TABLE requests ADD COLUMN place FLOAT",
        "DROP INDEX queue",
        "CREATE INDEX queue ON requests (priority, coalesce(place, number)) WHERE state = 'queued'",
    ),
)

_APPLICATION_ID = int.from_bytes(b"Sono", "big")  # marks the file as ours
MAX_LOG_BYTES = 64 << 20  # of the write-ahead log; the log of a large transaction is cut back to this
_CHECKPOINT_WAIT = 2000  # milliseconds


class SqliteDatabase(Database):
    """Writes take the file's lock at their start, and threads queue up for it: a second write inside a first would
    wait for itself.

    With `accept` also a new or another database is taken than the one that belongs to the folder; with `thorough` all
    of it is checked for damage.
    """

    def __init__(self, path: Path, *, accept: bool = False, thorough: bool = False) -> None:
        self.address = self.path = path
        try:
            is_new = not path.exists() or path.stat().st_size == 0
            if path.exists() and not path.is_file():
                raise StoreError(path, "it is not a file", "Choose another folder for the server")
            # Before anything, such as the journal's mode, is changed in what may be another program's file.
            version = 0 if is_new else _check(path, thorough=thorough)
            if not accept:
                check_identity(path)
            path.parent.mkdir(parents=True, exist_ok=True)
            if is_new and accept:
                set_log_aside(path)
            path.touch(mode=0o600)
        except OSError as error:
            raise StoreError(path, f"it cannot be used: {error.strerror}") from error
        super().__init__(_engine(path, write=True), _engine(path, write=False), sqlite.insert)
        if version < schema.VERSION:
            with self.transaction() as transaction:
                _migrate(transaction, path)
        self._noted = None if accept else read_identity(path)
        self._file_checkpoints = self._noted.file_checkpoints if self._noted else 0
        if self._noted is None:
            self.note_identity()

    def checkpoint(self) -> None:
        """Bring all changes from the write-ahead log into the database file, and note the identity.

        When other processes read for long, as much as is possible now.
        """
        connection = self._writer.raw_connection()
        try:
            with faults_in_words(self.path):
                cursor = connection.cursor()
                cursor.execute(f"PRAGMA busy_timeout = {_CHECKPOINT_WAIT}")
                ((is_busy, *_),) = cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                if not is_busy:
                    ((self._file_checkpoints,),) = cursor.execute("SELECT checkpoints FROM store").fetchall()
                cursor.execute(f"PRAGMA busy_timeout = {round(1000 * faults.BUSY_SECONDS)}")
        finally:
            connection.close()
        # So every log holds this row, and a log of another database, or the lack of one, is noticed.
        self.write(update(store).values(checkpoints=store.c.checkpoints + 1))
        self.note_identity()

    def note_identity(self) -> None:
        """Write down beside the database how far it has come, if that has changed."""
        connection = self._reader.raw_connection()
        try:
            with faults_in_words(self.path):
                driver = connection.driver_connection
                assert isinstance(driver, sqlite3.Connection)
                identity = Identity.of(driver)
        finally:
            connection.close()
        if identity is not None:
            identity = replace(identity, file_checkpoints=self._file_checkpoints)
        if identity is not None and identity != self._noted:
            write_identity(self.path, identity)
            self._noted = identity

    @property
    def log_bytes(self) -> int:
        """The size of the write-ahead log."""
        with suppress(OSError):
            return self.path.with_name(self.path.name + WAL).stat().st_size
        return 0

    def _fault(self, error: BaseException) -> StoreError | None:
        return in_words(self.path, error)


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
                "wal_autocheckpoint = 0",  # the server does it, in a way that notices a lost log
                f"journal_size_limit = {MAX_LOG_BYTES}",
                f"query_only = {int(not write)}",
            ):
                connection.execute(f"PRAGMA {setting}")
            return connection

    one = {"pool_size": 1, "max_overflow": 0, "pool_timeout": faults.BUSY_SECONDS}
    many = {"pool_size": 8, "max_overflow": -1}
    engine = create_engine("sqlite://", creator=connect, poolclass=QueuePool, **(one if write else many))

    if write:

        @event.listens_for(engine, "begin")
        def begin(connection: Connection) -> None:
            # A transaction that reads first and then writes could not wait for another process's.
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _check(path: Path, *, thorough: bool) -> int:
    """The file's version, 0 for an empty one. Raises `StoreError`, also for damage when `thorough`."""
    with faults_in_words(path), closing(open_read_only(path)) as connection:
        version = _version(connection, path)
        ((found,),) = connection.execute("PRAGMA quick_check(1)") if thorough else [("ok",)]
    if found != "ok":
        raise StoreError(path, f"it is damaged ({' '.join(found.split())})", *faults.DAMAGED)
    return version


def _version(connection: sqlite3.Connection, path: Path) -> int:
    """The file's version, 0 for an empty one. Raises for a newer one and for another program's file."""
    # In this order: a process that creates the file meanwhile writes its tables and its id in one transaction.
    ((tables,),) = connection.execute("SELECT count(*) FROM sqlite_master")
    ((application,),) = connection.execute("PRAGMA application_id")
    ((version,),) = connection.execute("PRAGMA user_version")
    if tables and application != _APPLICATION_ID:
        raise StoreError(path, "it is the database of another program", "Choose another folder for the server")
    if version > schema.VERSION:
        raise StoreError(
            path,
            f"it was written by a newer Sonolora (its tables are version {version}, this program reads up to "
            f"{schema.VERSION})",
            "Update Sonolora, or choose another folder for the server",
        )
    return int(version)


def _migrate(transaction: Connection, path: Path) -> None:
    """Create the tables or change older ones, all at once or not at all."""
    driver = transaction.connection.dbapi_connection
    assert isinstance(driver, sqlite3.Connection)
    version = _version(driver, path)  # again: another process may have done it meanwhile
    if version == 0:
        schema.create(transaction)
    elif version < schema.VERSION:
        for statements in _FIRST_MIGRATIONS[version - 1 :]:
            for statement in statements:
                transaction.exec_driver_sql(statement)
        schema.add_id(transaction)
        if version <= schema.FIRST:
            schema.begin_scripts(transaction)
        schema.migrate(transaction)
    transaction.exec_driver_sql(f"PRAGMA application_id = {_APPLICATION_ID}")
    transaction.exec_driver_sql(f"PRAGMA user_version = {schema.VERSION}")
