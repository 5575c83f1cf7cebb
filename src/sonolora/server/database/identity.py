"""Which database belongs to a server's folder, and how far it has come, in a small file beside it.

SQLite keeps the newest changes in a file of its own, the write-ahead log `server.db-wal`. A database without its log,
with a part of it, or with the log of another one opens without complaint, with requests missing or with those of
somebody else. So `server.identity.json` says what the database must at least hold, and it is compared before the
database is opened for writing: until then nothing of it is changed.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from contextlib import closing, suppress
from dataclasses import asdict, astuple, dataclass, replace
from pathlib import Path
from urllib.parse import quote

from sonolora.core.atomic_files import OutputError, write_json
from sonolora.server.database import faults
from sonolora.server.database.faults import StoreError, faults_in_words

WAL = "-wal"
_BELONGINGS = ("files/content", "runs")  # folders beside the database that mean nothing without it
_PUT_BACK = "Put the right files back, or restore a backup (sonolora restore)"
_ACCEPT = "To go on with what is there: sonolora serve --accept-database"
_QUERY = """
    SELECT id, checkpoints, (SELECT coalesce(max(number), 0) FROM requests),
        (SELECT coalesce(max(number), 0) FROM events), (SELECT count(*) FROM keys)
    FROM store
"""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Identity:
    """The database's id and counts that only grow. `file_checkpoints`: those in the database file without its log."""

    store: str
    checkpoints: int
    requests: int
    events: int
    keys: int
    file_checkpoints: int = 0

    def __post_init__(self) -> None:
        wrong = [name for name, value in asdict(self).items() if type(value) is not (str if name == "store" else int)]
        if wrong:
            raise TypeError(f"{wrong[0]} is not of its type")

    @classmethod
    def of(cls, connection: sqlite3.Connection) -> Identity | None:
        """Of an open database; None for one of a version that had none."""
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'store'").fetchone():
            return None
        return cls(*connection.execute(_QUERY).fetchone())

    def lacks(self, other: Identity) -> bool:
        """Whether it holds less than `other`, an earlier state of the same database, did."""
        return any(mine < theirs for mine, theirs in zip(astuple(self)[1:], astuple(other)[1:], strict=True))


def identity_file(database: Path) -> Path:
    return database.with_suffix(".identity.json")


def read_identity(database: Path) -> Identity | None:
    """As it was last written; None when there is no such file."""
    path = identity_file(database)
    try:
        return Identity(**json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, RecursionError) as error:
        logger.warning("%s cannot be read and is written anew: %s", path, error)
        return None


def write_identity(database: Path, identity: Identity) -> None:
    """Raises `StoreError`."""
    try:
        write_json(identity_file(database), asdict(identity))
    except OutputError as error:
        raise StoreError(error.path, f"it could not be written: {error.reason}") from error


def open_read_only(database: Path, *, options: str = "") -> sqlite3.Connection:
    """A connection that changes nothing, also not when it is closed: it leaves the log as it is."""
    return sqlite3.connect(f"file:{quote(str(database))}?mode=ro{options}", uri=True, timeout=faults.BUSY_SECONDS)


def check_identity(database: Path) -> None:
    """Raise `StoreError` for a database that is not the one that belongs to its folder, or an older state of it."""
    expected = read_identity(database)
    if not database.exists() or database.stat().st_size == 0:
        if found := _belongings(database, expected):
            raise StoreError(database, f"there is no database, but there is {found}", _PUT_BACK, _ACCEPT)
        return
    if expected is None:
        return
    with faults_in_words(database), closing(open_read_only(database)) as connection:
        identity = Identity.of(connection)
    # SQLite applies a log to any database file, and what comes out may be a mixture of two.
    alone = _identity_without_log(database)
    if identity is not None and alone is not None:
        identity = replace(identity, file_checkpoints=alone.checkpoints)
    elif identity is not None:
        identity = replace(identity, file_checkpoints=expected.file_checkpoints)
    if identity is None or any(found and found.store != expected.store for found in (identity, alone)):
        log = Path(f"{database.name}{WAL}")
        raise StoreError(
            database, f"it is not the database of this folder, or {log} is the log of another", _PUT_BACK, _ACCEPT
        )
    if identity.lacks(expected):
        missing = max(0, expected.requests - identity.requests)
        lost = f"{missing} of {expected.requests} requests are missing" if missing else "its newest changes are missing"
        raise StoreError(
            database,
            f"{lost}: it is an older copy, or its log {database.name}{WAL} is missing or cut off",
            _PUT_BACK,
            _ACCEPT,
        )


def _identity_without_log(database: Path) -> Identity | None:
    """Of the database file alone; None where it says nothing by itself, as in the middle of a checkpoint."""
    with (
        suppress(sqlite3.DatabaseError, TypeError),
        closing(open_read_only(database, options="&immutable=1")) as connection,
    ):
        return Identity.of(connection)
    return None


def _belongings(database: Path, expected: Identity | None) -> str | None:
    """Something that belongs to a database that was here."""
    for name in _BELONGINGS:
        folder = database.parent / name
        if folder.is_dir() and any(folder.iterdir()):
            return f"content in {name}"
    log = database.with_name(database.name + WAL)
    if log.exists() and log.stat().st_size:
        return f"its log {log.name}"
    return None if expected is None else identity_file(database).name


def set_log_aside(database: Path) -> None:
    """Before a new database is created: SQLite would take up the log of the earlier one."""
    for suffix in (WAL, "-shm"):
        log = database.with_name(database.name + suffix)
        if log.exists():
            log.replace(log.with_name(f"{log.name}.old"))
