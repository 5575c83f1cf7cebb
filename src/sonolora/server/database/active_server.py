"""Which of several servers works on the queue: the one whose session holds a lock of the database.

In: a `PostgresDatabase`. Out: `ActiveServer`, which waits for the lock, holds it, and hears on the same connection
which requests others have changed. Postgres gives the lock to the next server when that connection ends, so what holds
the lock and what writes is kept in step: while the connection is lost nothing is written.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg

from sonolora.core.errors import SonoloraError
from sonolora.server.database.faults import StoreError
from sonolora.server.database.postgres import ACTIVE_LOCK, CHANNEL, PostgresDatabase, in_words

RETRY_SECONDS = 0.5
_HEARTBEAT_SECONDS = 0.5
# The server that had the lock may need this long to notice that it has it no more, or to take it again after Postgres
# was restarted.
_GRACE_SECONDS = 2.0

logger = logging.getLogger(__name__)


class ActiveServer:
    """Made when this server is the active one: that may take as long as another is. Close it at the end."""

    def __init__(self, database: PostgresDatabase, waiting: Callable[[], None]) -> None:
        """`waiting` is called once if another server is active."""
        self._database = database
        self._holds = self._closing = False
        self._told: Callable[[str], None] = lambda _: None
        self._lost: Callable[[SonoloraError], None] = lambda _: None
        self._connection: psycopg.Connection[Any] = self._first_turn(waiting)
        self._turn = self._begin_turn()
        self._holds = True
        database.may_write = lambda: self._holds
        self._thread = threading.Thread(target=self._hold, name="active-server", daemon=True)
        self._thread.start()

    def listen(self, told: Callable[[str], None], lost: Callable[[SonoloraError], None]) -> None:
        """Call `told` with the id of each request that another process has changed, and `lost` when another server has
        become the active one. Both are called in a thread.
        """
        self._told, self._lost = told, lost

    def close(self) -> None:
        self._closing = True
        self._thread.join()
        self._connection.close()

    def _first_turn(self, waiting: Callable[[], None]) -> psycopg.Connection[Any]:
        if (connection := self._try_lock()) is not None:
            return connection
        waiting()
        while connection is None:
            time.sleep(RETRY_SECONDS)
            try:
                connection = self._try_lock()
            except StoreError as error:
                logger.warning("while waiting: %s", error)
                time.sleep(_GRACE_SECONDS)
        time.sleep(_GRACE_SECONDS)
        return connection

    def _try_lock(self) -> psycopg.Connection[Any] | None:
        """A connection that holds the lock; None while another server has it. Raises `StoreError`."""
        connection = None
        try:
            connection = self._database.connect()
            row = connection.execute("SELECT pg_try_advisory_lock(%s)", [ACTIVE_LOCK]).fetchone()
            if row and row[0]:
                connection.execute(f"LISTEN {CHANNEL}")
                return connection
        except psycopg.Error as error:
            if connection is not None:
                connection.close()
            raise in_words(self._database.name, error) or error from error
        connection.close()
        return None

    def _begin_turn(self) -> int:
        """Count the turns of all servers; returns the number of this one."""
        row = self._connection.execute(
            "UPDATE store SET checkpoints = checkpoints + 1 RETURNING checkpoints"
        ).fetchone()
        assert row is not None
        return int(row[0])

    def _hold(self) -> None:
        while not self._closing:
            try:
                for note in self._connection.notifies(timeout=_HEARTBEAT_SECONDS):
                    self._told(note.payload)
                self._connection.execute("SELECT 1")
            except psycopg.Error as error:
                self._holds = False
                if self._closing:
                    return
                logger.error("the connection that makes this server the active one is lost: %s", error)
                if not self._take_up():
                    return

    def _take_up(self) -> bool:
        """Become the active server again; False when another one is or has been meanwhile, or this one stops."""
        self._connection.close()
        while not self._closing:
            try:
                if (connection := self._try_lock()) is None:
                    break
                self._connection = connection
                row = connection.execute("SELECT checkpoints FROM store").fetchone()
                if row is None or row[0] != self._turn:
                    break
                self._database.reconnect()
                self._holds = True
                self._told("")
                logger.info("this server is the active one again")
                return True
            except (psycopg.Error, StoreError):
                time.sleep(RETRY_SECONDS)
        if not self._closing:
            self._lost(SonoloraError("another server has taken over the queue: this one stops"))
        return False
