"""What a run reports is written to the last word, whatever the store does meanwhile."""

from __future__ import annotations

import asyncio
import threading
from contextlib import closing

import pytest

from sonolora.server.database.faults import StoreError
from sonolora.server.database.sqlite import SqliteDatabase
from sonolora.server.health import Health
from sonolora.server.jobs import retrying
from sonolora.server.jobs.journal import Journal
from sonolora.server.jobs.records import NewRequest
from sonolora.server.jobs.retrying import Retrying
from sonolora.server.jobs.store import Store


@pytest.fixture
def database(tmp_path):
    with closing(SqliteDatabase(tmp_path / "server.db")) as database:
        yield database


def request(store):
    """One that is running, for the first time."""
    store.add_request(NewRequest(endpoint="t2a", mode="t2a", body={}, key_id="k"))
    return store.claim().id


class SlowStore(Store):
    """Each write waits until it may go on, as on a busy disk."""

    def __init__(self, database):
        super().__init__(database)
        self.writes, self.go_on = threading.Event(), threading.Event()

    def record(self, id, **what):
        self.writes.set()
        assert self.go_on.wait(20)
        super().record(id, **what)


def test_what_is_reported_during_the_last_write_is_written(database):
    store = SlowStore(database)
    id = request(store)

    async def run():
        journal = Journal(store, Retrying(Health()), id, 1, lambda _: None)
        journal.log("first")
        writing = asyncio.create_task(journal.run())
        assert await asyncio.to_thread(store.writes.wait, 20)
        journal.log("last")
        journal.close()
        store.go_on.set()
        await writing

    asyncio.run(run())
    assert [line.message for line in store.logs(id)] == ["first", "last"]


class FailingStore(Store):
    """Fails until `works`, as on a full disk."""

    works = False
    failures = 0

    def record(self, id, **what):
        if not self.works:
            self.failures += 1
            raise StoreError(self._database.path, "the disk is full")
        super().record(id, **what)


def test_a_store_that_fails_for_a_while_loses_nothing(database, monkeypatch):
    monkeypatch.setattr(retrying, "FIRST_PAUSE", 0.001)
    store, health = FailingStore(database), Health()
    id = request(store)

    async def run():
        journal = Journal(store, Retrying(health), id, 1, lambda _: None)
        writing = asyncio.create_task(journal.run())
        journal.add({"event": "phase", "name": "training", "total": 4})
        journal.add({"event": "metrics", "step": 1, "values": {"loss": 2.0}})
        while store.failures < 3:
            await asyncio.sleep(0.01)
        assert health.waiting_for == "the server's database cannot be used: the disk is full"
        journal.add({"event": "metrics", "step": 1, "values": {"grid_loss": 3.0}})
        journal.log("more")
        store.works = True
        journal.close()
        await writing

    asyncio.run(run())
    assert health.waiting_for is None
    assert [line.message for line in store.logs(id)] == ["training", "more"], "each once"
    assert store.metrics(id) == [(1, {"loss": 2.0, "grid_loss": 3.0})]
    assert store.request(id).progress["phase"] == "training"
