"""A database in Postgres, for servers that are more than one machine: opened, migrated, its faults in words.

In: a URL such as `postgresql+psycopg://user@host/name`; what it leaves open, such as a password, libpq takes from its
variables and files. Out: a `PostgresDatabase`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from sqlalchemy import ClauseElement, Connection, Engine, Select, create_engine, exc, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import URL, make_url

from sonolora.core.errors import SonoloraError
from sonolora.server.database import schema
from sonolora.server.database.database import Database
from sonolora.server.database.faults import StoreError

if TYPE_CHECKING:
    import psycopg

CHANNEL = "sonolora"  # of the notifications, each a request's id
_WAIT_SECONDS = 30.0  # for a connection, a lock or a statement
# Of those that advisory locks are known by.
MIGRATION_LOCK, ACTIVE_LOCK, _NAMED_LOCKS = 0x50_6F_01, 0x50_6F_02, 0x50_6F_03
# A host that is gone is noticed within seconds, here and there: a lock that it holds must not stay.
_SERVER_SIDE = {
    "tcp_keepalives_idle": 2,
    "tcp_keepalives_interval": 1,
    "tcp_keepalives_count": 3,
    "lock_timeout": round(1000 * _WAIT_SECONDS),
    "statement_timeout": round(1000 * _WAIT_SECONDS),
    "idle_in_transaction_session_timeout": round(1000 * _WAIT_SECONDS),
}
_CONNECT = {
    "connect_timeout": 5,
    "application_name": "sonolora",
    "options": " ".join(f"-c {name}={value}" for name, value in _SERVER_SIDE.items()),
    "keepalives_idle": 2,
    "keepalives_interval": 1,
    "keepalives_count": 3,
    "tcp_user_timeout": 5000,
}
# By SQLSTATE, the longest prefix first: reason, which clients may see, and advice.
_FAULTS = {
    "28": ("it refuses the login", "Check user and password"),
    "3D000": ("there is no database of this name", "Create it with createdb"),
    "25006": ("it is read-only", "Give the address of the primary"),
    "42501": ("access is denied", "Make this user the owner of the database"),
    "53100": ("its disk is full", "Free some space"),
    "53300": ("it has no connection left", "Raise max_connections"),
    "57014": (f"it has not answered for {_WAIT_SECONDS:.0f} seconds", "Look at what keeps it busy"),
    "55P03": (f"another process has kept it locked for {_WAIT_SECONDS:.0f} seconds", "Stop that process"),
    "57P": ("it is not running", "Start it"),
    "58": ("its disk reports an error", "Check the disk and its log"),
    "XX": ("it is damaged", "Look at its log"),
}
_UNREACHABLE = ("it cannot be reached", "Start it, or correct its address")

P = ParamSpec("P")
T = TypeVar("T")


class PostgresDatabase(Database):
    """Writes of several threads and processes go on side by side.

    A connection that has broken is replaced: a query is tried once more by itself, a transaction fails.
    """

    is_local = False

    def __init__(self, address: str) -> None:
        self.address, self.url = address, parsed(address)
        self.name = f"{self.url.host or 'local'}/{self.url.database}"
        super().__init__(_engine(self.url), _engine(self.url, isolation_level="AUTOCOMMIT"), postgresql.insert)
        self.may_write: Callable[[], bool] = lambda: True
        with self.transaction() as transaction:
            _migrate(transaction, self.name)

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        if not self.may_write():
            raise StoreError(self.name, "another server may be the active one")
        with super().transaction() as connection:
            yield connection

    def connect(self) -> psycopg.Connection[Any]:
        """A connection of its own, which commits each statement. Raises psycopg's errors."""
        import psycopg

        arguments, keywords = self._writer.dialect.create_connect_args(self.url)
        return psycopg.connect(*arguments, **{**keywords, **_CONNECT}, autocommit=True)

    def reconnect(self) -> None:
        """Take new connections from now on."""
        self._writer.dispose()
        self._reader.dispose()

    def read(self, statement: Select[Any]) -> Sequence[Any]:
        return _once_more(super().read, statement)

    def look(self, call: Callable[[Connection], T]) -> T:
        return _once_more(super().look, call)

    def fetch(self, query: ClauseElement, **parameters: str | float) -> Sequence[Any]:
        return _once_more(super().fetch, query, **parameters)

    def tell(self, transaction: Connection, id: str) -> None:
        transaction.execute(text("SELECT pg_notify(:channel, :id)"), {"channel": CHANNEL, "id": id})

    def queue_up(self, transaction: Connection, name: str) -> None:
        lock = text("SELECT pg_advisory_xact_lock(:kind, hashtext(:name))")
        transaction.execute(lock, {"kind": _NAMED_LOCKS, "name": name})

    def _fault(self, error: BaseException) -> StoreError | None:
        if isinstance(error, StoreError):
            return None
        fault = in_words(self.name, error)
        if isinstance(fault, ConnectionLostError):
            self.reconnect()  # the others of the pool are broken, too
        return fault


class ConnectionLostError(StoreError):
    """The database is not there, or was not for a moment."""


def parsed(address: str) -> URL:
    """Raises `SonoloraError` for what is no such address."""
    try:
        import psycopg  # noqa: F401
    except ImportError:
        raise SonoloraError(
            "a database in PostgreSQL needs psycopg: install it with pip install 'sonolora[postgres]'"
        ) from None
    try:
        url = make_url(address)
    except exc.ArgumentError:
        url = None
    if url is None or url.drivername != "postgresql+psycopg" or not url.database:
        raise SonoloraError("the address of a database is postgresql+psycopg://user@host/name")
    return url


def in_words(name: str, error: BaseException) -> StoreError | None:
    """What psycopg raised; None if it is the statement's own fault."""
    import psycopg

    if not isinstance(error, psycopg.OperationalError | psycopg.InterfaceError | psycopg.InternalError):
        if isinstance(error, psycopg.errors.InsufficientPrivilege | psycopg.errors.ReadOnlySqlTransaction):
            return StoreError(name, *_known(error.sqlstate))
        return None
    state = error.sqlstate
    if state is None or state.startswith(("08", "57P")):
        if state is not None:
            return ConnectionLostError(name, *_known(state))
        reason, advice = _UNREACHABLE
        return ConnectionLostError(name, reason, f"{advice} ({' '.join(str(error).split())})")
    return StoreError(name, *_known(state))


def _known(state: str | None) -> tuple[str, ...]:
    for length in (5, 3, 2):
        if known := _FAULTS.get((state or "")[:length]):
            return known
    return _UNREACHABLE


def _engine(url: URL, **more: Any) -> Engine:
    return create_engine(url, connect_args=_CONNECT, pool_size=8, max_overflow=8, pool_timeout=_WAIT_SECONDS, **more)


def _once_more(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    try:
        return call(*args, **kwargs)
    except ConnectionLostError:
        return call(*args, **kwargs)


def _migrate(transaction: Connection, name: str) -> None:
    """Create the tables or change older ones, all at once or not at all."""
    transaction.execute(text(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})"))  # another process may do it, too
    found = schema.version(transaction)
    if found > schema.VERSION:
        raise StoreError(
            name,
            f"it was written by a newer Sonolora (its tables are version {found}, this program reads up to "
            f"{schema.VERSION})",
            "Update Sonolora, or give another database",
        )
    if found == 0:
        schema.create(transaction)
    elif found < schema.VERSION:
        schema.migrate(transaction)
