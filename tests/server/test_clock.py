"""What waits has as much time left as before, whatever is done to the system's clock."""

from __future__ import annotations

import asyncio
import time
from contextlib import closing

import pytest

from sonolora.server import clock
from sonolora.server.clock import _Clock
from sonolora.server.database.deadlines import shift_deadlines
from sonolora.server.database.sqlite import SqliteDatabase
from sonolora.server.files.storage import Storage
from sonolora.server.jobs.deliveries import Deliveries
from sonolora.server.jobs.records import NewRequest, Result
from sonolora.server.jobs.store import Store

DAY = 86_400.0


@pytest.fixture
def database(tmp_path):
    with closing(SqliteDatabase(tmp_path / "server.db")) as database:
        yield database


@pytest.fixture
def system(monkeypatch):
    """The system's clock, to be set; and a clock of the server that starts now."""

    class System:
        offset = 0.0

        def set_by(self, seconds):
            self.offset += seconds

    system, real = System(), time.time
    monkeypatch.setattr(time, "time", lambda: real() + system.offset)
    fresh = _Clock()
    monkeypatch.setattr(clock, "now", fresh.now)
    monkeypatch.setattr(clock, "adjust", fresh.adjust)
    return system


@pytest.mark.parametrize("jump", [DAY, -DAY, 20_000 * DAY, 3.0, -3.0])
def test_nothing_that_waits_is_over_because_the_clock_was_set(database, tmp_path, system, jump):
    store, deliveries = Store(database), Deliveries(database)
    storage = Storage(tmp_path / "files", database, 1000)
    timed = store.add_request(new(start_deadline=clock.now() + 60))
    store.add_request(new())
    done = store.add_request(new(webhook="https://e/x")).id
    store.finish(done, Result(status=200, body={}))
    (delivery,) = deliveries.due(clock.now(), 5000)
    deliveries.record_attempt(delivery.id, "503", clock.now() + 60)
    kept = asyncio.run(storage.receive(storage.new("a", "", lifetime=60), chunks()))
    upload = storage.new("b", "")
    storage.begin(upload)

    def check():
        now = clock.now()
        assert store.overdue(now) == [] and deliveries.due(now, 5000) == []
        assert storage.find(kept.id) and storage.clean(now) == 0 and storage.begun(upload.id)

    system.set_by(jump)
    check()
    clock.adjust(lambda *how: shift_deadlines(database, *how))
    assert clock.now() == pytest.approx(time.time(), abs=1)
    check()
    # Nor does anything wait for longer.
    now = clock.now() + 61
    assert [request.id for request in store.overdue(now)] == [timed.id]
    assert [due.id for due in deliveries.due(now, 5000)] == [delivery.id]
    assert storage.clean(now) == 1 and storage.find(kept.id) is None


def test_a_deadline_of_another_clock_gives_no_more_time_than_there_was(database, system):
    """A machine that starts in 1970 with requests of today, before its clock is set."""
    store = Store(database)
    id = store.add_request(new(start_deadline=clock.now() + 60)).id
    with database.transaction() as transaction:  # an hour ago, when the clock was years ahead
        years = 56 * 365 * DAY
        transaction.exec_driver_sql("UPDATE requests SET created = created + ?", (years,))
        transaction.exec_driver_sql("UPDATE requests SET start_deadline = start_deadline + ?", (years,))
    assert store.overdue(clock.now()) == []
    system.set_by(years)
    clock.adjust(lambda *how: shift_deadlines(database, *how))
    assert [request.id for request in store.overdue(clock.now() + 61)] == [id]


def test_small_corrections_are_followed_without_more_ado(system):
    def never(*_):
        raise AssertionError

    for _ in range(10):
        system.set_by(1.0)
        clock.adjust(never)
    assert clock.now() == pytest.approx(time.time(), abs=0.5)


@pytest.mark.parametrize("jump", [DAY, -DAY])
def test_when_the_deadlines_cannot_be_moved_the_clock_stays(system, jump):
    def full(*_):
        raise OSError

    before = clock.now()
    system.set_by(jump)
    with pytest.raises(OSError):  # noqa: PT011 - that very one
        clock.adjust(full)
    assert clock.now() == pytest.approx(before, abs=1)
    moved = []
    clock.adjust(lambda jump, now: moved.append((jump, now)))
    assert moved == [(pytest.approx(jump, abs=1), pytest.approx(time.time(), abs=1))]


def new(**values):
    return NewRequest(endpoint="t2a", mode="t2a", key_id="k", body={}, **values)


async def chunks():
    yield b"content"
