"""What is wrong with the database, in words: SQLite's error codes as `StoreError`."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sonolora.core.errors import SonoloraError

BUSY_SECONDS = 60.0  # how long a connection waits for another process's lock

# What to do about a damaged database.
DAMAGED = ("Restore a backup (sonolora restore), or move it away and start with --accept-database",)
# Reason, which clients may see; advice, which is for whoever runs the server.
_FAULTS = {
    sqlite3.SQLITE_CORRUPT: ("it is damaged", *DAMAGED),
    sqlite3.SQLITE_NOTADB: ("it is not a database", *DAMAGED),
    sqlite3.SQLITE_FULL: ("the disk is full", "Free some space"),
    sqlite3.SQLITE_IOERR: ("the disk reports an error", "Check the disk and the system log"),
    sqlite3.SQLITE_READONLY: ("it is not writable", "Check the permissions of the file and of its folder"),
    sqlite3.SQLITE_CANTOPEN: ("it cannot be opened", "Check the permissions of the file and of its folder"),
    sqlite3.SQLITE_PERM: ("access is denied", "Check the permissions of the file and of its folder"),
    sqlite3.SQLITE_BUSY: (f"another process has kept it locked for {BUSY_SECONDS:.0f} seconds", "Stop that process"),
    sqlite3.SQLITE_PROTOCOL: ("it cannot be locked", "Keep it on a local disk"),
}


class StoreError(SonoloraError):
    """The database cannot be used, for this `reason`. `public` says so without its path or address, for clients."""

    what = "database"

    def __init__(self, path: Path | str, reason: str, *advice: str) -> None:
        self.reason = reason
        self.public = f"the server's {self.what} cannot be used: {reason}"
        super().__init__(" ".join([f"{path}: {reason}.", *(f"{sentence}." for sentence in advice)]))


@contextmanager
def faults_in_words(path: Path) -> Iterator[None]:
    """Turn a fault of the database file inside the block into `StoreError`; errors of a statement pass unchanged."""
    try:
        yield
    except sqlite3.Error as error:
        if fault := in_words(path, error):
            raise fault from error
        raise


def in_words(path: Path, error: BaseException) -> StoreError | None:
    """The `StoreError` for what SQLite raised; None if it is no fault of the file."""
    # The low byte is the primary result code, the others are details.
    known = _FAULTS.get(getattr(error, "sqlite_errorcode", 0) & 0xFF)
    return StoreError(path, *known) if known else None
