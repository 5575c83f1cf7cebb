"""What is particular to Postgres: connections that break, which server is active, notifications."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace

import pytest
from postgres_server import PostgresServer
from sqlalchemy import insert, select, text

from sonolora.core.errors import SonoloraError
from sonolora.server.database import schema, tables
from sonolora.server.database.active_server import ActiveServer
from sonolora.server.database.faults import StoreError
from sonolora.server.database.postgres import ConnectionLostError, PostgresDatabase
from sonolora.server.jobs.keys import Keys
from sonolora.server.jobs.records import NewRequest, Role, State
from sonolora.server.jobs.store import Store

pytestmark = pytest.mark.xdist_group("postgres")
NEW = NewRequest(endpoint="t2a", mode="t2a", key_id="k", body={})
BREAK = text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid != pg_backend_pid()")


@pytest.fixture
def address(postgres: PostgresServer) -> str:
    return postgres.emptied()


def break_connections(address: str) -> None:
    """As a restart of Postgres does."""
    with closing(PostgresDatabase(address)) as other, other.transaction() as transaction:
        transaction.execute(BREAK)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ("postgresql+psycopg://sonolora@127.0.0.1:1/one", r"it cannot be reached\. Start it"),
        ("{server}/nowhere", r"cannot be reached\. .*database .nowhere. does not exist"),
        ("postgresql://sonolora@127.0.0.1/one", r"postgresql\+psycopg://user@host/name"),
        ("postgresql+psycopg://127.0.0.1", r"postgresql\+psycopg://user@host/name"),
    ],
)
def test_an_address_that_leads_nowhere(address: str, wrong: str, reason: str) -> None:
    with pytest.raises(SonoloraError, match=reason):
        PostgresDatabase(wrong.format(server=address.rpartition("/")[0]))


def test_a_message_has_no_password() -> None:
    with pytest.raises(StoreError, match=r"127\.0\.0\.1/one: it cannot be reached") as caught:
        PostgresDatabase("postgresql+psycopg://sonolora:hidden@127.0.0.1:1/one")
    assert "hidden" not in str(caught.value) + caught.value.public


def test_a_newer_database_is_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    PostgresDatabase(address).close()
    monkeypatch.setattr(schema, "VERSION", schema.VERSION - 1)
    with pytest.raises(StoreError, match="written by a newer Sonolora"):
        PostgresDatabase(address)


def test_an_older_database_is_migrated(postgres: PostgresServer) -> None:
    address = postgres.new_database()
    with closing(PostgresDatabase(address)) as database:
        key_id = Keys(database).add("laptop", owner="Jo", role=Role.MEMBER)[0]
        id = Store(database).add_request(replace(NEW, key_id=key_id)).id
        file = {"id": "f", "name": "n", "content_type": "x/y", "size": 1, "created": 1.0, "complete": True}
        database.write(insert(tables.files), {**file, "request_id": id})
        with database.transaction() as transaction:
            for statement in (
                "ALTER TABLE keys DROP COLUMN owner, DROP COLUMN role",
                "DROP INDEX queue_by_key",
                "CREATE INDEX queue_by_key ON requests (key_id) WHERE state = 'queued'",
                "DROP INDEX running",
                "DROP INDEX requests_by_end",
                "DROP TABLE drains",
                "ALTER TABLE requests DROP COLUMN starts, DROP COLUMN gb",
                "UPDATE alembic_version SET version_num = '0003'",
            ):
                transaction.execute(text(statement))
    with closing(PostgresDatabase(address)) as database:
        assert (claimed := Store(database).claim()) and (claimed.id, claimed.starts) == (id, 1)
        assert database.read(select(tables.alembic_version))[0][0] == f"{schema.VERSION:04}"
        assert (key := Keys(database).find(key_id)) and (key.owner, key.role) == ("laptop", Role.OPERATOR)
        assert database.read(select(tables.files.c.key_id)) == [(key_id,)]


def test_reading_goes_on_when_connections_break_and_writing_after_one_error(address: str) -> None:
    with closing(PostgresDatabase(address)) as database:
        store, keys = Store(database), Keys(database)
        id, secret = store.add_request(NEW).id, keys.add("k")[1]
        break_connections(address)
        assert keys.check(secret)
        break_connections(address)
        assert (found := store.request(id)) and found.state == State.QUEUED
        store.add_request(NEW)
        break_connections(address)
        with pytest.raises(ConnectionLostError):
            store.add_request(NEW)
        store.add_request(NEW)
        assert len(store.queue()) == 3


def test_a_start_whose_outcome_is_unknown_is_not_lost(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection breaks after the commit, before the answer."""
    with closing(PostgresDatabase(address)) as database:
        store = Store(database)
        ids = [store.add_request(NEW).id for _ in range(2)]
        real = database._writer.dialect.do_commit

        def commit(connection: object) -> None:
            real(connection)  # type: ignore[arg-type]
            monkeypatch.undo()
            raise ConnectionLostError("it", "the connection broke")

        monkeypatch.setattr(database._writer.dialect, "do_commit", commit)
        with pytest.raises(ConnectionLostError):
            store.claim()
        claimed = [store.claim(), store.claim()]
        assert [one and (one.id, one.starts) for one in claimed] == [(id, 1) for id in ids]
        assert store.claim() is None


def test_the_server_hears_at_once_what_others_ask_for(address: str) -> None:
    heard: list[str] = []
    came = threading.Event()

    def told(id: str) -> None:
        heard.append(id)
        came.set()

    with (
        closing(PostgresDatabase(address)) as database,
        closing(ActiveServer(database, lambda: None)) as active,
        closing(PostgresDatabase(address)) as other,
    ):
        active.listen(told, lambda _: None)
        store = Store(other)
        id = store.add_request(NEW).id
        for change in (lambda: None, lambda: store.pause(id, True), lambda: store.request_cancel(id)):
            change()
            assert came.wait(5)
            came.clear()
        assert heard == [id] * 3


def test_one_server_is_active_and_the_next_takes_over(
    address: str, wait_until: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = PostgresDatabase(address), PostgresDatabase(address)
    waits, made = threading.Event(), list[ActiveServer]()
    active = ActiveServer(first, lambda: None)
    lost: list[SonoloraError] = []
    active.listen(lambda _: None, lost.append)
    thread = threading.Thread(target=lambda: made.append(ActiveServer(second, waits.set)))
    thread.start()
    assert waits.wait(5) and not made
    # The connection breaks, and meanwhile the other takes the lock: the first writes nothing from then on.
    monkeypatch.setattr(active, "_try_lock", lambda: time.sleep(1) or None)
    active._connection.execute("SELECT 1")
    with first.transaction() as transaction:
        transaction.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": active._connection.info.backend_pid})
    wait_until(lambda: not active._holds, 5)
    with pytest.raises(StoreError, match="another server may be the active one"):
        Store(first).claim()
    thread.join(10)
    assert made, "within 10 seconds"
    wait_until(lambda: lost, 5)
    assert "another server has taken over" in str(lost[0])
    Store(second).add_request(NEW)
    for one in (active, made[0], first, second):
        one.close()


def test_the_active_server_stays_so_when_postgres_was_restarted(address: str, wait_until: Callable[..., None]) -> None:
    with closing(PostgresDatabase(address)) as database, closing(ActiveServer(database, lambda: None)) as active:
        woken: list[str] = []
        active.listen(woken.append, lambda _: None)
        break_connections(address)
        wait_until(lambda: woken == [""], 10)  # it may have missed something
        Store(database).add_request(NEW)
